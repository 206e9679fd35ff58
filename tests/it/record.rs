//! `record --prune-at`: what is urgent or owed is pruned between two daily prunes, and nothing else is said.

use std::fs;

use lab::{Engine, Image};
use predicates::prelude::*;
use predicates::str::contains;
use serde_json::Value;

use crate::support::{
    RUN, cached, change_ledger, json_of, ledger, ledger_path, names, program, prune, remember, stdout,
};

const SILENT: &str = "";

fn record(engine: &Engine, words: &str) -> assert_cmd::assert::Assert {
    program(engine).args(["record", "--prune-at", "90"]).args(words.split_whitespace()).assert()
}

#[track_caller]
fn is_silent(engine: &Engine, words: &str) {
    record(engine, words).success().stdout(SILENT).stderr(SILENT);
}

/// A cached image that was last used a month ago.
fn idle(engine: &Engine) -> String {
    let name = cached(engine, &Image::new("idle", "1").size_mib(64));
    remember(engine, &[(&engine.image_id(&name), 30)]);
    name
}

#[test]
fn a_disk_that_passes_the_percentage_is_pruned_at_once() {
    let engine = Engine::start();
    let name = idle(&engine);
    engine.fill_to(85);
    // Under pressure, but that can wait until the daily prune.
    is_silent(&engine, "");
    assert!(engine.has_image(&name));
    engine.fill_to(91);
    let metrics = engine.folder().join("x.prom");
    let words = format!("-o json --metrics-file {}", metrics.display());
    let report = json_of(&record(&engine, &words).success());
    assert_eq!(names(&report["prune"]["removed"]), ["idle"], "{report}");
    assert_eq!(report["known"], 1, "{report}");
    assert!(fs::read_to_string(metrics).unwrap().contains("outcome=\"pruned\"} 1"));
    assert!(ledger(&engine)["last_success"].is_string());
    // Without the option it only records.
    engine.fill_to(91);
    program(&engine).arg("record").assert().success().stdout(SILENT).stderr(SILENT);
}

#[test]
fn a_prune_that_a_gate_blocked_is_made_up_for_when_the_gate_opens() {
    let engine = Engine::start();
    let name = idle(&engine);
    engine.publish(&Image::new("app", "1"));
    engine.docker(["run", "--detach", "--name", RUN, "127.0.0.1:5000/app:1"]);
    engine.fill_to(88);
    assert_eq!(prune(&engine, "")["outcome"], "blocked");
    // It is owed: tried again, and said once.
    record(&engine, "").success().stdout(contains("blocked by runs"));
    for _ in 0..2 {
        is_silent(&engine, "");
    }
    // Again after an hour.
    change_ledger(&engine, |ledger| {
        let hour_ago = jiff::Timestamp::now() - jiff::SignedDuration::from_mins(61);
        ledger["pressure"]["reported"]["at"] = hour_ago.to_string().into();
    });
    record(&engine, "").success().stdout(contains("blocked by runs"));
    is_silent(&engine, "");
    assert!(engine.has_image(&name));
    engine.docker(["rm", "--force", RUN]);
    record(&engine, "").success().stdout(contains("Removed:").and(contains("127.0.0.1:5000/idle")));
    assert!(!engine.has_image(&name));
    // It is owed no longer, although the disk is still under pressure.
    assert!(engine.df_percent() >= 80);
    assert_eq!(ledger(&engine)["pressure"]["owed_since"], Value::Null);
    is_silent(&engine, "");

    // Each is remembered: the latest first, and one that was blocked once an hour.
    let log = |words: &[&str]| program(&engine).arg("log").args(words).assert().success();
    let text = stdout(&log(&[]));
    assert!(text.contains("pruned, 8") && text.matches("blocked by runs (").count() == 1, "{text}");
    assert!(text.find("pruned, 8") < text.find("blocked by runs"), "{text}");
    let json = json_of(&log(&["-o", "json", "idle"]));
    // With its digest in full.
    let (_, digest) = name.split_once('@').unwrap();
    let removed = json["prunes"][0]["removed"][0]["names"][0].as_str().unwrap();
    assert!(removed.starts_with("127.0.0.1:5000/idle") && removed.ends_with(digest), "{removed}");
    assert_eq!(json["prunes"].as_array().unwrap().len(), 1);
    log(&["--since", "0s"]).stdout(contains("no prune is on record"));
    log(&["nothing"]).stdout(contains("no prune on record removed nothing"));
    let status = program(&engine).arg("status").assert().success();
    status.stdout(contains("pruned, 8").and(contains("^")));
}

#[test]
fn a_prune_that_failed_is_owed_and_pressure_that_is_gone_owes_nothing() {
    let engine = Engine::start();
    engine.publish(&Image::new("app", "1"));
    engine.docker(["run", "--name", "ended", "127.0.0.1:5000/app:1", "true"]);
    engine.fill_to(85);
    let proxy = lab::Proxy::before(&engine);
    proxy.on_request(|_, line| line.starts_with("DELETE").then_some(lab::Fault::Status(500)));
    let url = proxy.url();
    engine.eventually("the container is a second old", || {
        let words = ["prune", "-o", "json", "--older-than", "1s", "--host", &url];
        json_of(&program(&engine).args(words).assert())["outcome"] == "failed"
    });
    assert!(ledger(&engine)["pressure"]["owed_since"].is_string());
    record(&engine, "--older-than 1s").success().stdout(contains("Removed:").and(contains("ended")));
    change_ledger(&engine, |ledger| {
        ledger["pressure"]["owed_since"] = jiff::Timestamp::now().to_string().into()
    });
    engine.fill_to(50);
    is_silent(&engine, "");
    assert_eq!(ledger(&engine)["pressure"], Value::Null);
}

#[test]
fn manual_intervention_is_demanded_once_for_each_full_disk() {
    let engine = Engine::start();
    engine.fill_to(97);
    let demand = "at or above --disk-critical 95%: manual intervention required";
    record(&engine, "").code(10).stderr(contains(demand)).stdout(contains("is still at 9"));
    for _ in 0..2 {
        is_silent(&engine, "");
    }
    // The daily prune demands it every day.
    program(&engine).arg("prune").assert().code(10).stderr(contains(demand));
    is_silent(&engine, "");
    let status = || stdout(&program(&engine).arg("status").assert().success());
    assert!(status().contains("manual intervention required since"), "{}", status());
    // Under pressure all the time.
    engine.fill_to(90);
    is_silent(&engine, "");
    assert!(!status().contains("manual intervention"), "{}", status());
    engine.fill_to(97);
    record(&engine, "").code(10).stderr(contains(demand));
    engine.fill_to(50);
    is_silent(&engine, "");
    engine.fill_to(97);
    record(&engine, "").code(10).stderr(contains(demand));
}

#[test]
fn the_status_tells_of_runs_pressure_and_inhibitors_also_without_an_engine() {
    let engine = Engine::start();
    engine.fill_to(85);
    engine.publish(&Image::new("app", "1"));
    engine.docker(["run", "--detach", "--name", RUN, "127.0.0.1:5000/app:1"]);
    prune(&engine, "");
    let mut inhibit = crate::support::standard(&program(&engine));
    let mut inhibit = inhibit.args(["inhibit", "--why", "deploy", "--", "sleep", "600"]).spawn().unwrap();
    let status = |words: &[&str]| program(&engine).arg("status").args(words).assert().success();
    engine.eventually("the inhibitor is there", || stdout(&status(&[])).contains("'deploy'"));
    let text = stdout(&status(&[]));
    for part in ["(>= 80%)", "just begun; a prune is owed", "ago: 20", "blocked by runs", "1 image, recorded"]
    {
        assert!(text.contains(part), "{part}: {text}");
    }
    let json = json_of(&status(&["-o", "json"]));
    assert_eq!(
        (&json["inhibitors"][0]["why"], &json["pressure"]["blocked"]["runs"]),
        (&"deploy".into(), &1.into())
    );
    let down = stdout(&status(&["--host", "unix:///nowhere"]));
    assert!(
        down.contains("no Docker engine") && down.contains("'deploy'") && down.contains("last prune"),
        "{down}"
    );
    // It passes the signal on to its command.
    let pid = inhibit.id().to_string();
    assert!(std::process::Command::new("kill").arg(pid).status().unwrap().success());
    inhibit.wait().unwrap();
}

#[test]
fn where_the_disk_is_too_full_for_the_ledger_an_alarm_still_rings_once() {
    let engine = Engine::start();
    engine.publish(&Image::new("app", "1"));
    engine.docker(["run", "--detach", "--name", RUN, "127.0.0.1:5000/app:1"]);
    engine.fill_to(97);
    // A disk of its own, with no space left.
    let state = engine.folder().join("state");
    fs::create_dir_all(&state).unwrap();
    let mount = std::process::Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=64k", "tmpfs"])
        .arg(&state)
        .status();
    assert!(mount.unwrap().success());
    fs::write(state.join("ledger.lock"), "").unwrap();
    // As much as fits.
    let ballast = (0..64).rev().find(|kib| fs::write(state.join("ballast"), vec![0; kib << 10]).is_ok());
    assert!(ballast.is_some());
    record(&engine, "").code(10).stdout(contains("blocked by runs"));
    assert!(!ledger_path(&engine).exists() && engine.folder().join("runtime/ledger.json").exists());
    is_silent(&engine, "");
    fs::remove_file(state.join("ballast")).unwrap();
    is_silent(&engine, "");
    assert!(ledger(&engine)["pressure"]["intervention_since"].is_string());
    assert!(!engine.folder().join("runtime/ledger.json").exists());
}

#[test]
fn a_ledger_that_cannot_be_written_does_not_keep_a_full_disk_from_being_pruned() {
    let engine = Engine::start();
    let name = idle(&engine);
    engine.fill_to(91);
    // Nobody may write there, not even root.
    let state = engine.folder().join("state");
    let bind = |arguments: &[&str]| {
        let status = std::process::Command::new("mount").args(arguments).arg(&state).arg(&state).status();
        assert!(status.unwrap().success());
    };
    bind(&["--bind"]);
    bind(&["--options", "remount,bind,ro"]);
    let assert = record(&engine, "").code(1).stderr(contains("cannot write the ledger"));
    assert!(stdout(&assert).contains("Removed:"), "{}", stdout(&assert));
    assert!(stdout(&assert).contains("the ledger does not know of this prune"), "{}", stdout(&assert));
    assert!(!engine.has_image(&name));
}
