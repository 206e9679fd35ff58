//! The report of a prune.

use std::collections::{BTreeMap, HashSet};
use std::path::PathBuf;
use std::time::Duration;

use crate::consumers::rank::DiskConsumers;
use crate::execute::Outcome;
use crate::facts::{Limit, Unavailable, Usage};
use crate::gates::{GateState, Gates};
use crate::ledger::Ledger;
use crate::plan::{self, Plan};
use crate::units::{Time, elapsed};

#[derive(Debug)]
pub enum PruneReport {
    /// Another prune is running: its process ID, where known, and the lock's directory.
    Busy {
        pid: Option<u32>,
        directory: PathBuf,
    },
    Failed(String),
    /// A gate could not be evaluated. `why`: why a preview has no plan, or a prune no gates.
    NoAnswer {
        gates: Gates,
        why: Unavailable,
    },
    Blocked {
        gates: Gates,
        pressure: Option<OngoingPressure>,
    },
    Preview(Preview),
    Done(Box<Done>),
}

/// A plan that was not carried out. A gate may be closed, or unknown.
#[derive(Debug)]
pub struct Preview {
    pub gates: Gates,
    pub plan: Plan,
    /// Of the filesystem that holds the images, where it could be measured.
    pub usage: Option<Usage>,
}

impl Preview {
    /// Whether the disk is under pressure, and would still be after the plan.
    pub fn ends_under_pressure(&self) -> bool {
        let end = self.usage.as_ref().map(|usage| plan::projected(&self.plan, usage).0);
        end.is_some_and(|end| self.gates.limit().is_some_and(|limit| limit.is_reached(&end)))
    }
}

/// A plan that was carried out, to its end or to where it was stopped.
#[derive(Debug)]
pub struct Done {
    pub gates: Gates,
    pub plan: Plan,
    /// Of the filesystem that holds the images, as the plan saw it.
    pub usage: Option<Usage>,
    pub outcome: Outcome,
    /// What `disk` measured, as it is at the end, fullest first.
    pub after: Vec<Usage>,
    pub relieved: bool,
    pub pressure: Option<OngoingPressure>,
}

impl Done {
    /// Live runs blocked everything but the eviction of cached images (`--during-runs critical`).
    pub fn is_beside_runs(&self) -> bool {
        self.gates.is_under_pressure() && self.gates.runs_alone_block()
    }
}

impl PruneReport {
    /// `None` if they were not evaluated.
    pub fn gates(&self) -> Option<&Gates> {
        match self {
            Self::Busy { .. } | Self::Failed(_) => None,
            Self::NoAnswer { gates, .. } | Self::Blocked { gates, .. } => Some(gates),
            Self::Preview(preview) => Some(&preview.gates),
            Self::Done(done) => Some(&done.gates),
        }
    }

    pub fn plan(&self) -> Option<(&Plan, Option<&Usage>)> {
        match self {
            Self::Preview(preview) => Some((&preview.plan, preview.usage.as_ref())),
            Self::Done(done) => Some((&done.plan, done.usage.as_ref())),
            _ => None,
        }
    }

    /// Why there is no plan, where something failed.
    pub fn failure(&self) -> Option<&str> {
        match self {
            Self::Failed(why) => Some(why),
            Self::NoAnswer { why, .. } => Some(&why.0),
            _ => None,
        }
    }

    pub fn outcome(&self) -> Option<&Outcome> {
        if let Self::Done(done) = self { Some(&done.outcome) } else { None }
    }

    pub fn pressure(&self) -> Option<&OngoingPressure> {
        match self {
            Self::Blocked { pressure, .. } => pressure.as_ref(),
            Self::Done(done) => done.pressure.as_ref(),
            _ => None,
        }
    }

    /// The filesystems at the start, fullest first.
    pub fn before(&self) -> &[Usage] {
        self.gates().map(Gates::usages).unwrap_or_default()
    }

    pub fn after(&self) -> &[Usage] {
        if let Self::Done(done) = self { &done.after } else { self.before() }
    }

    /// Bytes by which the measured usage fell.
    pub fn reclaimed(&self) -> u64 {
        let used = |usages: &[Usage]| -> u64 { usages.iter().map(|usage| usage.filesystem.used).sum() };
        used(self.before()).saturating_sub(used(self.after()))
    }

    pub fn gone(&self) -> HashSet<&str> {
        let removals = match self {
            Self::Preview(preview) => &preview.plan.remove[..],
            Self::Done(done) => &done.outcome.removed,
            _ => &[],
        };
        removals.iter().map(|removal| removal.object.id.as_str()).collect()
    }

    /// Whether to show what fills the disk: if the prune did not relieve it, or would not, or is blocked on a critical one,
    /// where a run may be waiting for space.
    pub fn wants_consumers(&self, critical: Limit) -> bool {
        match self {
            Self::Busy { .. } | Self::Failed(_) | Self::NoAnswer { .. } => false,
            Self::Blocked { gates, .. } => {
                gates.usages().first().is_some_and(|usage| critical.is_reached(usage))
            }
            Self::Preview(preview) => preview.ends_under_pressure(),
            Self::Done(done) => !done.relieved,
        }
    }

    /// Whether something failed or could not be read. Being blocked or stopped is not a failure.
    pub fn has_failed(&self) -> bool {
        let ended_badly = match self {
            Self::NoAnswer { .. } | Self::Failed(_) => true,
            Self::Preview(preview) => preview.gates.state() == GateState::Unknown,
            Self::Done(done) => done.outcome.has_failed(),
            Self::Blocked { .. } | Self::Busy { .. } => false,
        };
        ended_badly || self.plan().is_some_and(|(plan, _)| !plan.unread.is_empty())
    }
}

/// A report, and what was found out after the prune had ended.
#[derive(Debug)]
pub struct Attempt {
    pub dry_run: bool,
    pub report: PruneReport,
    pub consumers: Option<DiskConsumers>,
    pub ledger_error: Option<String>,
}

pub const OUTCOMES: [&str; 5] = ["pruned", "nothing", "blocked", "stopped", "failed"];

impl Attempt {
    pub fn has_failed(&self) -> bool {
        self.report.has_failed() || self.ledger_error.is_some()
    }

    /// One of [`OUTCOMES`].
    pub fn outcome(&self) -> &'static str {
        match &self.report {
            _ if self.has_failed() => "failed",
            PruneReport::NoAnswer { .. } | PruneReport::Failed(_) => "failed",
            PruneReport::Blocked { .. } | PruneReport::Busy { .. } => "blocked",
            PruneReport::Preview(preview) if preview.gates.state() != GateState::Open => "blocked",
            PruneReport::Preview(_) => "nothing",
            PruneReport::Done(done) if done.outcome.stopped.is_some() => "stopped",
            PruneReport::Done(done) if done.outcome.removed.is_empty() => "nothing",
            PruneReport::Done(_) => "pruned",
        }
    }
}

#[derive(Debug)]
pub struct OngoingPressure {
    /// When it was first found, by the wall clock.
    pub since: Time,
    /// By the ledger's clock.
    pub duration: Duration,
    /// How often each gate blocked or stopped a prune meanwhile.
    pub blocked: BTreeMap<String, u64>,
    /// For how long no prune could be carried out to its end.
    pub owed: Option<Duration>,
}

impl OngoingPressure {
    /// By a ledger whose clock is advanced to now.
    pub fn of(ledger: &Ledger, wall: Time) -> Option<Self> {
        let pressure = ledger.pressure.as_ref()?;
        let now = ledger.time(wall);
        let duration = elapsed(now, pressure.since);
        let owed = pressure.owed_since.map(|since| elapsed(now, since));
        let since = wall.saturating_sub(duration).unwrap_or(wall);
        Some(Self { since, duration, blocked: pressure.blocked.clone(), owed })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::Kind;
    use crate::testing::{ago, now};

    #[test]
    fn pressure_lasts_since_it_was_found_and_a_prune_is_owed_since_one_did_not_work() {
        assert!(OngoingPressure::of(&Ledger::default(), now()).is_none());
        let mut ledger = Ledger::default();
        ledger.owe([], ago("3h").unwrap());
        ledger.clear_owed(None, ago("2h").unwrap());
        let hours = |n: u64| Duration::from_secs(3_600 * n);
        let found = OngoingPressure::of(&ledger, now()).unwrap();
        assert_eq!((found.since, found.duration, found.owed), (ago("3h").unwrap(), hours(3), None));
        // The host was off for five days of it.
        let mut off = crate::testing::behind("5d");
        off.owe(["runs"], now());
        off.clock.as_mut().unwrap().time = ago("4d").unwrap();
        let found = OngoingPressure::of(&off, now()).unwrap();
        assert_eq!(
            (found.duration, found.owed, found.since),
            (hours(24), Some(hours(24)), ago("24h").unwrap())
        );
        ledger.owe(["runs", "converge"], ago("1h").unwrap());
        ledger.owe(["runs"], now());
        let found = OngoingPressure::of(&ledger, now()).unwrap();
        assert_eq!((found.duration, found.owed), (hours(3), Some(hours(1))));
        assert_eq!((found.blocked["runs"], found.blocked["converge"]), (2, 1));
    }

    #[test]
    fn a_preview_that_would_not_relieve_the_disk_asks_what_fills_it() {
        for (percent, wants) in [(79, false), (80, true), (95, true)] {
            let usage = crate::testing::usage(percent);
            let gates = crate::testing::gates(percent);
            let preview = Preview { gates, plan: Plan::default(), usage: Some(usage) };
            let report = PruneReport::Preview(preview);
            assert_eq!(report.wants_consumers(crate::testing::policy().critical), wants, "{percent}");
        }
    }

    #[test]
    fn how_a_run_ended_is_one_word() {
        use crate::execute::Stop;
        use crate::testing::{done, gates, removal};
        let closed = || Gates { runs: crate::testing::runs_closed(), ..gates(85) };
        let removed = || Outcome { removed: vec![removal(Kind::Container, "")], ..Outcome::default() };
        let done = |outcome| PruneReport::Done(Box::new(done(outcome)));
        let preview = |gates| PruneReport::Preview(Preview { gates, plan: Plan::default(), usage: None });
        let blocked = || PruneReport::Blocked { gates: closed(), pressure: None };
        let attempt = |report| Attempt { dry_run: false, report, consumers: None, ledger_error: None };
        for (report, expected) in [
            (blocked(), "blocked"),
            (PruneReport::Busy { pid: None, directory: "/x".into() }, "blocked"),
            (preview(closed()), "blocked"),
            (preview(gates(85)), "nothing"),
            (PruneReport::NoAnswer { gates: gates(85), why: Unavailable("x".into()) }, "failed"),
            (PruneReport::Failed("x".into()), "failed"),
            (done(removed()), "pruned"),
            (done(Outcome::default()), "nothing"),
            (done(Outcome { stopped: Some(Stop::Signal), ..removed() }), "stopped"),
            (done(Outcome { stopped: Some(Stop::NoSpace), ..removed() }), "failed"),
        ] {
            let attempt = attempt(report);
            assert_eq!(attempt.outcome(), expected, "{attempt:?}");
            assert_eq!(attempt.has_failed(), expected == "failed", "{attempt:?}");
        }
        let unrecorded = Attempt { ledger_error: Some("x".into()), ..attempt(blocked()) };
        assert_eq!(unrecorded.outcome(), "failed");
        let unread = crate::facts::Unread {
            kind: Kind::BuildCache,
            id: String::new(),
            why: crate::facts::Unavailable("x".into()),
        };
        let plan = Plan { unread: vec![unread], ..Plan::default() };
        let unread = PruneReport::Preview(Preview { gates: gates(85), plan, usage: None });
        assert!(unread.has_failed());
    }
}
