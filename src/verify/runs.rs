//! Checks whether the runs of this host's CI are known, whether prunes ever find a moment between them, and what closes no
//! gate any more.

use regex::Regex;
use serde_json::json;

use super::found;
use crate::cli::Ci;
use crate::gates::{Gates, runs};
use crate::ledger::Ledger;
use crate::report::advice;
use crate::report::verify::{Check, CheckStatus};
use crate::units::{Time, age, elapsed};

pub fn check(gates: &Gates, ledger: &Ledger, now: Time) -> Check {
    let busy = ledger.busy(now);
    let figures = json!({"seen_seconds": busy.seen.as_secs(), "busy_seconds": busy.busy.as_secs()});
    let let_go = advice::let_go(gates);
    let line = advice::busy(busy);
    let others = runs::found(&gates.runs).map(|found| &found.others[..]).unwrap_or_default();
    let unseen = ci_systems(others);
    let looked_for = runs::found(&gates.runs).map(|found| found.looked_for.as_str()).unwrap_or_default();
    let (status, code, message) = if !unseen.is_empty() {
        let keys = unseen.iter().map(|ci| format!("\"{ci}\"")).collect::<Vec<_>>().join(", ");
        let message = format!(
            "containers of {} are live and are no runs here (looked for {looked_for}): set ci = [{keys}]",
            unseen.join(", ")
        );
        (CheckStatus::Warning, "unknown_ci", message)
    } else if busy.is_never_idle() {
        (CheckStatus::Warning, "never_idle", line)
    } else if let (None, Some(began)) = (ledger.run_seen, ledger.began) {
        let since = age(elapsed(ledger.time(now), began));
        let message = format!(
            "no run was seen in {since} (looked for {looked_for}): where the names of your CI's runs are others, the gate never \
             closes; set ci or run-pattern"
        );
        (CheckStatus::Warning, "never_seen", message)
    } else if !let_go.is_empty() {
        (CheckStatus::Warning, "let_go", format!("{line}; what nobody ended closes no gate"))
    } else {
        (CheckStatus::Ok, "idle_at_times", format!("{line} (looked for {looked_for})"))
    };
    Check { lines: let_go, ..found("runs", status, code, message, figures) }
}

/// The CI systems whose runs are among these names.
fn ci_systems(names: &[String]) -> Vec<String> {
    let is_seen = |ci: &&Ci| {
        let pattern = Regex::new(ci.pattern());
        pattern.is_ok_and(|pattern| names.iter().any(|name| pattern.is_match(name)))
    };
    Ci::all().iter().filter(is_seen).map(|ci| ci.name()).collect()
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
        let never = checked(false);
        assert_eq!((never.status, never.reason.code), (CheckStatus::Warning, "never_seen"));
        assert!(never.reason.message.contains("in 24h"), "{}", never.reason.message);
        let mut ledger = Ledger::default();
        ledger.record_runs(true, ago("2h").unwrap());
        ledger.record_runs(false, now());
        assert_eq!(check(&gates(85), &ledger, now()).status, CheckStatus::Ok);
        assert_eq!(
            check(&gates(85), &Ledger::default(), now()).status,
            CheckStatus::Ok,
            "nothing is known yet"
        );
        // The CI that is here is another one.
        let found = runs::Found {
            others: vec!["shop-web-1".into(), "wp_01J8ZQ4T6N2M3K5P7R9S1V3X5Y".into()],
            ..Default::default()
        };
        let gates = Gates { runs: crate::gates::Verdict::Open(found), ..gates(85) };
        let other = check(&gates, &ledger, now());
        assert_eq!((other.status, other.reason.code), (CheckStatus::Warning, "unknown_ci"));
        assert!(other.reason.message.ends_with("set ci = [\"woodpecker\"]"), "{}", other.reason.message);
    }
}
