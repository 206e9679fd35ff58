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
