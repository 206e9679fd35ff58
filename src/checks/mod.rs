//! What `verify` checks of a host, and how each check ends.

pub mod login;
pub mod own_units;
pub mod pruners;
pub mod pull_limit;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use crate::facts::{SwarmState, Unavailable};
use crate::gates::{Gate, GateState};

/// One line of the list.
#[derive(Debug)]
pub enum Check {
    Engine(EngineCheck),
    Retention(Retention),
    /// How long ago image usage was last noted in the ledger, if ever.
    Ledger(Option<Duration>),
    Disk(DiskCheck),
    /// Of this registry.
    Login(String, login::Login),
    /// Of Docker Hub.
    Pulls(pull_limit::PullLimit),
    Pruners(pruners::Pruners),
    Units(own_units::OwnUnits),
    Redeploy(Redeploy),
}

/// How a check ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CheckStatus {
    Ok,
    Warning,
    Failed,
    Skipped,
}

/// What came of asking the engine.
#[derive(Debug)]
pub enum EngineCheck {
    Answers {
        host: String,
        version: String,
        api: String,
        containerd_store: bool,
        swarm: SwarmState,
        /// Is a manager named that knows the services?
        manager: bool,
    },
    Unavailable(Unavailable),
}

/// A ledger that was not kept for this long is not kept: `record` runs every five minutes.
pub const MAX_RECORD_AGE: Duration = Duration::from_secs(3_600);

/// Is the disk under pressure?
#[derive(Debug)]
pub struct DiskCheck {
    /// The gate, which is open under pressure.
    pub gate: Gate,
    /// Is it at or above `--disk-critical`?
    pub critical: bool,
    /// For how long it has been, by the ledger, and how often each gate blocked a prune meanwhile.
    pub pressure: Option<(Duration, BTreeMap<String, u64>)>,
}

/// Does the engine's data outlive a reboot?
#[derive(Debug)]
pub enum Retention {
    Persistent(Vec<PathBuf>),
    /// On a filesystem of this kind.
    Volatile(PathBuf, &'static str),
    /// On ZFS, where a percentage says little, and `--disk-min-free` is not set.
    ZfsByPercent(PathBuf),
    /// The engine is on another host.
    Elsewhere,
    Unknown(Unavailable),
}

/// What the proof of layer reuse showed.
#[derive(Debug)]
pub enum Redeploy {
    Proved {
        cold: Deployed,
        warm: Deployed,
        /// Would the plan in between have removed the image?
        planned: bool,
    },
    Interrupted,
    Failed(String),
}

/// One deploy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Deployed {
    /// `name@sha256:…`, as the registry resolved it.
    pub image: String,
    /// From the order to the running task.
    pub milliseconds: u64,
    /// Layers that the engine did not have before.
    pub layers: usize,
}

impl Check {
    /// As the JSON and the text name the check.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Engine(_) => "engine",
            Self::Retention(_) => "retention",
            Self::Disk(_) => "disk",
            Self::Ledger(_) => "ledger",
            Self::Login(..) => "login",
            Self::Pulls(_) => "pulls",
            Self::Pruners(_) => "pruners",
            Self::Units(_) => "units",
            Self::Redeploy(_) => "redeploy",
        }
    }

    /// How the check ended.
    pub fn status(&self) -> CheckStatus {
        match self {
            Self::Engine(EngineCheck::Answers { swarm, manager, .. }) => match swarm {
                SwarmState::Manager | SwarmState::Inactive => CheckStatus::Ok,
                SwarmState::Worker if *manager => CheckStatus::Ok,
                SwarmState::Worker | SwarmState::Pending => CheckStatus::Warning,
                SwarmState::Locked | SwarmState::Failed(_) => CheckStatus::Failed,
            },
            Self::Engine(EngineCheck::Unavailable(_)) | Self::Retention(Retention::Volatile(..)) => {
                CheckStatus::Failed
            }
            Self::Retention(Retention::Persistent(_)) => CheckStatus::Ok,
            Self::Retention(Retention::ZfsByPercent(_)) => CheckStatus::Warning,
            Self::Retention(Retention::Elsewhere | Retention::Unknown(_)) => CheckStatus::Skipped,
            Self::Disk(disk) => match disk.gate.state() {
                GateState::Closed => CheckStatus::Ok,
                GateState::Open if disk.critical => CheckStatus::Failed,
                GateState::Open => CheckStatus::Warning,
                GateState::Unknown => CheckStatus::Skipped,
            },
            Self::Ledger(Some(since)) if *since < MAX_RECORD_AGE => CheckStatus::Ok,
            Self::Ledger(_) => CheckStatus::Warning,
            Self::Login(_, login) => login.status(),
            Self::Pulls(limit) => limit.status(),
            Self::Pruners(pruners) => pruners.status(),
            Self::Units(units) => units.status(),
            Self::Redeploy(Redeploy::Proved { cold, warm, planned }) => {
                let reused = warm.layers == 0 && cold.image == warm.image && !planned;
                if reused { CheckStatus::Ok } else { CheckStatus::Failed }
            }
            Self::Redeploy(Redeploy::Interrupted | Redeploy::Failed(_)) => CheckStatus::Failed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gates::Verdict;
    use crate::gates::disk::{Limit, Measured};
    use crate::testing::usage;

    fn engine(swarm: SwarmState, manager: bool) -> Check {
        let text = String::new;
        Check::Engine(EngineCheck::Answers {
            host: text(),
            version: text(),
            api: text(),
            containerd_store: false,
            swarm,
            manager,
        })
    }

    fn disk(gate: Gate, critical: bool) -> Check {
        Check::Disk(DiskCheck { gate, critical, pressure: None })
    }

    fn redeploy(warm: &str, layers: usize, planned: bool) -> Check {
        let deployed = |image: &str, layers| Deployed { image: image.into(), milliseconds: 1, layers };
        Check::Redeploy(Redeploy::Proved { cold: deployed("a", 3), warm: deployed(warm, layers), planned })
    }

    #[test]
    fn how_each_check_ends() {
        use CheckStatus::{Failed, Ok, Skipped, Warning};
        let why = || Unavailable("x".into());
        let limit = Limit { percent: "80".parse().unwrap(), min_free: None };
        let measured = || Measured { usages: vec![usage(85)], limit };
        let path = || PathBuf::from("/x");
        let age = |seconds| Check::Ledger(Some(Duration::from_secs(seconds)));
        let table = [
            (engine(SwarmState::Manager, false), Ok),
            (engine(SwarmState::Inactive, false), Ok),
            (engine(SwarmState::Worker, true), Ok),
            (engine(SwarmState::Worker, false), Warning),
            (engine(SwarmState::Pending, true), Warning),
            (engine(SwarmState::Locked, false), Failed),
            (engine(SwarmState::Failed("x".into()), false), Failed),
            (Check::Engine(EngineCheck::Unavailable(why())), Failed),
            (Check::Retention(Retention::Persistent(vec![])), Ok),
            (Check::Retention(Retention::Volatile(path(), "tmpfs")), Failed),
            (Check::Retention(Retention::ZfsByPercent(path())), Warning),
            (Check::Retention(Retention::Elsewhere), Skipped),
            (Check::Retention(Retention::Unknown(why())), Skipped),
            (disk(Gate::Disk(Verdict::Closed(measured())), false), Ok),
            (disk(Gate::Disk(Verdict::Closed(measured())), true), Ok),
            (disk(Gate::Disk(Verdict::Open(measured())), false), Warning),
            (disk(Gate::Disk(Verdict::Open(measured())), true), Failed),
            (disk(Gate::disk_unavailable(why()), true), Skipped),
            (age(0), Ok),
            (age(3_599), Ok),
            (age(3_600), Warning),
            (Check::Ledger(None), Warning),
            (redeploy("a", 0, false), Ok),
            (redeploy("a", 1, false), Failed),
            (redeploy("b", 0, false), Failed),
            (redeploy("a", 0, true), Failed),
            (Check::Redeploy(Redeploy::Interrupted), Failed),
            (Check::Redeploy(Redeploy::Failed("x".into())), Failed),
        ];
        for (check, expected) in table {
            assert_eq!(check.status(), expected, "{check:?}");
        }
    }

    #[test]
    fn our_units_must_run_this_very_program_by_a_timer_that_is_active() {
        use own_units::{OwnUnits, Timer};
        let seen = |timer, runs: Option<&str>, failed| OwnUnits::Seen {
            timer,
            runs: runs.map(Into::into),
            own: "/p".into(),
            failed,
            version: String::new(),
        };
        let active = || Timer::Active("soon".into());
        for (units, expected) in [
            (OwnUnits::NoSystemd, CheckStatus::Skipped),
            (OwnUnits::Unavailable("x".into()), CheckStatus::Failed),
            (seen(active(), Some("/p"), false), CheckStatus::Ok),
            (seen(active(), Some("/p"), true), CheckStatus::Warning),
            (seen(active(), Some("/other"), false), CheckStatus::Failed),
            (seen(active(), None, false), CheckStatus::Failed),
            (seen(Timer::Missing, Some("/p"), false), CheckStatus::Failed),
            (seen(Timer::Disabled, Some("/p"), false), CheckStatus::Failed),
            (seen(Timer::Inactive, Some("/p"), false), CheckStatus::Failed),
            (seen(Timer::NotEnabled, Some("/p"), false), CheckStatus::Failed),
        ] {
            assert_eq!(units.status(), expected, "{units:?}");
        }
    }
}
