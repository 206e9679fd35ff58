//! What fills the disk, asked of the engine and of its folder, for a prune that does not help.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use crate::facts::{Answer, Files, Image, Unanswered};
use crate::gates::disk::Usage;
use crate::ledger::Ledger;
use crate::observe::Survey;
use crate::occupants::{self, Facts, ImageUse, Kind, Occupant, Occupants};
use crate::plan::Inventory;
use crate::report::{Ending, PruneReport};
use crate::units::{Time, elapsed};
use crate::world::{EngineApi, World};

/// What fills the disk, as far as it can be seen.
pub async fn find<W: World>(
    world: &W,
    engine: &W::Engine,
    survey: &Survey,
    inventory: &Inventory,
    ledger: &Ledger,
    report: &PruneReport,
    now: Time,
) -> Occupants {
    // What is gone, or would be.
    let removed: HashSet<&str> = match (&report.ending, &report.plan) {
        (Ending::CarriedOut(outcome), _) => outcome.removed.iter().map(|it| it.id.as_str()).collect(),
        (_, Some(plan)) => plan.remove.iter().map(|it| it.id.as_str()).collect(),
        _ => HashSet::new(),
    };
    let gone: HashSet<&str> = inventory
        .containers
        .iter()
        .filter(|it| removed.contains(it.id.as_str()))
        .flat_map(|it| it.names.iter().map(String::as_str))
        .collect();
    let used: HashSet<&str> = inventory.containers.iter().map(|it| it.image_id.as_str()).collect();
    let image = |image: &Image| {
        let entry = ledger.images.get(&image.id);
        let last = entry.and_then(|it| it.references.iter().max_by_key(|(_, at)| **at));
        let known = ImageUse {
            in_use: used.contains(image.id.as_str()),
            age: entry.map(|entry| elapsed(ledger.time(now), entry.first_seen)),
            last_used: entry.and_then(|entry| entry.last_used).map(|at| elapsed(ledger.time(now), at)),
            last_name: last.map(|(name_tag, _)| name_tag.clone()),
        };
        let names = image.tags.iter().chain(&image.digests).cloned().collect();
        let (kind, id, size) = (Kind::Orphan, image.id.clone(), image.size);
        (image.class(), Occupant { kind, names, id, size, image: Some(known) })
    };
    let there = inventory.images.iter().filter(|it| !removed.contains(it.id.as_str()));
    let info = survey.info.as_ref().map_err(Clone::clone);
    let (usage, files) = match &info {
        Err(why) => (Err(why.clone()), Err(why.clone())),
        Ok(info) => {
            let usage = engine.disk_usage(info.containerd_store).await.map_err(Unanswered::from);
            let usage = usage.map(|mut usage| {
                usage.containers.retain(|(name, _)| !gone.contains(name.as_str()));
                usage
            });
            (usage, files(world, engine, &info.root, inventory, &removed).await)
        }
    };
    let unseen = info.as_ref().is_ok_and(|info| info.containerd_store) && usage.is_ok();
    let holds =
        |usage: &&Usage| info.as_ref().is_ok_and(|info| info.root.starts_with(&usage.filesystem.mount_point));
    let used = report.after.iter().filter(holds).max_by_key(|it| it.filesystem.mount_point.as_os_str().len());
    let mut found = occupants::find(Facts {
        images: there.map(image).collect(),
        usage,
        files,
        used: used.map(|it| it.filesystem.used),
    });
    if unseen {
        let why = "the sum of all images, and what else is there: slow to tell (docker system df)";
        found.unseen.push(Unanswered(why.into()));
    }
    found
}

/// Logs, by their containers' names, and forgotten folders.
async fn files<W: World>(
    world: &W,
    engine: &W::Engine,
    root: &Path,
    inventory: &Inventory,
    removed: &HashSet<&str>,
) -> Answer<Files> {
    if !engine.is_local() {
        return Err(Unanswered("logs are on the engine's own host".into()));
    }
    let mut files = world.engine_files(root).await?;
    files.logs.retain(|(id, _)| !removed.contains(id.as_str()));
    let names: HashMap<&str, &String> =
        inventory.containers.iter().filter_map(|it| Some((it.id.as_str(), it.names.first()?))).collect();
    for (id, _) in &mut files.logs {
        if let Some(name) = names.get(id.as_str()) {
            (*name).clone_into(id);
        }
    }
    Ok(files)
}
