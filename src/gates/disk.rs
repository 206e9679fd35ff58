//! The gate `disk`: open while the disk is under pressure.

use thiserror::Error;

use crate::facts::{Answer, Filesystem, Limit, Survey, Unavailable, Usage};

/// The measured filesystems, fullest first, and the limit that they were compared with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Measured {
    pub usages: Vec<Usage>,
    pub limit: Limit,
}

#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Unknown {
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
    #[error("{} says that it has no blocks; name a path on the engine's disk with --disk-path", .0.mount_point.display())]
    NoBlocks(Filesystem),
}

pub type Verdict = super::Verdict<Measured, Measured, Unknown>;

pub fn evaluate(survey: &Survey, limit: Limit) -> Verdict {
    match measured(survey.filesystems.clone()) {
        Err(why) => Verdict::Unknown(why),
        Ok(usages) => {
            let pressed = usages.iter().any(|usage| limit.is_reached(usage));
            let measured = Measured { usages, limit };
            if pressed { Verdict::Open(measured) } else { Verdict::Closed(measured) }
        }
    }
}

/// The usage of each filesystem, fullest first; never an empty list.
pub fn usages(filesystems: Answer<Vec<Filesystem>>) -> Answer<Vec<Usage>> {
    measured(filesystems).map_err(|unknown| Unavailable(unknown.to_string()))
}

fn measured(filesystems: Answer<Vec<Filesystem>>) -> Result<Vec<Usage>, Unknown> {
    let mut usages = Vec::new();
    for filesystem in filesystems? {
        let Some(percent) = filesystem.percent() else { return Err(Unknown::NoBlocks(filesystem)) };
        usages.push(Usage { filesystem, percent });
    }
    if usages.is_empty() {
        return Err(Unavailable("no filesystem to measure".into()).into());
    }
    usages.sort_by_key(|usage| std::cmp::Reverse(usage.percent));
    Ok(usages)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gates::GateState;

    fn survey(filesystems: Answer<Vec<Filesystem>>) -> Survey {
        Survey { filesystems, ..crate::testing::survey() }
    }

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
            assert_eq!(evaluate(&survey(filesystems), limit).state(), expected, "{shown}");
        }
    }

    #[test]
    fn too_little_space_opens_the_gate_whatever_the_percentage() {
        for (used, expected) in [(310, GateState::Closed), (500, GateState::Closed), (501, GateState::Open)] {
            let limit = Limit { percent: "80".parse().unwrap(), min_free: Some(500) };
            let survey = survey(Ok(vec![disk(used)]));
            assert_eq!(evaluate(&survey, limit).state(), expected, "{used}");
        }
    }

    #[test]
    fn any_filesystem_that_lacks_space_opens_the_gate_whichever_is_fuller() {
        // 20 % of a large disk is a lot; 50 % of a small one is not.
        let large = Filesystem { size: 100_000, used: 70_000, available: 30_000, ..disk(0) };
        let limit = Limit { percent: "80".parse().unwrap(), min_free: Some(600) };
        for (small, expected) in [(disk(400), GateState::Closed), (disk(401), GateState::Open)] {
            let survey = survey(Ok(vec![large.clone(), small]));
            assert_eq!(evaluate(&survey, limit).state(), expected);
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
        assert_eq!(usages(Ok(vec![disk(310), disk(810)])).unwrap()[0].percent.get(), 81);
    }
}
