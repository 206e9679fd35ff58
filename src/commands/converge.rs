//! `converge`: that gate alone.

use anyhow::Result;

use super::check_gates::report;
use super::now;
use crate::cli::Output;
use crate::exit::Exit;
use crate::gates::Gate;
use crate::observe::{self, Questions};
use crate::world::World;
use crate::world::real::ThisHost;

/// Evaluate `converge` alone.
///
/// # Errors
/// Stdout cannot be written.
pub async fn run(world: &ThisHost<'_>, output: Output) -> Result<Exit> {
    let gates = match world.connect().await {
        Err(why) => vec![Gate::converge_unavailable(why)],
        Ok(engine) => vec![observe::survey(&engine, Questions::CONVERGE).await.converge(now())],
    };
    report(&gates, output)
}
