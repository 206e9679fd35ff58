//! What the engine and the host showed at one moment, and what could not be read.

use std::collections::HashSet;
use std::path::PathBuf;

use super::{
    Answer, CacheRecord, Container, Filesystem, Image, Info, Inhibitor, Kind, Past, Service, Task,
    Unavailable, label,
};

/// The answers of one moment; what was not asked is unavailable.
#[derive(Debug, Clone)]
pub struct Survey {
    pub info: Answer<Info>,
    /// The services of the whole Swarm; empty where the node is in none.
    pub services: Answer<Vec<Service>>,
    pub tasks: Answer<Vec<Task>>,
    pub containers: Answer<Vec<Container>>,
    /// IDs of the nodes that are down or drained: their tasks are not counted as missing.
    pub nodes_away: HashSet<String>,
    pub manager_elsewhere: bool,
    pub inhibitors: Answer<Vec<Inhibitor>>,
    /// `None` where the engine is on another host.
    pub places: Answer<Option<EnginePlaces>>,
    pub filesystems: Answer<Vec<Filesystem>>,
    pub past: Past,
}

impl Survey {
    pub fn unavailable(why: &Unavailable) -> Self {
        Self {
            info: Err(why.clone()),
            services: Err(why.clone()),
            tasks: Err(why.clone()),
            containers: Err(why.clone()),
            nodes_away: HashSet::new(),
            manager_elsewhere: false,
            inhibitors: Err(why.clone()),
            places: Err(why.clone()),
            filesystems: Err(why.clone()),
            past: Past::default(),
        }
    }

    /// The inventory of a plan, still without images and build cache.
    pub fn inventory(&self) -> Answer<Inventory> {
        Ok(Inventory {
            containers: self.containers.clone()?,
            services: self.services.clone()?,
            tasks: self.tasks.clone()?,
            containerd_store: self.info.as_ref().is_ok_and(|info| info.containerd_store),
            ..Inventory::default()
        })
    }

    /// The services of this node's proofs (`verify --redeploy`) that were killed: unless an inhibitor shows that
    /// one is running.
    pub fn left_by_proofs(&self) -> Vec<&str> {
        let node = self.info.as_ref().ok().and_then(|info| info.swarm.node.as_ref());
        let is_left = |service: &&Service| node.is_some() && service.labels.get(label::PROOF) == node;
        let is_running =
            self.inhibitors.as_ref().map_or(true, |active| active.iter().any(Inhibitor::is_proof));
        let left = self.services.iter().flatten().filter(is_left).filter(|_| !is_running);
        left.map(|service| service.name.as_str()).collect()
    }

    /// The paths whose filesystems are measured, where `--disk-path` names these.
    pub fn disk_places(&self, named: &[PathBuf]) -> Answer<DiskPlaces> {
        DiskPlaces::choose(self.places.clone()?, named)
    }
}

/// Where an engine on this host keeps its data. The gate, evictions and consumers all use this.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EnginePlaces {
    pub root: PathBuf,
    pub images: PathBuf,
    pub certain: bool,
}

impl EnginePlaces {
    pub fn all(&self) -> Vec<PathBuf> {
        let images = Some(&self.images).filter(|images| **images != self.root);
        std::iter::once(&self.root).chain(images).cloned().collect()
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskPlaces {
    /// For the gate: what `--disk-path` names, else all that holds the engine's data.
    pub measured: Vec<PathBuf>,
    /// For evictions: what holds the images. Where that is not certain, what `--disk-path` names: then the fullest
    /// of these filesystems decides.
    pub images: Vec<PathBuf>,
}

impl DiskPlaces {
    pub fn choose(engine: Option<EnginePlaces>, named: &[PathBuf]) -> Answer<Self> {
        let named = Some(named.to_vec()).filter(|named| !named.is_empty());
        match (engine, named) {
            (Some(engine), Some(named)) if engine.certain => {
                Ok(Self { measured: named, images: vec![engine.images] })
            }
            (_, Some(named)) => Ok(Self { measured: named.clone(), images: named }),
            (Some(engine), None) => Ok(Self { measured: engine.all(), images: vec![engine.images] }),
            (None, None) => Err(Unavailable(
                "the engine is on another host, whose disk cannot be measured from here; \
                 name a path that shows it with --disk-path"
                    .into(),
            )),
        }
    }
}

/// Everything that the engine has and that a plan is made from.
#[derive(Debug, Clone, Default)]
pub struct Inventory {
    pub containers: Vec<Container>,
    pub images: Vec<Image>,
    pub services: Vec<Service>,
    pub tasks: Vec<Task>,
    pub build_cache: Vec<CacheRecord>,
    pub containerd_store: bool,
    pub unread: Vec<Unread>,
}

impl Inventory {
    pub fn is_unread(&self, id: &str) -> bool {
        self.unread.iter().any(|unread| unread.id == id)
    }
}

/// A question about one object that the engine did not answer, so that the object stays.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unread {
    pub kind: Kind,
    /// Empty for the build cache, and for the images where they could not be listed.
    pub id: String,
    pub why: Unavailable,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn named_paths_are_measured_and_evictions_look_where_the_images_certainly_lie() {
        let engine = |images: &str, certain| {
            Some(EnginePlaces { root: "/var/lib/docker".into(), images: images.into(), certain })
        };
        let elsewhere = || None;
        let table = [
            (engine("/var/lib/docker", true), "", Ok(("/var/lib/docker", "/var/lib/docker"))),
            (engine("/data/c", true), "", Ok(("/var/lib/docker /data/c", "/data/c"))),
            (engine("/data/c", false), "", Ok(("/var/lib/docker /data/c", "/data/c"))),
            (engine("/var/lib/docker", true), "/mnt", Ok(("/mnt", "/var/lib/docker"))),
            (engine("/data/c", true), "/mnt", Ok(("/mnt", "/data/c"))),
            (engine("/data/c", false), "/mnt", Ok(("/mnt", "/mnt"))),
            (elsewhere(), "/mnt /srv", Ok(("/mnt /srv", "/mnt /srv"))),
            (elsewhere(), "", Err(())),
        ];
        let paths = |paths: &str| paths.split_whitespace().map(PathBuf::from).collect::<Vec<_>>();
        for (engine, named, expected) in table {
            let shown = format!("{engine:?} {named:?}");
            let expected = expected
                .map(|(measured, images)| DiskPlaces { measured: paths(measured), images: paths(images) });
            let chosen = DiskPlaces::choose(engine, &paths(named)).map_err(|_| ());
            assert_eq!(chosen, expected, "{shown}");
        }
    }
}
