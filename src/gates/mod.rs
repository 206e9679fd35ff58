//! The three gates: each judges facts by a policy, and only "open" lets a prune through.

pub mod converge;
pub mod disk;
pub mod runs;

/// What a gate says. Each carries its own reason; `Unknown` never counts as open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict<Open, Closed, Unknown> {
    Open(Open),
    Closed(Closed),
    Unknown(Unknown),
}

/// A verdict without its reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GateState {
    Open,
    Closed,
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
    Disk(disk::Verdict),
    Runs(runs::Verdict),
    Converge(converge::Verdict),
}

impl Gate {
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
