//! `disk`, `runs`, `converge` and `check-gates`.

use anyhow::Result;

use super::{now, print};
use crate::cli::{GateName, Output};
use crate::engine::read::Containers;
use crate::exit::Exit;
use crate::facts::{Answer, Unavailable};
use crate::gates::{self, Gate, GateState, Verdict};
use crate::observe::{self, Questions};
use crate::report::{json, text};
use crate::settings;
use crate::world::World;
use crate::world::real::ThisHost;

/// Evaluate `disk` alone.
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

/// Evaluate `runs` alone.
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

/// Evaluate `converge` alone.
pub async fn converge(world: &ThisHost<'_>, output: Output) -> Result<Exit> {
    let gates = match world.connect().await {
        Err(why) => unanswered(&[converge_unanswered], &why),
        Ok(engine) => vec![observe::survey(&engine, Questions::CONVERGE).await.converge(now())],
    };
    report(&gates, output)
}

/// The gates that are named, or all.
pub async fn check_gates(
    world: &ThisHost<'_>,
    names: &[GateName],
    disk: settings::Disk,
    runs: &settings::Runs,
    output: Output,
) -> Result<Exit> {
    let engine = match world.connect().await {
        Err(why) => return report(&named(names, all_unanswered(&why)), output),
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
    report(&named(names, gates.into()), output)
}

/// Those among the gates that are named; all, where none is.
fn named(names: &[GateName], mut gates: Vec<Gate>) -> Vec<Gate> {
    let name = |gate: &Gate| match gate {
        Gate::Disk(_) => GateName::Disk,
        Gate::Runs(_) => GateName::Runs,
        Gate::Converge(_) => GateName::Converge,
    };
    gates.retain(|gate| names.is_empty() || names.contains(&name(gate)));
    gates
}

/// Every gate, where not even the engine could be reached.
pub fn all_unanswered(why: &Unavailable) -> Vec<Gate> {
    unanswered(&[disk_unanswered, runs_unanswered, converge_unanswered], why)
}

fn unanswered(gates: &[fn(Unavailable) -> Gate], why: &Unavailable) -> Vec<Gate> {
    gates.iter().map(|gate| gate(why.clone())).collect()
}

/// The gate `disk`, which is unknown for this reason.
pub fn disk_unanswered(why: Unavailable) -> Gate {
    Gate::Disk(Verdict::Unknown(gates::disk::Unknown::Unavailable(why)))
}

fn runs_unanswered(why: Unavailable) -> Gate {
    Gate::Runs(Verdict::Unknown(why))
}

fn converge_unanswered(why: Unavailable) -> Gate {
    Gate::Converge(Verdict::Unknown(gates::converge::Unknown::Unavailable(why)))
}

fn report(gates: &[Gate], output: Output) -> Result<Exit> {
    print(|mut out| match output {
        Output::Text => text::gates(&mut out, gates),
        Output::Json => json::gates(&mut out, gates),
    })?;
    Ok(match gates::combined_state(gates) {
        GateState::Open => Exit::Done,
        GateState::Closed => Exit::Closed,
        GateState::Unknown => Exit::Unavailable,
    })
}

/// The usages that a disk gate measured.
pub fn usages(answer: Answer<Vec<crate::facts::Filesystem>>) -> Answer<Vec<gates::disk::Usage>> {
    gates::disk::measure(&gates::disk::Facts { filesystems: answer }).map_err(|unknown| match unknown {
        gates::disk::Unknown::Unavailable(why) => why,
        gates::disk::Unknown::NoBlocks(filesystem) => {
            Unavailable(format!("{} says that filesystem has no blocks", filesystem.mount_point.display()))
        }
    })
}
