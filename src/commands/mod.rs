//! One module per subcommand: read facts, judge or plan, report, maybe carry out.

mod check_gates;
mod converge;
mod disk;
mod explain;
mod inhibit;
pub mod prune;
pub mod record;
mod runs;
mod status;
mod verify;

use anstream::AutoStream;
use anyhow::{Context, Result};
use std::io::{self, Write};
use std::path::Path;

use crate::cli::{self, Output};
use crate::exit::Exit;
use crate::report::progress::Bars;
use crate::report::{json, text};
use crate::settings::{Command, Settings};
use crate::units::Time;
use crate::world::real::ThisHost;

/// Run a command.
///
/// # Errors
/// What the command could not do, and no exit status of its own tells.
pub async fn run(settings: Settings, bars: &Bars) -> Result<Exit> {
    let Settings { engine, output, verbose, command, .. } = settings;
    let nowhere = Path::new("");
    match command {
        Command::Prune(prune) => prune::run(engine, *prune, output, verbose, bars).await,
        Command::CheckGates { gates, disk, runs, state_dir } => {
            let world = ThisHost::new(&engine, &state_dir, &runs.runtime_dir);
            check_gates::run(&world, &gates, disk, &runs, output).await
        }
        // These need no directories of the program's own, or one only.
        Command::Disk(disk) => disk::run(&ThisHost::new(&engine, nowhere, nowhere), disk, output).await,
        Command::Runs(runs) => {
            runs::run(&ThisHost::new(&engine, nowhere, &runs.runtime_dir), &runs, output).await
        }
        Command::Converge => converge::run(&ThisHost::new(&engine, nowhere, nowhere), output).await,
        Command::Record(record) => record::run(engine, *record, output, verbose, bars).await,
        Command::Explain { objects, prune } => explain::run(engine, &objects, *prune, output).await,
        Command::Status { disk, state_dir, runtime_dir } => {
            status::run(engine, disk, &state_dir, &runtime_dir, output).await
        }
        Command::Inhibit { why, command, state_dir, runtime_dir } => {
            inhibit::run(engine, why.as_deref(), &command, &state_dir, &runtime_dir).await
        }
        Command::ListInhibitors { runtime_dir } => inhibit::list(&runtime_dir, output),
        Command::CheckConfig { path, keys } => {
            print(|mut out| match output {
                Output::Text => text::valid_config(&mut out, path.as_deref(), keys),
                Output::Json => json::valid_config(&mut out, path.as_deref(), keys),
            })?;
            Ok(Exit::Done)
        }
        Command::ExampleConfig => print(cli::example_config).map(|()| Exit::Done),
        Command::Verify(verify) => verify::run(engine, *verify, output).await,
        Command::Completions(shell) => print(|out| cli::completions(shell, out)).map(|()| Exit::Done),
        Command::Man => print(|out| cli::man(out)).map(|()| Exit::Done),
    }
}

fn now() -> Time {
    Time::now()
}

/// Print to stdout, in colour where it is a terminal that wants it (`NO_COLOR`, `CLICOLOR`); a reader
/// that went away is no error of ours.
fn print(write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<()> {
    let mut out = io::BufWriter::new(AutoStream::auto(io::stdout().lock()));
    match write(&mut out).and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => result.context("cannot write the result to stdout"),
    }
}
