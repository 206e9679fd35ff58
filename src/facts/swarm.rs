//! Swarm's services and tasks.

use super::Labels;
use crate::units::Time;

/// What this node is to a Swarm.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Swarm {
    /// Its part, or why it has none.
    pub state: SwarmState,
    /// The node's ID in its Swarm.
    pub node: Option<String>,
}

/// This node's part in a Swarm (`Swarm.LocalNodeState` and `ControlAvailable` of `GET /info`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SwarmState {
    /// It is in no Swarm.
    Inactive,
    /// It can be asked about services and tasks.
    Manager,
    /// It runs tasks, and only a manager knows of which services.
    Worker,
    /// A manager that waits for its unlock key (`docker swarm unlock`).
    Locked,
    /// It is joining.
    Pending,
    /// With the engine's own words.
    Failed(String),
}

/// A Swarm service (`GET /services?status=true`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    /// Swarm's ID of it.
    pub id: String,
    /// Unique in its Swarm.
    pub name: String,
    /// Of the service itself, not of its containers.
    pub labels: Labels,
    /// When it was created; `None` where the engine shows none.
    pub created: Option<Time>,
    /// When its spec last changed.
    pub updated: Option<Time>,
    /// The image that the spec names.
    pub image: String,
    /// The image that the previous spec names: a rollback would start it.
    pub previous_image: Option<String>,
    /// How many tasks it wants, and whether they end.
    pub mode: Mode,
    /// Absent where the engine does not count tasks.
    pub status: Option<TaskCounts>,
    /// Where the last change of its spec stands.
    pub update: Update,
    /// Its restart policy.
    pub restart: Restart,
    /// Which execution of a job its tasks must belong to.
    pub job_iteration: u64,
}

/// What a service wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// So many tasks, wherever they fit.
    Replicated {
        /// How many tasks are to run.
        replicas: u64,
    },
    /// One task on each node that suits it.
    Global,
    /// Tasks that end, so many in all.
    ReplicatedJob {
        /// How many tasks are to complete.
        completions: u64,
    },
    /// One task that ends on each node that suits it.
    GlobalJob,
}

/// The engine's count of a service's tasks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TaskCounts {
    /// Tasks in the state `running`.
    pub running: u64,
    /// Tasks that Swarm wants to run.
    pub desired: u64,
    /// Of a job: tasks that completed.
    pub completed: u64,
}

/// Where a service's update stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Update {
    /// None was made, or it is over, paused or not.
    Settled,
    /// `updating`.
    Updating,
    /// `rollback_started`.
    RollingBack,
}

/// When Swarm starts a task again that has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Restart {
    /// `any`, which is also Swarm's default.
    Always,
    /// `on-failure`.
    OnFailure,
    /// `none`.
    Never,
}

/// A Swarm task (`GET /tasks`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Task {
    /// The ID of its service.
    pub service: String,
    /// Which replica this is; tasks of global services have a node instead.
    pub slot: u64,
    /// The ID of its node, once it has one.
    pub node: Option<String>,
    /// When Swarm made it; `None` where the engine shows none.
    pub created: Option<Time>,
    /// How far it came.
    pub state: TaskState,
    /// Does Swarm want it to run (or, in a job, to complete)?
    pub wanted: bool,
    /// Why it does not run, in the engine's words.
    pub error: Option<String>,
    /// The ID of its container, once it has one.
    pub container: Option<String>,
    /// The image that its spec names.
    pub image: String,
    /// The execution of a job that it belongs to; 0 for other services.
    pub job_iteration: u64,
}

/// Where a task stands, as far as anyone here asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TaskState {
    /// `new`, `allocated`, `assigned`, `accepted`, `ready` or `starting`.
    Starting,
    /// No node has been found so far.
    Pending,
    /// The node prepares it: this is where an image is pulled.
    Preparing,
    /// Its container runs.
    Running,
    /// Its container ended with status 0.
    Complete,
    /// Its container ended with another status.
    Failed,
    /// The node could not start it: the image was missing, say.
    Rejected,
    /// `shutdown`, `remove` or `orphaned`.
    Over,
}

impl TaskState {
    /// Will a task in this state run or do more by itself?
    pub fn is_live(self) -> bool {
        matches!(self, Self::Starting | Self::Pending | Self::Preparing | Self::Running)
    }
}
