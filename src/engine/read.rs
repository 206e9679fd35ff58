//! Questions to the engine, answered in our own types; only the fields that are needed are read.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;
use serde_json::json;

use super::{Engine, EngineError, Version};
use crate::facts::{
    CacheRecord, Container, ContainerState, DiskUsage, Image, Info, Labels, Mode, References, Restart,
    Service, Status, Swarm, SwarmState, Task, TaskState, Update,
};
use crate::units::Time;

/// Which containers to list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Containers {
    /// Those that are neither exited nor dead: cheap also where thousands have ended.
    Live,
    All,
}

/// An image in use, as an event names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Use {
    pub image: String,
    pub at: Time,
}

impl Engine {
    /// `GET /info`.
    pub async fn info(&self) -> Result<Info, EngineError> {
        let info: InfoAnswer = self.get("/info").await?;
        let containerd = "io.containerd.snapshotter.v1";
        Ok(Info {
            root: info.docker_root_dir,
            containerd_store: info
                .driver_status
                .unwrap_or_default()
                .iter()
                .any(|pair| pair.len() == 2 && pair[0] == "driver-type" && pair[1] == containerd),
            version: info.server_version,
            time: info.system_time.as_deref().and_then(parse_time),
            swarm: info.swarm.unwrap_or_default().into(),
        })
    }

    /// `GET /services?status=true`.
    pub async fn services(&self) -> Result<Vec<Service>, EngineError> {
        let services: Vec<ServiceAnswer> = self.get("/services?status=true").await?;
        Ok(services.into_iter().map(Into::into).collect())
    }

    /// `GET /tasks`.
    pub async fn tasks(&self) -> Result<Vec<Task>, EngineError> {
        let tasks: Vec<TaskAnswer> = self.get("/tasks").await?;
        Ok(tasks.into_iter().map(Into::into).collect())
    }

    /// IDs of the Swarm's nodes that run no tasks: down or drained.
    pub async fn nodes_away(&self) -> Result<HashSet<String>, EngineError> {
        let nodes: Vec<NodeAnswer> = self.get("/nodes").await?;
        let away = |node: &NodeAnswer| node.spec.availability == "drain" || node.status.state == "down";
        Ok(nodes.into_iter().filter(away).map(|node| node.id).collect())
    }

    /// `GET /containers/json`.
    pub async fn containers(&self, which: Containers) -> Result<Vec<Container>, EngineError> {
        let live = json!({"status": ["created", "restarting", "running", "removing", "paused"]});
        let path = match which {
            Containers::All => "/containers/json?all=1".to_owned(),
            Containers::Live => format!("/containers/json?filters={}", encode(&live.to_string())),
        };
        let containers: Vec<ContainerAnswer> = self.get(&path).await?;
        Ok(containers.into_iter().map(Into::into).collect())
    }

    /// When a container ended; `None` where it is gone, or has not.
    pub async fn finish_time(&self, id: &str) -> Result<Option<Time>, EngineError> {
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Answer {
            state: State,
        }
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct State {
            finished_at: Option<String>,
        }
        let answer: Option<Answer> = gone_is_none(self.get(&format!("/containers/{id}/json")).await)?;
        Ok(answer.and_then(|answer| parse_time(&answer.state.finished_at?)))
    }

    /// `GET /images/json`.
    pub async fn images(&self) -> Result<Vec<Image>, EngineError> {
        let images: Vec<ImageAnswer> = self.get("/images/json").await?;
        Ok(images.into_iter().map(Into::into).collect())
    }

    /// One image by any reference; `None` where there is none.
    pub async fn image(&self, reference: &str) -> Result<Option<Image>, EngineError> {
        let image: Option<InspectAnswer> =
            gone_is_none(self.get(&format!("/images/{reference}/json")).await)?;
        Ok(image.map(Into::into))
    }

    /// BuildKit's records. Before API 1.42 they come only with all the rest of `/system/df`.
    pub async fn build_cache(&self) -> Result<Vec<CacheRecord>, EngineError> {
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Answer {
            build_cache: Option<Vec<CacheAnswer>>,
        }
        let alone = self.version >= Version { major: 1, minor: 42 };
        let path = if alone { "/system/df?type=build-cache" } else { "/system/df" };
        let answer: Answer = self.get_df(path).await?;
        Ok(answer.build_cache.unwrap_or_default().into_iter().map(Into::into).collect())
    }

    /// `/system/df` by API 1.51 at most: later ones may answer in another shape (moby: api/docs/CHANGELOG.md,
    /// 1.52), and an engine that no longer speaks 1.51 must say so, not seem empty.
    async fn get_df<T: serde::de::DeserializeOwned>(&self, path: &str) -> Result<T, EngineError> {
        let version = self.version.min(Version { major: 1, minor: 51 });
        self.get_unversioned(&format!("/v{version}{path}")).await
    }

    /// What the engine's own things take. The engine walks volumes and containers for it.
    ///
    /// On the containerd store the images stay out of it: counting them takes seconds there (11 s with
    /// 2,000 on 28.5). Before API 1.42 everything comes at once.
    pub async fn disk_usage(&self, containerd_store: bool) -> Result<DiskUsage, EngineError> {
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Answer {
            layers_size: Option<i64>,
            volumes: Option<Vec<Volume>>,
            containers: Option<Vec<Written>>,
            build_cache: Option<Vec<CacheAnswer>>,
        }
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Volume {
            name: String,
            usage_data: Option<Used>,
        }
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Used {
            size: i64,
        }
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Written {
            id: String,
            names: Option<Vec<String>>,
            size_rw: Option<i64>,
        }
        let parts = "/system/df?type=volume&type=container&type=build-cache";
        let path = match self.version >= (Version { major: 1, minor: 42 }) {
            true if containerd_store => parts.to_owned(),
            true => format!("{parts}&type=image"),
            false => "/system/df".to_owned(),
        };
        let answer: Answer = self.get_df(&path).await?;
        let bytes = |size: Option<i64>| size.and_then(|size| u64::try_from(size).ok()).unwrap_or(0);
        let named = |written: Written| {
            let name = written.names.unwrap_or_default().into_iter().next().unwrap_or(written.id);
            (name.trim_start_matches('/').to_owned(), bytes(written.size_rw))
        };
        let volume = |volume: Volume| (volume.name, bytes(volume.usage_data.map(|data| data.size)));
        let cache = answer.build_cache.unwrap_or_default().into_iter().map(CacheRecord::from);
        // What an image shares is counted with its layers.
        let private =
            cache.filter(|cache| !cache.shared).fold(0_u64, |sum, record| sum.saturating_add(record.size));
        Ok(DiskUsage {
            layers: answer
                .layers_size
                .and_then(|bytes| u64::try_from(bytes).ok())
                .filter(|_| !containerd_store),
            volumes: answer.volumes.unwrap_or_default().into_iter().map(volume).collect(),
            containers: answer.containers.unwrap_or_default().into_iter().map(named).collect(),
            build_cache: private,
        })
    }

    /// The images of the container events since then, as far as the engine remembers them: it
    /// replays at most its last 256 events of any kind (observed on 20.10 to 29).
    pub async fn uses(&self, since: Time, until: Time) -> Result<Vec<Use>, EngineError> {
        #[derive(Deserialize)]
        struct Event {
            #[serde(rename = "Actor")]
            actor: Actor,
            #[serde(rename = "timeNano")]
            time_nano: i64,
        }
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Actor {
            attributes: Option<HashMap<String, String>>,
        }
        let filters = json!({"type": ["container"]}).to_string();
        let stamp = |at: Time| format!("{}.{:09}", at.as_second(), at.subsec_nanosecond().max(0));
        let (since, until) = (stamp(since), stamp(until));
        let path = format!("/events?since={since}&until={until}&filters={}", encode(&filters));
        let events: Vec<Event> = self.get_lines(&path).await?;
        let uses = events.into_iter().filter_map(|event| {
            let image = event.actor.attributes?.remove("image")?;
            Some(Use { image, at: Time::from_nanosecond(event.time_nano.into()).ok()? })
        });
        Ok(uses.collect())
    }
}

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
fn parse_time(text: &str) -> Option<Time> {
    text.parse().ok().filter(|at: &Time| at.as_second() > -62_135_596_800)
}

fn from_seconds(seconds: Option<i64>) -> Option<Time> {
    seconds.filter(|&seconds| seconds != 0).and_then(|seconds| Time::from_second(seconds).ok())
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct InfoAnswer {
    docker_root_dir: PathBuf,
    #[serde(default)]
    server_version: String,
    driver_status: Option<Vec<Vec<String>>>,
    system_time: Option<String>,
    swarm: Option<SwarmAnswer>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase", default)]
struct SwarmAnswer {
    #[serde(rename = "NodeID")]
    node_id: String,
    local_node_state: String,
    control_available: bool,
    error: String,
}

impl From<SwarmAnswer> for Swarm {
    fn from(swarm: SwarmAnswer) -> Self {
        let state = match swarm.local_node_state.as_str() {
            "inactive" | "" => SwarmState::Inactive,
            "locked" => SwarmState::Locked,
            "pending" => SwarmState::Pending,
            "active" if swarm.control_available => SwarmState::Manager,
            "active" => SwarmState::Worker,
            other => SwarmState::Failed(if swarm.error.is_empty() { other.to_owned() } else { swarm.error }),
        };
        Self { state, node: Some(swarm.node_id).filter(|id| !id.is_empty()) }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ServiceAnswer {
    #[serde(rename = "ID")]
    id: String,
    created_at: Option<String>,
    updated_at: Option<String>,
    spec: SpecAnswer,
    previous_spec: Option<SpecAnswer>,
    update_status: Option<UpdateAnswer>,
    service_status: Option<StatusAnswer>,
    job_status: Option<JobAnswer>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct SpecAnswer {
    #[serde(default)]
    name: String,
    labels: Option<Labels>,
    #[serde(default)]
    task_template: TemplateAnswer,
    #[serde(default)]
    mode: ModeAnswer,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase", default)]
struct TemplateAnswer {
    container_spec: Option<ContainerSpecAnswer>,
    restart_policy: Option<RestartAnswer>,
}

impl TemplateAnswer {
    /// Empty for a service that runs no container (a plugin, an attachment).
    fn image(self) -> String {
        self.container_spec.map(|spec| spec.image).unwrap_or_default()
    }
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase", default)]
struct ContainerSpecAnswer {
    image: String,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase", default)]
struct RestartAnswer {
    condition: String,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase", default)]
struct ModeAnswer {
    replicated: Option<ReplicatedAnswer>,
    global: Option<serde::de::IgnoredAny>,
    replicated_job: Option<ReplicatedJobAnswer>,
    global_job: Option<serde::de::IgnoredAny>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase", default)]
struct ReplicatedAnswer {
    replicas: Option<u64>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase", default)]
struct ReplicatedJobAnswer {
    max_concurrent: Option<u64>,
    total_completions: Option<u64>,
}

impl From<ModeAnswer> for Mode {
    fn from(mode: ModeAnswer) -> Self {
        match mode {
            ModeAnswer { global: Some(_), .. } => Self::Global,
            ModeAnswer { global_job: Some(_), .. } => Self::GlobalJob,
            // Defaults as in the API's description: 1 at a time, and as many in all as at a time.
            ModeAnswer { replicated_job: Some(job), .. } => {
                Self::ReplicatedJob { completions: job.total_completions.or(job.max_concurrent).unwrap_or(1) }
            }
            ModeAnswer { replicated, .. } => {
                Self::Replicated { replicas: replicated.and_then(|replica| replica.replicas).unwrap_or(1) }
            }
        }
    }
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase", default)]
struct UpdateAnswer {
    state: String,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase", default)]
struct StatusAnswer {
    running_tasks: u64,
    desired_tasks: u64,
    completed_tasks: u64,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase", default)]
struct JobAnswer {
    job_iteration: IndexAnswer,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase", default)]
struct IndexAnswer {
    index: u64,
}

impl From<ServiceAnswer> for Service {
    fn from(service: ServiceAnswer) -> Self {
        let restart = service.spec.task_template.restart_policy.as_ref();
        let restart = match restart.map_or("", |policy| policy.condition.as_str()) {
            "none" => Restart::Never,
            "on-failure" => Restart::OnFailure,
            _ => Restart::Always,
        };
        Self {
            id: service.id,
            created: service.created_at.as_deref().and_then(parse_time),
            updated: service.updated_at.as_deref().and_then(parse_time),
            previous_image: service.previous_spec.map(|spec| spec.task_template.image()),
            status: service.service_status.map(|status| Status {
                running: status.running_tasks,
                desired: status.desired_tasks,
                completed: status.completed_tasks,
            }),
            update: match service.update_status.unwrap_or_default().state.as_str() {
                "updating" => Update::Updating,
                "rollback_started" => Update::RollingBack,
                _ => Update::Settled,
            },
            restart,
            job_iteration: service.job_status.unwrap_or_default().job_iteration.index,
            name: service.spec.name,
            labels: service.spec.labels.unwrap_or_default(),
            mode: service.spec.mode.into(),
            image: service.spec.task_template.image(),
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct NodeAnswer {
    #[serde(rename = "ID")]
    id: String,
    #[serde(default)]
    spec: NodeSpecAnswer,
    #[serde(default)]
    status: NodeStatusAnswer,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase", default)]
struct NodeSpecAnswer {
    availability: String,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase", default)]
struct NodeStatusAnswer {
    state: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct TaskAnswer {
    #[serde(rename = "ServiceID", default)]
    service_id: String,
    #[serde(default)]
    slot: u64,
    #[serde(rename = "NodeID")]
    node_id: Option<String>,
    created_at: Option<String>,
    #[serde(default)]
    spec: TemplateAnswer,
    #[serde(default)]
    status: TaskStatusAnswer,
    #[serde(default)]
    desired_state: String,
    job_iteration: Option<IndexAnswer>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase", default)]
struct TaskStatusAnswer {
    state: String,
    err: String,
    container_status: Option<ContainerStatusAnswer>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase", default)]
struct ContainerStatusAnswer {
    #[serde(rename = "ContainerID")]
    container_id: String,
}

impl From<TaskAnswer> for Task {
    fn from(task: TaskAnswer) -> Self {
        let container = task.status.container_status.map(|status| status.container_id);
        Self {
            service: task.service_id,
            slot: task.slot,
            node: task.node_id.filter(|id| !id.is_empty()),
            created: task.created_at.as_deref().and_then(parse_time),
            state: match task.status.state.as_str() {
                "pending" => TaskState::Pending,
                "preparing" => TaskState::Preparing,
                "running" => TaskState::Running,
                "complete" => TaskState::Complete,
                "failed" => TaskState::Failed,
                "rejected" => TaskState::Rejected,
                "shutdown" | "remove" | "orphaned" => TaskState::Over,
                _ => TaskState::Starting,
            },
            wanted: !matches!(task.desired_state.as_str(), "shutdown" | "remove"),
            error: Some(task.status.err).filter(|error| !error.is_empty()),
            container: container.filter(|id| !id.is_empty()),
            image: task.spec.image(),
            job_iteration: task.job_iteration.unwrap_or_default().index,
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ContainerAnswer {
    id: String,
    names: Option<Vec<String>>,
    #[serde(default)]
    image: String,
    #[serde(rename = "ImageID", default)]
    image_id: String,
    #[serde(default)]
    state: String,
    labels: Option<Labels>,
    created: Option<i64>,
}

impl From<ContainerAnswer> for Container {
    fn from(container: ContainerAnswer) -> Self {
        let names = container.names.unwrap_or_default();
        Self {
            id: container.id,
            names: names.iter().map(|name| name.trim_start_matches('/').to_owned()).collect(),
            image: container.image,
            image_id: container.image_id,
            state: match container.state.as_str() {
                "created" => ContainerState::Created,
                "running" => ContainerState::Running,
                "paused" => ContainerState::Paused,
                "restarting" => ContainerState::Restarting,
                "removing" => ContainerState::Removing,
                "exited" => ContainerState::Exited,
                "dead" => ContainerState::Dead,
                _ => ContainerState::Other,
            },
            labels: container.labels.unwrap_or_default(),
            created: from_seconds(container.created),
            finished: None,
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ImageAnswer {
    id: String,
    repo_tags: Option<Vec<String>>,
    repo_digests: Option<Vec<String>>,
    created: Option<i64>,
    #[serde(default)]
    size: i64,
    labels: Option<Labels>,
}

impl From<ImageAnswer> for Image {
    fn from(image: ImageAnswer) -> Self {
        let References { tags, digests, eviction_tag } =
            References::new(image.repo_tags.unwrap_or_default(), image.repo_digests.unwrap_or_default());
        Self {
            id: image.id,
            tags,
            digests,
            eviction_tag,
            created: from_seconds(image.created),
            last_tagged: None,
            parent: None,
            untagged_parents: 0,
            size: u64::try_from(image.size).unwrap_or(0),
            labels: image.labels.unwrap_or_default(),
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct InspectAnswer {
    id: String,
    repo_tags: Option<Vec<String>>,
    repo_digests: Option<Vec<String>>,
    created: Option<String>,
    #[serde(default)]
    size: i64,
    parent: Option<String>,
    config: Option<ConfigAnswer>,
    metadata: Option<MetadataAnswer>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase", default)]
struct ConfigAnswer {
    labels: Option<Labels>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase", default)]
struct MetadataAnswer {
    last_tag_time: Option<String>,
}

impl From<InspectAnswer> for Image {
    fn from(image: InspectAnswer) -> Self {
        let References { tags, digests, eviction_tag } =
            References::new(image.repo_tags.unwrap_or_default(), image.repo_digests.unwrap_or_default());
        Self {
            id: image.id,
            tags,
            digests,
            eviction_tag,
            created: image.created.as_deref().and_then(parse_time),
            last_tagged: image.metadata.unwrap_or_default().last_tag_time.as_deref().and_then(parse_time),
            parent: image.parent.filter(|id| !id.is_empty()),
            untagged_parents: 0,
            size: u64::try_from(image.size).unwrap_or(0),
            labels: image.config.unwrap_or_default().labels.unwrap_or_default(),
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct CacheAnswer {
    #[serde(rename = "Type", default)]
    kind: String,
    #[serde(default)]
    in_use: bool,
    #[serde(default)]
    shared: bool,
    #[serde(default)]
    size: i64,
    created_at: Option<String>,
    last_used_at: Option<String>,
}

impl From<CacheAnswer> for CacheRecord {
    fn from(record: CacheAnswer) -> Self {
        Self {
            size: u64::try_from(record.size).unwrap_or(0),
            in_use: record.in_use,
            shared: record.shared,
            internal: matches!(record.kind.as_str(), "internal" | "frontend"),
            last_used: record.last_used_at.or(record.created_at).as_deref().and_then(parse_time),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Map, Value};

    use super::*;

    /// The keys that are read, and some that are not.
    const KEYS: &str = "Id|ID|Names|Image|ImageID|State|Labels|Created|CreatedAt|UpdatedAt|RepoTags|RepoDigests|\
        Size|Config|Metadata|LastTagTime|Spec|PreviousSpec|Name|TaskTemplate|ContainerSpec|Mode|Replicated|Global|\
        Replicas|UpdateStatus|ServiceStatus|RunningTasks|DesiredTasks|CompletedTasks|JobStatus|JobIteration|Index|\
        RestartPolicy|Condition|ServiceID|Slot|NodeID|Status|DesiredState|Err|ContainerStatus|ContainerID|ExitCode|\
        DockerRootDir|DriverStatus|SystemTime|Swarm|LocalNodeState|ControlAvailable|Type|InUse|Shared|LastUsedAt|X";

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
            let _ = serde_json::from_value::<InfoAnswer>(value.clone()).map(|value| Swarm::from(value.swarm.unwrap_or_default()));
            let _ = serde_json::from_value::<ServiceAnswer>(value.clone()).map(Service::from);
            let _ = serde_json::from_value::<TaskAnswer>(value.clone()).map(Task::from);
            let _ = serde_json::from_value::<ContainerAnswer>(value.clone()).map(Container::from);
            let _ = serde_json::from_value::<ImageAnswer>(value.clone()).map(Image::from);
            let _ = serde_json::from_value::<InspectAnswer>(value.clone()).map(Image::from);
            let _ = serde_json::from_value::<CacheAnswer>(value).map(CacheRecord::from);
        }
    }
}
