//! `inhibit`: block prunes while a command runs.

use std::ffi::OsString;
use std::path::Path;

use anyhow::Result;

use super::print;
use crate::cli::Output;
use crate::consumers;
use crate::exit::Exit;
use crate::facts::Usage;
use crate::host::{ThisHost, child};
use crate::observe::{self, Questions};
use crate::prune::moment::{Queueing, Wishes, let_prunes_go_first};
use crate::prune::{self, Mode};
use crate::report::{self, status};
use crate::settings::Settings;
use crate::units::{duration, size};
use crate::world::{Register, Registration, World};

/// Let a prune that is due go first, run a command while blocking prunes, and exit with its status.
///
/// # Errors
/// Prunes cannot be blocked; the command is not started then.
pub async fn run(
    host: &ThisHost,
    settings: &Settings,
    why: Option<&str>,
    min_free: Option<u64>,
    command: &[OsString],
) -> Result<Exit> {
    // Its arguments may be secrets, and what the gates show is in the journal.
    let program = command.first().map(|program| Path::new(program).file_name().unwrap_or(program));
    let program = program.map(|program| program.to_string_lossy()).unwrap_or_default();
    let why = Registration { why: Some(why.unwrap_or(&program)), min_free: None };
    if let Err(error) = host.prepare() {
        log::debug!("{error:#}");
    }
    let wishes = Wishes { prune_wait: settings.prune_wait, prune_at: settings.prune_at, min_free };
    if let Err(usage) =
        let_prunes_go_first(host, &settings.policy, &wishes, &|what| say(what, settings)).await?
    {
        no_room(host, settings, min_free.unwrap_or_default(), &usage).await?;
        return Ok(Exit::NoRoom);
    }
    let inhibitor = host.register(Register::Inhibitors, &why)?;
    // Prune looks for inhibitors before each removal, so only removals in flight must be awaited.
    host.wait_for_removal().await?;
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

fn say(what: Queueing, settings: &Settings) {
    let most = duration(settings.prune_wait);
    match what {
        Queueing::Waits => log::warn!("waiting for a prune that is due, for {most} at most (--prune-wait)"),
        Queueing::GivesUp => log::warn!("no longer waiting for a prune: it did not get its turn"),
    }
}

/// Name what takes the space that was wanted.
async fn no_room(host: &ThisHost, settings: &Settings, need: u64, usage: &Usage) -> Result<()> {
    let filesystem = &usage.filesystem;
    log::error!(
        "{} has {} available, less than --min-free {}: the command was not started",
        filesystem.mount_point.display(),
        size(filesystem.available),
        size(need)
    );
    let Ok(prune::Ended { seen: Some(seen), .. }) =
        prune::run(host, &settings.policy, Mode::Preview(Some(usage))).await
    else {
        return Ok(());
    };
    let prune::Seen { engine, survey, inventory, ledger, now } = &seen;
    let found = consumers::ask(host, engine, survey, inventory, ledger, &Default::default(), *now).await;
    let mut text = Vec::new();
    report::consumers::text(&mut text, &found)?;
    log::error!("{}", String::from_utf8_lossy(&text).trim());
    Ok(())
}

pub fn list(host: &ThisHost, settings: &Settings) -> Result<Exit> {
    let active = host.inhibitors()?;
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
