//! `bench`: the parts of `benches/run` that need more than a shell.

mod days;
mod figure;
mod months;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use clap::{Parser, Subcommand};
use lab::{Engine, Kind, Options};
use nix::sys::resource::{UsageWho, getrusage};

#[derive(Parser)]
struct Cli {
    #[command(subcommand)]
    part: Part,
}

#[derive(Subcommand)]
enum Part {
    /// Make Swarm deploys while the command (a shell's) runs in a loop; print what they met
    Deploys {
        #[arg(long, value_enum)]
        engine: Kind,
        #[arg(long)]
        deploys: usize,
        #[arg(required = true, trailing_var_arg = true)]
        command: Vec<String>,
    },
    /// Let days of a CI host pass, with the command as its prune policy (called with `live`, `ended` or `midnight`); print
    /// runs, failed runs, MB pulled, MB pulled again, and evenings at 95 % or more
    Days {
        #[arg(long, value_enum)]
        engine: Kind,
        /// Size of the engine's disk, MiB
        #[arg(long)]
        disk_mib: u64,
        #[arg(long)]
        days: u32,
        /// What each commit brings that is new, MiB
        #[arg(long)]
        commit_mib: usize,
        /// Write hours and usage to this file
        #[arg(long)]
        usage: Option<PathBuf>,
        #[arg(required = true, trailing_var_arg = true)]
        command: Vec<String>,
    },
    /// Draw these files of days' usage, NAME=FILE, as an SVG figure on standard output
    Figure { files: Vec<String> },
    /// Play months of a trace in the simulation under several policies, and write a table: FILE [TRACE DISK-GB]...
    Months { arguments: Vec<String> },
    /// Run a command this often and print its wall time, mean and standard deviation (ms), mean CPU time (ms), and its peak
    /// memory (KiB)
    Measure {
        times: u32,
        #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
        command: Vec<String>,
    },
}

fn main() -> anyhow::Result<()> {
    let part = Cli::parse().part;
    // What is measured runs in a lab already, with its variables.
    if let Part::Deploys { .. } | Part::Days { .. } = part {
        // SAFETY: no other thread has been started so far.
        #[expect(unsafe_code, reason = "the environment is changed before anything reads it")]
        unsafe {
            lab::forget_foreign();
        }
    }
    match part {
        Part::Deploys { engine, deploys, command } => {
            let engine = Engine::try_start(Options { kind: engine, ..Options::default() })?;
            beside(&engine, deploys, &command.join(" "));
        }
        Part::Days { engine, disk_mib, days, commit_mib, usage, command } => {
            let options = Options { kind: engine, size_mib: disk_mib, ..Options::default() };
            let load = days::Load { days, commit_mib };
            pass_days(&Engine::try_start(options)?, load, &command.join(" "), usage.as_deref());
        }
        Part::Figure { files } => figure::draw(&files),
        Part::Months { arguments } => months::write(&arguments)?,
        Part::Measure { times, command } => measure(&command, times),
    }
    Ok(())
}

/// Prints deploys, tasks, rejected tasks, containers without their image and rounds of the command.
#[expect(clippy::print_stdout, reason = "this is the result")]
fn beside(engine: &Engine, deploys: usize, command: &str) {
    let deploy = |script: &str| {
        let mut command = engine.inside("sh");
        command.args(["-c", script]);
        command
    };
    let prune = || {
        let mut shell = Command::new("sh");
        shell.args(["-c", command]).env("LAB", engine.folder()).env("LAB_ENTER", lab::engine::enter(engine));
        let status =
            shell.env("DOCKER_HOST", engine.url()).stdout(Stdio::null()).status().expect("run the command");
        assert!(status.success(), "{command} failed: {status}");
    };
    let tally = lab::deploys::beside(engine, deploys, deploy, prune);
    println!(
        "{} {} {} {} {}",
        tally.deploys,
        tally.tasks,
        tally.rejected.len(),
        tally.without_image,
        tally.prunes
    );
}

#[expect(clippy::print_stdout, reason = "this is the result")]
fn pass_days(engine: &Engine, load: days::Load, event: &str, usage: Option<&Path>) {
    let tally = days::pass(engine, load, event);
    let mb = |bytes: u64| bytes / 1_000_000;
    let peak = tally.usage.iter().map(|(_, percent)| percent).max().unwrap_or(&0);
    println!(
        "{} {} {} {} {} {peak}",
        tally.runs,
        tally.failed,
        mb(tally.pulled),
        mb(tally.pulled_again),
        tally.critical_evenings
    );
    if let Some(path) = usage {
        let lines: String = tally.usage.iter().map(|(hour, percent)| format!("{hour} {percent}\n")).collect();
        std::fs::write(path, lines).expect("write the usage");
    }
}

/// Children are counted with all that they waited for.
#[expect(clippy::print_stdout, reason = "this is the result")]
fn measure(command: &[String], times: u32) {
    let run = || {
        let status = Command::new(&command[0]).args(&command[1..]).stdout(Stdio::null()).status();
        let code = status.expect("run the command").code();
        assert!(matches!(code, Some(0 | 3)), "{command:?} exited {code:?}: this measures nothing");
    };
    (0..3).for_each(|_| run());
    let cpu = || {
        let usage = getrusage(UsageWho::RUSAGE_CHILDREN).expect("getrusage");
        let seconds = |time: nix::sys::time::TimeVal| time.tv_sec() as f64 + time.tv_usec() as f64 / 1e6;
        (seconds(usage.user_time()) + seconds(usage.system_time()), usage.max_rss())
    };
    let (before, _) = cpu();
    let timed = |_| {
        let start = Instant::now();
        run();
        start.elapsed().as_secs_f64() * 1000.0
    };
    let walls: Vec<f64> = (0..times).map(timed).collect();
    let (after, peak) = cpu();
    let n = f64::from(times);
    let mean = walls.iter().sum::<f64>() / n;
    let deviation = (walls.iter().map(|wall| (wall - mean).powi(2)).sum::<f64>() / n).sqrt();
    println!("{mean:.2} {deviation:.2} {:.2} {peak}", (after - before) * 1000.0 / n);
}
