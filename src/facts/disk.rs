//! What takes space: filesystems, and what the engine counts of its own.

use std::path::PathBuf;

use crate::units::{Percent, Time};

/// A record of BuildKit's cache (`GET /system/df?type=build-cache`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheRecord {
    /// Bytes.
    pub size: u64,
    pub in_use: bool,
    /// An image has it as a layer, so its removal frees nothing.
    pub shared: bool,
    /// `internal` and `frontend` records go only with `all`.
    pub internal: bool,
    pub last_used: Option<Time>,
}

/// What the engine counts of its own (`GET /system/df`). Bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DiskUsage {
    /// All layers of all images, each once; absent where counting them takes seconds.
    pub layers: Option<u64>,
    pub volumes: Vec<Volume>,
    /// What containers have written on top of their images, by name.
    pub containers: Vec<(String, u64)>,
    /// Records of BuildKit's cache that no image shares.
    pub build_cache: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Volume {
    pub name: String,
    /// Bytes.
    pub size: u64,
    /// A container in any state mounts it.
    pub is_used: bool,
}

/// What can only be measured in the engine's folder. Bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Files {
    pub logs: Vec<(String, u64)>,
    /// Folders of overlay2 that belong to no layer and no container.
    pub unreachable: Vec<(PathBuf, u64)>,
    /// Folders of the engine that hold neither images nor containers nor volumes; with the containerd store also what a
    /// graph driver has left behind.
    pub folders: Vec<(PathBuf, u64)>,
}

/// A filesystem as statvfs(3) sees it, in bytes and inodes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filesystem {
    /// Its mount point, or the measured path if that is not known.
    pub mount_point: PathBuf,
    /// All blocks, in bytes.
    pub size: u64,
    /// Blocks that are not free, in bytes.
    pub used: u64,
    /// Available to users: without the blocks reserved for root.
    pub available: u64,
    /// 0 where the filesystem does not count inodes (btrfs).
    pub inodes: u64,
    pub inodes_used: u64,
    /// What btrfs can have for its metadata, in bytes: the allocated space, and what can still be allocated on the
    /// devices. 0 on other filesystems.
    pub metadata: u64,
    pub metadata_used: u64,
}

impl Filesystem {
    /// The percentage in use, as `df` counts: of what users can have, rounded up. `None` for a filesystem of no
    /// size.
    pub fn block_percent(&self) -> Option<Percent> {
        Percent::of(self.used, self.used.saturating_add(self.available))
    }

    /// As `df -i` counts; `None` where inodes are not counted.
    pub fn inode_percent(&self) -> Option<Percent> {
        Percent::of(self.inodes_used, self.inodes)
    }

    /// The percentage in use of what btrfs can use for its metadata. Nothing can be written when all of it is,
    /// whatever `df` shows. `None` on other filesystems.
    pub fn metadata_percent(&self) -> Option<Percent> {
        Percent::of(self.metadata_used, self.metadata)
    }

    /// The largest of them; `None` for a filesystem of no size.
    pub fn percent(&self) -> Option<Percent> {
        self.block_percent().max(self.block_percent().and(self.inode_percent().max(self.metadata_percent())))
    }
}

/// How full a filesystem must be: at or above a percentage, or with less space available than this.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limit {
    /// Of blocks, inodes or metadata, whichever is largest.
    pub percent: Percent,
    /// Bytes available to users.
    pub min_free: Option<u64>,
}

impl Limit {
    /// Whether the filesystem is at or above the percentage, or has too little space.
    pub fn is_reached(&self, usage: &Usage) -> bool {
        usage.percent >= self.percent || self.lacks_space(usage)
    }

    pub fn lacks_space(&self, usage: &Usage) -> bool {
        self.min_free.is_some_and(|min_free| usage.filesystem.available < min_free)
    }
}

/// Usage of one filesystem: the largest of blocks, inodes and metadata.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Usage {
    pub filesystem: Filesystem,
    /// As `df` rounds it: up.
    pub percent: Percent,
}

impl Usage {
    pub fn full() -> Self {
        let filesystem = Filesystem {
            mount_point: "/".into(),
            size: 1,
            used: 1,
            available: 0,
            inodes: 0,
            inodes_used: 0,
            metadata: 0,
            metadata_used: 0,
        };
        Self { percent: Percent::FULL, filesystem }
    }

    pub fn by_inodes(&self) -> bool {
        let inodes = self.filesystem.inode_percent();
        self.filesystem.block_percent() < inodes && self.filesystem.metadata_percent() <= inodes
    }

    pub fn by_metadata(&self) -> bool {
        self.filesystem.block_percent().max(self.filesystem.inode_percent())
            < self.filesystem.metadata_percent()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn usage_is_the_larger_of_blocks_and_inodes() {
        let disk = |used, available, inodes_used, inodes| Filesystem {
            metadata: 0,
            metadata_used: 0,
            mount_point: "/".into(),
            size: 1000,
            used,
            available,
            inodes,
            inodes_used,
        };
        let table = [
            (disk(310, 690, 1, 100), Some(31)),
            (disk(310, 640, 1, 100), Some(33)), // 50 reserved for root
            (disk(10, 990, 91, 100), Some(91)),
            (disk(10, 990, 0, 0), Some(1)), // btrfs
            (disk(0, 0, 1, 100), None),
            (disk(700, 0, 1, 100), Some(100)), // only root's reserve is left
            (disk(90 << 40, 10 << 40, 1, 4 << 30), Some(90)),
            (Filesystem { metadata: 100, metadata_used: 97, ..disk(570, 430, 0, 0) }, Some(97)), // full, and df shows 57%
        ];
        for (filesystem, expected) in table {
            assert_eq!(filesystem.percent().map(Percent::get), expected, "{filesystem:?}");
        }
    }
}
