//! `disk`, `runs`, `converge` and `check-gates`.

use std::path::Path;

use anyhow::Result;

use super::survey::{self, Engines, Questions};
use super::{ledger, now, print};
use crate::cli::Output;
use crate::engine::read::Containers;
use crate::exit::Exit;
use crate::facts::{Answer, Unanswered};
use crate::gates::{self, Gate, Verdict, Word};
use crate::report::{json, text};
use crate::settings;

pub async fn disk(engine: settings::Engine, disk: settings::Disk, output: Output) -> Result<Exit> {
    let gates = match Engines::connect(&engine).await {
        Err(why) => unanswered(&[disk_unanswered], &why),
        Ok(engines) => vec![survey::take(&engines, Questions::DISK).await.disk(&engines, &disk)],
    };
    report(&gates, output)
}

pub async fn runs(engine: settings::Engine, runs: &settings::Runs, output: Output) -> Result<Exit> {
    let gates = match Engines::connect(&engine).await {
        Err(why) => unanswered(&[runs_unanswered], &why),
        Ok(engines) => vec![survey::take(&engines, Questions::RUNS).await.runs(runs, now())],
    };
    report(&gates, output)
}

pub async fn converge(engine: settings::Engine, output: Output) -> Result<Exit> {
    let gates = match Engines::connect(&engine).await {
        Err(why) => unanswered(&[converge_unanswered], &why),
        Ok(engines) => vec![survey::take(&engines, Questions::CONVERGE).await.converge(now())],
    };
    report(&gates, output)
}

pub async fn check_gates(
    engine: settings::Engine,
    disk: settings::Disk,
    runs: &settings::Runs,
    state_dir: &Path,
    output: Output,
) -> Result<Exit> {
    let engines = match Engines::connect(&engine).await {
        Err(why) => return report(&all_unanswered(&why), output),
        Ok(engines) => engines,
    };
    // The containers that have ended protect their images by being there, and the events since the
    // last note tell of those that are gone: the live ones are enough here, and cheap.
    let questions = Questions { containers: Some(Containers::Live), ..Questions::EVERYTHING };
    let survey = survey::take(&engines, questions).await;
    let now = now();
    let gates = [survey.disk(&engines, &disk), survey.runs(runs, now), survey.converge(now)];
    if let Err(error) = ledger::note_containers(&engines.local, &survey, state_dir, now, |_| ()).await {
        // A user of the docker group may ask the gates without owning the ledger.
        log::info!("the ledger was not updated: {error:#}");
    }
    report(&gates, output)
}

/// Every gate, where not even the engine could be reached.
pub fn all_unanswered(why: &Unanswered) -> Vec<Gate> {
    unanswered(&[disk_unanswered, runs_unanswered, converge_unanswered], why)
}

fn unanswered(gates: &[fn(Unanswered) -> Gate], why: &Unanswered) -> Vec<Gate> {
    gates.iter().map(|gate| gate(why.clone())).collect()
}

pub fn disk_unanswered(why: Unanswered) -> Gate {
    Gate::Disk(Verdict::Unknown(gates::disk::Unknown::Unanswered(why)))
}

fn runs_unanswered(why: Unanswered) -> Gate {
    Gate::Runs(Verdict::Unknown(why))
}

fn converge_unanswered(why: Unanswered) -> Gate {
    Gate::Converge(Verdict::Unknown(gates::converge::Unknown::Unanswered(why)))
}

fn report(gates: &[Gate], output: Output) -> Result<Exit> {
    print(|mut out| match output {
        Output::Text => text::gates(&mut out, gates),
        Output::Json => json::gates(&mut out, gates),
    })?;
    Ok(match gates::together(gates) {
        Word::Open => Exit::Done,
        Word::Closed => Exit::Closed,
        Word::Unknown => Exit::Unanswered,
    })
}

/// The usages that a disk gate measured.
pub fn usages(answer: Answer<Vec<crate::facts::Filesystem>>) -> Answer<Vec<gates::disk::Usage>> {
    gates::disk::measure(&gates::disk::Facts { filesystems: answer }).map_err(|unknown| match unknown {
        gates::disk::Unknown::Unanswered(why) => why,
        gates::disk::Unknown::NoBlocks(it) => {
            Unanswered(format!("{} says that it has no blocks", it.mount_point.display()))
        }
    })
}
