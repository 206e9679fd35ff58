//! Containers.

use serde::Deserialize;
use serde_json::json;

use super::wire::{encode, from_seconds, gone_is_none, parse_time};
use super::{Engine, EngineError};
use crate::facts::{Container, ContainerState, Labels};
use crate::units::Time;

/// Which containers to list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ContainerScope {
    /// Those that are neither exited nor dead: cheap also where thousands have ended.
    Live,
    /// Ended ones too.
    All,
}

impl Engine {
    /// `GET /containers/json`.
    pub async fn containers(&self, which: ContainerScope) -> Result<Vec<Container>, EngineError> {
        let live = json!({"status": ["created", "restarting", "running", "removing", "paused"]});
        let path = match which {
            ContainerScope::All => "/containers/json?all=1".to_owned(),
            ContainerScope::Live => format!("/containers/json?filters={}", encode(&live.to_string())),
        };
        let containers: Vec<ContainerAnswer> = self.get(&path).await?;
        Ok(containers.into_iter().map(Into::into).collect())
    }

    /// Is there such a container?
    pub async fn is_container(&self, id: &str) -> Result<bool, EngineError> {
        let found: Option<serde::de::IgnoredAny> =
            gone_is_none(self.get(&format!("/containers/{id}/json")).await)?;
        Ok(found.is_some())
    }

    /// When a container ended; `None` where it is gone, or has not.
    pub async fn finish_time(&self, id: &str) -> Result<Option<Time>, EngineError> {
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Response {
            state: State,
        }
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct State {
            finished_at: Option<String>,
        }
        let answer: Option<Response> = gone_is_none(self.get(&format!("/containers/{id}/json")).await)?;
        Ok(answer.and_then(|answer| parse_time(&answer.state.finished_at?)))
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct ContainerAnswer {
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
