//! What fills the disk, asked of the engine and of its folder, where a prune does not help.

use std::collections::{HashMap, HashSet};

use crate::disk_consumers::{self, ConsumerKind, DiskConsumer, DiskConsumers, ImageUsage, Measurements};
use crate::facts::{Answer, Container, Files, Image, Unavailable};
use crate::ledger::Ledger;
use crate::observe::{EnginePlaces, Survey};
use crate::plan::Inventory;
use crate::units::{Time, elapsed};
use crate::world::{EngineApi, World};

/// What was observed around a prune.
pub struct Observed<'a> {
    pub survey: &'a Survey,
    pub inventory: &'a Inventory,
    pub ledger: &'a Ledger,
    /// IDs of what is gone, or would be.
    pub removed: HashSet<&'a str>,
    pub now: Time,
}

impl Observed<'_> {
    /// What fills the disk, as far as it can be seen.
    pub async fn disk_consumers<W: World>(&self, world: &W, engine: &W::Engine) -> DiskConsumers {
        let Self { survey, inventory, ledger, removed, now } = self;
        let gone: HashSet<&str> = inventory
            .containers
            .iter()
            .filter(|container| removed.contains(container.id.as_str()))
            .flat_map(|container| container.names.iter().map(String::as_str))
            .collect();
        let used: HashSet<&str> = inventory.containers.iter().flat_map(Container::images).collect();
        let in_use = |image: &Image| {
            used.contains(image.id.as_str()) || used.iter().any(|reference| image.is_named(reference))
        };
        let image = |image: &Image| {
            let entry = ledger.images.get(&image.id);
            let last = entry.and_then(|entry| entry.references.iter().max_by_key(|(_, at)| **at));
            let known = ImageUsage {
                in_use: in_use(image),
                age: entry.map(|entry| elapsed(ledger.time(*now), entry.first_seen)),
                last_used: entry.and_then(|entry| entry.last_used).map(|at| elapsed(ledger.time(*now), at)),
                last_name: last.map(|(name_tag, _)| name_tag.clone()),
            };
            let names = image.tags.iter().chain(&image.digests).cloned().collect();
            let (kind, id, size) = (ConsumerKind::Image(image.class()), image.id.clone(), image.size);
            DiskConsumer { kind, names, id, size, image: Some(known) }
        };
        let there = inventory.images.iter().filter(|image| !removed.contains(image.id.as_str()));
        let info = survey.info.as_ref().map_err(Clone::clone);
        let places = survey.engine_places(world, engine).await.ok().and_then(Option::as_ref);
        let (usage, files) = match &info {
            Err(why) => (Err(why.clone()), Err(why.clone())),
            Ok(info) => {
                let usage = engine.disk_usage(info.containerd_store).await.map_err(Unavailable::from);
                let usage = usage.map(|mut usage| {
                    usage.containers.retain(|(name, _)| !gone.contains(name.as_str()));
                    usage
                });
                (usage, files(world, places, inventory, removed).await)
            }
        };
        // Of each filesystem that holds the engine's data, whatever the gate measures.
        let filesystems = match places {
            Some(places) => world.measure(&places.all()).await.ok(),
            None => None,
        };
        let used =
            filesystems.map(|found| found.iter().fold(0, |sum: u64, one| sum.saturating_add(one.used)));
        disk_consumers::rank(Measurements { images: there.map(image).collect(), usage, files, used })
    }
}

/// Logs, by their containers' names, and forgotten folders.
async fn files<W: World>(
    world: &W,
    places: Option<&EnginePlaces>,
    inventory: &Inventory,
    removed: &HashSet<&str>,
) -> Answer<Files> {
    let Some(places) = places else { return Err(Unavailable("logs are on the engine's own host".into())) };
    let mut files = world.engine_files(&places.root).await?;
    files.logs.retain(|(id, _)| !removed.contains(id.as_str()));
    let names: HashMap<&str, &String> = inventory
        .containers
        .iter()
        .filter_map(|container| Some((container.id.as_str(), container.names.first()?)))
        .collect();
    for (id, _) in &mut files.logs {
        if let Some(name) = names.get(id.as_str()) {
            (*name).clone_into(id);
        }
    }
    Ok(files)
}
