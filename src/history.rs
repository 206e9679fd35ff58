//! Past prunes: what `log` and `status` tell.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_with::skip_serializing_none;

use crate::units::{Percent, Time, elapsed};

/// A prune is kept for this long.
pub const RETENTION: Duration = Duration::from_secs(90 * 86_400);

/// One that could do nothing, for the same reason as the one before, is kept this often.
const REPEATED_EVERY: Duration = Duration::from_secs(3_600);

#[skip_serializing_none]
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PastPrune {
    /// When it ended, by the wall clock.
    pub at: Time,
    /// A systemd unit, or a user.
    pub started_by: String,
    pub outcome: String,
    /// The gates that were not open.
    #[serde(default)]
    pub gates: Vec<PastGate>,
    /// Why it failed, or was stopped.
    pub why: Option<String>,
    /// Of the fullest filesystem.
    pub used_percent_before: Option<Percent>,
    pub used_percent_after: Option<Percent>,
    /// By which the measured usage fell.
    #[serde(default)]
    pub reclaimed_bytes: u64,
    #[serde(default)]
    pub removed: Vec<Gone>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PastGate {
    pub gate: String,
    pub state: String,
    pub message: String,
}

#[skip_serializing_none]
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gone {
    pub kind: String,
    pub class: Option<String>,
    pub id: String,
    /// With their digests in full.
    pub names: Vec<String>,
    pub size_bytes: u64,
    pub reason: Why,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Why {
    pub code: String,
    pub message: String,
}

impl PastPrune {
    /// Whether it could do nothing, as the one before.
    pub fn repeats(&self, before: &Self) -> bool {
        let gates = |past: &Self| past.gates.iter().map(|gate| gate.gate.clone()).collect::<Vec<_>>();
        ["blocked", "nothing"].contains(&self.outcome.as_str())
            && self.outcome == before.outcome
            && gates(self) == gates(before)
            && elapsed(self.at, before.at) < REPEATED_EVERY
    }
}

impl Gone {
    /// Whether it has this ID, or a name that contains this.
    pub fn matches(&self, query: &str) -> bool {
        let digest = |id: &str| id.trim_start_matches("sha256:").to_owned();
        self.names.iter().any(|name| name.contains(query))
            || (query.len() >= 4 && digest(&self.id).starts_with(&digest(query)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{ago, past_prune};

    #[test]
    fn one_that_can_do_nothing_is_told_once_an_hour() {
        let at = |at: &str| PastPrune { at: ago(at).unwrap(), ..past_prune("blocked", &["runs"]) };
        assert!(at("0s").repeats(&at("59m")));
        assert!(!at("0s").repeats(&at("1h")));
        let other = |outcome: &str, gates: &[&str]| past_prune(outcome, gates);
        assert!(!other("blocked", &["runs"]).repeats(&other("blocked", &["converge"])));
        assert!(!other("blocked", &[]).repeats(&other("nothing", &[])));
        assert!(!other("pruned", &[]).repeats(&other("pruned", &[])), "each that did something");
        assert!(!other("failed", &[]).repeats(&other("failed", &[])));
    }

    #[test]
    fn what_is_gone_is_found_by_a_part_of_its_name_or_the_beginning_of_its_id() {
        let gone = past_prune("pruned", &[]).removed.remove(0);
        for (query, found) in [
            ("postgres", true),
            ("postgres@sha256:0123", true),
            ("sha256:abcd", true),
            ("abcdef", true),
            ("abc", false),
            ("redis", false),
        ] {
            assert_eq!(gone.matches(query), found, "{query}");
        }
    }
}
