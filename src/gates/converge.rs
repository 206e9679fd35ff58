//! The gate `converge`: open while no Swarm service is converging.

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use crate::facts::{
    Container, Desired, Mode, Service, Survey, SwarmState, Task, TaskState, Unavailable, Update, label,
};
use crate::units::{Time, elapsed};

/// Swarm makes the first task of a new global service only after the service itself (observed: a
/// moment of 0/0). A service older than this that has none will get none: no node is eligible.
const FIRST_TASK_TIMEOUT: Duration = Duration::from_secs(60);

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Open {
    /// The node is in no Swarm, so there is nothing to converge.
    NotInSwarm,
    Converged {
        services: usize,
        stuck: Vec<ConvergingService>,
    },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ConvergeCause {
    Updating,
    RollingBack,
    /// A node prepares a task, which includes the pull of its image.
    Pulling,
    Starting,
    /// Tasks fail and are started again; with the last error.
    CrashLooping(Option<String>),
    /// It failed, and Swarm will not start it again.
    Failed(Option<String>),
    /// A node has no such image, and its registry none either; with the engine's error.
    ImageNotFound(Option<String>),
    /// A node has no such image and does not reach its registry; with the engine's error.
    RegistryNotReachable(String),
    /// A pull or a container found no space; with the engine's error.
    NoSpace(String),
    /// A node refused the task before it ran, for another reason; with the engine's error.
    Rejected(String),
    /// No node satisfies the constraints; with Swarm's explanation.
    NoSuitableNode(Option<String>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConvergingService {
    pub id: String,
    pub service: String,
    pub has: u64,
    pub wants: u64,
    /// Why it is not converged.
    pub cause: ConvergeCause,
    pub gave_up: bool,
    pub stack: Option<String>,
    pub mode: Mode,
    /// Since the service was created or last changed.
    pub age: Option<Duration>,
    /// How long it has not been converged, at least.
    pub lasting: Duration,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Closed {
    Converging {
        converging: Vec<ConvergingService>,
        stuck: Vec<ConvergingService>,
    },
    /// This many tasks run on this node although the engine lists no live container for them: the engine has just
    /// been started and is still restoring its containers (observed on 20.10 to 29).
    EngineRestoring(usize),
}

/// Why it is not known whether services converge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unknown {
    Unavailable(Unavailable),
    /// This node cannot see the services ([`SwarmState::obstacle`]), and no manager was named that can.
    Swarm(SwarmState),
    /// The engine does not count this service's tasks.
    NoStatus(String),
}

pub type Verdict = super::Verdict<Open, Closed, Unknown>;

/// The services that are not converged: those that are waited for, and those that have not been for longer than
/// `--converge-max-age`. `None` where that is not known.
pub fn unconverged(verdict: &Verdict) -> Option<(&[ConvergingService], &[ConvergingService])> {
    match verdict {
        Verdict::Open(Open::NotInSwarm) => Some((&[], &[])),
        Verdict::Open(Open::Converged { stuck, .. }) => Some((&[], stuck)),
        Verdict::Closed(Closed::Converging { converging, stuck }) => Some((converging, stuck)),
        Verdict::Closed(Closed::EngineRestoring(_)) | Verdict::Unknown(_) => None,
    }
}

/// `max_age`: a service that has not been converged for longer is stuck, and no longer waited for.
pub fn evaluate(survey: &Survey, max_age: Option<Duration>, now: Time) -> Verdict {
    match verdict(survey, max_age, now) {
        Ok(verdict) => verdict,
        Err(unknown) => Verdict::Unknown(unknown),
    }
}

fn verdict(survey: &Survey, max_age: Option<Duration>, now: Time) -> Result<Verdict, Unknown> {
    let info = survey.info.as_ref().map_err(|why| Unknown::Unavailable(why.clone()))?;
    match &info.swarm.state {
        SwarmState::Inactive if !survey.manager_elsewhere => return Ok(Verdict::Open(Open::NotInSwarm)),
        SwarmState::Worker if survey.manager_elsewhere => {}
        SwarmState::Inactive | SwarmState::Manager => {}
        state => return Err(Unknown::Swarm(state.clone())),
    }
    let services = survey.services.as_ref().map_err(|why| Unknown::Unavailable(why.clone()))?;
    let tasks = survey.tasks.as_ref().map_err(|why| Unknown::Unavailable(why.clone()))?;
    let containers = survey.containers.as_ref().map_err(|why| Unknown::Unavailable(why.clone()))?;

    let mut of_service: BTreeMap<&str, Vec<&Task>> = BTreeMap::new();
    for task in tasks {
        of_service.entry(&task.service).or_default().push(task);
    }
    let mut converging = Vec::new();
    for service in services {
        let tasks = of_service.remove(service.id.as_str()).unwrap_or_default();
        converging.extend(evaluate_service(service, &tasks, survey, now)?);
    }
    let is_stuck = |service: &ConvergingService| max_age.is_some_and(|most| service.lasting >= most);
    let (stuck, converging): (Vec<_>, Vec<_>) = converging.into_iter().partition(is_stuck);
    if !converging.is_empty() {
        return Ok(Verdict::Closed(Closed::Converging { converging, stuck }));
    }
    let lost = without_container(tasks, info.swarm.node.as_deref(), containers);
    if lost > 0 {
        return Ok(Verdict::Closed(Closed::EngineRestoring(lost)));
    }
    Ok(Verdict::Open(Open::Converged { services: services.len(), stuck }))
}

/// Running tasks of this node whose container the engine does not list.
fn without_container(tasks: &[Task], node: Option<&str>, containers: &[Container]) -> usize {
    let live = containers.iter().filter(|container| container.state.is_live());
    let listed: HashSet<&str> = live.map(|container| container.id.as_str()).collect();
    tasks
        .iter()
        .filter(|task| node.is_some() && task.node.as_deref() == node)
        .filter(|task| task.desired != Desired::Over && task.state == TaskState::Running)
        .filter(|task| task.container.as_deref().is_some_and(|id| !listed.contains(id)))
        .count()
}

fn evaluate_service(
    service: &Service,
    tasks: &[&Task],
    survey: &Survey,
    now: Time,
) -> Result<Option<ConvergingService>, Unknown> {
    let status = service.status.ok_or_else(|| Unknown::NoStatus(service.name.clone()))?;
    let since = service.updated.or(service.created);
    let age = since.map(|since| survey.past.age(since, now));
    let current: Vec<&Task> =
        tasks.iter().copied().filter(|task| task.job_iteration == service.job_iteration).collect();
    let mut places = by_place(&current, service.mode);
    if matches!(service.mode, Mode::Global | Mode::GlobalJob) {
        places.retain(|(_, node), _| !survey.nodes_away.contains(*node));
    }
    let settled = places.values().filter(|history| is_settled(history)).count() as u64;
    // The newest task of each place that neither runs nor is settled, by slot and node.
    let missing = || {
        let missing = places.values().filter(|history| history[0].state != TaskState::Running);
        missing.filter(|history| !is_settled(history) && !is_over(history[0]))
    };
    let gave_up = || missing().next().is_some_and(|history| has_given_up(history[0]));
    let cause = || missing().next().map_or(ConvergeCause::Starting, |history| cause(history));

    let id = service.id.clone();
    let converging = |gave_up: bool, has, wants, cause| {
        let recorded = survey.past.unconverged.get(&id).copied();
        let missing_for = missing().filter_map(|history| missing_since(history[0]));
        let missing_for = missing_for.map(|since| survey.past.age(since, now)).max();
        let never = (service.update != Update::Settled || places.is_empty()).then_some(age).flatten();
        let lasting = recorded.max(missing_for).max(never).unwrap_or_default();
        // What is deployed now is waited for, whatever was there before.
        let lasting = age.map_or(lasting, |age| lasting.min(age));
        let stack = service.labels.get(label::STACK).cloned();
        let (service, service_mode) = (service.name.clone(), service.mode);
        Ok(Some(ConvergingService {
            id: id.clone(),
            service,
            has,
            wants,
            cause,
            gave_up,
            stack,
            mode: service_mode,
            age,
            lasting,
        }))
    };
    match service.update {
        Update::Updating => {
            return converging(false, status.running, status.desired, ConvergeCause::Updating);
        }
        Update::RollingBack => {
            return converging(false, status.running, status.desired, ConvergeCause::RollingBack);
        }
        Update::Settled => {}
    }
    // It has no task yet, and is too new to conclude that it will have none.
    let too_new = places.is_empty() && since.is_none_or(|since| elapsed(now, since) < FIRST_TASK_TIMEOUT);
    match service.mode {
        Mode::Replicated { replicas } if status.running + settled < replicas => {
            converging(gave_up(), status.running, replicas, cause())
        }
        Mode::Global
            if too_new || missing().next().is_some() || status.running + settled < status.desired =>
        {
            converging(gave_up(), status.running, status.desired.max(1), cause())
        }
        Mode::ReplicatedJob { completions } if status.completed < completions => {
            converging(gave_up(), status.completed, completions, cause())
        }
        Mode::GlobalJob => {
            let done = [TaskState::Complete, TaskState::Over];
            let incomplete = places.values().filter(|history| !done.contains(&history[0].state));
            let incomplete = incomplete.count() as u64;
            if too_new || incomplete > 0 {
                converging(gave_up(), status.completed, status.completed + incomplete.max(1), cause())
            } else {
                Ok(None)
            }
        }
        Mode::Replicated { .. } | Mode::Global | Mode::ReplicatedJob { .. } => Ok(None),
    }
}

/// The tasks of each replica or node, newest first.
fn by_place<'a>(tasks: &[&'a Task], mode: Mode) -> BTreeMap<(u64, &'a str), Vec<&'a Task>> {
    let by_node = matches!(mode, Mode::Global | Mode::GlobalJob);
    let mut places: BTreeMap<(u64, &str), Vec<&Task>> = BTreeMap::new();
    for task in tasks {
        let place = if by_node { (0, task.node.as_deref().unwrap_or("")) } else { (task.slot, "") };
        places.entry(place).or_default().push(task);
    }
    for history in places.values_mut() {
        history.sort_by_key(|task| std::cmp::Reverse(task.created));
    }
    places
}

/// Whether Swarm does nothing more for this place, and all is well: its task completed and none follows, or the next one
/// waits for the restart delay with its image there, as those of services do that run every hour.
fn is_settled(history: &[&Task]) -> bool {
    let completed = |task: &Task| task.state == TaskState::Complete && task.desired == Desired::Over;
    match history {
        [newest, before, ..] if newest.desired == Desired::Ready => {
            newest.state == TaskState::Ready && completed(before)
        }
        [newest, ..] => completed(newest),
        [] => false,
    }
}

/// Since when a place lacks its task, at the latest.
fn missing_since(newest: &Task) -> Option<Time> {
    if newest.desired == Desired::Over { newest.state_since } else { newest.created }
}

fn is_over(newest: &Task) -> bool {
    newest.state == TaskState::Over && newest.desired == Desired::Over
}

fn has_given_up(newest: &Task) -> bool {
    newest.desired == Desired::Over && matches!(newest.state, TaskState::Failed | TaskState::Rejected)
}

fn cause(history: &[&Task]) -> ConvergeCause {
    let newest = history[0];
    let rejected = history.iter().find_map(|task| rejection(task));
    let failed = history.iter().find(|task| task.state == TaskState::Failed);
    match newest.state {
        TaskState::Pending if newest.error.is_some() => ConvergeCause::NoSuitableNode(newest.error.clone()),
        _ if rejected.is_some() => rejected.unwrap_or(ConvergeCause::Starting),
        _ if has_given_up(newest) => ConvergeCause::Failed(newest.error.clone()),
        TaskState::Preparing if failed.is_none() => ConvergeCause::Pulling,
        _ => match failed {
            Some(failed) => ConvergeCause::CrashLooping(failed.error.clone()),
            None => ConvergeCause::Starting,
        },
    }
}

/// Why a task never ran. Up to 28 the engine tells each pull that failed as "No such image" (then the image is none of
/// Swarm's state); from 29.7 on the task has the pull's own error (observed).
fn rejection(task: &Task) -> Option<ConvergeCause> {
    let error = task.error.clone()?;
    let is_rejected = task.state == TaskState::Rejected || error.contains("No such image");
    if !is_rejected {
        return None;
    }
    let says = |words: &[&str]| words.iter().any(|word| error.contains(word));
    Some(if says(&["no space left on device", "disk quota exceeded"]) {
        ConvergeCause::NoSpace(error)
    } else if says(&[
        "connection refused",
        "no such host",
        "timeout",
        "unreachable",
        "server misbehaving",
        "EOF",
    ]) {
        ConvergeCause::RegistryNotReachable(error)
    } else if says(&["No such image", "not found", "manifest unknown", "pull access denied"]) {
        ConvergeCause::ImageNotFound(Some(error))
    } else {
        ConvergeCause::Rejected(error)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::{ContainerState, Swarm, TaskCounts};
    use crate::gates::GateState;
    use crate::testing::{ago, container, labels, now, service, survey, task};

    #[test]
    fn a_task_that_never_ran_is_told_by_what_happened_in_any_version() {
        let cause = |error: &str| {
            let task =
                Task { state: TaskState::Rejected, error: Some(error.into()), container: None, ..task() };
            super::cause(&[&task])
        };
        for (error, expected) in [
            ("No such image: app:1@sha256:01", "image"),
            ("failed to resolve reference \"registry:5000/app:1\": registry:5000/app:1: not found", "image"),
            ("manifest for registry:5000/app:1 not found: manifest unknown: manifest unknown", "image"),
            ("pull access denied for app, repository does not exist or may require 'docker login'", "image"),
            (
                "Get \"http://registry:5000/v2/\": dial tcp 10.0.0.1:5000: connect: connection refused",
                "registry",
            ),
            ("dial tcp: lookup registry: no such host", "registry"),
            ("failed to copy: write /x: no space left on device", "space"),
            ("invalid mount config for type \"bind\": bind source path does not exist: /x", "other"),
        ] {
            let found = match cause(error) {
                ConvergeCause::ImageNotFound(_) => "image",
                ConvergeCause::RegistryNotReachable(_) => "registry",
                ConvergeCause::NoSpace(_) => "space",
                ConvergeCause::Rejected(_) => "other",
                found => panic!("{error}: {found:?}"),
            };
            assert_eq!(found, expected, "{error}");
        }
    }

    /// However long it has not been converged.
    fn evaluate(survey: &Survey, now: Time) -> Verdict {
        super::evaluate(survey, None, now)
    }

    fn facts(services: Vec<Service>, tasks: Vec<Task>) -> Survey {
        let mut facts = Survey {
            services: Ok(services),
            tasks: Ok(tasks),
            containers: Ok(vec![container()]),
            ..survey()
        };
        *swarm(&mut facts) = Swarm { state: SwarmState::Manager, node: Some("node".into()) };
        facts
    }

    fn swarm(facts: &mut Survey) -> &mut Swarm {
        &mut facts.info.as_mut().unwrap().swarm
    }

    #[test]
    fn what_failed_on_a_node_that_is_down_or_drained_is_not_missing() {
        let old = Some("2026-11-01T00:00:00Z".parse().unwrap());
        let on = |node: &str, task: Task| Task { node: Some(node.into()), slot: 0, ..task };
        let service = Service { mode: Mode::Global, status: status(1, 1, 0), updated: old, ..service() };
        let tasks = vec![on("here", task()), on("gone", ended(TaskState::Failed))];
        let mut facts = facts(vec![service], tasks);
        assert_eq!(evaluate(&facts, now()).state(), GateState::Closed);
        facts.nodes_away = HashSet::from(["gone".into()]);
        assert_eq!(evaluate(&facts, now()).state(), GateState::Open);
        // The same of a job.
        let job = Service {
            mode: Mode::GlobalJob,
            status: status(0, 0, 1),
            updated: old,
            ..crate::testing::service()
        };
        let mut jobs = self::facts(
            vec![job],
            vec![on("here", ended(TaskState::Complete)), on("gone", ended(TaskState::Failed))],
        );
        assert_eq!(evaluate(&jobs, now()).state(), GateState::Closed);
        jobs.nodes_away = HashSet::from(["gone".into()]);
        assert_eq!(evaluate(&jobs, now()).state(), GateState::Open);
        // What failed elsewhere still is.
        facts.nodes_away = HashSet::from(["another".into()]);
        assert_eq!(evaluate(&facts, now()).state(), GateState::Closed);
    }

    fn status(running: u64, desired: u64, completed: u64) -> Option<TaskCounts> {
        Some(TaskCounts { running, desired, completed })
    }

    fn ended(state: TaskState) -> Task {
        Task { state, desired: Desired::Over, ..task() }
    }

    /// The successor that waits for its restart delay.
    fn next(state: TaskState) -> Task {
        Task { state, created: Some(now()), desired: Desired::Ready, ..task() }
    }

    fn failing(state: TaskState, error: &str) -> Task {
        Task { state, error: Some(error.into()), ..task() }
    }

    #[test]
    fn settled_services_are_open() {
        let old = Some("2026-11-01T00:00:00Z".parse().unwrap());
        let replicated = |replicas| Mode::Replicated { replicas };
        let job = Mode::ReplicatedJob { completions: 2 };
        let complete = ended(TaskState::Complete);
        let table = [
            ("2/2", replicated(2), status(2, 2, 0), vec![]),
            ("scaled to 0", replicated(0), status(0, 0, 0), vec![]),
            ("global 1/1", Mode::Global, status(1, 1, 0), vec![task()]),
            ("global, no eligible node", Mode::Global, status(0, 0, 0), vec![]),
            ("completed job", job, status(0, 1, 2), vec![complete.clone()]),
            ("completed global job", Mode::GlobalJob, status(0, 0, 1), vec![complete.clone()]),
            ("one-shot, or the last of its attempts", replicated(1), status(0, 1, 0), vec![complete.clone()]),
            ("every hour", replicated(1), status(0, 1, 0), vec![next(TaskState::Ready), complete.clone()]),
            ("every hour, everywhere", Mode::Global, status(0, 1, 0), vec![next(TaskState::Ready), complete]),
            ("global, drained", Mode::Global, status(0, 0, 0), vec![ended(TaskState::Over)]),
        ];
        for (name, mode, status, tasks) in table {
            let service = Service { mode, status, updated: old, ..service() };
            assert_eq!(evaluate(&facts(vec![service], tasks), now()).state(), GateState::Open, "{name}");
        }
    }

    #[test]
    #[expect(clippy::too_many_lines, reason = "a table")]
    fn services_on_their_way_are_closed_with_their_cause() {
        let one = Mode::Replicated { replicas: 1 };
        let none = status(0, 1, 0);
        let no_image = "No such image: app:1@sha256:aa";
        let table = [
            ("created", one, none, vec![], ConvergeCause::Starting),
            (
                "pulling",
                one,
                none,
                vec![Task { state: TaskState::Preparing, ..task() }],
                ConvergeCause::Pulling,
            ),
            (
                "crash loop",
                one,
                none,
                vec![
                    Task { state: TaskState::Starting, created: Some(now()), ..task() },
                    failing(TaskState::Failed, "task: non-zero exit (1)"),
                ],
                ConvergeCause::CrashLooping(Some("task: non-zero exit (1)".into())),
            ),
            (
                "no image",
                one,
                none,
                vec![
                    Task { state: TaskState::Preparing, created: Some(now()), ..task() },
                    failing(TaskState::Rejected, no_image),
                ],
                ConvergeCause::ImageNotFound(Some(no_image.into())),
            ),
            (
                "no node",
                one,
                none,
                vec![failing(TaskState::Pending, "no suitable node (1 node unavailable)")],
                ConvergeCause::NoSuitableNode(Some("no suitable node (1 node unavailable)".into())),
            ),
            (
                "one of two",
                Mode::Replicated { replicas: 2 },
                status(1, 2, 0),
                vec![task()],
                ConvergeCause::Starting,
            ),
            ("one-shot that failed", one, none, vec![ended(TaskState::Failed)], ConvergeCause::Failed(None)),
            (
                "completed, and its successor is still to be made",
                one,
                none,
                vec![Task { state: TaskState::Complete, ..task() }],
                ConvergeCause::Starting,
            ),
            (
                "a crash loop that waits for its restart delay",
                one,
                none,
                vec![next(TaskState::Ready), ended(TaskState::Failed)],
                ConvergeCause::CrashLooping(None),
            ),
            (
                "a service that runs every hour and pulls its next image",
                one,
                none,
                vec![next(TaskState::Preparing), ended(TaskState::Complete)],
                ConvergeCause::Pulling,
            ),
            (
                "one that runs every hour, at work",
                one,
                none,
                vec![
                    Task { desired: Desired::Running, ..next(TaskState::Starting) },
                    ended(TaskState::Complete),
                ],
                ConvergeCause::Starting,
            ),
            (
                "the first task of a service with a delay",
                one,
                none,
                vec![next(TaskState::Ready)],
                ConvergeCause::Starting,
            ),
            ("global, just created", Mode::Global, status(0, 0, 0), vec![], ConvergeCause::Starting),
            ("global job, just created", Mode::GlobalJob, status(0, 0, 0), vec![], ConvergeCause::Starting),
            (
                "job, one of two",
                Mode::ReplicatedJob { completions: 2 },
                status(0, 1, 1),
                vec![],
                ConvergeCause::Starting,
            ),
        ];
        for (name, mode, status, tasks, expected) in table {
            let service = Service { mode, status, updated: Some(now()), ..service() };
            match evaluate(&facts(vec![service], tasks), now()) {
                Verdict::Closed(Closed::Converging { converging, .. }) => {
                    assert_eq!(converging[0].cause, expected, "{name}")
                }
                other => panic!("{name}: {other:?}"),
            }
        }
    }

    /// What the gate says of one service, in words.
    fn judged(service: Service, tasks: Vec<Task>) -> Option<ConvergingService> {
        match evaluate(&facts(vec![service], tasks), now()) {
            Verdict::Open(_) => None,
            Verdict::Closed(Closed::Converging { mut converging, .. }) => converging.pop(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_one_shot_that_swarm_still_wants_is_not_done() {
        let once = || Service { status: status(0, 1, 0), updated: Some(now()), ..service() };
        let complete = |desired| Task { state: TaskState::Complete, desired, ..task() };
        assert_eq!(judged(once(), vec![complete(Desired::Over)]), None);
        assert!(judged(once(), vec![complete(Desired::Running)]).is_some());
        // Two of three are done.
        let three = Service { mode: Mode::Replicated { replicas: 3 }, status: status(0, 3, 0), ..once() };
        let done = |slot| Task { slot, ..complete(Desired::Over) };
        let found = judged(three.clone(), vec![done(1), done(2)]).unwrap();
        assert_eq!((found.has, found.wants), (0, 3));
        assert_eq!(judged(three, vec![done(1), done(2), done(3)]), None);
    }

    #[test]
    fn a_global_service_waits_for_its_first_task_for_a_minute() {
        for mode in [Mode::Global, Mode::GlobalJob] {
            for (updated, created, closed) in [
                (ago("59s"), ago("30d"), true),
                (ago("60s"), ago("30d"), false),
                (None, ago("59s"), true),
                (None, ago("60s"), false),
                (None, None, true),
            ] {
                let status = status(0, 0, 0);
                let service = Service { mode, status, updated, created, ..service() };
                let found = judged(service, vec![]);
                assert_eq!(found.is_some(), closed, "{mode:?} {updated:?} {created:?}");
                assert_eq!(found.map_or(1, |found| found.wants), 1);
            }
            // It has a task, wherever that is.
            let done = Task { slot: 0, ..ended(TaskState::Complete) };
            let service = Service { mode, status: status(0, 0, 1), updated: Some(now()), ..service() };
            assert_eq!(judged(service, vec![done]), None, "{mode:?}");
        }
    }

    #[test]
    fn what_is_missing_is_counted_by_mode() {
        let old = ago("30d");
        let on = |node: &str, state| Task { node: Some(node.into()), slot: 0, state, ..task() };
        let global = |running, desired| Service {
            mode: Mode::Global,
            status: status(running, desired, 0),
            updated: old,
            ..service()
        };
        let found = judged(global(1, 2), vec![on("a", TaskState::Running)]).unwrap();
        assert_eq!((found.has, found.wants, found.age), (1, 2, Some(Duration::from_secs(30 * 86_400))));
        assert_eq!(
            judged(global(2, 2), vec![on("a", TaskState::Running), on("b", TaskState::Running)]),
            None
        );
        assert!(
            judged(global(2, 2), vec![on("a", TaskState::Running), on("b", TaskState::Preparing)]).is_some()
        );
        let job = Service { mode: Mode::GlobalJob, status: status(0, 0, 1), updated: old, ..service() };
        let tasks = |second: Task| vec![on("a", TaskState::Complete), second];
        let found = judged(job.clone(), tasks(on("b", TaskState::Running))).unwrap();
        assert_eq!((found.has, found.wants), (1, 2));
        assert_eq!(judged(job.clone(), tasks(on("b", TaskState::Over))), None);
        assert!(judged(job, tasks(on("b", TaskState::Failed))).is_some());
        let stack = labels(&[(label::STACK, "shop")]);
        let found = judged(Service { status: status(0, 1, 0), labels: stack, ..service() }, vec![]).unwrap();
        assert_eq!((found.stack.as_deref(), found.service.as_str()), (Some("shop"), "app"));
        let new_job =
            Service { mode: Mode::ReplicatedJob { completions: 2 }, status: status(1, 1, 1), ..service() };
        let found = judged(new_job, vec![]).unwrap();
        assert_eq!((found.has, found.wants), (1, 2));
    }

    #[test]
    fn what_swarm_has_given_up_is_told_by_the_newest_task_of_each_place() {
        let (over, running) = (Desired::Over, Desired::Running);
        let at = |created: &str, state, desired| Task { created: ago(created), state, desired, ..task() };
        let once = || Service { status: status(0, 1, 0), ..service() };
        type Row<'a> = (&'a str, Vec<Task>, bool, ConvergeCause);
        let looping = || ConvergeCause::CrashLooping(None);
        let table: [Row; 8] = [
            ("it failed", vec![at("1m", TaskState::Failed, over)], true, ConvergeCause::Failed(None)),
            ("rejected", vec![at("1m", TaskState::Rejected, over)], true, ConvergeCause::Failed(None)),
            ("it is still wanted", vec![at("1m", TaskState::Failed, running)], false, looping()),
            (
                "a new one starts",
                vec![at("2m", TaskState::Failed, over), at("1m", TaskState::Starting, running)],
                false,
                looping(),
            ),
            (
                "listed the other way round",
                vec![at("1m", TaskState::Preparing, running), at("2m", TaskState::Failed, over)],
                false,
                looping(),
            ),
            ("it is pulled", vec![at("1m", TaskState::Preparing, running)], false, ConvergeCause::Pulling),
            ("no node so far", vec![at("1m", TaskState::Pending, running)], false, ConvergeCause::Starting),
            ("over", vec![at("1m", TaskState::Over, over)], false, ConvergeCause::Starting),
        ];
        for (what, tasks, gave_up, cause) in table {
            let found = judged(once(), tasks).unwrap();
            assert_eq!((found.gave_up, found.cause), (gave_up, cause), "{what}");
        }
        // Two replicas are two places.
        let two = Service { mode: Mode::Replicated { replicas: 2 }, status: status(1, 2, 0), ..once() };
        let tasks = vec![task(), Task { slot: 2, ..at("1m", TaskState::Failed, over) }];
        assert_eq!(judged(two.clone(), tasks).map(|found| found.gave_up), Some(true));
        // The first of them is just being started.
        let tasks = vec![
            at("1m", TaskState::Starting, running),
            Task { slot: 2, ..at("1m", TaskState::Failed, over) },
        ];
        assert_eq!(judged(two, tasks).map(|found| found.gave_up), Some(false));
    }

    #[test]
    fn a_service_is_stuck_when_records_or_its_own_tasks_show_it_for_too_long() {
        let day = Some(Duration::from_secs(86_400));
        let at = |created: &str, since: &str, state, desired| Task {
            created: ago(created),
            state_since: ago(since),
            state,
            desired,
            ..task()
        };
        let (over, running) = (Desired::Over, Desired::Running);
        let looping =
            || vec![at("9s", "9s", TaskState::Starting, running), at("20s", "15s", TaskState::Failed, over)];
        type Row<'a> = (&'a str, &'a str, Option<&'a str>, Vec<Task>, bool);
        let table: [Row; 9] = [
            ("a crash loop that the records know for a day", "30d", Some("24h"), looping(), true),
            ("not so long", "30d", Some("23h"), looping(), false),
            ("not recorded", "30d", None, looping(), false),
            ("deployed anew since", "1h", Some("24h"), looping(), false),
            ("pending for two days", "30d", None, vec![at("2d", "1m", TaskState::Pending, running)], true),
            ("pending for an hour", "30d", None, vec![at("1h", "1m", TaskState::Pending, running)], false),
            (
                "it ran for a month and failed a minute ago",
                "30d",
                None,
                vec![at("30d", "1m", TaskState::Failed, over)],
                false,
            ),
            ("it failed two days ago", "30d", None, vec![at("30d", "2d", TaskState::Failed, over)], true),
            ("it never had a task", "2d", None, vec![], true),
        ];
        for (what, updated, recorded, tasks, stuck) in table {
            let service = Service { status: status(0, 1, 0), updated: ago(updated), ..service() };
            let mut survey = facts(vec![service], tasks);
            let recorded =
                recorded.map(|age| ("service".to_owned(), crate::units::parse_duration(age).unwrap()));
            survey.past.unconverged.extend(recorded);
            let verdict = super::evaluate(&survey, day, now());
            let (converging, found) = unconverged(&verdict).unwrap();
            assert_eq!(
                (converging.len(), found.len()),
                if stuck { (0, 1) } else { (1, 0) },
                "{what} {verdict:?}"
            );
            assert_eq!(verdict.state() == GateState::Open, stuck, "{what}");
            assert_eq!(super::evaluate(&survey, None, now()).state(), GateState::Closed, "{what}");
        }
        // An update that is under way for as long.
        let updating = |updated| {
            let service = Service { update: Update::Updating, updated: ago(updated), ..service() };
            super::evaluate(&facts(vec![service], vec![task()]), day, now()).state()
        };
        assert_eq!((updating("23h"), updating("24h")), (GateState::Closed, GateState::Open));
        // One that is stuck lets no other go.
        let stuck = Service { id: "stuck".into(), status: status(0, 1, 0), ..service() };
        let fresh = Service { status: status(0, 1, 0), updated: Some(now()), ..service() };
        let verdict = super::evaluate(&facts(vec![stuck, fresh], vec![]), day, now());
        let (converging, stuck) = unconverged(&verdict).unwrap();
        assert_eq!((converging.len(), stuck.len(), verdict.state()), (1, 1, GateState::Closed));
    }

    #[test]
    fn a_container_is_missed_only_of_a_running_task_of_this_node() {
        let restoring = |change: &dyn Fn(&mut Survey)| {
            let mut facts = facts(vec![service()], vec![task()]);
            facts.containers = Ok(vec![]);
            change(&mut facts);
            match evaluate(&facts, now()) {
                Verdict::Closed(Closed::EngineRestoring(n)) => n,
                Verdict::Open(Open::Converged { services: 1, .. }) => 0,
                other => panic!("{other:?}"),
            }
        };
        let tasks =
            |change: fn(Task) -> Task| move |facts: &mut Survey| facts.tasks = Ok(vec![change(task())]);
        assert_eq!(restoring(&|_| ()), 1);
        assert_eq!(restoring(&tasks(|task| Task { desired: Desired::Over, ..task })), 0);
        assert_eq!(restoring(&tasks(|task| Task { container: None, ..task })), 0);
        assert_eq!(restoring(&tasks(|task| Task { state: TaskState::Complete, ..task })), 0);
        assert_eq!(restoring(&tasks(|task| Task { node: None, ..task })), 0);
        assert_eq!(restoring(&|facts| swarm(facts).node = None), 0);
        // Without a node of its own a task of no node is not its.
        let nowhere = |facts: &mut Survey| {
            swarm(facts).node = None;
            facts.tasks = Ok(vec![Task { node: None, ..task() }]);
        };
        assert_eq!(restoring(&nowhere), 0);
    }

    #[test]
    fn a_job_that_runs_anew_is_judged_by_its_new_tasks_only() {
        let again = Service {
            mode: Mode::GlobalJob,
            status: status(0, 0, 0),
            job_iteration: 2,
            updated: Some("2026-11-01T00:00:00Z".parse().unwrap()),
            ..service()
        };
        let old = Task { job_iteration: 1, ..ended(TaskState::Complete) };
        let new = Task { job_iteration: 2, state: TaskState::Preparing, ..task() };
        assert_eq!(evaluate(&facts(vec![again], vec![old, new]), now()).state(), GateState::Closed);
    }

    #[test]
    fn updates_close_until_they_are_over_or_paused() {
        for (update, expected) in [
            (Update::Settled, GateState::Open),
            (Update::Updating, GateState::Closed),
            (Update::RollingBack, GateState::Closed),
        ] {
            let service = Service { update, ..service() };
            assert_eq!(evaluate(&facts(vec![service], vec![task()]), now()).state(), expected, "{update:?}");
        }
    }

    #[test]
    fn a_running_task_without_its_container_means_that_the_engine_restores_containers() {
        let mut facts = facts(vec![service()], vec![task()]);
        assert_eq!(evaluate(&facts, now()).state(), GateState::Open);
        // Also while it is listed as ended: the Swarm has not heard of that so far.
        facts.containers = Ok(vec![Container { state: ContainerState::Exited, ..container() }]);
        assert_eq!(evaluate(&facts, now()), Verdict::Closed(Closed::EngineRestoring(1)));
        facts.containers = Ok(vec![]);
        assert_eq!(evaluate(&facts, now()), Verdict::Closed(Closed::EngineRestoring(1)));
        swarm(&mut facts).node = Some("another".into());
        assert_eq!(evaluate(&facts, now()).state(), GateState::Open);
    }

    #[test]
    fn what_cannot_be_told_is_unknown() {
        let unanswered = || Unavailable("503".into());
        type Change<'a> = &'a dyn Fn(&mut Survey);
        let unconverged = || Service { status: status(0, 1, 0), ..service() };
        let table: [(&str, Change, GateState); 11] = [
            ("worker", &|facts| swarm(facts).state = SwarmState::Worker, GateState::Unknown),
            ("locked", &|facts| swarm(facts).state = SwarmState::Locked, GateState::Unknown),
            ("pending", &|facts| swarm(facts).state = SwarmState::Pending, GateState::Unknown),
            ("failed", &|facts| swarm(facts).state = SwarmState::Failed("x".into()), GateState::Unknown),
            ("no info", &|facts| facts.info = Err(unanswered()), GateState::Unknown),
            ("no services", &|facts| facts.services = Err(unanswered()), GateState::Unknown),
            ("no tasks", &|facts| facts.tasks = Err(unanswered()), GateState::Unknown),
            ("no containers", &|facts| facts.containers = Err(unanswered()), GateState::Unknown),
            ("no swarm", &|facts| swarm(facts).state = SwarmState::Inactive, GateState::Open),
            (
                "no swarm, with a manager elsewhere",
                &|value| {
                    *swarm(value) = Swarm { state: SwarmState::Inactive, node: None };
                    value.manager_elsewhere = true;
                    value.services = Ok(vec![unconverged()]);
                },
                GateState::Closed,
            ),
            (
                "worker with a manager elsewhere",
                &|value| {
                    swarm(value).state = SwarmState::Worker;
                    value.manager_elsewhere = true;
                },
                GateState::Open,
            ),
        ];
        for (name, change, expected) in table {
            let mut facts = facts(vec![service()], vec![task()]);
            change(&mut facts);
            assert_eq!(evaluate(&facts, now()).state(), expected, "{name}");
        }
        let uncounted = Service { status: None, ..service() };
        assert_eq!(evaluate(&facts(vec![uncounted], vec![]), now()).state(), GateState::Unknown);
    }
}
