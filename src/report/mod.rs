//! Verdicts, plans and outcomes as text, JSON and metrics. Each page has a file, with its text and its JSON shape.

pub mod advice;
pub mod config;
pub mod consumers;
pub mod explain;
pub mod gates;
pub mod log;
pub mod metrics;
pub mod progress;
pub mod prune;
pub mod reason;
pub mod status;
mod table;
#[cfg(test)]
mod tests;
pub mod verify;

use std::io::{self, Write};

use serde::Serialize;

pub use table::{is_utf8, terminal_width};

const SCHEMA: u32 = 1;

fn json(out: &mut impl Write, value: &impl Serialize) -> io::Result<()> {
    serde_json::to_writer(&mut *out, value)?;
    writeln!(out)
}

/// The object of a command that could not do anything.
pub fn error_json(out: &mut impl Write, error: &str) -> io::Result<()> {
    json(out, &serde_json::json!({"schema": SCHEMA, "error": error}))
}
