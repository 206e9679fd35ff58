//! What fills the disk, asked of the engine and of its folder, if a prune does not relieve it.

pub mod rank;

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;

use crate::facts::{Answer, Container, EnginePlaces, Files, Image, Inventory, Survey, Unavailable};
use crate::ledger::Ledger;
use crate::units::{Time, elapsed};
use crate::world::{EngineApi, World};
use rank::{ConsumerKind, Disk, DiskConsumer, DiskConsumers, ImageUsage, Measurements};

/// Ask and rank; it may take seconds. `gone`: the IDs of what a prune removed, or would remove.
pub async fn ask<W: World>(
    world: &W,
    engine: &W::Engine,
    survey: &Survey,
    inventory: &Inventory,
    ledger: &Ledger,
    gone: &HashSet<&str>,
    now: Time,
) -> DiskConsumers {
    let used: HashSet<&str> = inventory.containers.iter().flat_map(Container::images).collect();
    let in_use = |image: &Image| {
        used.contains(image.id.as_str()) || used.iter().any(|reference| image.is_named(reference))
    };
    let image = |image: &Image| {
        let entry = ledger.images.get(&image.id);
        let last = entry.and_then(|entry| entry.references.iter().max_by_key(|(_, at)| **at));
        let known = ImageUsage {
            in_use: in_use(image),
            age: entry.map(|entry| elapsed(ledger.time(now), entry.first_seen)),
            last_used: entry.and_then(|entry| entry.last_used).map(|at| elapsed(ledger.time(now), at)),
            last_name: last.map(|(name_tag, _)| name_tag.clone()),
        };
        let names = image.tags.iter().chain(&image.digests).cloned().collect();
        let (kind, id, size) = (ConsumerKind::Image(image.class()), image.id.clone(), image.size);
        DiskConsumer { kind, names, id, size, image: Some(known), used_by: None }
    };
    let images =
        inventory.images.iter().filter(|image| !gone.contains(image.id.as_str())).map(image).collect();
    let places = survey.places.as_ref().ok().and_then(Option::as_ref);
    let (usage, files) = match &survey.info {
        Err(why) => (Err(why.clone()), Err(why.clone())),
        Ok(info) => {
            let gone_names: HashSet<&str> = inventory
                .containers
                .iter()
                .filter(|container| gone.contains(container.id.as_str()))
                .flat_map(|container| container.names.iter().map(String::as_str))
                .collect();
            let usage = engine.disk_usage(info.containerd_store).await.map_err(Unavailable::from);
            let usage = usage.map(|mut usage| {
                usage.containers.retain(|(name, _)| !gone_names.contains(name.as_str()));
                usage
            });
            (usage, files(world, places, inventory, gone, info.containerd_store).await)
        }
    };
    let disk = match places {
        Some(places) => fullest(world, places).await,
        None => None,
    };
    let mut users = HashMap::new();
    for container in inventory.containers.iter().filter(|container| !gone.contains(container.id.as_str())) {
        for volume in &container.volumes {
            let name = container.names.first().unwrap_or(&container.id);
            users.entry(volume.clone()).or_insert_with(|| name.clone());
        }
    }
    rank::rank(Measurements { images, usage, users, files, disk })
}

/// Of the filesystems that hold the engine's data, whatever the gate measures, the fuller one.
async fn fullest(world: &impl World, places: &EnginePlaces) -> Option<Disk> {
    let of = async |path: &PathBuf| world.measure(std::slice::from_ref(path)).await.ok()?.into_iter().next();
    let root = of(&places.root).await?;
    let images = if places.images == places.root { root.clone() } else { of(&places.images).await? };
    let fullest = if images.percent() > root.percent() { &images } else { &root };
    Some(Disk {
        mount_point: fullest.mount_point.clone(),
        used: fullest.used,
        holds_images: fullest.mount_point == images.mount_point,
        holds_root: fullest.mount_point == root.mount_point,
    })
}

/// Logs, by their containers' names, and folders that belong to no layer.
async fn files<W: World>(
    world: &W,
    places: Option<&EnginePlaces>,
    inventory: &Inventory,
    gone: &HashSet<&str>,
    containerd_store: bool,
) -> Answer<Files> {
    let Some(places) = places else { return Err(Unavailable("logs are on the engine's own host".into())) };
    let mut files = world.engine_files(&places.root, containerd_store).await?;
    files.logs.retain(|(id, _)| !gone.contains(id.as_str()));
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

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use super::*;
    use crate::testing::fake::Fake;
    use crate::testing::{block, image, now, survey};

    const MB: u64 = 1_000_000;

    #[test]
    fn what_went_is_none_of_what_fills_the_disk() {
        let fake = Rc::new(Fake::new());
        {
            let mut filesystem = fake.filesystem.borrow_mut();
            (filesystem.size, filesystem.used, filesystem.available) = (1_000 * MB, 940 * MB, 60 * MB);
        }
        let places = EnginePlaces { root: "/r".into(), images: "/r".into(), certain: true };
        let survey = Survey { places: Ok(Some(places)), ..survey() };
        let images = vec![
            Image { size: 50 * MB, ..image("aaaa") },
            Image { size: 40 * MB, tags: vec!["kept:1".into()], ..image("bbbb") },
        ];
        let inventory = Inventory { images, ..Inventory::default() };
        let gone = HashSet::from(["sha256:aaaa"]);
        let ledger = Ledger::default();
        let found = block(ask(&fake, &fake, &survey, &inventory, &ledger, &gone, now()));
        let ids: Vec<_> =
            found.largest.iter().map(|consumer| (consumer.id.as_str(), consumer.size / MB)).collect();
        assert_eq!(ids, [("", 900), ("sha256:bbbb", 40)]);
        assert_eq!(found.unseen, [Unavailable("no files".into())]);
    }
}
