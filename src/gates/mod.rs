//! The three gates: each judges what a survey showed, and only "open" allows a prune.

pub mod converge;
pub mod disk;
pub mod runs;

use crate::facts::{Limit, Survey, Usage};
use crate::units::Time;
use std::time::Duration;

/// What a gate says, with its reason. `Unknown` never counts as open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict<Open, Closed, Unknown> {
    Open(Open),
    Closed(Closed),
    Unknown(Unknown),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GateState {
    Open,
    Closed,
    Unknown,
}

impl GateState {
    pub fn name(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Closed => "closed",
            Self::Unknown => "unknown",
        }
    }

    /// Of several gates: open when each is, unknown when any is unknown, else closed.
    pub fn combined(states: impl IntoIterator<Item = Self> + Clone) -> Self {
        let any = |wanted| states.clone().into_iter().any(|state| state == wanted);
        match (any(Self::Unknown), any(Self::Closed)) {
            (true, _) => Self::Unknown,
            (false, true) => Self::Closed,
            (false, false) => Self::Open,
        }
    }
}

impl<Open, Closed, Unknown> Verdict<Open, Closed, Unknown> {
    pub fn state(&self) -> GateState {
        match self {
            Self::Open(_) => GateState::Open,
            Self::Closed(_) => GateState::Closed,
            Self::Unknown(_) => GateState::Unknown,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gates {
    pub disk: disk::Verdict,
    pub runs: runs::Verdict,
    pub converge: converge::Verdict,
}

#[derive(Debug, Clone)]
pub struct Policy {
    /// From here on the disk is under pressure.
    pub disk: Limit,
    pub runs: runs::Policy,
    /// A service that has not been converged for longer closes no gate; `None`: every one does.
    pub converge_max_age: Option<Duration>,
}

pub fn evaluate(survey: &Survey, policy: &Policy, now: Time) -> Gates {
    Gates {
        disk: disk::evaluate(survey, policy.disk),
        runs: runs::evaluate(survey, &policy.runs, now),
        converge: converge::evaluate(survey, policy.converge_max_age, now),
    }
}

impl Gates {
    /// By name, in the order in which they are shown.
    pub fn states(&self) -> [(&'static str, GateState); 3] {
        [("disk", self.disk.state()), ("runs", self.runs.state()), ("converge", self.converge.state())]
    }

    pub fn state(&self) -> GateState {
        GateState::combined(self.states().map(|(_, state)| state))
    }

    pub fn in_state(&self, wanted: GateState) -> impl Iterator<Item = &'static str> {
        self.states().into_iter().filter(move |(_, state)| *state == wanted).map(|(name, _)| name)
    }

    pub fn not_open(&self) -> Vec<&'static str> {
        let not_open = |(name, state)| (state != GateState::Open).then_some(name);
        self.states().into_iter().filter_map(not_open).collect()
    }

    pub fn are_deploys_blocking(&self) -> bool {
        self.runs.state() != GateState::Open || self.converge.state() != GateState::Open
    }

    /// Whether live runs, and no inhibitor, are all that blocks a deploy-free moment.
    pub fn runs_alone_block(&self) -> bool {
        let by_runs = matches!(&self.runs, Verdict::Closed(found) if found.holds_no_inhibitor());
        by_runs && self.converge.state() == GateState::Open
    }

    pub fn is_under_pressure(&self) -> bool {
        self.disk.state() == GateState::Open
    }

    /// What the disk is under pressure by.
    pub fn limit(&self) -> Option<Limit> {
        if let Verdict::Open(measured) = &self.disk { Some(measured.limit) } else { None }
    }

    /// What `disk` measured, fullest first; empty where it could not.
    pub fn usages(&self) -> &[Usage] {
        match &self.disk {
            Verdict::Open(measured) | Verdict::Closed(measured) => &measured.usages,
            Verdict::Unknown(_) => &[],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::Unavailable;

    #[test]
    fn several_gates_are_open_only_together_and_unknown_before_they_are_closed() {
        use GateState::{Closed, Open, Unknown};
        for (states, expected) in [
            (vec![], Open),
            (vec![Open, Open], Open),
            (vec![Open, Closed], Closed),
            (vec![Closed, Unknown], Unknown),
            (vec![Unknown, Open], Unknown),
        ] {
            assert_eq!(GateState::combined(states.clone()), expected, "{states:?}");
        }
        let lost = Survey::unavailable(&Unavailable("x".into()));
        let policy = crate::testing::gates_policy();
        let gates = evaluate(&lost, &policy, crate::testing::now());
        assert!(gates.in_state(Unknown).eq(["disk", "runs", "converge"]));
        assert_eq!((gates.not_open().len(), gates.usages()), (3, &[][..]));
    }
}
