//! systemd's units, as systemctl shows them, and the crontabs.

use std::fs;
use std::io::{ErrorKind, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};

#[derive(Debug, Clone, Default)]
pub struct Unit {
    /// The name with its suffix, such as `.service`.
    pub name: String,
    /// `ActiveState=` is active, activating or reloading.
    pub active: bool,
    pub enabled: bool,
    pub failed: bool,
    /// The units that start it, such as its timer.
    pub triggered_by: Vec<String>,
    pub program: Option<PathBuf>,
    /// All command lines, including `ExecStartPre=` and `ExecStartPost=`.
    pub commands: Vec<String>,
    pub next: String,
}

/// Every service, and what may trigger one, that systemd has loaded; `None` if this host was not booted with
/// systemd.
pub async fn units(limit: Duration) -> Result<Option<Vec<Unit>>> {
    // sd_booted(3).
    if !Path::new("/run/systemd/system").is_dir() {
        return Ok(None);
    }
    let properties = "--property=Id,LoadState,ActiveState,UnitFileState,TriggeredBy,NextElapseUSecRealtime,ExecCondition,\
                      ExecStartPre,ExecStart,ExecStartPost,ExecReload,ExecStop,ExecStopPost";
    let mut command = tokio::process::Command::new("systemctl");
    command.args(["show", "--all", "--no-pager", properties, "*.service", "*.timer", "*.path", "*.socket"]);
    let output = tokio::time::timeout(limit, command.kill_on_drop(true).output()).await;
    let output = output.unwrap_or_else(|late| Err(late.into())).with_context(|| "systemctl show")?;
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        bail!("systemctl show: {stderr}");
    }
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    // Another unit refers to it, but it does not exist.
    let blocks = text.split("\n\n").filter(|block| !block.contains("LoadState=not-found"));
    Ok(Some(blocks.map(unit).filter(|unit| !unit.name.is_empty()).collect()))
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
            name if name.starts_with("Exec") => {
                let Some((program, line)) = command(value) else { continue };
                if name == "ExecStart" {
                    unit.program.get_or_insert(program);
                }
                unit.commands.push(line);
            }
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
    let mut files = vec![PathBuf::from("/etc/crontab"), PathBuf::from("/etc/anacrontab")];
    for folder in folders.map(PathBuf::from) {
        // run-parts(8) runs what is executable and has no dot in its name; cron(8) reads cron.d by such names.
        let plain = |path: &PathBuf| {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let named = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte));
            let scripts = folder.to_string_lossy().ends_with("ly");
            let runs =
                fs::metadata(path).is_ok_and(|path| path.is_file() && (!scripts || path.mode() & 0o111 != 0));
            runs && (named || !folder.starts_with("/etc"))
        };
        match fs::read_dir(&folder) {
            Ok(entries) => files.extend(entries.flatten().map(|entry| entry.path()).filter(plain)),
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

/// The services of users that their own systemd starts, by a timer or at login: their texts, and the places that
/// may not be read. Read from files, because no manager runs for a user who is not logged in.
pub fn user_services() -> (Vec<(PathBuf, String)>, Vec<PathBuf>) {
    let (mut texts, mut unread) = (Vec::new(), Vec::new());
    let passwd = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let homes = passwd.lines().filter_map(|line| line.split(':').nth(5)).filter(|home| home.len() > 1);
    let folders = homes.map(|home| Path::new(home).join(".config/systemd/user"));
    let mut folders: Vec<PathBuf> = folders.chain([PathBuf::from("/etc/systemd/user")]).collect();
    folders.sort();
    folders.dedup();
    for folder in folders {
        let entries = match fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == ErrorKind::PermissionDenied => {
                unread.push(folder);
                continue;
            }
            Err(_) => continue,
        };
        for path in entries.flatten().map(|entry| entry.path()) {
            let Some(name) =
                path.file_stem().filter(|_| path.extension().is_some_and(|extension| extension == "service"))
            else {
                continue;
            };
            let timer = Path::new("timers.target.wants").join(name).with_extension("timer");
            let login = Path::new("default.target.wants").join(name).with_extension("service");
            let started = [timer, login].iter().any(|link| fs::symlink_metadata(folder.join(link)).is_ok());
            if started && let Ok(text) = fs::read_to_string(&path) {
                texts.push((path, exec_lines(&text)));
            }
        }
    }
    (texts, unread)
}

/// The command lines of a unit file, without their keys and the prefixes of systemd.service(5).
fn exec_lines(unit: &str) -> String {
    let commands = unit.lines().filter_map(|line| line.trim_start().strip_prefix("Exec")?.split_once('='));
    commands
        .map(|(_, command)| format!("{}\n", command.trim_start_matches(['-', '@', ':', '+', '!'])))
        .collect()
}

/// The texts of the scripts that a command line names by absolute paths, and the files that may not be read.
/// NixOS keeps the `script` of a service in such a file.
pub fn scripts(command: &str) -> (Vec<String>, Vec<PathBuf>) {
    const MAX_FILE_BYTES: u64 = 64 << 10;
    let (mut texts, mut unread) = (Vec::new(), Vec::new());
    let words = command.split(|c: char| c.is_whitespace() || "\"';&|()<>".contains(c));
    for path in words.filter(|word| word.starts_with('/')).map(Path::new) {
        if !fs::metadata(path).is_ok_and(|path| path.is_file()) {
            continue;
        }
        let mut text = Vec::new();
        match fs::File::open(path).and_then(|file| file.take(MAX_FILE_BYTES).read_to_end(&mut text)) {
            Ok(_) if text.starts_with(b"#!") => texts.push(String::from_utf8_lossy(&text).into_owned()),
            Ok(_) => {}
            Err(_) => unread.push(path.to_owned()),
        }
    }
    (texts, unread)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_unit_files_commands_are_told_from_its_other_lines() {
        let unit = "[Unit]\nDescription=docker system prune\n[Service]\nExecStartPre=-/bin/true\nExecStart=/home/ci/p.sh -f\n";
        assert_eq!(exec_lines(unit), "/bin/true\n/home/ci/p.sh -f\n");
    }

    #[test]
    fn units_are_read_as_systemctl_shows_them() {
        let block = "Id=docker-prune.service\nActiveState=failed\nUnitFileState=static\n\
            TriggeredBy=docker-prune.timer\nExecStartPre={ path=/y ; argv[]=/y ; ignore_errors=no }\nExecStart={ path=/bin/sh ; argv[]=/bin/sh -c a ; b ; ignore_errors=no ; \
            start_time=[n/a] ; status=0/0 }\nExecStop={ path=/x ; argv[]=/x ; ignore_errors=no }";
        let unit = unit(block);
        assert_eq!(unit.name, "docker-prune.service");
        assert!(unit.failed && !unit.active && !unit.enabled);
        assert_eq!(unit.triggered_by, ["docker-prune.timer"]);
        assert_eq!(unit.program, Some("/bin/sh".into()));
        assert_eq!(unit.commands, ["/y", "/bin/sh -c a ; b", "/x"]);
    }
}
