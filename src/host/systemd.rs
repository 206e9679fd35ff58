//! systemd's units, as systemctl shows them, and the crontabs.

use std::fs;
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Result, bail};

/// A unit that systemd has loaded.
#[derive(Debug, Clone, Default)]
pub struct Unit {
    pub name: String,
    pub active: bool,
    /// Enabled, as `UnitFileState=` has it.
    pub enabled: bool,
    pub failed: bool,
    pub triggered_by: Vec<String>,
    /// Programs and their whole command lines.
    pub commands: Vec<(PathBuf, String)>,
    /// When a timer elapses next.
    pub next: String,
}

/// Every service and timer that systemd has loaded; none where this host was not booted with it.
///
/// # Errors
/// systemctl cannot be run, fails or hangs.
pub async fn units(limit: Duration) -> Result<Option<Vec<Unit>>> {
    // sd_booted(3).
    if !Path::new("/run/systemd/system").is_dir() {
        return Ok(None);
    }
    let properties = "--property=Id,ActiveState,UnitFileState,TriggeredBy,ExecStartPre,ExecStart,ExecStartPost,\
                      NextElapseUSecRealtime";
    let mut command = tokio::process::Command::new("systemctl");
    command.args(["show", "--all", "--no-pager", properties, "*.service", "*.timer"]);
    let output = tokio::time::timeout(limit, command.kill_on_drop(true).output()).await??;
    if !output.status.success() {
        bail!("systemctl show: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    Ok(Some(text.split("\n\n").map(unit).filter(|it| !it.name.is_empty()).collect()))
}

fn unit(block: &str) -> Unit {
    let mut unit = Unit::default();
    for (name, value) in block.lines().filter_map(|line| line.split_once('=')) {
        match name {
            "Id" => value.clone_into(&mut unit.name),
            "ActiveState" => {
                unit.active = matches!(value, "active" | "activating" | "reloading");
                unit.failed = value == "failed";
            }
            "UnitFileState" => unit.enabled = value.starts_with("enabled"),
            "TriggeredBy" => unit.triggered_by = value.split_whitespace().map(str::to_owned).collect(),
            "NextElapseUSecRealtime" => value.clone_into(&mut unit.next),
            "ExecStart" | "ExecStartPre" | "ExecStartPost" => unit.commands.extend(command(value)),
            _ => {}
        }
    }
    unit
}

/// `{ path=/bin/sh ; argv[]=/bin/sh -c true ; ignore_errors=no ; … }`.
fn command(text: &str) -> Option<(PathBuf, String)> {
    let (_, rest) = text.split_once("path=")?;
    let (path, rest) = rest.split_once(" ; argv[]=")?;
    let end = rest.rfind(" ; ignore_errors=").unwrap_or(rest.len());
    Some((path.into(), rest[..end].to_owned()))
}

/// The crontabs of the system and of its users: their texts, and the places that may not be read.
pub fn crontabs() -> (Vec<(PathBuf, String)>, Vec<PathBuf>) {
    let (mut texts, mut unread) = (Vec::new(), Vec::new());
    let folders = [
        "/etc/cron.d",
        "/etc/cron.hourly",
        "/etc/cron.daily",
        "/etc/cron.weekly",
        "/etc/cron.monthly",
        "/var/spool/cron",
        "/var/spool/cron/crontabs",
        "/var/cron/tabs",
    ];
    let mut files = vec![PathBuf::from("/etc/crontab")];
    for folder in folders.map(PathBuf::from) {
        match fs::read_dir(&folder) {
            Ok(entries) => files.extend(entries.flatten().map(|it| it.path()).filter(|it| !it.is_dir())),
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(_) => unread.push(folder),
        }
    }
    for file in files {
        match fs::read(&file) {
            Ok(bytes) => texts.push((file, String::from_utf8_lossy(&bytes).into_owned())),
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(_) => unread.push(file),
        }
    }
    (texts, unread)
}

/// The texts of the scripts that a command line names by absolute paths. NixOS keeps the `script` of a
/// service in such a file.
pub fn scripts(command: &str) -> Vec<String> {
    const LONGEST: u64 = 64 << 10;
    let script = |path: &Path| -> Option<String> {
        let mut text = Vec::new();
        fs::File::open(path).ok()?.take(LONGEST).read_to_end(&mut text).ok()?;
        text.starts_with(b"#!").then(|| String::from_utf8_lossy(&text).into_owned())
    };
    let words = command.split(|c: char| c.is_whitespace() || "\"';&|()<>".contains(c));
    let paths = words.filter(|word| word.starts_with('/')).map(Path::new);
    paths.filter(|path| fs::metadata(path).is_ok_and(|it| it.is_file())).filter_map(script).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_read_as_systemctl_shows_them() {
        let block = "Id=docker-prune.service\nActiveState=failed\nUnitFileState=static\n\
            TriggeredBy=docker-prune.timer\nExecStart={ path=/bin/sh ; argv[]=/bin/sh -c a ; b ; ignore_errors=no ; \
            start_time=[n/a] ; status=0/0 }\nExecStartPre={ path=/x ; argv[]=/x ; ignore_errors=no }";
        let unit = unit(block);
        assert_eq!(unit.name, "docker-prune.service");
        assert!(unit.failed && !unit.active && !unit.enabled);
        assert_eq!(unit.triggered_by, ["docker-prune.timer"]);
        assert_eq!(unit.commands[0], ("/bin/sh".into(), "/bin/sh -c a ; b".into()));
        assert_eq!(unit.commands[1].1, "/x");
    }
}
