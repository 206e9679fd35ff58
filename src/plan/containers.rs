//! Which containers go: those that ended or never started, long enough ago.

use std::collections::HashSet;
use std::time::Duration;

use regex::Regex;

use super::{KeepReason, Kept, Plan, Policy, Removal, RemovalReason};
use crate::facts::label::{SERVICE_ID, SERVICE_NAME, compose_project};
use crate::facts::{Container, ContainerState, Inventory, Object};
use crate::ledger::Ledger;
use crate::units::Time;

/// What may still need a container that has ended.
struct Owners<'a> {
    services: HashSet<&'a str>,
    /// Compose projects with a container that runs, or is about to.
    projects: HashSet<&'a str>,
    /// The Compose projects of these names end with their run; any other is started again (`docker compose start`).
    runs: &'a Regex,
}

impl<'a> Owners<'a> {
    fn new(inventory: &'a Inventory, policy: &'a Policy) -> Self {
        // Otherwise a project whose containers were all created but never started would protect itself.
        let runs =
            |container: &&Container| container.state.is_live() && container.state != ContainerState::Created;
        let running = inventory.containers.iter().filter(runs);
        Self {
            services: inventory.services.iter().map(|service| service.id.as_str()).collect(),
            projects: running.filter_map(|container| compose_project(&container.labels)).collect(),
            runs: &policy.runs,
        }
    }

    fn of(&self, container: &Container) -> Option<KeepReason> {
        let label = |name: &str| container.labels.get(name);
        if let Some(id) = label(SERVICE_ID).filter(|id| self.services.contains(id.as_str())) {
            return Some(KeepReason::TaskOf(label(SERVICE_NAME).unwrap_or(id).clone()));
        }
        let stays = |name: &&str| self.projects.contains(name) || !self.runs.is_match(name);
        let project = compose_project(&container.labels).filter(stays);
        let by_project = project.map(|name| KeepReason::ComposeProject(name.to_owned()));
        by_project.or_else(|| builder(container).map(|name| KeepReason::Builder(name.to_owned())))
    }
}

/// The BuildKit builder of a container whose volume, with the build cache, is there: the engine removes no volume that a
/// container has. Its nodes are named `NAME0`, `NAME1` and so on (docker/buildx: `store.NodeGroup.nextNodeName`).
fn builder(container: &Container) -> Option<&str> {
    let is_state = |name: &&String| container.volumes.contains(&format!("{name}_state"));
    let node =
        container.names.iter().filter(is_state).find_map(|name| name.strip_prefix("buildx_buildkit_"))?;
    Some(node.strip_suffix(|last: char| last.is_ascii_digit()).unwrap_or(node))
}

pub(super) fn decide(inventory: &Inventory, ledger: &Ledger, policy: &Policy, now: Time, plan: &mut Plan) {
    let owners = Owners::new(inventory, policy);
    for container in &inventory.containers {
        let unread = inventory.is_unread(&container.id);
        let old_enough = |since| old_enough(since, ledger, policy, now);
        let (object, finished) = (Object::from(container), container.finished);
        match decide_container(container, &owners, unread, policy, old_enough) {
            Ok(reason) => plan.remove.push(Removal { object, frees: None, finished, reason }),
            Err(reason) => plan.keep.push(Kept { object, reason }),
        }
    }
}

/// Everything that keeps a container whatever its age.
pub(super) fn protections(container: &Container, inventory: &Inventory, policy: &Policy) -> Vec<KeepReason> {
    let live =
        !matches!(container.state, ContainerState::Exited | ContainerState::Dead | ContainerState::Created);
    let label = policy.kept_by(&container.labels).map(|label| KeepReason::Label(label.clone()));
    let live = live.then(|| KeepReason::Live(container.state.name()));
    let restarts = restarts(container).map(|policy| KeepReason::RestartPolicy(policy.to_owned()));
    let owner = Owners::new(inventory, policy).of(container);
    live.into_iter().chain(label).chain(owner).chain(restarts).collect()
}

/// A restart policy by which the engine restarts a container after any exit: it is not a finished job.
fn restarts(container: &Container) -> Option<&str> {
    container.restart_policy.as_deref().filter(|policy| ["always", "unless-stopped"].contains(policy))
}

/// The containers that the engine must be asked about, for their end and their restart policy: those that nothing
/// else keeps. Each was created before it finished, and one that was created recently is too young in any case.
pub fn wanting_inspection<'a>(
    inventory: &'a Inventory,
    ledger: &'a Ledger,
    policy: &'a Policy,
    now: Time,
) -> impl Iterator<Item = &'a Container> {
    let owners = Owners::new(inventory, policy);
    inventory.containers.iter().filter(move |container| {
        let ended = [ContainerState::Exited, ContainerState::Dead, ContainerState::Created];
        ended.contains(&container.state)
            && policy.kept_by(&container.labels).is_none()
            && owners.of(container).is_none()
            && old_enough(container.created, ledger, policy, now).is_ok()
    })
}

fn decide_container(
    container: &Container,
    owners: &Owners,
    unread: bool,
    policy: &Policy,
    old_enough: impl Fn(Option<Time>) -> Result<Duration, KeepReason>,
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
    // A container cannot have ended before it was created: the later time counts.
    old_enough(container.created)?;
    if let Some(policy) = restarts(container) {
        return Err(KeepReason::RestartPolicy(policy.to_owned()));
    }
    old_enough(since).map(why)
}

/// The age since then, if it is old enough: no more than the ledger observed, so that neither a clock that jumps nor a host
/// that was off makes a container old. A zero, future or absent time is never old.
fn old_enough(
    since: Option<Time>,
    ledger: &Ledger,
    policy: &Policy,
    now: Time,
) -> Result<Duration, KeepReason> {
    let since =
        since.filter(|since| (Time::UNIX_EPOCH..=now).contains(since)).ok_or(KeepReason::AgeUnknown)?;
    let age = ledger.age(since, now);
    if age < policy.older_than { Err(KeepReason::TooYoung(age, policy.older_than)) } else { Ok(age) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::{Observations, Reading};
    use crate::testing::{ago, container, labels, now, policy, service};

    fn verdict(container: Container) -> Result<RemovalReason, KeepReason> {
        let inventory =
            Inventory { containers: vec![container], services: vec![service()], ..Inventory::default() };
        let mut plan = Plan::default();
        decide(&inventory, &Ledger::default(), &policy(), now(), &mut plan);
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
    fn a_container_that_was_never_started_is_judged_like_one_that_ended() {
        let created = Container { state: ContainerState::Created, created: ago("30d"), ..container() };
        let unread = super::super::Unread {
            kind: crate::facts::Kind::Container,
            id: created.id.clone(),
            why: crate::facts::Unavailable("500".into()),
        };
        let inventory =
            Inventory { containers: vec![created.clone()], unread: vec![unread], ..Inventory::default() };
        let mut plan = Plan::default();
        decide(&inventory, &Ledger::default(), &policy(), now(), &mut plan);
        assert_eq!(plan.keep[0].reason, KeepReason::Unread);
        // Nothing protects it, as `explain` says too.
        assert_eq!(protections(&created, &Inventory::default(), &policy()), []);
        let running = Container { state: ContainerState::Running, ..created.clone() };
        assert_eq!(protections(&running, &Inventory::default(), &policy()), [KeepReason::Live("running")]);
        // None can have ended before it was made.
        let made = Container {
            state: ContainerState::Exited,
            created: ago("1h"),
            finished: ago("30d"),
            ..container()
        };
        assert!(matches!(verdict(made), Err(KeepReason::TooYoung(..))));
    }

    #[test]
    fn neither_a_clock_that_jumps_nor_a_host_that_was_off_makes_a_container_old() {
        let days = |days: i64| jiff::SignedDuration::from_hours(24 * days);
        let reading = |wall, boot: &str, since_boot| Reading {
            wall,
            boot_id: Some(boot.into()),
            since_boot: Some(Duration::from_secs(since_boot)),
        };
        let ended = |created, finished: &str| Container {
            state: ContainerState::Exited,
            created: ago(created),
            finished: ago(finished),
            ..container()
        };
        let created = |at| Container { state: ContainerState::Created, created: ago(at), ..container() };
        let jumps = [
            ("the clock is two days ahead", reading(now() + days(2), "a", 1_060)),
            ("the host was off for 60 hours", reading(now() + days(2) + days(1) / 2, "b", 20)),
        ];
        for (what, later) in jumps {
            let mut ledger = Ledger::default();
            ledger.advance(reading(now(), "a", 1_000));
            ledger.record(&Observations::default(), now());
            ledger.advance(later.clone());
            // As a prune plans: what is there was noted just before.
            for noted in [false, true] {
                for (container, goes) in [
                    (ended("2h", "5m"), false),
                    (ended("2d", "22h"), false),
                    (ended("3d", "2d"), true),
                    (created("2h"), false),
                    (created("2d"), true),
                ] {
                    let is_old = container.created < ago("1d");
                    let inventory = Inventory { containers: vec![container], ..Inventory::default() };
                    let policy = policy();
                    let asked = wanting_inspection(&inventory, &ledger, &policy, later.wall).count();
                    assert_eq!(asked == 1, is_old, "{what}");
                    let mut plan = Plan::default();
                    decide(&inventory, &ledger, &policy, later.wall, &mut plan);
                    assert_eq!(plan.remove.len() == 1, goes, "{what}, noted: {noted}: {:?}", plan.keep);
                }
                ledger.record(&Observations::default(), later.wall);
            }
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
    fn a_container_of_a_compose_project_stays_unless_that_is_a_run_with_nothing_live() {
        use crate::testing::RUN;
        let of = |project: &str, state| Container {
            labels: labels(&[
                ("com.docker.compose.project", project),
                ("com.docker.compose.config-hash", "01"),
            ]),
            state,
            finished: ago("9d"),
            ..container()
        };
        for (project, state, other, stays) in [
            (RUN, ContainerState::Running, RUN, true),
            (RUN, ContainerState::Paused, RUN, true),
            (RUN, ContainerState::Restarting, RUN, true),
            (RUN, ContainerState::Created, RUN, false),
            (RUN, ContainerState::Exited, RUN, false),
            (RUN, ContainerState::Running, "other", false),
            ("shop", ContainerState::Running, "shop", true),
            ("shop", ContainerState::Exited, "shop", true),
            ("shop", ContainerState::Running, "other", true),
        ] {
            let ended = of(project, ContainerState::Exited);
            let beside = Container { id: "other".into(), ..of(other, state) };
            let inventory = Inventory { containers: vec![ended.clone(), beside], ..Inventory::default() };
            let mut plan = Plan::default();
            decide(&inventory, &Ledger::default(), &policy(), now(), &mut plan);
            let kept =
                plan.keep.iter().find(|kept| kept.object.id == ended.id).map(|kept| kept.reason.clone());
            let expected = stays.then(|| KeepReason::ComposeProject(project.into()));
            assert_eq!(kept, expected, "{project} beside {state:?} of {other}");
        }
        // Compose bakes the project into the images that it builds.
        let labels = labels(&[("com.docker.compose.project", "shop"), ("com.docker.compose.service", "web")]);
        let built = Container { labels, ..of("shop", ContainerState::Exited) };
        assert!(verdict(built).is_ok());
    }

    #[test]
    fn a_container_that_the_engine_starts_again_is_no_finished_job() {
        for (state, restart_policy, stays) in [
            (ContainerState::Exited, Some("always"), true),
            (ContainerState::Exited, Some("unless-stopped"), true),
            (ContainerState::Dead, Some("always"), true),
            (ContainerState::Created, Some("always"), true),
            (ContainerState::Exited, Some("on-failure"), false),
            (ContainerState::Exited, Some("no"), false),
            (ContainerState::Exited, Some(""), false),
            (ContainerState::Created, Some("no"), false),
        ] {
            let restart_policy = restart_policy.map(str::to_owned);
            let ended = Container { state, restart_policy, finished: ago("9d"), ..container() };
            let expected = ended.restart_policy.clone().filter(|_| stays).map(KeepReason::RestartPolicy);
            assert_eq!(verdict(ended).err(), expected, "{state:?} {expected:?}");
        }
    }

    #[test]
    fn the_container_of_a_builder_stays_as_long_as_its_volume_is_there() {
        let of = |name: &str, volumes: &[&str]| Container {
            names: vec![name.into()],
            volumes: volumes.iter().map(|&name| name.to_owned()).collect(),
            state: ContainerState::Exited,
            finished: ago("9d"),
            ..container()
        };
        let table = [
            ("buildx_buildkit_ci0", "buildx_buildkit_ci0_state", Some("ci")),
            ("buildx_buildkit_builder-1f20", "buildx_buildkit_builder-1f20_state", Some("builder-1f2")),
            ("buildx_buildkit_mine", "buildx_buildkit_mine_state", Some("mine")),
            ("buildx_buildkit_ci0", "data", None),
            ("buildx_buildkit_ci0", "buildx_buildkit_other0_state", None),
            ("db", "db_state", None),
        ];
        for (name, volume, builder) in table {
            let expected = builder.map(|builder| KeepReason::Builder(builder.into()));
            assert_eq!(verdict(of(name, &[volume])).err(), expected, "{name} {volume}");
        }
    }
}
