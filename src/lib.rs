//! Prunes a Docker Swarm CI host without losing its image cache.
//!
//! The steps of a prune: `observe` (what the engine, the host and the ledger say), `gates` (three verdicts), `plan`
//! (what goes and what stays, each with its reason), `execute` (carried out), `report`. All of it works against
//! `world`, which is this host in the program and a simulation in `tests/sim`.

mod cli;
mod config_file;
pub mod settings;

pub mod commands;
mod verify;

mod consumers;
pub mod facts;
pub mod gates;
pub mod history;
pub mod ledger;
pub mod observe;
pub mod plan;

pub mod execute;
pub mod prune;

pub mod world;

pub mod engine;
pub mod host;

pub mod report;

pub mod exit;
mod logging;
#[cfg(test)]
mod testing;
pub mod units;

use std::process::ExitCode;

use exit::Exit;

/// The whole program: read the command line, run the command, print an error, if any, once.
pub fn main() -> ExitCode {
    let settings = match settings::read(std::env::args_os()) {
        Ok(settings) => settings,
        Err(error) => {
            // Help and the version are no errors and go to stdout; clap chooses the stream. An error of a closed
            // stream cannot be shown.
            let _ = error.print();
            return if error.use_stderr() { Exit::Usage } else { Exit::Done }.into();
        }
    };
    let bars = report::progress::Bars::new();
    logging::start(settings.log, &bars);
    let is_json = settings.output == cli::Output::Json
        && !matches!(settings.command, settings::Command::Inhibit { .. });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let result = runtime.map_err(Into::into).and_then(|runtime| {
        let result = runtime.block_on(commands::run(settings, &bars));
        // Do not wait for a thread that a hanging disk blocks.
        runtime.shutdown_background();
        result
    });
    match result {
        Ok(exit) => exit.into(),
        Err(error) => {
            log::error!("{error:#}");
            if is_json {
                commands::print_error(&error);
            }
            Exit::Failed.into()
        }
    }
}
