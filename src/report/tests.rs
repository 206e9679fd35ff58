//! Each page as a whole, as it is printed where there is neither a terminal nor a colour.

use std::io;
use std::rc::Rc;
use std::time::Duration;

use crate::commands::prune::attempt;
use crate::execute::{Skip, Stop};
use crate::facts::{Inhibitor, Service, Task, TaskCounts, TaskState};
use crate::history::PastPrune;
use crate::ledger::Ledger;
use crate::plan::explain::{explain, matching_objects};
use crate::prune::report::{Attempt, OngoingPressure, PruneReport};
use crate::prune::{self, Mode};
use crate::report::verify::{Check, CheckStatus};
use crate::testing::fake::Fake;
use crate::testing::{RUN, ago, block, labels, now, past_prune, scene, service, settings, task};
use crate::world::StopEvent;

/// The page must be as in `snapshots/{name}.snap`.
fn is_page(name: &str, write: impl FnOnce(&mut Vec<u8>) -> io::Result<()>) {
    let mut page = Vec::new();
    write(&mut page).unwrap();
    let page = String::from_utf8(page).unwrap();
    insta::with_settings!({prepend_module_to_snapshot => false, omit_expression => true}, {
        insta::assert_snapshot!(name, anstream::adapter::strip_str(&page).to_string());
    });
}

/// What a prune, or its preview, of this host came to.
fn pruned(fake: Fake, words: &str) -> Attempt {
    let (settings, dry_run) = (settings(words), words.contains("dry-run"));
    block(attempt(&Rc::new(fake), &settings, dry_run, Duration::ZERO, true, &super::progress::hidden()))
        .attempt
}

fn prune_page(name: &str, attempt: &Attempt, verbose: bool) {
    is_page(name, |out| super::prune::text(out, attempt, verbose));
}

/// With a run that is live, and a service that cannot start.
fn busy() -> Fake {
    let mut fake = scene();
    let run = Service {
        id: "run".into(),
        name: format!("{RUN}_app"),
        labels: labels(&[("com.docker.stack.namespace", RUN)]),
        created: ago("20m"),
        updated: ago("20m"),
        ..service()
    };
    let mail = Service {
        id: "mail".into(),
        name: "shop_mail".into(),
        updated: ago("1h"),
        status: Some(TaskCounts { running: 0, desired: 1, completed: 0 }),
        ..service()
    };
    let rejected = Task {
        service: "mail".into(),
        state: TaskState::Rejected,
        error: Some("No such image: shop/mail:3@sha256:aa".into()),
        container: None,
        ..task()
    };
    fake.services.extend([run, mail]);
    fake.tasks.push(rejected);
    fake
}

#[test]
fn the_pages_of_a_prune() {
    let preview = pruned(scene(), "prune --dry-run");
    prune_page("prune-dry-run", &preview, false);
    prune_page("prune-dry-run-verbose", &preview, true);
    prune_page("prune-blocked", &pruned(busy(), "prune"), false);

    let mut done = pruned(scene(), "prune");
    prune_page("prune", &done, true);
    let PruneReport::Done(report) = &mut done.report else { panic!("{done:?}") };
    let last = report.outcome.removed.pop().unwrap();
    report.outcome.skipped.push((last, Skip::Stopped));
    report.outcome.stopped = Some(Stop::Event(StopEvent::ServiceCreated("shop_db".into())));
    prune_page("prune-stopped", &done, false);
}

#[test]
fn the_page_of_the_gates() {
    for (name, fake) in [("check-gates", scene()), ("check-gates-closed", busy())] {
        let attempt = pruned(fake, "prune --dry-run");
        let gates = attempt.report.gates().unwrap();
        is_page(name, |out| {
            super::gates::text(out, &super::reason::gates(gates), &super::advice::on_gates(gates))
        });
    }
}

#[test]
fn the_page_of_explain() {
    let settings = settings("prune");
    let ended = block(prune::run(&Rc::new(scene()), &settings.policy, Mode::Preview(None))).unwrap();
    let (PruneReport::Preview(preview), Some(seen)) = (ended.report, ended.seen) else {
        panic!("no preview")
    };
    let (inventory, ledger) = (&seen.inventory, &seen.ledger);
    let objects = ["redis", "postgres", "shop/web", "migrate", "nothing:1"].map(|query| {
        let found = matching_objects(inventory, ledger, query).into_iter();
        let explain =
            |object| explain(object, inventory, ledger, &settings.policy.removal, &preview.plan, seen.now);
        (query.to_owned(), found.map(explain).collect())
    });
    let report = super::explain::ExplainReport {
        now: ledger.time(seen.now),
        usage: preview.usage.clone(),
        objects: objects.into(),
    };
    is_page("explain", |out| super::explain::text(out, &report));
}

#[test]
fn the_pages_of_status_and_of_inhibitors() {
    let attempt = pruned(scene(), "prune --dry-run");
    let mut ledger = Ledger { clock: None, ..scene().ledger.into_inner() };
    ledger.owe(["runs"], ago("5h").unwrap());
    let inhibitors = vec![
        Inhibitor {
            pid: Some(4711),
            since: ago("12m"),
            why: Some("make deploy".into()),
            user: Some("ci".into()),
        },
        Inhibitor { pid: Some(4712), since: None, why: None, user: None },
    ];
    let percent = |hour: u64| (40 + (hour * 7) % 60).to_string().parse().unwrap();
    is_page("inhibit-list", |out| super::status::inhibitors_text(out, &inhibitors, now()));
    let report = super::status::StatusReport {
        now: now(),
        gates: attempt.report.gates().unwrap().clone(),
        pressure: OngoingPressure::of(&ledger, now()),
        limits: super::status::Limits {
            target: "75".parse().unwrap(),
            threshold: "80".parse().unwrap(),
            critical: "95".parse().unwrap(),
            young_from: "88".parse().unwrap(),
            growth: 6,
            prune_at: "90".parse().ok(),
        },
        intervention: ago("4h"),
        history: vec![
            PastPrune { at: ago("8d").unwrap(), ..past_prune("pruned", &[]) },
            PastPrune { removed: vec![], at: ago("2m").unwrap(), ..past_prune("blocked", &["runs"]) },
        ],
        last_success: ledger.last_success,
        next_record: None,
        next_run: Some("Sat 2026-11-21 03:00:00 UTC".into()),
        inhibitors: Ok(inhibitors),
        due: Ok(vec![Inhibitor { pid: Some(4713), since: ago("2m"), why: None, user: None }]),
        busy: ledger.busy(now()),
        usage: (0..14 * 24).map(|hour| (Duration::from_secs(hour * 3_600), percent(hour))).collect(),
        width: 80,
        is_utf8: true,
        images: ledger.images.len(),
        recorded: ledger.recorded_at,
    };
    is_page("status", |out| super::status::text(out, &report));
}

#[test]
fn the_page_of_verify() {
    let check = |name, status, message: &str, lines: &[&str]| Check {
        name,
        status,
        reason: super::reason::Reason::new("x", message.to_owned(), serde_json::Value::Null),
        registry: None,
        lines: lines.iter().map(|&line| line.to_owned()).collect(),
    };
    let checks = [
        check("engine", CheckStatus::Ok, "Docker 28.5.0", &[]),
        check("pruners", CheckStatus::Warning, "docker-prune.timer", &[]),
        check("pulls", CheckStatus::Failed, "0 left of 100", &[]),
        check("redeploy", CheckStatus::Skipped, "not asked for", &["one line", "another"]),
    ];
    is_page("verify", |out| super::verify::text(out, &checks));
}

#[test]
fn the_page_of_check_config() {
    is_page("check-config", |out| super::config::text(out, Some("/etc/ci-docker-prune.toml".as_ref()), 2));
}
