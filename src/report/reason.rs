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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::facts::{Filesystem, Inhibitor, Unavailable};
    use crate::gates::disk::{Limit, Measured};
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
            let (code, figures) = shown(&gate(&Gate::Disk(verdict)));
            assert_eq!(
                (code.as_str(), &figures["threshold_percent"], &figures["min_free_bytes"]),
                (expected, &json!(80), &json!(7))
            );
            assert_eq!(figures["filesystems"][0]["used_percent"], 85);
        }
        is(&gate(&Gate::disk_unavailable(why())), "not_available", json!({}));
        let none = Filesystem { size: 0, ..usage(1).filesystem };
        let none = Gate::Disk(Verdict::Unknown(disk::Unknown::NoBlocks(none)));
        is(&gate(&none), "no_blocks", json!({"path": "/"}));
        is(&gate(&Gate::Runs(Verdict::Open(()))), "no_run_live", json!({"runs": []}));
        is(&gate(&Gate::runs_unavailable(why())), "not_available", json!({}));
        for (kind, word) in [
            (runs::RunKind::Stack, "stack"),
            (runs::RunKind::Service, "service"),
            (runs::RunKind::ComposeProject, "compose-project"),
            (runs::RunKind::Container, "container"),
            (runs::RunKind::Inhibitor, "inhibitor"),
        ] {
            let run = runs::Run { kind, name: "a".into(), age: Some(HOUR), pid: Some(3) };
            let figures = json!({"runs": [{"kind": word, "name": "a", "pid": 3, "age_seconds": 3600}]});
            is(&gate(&Gate::Runs(Verdict::Closed(vec![run]))), "runs_live", figures);
        }
        let converge = |verdict| gate(&Gate::Converge(verdict));
        is(&converge(Verdict::Open(converge::Open::NotInSwarm)), "not_in_swarm", json!({"swarm": false}));
        is(
            &converge(Verdict::Open(converge::Open::Converged(2))),
            "converged",
            json!({"swarm": true, "services": 2}),
        );
        is(
            &converge(Verdict::Closed(converge::Closed::EngineRestoring(2))),
            "engine_restoring_containers",
            json!({"swarm": true, "tasks_without_container": 2}),
        );
        for (unknown, code) in [
            (converge::Unknown::Unavailable(why()), "not_available"),
            (converge::Unknown::Worker, "swarm_worker"),
            (converge::Unknown::Locked, "swarm_locked"),
            (converge::Unknown::Pending, "swarm_pending"),
            (converge::Unknown::Failed("x".into()), "swarm_failed"),
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
            (Cause::NoSuitableNode(None), "no_suitable_node"),
        ] {
            let service = converge::ConvergingService {
                service: "web".into(),
                has: 1,
                wants: 2,
                cause,
                gave_up: true,
                stack: Some("shop".into()),
                age: Some(HOUR),
            };
            let mut value = converging(&service);
            assert_eq!(value["cause"]["code"], code);
            value.as_object_mut().unwrap().remove("cause");
            let expected = json!({
                "name": "web", "running": 1, "desired": 2, "stack": "shop", "gave_up": true, "age_seconds": 3600,
            });
            assert_eq!(value, expected);
        }
    }

    #[test]
    fn each_reason_to_stay_has_its_code_and_figures() {
        let name = || "a".to_owned();
        let condition = Condition { unused_for: HOUR, begins: limit("80"), limit: limit("70") };
        let cached =
            |last_use, satisfied| KeepReason::Cached { last_use, conditions: vec![condition], satisfied };
        let (used, never) = (LastUse::Used(HOUR), LastUse::NeverUsed(HOUR));
        let conditions =
            json!([{"unused_seconds": 3600, "begins_percent": 80, "used_percent": 70, "min_free_bytes": 7}]);
        let of_use = |seen: bool| json!({"unused_seconds": 3600, "seen_in_use": seen});
        let of_cached =
            |seen: bool| json!({"unused_seconds": 3600, "seen_in_use": seen, "conditions": conditions});
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
            (cached(used, Some(condition)), "cached_disk_has_room", of_cached(true)),
            (cached(used, None), "cached_recently_used", of_cached(true)),
            (cached(never, None), "cached_recently_seen", of_cached(false)),
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
        let evicted = |rung, superseded: Option<&str>, last_use| {
            let superseded = superseded.map(str::to_owned);
            RemovalReason::Evicted(Eviction { rung, limit: limit("70"), superseded, last_use })
        };
        let of = |rung: &str, seen: bool, superseded: Option<&str>| {
            json!({
                "unused_seconds": 3600, "seen_in_use": seen, "rung": rung, "used_percent": 70, "min_free_bytes": 7,
                "superseded": superseded,
            })
        };
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
            (evicted(Rung::Target, Some("db:1"), used), "superseded", of("target", true, Some("db:1"))),
            (evicted(Rung::Threshold, None, used), "cached_unused", of("threshold", true, None)),
            (evicted(Rung::Critical, None, never), "cached_never_used", of("critical", false, None)),
        ] {
            is(&removal(&reason), code, figures);
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
        let inhibitor = Inhibitor { pid: Some(3), since: None, why: None };
        for (reason, code, figures) in [
            (
                Stop::Gates(vec![Gate::Runs(Verdict::Closed(vec![]))]),
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
        let timeout = EngineError::simulated_timeout("x", HOUR);
        is(&failure(&timeout), "timed_out", json!({"http_status": null}));
        let error = EngineError::simulated_status("x", 500, "x");
        is(&failure(&error), "engine_error", json!({"http_status": 500}));
    }
}
