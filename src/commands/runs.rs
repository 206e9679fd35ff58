//! `runs`: that gate alone.

use anyhow::Result;

use super::check_gates::report;
use super::now;
use crate::cli::Output;
use crate::exit::Exit;
use crate::gates::Gate;
use crate::observe::{self, Questions};
use crate::settings;
use crate::world::World;
use crate::world::real::ThisHost;

/// Evaluate `runs` alone.
///
/// # Errors
/// Stdout cannot be written.
pub async fn run(world: &ThisHost<'_>, runs: &settings::RunsSettings, output: Output) -> Result<Exit> {
    let gates = match world.connect().await {
        Err(why) => vec![Gate::runs_unavailable(why)],
        Ok(engine) => {
            let survey = observe::survey(&engine, Questions::RUNS).await;
            vec![survey.runs(world, runs, now())]
        }
    };
    report(&gates, output)
}
