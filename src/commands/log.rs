//! `log`: past prunes, and what each removed.

use std::time::Duration;

use anyhow::Result;

use super::print;
use crate::cli::Output;
use crate::exit::Exit;
use crate::host::ThisHost;
use crate::report::log::{json_of, text};
use crate::settings::Settings;
use crate::units::elapsed;
use crate::world::World;

pub fn run(
    host: &ThisHost,
    settings: &Settings,
    since: Option<Duration>,
    query: Option<&str>,
) -> Result<Exit> {
    let mut history = host.history()?;
    let now = host.now();
    history.retain(|past| since.is_none_or(|since| elapsed(now, past.at) <= since));
    if let Some(query) = query {
        history.iter_mut().for_each(|past| past.removed.retain(|gone| gone.matches(query)));
        history.retain(|past| !past.removed.is_empty());
    }
    print(|mut out| match settings.output {
        Output::Text => text(&mut out, &history, query),
        Output::Json => json_of(&mut out, &history),
    })?;
    Ok(Exit::Done)
}
