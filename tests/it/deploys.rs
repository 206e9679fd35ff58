//! A prune that wants every image, in a loop beside Swarm deploys: no deploy notices.

use std::collections::BTreeMap;
use std::process::Command;
use std::sync::Mutex;

use lab::Engine;
use lab::deploys::Tally;

use crate::support::{json_of, program, standard};

/// Each test has two engines at a time, and so many deploys on each.
const ENGINES: usize = 2;
const DEPLOYS: usize = 50;

/// What deploys met beside our prune.
#[derive(Default)]
struct Beside {
    tally: Tally,
    /// By image ID, how often it was removed.
    removed: BTreeMap<String, usize>,
    /// What prunes that failed said.
    failed: Vec<String>,
    /// How many prunes an inhibitor blocked or stopped.
    inhibited: usize,
}

fn beside_our_prune(inhibits: bool, deploy: impl Fn(&Engine, &str) -> Command + Sync) {
    let on_engine = || {
        let beside = on_one_engine(&deploy);
        beside.lost_nothing();
        assert_eq!(beside.inhibited > 0, inhibits, "{} prunes met an inhibitor", beside.inhibited);
    };
    std::thread::scope(|scope| {
        let engines: Vec<_> = (0..ENGINES).map(|_| scope.spawn(on_engine)).collect();
        engines.into_iter().for_each(|engine| engine.join().expect("every deploy went through"));
    });
}

fn on_one_engine(deploy: impl Fn(&Engine, &str) -> Command) -> Beside {
    let engine = Engine::start();
    let beside: Mutex<Beside> = Mutex::default();
    // Every image is old enough at once, and the disk always wants more.
    let ages = ["--older-than", "0s"];
    let percentages = ["--disk-threshold", "1", "--disk-target", "0"];
    let prune = || {
        let assert = program(&engine).args(["prune", "-o", "json"]).args(ages).args(percentages).assert();
        let report = json_of(&assert);
        let mut beside = beside.lock().unwrap();
        beside.inhibited += usize::from(report.to_string().contains("inhibited by process"));
        let code = assert.get_output().status.code();
        if code != Some(0) {
            beside.failed.push(format!("exit {code:?}: {report}"));
        }
        for image in report["removed"].as_array().unwrap().iter().filter(|image| image["class"] == "cached") {
            *beside.removed.entry(image["id"].as_str().unwrap().to_owned()).or_default() += 1;
        }
    };
    let tally = lab::deploys::beside(&engine, DEPLOYS, |script| deploy(&engine, script), prune);
    Beside { tally, ..beside.into_inner().unwrap() }
}

impl Beside {
    #[track_caller]
    fn lost_nothing(&self) {
        let Self { tally, removed, failed, inhibited: _ } = self;
        eprintln!(
            "{} deploys, {} tasks, {} rejected, {} containers without their image beside {} prunes that removed {} images",
            tally.deploys,
            tally.tasks,
            tally.rejected.len(),
            tally.without_image,
            tally.prunes,
            removed.values().sum::<usize>()
        );
        assert_eq!(tally.rejected, Vec::<String>::new());
        assert_eq!(tally.without_image, 0);
        assert_eq!(*failed, Vec::<String>::new());
        let removals: usize = removed.values().sum();
        assert!(removals > DEPLOYS / 20, "the prune had hardly a chance: {removals} removals");
        for (image, downloads) in &tally.downloads {
            let removals = removed.get(image).copied().unwrap_or(0);
            // Each is deployed at least once.
            assert!(
                (1..=removals + 1).contains(downloads),
                "{image}: {downloads} downloads, {removals} removals"
            );
        }
        assert!(tally.downloads.len() > 1, "{:?}", tally.downloads);
    }
}

#[test]
fn deploys_beside_a_looping_prune_lose_nothing() {
    beside_our_prune(false, |engine, script| {
        let mut command = engine.inside("sh");
        command.args(["-c", script]);
        command
    });
}

#[test]
fn deploys_under_inhibit_lose_nothing() {
    beside_our_prune(true, |engine, script| {
        let mut command = standard(&program(engine));
        let inner = engine.inside("sh");
        command.args(["inhibit", "--why", "deploy", "--"]).arg(inner.get_program());
        command.args(inner.get_args()).args(["-c", script]);
        command
    });
}
