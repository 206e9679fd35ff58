//! `status`: what the ledger, the runtime directory and systemd know, also where the engine is down.

use std::path::Path;

use anyhow::Result;

use super::survey::{self, Engines, Questions};
use super::{gates, ledger, now, print};
use crate::cli::Output;
use crate::exit::Exit;
use crate::facts::Unanswered;
use crate::host::{inhibitors, systemd};
use crate::report::{Lasting, StatusReport, json, text};
use crate::settings;

const TIMER: &str = "ci-docker-prune.timer";

pub async fn run(
    engine: settings::Engine,
    disk: settings::Disk,
    state_dir: &Path,
    runtime_dir: &Path,
    output: Output,
) -> Result<Exit> {
    let disk = match Engines::connect(&engine).await {
        Ok(engines) => survey::take(&engines, Questions::DISK).await.disk(&engines, &disk),
        Err(why) => gates::disk_unanswered(why),
    };
    let units = systemd::units(engine.timeout).await.unwrap_or_else(|error| {
        log::info!("{error:#}");
        None
    });
    let timer = units.unwrap_or_default().into_iter().find(|unit| unit.name == TIMER && unit.active);
    let ledger = ledger::look(state_dir);
    let now = now();
    let report = StatusReport {
        now,
        disk,
        pressure: ledger.pressure.as_ref().map(|it| Lasting::new(it, now)),
        last_run: ledger.last_run,
        last_success: ledger.last_success,
        next_run: timer.map(|it| it.next).filter(|next| !next.is_empty()),
        inhibitors: inhibitors::active(runtime_dir).map_err(|error| Unanswered(format!("{error:#}"))),
        images: ledger.images.len(),
        recorded: ledger.noted,
    };
    print(|mut out| match output {
        Output::Text => text::status(&mut out, &report),
        Output::Json => json::status(&mut out, &report),
    })?;
    Ok(Exit::Done)
}
