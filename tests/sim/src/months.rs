//! Months of a CI host: a trace played under the program's own code, and under other tools' policies.
//!
//! The program runs as its units let it: `record --prune-at 90 --wait 4m45s` every five minutes and where a command asks
//! for it, and `prune` at midnight, with its gates, plan, ledger and execution. Where runs begin under `inhibit` they
//! queue as that command does. Other policies stand here in a few lines each, as their sources and documents
//! describe them; none of them removes what a container uses.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashSet};
use std::sync::LazyLock;
use std::time::Duration;

use ci_docker_prune::commands::{prune, record};
use ci_docker_prune::ledger::Ledger;
use ci_docker_prune::prune::moment::{Wishes, let_prunes_go_first};
use ci_docker_prune::report::progress;
use ci_docker_prune::settings::{self, Settings};
use ci_docker_prune::world::{Changes as _, Register, Registration, World};
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep, sleep_until};

use crate::engine::{Image, State, Store, Stored};
use crate::run;
use crate::trace::Trace;
use crate::world::Simulated;

/// A policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    Nothing,
    /// `docker system prune -af` at midnight.
    SystemPruneAll,
    /// At midnight, from 80 % on: dangling images that were built over a day ago, which on overlay2 are all that have
    /// no tag.
    Script,
    /// docuum: least recently used first, from 80 % on, hourly.
    Docuum,
    /// The kubelet: from 85 % down to 80 %, least recently used first, unused for two minutes, every five minutes.
    Kubelet,
    /// Evicts only where the next run does not fit, and then the image whose own layers are needed furthest in the
    /// future: nearly the least that can be pulled.
    Bound,
    /// Evicts in that order too, but at the percentages of this program.
    Foresight,
    Ours,
    /// Each run begins under `inhibit`, with a `--prune-wait` of so many minutes.
    OursInhibited(u64),
    /// `--during-runs critical`.
    OursDuringRuns,
}

impl Policy {
    pub const ALL: [Self; 11] = [
        Self::Nothing,
        Self::SystemPruneAll,
        Self::Script,
        Self::Docuum,
        Self::Kubelet,
        Self::Ours,
        Self::OursInhibited(10),
        Self::OursInhibited(20),
        Self::OursDuringRuns,
        Self::Foresight,
        Self::Bound,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::Nothing => "nothing",
            Self::SystemPruneAll => "`docker system prune -af`, daily",
            Self::Script => "the script that it replaces, daily",
            Self::Docuum => "docuum",
            Self::Kubelet => "kubelet",
            Self::Bound => "bound: evicts only what does not fit, by foresight",
            Self::Foresight => "foresight, at our percentages",
            Self::Ours => "`ci-docker-prune`",
            Self::OursInhibited(10) => "`ci-docker-prune`, runs under `inhibit`",
            Self::OursInhibited(_) => "`ci-docker-prune`, `inhibit` with a longer `prune-wait`",
            Self::OursDuringRuns => "`ci-docker-prune`, `during-runs`",
        }
    }

    fn is_ours(self) -> bool {
        matches!(self, Self::Ours | Self::OursInhibited(_) | Self::OursDuringRuns)
    }

    fn interval(self) -> u64 {
        match self {
            Self::Docuum => HOUR,
            Self::Kubelet | Self::Foresight => 5 * MINUTE,
            _ => DAY,
        }
    }
}

const MINUTE: u64 = 60_000;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;

/// What became of it.
#[derive(Debug, Default, Clone, Copy)]
pub struct Tally {
    pub runs: usize,
    /// Runs with an image that did not fit.
    pub failed: usize,
    pub pulls: usize,
    /// Bytes.
    pub pulled: u64,
    pub pulled_again: u64,
    /// Percent.
    pub peak: u64,
    /// How long runs waited for prunes to go first, all together and at most; milliseconds.
    pub waited: u64,
    pub longest_wait: u64,
}

struct Host<'a> {
    trace: &'a Trace,
    policy: Policy,
    world: Simulated,
    start: Instant,
    slots: Semaphore,
    last_used: RefCell<BTreeMap<String, u64>>,
    downloaded: RefCell<HashSet<String>>,
    tally: Cell<Tally>,
}

/// Play a trace on a disk of this size, 15 % of which is taken by others.
pub fn play(trace: &Trace, disk_size: u64, policy: Policy) -> Tally {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    runtime.expect("a runtime").block_on(played(trace, disk_size, policy))
}

async fn played(trace: &Trace, disk_size: u64, policy: Policy) -> Tally {
    let mut state = State::new(Store::Overlay2, disk_size);
    state.ballast = disk_size * 15 / 100;
    let host = Host {
        trace,
        policy,
        world: Simulated::new(state, Ledger::default(), 0, 1, None),
        start: Instant::now(),
        slots: Semaphore::new(trace.slots()),
        last_used: RefCell::default(),
        downloaded: RefCell::default(),
        tally: Cell::default(),
    };
    let mut runs: FuturesUnordered<_> = (0..trace.runs.len()).map(|n| host.run(n)).collect();
    let all = async { while runs.next().await.is_some() {} };
    tokio::select! {
        () = all => {}
        () = host.tick_for_ever() => {}
        () = host.record_for_ever() => {}
    }
    host.tally.get()
}

impl Host<'_> {
    fn percent(&self) -> u64 {
        let state = self.world.0.state.borrow();
        (state.used() * 100).div_ceil(state.disk_size)
    }

    fn count(&self, change: impl FnOnce(&mut Tally)) {
        let mut tally = self.tally.get();
        change(&mut tally);
        self.tally.set(tally);
    }

    fn millis(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// From when it is due until it has ended.
    async fn run(&self, n: usize) {
        let run = &self.trace.runs[n];
        // What ends at the same time ends first, and then a timer elapses.
        sleep_until(self.start + Duration::from_millis(run.at + 2)).await;
        let slot = self.slots.acquire().await.expect("it is never closed");
        let due = self.millis();
        let inhibitor = match self.policy {
            Policy::OursInhibited(minutes) => Some(self.inhibit(minutes).await),
            _ => None,
        };
        let waited = self.millis() - due;
        self.count(|tally| {
            tally.waited += waited;
            tally.longest_wait = tally.longest_wait.max(waited);
        });
        self.begin(n, self.millis());
        sleep(Duration::from_millis(run.lasts.saturating_sub(2))).await;
        self.end(n, self.millis());
        drop((inhibitor, slot));
    }

    /// As the command does.
    async fn inhibit(&self, minutes: u64) -> <Simulated as World>::Registered {
        let prune_wait = Duration::from_millis(minutes * MINUTE);
        let wishes = Wishes { prune_wait, prune_at: RECORD.prune_at, min_free: None };
        let turn = let_prunes_go_first(&self.world, &RECORD.policy, &wishes, &|_| ()).await;
        turn.expect("a simulated engine answers").expect("no space is wanted");
        let inhibitor = self.world.register(Register::Inhibitors, &Registration::default());
        self.world.wait_for_removal().await.expect("it ends");
        inhibitor.expect("a registration")
    }

    fn begin(&self, n: usize, at: u64) {
        let mut fits = true;
        for name in &self.trace.runs[n].images {
            let image = &self.trace.images[name];
            if self.policy == Policy::Bound && !self.fits(image) {
                let wanted = &self.trace.runs[n].images;
                self.evict_what_is_needed_last(at, wanted, |host| host.fits(image));
            }
            let mut state = self.world.0.state.borrow_mut();
            if !state.images.contains_key(&image.id()) {
                let there = state.layers();
                let missing = image.layers.iter().filter(|(id, _)| !there.contains_key(id.as_str()));
                let missing: Vec<_> = missing.cloned().collect();
                let bytes: u64 = missing.iter().map(|(_, size)| size).sum();
                if state.used() + bytes > state.disk_size {
                    fits = false;
                    continue;
                }
                let known = |(id, size): (String, u64)| {
                    if self.downloaded.borrow_mut().insert(id) { 0 } else { size }
                };
                let again: u64 = missing.into_iter().map(known).sum();
                self.count(|tally| {
                    tally.pulls += 1;
                    tally.pulled += bytes;
                    tally.pulled_again += again;
                });
                state.add_cached(image.clone());
            }
            state.start_container(at, &container(n, name), image);
            drop(state);
            self.last_used.borrow_mut().insert(name.clone(), at);
        }
        self.world.0.moved();
        let percent = self.percent();
        self.count(|tally| {
            tally.runs += 1;
            tally.failed += usize::from(!fits);
            tally.peak = tally.peak.max(percent);
        });
    }

    fn fits(&self, image: &Image) -> bool {
        let state = self.world.0.state.borrow();
        let there = state.layers();
        let missing = image.layers.iter().filter(|(id, _)| !there.contains_key(id.as_str()));
        state.used() + missing.map(|(_, size)| size).sum::<u64>() <= state.disk_size
    }

    fn end(&self, n: usize, at: u64) {
        let mut state = self.world.0.state.borrow_mut();
        for name in &self.trace.runs[n].images {
            if state.containers.remove(&container(n, name)).is_some() {
                self.last_used.borrow_mut().insert(name.clone(), at);
            }
        }
        self.world.0.moved();
    }

    /// What the daily timer starts, or the other policy's own.
    async fn tick_for_ever(&self) {
        for n in 1.. {
            let at = n * self.policy.interval();
            sleep_until(self.start + Duration::from_millis(at + 1)).await;
            self.tick(at).await;
        }
    }

    /// The record unit: five minutes after it was started last, and when a command asks for a prune.
    async fn record_for_ever(&self) {
        if !self.policy.is_ours() {
            std::future::pending::<()>().await;
        }
        let settings = if self.policy == Policy::OursDuringRuns { &*DURING_RUNS } else { &*RECORD };
        let requests = self.world.watch(Register::Requests).expect("a register");
        let mut next = self.start + RECORD_INTERVAL;
        loop {
            tokio::select! {
                () = sleep_until(next) => {}
                () = self.request(&requests) => {}
            }
            next = Instant::now() + RECORD_INTERVAL;
            let recorded = record::run(&self.world, settings, &progress::hidden()).await;
            recorded.expect("a simulated engine answers");
        }
    }

    async fn request(&self, changes: &<Simulated as World>::Changes) {
        loop {
            changes.changed().await;
            let requests = self.world.requests().expect("a register");
            if requests.iter().any(|request| !request.gave_up) {
                return;
            }
        }
    }

    async fn tick(&self, at: u64) {
        match self.policy {
            Policy::Nothing => {}
            Policy::SystemPruneAll => self.evict(|_| true, |_| 0, 0),
            Policy::Script if self.percent() >= 80 => {
                let built = &self.trace.built;
                let day_ago = i64::try_from(at).unwrap_or(i64::MAX) - 86_400_000;
                self.evict(|name| built[name] < day_ago, |_| 0, 0);
            }
            Policy::Docuum if self.percent() >= 80 => {
                let used = self.last_used.borrow().clone();
                self.evict(|_| true, |name| used[name], 80);
            }
            Policy::Kubelet if self.percent() >= 85 => {
                let used = self.last_used.borrow().clone();
                self.evict(|name| at - used[name] >= 2 * MINUTE, |name| used[name], 80);
            }
            Policy::Foresight if self.percent() >= if at.is_multiple_of(DAY) { 80 } else { 90 } => {
                self.evict_what_is_needed_last(at, &[], |host| host.percent() < 75);
            }
            Policy::Script | Policy::Docuum | Policy::Kubelet | Policy::Foresight | Policy::Bound => {}
            Policy::Ours | Policy::OursInhibited(_) | Policy::OursDuringRuns => {
                prune::attempt(&self.world, &PRUNE, false, Duration::ZERO, false, &progress::hidden()).await;
            }
        }
    }

    /// Evict the image whose own layers are needed furthest in the future, one after the other, until it is enough: a
    /// layer that another image keeps costs nothing. `wanted`: images of a run that begins.
    fn evict_what_is_needed_last(&self, at: u64, wanted: &[String], is_enough: impl Fn(&Self) -> bool) {
        let mut next_need: BTreeMap<&str, u64> = BTreeMap::new();
        for run in self.trace.runs.iter().rev().filter(|run| run.at > at) {
            let layers = run.images.iter().flat_map(|name| &self.trace.images[name].layers);
            next_need.extend(layers.map(|(id, _)| (id.as_str(), run.at)));
        }
        while !is_enough(self) {
            let mut state = self.world.0.state.borrow_mut();
            let used: HashSet<&str> =
                state.containers.values().map(|container| container.image.as_str()).collect();
            let mut holders: BTreeMap<&str, usize> = BTreeMap::new();
            for (id, _) in state.images.values().flat_map(|image| &image.image.layers) {
                *holders.entry(id).or_default() += 1;
            }
            let needed = |stored: &Stored| {
                let own = stored.image.layers.iter().filter(|(id, _)| holders[id.as_str()] == 1);
                own.map(|(id, _)| next_need.get(id.as_str()).copied().unwrap_or(u64::MAX)).min()
            };
            let unused = state
                .images
                .iter()
                .filter(|(id, stored)| !used.contains(id.as_str()) && !wanted.contains(&stored.image.name));
            // One that frees nothing is taken last of those that are never needed.
            let last = unused
                .max_by_key(|(_, stored)| (needed(stored).unwrap_or(u64::MAX), needed(stored).is_some()));
            let Some(last) = last.map(|(id, _)| id.clone()) else { break };
            state.images.remove(&last);
        }
    }

    /// Evict images that no container uses, in this order, while the disk is at or above the percentage.
    fn evict(&self, may_go: impl Fn(&str) -> bool, order: impl Fn(&str) -> u64, until: u64) {
        let mut candidates: Vec<(u64, String)> = {
            let state = self.world.0.state.borrow();
            let used: HashSet<&str> =
                state.containers.values().map(|container| container.image.as_str()).collect();
            let unused = state.images.iter().filter(|(id, _)| !used.contains(id.as_str()));
            unused
                .map(|(_, stored)| stored.image.name.clone())
                .filter(|name| may_go(name))
                .map(|name| (order(&name), name))
                .collect()
        };
        candidates.sort_unstable();
        for (_, name) in candidates {
            if self.percent() < until {
                break;
            }
            self.world.0.state.borrow_mut().images.remove(&self.trace.images[&name].id());
        }
    }
}

// What the timers call.
static PRUNE: LazyLock<Settings> = LazyLock::new(|| run::settings(""));
static RECORD: LazyLock<Settings> = LazyLock::new(|| recording(&[]));
static DURING_RUNS: LazyLock<Settings> = LazyLock::new(|| recording(&["--during-runs", "critical"]));
const RECORD_INTERVAL: Duration = Duration::from_secs(300);

fn recording(more: &[&str]) -> Settings {
    let words = ["ci-docker-prune", "--config=/dev/null", "record", "--prune-at", "90", "--wait", "4m45s"];
    settings::read(words.iter().chain(more).map(Into::into)).expect("settings")
}

/// A name that the run pattern knows.
fn container(run: usize, image: &str) -> String {
    format!("ci-{run:06x}_ci_commoninternet_net_{image}")
}
