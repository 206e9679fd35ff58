//! `inhibit`: block prunes while a command runs.

use std::ffi::OsString;

use anyhow::Result;

use super::print;
use crate::cli::Output;
use crate::exit::Exit;
use crate::host::{ThisHost, child, inhibitors, lock};
use crate::observe::{self, Questions};
use crate::report::status;
use crate::settings::Settings;
use crate::world::World;

/// Run a command while blocking prunes, and exit with its status.
///
/// # Errors
/// Prunes cannot be blocked; the command is not started then.
pub async fn run(
    host: &ThisHost,
    settings: &Settings,
    why: Option<&str>,
    command: &[OsString],
) -> Result<Exit> {
    let words: Vec<_> = command.iter().map(|word| word.to_string_lossy()).collect();
    let why = why.map_or_else(|| words.join(" "), str::to_owned);
    if let Err(error) = host.prepare() {
        log::debug!("{error:#}");
    }
    let inhibitor = inhibitors::register(&settings.runtime_dir, Some(&why), host.now())?;
    // Prune looks for inhibitors before each removal, so only removals in flight must be awaited.
    lock::wait_for_removal(&settings.runtime_dir, settings.engine.longest_removal()).await?;
    let code = child::run(command).await?;
    // The command has ended, and a hanging engine must not keep its caller waiting for long.
    match tokio::time::timeout(settings.engine.timeout, record(host)).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => log::info!("the images in use were not recorded in the ledger: {error:#}"),
        Err(_) => log::info!("the images in use were not recorded in the ledger: the engine hangs"),
    }
    drop(inhibitor);
    Ok(Exit::OfCommand(code))
}

pub fn list(settings: &Settings) -> Result<Exit> {
    let active = inhibitors::active(&settings.runtime_dir)?;
    print(|mut out| match settings.output {
        Output::Text => status::inhibitors_text(&mut out, &active, crate::units::Time::now()),
        Output::Json => status::inhibitors_json(&mut out, &active),
    })?;
    Ok(Exit::Done)
}

async fn record(host: &ThisHost) -> Result<()> {
    let engine = host.connect().await?;
    let survey = observe::survey(host, &engine, Questions::IN_USE, &[]).await;
    observe::record_usage(host, &engine, &survey, host.now(), |_| ()).await?;
    Ok(())
}
