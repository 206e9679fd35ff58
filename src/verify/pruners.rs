//! Looks for what else prunes Docker: units, timers and crontabs of this host, and containers and services that hold the
//! engine's socket.

use std::path::PathBuf;
use std::sync::LazyLock;

use regex::Regex;
use serde_json::Value;

use super::{SystemdUnits, found};
use crate::facts::{Survey, label};
use crate::host::systemd::{self, Unit};
use crate::report::verify::{Check, CheckStatus};

/// What else prunes on this host, as far as it could be read.
#[derive(Debug, Default)]
struct Pruners {
    found: Vec<Pruner>,
    /// Crontabs and scripts that this user may not read.
    unread: Vec<PathBuf>,
    systemd: Systemd,
    /// How many containers and services hold the engine's socket.
    holders: usize,
}

#[derive(Debug, Default, PartialEq, Eq)]
enum Systemd {
    Yes,
    #[default]
    NotBooted,
    Unavailable(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Pruner {
    place: String,
    command: String,
}

pub fn check(units: &SystemdUnits, survey: &Survey) -> Check {
    let mut pruners = probe(units);
    pruners.found.extend(in_containers(survey));
    pruners.holders = holders(survey).count();
    verdict(&pruners)
}

/// Containers and services that hold the engine's socket: what they are, their image, and their command line. A service
/// speaks for its containers.
fn holders(survey: &Survey) -> impl Iterator<Item = (String, &str, &str)> {
    let containers = survey
        .containers
        .iter()
        .flatten()
        .filter(|container| !container.labels.contains_key(label::SERVICE_ID));
    let containers = containers.filter_map(|container| {
        let name = container.names.first().unwrap_or(&container.id);
        Some((format!("container {name}"), container.image.as_str(), container.commands_engine.as_deref()?))
    });
    let services = survey.services.iter().flatten().filter_map(|service| {
        let place = format!("service {}", service.name);
        Some((place, service.image.as_str(), service.commands_engine.as_deref()?))
    });
    containers.chain(services)
}

fn in_containers(survey: &Survey) -> impl Iterator<Item = Pruner> {
    holders(survey).filter_map(|(place, image, command)| {
        let by_image = || PRUNING_IMAGES.find(image).map(|found| found.as_str().to_owned());
        let command = prunes(command).or_else(by_image)?;
        Some(Pruner { place, command })
    })
}

/// What else prunes: units that are live, and crontabs.
fn probe(units: &SystemdUnits) -> Pruners {
    let (mut found, mut unread) = (Vec::new(), Vec::new());
    let all = units.as_ref().ok().and_then(Option::as_deref).unwrap_or_default();
    let live = |unit: &Unit| {
        let trigger =
            |name: &String| all.iter().any(|unit| unit.name == *name && (unit.active || unit.enabled));
        unit.active || unit.enabled || unit.triggered_by.iter().any(trigger)
    };
    for unit in all.iter().filter(|unit| live(unit)) {
        let command = unit.commands.iter().find_map(|command| pruning_commands(command, &mut unread));
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
        if let Some(command) = pruning_commands(&text, &mut unread) {
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
    Pruners { found, unread, systemd, holders: 0 }
}

/// The words of a command line that prune, a crontab, or a script that it names.
fn pruning_commands(command: &str, unread: &mut Vec<PathBuf>) -> Option<String> {
    let command = without_comments(command);
    prunes(&command).or_else(|| {
        let (scripts, unreadable) = systemd::scripts(&command);
        unread.extend(unreadable);
        scripts.iter().find_map(|script| prunes(script))
    })
}

/// Failed where another pruner was found; a warning where something could not be read.
fn verdict(pruners: &Pruners) -> Check {
    let place = match pruners.systemd {
        Systemd::NotBooted => "crontabs (no systemd here)",
        Systemd::Yes | Systemd::Unavailable(_) => "units, timers, user timers and crontabs",
    };
    let place = format!("{place}, nor in what holds the engine's socket ({} found)", pruners.holders);
    let (status, code, message) = match (&pruners.found[..], &pruners.unread[..], &pruners.systemd) {
        (found @ [_, ..], ..) => {
            let found: Vec<_> =
                found.iter().map(|pruner| format!("{} runs '{}'", pruner.place, pruner.command)).collect();
            let message = format!("{}; disable it: it evicts the image cache", found.join(", "));
            (CheckStatus::Failed, "other_pruners", message)
        }
        ([], unread @ [_, ..], _) => {
            let unread: Vec<_> = unread.iter().map(|unread| unread.display().to_string()).collect();
            let message = format!("none found, but {} may not be read; run it as root", unread.join(", "));
            (CheckStatus::Warning, "not_readable", message)
        }
        ([], [], Systemd::Unavailable(why)) => {
            let message =
                format!("none in crontabs, but systemd does not answer: {why}; try systemctl status");
            (CheckStatus::Warning, "systemd_not_available", message)
        }
        ([], [], Systemd::Yes | Systemd::NotBooted) => (CheckStatus::Ok, "none", format!("none in {place}")),
    };
    found("pruners", status, code, message, Value::Null)
}

/// Commands of docker that remove images, containers, volumes or caches, and programs that exist to do so.
static PRUNES: LazyLock<Regex> = LazyLock::new(|| {
    let quote = r#"["']?"#;
    let options = r"(?:\s+-[^\s;&|]+(?:\s+[^-\s;&|][^\s;&|]*)?)*";
    let object = "(?:system|image|container|builder|buildx|volume|network)";
    let words = [
        format!(r"{object}{quote}\s+{quote}prune"),
        format!(r"image{quote}\s+{quote}(?:rm|remove)"),
        "rmi".to_owned(),
        r"compose\s[^;&|]*--rmi".to_owned(),
    ];
    let end = r#"(?:["'\s;&|)]|$)"#;
    let programs = r"(?:^|[;&|/]|\bexec\s)\s*(?:docker-gc|docuum|dcgc)";
    let words = words.join("|");
    Regex::new(&format!(
        r"\bdocker{quote}{options}\s+{quote}(?:{words}){end}|\bdocker-compose\s[^;&|]*--rmi{end}|{programs}{end}"
    ))
    .expect("a valid expression")
});

/// Images that exist to prune.
static PRUNING_IMAGES: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r"\b(?:docuum|docker-gc|docker-cleanup|docker-prune|docker-system-prune)\b")
        .expect("a valid expression")
});

/// The words of a script or command line that prune, if there are any.
fn prunes(script: &str) -> Option<String> {
    let line = |line: &str| PRUNES.find(line).map(|found| found.as_str().trim().to_owned());
    without_comments(script).lines().find_map(line)
}

/// A script as it runs: without comments, and with continued lines in one.
fn without_comments(script: &str) -> String {
    let code = |line: &str| {
        let code = if line.trim_start().starts_with('#') { "" } else { line };
        code.split(" #").next().unwrap_or_default().to_owned()
    };
    script.replace("\\\n", " ").lines().map(code).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::{Container, Service};
    use crate::testing::{container, service, survey};

    #[test]
    fn commands_that_prune_are_told_from_those_that_do_not() {
        for script in [
            "docker system prune --all",
            "/usr/bin/docker system prune -f",
            "0 3 * * * root docker image prune -af > /dev/null",
            "docker --host unix:///x.sock container prune --force",
            "set -e\n/nix/store/0-docker/bin/docker rmi $(docker images -q)",
            "docker image rm old",
            "docker images -q | xargs docker rmi",
            "docker volume prune",
            "docker image remove old",
            "docker compose --file x.yml down --rmi all",
            "docker-compose down --rmi local",
            "docker \\
  system prune",
            "(docker image prune)",
            "exec docuum --threshold 10GB",
            "\"docker\" \"system\" \"prune\"",
        ] {
            assert!(prunes(script).is_some(), "{script}");
        }
        for script in [
            "",
            "ci-docker-prune prune --disk-threshold=80",
            "/nix/store/0-ci-docker-prune-0.1.0/bin/ci-docker-prune --dry-run",
            "ci-docker-prune inhibit -- docker stack deploy -c x.yml x",
            "docker stack rm shop",
            "docker run --rm alpine true",
            "docker ps; nix-collect-garbage; git remote prune origin",
            "# docker system prune --all",
            "docker pull redis # no docker image prune here",
            "restic prune",
            "podman image prune",
            "docker start rmi-registry",
            "docker build -t rmi .",
            "docker stop docker-gc",
            "docker run --rm x # then docker image prune",
            "docker --help; echo system prune",
            "  # @daily root docker system prune",
            "systemctl start ci-docker-prune.service",
        ] {
            assert_eq!(prunes(script), None, "{script}");
        }
    }

    #[test]
    fn a_container_or_service_prunes_that_holds_the_socket_and_says_so() {
        let container = |image: &str, command: Option<&str>| Container {
            image: image.into(),
            commands_engine: command.map(str::to_owned),
            ..container()
        };
        let service = |command: &str| Service { commands_engine: Some(command.into()), ..service() };
        for (containers, services, expected) in [
            (vec![container("docker:cli", Some("docker system prune -af"))], vec![], vec!["container plain"]),
            (vec![container("docker:cli", Some("docker ps"))], vec![], vec![]),
            (vec![container("docker:cli", None)], vec![], vec![]),
            (vec![container("stephanmisc/docuum:0.25", Some("/docuum"))], vec![], vec!["container plain"]),
            (vec![], vec![service("sh -c docker image prune -af")], vec!["service app"]),
        ] {
            let survey = Survey { containers: Ok(containers), services: Ok(services), ..survey() };
            let places: Vec<_> = in_containers(&survey).map(|pruner| pruner.place).collect();
            assert_eq!(places, expected);
        }
        let survey = Survey { containers: Ok(vec![container("traefik", Some("traefik"))]), ..survey() };
        let message = check(&Ok(Some(vec![])), &survey).reason.message;
        assert!(message.contains("nor in what holds the engine's socket (1 found)"), "{message}");
    }

    #[test]
    fn a_unit_prunes_that_is_live_or_begins_with_the_next_boot() {
        let unit = |name: &str| Unit { name: name.into(), ..Unit::default() };
        let pruner = || Unit {
            commands: vec!["docker system prune --all --force".into()],
            triggered_by: vec!["nightly.timer".into()],
            ..unit("nightly.service")
        };
        let found = |units: Vec<Unit>| {
            let found = probe(&Ok(Some(units))).found;
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
        assert!(probe(&Ok(Some(reserved))).found.iter().any(|pruner| pruner.place == "docker-prune.timer"));
        assert!(matches!(probe(&Ok(None)).systemd, Systemd::NotBooted));
        assert!(matches!(probe(&Err("x".into())).systemd, Systemd::Unavailable(_)));
    }
}
