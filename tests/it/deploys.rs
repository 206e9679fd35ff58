//! A prune that wants every image, in a loop beside Swarm deploys: no deploy notices.

use std::collections::BTreeMap;
use std::process::Command;
use std::sync::Mutex;

use lab::Engine;
use lab::deploys::{Tally, beside};

use crate::support::{json_of, program, standard};

const DEPLOYS: usize = 100;

fn beside_our_prune(
    deploy: impl Fn(&Engine, &str) -> Command,
) -> (Tally, BTreeMap<String, usize>, Vec<String>) {
    let engine = Engine::start();
    let removed: Mutex<BTreeMap<String, usize>> = Mutex::default();
    let odd: Mutex<Vec<String>> = Mutex::default();
    // Every image is old enough at once, and the disk always wants more.
    let ages = ["--older-than", "0s", "--cache-age", "0s"];
    let percentages = ["--disk-threshold", "1", "--disk-target", "0"];
    let prune = || {
        let assert = program(&engine).args(["prune", "-o", "json"]).args(ages).args(percentages).assert();
        let report = json_of(&assert);
        let code = assert.get_output().status.code();
        if code != Some(0) {
            odd.lock().unwrap().push(format!("exit {code:?}: {report}"));
        }
        for image in report["removed"].as_array().unwrap().iter().filter(|image| image["class"] == "cached") {
            *removed.lock().unwrap().entry(image["id"].as_str().unwrap().to_owned()).or_default() += 1;
        }
    };
    let tally = beside(&engine, DEPLOYS, |script| deploy(&engine, script), prune);
    (tally, removed.into_inner().unwrap(), odd.into_inner().unwrap())
}

#[track_caller]
fn unnoticed((tally, removed, odd): (Tally, BTreeMap<String, usize>, Vec<String>)) {
    eprintln!(
        "{} deploys, {} tasks, {} rejected, {} ghosts beside {} prunes that removed {} images",
        tally.deploys,
        tally.tasks,
        tally.rejected.len(),
        tally.ghosts,
        tally.prunes,
        removed.values().sum::<usize>()
    );
    assert_eq!(tally.rejected, Vec::<String>::new());
    assert_eq!(tally.ghosts, 0);
    assert_eq!(odd, Vec::<String>::new());
    assert!(removed.values().sum::<usize>() > DEPLOYS / 20, "the prune had hardly a chance: {removed:?}");
    for (image, downloads) in &tally.downloads {
        let removals = removed.get(image).copied().unwrap_or(0);
        assert!(*downloads <= removals + 1, "{image}: {downloads} downloads, {removals} removals");
    }
}

#[test]
fn deploys_beside_a_looping_prune_lose_nothing() {
    unnoticed(beside_our_prune(|engine, script| {
        let mut command = engine.inside("sh");
        command.args(["-c", script]);
        command
    }));
}

#[test]
fn deploys_under_inhibit_lose_nothing() {
    unnoticed(beside_our_prune(|engine, script| {
        let mut command = standard(&program(engine));
        let inner = engine.inside("sh");
        command.args(["inhibit", "--why", "deploy", "--"]).arg(inner.get_program());
        command.args(inner.get_args()).args(["-c", script]);
        command
    }));
}
