//! Errors of this host that decide something, beyond their text.

use std::io::{self, ErrorKind};
use std::path::Path;

use anyhow::Error;

fn io_kind(error: &Error) -> Option<ErrorKind> {
    error.chain().find_map(|cause| cause.downcast_ref::<io::Error>()).map(io::Error::kind)
}

pub fn is_full(error: &Error) -> bool {
    matches!(io_kind(error), Some(ErrorKind::StorageFull | ErrorKind::QuotaExceeded))
}

/// A directory of this program that cannot be used, with who may use it, where that is the reason.
pub fn of_own_directory(attempt: &str, directory: &Path, error: Error) -> Error {
    let directory = directory.display();
    match io_kind(&error) {
        Some(ErrorKind::PermissionDenied) => error.context(format!(
            "cannot write in {directory}; only root and the user of the service may prune and record: run it with sudo. \
             For --dry-run, check-gates, explain and inhibit the docker group is enough"
        )),
        _ => error.context(format!("{attempt} {directory}")),
    }
}
