//! The page of `check-gates`, `disk`, `runs` and `converge`.

use std::io::{self, Write};

use serde::Serialize;

use super::reason::GateReason;
use super::table::paint;
use super::{SCHEMA, json};
use crate::gates::GateState;
use crate::units::clean;

/// One line for each gate: name, state, reason; further reasons below it. Gates that are unknown for the same
/// reason share a line.
pub fn text(out: &mut impl Write, gates: &[GateReason], advice: &[String]) -> io::Result<()> {
    let mut lines: Vec<(Vec<&str>, &GateReason)> = Vec::new();
    for gate in gates {
        match lines.last_mut() {
            Some((names, last)) if last.state == GateState::Unknown && last.lines == gate.lines => {
                names.push(gate.gate);
            }
            _ => lines.push((vec![gate.gate], gate)),
        }
    }
    let width = lines.iter().map(|(names, _)| names.join(", ").len()).max().unwrap_or(0);
    for (names, GateReason { state, lines, .. }) in lines {
        let pad = 7 - state.name().len();
        let first = lines.first().map(|line| clean(line)).unwrap_or_default();
        writeln!(out, "{:width$}  {}{:pad$}  {first}", names.join(", "), paint(state.name()), "")?;
        for line in lines.iter().skip(1) {
            writeln!(out, "{:width$}  {:7}  {}", "", "", clean(line))?;
        }
    }
    advice.iter().try_for_each(|advice| writeln!(out, "{}", clean(advice)))
}

/// What is live and no run, for those who wonder why the gate does not see theirs.
pub fn no_runs(out: &mut impl Write, names: &[String]) -> io::Result<()> {
    names.iter().try_for_each(|name| writeln!(out, "live and no run: {}", clean(name)))
}

/// `advice`: what to do about gates that have been closed for long.
pub fn json_of(out: &mut impl Write, gates: &[GateReason], advice: Vec<String>) -> io::Result<()> {
    #[derive(Serialize)]
    struct GatesJson<'a> {
        schema: u32,
        open: bool,
        gates: &'a [GateReason],
        #[serde(skip_serializing_if = "Vec::is_empty")]
        advice: Vec<String>,
    }
    let open = gates.iter().all(|gate| gate.state == GateState::Open);
    json(out, &GatesJson { schema: SCHEMA, open, gates, advice })
}
