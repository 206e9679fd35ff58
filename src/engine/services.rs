//! Lists Swarm's services, and the nodes that are away.

use std::collections::HashSet;

use serde::Deserialize;

use super::Engine;
use super::containers::MountAnswer;
use super::wire::parse_time;
use crate::facts::{Labels, Mode, Service, TaskCounts, Update};
use crate::world::EngineError;

impl Engine {
    /// `GET /services?status=true`.
    pub async fn services(&self) -> Result<Vec<Service>, EngineError> {
        let services: Vec<ServiceAnswer> = self.get("/services?status=true").await?;
        Ok(services.into_iter().map(Into::into).collect())
    }

    /// IDs of the Swarm's nodes that run no tasks: down or drained.
    pub async fn nodes_away(&self) -> Result<HashSet<String>, EngineError> {
        let nodes: Vec<NodeAnswer> = self.get("/nodes").await?;
        Ok(nodes.into_iter().filter(NodeAnswer::is_away).map(|node| node.id).collect())
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct ServiceAnswer {
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
pub(super) struct TemplateAnswer {
    container_spec: Option<ContainerSpecAnswer>,
}

impl TemplateAnswer {
    fn commands_engine(&self) -> Option<String> {
        self.container_spec.as_ref().and_then(ContainerSpecAnswer::commands_engine)
    }

    /// Empty for a service that runs no container (a plugin, an attachment).
    pub(super) fn image(self) -> String {
        self.container_spec.map(|spec| spec.image).unwrap_or_default()
    }
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase", default)]
struct ContainerSpecAnswer {
    image: String,
    command: Option<Vec<String>>,
    args: Option<Vec<String>>,
    env: Option<Vec<String>>,
    mounts: Option<Vec<MountAnswer>>,
}

impl ContainerSpecAnswer {
    fn commands_engine(&self) -> Option<String> {
        if !self.mounts.iter().flatten().any(MountAnswer::holds_socket) {
            return None;
        }
        let words = self.command.iter().chain(&self.args).chain(&self.env).flatten();
        Some(words.cloned().collect::<Vec<_>>().join(" "))
    }
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
            // Defaults as in the API's description: the parallelism is 1, and the total is the parallelism.
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
pub(super) struct IndexAnswer {
    pub(super) index: u64,
}

impl From<ServiceAnswer> for Service {
    fn from(service: ServiceAnswer) -> Self {
        Self {
            id: service.id,
            created: service.created_at.as_deref().and_then(parse_time),
            updated: service.updated_at.as_deref().and_then(parse_time),
            previous_image: service.previous_spec.map(|spec| spec.task_template.image()),
            status: service.service_status.map(|status| TaskCounts {
                running: status.running_tasks,
                desired: status.desired_tasks,
                completed: status.completed_tasks,
            }),
            update: match service.update_status.unwrap_or_default().state.as_str() {
                "updating" => Update::Updating,
                "rollback_started" => Update::RollingBack,
                _ => Update::Settled,
            },
            job_iteration: service.job_status.unwrap_or_default().job_iteration.index,
            name: service.spec.name,
            labels: service.spec.labels.unwrap_or_default(),
            mode: service.spec.mode.into(),
            commands_engine: service.spec.task_template.commands_engine(),
            image: service.spec.task_template.image(),
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct NodeAnswer {
    #[serde(rename = "ID")]
    id: String,
    #[serde(default)]
    spec: NodeSpecAnswer,
    #[serde(default)]
    status: NodeStatusAnswer,
}

impl NodeAnswer {
    pub(super) fn is_away(&self) -> bool {
        self.spec.availability == "drain" || self.status.state == "down"
    }
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
