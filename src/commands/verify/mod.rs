//! `verify`: one check after the other, and what they say together.

mod redeploy;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Result;

use super::print;
use crate::checks::login::{Credential, CredentialTest, Login};
use crate::checks::own_units::{OwnUnits, Timer};
use crate::checks::pruners::{Pruner, Pruners, Systemd, prunes, uncommented};
use crate::checks::{Check, CheckStatus, DiskCheck, EngineCheck, Retention};
use crate::cli::{self, Output};
use crate::exit::Exit;
use crate::facts::{Answer, Unavailable};
use crate::gates::{Gate, Verdict};
use crate::host::systemd::{self, Unit};
use crate::host::{docker_config, docker_hub, filesystem};
use crate::observe::{self, Questions, Survey};
use crate::prune;
use crate::prune::outcome::OngoingPressure;
use crate::report::{json, text};
use crate::settings::{self, VerifySettings};
use crate::units::elapsed;
use crate::world::World;
use crate::world::real::{Engines, ThisHost};

const TIMER: &str = "ci-docker-prune.timer";
const SERVICE: &str = "ci-docker-prune.service";

/// Run every check.
///
/// # Errors
/// Stdout cannot be written.
pub async fn run(engine: settings::EngineSettings, verify: VerifySettings, output: Output) -> Result<Exit> {
    let world = ThisHost::new(&engine, &verify.prune.state_dir, &verify.prune.runs.runtime_dir);
    let engines = world.connect().await;
    let survey = match &engines {
        Ok(engines) => {
            let questions = Questions { services: true, ..Questions::DISK };
            Ok(observe::survey(engines, questions).await)
        }
        Err(why) => Err(why.clone()),
    };
    let mut checks = vec![
        Check::Engine(answers(&engine, &engines, &survey)),
        Check::Retention(retention(&world, &engines, &survey, &verify).await),
        Check::Disk(disk(&world, &engines, &survey, &verify.prune).await),
        Check::Ledger(noted(&world)),
    ];
    if let (Ok(survey), None) = (&survey, &verify.redeploy) {
        prune::warn_of_what_hinders(&world, survey, &[]);
    }
    for registry in &verify.registries {
        let (login, credential) = login(&engines, registry, verify.online, engine.timeout).await;
        checks.push(Check::Login(registry.clone(), login));
        if verify.online && registry == "docker.io" {
            let hub = verify.docker_hub.as_deref();
            checks.push(Check::Pulls(docker_hub::pull_limit(credential.as_ref(), hub, engine.timeout).await));
        }
    }
    let units = systemd::units(engine.timeout).await.map_err(|error| format!("{error:#}"));
    checks.push(Check::Pruners(pruners(&units)));
    checks.push(Check::Units(own_units(&units)));
    if let Some(image) = &verify.redeploy {
        checks.push(Check::Redeploy(redeploy::prove(&engine, &verify.prune, image).await));
    }
    print(|mut out| match output {
        Output::Text => text::checks(&mut out, &checks),
        Output::Json => json::checks(&mut out, &checks),
    })?;
    let failed = checks.iter().any(|check| check.status() == CheckStatus::Failed);
    Ok(if failed { Exit::Failed } else { Exit::Done })
}

/// How long ago image usage was noted.
fn noted(world: &ThisHost<'_>) -> Option<Duration> {
    world.ledger().noted_at.map(|at| elapsed(world.now(), at))
}

fn answers(
    settings: &settings::EngineSettings,
    engines: &Answer<Engines>,
    survey: &Answer<Survey>,
) -> EngineCheck {
    let info = survey.as_ref().map_err(Clone::clone).and_then(|survey| survey.info.clone());
    match (engines, info) {
        (Ok(engines), Ok(info)) => EngineCheck::Answers {
            host: settings.host.to_string(),
            version: info.version,
            api: engines.local.api_version(),
            containerd_store: info.containerd_store,
            swarm: info.swarm.state,
            manager: engines.manager.is_some(),
        },
        (Err(why), _) => EngineCheck::Unavailable(why.clone()),
        (_, Err(why)) => EngineCheck::Unavailable(why),
    }
}

async fn retention(
    world: &ThisHost<'_>,
    engines: &Answer<Engines>,
    survey: &Answer<Survey>,
    verify: &VerifySettings,
) -> Retention {
    let places = match (engines, survey) {
        (Ok(engines), Ok(survey)) => survey.engine_places(world, engines).await,
        (Err(why), _) | (_, Err(why)) => Err(why.clone()),
    };
    let places = match places {
        Ok(Some(places)) => places.all(),
        Ok(None) => return Retention::Elsewhere,
        Err(why) => return Retention::Unknown(why),
    };
    for place in &places {
        match filesystem::volatile(place) {
            Ok(None) => {}
            Ok(Some(kind)) => return Retention::Volatile(place.clone(), kind),
            Err(error) => return Retention::Unknown(Unavailable(format!("{error:#}"))),
        }
    }
    match places.iter().find(|place| filesystem::is_zfs(place)) {
        Some(place) if verify.prune.disk.limit.min_free.is_none() => Retention::ZfsByPercent(place.clone()),
        _ => Retention::Persistent(places),
    }
}

async fn disk(
    world: &ThisHost<'_>,
    engines: &Answer<Engines>,
    survey: &Answer<Survey>,
    prune: &settings::PruneSettings,
) -> DiskCheck {
    let gate = match (engines, survey) {
        (Ok(engines), Ok(survey)) => survey.disk(world, engines, &prune.disk).await,
        (Err(why), _) | (_, Err(why)) => Gate::disk_unavailable(why.clone()),
    };
    let critical = match &gate {
        Gate::Disk(Verdict::Open(measured)) => {
            measured.usages.iter().any(|usage| prune.policy.critical.is_reached(usage))
        }
        _ => false,
    };
    let pressure = OngoingPressure::of(&world.ledger(), world.now())
        .map(|pressure| (pressure.duration, pressure.blocked));
    DiskCheck { gate, critical, pressure }
}

async fn login(
    engines: &Answer<Engines>,
    registry: &str,
    online: bool,
    limit: Duration,
) -> (Login, Option<Credential>) {
    let (credential, mut login) = docker_config::credential(registry, limit).await;
    if let (Login::Found { test, .. }, Some(credential), true) = (&mut login, &credential, online) {
        *test = match engines {
            Ok(engines) => engines.local.test_login(credential, registry).await,
            Err(why) => CredentialTest::Unavailable(why.0.clone()),
        };
    }
    (login, credential)
}

/// What systemd has loaded; none where the host was not booted with it.
type SystemdUnits = Result<Option<Vec<Unit>>, String>;

/// What else prunes: units that are live, and crontabs.
fn pruners(units: &SystemdUnits) -> Pruners {
    let (mut found, mut unread) = (Vec::new(), Vec::new());
    let all = units.as_ref().ok().and_then(Option::as_deref).unwrap_or_default();
    let live = |unit: &Unit| {
        let trigger =
            |name: &String| all.iter().any(|unit| unit.name == *name && (unit.active || unit.enabled));
        unit.active || unit.enabled || unit.triggered_by.iter().any(trigger)
    };
    for unit in all.iter().filter(|unit| live(unit)) {
        let command = unit.commands.iter().find_map(|command| looked_through(command, &mut unread));
        // NixOS's own name, whatever it runs.
        let reserved = unit.name == "docker-prune.timer";
        if let Some(command) = command.or_else(|| reserved.then(|| "virtualisation.docker.autoPrune".into()))
        {
            found.push(Pruner { place: unit.name.clone(), command });
        }
    }
    let (texts, unreadable) = systemd::crontabs();
    unread.extend(unreadable);
    let (timers, unreadable) = systemd::user_services();
    unread.extend(unreadable);
    for (path, text) in texts.into_iter().chain(timers) {
        if let Some(command) = looked_through(&text, &mut unread) {
            found.push(Pruner { place: path.display().to_string(), command });
        }
    }
    let systemd = match units {
        Ok(Some(_)) => Systemd::Yes,
        Ok(None) => Systemd::NotBooted,
        Err(why) => Systemd::Unavailable(why.clone()),
    };
    unread.sort();
    unread.dedup();
    Pruners { found, unread, systemd }
}

/// The words that prune in a command line, a crontab, or a script that it names.
fn looked_through(command: &str, unread: &mut Vec<PathBuf>) -> Option<String> {
    let command = uncommented(command);
    prunes(&command).or_else(|| {
        let (scripts, unreadable) = systemd::scripts(&command);
        unread.extend(unreadable);
        scripts.iter().find_map(|script| prunes(script))
    })
}

fn own_units(units: &SystemdUnits) -> OwnUnits {
    let units = match units {
        Ok(Some(units)) => units,
        Ok(None) => return OwnUnits::NoSystemd,
        Err(why) => return OwnUnits::Unavailable(why.clone()),
    };
    let find = |name: &str| units.iter().find(|unit| unit.name == name);
    let real = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let timer = match find(TIMER) {
        None => Timer::Missing,
        Some(timer) => match (timer.active, timer.enabled) {
            (false, false) => Timer::Disabled,
            (false, true) => Timer::Inactive,
            (true, false) => Timer::NotEnabled,
            (true, true) => Timer::Active(timer.next.clone()),
        },
    };
    let service = find(SERVICE);
    OwnUnits::Seen {
        timer,
        runs: service.and_then(|run| run.program.as_deref()).map(real),
        own: std::env::current_exe().map(|path| real(&path)).unwrap_or_default(),
        failed: service.is_some_and(|service| service.failed),
        version: cli::VERSION.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_unit_prunes_that_is_live_or_begins_with_the_next_boot() {
        let unit = |name: &str| Unit { name: name.into(), ..Unit::default() };
        let pruner = || Unit {
            commands: vec!["docker system prune --all --force".into()],
            triggered_by: vec!["nightly.timer".into()],
            ..unit("nightly.service")
        };
        let found = |units: Vec<Unit>| {
            let found = pruners(&Ok(Some(units))).found;
            found.iter().any(|pruner| pruner.place == "nightly.service")
        };
        let timer = || unit("nightly.timer");
        for (what, units, expected) in [
            ("nothing starts it", vec![pruner(), timer()], false),
            ("it is active", vec![Unit { active: true, ..pruner() }], true),
            ("it is enabled", vec![Unit { enabled: true, ..pruner() }], true),
            ("its timer is active", vec![pruner(), Unit { active: true, ..timer() }], true),
            ("its timer begins with the next boot", vec![pruner(), Unit { enabled: true, ..timer() }], true),
            ("another timer is active", vec![pruner(), Unit { active: true, ..unit("other.timer") }], false),
            (
                "it does something else",
                vec![Unit { active: true, commands: vec!["true".into()], ..pruner() }],
                false,
            ),
        ] {
            assert_eq!(found(units), expected, "{what}");
        }
        let reserved = vec![Unit { active: true, ..unit("docker-prune.timer") }];
        assert!(pruners(&Ok(Some(reserved))).found.iter().any(|pruner| pruner.place == "docker-prune.timer"));
        assert!(matches!(pruners(&Ok(None)).systemd, Systemd::NotBooted));
        assert!(matches!(pruners(&Err("x".into())).systemd, Systemd::Unavailable(_)));
    }
}
