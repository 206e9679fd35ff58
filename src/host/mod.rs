//! The host: filesystems, the ledger's file, locks and inhibitors. The only place that asks the kernel.

pub mod child;
pub mod filesystem;
pub mod inhibitors;
pub mod ledger_file;
pub mod lock;

/// Device and inode of stderr, where it has any.
pub fn stderr_identity() -> Option<(u64, u64)> {
    let stat = nix::sys::stat::fstat(std::io::stderr()).ok()?;
    Some((stat.st_dev, stat.st_ino))
}
