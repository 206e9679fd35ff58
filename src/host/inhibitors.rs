//! Inhibitors: locked files that say which process blocks prunes, freed by the kernel with their process.

use std::fs::{self, DirBuilder, File, Permissions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg, OFlag};
use serde::{Deserialize, Serialize};

use super::lock::user_name;
use crate::facts::Inhibitor;
use crate::units::Time;

#[derive(Serialize, Deserialize)]
struct InhibitorJson {
    pid: u32,
    since: Time,
    #[serde(default)]
    why: Option<String>,
}

/// An inhibitor of this process. Dropping it ends it.
#[derive(Debug)]
pub struct Registered {
    path: PathBuf,
    #[expect(dead_code, reason = "held, never read")]
    lock: Flock<File>,
}

impl Drop for Registered {
    fn drop(&mut self) {
        // The lock goes with the file's descriptor; a file that stays is stale, and cleared away later.
        let _ = fs::remove_file(&self.path);
    }
}

/// The file of an inhibitor is shorter than this; bytes.
const MAX_FILE_BYTES: u64 = 64 << 10;

fn folder(runtime_dir: &Path) -> PathBuf {
    runtime_dir.join("inhibitors")
}

/// Make the directories where they are missing, as far as this user may. `socket` is the engine's:
/// its group may inhibit, and so owns the folder of the inhibitors.
pub fn prepare(runtime_dir: &Path, socket: Option<&Path>) -> Result<()> {
    let folder = folder(runtime_dir);
    let make = || -> std::io::Result<()> {
        if !runtime_dir.is_dir() {
            fs::create_dir_all(runtime_dir)?;
            // Every member of the group must get in, whatever the umask.
            fs::set_permissions(runtime_dir, Permissions::from_mode(0o755))?;
        }
        if let Err(error) = DirBuilder::new().mode(0o755).create(&folder)
            && error.kind() != ErrorKind::AlreadyExists
        {
            return Err(error);
        }
        let group = socket.and_then(|socket| fs::metadata(socket).ok()).map(|socket| socket.gid());
        // The directory around it may be another user's: a link in its place is not followed.
        let flags = (OFlag::O_NOFOLLOW | OFlag::O_DIRECTORY).bits();
        let opened = File::options().read(true).custom_flags(flags).open(&folder)?;
        if let (true, Some(group)) = (nix::unistd::geteuid().is_root(), group)
            && (opened.metadata()?.gid() != group || opened.metadata()?.mode() & 0o7777 != 0o3775)
        {
            fchown(&opened, None, Some(group))?;
            // Sticky: no user removes the inhibitor of another. With the setgid bit, files in it belong to the
            // group: only its members can read an inhibitor, and so lock it.
            opened.set_permissions(Permissions::from_mode(0o3775))?;
        }
        Ok(())
    };
    make().with_context(|| format!("cannot make the directory {}", folder.display()))
}

pub fn register(runtime_dir: &Path, why: Option<&str>, now: Time) -> Result<Registered> {
    let folder = folder(runtime_dir);
    let write = || -> Result<Registered> {
        // Locked before it has its name: no other process sees it without its lock.
        let pid = std::process::id();
        let mut file = tempfile::Builder::new().prefix(".new-").tempfile_in(&folder)?;
        serde_json::to_writer(&mut file, &InhibitorJson { pid, since: now, why: why.map(str::to_owned) })?;
        file.write_all(b"\n")?;
        file.as_file().set_permissions(Permissions::from_mode(0o640))?;
        let (file, temporary) = file.into_parts();
        let lock = Flock::lock(file, FlockArg::LockExclusiveNonblock)
            .map_err(|(_, error)| io::Error::from(error))?;
        let name = temporary.file_name().unwrap_or_default().to_string_lossy().replace(".new-", "");
        let path = folder.join(format!("{pid}-{name}"));
        temporary.persist(&path).map_err(|error| error.error)?;
        Ok(Registered { path, lock })
    };
    write().with_context(|| {
        let what_to_do = if folder.is_dir() {
            "run as root or as a member of the group that owns it"
        } else {
            "it is not there: run ci-docker-prune record once as root, which makes it"
        };
        format!(
            "cannot register an inhibitor in {}: {what_to_do}, or name the directory that prune uses \
             with --runtime-dir",
            folder.display()
        )
    })
}

/// The inhibitors that are active now, oldest first. Stale files are cleared away where permitted.
pub fn active(runtime_dir: &Path) -> Result<Vec<Inhibitor>> {
    let folder = folder(runtime_dir);
    let context = || format!("cannot read the inhibitors in {}", folder.display());
    let entries = match fs::read_dir(&folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(vec![]),
        Err(error) => return Err(error).with_context(context),
    };
    let mut active = Vec::new();
    for entry in entries {
        let path = entry.with_context(context)?.path();
        if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.')) {
            continue;
        }
        active.extend(read(&path).map_err(|cause| unreadable(&path, cause)).with_context(context)?);
    }
    active.sort_by_key(|inhibitor: &Inhibitor| inhibitor.since);
    Ok(active)
}

/// What to do about a file that this user may not read: it may be an inhibitor.
fn unreadable(path: &Path, error: std::io::Error) -> anyhow::Error {
    let denied = error.kind() == ErrorKind::PermissionDenied;
    let owner = fs::symlink_metadata(path).map(|path| user_name(path.uid()));
    match owner {
        Ok(owner) if denied => anyhow::Error::new(error).context(format!(
            "{} of user {owner} may be one, and this user may not read it; wait until its command ends, or \
                 remove it if there is none",
            path.display()
        )),
        _ => anyhow::Error::new(error).context(path.display().to_string()),
    }
}

fn read(path: &Path) -> std::io::Result<Option<Inhibitor>> {
    // The group may put anything here: only a plain file can be an inhibitor, and a short one.
    let flags = (OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK).bits();
    let file = match File::options().read(true).custom_flags(flags).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) if error.raw_os_error() == Some(Errno::ELOOP as i32) => return Ok(None),
        Err(error) => return Err(error),
    };
    if !file.metadata()?.is_file() {
        return Ok(None);
    }
    let mut text = Vec::new();
    (&file).take(MAX_FILE_BYTES).read_to_end(&mut text)?;
    match Flock::lock(file, FlockArg::LockSharedNonblock) {
        Ok(_stale) => {
            let _ = fs::remove_file(path);
            Ok(None)
        }
        Err((_, Errno::EWOULDBLOCK)) => {
            // Also with a malformed text, because a process holds it.
            let json: Option<InhibitorJson> = serde_json::from_slice(&text).ok();
            Ok(Some(Inhibitor {
                pid: json.as_ref().map(|json| json.pid),
                since: json.as_ref().map(|json| json.since),
                why: json.and_then(|json| json.why),
            }))
        }
        Err((_, error)) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::now;

    #[test]
    fn an_inhibitor_is_active_as_long_as_it_is_held() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(active(dir.path()).unwrap(), []);
        assert!(register(dir.path(), None, now()).is_err(), "its directory is missing");
        prepare(dir.path(), None).unwrap();
        let held = register(dir.path(), Some("deploy"), now()).unwrap();
        let expected =
            Inhibitor { pid: Some(std::process::id()), since: Some(now()), why: Some("deploy".into()) };
        assert_eq!(active(dir.path()).unwrap(), [expected]);
        drop(held);
        assert_eq!(active(dir.path()).unwrap(), []);
    }

    #[test]
    fn what_is_no_plain_file_is_no_inhibitor_and_blocks_nothing() {
        let dir = tempfile::tempdir().unwrap();
        prepare(dir.path(), None).unwrap();
        let folder = folder(dir.path());
        nix::unistd::mkfifo(&folder.join("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        fs::create_dir(folder.join("directory")).unwrap();
        std::os::unix::fs::symlink("/dev/zero", folder.join("link")).unwrap();
        assert_eq!(active(dir.path()).unwrap(), []);
    }

    #[test]
    fn a_stale_file_is_cleared_away_and_a_held_one_counts_whatever_it_says() {
        let dir = tempfile::tempdir().unwrap();
        prepare(dir.path(), None).unwrap();
        let path = folder(dir.path()).join("7-x");
        fs::write(&path, "{half").unwrap();
        let held = Flock::lock(File::open(&path).unwrap(), FlockArg::LockExclusiveNonblock).unwrap();
        assert_eq!(active(dir.path()).unwrap(), [Inhibitor { pid: None, since: None, why: None }]);
        drop(held);
        assert_eq!(active(dir.path()).unwrap(), []);
        assert!(!path.exists());
    }
}
