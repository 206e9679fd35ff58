//! Containers, and the labels that say whose they are.

use std::collections::HashMap;

use crate::units::Time;

/// The labels that Docker and Compose give to what they make.
pub mod label {
    /// The stack of a service and its containers (docker/cli: `convert.LabelNamespace`).
    pub const STACK: &str = "com.docker.stack.namespace";
    /// The Compose project of a container (docker/compose: `api.ProjectLabel`).
    pub const COMPOSE_PROJECT: &str = "com.docker.compose.project";
    /// The service of a task's container, by ID (moby: `daemon/cluster/executor/container`).
    pub const SERVICE_ID: &str = "com.docker.swarm.service.id";
    pub const SERVICE_NAME: &str = "com.docker.swarm.service.name";
    /// The services that a proof of layer reuse makes (`verify --redeploy`); the value is their node's ID.
    pub const PROOF: &str = "ci-docker-prune.verify";
    /// What Compose gives to containers alone. Its builds bake project, service and version into images, which
    /// label each of their containers (docker/compose: `prepareLabels`, `getImageBuildLabels`).
    const COMPOSE_CONTAINER: [&str; 2] =
        ["com.docker.compose.config-hash", "com.docker.compose.container-number"];

    /// The stack of a container, whatever its image's own labels say.
    pub fn stack(labels: &super::Labels) -> Option<&str> {
        labels.get(STACK).filter(|_| labels.contains_key(SERVICE_ID)).map(String::as_str)
    }

    /// The Compose project of a container, whatever its image's own labels say.
    pub fn compose_project(labels: &super::Labels) -> Option<&str> {
        let by_compose = COMPOSE_CONTAINER.iter().any(|key| labels.contains_key(*key));
        labels.get(COMPOSE_PROJECT).filter(|_| by_compose).map(String::as_str)
    }
}

pub type Labels = HashMap<String, String>;

/// A container (`GET /containers/json`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Container {
    pub id: String,
    pub names: Vec<String>,
    pub image: String,
    /// The ID of that image; empty where the engine no longer knows it.
    pub image_id: String,
    /// The images that it mounts (`type=image`), by the references that were given.
    pub mounted_images: Vec<String>,
    pub volumes: Vec<String>,
    /// Its command line, where it mounts the engine's socket, or a folder that holds it.
    pub commands_engine: Option<String>,
    pub state: ContainerState,
    pub labels: Labels,
    /// When it was created, not when it started; to the second.
    pub created: Option<Time>,
    /// When it ended, where that was asked (`GET /containers/{id}/json`).
    pub finished: Option<Time>,
    /// Its restart policy, such as `always`, where that was asked.
    pub restart_policy: Option<String>,
}

impl Container {
    /// By what the images that it uses are known: the ID of the one that it runs, and the references of those that
    /// it mounts. [`Image::is_named`] tells which images these are.
    pub fn images(&self) -> impl Iterator<Item = &str> {
        std::iter::once(self.image_id.as_str()).chain(self.mounted_images.iter().map(String::as_str))
    }
}

/// What only inspecting a container tells (`GET /containers/{id}/json`).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Inspected {
    /// When it ended; `None` where it has not.
    pub finished: Option<Time>,
    /// Its restart policy, such as `always`.
    pub restart_policy: Option<String>,
}

/// The state of a container, as the engine's list names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ContainerState {
    Created,
    Running,
    Paused,
    Restarting,
    Removing,
    Exited,
    Dead,
    /// A state that this program does not know; never touched.
    Other,
}

impl ContainerState {
    /// Neither exited nor dead.
    pub fn is_live(self) -> bool {
        !matches!(self, Self::Exited | Self::Dead)
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Restarting => "restarting",
            Self::Removing => "removing",
            Self::Exited => "exited",
            Self::Dead => "dead",
            Self::Other => "in an unknown state",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_container_is_of_a_project_or_stack_only_by_labels_that_no_image_has() {
        let labels = crate::testing::labels;
        let (project, stack) = ((label::COMPOSE_PROJECT, "shop"), (label::STACK, "shop"));
        let of_project = |also| label::compose_project(&labels(&[project, (also, "1")])).is_some();
        assert!(of_project("com.docker.compose.config-hash"));
        assert!(of_project("com.docker.compose.container-number"));
        assert!(!of_project("com.docker.compose.service") && !of_project(label::SERVICE_ID));
        let of_stack = |also| label::stack(&labels(&[stack, (also, "1")])).is_some();
        assert!(of_stack(label::SERVICE_ID) && !of_stack("com.docker.compose.config-hash"));
        assert_eq!(label::compose_project(&labels(&[("com.docker.compose.config-hash", "1")])), None);
    }
}
