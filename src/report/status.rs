//! The pages of `status` and of `inhibit --list`.

use std::io::{self, Write};
use std::time::Duration;

use serde::Serialize;
use serde_json::{Value, json as figures};

use super::prune::{PressureJson, pressure_text};
use super::reason::{self, GateReason, inhibited};
use super::table::{amount, table};
use super::{SCHEMA, advice, json, log};
use crate::facts::{Answer, Inhibitor};
use crate::gates::{GateState, Gates};
use crate::history::PastPrune;
use crate::ledger::{Busy, MAX_RECORD_AGE, USAGE_RETENTION};
use crate::prune::report::OngoingPressure;
use crate::units::{Percent, Time, age, clean, elapsed};

pub const TIMER: &str = "ci-docker-prune.timer";
pub const RECORD_TIMER: &str = "ci-docker-prune-record.timer";

#[derive(Debug)]
pub struct StatusReport {
    /// By the wall clock.
    pub now: Time,
    pub gates: Gates,
    pub limits: Limits,
    pub pressure: Option<OngoingPressure>,
    /// Since when manual intervention has been required, by the wall clock.
    pub intervention: Option<Time>,
    /// The prunes of the last 90 days, oldest first.
    pub history: Vec<PastPrune>,
    pub last_success: Option<Time>,
    /// When the timers elapse next, as systemd writes it; absent where they are not active.
    pub next_record: Option<String>,
    pub next_run: Option<String>,
    pub inhibitors: Answer<Vec<Inhibitor>>,
    /// The prunes that are due: they wait, or are under way.
    pub due: Answer<Vec<Inhibitor>>,
    pub busy: Busy,
    /// Hours of the last 14 days that the disk was measured in, by how long ago they began.
    pub usage: Vec<(Duration, Percent)>,
    /// Of the output, in columns.
    pub width: usize,
    pub is_utf8: bool,
    pub images: usize,
    pub recorded: Option<Time>,
}

#[derive(Debug, Clone, Copy)]
pub struct Limits {
    pub target: Percent,
    pub threshold: Percent,
    pub critical: Percent,
    /// From here on images go that were used within `--older-than`: not after critical.
    pub young_from: Percent,
    /// By how many percentage points runs filled the disk at most.
    pub growth: u8,
    pub prune_at: Option<Percent>,
}

impl StatusReport {
    fn last_prune(&self) -> Option<&PastPrune> {
        self.history.last()
    }

    fn last_removal(&self) -> Option<&PastPrune> {
        self.history.iter().rev().find(|past| !past.removed.is_empty())
    }
}

pub fn text(out: &mut impl Write, report: &StatusReport) -> io::Result<()> {
    let ago = |at| age(elapsed(report.now, at));
    let past = |past: Option<&PastPrune>| match past {
        None => "none on record".to_owned(),
        Some(past) => format!("{} ago: {}", ago(past.at), log::line(past, false)),
    };
    let mut line = |name: &str, line: &str| writeln!(out, "{name:12}  {}", clean(line));
    line("disk", &reason::disk(&report.gates.disk).reason.message)?;
    line("limits", &limits(&report.limits))?;
    line("pressure", &pressure(report))?;
    if let Some(since) = report.intervention {
        let since = format!("manual intervention required since {} ({} ago)", log::moment(since), ago(since));
        line("", &since)?;
    }
    line("last prune", &past(report.last_prune()))?;
    if report.last_removal() != report.last_prune() {
        line("last removal", &past(report.last_removal()))?;
    }
    let blocking = reason::gates(&report.gates).into_iter().skip(1);
    for gate in blocking.filter(|gate| gate.state != GateState::Open) {
        let word = if gate.state == GateState::Closed { "blocked by" } else { "unknown" };
        for (n, reason) in gate.lines.iter().enumerate() {
            line(if n == 0 { word } else { "" }, &format!("{}: {reason}", gate.gate))?;
        }
    }
    for advice in [advice::on_gates(&report.gates), advice::let_go(&report.gates)].concat() {
        line("", &advice)?;
    }
    for (n, next) in next(report).iter().enumerate() {
        line(if n == 0 { "next" } else { "" }, next)?;
    }
    line("runs", &advice::busy(report.busy))?;
    line("inhibitors", &inhibitors_line(report))?;
    line("ledger", &recorded(report))?;
    usage_lines(report)
        .iter()
        .enumerate()
        .try_for_each(|(n, usage)| writeln!(out, "{:12}  {usage}", if n == 0 { "14 days" } else { "" }))
}

fn limits(limits: &Limits) -> String {
    let Limits { target, threshold, critical, young_from, growth, prune_at } = limits;
    let prune_at = match prune_at {
        Some(at) => format!("; record prunes from {} on", at.min(young_from)),
        None => "; record prunes at no percentage (prune-at)".into(),
    };
    let young = if young_from < critical {
        format!(", and from {young_from} on younger images go (runs added up to {growth} points)")
    } else {
        String::new()
    };
    format!("pressure from {threshold} on, down to {target}; critical from {critical} on{young}{prune_at}")
}

fn pressure(report: &StatusReport) -> String {
    match (&report.pressure, report.gates.disk.state()) {
        (None, GateState::Open) => "the disk is under pressure, and no prune has run since".to_owned(),
        (None, GateState::Closed | GateState::Unknown) => "none".to_owned(),
        (Some(pressure), _) => {
            let owed = pressure.owed.map(|owed| format!("; a prune is owed for {}", age(owed)));
            let since = pressure_text(pressure, Some(&report.gates)).unwrap_or_else(|| "just begun".into());
            format!("{since}{}", owed.unwrap_or_default())
        }
    }
}

/// The next tries, soonest first.
fn next(report: &StatusReport) -> Vec<String> {
    let mut next = Vec::new();
    match &report.due {
        Err(why) => next.push(why.0.clone()),
        Ok(due) if due.is_empty() => {}
        Ok(due) => {
            let since = due.iter().filter_map(|prune| prune.since).min();
            let since = since.map(|since| format!(", for {}", age(elapsed(report.now, since))));
            let waits = blocked_by(&report.gates);
            next.push(format!("a prune that is due{}: {waits}", since.unwrap_or_default()));
        }
    }
    for (what, timer, at) in [
        ("record, and a prune that is urgent or owed", RECORD_TIMER, &report.next_record),
        ("the daily prune", TIMER, &report.next_run),
    ] {
        next.push(match at {
            Some(at) => format!("{what}: {at}"),
            None => format!("{what}: unknown, {timer} is not active"),
        });
    }
    next
}

fn inhibitors_line(report: &StatusReport) -> String {
    match &report.inhibitors {
        Err(why) => why.0.clone(),
        Ok(active) if active.is_empty() => "none".into(),
        Ok(active) => {
            let one = |active: &Inhibitor| {
                let since = active.since.map(|since| elapsed(report.now, since));
                inhibited(active.pid, active.why.as_deref(), active.user.as_deref(), since)
            };
            active.iter().map(one).collect::<Vec<_>>().join(", ")
        }
    }
}

fn recorded(report: &StatusReport) -> String {
    let Some(at) = report.recorded else { return "no usage recorded so far".into() };
    let since = elapsed(report.now, at);
    let hint =
        if since >= MAX_RECORD_AGE { "; it is out of date: see ci-docker-prune-record.timer" } else { "" };
    format!("{}, recorded {} ago{hint}", amount(report.images, "image"), age(since))
}

/// The usage over 14 days as a line of blocks, and below it what happened: `^` a prune removed something, `!` the disk was
/// critical, `+` it was under pressure.
fn usage_lines(report: &StatusReport) -> Vec<String> {
    if report.usage.is_empty() {
        return vec!["no usage recorded so far".into()];
    }
    // Beside the names of the lines.
    let width = report.width.saturating_sub(14).clamp(14, 14 * 24);
    let blocks: Vec<char> = if report.is_utf8 {
        "▁▂▃▄▅▆▇█".chars().collect()
    } else {
        "12345678".chars().collect()
    };
    let column = |ago: Duration| {
        let hours = usize::try_from(ago.as_secs() / 3_600).unwrap_or(usize::MAX);
        let hours = hours.min(14 * 24 - 1);
        width - 1 - hours * width / (14 * 24)
    };
    let mut highest = vec![None; width];
    for (ago, percent) in &report.usage {
        let cell: &mut Option<Percent> = &mut highest[column(*ago)];
        *cell = (*cell).max(Some(*percent));
    }
    let block = |percent: &Option<Percent>| {
        percent.map_or(' ', |percent| blocks[usize::from(percent.get()) * (blocks.len() - 1) / 100])
    };
    let mut marks: Vec<char> = highest
        .iter()
        .map(|percent| match percent {
            Some(percent) if *percent >= report.limits.critical => '!',
            Some(percent) if *percent >= report.limits.threshold => '+',
            _ => ' ',
        })
        .collect();
    for past in report.history.iter().filter(|past| !past.removed.is_empty()) {
        let ago = elapsed(report.now, past.at);
        if ago < USAGE_RETENTION {
            marks[column(ago)] = '^';
        }
    }
    let peak = report.usage.iter().map(|(_, percent)| *percent).max().unwrap_or(Percent::FULL);
    vec![
        highest.iter().map(block).collect::<String>().trim_end().to_owned(),
        marks.into_iter().collect::<String>().trim_end().to_owned(),
        format!("peak {peak}; ^ a prune removed something, + under pressure, ! critical"),
    ]
}

pub fn json_of(out: &mut impl Write, report: &StatusReport) -> io::Result<()> {
    #[derive(Serialize)]
    struct StatusJson<'a> {
        schema: u32,
        gates: [GateReason; 3],
        limits: Value,
        pressure: Option<PressureJson>,
        intervention_since: Option<Time>,
        last_prune: Option<&'a PastPrune>,
        last_removal: Option<&'a PastPrune>,
        last_success: Option<Time>,
        next_record: Option<&'a str>,
        next_run: Option<&'a str>,
        prune_due: Option<bool>,
        advice: Vec<String>,
        let_go: Vec<String>,
        runs: Value,
        inhibitors: Option<Vec<Value>>,
        ledger: Value,
        usage: Vec<Value>,
    }
    let inhibitors = report.inhibitors.as_ref().ok();
    let Limits { target, threshold, critical, young_from, prune_at, .. } = report.limits;
    let usage = report.usage.iter().map(|(ago, percent)| {
        let at = report.now.saturating_sub(*ago).unwrap_or(report.now);
        figures!({"at": at, "used_percent": percent})
    });
    let status = StatusJson {
        schema: SCHEMA,
        gates: reason::gates(&report.gates),
        limits: figures!({
            "target_percent": target, "threshold_percent": threshold, "critical_percent": critical,
            "young_from_percent": young_from,
            "prune_at_percent": prune_at,
        }),
        pressure: report.pressure.as_ref().map(Into::into),
        intervention_since: report.intervention,
        last_prune: report.last_prune(),
        last_removal: report.last_removal(),
        last_success: report.last_success,
        next_record: report.next_record.as_deref(),
        next_run: report.next_run.as_deref(),
        prune_due: report.due.as_ref().ok().map(|due| !due.is_empty()),
        advice: advice::on_gates(&report.gates),
        let_go: advice::let_go(&report.gates),
        runs: figures!({
            "seen_seconds": report.busy.seen.as_secs(), "busy_seconds": report.busy.busy.as_secs(),
            "never_idle": report.busy.is_never_idle(),
        }),
        inhibitors: inhibitors.map(|active| active.iter().map(inhibitor).collect()),
        ledger: figures!({"images": report.images, "recorded": report.recorded}),
        usage: usage.collect(),
    };
    json(out, &status)
}

/// The gates that a prune waits for, in words.
fn blocked_by(gates: &Gates) -> String {
    let closed = reason::gates(gates).into_iter().filter(|gate| gate.state != GateState::Open);
    let names: Vec<&str> = closed.map(|gate| gate.gate).collect();
    if names.is_empty() { "it is under way".into() } else { format!("it waits for {}", names.join(", ")) }
}

fn inhibitor(inhibitor: &Inhibitor) -> Value {
    figures!({"pid": inhibitor.pid, "since": inhibitor.since, "why": inhibitor.why, "user": inhibitor.user})
}

pub fn inhibitors_text(out: &mut impl Write, active: &[Inhibitor], now: Time) -> io::Result<()> {
    if active.is_empty() {
        return writeln!(out, "no inhibitor is active");
    }
    let row = |inhibitor: &Inhibitor| {
        let since = inhibitor.since.map_or_else(|| "-".into(), |since| age(elapsed(now, since)));
        let pid = inhibitor.pid.map_or_else(|| "-".into(), |pid| pid.to_string());
        let user = inhibitor.user.clone().unwrap_or_else(|| "-".into());
        [pid, user, since, inhibitor.why.clone().unwrap_or_default()]
    };
    table(out, ["PID", "USER", "AGE", "WHY"], active.iter().map(row))
}

pub fn inhibitors_json(out: &mut impl Write, active: &[Inhibitor]) -> io::Result<()> {
    let active: Vec<_> = active.iter().map(inhibitor).collect();
    json(out, &figures!({"schema": SCHEMA, "inhibitors": active}))
}
