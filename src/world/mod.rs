//! What a run needs from outside, as one small interface: the engine, the clock, filesystems, the ledger's store, locks
//! and signals. There are two: this host (`host`, `engine`), and a simulated one in `tests/sim`.

mod answers;

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Result;
use regex::Regex;

use crate::facts::{
    Answer, CacheRecord, Container, DiskUsage, EngineTraces, Files, Filesystem, Image, Info, Inhibitor,
    Inspected, Layer, Service, Task,
};
use crate::history::PastPrune;
use crate::ledger::{Ledger, Reading};
use crate::units::Time;
pub use answers::*;

#[expect(async_fn_in_trait, reason = "nothing is sent to another thread: the runtime has one")]
pub trait World {
    type Engine: EngineApi;
    type PruneLock;
    type RemovalLock;
    /// Freed when it is dropped.
    type Registered;
    type Changes: Changes;

    /// The wall clock.
    fn now(&self) -> Time;

    /// Connect to the engine, and to the manager that knows the services.
    async fn connect(&self) -> Answer<Self::Engine>;

    /// What this host shows of the engine that answers on its Unix socket.
    async fn engine_traces(&self, info: &Info) -> EngineTraces;

    /// The filesystems that hold these paths, each once.
    async fn measure(&self, paths: &[PathBuf]) -> Answer<Vec<Filesystem>>;

    /// What only a look into the engine's folder tells; it may take a while.
    async fn engine_files(&self, root: &Path, containerd_store: bool) -> Answer<Files>;

    fn reading(&self) -> Reading;

    /// The ledger of the engine that was asked for its `info`, its clock advanced to now. An empty one, which
    /// protects every image, if it is missing or cannot be read.
    fn ledger(&self) -> Ledger;

    /// Change the ledger, its clock advanced to now, and write it. Returns it as written.
    ///
    /// # Errors
    /// It can be neither read nor stored; what was there stays as it was.
    async fn update_ledger(&self, now: Time, change: impl FnOnce(&mut Ledger)) -> Result<Ledger>;

    /// Add a prune to those that `log` tells, unless it repeats the last one.
    async fn record_prune(&self, past: &PastPrune) -> Result<()>;

    /// The prunes of the last 90 days, oldest first.
    fn history(&self) -> Result<Vec<PastPrune>>;

    /// Keep a reserve on the filesystem that holds these paths, if the ledger is on it too.
    fn keep_reserve(&self, images: &[PathBuf]);

    fn release_reserve(&self) -> bool;

    /// Make the directories of locks and inhibitors where they are missing.
    fn prepare(&self) -> Result<()>;

    /// Take the lock of the one prune that may run, or say who holds it.
    fn lock_prunes(&self) -> Result<Acquisition<Self::PruneLock>>;

    /// Begin a removal. An inhibitor that is registered first and then waits for this lock meets at most what is in
    /// flight; so inhibitors must be looked for after this.
    async fn lock_removals(&self) -> Result<Self::RemovalLock>;

    fn inhibitors(&self) -> Result<Vec<Inhibitor>>;

    /// The prunes that are due: they wait or are under way, or the next one will come in a moment.
    fn due_prunes(&self) -> Result<Vec<Inhibitor>>;

    /// Of the commands that let a prune go before them.
    fn requests(&self) -> Result<Vec<Request>>;

    /// Whether a command that blocks prunes has started this process: what waits for that one must not be waited for.
    fn is_inside_inhibitor(&self) -> bool;

    fn register(&self, register: Register, what: &Registration<'_>) -> Result<Self::Registered>;

    /// Let a registration count for so long after its process, but of a prune only until the next one registers.
    fn leave(&self, registered: Self::Registered, how_long: Duration) -> Result<()>;

    /// From now on.
    fn watch(&self, register: Register) -> Result<Self::Changes>;

    /// Wait until no removal is in flight.
    async fn wait_for_removal(&self) -> Result<()>;

    /// Watch from now on for a request to end (SIGTERM, SIGINT).
    fn watch_shutdown(&self) -> Result<()>;

    fn shutdown_requested(&self) -> bool;

    async fn shutdown(&self);
}

/// Of a register: something was registered, or ended.
#[expect(async_fn_in_trait, reason = "nothing is sent to another thread: the runtime has one")]
pub trait Changes {
    async fn changed(&self);
}

/// What can be asked of the engine. Services and tasks are the manager's, where that is another engine.
#[expect(async_fn_in_trait, reason = "nothing is sent to another thread: the runtime has one")]
pub trait EngineApi {
    type Events: EngineEvents;
    type Orders: EngineOrders;

    fn is_local(&self) -> bool;
    fn manager_elsewhere(&self) -> bool;
    fn orders(&self) -> Self::Orders;
    /// Subscribe to the events of every engine that is asked, from this time on.
    async fn subscribe(&self, since: Time, run_pattern: &Regex) -> Result<Self::Events, EngineError>;

    /// `GET /info`.
    async fn info(&self) -> Result<Info, EngineError>;
    /// `GET /services?status=true`.
    async fn services(&self) -> Result<Vec<Service>, EngineError>;
    /// `GET /tasks`.
    async fn tasks(&self) -> Result<Vec<Task>, EngineError>;
    /// IDs of the Swarm's nodes that run no tasks: down or drained.
    async fn nodes_away(&self) -> Result<HashSet<String>, EngineError>;
    /// `GET /containers/json`.
    async fn containers(&self, which: ContainerScope) -> Result<Vec<Container>, EngineError>;
    /// `GET /images/json`.
    async fn images(&self) -> Result<Vec<Image>, EngineError>;
    /// One image by any reference; `None` where there is none.
    async fn image(&self, reference: &str) -> Result<Option<Image>, EngineError>;
    /// As `image`, but `None` only if the engine says twice that there is no such image: its entry in the ledger is
    /// dropped then.
    async fn confirmed_image(&self, reference: &str) -> Result<Option<Image>, EngineError> {
        match self.image(reference).await? {
            None => self.image(reference).await,
            there => Ok(there),
        }
    }
    /// The layers of an image, base first; `None` where there is no such image, or where they are not known.
    async fn layers(&self, image: &Image) -> Result<Option<Vec<Layer>>, EngineError>;
    /// When a container ended, and its restart policy; `None` where it is gone.
    async fn inspect_container(&self, id: &str) -> Result<Option<Inspected>, EngineError>;
    async fn build_cache(&self) -> Result<Vec<CacheRecord>, EngineError>;
    /// The images of recent container events, as far as the engine remembers them.
    async fn uses(&self, since: Time, until: Time) -> Result<Vec<ImageEvent>, EngineError>;
    /// What the engine's objects take up. May take seconds.
    async fn disk_usage(&self, containerd_store: bool) -> Result<DiskUsage, EngineError>;
}

#[expect(async_fn_in_trait, reason = "nothing is sent to another thread: the runtime has one")]
pub trait EngineEvents {
    async fn poll(&self) -> EventSummary;
    /// How many events there were that may open or close a gate.
    fn moves(&self) -> u64;
    /// Wait until there are more than these, or the stream is lost.
    async fn moved(&self, since: u64);
}

/// What changes the engine: removals by reference, never by force.
#[expect(async_fn_in_trait, reason = "nothing is sent to another thread: the runtime has one")]
pub trait EngineOrders {
    /// `DELETE /containers/{id}`: its anonymous volumes stay.
    async fn remove_container(&self, id: &str) -> Result<Effect, EngineError>;
    /// `DELETE /images/{reference}`: the reference goes, and with the last one the image.
    async fn remove_image(&self, reference: &str) -> Result<Effect, EngineError>;
    /// `POST /images/{id}/tag`: give an image a tag of our own, which deletes nothing.
    async fn tag_image(&self, id: &str) -> Result<Effect, EngineError>;
    /// `POST /images/{id}/tag`: give an image a `name:tag` back that an eviction took, unless an image has it
    /// ([`Effect::Untagged`]); this deletes nothing.
    async fn restore_tag(&self, id: &str, name_tag: &str) -> Result<Effect, EngineError>;
    /// `POST /build/prune` with `until` and without `all`; [`Effect::Gone`] where nothing was freed.
    async fn prune_build_cache(&self, older_than: Duration) -> Result<Effect, EngineError>;
}
