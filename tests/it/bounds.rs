//! Far beyond what a host has: the program stays correct, and so does what it prints.

use std::fs;

use lab::{Engine, Fault, Image, Proxy};
use predicates::prelude::*;
use predicates::str::contains;
use serde_json::{Value, json};

use crate::support::{RUN, change_ledger, ledger, ledger_path, program, prune, remember, stdout};

/// Colours, a cleared screen, a new title, a bell, a line and a row back.
const HOSTILE: &str = "\u{1b}[31m\u{1b}[2J\u{1b}]0;x\u{7}\r\n\u{8}\u{9b}31m";

#[track_caller]
fn is_clean(text: &str) {
    assert!(!text.contains(|c: char| c.is_control() && c != '\n'), "{text:?}");
}

#[test]
fn ten_thousand_images_with_the_strangest_names() {
    let engine = Engine::start();
    engine.fill_to(85);
    let long = "n".repeat(4096);
    let image = |n: u64| {
        let id = format!("sha256:{n:064x}");
        let digest = format!("{long}/{n}@{id}");
        let (tags, digests) = match n % 100 {
            0 => (json!(null), json!(null)),
            1..40 => (json!([]), json!([digest])),
            40 => (json!([format!("x{HOSTILE}:{n}")]), json!([])),
            _ => (json!([format!("{long}:{n}")]), json!([digest])),
        };
        json!({"Id": id, "RepoTags": tags, "RepoDigests": digests, "Created": 1_700_000_000, "Size": u64::from(u32::MAX) * n,
            "Labels": {format!("a{HOSTILE}"): HOSTILE, "b": long}})
    };
    let images: Vec<Value> = (0..10_000).map(image).collect();
    let answer: &'static str = Value::from(images).to_string().leak();
    let dangling: Vec<String> = (0..10_000).step_by(100).map(|n| format!("sha256:{n:064x}")).collect();
    remember(&engine, &dangling.iter().map(|id| (id.as_str(), 9)).collect::<Vec<_>>());
    change_ledger(&engine, |ledger| {
        let entries = ledger["images"].as_object_mut().unwrap();
        entries.values_mut().for_each(|entry| entry["named"] = false.into());
    });
    let proxy = Proxy::before(&engine);
    proxy.on_request(move |_, line| line.ends_with("/images/json").then_some(Fault::Answer(answer)));
    let report = crate::support::json_of(
        &program(&engine).args(["--dry-run", "-o", "json", "--host", &proxy.url()]).assert().success(),
    );
    // Dangling images are inspected for their tag's time; the engine has none of them, so that the ledger tells their age.
    assert_eq!(report["plan"]["remove"].as_array().unwrap().len(), 100, "the dangling images");
    assert_eq!(report["plan"]["keep"].as_array().unwrap().len(), 9_900);
    // Nothing that stays costs a request of its own.
    let asked = proxy.requests().iter().filter(|request| request.starts_with("GET /images/sha256")).count();
    assert_eq!(asked, 100, "one for each dangling image");
    let text = stdout(&program(&engine).args(["--dry-run", "-v", "--host", &proxy.url()]).assert().success());
    is_clean(&text);
    // No name is cut where the output is no terminal.
    assert!(text.contains(&"n".repeat(4_096)), "{text}");
}

#[test]
fn names_of_containers_and_labels_never_reach_a_terminal_or_the_log_raw() {
    let engine = Engine::start();
    engine.publish(&Image::new("app", "1"));
    let project = format!("com.docker.compose.project={RUN}_{HOSTILE}{}", "y".repeat(4096));
    let hash = "com.docker.compose.config-hash=01";
    engine.docker(["run", "--detach", "--label", &project, "--label", hash, "127.0.0.1:5000/app:1"]);
    engine.fill_to(85);
    let assert = program(&engine).args(["prune", "-vvv"]).assert().success();
    let output = assert.get_output();
    let (out, log) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(
        out.contains("compose project") && out.contains("nothing removed: blocked by runs"),
        "{out} {log}"
    );
    is_clean(&out);
    // Text of others that is logged.
    let proxy = Proxy::before(&engine);
    let hostile = Fault::Says(500, "\\u001b[31mred\\u0007");
    proxy.on_request(move |_, line| line.starts_with("GET /services").then_some(hostile));
    let assert = program(&engine).args(["prune", "-vvv", "--host", &proxy.url()]).assert().code(1);
    let log = String::from_utf8_lossy(&assert.get_output().stderr).into_owned();
    assert!(log.contains("[31mred"), "{log}");
    is_clean(&log);
}

#[test]
fn a_ledger_of_five_megabytes_is_read_kept_and_cleared_up() {
    let engine = Engine::start();
    let at = "2026-01-01T00:00:00Z";
    let entry = json!({"first_seen": at, "last_used": at, "named": true});
    let images: serde_json::Map<String, Value> =
        (0..40_000).map(|n| (format!("sha256:{n:064x}"), entry.clone())).collect();
    fs::create_dir_all(engine.folder().join("state")).unwrap();
    let text = json!({"schema": 1, "events_until": at, "images": images}).to_string();
    assert!(text.len() > 5 << 20, "{}", text.len());
    fs::write(ledger_path(&engine), text).unwrap();
    // A record sees containers only, and forgets nothing; a prune sees every image.
    program(&engine)
        .args(["record", "-v"])
        .assert()
        .success()
        .stdout(contains("the ledger knows 40000 images"));
    assert_eq!(ledger(&engine)["images"].as_object().unwrap().len(), 40_000);
    engine.fill_to(85);
    prune(&engine, "");
    assert_eq!(ledger(&engine)["images"].as_object().unwrap().len(), 40_000, "one list is not believed");
    change_ledger(&engine, |ledger| {
        let images = ledger["images"].as_object_mut().unwrap();
        images.values_mut().for_each(|image| image["missing_since"] = at.into());
    });
    prune(&engine, "");
    assert_eq!(ledger(&engine)["images"].as_object().unwrap().len(), 0);
}

#[test]
fn a_thousand_inhibitors_that_were_left_behind_hold_nothing_back() {
    let engine = Engine::start();
    program(&engine).arg("record").assert().success();
    let folder = engine.folder().join("runtime/inhibitors");
    for n in 0..1000 {
        fs::write(
            folder.join(format!("{n}-x")),
            format!("{{\"pid\":{n},\"since\":\"2026-01-01T00:00:00Z\"}}"),
        )
        .unwrap();
    }
    let held = fs::File::open(folder.join("500-x")).unwrap();
    let held = nix::fcntl::Flock::lock(held, nix::fcntl::FlockArg::LockExclusive).unwrap();
    let assert = program(&engine).arg("runs").assert().code(3);
    assert.stdout(contains("inhibited by process 500").and(contains("process 501").not()));
    assert_eq!(fs::read_dir(&folder).unwrap().count(), 1, "the others are cleared away");
    drop(held);
    program(&engine).arg("runs").assert().success();
}
