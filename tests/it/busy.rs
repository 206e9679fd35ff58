//! Busy hosts: a disk that holds half of what the runs pull, and hardly a moment between two of them.

use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, ScopedJoinHandle};
use std::time::{Duration, Instant};

use lab::{Engine, Image, Options};

use crate::support::{program, standard};

const LIMITS: [&str; 8] =
    ["--disk-threshold", "60", "--prune-at", "60", "--older-than", "1s", "--critical-age", "1s"];

/// An engine with an image for each run, by digest, of which its disk holds half.
fn host(runs: usize) -> (Engine, Vec<String>) {
    let engine = Engine::start_with(Options { size_mib: 1024, ..Options::default() });
    // On the containerd store an image takes its size twice: packed and unpacked.
    let size_mib = if engine.kind.containerd_store() { 1024 } else { 2048 } / runs;
    let publish = |n: usize| {
        let image = Image::new("app", &format!("commit{n}")).size_mib(size_mib).seed(&format!("commit{n}"));
        format!("127.0.0.1:5000/app@{}", engine.publish(&image))
    };
    let images = (0..runs).map(publish).collect();
    (engine, images)
}

/// What the record timer starts, again and again, while the runs go on; the fullest that the disk was.
fn recorded(engine: &Engine, runs: impl FnOnce()) -> u64 {
    let goes_on = AtomicBool::new(true);
    thread::scope(|scope| {
        let records: ScopedJoinHandle<'_, u64> = scope.spawn(|| {
            let mut fullest = 0;
            while goes_on.load(Ordering::Relaxed) {
                let words = ["record", "--wait", "20s"];
                program(engine).args(words).args(LIMITS).assert().success();
                fullest = fullest.max(engine.df_percent());
            }
            fullest
        });
        let end = End(&goes_on);
        runs();
        drop(end);
        records.join().expect("every record succeeds")
    })
}

/// Also where a run fails.
struct End<'a>(&'a AtomicBool);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

/// Words for docker: a run that pulls its image, lasts for so many seconds, and leaves nothing else.
fn run(n: usize, image: &str, seconds: &str) -> Vec<String> {
    let name = format!("q-{n:06x}_ci_commoninternet_net_app");
    ["run", "--rm", "--name", &name, image, "sleep", seconds].map(str::to_owned).into()
}

#[test]
fn a_queue_of_runs_with_gaps_of_ten_seconds_never_finds_the_disk_full() {
    let (engine, images) = host(20);
    let fullest = recorded(&engine, || {
        for (n, image) in images.iter().enumerate() {
            let words = run(n, image, "1");
            engine.docker(words.iter().map(String::as_str));
            assert!(Command::new("sleep").arg("10").status().unwrap().success());
        }
    });
    assert!(fullest < 95, "{fullest} %");
}

#[test]
fn two_slots_without_a_gap_find_room_under_inhibit() {
    let (engine, images) = host(20);
    let prune_wait = Duration::from_secs(90);
    recorded(&engine, || {
        thread::scope(|scope| {
            for slot in 0..2 {
                let (engine, images) = (&engine, &images);
                scope.spawn(move || {
                    for n in (slot..images.len()).step_by(2) {
                        let mut command = standard(&program(engine));
                        command.args(["inhibit", "--prune-wait", "90s"]).args(LIMITS).arg("--");
                        let docker = engine.inside("docker");
                        command.arg(docker.get_program()).args(docker.get_args());
                        // Of different lengths, so that they overlap.
                        command.args(run(n, &images[n], &(2 + n % 3).to_string()));
                        let began = Instant::now();
                        let output = command.output().unwrap();
                        let stderr = String::from_utf8_lossy(&output.stderr);
                        assert!(output.status.success() && !stderr.contains("no longer"), "{n}: {stderr}");
                        assert!(began.elapsed() < prune_wait, "{n}: {:?}", began.elapsed());
                    }
                });
            }
        });
    });
}
