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
use crate::report::status::{Limits, RECORD_TIMER, StatusReport, TIMER, json_of, text};
use crate::report::{is_utf8, terminal_width};
use crate::settings::Settings;
use crate::units::elapsed;
use crate::world::World;

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
    let units = units.unwrap_or_default();
    let next = |timer: &str| {
        let timer = units.iter().find(|unit| unit.name == timer && unit.active);
        timer.map(|timer| timer.next.clone()).filter(|next| !next.is_empty())
    };
    let history = host.history().unwrap_or_else(|error| {
        log::warn!("{error:#}");
        vec![]
    });
    let ledger = host.ledger();
    let now = host.now();
    let ago = |at| elapsed(ledger.time(now), at);
    let intervention = ledger.pressure.as_ref().and_then(|pressure| pressure.intervention_since);
    let removal = policy.removal.with_room(ledger.growth());
    let report = StatusReport {
        now,
        gates: policy.gates(&survey, now),
        limits: Limits {
            target: removal.target.percent,
            threshold: removal.threshold.percent,
            critical: removal.critical.percent,
            young_from: removal.young_from.percent,
            growth: ledger.growth(),
            prune_at: settings.prune_at,
        },
        pressure: OngoingPressure::of(&ledger, now),
        intervention: intervention.map(|since| now.saturating_sub(ago(since)).unwrap_or(now)),
        history,
        last_success: ledger.last_success,
        next_record: next(RECORD_TIMER),
        next_run: next(TIMER),
        inhibitors: host.inhibitors().map_err(Unavailable::from),
        due: host.due_prunes().map_err(Unavailable::from),
        busy: ledger.busy(now),
        usage: ledger.hours.iter().filter_map(|hour| Some((ago(hour.begins), hour.used_percent?))).collect(),
        width: terminal_width().unwrap_or(80),
        is_utf8: is_utf8(),
        images: ledger.images.len(),
        recorded: ledger.recorded_at,
    };
    print(|mut out| match settings.output {
        Output::Text => text(&mut out, &report),
        Output::Json => json_of(&mut out, &report),
    })?;
    Ok(Exit::Done)
}
