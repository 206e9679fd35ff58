//! What the answers of all resources have in common: encoding, times, 404.

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use crate::units::Time;
use crate::world::EngineError;

pub(super) fn gone_is_none<T>(answer: Result<T, EngineError>) -> Result<Option<T>, EngineError> {
    match answer {
        Ok(answer) => Ok(Some(answer)),
        Err(error) if error.status().is_some_and(|(status, _)| status == 404) => Ok(None),
        Err(error) => Err(error),
    }
}

pub(super) fn encode(text: &str) -> String {
    utf8_percent_encode(text, NON_ALPHANUMERIC).to_string()
}

/// The engine writes Go's zero time, 0001-01-01, for "never".
pub(super) fn parse_time(text: &str) -> Option<Time> {
    text.parse().ok().filter(|at: &Time| at.as_second() > -62_135_596_800)
}

/// A time in the notation of `since` and `until` of `GET /events`, in nanoseconds.
pub(super) fn stamp(at: Time) -> String {
    format!("{}.{:09}", at.as_second(), at.subsec_nanosecond().max(0))
}

pub(super) fn from_seconds(seconds: Option<i64>) -> Option<Time> {
    seconds.filter(|&seconds| seconds != 0).and_then(|seconds| Time::from_second(seconds).ok())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Map, Value, json};

    use super::*;
    use crate::engine::{containers, disk_usage, images, services, system, tasks};
    use crate::facts::{
        CacheRecord, Container, ContainerState, Desired, Image, Mode, Service, Swarm, SwarmState, Task,
        TaskCounts, TaskState, Update,
    };

    #[test]
    fn times_that_say_nothing_are_none() {
        let at = "2026-11-20T12:00:00Z";
        assert_eq!(parse_time(at), at.parse().ok());
        assert_eq!(parse_time("2026-11-20T13:00:00.5+01:00"), "2026-11-20T12:00:00.5Z".parse().ok());
        assert_eq!(parse_time("0001-01-01T00:00:00Z"), None);
        assert_eq!(parse_time("0001-01-01T00:00:01Z").map(Time::as_second), Some(-62_135_596_799));
        assert_eq!(parse_time("soon"), None);
        assert_eq!(from_seconds(Some(1)).map(Time::as_second), Some(1));
        assert_eq!(
            (from_seconds(Some(0)), from_seconds(None), from_seconds(Some(i64::MAX))),
            (None, None, None)
        );
        let status = |status| Err::<(), _>(crate::testing::status("x", status, "x"));
        assert_eq!(gone_is_none(status(404)), Ok(None));
        assert!(gone_is_none(status(409)).is_err());
        assert_eq!(gone_is_none(Ok(7)), Ok(Some(7)));
        assert_eq!(encode("{\"a\": 1}"), "%7B%22a%22%3A%201%7D");
        assert_eq!(stamp("1970-01-01T00:01:00.012Z".parse().unwrap()), "60.012000000");
        assert_eq!(stamp(Time::UNIX_EPOCH), "0.000000000");
    }

    fn service(changes: Value) -> Service {
        let mut service = json!({"ID": "s", "Spec": {"Name": "app"}});
        for (key, value) in changes.as_object().unwrap() {
            service[key] = value.clone();
        }
        serde_json::from_value::<services::ServiceAnswer>(service).unwrap().into()
    }

    #[test]
    fn a_service_is_read_with_its_mode_and_its_update() {
        for (mode, expected) in [
            (json!({"Replicated": {"Replicas": 3}}), Mode::Replicated { replicas: 3 }),
            (json!({"Replicated": {}}), Mode::Replicated { replicas: 1 }),
            (json!({}), Mode::Replicated { replicas: 1 }),
            (json!({"Global": {}}), Mode::Global),
            (json!({"GlobalJob": {}}), Mode::GlobalJob),
            (
                json!({"ReplicatedJob": {"MaxConcurrent": 2, "TotalCompletions": 5}}),
                Mode::ReplicatedJob { completions: 5 },
            ),
            (json!({"ReplicatedJob": {"MaxConcurrent": 2}}), Mode::ReplicatedJob { completions: 2 }),
            (json!({"ReplicatedJob": {}}), Mode::ReplicatedJob { completions: 1 }),
        ] {
            assert_eq!(service(json!({"Spec": {"Mode": mode}})).mode, expected, "{mode}");
        }
        for (state, expected) in [
            ("updating", Update::Updating),
            ("rollback_started", Update::RollingBack),
            ("completed", Update::Settled),
            ("paused", Update::Settled),
            ("rollback_paused", Update::Settled),
            ("rollback_completed", Update::Settled),
            ("", Update::Settled),
        ] {
            assert_eq!(service(json!({"UpdateStatus": {"State": state}})).update, expected, "{state}");
        }
        let image =
            |name: &str| json!({"TaskTemplate": {"ContainerSpec": {"Image": name}}, "Labels": {"a": "b"}});
        let read = service(json!({
            "Spec": image("app:2"),
            "PreviousSpec": image("app:1"),
            "CreatedAt": "2026-11-20T12:00:00Z",
            "UpdatedAt": "2026-11-21T12:00:00Z",
            "ServiceStatus": {"RunningTasks": 1, "DesiredTasks": 2, "CompletedTasks": 3},
            "JobStatus": {"JobIteration": {"Index": 7}},
        }));
        assert_eq!((read.image.as_str(), read.previous_image.as_deref()), ("app:2", Some("app:1")));
        assert_eq!(read.created, "2026-11-20T12:00:00Z".parse().ok());
        assert_eq!(read.updated, "2026-11-21T12:00:00Z".parse().ok());
        assert_eq!(read.status, Some(TaskCounts { running: 1, desired: 2, completed: 3 }));
        assert_eq!((read.job_iteration, read.labels.len()), (7, 1));
        let bare = service(json!({}));
        assert_eq!(
            (bare.name.as_str(), bare.status, bare.previous_image, bare.job_iteration),
            ("app", None, None, 0)
        );
    }

    #[test]
    fn a_task_is_read_with_its_state_and_what_swarm_wants_of_it() {
        let task = |value: Value| Task::from(serde_json::from_value::<tasks::TaskAnswer>(value).unwrap());
        for (state, expected) in [
            ("new", TaskState::Starting),
            ("starting", TaskState::Starting),
            ("ready", TaskState::Ready),
            ("pending", TaskState::Pending),
            ("preparing", TaskState::Preparing),
            ("running", TaskState::Running),
            ("complete", TaskState::Complete),
            ("failed", TaskState::Failed),
            ("rejected", TaskState::Rejected),
            ("shutdown", TaskState::Over),
            ("remove", TaskState::Over),
            ("orphaned", TaskState::Over),
        ] {
            assert_eq!(task(json!({"Status": {"State": state}})).state, expected, "{state}");
        }
        for (desired, expected) in [
            ("running", Desired::Running),
            ("ready", Desired::Ready),
            ("complete", Desired::Running),
            ("shutdown", Desired::Over),
            ("remove", Desired::Over),
        ] {
            assert_eq!(task(json!({"DesiredState": desired})).desired, expected, "{desired}");
        }
        let read = task(json!({
            "ServiceID": "s", "Slot": 2, "NodeID": "n", "CreatedAt": "2026-11-20T12:00:00Z",
            "Spec": {"ContainerSpec": {"Image": "app:1"}},
            "Status": {"State": "running", "Timestamp": "2026-11-20T12:00:01Z", "Err": "x", "ContainerStatus": {"ContainerID": "c"}},
            "JobIteration": {"Index": 3},
        }));
        assert_eq!((read.service.as_str(), read.slot, read.node.as_deref()), ("s", 2, Some("n")));
        assert_eq!((read.container.as_deref(), read.error.as_deref()), (Some("c"), Some("x")));
        assert_eq!((read.image.as_str(), read.job_iteration), ("app:1", 3));
        assert!(read.created.is_some() && read.state_since > read.created);
        let bare = task(json!({"NodeID": "", "Status": {"ContainerStatus": {"ContainerID": ""}}}));
        assert_eq!((bare.node, bare.container, bare.error, bare.created), (None, None, None, None));
    }

    #[test]
    fn a_node_is_what_it_may_do_in_its_swarm() {
        for (state, manages, error, expected) in [
            ("inactive", false, "", SwarmState::Inactive),
            ("", false, "", SwarmState::Inactive),
            ("active", true, "", SwarmState::Manager),
            ("active", false, "", SwarmState::Worker),
            ("locked", false, "", SwarmState::Locked),
            ("pending", false, "", SwarmState::Pending),
            ("error", false, "no quorum", SwarmState::Failed("no quorum".into())),
            ("error", false, "", SwarmState::Failed("error".into())),
        ] {
            let answer =
                json!({"LocalNodeState": state, "ControlAvailable": manages, "Error": error, "NodeID": "n"});
            let swarm = Swarm::from(serde_json::from_value::<system::SwarmAnswer>(answer).unwrap());
            assert_eq!((swarm.state, swarm.node.as_deref()), (expected, Some("n")));
        }
        let bare = Swarm::from(serde_json::from_value::<system::SwarmAnswer>(json!({})).unwrap());
        assert_eq!((bare.state, bare.node), (SwarmState::Inactive, None));
    }

    #[test]
    fn a_container_is_read_with_its_state_and_its_mounts() {
        let container = |value: Value| {
            Container::from(serde_json::from_value::<containers::ContainerAnswer>(value).unwrap())
        };
        for (state, expected) in [
            ("created", ContainerState::Created),
            ("running", ContainerState::Running),
            ("paused", ContainerState::Paused),
            ("restarting", ContainerState::Restarting),
            ("removing", ContainerState::Removing),
            ("exited", ContainerState::Exited),
            ("dead", ContainerState::Dead),
            ("asleep", ContainerState::Other),
        ] {
            assert_eq!(container(json!({"Id": "c", "State": state})).state, expected, "{state}");
            // Asked for by these words: all that is live, but for what this program does not know.
            let listed = containers::LIVE.contains(&state);
            assert_eq!(listed, expected.is_live() && expected != ContainerState::Other, "{state}");
        }
        let mount = |kind: &str, name: &str| json!({"Type": kind, "Name": name});
        let read = container(json!({
            "Id": "c", "Names": ["/web", "/other"], "Image": "app:1", "ImageID": "sha256:a", "Created": 60,
            "Labels": {"a": "b"},
            "Mounts": [mount("image", "tools:1"), mount("volume", "data"), mount("bind", "x"), mount("volume", "")],
        }));
        assert_eq!((read.names.join(" "), read.image_id.as_str()), ("web other".into(), "sha256:a"));
        assert_eq!(
            (read.mounted_images.join(" "), read.volumes.join(" ")),
            ("tools:1".into(), "data".into())
        );
        assert_eq!((read.created.map(Time::as_second), read.labels.len()), (Some(60), 1));
        assert_eq!((read.finished, read.restart_policy), (None, None));
    }

    #[test]
    fn an_image_is_read_from_the_list_and_by_itself() {
        let listed = json!({
            "Id": "sha256:a", "RepoTags": ["app:1"], "RepoDigests": ["app@sha256:d"], "Created": 60, "Size": 7,
            "Labels": {"a": "b"}, "ParentId": "sha256:p",
        });
        let image = Image::from(serde_json::from_value::<images::ImageAnswer>(listed).unwrap());
        assert_eq!((image.tags.join(" "), image.digests.join(" ")), ("app:1".into(), "app@sha256:d".into()));
        assert_eq!((image.size, image.parent.as_deref(), image.labels.len()), (7, Some("sha256:p"), 1));
        assert_eq!((image.created.map(Time::as_second), image.last_tagged), (Some(60), None));
        let inspected = json!({
            "Id": "sha256:a", "Created": "1970-01-01T00:01:00Z", "Size": -1, "Parent": "",
            "Config": {"Labels": {"a": "b"}}, "Metadata": {"LastTagTime": "1970-01-01T00:02:00Z"},
        });
        let image = Image::from(serde_json::from_value::<images::InspectAnswer>(inspected).unwrap());
        assert_eq!(
            image.created.zip(image.last_tagged).map(|(a, b)| (a.as_second(), b.as_second())),
            Some((60, 120))
        );
        assert_eq!((image.size, image.parent, image.labels.len(), image.tags.len()), (0, None, 1, 0));
    }

    #[test]
    fn a_history_is_turned_round_and_a_node_that_is_down_or_drained_is_away() {
        let step = |size: i64, by: &str| json!({"Size": size, "CreatedBy": by});
        let steps = json!([step(3, "top"), step(-1, "middle"), step(1, "base")]);
        let history = images::oldest_first(serde_json::from_value(steps).unwrap());
        let told: Vec<_> = history.iter().map(|step| (step.created_by.as_str(), step.size)).collect();
        assert_eq!(told, [("base", 1), ("middle", 0), ("top", 3)]);
        for (availability, state, expected) in [
            ("active", "ready", false),
            ("active", "down", true),
            ("drain", "ready", true),
            ("pause", "ready", false),
            ("active", "unknown", false),
        ] {
            let node = json!({"ID": "n", "Spec": {"Availability": availability}, "Status": {"State": state}});
            let node: services::NodeAnswer = serde_json::from_value(node).unwrap();
            assert_eq!(node.is_away(), expected, "{availability} {state}");
        }
    }

    #[test]
    fn a_record_of_the_build_cache_is_as_old_as_its_last_use_else_its_creation() {
        let record = |value: Value| {
            CacheRecord::from(serde_json::from_value::<disk_usage::CacheAnswer>(value).unwrap())
        };
        let (first, last) = ("2026-11-20T12:00:00Z", "2026-11-21T12:00:00Z");
        let used = |value: Value| record(value).last_used;
        assert_eq!(used(json!({"CreatedAt": first, "LastUsedAt": last})), last.parse().ok());
        assert_eq!(used(json!({"CreatedAt": first})), first.parse().ok());
        assert_eq!(used(json!({})), None);
        for (kind, internal) in [("internal", true), ("frontend", true), ("regular", false), ("", false)] {
            assert_eq!(record(json!({"Type": kind})).internal, internal, "{kind}");
        }
        let read = record(json!({"InUse": true, "Shared": false, "Size": 7}));
        assert_eq!((read.in_use, read.shared, read.size), (true, false, 7));
        let read = record(json!({"InUse": false, "Shared": true, "Size": -7}));
        assert_eq!((read.in_use, read.shared, read.size), (false, true, 0));
    }

    /// The keys that are read, and some that are not.
    const KEYS: &str = "Id|ID|Names|Image|ImageID|State|Labels|Created|CreatedAt|UpdatedAt|RepoTags|RepoDigests|\
        Size|Config|Metadata|LastTagTime|Spec|PreviousSpec|Name|TaskTemplate|ContainerSpec|Mode|Replicated|Global|\
        Replicas|UpdateStatus|ServiceStatus|RunningTasks|DesiredTasks|CompletedTasks|JobStatus|JobIteration|Index|\
        ServiceID|Slot|NodeID|Status|Timestamp|DesiredState|Err|ContainerStatus|ContainerID|ExitCode|\
        Mounts|DockerRootDir|DriverStatus|SystemTime|Swarm|LocalNodeState|ControlAvailable|Type|InUse|Shared|LastUsedAt|X";

    /// What an engine might say there.
    fn anything() -> impl Strategy<Value = Value> {
        let words = "sha256:0|a@sha256:0|<none>:<none>|2026-11-20T00:00:00Z|0001-01-01T00:00:00Z|running|complete|\
            on-failure|\u{1b}\\[31m|";
        let word = prop_oneof![proptest::string::string_regex(words).expect("a pattern"), any::<String>()];
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            word.prop_map(Value::from),
        ];
        leaf.prop_recursive(5, 64, 8, |inner| {
            let key = proptest::string::string_regex(KEYS).expect("a pattern");
            let pairs = proptest::collection::vec((key, inner.clone()), 0..12);
            prop_oneof![
                proptest::collection::vec(inner, 0..4).prop_map(Value::from),
                pairs.prop_map(|pairs| Value::from(pairs.into_iter().collect::<Map<_, _>>())),
            ]
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(400))]
        #[test]
        fn no_answer_makes_the_reader_panic(value in anything()) {
            let _ = serde_json::from_value::<system::InfoAnswer>(value.clone()).map(|value| Swarm::from(value.swarm.unwrap_or_default()));
            let _ = serde_json::from_value::<services::ServiceAnswer>(value.clone()).map(Service::from);
            let _ = serde_json::from_value::<tasks::TaskAnswer>(value.clone()).map(Task::from);
            let _ = serde_json::from_value::<containers::ContainerAnswer>(value.clone()).map(Container::from);
            let _ = serde_json::from_value::<images::ImageAnswer>(value.clone()).map(Image::from);
            let _ = serde_json::from_value::<images::InspectAnswer>(value.clone()).map(Image::from);
            let _ = serde_json::from_value::<disk_usage::CacheAnswer>(value).map(CacheRecord::from);
        }
    }
}
