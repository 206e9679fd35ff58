//! One run of the program in a simulated world, and what must hold at its end.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;
use std::time::Duration;

use ci_docker_prune::commands::prune;
use ci_docker_prune::facts::Layer;
use ci_docker_prune::ledger::{Entry, Ledger};
use ci_docker_prune::prune::report::PruneReport;
use ci_docker_prune::report::progress;
use ci_docker_prune::settings::{self, Settings};

use crate::engine::{Container, ContainerState, Image, State, Store, Violation};
use crate::world::{Breakage, Fault, Simulated, epoch};

/// Something that another begins while the program runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Deed {
    /// `docker service create` with this image.
    Deploy(String),
    /// `docker pull` of this image by its digest.
    Pull(String),
    /// `docker run` of a container that is no CI run's.
    Run(String),
    Inhibit,
    /// SIGTERM.
    Signal,
    /// Of the daemon.
    Restart,
    /// So many bytes are written to the disk, by none of the engine's.
    Write(u64),
    /// `docker build -t TAG`: a new image of this name takes the tag over.
    Build(String, String),
    /// What lies between the program and the engine ends the event stream, which is subscribed again for what it missed.
    Cut,
    /// It ends the stream in order, and what was missed cannot be told.
    Close,
    /// A service is announced, and its tasks come later.
    Announce,
    /// A run makes a volume, a secret, a config or a network of its own.
    OfRun(&'static str),
    /// `docker tag` of this image, by its ID.
    Tag(String, String),
    /// `docker run`, which finds this image now, while the container comes later.
    RunSlowly(String),
    /// The container of this service's task ends.
    Crash(String),
    /// Another process records in the ledger that this image, by its ID, is in use.
    Record(String),
}

/// What begins, and before which step.
pub type Begin = (usize, Deed);

/// A schedule.
#[derive(Debug, Clone)]
pub struct Case {
    pub store: Store,
    pub begins: Vec<Begin>,
    pub fault: Option<(usize, Fault)>,
    pub kill_at: Option<usize>,
    /// The longest time of a step, ms.
    pub latency: u64,
    pub seed: u64,
    pub breakage: Option<Breakage>,
}

impl Case {
    pub fn new(store: Store) -> Self {
        Self { store, begins: vec![], fault: None, kill_at: None, latency: 2, seed: 1, breakage: None }
    }
}

/// What became of it.
#[derive(Debug)]
pub struct Verdict {
    pub steps: usize,
    pub orders: usize,
    pub violations: BTreeSet<Violation>,
    pub trace: Vec<String>,
    /// In words, of the report's ending.
    pub ending: String,
    /// How many of the deeds, faults and kills of the case were played.
    pub injected: usize,
    /// How many objects of each kind went.
    pub removed: BTreeMap<&'static str, usize>,
}

const MB: u64 = 1_000_000;
const DAY: i64 = 86_400_000;

/// The settings that words on the command line make.
///
/// # Panics
/// When they are wrong.
pub fn settings(words: &str) -> Settings {
    let words = ["ci-docker-prune", "--config=/dev/null", "prune"]
        .into_iter()
        .chain(words.split_whitespace())
        .map(Into::into);
    settings::read(words).expect("settings")
}

/// A disk under pressure with two containers that ended, three images without names, five cached images of which two
/// share a layer, and build cache: enough for several batches of evictions.
pub fn scene(store: Store) -> (State, Ledger) {
    let mut state = State::new(store, 1_000 * MB);
    let layer = |name: &str, size: u64| (name.to_owned(), size * MB);
    let own = |name: &str, size: u64| Image::new(name, vec![layer(&format!("{name}-own"), size)]);
    for name in ["one", "two"] {
        let mut image = own(name, 40);
        image.layers.push(layer("shared", 20));
        state.add_cached(image);
    }
    for name in ["three", "four", "five"] {
        state.add_cached(own(name, 40));
    }
    for n in 1..=3 {
        state.add_built(own(&format!("nameless{n}"), 5), None);
    }
    state.add_built(own("base", 10), Some("base:1"));
    // The CI's own build, in no registry: with consent it goes as cached images do.
    state.add_built(own("commit", 30), Some("ci/app:1"));
    state.names.insert("ci/app:also".into(), "sha256:commit".into());
    state.tag("sha256:commit", "ci/app:also");
    // In use by no container, and without consent: it stays whatever its age.
    state.add_built(own("tool", 10), Some("tool:1"));
    state.add_service("web", &own("web", 40));
    state.registry.insert("base".into(), own("base", 10));
    state.registry.insert("new".into(), own("new", 30));
    for n in 1..=2 {
        let container = Container {
            name: format!("ended{n}"),
            asked: "base:1".into(),
            image: "sha256:base".into(),
            state: ContainerState::Exited(0),
            created: -5 * DAY,
            service: None,
        };
        state.containers.insert(format!("ended{n}"), container);
    }
    // 86 %.
    state.ballast = 860 * MB - state.used();
    let entry = |days: i64| {
        let at = epoch() - jiff::SignedDuration::from_hours(24 * days);
        Entry { last_used: Some(at), named: true, ..Entry::new(at) }
    };
    let ages = [
        ("nameless1", 9),
        ("nameless2", 9),
        ("nameless3", 9),
        ("tool", 90),
        ("one", 40),
        ("two", 35),
        ("commit", 32),
        ("three", 30),
        ("four", 25),
        ("five", 20),
    ];
    let mut images: BTreeMap<_, _> =
        ages.iter().map(|(name, days)| (format!("sha256:{name}"), entry(*days))).collect();
    for n in 1..=3 {
        // Never seen with a name.
        let entry = Entry { named: false, ..entry(9) };
        images.insert(format!("sha256:nameless{n}"), entry);
    }
    // The layers of all but one are known already.
    for (id, stored) in state.images.iter().filter(|(id, _)| *id != "sha256:five") {
        let layers = stored.image.layers.iter().map(|(id, size)| Layer { id: id.clone(), size: *size });
        let entry = images.entry(id.clone()).or_insert_with(|| Entry::new(epoch()));
        entry.layers = Some(layers.collect());
    }
    (state, Ledger { images, ..Ledger::default() })
}

/// Play it: one prune of everything while that happens, then peace, then another prune.
pub fn play(case: &Case) -> Verdict {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    runtime.expect("a runtime").block_on(played(case))
}

// Read once: that costs more than a simulated run.
static PRUNE: LazyLock<Settings> =
    LazyLock::new(|| settings("--disk-target 64 --disk-critical 100 --evict-tagged ^ci/"));
/// Whatever its age: an engine that falsely said that an image is gone made the ledger forget it.
static NEXT_PRUNE: LazyLock<Settings> =
    LazyLock::new(|| settings("--older-than 0s --disk-target 0 --disk-threshold 1 --disk-critical 100"));

async fn played(case: &Case) -> Verdict {
    let (mut state, ledger) = scene(case.store);
    state.event_delay = case.latency.min(2);
    let world = Simulated::new(state, ledger, case.latency, case.seed, case.breakage);
    let shared = &world.0;
    shared.begins.borrow_mut().clone_from(&case.begins);
    shared.faults.borrow_mut().extend(case.fault);
    shared.kill_at.set(case.kill_at);
    let bars = progress::hidden();
    // A run may take as long as a hanging engine's timeouts add up to.
    let limit = std::time::Duration::from_secs(3_600);
    let ended =
        tokio::time::timeout(limit, prune::attempt(&world, &PRUNE, false, Duration::ZERO, false, &bars))
            .await;
    let steps = shared.steps.get();
    let (orders, injected) = (shared.orders.get(), shared.injected.get());
    let mut removed = BTreeMap::new();
    let ending = match &ended {
        Err(_) if case.kill_at.is_some() => "killed".to_owned(),
        Err(_) => {
            shared.state.borrow_mut().violations.insert(Violation::Endless);
            "endless".to_owned()
        }
        Ok(prune::Ended { attempt, .. }) => {
            told_once(&attempt.report, &mut shared.state.borrow_mut().violations);
            if let Some(outcome) = attempt.report.outcome() {
                for removal in &outcome.removed {
                    *removed.entry(removal.object.kind.name()).or_default() += 1;
                }
            }
            ending(&attempt.report)
        }
    };
    peace(&world).await;
    shared.check_records();
    let trace = shared.trace.borrow().clone();
    if case.breakage == Some(Breakage::BlindRestore) {
        shared.state.borrow_mut().check_names();
    }
    // What the first run began, the next one finishes or undoes.
    if case.breakage.is_none() {
        shared.kill_at.set(None);
        shared.begins.borrow_mut().clear();
        let attempt = prune::attempt(&world, &NEXT_PRUNE, false, Duration::ZERO, false, &bars).await.attempt;
        let mut state = shared.state.borrow_mut();
        // What the engine refused to remove is left alone for a week.
        let ledger = shared.ledger.borrow();
        let is_refused = |tag: &String| {
            let hex = tag.rsplit_once(':').map_or("", |(_, hex)| hex);
            ledger.images.get(&format!("sha256:{hex}")).is_some_and(|entry| entry.refused.is_some())
        };
        let tags: Vec<_> = state.eviction_tags().into_iter().filter(|tag| !is_refused(tag)).collect();
        // Nothing is under way any more.
        if matches!(attempt.report, PruneReport::Blocked { .. }) || !tags.is_empty() {
            let why = format!("{} {:?}", tags.join(" "), attempt.report.gates());
            state.violations.insert(Violation::LeftBehind(why));
        }
        state.check_names();
    }
    let state = shared.state.borrow();
    Verdict { steps, orders, violations: state.violations.clone(), trace, ending, injected, removed }
}

/// Let the engine come to rest, and take down what was deployed: the next prune finds every gate open.
async fn peace(world: &Simulated) {
    let shared = &world.0;
    for _ in 0..20 {
        tokio::time::sleep(std::time::Duration::from_secs(10)).await;
        let mut state = shared.state.borrow_mut();
        state.advance(shared.millis());
        if !state.is_busy() {
            break;
        }
    }
    let mut state = shared.state.borrow_mut();
    let services: Vec<String> = state.services.keys().cloned().collect();
    services.iter().for_each(|name| state.remove_service(name));
    shared.inhibitors.borrow_mut().clear();
    shared.shutdown.set(None);
    shared.rest();
}

/// Is each planned object in the report once?
fn told_once(report: &PruneReport, violations: &mut BTreeSet<Violation>) {
    let PruneReport::Done(done) = report else { return };
    let (plan, outcome) = (&done.plan, &done.outcome);
    let removed = outcome.removed.iter();
    let skipped = outcome.skipped.iter().map(|(removal, _)| removal);
    let others = skipped.chain(outcome.failed.iter().map(|(removal, _)| removal));
    let mut told: Vec<&str> = removed.chain(others).map(|removal| removal.object.id.as_str()).collect();
    let mut planned: Vec<&str> = plan.remove.iter().map(|removal| removal.object.id.as_str()).collect();
    told.sort_unstable();
    planned.sort_unstable();
    if told != planned {
        violations.insert(Violation::NotToldOnce(format!("{planned:?} planned, {told:?} told")));
    }
}

fn ending(report: &PruneReport) -> String {
    match report {
        PruneReport::Done(done) if done.outcome.stopped.is_some() => "stopped".into(),
        PruneReport::Done(done) if done.outcome.has_failed() => "failed".into(),
        PruneReport::Done(_) => "carried out".into(),
        PruneReport::Blocked { .. } => "blocked".into(),
        PruneReport::NoAnswer { .. } => "unknown".into(),
        PruneReport::Failed(_) => "failed".into(),
        other => format!("{other:?}"),
    }
}
