//! `verify`: a list of checks, and whether one failed.

use anyhow::Result;

use super::print;
use crate::cli::Output;
use crate::exit::Exit;
use crate::host::ThisHost;
use crate::report::verify::{CheckStatus, json_of, text};
use crate::settings::{Settings, VerifySettings};
use crate::verify::{self, Checks};

pub async fn run(host: &ThisHost, settings: &Settings, wanted: &VerifySettings) -> Result<Exit> {
    let wanted = Checks {
        policy: &settings.policy,
        registries: &wanted.registries,
        online: wanted.online,
        redeploy: wanted.redeploy.as_deref(),
        docker_hub: wanted.docker_hub.as_deref(),
    };
    let checks = verify::run(host, &wanted).await;
    print(|mut out| match settings.output {
        Output::Text => text(&mut out, &checks),
        Output::Json => json_of(&mut out, &checks),
    })?;
    let failed = checks.iter().any(|check| check.status == CheckStatus::Failed);
    Ok(if failed { Exit::Failed } else { Exit::Done })
}
