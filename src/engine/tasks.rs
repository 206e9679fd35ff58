//! Swarm's tasks.

use serde::Deserialize;

use super::Engine;
use super::services::{IndexAnswer, TemplateAnswer};
use super::wire::parse_time;
use crate::facts::{Desired, Task, TaskState};
use crate::world::EngineError;

impl Engine {
    /// `GET /tasks`.
    pub async fn tasks(&self) -> Result<Vec<Task>, EngineError> {
        let tasks: Vec<TaskAnswer> = self.get("/tasks").await?;
        Ok(tasks.into_iter().map(Into::into).collect())
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct TaskAnswer {
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
    timestamp: Option<String>,
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
                "ready" => TaskState::Ready,
                _ => TaskState::Starting,
            },
            state_since: task.status.timestamp.as_deref().and_then(parse_time),
            desired: match task.desired_state.as_str() {
                "shutdown" | "remove" => Desired::Over,
                "ready" => Desired::Ready,
                _ => Desired::Running,
            },
            error: Some(task.status.err).filter(|error| !error.is_empty()),
            container: container.filter(|id| !id.is_empty()),
            image: task.spec.image(),
            job_iteration: task.job_iteration.unwrap_or_default().index,
        }
    }
}
