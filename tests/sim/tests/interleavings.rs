//! The protocol of a prune under every schedule: what may begin, begins at every step.

use std::collections::BTreeMap;

use sim::run::play;
use sim::{Begin, Breakage, Case, Deed, Fault, Store};

const STORES: [Store; 2] = [Store::Overlay2, Store::Containerd];

/// All that another may begin.
fn deeds() -> Vec<Deed> {
    let deploys = ["one", "two", "four", "five", "base", "new"].map(|image| Deed::Deploy(image.into()));
    let pulls = ["one", "five", "new"].map(|image| Deed::Pull(image.into()));
    let runs = [Deed::Run("base:1".into()), Deed::Run("five".into())];
    let slow = ["one", "four"].map(|image| Deed::RunSlowly(image.into()));
    let tags = ["sha256:three", "sha256:commit", "sha256:nameless2"];
    let tags = tags.map(|image| Deed::Tag(image.into(), "wanted:1".into()));
    let of_run = ["network", "volume", "secret", "config"].map(Deed::OfRun);
    let others = [
        Deed::Inhibit,
        Deed::Signal,
        Deed::Restart,
        Deed::Announce,
        Deed::Cut,
        Deed::Close,
        Deed::Write(20_000_000),
        Deed::Build("newer".into(), "ci/app:1".into()),
        Deed::Crash("web".into()),
        Deed::Record("sha256:three".into()),
    ];
    let all = deploys.into_iter().chain(pulls).chain(runs).chain(slow);
    all.chain(tags).chain(of_run).chain(others).collect()
}

/// How many steps a run takes in peace.
fn steps(store: Store) -> usize {
    let verdict = play(&Case::new(store));
    assert_eq!((verdict.ending.as_str(), verdict.violations.len()), ("carried out", 0), "{verdict:?}");
    verdict.steps
}

/// Schedules, and what must come of them.
struct Sweep {
    name: &'static str,
    cases: Vec<Case>,
    /// How many of a hundred runs end like this, at least.
    endings: &'static [(&'static str, usize)],
    /// How many of a hundred deeds, faults and kills are played, at least: some schedules end before.
    injected: usize,
}

/// What a case injects.
fn injections(case: &Case) -> usize {
    case.begins.len() + usize::from(case.fault.is_some()) + usize::from(case.kill_at.is_some())
}

/// Play every schedule; `SIM_EVERY=N` only every Nth, for a look at what a change would break.
#[track_caller]
fn must_hold(mut sweep: Sweep) {
    let every = std::env::var("SIM_EVERY").map_or(1, |every| every.parse().expect("SIM_EVERY=NUMBER"));
    sweep.cases = sweep.cases.into_iter().step_by(every).collect();
    if let Err(why) = judged(&sweep) {
        panic!("{}: {why}", sweep.name);
    }
}

#[expect(clippy::print_stdout, reason = "how much was tried")]
fn judged(sweep: &Sweep) -> Result<(), String> {
    let mut endings: BTreeMap<String, usize> = BTreeMap::new();
    let (mut wanted, mut injected) = (0, 0);
    for case in &sweep.cases {
        let verdict = play(case);
        if !verdict.violations.is_empty() {
            let trace: Vec<_> =
                verdict.trace.iter().enumerate().map(|(n, step)| format!("{n} {step}")).collect();
            return Err(format!("{case:?}\n{:#?}\n{}", verdict.violations, trace.join("\n")));
        }
        wanted += injections(case);
        injected += verdict.injected;
        *endings.entry(verdict.ending).or_default() += 1;
    }
    let all = sweep.cases.len();
    println!("{}: {all} schedules, {injected} of {wanted} injected, {endings:?}", sweep.name);
    if wanted == 0 || injected * 100 < wanted * sweep.injected {
        return Err(format!("{injected} of {wanted} injected, and not {} %", sweep.injected));
    }
    for (ending, share) in sweep.endings {
        let found = endings.get(*ending).copied().unwrap_or(0);
        if found * 100 < all * share {
            return Err(format!("{found} of {all} runs ended \"{ending}\", and not {share} %: {endings:?}"));
        }
    }
    Ok(())
}

fn one_beginning() -> Sweep {
    let mut cases = vec![];
    for store in STORES {
        let steps = steps(store);
        for deed in deeds() {
            for (step, (latency, seed)) in
                (0..steps).flat_map(|step| [(2, 1), (20, 2)].map(|with| (step, with)))
            {
                cases.push(Case { begins: vec![(step, deed.clone())], latency, seed, ..Case::new(store) });
            }
        }
    }
    let endings = &[("stopped", 30), ("carried out", 30), ("blocked", 1)];
    Sweep { name: "one beginning", cases, endings, injected: 95 }
}

fn two_beginnings() -> Sweep {
    let mut cases = vec![];
    let build = Deed::Build("newer".into(), "ci/app:1".into());
    let firsts = [Deed::Run("base:1".into()), build, Deed::Deploy("five".into()), Deed::Restart];
    let seconds = [Deed::Deploy("one".into()), Deed::Deploy("four".into()), Deed::Inhibit, Deed::Signal];
    for store in STORES {
        let steps = steps(store);
        for (first, second) in firsts.iter().flat_map(|a| seconds.iter().map(move |b| (a, b))) {
            for a in 0..steps {
                // The second in every 47th place, another for each place of the first.
                for b in (a % 47..steps).step_by(47) {
                    let begins: Vec<Begin> = vec![(a, first.clone()), (b, second.clone())];
                    let seed = (a * steps + b) as u64 + 1;
                    cases.push(Case { begins, latency: 5, seed, ..Case::new(store) });
                }
            }
        }
    }
    Sweep { name: "two beginnings", cases, endings: &[("stopped", 60), ("carried out", 1)], injected: 60 }
}

/// Up to three deeds at random steps, with random times; a failing seed is printed, and replays.
fn random_beginnings() -> Sweep {
    let deeds = deeds();
    let case = |seed: u64| {
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
        Case { begins, latency, seed, ..Case::new(store) }
    };
    let endings = &[("stopped", 40), ("carried out", 10)];
    Sweep { name: "random", cases: (1..=3_000).map(case).collect(), endings, injected: 70 }
}

fn faults() -> Sweep {
    let statuses = [403, 404, 409, 500, 503].map(Fault::Status);
    let faults = statuses.into_iter().chain([
        Fault::Hang,
        Fault::MalformedResponse,
        Fault::LostBefore,
        Fault::LostAfter,
        Fault::NoSpace,
    ]);
    let mut cases = vec![];
    for (store, fault) in STORES.into_iter().flat_map(|store| faults.clone().map(move |fault| (store, fault)))
    {
        for step in 0..steps(store) {
            for begins in [vec![], vec![(step + 1, Deed::Deploy("one".into()))]] {
                cases.push(Case { begins, fault: Some((step, fault)), ..Case::new(store) });
            }
        }
    }
    Sweep { name: "faults", cases, endings: &[("failed", 10), ("stopped", 30), ("unknown", 3)], injected: 95 }
}

fn kills() -> Sweep {
    let mut cases = vec![];
    for store in STORES {
        for step in 0..steps(store) {
            for deed in [None, Some(Deed::Deploy("one".into())), Some(Deed::Deploy("five".into()))] {
                let begins = deed.into_iter().map(|deed| (step.saturating_sub(1), deed)).collect();
                cases.push(Case { begins, kill_at: Some(step), ..Case::new(store) });
            }
        }
    }
    Sweep { name: "kills", cases, endings: &[("killed", 100)], injected: 99 }
}

#[test]
fn in_peace_everything_that_is_planned_goes() {
    for store in STORES {
        let verdict = play(&Case::new(store));
        assert_eq!(verdict.ending, "carried out", "{verdict:?}");
        assert_eq!(verdict.injected, 0);
        // Cached images go as far as the target wants: all but one.
        let removed = [("build-cache", 1), ("cached", 5), ("container", 2), ("dangling", 3), ("tagged", 1)];
        assert_eq!(verdict.removed, BTreeMap::from(removed), "{verdict:?}");
    }
}

#[test]
fn whatever_begins_at_any_step_no_deploy_suffers() {
    must_hold(one_beginning());
}

#[test]
fn whatever_two_begin_at_any_two_steps_no_deploy_suffers() {
    must_hold(two_beginnings());
}

#[test]
fn random_schedules_by_seed() {
    must_hold(random_beginnings());
}

#[test]
fn a_fault_of_any_step_ends_the_run_in_order() {
    must_hold(faults());
}

#[test]
fn after_a_kill_at_any_step_the_next_run_finishes_or_undoes_it() {
    must_hold(kills());
}

/// A test of the tests: one that injects nothing, or only what changes nothing, says nothing.
#[test]
fn a_sweep_that_injects_nothing_fails() {
    for sweep in [one_beginning, two_beginnings, random_beginnings, faults, kills] {
        let mut idle = sweep();
        idle.cases = idle.cases.into_iter().step_by(97).collect();
        assert_eq!(judged(&idle), Ok(()), "{} in a sample", idle.name);
        let injected = std::mem::take(&mut idle.cases);
        idle.cases = injected.iter().map(|case| Case { seed: case.seed, ..Case::new(case.store) }).collect();
        judged(&idle).expect_err("nothing is injected");
        // What begins is of no consequence.
        let harmless = |case: &Case| Case { begins: vec![(0, Deed::Write(0))], ..Case::new(case.store) };
        idle.cases = injected.iter().map(harmless).collect();
        judged(&idle).expect_err("nothing stops, fails or kills a run");
    }
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
    // Each with something that shows it.
    let deploy = Deed::Deploy("one".into());
    let breakages = [
        (Breakage::OneStep, deploy.clone()),
        (Breakage::NoEvents, deploy),
        (Breakage::LateSubscription, Deed::Announce),
        (Breakage::NoInhibitors, Deed::Inhibit),
        (Breakage::NoLock, Deed::Inhibit),
        (Breakage::BlindRestore, Deed::Build("newer".into(), "ci/app:1".into())),
    ];
    for (breakage, deed) in breakages {
        let mut played = 0;
        let mut places =
            STORES.into_iter().flat_map(|store| (0..steps(store)).map(move |step| (store, step)));
        let found = places.find_map(|(store, step)| {
            let mut begins = vec![(step, deed.clone())];
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
