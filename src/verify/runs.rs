//! Checks whether prunes ever find a moment between CI runs, and what closes no gate any more.

use serde_json::json;

use super::found;
use crate::gates::Gates;
use crate::ledger::Ledger;
use crate::report::advice;
use crate::report::verify::{Check, CheckStatus};
use crate::units::Time;

pub fn check(gates: &Gates, ledger: &Ledger, now: Time) -> Check {
    let busy = ledger.busy(now);
    let figures = json!({"seen_seconds": busy.seen.as_secs(), "busy_seconds": busy.busy.as_secs()});
    let let_go = advice::let_go(gates);
    let line = advice::busy(busy);
    let (status, code, message) = match (busy.is_never_idle(), let_go.is_empty()) {
        (true, _) => (CheckStatus::Warning, "never_idle", line),
        (false, false) => {
            (CheckStatus::Warning, "let_go", format!("{line}; what nobody ended closes no gate"))
        }
        (false, true) => (CheckStatus::Ok, "idle_at_times", line),
    };
    Check { lines: let_go, ..found("runs", status, code, message, figures) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{ago, gates, now};

    #[test]
    fn a_host_that_is_never_idle_is_a_warning_with_what_to_do() {
        let checked = |live: bool| {
            let mut ledger = Ledger::default();
            for minutes in (0..=24 * 60).rev().step_by(5) {
                ledger.record_runs(live, ago(&format!("{minutes}m")).unwrap());
            }
            check(&gates(85), &ledger, now())
        };
        let busy = checked(true);
        assert_eq!((busy.status, busy.reason.code), (CheckStatus::Warning, "never_idle"));
        assert!(busy.reason.message.contains("ci-docker-prune inhibit"), "{}", busy.reason.message);
        assert_eq!(checked(false).status, CheckStatus::Ok);
    }
}
