//! What an operator can do about a disk that a prune does not relieve, as commands to type.

use std::time::Duration;

use super::text::{amount, usage_line};
use crate::facts::Kind;
use crate::gates::disk::{NEARLY_FULL, Usage};
use crate::gates::{Gate, Verdict, converge, runs};
use crate::plan::{KeepReason, Kept, Plan};
use crate::units::{duration, size};

/// Ages to suggest for `--older-than`, longest first.
const AGES: [Duration; 5] = [
    Duration::from_secs(12 * 3_600),
    Duration::from_secs(6 * 3_600),
    Duration::from_secs(3_600),
    Duration::from_secs(10 * 60),
    Duration::ZERO,
];

/// Where a gate is closed on a disk that is nearly full: why it may stay closed, and what to take down.
///
/// Swarm reports a pull that finds no space as "No such image"; the reason stands in the engine's log only (observed on
/// 20.10 to 29).
pub fn blocked_on_a_full_disk(gates: &[Gate]) -> Option<String> {
    let full = gates.iter().find_map(|gate| match gate {
        Gate::Disk(Verdict::Open(measured) | Verdict::Closed(measured)) => measured.usages.first(),
        _ => None,
    });
    let full = full.filter(|usage| usage.percent.get() >= NEARLY_FULL)?;
    let mut commands = Vec::new();
    let mut waits = false;
    for gate in gates {
        match gate {
            Gate::Runs(Verdict::Closed(found)) => commands.extend(found.iter().filter_map(take_down)),
            Gate::Converge(Verdict::Closed(converge::Closed::Converging(services))) => {
                waits |= services.iter().any(|service| {
                    matches!(
                        service.cause,
                        converge::ConvergeCause::ImageNotFound(_)
                            | converge::ConvergeCause::Pulling
                            | converge::ConvergeCause::Starting
                    )
                });
            }
            _ => {}
        }
    }
    if commands.is_empty() && !waits {
        return None;
    }
    let why = if waits {
        ", and a service that cannot start may wait for space: Swarm reports a pull that finds none as \"No such image\""
    } else {
        ""
    };
    let what = if commands.is_empty() {
        "free space by hand, or remove the service".to_owned()
    } else {
        format!("if no job needs it any more: {}", commands.join("; "))
    };
    Some(format!("{}{why}; {what}", usage_line(full)))
}

fn take_down(run: &runs::Run) -> Option<String> {
    let command = match run.kind {
        runs::RunKind::Stack => "docker stack rm",
        runs::RunKind::Service => "docker service rm",
        runs::RunKind::ComposeProject => {
            return Some(format!("docker compose --project-name {} down", run.name));
        }
        runs::RunKind::Container => "docker rm --force",
        runs::RunKind::Inhibitor => return None,
    };
    Some(format!("{command} {}", run.name))
}

/// What to do about gates that are closed: on a disk that is nearly full, and about services that Swarm has given up.
pub fn on_gates(gates: &[Gate]) -> Vec<String> {
    let mut advice: Vec<String> = blocked_on_a_full_disk(gates).into_iter().collect();
    // Without that gate it is not known what belongs to a run.
    if !gates.iter().any(|gate| matches!(gate, Gate::Runs(_))) {
        return advice;
    }
    let runs: Vec<&str> = gates.iter().flat_map(live_runs).collect();
    let converging = gates.iter().flat_map(|gate| match gate {
        Gate::Converge(Verdict::Closed(converge::Closed::Converging(services))) => services.as_slice(),
        _ => &[],
    });
    // What belongs to a run ends with it.
    let of_run = |service: &converge::ConvergingService| {
        runs.contains(&service.service.as_str())
            || service.stack.as_deref().is_some_and(|stack| runs.contains(&stack))
    };
    let dead = converging.filter(|service| service.gave_up && !of_run(service));
    advice.extend(dead.map(|service| {
        let name = &service.service;
        format!(
            "service {name} blocks prunes until it converges: docker service update --force {name}, or docker service rm {name}"
        )
    }));
    advice
}

/// The names by which the gate tells live runs.
fn live_runs(gate: &Gate) -> Vec<&str> {
    match gate {
        Gate::Runs(Verdict::Closed(found)) => found.iter().map(|run| run.name.as_str()).collect(),
        _ => vec![],
    }
}

/// Why it stays.
pub const SHARED_CACHE: &str = "build cache that the containerd store counts as shared with images";

/// What would free more now, although the policy keeps it.
///
/// `evictable`: is the filesystem that holds the images under pressure, so that a shorter age would evict any?
pub fn free_more(plan: &Plan, evictable: bool) -> Vec<String> {
    let mut lines = Vec::new();
    let idle = |kept: &Kept| match &kept.reason {
        KeepReason::Cached { last_use, .. } => Some(last_use.ago()),
        _ => None,
    };
    let younger = AGES.into_iter().find_map(|age| {
        let sizes = plan.keep.iter().filter(|kept| idle(kept).is_some_and(|idle| idle >= age));
        let (n, bytes) = total(sizes);
        (n > 0).then_some((age, n, bytes))
    });
    if let Some((age, n, bytes)) = younger.filter(|_| evictable) {
        lines.push(format!(
            "ci-docker-prune prune --older-than {}: {} more, at most {}",
            duration(age),
            amount(n, "cached image"),
            size(bytes)
        ));
    }
    let in_use = |kept: &&Kept| {
        matches!(kept.reason, KeepReason::UsedBy(_) | KeepReason::NamedBy(_) | KeepReason::RollbackOf(_))
    };
    let (n, bytes) =
        total(plan.keep.iter().filter(|kept| kept.object.kind != Kind::Container).filter(in_use));
    if n > 0 {
        let images = amount(n, "image");
        lines.push(format!(
            "docker stack rm, docker service rm what need not run: {images} in use, {}",
            size(bytes)
        ));
    }
    if plan.shared_cache > 0 {
        lines.push(format!(
            "docker builder prune --all --filter until=24h: {}, {SHARED_CACHE}",
            size(plan.shared_cache)
        ));
    }
    let (n, bytes) = total(plan.keep.iter().filter(|kept| kept.reason == KeepReason::Tagged));
    if n > 0 {
        let images = amount(n, "tagged image");
        lines.push(format!("docker image rm, or --evict-tagged: {images}, {}", size(bytes)));
    }
    lines
}

fn total<'a>(kept: impl Iterator<Item = &'a Kept>) -> (usize, u64) {
    kept.fold((0, 0), |(n, bytes), kept| (n + 1, bytes.saturating_add(kept.object.size)))
}

/// Why an eviction that freed nothing may have freed nothing.
pub fn freed_nothing(images: usize, bytes: u64, usage: Option<&Usage>) -> String {
    let at = usage.map_or_else(String::new, |usage| format!(": {}", usage_line(usage)));
    format!(
        "evicting {} ({} of their own) freed nothing, so no further cached image was evicted{at}. The filesystem keeps \
         snapshots of them, or a process has their files open",
        amount(images, "cached image"),
        size(bytes)
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gates::disk::{Limit, Measured};
    use crate::plan::LastUse;
    use crate::testing::{CACHED, object, usage};

    fn disk(percent: u64) -> Gate {
        let limit = Limit { percent: "80".parse().unwrap(), min_free: None };
        Gate::Disk(Verdict::Open(Measured { usages: vec![usage(percent)], limit }))
    }

    fn waiting(cause: converge::ConvergeCause) -> Gate {
        let service = converge::ConvergingService {
            service: "shop_web".into(),
            has: 0,
            wants: 1,
            cause,
            gave_up: false,
            stack: Some("shop".into()),
            age: None,
        };
        Gate::Converge(Verdict::Closed(converge::Closed::Converging(vec![service])))
    }

    #[test]
    fn a_full_disk_explains_a_closed_gate_and_names_the_command() {
        let name = "abcd-0123ef_ci_commoninternet_net";
        let run = runs::Run { kind: runs::RunKind::Stack, name: name.into(), age: None, pid: None };
        let run = Gate::Runs(Verdict::Closed(vec![run]));
        let missing = || waiting(converge::ConvergeCause::ImageNotFound(None));
        let text = blocked_on_a_full_disk(&[disk(99), run.clone(), missing()]).unwrap();
        for part in ["/ is at 99%", "No such image", &format!("docker stack rm {name}")] {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert!(blocked_on_a_full_disk(&[disk(99), missing()]).unwrap().contains("free space"));
        assert_eq!(blocked_on_a_full_disk(&[disk(85), run, missing()]), None);
        assert_eq!(blocked_on_a_full_disk(&[disk(99), waiting(converge::ConvergeCause::Updating)]), None);
    }

    #[test]
    fn the_advice_for_a_full_disk_begins_at_95_percent_and_names_what_can_be_taken_down() {
        let run = |kind, name: &str| runs::Run { kind, name: name.into(), age: None, pid: None };
        let runs = Gate::Runs(Verdict::Closed(vec![
            run(runs::RunKind::Stack, "a"),
            run(runs::RunKind::Service, "b"),
            run(runs::RunKind::ComposeProject, "c"),
            run(runs::RunKind::Container, "d"),
            run(runs::RunKind::Inhibitor, "deploy"),
        ]));
        assert_eq!(blocked_on_a_full_disk(&[disk(94), runs.clone()]), None);
        assert_eq!(
            blocked_on_a_full_disk(&[disk(95), runs]).unwrap().split_once(": ").unwrap().1,
            "docker stack rm a; docker service rm b; docker compose --project-name c down; docker rm --force d"
        );
        let only = |kind| Gate::Runs(Verdict::Closed(vec![run(kind, "x")]));
        assert_eq!(blocked_on_a_full_disk(&[disk(99), only(runs::RunKind::Inhibitor)]), None);
        for (cause, waits) in [
            (converge::ConvergeCause::Pulling, true),
            (converge::ConvergeCause::Starting, true),
            (converge::ConvergeCause::ImageNotFound(None), true),
            (converge::ConvergeCause::CrashLooping(None), false),
            (converge::ConvergeCause::RollingBack, false),
        ] {
            let text =
                blocked_on_a_full_disk(&[disk(95), only(runs::RunKind::Stack), waiting(cause)]).unwrap();
            assert_eq!(text.contains("No such image"), waits, "{text}");
        }
        // Whichever way the gate stands; where it could not be measured there is nothing to say.
        let limit = Limit { percent: "99".parse().unwrap(), min_free: None };
        let closed = Gate::Disk(Verdict::Closed(Measured { usages: vec![usage(96)], limit }));
        assert!(blocked_on_a_full_disk(&[closed, only(runs::RunKind::Stack)]).is_some());
        let unknown = Gate::disk_unavailable(crate::facts::Unavailable("x".into()));
        assert_eq!(blocked_on_a_full_disk(&[unknown, only(runs::RunKind::Stack)]), None);
    }

    #[test]
    fn a_service_that_swarm_has_given_up_is_named_unless_a_run_owns_it() {
        let open = Gate::Runs(Verdict::Open(()));
        let service = |gave_up, stack: Option<&str>| {
            let mut gate = waiting(converge::ConvergeCause::Failed(None));
            if let Gate::Converge(Verdict::Closed(converge::Closed::Converging(services))) = &mut gate {
                services[0].gave_up = gave_up;
                services[0].stack = stack.map(str::to_owned);
            }
            gate
        };
        let run = |name: &str| {
            let run = runs::Run { kind: runs::RunKind::Stack, name: name.into(), age: None, pid: None };
            Gate::Runs(Verdict::Closed(vec![run]))
        };
        let advice = |gates: &[Gate]| on_gates(gates).len();
        assert_eq!(
            on_gates(&[open.clone(), service(true, Some("shop"))]),
            [
                "service shop_web blocks prunes until it converges: docker service update --force shop_web, or \
              docker service rm shop_web"
            ]
        );
        assert_eq!(advice(&[open.clone(), service(false, None)]), 0, "Swarm still starts it");
        assert_eq!(advice(&[run("shop"), service(true, Some("shop"))]), 0, "it ends with its stack's run");
        assert_eq!(advice(&[run("shop_web"), service(true, None)]), 0, "it is the run");
        assert_eq!(advice(&[run("other"), service(true, Some("shop"))]), 1);
        assert_eq!(advice(&[service(true, None)]), 0, "without runs it is not known whose it is");
        assert_eq!(advice(&[disk(99), run("other"), service(true, None)]), 2, "and the disk is full");
        let restoring = Gate::Converge(Verdict::Closed(converge::Closed::EngineRestoring(1)));
        assert_eq!(advice(&[open, restoring]), 0);
    }

    #[test]
    fn what_would_free_more_is_told_by_why_it_stays() {
        let kept = |kind, reason| Kept {
            object: crate::facts::Object { size: 1_000_000, ..object(kind, "") },
            reason,
        };
        let image = |reason| kept(CACHED, reason);
        let keep = vec![
            image(KeepReason::UsedBy("x".into())),
            image(KeepReason::NamedBy("x".into())),
            image(KeepReason::RollbackOf("x".into())),
            kept(Kind::Container, KeepReason::UsedBy("no image".into())),
            image(KeepReason::Tagged),
            image(KeepReason::DiskUnknown),
        ];
        let lines = free_more(&Plan { keep, shared_cache: 5_000_000, ..Plan::default() }, true);
        assert_eq!(
            lines,
            [
                "docker stack rm, docker service rm what need not run: 3 images in use, 3.0 MB",
                "docker builder prune --all --filter until=24h: 5.0 MB, build cache that the containerd store \
                 counts as shared with images",
                "docker image rm, or --evict-tagged: 1 tagged image, 1.0 MB",
            ]
        );
        let nothing = freed_nothing(2, 3_000_000, None);
        assert!(
            nothing.starts_with("evicting 2 cached images (3.0 MB of their own) freed nothing"),
            "{nothing}"
        );
        assert!(freed_nothing(2, 0, Some(&usage(85))).contains("evicted: / is at 85%"));
    }

    #[test]
    fn the_longest_age_that_frees_something_is_suggested() {
        let kept = |hours: u64| Kept {
            object: crate::facts::Object { size: 1_000_000, ..object(CACHED, "") },
            reason: KeepReason::Cached {
                last_use: LastUse::Used(Duration::from_secs(hours * 3_600)),
                conditions: vec![],
                satisfied: None,
            },
        };
        let plan = Plan { keep: vec![kept(7), kept(2), kept(8)], ..Plan::default() };
        let expected = "ci-docker-prune prune --older-than 6h: 2 cached images more, at most 2.0 MB";
        assert_eq!(free_more(&plan, true), [expected]);
        assert_eq!(free_more(&plan, false), Vec::<String>::new());
        assert_eq!(free_more(&Plan::default(), true), Vec::<String>::new());
        // An age that an image has exactly is one that it has.
        let plan = Plan { keep: vec![kept(12)], ..Plan::default() };
        assert!(free_more(&plan, true)[0].contains("--older-than 12h: 1 cached image more"));
    }
}
