//! The world of the program: this host, and Docker by its API.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::{Context, Result};

use tokio::signal::unix::{SignalKind, signal};

use super::child::{self, Signal};
use super::ledger_file::{self, Content};
use super::lock::{self, Lock, Removing};
use super::registers::{FolderWatch, Registered};
use super::{boot_clock, engine_files, engine_traces, filesystem, history_file, registers, reserve};
use crate::engine::{EngineSettings, Engines};
use crate::facts::{Answer, EngineTraces, Files, Filesystem, Info, Inhibitor, Unavailable};
use crate::history::PastPrune;
use crate::ledger::{Ledger, Reading};
use crate::units::Time;
use crate::world::{Acquisition, Register, Registration, Request, World};

#[derive(Debug)]
pub struct ThisHost {
    engine: EngineSettings,
    state_dir: PathBuf,
    runtime_dir: PathBuf,
    /// Known once it was asked (`GET /info`); it selects the ledger.
    engine_id: Arc<OnceLock<String>>,
    shutdown: OnceLock<Arc<AtomicBool>>,
}

impl ThisHost {
    pub fn new(engine: EngineSettings, state_dir: PathBuf, runtime_dir: PathBuf) -> Self {
        Self { engine, state_dir, runtime_dir, engine_id: Arc::default(), shutdown: OnceLock::new() }
    }

    pub fn engine_settings(&self) -> &EngineSettings {
        &self.engine
    }

    pub fn runtime_dir(&self) -> &Path {
        &self.runtime_dir
    }

    fn ledger_places(&self) -> ledger_file::Places<'_> {
        let engine = self.engine_id.get().map(String::as_str);
        ledger_file::Places { state_dir: &self.state_dir, stopgap_dir: &self.runtime_dir, engine }
    }
}

impl World for ThisHost {
    type Engine = Engines;
    type PruneLock = Lock;
    type RemovalLock = Removing;
    type Registered = Registered;
    type Changes = FolderWatch;

    fn now(&self) -> Time {
        Time::now()
    }

    async fn connect(&self) -> Answer<Engines> {
        let shutdown_requested = self.shutdown.get().map(Arc::clone);
        let id = Arc::clone(&self.engine_id);
        Ok(Engines::connect(&self.engine).await?.of_host(id, shutdown_requested))
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

    /// Measured in a thread, which is abandoned after `--timeout`.
    async fn engine_files(&self, root: &Path, containerd_store: bool) -> Answer<Files> {
        let (sender, receiver) = tokio::sync::oneshot::channel();
        let root = root.to_owned();
        std::thread::spawn(move || sender.send(engine_files::measure(&root, containerd_store)));
        match tokio::time::timeout(self.engine.timeout, receiver).await {
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

    async fn record_prune(&self, past: &PastPrune) -> Result<()> {
        history_file::append(&self.state_dir, past).await
    }

    fn history(&self) -> Result<Vec<PastPrune>> {
        history_file::read(&self.state_dir)
    }

    fn keep_reserve(&self, images: &[PathBuf]) {
        reserve::keep(&self.state_dir, images);
    }

    fn release_reserve(&self) -> bool {
        reserve::release(&self.state_dir)
    }

    fn prepare(&self) -> Result<()> {
        registers::prepare(&self.runtime_dir, self.engine.host.socket())
    }

    fn lock_prunes(&self) -> Result<Acquisition<Lock>> {
        lock::acquire(&self.runtime_dir)
    }

    async fn lock_removals(&self) -> Result<Removing> {
        lock::begin_removal(&self.runtime_dir).await
    }

    fn inhibitors(&self) -> Result<Vec<Inhibitor>> {
        registers::inhibitors(&self.runtime_dir, self.now())
    }

    fn due_prunes(&self) -> Result<Vec<Inhibitor>> {
        let prunes = registers::active(&self.runtime_dir, Register::Prunes, self.now())?.into_iter();
        Ok(prunes.map(Into::into).collect())
    }

    fn requests(&self) -> Result<Vec<Request>> {
        let requests = registers::active(&self.runtime_dir, Register::Requests, self.now())?.into_iter();
        Ok(requests
            .map(|request| Request {
                since: request.since,
                min_free: request.min_free,
                gave_up: request.is_left,
            })
            .collect())
    }

    fn is_inside_inhibitor(&self) -> bool {
        let inhibitors = self.inhibitors().unwrap_or_default().into_iter();
        registers::is_descendant_of(&inhibitors.filter_map(|inhibitor| inhibitor.pid).collect::<Vec<_>>())
    }

    fn register(&self, register: Register, what: &Registration<'_>) -> Result<Registered> {
        let registered = registers::register(&self.runtime_dir, register, what, self.now())?;
        if register == Register::Prunes {
            registers::take_over(&self.runtime_dir, register);
        }
        Ok(registered)
    }

    fn leave(&self, registered: Registered, how_long: Duration) -> Result<()> {
        registered.leave(self.now().saturating_add(how_long)?)
    }

    fn watch(&self, register: Register) -> Result<FolderWatch> {
        FolderWatch::new(&registers::folder(&self.runtime_dir, register))
    }

    async fn wait_for_removal(&self) -> Result<()> {
        lock::wait_for_removal(&self.runtime_dir, self.engine.longest_removal()).await
    }

    fn watch_shutdown(&self) -> Result<()> {
        let requested = watch_signals(&[Signal::SIGTERM, Signal::SIGINT])?;
        // A second call changes nothing.
        let _ = self.shutdown.set(requested);
        Ok(())
    }

    fn shutdown_requested(&self) -> bool {
        self.shutdown.get().is_some_and(|shutdown| shutdown.load(Ordering::Relaxed))
    }

    async fn shutdown(&self) {
        let kinds = [SignalKind::terminate(), SignalKind::interrupt()];
        let is_heeded = |kind: &SignalKind| {
            Signal::try_from(kind.as_raw_value()).is_ok_and(|kind| !child::is_ignored(kind))
        };
        let mut signals: Vec<_> =
            kinds.into_iter().filter(is_heeded).filter_map(|kind| signal(kind).ok()).collect();
        if self.shutdown_requested() {
            return;
        }
        let signals: Vec<_> = signals.iter_mut().map(|signal| Box::pin(signal.recv())).collect();
        if signals.is_empty() {
            return std::future::pending().await;
        }
        futures_util::future::select_all(signals).await;
    }
}

/// Turns true with any of these signals, except those that this process ignores (nohup): then what is under way
/// ends in order.
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
