//! How full the filesystems are that hold these paths.

use std::collections::HashSet;
use std::fs;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::sys::statfs::{BTRFS_SUPER_MAGIC, FsType, OVERLAYFS_SUPER_MAGIC, TMPFS_MAGIC, fstatfs, statfs};
use nix::sys::statvfs::statvfs;

use super::error::{Context, Result};
use crate::facts::Filesystem;

/// Measure each filesystem once, whichever of the paths lie on it.
///
/// # Errors
/// Names the path that cannot be measured.
pub fn measure<'a>(paths: impl IntoIterator<Item = &'a Path>) -> Result<Vec<Filesystem>> {
    let mut seen = HashSet::new();
    let mut filesystems = Vec::new();
    for path in paths {
        if seen.insert(device(path)?) {
            filesystems.push(measure_one(path)?);
        }
    }
    Ok(filesystems)
}

fn device(path: &Path) -> Result<u64> {
    let metadata =
        fs::metadata(path).with_context(|| format!("cannot measure the disk of {}", path.display()))?;
    Ok(metadata.dev())
}

fn measure_one(path: &Path) -> Result<Filesystem> {
    commit(path);
    let stat =
        statvfs(path).with_context(|| format!("cannot measure the disk of {}: statvfs", path.display()))?;
    let bytes = |blocks: u64| blocks.saturating_mul(stat.fragment_size());
    Ok(Filesystem {
        mount_point: mount_point(path),
        size: bytes(stat.blocks()),
        used: bytes(stat.blocks().saturating_sub(stat.blocks_free())),
        available: bytes(stat.blocks_available()),
        inodes: stat.files(),
        inodes_used: stat.files().saturating_sub(stat.files_free()),
    })
}

/// Have the filesystem count what was just removed: btrfs and ZFS return space with their next commit only, up to
/// 30 s later (observed on btrfs). The engine's own folder may be closed to this user, so that a folder above it on
/// the same filesystem stands in; where none can be opened, the figures may be that much older.
fn commit(path: &Path) {
    let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let on = |path: &Path| fs::metadata(path).map(|path| path.dev()).ok();
    let device = on(&path);
    let above = path.ancestors().take_while(|above| on(above) == device);
    if let Some(folder) = above.filter_map(|folder| fs::File::open(folder).ok()).next() {
        let _ = nix::unistd::syncfs(&folder);
        if fstatfs(&folder).is_ok_and(|stat| stat.filesystem_type() == BTRFS_SUPER_MAGIC) {
            // SAFETY: the request takes no argument, and the descriptor is open.
            let _ = unsafe { request::btrfs_sync(folder.as_raw_fd()) };
        }
    }
}

// BTRFS_IOC_SYNC (linux/btrfs.h): a commit too, after which the kernel deletes removed subvolumes at once. syncfs(2)
// leaves them to the next periodic commit, up to 30 s later (observed with Docker 20.10's btrfs driver).
mod request {
    nix::ioctl_none!(btrfs_sync, 0x94, 8);
}

/// What holds a path, where that does not outlive a reboot.
///
/// # Errors
/// Names the path that cannot be asked about.
pub fn volatile(path: &Path) -> Result<Option<&'static str>> {
    let stat = statfs(path).with_context(|| format!("cannot ask what holds {}: statfs", path.display()))?;
    // linux/magic.h
    Ok(match stat.filesystem_type() {
        TMPFS_MAGIC => Some("tmpfs"),
        OVERLAYFS_SUPER_MAGIC => Some("overlay"),
        FsType(0x8584_58f6) => Some("ramfs"),
        _ => None,
    })
}

/// Does ZFS hold a path? Then statvfs(3) tells of its dataset: what other datasets of the pool use is no part of it, so
/// that a pool that is nearly full reads as nearly empty.
pub fn is_zfs(path: &Path) -> bool {
    // ZFS_SUPER_MAGIC (openzfs: include/sys/zfs_vfsops_os.h)
    statfs(path).is_ok_and(|stat| stat.filesystem_type() == FsType(0x2fc1_2fc1))
}

/// Where the filesystem of a path is mounted: the highest folder above it on the same device.
fn mount_point(path: &Path) -> PathBuf {
    let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let device = |path: &Path| fs::metadata(path).map(|path| path.dev()).ok();
    let here = device(&path);
    path.ancestors().take_while(|above| device(above) == here).last().unwrap_or(&path).to_owned()
}
