//! `lab`: start a throw-away engine and run a command with it.

use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitCode};

use clap::Parser;
use lab::{Engine, Image, Kind, Options};

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
    /// Size of the engine's disk, MiB
    #[arg(long, default_value_t = 2048)]
    disk_mib: u64,
    /// The command, with DOCKER_HOST set, the lab's folder in LAB, and in LAB_ENTER the words that
    /// run another inside the engine's namespaces
    #[arg(required_unless_present = "sweep", trailing_var_arg = true)]
    command: Vec<String>,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    // SAFETY: no other thread has been started so far.
    #[expect(unsafe_code, reason = "the environment is changed before anything reads it")]
    unsafe {
        lab::forget_foreign();
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
