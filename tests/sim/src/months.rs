//! Months of a CI host: a trace played under the program's own code, and under other tools' policies.
//!
//! The program runs as its units let it: `record --prune-at 90` every five minutes and `prune` at midnight, with its
//! gates, plan, ledger and execution. Other policies stand here in a few lines each, as their sources and documents
//! describe them; none of them removes what a container uses.

use std::collections::{BTreeMap, HashSet};
use std::sync::LazyLock;
use std::time::Duration;

use ci_docker_prune::commands::{prune, record};
use ci_docker_prune::ledger::Ledger;
use ci_docker_prune::report::progress;
use ci_docker_prune::settings::{self, Settings};
use tokio::time::{Instant, sleep_until};

use crate::engine::{State, Store, Stored};
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
    /// Evicts the layers that are needed furthest in the future, from 80 % down to 70 %, hourly: the bound.
    Clairvoyant,
    Ours,
}

impl Policy {
    pub const ALL: [Self; 7] = [
        Self::Nothing,
        Self::SystemPruneAll,
        Self::Script,
        Self::Docuum,
        Self::Kubelet,
        Self::Ours,
        Self::Clairvoyant,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::Nothing => "nothing",
            Self::SystemPruneAll => "`docker system prune -af`, daily",
            Self::Script => "the script that it replaces, daily",
            Self::Docuum => "docuum",
            Self::Kubelet => "kubelet",
            Self::Clairvoyant => "clairvoyant",
            Self::Ours => "`ci-docker-prune`",
        }
    }

    fn interval(self) -> u64 {
        match self {
            Self::Nothing | Self::SystemPruneAll | Self::Script => DAY,
            Self::Docuum | Self::Clairvoyant => HOUR,
            Self::Kubelet | Self::Ours => 5 * MINUTE,
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
}

/// What happens at some time, in this order where it is the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Moment {
    Ends(usize),
    Tick,
    Begins(usize),
}

struct Host<'a> {
    trace: &'a Trace,
    world: Simulated,
    last_used: BTreeMap<String, u64>,
    downloaded: HashSet<String>,
    tally: Tally,
}

/// Play a trace on a disk of this size, 15 % of which is taken by others.
pub fn play(trace: &Trace, disk_size: u64, policy: Policy) -> Tally {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    runtime.expect("a runtime").block_on(played(trace, disk_size, policy))
}

async fn played(trace: &Trace, disk_size: u64, policy: Policy) -> Tally {
    let mut state = State::new(Store::Overlay2, disk_size);
    state.ballast = disk_size * 15 / 100;
    let world = Simulated::new(state, Ledger::default(), 0, 1, None);
    let mut host = Host {
        trace,
        world,
        last_used: BTreeMap::new(),
        downloaded: HashSet::new(),
        tally: Tally::default(),
    };
    let mut moments: Vec<(u64, Moment)> = Vec::new();
    for (n, run) in trace.runs.iter().enumerate() {
        moments.push((run.at, Moment::Begins(n)));
        moments.push((run.at + run.lasts, Moment::Ends(n)));
    }
    let end = trace.runs.iter().map(|run| run.at + run.lasts).max().unwrap_or(0);
    moments.extend((1..=end / policy.interval()).map(|n| (n * policy.interval(), Moment::Tick)));
    moments.sort_unstable();
    let start = Instant::now();
    for (at, moment) in moments {
        sleep_until(start + Duration::from_millis(at)).await;
        match moment {
            Moment::Begins(n) => host.begin(n, at),
            Moment::Ends(n) => host.end(n, at),
            Moment::Tick => host.tick(policy, at).await,
        }
    }
    host.tally
}

impl Host<'_> {
    fn percent(&self) -> u64 {
        let state = self.world.0.state.borrow();
        (state.used() * 100).div_ceil(state.disk_size)
    }

    fn begin(&mut self, n: usize, at: u64) {
        self.tally.runs += 1;
        let mut fits = true;
        for name in &self.trace.runs[n].images {
            let image = &self.trace.images[name];
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
                self.tally.pulls += 1;
                self.tally.pulled += bytes;
                for (id, size) in missing {
                    if !self.downloaded.insert(id) {
                        self.tally.pulled_again += size;
                    }
                }
                state.add_cached(image.clone());
            }
            state.start_container(at, &container(n, name), image);
            drop(state);
            self.last_used.insert(name.clone(), at);
        }
        self.tally.failed += usize::from(!fits);
        self.tally.peak = self.tally.peak.max(self.percent());
    }

    fn end(&mut self, n: usize, at: u64) {
        let mut state = self.world.0.state.borrow_mut();
        for name in &self.trace.runs[n].images {
            if state.containers.remove(&container(n, name)).is_some() {
                self.last_used.insert(name.clone(), at);
            }
        }
    }

    async fn tick(&mut self, policy: Policy, at: u64) {
        match policy {
            Policy::Nothing => {}
            Policy::SystemPruneAll => self.evict(|_| true, |_| 0, 0),
            Policy::Script if self.percent() >= 80 => {
                let built = &self.trace.built;
                let day_ago = i64::try_from(at).unwrap_or(i64::MAX) - 86_400_000;
                self.evict(|name| built[name] < day_ago, |_| 0, 0);
            }
            Policy::Docuum if self.percent() >= 80 => {
                let used = self.last_used.clone();
                self.evict(|_| true, |name| used[name], 80);
            }
            Policy::Kubelet if self.percent() >= 85 => {
                let used = self.last_used.clone();
                self.evict(|name| at - used[name] >= 2 * MINUTE, |name| used[name], 80);
            }
            Policy::Clairvoyant if self.percent() >= 80 => self.evict_what_is_needed_last(at),
            Policy::Script | Policy::Docuum | Policy::Kubelet | Policy::Clairvoyant => {}
            Policy::Ours => self.ours(at).await,
        }
    }

    /// Evict, down to 70 %, the image whose own layers are needed furthest in the future, one after the other: a layer
    /// that another image keeps costs nothing.
    fn evict_what_is_needed_last(&mut self, at: u64) {
        let mut next_need: BTreeMap<&str, u64> = BTreeMap::new();
        for run in self.trace.runs.iter().rev().filter(|run| run.at > at) {
            let layers = run.images.iter().flat_map(|name| &self.trace.images[name].layers);
            next_need.extend(layers.map(|(id, _)| (id.as_str(), run.at)));
        }
        while self.percent() >= 70 {
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
            let unused = state.images.iter().filter(|(id, _)| !used.contains(id.as_str()));
            // One that frees nothing is taken last of those that are never needed.
            let last = unused
                .max_by_key(|(_, stored)| (needed(stored).unwrap_or(u64::MAX), needed(stored).is_some()));
            let Some(last) = last.map(|(id, _)| id.clone()) else { break };
            state.images.remove(&last);
        }
    }

    async fn ours(&mut self, at: u64) {
        let bars = progress::hidden();
        if at.is_multiple_of(DAY) {
            prune::attempt(&self.world, &PRUNE, false, false, &bars).await;
            return;
        }
        let recorded = record::run(&self.world, &RECORD, &bars).await;
        recorded.expect("a simulated engine answers");
    }

    /// Evict images that no container uses, in this order, while the disk is at or above the percentage.
    fn evict(&mut self, may_go: impl Fn(&str) -> bool, order: impl Fn(&str) -> u64, until: u64) {
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
static RECORD: LazyLock<Settings> = LazyLock::new(|| {
    let words = ["ci-docker-prune", "--config=/dev/null", "record", "--prune-at", "90"].map(Into::into);
    settings::read(words).expect("settings")
});

/// A name that the run pattern knows.
fn container(run: usize, image: &str) -> String {
    format!("ci-{run:06x}_ci_commoninternet_net_{image}")
}
