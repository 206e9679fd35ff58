//! What the world answers: errors, events, and what an order did.

use std::path::PathBuf;

use thiserror::Error;

use crate::facts::Unavailable;
use crate::units::Time;

/// A request that failed. Its text names the engine, the request, the cause, and what to do.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{text}")]
pub struct EngineError {
    text: String,
    status: Option<(u16, String)>,
    timed_out: bool,
}

impl EngineError {
    pub fn new(text: String) -> Self {
        Self { text, status: None, timed_out: false }
    }

    /// The engine answered with this HTTP status and message.
    pub fn with_status(text: String, status: u16, message: String) -> Self {
        Self { status: Some((status, message)), ..Self::new(text) }
    }

    /// The engine took too long, so that it may still be at work.
    pub fn timeout(text: String) -> Self {
        Self { timed_out: true, ..Self::new(text) }
    }

    pub fn status(&self) -> Option<(u16, &str)> {
        self.status.as_ref().map(|(status, message)| (*status, message.as_str()))
    }

    pub fn timed_out(&self) -> bool {
        self.timed_out
    }

    /// Whether the engine is only busy with something that ends by itself ("a prune operation is already running",
    /// "removal of container … is already in progress").
    pub fn is_busy(&self) -> bool {
        matches!(self.status(), Some((409, why)) if why.contains("already running") || why.contains("in progress"))
    }

    /// Whether the disk is too full for the engine to write what an order changes. In the kernel's words (ENOSPC,
    /// EDQUOT).
    pub fn is_no_space(&self) -> bool {
        let words = ["no space left on device", "disk quota exceeded"];
        self.status().is_some_and(|(_, why)| words.iter().any(|words| why.contains(words)))
    }

    pub fn is_forbidden(&self) -> bool {
        matches!(self.status(), Some((403, _)))
    }
}

impl From<EngineError> for Unavailable {
    fn from(error: EngineError) -> Self {
        Self(error.text)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ContainerScope {
    /// Those that are neither exited nor dead: cheap also where thousands have ended.
    Live,
    All,
}

/// A container event: it names the image that is in use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageEvent {
    pub image: String,
    /// By the engine's clock.
    pub at: Time,
    /// Whether the container was created.
    pub is_creation: bool,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EventSummary {
    /// The events after which no removal may begin, each once, in order.
    pub stops: Vec<StopEvent>,
    /// The number of other events that require the gates to be evaluated again.
    pub others: usize,
    /// How many of these concern containers of Swarm's services.
    pub of_services: usize,
    /// The images that were pulled, tagged, loaded or imported, and those of containers that were created or started, by ID or
    /// reference, in order.
    pub images: Vec<String>,
}

impl EventSummary {
    pub fn stop(&mut self, event: StopEvent) {
        if !self.stops.contains(&event) {
            self.stops.push(event);
        }
    }
}

/// An event after which no removal may begin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StopEvent {
    ServiceCreated(String),
    ServiceUpdated(String),
    /// A container, network, volume, secret or config of a CI run.
    Run(String),
    Lost(String),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// All that was ordered; an image was removed entirely.
    Complete,
    /// The reference was removed; the image has others.
    Untagged,
    /// Nothing: the object did not exist any more (404).
    Gone,
}

/// What processes register on this host for as long as they run, each in a folder of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Register {
    /// Commands that block prunes.
    Inhibitors,
    /// Prunes that are due: they wait, or are under way.
    Prunes,
    /// Commands that wait for a prune before they block prunes. A new registration starts the record unit.
    Requests,
}

/// A command that lets a prune go first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request {
    /// Since when it waits, by the wall clock.
    pub since: Option<Time>,
    /// Bytes that must be available.
    pub min_free: Option<u64>,
    /// It no longer waits.
    pub gave_up: bool,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Registration<'a> {
    pub why: Option<&'a str>,
    /// Bytes that must be available, of a request.
    pub min_free: Option<u64>,
}

#[derive(Debug)]
pub enum Acquisition<L> {
    Acquired(L),
    /// Another process holds it: its ID, where it could be read.
    Held {
        pid: Option<u32>,
        directory: PathBuf,
    },
}
