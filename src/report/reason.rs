//! Reasons as JSON: a code, which is an interface, a message for people, and the figures that it is made of.

use serde::Serialize;
use serde_json::{Map, Value, json};

use super::text;
use crate::engine::EngineError;
use crate::engine::watch::StopEvent;
use crate::execute::{Skip, Stop};
use crate::gates::disk::{self, Usage};
use crate::gates::{Gate, Verdict, converge, runs};
use crate::plan::{Condition, Eviction, KeepReason, LastUse, RemovalReason, Rung};

/// `{"code": "…", "message": "…", …}`
#[derive(Debug, Serialize)]
pub struct Reason {
    code: &'static str,
    message: String,
    #[serde(flatten)]
    figures: Map<String, Value>,
}

impl Reason {
    /// `figures` is a JSON object.
    pub fn new(code: &'static str, message: String, figures: Value) -> Self {
        let figures = if let Value::Object(figures) = figures { figures } else { Map::new() };
        Self { code, message, figures }
    }

    fn plain(code: &'static str, message: String) -> Self {
        Self { code, message, figures: Map::new() }
    }
}

/// Why a gate is open, closed or unknown.
pub fn gate(gate: &Gate) -> Reason {
    let (code, figures) = match gate {
        Gate::Disk(verdict) => disk(verdict),
        Gate::Runs(Verdict::Open(())) => ("no_run_live", json!({"runs": []})),
        Gate::Runs(Verdict::Closed(found)) => {
            ("runs_live", json!({"runs": found.iter().map(run).collect::<Vec<_>>()}))
        }
        Gate::Runs(Verdict::Unknown(_)) => ("not_available", Value::Null),
        Gate::Converge(verdict) => converge(verdict),
    };
    Reason::new(code, text::reason(gate), figures)
}

fn disk(verdict: &disk::Verdict) -> (&'static str, Value) {
    let (code, measured) = match verdict {
        Verdict::Open(measured) => ("under_pressure", measured),
        Verdict::Closed(measured) => ("below_threshold", measured),
        Verdict::Unknown(disk::Unknown::NoBlocks(filesystem)) => {
            return ("no_blocks", json!({"path": filesystem.mount_point.display().to_string()}));
        }
        Verdict::Unknown(disk::Unknown::Unavailable(_)) => return ("not_available", Value::Null),
    };
    let figures = json!({
        "threshold_percent": measured.limit.percent.get(),
        "min_free_bytes": measured.limit.min_free,
        "filesystems": measured.usages.iter().map(filesystem).collect::<Vec<_>>(),
    });
    (code, figures)
}

/// A filesystem and how full it is.
pub fn filesystem(usage: &Usage) -> Value {
    let filesystem = &usage.filesystem;
    json!({
        "path": filesystem.mount_point.display().to_string(),
        "used_percent": usage.percent.get(),
        "block_percent": filesystem.block_percent().map(crate::units::Percent::get),
        "inode_percent": filesystem.inode_percent().map(crate::units::Percent::get),
        "metadata_percent": filesystem.metadata_percent().map(crate::units::Percent::get),
        "size_bytes": filesystem.size,
        "used_bytes": filesystem.used,
        "available_bytes": filesystem.available,
    })
}

fn run(run: &runs::Run) -> Value {
    let kind = match run.kind {
        runs::RunKind::Stack => "stack",
        runs::RunKind::Service => "service",
        runs::RunKind::ComposeProject => "compose-project",
        runs::RunKind::Container => "container",
        runs::RunKind::Inhibitor => "inhibitor",
    };
    let age = run.age.map(|age| age.as_secs());
    json!({"kind": kind, "name": run.name, "pid": run.pid, "age_seconds": age})
}

fn converge(verdict: &converge::Verdict) -> (&'static str, Value) {
    match verdict {
        Verdict::Open(converge::Open::NotInSwarm) => ("not_in_swarm", json!({"swarm": false})),
        Verdict::Open(converge::Open::Converged(services)) => {
            ("converged", json!({"swarm": true, "services": services}))
        }
        Verdict::Closed(converge::Closed::Converging(services)) => {
            let services: Vec<_> = services.iter().map(converging).collect();
            ("converging", json!({"swarm": true, "converging": services}))
        }
        Verdict::Closed(converge::Closed::EngineRestoring(tasks)) => {
            ("engine_restoring_containers", json!({"swarm": true, "tasks_without_container": tasks}))
        }
        Verdict::Unknown(why) => {
            let code = match why {
                converge::Unknown::Unavailable(_) => "not_available",
                converge::Unknown::Worker => "swarm_worker",
                converge::Unknown::Locked => "swarm_locked",
                converge::Unknown::Pending => "swarm_pending",
                converge::Unknown::Failed(_) => "swarm_failed",
                converge::Unknown::NoStatus(_) => "tasks_not_counted",
            };
            (code, Value::Null)
        }
    }
}

fn converging(service: &converge::ConvergingService) -> Value {
    let cause = match service.cause {
        converge::ConvergeCause::Updating => "updating",
        converge::ConvergeCause::RollingBack => "rolling_back",
        converge::ConvergeCause::Pulling => "pulling",
        converge::ConvergeCause::Starting => "starting",
        converge::ConvergeCause::CrashLooping(_) => "crash_looping",
        converge::ConvergeCause::Failed(_) => "failed",
        converge::ConvergeCause::ImageNotFound(_) => "image_not_found",
        converge::ConvergeCause::NoSuitableNode(_) => "no_suitable_node",
    };
    let age = service.age.map(|age| age.as_secs());
    json!({
        "name": service.service, "running": service.has, "desired": service.wants,
        "stack": service.stack, "cause": {"code": cause, "message": text::cause(service)},
        "gave_up": service.gave_up, "age_seconds": age,
    })
}

/// Why an object stays.
pub fn keep(reason: &KeepReason) -> Reason {
    let (code, figures) = match reason {
        KeepReason::Live(state) => ("container_live", json!({"state": state})),
        KeepReason::Label(label) => ("keep_label", json!({"key": label.key, "value": label.value})),
        KeepReason::TaskOf(service) => ("task_of_service", json!({"service": service})),
        KeepReason::ComposeProject(project) => ("compose_project", json!({"project": project})),
        KeepReason::RestartPolicy(policy) => ("restart_policy", json!({"policy": policy})),
        KeepReason::Builder(builder) => ("buildkit_builder", json!({"builder": builder})),
        KeepReason::TooYoung(age, least) => {
            ("too_young", json!({"age_seconds": age.as_secs(), "older_than_seconds": least.as_secs()}))
        }
        KeepReason::AgeUnknown => ("age_unknown", Value::Null),
        KeepReason::Unread => ("not_available", Value::Null),
        KeepReason::Tagged => ("tagged", Value::Null),
        KeepReason::UsedBy(container) => ("used_by_container", json!({"container": container})),
        KeepReason::NamedBy(service) => ("used_by_service", json!({"service": service})),
        KeepReason::RollbackOf(service) => ("rollback_of_service", json!({"service": service})),
        KeepReason::Cached { last_use, conditions, satisfied } => {
            let code = match (satisfied, last_use) {
                (Some(_), _) => "cached_disk_has_room",
                (None, LastUse::Used(_)) => "cached_recently_used",
                (None, LastUse::NeverUsed(_)) => "cached_recently_seen",
            };
            let mut figures = last_use_json(*last_use);
            figures["conditions"] = conditions.iter().map(condition).collect();
            (code, figures)
        }
        KeepReason::DiskUnknown => ("disk_unknown", Value::Null),
        KeepReason::SharesLayers(last_use) => ("cached_frees_nothing", last_use_json(*last_use)),
        KeepReason::EvictionUseless(ago) => ("eviction_useless", json!({"age_seconds": ago.as_secs()})),
        KeepReason::Refused(ago) => ("removal_refused", json!({"age_seconds": ago.as_secs()})),
    };
    Reason::new(code, text::keep_reason(reason), figures)
}

/// Since when an image is unused, by the ledger.
pub fn last_use_json(last_use: LastUse) -> Value {
    let seen_in_use = matches!(last_use, LastUse::Used(_));
    json!({"unused_seconds": last_use.ago().as_secs(), "seen_in_use": seen_in_use})
}

/// When a cached image goes.
pub fn condition(condition: &Condition) -> Value {
    json!({
        "unused_seconds": condition.unused_for.as_secs(),
        "begins_percent": condition.begins.percent.get(),
        "used_percent": condition.limit.percent.get(),
        "min_free_bytes": condition.limit.min_free,
    })
}

/// Why an object goes.
pub fn removal(reason: &RemovalReason) -> Reason {
    let (code, figures) = match reason {
        RemovalReason::Finished(age) => ("finished", json!({"age_seconds": age.as_secs()})),
        RemovalReason::NeverStarted(age) => ("never_started", json!({"age_seconds": age.as_secs()})),
        RemovalReason::Unnamed { age, parents } => {
            ("dangling", json!({"age_seconds": age.as_secs(), "untagged_parents": parents}))
        }
        RemovalReason::Evicted(eviction) => evicted(eviction),
        RemovalReason::Interrupted => ("eviction_interrupted", Value::Null),
        RemovalReason::StaleCache { records, older_than } => {
            ("build_cache_idle", json!({"records": records, "older_than_seconds": older_than.as_secs()}))
        }
    };
    Reason::new(code, text::remove_reason_line(reason), figures)
}

fn evicted(eviction: &Eviction) -> (&'static str, Value) {
    let code = match (&eviction.superseded, eviction.last_use) {
        (Some(_), _) => "superseded",
        (None, LastUse::Used(_)) => "cached_unused",
        (None, LastUse::NeverUsed(_)) => "cached_never_used",
    };
    let rung = match eviction.rung {
        Rung::Target => "target",
        Rung::Threshold => "threshold",
        Rung::Critical => "critical",
    };
    let mut figures = last_use_json(eviction.last_use);
    figures["rung"] = rung.into();
    figures["used_percent"] = eviction.limit.percent.get().into();
    figures["min_free_bytes"] = eviction.limit.min_free.into();
    figures["superseded"] = eviction.superseded.clone().into();
    (code, figures)
}

/// Why an object that was to go stayed.
pub fn skip(reason: &Skip) -> Reason {
    let code = match reason {
        Skip::Refused(_) => "conflict",
        Skip::Renamed => "renamed",
        Skip::InUse => "in_use",
        Skip::RanAgain => "ran_again",
        Skip::PulledAgain => "pulled_again",
        Skip::EnoughSpace(usage, limit) => {
            let figures = json!({
                "used_percent": usage.percent.get(),
                "limit_percent": limit.percent.get(),
                "min_free_bytes": limit.min_free,
            });
            return Reason::new("enough_space", text::skip(reason), figures);
        }
        Skip::FreedNothing => "freed_nothing",
        Skip::HasChildren => "has_children",
        Skip::Forbidden => "forbidden",
        Skip::Unrecorded => "tags_not_recorded",
        Skip::Stopped => "stopped",
        Skip::Interrupted => "interrupted",
    };
    Reason::plain(code, text::skip(reason))
}

/// Why a removal failed.
pub fn failure(error: &EngineError) -> Reason {
    let code = if error.timed_out() { "timed_out" } else { "engine_error" };
    Reason::new(code, error.to_string(), json!({"http_status": error.status().map(|(status, _)| status)}))
}

/// Why a run ended early.
pub fn stop(reason: &Stop) -> Reason {
    let (code, figures) = match reason {
        Stop::Gates(gates) => {
            ("gate_not_open", json!({"gates": gates.iter().map(Gate::name).collect::<Vec<_>>()}))
        }
        Stop::Event(StopEvent::ServiceCreated(name)) => ("service_created", json!({"service": name})),
        Stop::Event(StopEvent::ServiceUpdated(name)) => ("service_updated", json!({"service": name})),
        Stop::Event(StopEvent::Run(name)) => ("run_began", json!({"run": name})),
        Stop::Event(StopEvent::Lost(_)) => ("events_lost", Value::Null),
        Stop::Inhibited(by) => {
            ("inhibited", json!({"pids": by.iter().map(|inhibitor| inhibitor.pid).collect::<Vec<_>>()}))
        }
        Stop::Signal => ("signal", Value::Null),
        Stop::GatesUnsettled => ("gates_unsettled", Value::Null),
        Stop::NoSpace => ("no_space", Value::Null),
        Stop::Unavailable(_) => ("not_available", Value::Null),
    };
    Reason::new(code, text::stop(reason), figures)
}
