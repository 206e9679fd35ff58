//! How a prune finds its moment: waiting prunes, and the commands that queue behind them.

use std::fs;
use std::process::{Child, Command, Stdio};

use lab::{Engine, Image};
use predicates::prelude::*;
use predicates::str::contains;

use crate::support::{APP, RUN, cached, dangling, left, program, remember, standard};

/// Under pressure, with four dangling images, and the image of a run.
fn busy() -> (Engine, [String; 4]) {
    let engine = Engine::start();
    engine.publish(&Image::new("app", "1"));
    let dangling = dangling(&engine);
    engine.fill_to(85);
    (engine, dangling)
}

fn started(engine: &Engine, words: &[&str]) -> Child {
    let mut command: Command = standard(&program(engine));
    command.args(words).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().unwrap()
}

const PRUNE: [&str; 5] = ["prune", "--older-than", "0s", "--wait", "100s"];

fn has(engine: &Engine, register: &str) -> bool {
    let entries = fs::read_dir(engine.folder().join("runtime").join(register));
    let name = |entry: fs::DirEntry| entry.file_name().to_string_lossy().into_owned();
    entries.is_ok_and(|entries| entries.flatten().map(name).any(|name| !name.starts_with('.')))
}

/// A prune that waits.
fn waiting(engine: &Engine) -> Child {
    let prune = started(engine, &PRUNE);
    engine.eventually("the prune waits", || has(engine, "prunes"));
    prune
}

#[track_caller]
fn ends(child: Child, expected: i32) -> (String, String) {
    let output = child.wait_with_output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(expected), "{stdout}{stderr}");
    (stdout, stderr)
}

#[test]
fn a_prune_that_is_due_begins_when_the_last_run_ends() {
    let (engine, images) = busy();
    engine.docker(["run", "--detach", "--name", RUN, APP]);
    let gate = started(&engine, &["check-gates", "runs", "--wait", "100s"]);
    let prune = waiting(&engine);
    program(&engine).arg("status").assert().success().stdout(contains("a prune that is due"));
    engine.docker(["rm", "--force", RUN]);
    let (stdout, _) = ends(prune, 0);
    assert!(stdout.contains("reclaimed"), "{stdout}");
    assert_eq!(left(&engine, &images), 0);
    assert!(!has(&engine, "prunes"));
    ends(gate, 0);
    // A run that does not end: nothing is removed, and the wait ends.
    engine.docker(["run", "--detach", "--name", RUN, APP]);
    program(&engine).args(["check-gates", "runs", "--wait", "2s"]).assert().code(3);
    let blocked = program(&engine).args(["prune", "--wait", "2s"]).assert().success();
    blocked.stdout(contains("blocked by runs"));
}

#[test]
fn commands_queue_behind_a_prune_that_waits_and_begin_after_it() {
    let (engine, images) = busy();
    let goes_on = engine.folder().join("goes-on");
    let until = format!("until [ -e {} ]; do sleep 0.1; done", goes_on.display());
    let first = started(&engine, &["inhibit", "--", "sh", "-c", &until]);
    engine.eventually("it is registered", || has(&engine, "inhibitors"));
    let prune = waiting(&engine);
    let begun = engine.folder().join("begun");
    let second = started(&engine, &["inhibit", "--", "touch", begun.to_str().unwrap()]);
    engine.eventually("it queues", || has(&engine, "requests"));
    // One inside another is not queued: the prune waits for the outer one.
    program(&engine).args(["inhibit", "--prune-wait", "1s", "true"]).assert().success();
    assert!(!begun.exists());
    fs::write(&goes_on, "").unwrap();
    ends(first, 0);
    let (stdout, _) = ends(prune, 0);
    assert!(!stdout.contains("stopped"), "{stdout}");
    let (_, stderr) = ends(second, 0);
    assert!(begun.exists() && !stderr.contains("no longer"), "{stderr}");
    assert_eq!(left(&engine, &images), 0);
}

#[test]
fn nobody_waits_for_itself_for_a_prune_that_died_or_for_longer_than_allowed() {
    let (engine, images) = busy();
    let inner = format!(
        "until ls {}/prunes/* 2>/dev/null; do sleep 0.1; done; exec {} inhibit true",
        engine.folder().join("runtime").display(),
        assert_cmd::cargo::cargo_bin!("ci-docker-prune").display()
    );
    let outer = started(&engine, &["inhibit", "--", "sh", "-c", &inner]);
    engine.eventually("it is registered", || has(&engine, "inhibitors"));
    let prune = waiting(&engine);
    let (_, stderr) = ends(outer, 0);
    assert!(!stderr.contains("waiting"), "{stderr}");
    ends(prune, 0);
    assert_eq!(left(&engine, &images), 0);

    engine.docker(["run", "--detach", "--name", RUN, APP]);
    let mut dies = waiting(&engine);
    let queued = started(&engine, &["inhibit", "true"]);
    engine.eventually("it queues", || has(&engine, "requests"));
    dies.kill().unwrap();
    dies.wait().unwrap();
    ends(queued, 0);

    let mut waits = waiting(&engine);
    let bounded = program(&engine).args(["inhibit", "--prune-wait", "2s", "true"]).assert().success();
    bounded.stderr(contains("waiting for a prune").and(contains("no longer waiting")));
    waits.kill().unwrap();
    waits.wait().unwrap();
}

#[test]
fn a_command_begins_with_the_room_that_it_wants_or_not_at_all() {
    let (engine, images) = busy();
    let begun = engine.folder().join("begun");
    let touch = ["--", "touch", begun.to_str().unwrap()];
    let inhibit = |min_free: &str| {
        let words = [&["inhibit", "--prune-wait", "2s", "--min-free", min_free][..], &touch[..]].concat();
        program(&engine).args(words).assert()
    };
    inhibit("900T").code(75).stderr(contains("--min-free 900"));
    assert!(!begun.exists());
    inhibit("1M").success();
    assert!(begun.exists());
    // What it wants a prune frees, also below the threshold.
    let wants = started(&engine, &["inhibit", "--min-free", "900T", "true"]);
    // The one before may have left its registration.
    let requests = engine.folder().join("runtime/requests");
    let wants_room = |entry: fs::DirEntry| {
        fs::read_to_string(entry.path()).is_ok_and(|text| text.contains("\"min_free_bytes\":9"))
    };
    engine.eventually("it asks", || fs::read_dir(&requests).unwrap().flatten().any(wants_room));
    let words =
        ["record", "--prune-at", "99", "--disk-threshold", "99", "--older-than", "0s", "--wait", "1s"];
    let critical = ["--disk-critical", "99"];
    program(&engine).args(words).args(critical).assert().success();
    assert_eq!(left(&engine, &images), 0);
    ends(wants, 75);
}

#[test]
fn what_nobody_ends_closes_no_gate() {
    let engine = Engine::start();
    engine.publish(&Image::new("app", "1"));
    engine.docker(["run", "--detach", "--name", RUN, APP]);
    program(&engine).arg("runs").assert().code(3);
    let old = ["--run-max-age", "1s"];
    engine.eventually("it is abandoned", || {
        program(&engine).arg("runs").args(old).assert().get_output().status.success()
    });
    let command = format!("docker rm --force {RUN}");
    program(&engine).arg("runs").args(old).assert().success().stdout(contains(&command));
    program(&engine).arg("status").args(old).assert().success().stdout(contains(&command));
    program(&engine).args(["runs", "--run-max-age", "never"]).assert().code(3);
    engine.docker(["rm", "--force", RUN]);

    // It runs every hour: its next task waits, with its image there.
    let cron =
        ["service", "create", "--quiet", "--detach", "--name", "cron", "--restart-delay", "1h", APP, "true"];
    engine.docker(cron);
    let converged = || program(&engine).arg("converge").assert().get_output().status.success();
    engine.eventually("its first task has run", || {
        engine.docker(["service", "ps", "cron"]).contains("Complete") && converged()
    });
    // Its attempts are used up, and the last one ended well.
    let twice = "--restart-condition any --restart-max-attempts 1 --restart-delay 1s";
    let once = ["service", "create", "--quiet", "--detach", "--name", "twice"].into_iter();
    engine.docker(once.chain(twice.split(' ')).chain([APP, "true"]));
    engine.eventually("both have ended", || {
        engine.docker(["service", "ps", "twice"]).matches("Complete").count() == 2 && converged()
    });

    // One that cannot start is waited for until it is stuck.
    let stuck = [
        "service",
        "create",
        "--quiet",
        "--detach",
        "--name",
        "stuck",
        "--constraint",
        "node.labels.a==1",
        APP,
    ];
    engine.docker(stuck);
    assert!(!converged());
    let long = ["--converge-max-age", "1s"];
    engine.eventually("it is stuck", || {
        program(&engine).arg("converge").args(long).assert().get_output().status.success()
    });
    let stuck = program(&engine).arg("converge").args(long).assert().success();
    stuck.stdout(contains("stuck").and(contains("docker service scale stuck=0")));
}

#[test]
fn beside_live_runs_cached_images_go_on_a_critical_disk() {
    let engine = Engine::start();
    engine.publish(&Image::new("app", "1"));
    let [nameless] = dangling(&engine);
    let old = cached(&engine, &Image::new("old", "1"));
    engine.docker(["run", "--detach", "--name", RUN, APP]);
    engine.fill_to(85);
    remember(&engine, &[(&old, 90)]);
    let critical = ["prune", "--disk-critical", "80", "--older-than", "0s"];
    program(&engine).args(critical).assert().stdout(contains("blocked by runs"));
    let beside = program(&engine).args(critical).args(["--during-runs", "critical"]).assert();
    beside.stdout(contains("beside live runs"));
    assert!(!engine.has_image(&old));
    assert!(engine.has_image(&nameless), "only cached images go");
}
