//! `status`: what the ledger, the runtime directory and systemd know, also where the engine is down.

use std::path::Path;

use anyhow::Result;

use super::print;
use crate::cli::Output;
use crate::exit::Exit;
use crate::facts::Unavailable;
use crate::gates::Gate;
use crate::host::systemd;
use crate::observe::{self, Questions};
use crate::prune::outcome::OngoingPressure;
use crate::report::{StatusReport, json, text};
use crate::settings;
use crate::world::World;
use crate::world::real::ThisHost;

const TIMER: &str = "ci-docker-prune.timer";

/// Show what is known, also where the engine is down.
///
/// # Errors
/// Stdout cannot be written.
pub async fn run(
    engine: settings::EngineSettings,
    disk: settings::DiskSettings,
    state_dir: &Path,
    runtime_dir: &Path,
    output: Output,
) -> Result<Exit> {
    let world = ThisHost::new(&engine, state_dir, runtime_dir);
    let disk = match world.connect().await {
        Ok(engine) => {
            let survey = observe::survey(&engine, Questions::DISK).await;
            survey.disk(&world, &engine, &disk).await
        }
        Err(why) => Gate::disk_unavailable(why),
    };
    let units = systemd::units(engine.timeout).await.unwrap_or_else(|error| {
        log::info!("{error:#}");
        None
    });
    let timer = units.unwrap_or_default().into_iter().find(|unit| unit.name == TIMER && unit.active);
    let ledger = world.ledger();
    let now = world.now();
    let report = StatusReport {
        now,
        disk,
        pressure: OngoingPressure::of(&ledger, now),
        last_run: ledger.last_run,
        last_success: ledger.last_success,
        next_run: timer.map(|timer| timer.next).filter(|next| !next.is_empty()),
        inhibitors: world.inhibitors().map_err(Unavailable::from),
        images: ledger.images.len(),
        recorded: ledger.noted_at,
    };
    print(|mut out| match output {
        Output::Text => text::status(&mut out, &report),
        Output::Json => json::status(&mut out, &report),
    })?;
    Ok(Exit::Done)
}
