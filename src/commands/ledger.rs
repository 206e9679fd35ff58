//! How the commands note in the ledger what is in use.

use std::collections::HashMap;
use std::path::Path;

use anyhow::{Context, Result, anyhow};

use super::survey::Survey;
use crate::engine::Engine;
use crate::facts::name_tag;
use crate::host::ledger_file::{self, Content};
use crate::ledger::{Ledger, Sightings, Use};
use crate::plan::Inventory;
use crate::units::Time;

/// Note the images of these containers and of the events since the last note, and make this change too.
pub async fn note_containers(
    engine: &Engine,
    survey: &Survey,
    state_dir: &Path,
    now: Time,
    change: impl FnOnce(&mut Ledger),
) -> Result<Ledger> {
    let seen = sightings(engine, survey, look(state_dir).noted, now).await?;
    note(state_dir, now, |ledger| {
        ledger.note(&seen, now);
        change(ledger);
    })
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
    let since = noted.unwrap_or(Time::UNIX_EPOCH).min(until);
    let mut latest: HashMap<String, Time> = HashMap::new();
    for event in engine.uses(since, until).await.context("the engine's recent events")? {
        let at = latest.entry(event.image).or_insert(event.at);
        *at = event.at.max(*at);
    }
    let mut uses = Vec::new();
    for container in containers {
        // What a container of now uses by the same name needs no question.
        latest.remove(&container.image);
        uses.push(Use { image: container.image_id.clone(), name_tag: name_tag(&container.image), at: now });
    }
    for (reference, at) in latest {
        match engine.image(&reference).await {
            Ok(image) => {
                uses.extend(image.map(|it| Use { image: it.id, name_tag: name_tag(&reference), at }))
            }
            // An image may be named in a way that only its own container understood.
            Err(error) if error.status().is_some() => log::debug!("{error}"),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(Sightings { uses, until: Some(until), all: None })
}

/// Everything that is there, and by which names services and tasks use it.
pub fn list(seen: &mut Sightings, inventory: &Inventory, now: Time) {
    let by_digest: HashMap<&str, &str> = inventory
        .images
        .iter()
        .flat_map(|image| image.digests.iter().map(|it| (it, image.id.as_str())))
        .filter_map(|(reference, id)| Some((reference.split_once('@')?.1, id)))
        .collect();
    let specs = inventory.services.iter().map(|it| &it.image);
    let tasks = inventory.tasks.iter().filter(|it| it.state.is_live()).map(|it| &it.image);
    for reference in specs.chain(tasks) {
        let image = reference.split_once('@').and_then(|(_, digest)| by_digest.get(digest));
        if let (Some(image), Some(name_tag)) = (image, name_tag(reference)) {
            seen.uses.push(Use { image: (*image).to_owned(), name_tag: Some(name_tag), at: now });
        }
    }
    seen.list(&inventory.images);
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
