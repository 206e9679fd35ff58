//! The protocol of a prune under every schedule: what may begin, begins at every step.

use std::collections::BTreeMap;

use sim::run::{play, scene};
use sim::{Begin, Breakage, Case, Deed, Fault, Store};

const STORES: [Store; 2] = [Store::Overlay2, Store::Containerd];

/// All that another may begin.
fn deeds() -> Vec<Deed> {
    let deploys = ["one", "two", "four", "five", "base", "new"].map(|image| Deed::Deploy(image.into()));
    let pulls = ["one", "five", "new"].map(|image| Deed::Pull(image.into()));
    let runs = [Deed::Run("base:1".into()), Deed::Run("five".into())];
    let build = Deed::Build("newer".into(), "ci/app:1".into());
    let others = [
        Deed::Inhibit,
        Deed::Signal,
        Deed::Restart,
        Deed::Announce,
        Deed::Cut,
        Deed::Write(20_000_000),
        build,
    ];
    deploys.into_iter().chain(pulls).chain(runs).chain(others).collect()
}

/// How many steps a run takes in peace.
fn steps(store: Store) -> usize {
    let verdict = play(&Case::new(store));
    assert_eq!((verdict.ending.as_str(), verdict.violations.len()), ("carried out", 0), "{verdict:?}");
    verdict.steps
}

/// Play it, and fail with what it takes to play it again.
#[track_caller]
fn must_hold(case: &Case, endings: &mut BTreeMap<String, usize>) {
    let verdict = play(case);
    let shown = || {
        let trace: Vec<_> = verdict.trace.iter().enumerate().map(|(n, step)| format!("{n} {step}")).collect();
        format!("{case:?}\n{:#?}\n{}", verdict.violations, trace.join("\n"))
    };
    assert!(verdict.violations.is_empty(), "{}", shown());
    *endings.entry(verdict.ending).or_default() += 1;
}

#[expect(clippy::print_stdout, reason = "how much was tried")]
fn told(what: &str, endings: &BTreeMap<String, usize>) {
    let total: usize = endings.values().sum();
    println!("{what}: {total} schedules, {endings:?}");
}

#[test]
fn in_peace_everything_that_is_planned_goes() {
    for store in STORES {
        let verdict = play(&Case::new(store));
        assert_eq!(verdict.ending, "carried out", "{verdict:?}");
        assert!(verdict.orders > 15 && verdict.steps > 60, "{verdict:?}");
        let (state, ledger) = scene(store);
        assert!(state.eviction_tags().is_empty() && ledger.images.len() == 10);
    }
}

#[test]
fn whatever_begins_at_any_step_no_deploy_suffers() {
    let mut endings = BTreeMap::new();
    for store in STORES {
        for deed in deeds() {
            for step in 0..steps(store) {
                for (latency, seed) in [(2, 1), (20, 2)] {
                    let begins = vec![(step, deed.clone())];
                    must_hold(&Case { begins, latency, seed, ..Case::new(store) }, &mut endings);
                }
            }
        }
    }
    told("one beginning", &endings);
    assert!(endings["stopped"] > 1_000 && endings["carried out"] > 100, "{endings:?}");
}

#[test]
fn whatever_two_begin_at_any_two_steps_no_deploy_suffers() {
    let mut endings = BTreeMap::new();
    let build = Deed::Build("newer".into(), "ci/app:1".into());
    let firsts = [Deed::Run("base:1".into()), build, Deed::Deploy("five".into()), Deed::Restart];
    let seconds = [Deed::Deploy("one".into()), Deed::Deploy("four".into()), Deed::Inhibit, Deed::Signal];
    for store in STORES {
        let steps = steps(store);
        for (first, second) in firsts.iter().flat_map(|a| seconds.iter().map(move |b| (a, b))) {
            for a in 0..steps {
                // The second in every 29th place, another for each place of the first.
                for b in (a % 29..steps).step_by(29) {
                    let begins: Vec<Begin> = vec![(a, first.clone()), (b, second.clone())];
                    let seed = (a * steps + b) as u64 + 1;
                    must_hold(&Case { begins, latency: 5, seed, ..Case::new(store) }, &mut endings);
                }
            }
        }
    }
    told("two beginnings", &endings);
    assert!(endings["stopped"] > 1_000 && endings["carried out"] > 100, "{endings:?}");
}

/// Up to three deeds at random steps, with random times; a failing seed is printed, and replays.
#[test]
fn random_schedules_by_seed() {
    let mut endings = BTreeMap::new();
    let deeds = deeds();
    for seed in 1..=3_000_u64 {
        let mut x = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mut draw = |below: usize| {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            usize::try_from(x % below as u64).expect("below")
        };
        let store = STORES[draw(2)];
        let begins = (0..=draw(3)).map(|_| (draw(90), deeds[draw(deeds.len())].clone())).collect();
        let latency = [0, 1, 3, 10, 40][draw(5)];
        must_hold(&Case { begins, latency, seed, ..Case::new(store) }, &mut endings);
    }
    told("random", &endings);
    assert!(endings["stopped"] > 1_000 && endings["carried out"] > 100, "{endings:?}");
}

#[test]
fn a_fault_of_any_step_ends_the_run_in_order() {
    let mut endings = BTreeMap::new();
    let statuses = [404, 409, 500, 503].map(Fault::Status);
    let faults = statuses.into_iter().chain([
        Fault::Hang,
        Fault::MalformedResponse,
        Fault::LostBefore,
        Fault::LostAfter,
        Fault::NoSpace,
    ]);
    for (store, fault) in STORES.into_iter().flat_map(|store| faults.clone().map(move |fault| (store, fault)))
    {
        for step in 0..steps(store) {
            for begins in [vec![], vec![(step + 1, Deed::Deploy("one".into()))]] {
                must_hold(&Case { begins, fault: Some((step, fault)), ..Case::new(store) }, &mut endings);
            }
        }
    }
    told("faults", &endings);
    assert!(endings["failed"] > 500 && endings["stopped"] > 100, "{endings:?}");
}

#[test]
fn after_a_kill_at_any_step_the_next_run_finishes_or_undoes_it() {
    let mut endings = BTreeMap::new();
    for store in STORES {
        for step in 0..steps(store) {
            for deed in [None, Some(Deed::Deploy("one".into())), Some(Deed::Deploy("five".into()))] {
                let begins = deed.into_iter().map(|deed| (step.saturating_sub(1), deed)).collect();
                must_hold(&Case { begins, kill_at: Some(step), ..Case::new(store) }, &mut endings);
            }
        }
    }
    told("kills", &endings);
    assert!(endings.keys().eq(["killed"]), "{endings:?}");
}

/// Containers that start, or pulls of what is there, all the time: not one of them is a deploy.
#[test]
fn a_host_that_is_never_still_starves_no_prune() {
    for (store, deed) in STORES
        .into_iter()
        .flat_map(|store| [Deed::Run("base:1".into()), Deed::Pull("new".into())].map(|deed| (store, deed)))
    {
        let needed = play(&Case::new(store)).orders;
        for every in [2, 3, 4, 5, 6] {
            let begins = (5..1_000).step_by(every).map(|step| (step, deed.clone())).collect();
            let verdict = play(&Case { begins, ..Case::new(store) });
            assert_eq!(
                (verdict.ending.as_str(), verdict.violations.len()),
                ("carried out", 0),
                "{every} {verdict:?}"
            );
            assert_eq!(verdict.orders, needed, "{every} {deed:?}");
        }
    }
}

#[test]
#[expect(clippy::print_stdout, reason = "what it took to find it")]
fn every_breakage_of_the_protocol_is_found() {
    let breakages = [
        Breakage::OneStep,
        Breakage::NoEvents,
        Breakage::LateSubscription,
        Breakage::NoInhibitors,
        Breakage::NoLock,
        Breakage::BlindRestore,
    ];
    for breakage in breakages {
        let mut played = 0;
        let cases = STORES.into_iter().flat_map(|store| {
            let steps = steps(store);
            deeds().into_iter().flat_map(move |deed| (0..steps).map(move |step| (store, step, deed.clone())))
        });
        let found = cases.into_iter().find_map(|(store, step, deed)| {
            let mut begins = vec![(step, deed)];
            // A name is given back where a run stops.
            begins.extend((breakage == Breakage::BlindRestore).then_some((step + 1, Deed::Signal)));
            let case = Case { begins, latency: 20, breakage: Some(breakage), ..Case::new(store) };
            played += 1;
            play(&case).violations.pop_first()
        });
        println!("{breakage:?}: {found:?} in schedule {played}");
        assert!(found.is_some(), "{breakage:?} was not found");
    }
}
