//! Plain objects for the unit tests: a test changes the one field that it is about.

pub mod fake;

use crate::execute::Outcome;
use crate::facts::{
    CacheRecord, Container, ContainerState, Desired, Filesystem, Image, ImageClass, Info, Inspected, Kind,
    Labels, Limit, Mode, Object, Service, Survey, Swarm, SwarmState, Task, TaskCounts, TaskState,
    Unavailable, Update, Usage,
};
use crate::gates::disk::Measured;
use crate::gates::{Gates, Verdict, converge, runs};
use crate::history::{Gone, PastGate, PastPrune, Why};
use crate::ledger::{Clock, Entry, Ledger, Reading, Repository};
use crate::plan::{Plan, Policy, Removal, RemovalReason};
use crate::prune::report::Done;
use crate::settings::Settings;
use crate::units::{Time, parse_duration};
use crate::world::EngineError;

pub fn now() -> Time {
    "2026-11-20T12:00:00Z".parse().expect("a time")
}

/// A stack's name as a CI run has it.
pub const RUN: &str = "abcd-0123ef_ci_commoninternet_net";

/// Run this on a paused clock, so that nothing waits.
pub fn block<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    runtime.expect("a runtime").block_on(future)
}

/// The time this long before [`now`], in the notation of the options.
pub fn ago(text: &str) -> Option<Time> {
    let duration = crate::units::parse_duration(text).expect("a duration");
    Some(now() - jiff::SignedDuration::try_from(duration).expect("a short time"))
}

/// A ledger whose clock is this far behind the wall clock, as after a time in which the host was off.
pub fn behind(text: &str) -> Ledger {
    let reading = Reading { wall: now(), boot_id: None, since_boot: None };
    let clock = Clock { time: ago(text).expect("a time"), since_record: std::time::Duration::ZERO, reading };
    Ledger { clock: Some(clock), ..Ledger::default() }
}

/// The program's defaults, with the label `keep`.
pub fn policy() -> Policy {
    let age = |text| parse_duration(text).expect("a duration");
    let limit = |text: &str| Limit { percent: text.parse().expect("a percentage"), min_free: None };
    Policy {
        older_than: age("24h"),
        critical_age: age("1h"),
        target: limit("75"),
        threshold: limit("80"),
        critical: limit("95"),
        young_from: limit("95"),
        critical_target: limit("90"),
        keep_labels: vec!["keep".parse().expect("a label")],
        evict_tagged: vec![],
        runs: gates_policy().runs.pattern,
    }
}

/// The program's defaults.
pub fn gates_policy() -> crate::gates::Policy {
    settings("runs").policy.gates
}

/// A filesystem of 1,000 bytes at this percentage.
pub fn usage(percent: u64) -> Usage {
    let filesystem = Filesystem {
        mount_point: "/".into(),
        size: 1000,
        used: percent * 10,
        available: 1000 - percent * 10,
        inodes: 0,
        inodes_used: 0,
        metadata: 0,
        metadata_used: 0,
    };
    Usage { percent: filesystem.percent().expect("it has blocks"), filesystem }
}

pub fn labels(labels: &[(&str, &str)]) -> Labels {
    labels.iter().map(|&(key, value)| (key.to_owned(), value.to_owned())).collect()
}

pub fn service() -> Service {
    Service {
        id: "service".into(),
        name: "app".into(),
        labels: Labels::new(),
        created: ago("30d"),
        updated: ago("30d"),
        image: "app:1@sha256:01".into(),
        previous_image: None,
        commands_engine: None,
        mode: Mode::Replicated { replicas: 1 },
        status: Some(TaskCounts { running: 1, desired: 1, completed: 0 }),
        update: Update::Settled,
        job_iteration: 0,
    }
}

/// The running task of [`service`], in [`container`].
pub fn task() -> Task {
    Task {
        service: "service".into(),
        slot: 1,
        node: Some("node".into()),
        created: ago("30d"),
        state: TaskState::Running,
        state_since: ago("30d"),
        desired: Desired::Running,
        error: None,
        container: Some("container".into()),
        image: "app:1@sha256:01".into(),
        job_iteration: 0,
    }
}

pub fn container() -> Container {
    Container {
        id: "container".into(),
        names: vec!["plain".into()],
        image: "app:1".into(),
        image_id: "sha256:1a".into(),
        mounted_images: vec![],
        volumes: vec![],
        commands_engine: None,
        state: ContainerState::Running,
        labels: Labels::new(),
        created: ago("30d"),
        finished: None,
        restart_policy: Some("no".into()),
    }
}

/// A cached image that nothing uses, built in 2024.
pub fn image(id: &str) -> Image {
    Image {
        id: format!("sha256:{id}"),
        tags: vec![],
        eviction_tag: None,
        digests: vec![format!("app@sha256:d{id}")],
        created: Some("2024-02-03T04:05:06Z".parse().expect("a time")),
        last_tagged: None,
        parent: None,
        untagged_parents: 0,
        size: 1 << 20,
        labels: Labels::new(),
    }
}

pub fn object(kind: Kind, id: &str) -> Object {
    Object { kind, id: id.into(), names: vec![], size: 0 }
}

pub fn removal(kind: Kind, id: &str) -> Removal {
    Removal { object: object(kind, id), frees: None, finished: None, reason: RemovalReason::Interrupted }
}

pub const TAGGED: Kind = Kind::Image(ImageClass::Tagged);
pub const CACHED: Kind = Kind::Image(ImageClass::Cached);
pub const DANGLING: Kind = Kind::Image(ImageClass::Dangling);

pub fn info() -> Info {
    Info {
        root: "/var/lib/docker".into(),
        id: "engine".into(),
        host_name: String::new(),
        memory: 0,
        containerd: None,
        containerd_store: false,
        swarm: Swarm { state: SwarmState::Inactive, node: None },
        version: "28.5.0".into(),
        time: Some(now()),
    }
}

/// An engine with nothing on it, and a disk at 85 %.
pub fn survey() -> Survey {
    let why = Unavailable("not asked".into());
    Survey {
        info: Ok(info()),
        services: Ok(vec![]),
        tasks: Ok(vec![]),
        containers: Ok(vec![]),
        inhibitors: Ok(vec![]),
        filesystems: Ok(vec![usage(85).filesystem]),
        ..Survey::unavailable(&why)
    }
}

pub fn runs_closed() -> runs::Verdict {
    Verdict::Closed(runs::Found::default())
}

/// Every gate open, on a disk at this percentage.
/// One that removed an image, with these gates closed.
pub fn past_prune(outcome: &str, closed: &[&str]) -> PastPrune {
    let gate = |gate: &&str| PastGate {
        gate: (*gate).to_owned(),
        state: "closed".into(),
        message: "why it is closed".into(),
    };
    let gone = Gone {
        kind: "image".into(),
        class: Some("cached".into()),
        id: "sha256:abcdef".into(),
        names: vec!["registry.example.org/postgres@sha256:0123".into()],
        size_bytes: 250_000_000,
        reason: Why { code: "cached_idle".into(), message: "idle for 9d".into() },
    };
    PastPrune {
        at: now(),
        started_by: "ci-docker-prune.timer".into(),
        outcome: outcome.into(),
        gates: closed.iter().map(gate).collect(),
        why: None,
        used_percent_before: "91".parse().ok(),
        used_percent_after: "74".parse().ok(),
        reclaimed_bytes: 240_000_000,
        removed: vec![gone],
    }
}

pub fn gates(percent: u64) -> Gates {
    let measured = Measured { usages: vec![usage(percent)], limit: policy().threshold };
    Gates {
        disk: Verdict::Open(measured),
        runs: Verdict::Open(runs::Found::default()),
        converge: Verdict::Open(converge::Open::Converged { services: 1, stuck: vec![] }),
    }
}

/// Carried out on a disk that went from 85 % to 75 %.
pub fn done(outcome: Outcome) -> Done {
    Done {
        gates: gates(85),
        plan: Plan::default(),
        usage: Some(usage(85)),
        outcome,
        after: vec![usage(75)],
        relieved: true,
        pressure: None,
    }
}

/// The image of [`scene`] with this two-digit name.
fn id(name: &str) -> String {
    format!("sha256:{}", name.repeat(32))
}

fn scene_images() -> Vec<Image> {
    let cached = |name: &str, repository: &str, mib: u64| Image {
        digests: vec![format!("{repository}@{}", id(name))],
        size: mib << 20,
        ..image(&name.repeat(32))
    };
    let tagged = |name, tag: &str, mib| Image { tags: vec![tag.into()], ..cached(name, tag, mib) };
    vec![
        cached("a1", "shop/web", 96),
        cached("a2", "shop/web", 98),
        tagged("b1", "migrate:3", 12),
        tagged("b2", "node:22", 240),
        cached("c1", "redis", 41),
        cached("c2", "postgres", 150),
        cached("c3", "postgres", 152),
        Image { digests: vec![], ..cached("d1", "", 7) },
    ]
}

fn scene_ledger() -> Ledger {
    let first_seen = Entry::new(ago("40d").expect("a time"));
    let used = |at: &str, by: &str| Entry {
        last_used: ago(at),
        named: true,
        references: [(by.to_owned(), ago(at).expect("a time"))].into(),
        ..first_seen.clone()
    };
    let images = [
        ("a1", used("6d", "shop/web:1")),
        ("a2", used("0s", "shop/web:2")),
        ("b1", used("3d", "migrate:3")),
        ("b2", used("20d", "node:22")),
        ("c1", used("30d", "redis:7")),
        ("c2", used("2d", "postgres:16")),
        ("c3", used("2h", "postgres:16")),
        ("d1", Entry { dangling_since: ago("5d"), ..first_seen.clone() }),
    ];
    let hours = |hours: u64| std::time::Duration::from_secs(hours * 3_600);
    let postgres = Repository {
        images: 2,
        came_back: 2,
        gaps: [23, 24, 24].map(hours).into(),
        newest: ago("40d").expect("a time"),
        last_used: ago("2h").expect("a time"),
    };
    Ledger {
        images: images.into_iter().map(|(name, entry)| (id(name), entry)).collect(),
        repositories: [("postgres".into(), postgres)].into(),
        recorded: ago("15m"),
        recorded_at: ago("15m"),
        last_run: ago("24h"),
        last_success: ago("24h"),
        ..behind("0s")
    }
}

/// The host of every page: a service of a stack, which may roll back, images that runs have left, a container that ended,
/// build cache, and a disk at 85 %.
pub fn scene() -> fake::Fake {
    let web = |name| format!("shop/web@{}", id(name));
    let service = Service {
        name: "shop_web".into(),
        image: web("a2"),
        previous_image: Some(web("a1")),
        labels: labels(&[("com.docker.stack.namespace", "shop")]),
        ..service()
    };
    let running =
        Container { names: vec!["shop_web.1".into()], image: web("a2"), image_id: id("a2"), ..container() };
    let ended = Container {
        id: "4711".repeat(16),
        names: vec!["migrate".into()],
        image: "migrate:3".into(),
        image_id: id("b1"),
        state: ContainerState::Exited,
        finished: ago("3d"),
        ..container()
    };
    let inspected = Inspected { finished: ago("3d"), ..Inspected::default() };
    let cache = |mib: u64, shared| CacheRecord {
        size: mib << 20,
        in_use: false,
        shared,
        internal: false,
        last_used: ago("9d"),
    };
    let disk = Filesystem { size: 10 << 30, used: 17 << 29, available: 3 << 29, ..usage(85).filesystem };
    fake::Fake {
        info: Info { swarm: Swarm { state: SwarmState::Manager, node: Some("node".into()) }, ..info() },
        services: vec![service],
        tasks: vec![Task { image: web("a2"), ..task() }],
        inspected: [(ended.id.clone(), inspected)].into(),
        containers: vec![running, ended],
        images: scene_images().into(),
        build_cache: vec![cache(30, false), cache(64, true)],
        ledger: scene_ledger().into(),
        filesystem: disk.into(),
        ..fake::Fake::new()
    }
}

/// The settings of a command line.
pub fn settings(words: &str) -> Settings {
    let words = ["ci-docker-prune", "--config=/dev/null"].into_iter().chain(words.split_whitespace());
    crate::settings::read(words.map(Into::into)).expect("settings")
}

pub fn status(request: &str, status: u16, message: &str) -> EngineError {
    EngineError::with_status(format!("{request}: {status}: {message}"), status, message.into())
}

pub fn loss(request: &str) -> EngineError {
    EngineError::new(format!("the connection was lost during {request}"))
}

pub fn timeout(request: &str, after: std::time::Duration) -> EngineError {
    EngineError::timeout(format!("no answer to {request} in {after:?}"))
}
