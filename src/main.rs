//! Prunes a Docker Swarm CI host without losing its image cache.
//!
//! The way through: `facts` (what the engine and the host say), `gates` (three verdicts), `plan`
//! (what goes and what stays, each with its reason), `execute` (carried out), `report`.

mod cli;
mod settings;

mod commands;

mod checks;
mod facts;
mod gates;
mod ledger;
mod occupants;
mod plan;

mod execute;

mod engine;
mod host;

mod report;

mod exit;
mod logging;
#[cfg(test)]
mod testing;
mod units;

use std::process::ExitCode;

use exit::Exit;

fn main() -> ExitCode {
    let settings = match settings::read(std::env::args_os()) {
        Ok(settings) => settings,
        Err(error) => {
            // Help and the version are no errors and go to stdout; clap knows. A closed stream has
            // nobody to tell.
            let _ = error.print();
            return if error.use_stderr() { Exit::Usage } else { Exit::Done }.into();
        }
    };
    let bars = report::progress::Bars::new();
    logging::start(settings.log, &bars);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let result =
        runtime.map_err(Into::into).and_then(|runtime| runtime.block_on(commands::run(settings, &bars)));
    match result {
        Ok(exit) => exit.into(),
        Err(error) => {
            log::error!("{error:#}");
            Exit::Failed.into()
        }
    }
}
