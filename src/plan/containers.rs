//! Which containers go: those that ended or never started, long enough ago.

use std::collections::HashSet;
use std::time::Duration;

use super::{Inventory, KeepReason, KeptObject, ObjectKind, Plan, PlannedRemoval, Policy, RemovalReason};
use crate::facts::label::{COMPOSE_PROJECT, SERVICE_ID, SERVICE_NAME};
use crate::facts::{Container, ContainerState};
use crate::units::{Time, elapsed};

/// Who may still want a container that has ended.
struct Owners<'a> {
    /// IDs of the services that exist.
    services: HashSet<&'a str>,
    /// Compose projects with a container that runs, or is about to: `docker compose logs` and `start` want the
    /// ended ones beside it.
    projects: HashSet<&'a str>,
}

impl<'a> Owners<'a> {
    fn new(inventory: &'a Inventory) -> Self {
        // A project whose containers were all created and never started would keep itself for ever.
        let runs =
            |container: &&Container| container.state.is_live() && container.state != ContainerState::Created;
        let running = inventory.containers.iter().filter(runs);
        Self {
            services: inventory.services.iter().map(|service| service.id.as_str()).collect(),
            projects: running
                .filter_map(|project| project.labels.get(COMPOSE_PROJECT).map(String::as_str))
                .collect(),
        }
    }

    fn of(&self, container: &Container) -> Option<KeepReason> {
        let label = |name: &str| container.labels.get(name);
        if let Some(id) = label(SERVICE_ID).filter(|id| self.services.contains(id.as_str())) {
            return Some(KeepReason::TaskOf(label(SERVICE_NAME).unwrap_or(id).clone()));
        }
        let project = label(COMPOSE_PROJECT).filter(|name| self.projects.contains(name.as_str()))?;
        Some(KeepReason::ComposeProject(project.clone()))
    }
}

pub(super) fn decide(inventory: &Inventory, policy: &Policy, now: Time, plan: &mut Plan) {
    let owners = Owners::new(inventory);
    for container in &inventory.containers {
        let (id, names) = (container.id.clone(), container.names.clone());
        match decide_container(container, &owners, inventory.is_unread(&container.id), policy, now) {
            Ok(reason) => {
                let (tags, finished) = (vec![], container.finished);
                let kind = ObjectKind::Container;
                plan.remove.push(PlannedRemoval {
                    kind,
                    id,
                    names,
                    tags,
                    size: 0,
                    frees: None,
                    finished,
                    reason,
                });
            }
            Err(reason) => plan.keep.push(KeptObject { class: None, id, names, size: 0, reason }),
        }
    }
}

/// Everything that keeps a container whatever its age.
pub(super) fn protections(container: &Container, inventory: &Inventory, policy: &Policy) -> Vec<KeepReason> {
    let live =
        !matches!(container.state, ContainerState::Exited | ContainerState::Dead | ContainerState::Created);
    let label = policy.kept_by(&container.labels).map(|label| KeepReason::Label(label.clone()));
    let live = live.then(|| KeepReason::Live(container.state.name()));
    live.into_iter().chain(label).chain(Owners::new(inventory).of(container)).collect()
}

/// Must the engine be asked when this container finished? Only where nothing else keeps it: it was
/// created before it finished, so one that was created lately is too young anyway.
pub fn wants_finish_time(container: &Container, policy: &Policy, now: Time) -> bool {
    matches!(container.state, ContainerState::Exited | ContainerState::Dead)
        && policy.kept_by(&container.labels).is_none()
        && old_enough(container.created, policy, now).is_ok()
}

fn decide_container(
    container: &Container,
    owners: &Owners,
    unread: bool,
    policy: &Policy,
    now: Time,
) -> Result<RemovalReason, KeepReason> {
    let (since, why): (_, fn(Duration) -> RemovalReason) = match container.state {
        ContainerState::Exited | ContainerState::Dead => (container.finished, RemovalReason::Finished),
        ContainerState::Created => (container.created, RemovalReason::NeverStarted),
        live => return Err(KeepReason::Live(live.name())),
    };
    if let Some(label) = policy.kept_by(&container.labels) {
        return Err(KeepReason::Label(label.clone()));
    }
    if let Some(owner) = owners.of(container) {
        return Err(owner);
    }
    if unread {
        return Err(KeepReason::Unread);
    }
    // A container cannot have ended before it was made: the later time tells.
    old_enough(container.created, policy, now)?;
    old_enough(since, policy, now).map(why)
}

/// The age since then, if it is old enough; a zero, future or absent time is never old.
fn old_enough(since: Option<Time>, policy: &Policy, now: Time) -> Result<Duration, KeepReason> {
    let since =
        since.filter(|since| (Time::UNIX_EPOCH..=now).contains(since)).ok_or(KeepReason::AgeUnknown)?;
    let age = elapsed(now, since);
    if age < policy.older_than { Err(KeepReason::TooYoung(age, policy.older_than)) } else { Ok(age) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{ago, container, labels, now, policy, service};

    fn verdict(container: Container) -> Result<RemovalReason, KeepReason> {
        let inventory =
            Inventory { containers: vec![container], services: vec![service()], ..Inventory::default() };
        let mut plan = Plan::default();
        decide(&inventory, &policy(), now(), &mut plan);
        plan.remove.pop().map(|removal| removal.reason).ok_or_else(|| plan.keep.pop().unwrap().reason)
    }

    #[test]
    fn age_counts_from_the_end_or_for_created_from_the_creation() {
        let day = Duration::from_secs(86_400);
        let at = |state, created: &str, finished: Option<&str>| Container {
            state,
            created: ago(created),
            finished: finished.and_then(ago),
            ..container()
        };
        let table = [
            (at(ContainerState::Exited, "30d", Some("2d")), Ok(RemovalReason::Finished(2 * day))),
            (at(ContainerState::Exited, "30d", Some("24h")), Ok(RemovalReason::Finished(day))),
            (at(ContainerState::Dead, "30d", Some("3d")), Ok(RemovalReason::Finished(3 * day))),
            (at(ContainerState::Created, "30d", None), Ok(RemovalReason::NeverStarted(30 * day))),
            (
                at(ContainerState::Exited, "30d", Some("1h")),
                Err(KeepReason::TooYoung(Duration::from_secs(3600), day)),
            ),
            (at(ContainerState::Exited, "30d", None), Err(KeepReason::AgeUnknown)),
            (at(ContainerState::Running, "30d", None), Err(KeepReason::Live("running"))),
            (at(ContainerState::Paused, "30d", None), Err(KeepReason::Live("paused"))),
            (at(ContainerState::Restarting, "30d", None), Err(KeepReason::Live("restarting"))),
            (at(ContainerState::Removing, "30d", None), Err(KeepReason::Live("removing"))),
            (at(ContainerState::Other, "30d", Some("2d")), Err(KeepReason::Live("in an unknown state"))),
        ];
        for (container, expected) in table {
            assert_eq!(verdict(container.clone()), expected, "{container:?}");
        }
    }

    #[test]
    fn a_zero_or_future_time_is_never_old() {
        for finished in ["0001-01-01T00:00:00Z", "2999-01-01T00:00:00Z"] {
            let finished = Some(finished.parse().unwrap());
            let odd = Container { state: ContainerState::Exited, finished, ..container() };
            assert_eq!(verdict(odd), Err(KeepReason::AgeUnknown));
        }
    }

    #[test]
    fn labels_and_living_services_protect() {
        let old = Container { state: ContainerState::Exited, finished: ago("9d"), ..container() };
        let kept = Container { labels: labels(&[("keep", "")]), ..old.clone() };
        assert!(matches!(verdict(kept), Err(KeepReason::Label(_))));
        let task =
            Container { labels: labels(&[(SERVICE_ID, "service"), (SERVICE_NAME, "app")]), ..old.clone() };
        assert_eq!(verdict(task), Err(KeepReason::TaskOf("app".into())));
        let gone = Container { labels: labels(&[(SERVICE_ID, "another")]), ..old };
        assert!(verdict(gone).is_ok());
    }

    #[test]
    fn an_ended_container_stays_while_its_compose_project_has_a_running_one() {
        let of = |project: &str, state| Container {
            labels: labels(&[(COMPOSE_PROJECT, project)]),
            state,
            finished: ago("9d"),
            ..container()
        };
        let ended = of("shop", ContainerState::Exited);
        for (state, project, stays) in [
            (ContainerState::Running, "shop", true),
            (ContainerState::Paused, "shop", true),
            (ContainerState::Restarting, "shop", true),
            (ContainerState::Created, "shop", false),
            (ContainerState::Exited, "shop", false),
            (ContainerState::Running, "other", false),
        ] {
            let other = Container { id: "other".into(), ..of(project, state) };
            let inventory = Inventory { containers: vec![ended.clone(), other], ..Inventory::default() };
            let mut plan = Plan::default();
            decide(&inventory, &policy(), now(), &mut plan);
            let kept = plan.keep.iter().find(|kept| kept.id == ended.id).map(|kept| kept.reason.clone());
            let expected = stays.then(|| KeepReason::ComposeProject("shop".into()));
            assert_eq!(kept, expected, "{state:?} in {project}");
        }
    }
}
