//! `verify`: a list of checks, and whether one failed.

use anyhow::Result;

use super::print;
use crate::cli::{self, Output};
use crate::exit::Exit;
use crate::host::ThisHost;
use crate::report::verify::{CheckStatus, json_of, text};
use crate::settings::Settings;
use crate::verify;

pub async fn run(host: &ThisHost, settings: &Settings, wanted: &cli::Verify) -> Result<Exit> {
    let checks = verify::run(host, &settings.policy, settings.prune_at, wanted).await;
    print(|mut out| match settings.output {
        Output::Text => text(&mut out, &checks),
        Output::Json => json_of(&mut out, &checks),
    })?;
    let failed = checks.iter().any(|check| check.status == CheckStatus::Failed);
    Ok(if failed { Exit::Failed } else { Exit::Done })
}
