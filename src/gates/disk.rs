//! Gate: is the disk under pressure?

use crate::facts::{Answer, Filesystem, Unanswered};
use crate::units::Percent;

/// The filesystems that hold the engine's data, each once.
#[derive(Debug, Clone)]
pub struct Facts {
    pub filesystems: Answer<Vec<Filesystem>>,
}

#[derive(Debug, Clone, Copy)]
pub struct Policy {
    /// Open at or above this.
    pub threshold: Percent,
}

/// Usage of one filesystem: the larger of blocks and inodes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Usage {
    pub filesystem: Filesystem,
    pub percent: Percent,
}

impl Usage {
    /// Do the inodes decide?
    pub fn by_inodes(&self) -> bool {
        self.filesystem.block_percent() < self.filesystem.inode_percent()
    }
}

/// Why: the measured filesystems, fullest first, and the threshold they were held against.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Measured {
    pub usages: Vec<Usage>,
    pub threshold: Percent,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unknown {
    Unanswered(Unanswered),
    /// This filesystem says that it has no blocks.
    NoBlocks(Filesystem),
}

pub type Verdict = super::Verdict<Measured, Measured, Unknown>;

pub fn judge(facts: &Facts, policy: &Policy) -> Verdict {
    match measure(facts) {
        Err(unknown) => Verdict::Unknown(unknown),
        Ok(usages) => {
            let threshold = policy.threshold;
            let pressed = usages.iter().any(|usage| usage.percent >= threshold);
            let measured = Measured { usages, threshold };
            if pressed { Verdict::Open(measured) } else { Verdict::Closed(measured) }
        }
    }
}

/// The usage of each filesystem, fullest first; never an empty list.
///
/// # Errors
/// When one of them could not be measured.
pub fn measure(facts: &Facts) -> Result<Vec<Usage>, Unknown> {
    let filesystems = facts.filesystems.clone().map_err(Unknown::Unanswered)?;
    let mut usages = Vec::new();
    for filesystem in filesystems {
        let Some(percent) = filesystem.percent() else { return Err(Unknown::NoBlocks(filesystem)) };
        usages.push(Usage { filesystem, percent });
    }
    if usages.is_empty() {
        return Err(Unknown::Unanswered(Unanswered("no filesystem to measure".into())));
    }
    usages.sort_by_key(|usage| std::cmp::Reverse(usage.percent));
    Ok(usages)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gates::Word;

    fn disk(used: u64) -> Filesystem {
        Filesystem {
            mount_point: format!("/{used}").into(),
            size: 1000,
            used,
            available: 1000 - used,
            inodes: 0,
            inodes_used: 0,
        }
    }

    #[test]
    fn the_fullest_filesystem_decides() {
        let full = Filesystem { available: 0, ..disk(0) };
        let table = [
            (Ok(vec![disk(310)]), Word::Closed),
            (Ok(vec![disk(799)]), Word::Open), // 79.9 is 80 as df shows it
            (Ok(vec![disk(790)]), Word::Closed),
            (Ok(vec![disk(310), disk(810)]), Word::Open),
            (Ok(vec![disk(810), full]), Word::Unknown),
            (Ok(vec![]), Word::Unknown),
            (Err(Unanswered("statvfs".into())), Word::Unknown),
        ];
        let policy = Policy { threshold: "80".parse().unwrap() };
        for (filesystems, expected) in table {
            let shown = format!("{filesystems:?}");
            assert_eq!(judge(&Facts { filesystems }, &policy).word(), expected, "{shown}");
        }
    }

    #[test]
    fn the_fullest_comes_first() {
        let facts = Facts { filesystems: Ok(vec![disk(310), disk(810)]) };
        assert_eq!(measure(&facts).unwrap()[0].percent.get(), 81);
    }
}
