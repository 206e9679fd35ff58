//! Plain objects for the core's tables: a test changes the one field that it is about.

pub mod fake;

use regex::Regex;

use crate::execute::Outcome;
use crate::facts::{
    Container, ContainerState, Filesystem, Image, ImageClass, Info, Kind, Labels, Limit, Mode, Object,
    Restart, Service, Survey, Swarm, SwarmState, Task, TaskCounts, TaskState, Unavailable, Update, Usage,
};
use crate::gates::disk::Measured;
use crate::gates::{Gates, Verdict, converge};
use crate::ledger::{Clock, Ledger, Reading};
use crate::plan::{Plan, Policy, Removal, RemovalReason};
use crate::prune::report::Done;
use crate::settings::Settings;
use crate::units::{Time, parse_duration};
use crate::world::EngineError;

pub fn now() -> Time {
    "2026-11-20T12:00:00Z".parse().expect("a time")
}

/// Wait for this, on a clock that does not.
pub fn block<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    runtime.expect("a runtime").block_on(future)
}

/// So long before [`now`], in the notation of the options.
pub fn ago(text: &str) -> Option<Time> {
    let duration = crate::units::parse_duration(text).expect("a duration");
    Some(now() - jiff::SignedDuration::try_from(duration).expect("a short time"))
}

/// A ledger whose clock is so far behind the wall clock of [`now`]: the host was off for as long.
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
        cache_age: age("7d"),
        critical_age: age("1h"),
        target: limit("70"),
        threshold: limit("80"),
        critical: limit("95"),
        keep_labels: vec!["keep".parse().expect("a label")],
        evict_tagged: vec![],
        runs: Regex::new(crate::cli::RUN_PATTERN).expect("a pattern"),
    }
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
        mode: Mode::Replicated { replicas: 1 },
        status: Some(TaskCounts { running: 1, desired: 1, completed: 0 }),
        update: Update::Settled,
        restart: Restart::Always,
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
        wanted: true,
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

/// Every gate open, on a disk at this percentage.
pub fn gates(percent: u64) -> Gates {
    let measured = Measured { usages: vec![usage(percent)], limit: policy().threshold };
    Gates {
        disk: Verdict::Open(measured),
        runs: Verdict::Open(()),
        converge: Verdict::Open(converge::Open::Converged(1)),
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

/// The settings that words on the command line make.
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
