//! What came of a prune.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use crate::disk_consumers::DiskConsumers;
use crate::execute::Outcome;
use crate::gates::disk::Usage;
use crate::gates::{Gate, Verdict};
use crate::ledger::Ledger;
use crate::plan::Plan;
use crate::units::{Percent, Time, elapsed};

/// All that is known at the end of a prune, or of a preview.
#[derive(Debug)]
pub struct PruneResult {
    /// Nothing was to be removed: a plan was made, and that is all.
    pub preview: bool,
    /// Each with its verdict, as they were at the start; empty where the engine could not be asked.
    pub gates: Vec<Gate>,
    /// Absent where none was made: a real run that a gate blocked.
    pub plan: Option<Plan>,
    /// How it ended.
    pub ending: PruneOutcome,
    /// The usages that the gate `disk` measured, fullest first.
    pub before: Vec<Usage>,
    /// As `before` where nothing was removed.
    pub after: Vec<Usage>,
    /// Bytes by which the measured usage fell.
    pub reclaimed: u64,
    /// Present while the disk stays under pressure, as far as the ledger could tell.
    pub pressure: Option<OngoingPressure>,
    /// What fills the disk, where that was looked at.
    pub disk_consumers: Option<DiskConsumers>,
    /// The filesystem that holds the images, as the plan saw it.
    pub images_on: Option<Usage>,
    /// Why the ledger does not know of this prune.
    pub ledger_error: Option<String>,
}

impl PruneResult {
    /// Of a prune that removed nothing, because of how its gates stood or how it ended.
    pub fn without_removals(gates: Vec<Gate>, ending: PruneOutcome) -> Self {
        let usages = measured(&gates);
        Self {
            preview: false,
            plan: None,
            ending,
            before: usages.clone(),
            after: usages,
            gates,
            reclaimed: 0,
            pressure: None,
            disk_consumers: None,
            images_on: None,
            ledger_error: None,
        }
    }

    /// The same of a preview.
    pub fn of_preview(self) -> Self {
        Self { preview: true, ..self }
    }

    /// Did something fail, or could something not be read? Being blocked or stopped is no failure.
    pub fn has_failed(&self) -> bool {
        let ended_badly = match &self.ending {
            PruneOutcome::Unavailable | PruneOutcome::Failed(_) => true,
            PruneOutcome::CarriedOut(outcome) => outcome.has_failed(),
            PruneOutcome::Previewed | PruneOutcome::Blocked | PruneOutcome::Busy(..) => false,
        };
        ended_badly
            || self.ledger_error.is_some()
            || self.plan.as_ref().is_some_and(|plan| !plan.unread.is_empty())
    }
}

/// The usages that the gate `disk` measured.
pub fn measured(gates: &[Gate]) -> Vec<Usage> {
    let measured = gates.iter().find_map(|gate| match gate {
        Gate::Disk(Verdict::Open(measured) | Verdict::Closed(measured)) => Some(measured.usages.clone()),
        _ => None,
    });
    measured.unwrap_or_default()
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
    /// When it was first found, by the wall clock.
    pub since: Time,
    /// For how long, by the ledger's clock.
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
    /// It was a preview: nothing was to be removed.
    Previewed,
    /// By gates that are closed.
    Blocked,
    /// Another prune is running: its process ID, where known, and the lock's directory.
    Busy(Option<u32>, PathBuf),
    /// A gate could not be evaluated.
    Unavailable,
    /// It could not even plan, for this reason.
    Failed(String),
    /// It went through its plan, to the end or to where it was stopped.
    CarriedOut(Outcome),
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{ago, now};

    #[test]
    fn pressure_lasts_since_it_was_found_and_a_prune_is_owed_since_one_did_not_work() {
        assert!(OngoingPressure::of(&Ledger::default(), now()).is_none());
        let mut ledger = Ledger::default();
        ledger.owe([], ago("3h").unwrap());
        ledger.settle(None, ago("2h").unwrap());
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
}
