//! What the engine and the host say, in our own words: the only types that cross from the edge.

use std::collections::HashMap;
use std::path::PathBuf;

use thiserror::Error;

use crate::units::{Percent, Time};

/// A question that got no answer; the text names what was asked and why there is none.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{0}")]
pub struct Unavailable(pub String);

/// An answer, or why there is none.
pub type Answer<T> = Result<T, Unavailable>;

/// The engine itself (`GET /info`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Info {
    /// Where the engine keeps its data (`DockerRootDir`).
    pub root: PathBuf,
    /// What tells it from other engines, as long as its data stay (`ID`); empty where it shows none.
    pub id: String,
    /// Of the machine that it runs on (`Name`); empty where it shows none.
    pub host_name: String,
    /// Memory of that machine in bytes (`MemTotal`); 0 where it shows none.
    pub memory: u64,
    /// The socket of the containerd that it uses (`Containerd.Address`, Docker 27 and later).
    pub containerd: Option<PathBuf>,
    /// Does the containerd image store hold the images?
    pub containerd_store: bool,
    /// This node's part in a Swarm.
    pub swarm: Swarm,
    /// The engine's own, such as `26.1.5`.
    pub version: String,
    /// The engine's own clock, where it shows one.
    pub time: Option<Time>,
}

/// What this host shows of the engine that answers on a Unix socket.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct EngineTraces {
    /// Is there something at the engine's root? `None` where this user may not look.
    pub root_exists: Option<bool>,
    /// Does the engine's process see there what this program sees? `None` where that process is not known.
    pub root_is_shared: Option<bool>,
    /// The ID of the engine whose data lie there (`engine-id`, Docker 23 and later).
    pub engine_id: Option<String>,
    /// Was a Docker daemon that runs on this kernel told to listen on the socket?
    pub daemon_listens: bool,
    /// This host's.
    pub host_name: String,
    /// This host's, in bytes.
    pub memory: Option<u64>,
    /// The containerd that holds the images, where that image store is used.
    pub containerd: Option<Containerd>,
}

/// The containerd that an engine uses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Containerd {
    /// Was it started by something else than the engine?
    pub separate: bool,
    /// Where it keeps its data, as its process or its configuration says.
    pub root: Option<PathBuf>,
}

/// Where a containerd keeps its data that was told nothing else (containerd: `defaults.DefaultRootDir`).
pub const CONTAINERD_ROOT: &str = "/var/lib/containerd";

impl EngineTraces {
    /// Is the engine on this host, so that its paths are ours? A socket may lead elsewhere (`ssh -L`, a virtual machine,
    /// an engine in a container). `None` where nothing tells.
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

/// What this node is to a Swarm.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Swarm {
    /// Its part, or why it has none.
    pub state: SwarmState,
    /// The node's ID in its Swarm.
    pub node: Option<String>,
}

/// This node's part in a Swarm (`Swarm.LocalNodeState` and `ControlAvailable` of `GET /info`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SwarmState {
    /// It is in no Swarm.
    Inactive,
    /// It can be asked about services and tasks.
    Manager,
    /// It runs tasks, and only a manager knows of which services.
    Worker,
    /// A manager that waits for its unlock key (`docker swarm unlock`).
    Locked,
    /// It is joining.
    Pending,
    /// With the engine's own words.
    Failed(String),
}

/// A Swarm service (`GET /services?status=true`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    /// Swarm's ID of it.
    pub id: String,
    /// Unique in its Swarm.
    pub name: String,
    /// Of the service itself, not of its containers.
    pub labels: Labels,
    /// When it was created; `None` where the engine shows none.
    pub created: Option<Time>,
    /// When its spec last changed.
    pub updated: Option<Time>,
    /// The image that the spec names.
    pub image: String,
    /// The image that the previous spec names: a rollback would start it.
    pub previous_image: Option<String>,
    /// How many tasks it wants, and whether they end.
    pub mode: Mode,
    /// Absent where the engine does not count tasks.
    pub status: Option<TaskCounts>,
    /// Where the last change of its spec stands.
    pub update: Update,
    /// Its restart policy.
    pub restart: Restart,
    /// Which execution of a job its tasks must belong to.
    pub job_iteration: u64,
}

/// What a service wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// So many tasks, wherever they fit.
    Replicated {
        /// How many tasks are to run.
        replicas: u64,
    },
    /// One task on each node that suits it.
    Global,
    /// Tasks that end, so many in all.
    ReplicatedJob {
        /// How many tasks are to complete.
        completions: u64,
    },
    /// One task that ends on each node that suits it.
    GlobalJob,
}

/// The engine's count of a service's tasks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TaskCounts {
    /// Tasks in the state `running`.
    pub running: u64,
    /// Tasks that Swarm wants to run.
    pub desired: u64,
    /// Of a job: tasks that completed.
    pub completed: u64,
}

/// Where a service's update stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Update {
    /// None was made, or it is over, paused or not.
    Settled,
    /// `updating`.
    Updating,
    /// `rollback_started`.
    RollingBack,
}

/// When Swarm starts a task again that has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Restart {
    /// `any`, which is also Swarm's default.
    Always,
    /// `on-failure`.
    OnFailure,
    /// `none`.
    Never,
}

/// A Swarm task (`GET /tasks`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Task {
    /// The ID of its service.
    pub service: String,
    /// Which replica this is; tasks of global services have a node instead.
    pub slot: u64,
    /// The ID of its node, once it has one.
    pub node: Option<String>,
    /// When Swarm made it; `None` where the engine shows none.
    pub created: Option<Time>,
    /// How far it came.
    pub state: TaskState,
    /// Does Swarm want it to run (or, in a job, to complete)?
    pub wanted: bool,
    /// Why it does not run, in the engine's words.
    pub error: Option<String>,
    /// The ID of its container, once it has one.
    pub container: Option<String>,
    /// The image that its spec names.
    pub image: String,
    /// The execution of a job that it belongs to; 0 for other services.
    pub job_iteration: u64,
}

/// Where a task stands, as far as anyone here asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TaskState {
    /// `new`, `allocated`, `assigned`, `accepted`, `ready` or `starting`.
    Starting,
    /// No node has been found so far.
    Pending,
    /// The node prepares it: this is where an image is pulled.
    Preparing,
    /// Its container runs.
    Running,
    /// Its container ended with status 0.
    Complete,
    /// Its container ended with another status.
    Failed,
    /// The node could not start it: the image was missing, say.
    Rejected,
    /// `shutdown`, `remove` or `orphaned`.
    Over,
}

impl TaskState {
    /// Will a task in this state run or do more by itself?
    pub fn is_live(self) -> bool {
        matches!(self, Self::Starting | Self::Pending | Self::Preparing | Self::Running)
    }
}

/// The labels that Docker and Compose give to what they make.
pub mod label {
    /// The stack of a service and its containers (docker/cli: `convert.LabelNamespace`).
    pub const STACK: &str = "com.docker.stack.namespace";
    /// The Compose project of a container (docker/compose: `api.ProjectLabel`).
    pub const COMPOSE_PROJECT: &str = "com.docker.compose.project";
    /// The service of a task's container, by ID (moby: `daemon/cluster/executor/container`).
    pub const SERVICE_ID: &str = "com.docker.swarm.service.id";
    /// The same by name.
    pub const SERVICE_NAME: &str = "com.docker.swarm.service.name";
    /// What Compose gives to containers alone. Its builds bake project, service and version into images, whose labels
    /// every container of them has (docker/compose: `prepareLabels`, `getImageBuildLabels`).
    const COMPOSE_CONTAINER: [&str; 2] =
        ["com.docker.compose.config-hash", "com.docker.compose.container-number"];

    /// The stack of a container, whatever its image's own labels say.
    pub fn stack(labels: &super::Labels) -> Option<&str> {
        labels.get(STACK).filter(|_| labels.contains_key(SERVICE_ID)).map(String::as_str)
    }

    /// The Compose project of a container, whatever its image's own labels say.
    pub fn compose_project(labels: &super::Labels) -> Option<&str> {
        let by_compose = COMPOSE_CONTAINER.iter().any(|key| labels.contains_key(*key));
        labels.get(COMPOSE_PROJECT).filter(|_| by_compose).map(String::as_str)
    }
}

/// Docker labels, by key.
pub type Labels = HashMap<String, String>;

/// A container (`GET /containers/json`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Container {
    /// The engine's ID of it.
    pub id: String,
    /// Without the leading slash.
    pub names: Vec<String>,
    /// The image as it was asked for.
    pub image: String,
    /// The ID of that image; empty where the engine no longer knows it.
    pub image_id: String,
    /// The images that it mounts (`type=image`), as they were asked for.
    pub mounted_images: Vec<String>,
    /// The volumes that it mounts, by name.
    pub volumes: Vec<String>,
    /// Its state when the list was made.
    pub state: ContainerState,
    /// Those of its image included.
    pub labels: Labels,
    /// When it was created, not when it started; to the second.
    pub created: Option<Time>,
    /// When it ended, where that was asked (`GET /containers/{id}/json`).
    pub finished: Option<Time>,
    /// Its restart policy, such as `always`, where that was asked.
    pub restart_policy: Option<String>,
}

impl Container {
    /// What tells the images that it uses: the ID of the one that it runs, and the references of those that it mounts.
    /// [`Image::is_named`] tells which images these are.
    pub fn images(&self) -> impl Iterator<Item = &str> {
        std::iter::once(self.image_id.as_str()).chain(self.mounted_images.iter().map(String::as_str))
    }
}

/// What only inspecting a container tells (`GET /containers/{id}/json`).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Inspected {
    /// When it ended; `None` where it has not.
    pub finished: Option<Time>,
    /// Its restart policy, such as `always`.
    pub restart_policy: Option<String>,
}

/// The state of a container, as the engine's list names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ContainerState {
    /// It never ran.
    Created,
    /// Its process runs.
    Running,
    /// Its processes are frozen.
    Paused,
    /// It ended, and the engine starts it again.
    Restarting,
    /// Another removal is under way.
    Removing,
    /// Its process ended.
    Exited,
    /// A removal of it failed half-way.
    Dead,
    /// A state that this program does not know; never touched.
    Other,
}

impl ContainerState {
    /// Neither exited nor dead: a run in this state is live.
    pub fn is_live(self) -> bool {
        !matches!(self, Self::Exited | Self::Dead)
    }

    /// As the engine names it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Restarting => "restarting",
            Self::Removing => "removing",
            Self::Exited => "exited",
            Self::Dead => "dead",
            Self::Other => "in an unknown state",
        }
    }
}

/// An image (`GET /images/json`), its references told apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// `sha256:…`: of the configuration on overlay2, of the manifest on the containerd image store.
    pub id: String,
    /// `name:tag`, without a digest.
    pub tags: Vec<String>,
    /// `name@sha256:…` and, on the containerd image store, `name:tag@sha256:…`.
    pub digests: Vec<String>,
    /// The tag of our own that a removal under way gave it; never among its tags.
    pub eviction_tag: Option<String>,
    /// Build date; `None` where the engine shows none.
    pub created: Option<Time>,
    /// When its tag was last set, where that was asked and is known (`GET /images/{id}/json`).
    pub last_tagged: Option<Time>,
    /// The ID of the image that the classic builder made it from.
    pub parent: Option<String>,
    /// How many untagged parents it has, one the child of the other, where that was asked.
    pub untagged_parents: usize,
    /// Bytes, layers shared with other images included.
    pub size: u64,
    /// Of its configuration.
    pub labels: Labels,
}

/// A layer of an image, with the layers below it: two images share one where all below are the same too.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layer {
    /// The digest of its content (`RootFS.Layers`), shortened to [`Layer::ID_DIGITS`] digits.
    pub id: String,
    /// Bytes that its store keeps of it: on the containerd store packed and unpacked.
    pub size: u64,
}

impl Layer {
    /// Enough to tell the layers of one host apart.
    pub const ID_DIGITS: usize = 16;

    /// A layer by its digest.
    pub fn new(digest: &str, size: u64) -> Self {
        let hex = digest.split_once(':').map_or(digest, |(_, hex)| hex);
        Self { id: hex.chars().take(Self::ID_DIGITS).collect(), size }
    }
}

/// A step of an image's history (`GET /images/{id}/history`), oldest first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BuildStep {
    /// Bytes of its layer, unpacked; 0 of a step that made none.
    pub size: u64,
    /// The command.
    pub created_by: String,
}

/// The commands that write files, and so make a layer, be it of 0 bytes; all others change the configuration only.
const LAYER_COMMANDS: [&str; 4] = ["RUN", "COPY", "ADD", "WORKDIR"];

/// The layers of an image, base first, from the digests of its layers, its history, and what it takes in all; `None` where
/// the three do not fit together.
///
/// The history does not say which of its steps made a layer. Those with a size did; of the others as many as are
/// missing, the commands that write files first. What the image takes beyond the sum of its layers (the containerd
/// store keeps each layer as it was pulled too) is shared out by size.
pub fn layers(digests: &[String], history: &[BuildStep], total: u64) -> Option<Vec<Layer>> {
    let with_size = history.iter().filter(|step| step.size > 0).count();
    let mut empty = digests.len().checked_sub(with_size)?;
    if history.len() < digests.len() {
        return None;
    }
    let writes = |step: &BuildStep| {
        // The classic builder's form; without its `#(nop)` it is a RUN.
        let command = match step.created_by.strip_prefix("/bin/sh -c ") {
            Some(command) => match command.strip_prefix("#(nop)") {
                Some(command) => command.trim_start(),
                None => return true,
            },
            None => &step.created_by,
        };
        LAYER_COMMANDS.iter().any(|name| command.starts_with(name))
    };
    let mut made: Vec<bool> = history.iter().map(|step| step.size > 0).collect();
    for only_writing in [true, false] {
        for (step, made) in history.iter().zip(&mut made) {
            if empty > 0 && !*made && (writes(step) || !only_writing) {
                *made = true;
                empty -= 1;
            }
        }
    }
    let sizes: Vec<u64> =
        history.iter().zip(&made).filter(|(_, made)| **made).map(|(step, _)| step.size).collect();
    let unpacked: u64 = sizes.iter().fold(0, |sum, size| sum.saturating_add(*size));
    let packed = total.saturating_sub(unpacked);
    let share = |size: u64| {
        let of = u128::from(packed) * u128::from(size) / u128::from(unpacked.max(1));
        size.saturating_add(u64::try_from(of).unwrap_or(u64::MAX))
    };
    Some(digests.iter().zip(sizes).map(|(digest, size)| Layer::new(digest, share(size))).collect())
}

/// The repository of our own tags: an image that is being evicted gets one, loses its names, and
/// goes a moment later. No registry can have this name (RFC 2606).
pub const EVICTION_REPOSITORY: &str = "ci-docker-prune.invalid/evicting";

/// What the references of an answer are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct References {
    /// As [`Image::tags`].
    pub tags: Vec<String>,
    /// As [`Image::digests`].
    pub digests: Vec<String>,
    /// As [`Image::eviction_tag`].
    pub eviction_tag: Option<String>,
}

/// What a name-less and what a named image is to this program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ImageClass {
    /// It has a `name:tag`.
    Tagged,
    /// It has a digest and no tag: what Swarm pulls, or what an eviction has begun to remove.
    Cached,
    /// It has no name at all.
    Dangling,
}

/// The shortest beginning of an image's ID that is taken for one, in hexadecimal digits.
const SHORTEST_ID: usize = 4;

impl Image {
    /// Does this reference of a container mean this image: by its ID or the beginning of it, by a `name:tag` or by a digest?
    pub fn is_named(&self, reference: &str) -> bool {
        let (id, hex) = (self.id.trim_start_matches("sha256:"), reference.trim_start_matches("sha256:"));
        let digests = || self.digests.iter().filter_map(|own| own.split_once('@'));
        let by_name = || match reference.split_once('@') {
            // On the containerd store the digest is the ID.
            Some((_, digest)) => digest == self.id || digests().any(|(_, own)| own == digest),
            None => name_tag(reference).is_some_and(|wanted| {
                // Short names count like full ones.
                self.tags.iter().any(|tag| name_tag(tag).as_ref() == Some(&wanted))
            }),
        };
        reference == self.id || (hex.len() >= SHORTEST_ID && id.starts_with(hex)) || by_name()
    }

    /// Its tags; where it has none, its digests.
    pub fn shown_names(&self) -> Vec<String> {
        if self.tags.is_empty() { self.digests.clone() } else { self.tags.clone() }
    }

    /// Has it no name but perhaps our own?
    pub fn is_nameless(&self) -> bool {
        self.tags.is_empty() && self.digests.is_empty()
    }

    /// Is this, letter by letter, one of its names?
    pub fn has_reference(&self, reference: &str) -> bool {
        self.tags.iter().chain(&self.digests).any(|name| name == reference)
    }

    /// What the image is to this program, by its references.
    pub fn class(&self) -> ImageClass {
        match (self.tags.is_empty(), self.digests.is_empty(), &self.eviction_tag) {
            (false, ..) => ImageClass::Tagged,
            (true, false, _) | (true, true, Some(_)) => ImageClass::Cached,
            (true, true, None) => ImageClass::Dangling,
        }
    }
}

impl References {
    /// Tell the references of an answer apart. The engine's literals for "none" (20.10 writes
    /// `<none>:<none>` and `<none>@<none>`) and the containerd store's `moby-dangling@…` count as
    /// no name; a tag with a digest in it is a digest.
    pub fn new(tags: Vec<String>, digests: Vec<String>) -> Self {
        let own = |name: &String| {
            name.strip_prefix(EVICTION_REPOSITORY).is_some_and(|rest| rest.starts_with([':', '@']))
        };
        let named =
            |name: &String| !name.starts_with("<none>") && !name.starts_with("moby-dangling@") && !own(name);
        let eviction_tag = tags.iter().find(|tag| own(tag)).cloned();
        let (pinned, tags): (Vec<_>, Vec<_>) =
            tags.into_iter().filter(named).partition(|tag| tag.contains('@'));
        let mut digests: Vec<_> = digests.into_iter().filter(named).chain(pinned).collect();
        digests.sort();
        digests.dedup();
        Self { tags, digests, eviction_tag }
    }
}

/// The `name:tag` in a reference, in the short form that the engine shows: without a digest, `docker.io/` or
/// `library/`, and with `latest` where no tag is given. `None` for an image ID, and for a name with a digest only.
pub fn name_tag(reference: &str) -> Option<String> {
    let (name, digest) =
        reference.split_once('@').map_or((reference, None), |(name, digest)| (name, Some(digest)));
    let short = ["docker.io/", "index.docker.io/", "library/"]
        .into_iter()
        .fold(name, |name, prefix| name.strip_prefix(prefix).unwrap_or(name));
    // A colon before a slash belongs to the registry's port.
    let has_tag = short.rsplit('/').next().is_some_and(|last| last.contains(':'));
    let is_id = short.starts_with("sha256:")
        || (short.len() >= 12 && !has_tag && short.bytes().all(|byte| byte.is_ascii_hexdigit()));
    match (short.is_empty() || is_id, has_tag, digest) {
        (true, ..) | (false, false, Some(_)) => None,
        (false, true, _) => Some(short.to_owned()),
        (false, false, None) => Some(format!("{short}:latest")),
    }
}

/// A record of BuildKit's cache (`GET /system/df?type=build-cache`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheRecord {
    /// Bytes.
    pub size: u64,
    /// A build works with it now.
    pub in_use: bool,
    /// An image has it as a layer, so its removal frees nothing.
    pub shared: bool,
    /// `internal` and `frontend` records go only with `all`.
    pub internal: bool,
    /// Last use, else creation.
    pub last_used: Option<Time>,
}

/// What the engine counts of its own (`GET /system/df`). Bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DiskUsage {
    /// All layers of all images, each once; absent where counting them takes seconds.
    pub layers: Option<u64>,
    /// By name.
    pub volumes: Vec<(String, u64)>,
    /// What containers have written on top of their images, by name.
    pub containers: Vec<(String, u64)>,
    /// Records of BuildKit's cache that no image shares.
    pub build_cache: u64,
}

/// What only a look into the engine's folder tells. Bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Files {
    /// What containers have logged, by container ID.
    pub logs: Vec<(String, u64)>,
    /// Folders of overlay2 that belong to no layer and no container.
    pub unreachable: Vec<(PathBuf, u64)>,
}

/// A running command that blocks prunes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inhibitor {
    /// Its process; `None`, like the rest, where its file says nothing.
    pub pid: Option<u32>,
    /// When its command began.
    pub since: Option<Time>,
    /// What was given with `--why`.
    pub why: Option<String>,
}

/// A filesystem as statvfs(3) sees it, in bytes and inodes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filesystem {
    /// Where it is mounted, as far as the measured path shows.
    pub mount_point: PathBuf,
    /// All blocks, in bytes.
    pub size: u64,
    /// Blocks that are not free, in bytes.
    pub used: u64,
    /// Available to users: without the blocks reserved for root.
    pub available: u64,
    /// 0 where the filesystem does not count inodes (btrfs).
    pub inodes: u64,
    /// Inodes that are not free.
    pub inodes_used: u64,
    /// What btrfs can have for its metadata, in bytes: what it has set aside, and what the rest of the devices can still
    /// give. 0 on other filesystems.
    pub metadata: u64,
    /// What of it is taken.
    pub metadata_used: u64,
}

impl Filesystem {
    /// As `df` counts: used of what users can have, rounded up. `None` for a filesystem of no size.
    pub fn block_percent(&self) -> Option<Percent> {
        Percent::of(self.used, self.used.saturating_add(self.available))
    }

    /// As `df -i` counts; `None` where inodes are not counted.
    pub fn inode_percent(&self) -> Option<Percent> {
        Percent::of(self.inodes_used, self.inodes)
    }

    /// How much of what btrfs can have for its metadata is taken. Nothing can be written when all of it is, whatever
    /// `df` shows. `None` on other filesystems.
    pub fn metadata_percent(&self) -> Option<Percent> {
        Percent::of(self.metadata_used, self.metadata)
    }

    /// The largest of them; `None` for a filesystem of no size.
    pub fn percent(&self) -> Option<Percent> {
        self.block_percent().max(self.block_percent().and(self.inode_percent().max(self.metadata_percent())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(words: &[&str]) -> Vec<String> {
        words.iter().map(|&word| word.to_owned()).collect()
    }

    #[test]
    fn a_tag_with_a_digest_in_it_is_a_digest_and_none_is_none() {
        let digest = "app@sha256:aa";
        let table = [
            (words(&["app:1"]), words(&[digest]), ImageClass::Tagged),
            (words(&["app:1@sha256:aa"]), words(&[digest]), ImageClass::Cached),
            (words(&[]), words(&[digest]), ImageClass::Cached),
            (words(&["<none>:<none>"]), words(&["<none>@<none>"]), ImageClass::Dangling),
            (words(&[]), words(&["moby-dangling@sha256:aa"]), ImageClass::Dangling),
            (words(&["app:1", "app:1@sha256:aa"]), words(&[digest]), ImageClass::Tagged),
            (words(&["ci-docker-prune.invalid/evicting:aa"]), words(&[]), ImageClass::Cached),
            (words(&["ci-docker-prune.invalid/evictings:aa"]), words(&[]), ImageClass::Tagged),
            (
                words(&["app:1", "ci-docker-prune.invalid/evicting:aa"]),
                words(&["ci-docker-prune.invalid/evicting@sha256:aa"]),
                ImageClass::Tagged,
            ),
        ];
        for (tags, digests, expected) in table {
            let shown = format!("{tags:?} {digests:?}");
            let References { tags, digests, eviction_tag } = References::new(tags, digests);
            let image = Image {
                id: String::new(),
                tags,
                digests,
                eviction_tag,
                created: None,
                last_tagged: None,
                parent: None,
                untagged_parents: 0,
                size: 0,
                labels: Labels::new(),
            };
            assert_eq!(image.class(), expected, "{shown}");
        }
    }

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

    #[test]
    fn an_image_is_named_by_its_id_a_tag_or_a_digest() {
        let image = Image {
            tags: words(&["tools:1", "localhost:5000/tools:latest"]),
            digests: words(&["tools@sha256:d1", "tools:2@sha256:d2"]),
            ..crate::testing::image("f02e934b7a31ab9c")
        };
        let table = [
            ("sha256:f02e934b7a31ab9c", true),
            ("f02e934b7a31", true),
            ("f02e", true),
            ("f0", false),
            ("sha256:", false),
            ("", false),
            ("e934b7a31ab9", false),
            ("tools:1", true),
            ("docker.io/library/tools:1", true),
            ("localhost:5000/tools", true),
            ("tools", false),
            ("tools:2", false),
            ("tools@sha256:d1", true),
            ("tools:1@sha256:d2", true),
            ("tools:1@sha256:d3", false),
            ("other@sha256:f02e934b7a31ab9c", true),
        ];
        for (reference, expected) in table {
            assert_eq!(image.is_named(reference), expected, "{reference}");
        }
    }

    #[test]
    fn a_container_is_of_a_project_or_stack_only_by_labels_that_no_image_has() {
        let labels = crate::testing::labels;
        let (project, stack) = ((label::COMPOSE_PROJECT, "shop"), (label::STACK, "shop"));
        let of_project = |also| label::compose_project(&labels(&[project, (also, "1")])).is_some();
        assert!(of_project("com.docker.compose.config-hash"));
        assert!(of_project("com.docker.compose.container-number"));
        assert!(!of_project("com.docker.compose.service") && !of_project(label::SERVICE_ID));
        let of_stack = |also| label::stack(&labels(&[stack, (also, "1")])).is_some();
        assert!(of_stack(label::SERVICE_ID) && !of_stack("com.docker.compose.config-hash"));
        assert_eq!(label::compose_project(&labels(&[("com.docker.compose.config-hash", "1")])), None);
    }

    #[test]
    fn a_name_and_tag_is_found_in_any_reference() {
        let table = [
            ("redis:7@sha256:aa", Some("redis:7")),
            ("docker.io/library/redis:7@sha256:aa", Some("redis:7")),
            ("redis", Some("redis:latest")),
            ("redis@sha256:aa", None),
            ("localhost:5000/shop/web:1@sha256:aa", Some("localhost:5000/shop/web:1")),
            ("localhost:5000/shop/web", Some("localhost:5000/shop/web:latest")),
            ("localhost:5000/shop/web@sha256:aa", None),
            ("sha256:f02e934b7a31ab9c590f992264c80652aa02e9749feb90384897e32eabe04fe8", None),
            ("f02e934b7a31", None),
            ("f02e934b7a31:1", Some("f02e934b7a31:1")),
            ("", None),
        ];
        for (reference, expected) in table {
            assert_eq!(name_tag(reference).as_deref(), expected, "{reference}");
        }
    }

    #[test]
    fn layers_are_told_from_the_history() {
        let step = |size, created_by: &str| BuildStep { size, created_by: created_by.into() };
        let digests = |n: usize| (0..n).map(|n| format!("sha256:{n}")).collect::<Vec<_>>();
        let base = || vec![step(100, "ADD base"), step(0, "CMD [\"sh\"]")];
        let table = [
            (digests(1), base(), 100, Some(vec![100])),
            // BuildKit's and the classic builder's layers of 0 bytes.
            (
                digests(2),
                [base(), vec![step(0, "ENV a=b"), step(0, "WORKDIR /x")]].concat(),
                100,
                Some(vec![100, 0]),
            ),
            (
                digests(3),
                [
                    vec![step(0, "/bin/sh -c true"), step(0, "/bin/sh -c #(nop)  ENV a=b")],
                    vec![step(5, "/bin/sh -c #(nop) COPY a /"), step(0, "/bin/sh -c #(nop) WORKDIR /x")],
                ]
                .concat(),
                5,
                Some(vec![0, 5, 0]),
            ),
            // A tool with words of its own: the oldest step of no size.
            (
                digests(2),
                vec![step(0, "bazel build"), step(7, "bazel build"), step(0, "bazel")],
                7,
                Some(vec![0, 7]),
            ),
            // The containerd store keeps what was pulled too.
            (digests(2), vec![step(100, "ADD a"), step(300, "ADD b")], 600, Some(vec![150, 450])),
            (digests(1), vec![step(1, "ADD a"), step(1, "ADD b")], 2, None),
            (digests(3), base(), 100, None),
            (vec![], vec![], 0, Some(vec![])),
        ];
        for (digests, history, total, expected) in table {
            let found = layers(&digests, &history, total);
            let sizes =
                found.as_ref().map(|layers| layers.iter().map(|layer| layer.size).collect::<Vec<_>>());
            assert_eq!(sizes, expected, "{history:?}");
        }
        assert_eq!(Layer::new("sha256:0123456789abcdef0123", 1).id, "0123456789abcdef");
    }

    #[test]
    fn usage_is_the_larger_of_blocks_and_inodes() {
        let disk = |used, available, inodes_used, inodes| Filesystem {
            metadata: 0,
            metadata_used: 0,
            mount_point: "/".into(),
            size: 1000,
            used,
            available,
            inodes,
            inodes_used,
        };
        let table = [
            (disk(310, 690, 1, 100), Some(31)),
            (disk(310, 640, 1, 100), Some(33)), // 50 reserved for root
            (disk(10, 990, 91, 100), Some(91)),
            (disk(10, 990, 0, 0), Some(1)), // btrfs
            (disk(0, 0, 1, 100), None),
            (disk(700, 0, 1, 100), Some(100)), // only root's reserve is left
            (disk(90 << 40, 10 << 40, 1, 4 << 30), Some(90)),
            (Filesystem { metadata: 100, metadata_used: 97, ..disk(570, 430, 0, 0) }, Some(97)), // full, and df shows 57%
        ];
        for (filesystem, expected) in table {
            assert_eq!(filesystem.percent().map(Percent::get), expected, "{filesystem:?}");
        }
    }
}
