//! Checks that image usage is recorded.

use serde_json::json;

use super::found;
use crate::ledger::{Ledger, MAX_RECORD_AGE};
use crate::report::verify::{Check, CheckStatus};
use crate::units::{Time, age, elapsed};

pub fn check(ledger: &Ledger, now: Time) -> Check {
    let since = ledger.recorded_at.map(|at| elapsed(now, at));
    let hint = "images hardly age until it is; see systemctl status ci-docker-prune-record.timer";
    let (status, code, message) = match since {
        None => (CheckStatus::Warning, "never_recorded", format!("image usage was never recorded; {hint}")),
        Some(since) if since < MAX_RECORD_AGE => {
            (CheckStatus::Ok, "recorded", format!("image usage was recorded {} ago", age(since)))
        }
        Some(since) => {
            let message = format!("image usage was not recorded for {}; {hint}", age(since));
            (CheckStatus::Warning, "not_recorded_lately", message)
        }
    };
    let figures = json!({"recorded_seconds_ago": since.map(|since| since.as_secs())});
    found("ledger", status, code, message, figures)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{ago, now};

    #[test]
    fn a_ledger_is_kept_within_the_hour() {
        for (at, code) in [
            (None, "never_recorded"),
            (ago("0s"), "recorded"),
            (ago("3599s"), "recorded"),
            (ago("1h"), "not_recorded_lately"),
        ] {
            let check = check(&Ledger { recorded_at: at, ..Ledger::default() }, now());
            assert_eq!(check.reason.code, code, "{at:?}");
            assert_eq!(check.status == CheckStatus::Ok, code == "recorded", "{at:?}");
        }
    }
}
