//! Turns each decision into its reason: a code, which is part of the interface, a message for people, and the
//! figures that it is made of.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;
use serde_json::{Map, Value, json};

use super::table::{amount, short};
use crate::execute::{Skip, Stop};
use crate::facts::{Inhibitor, Limit, SwarmState, Usage};
use crate::gates::{GateState, Gates, Verdict, converge, disk, runs};
use crate::ledger::Expectation;
use crate::plan::{Condition, Eviction, KeepReason, LastUse, RemovalReason, Rung, satisfied};
use crate::units::{Percent, age, duration, size};
use crate::world::{EngineError, StopEvent};

/// `{"code": "…", "message": "…", …}`
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Reason {
    pub code: &'static str,
    pub message: String,
    /// The message without what is special to one object, for a summary of several.
    #[serde(skip)]
    pub group: String,
    #[serde(flatten)]
    figures: Map<String, Value>,
}

impl Reason {
    /// `figures`: a JSON object, or `Value::Null` for none.
    pub fn new(code: &'static str, message: impl Into<String>, figures: Value) -> Self {
        let figures = if let Value::Object(figures) = figures { figures } else { Map::new() };
        let message = message.into();
        Self { code, group: message.clone(), message, figures }
    }

    fn grouped(self, group: impl Into<String>) -> Self {
        Self { group: group.into(), ..self }
    }
}

#[derive(Debug, Clone, Serialize)]
pub struct GateReason {
    pub gate: &'static str,
    #[serde(serialize_with = "state_name")]
    pub state: GateState,
    pub reason: Reason,
    /// The reason in lines: one for each run, stack or service that closes the gate.
    #[serde(skip)]
    pub lines: Vec<String>,
}

fn state_name<S: serde::Serializer>(state: &GateState, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(state.name())
}

pub fn gates(gates: &Gates) -> [GateReason; 3] {
    [disk(&gates.disk), runs(&gates.runs), converge(&gates.converge)]
}

fn gate(
    gate: &'static str,
    state: GateState,
    code: &'static str,
    lines: Vec<String>,
    figures: Value,
) -> GateReason {
    GateReason { gate, state, reason: Reason::new(code, lines.join(", "), figures), lines }
}

pub fn disk(verdict: &disk::Verdict) -> GateReason {
    let line = |measured: &disk::Measured, all: bool| {
        let shown = measured.usages.iter().filter(|usage| all || measured.limit.is_reached(usage));
        shown.map(|usage| compared(usage, &measured.limit)).collect::<Vec<_>>().join(", ")
    };
    let (code, line, measured) = match verdict {
        Verdict::Open(measured) => ("under_pressure", line(measured, false), Some(measured)),
        Verdict::Closed(measured) => {
            let line = format!("{}, keeping local image cache", line(measured, true));
            ("below_threshold", line, Some(measured))
        }
        Verdict::Unknown(why @ disk::Unknown::NoBlocks(_)) => ("no_blocks", why.to_string(), None),
        Verdict::Unknown(why) => ("not_available", why.to_string(), None),
    };
    let figures = match (verdict, measured) {
        (_, Some(disk::Measured { usages, limit })) => json!({
            "threshold_percent": limit.percent.get(),
            "min_free_bytes": limit.min_free,
            "filesystems": usages.iter().map(filesystem).collect::<Vec<_>>(),
        }),
        (Verdict::Unknown(disk::Unknown::NoBlocks(filesystem)), None) => {
            json!({"path": filesystem.mount_point.display().to_string()})
        }
        _ => Value::Null,
    };
    gate("disk", verdict.state(), code, vec![line], figures)
}

pub fn filesystem(usage: &Usage) -> Value {
    let filesystem = &usage.filesystem;
    json!({
        "path": filesystem.mount_point.display().to_string(),
        "used_percent": usage.percent.get(),
        "block_percent": filesystem.block_percent().map(Percent::get),
        "inode_percent": filesystem.inode_percent().map(Percent::get),
        "metadata_percent": filesystem.metadata_percent().map(Percent::get),
        "size_bytes": filesystem.size,
        "used_bytes": filesystem.used,
        "available_bytes": filesystem.available,
    })
}

/// `/ at 83% (>= 80%)`, with the available space where the limit asks for it.
fn compared(usage: &Usage, limit: &Limit) -> String {
    let resource = match (usage.by_inodes(), usage.by_metadata()) {
        (true, _) => " of its inodes",
        (_, true) => " of its metadata",
        _ => "",
    };
    let relation = if usage.percent >= limit.percent { ">=" } else { "<" };
    let place = usage.filesystem.mount_point.display();
    let mut line = format!("{place} at {}{resource} ({relation} {})", usage.percent, limit.percent);
    if let Some(min_free) = limit.min_free {
        let relation = if limit.lacks_space(usage) { "<" } else { ">=" };
        let available = size(usage.filesystem.available);
        line += &format!(" with {available} available ({relation} {})", size(min_free));
    }
    line
}

pub fn usage_line(usage: &Usage) -> String {
    format!("{} is at {}", usage.filesystem.mount_point.display(), usage.percent)
}

/// `at or above 80%`, or also `with less than 20.0 GB available`.
pub fn limit_text(limit: &Limit) -> String {
    let min_free = limit.min_free.map(|min_free| format!(" or with less than {} available", size(min_free)));
    format!("at or above {}{}", limit.percent, min_free.unwrap_or_default())
}

fn runs(verdict: &runs::Verdict) -> GateReason {
    let (code, lines, runs) = match verdict {
        Verdict::Open(found) => {
            let line = format!("no CI run is live (looked for {})", found.looked_for);
            ("no_run_live", vec![line], Some(found))
        }
        Verdict::Closed(found) => ("runs_live", found.live().map(run_line).collect(), Some(found)),
        Verdict::Unknown(why) => ("not_available", vec![why.0.clone()], None),
    };
    let figures = runs.map_or(Value::Null, |found| {
        let runs: Vec<_> = found.runs.iter().map(run).collect();
        json!({"runs": runs, "looked_for": found.looked_for, "no_runs": found.others})
    });
    gate("runs", verdict.state(), code, lines, figures)
}

fn kind_of_run(kind: runs::RunKind) -> &'static str {
    match kind {
        runs::RunKind::Stack => "stack",
        runs::RunKind::Service => "service",
        runs::RunKind::ComposeProject => "compose project",
        runs::RunKind::Container => "container",
        runs::RunKind::Inhibitor => "inhibitor",
    }
}

/// `stack shop (for 3m)`.
pub fn run_line(run: &runs::Run) -> String {
    let kind = kind_of_run(run.kind);
    let stale = if run.is_possibly_stale() { ", possibly stale" } else { "" };
    match run.age {
        _ if run.kind == runs::RunKind::Inhibitor => {
            inhibited(run.pid, Some(&run.name), run.user.as_deref(), run.age)
        }
        Some(since) => format!("{kind} {} (for {}{stale})", run.name, age(since)),
        None => format!("{kind} {}", run.name),
    }
}

fn run(run: &runs::Run) -> Value {
    let state = match run.state {
        runs::RunState::Live => "live",
        runs::RunState::Abandoned => "abandoned",
        runs::RunState::NeverStarted => "never_started",
    };
    json!({
        "kind": kind_of_run(run.kind).replace(' ', "-"), "name": run.name, "pid": run.pid, "user": run.user, "state": state,
        "age_seconds": run.age.map(|age| age.as_secs()),
    })
}

/// `inhibited by process 12 'deploy shop' of ci (for 3m)`.
pub fn inhibited(pid: Option<u32>, why: Option<&str>, user: Option<&str>, since: Option<Duration>) -> String {
    let process = pid.map_or_else(|| "a process".into(), |pid| format!("process {pid}"));
    let why = why.filter(|why| !why.is_empty()).map(|why| format!(" '{why}'")).unwrap_or_default();
    let since = since.map(|since| format!(" (for {})", age(since))).unwrap_or_default();
    let user = user.map(|user| format!(" of {user}")).unwrap_or_default();
    format!("inhibited by {process}{why}{user}{since}")
}

fn converge(verdict: &converge::Verdict) -> GateReason {
    use converge::{Closed, Open, Unknown};
    let (code, line, figures) = match verdict {
        Verdict::Open(Open::NotInSwarm) => {
            ("not_in_swarm", "this node is not in a Swarm".into(), json!({"swarm": false}))
        }
        Verdict::Open(Open::Converged { services, stuck }) => {
            let line = match (services, stuck.len()) {
                (0, _) => "no services".into(),
                (1, 0) => "1 service, converged".into(),
                (n, 0) => format!("{n} services, all converged"),
                (n, stuck) => format!("{n} services, none converging, {stuck} stuck"),
            };
            let figures = json!({"swarm": true, "services": services, "stuck": of_services(stuck)});
            ("converged", line, figures)
        }
        Verdict::Closed(Closed::Converging { converging, stuck }) => {
            let (lines, stuck) = (by_stack(converging), of_services(stuck));
            let figures = json!({"swarm": true, "converging": of_services(converging), "stuck": stuck});
            return gate("converge", verdict.state(), "converging", lines, figures);
        }
        Verdict::Closed(Closed::EngineRestoring(tasks)) => (
            "engine_restoring_containers",
            format!(
                "the engine is still restoring containers: it lists none for {tasks} of its running tasks"
            ),
            json!({"swarm": true, "tasks_without_container": tasks}),
        ),
        Verdict::Unknown(Unknown::Unavailable(why)) => ("not_available", why.0.clone(), Value::Null),
        Verdict::Unknown(Unknown::Swarm(state)) => {
            (swarm_code(state), state.obstacle().unwrap_or_default(), Value::Null)
        }
        Verdict::Unknown(Unknown::NoStatus(service)) => (
            "tasks_not_counted",
            format!(
                "the engine does not count the tasks of service {service}; is it older than Docker 20.10?"
            ),
            Value::Null,
        ),
    };
    gate("converge", verdict.state(), code, vec![line], figures)
}

fn swarm_code(state: &SwarmState) -> &'static str {
    match state {
        SwarmState::Inactive => "not_in_swarm",
        SwarmState::Manager => "swarm_manager",
        SwarmState::Worker => "swarm_worker",
        SwarmState::Locked => "swarm_locked",
        SwarmState::Pending => "swarm_pending",
        SwarmState::Failed(_) => "swarm_failed",
    }
}

/// The services that converge: those of a stack in one line, by name.
fn by_stack(services: &[converge::ConvergingService]) -> Vec<String> {
    let mut lines: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for service in services {
        let (place, name) = match &service.stack {
            Some(stack) => {
                let prefix = format!("{stack}_");
                let name = service.service.strip_prefix(&prefix).unwrap_or(&service.service);
                (format!("stack {stack}: "), format!("{name} "))
            }
            None => (format!("service {} ", service.service), String::new()),
        };
        let line = format!(
            "{name}{}/{} ({}){}",
            service.has,
            service.wants,
            cause(service).message,
            lasting(service)
        );
        lines.entry(place).or_default().push(line);
    }
    for services in lines.values_mut() {
        services.sort();
    }
    lines.into_iter().map(|(place, services)| format!("{place}{}", services.join(", "))).collect()
}

/// `service web 0/1 (starting)`.
pub fn converging_line(service: &converge::ConvergingService) -> String {
    let converge::ConvergingService { service: name, has, wants, .. } = service;
    format!("service {name} {has}/{wants} ({})", cause(service).message)
}

/// A moment is usual.
fn lasting(service: &converge::ConvergingService) -> String {
    let lasting = service.lasting;
    if lasting < Duration::from_secs(60) { String::new() } else { format!(" for {}", age(lasting)) }
}

fn of_services(services: &[converge::ConvergingService]) -> Vec<Value> {
    services.iter().map(converging).collect()
}

fn converging(service: &converge::ConvergingService) -> Value {
    json!({
        "name": service.service, "running": service.has, "desired": service.wants,
        "stack": service.stack, "cause": cause(service),
        "gave_up": service.gave_up, "age_seconds": service.age.map(|age| age.as_secs()),
        "unconverged_seconds": service.lasting.as_secs(),
    })
}

fn cause(service: &converge::ConvergingService) -> Reason {
    use converge::ConvergeCause as Cause;
    let with = |what: &str, detail: &Option<String>| match detail {
        Some(detail) => format!("{what}: {detail}"),
        None => what.to_owned(),
    };
    let (code, message) = match &service.cause {
        Cause::Updating => ("updating", "update in progress".into()),
        Cause::RollingBack => ("rolling_back", "rollback in progress".into()),
        Cause::Pulling => ("pulling", "pulling its image".into()),
        Cause::Starting => ("starting", "starting".into()),
        Cause::CrashLooping(error) => ("crash_looping", with("crash-looping", error)),
        Cause::Failed(error) => ("failed", with("failed", error)),
        Cause::ImageNotFound(error) => {
            let image = error.as_ref().and_then(|error| error.split_once("No such image: "));
            let image = image.map(|(_, image)| short(image));
            ("image_not_found", with("image not found", &image.or_else(|| error.clone())))
        }
        Cause::RegistryNotReachable(error) => {
            ("registry_not_reachable", format!("its registry cannot be reached: {error}"))
        }
        Cause::NoSpace(error) => ("no_space", format!("no space left: {error}")),
        Cause::Rejected(error) => ("rejected", format!("rejected: {error}")),
        Cause::NoSuitableNode(error) => {
            ("no_suitable_node", error.clone().unwrap_or_else(|| "no suitable node".into()))
        }
    };
    let gave_up = if service.gave_up { "; Swarm will not start it again" } else { "" };
    Reason::new(code, format!("{message}{gave_up}"), Value::Null)
}

pub fn keep(reason: &KeepReason) -> Reason {
    let of = |code, message: String, figures| Reason::new(code, message, figures);
    match reason {
        KeepReason::Live(state) => of("container_live", (*state).into(), json!({"state": state})),
        KeepReason::Label(label) => {
            let figures = json!({"key": label.key, "value": label.value});
            of("keep_label", format!("keep label {label}"), figures).grouped("keep label")
        }
        KeepReason::TaskOf(service) => {
            of("task_of_service", format!("belongs to service {service}"), json!({"service": service}))
                .grouped("belongs to a service that exists")
        }
        KeepReason::ComposeProject(project) => {
            let message = format!("belongs to Compose project {project}");
            of("compose_project", message, json!({"project": project}))
                .grouped("belongs to a Compose project")
        }
        KeepReason::RestartPolicy(policy) => {
            of("restart_policy", format!("restart policy {policy}"), json!({"policy": policy}))
        }
        KeepReason::Builder(name) => of(
            "buildkit_builder",
            format!("belongs to BuildKit builder {name}, whose volume is there (docker buildx rm {name})"),
            json!({"builder": name}),
        )
        .grouped("belongs to a BuildKit builder whose volume is there"),
        KeepReason::TooYoung(since, least) => of(
            "too_young",
            format!("{} old, younger than {}", age(*since), duration(*least)),
            json!({"age_seconds": since.as_secs(), "older_than_seconds": least.as_secs()}),
        )
        .grouped(format!("younger than {}", duration(*least))),
        KeepReason::AgeUnknown => {
            of("age_unknown", "its age is not known".into(), Value::Null)
        }
        KeepReason::Unread => of("not_available", "it could not be read".into(), Value::Null),
        KeepReason::Tagged => of("tagged", "tagged".into(), Value::Null),
        KeepReason::UsedBy(container) => {
            let message = format!("used by container {container}");
            of("used_by_container", message, json!({"container": container})).grouped("used by a container")
        }
        KeepReason::NamedBy(service) => {
            let message = format!("service {service} names it");
            of("used_by_service", message, json!({"service": service})).grouped("a service names it")
        }
        KeepReason::RollbackOf(service) => {
            let message = format!("service {service} may roll back to it");
            of("rollback_of_service", message, json!({"service": service}))
                .grouped("a service may roll back to it")
        }
        KeepReason::Cached { last_use, expected, conditions } => cached(*last_use, expected, conditions),
        KeepReason::DiskUnknown => {
            of("disk_unknown", "cached, and the disk could not be measured".into(), Value::Null)
        }
        KeepReason::SharesLayers(last_use) => of(
            "cached_frees_nothing",
            format!(
                "cached, {}; images that stay have its layers, so that its removal frees next to nothing",
                last_use_text(*last_use)
            ),
            last_use_json(*last_use),
        )
        .grouped("cached, and images that stay have their layers"),
        KeepReason::EvictionUseless(ago) => of(
            "eviction_useless",
            format!(
                "cached; evictions freed nothing {} ago, and are tried again after an hour, or on a fuller disk",
                age(*ago)
            ),
            json!({"age_seconds": ago.as_secs()}),
        )
        .grouped("cached, and the last evictions freed nothing"),
        KeepReason::Refused(ago) => {
            let group = "the engine refuses to remove it";
            let message = format!("{group} {} ago, without a name that would keep it", age(*ago));
            of("removal_refused", message, json!({"age_seconds": ago.as_secs()})).grouped(group)
        }
    }
}

fn cached(last_use: LastUse, expected: &Expectation, conditions: &[Condition]) -> Reason {
    let satisfied = satisfied(conditions, last_use);
    let code = match (satisfied, last_use) {
        (Some(_), _) => "cached_disk_has_room",
        (None, LastUse::Used(_)) => "cached_recently_used",
        (None, LastUse::NeverUsed(_)) => "cached_recently_seen",
    };
    let mut figures = last_use_json(last_use);
    figures["conditions"] = conditions.iter().map(condition).collect();
    figures["expected"] = json!(expectation(expected));
    // In the order of time.
    let still =
        conditions.iter().rev().skip_while(|condition| satisfied.is_some_and(|now| now != *condition));
    let still: Vec<_> = still
        .map(|condition| format!("from {} on {}", duration(condition.unused_for), disk_of(condition)))
        .collect();
    let message = format!("{}; may go {}", cached_since(last_use), still.join(", "));
    let group = match satisfied {
        Some(condition) => format!("cached, may go {}", disk_of(condition)),
        None => {
            let least = conditions.last().map(|condition| condition.unused_for).unwrap_or_default();
            format!("cached, in use or first seen within the last {}", duration(least))
        }
    };
    Reason::new(code, message, figures).grouped(group)
}

fn cached_since(last_use: LastUse) -> String {
    format!("cached, {}", last_use_text(last_use))
}

/// Why an object stays, without what a policy says of all its kind: that is [`policy`].
pub fn keep_of_one(reason: &KeepReason) -> String {
    match reason {
        KeepReason::Cached { last_use, expected, .. } => {
            format!("{}; {}", cached_since(*last_use), expectation(expected).message)
        }
        other => keep(other).message,
    }
}

/// When cached images may go.
pub fn policy(reason: &KeepReason) -> Option<String> {
    let KeepReason::Cached { conditions, .. } = reason else { return None };
    let one =
        |condition: &Condition| format!("from {} on {}", duration(condition.unused_for), disk_of(condition));
    Some(conditions.iter().rev().map(one).collect::<Vec<_>>().join(", "))
}

/// `while the disk is at or above 95%`, or where eviction begins later than it ends: `once the disk is at or above 80%, down
/// to 70%`.
pub fn disk_of(condition: &Condition) -> String {
    if condition.begins == condition.limit {
        format!("while the disk is {}", limit_text(&condition.limit))
    } else {
        format!("once the disk is {}, down to {}", limit_text(&condition.begins), condition.limit.percent)
    }
}

fn last_use_text(last_use: LastUse) -> String {
    match last_use {
        LastUse::Used(ago) => format!("in use {} ago", age(ago)),
        LastUse::NeverUsed(ago) => format!("first seen {} ago, never seen in use", age(ago)),
    }
}

pub fn last_use_json(last_use: LastUse) -> Value {
    let seen_in_use = matches!(last_use, LastUse::Used(_));
    json!({"unused_seconds": last_use.ago().as_secs(), "seen_in_use": seen_in_use})
}

pub fn condition(condition: &Condition) -> Value {
    json!({
        "unused_seconds": condition.unused_for.as_secs(),
        "begins_percent": condition.begins.percent.get(),
        "used_percent": condition.limit.percent.get(),
        "min_free_bytes": condition.limit.min_free,
    })
}

/// Why an object goes. The group is the reason without the age.
pub fn removal(reason: &RemovalReason) -> Reason {
    let (code, why, figures) = match reason {
        RemovalReason::Finished(age) => {
            ("finished", "finished".into(), json!({"age_seconds": age.as_secs()}))
        }
        RemovalReason::NeverStarted(age) => {
            ("never_started", "created, never started".into(), json!({"age_seconds": age.as_secs()}))
        }
        RemovalReason::Unnamed { age, parents } => {
            let with = match parents {
                0 => String::new(),
                parents => format!("; with it at most {}", amount(*parents, "untagged parent")),
            };
            let figures = json!({"age_seconds": age.as_secs(), "untagged_parents": parents});
            ("dangling", format!("dangling, unused{with}"), figures)
        }
        RemovalReason::Evicted(eviction) => return evicted(eviction),
        RemovalReason::Interrupted => {
            ("eviction_interrupted", "its eviction was interrupted".into(), Value::Null)
        }
        RemovalReason::StaleCache { records, older_than } => {
            let figures = json!({"records": records, "older_than_seconds": older_than.as_secs()});
            ("build_cache_idle", format!("{} idle", amount(*records, "record")), figures)
        }
    };
    Reason::new(code, format!("{why}: {}", age_of(reason)), figures).grouped(why)
}

fn evicted(eviction: &Eviction) -> Reason {
    let expected = expectation(&eviction.expected);
    let rung = match eviction.rung {
        Rung::Target => "target",
        Rung::Critical => "critical",
    };
    let mut figures = last_use_json(eviction.last_use);
    figures["rung"] = rung.into();
    figures["used_percent"] = eviction.limit.percent.get().into();
    figures["min_free_bytes"] = eviction.limit.min_free.into();
    figures["expected"] = json!(expected);
    let message = format!("{}; {}", last_use_text(eviction.last_use), expected.message);
    Reason::new(expected.code, message, figures).grouped(expected.message)
}

/// Gaps of a repository that are shown, the latest.
const GAPS_SHOWN: usize = 3;

/// When an image is expected to be used again, and by what.
pub fn expectation(expected: &Expectation) -> Reason {
    match expected {
        Expectation::Replaced(name_tag) => Reason::new(
            "superseded",
            format!("superseded: {name_tag} now names another image"),
            json!({"name_tag": name_tag}),
        ),
        Expectation::NotExpected { repository, images, came_back } => {
            let how_many = match came_back {
                0 => "no image".to_owned(),
                some => format!("{some} of {images} images"),
            };
            Reason::new(
                "not_expected",
                format!("not expected again: {how_many} of {repository} ever came back"),
                json!({"repository": repository, "images": images, "came_back": came_back}),
            )
        }
        Expectation::Overdue(longest) => {
            let message = match longest {
                Some(gap) => {
                    format!("overdue: after more than {} none of its repository came back", age(*gap))
                }
                None => "not seen to come back".into(),
            };
            let longest = longest.map(|gap| gap.as_secs());
            Reason::new("overdue", message, json!({"longest_gap_seconds": longest}))
        }
        Expectation::In(wait, gaps) => {
            let shown: Vec<_> = gaps.iter().rev().take(GAPS_SHOWN).rev().map(|gap| age(*gap)).collect();
            let when = if wait.is_zero() { "now".to_owned() } else { format!("in about {}", age(*wait)) };
            let message = format!("expected again {when} (last gaps: {})", shown.join(", "));
            let gaps: Vec<_> = gaps.iter().map(Duration::as_secs).collect();
            Reason::new("expected", message, json!({"in_seconds": wait.as_secs(), "gaps_seconds": gaps}))
        }
    }
}

/// The age that decided that an object goes, as the table shows it.
pub fn age_of(reason: &RemovalReason) -> String {
    match reason {
        RemovalReason::Finished(since)
        | RemovalReason::NeverStarted(since)
        | RemovalReason::Unnamed { age: since, .. } => age(*since),
        RemovalReason::Evicted(eviction) => age(eviction.last_use.ago()),
        RemovalReason::Interrupted => "-".into(),
        RemovalReason::StaleCache { older_than, .. } => format!("> {}", duration(*older_than)),
    }
}

pub fn skip(reason: &Skip) -> Reason {
    let (code, message) = match reason {
        Skip::Refused(words) => ("conflict", words.as_str()),
        Skip::Renamed => ("renamed", "it got another name since the plan was made"),
        Skip::InUse => ("in_use", "it was pulled, or a container uses it, since the plan was made"),
        Skip::RanAgain => ("ran_again", "it ran again since the plan was made"),
        Skip::PulledAgain => ("pulled_again", "pulled again during eviction"),
        Skip::EnoughSpace(usage, limit) => {
            let figures = json!({
                "used_percent": usage.percent.get(),
                "limit_percent": limit.percent.get(),
                "min_free_bytes": limit.min_free,
            });
            return Reason::new("enough_space", compared(usage, limit), figures);
        }
        Skip::FreedNothing => ("freed_nothing", "the images evicted before it freed nothing"),
        Skip::HasChildren => (
            "has_children",
            "the engine keeps it for an image that was built from it; see docker image history",
        ),
        Skip::Forbidden => ("forbidden", "the engine forbids it"),
        Skip::Unrecorded => (
            "tags_not_recorded",
            "its tags cannot be recorded in the ledger, without which an interrupted eviction would lose them",
        ),
        Skip::Stopped => ("stopped", "the run ended before its turn"),
        Skip::Interrupted => (
            "interrupted",
            "interrupted; its layers are there, and the next prune completes or reverts the eviction",
        ),
    };
    Reason::new(code, message, Value::Null)
}

pub fn failure(error: &EngineError) -> Reason {
    let code = if error.timed_out() { "timed_out" } else { "engine_error" };
    Reason::new(code, error.to_string(), json!({"http_status": error.status().map(|(status, _)| status)}))
}

pub fn stop(reason: &Stop) -> Reason {
    let (code, message, figures) = match reason {
        Stop::Gates { runs: of_runs, converge: of_converge } => {
            let mut gates = vec![runs(of_runs), converge(of_converge)];
            gates.retain(|gate| gate.state != GateState::Open);
            let each = gates
                .iter()
                .map(|gate| format!("{} is {}: {}", gate.gate, gate.state.name(), gate.reason.message));
            let names: Vec<_> = gates.iter().map(|gate| gate.gate).collect();
            ("gate_not_open", each.collect::<Vec<_>>().join("; "), json!({"gates": names}))
        }
        Stop::Event(StopEvent::ServiceCreated(name)) => {
            ("service_created", format!("service {name} was created"), json!({"service": name}))
        }
        Stop::Event(StopEvent::ServiceUpdated(name)) => {
            ("service_updated", format!("service {name} was updated"), json!({"service": name}))
        }
        Stop::Event(StopEvent::Run(name)) => {
            ("run_began", format!("a CI run began: {name}"), json!({"run": name}))
        }
        Stop::Event(StopEvent::Lost(why)) => {
            ("events_lost", format!("the engine's event stream was lost: {why}"), Value::Null)
        }
        Stop::Inhibited(by) => {
            let line = |active: &Inhibitor| inhibited(active.pid, active.why.as_deref(), active.user.as_deref(), None);
            let pids: Vec<_> = by.iter().map(|inhibitor| inhibitor.pid).collect();
            let lines: Vec<_> = by.iter().map(line).collect();
            ("inhibited", lines.join(", "), json!({"pids": pids}))
        }
        Stop::Signal => ("signal", "interrupted by a signal".into(), Value::Null),
        Stop::GatesUnsettled => (
            "gates_unsettled",
            "containers kept starting while the gates were evaluated; retry later".into(),
            Value::Null,
        ),
        Stop::NoSpace => (
            "no_space",
            "the disk is too full for the engine to write what a removal changes; free a few MiB: \
             journalctl --vacuum-size=50M, docker builder prune, or docker image rm a dangling image by its ID \
             (docker image ls --filter dangling=true)"
                .into(),
            Value::Null,
        ),
        Stop::Unavailable(why) => ("not_available", why.0.clone(), Value::Null),
    };
    Reason::new(code, message, figures)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::facts::{Filesystem, Unavailable};
    use crate::gates::disk::Measured;
    use crate::testing::usage;

    const HOUR: Duration = Duration::from_secs(3_600);

    fn shown(reason: &Reason) -> (String, Value) {
        let mut value = serde_json::to_value(reason).unwrap();
        let object = value.as_object_mut().unwrap();
        let message = object.shift_remove("message").unwrap();
        assert!(!message.as_str().unwrap().is_empty(), "{object:?}");
        let code = object.shift_remove("code").unwrap();
        (code.as_str().unwrap().to_owned(), value)
    }

    #[track_caller]
    fn is(reason: &Reason, code: &str, figures: Value) {
        assert_eq!(shown(reason), (code.to_owned(), figures));
    }

    fn runs_reason(run: runs::Run) -> Reason {
        super::runs(&Verdict::Closed(runs::Found { runs: vec![run], ..Default::default() })).reason
    }

    fn limit(percent: &str) -> Limit {
        Limit { percent: percent.parse().unwrap(), min_free: Some(7) }
    }

    #[test]
    fn a_gate_is_told_by_code_and_figures() {
        let why = || Unavailable("x".into());
        let measured = || Measured { usages: vec![usage(85)], limit: limit("80") };
        for (verdict, expected) in
            [(Verdict::Open(measured()), "under_pressure"), (Verdict::Closed(measured()), "below_threshold")]
        {
            let (code, figures) = shown(&super::disk(&verdict).reason);
            assert_eq!(
                (code.as_str(), &figures["threshold_percent"], &figures["min_free_bytes"]),
                (expected, &json!(80), &json!(7))
            );
            assert_eq!(figures["filesystems"][0]["used_percent"], 85);
        }
        is(&super::disk(&Verdict::Unknown(why().into())).reason, "not_available", json!({}));
        let none = Filesystem { size: 0, ..usage(1).filesystem };
        let none = Verdict::Unknown(disk::Unknown::NoBlocks(none));
        is(&super::disk(&none).reason, "no_blocks", json!({"path": "/"}));
        let none =
            runs::Found { looked_for: "drone".into(), others: vec!["web".into()], ..Default::default() };
        let figures = json!({"runs": [], "looked_for": "drone", "no_runs": ["web"]});
        is(&super::runs(&Verdict::Open(none)).reason, "no_run_live", figures);
        is(&super::runs(&Verdict::Unknown(why())).reason, "not_available", json!({}));
        for (kind, word) in [
            (runs::RunKind::Stack, "stack"),
            (runs::RunKind::Service, "service"),
            (runs::RunKind::ComposeProject, "compose-project"),
            (runs::RunKind::Container, "container"),
            (runs::RunKind::Inhibitor, "inhibitor"),
        ] {
            let state = runs::RunState::Live;
            let run = runs::Run { kind, name: "a".into(), age: Some(HOUR), pid: Some(3), user: None, state };
            let (_, figures) = shown(&runs_reason(run.clone()));
            let expected = json!({"kind": word, "name": "a", "pid": 3, "user": null, "state": "live", "age_seconds": 3600});
            assert_eq!(figures["runs"], json!([expected]));
        }
        let converge = |verdict| super::converge(&verdict).reason;
        is(&converge(Verdict::Open(converge::Open::NotInSwarm)), "not_in_swarm", json!({"swarm": false}));
        is(
            &converge(Verdict::Open(converge::Open::Converged { services: 2, stuck: vec![] })),
            "converged",
            json!({"swarm": true, "services": 2, "stuck": []}),
        );
        is(
            &converge(Verdict::Closed(converge::Closed::EngineRestoring(2))),
            "engine_restoring_containers",
            json!({"swarm": true, "tasks_without_container": 2}),
        );
        for (unknown, code) in [
            (converge::Unknown::Unavailable(why()), "not_available"),
            (converge::Unknown::Swarm(SwarmState::Worker), "swarm_worker"),
            (converge::Unknown::Swarm(SwarmState::Locked), "swarm_locked"),
            (converge::Unknown::Swarm(SwarmState::Pending), "swarm_pending"),
            (converge::Unknown::Swarm(SwarmState::Failed("x".into())), "swarm_failed"),
            (converge::Unknown::NoStatus("x".into()), "tasks_not_counted"),
        ] {
            is(&converge(Verdict::Unknown(unknown)), code, json!({}));
        }
    }

    #[test]
    fn each_cause_of_a_service_has_its_code() {
        use converge::ConvergeCause as Cause;
        for (cause, code) in [
            (Cause::Updating, "updating"),
            (Cause::RollingBack, "rolling_back"),
            (Cause::Pulling, "pulling"),
            (Cause::Starting, "starting"),
            (Cause::CrashLooping(None), "crash_looping"),
            (Cause::Failed(None), "failed"),
            (Cause::ImageNotFound(None), "image_not_found"),
            (Cause::RegistryNotReachable("x".into()), "registry_not_reachable"),
            (Cause::NoSpace("x".into()), "no_space"),
            (Cause::Rejected("x".into()), "rejected"),
            (Cause::NoSuitableNode(None), "no_suitable_node"),
        ] {
            let service = converge::ConvergingService {
                service: "web".into(),
                has: 1,
                wants: 2,
                cause,
                gave_up: true,
                stack: Some("shop".into()),
                mode: crate::facts::Mode::Global,
                age: Some(HOUR),
                id: "x".into(),
                lasting: HOUR,
            };
            let mut value = converging(&service);
            assert_eq!(value["cause"]["code"], code);
            value.as_object_mut().unwrap().remove("cause");
            let expected = json!({
                "name": "web", "running": 1, "desired": 2, "stack": "shop", "gave_up": true, "age_seconds": 3600,
                "unconverged_seconds": 3600,
            });
            assert_eq!(value, expected);
        }
    }

    #[test]
    fn each_reason_to_stay_has_its_code_and_figures() {
        let name = || "a".to_owned();
        let cached = |last_use, unused_for| KeepReason::Cached {
            last_use,
            expected: Expectation::Overdue(None),
            conditions: vec![Condition { unused_for, begins: limit("80"), limit: limit("70") }],
        };
        let (used, never) = (LastUse::Used(HOUR), LastUse::NeverUsed(HOUR));
        let conditions = |seconds: u64| json!([{"unused_seconds": seconds, "begins_percent": 80, "used_percent": 70, "min_free_bytes": 7}]);
        let of_use = |seen: bool| json!({"unused_seconds": 3600, "seen_in_use": seen});
        let of_cached = |seen: bool, seconds| {
            json!({
                "unused_seconds": 3600, "seen_in_use": seen, "conditions": conditions(seconds),
                "expected": expectation(&Expectation::Overdue(None)),
            })
        };
        for (reason, code, figures) in [
            (KeepReason::Live("paused"), "container_live", json!({"state": "paused"})),
            (KeepReason::Label("k=v".parse().unwrap()), "keep_label", json!({"key": "k", "value": "v"})),
            (KeepReason::TaskOf(name()), "task_of_service", json!({"service": "a"})),
            (KeepReason::ComposeProject(name()), "compose_project", json!({"project": "a"})),
            (KeepReason::RestartPolicy(name()), "restart_policy", json!({"policy": "a"})),
            (KeepReason::Builder(name()), "buildkit_builder", json!({"builder": "a"})),
            (
                KeepReason::TooYoung(HOUR, 2 * HOUR),
                "too_young",
                json!({"age_seconds": 3600, "older_than_seconds": 7200}),
            ),
            (KeepReason::AgeUnknown, "age_unknown", json!({})),
            (KeepReason::Unread, "not_available", json!({})),
            (KeepReason::Tagged, "tagged", json!({})),
            (KeepReason::UsedBy(name()), "used_by_container", json!({"container": "a"})),
            (KeepReason::NamedBy(name()), "used_by_service", json!({"service": "a"})),
            (KeepReason::RollbackOf(name()), "rollback_of_service", json!({"service": "a"})),
            (cached(used, HOUR), "cached_disk_has_room", of_cached(true, 3_600)),
            (cached(used, 2 * HOUR), "cached_recently_used", of_cached(true, 7_200)),
            (cached(never, 2 * HOUR), "cached_recently_seen", of_cached(false, 7_200)),
            (KeepReason::DiskUnknown, "disk_unknown", json!({})),
            (KeepReason::SharesLayers(never), "cached_frees_nothing", of_use(false)),
            (KeepReason::EvictionUseless(HOUR), "eviction_useless", json!({"age_seconds": 3600})),
            (KeepReason::Refused(HOUR), "removal_refused", json!({"age_seconds": 3600})),
        ] {
            is(&keep(&reason), code, figures);
        }
    }

    #[test]
    fn each_reason_to_go_has_its_code_and_figures() {
        let evicted = |rung, last_use, expected: &Expectation| {
            let (begins, limit, expected) = (limit("70"), limit("70"), expected.clone());
            RemovalReason::Evicted(Eviction { rung, begins, limit, last_use, expected })
        };
        let of = |rung: &str, seen: bool, expected: &Expectation| {
            json!({
                "unused_seconds": 3600, "seen_in_use": seen, "rung": rung, "used_percent": 70, "min_free_bytes": 7,
                "expected": expectation(expected),
            })
        };
        let replaced = Expectation::Replaced("db:1".into());
        let overdue = Expectation::Overdue(None);
        let (used, never) = (LastUse::Used(HOUR), LastUse::NeverUsed(HOUR));
        for (reason, code, figures) in [
            (RemovalReason::Finished(HOUR), "finished", json!({"age_seconds": 3600})),
            (RemovalReason::NeverStarted(HOUR), "never_started", json!({"age_seconds": 3600})),
            (
                RemovalReason::Unnamed { age: HOUR, parents: 2 },
                "dangling",
                json!({"age_seconds": 3600, "untagged_parents": 2}),
            ),
            (RemovalReason::Interrupted, "eviction_interrupted", json!({})),
            (
                RemovalReason::StaleCache { records: 2, older_than: HOUR },
                "build_cache_idle",
                json!({"records": 2, "older_than_seconds": 3600}),
            ),
            (evicted(Rung::Target, used, &replaced), "superseded", of("target", true, &replaced)),
            (evicted(Rung::Critical, never, &overdue), "overdue", of("critical", false, &overdue)),
        ] {
            is(&removal(&reason), code, figures);
        }
    }

    #[test]
    fn an_expectation_is_told_by_what_it_rests_on() {
        let hours = |hours: &[u32]| hours.iter().map(|n| *n * HOUR).collect::<Vec<_>>();
        let of_app =
            |came_back| Expectation::NotExpected { repository: "ci/app".into(), images: 12, came_back };
        for (expected, code, figures, message) in [
            (
                Expectation::Replaced("db:1".into()),
                "superseded",
                json!({"name_tag": "db:1"}),
                "superseded: db:1 now names another image",
            ),
            (
                of_app(0),
                "not_expected",
                json!({"repository": "ci/app", "images": 12, "came_back": 0}),
                "not expected again: no image of ci/app ever came back",
            ),
            (
                of_app(3),
                "not_expected",
                json!({"repository": "ci/app", "images": 12, "came_back": 3}),
                "not expected again: 3 of 12 images of ci/app ever came back",
            ),
            (
                Expectation::Overdue(Some(25 * HOUR)),
                "overdue",
                json!({"longest_gap_seconds": 90_000}),
                "overdue: after more than 25h none of its repository came back",
            ),
            (
                Expectation::Overdue(None),
                "overdue",
                json!({"longest_gap_seconds": null}),
                "not seen to come back",
            ),
            (
                Expectation::In(14 * HOUR, hours(&[9, 23, 24, 24])),
                "expected",
                json!({"in_seconds": 50_400, "gaps_seconds": [32_400, 82_800, 86_400, 86_400]}),
                "expected again in about 14h (last gaps: 23h, 24h, 24h)",
            ),
            (
                Expectation::In(Duration::ZERO, hours(&[24])),
                "expected",
                json!({"in_seconds": 0, "gaps_seconds": [86_400]}),
                "expected again now (last gaps: 24h)",
            ),
        ] {
            let reason = expectation(&expected);
            assert_eq!(reason.message, message);
            is(&reason, code, figures);
        }
    }

    #[test]
    fn what_was_skipped_failed_or_stopped_has_its_code() {
        let enough = json!({"used_percent": 60, "limit_percent": 70, "min_free_bytes": 7});
        for (reason, code, figures) in [
            (Skip::Refused("x".into()), "conflict", json!({})),
            (Skip::Renamed, "renamed", json!({})),
            (Skip::InUse, "in_use", json!({})),
            (Skip::RanAgain, "ran_again", json!({})),
            (Skip::PulledAgain, "pulled_again", json!({})),
            (Skip::EnoughSpace(usage(60), limit("70")), "enough_space", enough),
            (Skip::FreedNothing, "freed_nothing", json!({})),
            (Skip::HasChildren, "has_children", json!({})),
            (Skip::Forbidden, "forbidden", json!({})),
            (Skip::Unrecorded, "tags_not_recorded", json!({})),
            (Skip::Stopped, "stopped", json!({})),
            (Skip::Interrupted, "interrupted", json!({})),
        ] {
            is(&skip(&reason), code, figures);
        }
        let name = || "a".to_owned();
        let inhibitor = Inhibitor { pid: Some(3), since: None, why: None, user: None };
        for (reason, code, figures) in [
            (
                Stop::Gates {
                    runs: crate::testing::runs_closed(),
                    converge: Verdict::Open(converge::Open::Converged { services: 1, stuck: vec![] }),
                },
                "gate_not_open",
                json!({"gates": ["runs"]}),
            ),
            (Stop::Event(StopEvent::ServiceCreated(name())), "service_created", json!({"service": "a"})),
            (Stop::Event(StopEvent::ServiceUpdated(name())), "service_updated", json!({"service": "a"})),
            (Stop::Event(StopEvent::Run(name())), "run_began", json!({"run": "a"})),
            (Stop::Event(StopEvent::Lost(name())), "events_lost", json!({})),
            (Stop::Inhibited(vec![inhibitor]), "inhibited", json!({"pids": [3]})),
            (Stop::Signal, "signal", json!({})),
            (Stop::GatesUnsettled, "gates_unsettled", json!({})),
            (Stop::NoSpace, "no_space", json!({})),
            (Stop::Unavailable(Unavailable("x".into())), "not_available", json!({})),
        ] {
            is(&stop(&reason), code, figures);
        }
        let timeout = crate::testing::timeout("x", HOUR);
        is(&failure(&timeout), "timed_out", json!({"http_status": null}));
        let error = crate::testing::status("x", 500, "x");
        is(&failure(&error), "engine_error", json!({"http_status": 500}));
    }

    #[test]
    fn services_are_told_by_stack_and_in_order() {
        let service = |name: &str, stack: Option<&str>, cause, gave_up| converge::ConvergingService {
            service: name.into(),
            has: 0,
            wants: 1,
            cause,
            gave_up,
            stack: stack.map(str::to_owned),
            mode: crate::facts::Mode::Global,
            age: None,
            id: "x".into(),
            lasting: HOUR,
        };
        let missing = converge::ConvergeCause::ImageNotFound(Some("No such image: web:1@sha256:aa".into()));
        let services = vec![
            service("shop_web", Some("shop"), missing, true),
            service("lone", None, converge::ConvergeCause::Pulling, false),
            service("blog_db", Some("blog"), converge::ConvergeCause::Starting, false),
            service("shop_db", Some("shop"), converge::ConvergeCause::Updating, false),
        ];
        let gate = super::converge(&Verdict::Closed(converge::Closed::Converging {
            converging: services,
            stuck: vec![],
        }));
        let expected = [
            "service lone 0/1 (pulling its image) for 60m",
            "stack blog: db 0/1 (starting) for 60m",
            "stack shop: db 0/1 (update in progress) for 60m, \
             web 0/1 (image not found: web:1@sha256:aa; Swarm will not start it again) for 60m",
        ];
        assert_eq!(gate.lines, expected);
    }
}
