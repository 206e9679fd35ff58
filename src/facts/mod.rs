//! What the engine and the host say, in types of our own, without IO.

mod container;
mod disk;
mod engine;
mod image;
mod inventory;
mod object;
mod past;
mod reference;
mod swarm;

pub use container::*;
pub use disk::*;
pub use engine::*;
pub use image::*;
pub use inventory::*;
pub use object::*;
pub use past::*;
pub use reference::{Reference, name_tag, short_id};
pub use swarm::*;

use thiserror::Error;

use crate::units::Time;

/// A question that got no answer; the text names what was asked and why there is none.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{0}")]
pub struct Unavailable(pub String);

impl From<anyhow::Error> for Unavailable {
    fn from(error: anyhow::Error) -> Self {
        Self(format!("{error:#}"))
    }
}

pub type Answer<T> = Result<T, Unavailable>;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inhibitor {
    /// Its process. `None` if its file does not say, as for the others.
    pub pid: Option<u32>,
    pub since: Option<Time>,
    pub why: Option<String>,
    /// The user who has registered it.
    pub user: Option<String>,
}

/// What the inhibitor of a running proof (`verify --redeploy`) says first.
pub const PROOF: &str = "verify --redeploy";

impl Inhibitor {
    pub fn is_proof(&self) -> bool {
        self.why.as_deref().is_some_and(|why| why.starts_with(PROOF))
    }
}
