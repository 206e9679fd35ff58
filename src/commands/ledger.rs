//! `record`, and how the other commands note what is in use.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use anyhow::{Context, Result, anyhow};

use super::survey::{self, Engines, Questions, Survey};
use super::{now, print};
use crate::cli::Output;
use crate::engine::Engine;
use crate::exit::Exit;
use crate::host::inhibitors;
use crate::host::ledger_file::{self, Content};
use crate::ledger::{Ledger, Sightings};
use crate::report::{json, text};
use crate::settings;
use crate::units::Time;

pub async fn record(
    engine: settings::Engine,
    state_dir: &Path,
    runtime_dir: &Path,
    output: Output,
) -> Result<Exit> {
    // After a boot the directory of the inhibitors is gone; this comes long before the next prune.
    if let Err(error) = inhibitors::prepare(runtime_dir, engine.host.socket()) {
        log::info!("{error:#}");
    }
    let engines = Engines::connect(&engine).await.map_err(|why| anyhow!(why.0))?;
    let survey = survey::take(&engines, Questions::IN_USE).await;
    let now = now();
    let (used, ledger) = note_containers(&engines.local, &survey, state_dir, now).await?;
    print(|mut out| match output {
        Output::Text => text::recorded(&mut out, used, ledger.images.len()),
        Output::Json => json::recorded(&mut out, used, ledger.images.len()),
    })?;
    Ok(Exit::Done)
}

/// Note the images of these containers and of the events since the last note; how many are in use
/// now, and the ledger.
pub async fn note_containers(
    engine: &Engine,
    survey: &Survey,
    state_dir: &Path,
    now: Time,
) -> Result<(usize, Ledger)> {
    let seen = sightings(engine, survey, look(state_dir).noted, now).await?;
    let used = seen.in_use.len();
    Ok((used, note(state_dir, now, |ledger| ledger.note(&seen, now))?))
}

/// What containers show to be in use, and the events since the last note.
pub async fn sightings(
    engine: &Engine,
    survey: &Survey,
    noted: Option<Time>,
    now: Time,
) -> Result<Sightings> {
    let containers = survey.containers.as_ref().map_err(|why| anyhow!(why.0.clone()))?;
    // Events bear the engine's time, which is not ours where it is elsewhere.
    let until = survey.info.as_ref().ok().and_then(|info| info.time).unwrap_or(now);
    let in_use: HashSet<String> = containers.iter().map(|it| it.image_id.clone()).collect();
    let since = noted.unwrap_or(Time::UNIX_EPOCH).min(until);
    let mut latest: HashMap<String, Time> = HashMap::new();
    for event in engine.uses(since, until).await.context("the engine's recent events")? {
        let at = latest.entry(event.image).or_insert(event.at);
        *at = event.at.max(*at);
    }
    // What a container of now uses by the same name needs no question.
    for container in containers {
        latest.remove(&container.image);
    }
    let mut used = Vec::new();
    for (reference, at) in latest {
        match engine.image(&reference).await {
            Ok(image) => used.extend(image.map(|image| (image.id, at))),
            // An image may be named in a way that only its own container understood.
            Err(error) if error.status().is_some() => log::debug!("{error}"),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(Sightings { in_use, used, until: Some(until), all: None })
}

/// The ledger as it is; one that is missing or unreadable knows nothing, and so protects all.
pub fn look(state_dir: &Path) -> Ledger {
    match ledger_file::read(state_dir) {
        Content::Ledger(ledger) => ledger,
        Content::Missing => Ledger::default(),
        Content::Unreadable(error) => {
            log::warn!("{error:#}; every cached image counts as just used");
            Ledger::default()
        }
    }
}

/// Change the ledger and write it down.
pub fn note(state_dir: &Path, now: Time, change: impl FnOnce(&mut Ledger)) -> Result<Ledger> {
    let (ledger, set_aside) = ledger_file::update(state_dir, now, change)?;
    if let Some((path, error)) = set_aside {
        log::warn!("{error:#}; it is kept as {}, and a new one begins", path.display());
    }
    Ok(ledger)
}
