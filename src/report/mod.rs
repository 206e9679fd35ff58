//! Verdicts, plans and outcomes as text, as JSON and as metrics.

pub mod advice;
pub mod checks;
pub mod json;
pub mod metrics;
pub mod progress;
pub mod reason;
pub mod text;

use crate::facts::{Answer, Inhibitor};
use crate::gates::Gate;
use crate::gates::disk::Usage;
use crate::plan::explain::Explanation;
use crate::prune::outcome::{OngoingPressure, PruneOutcome, PruneResult};
use crate::units::Time;

/// What `status` shows.
#[derive(Debug)]
pub struct StatusReport {
    /// By the wall clock.
    pub now: Time,
    /// The gate, which is open under pressure.
    pub disk: Gate,
    /// While the disk stays under pressure.
    pub pressure: Option<OngoingPressure>,
    /// When a prune last ran.
    pub last_run: Option<Time>,
    /// When one last ended with exit status 0.
    pub last_success: Option<Time>,
    /// When the timer elapses next, as systemd writes it; absent where it is not active.
    pub next_run: Option<String>,
    /// The commands that block prunes now.
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

/// The words of `"outcome"`.
pub const OUTCOMES: [&str; 5] = ["pruned", "nothing", "blocked", "stopped", "failed"];

/// One of [`OUTCOMES`].
pub fn outcome_word(report: &PruneResult) -> &'static str {
    match &report.ending {
        _ if report.has_failed() => "failed",
        PruneOutcome::Blocked | PruneOutcome::Busy(..) => "blocked",
        PruneOutcome::Previewed
            if report.gates.iter().any(|gate| gate.state() != crate::gates::GateState::Open) =>
        {
            "blocked"
        }
        PruneOutcome::Previewed => "nothing",
        PruneOutcome::Unavailable | PruneOutcome::Failed(_) => "failed",
        PruneOutcome::CarriedOut(outcome) if outcome.stopped.is_some() => "stopped",
        PruneOutcome::CarriedOut(outcome) if outcome.removed.is_empty() => "nothing",
        PruneOutcome::CarriedOut(_) => "pruned",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::execute::{Outcome, Stop};
    use crate::facts::Kind;
    use crate::gates::Verdict;

    #[test]
    fn how_a_run_ended_is_one_word() {
        let open = || Gate::Runs(Verdict::Open(()));
        let closed = || Gate::Runs(Verdict::Closed(vec![]));
        let result = |gates, ending| PruneResult::without_removals(gates, ending);
        let removal = crate::testing::removal(Kind::Container, "");
        let removed = || Outcome { removed: vec![removal.clone()], ..Outcome::default() };
        let carried_out = |outcome| result(vec![open()], PruneOutcome::CarriedOut(outcome));
        for (report, expected) in [
            (result(vec![closed(), open()], PruneOutcome::Blocked), "blocked"),
            (result(vec![], PruneOutcome::Busy(None, "/x".into())), "blocked"),
            (result(vec![open(), closed()], PruneOutcome::Previewed), "blocked"),
            (result(vec![open(), open()], PruneOutcome::Previewed), "nothing"),
            (result(vec![], PruneOutcome::Unavailable), "failed"),
            (result(vec![], PruneOutcome::Failed("x".into())), "failed"),
            (carried_out(removed()), "pruned"),
            (carried_out(Outcome::default()), "nothing"),
            (carried_out(Outcome { stopped: Some(Stop::Signal), ..removed() }), "stopped"),
            (carried_out(Outcome { stopped: Some(Stop::NoSpace), ..removed() }), "failed"),
        ] {
            assert_eq!(outcome_word(&report), expected, "{report:?}");
        }
    }
}
