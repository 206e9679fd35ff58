//! What of this host could not be used, and why.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use thiserror::Error;

use crate::facts::Unavailable;

/// A file, lock, command or server that could not be used: what was tried, and the cause as its `source`. `{:#}` shows
/// both.
#[derive(Debug, Error)]
pub struct HostError {
    attempt: String,
    #[source]
    cause: Cause,
}

/// Why not.
#[derive(Debug, Error)]
pub enum Cause {
    /// The kernel's error.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// It is not the JSON that was expected.
    #[error(transparent)]
    Json(#[from] serde_json::Error),
    /// The ledger is of another version of this program.
    #[error("it has schema {found}, and this program knows {known}")]
    Schema {
        /// The file's.
        found: u32,
        /// This program's.
        known: u32,
    },
    /// Another process keeps a lock that is held for a moment only.
    #[error("{holder} has held it for over {} s", waited.as_secs())]
    Held {
        /// Which one, as far as the kernel tells.
        holder: String,
        /// How long the lock was waited for.
        waited: Duration,
    },
    /// What the other side says, where there is no error of a library.
    #[error("{0}")]
    Said(String),
    /// Another error of this host.
    #[error(transparent)]
    Host(Box<HostError>),
}

/// The result of using something of this host.
pub type Result<T, E = HostError> = std::result::Result<T, E>;

impl HostError {
    /// What was tried, and why it failed.
    pub fn new(attempt: impl Into<String>, cause: impl Into<Cause>) -> Self {
        Self { attempt: attempt.into(), cause: cause.into() }
    }

    /// The kernel's kind of error, where it is one.
    pub fn io_kind(&self) -> Option<io::ErrorKind> {
        self.cause.io_kind()
    }

    /// Was there no space left, for the file or for this user?
    pub fn is_full(&self) -> bool {
        matches!(self.io_kind(), Some(io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded))
    }

    /// A directory of the program's own that cannot be used: says who may use it, where that is the reason.
    pub fn of_own_directory(attempt: &str, directory: &Path, cause: impl Into<Cause>) -> Self {
        let cause = cause.into();
        let attempt = match cause.io_kind() {
            Some(io::ErrorKind::PermissionDenied) => {
                format!("cannot write in {}; {NEEDS_ROOT}", directory.display())
            }
            _ => format!("{attempt} {}", directory.display()),
        };
        Self { attempt, cause }
    }
}

const NEEDS_ROOT: &str = "only root and the user of the service may prune and record: run it with sudo. \
                              For --dry-run, check-gates, explain and inhibit the docker group is enough";

impl Cause {
    fn io_kind(&self) -> Option<io::ErrorKind> {
        match self {
            Self::Io(error) => Some(error.kind()),
            Self::Json(error) => error.io_error_kind(),
            Self::Host(error) => error.io_kind(),
            Self::Schema { .. } | Self::Held { .. } | Self::Said(_) => None,
        }
    }
}

impl From<nix::errno::Errno> for Cause {
    fn from(error: nix::errno::Errno) -> Self {
        Self::Io(error.into())
    }
}

impl From<tempfile::PersistError> for Cause {
    fn from(error: tempfile::PersistError) -> Self {
        Self::Io(error.error)
    }
}

impl From<tempfile::PathPersistError> for Cause {
    fn from(error: tempfile::PathPersistError) -> Self {
        Self::Io(error.error)
    }
}

impl From<HostError> for Cause {
    fn from(error: HostError) -> Self {
        Self::Host(Box::new(error))
    }
}

/// Every error of a library or the kernel gets a name for what was tried.
pub trait Context<T> {
    /// Name what was tried.
    ///
    /// # Errors
    /// The error, under that name.
    fn with_context<A: Into<String>>(self, attempt: impl FnOnce() -> A) -> Result<T>;
}

impl<T, E: Into<Cause>> Context<T> for std::result::Result<T, E> {
    fn with_context<A: Into<String>>(self, attempt: impl FnOnce() -> A) -> Result<T> {
        self.map_err(|error| HostError::new(attempt(), error))
    }
}

impl fmt::Display for HostError {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match f.alternate() {
            true => f.write_str(&chain(self)),
            false => f.write_str(&self.attempt),
        }
    }
}

/// An error and its causes in one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text += &format!(": {cause}");
        next = cause.source();
    }
    text
}

impl From<HostError> for Unavailable {
    fn from(error: HostError) -> Self {
        Self(format!("{error:#}"))
    }
}

/// A file that was set aside because it could not be understood.
#[derive(Debug)]
pub struct SetAside {
    /// Where it is now.
    pub path: PathBuf,
    /// Why it could not be understood.
    pub why: HostError,
}

impl fmt::Display for SetAside {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{:#}; moved to {}", self.why, self.path.display())
    }
}
