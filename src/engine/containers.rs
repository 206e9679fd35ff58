//! Lists and inspects containers.

use serde::Deserialize;
use serde_json::json;

use super::Engine;
use super::wire::{encode, from_seconds, gone_is_none, parse_time};
use crate::facts::{Container, ContainerState, Inspected, Labels};
use crate::world::{ContainerScope, EngineError};

/// The states that [`ContainerState::is_live`] stands for, as the engine's filter names them.
pub(super) const LIVE: [&str; 5] = ["created", "restarting", "running", "removing", "paused"];

impl Engine {
    /// `GET /containers/json`.
    pub async fn containers(&self, which: ContainerScope) -> Result<Vec<Container>, EngineError> {
        let live = json!({"status": LIVE});
        let path = match which {
            ContainerScope::All => "/containers/json?all=1".to_owned(),
            ContainerScope::Live => format!("/containers/json?filters={}", encode(&live.to_string())),
        };
        let containers: Vec<ContainerAnswer> = self.get_list(self.version, &path).await?;
        Ok(containers.into_iter().map(Into::into).collect())
    }

    /// `GET /containers/{id}/json`; `None` where it is gone.
    pub async fn inspect_container(&self, id: &str) -> Result<Option<Inspected>, EngineError> {
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Response {
            state: State,
            host_config: Option<HostConfig>,
        }
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct State {
            finished_at: Option<String>,
        }
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct HostConfig {
            restart_policy: Option<RestartPolicy>,
        }
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct RestartPolicy {
            name: String,
        }
        let answer: Option<Response> = gone_is_none(self.get(&format!("/containers/{id}/json")).await)?;
        Ok(answer.map(|answer| Inspected {
            finished: answer.state.finished_at.as_deref().and_then(parse_time),
            restart_policy: answer.host_config.and_then(|config| Some(config.restart_policy?.name)),
        }))
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
    mounts: Option<Vec<MountAnswer>>,
    #[serde(default)]
    command: String,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct MountAnswer {
    #[serde(rename = "Type")]
    kind: String,
    /// The volume's name, or the image's reference as it was given (observed on 28.5).
    name: String,
    source: String,
}

impl MountAnswer {
    /// Whether the engine's usual socket can be reached by it.
    pub(super) fn holds_socket(&self) -> bool {
        let sources = ["/var/run/docker.sock", "/run/docker.sock", "/var/run", "/run", "/"];
        self.kind == "bind" && sources.contains(&self.source.as_str())
    }
}

impl From<ContainerAnswer> for Container {
    fn from(container: ContainerAnswer) -> Self {
        let names = container.names.unwrap_or_default();
        let mounts = container.mounts.unwrap_or_default();
        let mounted = |kind: &str| {
            let of_kind = mounts.iter().filter(|mount| mount.kind == kind && !mount.name.is_empty());
            of_kind.map(|mount| mount.name.clone()).collect()
        };
        Self {
            id: container.id,
            names: names.iter().map(|name| name.trim_start_matches('/').to_owned()).collect(),
            image: container.image,
            image_id: container.image_id,
            mounted_images: mounted("image"),
            volumes: mounted("volume"),
            commands_engine: mounts.iter().any(MountAnswer::holds_socket).then_some(container.command),
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
            restart_policy: None,
        }
    }
}
