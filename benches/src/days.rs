//! Days of a CI host in minutes: runs that are deployed, tested and torn down on a real engine, while a prune policy
//! keeps its disk. Between two events the times in the ledger are moved back, in place of waiting.

use std::collections::HashSet;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use lab::engine::wait_for;
use lab::{Engine, Image, age};
use serde_json::Value;

/// What a host is asked to run.
#[derive(Debug, Clone, Copy)]
pub struct Load {
    pub days: u32,
    /// What each commit brings that no image before had, MiB. Below it lies a layer of 60 MiB that all commits share,
    /// and each run also wants a database of 100 MiB.
    pub commit_mib: usize,
}

/// Hours of the day at which runs begin, and midnight.
const RUNS: [i64; 3] = [9, 13, 17];
const DAY: i64 = 24;

/// A run that is not up after this has failed.
const RUN_TIMEOUT: Duration = Duration::from_secs(40);

/// What became of it.
#[derive(Debug, Default, Clone)]
pub struct Tally {
    pub runs: usize,
    pub failed: usize,
    /// Bytes of blobs that the registry sent, and of those that it had sent before.
    pub pulled: u64,
    pub pulled_again: u64,
    /// Evenings at 95 % or more.
    pub critical_evenings: usize,
    /// Hours since the beginning, and the usage of the disk in percent.
    pub usage: Vec<(i64, u64)>,
}

/// Let the days pass. `event` is run as a shell command with one of these words: `live` while a run is live, `ended`
/// after it, `midnight`.
pub fn pass(engine: &Engine, load: Load, event: &str) -> Tally {
    let db = Image::new("db", "15").size_mib(100);
    engine.publish(&db);
    let mut tally = Tally::default();
    let mut hour = 0;
    for day in 0..i64::from(load.days) {
        for (n, at) in RUNS.into_iter().enumerate() {
            age_ledger(engine, day * DAY + at - hour);
            hour = day * DAY + at;
            let commit = format!("{:06x}", 0xab_cde0 + day * 3 + n as i64);
            let app = Image::new("app", &commit).layer("runtime", 60).size_mib(load.commit_mib);
            engine.publish(&app);
            tally.runs += 1;
            tally.failed += usize::from(!run(engine, &commit, event));
            tally.usage.push((hour, engine.df_percent()));
            prune(engine, event, "ended");
            engine.unpublish_payload(&app);
        }
        tally.critical_evenings += usize::from(engine.df_percent() >= 95);
        age_ledger(engine, (day + 1) * DAY - hour);
        hour = (day + 1) * DAY;
        tally.usage.push((hour, engine.df_percent()));
        prune(engine, event, "midnight");
        tally.usage.push((hour, engine.df_percent()));
    }
    (tally.pulled, tally.pulled_again) = sent(&engine.folder().join("registry.log"));
    tally
}

/// Deploy the stack of a commit, look at it, and tear it down. Did it come up?
fn run(engine: &Engine, commit: &str, event: &str) -> bool {
    let stack = format!("ci-{commit}_ci_commoninternet_net");
    let compose = format!(
        "version: '3.8'\nservices:\n  db:\n    image: 127.0.0.1:5000/db:15\n  app:\n    image: 127.0.0.1:5000/app:{commit}\n"
    );
    let deployed = wait_for(RUN_TIMEOUT, || {
        let arguments = ["stack", "deploy", "--compose-file", "-", &stack];
        engine.docker_output(&arguments, Some(compose.as_bytes())).status.success()
    });
    let up = deployed
        && wait_for(RUN_TIMEOUT, || {
            let services = engine.docker(["service", "ls", "--format", "{{.Replicas}}"]);
            services.lines().filter(|line| line.starts_with("1/1")).count() == 2
        });
    prune(engine, event, "live");
    engine.tear_down(&stack);
    up
}

/// Let the policy do what it does then.
fn prune(engine: &Engine, event: &str, when: &str) {
    let mut shell = Command::new("sh");
    shell
        .arg("-c")
        .arg(format!("{event} {when}"))
        .env("LAB", engine.folder())
        .env("DOCKER_HOST", engine.url());
    shell.env("LAB_ENTER", lab::engine::enter(engine)).stdout(Stdio::null());
    // A policy may find that it needs a person.
    shell.status().expect("run the policy");
}

/// Let everything that the ledger remembers have happened so many hours earlier.
fn age_ledger(engine: &Engine, hours: i64) {
    let path = engine.folder().join("state/ledger.json");
    let Ok(text) = fs::read(&path) else { return };
    let mut ledger: Value = serde_json::from_slice(&text).expect("a ledger");
    // The clocks do not age: the ledger's own, and the engine's, by which events are replayed.
    let clocks = ["clock", "events_until"].map(|key| (key, ledger[key].take()));
    age(&mut ledger, hours);
    for (key, value) in clocks {
        ledger[key] = value;
    }
    fs::write(&path, ledger.to_string()).expect("write the ledger");
}

/// How many bytes of blobs the registry sent, and how many of them not for the first time.
fn sent(log: &Path) -> (u64, u64) {
    let log = fs::read_to_string(log).expect("read the registry's log");
    let (mut first, mut all, mut again) = (HashSet::new(), 0, 0);
    for line in log.lines().filter(|line| line.contains("\"GET /v2/")) {
        let Some((_, rest)) = line.split_once("/blobs/sha256:") else { continue };
        let mut words = rest.split_whitespace();
        let digest = words.next().unwrap_or_default();
        // `DIGEST HTTP/1.1" 200 BYTES`.
        let bytes: u64 = words.nth(2).and_then(|word| word.parse().ok()).unwrap_or(0);
        all += bytes;
        if !first.insert(digest) {
            again += bytes;
        }
    }
    (all, again)
}
