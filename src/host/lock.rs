//! Locks on files, which the kernel frees however the program ends: one prune at a time, and one
//! removal at a time, which an inhibitor waits for.

use std::fs::{self, File};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

/// Held until it is dropped.
#[derive(Debug)]
pub struct Lock(#[expect(dead_code, reason = "held, never read")] Flock<File>);

/// What came of asking for the lock.
#[derive(Debug)]
pub enum Taken {
    Mine(Lock),
    /// Another process holds it: its process ID, where it could be read.
    Busy(Option<u32>),
}

/// Take the prune's lock in this directory, or say who holds it.
///
/// # Errors
/// The directory or file cannot be made or opened.
pub fn take(runtime_dir: &Path) -> Result<Taken> {
    let path = runtime_dir.join("prune.lock");
    let hint =
        || format!("cannot use the lock {}; name another directory with --runtime-dir", path.display());
    fs::create_dir_all(runtime_dir).with_context(hint)?;
    let mut file =
        File::options().read(true).write(true).create(true).truncate(false).open(&path).with_context(hint)?;
    let mut holder = String::new();
    // The holder's note is a courtesy; a file that cannot be read as text has none.
    let _ = file.read_to_string(&mut holder);
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(mut lock) => {
            // On a full disk the note may be missing; the lock holds all the same.
            let _ = lock.set_len(0).and_then(|()| {
                std::io::Seek::rewind(&mut *lock)?;
                writeln!(lock, "{}", std::process::id())
            });
            Ok(Taken::Mine(Lock(lock)))
        }
        Err((_, Errno::EWOULDBLOCK)) => Ok(Taken::Busy(holder.trim().parse().ok())),
        Err((_, error)) => Err(error).with_context(hint),
    }
}

/// Held while a removal is under way.
#[derive(Debug)]
pub struct Removing(#[expect(dead_code, reason = "held, never read")] Flock<File>);

fn removing_path(runtime_dir: &Path) -> PathBuf {
    runtime_dir.join("removing.lock")
}

/// Begin a removal. Whoever registers an inhibitor first and then waits for this lock meets at most
/// the removal in flight; so inhibitors must be looked for after this.
///
/// # Errors
/// The lock's file cannot be opened.
pub fn begin_removal(runtime_dir: &Path) -> Result<Removing> {
    let path = removing_path(runtime_dir);
    let context = || format!("cannot use the lock {}", path.display());
    let file = File::options().write(true).create(true).truncate(false).mode(0o644).open(&path);
    let lock = Flock::lock(file.with_context(context)?, FlockArg::LockExclusive);
    Ok(Removing(lock.map_err(|(_, error)| error).with_context(context)?))
}

/// Wait until no removal is under way.
///
/// # Errors
/// The lock's file is there and cannot be opened.
pub fn wait_for_removal(runtime_dir: &Path) -> Result<()> {
    let path = removing_path(runtime_dir);
    let context = || format!("cannot use the lock {}", path.display());
    match File::open(&path) {
        // No prune has ever removed anything here.
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error).with_context(context),
        Ok(file) => match Flock::lock(file, FlockArg::LockShared) {
            Ok(_nobody_removes) => Ok(()),
            Err((_, error)) => Err(error).with_context(context),
        },
    }
}
