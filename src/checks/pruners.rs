//! Does something else on this host remove Docker's objects?

use std::path::PathBuf;
use std::sync::LazyLock;

use regex::Regex;

use super::Status;

#[derive(Debug, Default)]
pub struct Pruners {
    pub found: Vec<Pruner>,
    /// Crontabs and scripts that this user may not read.
    pub unread: Vec<PathBuf>,
    /// Were systemd's units looked through?
    pub systemd: bool,
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
    pub fn status(&self) -> Status {
        match (self.found.as_slice(), self.unread.as_slice()) {
            ([], []) => Status::Ok,
            ([], _) => Status::Warning,
            _ => Status::Failed,
        }
    }
}

/// Commands of docker (and podman in its place) that remove images, containers, volumes or caches, and
/// programs that exist to do so.
static PRUNES: LazyLock<Regex> = LazyLock::new(|| {
    let docker = r#"\b(?:docker|podman)["']?\s(?:[^;&|\n]*\s)?"#;
    let object = "(?:system|image|container|builder|buildx|volume|network)";
    Regex::new(&format!(
        r#"{docker}["']?(?:{object}["']?\s+["']?prune|rmi|image["']?\s+["']?rm)\b|\b(?:docker-gc|docuum|dcgc|docker-custodian)\b"#
    ))
    .expect("a valid expression")
});

/// The words of a script or command line that prune, if there are any.
pub fn prunes(script: &str) -> Option<String> {
    let lines = script.lines().filter(|line| !line.trim_start().starts_with('#'));
    lines.filter_map(|line| PRUNES.find(line)).map(|found| found.as_str().to_owned()).next()
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
            "podman volume prune",
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
            "docker pull redis # no image prune here, only docker pull".split('#').next().unwrap(),
            "restic prune",
            "systemctl start ci-docker-prune.service",
        ] {
            assert_eq!(prunes(script), None, "{script}");
        }
    }
}
