//! `status`: what the ledger, the runtime directory and systemd know, also while the engine is down.

use anyhow::Result;

use super::print;
use crate::cli::Output;
use crate::exit::Exit;
use crate::facts::{Survey, Unavailable};
use crate::host::{ThisHost, systemd};
use crate::observe;
use crate::prune::moment::LOOK;
use crate::prune::report::OngoingPressure;
use crate::report::status::{StatusReport, json_of, text};
use crate::settings::Settings;
use crate::world::World;

const TIMER: &str = "ci-docker-prune.timer";

pub async fn run(host: &ThisHost, settings: &Settings) -> Result<Exit> {
    let policy = &settings.policy;
    let survey = match host.connect().await {
        Ok(engine) => observe::survey(host, &engine, LOOK, &policy.disk_paths).await,
        Err(why) => Survey::unavailable(&why),
    };
    let units = systemd::units(settings.engine.timeout).await.unwrap_or_else(|error| {
        log::info!("{error:#}");
        None
    });
    let timer = units.unwrap_or_default().into_iter().find(|unit| unit.name == TIMER && unit.active);
    let ledger = host.ledger();
    let now = host.now();
    let report = StatusReport {
        now,
        gates: policy.gates(&survey, now),
        pressure: OngoingPressure::of(&ledger, now),
        last_run: ledger.last_run,
        last_success: ledger.last_success,
        next_run: timer.map(|timer| timer.next).filter(|next| !next.is_empty()),
        inhibitors: host.inhibitors().map_err(Unavailable::from),
        due: host.due_prunes().map_err(Unavailable::from),
        busy: ledger.busy(now),
        images: ledger.images.len(),
        recorded: ledger.recorded_at,
    };
    print(|mut out| match settings.output {
        Output::Text => text(&mut out, &report),
        Output::Json => json_of(&mut out, &report),
    })?;
    Ok(Exit::Done)
}
