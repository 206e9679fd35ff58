//! When a prune cannot wait, when it requires manual intervention, and what is reported of one.

use std::time::Duration;

use super::report::{OngoingPressure, PruneReport};
use crate::facts::{Limit, Usage};
use crate::gates::disk::Measured;
use crate::ledger::{Ledger, Pressure, Reported};
use crate::units::{Percent, Time, elapsed};

/// Pressure that could not be relieved for this long, because each prune was blocked or stopped, requires manual
/// intervention.
const BLOCKED_TOO_LONG: Duration = Duration::from_secs(3 * 86_400);

/// A prune that can do nothing, for the same reason as before, is reported this often.
pub const REPORT_INTERVAL: Duration = Duration::from_secs(3_600);

pub fn is_due(prune_at: Percent, measured: &Measured, ledger: &Ledger) -> bool {
    let is_urgent = |usage: &Usage| usage.percent >= prune_at || measured.limit.lacks_space(usage);
    let is_owed = |pressure: &Pressure| pressure.owed_since.is_some();
    measured.usages.iter().any(is_urgent) || ledger.pressure.as_ref().is_some_and(is_owed)
}

#[derive(Debug)]
pub enum Intervention<'a> {
    /// This filesystem is at or above `--disk-critical`.
    Critical(&'a Usage),
    /// Prunes have been blocked or stopped for too long.
    Blocked(&'a OngoingPressure),
}

/// Why a prune that did not fail requires manual intervention all the same.
pub fn intervention(report: &PruneReport, critical: Limit) -> Option<Intervention<'_>> {
    let was_blocked = match report {
        PruneReport::Blocked { .. } => true,
        PruneReport::Done(done) => done.outcome.stopped.is_some() || done.is_beside_runs(),
        _ => return None,
    };
    if let Some(usage) = report.after().first().filter(|usage| critical.is_reached(usage)) {
        return Some(Intervention::Critical(usage));
    }
    let pressure = report.pressure().filter(|_| was_blocked)?;
    pressure.owed.filter(|owed| *owed >= BLOCKED_TOO_LONG).map(|_| Intervention::Blocked(pressure))
}

/// Whether a prune is to be reported, which is recorded in the pressure. `what`: how it ended, and the gates that blocked
/// it; `idle`: it could do nothing.
pub fn notice(pressure: &mut Pressure, now: Time, idle: bool, what: String) -> bool {
    let last = pressure.reported.as_ref().filter(|reported| reported.what == what);
    let lately = last.is_some_and(|reported| elapsed(now, reported.at) < REPORT_INTERVAL);
    let report = !(idle && lately);
    if report {
        pressure.reported = Some(Reported { at: now, what });
    }
    report
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::execute::{Outcome, Stop};
    use crate::gates::Gates;
    use crate::testing::{ago, done, gates, now, usage};

    #[test]
    fn a_prune_is_due_from_the_percentage_on_where_space_is_short_and_while_one_is_owed() {
        let owed = || {
            let mut ledger = Ledger::default();
            ledger.owe(["runs"], ago("1h").unwrap());
            ledger
        };
        // It is under pressure, and the last prune did its work.
        let settled = || {
            let mut ledger = owed();
            ledger.clear_owed(Some(&usage(95).filesystem), now());
            ledger
        };
        type Row<'a> = (&'a str, &'a [u64], Option<u64>, Ledger, bool);
        let table: [Row; 9] = [
            ("below", &[89], None, Ledger::default(), false),
            ("at it", &[90], None, Ledger::default(), true),
            ("above it", &[91], None, Ledger::default(), true),
            ("another filesystem", &[10, 90], None, Ledger::default(), true),
            ("enough space", &[85], Some(150), Ledger::default(), false),
            ("too little", &[85], Some(151), Ledger::default(), true),
            ("owed", &[85], None, owed(), true),
            ("not owed", &[85], None, settled(), false),
            // What evictions could not free others may; the plan itself leaves the cache alone.
            ("at it, and the last one freed nothing", &[90], None, settled(), true),
        ];
        for (what, percents, min_free, ledger, expected) in table {
            let usages: Vec<Usage> = percents.iter().map(|percent| usage(*percent)).collect();
            let limit = Limit { percent: "80".parse().unwrap(), min_free };
            let measured = Measured { usages, limit };
            assert_eq!(is_due("90".parse().unwrap(), &measured, &ledger), expected, "{what}");
        }
    }

    /// Carried out, its disk at this percentage after it.
    fn ended(outcome: Outcome, percent: u64, owed: Option<u64>) -> PruneReport {
        let after = vec![usage(percent), usage(1)];
        let done = super::super::report::Done { after, pressure: pressure(owed), ..done(outcome) };
        PruneReport::Done(Box::new(done))
    }

    /// A prune owed for so many hours.
    fn pressure(owed: Option<u64>) -> Option<OngoingPressure> {
        owed.map(|hours| OngoingPressure {
            since: ago("9d").unwrap(),
            duration: Duration::from_secs(9 * 86_400),
            blocked: [].into(),
            owed: (hours > 0).then(|| Duration::from_secs(hours * 3_600)),
        })
    }

    #[test]
    fn a_prune_that_cannot_work_for_days_or_leaves_a_critical_disk_demands_intervention() {
        let critical = crate::testing::settings("prune --disk-min-free 999B").policy.removal.critical;
        let finished = Outcome::default;
        let stopped = || Outcome { stopped: Some(Stop::Signal), ..Outcome::default() };
        let blocked = |percent, owed| {
            let gates = Gates { runs: crate::testing::runs_closed(), ..gates(percent) };
            PruneReport::Blocked { gates, pressure: pressure(owed) }
        };
        let plan = crate::plan::Plan::default;
        let preview = super::super::report::Preview { gates: gates(95), plan: plan(), usage: None };
        let busy = PruneReport::Busy { pid: None, directory: "/x".into() };
        type Row<'a> = (&'a str, PruneReport, Option<&'a str>);
        let table: [Row; 15] = [
            ("blocked for 2 days", blocked(90, Some(48)), None),
            ("blocked for 3 days", blocked(90, Some(72)), Some("blocked")),
            ("stopped for 4 days", ended(stopped(), 90, Some(96)), Some("blocked")),
            ("stopped for 2 days", ended(stopped(), 90, Some(48)), None),
            ("carried out", ended(finished(), 90, Some(96)), None),
            ("pressure, and nothing owed", blocked(90, Some(0)), None),
            ("no pressure", blocked(10, None), None),
            ("94 %", ended(finished(), 94, None), None),
            ("95 %", ended(finished(), 95, None), Some("critical")),
            ("95 %, blocked", blocked(95, Some(1)), Some("critical")),
            ("95 %, stopped", ended(stopped(), 95, None), Some("critical")),
            (
                "unknown gates",
                PruneReport::NoAnswer { gates: gates(95), why: crate::facts::Unavailable("x".into()) },
                None,
            ),
            ("it failed", PruneReport::Failed("x".into()), None),
            ("another runs", busy, None),
            ("a preview", PruneReport::Preview(preview), None),
        ];
        for (what, report, expected) in table {
            let found = intervention(&report, critical).map(|why| match why {
                Intervention::Critical(usage) => {
                    assert_eq!(usage.percent.get(), 95, "{what}");
                    "critical"
                }
                Intervention::Blocked(_) => "blocked",
            });
            assert_eq!(found, expected, "{what}");
        }
    }
}
