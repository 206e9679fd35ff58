//! `lab`: start a throw-away engine and run a command with it.

use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::Instant;

use clap::Parser;
use lab::{Engine, Image, Kind, Options};
use nix::sys::resource::{UsageWho, getrusage};

#[derive(Parser)]
struct Cli {
    /// Which engine
    #[arg(long, value_enum, env = "LAB_ENGINE", default_value = "20.10")]
    engine: Kind,
    /// Images to put into its registry: REPOSITORY:TAG[,MIB]
    #[arg(long = "image", value_name = "IMAGE")]
    images: Vec<String>,
    /// Load so many tagged images that share their layers
    #[arg(long, default_value_t = 0)]
    tagged: usize,
    /// Load so many images of 2024 without any name, each with a layer of its own
    #[arg(long, default_value_t = 0)]
    dangling: usize,
    /// Start nothing: clear away what labs that were killed left behind
    #[arg(long)]
    sweep: bool,
    /// Make this many Swarm deploys while the command (a shell's) runs in a loop; print what they met
    #[arg(long, value_name = "DEPLOYS")]
    beside: Option<usize>,
    /// Let this many days of a CI host pass, with the command as its prune policy (called with `live`, `ended` or
    /// `midnight`); print runs, failed runs, MB pulled, MB pulled again, and evenings at 95 % or more
    #[arg(long, value_name = "DAYS")]
    days: Option<u32>,
    /// Of --days: what each commit brings that is new, MiB
    #[arg(long, default_value_t = 150)]
    commit_mib: usize,
    /// Of --days: write hours and usage to this file
    #[arg(long, value_name = "FILE")]
    usage: Option<PathBuf>,
    /// Size of the engine's disk, MiB
    #[arg(long, default_value_t = 2048)]
    disk_mib: u64,
    /// Start no engine: draw these files of --usage, NAME=FILE, as an SVG figure on standard output
    #[arg(long)]
    figure: bool,
    /// Start no engine: run the command this often and print its wall time, mean and standard deviation
    /// (ms), mean CPU time (ms), and its peak memory (KiB)
    #[arg(long, value_name = "TIMES")]
    measure: Option<u32>,
    /// The command, with DOCKER_HOST set, the lab's folder in LAB, and in LAB_ENTER the words that
    /// run another inside the engine's namespaces
    #[arg(required_unless_present = "sweep", trailing_var_arg = true)]
    command: Vec<String>,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    // What is measured runs in a lab already, with its variables.
    if let Some(times) = cli.measure {
        measure(&cli.command, times);
        return ExitCode::SUCCESS;
    }
    if cli.figure {
        lab::figure::draw(&cli.command);
        return ExitCode::SUCCESS;
    }
    // What this machine's own Docker is configured by must not reach what runs in the lab.
    for (name, _) in std::env::vars_os() {
        if lab::is_foreign(&name.to_string_lossy()) {
            // SAFETY: no other thread has been started so far.
            #[expect(unsafe_code, reason = "the environment is changed before anything reads it")]
            unsafe {
                std::env::remove_var(name);
            }
        }
    }
    if cli.sweep {
        lab::engine::sweep();
        return ExitCode::SUCCESS;
    }
    let engine =
        match Engine::try_start(Options { kind: cli.engine, size_mib: cli.disk_mib, ..Options::default() }) {
            Ok(engine) => engine,
            Err(error) => {
                eprintln!("lab: {error:#}");
                return ExitCode::FAILURE;
            }
        };
    if let Some(deploys) = cli.beside {
        beside(&engine, deploys, &cli.command.join(" "));
        return ExitCode::SUCCESS;
    }
    if let Some(days) = cli.days {
        let load = lab::days::Load { days, commit_mib: cli.commit_mib };
        pass_days(&engine, load, &cli.command.join(" "), cli.usage.as_deref());
        return ExitCode::SUCCESS;
    }
    for text in &cli.images {
        let (name, size) = text.split_once(',').unwrap_or((text, "1"));
        let (repository, tag) = name.rsplit_once(':').expect("an image is REPOSITORY:TAG[,MIB]");
        engine.publish(&Image::new(repository, tag).size_mib(size.parse().expect("MiB")));
    }
    let tagged = (0..cli.tagged).map(|n| {
        let image = Image::new("many", "1").label("n", &n.to_string());
        (image, Some(format!("many:{n}")))
    });
    let dangling = |n: usize| (Image::new("dangling", "1").seed(&format!("dangling {n}")), None);
    let many: Vec<_> = tagged.chain((0..cli.dangling).map(dangling)).collect();
    for some in many.chunks(500) {
        engine.load_many(some);
    }
    let mut command = Command::new(&cli.command[0]);
    command.args(&cli.command[1..]).env("DOCKER_HOST", engine.url()).env("LAB", engine.folder());
    let status =
        lab::engine::die_with_us(&mut command).env("LAB_ENTER", lab::engine::enter(&engine)).status();
    match status {
        Ok(status) => {
            let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
            ExitCode::from(u8::try_from(code).unwrap_or(1))
        }
        Err(error) => {
            eprintln!("lab: {}: {error}", cli.command[0]);
            ExitCode::from(127)
        }
    }
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
fn pass_days(engine: &Engine, load: lab::days::Load, event: &str, usage: Option<&Path>) {
    let tally = lab::days::pass(engine, load, event);
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
