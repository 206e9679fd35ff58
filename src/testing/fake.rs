//! A host with its engine that give the answers that a test has set, and list the requests that they got.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Result, anyhow};
use regex::Regex;

use crate::facts::{
    Answer, CacheRecord, Container, DiskUsage, EngineTraces, Files, Filesystem, Image, Info, Inhibitor,
    Inspected, Layer, Service, Task, Unavailable,
};
use crate::history::PastPrune;
use crate::ledger::{Ledger, Reading};
use crate::units::Time;
use crate::world::{
    Acquisition, Changes, ContainerScope, Effect, EngineApi, EngineError, EngineEvents, EngineOrders,
    EventSummary, ImageEvent, Register, Registration, Request, World,
};

/// Requests are named in `failures`, `delays` and `requests` as they are recorded: `info`, `image sha256:a`,
/// `remove image sha256:a`, and so on.
pub struct Fake {
    pub info: Info,
    pub services: Vec<Service>,
    pub tasks: Vec<Task>,
    pub nodes_away: HashSet<String>,
    pub containers: Vec<Container>,
    pub images: RefCell<Vec<Image>>,
    pub inspected: HashMap<String, Inspected>,
    pub build_cache: Vec<CacheRecord>,
    pub layers: HashMap<String, Vec<Layer>>,
    pub events: Vec<ImageEvent>,
    pub seen: RefCell<EventSummary>,
    pub inhibitors: RefCell<Vec<Inhibitor>>,
    pub traces: EngineTraces,
    pub filesystem: RefCell<Filesystem>,
    /// Bytes of the removed images.
    pub freed: Cell<u64>,
    pub ledger: RefCell<Ledger>,
    pub history: RefCell<Vec<PastPrune>>,
    pub is_remote: bool,
    pub manager_elsewhere: bool,
    pub shutdown: Cell<bool>,
    pub wanted: RefCell<Vec<Request>>,
    pub failures: HashMap<String, EngineError>,
    pub failing_after: HashMap<String, usize>,
    /// References that the engine wrongly does not find the next time.
    pub unknown_once: RefCell<Vec<String>>,
    /// The engine keeps images without any name, for images that were built from them.
    pub keeps_nameless: bool,
    pub delays: HashMap<String, u64>,
    pub requests: RefCell<Vec<String>>,
}

impl Fake {
    /// In no Swarm, with nothing on it, on a disk at 85 %.
    pub fn new() -> Self {
        Self {
            info: super::info(),
            services: vec![],
            tasks: vec![],
            nodes_away: HashSet::new(),
            containers: vec![],
            images: RefCell::default(),
            inspected: HashMap::new(),
            build_cache: vec![],
            layers: HashMap::new(),
            events: vec![],
            seen: RefCell::default(),
            inhibitors: RefCell::default(),
            traces: EngineTraces { root_is_shared: Some(true), ..EngineTraces::default() },
            filesystem: RefCell::new(super::usage(85).filesystem),
            freed: Cell::new(0),
            ledger: RefCell::default(),
            history: RefCell::default(),
            is_remote: false,
            manager_elsewhere: false,
            shutdown: Cell::new(false),
            wanted: RefCell::default(),
            failures: HashMap::new(),
            failing_after: HashMap::new(),
            unknown_once: RefCell::default(),
            keeps_nameless: false,
            delays: HashMap::new(),
            requests: RefCell::default(),
        }
    }

    pub fn failing(mut self, request: &str, status: u16) -> Self {
        let error = crate::testing::status(request, status, "simulated");
        self.failures.insert(request.to_owned(), error);
        self
    }

    pub fn asked(&self, beginning: &str) -> Vec<String> {
        self.requests.borrow().iter().filter(|request| request.starts_with(beginning)).cloned().collect()
    }

    async fn request(&self, request: &str) -> Result<(), EngineError> {
        self.requests.borrow_mut().push(request.to_owned());
        if let Some(delay) = self.delays.get(request) {
            tokio::time::sleep(Duration::from_millis(*delay)).await;
        }
        let times = self.requests.borrow().iter().filter(|other| *other == request).count();
        let fails = self.failing_after.get(request).is_none_or(|spared| times > *spared);
        self.failures.get(request).filter(|_| fails).map_or(Ok(()), |error| Err(error.clone()))
    }

    fn host_request(&self, request: &str) -> Result<()> {
        self.requests.borrow_mut().push(request.to_owned());
        let failure = self.failures.get(request).map(ToString::to_string);
        failure.map_or(Ok(()), |why| Err(anyhow!("{request}: {why}")))
    }
}

/// Nothing happens on the host.
pub struct Unchanging;

impl Changes for Unchanging {
    async fn changed(&self) {
        std::future::pending().await
    }
}

impl World for Rc<Fake> {
    type Engine = Self;
    type PruneLock = ();
    type RemovalLock = ();
    type Registered = ();
    type Changes = Unchanging;

    fn now(&self) -> Time {
        super::now()
    }

    async fn connect(&self) -> Answer<Self> {
        self.request("connect").await?;
        Ok(Self::clone(self))
    }

    async fn engine_traces(&self, _: &Info) -> EngineTraces {
        self.requests.borrow_mut().push("engine traces".into());
        self.traces.clone()
    }

    async fn measure(&self, paths: &[PathBuf]) -> Answer<Vec<Filesystem>> {
        let shown: Vec<_> = paths.iter().map(|path| path.display().to_string()).collect();
        self.request(&format!("measure {}", shown.join(" "))).await?;
        let filesystem = self.filesystem.borrow().clone();
        let freed = self.freed.get();
        let (used, available) = (filesystem.used - freed, filesystem.available + freed);
        Ok(vec![Filesystem { used, available, ..filesystem }])
    }

    async fn engine_files(&self, _: &Path, _: bool) -> Answer<Files> {
        Err(Unavailable("no files".into()))
    }

    fn reading(&self) -> Reading {
        Reading { wall: super::now(), boot_id: Some("boot".into()), since_boot: Some(Duration::ZERO) }
    }

    fn ledger(&self) -> Ledger {
        self.ledger.borrow().clone()
    }

    async fn update_ledger(&self, _: Time, change: impl FnOnce(&mut Ledger)) -> Result<Ledger> {
        self.host_request("update ledger")?;
        change(&mut self.ledger.borrow_mut());
        Ok(self.ledger())
    }

    async fn record_prune(&self, past: &PastPrune) -> Result<()> {
        self.host_request("record prune")?;
        self.history.borrow_mut().push(past.clone());
        Ok(())
    }

    fn history(&self) -> Result<Vec<PastPrune>> {
        Ok(self.history.borrow().clone())
    }

    fn keep_reserve(&self, _: &[PathBuf]) {
        self.requests.borrow_mut().push("keep reserve".into());
    }

    fn release_reserve(&self) -> bool {
        let first = self.asked("release reserve").is_empty();
        self.requests.borrow_mut().push("release reserve".into());
        first
    }

    fn prepare(&self) -> Result<()> {
        self.host_request("prepare")
    }

    fn lock_prunes(&self) -> Result<Acquisition<()>> {
        self.host_request("lock prunes")?;
        Ok(Acquisition::Acquired(()))
    }

    async fn lock_removals(&self) -> Result<()> {
        self.host_request("lock removals")
    }

    fn inhibitors(&self) -> Result<Vec<Inhibitor>> {
        self.host_request("inhibitors")?;
        Ok(self.inhibitors.borrow().clone())
    }

    fn due_prunes(&self) -> Result<Vec<Inhibitor>> {
        Ok(vec![])
    }

    fn requests(&self) -> Result<Vec<Request>> {
        Ok(self.wanted.borrow().clone())
    }

    fn is_inside_inhibitor(&self) -> bool {
        false
    }

    fn register(&self, register: Register, _: &Registration<'_>) -> Result<()> {
        self.host_request(&format!("register {register:?}"))
    }

    fn leave(&self, (): (), _: Duration) -> Result<()> {
        self.host_request("leave")
    }

    fn watch(&self, _: Register) -> Result<Unchanging> {
        Ok(Unchanging)
    }

    async fn wait_for_removal(&self) -> Result<()> {
        Ok(())
    }

    fn watch_shutdown(&self) -> Result<()> {
        self.host_request("watch shutdown")
    }

    fn shutdown_requested(&self) -> bool {
        self.shutdown.get()
    }

    async fn shutdown(&self) {
        std::future::pending().await
    }
}

impl EngineApi for Rc<Fake> {
    type Events = Self;
    type Orders = Self;

    fn is_local(&self) -> bool {
        !self.is_remote
    }

    fn manager_elsewhere(&self) -> bool {
        self.manager_elsewhere
    }

    fn orders(&self) -> Self {
        Self::clone(self)
    }

    async fn subscribe(&self, since: Time, _: &Regex) -> Result<Self, EngineError> {
        self.request(&format!("subscribe {since}")).await?;
        Ok(Self::clone(self))
    }

    async fn info(&self) -> Result<Info, EngineError> {
        self.request("info").await?;
        Ok(self.info.clone())
    }

    async fn services(&self) -> Result<Vec<Service>, EngineError> {
        self.request("services").await?;
        Ok(self.services.clone())
    }

    async fn tasks(&self) -> Result<Vec<Task>, EngineError> {
        self.request("tasks").await?;
        Ok(self.tasks.clone())
    }

    async fn nodes_away(&self) -> Result<HashSet<String>, EngineError> {
        self.request("nodes").await?;
        Ok(self.nodes_away.clone())
    }

    async fn containers(&self, which: ContainerScope) -> Result<Vec<Container>, EngineError> {
        self.request(&format!("containers {which:?}")).await?;
        Ok(self.containers.clone())
    }

    async fn images(&self) -> Result<Vec<Image>, EngineError> {
        self.request("images").await?;
        // Only inspecting an image tells when it was last tagged.
        let listed = |image: &Image| Image { last_tagged: None, ..image.clone() };
        Ok(self.images.borrow().iter().map(listed).collect())
    }

    async fn image(&self, reference: &str) -> Result<Option<Image>, EngineError> {
        self.request(&format!("image {reference}")).await?;
        let mut unknown = self.unknown_once.borrow_mut();
        if let Some(place) = unknown.iter().position(|once| once == reference) {
            unknown.remove(place);
            return Ok(None);
        }
        Ok(self.images.borrow().iter().find(|image| image.is_named(reference)).cloned())
    }

    async fn layers(&self, image: &Image) -> Result<Option<Vec<Layer>>, EngineError> {
        self.request(&format!("layers {}", image.id)).await?;
        Ok(self.layers.get(&image.id).cloned())
    }

    async fn inspect_container(&self, id: &str) -> Result<Option<Inspected>, EngineError> {
        self.request(&format!("container {id}")).await?;
        Ok(self.inspected.get(id).cloned())
    }

    async fn build_cache(&self) -> Result<Vec<CacheRecord>, EngineError> {
        self.request("build cache").await?;
        Ok(self.build_cache.clone())
    }

    async fn uses(&self, since: Time, until: Time) -> Result<Vec<ImageEvent>, EngineError> {
        self.request(&format!("uses {since} {until}")).await?;
        Ok(self.events.clone())
    }

    async fn disk_usage(&self, _: bool) -> Result<DiskUsage, EngineError> {
        self.request("disk usage").await?;
        Ok(DiskUsage::default())
    }
}

impl EngineEvents for Rc<Fake> {
    async fn poll(&self) -> EventSummary {
        self.seen.borrow().clone()
    }

    fn moves(&self) -> u64 {
        0
    }

    async fn moved(&self, _: u64) {
        std::future::pending().await
    }
}

impl EngineOrders for Rc<Fake> {
    async fn remove_container(&self, id: &str) -> Result<Effect, EngineError> {
        self.request(&format!("remove container {id}")).await?;
        Ok(Effect::Complete)
    }

    /// A name is removed; the image too, if that is its ID or its last name.
    async fn remove_image(&self, reference: &str) -> Result<Effect, EngineError> {
        self.request(&format!("remove image {reference}")).await?;
        let mut images = self.images.borrow_mut();
        let is_it = |image: &Image| {
            image.id == reference
                || image.has_reference(reference)
                || image.eviction_tag.as_deref() == Some(reference)
        };
        let Some(n) = images.iter().position(is_it) else { return Ok(Effect::Gone) };
        let image = &mut images[n];
        image.tags.retain(|name| name != reference);
        image.digests.retain(|name| name != reference);
        image.eviction_tag.take_if(|tag| tag == reference);
        let goes = !self.keeps_nameless && image.is_nameless() && image.eviction_tag.is_none();
        if image.id == reference || goes {
            self.freed.set(self.freed.get() + images.remove(n).size);
            return Ok(Effect::Complete);
        }
        Ok(Effect::Untagged)
    }

    async fn tag_image(&self, id: &str) -> Result<Effect, EngineError> {
        self.request(&format!("tag image {id}")).await?;
        let mut images = self.images.borrow_mut();
        let Some(image) = images.iter_mut().find(|image| image.id == id) else { return Ok(Effect::Gone) };
        image.eviction_tag = Some(crate::facts::eviction_tag(id));
        Ok(Effect::Complete)
    }

    async fn restore_tag(&self, id: &str, name_tag: &str) -> Result<Effect, EngineError> {
        self.request(&format!("restore {id} {name_tag}")).await?;
        let mut images = self.images.borrow_mut();
        if images.iter().any(|image| image.has_reference(name_tag)) {
            return Ok(Effect::Untagged);
        }
        let Some(image) = images.iter_mut().find(|image| image.id == id) else { return Ok(Effect::Gone) };
        image.tags.push(name_tag.to_owned());
        Ok(Effect::Complete)
    }

    async fn prune_build_cache(&self, older_than: Duration) -> Result<Effect, EngineError> {
        self.request(&format!("prune build cache {}", older_than.as_secs())).await?;
        let again = self.asked("prune build cache").len() > 1;
        Ok(if again { Effect::Gone } else { Effect::Complete })
    }
}
