//! The engine itself: `/info`.

use std::path::PathBuf;

use serde::Deserialize;

use super::Engine;
use super::wire::parse_time;
use crate::facts::{Info, Swarm, SwarmState};
use crate::world::EngineError;

impl Engine {
    /// `GET /info`.
    pub async fn info(&self) -> Result<Info, EngineError> {
        let info: InfoAnswer = self.get("/info").await?;
        let containerd = "io.containerd.snapshotter.v1";
        Ok(Info {
            root: info.docker_root_dir,
            id: info.id,
            host_name: info.name,
            memory: info.mem_total,
            containerd: info
                .containerd
                .map(|containerd| containerd.address)
                .filter(|path| path.is_absolute()),
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
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct InfoAnswer {
    docker_root_dir: PathBuf,
    #[serde(default, rename = "ID")]
    id: String,
    #[serde(default)]
    name: String,
    #[serde(default)]
    mem_total: u64,
    containerd: Option<ContainerdAnswer>,
    #[serde(default)]
    server_version: String,
    driver_status: Option<Vec<Vec<String>>>,
    system_time: Option<String>,
    pub(super) swarm: Option<SwarmAnswer>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ContainerdAnswer {
    #[serde(default)]
    address: PathBuf,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct SwarmAnswer {
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
