//! One module per subcommand: read facts, judge or plan, report, maybe carry out.

mod gates;
mod inhibit;
mod ledger;
mod occupants;
mod prune;
mod record;
mod redeploy;
mod status;
mod survey;
mod verify;

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anstream::AutoStream;
use anyhow::{Context, Result};
use tokio::signal::unix::{SignalKind, signal};

use crate::cli;
use crate::exit::Exit;
use crate::host::child::{self, Signal};
use crate::report::progress::Bars;
use crate::settings::{Command, Settings};
use crate::units::Time;

/// How many objects of one kind are asked about at a time.
const AT_A_TIME: usize = 8;

pub async fn run(settings: Settings, bars: &Bars) -> Result<Exit> {
    let Settings { engine, output, verbose, command, .. } = settings;
    match command {
        Command::Prune(prune) => prune::run(engine, *prune, output, verbose, bars).await,
        Command::CheckGates { disk, runs, state_dir } => {
            gates::check_gates(engine, disk, &runs, &state_dir, output).await
        }
        Command::Disk(disk) => gates::disk(engine, disk, output).await,
        Command::Runs(runs) => gates::runs(engine, &runs, output).await,
        Command::Converge => gates::converge(engine, output).await,
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

/// Turns true with any of these signals, but those that this process was told to ignore (nohup): then what
/// is under way ends in order.
fn watch_signals(signals: &[Signal]) -> Result<Arc<AtomicBool>> {
    let told = Arc::new(AtomicBool::new(false));
    for &kind in signals.iter().filter(|kind| !child::is_ignored(**kind)) {
        let mut signal = signal(SignalKind::from_raw(kind as i32)).context("cannot watch for signals")?;
        let told = Arc::clone(&told);
        tokio::spawn(async move {
            signal.recv().await;
            told.store(true, Ordering::Relaxed);
        });
    }
    Ok(told)
}
