//! What the checks of `verify` say, and what to do where one fails.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::text;

use crate::checks::login::{CredentialTest, Login, Source};
use crate::checks::own_units::{OwnUnits, Timer};
use crate::checks::pruners::{Pruners, Systemd};
use crate::checks::pull_limit::PullLimit;
use crate::checks::{
    Check, CheckStatus, Deployed, DiskCheck, EngineCheck, MAX_RECORD_AGE, Redeploy, Retention,
};
use crate::facts::SwarmState;
use crate::gates::GateState;
use crate::units::{age, duration};

/// As the JSON and the text name it.
pub fn status(status: CheckStatus) -> &'static str {
    match status {
        CheckStatus::Ok => "ok",
        CheckStatus::Warning => "warning",
        CheckStatus::Failed => "failed",
        CheckStatus::Skipped => "skipped",
    }
}

/// What a check found, as the JSON names it.
pub fn code(check: &Check) -> &'static str {
    match check {
        Check::Engine(EngineCheck::Unavailable(_)) => "not_available",
        Check::Engine(EngineCheck::Answers { swarm, manager, .. }) => match swarm {
            SwarmState::Inactive => "not_in_swarm",
            SwarmState::Manager => "swarm_manager",
            SwarmState::Worker if *manager => "swarm_worker_with_manager",
            SwarmState::Worker => "swarm_worker",
            SwarmState::Locked => "swarm_locked",
            SwarmState::Pending => "swarm_pending",
            SwarmState::Failed(_) => "swarm_failed",
        },
        Check::Retention(retention) => match retention {
            Retention::Persistent(_) => "persistent",
            Retention::Volatile(..) => "volatile",
            Retention::ZfsByPercent(_) => "zfs_by_percent",
            Retention::Elsewhere => "remote_engine",
            Retention::Unknown(_) => "not_available",
        },
        Check::Disk(disk) => match disk.gate.state() {
            GateState::Open if disk.critical => "critical",
            GateState::Open => "under_pressure",
            GateState::Closed => "below_threshold",
            GateState::Unknown => "not_available",
        },
        Check::Ledger(None) => "never_recorded",
        Check::Ledger(Some(since)) if *since < MAX_RECORD_AGE => "recorded",
        Check::Ledger(Some(_)) => "not_recorded_lately",
        Check::Login(_, found) => login_code(found),
        Check::Pulls(PullLimit::Limited { remaining: 0, .. }) => "none_left",
        Check::Pulls(PullLimit::Limited { .. }) => "limited",
        Check::Pulls(PullLimit::Unlimited) => "unlimited",
        Check::Pulls(PullLimit::Unavailable(_)) => "not_available",
        Check::Pruners(pruners) => match (&pruners.found[..], &pruners.unread[..], &pruners.systemd) {
            ([_, ..], ..) => "other_pruners",
            ([], [_, ..], _) => "not_readable",
            ([], [], Systemd::Unavailable(_)) => "systemd_not_available",
            ([], [], Systemd::Yes | Systemd::NotBooted) => "none",
        },
        Check::Units(units) => units_code(units),
        Check::Redeploy(Redeploy::Proved { .. }) if check.status() == CheckStatus::Ok => "reused",
        Check::Redeploy(Redeploy::Proved { .. }) => "not_reused",
        Check::Redeploy(Redeploy::Interrupted) => "interrupted",
        Check::Redeploy(Redeploy::Failed(_)) => "not_proved",
    }
}

fn login_code(login: &Login) -> &'static str {
    match login {
        Login::Found { test: CredentialTest::NotAsked, .. } => "found",
        Login::Found { test: CredentialTest::Passed, .. } => "accepted",
        Login::Found { test: CredentialTest::Refused(_), .. } => "refused",
        Login::Found { test: CredentialTest::Unavailable(_), .. } => "not_tested",
        Login::NoConfig(_) => "no_docker_config",
        Login::Unreadable(..) => "not_readable",
        Login::Missing(_) | Login::NotKept(_) => "no_credential",
        Login::NoHelper(_) => "no_credential_helper",
        Login::HelperFailed(..) | Login::HelperHangs(_) => "credential_helper_failed",
    }
}

fn units_code(units: &OwnUnits) -> &'static str {
    match units {
        OwnUnits::NoSystemd => "no_systemd",
        OwnUnits::Unavailable(_) => "systemd_not_available",
        OwnUnits::Seen { timer: Timer::Missing, .. } => "no_timer",
        OwnUnits::Seen { timer: Timer::Disabled, .. } => "timer_disabled",
        OwnUnits::Seen { timer: Timer::Inactive, .. } => "timer_not_active",
        OwnUnits::Seen { timer: Timer::NotEnabled, .. } => "timer_not_enabled",
        OwnUnits::Seen { timer: Timer::Active(_), runs: None, .. } => "no_service",
        OwnUnits::Seen { runs: Some(runs), own, .. } if runs != own => "other_program",
        OwnUnits::Seen { failed: true, .. } => "last_run_failed",
        OwnUnits::Seen { .. } => "active",
    }
}

/// The figures of a proof, to be pasted into a change request: one line each, however long.
pub fn figures(check: &Check) -> Vec<String> {
    let Check::Redeploy(Redeploy::Proved { cold, warm, .. }) = check else { return vec![] };
    let deploy = |name: &str, deployed: &Deployed| {
        format!("  {name:10} {} ms, {} layers downloaded", deployed.milliseconds, deployed.layers)
    };
    let mut lines = vec![format!("redeploy of {}", cold.image), deploy("cold", cold), deploy("warm", warm)];
    lines.push(format!("  {:10} {:.1}", "cold/warm", ratio(cold, warm)));
    lines
}

fn ratio(cold: &Deployed, warm: &Deployed) -> f64 {
    cold.milliseconds as f64 / warm.milliseconds.max(1) as f64
}

/// What a check found, in a line or two.
pub fn detail(check: &Check) -> String {
    match check {
        Check::Engine(found) => engine(found),
        Check::Retention(found) => retention(found),
        Check::Disk(found) => disk(found),
        Check::Login(registry, found) => login(registry, found),
        Check::Pulls(limit) => pulls(limit),
        Check::Pruners(found) => pruners(found),
        Check::Ledger(since) => ledger(*since),
        Check::Units(found) => units(found),
        Check::Redeploy(found) => redeploy(found),
    }
}

fn engine(engine: &EngineCheck) -> String {
    match engine {
        EngineCheck::Unavailable(why) => why.0.clone(),
        EngineCheck::Answers { host, version, api, containerd_store, swarm, manager } => {
            let store = if *containerd_store { "containerd image store" } else { "graph driver" };
            let swarm = match swarm {
                SwarmState::Inactive => "not in a Swarm".into(),
                SwarmState::Manager => "Swarm manager".into(),
                SwarmState::Worker if *manager => "Swarm worker, with a manager to ask".into(),
                SwarmState::Worker => {
                    "Swarm worker: it cannot see the services; name a manager with --swarm-host".into()
                }
                SwarmState::Locked => "locked Swarm manager: docker swarm unlock".into(),
                SwarmState::Pending => "still joining its Swarm; try again in a minute".into(),
                SwarmState::Failed(error) => {
                    format!("its Swarm is in trouble: {error}; see journalctl -u docker")
                }
            };
            format!("Docker {version} at {host}, API {api}, {store}, {swarm}")
        }
    }
}

fn retention(retention: &Retention) -> String {
    match retention {
        Retention::Persistent(places) => {
            let lies_in_another =
                |place: &PathBuf| places.iter().any(|other| place != other && place.starts_with(other));
            let places = places.iter().filter(|place| !lies_in_another(place));
            let places: Vec<_> = places.map(|place| place.display().to_string()).collect();
            format!("{} is on persistent storage", places.join(", "))
        }
        Retention::Volatile(place, kind) => format!(
            "{} lies on {kind}, and the image cache is gone with the next reboot; put data-root (daemon.json) on a disk",
            place.display()
        ),
        Retention::ZfsByPercent(place) => format!(
            "{} lies on ZFS, whose datasets do not show how full their pool is; set --disk-min-free, such as 20GB",
            place.display()
        ),
        Retention::Elsewhere => "the engine is on another host".into(),
        Retention::Unknown(why) => why.0.clone(),
    }
}

fn disk(disk: &DiskCheck) -> String {
    let usage = text::reason(&disk.gate);
    match (disk.gate.state(), &disk.pressure) {
        (GateState::Open, Some((duration, blocked))) => {
            let since = text::lasting(*duration, blocked, &[]).unwrap_or_else(|| "under pressure".into());
            format!("{usage}; {since}; see prune --dry-run")
        }
        (GateState::Open, None) => format!("{usage}; under pressure; see prune --dry-run"),
        _ => usage,
    }
}

fn login(registry: &str, login: &Login) -> String {
    let log_in = format!("docker login {}", if registry == "docker.io" { "" } else { registry });
    let log_in = log_in.trim();
    let file = |path: &Path| path.display().to_string();
    match login {
        Login::Found { user, source, test } => {
            let who = user.as_ref().map_or_else(|| "a token".into(), |user| format!("user {user}"));
            let source = match source {
                Source::File(path) => file(path),
                Source::Environment => "DOCKER_AUTH_CONFIG".into(),
                Source::Helper(name) => format!("docker-credential-{name}"),
            };
            let test = match test {
                CredentialTest::NotAsked => String::new(),
                CredentialTest::Passed => ", accepted by the registry".into(),
                CredentialTest::Refused(why) => format!(", and the registry refuses it: {why}; {log_in}"),
                CredentialTest::Unavailable(why) => {
                    format!(", and it could not be tested: {why}; can the engine reach the registry?")
                }
            };
            format!("{registry}: {who}, from {source}{test}")
        }
        Login::NoConfig(path) => format!("{registry}: no {}; {log_in}, as the user who deploys", file(path)),
        Login::Unreadable(path, why) => {
            format!("{registry}: cannot read {}: {why}; fix or remove it, and {log_in}", file(path))
        }
        Login::Missing(path) => format!("{registry}: no credential in {}; {log_in}", file(path)),
        Login::NotKept(helper) => format!("{registry}: docker-credential-{helper} has no entry; {log_in}"),
        Login::NoHelper(helper) => format!(
            "{registry}: docker-credential-{helper} is not on the PATH; install it, or take it out of credsStore and credHelpers"
        ),
        Login::HelperFailed(helper, why) => {
            format!(
                "{registry}: docker-credential-{helper} failed: {why}; try it by hand: docker-credential-{helper} list"
            )
        }
        Login::HelperHangs(helper) => {
            format!(
                "{registry}: docker-credential-{helper} does not answer (--timeout); does it wait for a password?"
            )
        }
    }
}

fn pulls(limit: &PullLimit) -> String {
    match limit {
        PullLimit::Limited { remaining, limit, window } => {
            let of = format!("of {limit} pulls for each {}", duration(*window));
            if *remaining == 0 {
                format!("docker.io: none left {of}; log in with an account that has a higher limit, or wait")
            } else {
                format!("docker.io: {remaining} left {of}")
            }
        }
        PullLimit::Unlimited => "docker.io: no pull limit".into(),
        PullLimit::Unavailable(why) => format!("docker.io: its limit could not be asked for: {why}"),
    }
}

fn pruners(pruners: &Pruners) -> String {
    let place = match &pruners.systemd {
        Systemd::Yes => "units, timers, user timers or crontabs",
        Systemd::NotBooted => "crontabs (no systemd here)",
        Systemd::Unavailable(why) if pruners.found.is_empty() && pruners.unread.is_empty() => {
            return format!("none in crontabs, but systemd does not answer: {why}; try systemctl status");
        }
        Systemd::Unavailable(_) => "",
    };
    match (pruners.found.as_slice(), pruners.unread.as_slice()) {
        ([], []) => format!("none in {place}"),
        ([], unread) => {
            let unread: Vec<_> = unread.iter().map(|unread| unread.display().to_string()).collect();
            format!("none found, but {} may not be read; run it as root", unread.join(", "))
        }
        (found, _) => {
            let found: Vec<_> =
                found.iter().map(|pruner| format!("{} runs '{}'", pruner.place, pruner.command)).collect();
            format!("{}; disable it: it evicts the image cache", found.join(", "))
        }
    }
}

fn ledger(noted: Option<Duration>) -> String {
    let hint = "images hardly age meanwhile; see systemctl status ci-docker-prune-record.timer";
    match noted {
        None => format!("image usage was never recorded; {hint}"),
        Some(since) if since < MAX_RECORD_AGE => format!("image usage was recorded {} ago", age(since)),
        Some(since) => format!("image usage was not recorded for {}; {hint}", age(since)),
    }
}

fn units(units: &OwnUnits) -> String {
    let (timer, runs, own, failed, version) = match units {
        OwnUnits::NoSystemd => return "this host was not booted with systemd".into(),
        OwnUnits::Unavailable(why) => return format!("systemd does not answer: {why}; try systemctl status"),
        OwnUnits::Seen { timer, runs, own, failed, version } => (timer, runs, own, failed, version),
    };
    let version = format!("version {version}");
    match (timer, runs) {
        (Timer::Missing, _) => {
            "no ci-docker-prune.timer; enable services.ci-docker-prune, or install the unit files (docs/install.md)"
                .into()
        }
        (Timer::Disabled, _) => {
            "ci-docker-prune.timer is disabled; systemctl enable --now ci-docker-prune.timer".into()
        }
        (Timer::Inactive, _) => {
            "ci-docker-prune.timer is not active; systemctl start ci-docker-prune.timer".into()
        }
        (Timer::NotEnabled, _) => {
            "ci-docker-prune.timer is active, and will not be after a reboot; systemctl enable ci-docker-prune.timer"
                .into()
        }
        (Timer::Active(_), None) => "ci-docker-prune.service is not there; systemctl daemon-reload".into(),
        (Timer::Active(_), Some(runs)) if runs != own => format!(
            "the service runs {}, and this is {} ({version}); install the same one for both",
            runs.display(),
            own.display()
        ),
        (Timer::Active(_), Some(_)) if *failed => {
            format!("the last prune failed (journalctl -u ci-docker-prune); {version}")
        }
        (Timer::Active(next), Some(runs)) => {
            let next = if next.is_empty() { String::new() } else { format!(", next at {next}") };
            format!("the timer is active{next}; the service runs {}, {version}", runs.display())
        }
    }
}

fn redeploy(redeploy: &Redeploy) -> String {
    match redeploy {
        Redeploy::Interrupted => "interrupted; its service is removed".into(),
        Redeploy::Failed(why) => format!("{why}; nothing was proved"),
        Redeploy::Proved { cold, warm, planned } => {
            let verdict = if cold.image != warm.image {
                format!(
                    "the tag moved meanwhile to {}, which was pulled anew as it should be; try again",
                    warm.image
                )
            } else if *planned {
                "a prune in between would have removed the image (see --cache-age and --dry-run -v)".into()
            } else if warm.layers > 0 {
                "the layers of the first deploy were not there any more: something else removes images".into()
            } else {
                "the second deploy downloaded nothing, and a prune in between keeps the image".into()
            };
            let note = if cold.layers == 0 { "; it was there before the first: not really cold" } else { "" };
            format!("{verdict}{note}; cold/warm {:.1}", ratio(cold, warm))
        }
    }
}
