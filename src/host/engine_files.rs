//! A look into the engine's folder, which only root may enter: logs, and folders that belong to nothing.

use std::collections::HashSet;
use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};

use crate::facts::Files;

/// A folder that a pull is filling does not belong to a layer yet.
const UNREACHABLE_MIN_AGE: Duration = Duration::from_secs(86_400);

/// What containers have logged, and the folders of overlay2 that nothing refers to (moby #43586).
pub fn measure(root: &Path, containerd_store: bool) -> Result<Files> {
    let context = || format!("cannot look into {}", root.display());
    let logs = logs(root).with_context(context)?;
    let unreachable = if containerd_store { vec![] } else { unreachable(root).with_context(context)? };
    let folders = folders(root, containerd_store).with_context(context)?;
    Ok(Files { logs, unreachable, folders })
}

/// What the engine counts itself.
const COUNTED: [&str; 6] = ["overlay2", "containers", "volumes", "image", "containerd", "btrfs"];

/// The engine's other folders, such as `tmp` and `buildkit`. What a graph driver left is nothing that the engine counts
/// once it has the containerd store.
fn folders(root: &Path, containerd_store: bool) -> io::Result<Vec<(std::path::PathBuf, u64)>> {
    let is_counted = |name: &str| {
        let of_graph_driver = ["overlay2", "btrfs", "image"].contains(&name);
        COUNTED.contains(&name) && !(containerd_store && of_graph_driver)
    };
    let folders =
        entries(root)?.into_iter().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    let others = folders.filter(|entry| !is_counted(&entry.file_name().to_string_lossy()));
    Ok(others.map(|entry| (entry.path(), size(&entry.path()))).collect())
}

/// The entries of a folder; none where it is missing.
fn entries(folder: &Path) -> io::Result<Vec<fs::DirEntry>> {
    match fs::read_dir(folder) {
        Ok(entries) => entries.collect(),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(vec![]),
        Err(error) => Err(error),
    }
}

/// Written by the drivers json-file and local, in each container's folder.
fn logs(root: &Path) -> io::Result<Vec<(String, u64)>> {
    let mut logs = Vec::new();
    for container in entries(&root.join("containers"))? {
        let mut size = 0;
        let files =
            entries(&container.path())?.into_iter().chain(entries(&container.path().join("local-logs"))?);
        for file in files {
            let name = file.file_name().to_string_lossy().into_owned();
            if name.contains("-json.log") || name.starts_with("container.log") {
                // A log that is rotated away at this moment counts as empty.
                size += file.metadata().map_or(0, |metadata| metadata.blocks() * 512);
            }
        }
        logs.push((container.file_name().to_string_lossy().into_owned(), size));
    }
    Ok(logs)
}

/// Source of the layout: moby `layer/filestore.go`. A layer's folder is named by its `cache-id`, a
/// container's by its `mount-id` and `init-id`; all have 64 hexadecimal digits, and a folder that is just
/// removed ends in `-removing`. BuildKit's have other names and are not looked at.
fn unreachable(root: &Path) -> io::Result<Vec<(std::path::PathBuf, u64)>> {
    let folders = entries(&root.join("overlay2"))?;
    let layers = root.join("image/overlay2/layerdb");
    let mut known = HashSet::new();
    // A file that cannot be read might name any of them.
    let mut read = |path: std::path::PathBuf| match fs::read_to_string(path) {
        Ok(id) => {
            known.insert(id.trim().to_owned());
            Ok(())
        }
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    };
    if !folders.is_empty() && !layers.is_dir() {
        return Err(io::Error::other("there are layers but no image/overlay2/layerdb"));
    }
    for layer in entries(&layers.join("sha256"))? {
        read(layer.path().join("cache-id"))?;
    }
    for mount in entries(&layers.join("mounts"))? {
        for id in ["mount-id", "init-id"] {
            read(mount.path().join(id))?;
        }
    }
    let now = SystemTime::now();
    let mut unreachable = Vec::new();
    for folder in folders {
        let name = folder.file_name().to_string_lossy().into_owned();
        let id = name.trim_end_matches("-removing").trim_end_matches("-init");
        let layer = id.len() == 64 && id.bytes().all(|byte| byte.is_ascii_hexdigit());
        let Ok(metadata) = folder.metadata() else { continue };
        let old = metadata
            .modified()
            .is_ok_and(|modified| now.duration_since(modified).is_ok_and(|age| age >= UNREACHABLE_MIN_AGE));
        if layer && old && !known.contains(name.as_str()) {
            unreachable.push((folder.path(), size(&folder.path())));
        }
    }
    unreachable.sort();
    Ok(unreachable)
}

/// What a folder takes, as du counts; what cannot be read takes nothing.
fn size(folder: &Path) -> u64 {
    let inside = |entry: fs::DirEntry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => size(&entry.path()),
        Ok(metadata) => metadata.blocks() * 512,
        Err(_) => 0,
    };
    let own = fs::symlink_metadata(folder).map_or(0, |metadata| metadata.blocks() * 512);
    own + entries(folder).unwrap_or_default().into_iter().map(inside).sum::<u64>()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_settled_layer_folders_that_nothing_refers_to_are_unreachable() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        assert_eq!(measure(root, false).unwrap(), Files::default());
        let id = |c: char| c.to_string().repeat(64);
        let long_ago = SystemTime::now() - 2 * UNREACHABLE_MIN_AGE;
        let folder = |name: &str, modified: SystemTime| {
            let path = root.join("overlay2").join(name);
            fs::create_dir_all(path.join("diff")).unwrap();
            fs::write(path.join("diff/file"), vec![0; 10_000]).unwrap();
            fs::File::open(&path).unwrap().set_modified(modified).unwrap();
        };
        for name in [id('a'), id('b'), format!("{}-init", id('b')), id('c'), "l".into(), "x".repeat(25)] {
            folder(&name, long_ago);
        }
        folder(&format!("{}-removing", id('d')), long_ago);
        folder(&id('e'), SystemTime::now());
        let note = |path: &str, text: &str| {
            let path = root.join("image/overlay2/layerdb").join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        note("sha256/1/cache-id", &id('a'));
        note("mounts/1/mount-id", &id('b'));
        note("mounts/1/init-id", &format!("{}-init", id('b')));
        let found = measure(root, false).unwrap().unreachable;
        let names: Vec<_> =
            found.iter().map(|(path, _)| path.file_name().unwrap().to_str().unwrap()).collect();
        assert_eq!(names, [id('c'), format!("{}-removing", id('d'))]);
        assert!(found[0].1 >= 10_000, "{found:?}");
        // With the containerd store all of it is left behind.
        fs::create_dir_all(root.join("tmp")).unwrap();
        fs::write(root.join("tmp/download"), vec![0; 20_000]).unwrap();
        let names = |containerd_store| -> Vec<String> {
            let folders = measure(root, containerd_store).unwrap().folders.into_iter();
            let mut names: Vec<_> =
                folders.map(|(path, _)| path.file_name().unwrap().to_string_lossy().into_owned()).collect();
            names.sort();
            names
        };
        assert_eq!(
            (names(false), names(true)),
            (vec!["tmp".into()], ["image", "overlay2", "tmp"].map(Into::into).into())
        );
        // A record that cannot be read might name any of them: this process's memory at address 0 is EIO.
        let unread = root.join("image/overlay2/layerdb/sha256/2");
        fs::create_dir_all(&unread).unwrap();
        std::os::unix::fs::symlink("/proc/self/mem", unread.join("cache-id")).unwrap();
        assert!(measure(root, false).is_err());
    }
}
