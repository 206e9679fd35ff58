//! `check-gates`: several gates at once.

use anyhow::Result;

use super::{now, print};
use crate::cli::{GateName, Output};
use crate::engine::containers::ContainerScope;
use crate::exit::Exit;
use crate::gates::{self, Gate, GateState};
use crate::observe::{self, Questions};
use crate::report::{json, text};
use crate::settings;
use crate::world::World;
use crate::world::real::ThisHost;

/// Evaluate the gates that are named, or all, and record image usage on the way.
///
/// # Errors
/// Stdout cannot be written.
pub async fn run(
    world: &ThisHost<'_>,
    names: &[GateName],
    disk: settings::DiskSettings,
    runs: &settings::RunsSettings,
    output: Output,
) -> Result<Exit> {
    let engine = match world.connect().await {
        Err(why) => return report(&named(names, gates::all_unavailable(&why)), output),
        Ok(engine) => engine,
    };
    // The containers that have ended protect their images by being there, and the events since the
    // last record tell of those that are gone: the live ones are enough here, and cheap.
    let questions = Questions { containers: Some(ContainerScope::Live), ..Questions::EVERYTHING };
    let survey = observe::survey(&engine, questions).await;
    let now = now();
    let disk = survey.disk(world, &engine, &disk).await;
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

/// Print what gates say; the exit status tells it too.
pub(super) fn report(gates: &[Gate], output: Output) -> Result<Exit> {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::Unavailable;

    #[test]
    fn the_gates_that_are_named_are_evaluated_and_all_where_none_is() {
        for (names, expected) in [
            (&[][..], "disk runs converge"),
            (&[GateName::Runs], "runs"),
            (&[GateName::Converge, GateName::Runs], "runs converge"),
            (&[GateName::Disk, GateName::Converge], "disk converge"),
        ] {
            let gates = named(names, gates::all_unavailable(&Unavailable("x".into())));
            let shown: Vec<_> = gates.iter().map(Gate::name).collect();
            assert_eq!(shown.join(" "), expected);
        }
    }
}
