//! The simulated world: the program's interface to engine and host, over [`State`].
//!
//! Each question and order is a step. A step takes time, in which the engine goes on; before a step something else may
//! begin, or the step may fail.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Result, anyhow};
use ci_docker_prune::facts::eviction_tag;
use ci_docker_prune::facts::{
    Answer, CacheRecord, Container, ContainerState, Containerd, Desired, DiskUsage, EVICTION_REPOSITORY,
    EngineTraces, Files, Filesystem, Image, Info, Inhibitor, Inspected, Labels, Layer, Mode, References,
    Service, Swarm, SwarmState, Task, TaskCounts, TaskState, Unavailable, Update,
};
use ci_docker_prune::history::PastPrune;
use ci_docker_prune::ledger::{ImageUse, Ledger, Observations, Reading};
use ci_docker_prune::units::Time;
use ci_docker_prune::world::{
    Acquisition, ContainerScope, Effect, EngineApi, EngineError, EngineEvents, EngineOrders, EventSummary,
    ImageEvent, Register, Registration, Request, StopEvent, World,
};
use regex::Regex;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::engine::{self, COMMIT_DELAY, Delete, Sign, State, Store, Violation};
use crate::run::Deed;

fn status(request: &str, status: u16, message: &str) -> EngineError {
    EngineError::with_status(format!("{request}: {status}: {message}"), status, message.to_owned())
}

/// The clock at the beginning.
pub fn epoch() -> Time {
    "2026-11-20T12:00:00Z".parse().expect("a time")
}

/// A way to break the protocol, to see that it is noticed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Breakage {
    /// An image goes with its first name, and gets no tag of ours before.
    OneStep,
    /// The engine's events are not looked at.
    NoEvents,
    /// Events are subscribed to after the gates.
    LateSubscription,
    /// Inhibitors are not looked for.
    NoInhibitors,
    /// The lock that an inhibitor waits for is not held.
    NoLock,
    /// A tag is given back without looking whether another image has it.
    BlindRestore,
}

/// A fault of one step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    Status(u16),
    Hang,
    /// An answer that makes no sense; an order was carried out all the same.
    MalformedResponse,
    LostBefore,
    /// What was asked is done, and the answer is lost.
    LostAfter,
    /// The disk is too full for what the engine wants to write.
    NoSpace,
}

/// What is shared by the world, its engine, its events and its orders.
pub struct Shared {
    pub state: RefCell<State>,
    pub ledger: RefCell<Ledger>,
    start: Instant,
    /// How many steps there were.
    pub steps: Cell<usize>,
    /// Their names.
    pub trace: RefCell<Vec<String>>,
    /// What begins before which step.
    pub begins: RefCell<Vec<(usize, Deed)>>,
    pub faults: RefCell<HashMap<usize, Fault>>,
    pub breakage: Option<Breakage>,
    /// The longest time of a step, ms, and the state of the generator that draws it.
    pub latency: u64,
    random: Cell<u64>,
    pub inhibitors: RefCell<Vec<Inhibitor>>,
    /// An inhibitor's command runs: it was registered, and no removal was in flight.
    command_runs: Cell<bool>,
    removal_locks: Cell<usize>,
    prune_runs: Cell<bool>,
    prunes: RefCell<Vec<u32>>,
    requests: RefCell<Vec<(u32, Request)>>,
    last_pid: Cell<u32>,
    /// Until when a prune counts as due that left its turn to the next one.
    left_until: [Cell<u64>; 3],
    /// How often something was registered or ended, and how often something moved a gate.
    changes: [watch::Sender<u64>; 3],
    moves: watch::Sender<u64>,
    pub shutdown: Cell<Option<usize>>,
    timeout: Duration,
    /// Kill the run before this step.
    pub kill_at: Cell<Option<usize>>,
    /// How many orders were given.
    pub orders: Cell<usize>,
    /// How much of what was to be injected was: deeds that began, faults that were answered, kills.
    pub injected: Cell<usize>,
    judge: Judge,
}

/// What the program could know when it gives an order. Times are in ms.
#[derive(Default)]
struct Judge {
    /// From when on it is subscribed to the engine's events: what is older the gates show, which are asked after that.
    subscribed: Cell<Option<u64>>,
    /// When it last asked for the services, as it does to ask the gates again.
    asked: Cell<u64>,
    /// When the gates' questions last showed a service without its task.
    closed: Cell<Option<u64>>,
    /// When a question or an order last failed.
    failed: Cell<Option<u64>>,
    /// When an order took too long.
    timed_out: Cell<Option<u64>>,
    /// IDs of dangling images whose removal failed: what comes of it only a further look tells.
    doubtful: RefCell<Vec<String>>,
    /// By image ID: when an order of ours last took a name off.
    untagged: RefCell<HashMap<String, u64>>,
    /// IDs of the images that go with the orders that are in flight.
    going: RefCell<Vec<String>>,
    /// What another process recorded in the ledger: an image ID, and when.
    recorded: RefCell<Vec<(String, Time)>>,
}

impl Shared {
    /// Milliseconds since the beginning.
    pub fn millis(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn draw(&self) -> u64 {
        let mut x = self.random.get();
        // Xorshift (Marsaglia, 2003).
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        self.random.set(x);
        if self.latency == 0 { 0 } else { x % (self.latency + 1) }
    }

    async fn pass(&self) {
        let time = self.draw();
        if time > 0 {
            tokio::time::sleep(Duration::from_millis(time)).await;
        }
        self.state.borrow_mut().advance(self.millis());
    }

    /// Something happened between two steps: begin what is to begin before this one.
    pub async fn step(&self, name: &str) {
        let step = self.steps.get();
        self.steps.set(step + 1);
        if self.trace.borrow().len() < 4_000 {
            self.trace.borrow_mut().push(name.to_owned());
        }
        if self.kill_at.get() == Some(step) {
            self.injected.set(self.injected.get() + 1);
            // Nothing of the run goes on after this.
            std::future::pending::<()>().await;
        }
        self.state.borrow_mut().advance(self.millis());
        let due: Vec<Deed> =
            self.begins.borrow().iter().filter(|(at, _)| *at == step).map(|(_, deed)| deed.clone()).collect();
        for deed in due {
            // The API has no order on the condition that a name is still an image's: one that takes it within the few
            // milliseconds between the look and the order loses it, as the documents say.
            if matches!(deed, Deed::Build(..) | Deed::Tag(..)) && name == "DELETE /images/REFERENCE" {
                self.begins.borrow_mut().push((step + 1, deed));
                continue;
            }
            self.injected.set(self.injected.get() + 1);
            self.begin(step, &deed);
        }
    }

    /// What is to fail at the step that has just begun.
    fn take_fault(&self) -> Option<Fault> {
        let fault = self.faults.borrow_mut().remove(&(self.steps.get() - 1));
        self.injected.set(self.injected.get() + usize::from(fault.is_some()));
        fault
    }

    /// A step of the host, which fails whatever the fault is.
    async fn host_step(&self, name: &str) -> Result<()> {
        self.step(name).await;
        let failure = || anyhow!("{name}: simulated");
        self.take_fault().map_or(Ok(()), |_| Err(failure()))
    }

    fn begin(&self, step: usize, deed: &Deed) {
        let now = self.millis();
        let mut state = self.state.borrow_mut();
        match deed {
            Deed::Deploy(image) => {
                let name = format!("deploy-{image}-{step}");
                state.create_service(now, &name, image);
            }
            Deed::Pull(image) => state.pull(now, image),
            Deed::Run(image) => {
                let reference = state.registry.get(image).map(|image| image.reference.clone());
                state.run_container(
                    now,
                    &format!("cron-{step}"),
                    &reference.unwrap_or_else(|| image.clone()),
                );
            }
            Deed::Inhibit => {
                let since = Some(epoch());
                self.changed(Register::Inhibitors);
                self.inhibitors.borrow_mut().push(Inhibitor {
                    pid: Some(1),
                    since,
                    why: Some("deploy".into()),
                    user: None,
                });
                self.command_runs.set(self.command_runs.get() || self.removal_locks.get() == 0);
            }
            Deed::Signal => self.shutdown.set(Some(step)),
            Deed::Restart => state.restart(now),
            Deed::Write(bytes) => state.write(*bytes),
            Deed::Build(name, tag) => state.build(now, name, tag),
            Deed::Cut => state.cut_until = now + RESUBSCRIPTION,
            Deed::Close => state.close_streams(now),
            Deed::Announce => state.tell_sign(now, "service", "create", "app"),
            Deed::OfRun(kind) => state.tell_sign(now, kind, "create", RUN),
            // An order that removes the image is already on its way.
            Deed::Tag(image, _) if self.judge.going.borrow().contains(image) => {}
            Deed::Tag(image, name_tag) => state.tag_by_hand(now, image, name_tag),
            Deed::RunSlowly(image) => {
                let reference = state.registry[image].reference.clone();
                state.run_slowly(now, &format!("slow-{step}"), &reference);
            }
            Deed::Crash(service) => state.crash(now, service),
            Deed::Record(image) => {
                let at = epoch() + jiff::SignedDuration::from_millis(i64::try_from(now).unwrap_or(i64::MAX));
                let used = ImageUse { image: image.clone(), name_tag: None, at, began: Some(at) };
                let seen = Observations { uses: vec![used], ..Observations::default() };
                let mut ledger = self.ledger.borrow_mut();
                ledger.advance(reading(at, now));
                ledger.record(&seen, at);
                self.judge.recorded.borrow_mut().push((image.clone(), ledger.time(at)));
            }
        }
    }

    /// A question: a step, time, and perhaps a fault.
    async fn ask(&self, name: &str) -> Result<(), EngineError> {
        self.step(name).await;
        let began = self.millis();
        let fault = self.take_fault();
        self.pass().await;
        let mut answer = self.fault(name, fault).await;
        if answer.is_ok() && self.millis() < self.state.borrow().down_until {
            answer = Err(EngineError::new(format!("the connection was lost during {name}")));
        }
        match &answer {
            Ok(()) if name == "GET /services" => self.judge.asked.set(began),
            Err(error) if error.status().is_none_or(|(status, _)| ![404, 409].contains(&status)) => {
                self.judge.failed.set(Some(self.millis()));
            }
            _ => {}
        }
        answer
    }

    async fn fault(&self, name: &str, fault: Option<Fault>) -> Result<(), EngineError> {
        match fault {
            None => Ok(()),
            Some(Fault::Status(code)) => Err(status(name, code, "simulated")),
            Some(Fault::NoSpace) => Err(status(name, 500, "write: no space left on device")),
            Some(Fault::MalformedResponse) => {
                Err(EngineError::new(format!("cannot understand the answer to {name}")))
            }
            Some(Fault::LostBefore | Fault::LostAfter) => {
                Err(EngineError::new(format!("the connection was lost during {name}")))
            }
            Some(Fault::Hang) => {
                tokio::time::sleep(self.timeout).await;
                self.state.borrow_mut().advance(self.millis());
                Err(EngineError::timeout(format!("no answer to {name}")))
            }
        }
    }

    /// Forget what kept the last run from going on.
    pub fn rest(&self) {
        self.command_runs.set(false);
        self.faults.borrow_mut().clear();
        let Judge { subscribed, closed, failed, timed_out, going, doubtful, .. } = &self.judge;
        doubtful.borrow_mut().clear();
        subscribed.set(None);
        [closed, failed, timed_out].into_iter().for_each(|at| at.set(None));
        going.borrow_mut().clear();
    }

    /// Does the ledger know what another process recorded in it, of each image that is there?
    pub fn check_records(&self) {
        let ledger = self.ledger.borrow();
        for (image, at) in self.judge.recorded.borrow().iter() {
            let known = ledger.images.get(image).and_then(|entry| entry.last_used);
            if self.state.borrow().images.contains_key(image) && known < Some(*at) {
                self.violate(Violation::UseForgotten(image.clone()));
            }
        }
    }

    fn is_left(&self, register: Register) -> bool {
        self.millis() < self.left_until[register as usize].get()
    }

    fn changed(&self, register: Register) {
        self.changes[register as usize].send_modify(|changes| *changes += 1);
    }

    /// Something ended or began that may move a gate.
    pub fn moved(&self) {
        self.moves.send_modify(|moves| *moves += 1);
    }

    fn violate(&self, violation: Violation) {
        self.state.borrow_mut().violations.insert(violation);
    }

    /// An order is given: nothing that the program could have seen may speak against it. What came up in the same
    /// millisecond it need not have seen.
    fn order_begins(&self, name: &str, reference: &str) {
        self.orders.set(self.orders.get() + 1);
        let Judge { subscribed, asked, closed, failed, timed_out, untagged, .. } = &self.judge;
        let now = self.millis();
        if self.shutdown.get().is_some_and(|at| at + 1 < self.steps.get()) {
            self.violate(Violation::OrderAfter("a signal"));
        }
        if self.command_runs.get() {
            self.violate(Violation::OrderAfter("an inhibitor's command had begun"));
        }
        let state = self.state.borrow();
        let is_seen = |sign: &Sign, since: u64| sign.at >= since && sign.visible < now;
        let signs = subscribed.get().map(|since| state.signs.iter().any(|sign| is_seen(sign, since)));
        let is_of_ours = reference.starts_with(EVICTION_REPOSITORY);
        let image = state.resolve(reference);
        // All that keeps it is our tag.
        let last = image.as_ref().filter(|id| is_of_ours && state.images[*id].references.len() == 1);
        let grace_ends = last.and_then(|id| untagged.borrow().get(id).map(|at| at + GRACE));
        drop(state);
        let before = |at: &Cell<Option<u64>>| at.get().is_some_and(|at| at < now);
        for (speaks_against, what) in [
            (signs == Some(true), "a stop event"),
            (before(closed), "a gate that closed"),
            (before(timed_out), "one that timed out"),
            (before(failed) && failed.get() > Some(asked.get()), "a failure, without asking again"),
            (grace_ends.is_some_and(|end| asked.get() < end), "the second of grace, without asking again"),
        ] {
            if speaks_against {
                self.violate(Violation::OrderAfter(what));
            }
        }
        if let (Some(end), Some(id)) = (grace_ends, &image)
            && now < end
        {
            self.violate(Violation::NoGrace(id.clone()));
        }
        let goes = name.starts_with("DELETE") && (is_of_ours || image.as_deref() == Some(reference));
        self.judge.going.borrow_mut().extend(image.filter(|_| goes));
    }

    /// An order: its effect comes in two halves.
    async fn order(
        &self,
        name: &str,
        reference: &str,
        change: impl FnOnce(&Self) -> Order,
    ) -> Result<Effect, EngineError> {
        self.step(name).await;
        self.order_begins(name, reference);
        let image = self.state.borrow().resolve(reference);
        let done = self.carry_out(name, change).await;
        let Judge { failed, timed_out, untagged, going, doubtful, .. } = &self.judge;
        let now = Some(self.millis());
        match &done {
            Err(error) if error.timed_out() => timed_out.set(now),
            Err(_) if image.as_deref() == Some(reference) && name.starts_with("DELETE") => {
                doubtful.borrow_mut().push(reference.to_owned());
            }
            Err(error) if error.status().is_none_or(|(status, _)| status != 409) => failed.set(now),
            _ => {}
        }
        if let Some(id) = image {
            let mut going = going.borrow_mut();
            let place = going.iter().position(|other| *other == id);
            place.into_iter().for_each(|place| drop(going.remove(place)));
            if name.starts_with("DELETE") && !reference.starts_with(EVICTION_REPOSITORY) {
                untagged.borrow_mut().insert(id, self.millis());
            }
        }
        done
    }

    async fn carry_out(
        &self,
        name: &str,
        change: impl FnOnce(&Self) -> Order,
    ) -> Result<Effect, EngineError> {
        let fault = self.take_fault();
        if let Some(fault) =
            fault.filter(|fault| !matches!(fault, Fault::LostAfter | Fault::MalformedResponse))
        {
            self.pass().await;
            return self.failed(name, Some(fault)).await;
        }
        self.pass().await;
        if self.millis() < self.state.borrow().down_until {
            return Err(EngineError::new(format!("the connection was lost during {name}")));
        }
        let order = change(self);
        let done = match order {
            Order::Done(done) => done,
            Order::Delete(decided) => {
                tokio::time::sleep(Duration::from_millis(COMMIT_DELAY)).await;
                let mut state = self.state.borrow_mut();
                state.advance(self.millis());
                state.delete(&decided);
                match decided {
                    Delete::NotFound => Ok(Effect::Gone),
                    Delete::Conflict(why) => Err(status(name, 409, &why)),
                    Delete::Untag(..) => Ok(Effect::Untagged),
                    Delete::Whole(_) => Ok(Effect::Complete),
                }
            }
        };
        self.pass().await;
        if fault.is_some() { self.failed(name, fault).await } else { done }
    }

    async fn failed(&self, name: &str, fault: Option<Fault>) -> Result<Effect, EngineError> {
        match self.fault(name, fault).await {
            // The program looks again, and the object is there.
            Err(error) if error.status().is_some_and(|(status, _)| status == 404) => {
                Err(EngineError::new(format!("404 to {name}, and it is still there")))
            }
            answer => answer.map(|()| Effect::Complete),
        }
    }
}

enum Order {
    Done(Result<Effect, EngineError>),
    Delete(Delete),
}

/// A subscription's state.
pub struct Reader {
    next: usize,
    since: u64,
    began: u64,
    pattern: Regex,
    seen: EventSummary,
}

impl Reader {
    fn read(&mut self, state: &State, now: u64) {
        if state.streams_lost_at.is_some_and(|at| at >= self.began && at <= now) && self.seen.stops.is_empty()
        {
            self.seen.stop(StopEvent::Lost("the engine closed it".into()));
        }
        // Delays may let a later event be seen first.
        while let Some(seen) = state.events.get(self.next).filter(|seen| seen.visible <= now) {
            self.next += 1;
            if seen.at >= self.since {
                self.seen.record(seen.event.clone(), &self.pattern);
            }
        }
    }
}

/// What a run gives its own network, volumes, secrets and configs for a name.
const RUN: &str = "shop-0123ef_ci_commoninternet_net_data";

/// Between taking an image's last name off and removing it, ms.
const GRACE: u64 = 1_000;

/// How long it takes until a broken event stream is subscribed again, ms.
const RESUBSCRIPTION: u64 = 100;

/// The host.
#[derive(Clone)]
pub struct Simulated(pub Rc<Shared>);

impl Simulated {
    pub fn new(state: State, ledger: Ledger, latency: u64, seed: u64, breakage: Option<Breakage>) -> Self {
        Self(Rc::new(Shared {
            state: RefCell::new(state),
            ledger: RefCell::new(ledger),
            start: Instant::now(),
            steps: Cell::new(0),
            trace: RefCell::new(Vec::new()),
            begins: RefCell::new(Vec::new()),
            faults: RefCell::new(HashMap::new()),
            breakage,
            latency,
            random: Cell::new(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1),
            inhibitors: RefCell::new(Vec::new()),
            command_runs: Cell::new(false),
            removal_locks: Cell::new(0),
            prune_runs: Cell::new(false),
            prunes: RefCell::default(),
            requests: RefCell::default(),
            last_pid: Cell::new(1_000),
            left_until: std::array::from_fn(|_| Cell::new(0)),
            changes: std::array::from_fn(|_| watch::channel(0).0),
            moves: watch::channel(0).0,
            shutdown: Cell::new(None),
            timeout: Duration::from_secs(30),
            kill_at: Cell::new(None),
            orders: Cell::new(0),
            injected: Cell::new(0),
            judge: Judge::default(),
        }))
    }
}

/// Ends the prune when it is dropped.
pub struct PruneLock(Rc<Shared>);

impl Drop for PruneLock {
    fn drop(&mut self) {
        self.0.prune_runs.set(false);
    }
}

/// Ends the registration when it is dropped.
pub struct Registered {
    pid: u32,
    register: Register,
    shared: Rc<Shared>,
}

impl Drop for Registered {
    fn drop(&mut self) {
        let shared = &self.shared;
        shared.prunes.borrow_mut().retain(|pid| *pid != self.pid);
        shared.requests.borrow_mut().retain(|(pid, _)| *pid != self.pid);
        shared.inhibitors.borrow_mut().retain(|inhibitor| inhibitor.pid != Some(self.pid));
        shared.command_runs.set(shared.command_runs.get() && !shared.inhibitors.borrow().is_empty());
        shared.changed(self.register);
    }
}

/// Of the registers.
pub struct Changes(RefCell<watch::Receiver<u64>>);

impl ci_docker_prune::world::Changes for Changes {
    async fn changed(&self) {
        let mut receiver = self.0.borrow().clone();
        if receiver.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
        self.0.borrow_mut().mark_unchanged();
    }
}

/// Ends a removal when it is dropped.
pub struct RemovalLock(Rc<Shared>);

impl Drop for RemovalLock {
    fn drop(&mut self) {
        let left = self.0.removal_locks.get() - 1;
        self.0.removal_locks.set(left);
        if left == 0 && !self.0.inhibitors.borrow().is_empty() {
            self.0.command_runs.set(true);
        }
    }
}

impl World for Simulated {
    type Engine = Self;
    type PruneLock = PruneLock;
    type RemovalLock = RemovalLock;
    type Registered = Registered;
    type Changes = Changes;

    fn now(&self) -> Time {
        epoch() + jiff::SignedDuration::from_millis(i64::try_from(self.0.millis()).unwrap_or(i64::MAX))
    }

    async fn connect(&self) -> Answer<Self> {
        self.0.ask("GET /version").await?;
        Ok(self.clone())
    }

    async fn engine_traces(&self, _: &Info) -> EngineTraces {
        let containerd =
            Some(Containerd { separate: false, root: Some("/var/lib/docker/containerd/daemon".into()) });
        EngineTraces { root_is_shared: Some(true), containerd, ..EngineTraces::default() }
    }

    async fn measure(&self, _: &[PathBuf]) -> Answer<Vec<Filesystem>> {
        self.0.host_step("statvfs").await?;
        let state = self.0.state.borrow();
        let used = state.used().min(state.disk_size);
        Ok(vec![Filesystem {
            mount_point: "/".into(),
            size: state.disk_size,
            used,
            available: state.disk_size - used,
            inodes: 0,
            inodes_used: 0,
            metadata: 0,
            metadata_used: 0,
        }])
    }

    async fn engine_files(&self, _: &Path, _: bool) -> Answer<Files> {
        Err(Unavailable("not simulated".into()))
    }

    fn reading(&self) -> Reading {
        reading(self.now(), self.0.millis())
    }

    fn ledger(&self) -> Ledger {
        let mut ledger = self.0.ledger.borrow().clone();
        ledger.advance(self.reading());
        ledger
    }

    async fn update_ledger(&self, _: Time, change: impl FnOnce(&mut Ledger)) -> Result<Ledger> {
        self.0.host_step("ledger").await?;
        let mut ledger = self.0.ledger.borrow_mut();
        ledger.advance(self.reading());
        change(&mut ledger);
        drop(ledger);
        Ok(self.ledger())
    }

    /// No decision rests on them.
    async fn record_prune(&self, _: &PastPrune) -> Result<()> {
        Ok(())
    }

    fn history(&self) -> Result<Vec<PastPrune>> {
        Ok(vec![])
    }

    fn keep_reserve(&self, _: &[PathBuf]) {
        self.0.state.borrow_mut().keep_reserve();
    }

    fn release_reserve(&self) -> bool {
        self.0.state.borrow_mut().release_reserve()
    }

    fn prepare(&self) -> Result<()> {
        Ok(())
    }

    fn lock_prunes(&self) -> Result<Acquisition<PruneLock>> {
        if self.0.prune_runs.replace(true) {
            return Ok(Acquisition::Held { pid: None, directory: "/run".into() });
        }
        Ok(Acquisition::Acquired(PruneLock(Rc::clone(&self.0))))
    }

    async fn lock_removals(&self) -> Result<RemovalLock> {
        self.0.host_step("lock").await?;
        if self.0.breakage != Some(Breakage::NoLock) {
            self.0.removal_locks.set(self.0.removal_locks.get() + 1);
            return Ok(RemovalLock(Rc::clone(&self.0)));
        }
        // A lock of something else.
        let elsewhere = Self::new(State::new(Store::Overlay2, 1), Ledger::default(), 0, 0, None);
        elsewhere.0.removal_locks.set(1);
        Ok(RemovalLock(elsewhere.0))
    }

    fn inhibitors(&self) -> Result<Vec<Inhibitor>> {
        if self.0.breakage == Some(Breakage::NoInhibitors) {
            return Ok(vec![]);
        }
        Ok(self.0.inhibitors.borrow().clone())
    }

    fn due_prunes(&self) -> Result<Vec<Inhibitor>> {
        let due = !self.0.prunes.borrow().is_empty();
        let is_left = self.0.is_left(Register::Prunes);
        Ok(Vec::from_iter((due || is_left).then_some(Inhibitor {
            pid: None,
            since: None,
            why: None,
            user: None,
        })))
    }

    fn requests(&self) -> Result<Vec<Request>> {
        let mut all: Vec<_> = self.0.requests.borrow().iter().map(|(_, request)| *request).collect();
        if self.0.is_left(Register::Requests) {
            all.push(Request { since: None, min_free: None, gave_up: true });
        }
        Ok(all)
    }

    fn is_inside_inhibitor(&self) -> bool {
        false
    }

    fn register(&self, register: Register, what: &Registration<'_>) -> Result<Registered> {
        let pid = self.0.last_pid.get() + 1;
        self.0.last_pid.set(pid);
        match register {
            Register::Inhibitors => {
                let why = what.why.map(str::to_owned);
                self.0.inhibitors.borrow_mut().push(Inhibitor {
                    pid: Some(pid),
                    since: Some(self.now()),
                    why,
                    user: None,
                });
            }
            Register::Prunes => {
                self.0.prunes.borrow_mut().push(pid);
                self.0.left_until[register as usize].set(0);
            }
            Register::Requests => {
                let request = Request { since: Some(self.now()), min_free: what.min_free, gave_up: false };
                self.0.requests.borrow_mut().push((pid, request));
            }
        }
        self.0.changed(register);
        Ok(Registered { pid, register, shared: Rc::clone(&self.0) })
    }

    fn leave(&self, registered: Registered, how_long: Duration) -> Result<()> {
        let until = self.0.millis() + u64::try_from(how_long.as_millis())?;
        self.0.left_until[registered.register as usize].set(until);
        drop(registered);
        Ok(())
    }

    fn watch(&self, register: Register) -> Result<Changes> {
        Ok(Changes(RefCell::new(self.0.changes[register as usize].subscribe())))
    }

    async fn wait_for_removal(&self) -> Result<()> {
        while self.0.removal_locks.get() > 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        self.0.command_runs.set(true);
        Ok(())
    }

    fn watch_shutdown(&self) -> Result<()> {
        Ok(())
    }

    fn shutdown_requested(&self) -> bool {
        self.0.shutdown.get().is_some()
    }

    async fn shutdown(&self) {
        std::future::pending().await
    }
}

fn reading(wall: Time, millis: u64) -> Reading {
    Reading { wall, boot_id: Some("simulated".into()), since_boot: Some(Duration::from_millis(millis)) }
}

fn at(millis: i64) -> Option<Time> {
    Some(epoch() + jiff::SignedDuration::from_millis(millis))
}

/// An image as the list shows it, or as inspecting it does.
fn image(store: Store, stored: &engine::Stored, inspected: bool) -> Image {
    let all = || stored.references.iter().cloned();
    let has_tag =
        |reference: &String| reference.split('@').next().is_some_and(|name| name != engine::repository(name));
    let (tags, digests) = match store {
        Store::Overlay2 => all().partition(|reference| !reference.contains('@')),
        Store::Containerd => {
            let (_, digest) = stored.image.reference.split_once('@').unwrap_or_default();
            let digests = all().map(|reference| match reference.contains('@') && inspected {
                true => reference,
                false => format!("{}@{digest}", engine::repository(&reference)),
            });
            (all().filter(has_tag).collect(), digests.collect())
        }
    };
    let References { tags, digests, eviction_tag } = References::new(tags, digests);
    Image {
        id: stored.image.id(),
        tags,
        digests,
        eviction_tag,
        // Built in 2024, as images are that Swarm has just pulled.
        created: "2024-02-03T04:05:06Z".parse().ok(),
        last_tagged: None,
        parent: None,
        untagged_parents: 0,
        size: stored.image.size(),
        labels: Labels::new(),
    }
}

impl EngineApi for Simulated {
    type Events = Events;
    type Orders = Self;

    fn is_local(&self) -> bool {
        true
    }

    fn manager_elsewhere(&self) -> bool {
        false
    }

    fn orders(&self) -> Self {
        self.clone()
    }

    async fn subscribe(&self, since: Time, pattern: &Regex) -> Result<Events, EngineError> {
        self.0.ask("GET /events").await?;
        let since = u64::try_from(since.duration_since(epoch()).as_millis()).unwrap_or(0);
        let began = self.0.millis();
        let next = self.0.state.borrow().events.partition_point(|seen| seen.at < since);
        let reader = Reader { next, since, began, pattern: pattern.clone(), seen: EventSummary::default() };
        self.0.judge.subscribed.set(Some(began));
        let first_look = Cell::new(true);
        Ok(Events { reader: RefCell::new(reader), shared: Rc::clone(&self.0), first_look })
    }

    async fn info(&self) -> Result<Info, EngineError> {
        self.0.ask("GET /info").await?;
        Ok(Info {
            id: "simulated".into(),
            root: "/var/lib/docker".into(),
            host_name: String::new(),
            memory: 0,
            containerd: None,
            containerd_store: self.0.state.borrow().store == Store::Containerd,
            swarm: Swarm { state: SwarmState::Manager, node: Some("node".into()) },
            version: "simulated".into(),
            time: Some(World::now(self)),
        })
    }

    async fn services(&self) -> Result<Vec<Service>, EngineError> {
        self.0.ask("GET /services").await?;
        let state = self.0.state.borrow();
        let service = |service: &engine::Service| {
            let running = |task: &&engine::Task| {
                task.service == service.name && task.state == engine::TaskState::Running
            };
            Service {
                id: service.name.clone(),
                name: service.name.clone(),
                labels: Labels::new(),
                created: at(i64::try_from(service.created).unwrap_or(0)),
                updated: None,
                image: service.image.clone(),
                previous_image: None,
                commands_engine: None,
                mode: Mode::Replicated { replicas: 1 },
                status: Some(TaskCounts {
                    running: state.tasks.iter().filter(running).count() as u64,
                    desired: 1,
                    completed: 0,
                }),
                update: Update::Settled,
                job_iteration: 0,
            }
        };
        if state.is_converging() {
            self.0.judge.closed.set(Some(self.0.millis()));
        }
        Ok(state.services.values().map(service).collect())
    }

    async fn tasks(&self) -> Result<Vec<Task>, EngineError> {
        self.0.ask("GET /tasks").await?;
        let state = self.0.state.borrow();
        let task = |task: &engine::Task| Task {
            service: task.service.clone(),
            slot: 1,
            node: Some("node".into()),
            created: None,
            state: match task.state {
                engine::TaskState::New | engine::TaskState::Starting => TaskState::Starting,
                engine::TaskState::Preparing => TaskState::Preparing,
                engine::TaskState::Running => TaskState::Running,
                engine::TaskState::Rejected => TaskState::Rejected,
            },
            state_since: None,
            desired: if task.state == engine::TaskState::Rejected { Desired::Over } else { Desired::Running },
            error: None,
            container: task.container.clone(),
            image: state.services.get(&task.service).map(|service| service.image.clone()).unwrap_or_default(),
            job_iteration: 0,
        };
        Ok(state.tasks.iter().map(task).collect())
    }

    async fn nodes_away(&self) -> Result<HashSet<String>, EngineError> {
        self.0.ask("GET /nodes").await?;
        Ok(HashSet::new())
    }

    async fn containers(&self, which: ContainerScope) -> Result<Vec<Container>, EngineError> {
        self.0.ask("GET /containers/json").await?;
        let state = self.0.state.borrow();
        if self.0.millis() < state.settling_until {
            return Ok(vec![]);
        }
        let container = |(id, container): (&String, &engine::Container)| {
            let labels =
                container.service.iter().map(|id| ("com.docker.swarm.service.id".to_owned(), id.clone()));
            Container {
                id: id.clone(),
                names: vec![container.name.clone()],
                image: container.asked.clone(),
                image_id: container.image.clone(),
                state: match container.state {
                    engine::ContainerState::Created => ContainerState::Created,
                    engine::ContainerState::Running => ContainerState::Running,
                    engine::ContainerState::Exited(_) => ContainerState::Exited,
                },
                labels: labels.collect(),
                created: at(container.created),
                finished: None,
                restart_policy: None,
                mounted_images: vec![],
                volumes: vec![],
                commands_engine: None,
            }
        };
        let listed = state.containers.iter().map(container);
        Ok(listed.filter(|container| which == ContainerScope::All || container.state.is_live()).collect())
    }

    async fn images(&self) -> Result<Vec<Image>, EngineError> {
        self.0.ask("GET /images/json").await?;
        let state = self.0.state.borrow();
        Ok(state.images.values().map(|stored| image(state.store, stored, false)).collect())
    }

    async fn image(&self, reference: &str) -> Result<Option<Image>, EngineError> {
        match self.0.ask("GET /images/ID/json").await {
            Err(error) if error.status().is_some_and(|(status, _)| status == 404) => return Ok(None),
            answer => answer?,
        }
        let state = self.0.state.borrow();
        let mut doubtful = self.0.judge.doubtful.borrow_mut();
        if let Some(place) = doubtful.iter().position(|id| id == reference) {
            doubtful.remove(place);
            if state.images.contains_key(reference) {
                self.0.judge.failed.set(Some(self.0.millis()));
            }
        }
        Ok(state.resolve(reference).map(|id| image(state.store, &state.images[&id], true)))
    }

    async fn layers(&self, image: &Image) -> Result<Option<Vec<Layer>>, EngineError> {
        self.0.ask("GET /images/ID/history").await?;
        let state = self.0.state.borrow();
        let layers = |stored: &engine::Stored| {
            stored.image.layers.iter().map(|(id, size)| Layer { id: id.clone(), size: *size }).collect()
        };
        Ok(state.images.get(&image.id).map(layers))
    }

    async fn inspect_container(&self, id: &str) -> Result<Option<Inspected>, EngineError> {
        match self.0.ask("GET /containers/ID/json").await {
            Err(error) if error.status().is_some_and(|(status, _)| status == 404) => return Ok(None),
            answer => answer?,
        }
        Ok(self.0.state.borrow().containers.get(id).map(|container| Inspected {
            finished: match container.state {
                engine::ContainerState::Exited(_) => at(container.created),
                _ => None,
            },
            restart_policy: Some("no".into()),
        }))
    }

    async fn build_cache(&self) -> Result<Vec<CacheRecord>, EngineError> {
        self.0.ask("GET /system/df").await?;
        if !self.0.state.borrow().stale_cache {
            return Ok(vec![]);
        }
        let last_used = at(-30 * 86_400_000);
        Ok(vec![CacheRecord { size: 1, in_use: false, shared: false, internal: false, last_used }])
    }

    async fn uses(&self, since: Time, until: Time) -> Result<Vec<ImageEvent>, EngineError> {
        self.0.ask("GET /events (past)").await?;
        let state = self.0.state.borrow();
        let past = state.events[state.events.len().saturating_sub(256)..]
            .iter()
            .filter(|seen| seen.event.kind == "container");
        let used = past.filter_map(|seen| {
            let image = seen.event.actor.attributes.as_ref()?.get("image")?.clone();
            let is_creation = seen.event.action == "create";
            Some(ImageEvent { image, at: at(i64::try_from(seen.at).ok()?)?, is_creation })
        });
        let used = used.filter(|event| (since..=until).contains(&event.at));
        Ok(used.collect())
    }

    async fn disk_usage(&self, _: bool) -> Result<DiskUsage, EngineError> {
        self.0.ask("GET /system/df (all)").await?;
        Ok(DiskUsage::default())
    }
}

/// The engine's events.
pub struct Events {
    reader: RefCell<Reader>,
    shared: Rc<Shared>,
    first_look: Cell<bool>,
}

impl EngineEvents for Events {
    async fn poll(&self) -> EventSummary {
        // Until it is subscribed again nothing is known.
        loop {
            let (now, cut_until) = (self.shared.millis(), self.shared.state.borrow().cut_until);
            if now >= cut_until {
                break;
            }
            tokio::time::sleep(Duration::from_millis(cut_until - now)).await;
            self.shared.state.borrow_mut().advance(self.shared.millis());
        }
        let now = self.shared.millis();
        let state = self.shared.state.borrow();
        let mut reader = self.reader.borrow_mut();
        reader.read(&state, now);
        match self.shared.breakage {
            Some(Breakage::NoEvents) => EventSummary::default(),
            // What came before the first look was not subscribed to.
            Some(Breakage::LateSubscription) if self.first_look.replace(false) => {
                reader.seen.stops.clear();
                reader.seen.clone()
            }
            _ => reader.seen.clone(),
        }
    }

    fn moves(&self) -> u64 {
        *self.shared.moves.borrow()
    }

    async fn moved(&self, since: u64) {
        let mut moves = self.shared.moves.subscribe();
        // The sender is the world's.
        let _ = moves.wait_for(|moves| *moves > since).await;
    }
}

impl EngineOrders for Simulated {
    async fn remove_container(&self, id: &str) -> Result<Effect, EngineError> {
        self.0
            .order("DELETE /containers/ID", "", |shared| {
                let mut state = shared.state.borrow_mut();
                Order::Done(match state.containers.get(id).map(|container| container.state.clone()) {
                    None => Ok(Effect::Gone),
                    Some(engine::ContainerState::Running) => {
                        Err(status("DELETE /containers/ID", 409, "it is running"))
                    }
                    Some(_) => {
                        state.containers.remove(id);
                        Ok(Effect::Complete)
                    }
                })
            })
            .await
    }

    async fn remove_image(&self, reference: &str) -> Result<Effect, EngineError> {
        self.0
            .order("DELETE /images/REFERENCE", reference, |shared| {
                Order::Delete(shared.state.borrow().may_delete(reference))
            })
            .await
    }

    async fn tag_image(&self, id: &str) -> Result<Effect, EngineError> {
        self.0
            .order("POST /images/ID/tag", id, |shared| {
                let mut state = shared.state.borrow_mut();
                if shared.breakage == Some(Breakage::OneStep) {
                    return Order::Done(Ok(Effect::Complete));
                }
                if state.is_full() {
                    let why = "write repositories.json: no space left on device";
                    return Order::Done(Err(status("POST /images/ID/tag", 500, why)));
                }
                Order::Done(match state.images.get_mut(id) {
                    None => Ok(Effect::Gone),
                    Some(stored) => {
                        stored.references.insert(eviction_tag(id));
                        Ok(Effect::Complete)
                    }
                })
            })
            .await
    }

    async fn restore_tag(&self, id: &str, name_tag: &str) -> Result<Effect, EngineError> {
        // The look and the order lie within one round trip: nothing of ours can be seen in between.
        self.0.step("POST /images/ID/tag (restore)").await;
        let fault = self.0.take_fault();
        self.0.pass().await;
        self.0.fault("POST /images/ID/tag (restore)", fault).await?;
        let mut state = self.0.state.borrow_mut();
        if self.0.breakage != Some(Breakage::BlindRestore) && state.resolve(name_tag).is_some() {
            return Ok(Effect::Untagged);
        }
        if !state.images.contains_key(id) {
            return Ok(Effect::Gone);
        }
        state.tag(id, name_tag);
        Ok(Effect::Complete)
    }

    async fn prune_build_cache(&self, _: Duration) -> Result<Effect, EngineError> {
        let stale = |shared: &Shared| {
            let freed = std::mem::take(&mut shared.state.borrow_mut().stale_cache);
            Order::Done(Ok(if freed { Effect::Complete } else { Effect::Gone }))
        };
        self.0.order("POST /build/prune", "", stale).await
    }
}
