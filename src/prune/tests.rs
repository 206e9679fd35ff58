//! What a prune asks, does and leaves in the ledger, on a host that answers as told.

use std::collections::HashSet;
use std::rc::Rc;
use std::time::Duration;

use super::*;
use crate::execute::FreedNothing;
use crate::facts::{Image, Inhibitor, Kind, SwarmState};
use crate::gates::Verdict;
use crate::ledger::Entry;
use crate::testing::fake::Fake;
use crate::testing::{
    CACHED, DANGLING, ago, block, container, image, labels, now, policy, removal, service, settings, usage,
};
use crate::world::EngineError;

fn why() -> Unavailable {
    Unavailable("no answer".into())
}

fn failed(error: EngineError) -> Outcome {
    let kind = if error.timed_out() { Kind::Container } else { CACHED };
    Outcome { failed: vec![(removal(kind, "x"), error)], ..Outcome::default() }
}

/// Each way to be stopped, the gates that are counted for it, and whether it is a failure.
fn stops() -> Vec<(Stop, &'static [&'static str], bool)> {
    let name = || "app".to_owned();
    let closed = crate::testing::runs_closed;
    let open = || Verdict::Open(converge::Open::Converged { services: 1, stuck: vec![] });
    let unknown = Verdict::Unknown(converge::Unknown::Unavailable(why()));
    vec![
        (Stop::Gates { runs: closed(), converge: open() }, &["runs"], false),
        (Stop::Gates { runs: closed(), converge: unknown }, &["runs", "converge"], true),
        (Stop::Event(StopEvent::ServiceCreated(name())), &["converge"], false),
        (Stop::Event(StopEvent::ServiceUpdated(name())), &["converge"], false),
        (Stop::Event(StopEvent::Run(name())), &["runs"], false),
        (Stop::Event(StopEvent::Lost(name())), &[], true),
        (
            Stop::Inhibited(vec![Inhibitor { pid: None, since: None, why: None, user: None }]),
            &["runs"],
            false,
        ),
        (Stop::Signal, &[], false),
        (Stop::GatesUnsettled, &[], true),
        (Stop::NoSpace, &[], true),
        (Stop::Unavailable(why()), &[], true),
    ]
}

#[test]
fn a_prune_that_was_stopped_or_failed_is_owed_and_counts_for_the_gates_that_stopped_it() {
    let settled = |outcome: &Outcome, relieved| {
        let mut ledger = Ledger::default();
        ledger.owe(["runs"], ago("1h").unwrap());
        settle(&mut ledger, outcome, relieved, None, now());
        ledger.pressure
    };
    for (stop, gates, fails) in stops() {
        let shown = format!("{stop:?}");
        let outcome = Outcome { stopped: Some(stop), ..Outcome::default() };
        assert_eq!(stopped_by(&outcome), gates, "{shown}");
        assert_eq!(outcome.has_failed(), fails, "{shown}");
        let pressure = settled(&outcome, false).unwrap();
        assert_eq!(pressure.owed_since, ago("1h"), "{shown}");
        for gate in ["runs", "converge"] {
            let before = u64::from(gate == "runs");
            let expected = before + u64::from(gates.contains(&gate));
            assert_eq!(pressure.blocked.get(gate).copied().unwrap_or(0), expected, "{shown} {gate}");
        }
        assert_eq!(settled(&outcome, true), None, "{shown}");
    }
    let outcome = failed(crate::testing::status("DELETE", 500, "x"));
    assert_eq!(settled(&outcome, false).unwrap().owed_since, ago("1h"));
    // One that did its work is no longer owed, although that did not help.
    let pressure = settled(&Outcome::default(), false).unwrap();
    assert_eq!((pressure.owed_since, pressure.since), (None, ago("1h").unwrap()));
    assert_eq!(stopped_by(&Outcome::default()), [""; 0]);
}

#[test]
fn evictions_that_freed_nothing_are_remembered_with_how_full_the_disk_was() {
    let freed_nothing = Some(FreedNothing { images: 2, size: 100 });
    let usage = usage(91);
    let settled = |outcome: Outcome, usage: Option<&Usage>| {
        let mut ledger = Ledger::default();
        settle(&mut ledger, &outcome, false, usage.map(|usage| &usage.filesystem), now());
        let last = ledger.pressure.unwrap().freed_nothing;
        last.map(|last| (last.at, last.percent.get(), last.used))
    };
    let useless = || Outcome { freed_nothing, ..Outcome::default() };
    assert_eq!(settled(useless(), Some(&usage)), Some((now(), 91, 910)));
    assert_eq!(settled(useless(), None), None);
    assert_eq!(settled(Outcome::default(), Some(&usage)), None);
    // It did not come to its end.
    assert_eq!(settled(Outcome { stopped: Some(Stop::Signal), ..useless() }, Some(&usage)), None);
}

#[test]
fn what_is_gone_is_forgotten_and_what_was_refused_or_stuck_remembered() {
    let mut ledger = Ledger::default();
    for id in ["gone", "settled", "refused", "parent", "busy", "dangling"] {
        ledger.images.insert(id.into(), Entry::new(now()));
        ledger.evicting.insert(id.into(), vec![]);
    }
    let outcome = Outcome {
        removed: vec![removal(CACHED, "gone")],
        settled: vec!["settled".into()],
        skipped: vec![
            (removal(CACHED, "refused"), Skip::Refused("409".into())),
            (removal(CACHED, "parent"), Skip::HasChildren),
            (removal(CACHED, "busy"), Skip::InUse),
            (removal(DANGLING, "dangling"), Skip::Refused("409".into())),
        ],
        ..Outcome::default()
    };
    settle(&mut ledger, &outcome, true, None, now());
    let known: Vec<_> = ledger.images.keys().map(String::as_str).collect();
    assert_eq!(known, ["busy", "dangling", "parent", "refused", "settled"]);
    let evicting: Vec<_> = ledger.evicting.keys().map(String::as_str).collect();
    assert_eq!(evicting, ["busy", "dangling", "parent", "refused"]);
    let refused = ledger.images.iter().filter(|(_, entry)| entry.refused == Some(now()));
    assert_eq!(refused.map(|(id, _)| id.as_str()).collect::<Vec<_>>(), ["parent", "refused"]);

    let timeout = crate::testing::timeout("DELETE", Duration::from_secs(30));
    settle(&mut ledger, &failed(timeout), true, None, now());
    assert_eq!(ledger.stuck, Some("x".into()));
    // It had no turn.
    let skipped = vec![(removal(Kind::Container, "x"), Skip::Stopped)];
    settle(&mut ledger, &Outcome { skipped, ..Outcome::default() }, true, None, now());
    assert_eq!(ledger.stuck, Some("x".into()));
    let error = crate::testing::status("DELETE", 500, "x");
    settle(&mut ledger, &failed(error), true, None, now());
    assert_eq!(ledger.stuck, None);
}

/// A manager at this percentage, with a cached image of a tenth of the disk that nothing has used for long.
fn host(percent: u64) -> Fake {
    let mut fake = Fake::new();
    fake.info.swarm.state = SwarmState::Manager;
    *fake.filesystem.borrow_mut() = usage(percent).filesystem;
    fake.images.borrow_mut().push(Image { size: 100, ..image("aaaa") });
    let entry = Entry { last_used: ago("30d"), named: true, ..Entry::new(ago("40d").unwrap()) };
    fake.ledger.borrow_mut().images.insert("sha256:aaaa".into(), entry);
    fake
}

fn pruned(fake: Fake, words: &str) -> (Answer<PruneReport>, Rc<Fake>) {
    let fake = Rc::new(fake);
    let policy = settings(&format!("prune {words}")).policy;
    let ended = block(run(&fake, &policy, Mode::Prune(&|_| ())));
    (ended.map(|ended| ended.report), fake)
}

fn run_of_ci() -> Container {
    Container { names: vec![crate::testing::RUN.into()], created: Some(now()), ..container() }
}

fn word(report: &PruneReport) -> String {
    match report {
        PruneReport::Done(done) => {
            format!("removed {}, stopped {}", done.outcome.removed.len(), done.outcome.stopped.is_some())
        }
        PruneReport::Blocked { .. } => "blocked".into(),
        PruneReport::NoAnswer { .. } => "no answer".into(),
        PruneReport::Preview(_) => "preview".into(),
        other => format!("{other:?}"),
    }
}

fn done(report: PruneReport) -> Done {
    match report {
        PruneReport::Done(done) => *done,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_prune_subscribes_before_it_asks_the_gates_and_relieves_the_disk() {
    let (result, fake) = pruned(host(85), "");
    let result = result.unwrap();
    assert_eq!(word(&result), "removed 1, stopped false");
    assert_eq!(
        (result.before()[0].percent.get(), result.after()[0].percent.get(), result.reclaimed()),
        (85, 75, 100)
    );
    assert!(!result.wants_consumers(policy().critical));
    let done = done(result);
    assert_eq!((done.usage.map(|usage| usage.percent.get()), done.pressure.is_none()), (Some(85), true));
    let first: Vec<_> = fake.requests.borrow().iter().take(7).cloned().collect();
    let subscribed = format!("subscribe {}", now());
    assert_eq!(first[..6], ["prepare", "lock prunes", "watch shutdown", "connect", "info", &subscribed]);
    let ledger = fake.ledger.borrow();
    assert!(ledger.images.is_empty() && ledger.evicting.is_empty() && ledger.pressure.is_none());
    // At 75 % there is no room for the reserve.
    assert!(fake.asked("keep reserve").is_empty());
}

/// The command names with it what keeps the gates closed.
#[test]
fn what_the_engine_said_is_there_also_where_there_is_no_plan() {
    let uses = format!("uses {} {}", Time::UNIX_EPOCH, now());
    for (failing, why) in [("inhibitors", "a gate could not be evaluated"), (&*uses, "500")] {
        let fake = Fake { services: vec![service()], ..host(85) }.failing(failing, 500);
        let ended = block(run(&Rc::new(fake), &settings("prune").policy, Mode::Prune(&|_| ()))).unwrap();
        assert!(ended.report.failure().unwrap().contains(why), "{:?}", ended.report);
        assert_eq!(ended.seen.unwrap().survey.services.unwrap().len(), 1, "{failing}");
    }
}

#[test]
fn a_prune_that_does_not_help_records_the_pressure_and_wants_to_know_what_fills_the_disk() {
    for shutdown in [false, true] {
        let fake = host(95);
        fake.shutdown.set(shutdown);
        let (result, fake) = pruned(fake, "");
        let result = result.unwrap();
        assert_eq!(
            word(&result),
            if shutdown { "removed 0, stopped true" } else { "removed 1, stopped false" }
        );
        assert!(result.wants_consumers(policy().critical));
        let owed = result.pressure().unwrap().owed;
        assert_eq!(owed, shutdown.then_some(Duration::ZERO));
        assert_eq!(fake.ledger.borrow().pressure.as_ref().unwrap().owed_since, shutdown.then(now));
    }
    // A ledger that cannot be written at the end knows what it knew at the start.
    let fake = host(95).failing("update ledger", 500);
    fake.ledger.borrow_mut().owe(["runs"], ago("1h").unwrap());
    let result = pruned(fake, "").0.unwrap();
    let since = result.pressure().map(|pressure| pressure.since);
    assert_eq!((word(&result).as_str(), since), ("removed 1, stopped false", ago("1h")));
}

#[test]
fn a_disk_that_cannot_be_measured_at_the_end_counts_as_full_as_before() {
    let mut fake = host(95).failing("measure /var/lib/docker", 500);
    // For the gate, the plan before the images and after them, before the batch and before its end.
    fake.failing_after.insert("measure /var/lib/docker".into(), 5);
    let result = pruned(fake, "").0.unwrap();
    assert_eq!(word(&result), "removed 1, stopped false");
    assert_eq!((result.after()[0].percent.get(), result.reclaimed()), (95, 0));
    assert!(result.pressure().is_some());
}

#[test]
fn a_gate_blocks_and_is_counted_under_pressure_only() {
    let busy = |percent, words: &str| {
        let mut fake = host(percent);
        fake.containers = vec![run_of_ci()];
        let (result, fake) = pruned(fake, words);
        let result = result.unwrap();
        assert_eq!(word(&result), "blocked");
        assert!(fake.asked("images").is_empty() && fake.asked("remove").is_empty());
        let blocked = fake.ledger.borrow().pressure.as_ref().map(|pressure| pressure.blocked["runs"]);
        assert_eq!(result.pressure().is_some(), blocked.is_some());
        let critical = settings(&format!("prune {words}")).policy.removal.critical;
        (blocked, result.wants_consumers(critical))
    };
    assert_eq!(busy(85, ""), (Some(1), false));
    assert_eq!(busy(75, ""), (None, false));
    // A run that waits for space keeps the prune blocked.
    assert_eq!(busy(95, ""), (Some(1), true));
    assert_eq!(busy(94, "--disk-critical 94"), (Some(1), true));
    // What a container uses now is recorded all the same.
    let mut fake = host(85);
    fake.containers = vec![Container { image_id: "sha256:aaaa".into(), ..run_of_ci() }];
    let fake = pruned(fake, "").1;
    assert_eq!(fake.ledger.borrow().images["sha256:aaaa"].last_used, Some(now()));
}

#[test]
fn on_a_disk_with_room_nothing_goes_the_pressure_is_over_and_the_reserve_is_kept() {
    for (percent, words, keeps) in [
        (79, "", false),
        (75, "", false),
        (74, "", true),
        (74, "--disk-min-free 261B", true),
        (74, "--disk-min-free 260B", true),
    ] {
        let fake = host(percent);
        fake.ledger.borrow_mut().owe(["runs"], ago("1h").unwrap());
        let pressed = words.contains("261");
        let (result, fake) = pruned(fake, words);
        let expected = if pressed { "removed 1, stopped false" } else { "blocked" };
        assert_eq!(word(&result.unwrap()), expected, "{percent} {words}");
        assert_eq!(!fake.asked("keep reserve").is_empty(), keeps, "{percent} {words}");
        assert!(fake.ledger.borrow().pressure.is_none() || pressed, "{percent} {words}");
    }
}

#[test]
fn what_cannot_be_asked_is_told() {
    let lost = |request: &str| pruned(host(85).failing(request, 500), "").0;
    let subscribed = format!("subscribe {}", now());
    for request in ["connect", "info", &subscribed] {
        let result = lost(request).unwrap();
        assert_eq!(word(&result), "no answer", "{request}");
        let unknown = result.gates().unwrap().in_state(GateState::Unknown);
        assert_eq!(unknown.count(), 3, "{request}");
    }
    for request in ["services", "tasks", "containers All", "measure /var/lib/docker", "inhibitors"] {
        let (result, fake) = pruned(host(85).failing(request, 500), "");
        let result = result.unwrap();
        assert_eq!(word(&result), "no answer", "{request}");
        // A prune is owed, as far as it is known that the disk is under pressure.
        let owed = fake.ledger.borrow().pressure.as_ref().and_then(|pressure| pressure.owed_since);
        assert_eq!(owed.is_some(), !request.starts_with("measure"), "{request}");
        assert!(result.gates().unwrap().in_state(GateState::Open).next().is_some(), "{request}");
    }
    assert!(lost("prepare").unwrap_err().0.contains("name another directory with --runtime-dir"));
    for request in ["lock prunes", "watch shutdown"] {
        assert!(lost(request).is_err(), "{request}");
    }
    // An engine that shows no clock is subscribed to from now on.
    let mut fake = host(85);
    fake.info.time = None;
    assert_eq!(pruned(fake, "").1.asked("subscribe"), [subscribed]);
}

/// An eviction that was interrupted: our tag is all that this image has.
fn interrupted(percent: u64) -> Fake {
    let fake = host(percent);
    let tag = crate::facts::eviction_tag("sha256:aaaa");
    {
        let image = &mut fake.images.borrow_mut()[0];
        image.digests.clear();
        image.eviction_tag = Some(tag);
    }
    fake.ledger.borrow_mut().evicting.insert("sha256:aaaa".into(), vec!["app@sha256:daaaa".into()]);
    fake
}

#[test]
fn what_an_interrupted_eviction_left_is_finished_also_on_a_disk_with_room() {
    let (result, fake) = pruned(interrupted(50), "");
    let result = result.unwrap();
    assert_eq!(word(&result), "removed 1, stopped false");
    assert_eq!(result.plan().unwrap().0.remove.len(), 1);
    assert!(fake.images.borrow().is_empty() && fake.ledger.borrow().evicting.is_empty());
    assert!(fake.asked("images").is_empty(), "no list is asked for");
    // Not beside a run, and not where it has a name again: there our tag goes.
    let mut busy = interrupted(50);
    busy.containers = vec![run_of_ci()];
    let (result, fake) = pruned(busy, "");
    assert_eq!((word(&result.unwrap()).as_str(), fake.images.borrow().len()), ("blocked", 1));
    assert_eq!(fake.ledger.borrow().evicting.len(), 1);
    let mut converging = interrupted(50);
    converging.services = vec![crate::facts::Service { updated: Some(now()), ..service() }];
    converging.services[0].status = Some(crate::facts::TaskCounts { running: 0, desired: 1, completed: 0 });
    let (result, fake) = pruned(converging, "");
    assert_eq!((word(&result.unwrap()).as_str(), fake.images.borrow().len()), ("blocked", 1));
    let named = interrupted(50);
    named.images.borrow_mut()[0].digests.push("app@sha256:daaaa".into());
    let (result, fake) = pruned(named, "");
    let result = result.unwrap();
    assert_eq!((word(&result).as_str(), result.plan().is_none()), ("blocked", true));
    assert_eq!(fake.images.borrow()[0].eviction_tag, None);
    assert!(fake.ledger.borrow().evicting.is_empty());
    // A false 404 forgets nothing, and nothing else goes on a disk with room.
    let mut lied = interrupted(50);
    lied.unknown_once.borrow_mut().push("sha256:aaaa".into());
    lied.containers = vec![Container { state: crate::facts::ContainerState::Created, ..container() }];
    let (result, fake) = pruned(lied, "");
    assert_eq!(word(&result.unwrap()), "removed 1, stopped false");
    assert!(fake.asked("remove container").is_empty());
    // One that is gone is forgotten, and one that cannot be asked about is not.
    let gone = interrupted(50);
    gone.images.borrow_mut().clear();
    assert!(pruned(gone, "").1.ledger.borrow().evicting.is_empty());
    let unread = interrupted(50).failing("image sha256:aaaa", 500);
    assert_eq!(pruned(unread, "").1.ledger.borrow().evicting.len(), 1);
    // A failure is told.
    let ours = format!("remove image {}", crate::facts::eviction_tag("sha256:aaaa"));
    let failed = pruned(interrupted(50).failing(&ours, 500), "").0.unwrap();
    assert_eq!((word(&failed).as_str(), failed.has_failed()), ("removed 0, stopped false", true));
}

#[test]
fn a_preview_plans_whatever_the_gates_say_and_writes_nothing() {
    let previewed = |fake: Fake, at: Option<u64>| {
        let fake = Rc::new(fake);
        let before = fake.ledger.borrow().clone();
        let assumed = at.map(usage);
        let ended = block(run(&fake, &settings("prune").policy, Mode::Preview(assumed.as_ref())));
        let written =
            ["update", "remove", "tag", "prune", "keep", "lock"].map(|request| fake.asked(request).len());
        assert_eq!(written, [0; 6]);
        assert_eq!(*fake.ledger.borrow(), before);
        ended.map(|ended| ended.report)
    };
    let planned = |report: &PruneReport| report.plan().map(|(plan, _)| plan.remove.len());
    let mut busy = host(85);
    busy.containers = vec![run_of_ci()];
    for (fake, at, expected, percent) in [
        (host(85), None, 1, 85),
        (host(75), None, 0, 75),
        (busy, None, 1, 85),
        // At another usage.
        (host(75), Some(99), 1, 99),
    ] {
        let report = previewed(fake, at).unwrap();
        assert_eq!((word(&report).as_str(), planned(&report)), ("preview", Some(expected)));
        let (_, usage) = report.plan().unwrap();
        assert_eq!(usage.map(|usage| usage.percent.get()), Some(percent));
        assert!(!report.has_failed());
    }
    // An unknown gate is told, with the plan where one could be made.
    let report = previewed(host(85).failing("inhibitors", 500), None).unwrap();
    assert_eq!((word(&report).as_str(), planned(&report), report.has_failed()), ("preview", Some(1), true));
    let report = previewed(host(85).failing("services", 500), None).unwrap();
    assert_eq!((word(&report).as_str(), planned(&report)), ("no answer", None));
    assert!(previewed(host(85).failing("connect", 500), None).is_err());
    let unmeasured = previewed(host(85).failing("measure /var/lib/docker", 500), None).unwrap();
    assert!(unmeasured.plan().unwrap().1.is_none() && planned(&unmeasured) == Some(0));
}

#[test]
fn what_is_under_way_counts_as_it_is_asked_again() {
    let states = |again: &Recheck| [again.runs.state(), again.converge.state()];
    let mut fake = host(85);
    fake.containers = vec![Container { mounted_images: vec!["tools:1".into()], ..container() }];
    fake.services = vec![service()];
    fake.tasks = vec![crate::testing::task()];
    let fake = Rc::new(fake);
    let again = block(ask_again(&fake, &fake, &settings("prune").policy, &Past::default()));
    assert_eq!(states(&again), [GateState::Open; 2]);
    assert_eq!(again.in_use, HashSet::from(["sha256:1a".to_owned(), "tools:1".to_owned()]));
    let mut fake = host(85);
    fake.services = vec![crate::facts::Service {
        labels: labels(&[("com.docker.stack.namespace", "abcd-0123ef_ci_commoninternet_net")]),
        created: Some(now()),
        ..service()
    }];
    let fake = Rc::new(fake);
    let again = block(ask_again(&fake, &fake, &settings("prune").policy, &Past::default()));
    assert_eq!(states(&again), [GateState::Closed, GateState::Open]);
    let fake = Rc::new(host(85).failing("tasks", 500));
    let again = block(ask_again(&fake, &fake, &settings("prune").policy, &Past::default()));
    assert_eq!(states(&again), [GateState::Open, GateState::Unknown]);
}

#[test]
fn beside_live_runs_only_cached_images_go_and_only_at_critical() {
    let run = |percent, words: &str, inhibited: bool| {
        let mut fake = host(percent);
        fake.containers = vec![run_of_ci()];
        fake.containers[0].image_id = "sha256:other".into();
        fake.containers.push(Container {
            id: "ended".into(),
            state: crate::facts::ContainerState::Exited,
            ..container()
        });
        if inhibited {
            fake.inhibitors.borrow_mut().push(Inhibitor { pid: Some(7), since: None, why: None, user: None });
        }
        let (result, fake) = pruned(fake, words);
        let images = fake.asked("remove").iter().filter(|asked| asked.contains("image")).count();
        (word(&result.unwrap()), images > 0, fake.asked("remove container").len())
    };
    let during = "--during-runs critical";
    let (ending, evicts, containers) = run(96, during, false);
    assert_eq!((ending.as_str(), evicts, containers), ("removed 1, stopped false", true, 0));
    for (percent, words, inhibited) in [(96, "", false), (94, during, false), (96, during, true)] {
        let (ending, evicts, _) = run(percent, words, inhibited);
        assert_eq!((ending.as_str(), evicts), ("blocked", false), "{percent} {words} {inhibited}");
    }
}
