//! Does something else on this host remove Docker's objects?

use std::path::PathBuf;
use std::sync::LazyLock;

use regex::Regex;

use super::CheckStatus;

/// What else prunes on this host, as far as it could be read.
#[derive(Debug, Default)]
pub struct Pruners {
    pub found: Vec<Pruner>,
    /// Crontabs and scripts that this user may not read.
    pub unread: Vec<PathBuf>,
    pub systemd: Systemd,
}

/// Were systemd's units looked through?
#[derive(Debug, Default, PartialEq, Eq)]
pub enum Systemd {
    Yes,
    /// This host was not booted with it.
    #[default]
    NotBooted,
    /// It did not answer.
    Unavailable(String),
}

/// Something that prunes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pruner {
    /// A unit or a file.
    pub place: String,
    /// The words that gave it away.
    pub command: String,
}

impl Pruners {
    /// Failed where another pruner was found; a warning where something could not be read.
    pub fn status(&self) -> CheckStatus {
        let unseen = !self.unread.is_empty() || matches!(self.systemd, Systemd::Unavailable(_));
        match (self.found.as_slice(), unseen) {
            ([], false) => CheckStatus::Ok,
            ([], true) => CheckStatus::Warning,
            _ => CheckStatus::Failed,
        }
    }
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

/// The words of a script or command line that prune, if there are any.
pub fn prunes(script: &str) -> Option<String> {
    let line = |line: &str| PRUNES.find(line).map(|found| found.as_str().trim().to_owned());
    uncommented(script).lines().find_map(line)
}

/// A script as it runs: without comments, and with continued lines in one.
pub fn uncommented(script: &str) -> String {
    let code = |line: &str| {
        let code = if line.trim_start().starts_with('#') { "" } else { line };
        code.split(" #").next().unwrap_or_default().to_owned()
    };
    script.replace("\\\n", " ").lines().map(code).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
