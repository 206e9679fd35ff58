//! The real world: Docker by its API, and the host by the kernel.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::future::{OptionFuture, join};
use regex::Regex;
use tokio::signal::unix::{SignalKind, signal};

use super::{EngineApi, EngineEvents, EngineOrders, World};
use crate::engine::containers::ContainerScope;
use crate::engine::events::ImageEvent;
use crate::engine::remove::{Done, Remover};
use crate::engine::watch::{Scope, Seen, Watch};
use crate::engine::{Engine, EngineError};
use crate::facts::{
    Answer, CacheRecord, Container, DiskUsage, EngineTraces, Files, Filesystem, Image, Info, Inhibitor,
    Inspected, Layer, Service, Task, Unavailable,
};
use crate::host::child::{self, Signal};
use crate::host::error::{Context, Result};
use crate::host::ledger_file::{self, Content};
use crate::host::lock::{self, Acquisition, Lock, Removing};
use crate::host::{boot_clock, engine_files, engine_traces, filesystem, inhibitors, reserve};
use crate::ledger::{Ledger, Reading};
use crate::settings;
use crate::units::Time;

/// This host.
#[derive(Debug)]
pub struct ThisHost<'a> {
    engine: &'a settings::EngineSettings,
    state_dir: &'a Path,
    runtime_dir: &'a Path,
    /// Known once it was asked (`GET /info`); it tells which ledger is meant.
    engine_id: Arc<OnceLock<String>>,
    shutdown: OnceLock<Arc<AtomicBool>>,
}

impl<'a> ThisHost<'a> {
    /// This host, with this engine and these directories.
    pub fn new(engine: &'a settings::EngineSettings, state_dir: &'a Path, runtime_dir: &'a Path) -> Self {
        Self { engine, state_dir, runtime_dir, engine_id: Arc::default(), shutdown: OnceLock::new() }
    }
}

impl ThisHost<'_> {
    fn ledger_places(&self) -> ledger_file::Places<'_> {
        let engine = self.engine_id.get().map(String::as_str);
        ledger_file::Places { state_dir: self.state_dir, stopgap_dir: self.runtime_dir, engine }
    }
}

impl World for ThisHost<'_> {
    type Engine = Engines;
    type PruneLock = Lock;
    type RemovalLock = Removing;

    fn now(&self) -> Time {
        Time::now()
    }

    async fn connect(&self) -> Answer<Engines> {
        let shutdown_requested = self.shutdown.get().map(Arc::clone);
        let id = Arc::clone(&self.engine_id);
        Ok(Engines { id, shutdown_requested, ..Engines::connect(self.engine).await? })
    }

    async fn engine_traces(&self, info: &Info) -> EngineTraces {
        engine_traces::inspect(self.engine.host.socket(), info).await
    }

    /// In a thread of its own: on a disk that others write to, a commit takes seconds, in which events and signals want
    /// to be seen.
    async fn measure(&self, paths: &[PathBuf]) -> Answer<Vec<Filesystem>> {
        let wanted = paths.to_owned();
        let measuring =
            tokio::task::spawn_blocking(move || filesystem::measure(wanted.iter().map(PathBuf::as_path)));
        match tokio::time::timeout(self.engine.timeout, measuring).await {
            Ok(Ok(measured)) => measured.map_err(Unavailable::from),
            Ok(Err(_)) | Err(_) => {
                let limit = humantime::format_duration(self.engine.timeout);
                let paths =
                    paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ");
                Err(Unavailable(format!(
                    "the disk of {paths} did not answer in {limit}; see whether it hangs (dmesg), or allow more with --timeout"
                )))
            }
        }
    }

    /// The walk is given up after the time for one answer of the engine, and goes with the program.
    async fn engine_files(&self, root: &Path) -> Answer<Files> {
        let (tell, told) = tokio::sync::oneshot::channel();
        let root = root.to_owned();
        std::thread::spawn(move || tell.send(engine_files::measure(&root)));
        match tokio::time::timeout(self.engine.timeout, told).await {
            Ok(Ok(files)) => files.map_err(Unavailable::from),
            Ok(Err(_)) | Err(_) => Err(Unavailable("measuring the engine's folder takes too long".into())),
        }
    }

    fn reading(&self) -> Reading {
        Reading { wall: self.now(), boot_id: boot_clock::id(), since_boot: boot_clock::since() }
    }

    fn ledger(&self) -> Ledger {
        let mut ledger = match ledger_file::read(self.ledger_places()) {
            Content::Ledger(ledger) => *ledger,
            Content::Missing => Ledger::default(),
            Content::NotUnderstood(error) | Content::Unread(error) => {
                log::warn!("{error:#}; treating all cached images as just used");
                Ledger::default()
            }
        };
        ledger.advance(self.reading());
        ledger
    }

    async fn update_ledger(&self, now: Time, change: impl FnOnce(&mut Ledger)) -> Result<Ledger> {
        let change = |ledger: &mut Ledger| {
            ledger.advance(self.reading());
            change(ledger);
        };
        let written = ledger_file::update(self.ledger_places(), now, change).await?;
        if let Some(set_aside) = written.set_aside {
            log::warn!("{set_aside}; starting a new ledger");
        }
        if written.in_stopgap {
            log::info!("the ledger is kept in {} while its disk is full", self.runtime_dir.display());
        }
        Ok(written.ledger)
    }

    fn keep_reserve(&self, images: &[PathBuf]) {
        reserve::keep(self.state_dir, images);
    }

    fn release_reserve(&self) -> bool {
        reserve::release(self.state_dir)
    }

    fn prepare(&self) -> Result<()> {
        inhibitors::prepare(self.runtime_dir, self.engine.host.socket())
    }

    fn lock_prunes(&self) -> Result<Acquisition<Lock>> {
        lock::acquire(self.runtime_dir)
    }

    async fn lock_removals(&self) -> Result<Removing> {
        lock::begin_removal(self.runtime_dir).await
    }

    fn inhibitors(&self) -> Result<Vec<Inhibitor>> {
        inhibitors::active(self.runtime_dir)
    }

    fn watch_shutdown(&self) -> Result<()> {
        let requested = watch_signals(&[Signal::SIGTERM, Signal::SIGINT])?;
        // A second call watches nothing more.
        let _ = self.shutdown.set(requested);
        Ok(())
    }

    fn shutdown_requested(&self) -> bool {
        self.shutdown.get().is_some_and(|shutdown| shutdown.load(Ordering::Relaxed))
    }
}

/// Turns true with any of these signals, but those that this process was told to ignore (nohup): then what
/// is under way ends in order.
///
/// # Errors
/// Signals cannot be watched.
pub fn watch_signals(signals: &[Signal]) -> Result<Arc<AtomicBool>> {
    let requested = Arc::new(AtomicBool::new(false));
    for &kind in signals.iter().filter(|kind| !child::is_ignored(**kind)) {
        let mut signal =
            signal(SignalKind::from_raw(kind as i32)).with_context(|| "cannot watch for signals")?;
        let requested = Arc::clone(&requested);
        tokio::spawn(async move {
            signal.recv().await;
            requested.store(true, Ordering::Relaxed);
        });
    }
    Ok(requested)
}

/// The engine to prune and the one that knows the services.
#[derive(Debug)]
pub struct Engines {
    /// The engine to prune.
    pub local: Engine,
    /// The manager, where it is another engine.
    pub manager: Option<Engine>,
    /// The ID of the engine to prune, once it said it.
    id: Arc<OnceLock<String>>,
    removal_timeout: Duration,
    shutdown_requested: Option<Arc<AtomicBool>>,
}

impl Engines {
    /// Connect to both.
    ///
    /// # Errors
    /// One of them cannot be reached, or speaks none of our API versions.
    pub async fn connect(settings: &settings::EngineSettings) -> Answer<Self> {
        let timeout = settings.timeout;
        let manager = settings.swarm_host.as_ref().map(|host| Engine::connect(host, timeout));
        let (local, manager) =
            join(Engine::connect(&settings.host, timeout), OptionFuture::from(manager)).await;
        Ok(Self {
            local: local?,
            manager: manager.transpose()?,
            id: Arc::default(),
            removal_timeout: settings.removal_timeout,
            shutdown_requested: None,
        })
    }

    fn about_services(&self) -> &Engine {
        self.manager.as_ref().unwrap_or(&self.local)
    }
}

impl EngineApi for Engines {
    type Events = Vec<Watch>;
    type Orders = Remover;

    fn is_local(&self) -> bool {
        self.local.is_local()
    }

    fn manager_elsewhere(&self) -> bool {
        self.manager.is_some()
    }

    fn orders(&self) -> Remover {
        Remover::new(&self.local, self.removal_timeout, self.shutdown_requested.clone())
    }

    async fn subscribe(&self, since: Time, run_pattern: &Regex) -> Result<Vec<Watch>, EngineError> {
        let mut watches = vec![self.local.watch(Scope::Everything, Some(since), run_pattern.clone()).await?];
        if let Some(manager) = &self.manager {
            // By its own clock, where it tells it.
            let since = manager.info().await.ok().and_then(|info| info.time);
            watches.push(manager.watch(Scope::Services, since, run_pattern.clone()).await?);
        }
        Ok(watches)
    }

    async fn info(&self) -> Result<Info, EngineError> {
        let info = self.local.info().await?;
        if !info.id.is_empty() {
            // It is the same each time.
            let _ = self.id.set(info.id.clone());
        }
        Ok(info)
    }

    async fn services(&self) -> Result<Vec<Service>, EngineError> {
        self.about_services().services().await
    }

    async fn tasks(&self) -> Result<Vec<Task>, EngineError> {
        self.about_services().tasks().await
    }

    async fn nodes_away(&self) -> Result<HashSet<String>, EngineError> {
        self.about_services().nodes_away().await
    }

    async fn containers(&self, which: ContainerScope) -> Result<Vec<Container>, EngineError> {
        self.local.containers(which).await
    }

    async fn images(&self) -> Result<Vec<Image>, EngineError> {
        self.local.images().await
    }

    async fn image(&self, reference: &str) -> Result<Option<Image>, EngineError> {
        self.local.image(reference).await
    }

    async fn layers(&self, image: &Image) -> Result<Option<Vec<Layer>>, EngineError> {
        self.local.sized_layers(image).await
    }

    async fn inspect_container(&self, id: &str) -> Result<Option<Inspected>, EngineError> {
        self.local.inspect_container(id).await
    }

    async fn build_cache(&self) -> Result<Vec<CacheRecord>, EngineError> {
        self.local.build_cache().await
    }

    async fn uses(&self, since: Time, until: Time) -> Result<Vec<ImageEvent>, EngineError> {
        self.local.uses(since, until).await
    }

    async fn disk_usage(&self, containerd_store: bool) -> Result<DiskUsage, EngineError> {
        self.local.disk_usage(containerd_store).await
    }
}

impl EngineEvents for Vec<Watch> {
    async fn poll(&self) -> Seen {
        let mut all = Seen::default();
        for watch in self {
            let Seen { stop, others, of_services, images } = watch.poll_state().await;
            all.stop = all.stop.or(stop);
            all.others += others;
            all.of_services += of_services;
            all.images.extend(images);
        }
        all
    }
}

impl EngineOrders for Remover {
    async fn remove_container(&self, id: &str) -> Result<Done, EngineError> {
        self.container(id).await
    }

    async fn remove_image(&self, reference: &str) -> Result<Done, EngineError> {
        self.image(reference).await
    }

    async fn tag_image(&self, id: &str) -> Result<Done, EngineError> {
        self.tag(id).await
    }

    async fn restore_tag(&self, id: &str, name_tag: &str) -> Result<Done, EngineError> {
        self.restore(id, name_tag).await
    }

    async fn prune_build_cache(&self, older_than: Duration) -> Result<Done, EngineError> {
        self.build_cache(older_than).await
    }
}
