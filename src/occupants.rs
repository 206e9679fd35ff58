//! What fills the disk: the largest things that a prune leaves where they are.

use std::path::PathBuf;
use std::time::Duration;

use crate::facts::{Answer, DiskUsage, Files, ImageClass, Unanswered};

/// How many are shown.
const SHOWN: usize = 10;

/// A kind of thing that takes room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    TaggedImage,
    CachedImage,
    Orphan,
    Volume,
    /// What a container has written on top of its image.
    ContainerLayer,
    BuildCache,
    /// What containers have logged.
    Log,
    /// Folders of overlay2 that the engine has forgotten.
    Unreachable,
    /// On the same filesystem, and none of the above.
    Elsewhere,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Occupant {
    pub kind: Kind,
    /// Empty for what is one of a kind.
    pub names: Vec<String>,
    pub id: String,
    /// Bytes; of an image with the layers that it shares.
    pub size: u64,
    /// Of an image, as far as the ledger knows it.
    pub image: Option<ImageUse>,
}

/// What is known of an image that takes space.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageUse {
    /// Is there a container that uses it?
    pub in_use: bool,
    /// How long ago the ledger first saw it.
    pub age: Option<Duration>,
    /// How long ago it was last used; absent where it never was seen in use.
    pub last_used: Option<Duration>,
    /// The `name:tag` by which it was used last.
    pub last_name: Option<String>,
}

/// What stays, as far as it was seen.
#[derive(Debug, Default)]
pub struct Occupants {
    /// Largest first.
    pub largest: Vec<Occupant>,
    pub unreachable: Vec<PathBuf>,
    /// What could not be looked at.
    pub unseen: Vec<Unanswered>,
}

/// What is there. `used` is that of the filesystem that holds the engine's data, bytes.
#[derive(Debug)]
pub struct Facts {
    /// The images that stay.
    pub images: Vec<(ImageClass, Occupant)>,
    pub usage: Answer<DiskUsage>,
    pub files: Answer<Files>,
    pub used: Option<u64>,
}

/// Sort out what takes the most room.
pub fn find(facts: Facts) -> Occupants {
    let Facts { images, usage, files, used } = facts;
    let mut found = Occupants::default();
    for (class, image) in images {
        let kind = match class {
            ImageClass::Tagged => Kind::TaggedImage,
            ImageClass::Cached => Kind::CachedImage,
            ImageClass::Orphan => Kind::Orphan,
        };
        found.largest.push(Occupant { kind, ..image });
    }
    let one =
        |kind, name: String, size| Occupant { kind, id: name.clone(), names: vec![name], size, image: None };
    let whole = |kind, size| Occupant { kind, id: String::new(), names: vec![], size, image: None };
    let mut known = None;
    match usage {
        Err(why) => found.unseen.push(why),
        Ok(usage) => {
            let parts = usage.volumes.iter().chain(&usage.containers).map(|(_, size)| size);
            let parts = parts.fold(usage.build_cache, |sum, size| sum.saturating_add(*size));
            known = usage.layers.map(|layers| layers.saturating_add(parts));
            found.largest.push(whole(Kind::BuildCache, usage.build_cache));
            for (kind, things) in [(Kind::Volume, usage.volumes), (Kind::ContainerLayer, usage.containers)] {
                found.largest.extend(things.into_iter().map(|(name, size)| one(kind, name, size)));
            }
        }
    }
    match files {
        Err(why) => found.unseen.push(why),
        Ok(files) => {
            let sum = |sizes: &[(String, u64)]| sizes.iter().fold(0_u64, |sum, it| sum.saturating_add(it.1));
            let unreachable = files.unreachable.iter().fold(0_u64, |sum, it| sum.saturating_add(it.1));
            known = known.map(|it| it.saturating_add(sum(&files.logs)).saturating_add(unreachable));
            found.largest.extend(files.logs.into_iter().map(|(name, size)| one(Kind::Log, name, size)));
            found.largest.push(whole(Kind::Unreachable, unreachable));
            found.unreachable = files.unreachable.into_iter().map(|(path, _)| path).collect();
        }
    }
    if let (Some(used), Some(known)) = (used, known) {
        found.largest.push(whole(Kind::Elsewhere, used.saturating_sub(known)));
    }
    found.largest.retain(|it| it.size > 0);
    found.largest.sort_by_key(|it| std::cmp::Reverse(it.size));
    found.largest.truncate(SHOWN);
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(id: &str, size: u64) -> Occupant {
        Occupant { kind: Kind::Orphan, id: id.into(), names: vec![], size, image: None }
    }

    #[test]
    fn the_largest_come_first_and_the_rest_of_the_disk_is_told() {
        let facts = Facts {
            images: (1..=20).map(|n| (ImageClass::Tagged, image(&n.to_string(), n))).collect(),
            usage: Ok(DiskUsage {
                layers: Some(100),
                volumes: vec![("data".into(), 50)],
                containers: vec![("web".into(), 30)],
                build_cache: 20,
            }),
            files: Ok(Files {
                logs: vec![("web".into(), 10)],
                unreachable: vec![("/o/1".into(), 5), ("/o/2".into(), 5)],
            }),
            used: Some(1000),
        };
        let found = find(facts);
        let kinds: Vec<_> = found.largest.iter().map(|it| (it.kind, it.size)).collect();
        assert_eq!(kinds.len(), 10);
        let first = [(Kind::Elsewhere, 780), (Kind::Volume, 50), (Kind::ContainerLayer, 30)];
        assert_eq!(kinds[..3], first);
        assert_eq!(found.unreachable.len(), 2);
        assert_eq!(found.unseen, []);
    }

    #[test]
    fn what_cannot_be_seen_is_said_and_nothing_is_made_up() {
        let why = Unanswered("only root may look".into());
        let facts =
            Facts { images: vec![], usage: Err(why.clone()), files: Err(why.clone()), used: Some(1000) };
        let found = find(facts);
        assert_eq!(found.largest, []);
        assert_eq!(found.unseen, [why.clone(), why]);
    }
}
