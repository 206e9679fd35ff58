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
pub enum Word {
    Open,
    Closed,
    Unknown,
}

impl<Open, Closed, Unknown> Verdict<Open, Closed, Unknown> {
    pub fn word(&self) -> Word {
        match self {
            Self::Open(_) => Word::Open,
            Self::Closed(_) => Word::Closed,
            Self::Unknown(_) => Word::Unknown,
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
    pub fn name(&self) -> &'static str {
        match self {
            Self::Disk(_) => "disk",
            Self::Runs(_) => "runs",
            Self::Converge(_) => "converge",
        }
    }

    pub fn word(&self) -> Word {
        match self {
            Self::Disk(verdict) => verdict.word(),
            Self::Runs(verdict) => verdict.word(),
            Self::Converge(verdict) => verdict.word(),
        }
    }
}

/// All of them together: open when each is, unknown when any is unknown, else closed.
pub fn together(gates: &[Gate]) -> Word {
    let any = |word| gates.iter().any(|gate| gate.word() == word);
    match (any(Word::Unknown), any(Word::Closed)) {
        (true, _) => Word::Unknown,
        (false, true) => Word::Closed,
        (false, false) => Word::Open,
    }
}
