//! Are our own units there, and do they run the very program that is asking?

use std::path::PathBuf;

use super::CheckStatus;

/// What systemd says.
#[derive(Debug)]
pub enum OwnUnits {
    /// This host was not booted with systemd.
    NoSystemd,
    /// It was, and systemctl does not answer.
    Unavailable(String),
    Seen {
        timer: Timer,
        /// What `ExecStart=` of the service names; none where there is no service.
        runs: Option<PathBuf>,
        /// The program that is asking.
        own: PathBuf,
        /// Did the last prune fail?
        failed: bool,
        version: String,
    },
}

/// The state of `ci-docker-prune.timer`.
#[derive(Debug, PartialEq, Eq)]
pub enum Timer {
    Missing,
    Disabled,
    Inactive,
    /// It is active, and will not be after a reboot.
    NotEnabled,
    /// When it starts the next prune, in systemd's words.
    Active(String),
}

impl OwnUnits {
    /// Failed where no prune would run, or another program would.
    pub fn status(&self) -> CheckStatus {
        match self {
            Self::NoSystemd => CheckStatus::Skipped,
            Self::Unavailable(_) => CheckStatus::Failed,
            Self::Seen { timer: Timer::Active(_), runs: Some(runs), own, failed, .. } if runs == own => {
                if *failed {
                    CheckStatus::Warning
                } else {
                    CheckStatus::Ok
                }
            }
            Self::Seen { .. } => CheckStatus::Failed,
        }
    }
}
