//! Checks whether the disk is under pressure or critical, and for how long.

use serde_json::Value;

use super::found;
use crate::facts::Survey;
use crate::gates::{Verdict, disk};
use crate::ledger::Ledger;
use crate::prune::PrunePolicy;
use crate::prune::report::OngoingPressure;
use crate::report::prune::pressure_text;
use crate::report::reason;
use crate::report::verify::{Check, CheckStatus};
use crate::units::Time;

pub fn check(survey: &Survey, policy: &PrunePolicy, ledger: &Ledger, now: Time) -> Check {
    let verdict = disk::evaluate(survey, policy.removal.threshold);
    let usage = reason::disk(&verdict).reason.message;
    let (status, code, message) = match &verdict {
        Verdict::Closed(_) => (CheckStatus::Ok, "below_threshold", usage),
        Verdict::Unknown(_) => (CheckStatus::Skipped, "not_available", usage),
        Verdict::Open(measured) => {
            let critical = measured.usages.iter().any(|usage| policy.removal.critical.is_reached(usage));
            let pressure = OngoingPressure::of(ledger, now);
            let since = pressure.and_then(|pressure| pressure_text(&pressure, None));
            let since = since.unwrap_or_else(|| "under pressure".into());
            let message = format!("{usage}; {since}; see prune --dry-run");
            match critical {
                true => (CheckStatus::Failed, "critical", message),
                false => (CheckStatus::Warning, "under_pressure", message),
            }
        }
    };
    found("disk", status, code, message, Value::Null)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{gates_policy, now, policy, survey, usage};

    #[test]
    fn pressure_is_a_warning_and_a_critical_disk_fails() {
        use CheckStatus::{Failed, Ok, Skipped, Warning};
        let policy =
            PrunePolicy { disk_paths: vec![], gates: gates_policy(), during_runs: false, removal: policy() };
        let status = |filesystems| {
            let survey = Survey { filesystems, ..survey() };
            check(&survey, &policy, &Ledger::default(), now()).status
        };
        for (percent, expected) in [(79, Ok), (80, Warning), (94, Warning), (95, Failed)] {
            let filesystems = vec![usage(10).filesystem, usage(percent).filesystem];
            assert_eq!(status(Result::Ok(filesystems)), expected, "{percent}");
        }
        assert_eq!(status(Err(crate::facts::Unavailable("x".into()))), Skipped);
    }
}
