//! What an execution does and leaves, request by request, with an engine that answers as told.

use std::collections::HashMap;
use std::rc::Rc;

use super::evict::{BATCH, EVICTION_GRACE, Quiet, batch, freed_nothing, wanted_bytes};
use super::permit::{MAX_RECHECKS, MAX_RETRIES, MAX_SURVEYS, is_as_planned};
use super::*;
use crate::facts::{Filesystem, Inspected, Kind, Object};
use crate::facts::{Image, eviction_tag};
use crate::gates::{Gates, Verdict};
use crate::ledger::Expectation;
use crate::plan::Leftover;
use crate::plan::{Eviction, LastUse, Rung};
use crate::testing::fake::Fake;
use crate::testing::{ago, block, image, now, usage};
use crate::units::Time;

fn dangling(id: &str) -> (Image, Removal) {
    let reason = RemovalReason::Unnamed { age: Duration::ZERO, parents: 0 };
    let image = Image { digests: vec![], ..image(id) };
    (image.clone(), planned(&image, reason))
}

fn cached(id: &str, tags: &[&str], rung: Rung, percent: &str) -> (Image, Removal) {
    let tags = tags.iter().map(|&tag| tag.to_owned()).collect();
    let image = Image { tags, size: 100, ..image(id) };
    let last_use = LastUse::Used(Duration::ZERO);
    let eviction = Eviction {
        rung,
        begins: below(percent, None),
        limit: below(percent, None),
        last_use,
        expected: Expectation::Overdue(None),
    };
    (image.clone(), planned(&image, RemovalReason::Evicted(eviction)))
}

fn planned(image: &Image, reason: RemovalReason) -> Removal {
    Removal { object: image.into(), frees: Some(image.size), finished: None, reason }
}

fn container(id: &str, finished: Option<Time>) -> Removal {
    let object = Object { kind: Kind::Container, id: id.into(), names: vec![], size: 0 };
    Removal { object, frees: None, finished, reason: RemovalReason::Finished(Duration::ZERO) }
}

fn build_cache() -> Removal {
    let reason = RemovalReason::StaleCache { records: 1, older_than: Duration::from_secs(60) };
    let object = Object { kind: Kind::BuildCache, id: String::new(), names: vec![], size: 1 };
    Removal { object, frees: Some(1), finished: None, reason }
}

/// An engine with these images, and what is to be done with them.
fn scene(images: impl IntoIterator<Item = (Image, Removal)>) -> (Fake, Vec<Removal>) {
    let (images, removals) = images.into_iter().unzip();
    let fake = Fake::new();
    *fake.images.borrow_mut() = images;
    (fake, removals)
}

/// What the gates say each time they are asked.
type Ask<'a> = &'a dyn Fn(&Fake) -> Recheck;

fn open(_: &Fake) -> Recheck {
    let Gates { runs, converge, .. } = crate::testing::gates(85);
    Recheck { runs, converge, in_use: HashSet::new() }
}

/// Of 1,000 bytes: 500, and what the images take.
fn measured(fake: &Fake) -> Answer<Usage> {
    let held: u64 = fake.images.borrow().iter().map(|image| image.size).sum();
    let used = (500 + held).min(1_000);
    let filesystem = Filesystem { used, available: 1_000 - used, ..usage(1).filesystem };
    Ok(Usage { percent: filesystem.percent().unwrap(), filesystem })
}

/// Carry these out, and undo this first; how long that took.
fn timed(
    fake: Fake,
    undo: Option<Leftover>,
    removals: Vec<Removal>,
    ask: Ask,
) -> (Duration, Outcome, Rc<Fake>) {
    let fake = Rc::new(fake);
    let context = Context { world: &fake, engine: &fake, events: &fake, let_go: &[], progress: &|_| () };
    let asked = async || {
        fake.requests.borrow_mut().push("ask".into());
        ask(&fake)
    };
    let (took, outcome) = block(async {
        let mut run = Execution::new(context, asked, async || measured(&fake));
        let began = tokio::time::Instant::now();
        if let Some(leftover) = undo {
            run.undo(leftover).await;
        }
        run.carry_out(removals).await;
        (began.elapsed(), run.outcome)
    });
    (took, outcome, fake)
}

fn carried_out(fake: Fake, undo: Option<Leftover>, removals: Vec<Removal>, ask: Ask) -> (Outcome, Rc<Fake>) {
    let (_, outcome, fake) = timed(fake, undo, removals, ask);
    (outcome, fake)
}

fn carry_out(fake: Fake, removals: Vec<Removal>) -> (Outcome, Rc<Fake>) {
    carried_out(fake, None, removals, &open)
}

/// Each object and what became of it, in the order in which that was known.
fn shown(outcome: &Outcome) -> String {
    let removed = outcome.removed.iter().map(|removal| format!("{} removed", removal.object.id));
    let skipped = outcome.skipped.iter().map(|(removal, why)| {
        let why = format!("{why:?}");
        format!("{} {}", removal.object.id, why.split(['(', ' ']).next().unwrap())
    });
    let failed = outcome.failed.iter().map(|(removal, _)| format!("{} failed", removal.object.id));
    let all: Vec<_> = removed.chain(skipped).chain(failed).collect();
    all.join(", ").replace("sha256:", "")
}

fn stopped(outcome: &Outcome) -> &'static str {
    match &outcome.stopped {
        None => "",
        Some(Stop::Gates { .. }) => "gates",
        Some(Stop::Event(_)) => "event",
        Some(Stop::Inhibited(_)) => "inhibited",
        Some(Stop::Signal) => "signal",
        Some(Stop::GatesUnsettled) => "unsettled",
        Some(Stop::NoSpace) => "no space",
        Some(Stop::Unavailable(_)) => "unavailable",
    }
}

/// The place of the first such request.
#[track_caller]
fn place(fake: &Fake, request: &str) -> usize {
    let requests = fake.requests.borrow();
    requests.iter().position(|other| other == request).unwrap_or_else(|| panic!("{request}: {requests:?}"))
}

#[test]
fn what_a_run_does_that_closes_no_gate_stops_nothing() {
    let stopped = |events: &[&str]| {
        let (image, removal) = dangling("aaaa");
        let fake = Fake::new();
        fake.images.borrow_mut().push(image);
        events.iter().for_each(|run| fake.seen.borrow_mut().stop(StopEvent::Run((*run).into())));
        let fake = Rc::new(fake);
        let let_go = ["old".to_owned()];
        let context =
            Context { world: &fake, engine: &fake, events: &fake, let_go: &let_go, progress: &|_| () };
        let mut run = Execution::new(context, async || open(&fake), async || Ok(usage(85)));
        block(run.carry_out(vec![removal]));
        run.outcome.stopped.is_some()
    };
    assert!(!stopped(&["old", "old.1.xyz"]));
    assert!(stopped(&["older"]) && stopped(&["old", "new"]));
}

#[test]
fn an_object_must_still_be_what_the_plan_saw() {
    let (plain, removal) = cached("aaaa", &["ci:1"], Rung::Target, "70");
    let ours = || Some(eviction_tag("sha256:aaaa"));
    let other = || Image { tags: vec!["ci:1".into(), "wanted:1".into()], ..plain.clone() };
    let nameless = || Image { tags: vec![], digests: vec![], eviction_tag: ours(), ..plain.clone() };
    let unused = Precondition::Unused(&removal, None);
    let with = |name: &'static str| Precondition::Unused(&removal, Some(name));
    let (last, named) = (Precondition::Nameless("sha256:aaaa"), Precondition::Named("sha256:aaaa"));
    let used = "sha256:aaaa";
    type Row<'a> = (&'a str, Precondition<'a>, Option<Image>, &'a str, &'a str);
    let table: [Row; 19] = [
        ("as it was", unused, Some(plain.clone()), "", ""),
        ("gone", unused, None, "", "gone"),
        ("another tag", unused, Some(other()), "", "Renamed"),
        ("fewer tags", unused, Some(Image { tags: vec![], ..plain.clone() }), "", ""),
        ("a name of its own", with("ci:1"), Some(plain.clone()), "", ""),
        ("a digest of its own", with("app@sha256:daaaa"), Some(plain.clone()), "", ""),
        ("another's name now", with("ci:1"), Some(Image { tags: vec![], ..plain.clone() }), "", "moved"),
        ("in use", unused, Some(plain.clone()), used, "InUse"),
        ("in use, by its name", unused, Some(plain.clone()), "ci:1", "InUse"),
        ("another is in use", unused, Some(plain.clone()), "sha256:bbbb", ""),
        ("renamed and in use", unused, Some(other()), used, "Renamed"),
        ("our tag is all", last, Some(nameless()), "", ""),
        ("our tag is all, and it is in use", last, Some(nameless()), used, "InUse"),
        ("named again, and in use", last, Some(Image { eviction_tag: ours(), ..plain.clone() }), used, ""),
        ("gone meanwhile", last, None, "", "gone"),
        ("named again", named, Some(plain.clone()), "", ""),
        ("in use and named", named, Some(plain.clone()), used, ""),
        ("not named", named, Some(nameless()), "", "Renamed"),
        ("gone", named, None, "", "gone"),
    ];
    for (what, expect, image, used, expected) in table {
        for by_event in [false, true] {
            let fake = Fake::new();
            fake.images.borrow_mut().extend(image.clone());
            let fake = Rc::new(fake);
            let context =
                Context { world: &fake, engine: &fake, events: &fake, let_go: &[], progress: &|_| () };
            let mut run = Execution::new(context, async || open(&fake), async || measured(&fake));
            let used = Some(used.to_owned()).filter(|used| !used.is_empty());
            if by_event {
                run.named_by_events.extend(used)
            } else {
                run.in_use.extend(used)
            }
            let found = block(run.check(expect)).map_or_else(told, |()| String::new());
            assert_eq!(found, expected, "{what}, by an event: {by_event}");
        }
    }
}

fn told(why: NotDone) -> String {
    match why {
        NotDone::Gone => "gone".into(),
        NotDone::Moved => "moved".into(),
        NotDone::Skipped(why) => format!("{why:?}"),
        NotDone::Failed(_) => "failed".into(),
    }
}

#[test]
fn an_image_has_no_more_names_than_planned_and_is_of_its_kind() {
    let (plain, as_dangling) = dangling("a");
    let (tagged, as_tagged) = cached("a", &["ci:1", "ci:2"], Rung::Target, "70");
    let (digest, as_cached) = cached("a", &[], Rung::Target, "70");
    let with = |tags: &[&str]| Image { tags: tags.iter().map(|&tag| tag.into()).collect(), ..digest.clone() };
    for (image, removal, expected) in [
        (&plain, &as_dangling, true),
        (&digest, &as_dangling, false),
        (&with(&["x:1"]), &as_dangling, false),
        (&digest, &as_cached, true),
        (&with(&["x:1"]), &as_cached, false),
        (&plain, &as_cached, false),
        (&tagged, &as_tagged, true),
        (&with(&["ci:2"]), &as_tagged, true),
        (&digest, &as_tagged, true),
        (&with(&["ci:1", "x:1"]), &as_tagged, false),
    ] {
        assert_eq!(is_as_planned(image, removal), expected, "{:?} {:?}", image.tags, removal.object.kind);
    }
}

#[test]
fn a_container_goes_unless_it_ran_again() {
    for (now_, expected) in [
        (ago("2d"), "c removed"),
        (None, "c removed"),
        (ago("1h"), "c RanAgain"),
        (Some(now()), "c RanAgain"),
    ] {
        let mut fake = Fake::new();
        let inspected = Inspected { finished: now_, restart_policy: None };
        fake.inspected.insert("c".into(), inspected);
        let (outcome, fake) = carry_out(fake, vec![container("c", ago("2d"))]);
        assert_eq!(shown(&outcome), expected);
        assert_eq!(fake.asked("remove container").len(), usize::from(expected == "c removed"));
    }
    // Where it is gone, its removal says so.
    assert_eq!(shown(&carry_out(Fake::new(), vec![container("c", ago("2d"))]).0), "c removed");
    let failing = Fake::new().failing("container c", 500);
    assert_eq!(shown(&carry_out(failing, vec![container("c", ago("2d"))]).0), "c failed");
}

#[test]
fn three_orders_for_dangling_images_are_in_flight_and_no_more() {
    let (mut fake, removals) = scene(["aaaa", "bbbb", "cccc", "dddd", "eeee", "ffff", "abab"].map(dangling));
    fake.delays =
        removals.iter().map(|removal| (format!("remove image {}", removal.object.id), 100)).collect();
    let (took, outcome, _) = timed(fake, None, removals, &open);
    // Seven, three at a time.
    assert_eq!((took.as_millis(), outcome.removed.len()), (300, 7));
}

/// Two dangling images: the order for the first ends like this while the second is looked at.
fn beside(error: EngineError) -> (Outcome, Rc<Fake>) {
    let (mut fake, removals) = scene(["aaaa", "bbbb"].map(dangling));
    let first = "remove image sha256:aaaa".to_owned();
    fake.delays = HashMap::from([(first.clone(), 10), ("image sha256:bbbb".into(), 20)]);
    fake.failures.insert(first, error);
    carry_out(fake, removals)
}

#[test]
fn after_a_failure_beside_it_an_image_is_looked_at_anew_once_the_gates_were_asked() {
    let (outcome, fake) = beside(crate::testing::status("DELETE", 500, "x"));
    assert_eq!(shown(&outcome), "bbbb removed, aaaa failed");
    let requests = fake.requests.borrow();
    let requests: Vec<&str> = requests.iter().map(String::as_str).collect();
    let last = requests.iter().rposition(|request| *request == "ask").unwrap();
    let rest = ["ask", "inhibitors", "image sha256:bbbb", "remove image sha256:bbbb"];
    let after: Vec<&str> =
        requests[last..].iter().filter(|request| **request != "lock removals").copied().collect();
    assert_eq!(after, rest, "{requests:?}");
    assert!(place(&fake, "remove image sha256:aaaa") < last);
}

#[test]
fn beside_an_order_that_times_out_no_other_is_given() {
    let (outcome, fake) = beside(crate::testing::timeout("DELETE", Duration::from_secs(30)));
    assert_eq!((shown(&outcome).as_str(), stopped(&outcome)), ("bbbb Stopped, aaaa failed", "unavailable"));
    assert_eq!(fake.asked("remove image"), ["remove image sha256:aaaa"]);
}

#[test]
fn an_image_that_is_gone_whatever_its_order_said_went() {
    let (fake, removals) = scene([dangling("aaaa")]);
    fake.images.borrow_mut().clear();
    assert_eq!(shown(&carry_out(fake, removals).0), "aaaa removed");
    // The engine fails over a parent that went beside it.
    let (fake, removals) = scene([dangling("aaaa")]);
    let fake = Rc::new(fake.failing("remove image sha256:aaaa", 500));
    let order = async |fake: &Rc<Fake>| {
        let permit = Permit::without_checks();
        remove_dangling_image(fake, Rc::new(Rc::clone(fake)), removals[0].clone(), permit).await.1
    };
    assert!(matches!(block(order(&fake)), Err(NotDone::Failed(_))));
    fake.images.borrow_mut().clear();
    assert!(matches!(block(order(&fake)), Ok(Effect::Gone)));
}

#[test]
fn an_engine_that_is_only_busy_is_asked_again_a_few_times() {
    let removals = vec![container("c", None)];
    let fake = || Fake::new();
    let mut busy = fake();
    let error = crate::testing::status("x", 409, "removal of container c is already in progress");
    busy.failures.insert("remove container c".into(), error);
    let (outcome, asked) = carry_out(busy, removals.clone());
    assert_eq!((shown(&outcome).as_str(), asked.asked("remove").len()), ("c Refused", 1 + MAX_RETRIES));
    let (outcome, asked) = carry_out(fake().failing("remove container c", 409), removals.clone());
    assert_eq!((shown(&outcome).as_str(), asked.asked("remove").len()), ("c Refused", 1));
    let (outcome, asked) = carry_out(fake().failing("remove container c", 500), removals);
    assert_eq!((shown(&outcome).as_str(), asked.asked("remove").len()), ("c failed", 1));
}

#[test]
fn on_a_full_disk_the_reserve_goes_and_then_the_run_ends() {
    let mut full = Fake::new();
    let error = crate::testing::status("x", 500, "write /x: no space left on device");
    full.failures.insert("remove container c".into(), error);
    let (outcome, fake) = carry_out(full, vec![container("c", None), container("d", None)]);
    assert_eq!((shown(&outcome).as_str(), stopped(&outcome)), ("d Stopped, c failed", "no space"));
    assert_eq!(fake.asked("remove container"), ["remove container c"; 2]);
}

#[test]
fn a_kind_that_is_forbidden_is_not_asked_for_again_and_others_are() {
    let fake = Fake::new().failing("remove container c", 403);
    let (outcome, fake) = carry_out(fake, vec![container("c", None), container("d", None), build_cache()]);
    assert_eq!(shown(&outcome), " removed, d Forbidden, c failed");
    assert_eq!(fake.asked("remove container"), ["remove container c"]);
    // It may be in trouble: the gates are asked again.
    assert_eq!(fake.asked("ask").len(), 2);
}

#[test]
fn nothing_goes_once_something_speaks_against_it() {
    let closed = |_: &Fake| Recheck { runs: crate::testing::runs_closed(), ..open(&Fake::new()) };
    let inhibitor = || Inhibitor { pid: None, since: None, why: None, user: None };
    let lost = || crate::testing::loss("x");
    type Row<'a> = (&'a str, &'a dyn Fn(&mut Fake), Ask<'a>, &'a str);
    let table: [Row; 8] = [
        ("nothing", &|_| (), &open, ""),
        ("a gate", &|_| (), &closed, "gates"),
        ("an inhibitor", &|fake| fake.inhibitors.borrow_mut().push(inhibitor()), &open, "inhibited"),
        (
            "inhibitors that are unread",
            &|fake| drop(fake.failures.insert("inhibitors".into(), lost())),
            &open,
            "unavailable",
        ),
        (
            "the lock",
            &|fake| drop(fake.failures.insert("lock removals".into(), lost())),
            &open,
            "unavailable",
        ),
        ("a signal", &|fake| fake.shutdown.set(true), &open, "signal"),
        ("an event", &|fake| fake.seen.borrow_mut().stop(StopEvent::Run("x".into())), &open, "event"),
        // Each time the gates are asked a container of a service starts.
        (
            "a service that never settles",
            &|_| (),
            &|fake| {
                fake.seen.borrow_mut().of_services += 1;
                fake.seen.borrow_mut().others += 1;
                open(fake)
            },
            "unsettled",
        ),
    ];
    for (what, change, ask, expected) in table {
        let (image, removal) = dangling("aaaa");
        let mut fake = Fake::new();
        fake.images.borrow_mut().push(image);
        change(&mut fake);
        let removals = vec![removal, container("c", None), build_cache()];
        let (outcome, fake) = carried_out(fake, None, removals, ask);
        assert_eq!(stopped(&outcome), expected, "{what}");
        let orders = fake.asked("remove").len() + fake.asked("prune").len();
        assert_eq!(orders == 0, !expected.is_empty(), "{what}");
        let stays = outcome.skipped.iter().filter(|(_, why)| *why == Skip::Stopped).count();
        assert_eq!(stays, if expected.is_empty() { 0 } else { 3 }, "{what}");
        let asked = if expected == "unsettled" { MAX_RECHECKS } else { 3 };
        assert!(fake.asked("ask").len() <= asked, "{what}");
    }
}

#[test]
fn the_gates_are_asked_once_for_each_kind_and_again_after_events() {
    let (fake, mut removals) = scene(["aaaa", "bbbb"].map(dangling));
    removals.extend([container("c", None), container("d", None)]);
    let (outcome, fake) = carry_out(fake, removals.clone());
    assert_eq!((outcome.removed.len(), fake.asked("ask").len()), (4, 2));
    // Containers that are no service's start all the time: after a few times what they use is known.
    let (fake, removals) = scene([dangling("aaaa")]);
    let (outcome, fake) = carried_out(fake, None, removals, &|fake| {
        fake.seen.borrow_mut().others += 1;
        open(fake)
    });
    assert_eq!((outcome.removed.len(), fake.asked("ask").len()), (1, MAX_SURVEYS));
    // What a container uses is told by the gates, and by the events.
    let uses = |_: &Fake| Recheck { in_use: HashSet::from(["sha256:aaaa".to_owned()]), ..open(&Fake::new()) };
    let (fake, removals) = scene(["aaaa", "bbbb"].map(dangling));
    assert_eq!(shown(&carried_out(fake, None, removals, &uses).0), "bbbb removed, aaaa InUse");
    let (fake, removals) = scene(["aaaa", "bbbb"].map(dangling));
    fake.seen.borrow_mut().images.push("sha256:bbbb".into());
    assert_eq!(shown(&carry_out(fake, removals).0), "aaaa removed, bbbb InUse");
}

#[test]
fn build_cache_is_asked_for_until_there_is_none() {
    let (outcome, fake) = carry_out(Fake::new(), vec![build_cache()]);
    assert_eq!((shown(&outcome).as_str(), fake.asked("prune").len()), (" removed", 2));
    assert_eq!(fake.asked("prune")[0], "prune build cache 60");
    let (outcome, _) = carry_out(Fake::new().failing("prune build cache 60", 500), vec![build_cache()]);
    assert_eq!(shown(&outcome), " failed");
    // What has gone before a signal is gone.
    let (mut fake, started) = (Fake::new(), Fake::new());
    fake.delays.insert("prune build cache 60".into(), 10);
    started.shutdown.set(true);
    let fake = Rc::new(fake);
    let context = Context { world: &fake, engine: &fake, events: &fake, let_go: &[], progress: &|_| () };
    let outcome = block(async {
        let mut run = Execution::new(context, async || open(&fake), async || measured(&fake));
        let signal = async {
            tokio::time::sleep(Duration::from_millis(5)).await;
            fake.shutdown.set(true);
        };
        tokio::join!(run.carry_out(vec![build_cache()]), signal);
        run.outcome
    });
    assert_eq!((shown(&outcome).as_str(), stopped(&outcome)), (" removed", "signal"));
    assert_eq!(shown(&carry_out(started, vec![build_cache()]).0), " Stopped");
}

#[test]
fn an_eviction_records_the_names_takes_them_waits_asks_again_and_removes() {
    let (fake, removals) = scene([cached("aaaa", &["ci:1", "ci:2"], Rung::Target, "60")]);
    let (took, outcome, fake) = timed(fake, None, removals, &open);
    assert_eq!(took, EVICTION_GRACE);
    assert_eq!(shown(&outcome), "aaaa removed");
    assert_eq!(outcome.settled, ["sha256:aaaa"]);
    let names = ["app@sha256:daaaa", "ci:1", "ci:2"].map(String::from);
    assert_eq!(fake.ledger.borrow().evicting["sha256:aaaa"], names);
    let requests = fake.requests.borrow();
    let steps: Vec<&str> = requests
        .iter()
        .map(String::as_str)
        .filter(|request| !["lock removals", "inhibitors", "image sha256:aaaa"].contains(request))
        .collect();
    let ours = format!("remove image {}", eviction_tag("sha256:aaaa"));
    let expected = [
        "update ledger",
        "ask",
        "tag image sha256:aaaa",
        "remove image ci:1",
        "remove image ci:2",
        "remove image app@sha256:daaaa",
        "ask",
        &ours,
    ];
    assert_eq!(steps, expected);
}

#[test]
fn an_image_that_stays_has_its_tags_again() {
    let ours = format!("remove image {}", eviction_tag("sha256:aaaa"));
    let slow = crate::testing::timeout("x", Duration::from_secs(1));
    type Row<'a> = (&'a str, Fake, &'a [&'a str], &'a str, &'a str);
    let fresh = || scene([cached("aaaa", &["ci:1", "ci:2"], Rung::Target, "60")]).0;
    let mut hangs = fresh();
    hangs.failures.insert("remove image ci:2".into(), slow);
    let table: [Row; 5] = [
        (
            "the second tag is refused",
            fresh().failing("remove image ci:2", 409),
            &["ci:1"],
            "aaaa Refused",
            "",
        ),
        ("it fails", fresh().failing("remove image ci:2", 500), &["ci:1", "ci:2"], "aaaa failed", ""),
        ("it hangs", hangs, &["ci:1", "ci:2"], "aaaa failed", "unavailable"),
        ("our tag is refused", fresh().failing(&ours, 409), &["ci:1", "ci:2"], "aaaa Refused", ""),
        ("our tag fails", fresh().failing(&ours, 500), &["ci:1", "ci:2"], "aaaa failed", ""),
    ];
    for (what, fake, restored, expected, ends) in table {
        let removals = vec![cached("aaaa", &["ci:1", "ci:2"], Rung::Target, "60").1];
        let (outcome, fake) = carry_out(fake, removals);
        assert_eq!((shown(&outcome).as_str(), stopped(&outcome)), (expected, ends), "{what}");
        let asked: Vec<_> = restored.iter().map(|tag| format!("restore sha256:aaaa {tag}")).collect();
        assert_eq!(fake.asked("restore"), asked, "{what}");
        let mut tags = fake.images.borrow()[0].tags.clone();
        tags.sort_unstable();
        assert_eq!(tags, ["ci:1", "ci:2"], "{what}");
        assert!(outcome.settled.is_empty(), "{what}");
    }
    // One that another took away has no use for them.
    let (fake, removals) = scene([cached("aaaa", &["ci:1"], Rung::Target, "60")]);
    let (outcome, fake) = carried_out(fake, None, removals, &|fake| {
        let taken = !fake.asked("remove image app").is_empty();
        if taken {
            fake.images.borrow_mut().clear();
        }
        open(fake)
    });
    assert_eq!((shown(&outcome).as_str(), fake.asked("restore").len()), ("aaaa removed", 0));
}

#[test]
fn what_comes_in_the_second_of_grace_is_seen() {
    let ours = eviction_tag("sha256:aaaa");
    let in_grace = |fake: &Fake| !fake.asked("remove image app").is_empty();
    let judged = |ask: Ask| {
        let (fake, removals) = scene([cached("aaaa", &["ci:1"], Rung::Target, "60")]);
        let (outcome, fake) = carried_out(fake, None, removals, ask);
        let image = fake.images.borrow().first().cloned();
        let names = image.map(|image| (image.tags.join(" "), image.digests.join(" "), image.eviction_tag));
        (shown(&outcome), stopped(&outcome), names)
    };
    // A pull gives it a name again: our tag goes, its own comes back, and it stays.
    let pulled = judged(&|fake| {
        if in_grace(fake) {
            fake.images.borrow_mut()[0].digests.push("app@sha256:daaaa".into());
        }
        open(fake)
    });
    let names = ("ci:1".to_owned(), "app@sha256:daaaa".to_owned(), None);
    assert_eq!(pulled, ("aaaa PulledAgain".into(), "", Some(names)));
    // A container was made from it.
    let used = judged(&|fake| {
        let in_use = in_grace(fake).then(|| "sha256:aaaa".to_owned());
        Recheck { in_use: in_use.into_iter().collect(), ..open(fake) }
    });
    let names = ("ci:1".to_owned(), String::new(), Some(ours.clone()));
    assert_eq!(used, ("aaaa InUse".into(), "", Some(names.clone())));
    // A gate closes.
    let closed = judged(&|fake| {
        let unknown = Verdict::Unknown(converge::Unknown::Unavailable(Unavailable("x".into())));
        if in_grace(fake) { Recheck { converge: unknown, ..open(fake) } } else { open(fake) }
    });
    assert_eq!(closed, ("aaaa Interrupted".into(), "gates", Some(names)));
}

#[test]
fn names_that_cannot_be_recorded_are_not_taken_but_for_those_that_a_registry_has() {
    let both = [cached("aaaa", &["ci:1"], Rung::Target, "10"), cached("bbbb", &[], Rung::Target, "10")];
    let (fake, removals) = scene(both.clone());
    let (outcome, _) = carry_out(fake.failing("update ledger", 500), removals);
    assert_eq!(shown(&outcome), "bbbb removed, aaaa Unrecorded");
    // Of images that are gone there is nothing to record.
    let (fake, removals) = scene(both.clone());
    fake.images.borrow_mut().clear();
    assert!(carry_out(fake, removals).1.asked("update ledger").is_empty());
    let (fake, removals) = scene(both);
    let (outcome, fake) = carry_out(fake.failing("image sha256:aaaa", 500), removals);
    assert_eq!(shown(&outcome), "bbbb removed, aaaa failed");
    assert_eq!(fake.ledger.borrow().evicting.keys().collect::<Vec<_>>(), ["sha256:bbbb"]);
}

#[test]
fn evictions_go_as_far_as_the_limit_of_their_rung_asks() {
    // At 90 %: two of 10 % each until it is below 75, and those of the next rung only from 95 % on.
    let images = [
        cached("aaaa", &[], Rung::Target, "75"),
        cached("bbbb", &[], Rung::Target, "75"),
        cached("cccc", &[], Rung::Target, "75"),
        cached("dddd", &[], Rung::Critical, "95"),
    ];
    let (fake, removals) = scene(images);
    let (outcome, _) = carry_out(fake, removals);
    assert_eq!(shown(&outcome), "aaaa removed, bbbb removed, cccc EnoughSpace, dddd EnoughSpace");
    let Skip::EnoughSpace(usage, limit) = &outcome.skipped[1].1 else { panic!("{outcome:?}") };
    assert_eq!((usage.percent.get(), limit.percent.get()), (70, 95));
}

#[test]
fn an_interrupted_eviction_is_finished_however_full_the_disk() {
    let tag = eviction_tag("sha256:aaaa");
    // At 50 %.
    let nameless = Image { digests: vec![], eviction_tag: Some(tag.clone()), size: 0, ..image("aaaa") };
    let removal = planned(&nameless, RemovalReason::Interrupted);
    let (fake, removals) = scene([(nameless, removal)]);
    let (outcome, fake) = carry_out(fake, removals);
    assert_eq!((shown(&outcome).as_str(), stopped(&outcome)), ("aaaa removed", ""));
    assert!(fake.asked("tag image").is_empty() && fake.asked(&format!("remove image {tag}")).len() == 1);
}

#[test]
fn evictions_that_free_nothing_twice_end() {
    // At 90 %, with what others write in a second, and what each removal frees. One takes as long as others need to write half of its size.
    let run = |writes: u64, frees: u64| {
        let (mut fake, removals) = scene(four());
        let last = |removal: &Removal| format!("remove image {}", eviction_tag(&removal.object.id));
        fake.delays = removals.iter().map(|removal| (last(removal), 250_000)).collect();
        measured_by(fake, removals, &|fake, times| Ok(900 + writes * times as u64 - frees * gone(fake)))
    };
    let useless_batches = run(0, 0);
    assert_eq!(shown(&useless_batches), "aaaa removed, bbbb removed, cccc FreedNothing, dddd FreedNothing");
    assert_eq!(useless_batches.freed_nothing, Some(FreedNothing { images: 2, size: 1_000 }));
    assert_eq!(run(0, 10).removed.len(), 4, "each frees a little");
    assert_eq!(run(1, 0).removed.len(), 4, "others write as much meanwhile");
}

#[test]
fn what_is_left_of_an_interrupted_eviction_is_undone() {
    let tag = eviction_tag("sha256:aaaa");
    let left = |lost: &[&str], ours: bool| Leftover {
        id: "sha256:aaaa".into(),
        lost_tags: lost.iter().map(|&tag| tag.to_owned()).collect(),
        eviction_tag: ours.then(|| tag.clone()),
    };
    let fresh = |digests: &[&str]| {
        let fake = Fake::new();
        let digests = digests.iter().map(|&digest| digest.to_owned()).collect();
        fake.images.borrow_mut().push(Image { digests, eviction_tag: Some(tag.clone()), ..image("aaaa") });
        fake
    };
    let ours = format!("remove image {tag}");
    let mut hangs = fresh(&["app@sha256:d"]);
    hangs.failures.insert(ours.clone(), crate::testing::timeout("x", Duration::from_secs(1)));
    let digest = &["app@sha256:d"][..];
    type Row<'a> = (&'a str, Fake, Leftover, bool, &'a str);
    let table: [Row; 8] = [
        ("a tag, and ours", fresh(digest), left(&["ci:1"], true), true, ""),
        ("all is there", fresh(digest), left(&[], false), true, ""),
        ("only ours", fresh(digest), left(&[], true), true, ""),
        ("it has no name", fresh(&[]), left(&[], true), false, ""),
        ("the image is gone", Fake::new(), left(&[], true), true, ""),
        (
            "a tag that cannot be given back",
            fresh(digest).failing("restore sha256:aaaa ci:1", 500),
            left(&["ci:1"], true),
            false,
            "",
        ),
        ("ours cannot be taken off", fresh(digest).failing(&ours, 500), left(&[], true), false, ""),
        ("the engine hangs", hangs, left(&[], true), false, "unavailable"),
    ];
    for (what, fake, leftover, settled, ends) in table {
        let (id, lost) = (leftover.id.clone(), leftover.lost_tags.clone());
        let takes = leftover.eviction_tag.is_some();
        let (outcome, fake) = carried_out(fake, Some(leftover), vec![container("c", None)], &open);
        assert_eq!(outcome.settled, if settled { vec![id] } else { vec![] }, "{what}");
        assert_eq!(stopped(&outcome), ends, "{what}");
        if let Some(image) = fake.images.borrow().first().filter(|_| settled) {
            assert_eq!((&image.tags, image.eviction_tag.is_none()), (&lost, takes), "{what}");
        }
        // After a failure the gates are asked before anything else goes.
        if what == "ours cannot be taken off" {
            assert_eq!(fake.asked("ask").len(), 2);
        }
    }
}

/// Carry these out with another way to measure the disk.
fn measured_by(fake: Fake, removals: Vec<Removal>, measure: &dyn Fn(&Fake, usize) -> Answer<u64>) -> Outcome {
    let fake = Rc::new(fake);
    let context = Context { world: &fake, engine: &fake, events: &fake, let_go: &[], progress: &|_| () };
    let measured = async || {
        let times = fake.asked("measure").len();
        fake.requests.borrow_mut().push("measure".into());
        let used = measure(&fake, times)?;
        let filesystem = Filesystem { used, available: 1_000 - used, ..usage(1).filesystem };
        Ok(Usage { percent: filesystem.percent().unwrap(), filesystem })
    };
    block(async {
        let mut run = Execution::new(context, async || open(&fake), measured);
        run.carry_out(removals).await;
        run.outcome
    })
}

fn four() -> [(Image, Removal); 4] {
    ["aaaa", "bbbb", "cccc", "dddd"].map(|id| {
        let (image, removal) = cached(id, &[], Rung::Target, "75");
        (image, Removal { frees: Some(500), object: Object { size: 500, ..removal.object }, ..removal })
    })
}

fn gone(fake: &Fake) -> u64 {
    4 - fake.images.borrow().len() as u64
}

#[test]
fn a_disk_that_cannot_be_measured_ends_the_run_as_a_failure() {
    let (fake, removals) = scene(four());
    let outcome = measured_by(fake, removals, &|_, _| Err(Unavailable("x".into())));
    assert_eq!((stopped(&outcome), outcome.has_failed(), outcome.skipped.len()), ("unavailable", true, 4));
    // After a batch.
    let (fake, removals) = scene(four());
    let outcome = measured_by(fake, removals, &|fake, _| {
        if gone(fake) > 0 { Err(Unavailable("x".into())) } else { Ok(900) }
    });
    assert_eq!((stopped(&outcome), outcome.removed.len(), outcome.skipped.len()), ("unavailable", 1, 3));
}

#[test]
fn only_batches_in_a_row_that_free_nothing_end_the_evictions() {
    let (fake, removals) = scene(four());
    // The second one frees a little.
    let outcome = measured_by(fake, removals, &|fake, _| Ok(if gone(fake) >= 2 { 890 } else { 900 }));
    assert_eq!(shown(&outcome), "aaaa removed, bbbb removed, cccc removed, dddd removed");
}

#[test]
fn the_space_of_a_batch_is_waited_for() {
    // It comes back a while after the image went: by the time of several measurements.
    let since = std::cell::Cell::new(None);
    let (fake, removals) = scene(four());
    let outcome = measured_by(fake, removals, &|fake, times| {
        if gone(fake) > 0 && since.get().is_none() {
            since.set(Some(times));
        }
        let settled = since.get().is_some_and(|since| times >= since + 3);
        Ok(if settled { 500 } else { 900 })
    });
    assert_eq!(shown(&outcome), "aaaa removed, bbbb EnoughSpace, cccc EnoughSpace, dddd EnoughSpace");
    // And as long as more of it comes back.
    since.set(None);
    let (fake, removals) = scene(four());
    let outcome = measured_by(fake, removals, &|fake, times| {
        if gone(fake) > 0 && since.get().is_none() {
            since.set(Some(times));
        }
        let later = since.get().map_or(0, |since| times - since) as u64;
        Ok(900_u64.saturating_sub(40 * later).max(500))
    });
    assert_eq!(shown(&outcome), "aaaa removed, bbbb EnoughSpace, cccc EnoughSpace, dddd EnoughSpace");
}

#[test]
fn orders_in_flight_share_the_lock_that_an_inhibitor_waits_for() {
    let (mut fake, removals) = scene(["aaaa", "bbbb", "cccc"].map(dangling));
    fake.delays =
        removals.iter().map(|removal| (format!("remove image {}", removal.object.id), 100)).collect();
    let (outcome, fake) = carry_out(fake, removals);
    assert_eq!((outcome.removed.len(), fake.asked("lock removals").len()), (3, 1));
    // It is given back in between: an inhibitor has its turn.
    let (outcome, fake) = carry_out(Fake::new(), vec![container("c", None), container("d", None)]);
    assert_eq!((outcome.removed.len(), fake.asked("lock removals").len()), (2, 2));
}

#[test]
fn what_begins_while_an_object_is_looked_at_makes_it_look_again() {
    let (mut fake, removals) = scene([dangling("aaaa")]);
    fake.delays.insert("image sha256:aaaa".into(), 10);
    let fake = Rc::new(fake);
    let context = Context { world: &fake, engine: &fake, events: &fake, let_go: &[], progress: &|_| () };
    let outcome = block(async {
        let mut run = Execution::new(context, async || open(&fake), async || measured(&fake));
        let pull = async {
            tokio::time::sleep(Duration::from_millis(5)).await;
            fake.seen.borrow_mut().others += 1;
            fake.seen.borrow_mut().images.push("sha256:aaaa".into());
        };
        tokio::join!(run.carry_out(removals), pull);
        run.outcome
    });
    assert_eq!(shown(&outcome), "aaaa InUse");
}

#[test]
fn that_an_image_is_gone_is_believed_when_it_is_said_twice() {
    let (fake, removals) = scene([cached("aaaa", &[], Rung::Target, "10")]);
    fake.unknown_once.borrow_mut().push("sha256:aaaa".into());
    let (outcome, fake) = carry_out(fake, removals);
    assert_eq!((shown(&outcome).as_str(), fake.images.borrow().len()), ("aaaa removed", 0));
    // Neither may the look after a failure be missing.
    let (fake, removals) = scene([dangling("aaaa")]);
    let mut fake = fake.failing("remove image sha256:aaaa", 500).failing("image sha256:aaaa", 500);
    fake.failing_after.insert("image sha256:aaaa".into(), 1);
    assert_eq!(shown(&carry_out(fake, removals).0), "aaaa failed");
}

#[test]
fn an_image_that_others_were_built_from_counts_as_refused() {
    let (mut fake, removals) = scene([cached("aaaa", &["ci:1"], Rung::Target, "60")]);
    fake.keeps_nameless = true;
    let (outcome, fake) = carry_out(fake, removals);
    assert_eq!((shown(&outcome).as_str(), outcome.settled.len()), ("aaaa HasChildren", 0));
    assert_eq!(fake.images.borrow()[0].tags, ["ci:1"]);
}

#[test]
fn names_that_an_earlier_eviction_took_stay_recorded() {
    let (fake, removals) = scene([cached("aaaa", &["ci:2"], Rung::Target, "60")]);
    fake.ledger.borrow_mut().evicting.insert("sha256:aaaa".into(), vec!["ci:1".into(), "ci:2".into()]);
    let (_, fake) = carry_out(fake, removals);
    assert_eq!(fake.ledger.borrow().evicting["sha256:aaaa"], ["app@sha256:daaaa", "ci:1", "ci:2"]);
}

#[test]
fn the_second_of_grace_is_waited_for_only_where_something_goes_after_it() {
    let slow = crate::testing::timeout("x", Duration::from_secs(1));
    let error = crate::testing::status("x", 500, "x");
    // And another second for their space to come back.
    for (what, failure, of, expected) in [
        ("both lose their names", None, "", 2),
        ("the second one hangs", Some(slow), "app@sha256:dbbbb", 0),
        ("the second one fails", Some(error.clone()), "app@sha256:dbbbb", 2),
        ("nothing gets our tag", Some(error), "", 0),
    ] {
        let both = [cached("aaaa", &[], Rung::Target, "10"), cached("bbbb", &[], Rung::Target, "10")];
        let (mut fake, removals) = scene(both);
        for removal in removals.iter().filter(|_| of.is_empty()) {
            let tag = format!("tag image {}", removal.object.id);
            fake.failures.extend(failure.clone().map(|failure| (tag, failure)));
        }
        fake.failures.extend(failure.clone().map(|failure| (format!("remove image {of}"), failure)));
        assert_eq!(timed(fake, None, removals, &open).0.as_secs(), expected, "{what}");
    }
}

#[test]
fn after_a_stop_nothing_more_is_undone() {
    let fake = Fake::new();
    let left = |id: &str| Leftover {
        id: format!("sha256:{id}"),
        lost_tags: vec![],
        eviction_tag: Some(eviction_tag(id)),
    };
    for id in ["aaaa", "bbbb"] {
        let tagged = Image { eviction_tag: Some(eviction_tag(id)), ..image(id) };
        fake.images.borrow_mut().push(tagged);
    }
    let fake = Rc::new(fake);
    fake.shutdown.set(true);
    let context = Context { world: &fake, engine: &fake, events: &fake, let_go: &[], progress: &|_| () };
    block(async {
        let mut run = Execution::new(context, async || open(&fake), async || measured(&fake));
        run.undo(left("aaaa")).await;
        fake.shutdown.set(false);
        run.undo(left("bbbb")).await;
    });
    assert!(fake.asked("remove").is_empty());
}

#[test]
fn a_batch_takes_no_image_of_another_rung_and_no_more_than_its_size() {
    let removals = |n: usize, percent: &str| {
        (0..n).map(|_| cached("a", &[], Rung::Target, percent).1).collect::<Vec<_>>()
    };
    let taken = |limit: Option<&str>, others: Vec<Removal>, used: u64| {
        let first = removals(1, limit.unwrap_or("70")).remove(0);
        let mut left = VecDeque::from(others);
        let limit = limit.map(|percent| below(percent, None));
        batch(first, limit.as_ref(), &usage(used), &mut left).len()
    };
    // Each frees 10 %.
    assert_eq!(taken(Some("70"), removals(9, "70"), 85), 2);
    assert_eq!(taken(Some("70"), removals(9, "70"), 99), 3);
    assert_eq!(taken(Some("70"), removals(9, "80"), 99), 1, "another rung");
    assert_eq!(taken(None, removals(9, "70"), 99), 1, "no interrupted eviction");
    assert_eq!(
        taken(
            Some("0"),
            removals(99, "0").into_iter().map(|removal| Removal { frees: Some(0), ..removal }).collect(),
            99
        ),
        BATCH
    );
    let mut left = VecDeque::from(vec![dangling("a").1, container("c", None)]);
    assert!(pop(&mut left, Turn::Containers).is_none());
    assert!(pop(&mut left, Turn::DanglingImages).is_some() && pop(&mut left, Turn::DanglingImages).is_none());
}

#[test]
fn what_others_write_is_taken_to_go_on_at_the_same_pace() {
    let quiet = |before, after, millis| Quiet {
        before: usage(before),
        after: usage(after),
        time: Duration::from_millis(millis),
    };
    for (quiet, millis, expected) in [
        (quiet(80, 90, 1_000), 1_000, 100),
        (quiet(80, 90, 1_000), 2_500, 250),
        (quiet(80, 90, 1_000), 0, 0),
        (quiet(90, 80, 1_000), 1_000, 0),
        (quiet(80, 90, 0), 1, 100),
    ] {
        assert_eq!(quiet.written_in(Duration::from_millis(millis)), expected);
    }
}

#[test]
fn freed_inodes_and_metadata_count_where_they_decide() {
    let at = |inodes_used: u64, metadata_used: u64| {
        let filesystem =
            Filesystem { inodes: 100, inodes_used, metadata: 100, metadata_used, ..usage(50).filesystem };
        Usage { percent: filesystem.percent().unwrap(), filesystem }
    };
    let gone = FreedNothing { images: 1, size: 1 << 30 };
    for (before, after, expected) in [
        (at(90, 0), at(89, 0), false),
        (at(90, 0), at(90, 0), true),
        (at(90, 0), at(91, 0), true),
        (at(0, 90), at(0, 89), false),
        (at(0, 90), at(0, 90), true),
        // They do not decide.
        (at(40, 0), at(30, 0), true),
        (at(0, 40), at(0, 30), true),
        (at(90, 80), at(90, 70), true),
        (at(80, 90), at(70, 90), true),
    ] {
        assert_eq!(freed_nothing(&before, &after, gone), expected, "{before:?} {after:?}");
    }
}

#[test]
fn a_batch_is_as_large_as_the_target_wants() {
    let usage = |used, inodes_used| {
        let filesystem = Filesystem {
            mount_point: "/".into(),
            size: 1000,
            used,
            available: 1000 - used,
            inodes: 100,
            inodes_used,
            metadata: 0,
            metadata_used: 0,
        };
        Usage { percent: filesystem.percent().unwrap(), filesystem }
    };
    for (used, inodes, target, expected) in
        [(850, 1, "70", 160), (700, 1, "70", 10), (500, 1, "70", 0), (500, 90, "70", 0), (500, 1, "0", 500)]
    {
        assert_eq!(wanted_bytes(&usage(used, inodes), &below(target, None)), expected);
    }
    for (used, target, min_free, expected) in
        [(850, "70", 100, 160), (850, "90", 250, 100), (500, "70", 600, 100), (500, "70", 100, 0)]
    {
        assert_eq!(wanted_bytes(&usage(used, 1), &below(target, Some(min_free))), expected);
    }
}

fn below(percent: &str, min_free: Option<u64>) -> Limit {
    Limit { percent: percent.parse().unwrap(), min_free }
}

#[test]
fn a_batch_freed_nothing_when_the_disk_is_as_full_as_before() {
    // Of 1,000 bytes; two images of this size.
    for (before, after, size, expected) in [
        (85, 75, 100, false),
        (85, 85, 100, true),
        (85, 86, 100, true),
        (85, 84, 100, false),
        (85, 84, 2_000, true),
    ] {
        let gone = FreedNothing { images: 2, size };
        assert_eq!(freed_nothing(&usage(before), &usage(after), gone), expected, "{before} {after} {size}");
    }
    // Eight images on a base of more than a gigabyte that others have too.
    let disk = |used| {
        let mut usage = usage(85);
        usage.filesystem.used = used;
        usage
    };
    let gone = FreedNothing { images: 8, size: 12 << 30 };
    assert!(!freed_nothing(&disk(90 << 30), &disk((90 << 30) - (96 << 20)), gone));
    assert!(freed_nothing(&disk(90 << 30), &disk((90 << 30) - (4 << 20)), gone));
}

#[test]
fn a_hundred_terabytes_are_no_trouble() {
    const TB: u64 = 1_000_000_000_000;
    for (used, available) in [(85 * TB, 15 * TB), (u64::MAX / 100 * 85, u64::MAX / 100 * 15)] {
        let filesystem = Filesystem {
            mount_point: "/".into(),
            size: used.saturating_add(available),
            used,
            available,
            inodes: u64::MAX,
            inodes_used: u64::MAX / 10,
            metadata: 0,
            metadata_used: 0,
        };
        let usage = Usage { percent: filesystem.percent().unwrap(), filesystem };
        assert_eq!(usage.percent.get(), 85);
        let wanted = wanted_bytes(&usage, &below("70", None));
        assert_eq!((u128::from(wanted) * 100).div_ceil(u128::from(used) + u128::from(available)), 16);
    }
}
