//! `disk`: that gate alone.

use anyhow::Result;

use super::check_gates::report;
use crate::cli::Output;
use crate::exit::Exit;
use crate::gates::Gate;
use crate::observe::{self, Questions};
use crate::settings;
use crate::world::World;
use crate::world::real::ThisHost;

/// Evaluate `disk` alone.
///
/// # Errors
/// Stdout cannot be written.
pub async fn run(world: &ThisHost<'_>, disk: settings::DiskSettings, output: Output) -> Result<Exit> {
    let gates = match world.connect().await {
        Err(why) => vec![Gate::disk_unavailable(why)],
        Ok(engine) => {
            let survey = observe::survey(&engine, Questions::DISK).await;
            vec![survey.disk(world, &engine, &disk).await]
        }
    };
    report(&gates, output)
}
