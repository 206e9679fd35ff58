//! The page of `log`: past prunes, and what each removed.

use std::io::{self, Write};

use serde_json::json as figures;

use super::reason::{self, Reason};
use super::table::{amount, table};
use super::{SCHEMA, json};
use crate::facts::{Kind, Usage};
use crate::gates::GateState;
use crate::history::{Gone, PastGate, PastPrune, Why};
use crate::plan::Removal;
use crate::prune::report::Attempt;
use crate::units::{Percent, Time, clean, size};

/// What is kept of a prune.
pub fn past(attempt: &Attempt, started_by: &str, at: Time) -> PastPrune {
    let report = &attempt.report;
    let gates = report.gates().map(reason::gates).into_iter().flatten();
    let gates = gates.filter(|gate| gate.state != GateState::Open).map(|gate| PastGate {
        gate: gate.gate.into(),
        state: gate.state.name().into(),
        message: gate.reason.message,
    });
    let percent = |usages: &[Usage]| usages.first().map(|usage| usage.percent);
    let outcome = report.outcome();
    let failed = outcome.and_then(|outcome| outcome.failed.first());
    let stopped = outcome.and_then(|outcome| outcome.stopped.as_ref());
    let why = report.failure().map(str::to_owned);
    let why = why.or_else(|| failed.map(|(_, error)| error.to_string()));
    let why = why.or_else(|| stopped.map(|stop| reason::stop(stop).message));
    PastPrune {
        at,
        started_by: started_by.into(),
        outcome: attempt.outcome().into(),
        gates: gates.collect(),
        why: why.or_else(|| attempt.ledger_error.clone()),
        used_percent_before: percent(report.before()),
        used_percent_after: percent(report.after()),
        reclaimed_bytes: report.reclaimed(),
        removed: outcome.iter().flat_map(|outcome| &outcome.removed).map(gone).collect(),
    }
}

fn gone(removal: &Removal) -> Gone {
    let object = &removal.object;
    let Reason { code, message, .. } = reason::removal(&removal.reason);
    Gone {
        kind: object.kind.class().map_or(object.kind.name(), |_| "image").into(),
        class: object.kind.class().map(|class| class.name().into()),
        id: object.id.clone(),
        names: object.names.clone(),
        size_bytes: object.size,
        reason: Why { code: code.into(), message },
    }
}

/// The latest first. `query`: only what has this ID, or a name that contains it.
pub fn text(out: &mut impl Write, history: &[PastPrune], query: Option<&str>) -> io::Result<()> {
    if history.is_empty() {
        return match query {
            None => writeln!(out, "no prune is on record"),
            Some(query) => writeln!(out, "no prune on record removed {}", clean(query)),
        };
    }
    for past in history.iter().rev() {
        writeln!(out, "{}", clean(&line(past, true)))?;
        let rows = past.removed.iter().map(|gone| {
            let kind = gone.class.as_ref().unwrap_or(&gone.kind).clone();
            let bytes = if kind == Kind::Container.name() { "-".into() } else { size(gone.size_bytes) };
            // In full on any terminal: `docker pull` takes it.
            let name = gone.names.first().unwrap_or(&gone.id).clone();
            [format!("  {kind}"), bytes, name, gone.reason.message.clone()]
        });
        if !past.removed.is_empty() {
            table(out, ["  KIND", "SIZE", "OBJECT", "REASON"], rows)?;
        }
    }
    Ok(())
}

/// `2026-11-20 02:10:04Z  pruned, 91% to 74%, reclaimed 3.1 GB, 4 objects; ci-docker-prune.timer`. `why`: also why the gates
/// were closed that blocked it.
pub fn line(past: &PastPrune, why: bool) -> String {
    let mut parts = vec![past.outcome.clone()];
    if !past.gates.is_empty() {
        let gates = past.gates.iter().map(|gate| match why {
            true => format!("{} ({})", gate.gate, gate.message),
            false => gate.gate.clone(),
        });
        parts[0] += &format!(" by {}", gates.collect::<Vec<_>>().join(", "));
    }
    let shown = |percent: Option<Percent>| percent.map(|percent| percent.to_string());
    match (shown(past.used_percent_before), shown(past.used_percent_after)) {
        (Some(before), Some(after)) if before != after => parts.push(format!("{before} to {after}")),
        (Some(before), _) => parts.push(format!("at {before}")),
        (None, _) => {}
    }
    if !past.removed.is_empty() {
        parts.push(format!("reclaimed {}", size(past.reclaimed_bytes)));
        parts.push(amount(past.removed.len(), "object"));
    }
    parts.extend(past.why.clone());
    format!("{}  {}; {}", moment(past.at), parts.join(", "), past.started_by)
}

/// `2026-11-20 02:10:04Z`.
pub fn moment(at: Time) -> String {
    at.round(jiff::Unit::Second).unwrap_or(at).to_string().replace('T', " ")
}

pub fn json_of(out: &mut impl Write, history: &[PastPrune]) -> io::Result<()> {
    json(out, &figures!({"schema": SCHEMA, "prunes": history}))
}
