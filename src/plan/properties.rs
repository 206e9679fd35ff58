//! No input makes a plan name a tagged, used, labelled, protected or too young object.

use std::cmp::Reverse;
use std::collections::HashSet;
use std::time::Duration;

use proptest::prelude::*;
use regex::Regex;

use super::{Condition, KeepReason, Policy, RemovalReason, Rung, build, images, satisfied};
use crate::facts::{Container, ContainerState, Image, Inventory, Limit, Service};
use crate::ledger::{Entry, Expectation, Ledger, Repository};
use crate::testing::{ago, container, image, labels, now, service, usage};
use crate::units::{Time, elapsed};

/// Times around now, long ago, and those that say nothing.
fn time() -> impl Strategy<Value = Option<Time>> {
    prop_oneof![
        Just(None),
        Just(Some(Time::UNIX_EPOCH)),
        Just(Some("0001-01-01T00:00:00Z".parse().unwrap())),
        (-40_i64..40).prop_map(|days| Some(now() + jiff::SignedDuration::from_hours(days * 12))),
    ]
}

fn an_image(id: u8) -> impl Strategy<Value = Image> {
    (any::<bool>(), any::<bool>(), any::<bool>(), time(), time(), any::<u32>()).prop_map(
        move |(tag, digest, keep, created, last_tagged, size)| Image {
            tags: if tag { vec![format!("app:{id}")] } else { vec![] },
            digests: if digest { vec![format!("app@sha256:d{id}")] } else { vec![] },
            labels: if keep { labels(&[("keep", "x")]) } else { labels(&[]) },
            created,
            last_tagged,
            size: size.into(),
            ..image(&id.to_string())
        },
    )
}

fn a_container(id: u8) -> impl Strategy<Value = Container> {
    let state = prop_oneof![
        Just(ContainerState::Created),
        Just(ContainerState::Running),
        Just(ContainerState::Paused),
        Just(ContainerState::Restarting),
        Just(ContainerState::Removing),
        Just(ContainerState::Exited),
        Just(ContainerState::Dead),
        Just(ContainerState::Other),
    ];
    (state, 0_u8..8, any::<bool>(), any::<bool>(), time(), time()).prop_map(
        move |(state, image, keep, task, created, finished)| Container {
            id: format!("c{id}"),
            image_id: format!("sha256:{image}"),
            labels: labels(
                &[("keep", "x"), ("com.docker.swarm.service.id", "service")]
                    .into_iter()
                    .zip([keep, task])
                    .filter_map(|(label, wanted)| wanted.then_some(label))
                    .collect::<Vec<_>>(),
            ),
            state,
            created,
            finished,
            ..container()
        },
    )
}

prop_compose! {
    fn an_inventory()(
        images in (0..8_u8).map(an_image).collect::<Vec<_>>(),
        containers in (0..4_u8).map(a_container).collect::<Vec<_>>(),
        spec in 0_u8..8,
        previous in proptest::option::of(0_u8..8),
        with_service in any::<bool>(),
    ) -> Inventory {
        let service = Service {
            image: format!("app:x@sha256:d{spec}"),
            previous_image: previous.map(|id| format!("app:y@sha256:d{id}")),
            ..service()
        };
        let services = if with_service { vec![service] } else { vec![] };
        Inventory { containers, images, services, ..Inventory::default() }
    }
}

prop_compose! {
    fn a_ledger()(
        entries in proptest::collection::vec(
            (0_u8..8, time(), time(), time(), any::<bool>(), (0_u8..3, time())),
            0..8,
        ),
        gaps in proptest::collection::vec(1_u64..200, 0..4),
        used in 1_u32..5,
        came_back in 0_u32..5,
    ) -> Ledger {
        let images = entries
            .into_iter()
            .filter_map(|(id, first_seen, last_used, dangling_since, named, (name, used))| {
                let references = used.map(|at| (format!("app:{name}"), at)).into_iter().collect();
                let entry = Entry { last_used, named, dangling_since, references, ..Entry::new(first_seen?) };
                Some((format!("sha256:{id}"), entry))
            })
            .collect();
        let gaps = gaps.into_iter().map(|hours| Duration::from_secs(hours * 3_600)).collect();
        let (newest, last_used) = (ago("3d").unwrap(), now());
        let app = Repository { images: used, came_back, gaps, newest, last_used };
        Ledger { images, repositories: [("app".into(), app)].into(), ..Ledger::default() }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn a_plan_names_only_what_is_not_needed(
        inventory in an_inventory(),
        ledger in a_ledger(),
        older_than in 0_u64..10,
        critical_age in 0_u64..10,
        percent in 0_u64..=100,
        limits in proptest::array::uniform3(0_u8..=100),
        min_free in proptest::option::of(0_u64..1000),
        consent in any::<bool>(),
    ) {
        let days = |days: u64| Duration::from_secs(days * 86_400);
        let mut limits = limits;
        limits.sort_unstable();
        let limit = |n: usize, min_free| Limit { percent: limits[n].to_string().parse().unwrap(), min_free };
        let policy = Policy {
            older_than: days(older_than),
            critical_age: days(critical_age),
            target: limit(0, min_free),
            threshold: limit(1, min_free),
            critical: limit(2, None),
            young_from: limit(2, None),
            critical_target: Limit { percent: limit(2, None).percent.minus(5), min_free: None },
            keep_labels: vec!["keep".parse().unwrap()],
            runs: Regex::new("^run-").unwrap(),
            evict_tagged: if consent { vec![Regex::new("^app:[0-3]$").unwrap()] } else { vec![] },
        };
        let usage = usage(percent);
        let plan = build(&inventory, &ledger, &policy, Some(&usage), now());

        let used: HashSet<&str> = inventory.containers.iter().map(|container| container.image_id.as_str()).collect();
        let named: Vec<&str> = inventory
            .services
            .iter()
            .flat_map(|value| [Some(&value.image), value.previous_image.as_ref()])
            .flatten()
            .filter_map(|value| Some(value.split_once('@')?.1))
            .collect();
        let superseded = ledger.superseded();
        let mut evictions = Vec::new();
        let mut order = Vec::new();
        for removal in &plan.remove {
            order.push(removal.turn());
            if removal.object.kind == crate::facts::Kind::Container {
                let container = inventory.containers.iter().find(|container| container.id == removal.object.id).unwrap();
                prop_assert!(matches!(
                    container.state,
                    ContainerState::Exited | ContainerState::Dead | ContainerState::Created
                ));
                prop_assert!(!container.labels.contains_key("keep"));
                prop_assert!(inventory.services.is_empty() || container.labels.is_empty());
                let since = match container.state {
                    ContainerState::Created => container.created.unwrap(),
                    _ => container.finished.unwrap(),
                };
                prop_assert!(since <= now() && elapsed(now(), since) >= policy.older_than);
                continue;
            }
            let image = inventory.images.iter().find(|image| image.id == removal.object.id).unwrap();
            let consented = |tag: &String| policy.evict_tagged.iter().any(|pattern| pattern.is_match(tag));
            prop_assert!(image.tags.iter().all(consented));
            prop_assert!(!used.contains(image.id.as_str()));
            prop_assert!(!image.labels.contains_key("keep"));
            for reference in &image.digests {
                prop_assert!(!named.contains(&reference.split_once('@').unwrap().1));
            }
            if let RemovalReason::Evicted(eviction) = &removal.reason {
                let idle = elapsed(now(), ledger.images[&image.id].last_used_or_seen());
                let replaced = superseded.contains_key(image.id.as_str());
                let due = images::is_due(&eviction.expected, policy.older_than);
                let least = |rung| match rung {
                    Rung::Target if due => Duration::MAX,
                    Rung::Target => policy.older_than,
                    Rung::Critical => policy.critical_age.min(policy.older_than),
                };
                prop_assert!(idle >= least(eviction.rung) && policy.limit(eviction.rung).is_reached(&usage));
                prop_assert!(policy.begins(eviction.rung).is_reached(&usage));
                // No rung before eviction would do.
                for rung in [Rung::Target, Rung::Critical] {
                    prop_assert!(rung >= eviction.rung || idle < least(rung));
                }
                prop_assert_eq!(matches!(eviction.expected, Expectation::Replaced(_)), replaced);
                evictions.push((eviction.rung, eviction.expected.turn(), Reverse(idle)));
            } else if let Some(created) = image.created.filter(|created| *created <= now()) {
                prop_assert!(elapsed(now(), created) >= policy.older_than);
            }
        }
        prop_assert!(order.is_sorted());
        // By rung, then by the expected next use, then least recently used.
        prop_assert!(evictions.is_sorted());
        // A rung is used up: what stays although it is old enough for a rung stays for want of its limit.
        for kept in &plan.keep {
            if let KeepReason::Cached { last_use, conditions, .. } = &kept.reason {
                let goes = |condition: &Condition| condition.begins.is_reached(&usage) && condition.limit.is_reached(&usage);
                prop_assert!(!satisfied(conditions, *last_use).is_some_and(goes));
            }
        }
        // Every object has exactly one decision.
        let mut decided: Vec<&str> = plan.remove.iter().map(|removal| removal.object.id.as_str()).collect();
        decided.extend(plan.keep.iter().map(|kept| kept.object.id.as_str()));
        decided.sort_unstable();
        let mut all: Vec<&str> = inventory.images.iter().map(|image| image.id.as_str()).collect();
        all.extend(inventory.containers.iter().map(|container| container.id.as_str()));
        all.sort_unstable();
        prop_assert_eq!(decided, all);
    }
}
