//! The page of `verify`: a line for each check.

use std::io::{self, Write};

use serde_json::json as figures;

use super::reason::Reason;
use super::table::paint;
use super::{SCHEMA, json};
use crate::units::clean;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CheckStatus {
    Ok,
    Warning,
    Failed,
    Skipped,
}

impl CheckStatus {
    fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Failed => "failed",
            Self::Skipped => "skipped",
        }
    }
}

#[derive(Debug)]
pub struct Check {
    pub name: &'static str,
    pub status: CheckStatus,
    pub reason: Reason,
    pub registry: Option<String>,
    /// Lines for a change request, which are never wrapped.
    pub lines: Vec<String>,
}

pub fn text(out: &mut impl Write, checks: &[Check]) -> io::Result<()> {
    for Check { name, status, reason, .. } in checks {
        let pad = 8 - status.name().len();
        writeln!(out, "{name:9}  {}{:pad$} {}", paint(status.name()), "", clean(&reason.message))?;
    }
    for check in checks {
        for (n, line) in check.lines.iter().enumerate() {
            writeln!(out, "{}{}", if n == 0 { "\n" } else { "" }, clean(line))?;
        }
    }
    Ok(())
}

pub fn json_of(out: &mut impl Write, checks: &[Check]) -> io::Result<()> {
    let check = |check: &Check| {
        let mut json = figures!({"check": check.name, "status": check.status.name(), "reason": check.reason});
        if let Some(registry) = &check.registry {
            json["registry"] = registry.clone().into();
        }
        json
    };
    let ok = checks.iter().all(|check| check.status != CheckStatus::Failed);
    let checks: Vec<_> = checks.iter().map(check).collect();
    json(out, &figures!({"schema": SCHEMA, "ok": ok, "checks": checks}))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_check_that_failed_is_what_makes_verify_not_ok() {
        let of = |statuses: &[CheckStatus]| {
            let check = |status: &CheckStatus| Check {
                name: "disk",
                status: *status,
                reason: Reason::new("a", "b", serde_json::Value::Null),
                registry: None,
                lines: vec![],
            };
            let mut text = Vec::new();
            json_of(&mut text, &statuses.iter().map(check).collect::<Vec<_>>()).unwrap();
            serde_json::from_slice::<serde_json::Value>(&text).unwrap()
        };
        use CheckStatus::{Failed, Ok, Skipped, Warning};
        assert_eq!(of(&[Ok, Warning, Skipped])["ok"], true);
        assert_eq!(of(&[Ok, Failed, Warning])["ok"], false);
        assert_eq!(of(&[Warning])["checks"][0]["status"], "warning");
    }
}
