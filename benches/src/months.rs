//! `bench months`: play a CI host's months under several policies, and write a table.
//!
//! Arguments: the file to write, then any number of `TRACE DISK-GB` pairs; without any, made traces of 60 days.

use std::fmt::Write;
use std::fs;

use anyhow::{Context, Result};
use sim::months::{Policy, Tally, play};
use sim::trace::{Trace, made};

const GB: u64 = 1_000_000_000;

pub fn write(arguments: &[String]) -> Result<()> {
    let [output, rest @ ..] = arguments else { anyhow::bail!("usage: bench months FILE [TRACE DISK-GB]...") };
    let mut table = String::from(
        "| disk, load | policy | runs | failed | pulled | pulled again | ratio to the bound | pulls | peak | waited (longest) |\n\
         |---|---|---|---|---|---|---|---|---|---|\n",
    );
    if rest.is_empty() {
        for (disk, commits) in [(100, 12), (60, 12), (40, 12), (30, 12), (40, 30), (30, 30), (20, 12)] {
            let trace = made(60, commits, 1);
            rows(&mut table, &format!("{disk} GB, {commits} commits a weekday"), &trace, disk)?;
        }
    }
    for pair in rest.chunks(2) {
        let [file, disk] = pair else { anyhow::bail!("{}: name its disk's size in GB after it", pair[0]) };
        let text = fs::read_to_string(file).with_context(|| format!("read {file}"))?;
        let trace = Trace::read(&text).with_context(|| file.clone())?;
        rows(&mut table, &format!("{disk} GB, {file}"), &trace, disk.parse().context("a size in GB")?)?;
    }
    fs::write(output, table).with_context(|| format!("write {output}"))
}

fn rows(table: &mut String, what: &str, trace: &Trace, disk: u64) -> Result<()> {
    let tallies: Vec<(Policy, Tally)> =
        Policy::ALL.into_iter().map(|policy| (policy, play(trace, disk * GB, policy))).collect();
    let bound = tallies.last().map_or(1, |(_, tally)| tally.pulled.max(1));
    for (policy, tally) in tallies {
        let gb = |bytes: u64| bytes as f64 / GB as f64;
        writeln!(
            table,
            "| {what} | {} | {} | **{}** | {:.1} GB | {:.1} GB | {:.2} × | {} | {} % | {} min ({}) |",
            policy.name(),
            tally.runs,
            tally.failed,
            gb(tally.pulled),
            gb(tally.pulled_again),
            tally.pulled as f64 / bound as f64,
            tally.pulls,
            tally.peak,
            tally.waited / 60_000,
            tally.longest_wait / 60_000
        )?;
    }
    Ok(())
}
