//! The three gates: each judges facts by a policy, and only "open" lets a prune through.

pub mod converge;
pub mod disk;
pub mod runs;

use crate::facts::Unavailable;

/// What a gate says. Each carries its own reason; `Unknown` never counts as open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict<Open, Closed, Unknown> {
    /// A prune may go on.
    Open(Open),
    /// It may not.
    Closed(Closed),
    /// It may not, because it could not be evaluated.
    Unknown(Unknown),
}

/// A verdict without its reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GateState {
    /// As [`Verdict::Open`].
    Open,
    /// As [`Verdict::Closed`].
    Closed,
    /// As [`Verdict::Unknown`].
    Unknown,
}

impl<Open, Closed, Unknown> Verdict<Open, Closed, Unknown> {
    /// Open, closed or unknown, without the reason.
    pub fn state(&self) -> GateState {
        match self {
            Self::Open(_) => GateState::Open,
            Self::Closed(_) => GateState::Closed,
            Self::Unknown(_) => GateState::Unknown,
        }
    }
}

/// One gate's name and verdict.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Gate {
    /// Is the disk under pressure?
    Disk(disk::Verdict),
    /// Is no CI run live?
    Runs(runs::Verdict),
    /// Is no Swarm service converging?
    Converge(converge::Verdict),
}

/// Every gate, where not even the engine could be reached.
pub fn all_unavailable(why: &Unavailable) -> Vec<Gate> {
    [Gate::disk_unavailable, Gate::runs_unavailable, Gate::converge_unavailable]
        .map(|gate| gate(why.clone()))
        .into()
}

impl Gate {
    /// `disk`, which is unknown for this reason.
    pub fn disk_unavailable(why: Unavailable) -> Self {
        Self::Disk(Verdict::Unknown(disk::Unknown::Unavailable(why)))
    }

    /// `runs`, which is unknown for this reason.
    pub fn runs_unavailable(why: Unavailable) -> Self {
        Self::Runs(Verdict::Unknown(why))
    }

    /// `converge`, which is unknown for this reason.
    pub fn converge_unavailable(why: Unavailable) -> Self {
        Self::Converge(Verdict::Unknown(converge::Unknown::Unavailable(why)))
    }

    /// `disk`, `runs` or `converge`.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Disk(_) => "disk",
            Self::Runs(_) => "runs",
            Self::Converge(_) => "converge",
        }
    }

    /// Open, closed or unknown, without the reason.
    pub fn state(&self) -> GateState {
        match self {
            Self::Disk(verdict) => verdict.state(),
            Self::Runs(verdict) => verdict.state(),
            Self::Converge(verdict) => verdict.state(),
        }
    }
}

/// The state of several gates: open when each is, unknown when any is unknown, else closed.
pub fn combined_state(gates: &[Gate]) -> GateState {
    let any = |word| gates.iter().any(|gate| gate.state() == word);
    match (any(GateState::Unknown), any(GateState::Closed)) {
        (true, _) => GateState::Unknown,
        (false, true) => GateState::Closed,
        (false, false) => GateState::Open,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn several_gates_are_open_only_together_and_unknown_before_they_are_closed() {
        let open = || Gate::Runs(Verdict::Open(()));
        let closed = || Gate::Runs(Verdict::Closed(vec![]));
        let unknown = || Gate::disk_unavailable(Unavailable("x".into()));
        for (gates, expected) in [
            (vec![], GateState::Open),
            (vec![open(), open()], GateState::Open),
            (vec![open(), closed()], GateState::Closed),
            (vec![closed(), unknown()], GateState::Unknown),
            (vec![unknown(), open()], GateState::Unknown),
        ] {
            assert_eq!(combined_state(&gates), expected, "{gates:?}");
        }
        let all = all_unavailable(&Unavailable("x".into()));
        assert!(all.iter().map(Gate::name).eq(["disk", "runs", "converge"]));
        assert!(all.iter().all(|gate| gate.state() == GateState::Unknown));
    }
}
