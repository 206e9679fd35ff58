//! One module per subcommand: read facts, judge or plan, report, maybe carry out.

mod gates;
mod inhibit;
mod occupants;
pub mod prune;
pub mod record;
mod redeploy;
mod status;
mod verify;

use anstream::AutoStream;
use anyhow::{Context, Result};
use std::io::{self, Write};
use std::path::Path;

use crate::cli;
use crate::exit::Exit;
use crate::report::progress::Bars;
use crate::settings::{Command, Settings};
use crate::units::Time;
use crate::world::real::ThisHost;

pub async fn run(settings: Settings, bars: &Bars) -> Result<Exit> {
    let Settings { engine, output, verbose, command, .. } = settings;
    let nowhere = Path::new("");
    match command {
        Command::Prune(prune) => prune::run(engine, *prune, output, verbose, bars).await,
        Command::CheckGates { disk, runs, state_dir } => {
            let world = ThisHost::new(&engine, &state_dir, &runs.runtime_dir);
            gates::check_gates(&world, disk, &runs, output).await
        }
        // These need no directories of the program's own, or one only.
        Command::Disk(disk) => gates::disk(&ThisHost::new(&engine, nowhere, nowhere), disk, output).await,
        Command::Runs(runs) => {
            gates::runs(&ThisHost::new(&engine, nowhere, &runs.runtime_dir), &runs, output).await
        }
        Command::Converge => gates::converge(&ThisHost::new(&engine, nowhere, nowhere), output).await,
        Command::Record(record) => record::run(engine, *record, output, verbose, bars).await,
        Command::Status { disk, state_dir, runtime_dir } => {
            status::run(engine, disk, &state_dir, &runtime_dir, output).await
        }
        Command::Inhibit { why, command, state_dir, runtime_dir } => {
            inhibit::run(engine, why.as_deref(), &command, &state_dir, &runtime_dir).await
        }
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
