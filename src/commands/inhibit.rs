//! `inhibit`: block prunes while a command runs.

use std::ffi::OsString;
use std::path::Path;

use anyhow::Result;

use super::{now, print};
use crate::cli::Output;
use crate::exit::Exit;
use crate::host::{child, inhibitors, lock};
use crate::observe::{self, Questions};
use crate::report::{json, text};
use crate::settings;
use crate::world::World;
use crate::world::real::ThisHost;

/// Run a command while blocking prunes; its status is the program's.
///
/// # Errors
/// Prunes cannot be blocked; the command is not started then.
pub async fn run(
    engine: settings::EngineSettings,
    why: Option<&str>,
    command: &[OsString],
    state_dir: &Path,
    runtime_dir: &Path,
) -> Result<Exit> {
    let words: Vec<_> = command.iter().map(|word| word.to_string_lossy()).collect();
    let why = why.map_or_else(|| words.join(" "), str::to_owned);
    if let Err(error) = inhibitors::prepare(runtime_dir, engine.host.socket()) {
        log::debug!("{error:#}");
    }
    let inhibitor = inhibitors::register(runtime_dir, Some(&why), now())?;
    // Prune looks for inhibitors before each removal, so at most what is in flight is waited for.
    lock::wait_for_removal(runtime_dir, engine.longest_removal()).await?;
    let code = child::run(command).await?;
    // The command is over, and a hanging engine must not hold its caller up for long.
    match tokio::time::timeout(engine.timeout, record(&engine, state_dir, runtime_dir)).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => log::info!("the images in use were not noted in the ledger: {error:#}"),
        Err(_) => log::info!("the images in use were not noted in the ledger: the engine hangs"),
    }
    drop(inhibitor);
    Ok(Exit::OfCommand(code))
}

/// List the inhibitors that are active.
pub fn list(runtime_dir: &Path, output: Output) -> Result<Exit> {
    let active = inhibitors::active(runtime_dir)?;
    print(|mut out| match output {
        Output::Text => text::inhibitors(&mut out, &active, now()),
        Output::Json => json::inhibitors(&mut out, &active),
    })?;
    Ok(Exit::Done)
}

async fn record(engine: &settings::EngineSettings, state_dir: &Path, runtime_dir: &Path) -> Result<()> {
    let world = ThisHost::new(engine, state_dir, runtime_dir);
    let engine = world.connect().await?;
    let survey = observe::survey(&engine, Questions::IN_USE).await;
    observe::record_usage(&world, &engine, &survey, world.now(), |_| ()).await?;
    Ok(())
}
