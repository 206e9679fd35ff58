//! The state of a simulated engine and what changes it: images with shared layers, references by both stores' habits,
//! containers, Swarm services and their tasks on the way to a running container, events with their delay, and a disk.
//!
//! It behaves as real engines were observed to (`docs/policy.md`, and the tests against real engines); where the two
//! differ, this one is wrong. Time is in milliseconds since the beginning of the simulation.

use std::collections::{BTreeMap, BTreeSet};

use ci_docker_prune::engine::watch::{Actor, Event};
use ci_docker_prune::facts::EVICTION_REPOSITORY;

/// Which store holds the images.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Store {
    /// overlay2: a digest reference stands beside the tags.
    Overlay2,
    /// containerd's: a reference by digest is a tag with a digest in it.
    Containerd,
}

/// Swarm looks for a task's image this long after the service was created (observed on 20.10 to 29).
pub const LOOKUP_DELAY: u64 = 200;
/// Between finding the image and creating the container by its name, the engine asks it for its configuration.
pub const CREATE_DELAY: u64 = 5;
/// Between the engine's answer that an image may go and its being gone, and between a container's creation and its
/// being known: the window in which one can fall into the other.
pub const COMMIT_DELAY: u64 = 3;
/// Between a client's creation of a container, which finds its image by name, and the container's being known, on an engine
/// that is busy: what the second of grace is for.
pub const SLOW_CREATION: u64 = 300;
/// Swarm makes a rejected task anew after this (`--restart-delay`, default).
const RESTART_DELAY: u64 = 5_000;
/// A pull of layers that are all there only asks the registry.
const EMPTY_PULL: u64 = 60;
/// And this much more for each layer that is not there.
const LAYER_PULL: u64 = 400;
/// An engine that restarts is away for this long, and lists no container for this long after it is back.
const RESTART_DOWN: u64 = 300;
const RESTART_SETTLING: u64 = 200;

/// An image in a registry, and perhaps in the engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// `app`: its repository, and the part of its digests and IDs that tells it.
    pub name: String,
    /// By which a deploy asks for it: `name:tag@sha256:…`.
    pub reference: String,
    /// With their sizes in bytes.
    pub layers: Vec<(String, u64)>,
}

impl Image {
    /// An image that is asked for by its name.
    pub fn new(name: &str, layers: Vec<(String, u64)>) -> Self {
        Self { name: name.into(), reference: format!("{name}:1@sha256:d{name}"), layers }
    }

    pub fn id(&self) -> String {
        format!("sha256:{}", self.name)
    }

    pub fn size(&self) -> u64 {
        self.layers.iter().map(|(_, size)| size).sum()
    }
}

/// An image that the engine has.
#[derive(Debug, Clone)]
pub struct Stored {
    pub image: Image,
    /// `name:tag`, `name@sha256:…` (overlay2), `name:tag@sha256:…` (containerd), our own tag.
    pub references: BTreeSet<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ContainerState {
    Created,
    Running,
    /// Since then.
    Exited(u64),
}

#[derive(Debug, Clone)]
pub struct Container {
    pub name: String,
    /// The image as it was asked for, and its ID.
    pub asked: String,
    pub image: String,
    pub state: ContainerState,
    /// Milliseconds; may lie before the beginning.
    pub created: i64,
    /// The service, of a task's container.
    pub service: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TaskState {
    New,
    Preparing,
    Starting,
    Running,
    Rejected,
}

#[derive(Debug, Clone)]
pub struct Task {
    pub service: String,
    pub state: TaskState,
    pub container: Option<String>,
}

#[derive(Debug, Clone)]
pub struct Service {
    pub name: String,
    /// `name:tag@sha256:…`.
    pub image: String,
    /// Its name in the registry.
    key: String,
    pub created: u64,
    /// Layers of images that had a name when it was created: none of them may have to be downloaded for it.
    layers_there: BTreeSet<String>,
}

/// Who pulls: on the containerd store Swarm's pull leaves `name:tag@sha256:…`, and one by hand `name@sha256:…`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Puller {
    Swarm,
    Hand,
}

/// Something that the engine does by itself at some time.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Step {
    Lookup(usize),
    /// The task's image is pulled.
    Pulled(usize),
    /// A pull by hand, of this image, has ended.
    PulledByHand(String),
    CreateContainer(usize),
    /// Of this task, with the image of this ID.
    ContainerIsThere(usize, String),
    StartContainer(usize),
    Retry(usize),
    /// A container of this name, as asked for, whose image of this ID was found a while ago.
    SlowContainerIsThere(String, String, String),
}

/// An event, and when a subscriber sees it.
#[derive(Debug, Clone)]
pub struct Seen {
    pub at: u64,
    pub visible: u64,
    pub event: Event,
}

/// Something after which no removal is safe.
#[derive(Debug, Clone, Copy)]
pub struct Sign {
    pub at: u64,
    pub visible: u64,
}

/// What must never happen.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Violation {
    /// A task of this service was rejected: "No such image".
    TaskRejected(String),
    /// This container runs, and its image is gone.
    ContainerWithoutImage(String),
    /// This service had to download a layer that was there when it was created.
    DownloadedAgain(String),
    /// An order was given although the program could see this.
    OrderAfter(&'static str),
    /// The report does not account for each planned object once.
    NotToldOnce(String),
    /// The run did not end.
    Endless,
    /// Something of ours was left behind after a further prune.
    LeftBehind(String),
    /// A tag is gone although its image, or a newer one that had it, is there.
    NameLost(String),
    /// A tag names an older image than the one that was given it last.
    NameMoved(String),
    /// Our tag, all that kept the image, was taken off less than a second after its last name.
    NoGrace(String),
    /// The ledger does not know of a use that another process recorded.
    UseForgotten(String),
}

/// Everything.
#[derive(Debug, Clone)]
pub struct State {
    pub store: Store,
    pub registry: BTreeMap<String, Image>,
    /// By ID.
    pub images: BTreeMap<String, Stored>,
    /// By ID.
    pub containers: BTreeMap<String, Container>,
    pub services: BTreeMap<String, Service>,
    pub tasks: Vec<Task>,
    pub events: Vec<Seen>,
    queue: BTreeSet<(u64, usize, Step)>,
    sequence: usize,
    /// Bytes.
    pub disk_size: u64,
    /// Bytes on the disk that are none of Docker's.
    pub ballast: u64,
    /// Does the filesystem keep what is removed?
    pub keeps_snapshots: bool,
    /// Until then the event stream is broken off, and subscribed again after it.
    pub cut_until: u64,
    /// Is there build cache that no build has used for long?
    pub stale_cache: bool,
    /// Bytes that the program keeps in reserve.
    reserve: u64,
    /// What a tag named before the program began, by `name:tag`, and what it must name at the end: the latest image that
    /// was given it.
    pub names: BTreeMap<String, String>,
    /// IDs of images that were built meanwhile: no plan knows them.
    built: BTreeSet<String>,
    /// What operators consented to evict by its tag begins like this.
    pub consent: &'static str,
    /// When something happened after which no removal is safe, and when a subscriber could see that. Not told by the
    /// program's own reading of events, which may be at fault.
    pub signs: Vec<Sign>,
    pub down_until: u64,
    pub settling_until: u64,
    /// When the event streams broke last.
    pub streams_lost_at: Option<u64>,
    /// How long an event takes to its subscriber.
    pub event_delay: u64,
    pub violations: BTreeSet<Violation>,
    /// Bytes that were pulled, and how often a pull failed for want of space.
    pub pulled: u64,
    /// How often each layer was downloaded.
    pub downloads: BTreeMap<String, usize>,
}

impl State {
    pub fn new(store: Store, disk_size: u64) -> Self {
        Self {
            store,
            registry: BTreeMap::new(),
            images: BTreeMap::new(),
            containers: BTreeMap::new(),
            services: BTreeMap::new(),
            tasks: Vec::new(),
            events: Vec::new(),
            queue: BTreeSet::new(),
            sequence: 0,
            disk_size,
            ballast: 0,
            keeps_snapshots: false,
            cut_until: 0,
            stale_cache: true,
            reserve: 0,
            names: BTreeMap::new(),
            built: BTreeSet::new(),
            consent: "ci/",
            signs: Vec::new(),
            down_until: 0,
            settling_until: 0,
            streams_lost_at: None,
            event_delay: 1,
            violations: BTreeSet::new(),
            pulled: 0,
            downloads: BTreeMap::new(),
        }
    }

    /// The layers of all images, each once.
    pub fn layers(&self) -> BTreeMap<&str, u64> {
        let layers = self.images.values().flat_map(|stored| &stored.image.layers);
        layers.map(|(id, size)| (id.as_str(), *size)).collect()
    }

    /// Bytes in use on the disk.
    pub fn used(&self) -> u64 {
        self.ballast + self.reserve + self.layers().values().sum::<u64>()
    }

    /// Can the engine write nothing any more?
    pub fn is_full(&self) -> bool {
        self.used() >= self.disk_size
    }

    /// Others write to the disk, as far as there is space.
    pub fn write(&mut self, bytes: u64) {
        self.ballast += bytes.min(self.disk_size.saturating_sub(self.used()));
    }

    /// Keep 16 MB, if they are not kept.
    pub fn keep_reserve(&mut self) {
        self.reserve = 16_000_000;
    }

    /// Give them up; were they kept?
    pub fn release_reserve(&mut self) -> bool {
        std::mem::take(&mut self.reserve) > 0
    }

    /// `docker tag`, if the image is there.
    pub fn tag_by_hand(&mut self, now: u64, id: &str, name_tag: &str) {
        if self.images.contains_key(id) {
            self.tag(id, name_tag);
            self.names.insert(name_tag.to_owned(), id.to_owned());
            self.tell(now, "image", "tag", id, name_tag, None);
        }
    }

    /// The name moves.
    pub fn tag(&mut self, id: &str, name_tag: &str) {
        for stored in self.images.values_mut() {
            stored.references.remove(name_tag);
        }
        if let Some(stored) = self.images.get_mut(id) {
            stored.references.insert(name_tag.to_owned());
        }
    }

    /// `docker build -t`: a new image takes the tag over.
    pub fn build(&mut self, now: u64, name: &str, tag: &str) {
        let image = Image::new(name, vec![(format!("{name}-own"), 1_000_000)]);
        let id = image.id();
        self.add_built(image, None);
        self.tag(&id, tag);
        self.names.insert(tag.to_owned(), id.clone());
        self.built.insert(id.clone());
        self.tell(now, "image", "tag", &id, tag, None);
    }

    /// What a pull by an image's reference leaves as its name.
    fn pulled_reference(&self, image: &Image, by: Puller) -> String {
        let (name, digest) = image.reference.split_once('@').expect("a reference by digest");
        match (self.store, by) {
            (Store::Containerd, Puller::Swarm) => image.reference.clone(),
            _ => format!("{}@{digest}", repository(name)),
        }
    }

    /// Put an image into the engine, as Swarm's pull of it would have left it.
    pub fn add_cached(&mut self, image: Image) {
        let reference = self.pulled_reference(&image, Puller::Swarm);
        self.registry.insert(image.name.clone(), image.clone());
        self.images.insert(image.id(), Stored { image, references: BTreeSet::from([reference]) });
    }

    /// Put an image into the engine under this tag, or without any name.
    pub fn add_built(&mut self, image: Image, tag: Option<&str>) {
        let references = tag.map(str::to_owned).into_iter().collect();
        self.names.extend(tag.map(|tag| (tag.to_owned(), image.id())));
        self.images.insert(image.id(), Stored { image, references });
    }

    /// The ID of the image that a reference names.
    pub fn resolve(&self, reference: &str) -> Option<String> {
        if self.images.contains_key(reference) {
            return Some(reference.to_owned());
        }
        let names = |stored: &&Stored| match reference.split_once('@') {
            None => stored.references.contains(reference),
            // Any name of that repository with that digest will do.
            Some((name, digest)) => {
                let same = |reference: &String| {
                    reference.ends_with(digest) && repository(reference) == repository(name)
                };
                stored.references.iter().any(same)
            }
        };
        self.images.values().find(names).map(|stored| stored.image.id())
    }

    fn later(&mut self, at: u64, step: Step) {
        self.sequence += 1;
        self.queue.insert((at, self.sequence, step));
    }

    pub fn tell(&mut self, now: u64, kind: &str, action: &str, id: &str, name: &str, image: Option<&str>) {
        let attributes = [Some(("name", name)), image.map(|image| ("image", image))];
        let attributes = attributes.into_iter().flatten().map(|(key, value)| (key.into(), value.into()));
        let actor = Actor { id: id.into(), attributes: Some(attributes.collect()) };
        let event = Event { kind: kind.into(), action: action.into(), actor };
        let visible = (now + self.event_delay).max(self.cut_until);
        self.events.push(Seen { at: now, visible, event });
    }

    /// The same, and no removal is safe after it.
    pub fn tell_sign(&mut self, now: u64, kind: &str, action: &str, name: &str) {
        self.tell(now, kind, action, name, name, None);
        self.signs.extend(self.events.last().map(|seen| Sign { at: seen.at, visible: seen.visible }));
    }

    /// The last event was of a task's container.
    fn of_service(&mut self) {
        let attributes = self.events.last_mut().and_then(|seen| seen.event.actor.attributes.as_mut());
        attributes.into_iter().for_each(|attributes| {
            attributes.insert("com.docker.swarm.service.id".into(), "service".into());
        });
    }

    /// `docker service create`.
    pub fn create_service(&mut self, now: u64, name: &str, image: &str) {
        let image = self.registry[image].clone();
        // An image that only we have a name for is not there any more for anyone who begins now.
        let named = self.images.values().filter(|image| {
            image.references.iter().any(|reference| !reference.starts_with(EVICTION_REPOSITORY))
        });
        let layers_there = named.flat_map(|stored| &stored.image.layers).map(|(id, _)| id.clone()).collect();
        let (reference, key) = (image.reference, image.name);
        let service = Service { name: name.into(), image: reference, key, created: now, layers_there };
        self.services.insert(name.into(), service);
        self.tell_sign(now, "service", "create", name);
        self.new_task(now, name);
    }

    fn new_task(&mut self, now: u64, service: &str) {
        self.tasks.push(Task { service: service.into(), state: TaskState::New, container: None });
        self.later(now + LOOKUP_DELAY, Step::Lookup(self.tasks.len() - 1));
    }

    /// `docker service rm`, and its containers with it.
    pub fn remove_service(&mut self, name: &str) {
        self.services.remove(name);
        self.containers.retain(|_, container| container.service.as_deref() != Some(name));
        self.tasks.retain(|task| task.service != name);
        // Steps name tasks by their place: none may be left.
        self.queue.clear();
    }

    /// `docker pull` of an image by its digest; it ends later.
    pub fn pull(&mut self, now: u64, image: &str) {
        let wanted = self.registry[image].clone();
        let time = self.pull_time(&wanted);
        self.later(now + time, Step::PulledByHand(image.into()));
    }

    /// `docker run` of a container that is no CI run's.
    pub fn run_container(&mut self, now: u64, name: &str, image: &str) {
        if let Some(id) = self.resolve(image) {
            self.insert_running(now, name, image, id);
        }
    }

    /// The same on an engine that is busy: the image is found now, and the container is known later.
    pub fn run_slowly(&mut self, now: u64, name: &str, image: &str) {
        if let Some(id) = self.resolve(image) {
            self.later(now + SLOW_CREATION, Step::SlowContainerIsThere(name.into(), image.into(), id));
        }
    }

    fn insert_running(&mut self, now: u64, name: &str, asked: &str, image: String) {
        let state = ContainerState::Running;
        let created = i64::try_from(now).unwrap_or(i64::MAX);
        let container =
            Container { name: name.into(), asked: asked.into(), image, state, created, service: None };
        self.containers.insert(name.into(), container);
        self.tell(now, "container", "create", name, name, Some(asked));
        self.tell(now, "container", "start", name, name, Some(asked));
    }

    /// The container of a service's task ends: Swarm makes another task, which starts a while later.
    pub fn crash(&mut self, now: u64, service: &str) {
        let Some(n) = self.tasks.iter().position(|task| task.service == service) else { return };
        let Some(name) = self.tasks[n].container.take() else { return };
        if let Some(container) = self.containers.get_mut(&name) {
            container.state = ContainerState::Exited(now);
        }
        self.tell(now, "container", "die", &name, &name, None);
        self.of_service();
        self.tasks[n].state = TaskState::New;
        self.later(now + RESTART_DELAY, Step::Lookup(n));
    }

    /// A service whose one task has been running for long.
    pub fn add_service(&mut self, name: &str, image: &Image) {
        self.add_cached(image.clone());
        let container = format!("{name}.old");
        let service = Service {
            name: name.into(),
            image: image.reference.clone(),
            key: image.name.clone(),
            created: 0,
            layers_there: BTreeSet::new(),
        };
        self.services.insert(name.into(), service);
        let state = TaskState::Running;
        self.tasks.push(Task { service: name.into(), state, container: Some(container.clone()) });
        let running = Container {
            name: container.clone(),
            asked: image.reference.clone(),
            image: image.id(),
            state: ContainerState::Running,
            created: 0,
            service: Some(name.into()),
        };
        self.containers.insert(container, running);
    }

    /// Is a service without its task?
    pub fn is_converging(&self) -> bool {
        self.tasks.iter().any(|task| task.state != TaskState::Running)
    }

    /// A container of a run starts, of an image that is there.
    pub fn start_container(&mut self, now: u64, name: &str, image: &Image) {
        let container = Container {
            name: name.into(),
            asked: image.reference.clone(),
            image: image.id(),
            state: ContainerState::Running,
            created: i64::try_from(now).unwrap_or(i64::MAX),
            service: None,
        };
        self.containers.insert(name.into(), container);
        self.tell(now, "container", "create", name, name, Some(&image.reference));
        self.tell(now, "container", "start", name, name, Some(&image.reference));
    }

    /// Restart the daemon: its streams break, it is away, and then lists no container for a moment.
    pub fn restart(&mut self, now: u64) {
        self.close_streams(now);
        self.down_until = now + RESTART_DOWN;
        self.settling_until = now + RESTART_DOWN + RESTART_SETTLING;
    }

    /// The event streams end in order, and none that follows can tell what was missed.
    pub fn close_streams(&mut self, now: u64) {
        self.streams_lost_at = Some(now);
        self.signs.push(Sign { at: now, visible: now });
    }

    fn pull_time(&self, image: &Image) -> u64 {
        let there = self.layers();
        let missing = image.layers.iter().filter(|(id, _)| !there.contains_key(id.as_str())).count();
        EMPTY_PULL + LAYER_PULL * missing as u64
    }

    /// A pull has ended: what was missing is downloaded, and the image has its name. What was missing?
    fn finish_pull(&mut self, now: u64, image: &Image, by: Puller) -> Vec<String> {
        let there = self.layers();
        let missing: Vec<(String, u64)> =
            image.layers.iter().filter(|(id, _)| !there.contains_key(id.as_str())).cloned().collect();
        self.pulled += missing.iter().map(|(_, size)| size).sum::<u64>();
        for (layer, _) in &missing {
            *self.downloads.entry(layer.clone()).or_default() += 1;
        }
        let reference = self.pulled_reference(image, by);
        let stored = self.images.entry(image.id());
        let stored = stored.or_insert_with(|| Stored { image: image.clone(), references: BTreeSet::new() });
        stored.references.insert(reference);
        self.tell(now, "image", "pull", &image.reference, &image.name, None);
        missing.into_iter().map(|(id, _)| id).collect()
    }

    /// Do all that the engine does by itself up to now.
    pub fn advance(&mut self, now: u64) {
        while let Some((at, _, step)) = self.queue.first().cloned()
            && at <= now
        {
            self.queue.pop_first();
            self.step(at, step);
        }
        let gone = |container: &&Container| {
            container.state == ContainerState::Running && !self.images.contains_key(&container.image)
        };
        let ghosts: Vec<_> = self
            .containers
            .values()
            .filter(gone)
            .map(|container| Violation::ContainerWithoutImage(container.name.clone()))
            .collect();
        self.violations.extend(ghosts);
    }

    /// Is the engine still at work on something?
    pub fn is_busy(&self) -> bool {
        !self.queue.is_empty()
    }

    fn step(&mut self, now: u64, step: Step) {
        // A daemon that is away does what it was about to do when it is back.
        if now < self.down_until {
            return self.later(self.down_until, step);
        }
        let image_of = |state: &Self, task: usize| {
            let service = &state.services[&state.tasks[task].service];
            (service.clone(), state.registry[&service.key].clone())
        };
        match step {
            Step::Lookup(task) => {
                let (service, image) = image_of(self, task);
                self.tasks[task].state = TaskState::Preparing;
                if self.resolve(&service.image).is_some() {
                    self.later(now + CREATE_DELAY, Step::CreateContainer(task));
                } else {
                    let time = self.pull_time(&image);
                    self.later(now + time, Step::Pulled(task));
                }
            }
            Step::Pulled(task) => {
                let (service, image) = image_of(self, task);
                let missing = self.finish_pull(now, &image, Puller::Swarm);
                if missing.iter().any(|layer| service.layers_there.contains(layer)) {
                    self.violations.insert(Violation::DownloadedAgain(service.name));
                }
                self.later(now + CREATE_DELAY, Step::CreateContainer(task));
            }
            Step::PulledByHand(name) => {
                let image = self.registry[&name].clone();
                self.finish_pull(now, &image, Puller::Hand);
            }
            Step::CreateContainer(task) => {
                let (service, _) = image_of(self, task);
                match self.resolve(&service.image) {
                    Some(id) => self.later(now + COMMIT_DELAY, Step::ContainerIsThere(task, id)),
                    None => {
                        self.tasks[task].state = TaskState::Rejected;
                        self.violations.insert(Violation::TaskRejected(service.name));
                        self.later(now + RESTART_DELAY, Step::Retry(task));
                    }
                }
            }
            Step::ContainerIsThere(task, image) => {
                let (service, _) = image_of(self, task);
                let id = format!("{}.{task}", service.name);
                let container = Container {
                    name: id.clone(),
                    asked: service.image.clone(),
                    image,
                    state: ContainerState::Created,
                    created: i64::try_from(now).unwrap_or(i64::MAX),
                    service: Some(service.name),
                };
                self.containers.insert(id.clone(), container);
                self.tasks[task].container = Some(id.clone());
                self.tasks[task].state = TaskState::Starting;
                self.tell(now, "container", "create", &id, &id, Some(&service.image));
                self.of_service();
                self.later(now + 10, Step::StartContainer(task));
            }
            Step::StartContainer(task) => {
                let (service, _) = image_of(self, task);
                let id = self.tasks[task].container.clone().unwrap_or_default();
                if let Some(container) = self.containers.get_mut(&id) {
                    container.state = ContainerState::Running;
                }
                self.tasks[task].state = TaskState::Running;
                self.tell(now, "container", "start", &id, &id, Some(&service.image));
                self.of_service();
            }
            Step::SlowContainerIsThere(name, asked, image) => self.insert_running(now, &name, &asked, image),
            Step::Retry(task) => {
                let service = self.tasks[task].service.clone();
                self.new_task(now, &service);
            }
        }
    }

    fn users(&self, image: &str) -> impl Iterator<Item = &Container> {
        self.containers.values().filter(move |container| container.image == image)
    }

    /// `DELETE /images/{reference}` without force: whether it may go, as its first half finds out.
    pub fn may_delete(&self, reference: &str) -> Delete {
        let Some(id) = self.resolve(reference) else { return Delete::NotFound };
        let repositories: BTreeSet<&str> =
            self.images[&id].references.iter().map(|reference| repository(reference)).collect();
        if reference == id && repositories.len() > 1 {
            return Delete::Conflict("conflict: image is referenced in multiple repositories".into());
        }
        let going = self.going(&id, reference);
        if going.len() < self.images[&id].references.len() {
            return Delete::Untag(id, going);
        }
        if let Some(container) = self.users(&id).next() {
            let state = if container.state == ContainerState::Running { "running" } else { "stopped" };
            return Delete::Conflict(format!("conflict: used by {state} container {}", container.name));
        }
        Delete::Whole(id)
    }

    /// The references that go with this one.
    fn going(&self, id: &str, reference: &str) -> BTreeSet<String> {
        let references = &self.images[id].references;
        if reference == id {
            return references.clone();
        }
        let same = |other: &&String| repository(other) == repository(reference);
        let (name, digest) =
            reference.split_once('@').map_or((reference, None), |(name, digest)| (name, Some(digest)));
        match self.store {
            // By a digest every reference of that repository to it.
            Store::Containerd if digest.is_some() && repository(reference) == name => {
                references.iter().filter(same).cloned().collect()
            }
            Store::Overlay2 if digest.is_none() => {
                // With a repository's last tag its digests go.
                let tags =
                    references.iter().filter(same).filter(|reference| !reference.contains('@')).count();
                references
                    .iter()
                    .filter(same)
                    .filter(|other| *other == reference || tags <= 1)
                    .cloned()
                    .collect()
            }
            Store::Containerd | Store::Overlay2 => {
                let by_digest = |other: &&String| match digest {
                    Some(digest) => same(other) && other.ends_with(digest),
                    None => *other == reference,
                };
                references.iter().filter(by_digest).cloned().collect()
            }
        }
    }

    /// The second half.
    pub fn delete(&mut self, decided: &Delete) {
        match decided {
            Delete::Whole(id) => {
                let before = self.used();
                self.images.remove(id);
                if self.keeps_snapshots {
                    self.ballast += before - self.used();
                }
            }
            Delete::Untag(id, references) => {
                if let Some(stored) = self.images.get_mut(id) {
                    stored.references.retain(|reference| !references.contains(reference));
                }
            }
            Delete::NotFound | Delete::Conflict(_) => {}
        }
    }

    /// Does each tag name the image that was given it last? Only an image that has tags by consent may be gone.
    pub fn check_names(&mut self) {
        let lost = self.built.iter().filter(|id| !self.images.contains_key(*id));
        self.violations.extend(lost.map(|id| Violation::NameLost(id.clone())));
        for (tag, id) in &self.names {
            let holder = self.images.values().find(|stored| stored.references.contains(tag));
            match holder.map(|stored| stored.image.id()) {
                Some(holder) if holder != *id => {
                    self.violations.insert(Violation::NameMoved(tag.clone()));
                }
                None if self.images.contains_key(id) || !tag.starts_with(self.consent) => {
                    self.violations.insert(Violation::NameLost(tag.clone()));
                }
                _ => {}
            }
        }
    }

    /// The tags of our own on images that no container uses: what uses one by no other name keeps it.
    pub fn eviction_tags(&self) -> Vec<String> {
        let unused = self.images.values().filter(|stored| self.users(&stored.image.id()).next().is_none());
        let all = unused.flat_map(|stored| &stored.references);
        all.filter(|reference| reference.starts_with(EVICTION_REPOSITORY)).cloned().collect()
    }
}

/// The repository in a reference: without tag and digest.
pub fn repository(reference: &str) -> &str {
    let name = reference.split('@').next().unwrap_or(reference);
    // A colon before a slash belongs to the registry's port.
    name.rsplit_once(':').filter(|(_, tag)| !tag.contains('/')).map_or(name, |(name, _)| name)
}

/// What comes of an order to delete an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Delete {
    NotFound,
    Conflict(String),
    /// These references of this image go.
    Untag(String, BTreeSet<String>),
    /// The image goes.
    Whole(String),
}
