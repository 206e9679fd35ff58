//! `verify`: checks what a prune on this host needs, and what works against it. Each check has a file.

mod disk;
mod engine;
mod ledger;
mod login;
mod own_units;
mod policy;
mod pruners;
mod pull_limit;
mod redeploy;
mod retention;
mod runs;

use serde_json::Value;

use crate::cli;
use crate::facts::{Survey, Unavailable};
use crate::host::{ThisHost, systemd};
use crate::observe;
use crate::prune::moment::LOOK;
use crate::prune::{PrunePolicy, warn_of_leftovers};
use crate::report::reason::Reason;
use crate::report::verify::{Check, CheckStatus};
use crate::units::{Percent, Time};
use crate::world::{EngineApi, World};

/// Run every check, in the order in which they are shown.
/// `prune_at`: `--prune-at`.
pub async fn run(
    host: &ThisHost,
    policy: &PrunePolicy,
    prune_at: Option<Percent>,
    wanted: &cli::Verify,
) -> Vec<Check> {
    let timeout = host.engine_settings().timeout;
    let engines = host.connect().await;
    let survey = match &engines {
        Ok(engines) => observe::survey(host, engines, LOOK, &policy.disk_paths).await,
        Err(why) => Survey::unavailable(why),
    };
    let images = match &engines {
        Ok(engines) => EngineApi::images(engines).await.map_err(Unavailable::from),
        Err(why) => Err(why.clone()),
    };
    if wanted.redeploy.is_none() {
        warn_of_leftovers(&survey);
    }
    let (ledger, now) = (host.ledger(), Time::now());
    let mut checks = vec![
        engine::check(&host.engine_settings().host, &engines, &survey),
        retention::check(&survey, policy),
        disk::check(&survey, policy, &ledger, now),
        ledger::check(&ledger, now),
        runs::check(&policy.gates(&survey, now), &ledger, now),
        policy::check(
            images.as_deref().map_err(Clone::clone),
            !policy.removal.evict_tagged.is_empty(),
            prune_at,
        ),
    ];
    for registry in &wanted.registry {
        let engine = engines.as_ref().map(|engines| &engines.local).map_err(Clone::clone);
        let (credential, check) = login::check(engine, registry, wanted.online, timeout).await;
        checks.push(check);
        if wanted.online && registry == "docker.io" {
            checks.push(pull_limit::check(credential.as_ref(), wanted.docker_hub.as_deref(), timeout).await);
        }
    }
    let units = systemd::units(timeout).await.map_err(|error| format!("{error:#}"));
    checks.extend([pruners::check(&units, &survey), own_units::check(&units)]);
    if let Some(image) = &wanted.redeploy {
        checks.push(redeploy::check(host, policy, image).await);
    }
    checks
}

/// What systemd has loaded; none where the host was not booted with it.
type SystemdUnits = Result<Option<Vec<systemd::Unit>>, String>;

/// What a check found. `figures`: a JSON object, or `Value::Null` for none.
fn found(
    name: &'static str,
    status: CheckStatus,
    code: &'static str,
    message: impl Into<String>,
    figures: Value,
) -> Check {
    Check { name, status, reason: Reason::new(code, message, figures), registry: None, lines: vec![] }
}

fn unavailable(name: &'static str, status: CheckStatus, why: &crate::facts::Unavailable) -> Check {
    found(name, status, "not_available", &*why.0, Value::Null)
}
