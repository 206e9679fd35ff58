//! What the answers of all resources have in common: encoding, times, 404.

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use super::EngineError;
use crate::units::Time;

pub(super) fn gone_is_none<T>(answer: Result<T, EngineError>) -> Result<Option<T>, EngineError> {
    match answer {
        Ok(answer) => Ok(Some(answer)),
        Err(error) if error.status().is_some_and(|(status, _)| status == 404) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Percent-encode for a query.
pub(super) fn encode(text: &str) -> String {
    utf8_percent_encode(text, NON_ALPHANUMERIC).to_string()
}

/// The engine writes Go's zero time, 0001-01-01, for "never".
pub(super) fn parse_time(text: &str) -> Option<Time> {
    text.parse().ok().filter(|at: &Time| at.as_second() > -62_135_596_800)
}

pub(super) fn from_seconds(seconds: Option<i64>) -> Option<Time> {
    seconds.filter(|&seconds| seconds != 0).and_then(|seconds| Time::from_second(seconds).ok())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Map, Value};

    use crate::engine::{containers, disk_usage, images, services, system, tasks};
    use crate::facts::{CacheRecord, Container, Image, Service, Swarm, Task};

    /// The keys that are read, and some that are not.
    const KEYS: &str = "Id|ID|Names|Image|ImageID|State|Labels|Created|CreatedAt|UpdatedAt|RepoTags|RepoDigests|\
        Size|Config|Metadata|LastTagTime|Spec|PreviousSpec|Name|TaskTemplate|ContainerSpec|Mode|Replicated|Global|\
        Replicas|UpdateStatus|ServiceStatus|RunningTasks|DesiredTasks|CompletedTasks|JobStatus|JobIteration|Index|\
        RestartPolicy|Condition|ServiceID|Slot|NodeID|Status|DesiredState|Err|ContainerStatus|ContainerID|ExitCode|\
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
