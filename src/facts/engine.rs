//! The engine itself, and what this host knows about its process and folders.

use std::path::PathBuf;

use super::Swarm;
use crate::units::Time;

/// The engine itself (`GET /info`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Info {
    /// Where the engine keeps its data (`DockerRootDir`).
    pub root: PathBuf,
    /// Its unique ID, as long as its data stay (`ID`); empty where it shows none.
    pub id: String,
    /// The host name of its machine (`Name`); empty if it shows none.
    pub host_name: String,
    /// Memory of that machine in bytes (`MemTotal`); 0 where it shows none.
    pub memory: u64,
    /// The socket of the containerd that it uses (`Containerd.Address`, Docker 27 and later).
    pub containerd: Option<PathBuf>,
    pub containerd_store: bool,
    pub swarm: Swarm,
    /// The engine's version, such as `26.1.5`.
    pub version: String,
    /// The engine's own clock, where it shows one.
    pub time: Option<Time>,
}

/// What this host shows of the engine that answers on a Unix socket.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct EngineTraces {
    /// Whether the engine's root exists here. `None` where this user may not look.
    pub root_exists: Option<bool>,
    /// Whether the engine's process sees the same folder there. `None` where that process is not known.
    pub root_is_shared: Option<bool>,
    /// The ID of the engine whose data lie there (`engine-id`, Docker 23 and later).
    pub engine_id: Option<String>,
    pub daemon_listens: bool,
    pub host_name: String,
    /// The memory of this host, bytes.
    pub memory: Option<u64>,
    /// The containerd that holds the images, where that image store is used.
    pub containerd: Option<Containerd>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Containerd {
    pub separate: bool,
    /// Where it keeps its data, as its process or its configuration says.
    pub root: Option<PathBuf>,
}

/// Where a containerd keeps its data by default (containerd: `defaults.DefaultRootDir`).
pub const CONTAINERD_ROOT: &str = "/var/lib/containerd";

impl EngineTraces {
    /// Whether the engine is on this host, so that its paths are valid here. A socket may lead elsewhere (`ssh -L`,
    /// a virtual machine, an engine in a container). `None` if nothing shows it.
    pub fn is_here(&self, engine: &Info) -> Option<bool> {
        let same_engine = self.engine_id.as_ref().map(|id| *id == engine.id);
        let other_memory = engine.memory > 0 && self.memory.is_some_and(|memory| memory != engine.memory);
        match (self.root_exists, self.root_is_shared.or(same_engine)) {
            (Some(false), _) => Some(false),
            (_, Some(here)) => Some(here),
            _ if other_memory => Some(false),
            _ if engine.host_name.is_empty() => None,
            _ if engine.host_name == self.host_name => Some(true),
            // The host names of two containers on one host differ, and their disks may be the same.
            _ if self.daemon_listens => None,
            _ => Some(false),
        }
    }

    /// Where the images lie, and whether that is certain.
    pub fn images(&self, engine: &Info) -> (PathBuf, bool) {
        match &self.containerd {
            _ if !engine.containerd_store => (engine.root.clone(), true),
            Some(Containerd { root: Some(root), .. }) => (root.clone(), true),
            Some(Containerd { separate: true, .. }) => (CONTAINERD_ROOT.into(), false),
            // moby: containerdRootDir in daemon/command/daemon.go
            _ => (engine.root.join("containerd/daemon"), false),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::SwarmState;

    fn docker(root: &str, containerd_store: bool) -> Info {
        Info {
            root: root.into(),
            id: "1f".into(),
            host_name: "ci".into(),
            memory: 1 << 34,
            containerd: None,
            containerd_store,
            swarm: Swarm { state: SwarmState::Inactive, node: None },
            version: "28.5.2".into(),
            time: None,
        }
    }

    #[test]
    fn an_engine_on_another_host_is_told_by_what_this_host_shows() {
        let engine = docker("/var/lib/docker", false);
        // As a service sees it, which may neither enter the engine's folder nor look at its process.
        let service = EngineTraces {
            root_exists: Some(true),
            host_name: "ci".into(),
            memory: Some(1 << 34),
            ..EngineTraces::default()
        };
        let other = EngineTraces { host_name: "laptop".into(), ..service.clone() };
        let id = |id: &str| Some(id.to_owned());
        let table = [
            ("its own host", service.clone(), Some(true)),
            (
                "a root that may not be looked at",
                EngineTraces { root_exists: None, ..service.clone() },
                Some(true),
            ),
            ("no such root", EngineTraces { root_exists: Some(false), ..service.clone() }, Some(false)),
            ("another name", other.clone(), Some(false)),
            (
                "the same name, other memory",
                EngineTraces { memory: Some(1 << 33), ..service.clone() },
                Some(false),
            ),
            (
                "the same name, another engine's data",
                EngineTraces { engine_id: id("2e"), ..service.clone() },
                Some(false),
            ),
            (
                "in a container, with the engine's data",
                EngineTraces { engine_id: id("1f"), ..other.clone() },
                Some(true),
            ),
            ("a daemon of this kernel", EngineTraces { daemon_listens: true, ..other.clone() }, None),
            ("its root is ours", EngineTraces { root_is_shared: Some(true), ..other.clone() }, Some(true)),
            (
                "its root is another",
                EngineTraces { root_is_shared: Some(false), ..service.clone() },
                Some(false),
            ),
        ];
        for (what, traces, expected) in table {
            assert_eq!(traces.is_here(&engine), expected, "{what}");
        }
        let nameless = Info { host_name: String::new(), ..engine };
        assert_eq!(service.is_here(&nameless), None);
    }

    #[test]
    fn the_images_lie_where_the_containerd_in_use_keeps_them() {
        let containerd =
            |separate, root: Option<&str>| Some(Containerd { separate, root: root.map(PathBuf::from) });
        let table = [
            (false, None, ("/data/docker", true)),
            (false, containerd(true, Some("/data/containerd")), ("/data/docker", true)),
            (true, containerd(true, Some("/data/containerd")), ("/data/containerd", true)),
            (true, containerd(true, None), (CONTAINERD_ROOT, false)),
            (
                true,
                containerd(false, Some("/data/docker/containerd/daemon")),
                ("/data/docker/containerd/daemon", true),
            ),
            (true, containerd(false, None), ("/data/docker/containerd/daemon", false)),
        ];
        for (store, containerd, (place, certain)) in table {
            let shown = format!("{store} {containerd:?}");
            let traces = EngineTraces { containerd, ..EngineTraces::default() };
            assert_eq!(traces.images(&docker("/data/docker", store)), (place.into(), certain), "{shown}");
        }
    }
}
