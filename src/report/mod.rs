//! Verdicts, plans and outcomes as text, as JSON and as metrics.

pub mod advice;
pub mod checks;
pub mod json;
pub mod metrics;
pub mod progress;
pub mod reason;
pub mod text;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use crate::disk_consumers::DiskConsumers;
use crate::execute::Outcome;
use crate::facts::{Answer, Inhibitor};
use crate::gates::Gate;
use crate::gates::disk::Usage;
use crate::ledger::Ledger;
use crate::plan::Plan;
use crate::plan::explain::Explanation;
use crate::units::{Percent, Time, elapsed};

/// All that a prune has to say at its end.
#[derive(Debug)]
pub struct PruneReport {
    pub dry_run: bool,
    pub gates: Vec<Gate>,
    /// Absent where none was made: a real run that a gate blocked.
    pub plan: Option<Plan>,
    pub ending: PruneOutcome,
    pub before: Vec<Usage>,
    /// As `before` where nothing was removed.
    pub after: Vec<Usage>,
    pub reclaimed: u64,
    /// Present while the disk stays under pressure, as far as the ledger could tell.
    pub pressure: Option<OngoingPressure>,
    /// What fills the disk, where that was looked at.
    pub disk_consumers: Option<DiskConsumers>,
    /// The filesystem that holds the images, as the plan saw it.
    pub images_on: Option<Usage>,
}

impl PruneReport {
    /// Did something fail, or could something not be read? Being blocked or stopped is no failure.
    pub fn has_failed(&self) -> bool {
        let ended_badly = match &self.ending {
            PruneOutcome::Unavailable | PruneOutcome::Failed(_) => true,
            PruneOutcome::CarriedOut(outcome) => outcome.has_failed(),
            PruneOutcome::Looked | PruneOutcome::Blocked | PruneOutcome::Busy(..) => false,
        };
        ended_badly || self.plan.as_ref().is_some_and(|plan| !plan.unread.is_empty())
    }
}

/// What `status` shows.
#[derive(Debug)]
pub struct StatusReport {
    pub now: Time,
    /// The gate, which is open under pressure.
    pub disk: Gate,
    pub pressure: Option<OngoingPressure>,
    pub last_run: Option<Time>,
    pub last_success: Option<Time>,
    /// When the timer elapses next, as systemd writes it; absent where it is not active.
    pub next_run: Option<String>,
    pub inhibitors: Answer<Vec<Inhibitor>>,
    /// Images that the ledger knows.
    pub images: usize,
    /// When image usage was last recorded.
    pub recorded: Option<Time>,
}

/// What `explain` shows.
#[derive(Debug)]
pub struct ExplainReport {
    /// By the ledger's clock.
    pub now: Time,
    /// Of the filesystem that holds the images, where it could be measured.
    pub usage: Option<Usage>,
    /// What was asked about, and the objects that it means.
    pub objects: Vec<(String, Vec<Explanation>)>,
}

/// Why manual intervention is required.
#[derive(Debug)]
pub enum Intervention<'a> {
    /// This filesystem is at or above the percentage.
    Critical(&'a Usage, Percent),
    /// Prunes have been blocked or stopped for too long.
    Blocked(&'a OngoingPressure),
}

/// Pressure that lasts.
#[derive(Debug)]
pub struct OngoingPressure {
    pub since: Time,
    pub duration: Duration,
    /// How often each gate blocked or stopped a prune meanwhile.
    pub blocked: BTreeMap<String, u64>,
    /// For how long no prune could be carried out to its end.
    pub owed: Option<Duration>,
}

impl OngoingPressure {
    /// What a ledger, its clock gone on to now, knows of it.
    pub fn of(ledger: &Ledger, wall: Time) -> Option<Self> {
        let pressure = ledger.pressure.as_ref()?;
        let now = ledger.time(wall);
        let duration = elapsed(now, pressure.since);
        let owed = pressure.owed_since.map(|since| elapsed(now, since));
        let since = wall.saturating_sub(duration).unwrap_or(wall);
        Some(Self { since, duration, blocked: pressure.blocked.clone(), owed })
    }
}

/// How a prune ended.
#[derive(Debug)]
pub enum PruneOutcome {
    /// A dry run looked; or there was a plan with nothing to remove.
    Looked,
    /// Gates that are closed held it back.
    Blocked,
    /// Another prune is running: its process ID, where known, and the lock's directory.
    Busy(Option<u32>, PathBuf),
    /// A gate could not be answered.
    Unavailable,
    /// It could not even plan, for this reason.
    Failed(String),
    CarriedOut(Outcome),
}

/// The words of `"outcome"`.
pub const OUTCOMES: [&str; 5] = ["pruned", "nothing", "blocked", "stopped", "failed"];

/// One of [`OUTCOMES`].
pub fn outcome_word(report: &PruneReport) -> &'static str {
    match &report.ending {
        _ if report.has_failed() => "failed",
        PruneOutcome::Blocked | PruneOutcome::Busy(..) => "blocked",
        PruneOutcome::Looked
            if report.gates.iter().any(|gate| gate.state() != crate::gates::GateState::Open) =>
        {
            "blocked"
        }
        PruneOutcome::Looked => "nothing",
        PruneOutcome::Unavailable | PruneOutcome::Failed(_) => "failed",
        PruneOutcome::CarriedOut(outcome) if outcome.stopped.is_some() => "stopped",
        PruneOutcome::CarriedOut(outcome) if outcome.removed.is_empty() => "nothing",
        PruneOutcome::CarriedOut(_) => "pruned",
    }
}
