//! What a prune asks, does and leaves in the ledger, on a host that answers as told.

use std::rc::Rc;

use super::*;
use crate::engine::EngineError;
use crate::execute::FreedNothing;
use crate::facts::{Image, Inhibitor, Kind, SwarmState};
use crate::ledger::Entry;
use crate::settings::{self, Command};
use crate::testing::fake::Fake;
use crate::testing::{CACHED, DANGLING, ago, block, container, image, labels, now, removal, service, usage};

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
    let closed = vec![Gate::Runs(Verdict::Closed(vec![])), Gate::converge_unavailable(why())];
    let runs = || vec![Gate::Runs(Verdict::Closed(vec![]))];
    vec![
        (Stop::Gates(runs()), &["runs"], false),
        (Stop::Gates(closed), &["runs", "converge"], true),
        (Stop::Event(StopEvent::ServiceCreated(name())), &["converge"], false),
        (Stop::Event(StopEvent::ServiceUpdated(name())), &["converge"], false),
        (Stop::Event(StopEvent::Run(name())), &["runs"], false),
        (Stop::Event(StopEvent::Lost(name())), &[], true),
        (Stop::Inhibited(vec![Inhibitor { pid: None, since: None, why: None }]), &["runs"], false),
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
    let outcome = failed(EngineError::simulated_status("DELETE", 500, "x"));
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

    let timeout = EngineError::simulated_timeout("DELETE", Duration::from_secs(30));
    let stuck = |kind: &str, id: &str| Some((kind.to_owned(), id.to_owned()));
    settle(&mut ledger, &failed(timeout), true, None, now());
    assert_eq!(ledger.stuck, stuck("container", "x"));
    // It had no turn.
    let skipped = vec![(removal(Kind::Container, "x"), Skip::Stopped)];
    settle(&mut ledger, &Outcome { skipped, ..Outcome::default() }, true, None, now());
    assert_eq!(ledger.stuck, stuck("container", "x"));
    let error = EngineError::simulated_status("DELETE", 500, "x");
    settle(&mut ledger, &failed(error), true, None, now());
    assert_eq!(ledger.stuck, None);
}

#[test]
fn pressure_is_what_the_gate_disk_is_open_for() {
    let disk = |open| {
        let limit = crate::gates::disk::Limit { percent: "80".parse().unwrap(), min_free: None };
        let measured = crate::gates::disk::Measured { usages: vec![usage(85)], limit };
        Gate::Disk(if open { Verdict::Open(measured) } else { Verdict::Closed(measured) })
    };
    assert!(is_under_pressure(&[disk(true)]) && !is_under_pressure(&[disk(false)]));
    assert!(!is_under_pressure(&[Gate::disk_unavailable(why()), Gate::Runs(Verdict::Open(()))]));
}

fn settings_of(words: &str) -> PruneSettings {
    let words =
        ["ci-docker-prune", "--config=/dev/null", "prune"].into_iter().chain(words.split_whitespace());
    match settings::read(words.map(Into::into)).unwrap().command {
        Command::Prune(prune) => *prune,
        other => panic!("{other:?}"),
    }
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

fn pruned(fake: Fake, words: &str, consumers: bool) -> (Answer<PruneResult>, Rc<Fake>) {
    let fake = Rc::new(fake);
    let result = block(prune(&fake, &settings_of(words), consumers, &|_| ()));
    (result, fake)
}

fn run_of_ci() -> Container {
    Container { names: vec!["abcd-0123ef_ci_commoninternet_net".into()], ..container() }
}

fn word(result: &PruneResult) -> String {
    match &result.ending {
        PruneOutcome::CarriedOut(outcome) => {
            format!("removed {}, stopped {}", outcome.removed.len(), outcome.stopped.is_some())
        }
        other => format!("{other:?}"),
    }
}

#[test]
fn a_prune_subscribes_before_it_asks_the_gates_and_relieves_the_disk() {
    let (result, fake) = pruned(host(85), "", false);
    let result = result.unwrap();
    assert_eq!(word(&result), "removed 1, stopped false");
    assert_eq!(
        (result.before[0].percent.get(), result.after[0].percent.get(), result.reclaimed),
        (85, 75, 100)
    );
    assert!(result.pressure.is_none() && !result.preview && result.disk_consumers.is_none());
    assert_eq!(result.images_on.map(|usage| usage.percent.get()), Some(85));
    let first: Vec<_> = fake.requests.borrow().iter().take(7).cloned().collect();
    let subscribed = format!("subscribe {}", now());
    assert_eq!(first[..6], ["prepare", "lock prunes", "watch shutdown", "connect", "info", &subscribed]);
    let ledger = fake.ledger.borrow();
    assert!(ledger.images.is_empty() && ledger.evicting.is_empty() && ledger.pressure.is_none());
    // At 75 % there is no room for the reserve.
    assert!(fake.asked("keep reserve").is_empty());
}

#[test]
fn a_prune_that_does_not_help_remembers_the_pressure_and_says_what_fills_the_disk() {
    for (consumers, shutdown) in [(true, false), (false, false), (true, true)] {
        let fake = host(95);
        fake.shutdown.set(shutdown);
        let (result, fake) = pruned(fake, "", consumers);
        let result = result.unwrap();
        assert_eq!(
            word(&result),
            if shutdown { "removed 0, stopped true" } else { "removed 1, stopped false" }
        );
        assert_eq!(result.disk_consumers.is_some(), consumers && !shutdown);
        let owed = result.pressure.unwrap().owed;
        assert_eq!(owed, shutdown.then_some(Duration::ZERO));
        assert_eq!(fake.ledger.borrow().pressure.as_ref().unwrap().owed_since, shutdown.then(now));
    }
    // A ledger that cannot be written at the end knows what it knew at the start.
    let fake = host(95).failing("update ledger", 500);
    fake.ledger.borrow_mut().owe(["runs"], ago("1h").unwrap());
    let result = pruned(fake, "", false).0.unwrap();
    let since = result.pressure.as_ref().map(|pressure| pressure.since);
    assert_eq!((word(&result).as_str(), since), ("removed 1, stopped false", ago("1h")));
}

#[test]
fn a_disk_that_cannot_be_measured_at_the_end_counts_as_full_as_before() {
    let mut fake = host(95).failing("measure /var/lib/docker", 500);
    // For the gate, the plan before the images and after them, before the batch and before its end.
    fake.failing_after.insert("measure /var/lib/docker".into(), 5);
    let result = pruned(fake, "", false).0.unwrap();
    assert_eq!(word(&result), "removed 1, stopped false");
    assert_eq!((result.after[0].percent.get(), result.reclaimed), (95, 0));
    assert!(result.pressure.is_some());
}

#[test]
fn what_went_is_none_of_what_fills_the_disk() {
    const MB: u64 = 1_000_000;
    let fake = host(95);
    {
        let mut filesystem = fake.filesystem.borrow_mut();
        (filesystem.size, filesystem.used, filesystem.available) = (1_000 * MB, 990 * MB, 10 * MB);
        let mut images = fake.images.borrow_mut();
        images[0].size = 50 * MB;
        images.push(Image { size: 40 * MB, tags: vec!["kept:1".into()], ..image("bbbb") });
    }
    let result = pruned(fake, "", true).0.unwrap();
    assert_eq!(word(&result), "removed 1, stopped false");
    let found = result.disk_consumers.unwrap();
    let ids: Vec<_> =
        found.largest.iter().map(|consumer| (consumer.id.as_str(), consumer.size / MB)).collect();
    assert_eq!(ids, [("", 900), ("sha256:bbbb", 40)]);
}

#[test]
fn a_gate_blocks_and_is_counted_under_pressure_only() {
    let busy = |percent, words: &str, consumers| {
        let mut fake = host(percent);
        fake.containers = vec![run_of_ci()];
        let (result, fake) = pruned(fake, words, consumers);
        let result = result.unwrap();
        assert_eq!(word(&result), "Blocked");
        assert!(fake.asked("images").is_empty() && fake.asked("remove").is_empty());
        let blocked = fake.ledger.borrow().pressure.as_ref().map(|pressure| pressure.blocked["runs"]);
        assert_eq!(result.pressure.is_some(), blocked.is_some());
        (blocked, result.disk_consumers.is_some())
    };
    assert_eq!(busy(85, "", true), (Some(1), false));
    assert_eq!(busy(75, "", true), (None, false));
    // A run that waits for space waits for ever.
    assert_eq!(busy(95, "", true), (Some(1), true));
    assert_eq!(busy(95, "", false), (Some(1), false));
    assert_eq!(busy(94, "--disk-critical 94", true), (Some(1), true));
    // What a container uses now is noted all the same.
    let mut fake = host(85);
    fake.containers = vec![Container { image_id: "sha256:aaaa".into(), ..run_of_ci() }];
    let fake = pruned(fake, "", false).1;
    assert_eq!(fake.ledger.borrow().images["sha256:aaaa"].last_used, Some(now()));
}

#[test]
fn on_a_disk_with_room_nothing_goes_the_pressure_is_over_and_the_reserve_is_kept() {
    for (percent, words, keeps) in [
        (79, "", false),
        (70, "", false),
        (69, "", true),
        (69, "--disk-min-free 311B", true),
        (69, "--disk-min-free 310B", true),
    ] {
        let fake = host(percent);
        fake.ledger.borrow_mut().owe(["runs"], ago("1h").unwrap());
        let pressed = words.contains("311");
        let (result, fake) = pruned(fake, words, true);
        let expected = if pressed { "removed 1, stopped false" } else { "Blocked" };
        assert_eq!(word(&result.unwrap()), expected, "{percent} {words}");
        assert_eq!(!fake.asked("keep reserve").is_empty(), keeps, "{percent} {words}");
        assert!(fake.ledger.borrow().pressure.is_none() || pressed, "{percent} {words}");
    }
}

#[test]
fn what_cannot_be_asked_is_told() {
    let lost = |request: &str| pruned(host(85).failing(request, 500), "", false).0;
    let subscribed = format!("subscribe {}", now());
    for request in ["connect", "info", &subscribed] {
        let result = lost(request).unwrap();
        assert_eq!((word(&result).as_str(), result.gates.len()), ("Unavailable", 3), "{request}");
        assert!(result.gates.iter().all(|gate| gate.state() == GateState::Unknown), "{request}");
    }
    for request in ["services", "tasks", "containers All", "measure /var/lib/docker", "inhibitors"] {
        let (result, fake) = pruned(host(85).failing(request, 500), "", false);
        let result = result.unwrap();
        assert_eq!(word(&result), "Unavailable", "{request}");
        // A prune is owed, as far as it is known that the disk is under pressure.
        let owed = fake.ledger.borrow().pressure.as_ref().and_then(|pressure| pressure.owed_since);
        assert_eq!(owed.is_some(), !request.starts_with("measure"), "{request}");
        assert!(result.gates.iter().any(|gate| gate.state() == GateState::Open), "{request}");
    }
    assert!(lost("prepare").unwrap_err().0.contains("name another directory with --runtime-dir"));
    for request in ["lock prunes", "watch shutdown"] {
        assert!(lost(request).is_err(), "{request}");
    }
    // An engine that shows no clock is subscribed to from now on.
    let mut fake = host(85);
    fake.info.time = None;
    assert_eq!(pruned(fake, "", false).1.asked("subscribe"), [subscribed]);
}

/// An eviction that was interrupted: our tag is all that this image has.
fn interrupted(percent: u64) -> Fake {
    let fake = host(percent);
    let tag = crate::engine::remove::eviction_tag("sha256:aaaa");
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
    let (result, fake) = pruned(interrupted(50), "", false);
    let result = result.unwrap();
    assert_eq!(word(&result), "removed 1, stopped false");
    assert!(result.plan.is_some_and(|plan| plan.remove.len() == 1));
    assert!(fake.images.borrow().is_empty() && fake.ledger.borrow().evicting.is_empty());
    assert!(fake.asked("images").is_empty(), "no list is asked for");
    // Not beside a run, and not where it has a name again: there our tag goes.
    let mut busy = interrupted(50);
    busy.containers = vec![run_of_ci()];
    let (result, fake) = pruned(busy, "", false);
    assert_eq!((word(&result.unwrap()).as_str(), fake.images.borrow().len()), ("Blocked", 1));
    assert_eq!(fake.ledger.borrow().evicting.len(), 1);
    let mut converging = interrupted(50);
    converging.services = vec![service()];
    converging.services[0].status = Some(crate::facts::TaskCounts { running: 0, desired: 1, completed: 0 });
    let (result, fake) = pruned(converging, "", false);
    assert_eq!((word(&result.unwrap()).as_str(), fake.images.borrow().len()), ("Blocked", 1));
    let named = interrupted(50);
    named.images.borrow_mut()[0].digests.push("app@sha256:daaaa".into());
    let (result, fake) = pruned(named, "", false);
    let result = result.unwrap();
    assert_eq!((word(&result).as_str(), result.plan.is_none()), ("Blocked", true));
    assert_eq!(fake.images.borrow()[0].eviction_tag, None);
    assert!(fake.ledger.borrow().evicting.is_empty());
    // A false 404 forgets nothing, and nothing else goes on a disk with room.
    let mut lied = interrupted(50);
    lied.unknown_once.borrow_mut().push("sha256:aaaa".into());
    lied.containers = vec![Container { state: crate::facts::ContainerState::Created, ..container() }];
    let (result, fake) = pruned(lied, "", false);
    assert_eq!(word(&result.unwrap()), "removed 1, stopped false");
    assert!(fake.asked("remove container").is_empty());
    // One that is gone is forgotten, and one that cannot be asked about is not.
    let gone = interrupted(50);
    gone.images.borrow_mut().clear();
    assert!(pruned(gone, "", false).1.ledger.borrow().evicting.is_empty());
    let unread = interrupted(50).failing("image sha256:aaaa", 500);
    assert_eq!(pruned(unread, "", false).1.ledger.borrow().evicting.len(), 1);
    // A failure is told.
    let ours = format!("remove image {}", crate::engine::remove::eviction_tag("sha256:aaaa"));
    let failed = pruned(interrupted(50).failing(&ours, 500), "", false).0.unwrap();
    assert_eq!((word(&failed).as_str(), failed.has_failed()), ("removed 0, stopped false", true));
}

#[test]
fn a_preview_plans_whatever_the_gates_say_and_writes_nothing() {
    let previewed = |fake: Fake, at: Option<u64>, consumers| {
        let fake = Rc::new(fake);
        let before = fake.ledger.borrow().clone();
        let result = block(preview(&fake, &settings_of(""), at.map(usage), consumers));
        let written =
            ["update", "remove", "tag", "prune", "keep", "lock"].map(|request| fake.asked(request).len());
        assert_eq!(written, [0; 6]);
        assert_eq!(*fake.ledger.borrow(), before);
        result
    };
    let planned = |result: &PruneResult| result.plan.as_ref().map(|plan| plan.remove.len());
    let mut busy = host(85);
    busy.containers = vec![run_of_ci()];
    for (fake, at, expected, percent) in [
        (host(85), None, 1, 85),
        (host(75), None, 0, 75),
        (busy, None, 1, 85),
        // At another usage.
        (host(75), Some(99), 1, 99),
    ] {
        let result = previewed(fake, at, false).unwrap();
        assert_eq!((word(&result).as_str(), planned(&result)), ("Previewed", Some(expected)));
        assert_eq!(result.images_on.as_ref().map(|usage| usage.percent.get()), Some(percent));
        assert!(result.preview && result.disk_consumers.is_none());
    }
    assert!(previewed(host(85), None, true).unwrap().disk_consumers.is_some());
    // An unknown gate is told, with the plan where one could be made.
    let result = previewed(host(85).failing("inhibitors", 500), None, false).unwrap();
    assert_eq!((word(&result).as_str(), planned(&result), result.preview), ("Unavailable", Some(1), true));
    let result = previewed(host(85).failing("services", 500), None, false).unwrap();
    assert_eq!((word(&result).as_str(), planned(&result), result.preview), ("Unavailable", None, true));
    assert!(previewed(host(85).failing("connect", 500), None, false).is_err());
    let unmeasured = previewed(host(85).failing("measure /var/lib/docker", 500), None, false).unwrap();
    assert!(unmeasured.images_on.is_none() && planned(&unmeasured) == Some(0));
}

#[test]
fn what_is_under_way_counts_as_it_is_asked_again() {
    let mut fake = host(85);
    fake.containers = vec![Container { mounted_images: vec!["tools:1".into()], ..container() }];
    fake.services = vec![service()];
    fake.tasks = vec![crate::testing::task()];
    let fake = Rc::new(fake);
    let again = block(ask_again(&fake, &fake, &settings_of("")));
    assert!(again.closed.is_empty());
    assert_eq!(again.in_use, HashSet::from(["sha256:1a".to_owned(), "tools:1".to_owned()]));
    let mut fake = host(85);
    fake.services = vec![crate::facts::Service {
        labels: labels(&[("com.docker.stack.namespace", "abcd-0123ef_ci_commoninternet_net")]),
        ..service()
    }];
    let fake = Rc::new(fake);
    let again = block(ask_again(&fake, &fake, &settings_of("")));
    assert!(again.closed.iter().map(Gate::name).eq(["runs"]));
    let fake = Rc::new(host(85).failing("tasks", 500));
    let again = block(ask_again(&fake, &fake, &settings_of("")));
    assert!(again.closed.iter().map(Gate::name).eq(["converge"]));
}
