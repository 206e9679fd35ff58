//! What fills the disk: the largest things that a prune leaves where they are.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::time::Duration;

use crate::facts::{Answer, DiskUsage, Files, ImageClass, Unavailable};

/// Smaller consumers are not shown; bytes.
const NOISE: u64 = 1_000_000;

const SHOWN: usize = 10;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ConsumerKind {
    Image(ImageClass),
    Volume,
    /// What a container has written on top of its image.
    ContainerLayer,
    BuildCache,
    Log,
    /// Folders of overlay2 that belong to no layer and no container.
    Unreachable,
    /// Of the engine's, with neither images nor containers nor volumes in it.
    Folder,
    /// On the same filesystem, and none of the above.
    Elsewhere,
}

/// Something that takes space on the disk of the engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskConsumer {
    pub kind: ConsumerKind,
    /// Empty for what has no ID, such as build cache.
    pub names: Vec<String>,
    pub id: String,
    /// Bytes; of an image with the layers that it shares.
    pub size: u64,
    pub image: Option<ImageUsage>,
    /// The container that mounts it, of a volume.
    pub used_by: Option<String>,
}

/// What is not shown one by one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rest {
    pub kind: ConsumerKind,
    pub count: usize,
    /// Bytes.
    pub size: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageUsage {
    pub in_use: bool,
    pub age: Option<Duration>,
    /// How long ago it was last used; absent where it never was seen in use.
    pub last_used: Option<Duration>,
    pub last_name: Option<String>,
}

#[derive(Debug, Default)]
pub struct DiskConsumers {
    /// Of the filesystem that these are on; `None` where it could not be measured: then they may lie on several.
    pub mount_point: Option<PathBuf>,
    /// Largest first.
    pub largest: Vec<DiskConsumer>,
    /// The others, by their kind.
    pub rest: Vec<Rest>,
    /// How many volumes no container uses, and their bytes.
    pub unused_volumes: (usize, u64),
    pub unreachable: Vec<PathBuf>,
    pub other_is_least: bool,
    pub unseen: Vec<Unavailable>,
}

/// The filesystem whose space is told.
#[derive(Debug)]
pub struct Disk {
    pub mount_point: PathBuf,
    /// Bytes.
    pub used: u64,
    /// Images, what containers have written, and the build cache.
    pub holds_images: bool,
    /// Volumes, logs, and the engine's other folders.
    pub holds_root: bool,
}

impl Disk {
    fn holds(&self, kind: ConsumerKind) -> bool {
        match kind {
            ConsumerKind::Image(_) | ConsumerKind::ContainerLayer | ConsumerKind::BuildCache => {
                self.holds_images
            }
            ConsumerKind::Volume | ConsumerKind::Log | ConsumerKind::Unreachable | ConsumerKind::Folder => {
                self.holds_root
            }
            ConsumerKind::Elsewhere => true,
        }
    }
}

#[derive(Debug)]
pub struct Measurements {
    pub images: Vec<DiskConsumer>,
    pub usage: Answer<DiskUsage>,
    /// The first container that mounts each volume.
    pub users: HashMap<String, String>,
    pub files: Answer<Files>,
    pub disk: Option<Disk>,
}

/// Rank what fills the disk, largest first.
pub fn rank(facts: Measurements) -> DiskConsumers {
    let Measurements { images, usage, users, files, disk } = facts;
    let mut found = DiskConsumers::default();
    let images_size = images.iter().fold(0_u64, |sum, image| sum.saturating_add(image.size));
    for image in images {
        found.largest.push(image);
    }
    let one = |kind, name: String, size| DiskConsumer {
        kind,
        id: name.clone(),
        names: vec![name],
        size,
        image: None,
        used_by: None,
    };
    let whole = |kind, size| DiskConsumer {
        kind,
        id: String::new(),
        names: vec![],
        size,
        image: None,
        used_by: None,
    };
    // Where one could not be measured, everything is told.
    let holds = |kind| disk.as_ref().is_none_or(|disk| disk.holds(kind));
    let mut layers = None;
    match usage {
        Err(why) => found.unseen.push(why),
        Ok(usage) => {
            // Layers that images share are in the sum of the images more than once.
            found.other_is_least = usage.layers.is_none();
            layers = Some(usage.layers.unwrap_or(images_size));
            found.largest.push(whole(ConsumerKind::BuildCache, usage.build_cache));
            let unused = usage.volumes.iter().filter(|volume| !volume.is_used);
            found.unused_volumes =
                unused.fold((0, 0), |(n, sum), volume| (n + 1, volume.size.saturating_add(sum)));
            found.largest.extend(usage.volumes.into_iter().map(|volume| {
                let used_by = users.get(&volume.name).cloned();
                DiskConsumer { used_by, ..one(ConsumerKind::Volume, volume.name, volume.size) }
            }));
            let written = usage.containers.into_iter();
            found.largest.extend(written.map(|(name, size)| one(ConsumerKind::ContainerLayer, name, size)));
        }
    }
    match files {
        Err(why) => found.unseen.push(why),
        Ok(files) => {
            let unreachable = files.unreachable.iter().fold(0_u64, |sum, value| sum.saturating_add(value.1));
            found.largest.extend(
                files
                    .folders
                    .into_iter()
                    .map(|(path, size)| one(ConsumerKind::Folder, path.display().to_string(), size)),
            );
            found
                .largest
                .extend(files.logs.into_iter().map(|(name, size)| one(ConsumerKind::Log, name, size)));
            found.largest.push(whole(ConsumerKind::Unreachable, unreachable));
            found.unreachable = files.unreachable.into_iter().map(|(path, _)| path).collect();
        }
    }
    found.largest.retain(|consumer| consumer.size > 0 && holds(consumer.kind));
    if let (Some(disk), Some(layers)) = (&disk, layers) {
        let others = found.largest.iter().filter(|consumer| !matches!(consumer.kind, ConsumerKind::Image(_)));
        let layers = if disk.holds_images { layers } else { 0 };
        let known = others.fold(layers, |sum, consumer| sum.saturating_add(consumer.size));
        let size = disk.used.saturating_sub(known);
        found.largest.extend((size > 0).then(|| whole(ConsumerKind::Elsewhere, size)));
    }
    show_largest(&mut found);
    found.mount_point = disk.map(|disk| disk.mount_point);
    found
}

/// Keep the largest one by one, and of the others a sum for each kind.
fn show_largest(found: &mut DiskConsumers) {
    found.largest.sort_by_key(|consumer| std::cmp::Reverse(consumer.size));
    let shown = found.largest.iter().take(SHOWN).filter(|consumer| consumer.size >= NOISE).count();
    let mut rest: BTreeMap<ConsumerKind, (usize, u64)> = BTreeMap::new();
    for consumer in found.largest.drain(shown..) {
        let (count, size) = rest.entry(consumer.kind).or_default();
        (*count, *size) = (*count + 1, size.saturating_add(consumer.size));
    }
    let rest = rest.into_iter().map(|(kind, (count, size))| Rest { kind, count, size });
    found.rest = rest.filter(|rest| rest.size >= NOISE).collect();
    found.rest.sort_by_key(|rest| std::cmp::Reverse(rest.size));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::Volume;

    fn image(id: &str, size: u64) -> DiskConsumer {
        DiskConsumer {
            kind: ConsumerKind::Image(ImageClass::Tagged),
            id: id.into(),
            names: vec![],
            size,
            image: None,
            used_by: None,
        }
    }

    #[test]
    fn the_largest_come_first_and_the_rest_of_the_disk_is_told() {
        const MB: u64 = 1_000_000;
        let volume = |name: &str, mb, is_used| Volume { name: name.into(), size: mb * MB, is_used };
        let facts = |layers| Measurements {
            images: (1..=20).map(|n| image(&n.to_string(), n * MB)).collect(),
            usage: Ok(DiskUsage {
                layers,
                volumes: vec![volume("data", 50, true), volume("old", 7, false), volume("older", 2, false)],
                containers: vec![("web".into(), 30 * MB), ("idle".into(), 4_096)],
                build_cache: 20 * MB,
            }),
            files: Ok(Files {
                logs: vec![("web".into(), 10 * MB)],
                unreachable: vec![("/o/1".into(), 5 * MB), ("/o/2".into(), 5 * MB)],
                folders: vec![("/r/tmp".into(), 60 * MB)],
            }),
            users: HashMap::from([("data".into(), "db".into())]),
            disk: Some(Disk {
                mount_point: "/".into(),
                used: 1000 * MB,
                holds_images: true,
                holds_root: true,
            }),
        };
        let found = rank(facts(Some(100 * MB)));
        let kinds: Vec<_> = found.largest.iter().map(|consumer| (consumer.kind, consumer.size)).collect();
        assert_eq!(kinds.len(), 10);
        let first = [
            (ConsumerKind::Elsewhere, 711 * MB - 4_096),
            (ConsumerKind::Folder, 60 * MB),
            (ConsumerKind::Volume, 50 * MB),
            (ConsumerKind::ContainerLayer, 30 * MB),
        ];
        assert_eq!(kinds[..4], first);
        assert_eq!(found.largest[2].used_by.as_deref(), Some("db"));
        assert_eq!(found.unused_volumes, (2, 9 * MB));
        let rest: Vec<_> = found.rest.iter().map(|rest| (rest.kind, rest.count, rest.size / MB)).collect();
        let tagged = ConsumerKind::Image(ImageClass::Tagged);
        assert_eq!(
            rest,
            [
                (tagged, 15, 120),
                (ConsumerKind::Log, 1, 10),
                (ConsumerKind::Unreachable, 1, 10),
                (ConsumerKind::Volume, 2, 9)
            ]
        );
        // All together they are the disk.
        let shown: u64 = found.largest.iter().map(|consumer| consumer.size).sum();
        let more: u64 = found.rest.iter().map(|rest| rest.size).sum();
        assert_eq!((shown + more) / MB, 1_109, "images share 110 of 210");
        assert_eq!(found.unreachable.len(), 2);
        // The images lie on another one: what is there is not told.
        let mut of_root = facts(Some(100 * MB));
        of_root.disk =
            Some(Disk { mount_point: "/".into(), used: 500 * MB, holds_images: false, holds_root: true });
        let found = rank(of_root);
        let kinds: Vec<_> = found.largest.iter().map(|consumer| consumer.kind).collect();
        assert!(!kinds.iter().any(|kind| matches!(kind, ConsumerKind::Image(_) | ConsumerKind::BuildCache)));
        let shown: u64 = found.largest.iter().map(|consumer| consumer.size).sum();
        assert_eq!((shown, found.mount_point), (500 * MB, Some("/".into())));
        // Where the layers are not counted, the images' sum stands in: at most so much is theirs.
        let found = rank(facts(None));
        assert_eq!((found.largest[0].size, found.other_is_least), (601 * MB - 4_096, true));
        assert_eq!(found.unseen, []);
    }

    #[test]
    fn what_cannot_be_seen_is_said_and_nothing_is_made_up() {
        let why = Unavailable("only root may look".into());
        let facts = Measurements {
            images: vec![],
            usage: Err(why.clone()),
            users: HashMap::new(),
            files: Err(why.clone()),
            disk: None,
        };
        let found = rank(facts);
        assert_eq!(found.largest, []);
        assert_eq!(found.unseen, [why.clone(), why]);
    }
}
