//! One prune at a time: a lock on a file, which the kernel frees however the program ends.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::Path;

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
