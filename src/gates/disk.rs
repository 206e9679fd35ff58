//! Gate: is the disk under pressure?

use thiserror::Error;

use crate::facts::{Answer, Filesystem, Unavailable};
use crate::units::Percent;

/// The filesystems that hold the engine's data, each once.
#[derive(Debug, Clone)]
pub struct DiskFacts {
    /// Each once.
    pub filesystems: Answer<Vec<Filesystem>>,
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
    /// Is the filesystem at or above the percentage, or does it lack space?
    pub fn is_reached(&self, usage: &Usage) -> bool {
        usage.percent >= self.percent || self.lacks_space(usage)
    }

    /// Is less space available than `min_free`?
    pub fn lacks_space(&self, usage: &Usage) -> bool {
        self.min_free.is_some_and(|min_free| usage.filesystem.available < min_free)
    }
}

/// A disk at or above this is as good as full: the default of `--disk-critical`.
pub const NEARLY_FULL: u8 = 95;

/// Usage of one filesystem: the largest of blocks, inodes and metadata.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Usage {
    /// What was measured.
    pub filesystem: Filesystem,
    /// As `df` rounds it: up.
    pub percent: Percent,
}

impl Usage {
    /// A filesystem with nothing left.
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

    /// Do the inodes decide?
    pub fn by_inodes(&self) -> bool {
        let inodes = self.filesystem.inode_percent();
        self.filesystem.block_percent() < inodes && self.filesystem.metadata_percent() <= inodes
    }

    /// Does the metadata of btrfs decide?
    pub fn by_metadata(&self) -> bool {
        self.filesystem.block_percent().max(self.filesystem.inode_percent())
            < self.filesystem.metadata_percent()
    }
}

/// Why: the measured filesystems, fullest first, and the limit they were held against.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Measured {
    /// Fullest first.
    pub usages: Vec<Usage>,
    /// What they were compared with.
    pub limit: Limit,
}

/// Why the usage is not known.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Unknown {
    /// They could not be measured.
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
    /// This filesystem says that it has no blocks.
    #[error("{} says that it has no blocks; name a path on the engine's disk with --disk-path", .0.mount_point.display())]
    NoBlocks(Filesystem),
}

/// The usages of these filesystems, fullest first.
///
/// # Errors
/// They were not measured, or one has no blocks.
pub fn usages(filesystems: Answer<Vec<Filesystem>>) -> Answer<Vec<Usage>> {
    measure(&DiskFacts { filesystems }).map_err(|unknown| Unavailable(unknown.to_string()))
}

/// What the gate says; open means under pressure.
pub type Verdict = super::Verdict<Measured, Measured, Unknown>;

/// Evaluate the gate.
pub fn evaluate(facts: &DiskFacts, limit: &Limit) -> Verdict {
    match measure(facts) {
        Err(unknown) => Verdict::Unknown(unknown),
        Ok(usages) => {
            let pressed = usages.iter().any(|usage| limit.is_reached(usage));
            let measured = Measured { usages, limit: *limit };
            if pressed { Verdict::Open(measured) } else { Verdict::Closed(measured) }
        }
    }
}

/// The usage of each filesystem, fullest first; never an empty list.
///
/// # Errors
/// When one of them could not be measured.
pub fn measure(facts: &DiskFacts) -> Result<Vec<Usage>, Unknown> {
    let filesystems = facts.filesystems.clone().map_err(Unknown::Unavailable)?;
    let mut usages = Vec::new();
    for filesystem in filesystems {
        let Some(percent) = filesystem.percent() else { return Err(Unknown::NoBlocks(filesystem)) };
        usages.push(Usage { filesystem, percent });
    }
    if usages.is_empty() {
        return Err(Unknown::Unavailable(Unavailable("no filesystem to measure".into())));
    }
    usages.sort_by_key(|usage| std::cmp::Reverse(usage.percent));
    Ok(usages)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gates::GateState;

    fn disk(used: u64) -> Filesystem {
        Filesystem {
            mount_point: format!("/{used}").into(),
            size: 1000,
            used,
            available: 1000 - used,
            inodes: 0,
            inodes_used: 0,
            metadata: 0,
            metadata_used: 0,
        }
    }

    #[test]
    fn the_fullest_filesystem_decides() {
        let full = Filesystem { available: 0, ..disk(0) };
        let table = [
            (Ok(vec![disk(310)]), GateState::Closed),
            (Ok(vec![disk(799)]), GateState::Open), // 79.9 is 80 as df shows it
            (Ok(vec![disk(790)]), GateState::Closed),
            (Ok(vec![disk(310), disk(810)]), GateState::Open),
            (Ok(vec![disk(810), full]), GateState::Unknown),
            (Ok(vec![]), GateState::Unknown),
            (Err(Unavailable("statvfs".into())), GateState::Unknown),
        ];
        let limit = Limit { percent: "80".parse().unwrap(), min_free: None };
        for (filesystems, expected) in table {
            let shown = format!("{filesystems:?}");
            assert_eq!(evaluate(&DiskFacts { filesystems }, &limit).state(), expected, "{shown}");
        }
    }

    #[test]
    fn too_little_space_opens_the_gate_whatever_the_percentage() {
        for (used, expected) in [(310, GateState::Closed), (500, GateState::Closed), (501, GateState::Open)] {
            let limit = Limit { percent: "80".parse().unwrap(), min_free: Some(500) };
            let facts = DiskFacts { filesystems: Ok(vec![disk(used)]) };
            assert_eq!(evaluate(&facts, &limit).state(), expected, "{used}");
        }
    }

    #[test]
    fn any_filesystem_that_lacks_space_opens_the_gate_whichever_is_fuller() {
        // 20 % of a large disk is a lot; 50 % of a small one is not.
        let large = Filesystem { size: 100_000, used: 70_000, available: 30_000, ..disk(0) };
        let limit = Limit { percent: "80".parse().unwrap(), min_free: Some(600) };
        for (small, expected) in [(disk(400), GateState::Closed), (disk(401), GateState::Open)] {
            let facts = DiskFacts { filesystems: Ok(vec![large.clone(), small]) };
            assert_eq!(evaluate(&facts, &limit).state(), expected);
        }
    }

    #[test]
    fn what_decides_is_the_fullest_of_blocks_inodes_and_metadata() {
        let usage = |used: u64, inodes_used: u64, metadata_used: u64| {
            let filesystem = Filesystem {
                inodes: if inodes_used > 0 { 100 } else { 0 },
                inodes_used,
                metadata: if metadata_used > 0 { 100 } else { 0 },
                metadata_used,
                ..disk(used * 10)
            };
            let usage = Usage { percent: filesystem.percent().unwrap(), filesystem };
            (usage.percent.get(), usage.by_inodes(), usage.by_metadata())
        };
        for (used, inodes, metadata, expected) in [
            (50, 0, 0, (50, false, false)),
            (50, 60, 0, (60, true, false)),
            (50, 50, 0, (50, false, false)),
            (50, 40, 0, (50, false, false)),
            (50, 0, 60, (60, false, true)),
            (50, 0, 50, (50, false, false)),
            (50, 60, 70, (70, false, true)),
            (50, 70, 60, (70, true, false)),
            (50, 70, 70, (70, true, false)),
        ] {
            assert_eq!(usage(used, inodes, metadata), expected, "{used} {inodes} {metadata}");
        }
        let full = Usage::full();
        assert_eq!((full.percent.get(), full.filesystem.available), (100, 0));
        assert!(!full.by_inodes() && !full.by_metadata());
    }

    #[test]
    fn the_fullest_comes_first() {
        let facts = DiskFacts { filesystems: Ok(vec![disk(310), disk(810)]) };
        assert_eq!(measure(&facts).unwrap()[0].percent.get(), 81);
    }
}
