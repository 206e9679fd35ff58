//! What an operator can do about a disk that a prune does not relieve, as commands to type.

use std::borrow::Cow;
use std::time::Duration;

use super::reason::{converging_line, run_line, usage_line};
use super::table::amount;
use crate::facts::{ImageClass, Kind, Mode, Usage};
use crate::gates::{GateState, Gates, converge, runs};
use crate::ledger::Busy;
use crate::plan::images::is_due;
use crate::plan::{KeepReason, Kept, Plan};
use crate::units::{age, duration, size};

/// From this usage on a disk counts as full: the default of `--disk-critical`, percent.
const NEARLY_FULL: u8 = 95;

/// What closes a gate for so long gets the command that ends it; on a disk that is nearly full much sooner.
const OLD: Duration = Duration::from_secs(86_400);
const OLD_ON_A_FULL_DISK: Duration = Duration::from_secs(600);

/// Ages to suggest for `--older-than`, longest first.
const AGES: [Duration; 4] = [
    Duration::from_secs(12 * 3_600),
    Duration::from_secs(6 * 3_600),
    Duration::from_secs(3_600),
    Duration::from_secs(10 * 60),
];

/// What to do about gates that have been closed for long: a command for each that closes one.
///
/// Swarm reports a pull that finds no space as "No such image"; the reason is in the engine's log only (observed on
/// 20.10 to 29).
pub fn on_gates(gates: &Gates) -> Vec<String> {
    use converge::ConvergeCause::{ImageNotFound, NoSpace, Pulling, Starting};
    let full = gates.usages().first().filter(|usage| usage.percent.get() >= NEARLY_FULL);
    let old = if full.is_some() { OLD_ON_A_FULL_DISK } else { OLD };
    let waits_for_space = |service: &converge::ConvergingService| {
        matches!(service.cause, ImageNotFound(_) | NoSpace(_) | Pulling | Starting)
    };
    // On a full disk a run may wait for the space that only its own end makes.
    let waits = |run: &runs::Run| {
        let owns = |service: &&converge::ConvergingService| {
            service.service == run.name || service.stack.as_deref() == Some(&run.name)
        };
        full.is_some() && converging(gates).iter().filter(owns).any(waits_for_space)
    };
    let mut lines: Vec<String> = live_runs(gates)
        .filter(|run| run.age.is_some_and(|age| age >= old) || waits(run))
        .filter_map(|run| Some(format!("{}  # if no job needs it: {}", take_down(run)?, run_line(run))))
        .collect();
    // While `runs` is unknown it is not known which services belong to a run.
    if gates.runs.state() == GateState::Unknown {
        return lines;
    }
    let runs: Vec<&str> = live_runs(gates).map(|run| run.name.as_str()).collect();
    // What belongs to a run ends with it.
    let of_run = |service: &&converge::ConvergingService| {
        runs.contains(&service.service.as_str())
            || service.stack.as_deref().is_some_and(|stack| runs.contains(&stack))
    };
    let blocking = || converging(gates).iter().filter(|service| !of_run(service));
    let dead = blocking().filter(|service| service.gave_up || service.lasting >= old);
    lines.extend(dead.map(|service| format!("{}: {}", stop(service), converging_line(service))));
    if let Some(full) = full.filter(|_| converging(gates).iter().any(waits_for_space)) {
        lines.push(format!(
            "{}: a service that cannot start may wait for space; Swarm reports a pull that finds none as \"No such image\"",
            usage_line(full)
        ));
    }
    lines
}

fn live_runs(gates: &Gates) -> impl Iterator<Item = &runs::Run> {
    runs::found(&gates.runs).into_iter().flat_map(runs::Found::live)
}

fn converging(gates: &Gates) -> &[converge::ConvergingService] {
    converge::unconverged(&gates.converge).unwrap_or_default().0
}

/// What closes no gate any more although it is there, with the command that ends it.
pub fn let_go(gates: &Gates) -> Vec<String> {
    let runs = runs::found(&gates.runs).into_iter().flat_map(runs::Found::let_go).map(|run| {
        let why = match run.state {
            runs::RunState::NeverStarted => "was created and never started",
            runs::RunState::Live | runs::RunState::Abandoned => "is abandoned (--run-max-age)",
        };
        let command = take_down(run).unwrap_or_default();
        format!("{} {why} and closes no gate; if no job needs it: {command}", run_line(run))
    });
    let (_, stuck) = converge::unconverged(&gates.converge).unwrap_or_default();
    let services = stuck.iter().map(|service| {
        let converging = converging_line(service);
        let lasting = age(service.lasting);
        let command = stop(service);
        format!(
            "{converging} is stuck, not converged for {lasting} (--converge-max-age), and closes no gate: {command}"
        )
    });
    runs.chain(services).collect()
}

/// How long runs were live over the last day, and what to do where there is hardly a gap.
pub fn busy(busy: Busy) -> String {
    if busy.seen.is_zero() {
        return "for how long runs are live is not known yet".into();
    }
    let line =
        format!("runs were live for {} of the last {} that were looked at", age(busy.busy), age(busy.seen));
    if !busy.is_never_idle() {
        return line;
    }
    format!(
        "{line}: this host is never idle. Wrap runs in ci-docker-prune inhibit, so that prunes get their turn, or set during-runs \
         = \"critical\""
    )
}

/// What opens the gate that this service closes.
fn stop(service: &converge::ConvergingService) -> String {
    let name = shell(&service.service);
    if service.cause == converge::ConvergeCause::Updating {
        return format!("docker service rollback {name}  # ends the update");
    }
    match service.mode {
        Mode::Replicated { replicas } => {
            format!("docker service scale {name}=0  # opens the gate; undo with {name}={replicas}")
        }
        Mode::Global | Mode::GlobalJob | Mode::ReplicatedJob { .. } => {
            format!("docker service rm {name}  # opens the gate")
        }
    }
}

fn take_down(run: &runs::Run) -> Option<String> {
    let name = shell(&run.name);
    Some(match run.kind {
        runs::RunKind::Stack => format!("docker stack rm {name}"),
        runs::RunKind::Service => format!("docker service rm {name}"),
        runs::RunKind::ComposeProject => format!("docker compose --project-name {name} down"),
        runs::RunKind::Container => format!("docker rm --force {name}"),
        // It passes the signal on to its command.
        runs::RunKind::Inhibitor => format!("kill {}", run.pid?),
    })
}

/// A word of a command line. Names come from labels, which may hold anything.
fn shell(word: &str) -> Cow<'_, str> {
    shlex::try_quote(word).unwrap_or(Cow::Borrowed("''"))
}

pub const SHARED_CACHE: &str = "build cache that the containerd store counts as shared with images";

/// Commands that would free more, beyond the policy.
///
/// `evictable`: whether the filesystem that holds the images is under pressure, so that a shorter age would evict
/// more.
pub fn free_more(plan: &Plan, gates: &Gates, evictable: bool) -> Vec<String> {
    let mut lines = Vec::new();
    let younger = AGES.into_iter().find_map(|age| {
        let goes = |kept: &&Kept| match &kept.reason {
            KeepReason::Cached { last_use, expected, .. } => last_use.ago() >= age && !is_due(expected, age),
            _ => false,
        };
        let (n, bytes) = total(plan.keep.iter().filter(goes));
        (n > 0).then_some((age, n, bytes))
    });
    if let Some((age, n, bytes)) = younger.filter(|_| evictable) {
        // That age is of everything that goes.
        let is_of_age = |kept: &Kept| matches!(kept.reason, KeepReason::TooYoung(is, _) if is >= age);
        let of_kind = |kind| {
            let n = plan.keep.iter().filter(|kept| kept.object.kind == kind && is_of_age(kept)).count();
            (n > 0).then_some(n)
        };
        let mut what = vec![amount(n, "cached image")];
        what.extend(of_kind(Kind::Container).map(|n| amount(n, "ended container")));
        what.extend(of_kind(Kind::Image(ImageClass::Dangling)).map(|n| amount(n, "dangling image")));
        lines.push(format!(
            "ci-docker-prune prune --older-than {}: {} more, at most {}",
            duration(age),
            what.join(", "),
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
        let command = match gates.converge {
            converge::Verdict::Open(converge::Open::NotInSwarm) => "docker compose down or docker rm",
            _ => "docker stack rm or docker service rm",
        };
        lines.push(format!("{command}, for what need not run: {images} in use, {}", size(bytes)));
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

/// Evictions that freed nothing, and the possible causes.
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
    use crate::facts::Limit;
    use crate::gates::Verdict;
    use crate::gates::disk::Measured;
    use crate::ledger::Expectation;
    use crate::plan::LastUse;
    use crate::testing::{CACHED, gates, object, usage};

    fn runs_of(found: Vec<runs::Run>, gates: Gates) -> Gates {
        Gates { runs: Verdict::Closed(runs::Found { runs: found, ..Default::default() }), ..gates }
    }

    fn waiting(cause: converge::ConvergeCause, gates: Gates) -> Gates {
        let service = converge::ConvergingService {
            service: "shop_web".into(),
            has: 0,
            wants: 1,
            cause,
            gave_up: false,
            stack: Some("shop".into()),
            mode: Mode::Replicated { replicas: 1 },
            age: None,
            lasting: Duration::from_secs(90_000),
            id: "id".into(),
        };
        Gates {
            converge: Verdict::Closed(converge::Closed::Converging {
                converging: vec![service],
                stuck: vec![],
            }),
            ..gates
        }
    }

    fn run(kind: runs::RunKind, name: &str) -> runs::Run {
        runs::Run { kind, name: name.into(), age: None, pid: None, user: None, state: runs::RunState::Live }
    }

    #[test]
    fn what_closes_a_gate_for_long_is_named_with_the_command_that_ends_it() {
        let of_age = |minutes: u64| {
            let age = Some(Duration::from_secs(minutes * 60));
            let run = |kind, name| runs::Run { age, pid: Some(2825), ..run(kind, name) };
            vec![
                run(runs::RunKind::Stack, "a"),
                run(runs::RunKind::Service, "b"),
                run(runs::RunKind::ComposeProject, "c; rm -rf /"),
                run(runs::RunKind::Container, "d"),
                run(runs::RunKind::Inhibitor, "deploy"),
            ]
        };
        let advice = |percent, minutes| on_gates(&runs_of(of_age(minutes), gates(percent)));
        for (percent, minutes, n) in [(85, 1_439, 0), (85, 1_440, 5), (95, 9, 0), (95, 10, 5), (94, 10, 0)] {
            assert_eq!(advice(percent, minutes).len(), n, "{percent} {minutes}");
        }
        assert_eq!(
            advice(85, 1_440),
            [
                "docker stack rm a  # if no job needs it: stack a (for 24h, possibly stale)",
                "docker service rm b  # if no job needs it: service b (for 24h, possibly stale)",
                "docker compose --project-name 'c; rm -rf /' down  # if no job needs it: compose project c; rm -rf / (for 24h, possibly \
                 stale)",
                "docker rm --force d  # if no job needs it: container d (for 24h, possibly stale)",
                "kill 2825  # if no job needs it: inhibited by process 2825 'deploy' (for 24h)",
            ]
        );
    }

    #[test]
    fn a_run_that_may_wait_for_space_is_named_at_once_on_a_full_disk() {
        let young = |percent| {
            let run = runs::Run { age: Some(Duration::ZERO), ..run(runs::RunKind::Stack, "shop") };
            on_gates(&runs_of(vec![run], waiting(converge::ConvergeCause::Pulling, gates(percent))))
        };
        assert!(young(95)[0].starts_with("docker stack rm shop  # "), "{:?}", young(95));
        assert_eq!(young(94), Vec::<String>::new());
    }

    #[test]
    fn on_a_full_disk_a_service_that_cannot_start_may_wait_for_space() {
        for (cause, waits) in [
            (converge::ConvergeCause::Pulling, true),
            (converge::ConvergeCause::Starting, true),
            (converge::ConvergeCause::ImageNotFound(None), true),
            (converge::ConvergeCause::NoSpace("x".into()), true),
            (converge::ConvergeCause::CrashLooping(None), false),
            (converge::ConvergeCause::RollingBack, false),
        ] {
            let advice = |percent| on_gates(&waiting(cause.clone(), gates(percent)));
            let says = |lines: &[String]| lines.iter().any(|line| line.contains("No such image"));
            assert_eq!(says(&advice(95)), waits, "{cause:?}");
            assert!(!says(&advice(94)), "{cause:?}");
            assert!(
                advice(94)[0]
                    .starts_with("docker service scale shop_web=0  # opens the gate; undo with shop_web=1")
            );
        }
        // Whichever way the gate stands; where it could not be measured the disk says nothing.
        let limit = Limit { percent: "99".parse().unwrap(), min_free: None };
        let closed = Verdict::Closed(Measured { usages: vec![usage(96)], limit });
        let unknown = Verdict::Unknown(crate::facts::Unavailable("x".into()).into());
        let pulling = waiting(converge::ConvergeCause::Pulling, gates(96));
        assert_eq!(on_gates(&Gates { disk: closed, ..pulling.clone() }).len(), 2);
        assert_eq!(on_gates(&Gates { disk: unknown, ..pulling }).len(), 1);
    }

    #[test]
    fn what_is_let_go_is_named_with_the_command_that_ends_it() {
        let mut gates = runs_of(
            vec![
                runs::Run { state: runs::RunState::Abandoned, ..run(runs::RunKind::Stack, "a") },
                runs::Run { state: runs::RunState::NeverStarted, ..run(runs::RunKind::Container, "d") },
                run(runs::RunKind::Stack, "live"),
            ],
            waiting(converge::ConvergeCause::CrashLooping(None), gates(85)),
        );
        if let Verdict::Closed(converge::Closed::Converging { converging, stuck }) = &mut gates.converge {
            stuck.append(converging);
        }
        assert_eq!(
            let_go(&gates),
            [
                "stack a is abandoned (--run-max-age) and closes no gate; if no job needs it: docker stack rm a",
                "container d was created and never started and closes no gate; if no job needs it: docker rm --force d",
                "service shop_web 0/1 (crash-looping) is stuck, not converged for 25h (--converge-max-age), and closes no \
                 gate: docker service scale shop_web=0  # opens the gate; undo with shop_web=1",
            ]
        );
    }

    #[test]
    fn a_service_that_swarm_has_given_up_is_named_unless_a_run_owns_it() {
        let service = |gave_up, stack: Option<&str>, percent| {
            let mut gates = waiting(converge::ConvergeCause::Failed(None), gates(percent));
            if let Verdict::Closed(converge::Closed::Converging { converging, .. }) = &mut gates.converge {
                converging[0].gave_up = gave_up;
                converging[0].lasting = Duration::ZERO;
                converging[0].stack = stack.map(str::to_owned);
            }
            gates
        };
        let with_run = |name: &str, gates| runs_of(vec![run(runs::RunKind::Stack, name)], gates);
        let advice = |gates: Gates| on_gates(&gates).len();
        assert_eq!(
            on_gates(&service(true, Some("shop"), 85)),
            [
                "docker service scale shop_web=0  # opens the gate; undo with shop_web=1: service shop_web 0/1 (failed; Swarm will not start it again)"
            ]
        );
        assert_eq!(advice(service(false, None, 85)), 0, "Swarm still starts it");
        assert_eq!(
            advice(with_run("shop", service(true, Some("shop"), 85))),
            0,
            "it ends with its stack's run"
        );
        assert_eq!(advice(with_run("shop_web", service(true, None, 85))), 0, "it is the run");
        assert_eq!(advice(with_run("other", service(true, Some("shop"), 85))), 1);
        let runs = Verdict::Unknown(crate::facts::Unavailable("x".into()));
        let unknown = Gates { runs, ..service(true, None, 85) };
        assert_eq!(advice(unknown), 0, "without runs it is not known whose it is");
        let mut global = service(true, None, 85);
        if let Verdict::Closed(converge::Closed::Converging { converging, .. }) = &mut global.converge {
            converging[0].mode = Mode::Global;
        }
        assert!(on_gates(&global)[0].starts_with("docker service rm shop_web  # opens the gate: "));
        let restoring = Verdict::Closed(converge::Closed::EngineRestoring(1));
        assert_eq!(advice(Gates { converge: restoring, ..gates(85) }), 0);
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
        let lines = free_more(&Plan { keep, shared_cache: 5_000_000, ..Plan::default() }, &gates(85), true);
        assert_eq!(
            lines,
            [
                "docker stack rm or docker service rm, for what need not run: 3 images in use, 3.0 MB",
                "docker builder prune --all --filter until=24h: 5.0 MB, build cache that the containerd store \
                 counts as shared with images",
                "docker image rm, or --evict-tagged: 1 tagged image, 1.0 MB",
            ]
        );
        let keep = vec![image(KeepReason::UsedBy("x".into()))];
        let alone = Gates { converge: Verdict::Open(converge::Open::NotInSwarm), ..gates(85) };
        let lines = free_more(&Plan { keep, ..Plan::default() }, &alone, true);
        assert_eq!(
            lines,
            ["docker compose down or docker rm, for what need not run: 1 image in use, 1.0 MB"]
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
                expected: Expectation::Overdue(None),
                conditions: vec![],
            },
        };
        let plan = Plan { keep: vec![kept(7), kept(2), kept(8)], ..Plan::default() };
        let expected = "ci-docker-prune prune --older-than 6h: 2 cached images more, at most 2.0 MB";
        assert_eq!(free_more(&plan, &gates(85), true), [expected]);
        assert_eq!(free_more(&plan, &gates(85), false), Vec::<String>::new());
        assert_eq!(free_more(&Plan::default(), &gates(85), true), Vec::<String>::new());
        // What goes with it is told too.
        let young = |kind| Kept {
            object: object(kind, ""),
            reason: KeepReason::TooYoung(Duration::from_secs(11 * 3_600), Duration::from_secs(86_400)),
        };
        let keep =
            vec![kept(7), young(Kind::Container), young(Kind::Container), young(crate::testing::DANGLING)];
        let plan = Plan { keep, ..Plan::default() };
        let expected = "ci-docker-prune prune --older-than 6h: 1 cached image, 2 ended containers, 1 dangling image more, at most 1.0 MB";
        assert_eq!(free_more(&plan, &gates(85), true), [expected]);
        // An age that an image has exactly is one that it has.
        let plan = Plan { keep: vec![kept(12)], ..Plan::default() };
        assert!(free_more(&plan, &gates(85), true)[0].contains("--older-than 12h: 1 cached image more"));
    }
}
