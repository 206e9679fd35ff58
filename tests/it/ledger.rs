//! The ledger: what is recorded, what survives, and what happens where it cannot be written.

use std::fs;
use std::os::unix::process::CommandExt;
use std::process::Command;

use lab::{Engine, Fault, Image, Options, Proxy};
use predicates::str::contains;
use serde_json::{Value, json};

use crate::support::{cached, change_ledger, json_of, ledger, ledger_path, names, program, prune, reachable};

fn app(engine: &Engine) -> &'static str {
    engine.publish(&Image::new("app", "1"));
    "127.0.0.1:5000/app:1"
}

#[test]
fn images_in_use_are_recorded_and_by_events_those_that_just_were() {
    let engine = Engine::start();
    let image = app(&engine);
    // Gone before anyone looked: only the events tell.
    engine.docker(["run", "--rm", image, "true"]);
    program(&engine)
        .args(["record", "-v"])
        .assert()
        .success()
        .stdout(contains("0 images in use now; the ledger knows 1"));
    let id = engine.image_id(image);
    let last_used = || -> jiff::Timestamp {
        ledger(&engine)["images"][&id]["last_used"].as_str().unwrap().parse().unwrap()
    };
    let first = last_used();

    engine.docker(["run", "--detach", "--name", "now", image]);
    program(&engine).args(["record", "-v"]).assert().success().stdout(contains("1 image in use now"));
    let second = last_used();
    assert!(second > first, "{second} is not after {first}");

    engine.docker(["rm", "--force", "now"]);
    program(&engine).arg("check-gates").assert().code(3);
    assert!(last_used() > second, "its end is an event");
}

#[test]
fn a_prune_records_every_image_and_drops_those_that_are_gone() {
    let engine = Engine::start();
    let image = app(&engine);
    engine.docker(["pull", "--quiet", image]);
    let id = engine.image_id(image);
    // A blocked one asks for no list of images.
    assert_eq!(prune(&engine, "")["outcome"], "blocked");
    assert_eq!(ledger(&engine)["images"][&id], Value::Null);
    engine.fill_to(85);
    assert_eq!(prune(&engine, "")["outcome"], "nothing");
    assert!(ledger(&engine)["images"][&id]["first_seen"].is_string());
    engine.docker(["image", "rm", image]);
    // One list that does not show it does not tell; one an hour later does.
    prune(&engine, "");
    assert!(ledger(&engine)["images"][&id]["missing_since"].is_string());
    change_ledger(&engine, |ledger| {
        let hour_ago = jiff::Timestamp::now() - jiff::SignedDuration::from_mins(61);
        ledger["images"][&id]["missing_since"] = hour_ago.to_string().into();
    });
    prune(&engine, "");
    assert_eq!(ledger(&engine)["images"][&id], Value::Null);
}

#[test]
fn a_dry_run_only_reads() {
    let engine = Engine::start();
    program(&engine).args(["prune", "--dry-run"]).assert().success();
    assert!(!ledger_path(&engine).exists());
}

#[test]
fn an_unreadable_ledger_is_set_aside_and_protects_every_cached_image() {
    let engine = Engine::start();
    let name = cached(&engine, &Image::new("app", "1"));
    fs::create_dir_all(engine.folder().join("state")).unwrap();
    fs::write(ledger_path(&engine), "{half a ledg").unwrap();
    engine.fill_to(90);
    program(&engine)
        .args(["--dry-run"])
        .assert()
        .success()
        .stderr(contains("cannot read the ledger").and(contains("ledger.json")));
    assert_eq!(fs::read_to_string(ledger_path(&engine)).unwrap(), "{half a ledg", "a dry run leaves it");
    program(&engine).arg("prune").assert().success().stderr(contains("moved to"));
    engine.image_id(&name);
    let aside = fs::read_dir(engine.folder().join("state")).unwrap().flatten();
    let aside: Vec<_> =
        aside.filter(|file| file.file_name().to_string_lossy().contains("unreadable")).collect();
    assert_eq!(fs::read_to_string(aside[0].path()).unwrap(), "{half a ledg");
}

#[test]
fn a_ledger_that_cannot_be_read_stays_and_fails_the_prune_after_its_work() {
    let engine = Engine::start();
    engine.publish(&Image::new("app", "1"));
    engine.docker(["run", "--name", "ended", "127.0.0.1:5000/app:1", "true"]);
    let name = cached(&engine, &Image::new("cached", "1"));
    engine.fill_to(90);
    fs::create_dir_all(engine.folder().join("state")).unwrap();
    // The memory of the process that reads it, where nothing lies at address 0: EIO, as of a bad disk.
    std::os::unix::fs::symlink("/proc/self/mem", ledger_path(&engine)).unwrap();
    let failure = "cannot read the ledger";
    program(&engine).arg("--dry-run").assert().success().stderr(contains(failure));
    program(&engine).arg("check-gates").assert().success();
    program(&engine).arg("record").assert().code(1).stderr(contains(failure));
    let mut report = Value::Null;
    engine.eventually("the container is a second old", || {
        let assert = program(&engine).args(["prune", "--older-than", "1s", "-o", "json"]).assert().code(1);
        report = json_of(&assert.stderr(contains("Input/output error")));
        names(&report["removed"]) == ["ended"]
    });
    assert_eq!(report["outcome"], "failed");
    let error = report["ledger_error"].as_str().unwrap();
    assert!(error.contains(failure) && error.contains("ledger.json"), "{error}");
    engine.image_id(&name);
    assert!(ledger_path(&engine).is_symlink(), "it is as it was");
}

#[test]
fn another_engine_on_the_same_state_directory_has_a_ledger_of_its_own() {
    let engine = Engine::start_with(Options { swarm: false, ..Options::default() });
    let image = app(&engine);
    engine.docker(["pull", "--quiet", image]);
    let id = engine.image_id(image);
    engine.fill_to(85);
    assert_eq!(prune(&engine, "")["outcome"], "nothing");
    let first = ledger(&engine);
    assert!(first["images"][&id].is_object(), "{first}");

    // The same one, but with another ID and without an image.
    let mut info: Value = serde_json::from_str(&engine.docker(["info", "--format", "{{json .}}"])).unwrap();
    info["ID"] = "an/other".into();
    let info: &'static str = Box::leak(info.to_string().into_boxed_str());
    let proxy = Proxy::before(&engine);
    proxy.on_request(move |_, line| match line.split('?').next() {
        Some("GET /info") => Some(Fault::Answer(info)),
        Some("GET /images/json") => Some(Fault::Answer("[]")),
        _ => None,
    });
    let path = engine.folder().join("state/ledger-an-other.json");
    for _ in 0..2 {
        // Another engine than the one whose data lie here.
        prune(&engine, &format!("--host {} --disk-path {}", proxy.url(), engine.data().display()));
        assert_eq!(ledger(&engine), first, "it is not the other's to write");
        let other: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        assert_eq!((&other["engine"], &other["images"]), (&"an/other".into(), &json!({})));
    }
    prune(&engine, "");
    assert_eq!(ledger(&engine)["images"][&id]["first_seen"], first["images"][&id]["first_seen"]);
    // Which engine is meant is not known where there is none: the first.
    let status = program(&engine).args(["status", "--host", "unix:///nowhere", "-o", "json"]).assert();
    assert_eq!(json_of(&status.success())["ledger"]["images"], 1);
}

#[test]
fn a_user_who_may_not_write_it_still_gets_an_answer() {
    let engine = Engine::start();
    program(&engine).arg("record").assert().success();
    let socket = engine.socket();
    fs::set_permissions(&socket, std::os::unix::fs::PermissionsExt::from_mode(0o666)).unwrap();
    let run = |words: &[&str]| {
        let mut command = Command::new(reachable(&engine));
        command.uid(65534).gid(65534).args(words).env_clear();
        let output = command
            .env("DOCKER_HOST", engine.url())
            .env("STATE_DIRECTORY", engine.folder().join("state"))
            .env("RUNTIME_DIRECTORY", engine.folder().join("runtime"))
            .output()
            .unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.code(), text(&output.stdout), text(&output.stderr))
    };
    let (code, stdout, stderr) = run(&["check-gates"]);
    assert_eq!((code, stderr.as_str()), (Some(3), ""), "{stdout}");
    let (code, ..) = run(&["--dry-run"]);
    assert_eq!(code, Some(0));
    let (code, _, stderr) = run(&["record"]);
    assert_eq!(code, Some(1));
    let sentence = "only root and the user of the service may prune and record: run it with sudo";
    assert!(stderr.contains(sentence), "{stderr}");
    let (code, _, stderr) = run(&["prune"]);
    assert_eq!(code, Some(1));
    assert!(stderr.contains(sentence), "{stderr}");
    // What it may not read may be an inhibitor.
    assert_eq!(run(&["runs"]).0, Some(0));
    let inhibitor = engine.folder().join("runtime/inhibitors/7-x");
    fs::write(&inhibitor, "{}").unwrap();
    fs::set_permissions(&inhibitor, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let (code, stdout, stderr) = run(&["runs"]);
    assert_eq!(code, Some(255), "{stdout} {stderr}");
    assert!(stdout.contains("this user may not read it"), "{stdout}");
}

#[test]
fn times_of_the_future_count_as_now() {
    let engine = Engine::start();
    let name = cached(&engine, &Image::new("app", "1"));
    let id = engine.image_id(&name);
    fs::create_dir_all(engine.folder().join("state")).unwrap();
    let future = "2999-01-01T00:00:00Z";
    let text = format!(
        r#"{{"schema":1,"recorded":"{future}","images":{{"{id}":{{"first_seen":"{future}","last_used":"{future}"}}}}}}"#
    );
    fs::write(ledger_path(&engine), text).unwrap();
    prune(&engine, "");
    let entry = ledger(&engine)["images"][&id].clone();
    assert!(entry["first_seen"].as_str().unwrap() < "2900", "{entry}");
    assert!(entry["last_used"].as_str().unwrap() < "2900", "{entry}");
}

use predicates::prelude::*;
