//! Checks that our own units are active, and run the same program as the one that checks.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::{SystemdUnits, found};
use crate::cli;
use crate::report::status::{RECORD_TIMER, TIMER};
use crate::report::verify::{Check, CheckStatus};

const SERVICE: &str = "ci-docker-prune.service";
const RECORD_SERVICE: &str = "ci-docker-prune-record.service";
const PATH: &str = "ci-docker-prune-record.path";

#[derive(Debug)]
enum OwnUnits {
    NoSystemd,
    Unavailable(String),
    Seen(Box<Seen>),
}

#[derive(Debug)]
struct Seen {
    /// The two timers and the path, by their names.
    triggers: [(&'static str, Trigger); 3],
    /// What `ExecStart=` of the two services names; none where there is no service.
    runs: [(&'static str, Option<PathBuf>); 2],
    own: PathBuf,
    failed: Vec<&'static str>,
    /// When the next prune is started, in systemd's words.
    next: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trigger {
    Missing,
    Disabled,
    Inactive,
    NotEnabled,
    Active,
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
    let trigger = |name| {
        let state = find(name).map_or(Trigger::Missing, |unit| match (unit.active, unit.enabled) {
            (false, false) => Trigger::Disabled,
            (false, true) => Trigger::Inactive,
            (true, false) => Trigger::NotEnabled,
            (true, true) => Trigger::Active,
        });
        (name, state)
    };
    let services = [SERVICE, RECORD_SERVICE];
    OwnUnits::Seen(Box::new(Seen {
        triggers: [TIMER, RECORD_TIMER, PATH].map(trigger),
        runs: services.map(|name| (name, find(name).and_then(|unit| unit.program.as_deref()).map(real))),
        own: std::env::current_exe().map(|path| real(&path)).unwrap_or_default(),
        failed: services.into_iter().filter(|name| find(name).is_some_and(|unit| unit.failed)).collect(),
        next: find(TIMER).map(|timer| timer.next.clone()).unwrap_or_default(),
    }))
}

/// Failed if no prune or no record would run, or another program would.
fn verdict(units: &OwnUnits) -> Check {
    use CheckStatus::{Failed, Skipped};
    let (status, code, message) = match units {
        OwnUnits::NoSystemd => (Skipped, "no_systemd", "this host was not booted with systemd".into()),
        OwnUnits::Unavailable(why) => {
            (Failed, "systemd_not_available", format!("systemd does not answer: {why}; try systemctl status"))
        }
        OwnUnits::Seen(seen) => fault(seen).unwrap_or_else(|| works(seen)),
    };
    found("units", status, code, message, Value::Null)
}

type Verdict = (CheckStatus, &'static str, String);

fn fault(seen: &Seen) -> Option<Verdict> {
    use CheckStatus::Failed;
    let of_trigger = seen.triggers.iter().find_map(|&(name, state)| {
        let (code, message) = match state {
            Trigger::Active => return None,
            Trigger::Missing => (
                "no_timer",
                format!(
                    "no {name}; enable services.ci-docker-prune, or install the unit files (docs/install.md)"
                ),
            ),
            Trigger::Disabled => {
                ("timer_disabled", format!("{name} is disabled; systemctl enable --now {name}"))
            }
            Trigger::Inactive => {
                ("timer_not_active", format!("{name} is not active; systemctl start {name}"))
            }
            Trigger::NotEnabled => (
                "timer_not_enabled",
                format!(
                    "{name} is active but not enabled, and will not start at the next boot; systemctl enable {name}"
                ),
            ),
        };
        Some((Failed, code, message))
    });
    let of_service = || {
        seen.runs.iter().find_map(|(name, runs)| match runs {
            None => Some((Failed, "no_service", format!("{name} is not there; systemctl daemon-reload"))),
            Some(runs) if *runs != seen.own => Some((
                Failed,
                "other_program",
                format!(
                    "{name} runs {}, and this is {} (version {}); install the same one for both",
                    runs.display(),
                    seen.own.display(),
                    *cli::VERSION
                ),
            )),
            Some(_) => None,
        })
    };
    of_trigger.or_else(of_service)
}

fn works(seen: &Seen) -> Verdict {
    let version = format!("version {}", *cli::VERSION);
    if !seen.failed.is_empty() {
        let failed = seen.failed.join(" and ");
        let message =
            format!("{failed} failed (ci-docker-prune log, journalctl -t ci-docker-prune); {version}");
        return (CheckStatus::Warning, "last_run_failed", message);
    }
    let next = if seen.next.is_empty() { String::new() } else { format!(", next at {}", seen.next) };
    let message = format!(
        "both timers and the path are active{next}; the services run {}, {version}",
        seen.own.display()
    );
    (CheckStatus::Ok, "active", message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_units_must_run_this_very_program_by_timers_and_a_path_that_are_active() {
        let seen = || Seen {
            triggers: [TIMER, RECORD_TIMER, PATH].map(|name| (name, Trigger::Active)),
            runs: [SERVICE, RECORD_SERVICE].map(|name| (name, Some("/p".into()))),
            own: "/p".into(),
            failed: vec![],
            next: "soon".into(),
        };
        let with = |change: &dyn Fn(&mut Seen)| {
            let mut seen = seen();
            change(&mut seen);
            let check = verdict(&OwnUnits::Seen(Box::new(seen)));
            (check.status, check.reason.message)
        };
        assert_eq!(with(&|_| ()).0, CheckStatus::Ok);
        for n in 0..3 {
            for state in [Trigger::Missing, Trigger::Disabled, Trigger::Inactive, Trigger::NotEnabled] {
                let (status, message) = with(&|seen| seen.triggers[n].1 = state);
                let name = [TIMER, RECORD_TIMER, PATH][n];
                assert!(status == CheckStatus::Failed && message.contains(name), "{message}");
            }
        }
        for (n, name) in [SERVICE, RECORD_SERVICE].into_iter().enumerate() {
            for runs in [None, Some("/other".into())] {
                let (status, message) = with(&|seen| seen.runs[n].1.clone_from(&runs));
                assert!(status == CheckStatus::Failed && message.contains(name), "{message}");
            }
            let (status, message) = with(&|seen| seen.failed = vec![name]);
            assert!(status == CheckStatus::Warning && message.contains(name), "{message}");
        }
        assert_eq!(verdict(&OwnUnits::NoSystemd).status, CheckStatus::Skipped);
        assert_eq!(verdict(&OwnUnits::Unavailable("x".into())).status, CheckStatus::Failed);
    }
}
