//! `disk`, `runs`, `converge` and `check-gates`.

use anyhow::Result;

use super::{now, print};
use crate::cli::Output;
use crate::engine::read::Containers;
use crate::exit::Exit;
use crate::facts::{Answer, Unanswered};
use crate::gates::{self, Gate, Verdict, Word};
use crate::observe::{self, Questions};
use crate::report::{json, text};
use crate::settings;
use crate::world::World;
use crate::world::real::ThisHost;

pub async fn disk(world: &ThisHost<'_>, disk: settings::Disk, output: Output) -> Result<Exit> {
    let gates = match world.connect().await {
        Err(why) => unanswered(&[disk_unanswered], &why),
        Ok(engine) => {
            let survey = observe::survey(&engine, Questions::DISK).await;
            vec![survey.disk(world, &engine, &disk)]
        }
    };
    report(&gates, output)
}

pub async fn runs(world: &ThisHost<'_>, runs: &settings::Runs, output: Output) -> Result<Exit> {
    let gates = match world.connect().await {
        Err(why) => unanswered(&[runs_unanswered], &why),
        Ok(engine) => {
            let survey = observe::survey(&engine, Questions::RUNS).await;
            vec![survey.runs(world, runs, now())]
        }
    };
    report(&gates, output)
}

pub async fn converge(world: &ThisHost<'_>, output: Output) -> Result<Exit> {
    let gates = match world.connect().await {
        Err(why) => unanswered(&[converge_unanswered], &why),
        Ok(engine) => vec![observe::survey(&engine, Questions::CONVERGE).await.converge(now())],
    };
    report(&gates, output)
}

pub async fn check_gates(
    world: &ThisHost<'_>,
    disk: settings::Disk,
    runs: &settings::Runs,
    output: Output,
) -> Result<Exit> {
    let engine = match world.connect().await {
        Err(why) => return report(&all_unanswered(&why), output),
        Ok(engine) => engine,
    };
    // The containers that have ended protect their images by being there, and the events since the
    // last note tell of those that are gone: the live ones are enough here, and cheap.
    let questions = Questions { containers: Some(Containers::Live), ..Questions::EVERYTHING };
    let survey = observe::survey(&engine, questions).await;
    let now = now();
    let disk = survey.disk(world, &engine, &disk);
    let gates = [disk, survey.runs(world, runs, now), survey.converge(now)];
    if let Err(error) = observe::record_usage(world, &engine, &survey, now, |_| ()).await {
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
