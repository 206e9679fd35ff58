//! Swarm's services and tasks.

use super::Labels;
use crate::units::Time;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Swarm {
    pub state: SwarmState,
    pub node: Option<String>,
}

/// This node's part in a Swarm (`Swarm.LocalNodeState` and `ControlAvailable` of `GET /info`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SwarmState {
    Inactive,
    Manager,
    /// It runs tasks; only a manager knows their services.
    Worker,
    /// A manager that waits for its unlock key (`docker swarm unlock`).
    Locked,
    Pending,
    Failed(String),
}

impl SwarmState {
    /// Why a node in this state cannot see the services, and what to do; `None` if it can, or is in no Swarm.
    pub fn obstacle(&self) -> Option<String> {
        let text = match self {
            Self::Inactive | Self::Manager => return None,
            Self::Worker => {
                "this node is a Swarm worker and cannot see the services; name a manager with --swarm-host"
            }
            Self::Locked => "this Swarm manager is locked; unlock it with docker swarm unlock",
            Self::Pending => "this node is still joining its Swarm; try again in a minute",
            Self::Failed(error) => {
                let hint = "see docker info and journalctl -u docker";
                return Some(format!("this node's Swarm is in trouble: {error}; {hint}"));
            }
        };
        Some(text.into())
    }
}

/// A Swarm service (`GET /services?status=true`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    pub id: String,
    pub name: String,
    pub labels: Labels,
    /// When it was created; `None` where the engine shows none.
    pub created: Option<Time>,
    pub updated: Option<Time>,
    pub image: String,
    /// The image that the previous spec names: a rollback would start it.
    pub previous_image: Option<String>,
    /// Its command line and environment, where it mounts the engine's socket, or a folder that holds it.
    pub commands_engine: Option<String>,
    /// The number of tasks, and whether they run once or for ever.
    pub mode: Mode,
    /// Absent where the engine does not count tasks.
    pub status: Option<TaskCounts>,
    pub update: Update,
    /// Which execution of a job its tasks must belong to.
    pub job_iteration: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    Replicated {
        replicas: u64,
    },
    Global,
    ReplicatedJob {
        completions: u64,
    },
    /// A task on each eligible node that runs once and ends.
    GlobalJob,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TaskCounts {
    pub running: u64,
    pub desired: u64,
    pub completed: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Update {
    Settled,
    Updating,
    RollingBack,
}

/// A Swarm task (`GET /tasks`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Task {
    pub service: String,
    /// Which replica this is; tasks of global services have a node instead.
    pub slot: u64,
    pub node: Option<String>,
    /// When Swarm made it; `None` where the engine shows none.
    pub created: Option<Time>,
    pub state: TaskState,
    /// When it came into this state; `None` where the engine shows none.
    pub state_since: Option<Time>,
    pub desired: Desired,
    pub error: Option<String>,
    pub container: Option<String>,
    pub image: String,
    /// The execution of a job that it belongs to; 0 for other services.
    pub job_iteration: u64,
}

/// The state that Swarm wants of a task. In the step that ends a task Swarm also makes its successor, if there is to be
/// one (swarmkit: `manager/orchestrator/restart`), so that this tells whether it does anything more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Desired {
    /// It waits until its service's restart delay is over.
    Ready,
    /// `running`, or `complete` of a job.
    Running,
    /// `shutdown` or `remove`.
    Over,
}

/// The state of a task, reduced to what the gates need.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TaskState {
    /// `new`, `allocated`, `assigned`, `accepted` or `starting`.
    Starting,
    /// Its image is there, and it waits until Swarm wants it to run.
    Ready,
    Pending,
    /// The node prepares it: this is where an image is pulled.
    Preparing,
    Running,
    Complete,
    Failed,
    /// The node could not start it, for example because the image was missing.
    Rejected,
    Over,
}

impl TaskState {
    pub fn is_live(self) -> bool {
        matches!(self, Self::Starting | Self::Ready | Self::Pending | Self::Preparing | Self::Running)
    }
}
