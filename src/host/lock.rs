//! Locks on files, which the kernel frees however the program ends: one prune at a time, and the removals
//! that are under way, which an inhibitor waits for.

use std::fs::{self, File, Permissions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg, OFlag};

use super::chown_to_directory_owner;
use super::error::of_own_directory;
use crate::world::Acquisition;

#[derive(Debug)]
pub struct Lock(#[expect(dead_code, reason = "held, never read")] Flock<File>);

/// Take the prune's lock in this directory, or say who holds it.
pub fn acquire(runtime_dir: &Path) -> Result<Acquisition<Lock>> {
    let path = runtime_dir.join("prune.lock");
    let failed = |error: io::Error| of_own_directory("cannot use the lock in", runtime_dir, error.into());
    fs::create_dir_all(runtime_dir).map_err(failed)?;
    let mut file = open(&path, 0o600).map_err(failed)?;
    let mut holder = String::new();
    // The holder's ID is only informative; a file that cannot be read as text has none.
    let _ = file.read_to_string(&mut holder);
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(mut lock) => {
            // On a full disk the note may be missing; the lock holds all the same.
            let _ = lock.set_len(0).and_then(|()| {
                std::io::Seek::rewind(&mut *lock)?;
                writeln!(lock, "{}", std::process::id())
            });
            Ok(Acquisition::Acquired(Lock(lock)))
        }
        Err((_, Errno::EWOULDBLOCK)) => {
            Ok(Acquisition::Held { pid: holder.trim().parse().ok(), directory: runtime_dir.to_owned() })
        }
        Err((_, error)) => Err(failed(error.into())),
    }
}

/// Open a lock's file; a new one gets the directory's owner.
///
/// The directory may be another user's, and what is in it of their making: a link is not followed, and only
/// a plain file with no other name is taken. Root may have made the file before the directory was given to
/// the service's user (`ci-docker-prune prune` by hand, and then the unit): the directory's owner makes a
/// new one in its place.
pub(super) fn open(path: &Path, mode: u32) -> io::Result<File> {
    let mut options = File::options();
    options.mode(mode).read(true).write(true).custom_flags(OFlag::O_NOFOLLOW.bits());
    let create = || -> io::Result<File> {
        let file = options.clone().create_new(true).open(path)?;
        // Whatever the umask.
        file.set_permissions(Permissions::from_mode(mode))?;
        chown_to_directory_owner(&file, path.parent().unwrap_or(path))?;
        Ok(file)
    };
    match create() {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
        created => return created,
    }
    match options.open(path) {
        // Who can read it can hold it: flock works on whatever was opened for reading.
        Ok(file) if is_plain(&file)? => {
            if file.metadata()?.mode() & 0o777 != mode {
                // Only its owner may change it; others who may open it go on.
                let _ = file.set_permissions(Permissions::from_mode(mode));
            }
            Ok(file)
        }
        Ok(_) => Err(io::Error::other("it is no plain file")),
        Err(error) if error.kind() == ErrorKind::PermissionDenied && fs::remove_file(path).is_ok() => {
            create()
        }
        Err(error) => Err(error),
    }
}

fn is_plain(file: &File) -> io::Result<bool> {
    let metadata = file.metadata()?;
    Ok(metadata.is_file() && metadata.nlink() == 1)
}

#[derive(Debug)]
pub struct Removing(#[expect(dead_code, reason = "held, never read")] Flock<File>);

fn removing_path(runtime_dir: &Path) -> PathBuf {
    // In the inhibitors' folder whatever is made is of the group that may inhibit, and so may wait for it.
    runtime_dir.join("inhibitors/.removing.lock")
}

/// How often a lock that another process holds is tried.
const LOCK_INTERVAL: Duration = Duration::from_millis(10);
/// Timeout for a lock that others hold for a moment only.
const LOCK_TIMEOUT: Duration = Duration::from_secs(10);

///
/// # Errors
/// `EWOULDBLOCK` while another process holds it.
async fn lock_within(mut file: File, how: FlockArg, limit: Duration) -> Result<Flock<File>, Errno> {
    let end = Instant::now() + limit;
    loop {
        match Flock::lock(file, how) {
            Err((again, Errno::EWOULDBLOCK)) if Instant::now() < end => {
                file = again;
                tokio::time::sleep(LOCK_INTERVAL).await;
            }
            locked => return locked.map_err(|(_, error)| error),
        }
    }
}

/// Lock a file that others hold for a moment only.
pub(super) async fn lock_soon(file: File) -> Result<Flock<File>> {
    let same = file.try_clone()?;
    match lock_within(file, FlockArg::LockExclusiveNonblock, LOCK_TIMEOUT).await {
        Err(Errno::EWOULDBLOCK) => {
            bail!("{} has held it for over {} s", holder(&same), LOCK_TIMEOUT.as_secs())
        }
        locked => Ok(locked.map_err(io::Error::from)?),
    }
}

/// Who holds a lock on this file, in words, by `/proc/locks`.
fn holder(file: &File) -> String {
    let find = || -> Option<u32> {
        let metadata = file.metadata().ok()?;
        let (major, minor) = (nix::sys::stat::major(metadata.dev()), nix::sys::stat::minor(metadata.dev()));
        let place = format!("{major:02x}:{minor:02x}:{}", metadata.ino());
        let locks = fs::read_to_string("/proc/locks").ok()?;
        let line = locks.lines().find(|line| line.split_whitespace().any(|field| field == place))?;
        // `1: FLOCK  ADVISORY  WRITE 1234 08:01:5678 0 EOF`; one that waits has `->` after its number.
        line.split_whitespace().skip_while(|field| *field != "ADVISORY").nth(2)?.parse().ok()
    };
    let Some(pid) = find().filter(|pid| *pid > 0) else {
        return "another process (lslocks tells which)".into();
    };
    let user = fs::metadata(format!("/proc/{pid}")).ok().map(|process| user_name(process.uid()));
    format!("process {pid} of user {}", user.unwrap_or_else(|| "unknown".into()))
}

/// The name of a user, or the number where it has none.
pub(super) fn user_name(uid: u32) -> String {
    let user = nix::unistd::User::from_uid(uid.into()).ok().flatten();
    user.map_or_else(|| uid.to_string(), |user| user.name)
}

/// Begin a removal. A command that registers an inhibitor first and then waits for this lock waits for what is in
/// flight at most; so inhibitors must be checked after this.
pub async fn begin_removal(runtime_dir: &Path) -> Result<Removing> {
    let path = removing_path(runtime_dir);
    let context = || format!("cannot use the lock {}", path.display());
    let file = open(&path, 0o640).with_context(context)?;
    lock_soon(file).await.map(Removing).with_context(context)
}

pub async fn wait_for_removal(runtime_dir: &Path, limit: Duration) -> Result<()> {
    let path = removing_path(runtime_dir);
    let context = || format!("cannot use the lock {}", path.display());
    match File::open(&path) {
        // No prune has ever removed anything here.
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error).with_context(context),
        Ok(file) => {
            let locked = lock_within(file, FlockArg::LockSharedNonblock, limit).await;
            let locked = locked.map(drop).map_err(io::Error::from);
            let limit = limit.as_secs();
            locked.with_context(|| {
                format!("a removal has been under way for over {limit} s; see journalctl -u docker")
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn no_other_user_can_hold_a_lock_and_its_holder_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let mode = |name: &str| fs::metadata(dir.path().join(name)).unwrap().mode() & 0o777;
        // As an earlier version or another umask left it.
        fs::write(dir.path().join("ledger.lock"), "").unwrap();
        fs::set_permissions(dir.path().join("ledger.lock"), Permissions::from_mode(0o666)).unwrap();
        let file = open(&dir.path().join("ledger.lock"), 0o600).unwrap();
        let lock = lock_soon(file).await.unwrap();
        fs::create_dir(dir.path().join("inhibitors")).unwrap();
        drop(begin_removal(dir.path()).await.unwrap());
        drop(open(&dir.path().join("new.lock"), 0o640).unwrap());
        assert_eq!(mode("new.lock"), 0o640);
        assert_eq!((mode("ledger.lock"), mode("inhibitors/.removing.lock")), (0o600, 0o640));
        let me = format!("process {} of user ", std::process::id());
        assert!(holder(&lock).starts_with(&me), "{}", holder(&lock));
        drop(lock);
        let free = File::open(dir.path().join("ledger.lock")).unwrap();
        assert_eq!(holder(&free), "another process (lslocks tells which)");
    }

    #[tokio::test]
    async fn a_lock_is_never_taken_through_a_link() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("inhibitors")).unwrap();
        let victim = dir.path().join("victim");
        fs::write(&victim, "untouched").unwrap();
        for name in ["prune.lock", "inhibitors/.removing.lock"] {
            std::os::unix::fs::symlink(&victim, dir.path().join(name)).unwrap();
        }
        assert!(acquire(dir.path()).is_err() && begin_removal(dir.path()).await.is_err());
        for name in ["prune.lock", "inhibitors/.removing.lock"] {
            fs::remove_file(dir.path().join(name)).unwrap();
            fs::hard_link(&victim, dir.path().join(name)).unwrap();
        }
        assert!(acquire(dir.path()).is_err() && begin_removal(dir.path()).await.is_err());
        assert_eq!(fs::read_to_string(&victim).unwrap(), "untouched");
        for name in ["prune.lock", "inhibitors/.removing.lock"] {
            fs::remove_file(dir.path().join(name)).unwrap();
        }
        let mine = acquire(dir.path()).unwrap();
        assert!(matches!(mine, Acquisition::Acquired(_)));
        assert!(
            matches!(acquire(dir.path()).unwrap(), Acquisition::Held { pid: Some(pid), .. } if pid == std::process::id())
        );
        drop(begin_removal(dir.path()).await.unwrap());
    }
}
