//! The pages of `status` and of `inhibit --list`.

use std::io::{self, Write};

use serde::Serialize;
use serde_json::{Value, json as figures};

use super::prune::{PressureJson, pressure_text};
use super::reason::{self, GateReason, inhibited};
use super::table::{amount, table};
use super::{SCHEMA, advice, json};
use crate::facts::{Answer, Inhibitor};
use crate::gates::{GateState, Gates};
use crate::ledger::{Busy, MAX_RECORD_AGE};
use crate::prune::report::OngoingPressure;
use crate::units::{Time, age, clean, elapsed};

#[derive(Debug)]
pub struct StatusReport {
    /// By the wall clock.
    pub now: Time,
    pub gates: Gates,
    pub pressure: Option<OngoingPressure>,
    pub last_run: Option<Time>,
    pub last_success: Option<Time>,
    /// When the timer elapses next, as systemd writes it; absent where it is not active.
    pub next_run: Option<String>,
    pub inhibitors: Answer<Vec<Inhibitor>>,
    /// The prunes that are due: they wait, or are under way.
    pub due: Answer<Vec<Inhibitor>>,
    pub busy: Busy,
    pub images: usize,
    pub recorded: Option<Time>,
}

pub fn text(out: &mut impl Write, report: &StatusReport) -> io::Result<()> {
    let ago = |at| age(elapsed(report.now, at));
    let at = |time: Option<Time>| match time {
        None => "never".to_owned(),
        Some(at) => format!("{} ({} ago)", at.round(jiff::Unit::Second).unwrap_or(at), ago(at)),
    };
    let pressure = match (&report.pressure, report.gates.disk.state()) {
        (None, GateState::Open) => "the disk is under pressure, and no prune has run since".to_owned(),
        (None, GateState::Closed | GateState::Unknown) => "none".to_owned(),
        (Some(pressure), _) => {
            let owed = pressure.owed.map(|owed| format!("; a prune is owed for {}", age(owed)));
            let since = pressure_text(pressure, Some(&report.gates)).unwrap_or_else(|| "just begun".into());
            format!("{since}{}", owed.unwrap_or_default())
        }
    };
    let inhibitors = match &report.inhibitors {
        Err(why) => why.0.clone(),
        Ok(active) if active.is_empty() => "none".into(),
        Ok(active) => {
            let one = |active: &Inhibitor| {
                let since = active.since.map(|since| elapsed(report.now, since));
                inhibited(active.pid, active.why.as_deref(), since)
            };
            active.iter().map(one).collect::<Vec<_>>().join(", ")
        }
    };
    let waiting = match &report.due {
        Err(why) => why.0.clone(),
        Ok(due) if due.is_empty() => "no prune".into(),
        Ok(due) => {
            let since = due.iter().filter_map(|prune| prune.since).min();
            let since = since.map(|since| format!(", for {}", ago(since))).unwrap_or_default();
            format!("a prune that is due{since}: {}", blocked_by(&report.gates))
        }
    };
    let next =
        report.next_run.clone().unwrap_or_else(|| "unknown: ci-docker-prune.timer is not active".into());
    let recorded = match report.recorded {
        None => "no usage recorded so far".to_owned(),
        Some(time) => {
            let late = elapsed(report.now, time) >= MAX_RECORD_AGE;
            let hint = if late { "; it is out of date: see ci-docker-prune-record.timer" } else { "" };
            format!("{}, recorded {}{hint}", amount(report.images, "image"), at(Some(time)))
        }
    };
    for (name, line) in [
        ("disk", reason::disk(&report.gates.disk).reason.message),
        ("pressure", pressure),
        ("last run", at(report.last_run)),
        ("last success", at(report.last_success)),
        ("next run", next),
        ("waiting", waiting),
        ("runs", advice::busy(report.busy)),
        ("inhibitors", inhibitors),
        ("ledger", recorded),
    ] {
        writeln!(out, "{name:12}  {}", clean(&line))?;
    }
    let let_go = advice::let_go(&report.gates);
    let_go.iter().try_for_each(|line| writeln!(out, "{:12}  {}", "", clean(line)))
}

pub fn json_of(out: &mut impl Write, report: &StatusReport) -> io::Result<()> {
    #[derive(Serialize)]
    struct StatusJson {
        schema: u32,
        disk: GateReason,
        pressure: Option<PressureJson>,
        last_run: Option<Time>,
        last_success: Option<Time>,
        next_run: Option<String>,
        prune_due: Option<bool>,
        runs: Value,
        let_go: Vec<String>,
        inhibitors: Option<Vec<Value>>,
        ledger: Value,
    }
    let inhibitors = report.inhibitors.as_ref().ok();
    let status = StatusJson {
        schema: SCHEMA,
        disk: reason::disk(&report.gates.disk),
        pressure: report.pressure.as_ref().map(Into::into),
        last_run: report.last_run,
        last_success: report.last_success,
        next_run: report.next_run.clone(),
        prune_due: report.due.as_ref().ok().map(|due| !due.is_empty()),
        runs: figures!({
            "seen_seconds": report.busy.seen.as_secs(), "busy_seconds": report.busy.busy.as_secs(),
            "never_idle": report.busy.is_never_idle(),
        }),
        let_go: advice::let_go(&report.gates),
        inhibitors: inhibitors.map(|active| active.iter().map(inhibitor).collect()),
        ledger: figures!({"images": report.images, "recorded": report.recorded}),
    };
    json(out, &status)
}

/// The gates that a prune waits for, in words.
fn blocked_by(gates: &Gates) -> String {
    let closed = reason::gates(gates).into_iter().filter(|gate| gate.state != GateState::Open);
    let lines: Vec<String> = closed.map(|gate| gate.reason.message).collect();
    if lines.is_empty() { "it is under way".into() } else { lines.join("; ") }
}

fn inhibitor(inhibitor: &Inhibitor) -> Value {
    figures!({"pid": inhibitor.pid, "since": inhibitor.since, "why": inhibitor.why})
}

pub fn inhibitors_text(out: &mut impl Write, active: &[Inhibitor], now: Time) -> io::Result<()> {
    if active.is_empty() {
        return writeln!(out, "no inhibitor is active");
    }
    let row = |inhibitor: &Inhibitor| {
        let since = inhibitor.since.map_or_else(|| "-".into(), |since| age(elapsed(now, since)));
        let pid = inhibitor.pid.map_or_else(|| "-".into(), |pid| pid.to_string());
        [pid, since, inhibitor.why.clone().unwrap_or_default()]
    };
    table(out, ["PID", "AGE", "WHY"], active.iter().map(row))
}

pub fn inhibitors_json(out: &mut impl Write, active: &[Inhibitor]) -> io::Result<()> {
    let active: Vec<_> = active.iter().map(inhibitor).collect();
    json(out, &figures!({"schema": SCHEMA, "inhibitors": active}))
}
