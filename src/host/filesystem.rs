//! How full the filesystems are that hold these paths.

use std::collections::HashSet;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use nix::fcntl::OFlag;
use nix::sys::statfs::{BTRFS_SUPER_MAGIC, FsType, OVERLAYFS_SUPER_MAGIC, TMPFS_MAGIC, fstatfs, statfs};
use nix::sys::statvfs::statvfs;

use super::btrfs;
use crate::facts::Filesystem;

/// Measure the filesystems of these paths, each once.
pub fn measure<'a>(paths: impl IntoIterator<Item = &'a Path>) -> Result<Vec<Filesystem>> {
    let mounts = mounts();
    let mut seen = HashSet::new();
    let mut filesystems = Vec::new();
    for path in paths {
        let failed = || format!("cannot measure the disk of {}", path.display());
        let place = Place::of(path, &mounts).with_context(failed)?;
        if seen.insert(place.device.clone()) {
            filesystems.push(measure_one(&place).with_context(|| {
                format!("{}: statvfs; name a path that can be measured with --disk-path", failed())
            })?);
        }
    }
    Ok(filesystems)
}

struct Place {
    /// Without symbolic links, as far as this user may follow them.
    path: PathBuf,
    /// The path, or the mount point where this user may not reach the path.
    reachable: PathBuf,
    mount_point: PathBuf,
    /// `major:minor` of the filesystem. Subvolumes of one btrfs have different devices by stat(2), and the same here.
    device: String,
}

impl Place {
    /// The engine's own folders may be closed to this user; their mount is found without a right to them.
    fn of(path: &Path, mounts: &[Mount]) -> io::Result<Self> {
        let real = resolved(path)?;
        let (mount, reachable) = match mount_id(path) {
            Ok(id) => (mounts.iter().find(|mount| mount.id == id), path.to_owned()),
            Err(error) if error.kind() == ErrorKind::PermissionDenied => {
                let mount = above(&real, mounts).ok_or(error)?;
                (Some(mount), mount.point.clone())
            }
            Err(error) => return Err(error),
        };
        let (mount_point, device) = match mount {
            Some(mount) => (mount.point.clone(), mount.device.clone()),
            // In a chroot, mountinfo may not list the root.
            None => (real.clone(), fs::metadata(path)?.dev().to_string()),
        };
        Ok(Self { path: real, reachable, mount_point, device })
    }

    /// The nearest folder that this user may open, on the same mount.
    fn open(&self) -> Option<File> {
        let above = self.path.ancestors().take_while(|above| above.starts_with(&self.mount_point));
        above.filter_map(|folder| File::open(folder).ok()).next()
    }
}

/// A path without symbolic links. A folder that this user may not enter has none that can be resolved.
fn resolved(path: &Path) -> io::Result<PathBuf> {
    match (fs::canonicalize(path), path.parent(), path.file_name()) {
        (Err(error), Some(above), Some(name)) if error.kind() == ErrorKind::PermissionDenied => {
            Ok(resolved(above)?.join(name))
        }
        (real, ..) => real,
    }
}

/// A line of `/proc/self/mountinfo` (proc_pid_mountinfo(5)).
#[derive(Debug, PartialEq, Eq)]
struct Mount {
    id: u64,
    device: String,
    point: PathBuf,
}

fn mounts() -> Vec<Mount> {
    let text = fs::read("/proc/self/mountinfo").unwrap_or_else(|error| {
        log::debug!("/proc/self/mountinfo: {error}");
        vec![]
    });
    text.split(|byte| *byte == b'\n').filter_map(mount).collect()
}

fn mount(line: &[u8]) -> Option<Mount> {
    // ID, parent's ID, major:minor, root, mount point, options …
    let mut fields = line.split(|byte| *byte == b' ');
    let mut text = || String::from_utf8(fields.next()?.to_owned()).ok();
    let (id, _, device, _) = (text()?.parse().ok()?, text()?, text()?, text()?);
    Some(Mount { id, device, point: unescaped(fields.next()?) })
}

/// The kernel writes space, tab, newline and backslash as three octal digits.
fn unescaped(field: &[u8]) -> PathBuf {
    let mut path = Vec::new();
    let mut rest = field;
    while let [first, others @ ..] = rest {
        let octal = others.get(..3).filter(|_| *first == b'\\');
        let byte = octal.and_then(|octal| u8::from_str_radix(std::str::from_utf8(octal).ok()?, 8).ok());
        path.push(byte.unwrap_or(*first));
        rest = if byte.is_some() { &others[3..] } else { others };
    }
    OsString::from_vec(path).into()
}

/// The mount that holds a path: the one with the longest mount point above it, and of several there the last one, which
/// hides the others.
fn above<'a>(path: &Path, mounts: &'a [Mount]) -> Option<&'a Mount> {
    let holding = mounts.iter().filter(|mount| path.starts_with(&mount.point));
    holding.max_by_key(|mount| mount.point.as_os_str().len())
}

/// Which mount a path is on; the path need not be readable, only reachable.
fn mount_id(path: &Path) -> io::Result<u64> {
    let file = fs::File::options().read(true).custom_flags(OFlag::O_PATH.bits()).open(path)?;
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", file.as_raw_fd())).unwrap_or_default();
    let id = info.lines().find_map(|line| line.strip_prefix("mnt_id:")?.trim().parse().ok());
    Ok(id.unwrap_or(0))
}

fn measure_one(place: &Place) -> Result<Filesystem> {
    let metadata = place.open().and_then(|folder| commit(&folder)).unwrap_or_default();
    let stat = statvfs(&place.reachable).map_err(io::Error::from)?;
    let bytes = |blocks: u64| blocks.saturating_mul(stat.fragment_size());
    Ok(Filesystem {
        mount_point: place.mount_point.clone(),
        size: bytes(stat.blocks()),
        used: bytes(stat.blocks().saturating_sub(stat.blocks_free())),
        available: bytes(stat.blocks_available()),
        inodes: stat.files(),
        inodes_used: stat.files().saturating_sub(stat.files_free()),
        metadata: metadata.0,
        metadata_used: metadata.1,
    })
}

/// Make the filesystem count what was just removed: btrfs and ZFS return space with their next commit only, up to
/// 30 s later (observed on btrfs). Where no folder of it can be opened, the figures may be that much older. Returns
/// what btrfs can use for metadata, and how much of it is in use.
fn commit(folder: &File) -> Option<(u64, u64)> {
    let _ = nix::unistd::syncfs(folder);
    if fstatfs(folder).is_ok_and(|stat| stat.filesystem_type() != BTRFS_SUPER_MAGIC) {
        return None;
    }
    // SAFETY: the request takes no argument, and the descriptor is open.
    let _ = unsafe { request::btrfs_sync(folder.as_raw_fd()) };
    btrfs::metadata(folder).unwrap_or_else(|error| {
        log::debug!("the metadata of a btrfs cannot be measured: {error}");
        None
    })
}

// BTRFS_IOC_SYNC (linux/btrfs.h): a commit too, after which the kernel deletes removed subvolumes at once. syncfs(2)
// leaves them to the next periodic commit, up to 30 s later (observed with Docker 20.10's btrfs driver).
mod request {
    nix::ioctl_none!(btrfs_sync, 0x94, 8);
}

/// The path, or its mount point where this user may not reach it.
fn reachable(path: &Path) -> PathBuf {
    Place::of(path, &mounts()).map_or_else(|_| path.to_owned(), |place| place.reachable)
}

/// The kind of filesystem that holds a path, if it does not outlive a reboot.
pub fn volatile(path: &Path) -> Result<Option<&'static str>> {
    let stat = statfs(&reachable(path))
        .map_err(io::Error::from)
        .with_context(|| format!("cannot ask what holds {}: statfs", path.display()))?;
    // linux/magic.h
    Ok(match stat.filesystem_type() {
        TMPFS_MAGIC => Some("tmpfs"),
        OVERLAYFS_SUPER_MAGIC => Some("overlay"),
        FsType(0x8584_58f6) => Some("ramfs"),
        _ => None,
    })
}

/// Whether ZFS holds a path. statvfs(3) counts its dataset only, without the pool's other datasets: a pool that is
/// nearly full may show as nearly empty.
pub fn is_zfs(path: &Path) -> bool {
    // ZFS_SUPER_MAGIC (openzfs: include/sys/zfs_vfsops_os.h)
    statfs(&reachable(path)).is_ok_and(|stat| stat.filesystem_type() == FsType(0x2fc1_2fc1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_is_found_by_the_longest_mount_point_above_a_path() {
        let text = br"27 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
31 27 0:41 /docker /var/lib/docker rw - btrfs /dev/vdb rw,subvol=/docker
32 27 0:41 /containerd /var/lib/containerd rw - btrfs /dev/vdb rw,subvol=/containerd
33 27 8:1 / /srv/two\040words\134 rw - ext4 /dev/sda1 rw
34 27 8:2 / /srv rw - ext4 /dev/sda2 rw
35 27 8:3 / /srv rw - ext4 /dev/sda3 rw
malformed";
        let mounts: Vec<Mount> = text.split(|byte| *byte == b'\n').filter_map(mount).collect();
        let table = [
            ("/", 27, "254:0"),
            ("/var/lib/dockers", 27, "254:0"),
            ("/var/lib/docker", 31, "0:41"),
            ("/var/lib/docker/165536.165536", 31, "0:41"),
            ("/var/lib/containerd", 32, "0:41"),
            ("/srv/two words\\/docker", 33, "8:1"),
            ("/srv/docker", 35, "8:3"),
        ];
        for (path, id, device) in table {
            let found = above(Path::new(path), &mounts).map(|mount| (mount.id, mount.device.as_str()));
            assert_eq!(found, Some((id, device)), "{path}");
        }
    }

    #[test]
    fn a_path_is_measured_once_under_all_its_names() {
        let folder = tempfile::tempdir().unwrap();
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(folder.path(), &link).unwrap();
        let found = measure([folder.path(), &link]).unwrap();
        assert_eq!(found.len(), 1);
        assert!(folder.path().starts_with(&found[0].mount_point), "{found:?}");
        assert!(measure([folder.path().join("missing").as_path()]).is_err());
    }
}
