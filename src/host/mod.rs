//! The host: filesystems, files, locks, child processes, systemd. The only place that changes files or asks the
//! kernel about the engine's disk.

pub mod boot_clock;
mod btrfs;
pub mod child;
pub mod engine_files;
pub mod engine_traces;
mod error;
pub mod filesystem;
pub mod history_file;
pub mod ledger_file;
pub mod lock;
pub mod registers;
pub mod reserve;
pub mod systemd;
mod this_host;

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

pub use this_host::{ThisHost, watch_signals};

/// Replace a file atomically: a temporary file beside it, to the disk, then into place. A reader sees
/// the old or the new one, and every user may read it.
///
/// # Errors
/// Names the file. What was there stays as it was.
pub fn replace(path: &Path, write: impl FnOnce(&mut File) -> io::Result<()>) -> Result<()> {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let replace = || -> Result<()> {
        let mut file = tempfile::Builder::new().prefix(".ci-docker-prune-").tempfile_in(directory)?;
        write(file.as_file_mut())?;
        file.as_file().set_permissions(fs::Permissions::from_mode(0o644))?;
        chown_to_directory_owner(file.as_file(), directory)?;
        file.as_file().sync_all()?;
        file.persist(path).map_err(|error| error.error)?;
        Ok(File::open(directory)?.sync_all()?)
    };
    replace().with_context(|| format!("cannot write {}", path.display()))
}

/// Files that root creates in another user's directory get that user as their owner. Otherwise a command that root
/// runs by hand would lock the service's own user out.
fn chown_to_directory_owner(file: &File, directory: &Path) -> io::Result<()> {
    let owner = fs::metadata(directory)?;
    if nix::unistd::geteuid().is_root() && file.metadata()?.uid() != owner.uid() {
        fchown(file, Some(owner.uid()), Some(owner.gid()))?;
    }
    Ok(())
}

pub fn home_of(user: &str) -> Option<PathBuf> {
    Some(nix::unistd::User::from_name(user).ok()??.dir)
}

pub fn stderr_identity() -> Option<(u64, u64)> {
    let stat = nix::sys::stat::fstat(std::io::stderr()).ok()?;
    Some((stat.st_dev, stat.st_ino))
}
