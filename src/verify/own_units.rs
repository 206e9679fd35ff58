//! Checks that our own units are active, and run the same program as the one that checks.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::{SystemdUnits, found};
use crate::cli;
use crate::report::verify::{Check, CheckStatus};

const TIMER: &str = "ci-docker-prune.timer";
const SERVICE: &str = "ci-docker-prune.service";

#[derive(Debug)]
enum OwnUnits {
    NoSystemd,
    Unavailable(String),
    Seen {
        timer: Timer,
        /// What `ExecStart=` of the service names; none where there is no service.
        runs: Option<PathBuf>,
        own: PathBuf,
        failed: bool,
    },
}

#[derive(Debug, PartialEq, Eq)]
enum Timer {
    Missing,
    Disabled,
    Inactive,
    NotEnabled,
    /// When it starts the next prune, in systemd's words.
    Active(String),
}

pub fn check(units: &SystemdUnits) -> Check {
    verdict(&probe(units))
}

fn probe(units: &SystemdUnits) -> OwnUnits {
    let units = match units {
        Ok(Some(units)) => units,
        Ok(None) => return OwnUnits::NoSystemd,
        Err(why) => return OwnUnits::Unavailable(why.clone()),
    };
    let find = |name: &str| units.iter().find(|unit| unit.name == name);
    let real = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let timer = match find(TIMER) {
        None => Timer::Missing,
        Some(timer) => match (timer.active, timer.enabled) {
            (false, false) => Timer::Disabled,
            (false, true) => Timer::Inactive,
            (true, false) => Timer::NotEnabled,
            (true, true) => Timer::Active(timer.next.clone()),
        },
    };
    let service = find(SERVICE);
    OwnUnits::Seen {
        timer,
        runs: service.and_then(|run| run.program.as_deref()).map(real),
        own: std::env::current_exe().map(|path| real(&path)).unwrap_or_default(),
        failed: service.is_some_and(|service| service.failed),
    }
}

/// Failed if no prune would run, or another program would.
fn verdict(units: &OwnUnits) -> Check {
    use CheckStatus::{Failed, Ok, Skipped, Warning};
    let version = format!("version {}", *cli::VERSION);
    let (status, code, message) = match units {
        OwnUnits::NoSystemd => (Skipped, "no_systemd", "this host was not booted with systemd".into()),
        OwnUnits::Unavailable(why) => {
            (Failed, "systemd_not_available", format!("systemd does not answer: {why}; try systemctl status"))
        }
        OwnUnits::Seen { timer: Timer::Missing, .. } => (
            Failed,
            "no_timer",
            format!(
                "no {TIMER}; enable services.ci-docker-prune, or install the unit files (docs/install.md)"
            ),
        ),
        OwnUnits::Seen { timer: Timer::Disabled, .. } => {
            (Failed, "timer_disabled", format!("{TIMER} is disabled; systemctl enable --now {TIMER}"))
        }
        OwnUnits::Seen { timer: Timer::Inactive, .. } => {
            (Failed, "timer_not_active", format!("{TIMER} is not active; systemctl start {TIMER}"))
        }
        OwnUnits::Seen { timer: Timer::NotEnabled, .. } => (
            Failed,
            "timer_not_enabled",
            format!(
                "{TIMER} is active but not enabled, and will not start at the next boot; systemctl enable {TIMER}"
            ),
        ),
        OwnUnits::Seen { runs: None, .. } => {
            (Failed, "no_service", format!("{SERVICE} is not there; systemctl daemon-reload"))
        }
        OwnUnits::Seen { runs: Some(runs), own, .. } if runs != own => (
            Failed,
            "other_program",
            format!(
                "the service runs {}, and this is {} ({version}); install the same one for both",
                runs.display(),
                own.display()
            ),
        ),
        OwnUnits::Seen { failed: true, .. } => (
            Warning,
            "last_run_failed",
            format!("the last prune failed (journalctl -u ci-docker-prune); {version}"),
        ),
        OwnUnits::Seen { timer: Timer::Active(next), runs: Some(runs), .. } => {
            let next = if next.is_empty() { String::new() } else { format!(", next at {next}") };
            let message =
                format!("the timer is active{next}; the service runs {}, {version}", runs.display());
            (Ok, "active", message)
        }
    };
    found("units", status, code, message, Value::Null)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_units_must_run_this_very_program_by_a_timer_that_is_active() {
        let seen = |timer, runs: Option<&str>, failed| OwnUnits::Seen {
            timer,
            runs: runs.map(Into::into),
            own: "/p".into(),
            failed,
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
            assert_eq!(verdict(&units).status, expected, "{units:?}");
        }
    }
}
