//! One module per subcommand: ask, decide, print.

mod explain;
mod gates;
mod inhibit;
mod log;
pub mod prune;
pub mod record;
mod status;
mod verify;

use std::io::{self, Write};

use anstream::AutoStream;
use anyhow::{Context, Result};

use crate::cli::{self, Output};
use crate::exit::Exit;
use crate::host::ThisHost;
use crate::report::progress::Bars;
use crate::report::{self, config};
use crate::settings::{Command, Settings};

pub async fn run(settings: Settings, bars: &Bars) -> Result<Exit> {
    let host =
        ThisHost::new(settings.engine.clone(), settings.state_dir.clone(), settings.runtime_dir.clone());
    let printed = |result: Result<()>| result.map(|()| Exit::Done);
    match &settings.command {
        Command::Prune { dry_run } => prune::run(&host, &settings, *dry_run, bars).await,
        Command::Gates { names, record } => gates::run(&host, &settings, names, *record).await,
        Command::Record => record::run(&host, &settings, bars).await,
        Command::Explain { objects } => explain::run(&host, &settings, objects).await,
        Command::Log { since, query } => log::run(&host, &settings, *since, query.as_deref()),
        Command::Status => status::run(&host, &settings).await,
        Command::Inhibit { why, min_free, command } => {
            inhibit::run(&host, &settings, why.as_deref(), *min_free, command).await
        }
        Command::ListInhibitors => inhibit::list(&host, &settings),
        Command::Verify(verify) => verify::run(&host, &settings, verify).await,
        Command::CheckConfig { path, keys } => printed(print(|mut out| match settings.output {
            Output::Text => config::text(&mut out, path.as_deref(), *keys),
            Output::Json => config::json_of(&mut out, path.as_deref(), *keys),
        })),
        Command::ExampleConfig => printed(print(cli::example_config)),
        Command::Completions(shell) => printed(print(|out| cli::completions(*shell, out))),
        Command::Man => printed(print(|out| cli::man(out))),
    }
}

/// The object of a command that could not do anything; stdout may be what failed.
pub fn print_error(error: &anyhow::Error) {
    drop(print(|mut out| report::error_json(&mut out, &format!("{error:#}"))));
}

/// Print to stdout, in colour where it is a terminal that wants it (`NO_COLOR`, `CLICOLOR`); a reader that closed
/// the pipe is not an error.
fn print(write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<()> {
    let mut out = io::BufWriter::new(AutoStream::auto(io::stdout().lock()));
    match write(&mut out).and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => result.context("cannot write the result to stdout"),
    }
}
