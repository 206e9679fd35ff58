//! What fills the disk: the largest things that a prune leaves where they are.

use std::path::PathBuf;
use std::time::Duration;

use crate::facts::{Answer, DiskUsage, Files, ImageClass, Unavailable};

/// Smaller consumers are not shown; bytes.
const NOISE: u64 = 1_000_000;

const SHOWN: usize = 10;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConsumerKind {
    Image(ImageClass),
    Volume,
    /// What a container has written on top of its image.
    ContainerLayer,
    BuildCache,
    Log,
    /// Folders of overlay2 that belong to no layer and no container.
    Unreachable,
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
    /// Largest first.
    pub largest: Vec<DiskConsumer>,
    pub unreachable: Vec<PathBuf>,
    pub other_is_least: bool,
    pub unseen: Vec<Unavailable>,
}

/// `used` is that of the filesystem that holds the engine's data, bytes.
#[derive(Debug)]
pub struct Measurements {
    pub images: Vec<DiskConsumer>,
    pub usage: Answer<DiskUsage>,
    pub files: Answer<Files>,
    pub used: Option<u64>,
}

/// Rank what fills the disk, largest first.
pub fn rank(facts: Measurements) -> DiskConsumers {
    let Measurements { images, usage, files, used } = facts;
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
    };
    let whole = |kind, size| DiskConsumer { kind, id: String::new(), names: vec![], size, image: None };
    let mut known = None;
    match usage {
        Err(why) => found.unseen.push(why),
        Ok(usage) => {
            let parts = usage.volumes.iter().chain(&usage.containers).map(|(_, size)| size);
            let parts = parts.fold(usage.build_cache, |sum, size| sum.saturating_add(*size));
            // Layers that images share are in the sum of the images more than once.
            found.other_is_least = usage.layers.is_none();
            known = Some(usage.layers.unwrap_or(images_size).saturating_add(parts));
            found.largest.push(whole(ConsumerKind::BuildCache, usage.build_cache));
            for (kind, things) in
                [(ConsumerKind::Volume, usage.volumes), (ConsumerKind::ContainerLayer, usage.containers)]
            {
                found.largest.extend(things.into_iter().map(|(name, size)| one(kind, name, size)));
            }
        }
    }
    match files {
        Err(why) => found.unseen.push(why),
        Ok(files) => {
            let sum =
                |sizes: &[(String, u64)]| sizes.iter().fold(0_u64, |sum, value| sum.saturating_add(value.1));
            let unreachable = files.unreachable.iter().fold(0_u64, |sum, value| sum.saturating_add(value.1));
            known = known.map(|known| known.saturating_add(sum(&files.logs)).saturating_add(unreachable));
            found
                .largest
                .extend(files.logs.into_iter().map(|(name, size)| one(ConsumerKind::Log, name, size)));
            found.largest.push(whole(ConsumerKind::Unreachable, unreachable));
            found.unreachable = files.unreachable.into_iter().map(|(path, _)| path).collect();
        }
    }
    if let (Some(used), Some(known)) = (used, known) {
        found.largest.push(whole(ConsumerKind::Elsewhere, used.saturating_sub(known)));
    }
    found.largest.retain(|consumer| consumer.size >= NOISE);
    found.largest.sort_by_key(|consumer| std::cmp::Reverse(consumer.size));
    found.largest.truncate(SHOWN);
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(id: &str, size: u64) -> DiskConsumer {
        DiskConsumer {
            kind: ConsumerKind::Image(ImageClass::Tagged),
            id: id.into(),
            names: vec![],
            size,
            image: None,
        }
    }

    #[test]
    fn the_largest_come_first_and_the_rest_of_the_disk_is_told() {
        const MB: u64 = 1_000_000;
        let facts = |layers| Measurements {
            images: (1..=20).map(|n| image(&n.to_string(), n * MB)).collect(),
            usage: Ok(DiskUsage {
                layers,
                volumes: vec![("data".into(), 50 * MB)],
                containers: vec![("web".into(), 30 * MB), ("idle".into(), 4_096)],
                build_cache: 20 * MB,
            }),
            files: Ok(Files {
                logs: vec![("web".into(), 10 * MB)],
                unreachable: vec![("/o/1".into(), 5 * MB), ("/o/2".into(), 5 * MB)],
            }),
            used: Some(1000 * MB),
        };
        let found = rank(facts(Some(100 * MB)));
        let kinds: Vec<_> = found.largest.iter().map(|consumer| (consumer.kind, consumer.size)).collect();
        assert_eq!(kinds.len(), 10);
        let first = [
            (ConsumerKind::Elsewhere, 780 * MB - 4_096),
            (ConsumerKind::Volume, 50 * MB),
            (ConsumerKind::ContainerLayer, 30 * MB),
        ];
        assert_eq!(kinds[..3], first);
        assert_eq!(found.unreachable.len(), 2);
        // Where the layers are not counted, the images' sum stands in: at most so much is theirs.
        let found = rank(facts(None));
        assert_eq!((found.largest[0].size, found.other_is_least), (670 * MB - 4_096, true));
        assert_eq!(found.unseen, []);
    }

    #[test]
    fn what_cannot_be_seen_is_said_and_nothing_is_made_up() {
        let why = Unavailable("only root may look".into());
        let facts = Measurements {
            images: vec![],
            usage: Err(why.clone()),
            files: Err(why.clone()),
            used: Some(1000),
        };
        let found = rank(facts);
        assert_eq!(found.largest, []);
        assert_eq!(found.unseen, [why.clone(), why]);
    }
}
