//! What was typed and what the environment says become validated settings; clap ends here.

use std::env;
use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{CommandFactory, FromArgMatches};
use clap_complete::Shell;
use log::LevelFilter;

use crate::cli::{self, Cli, Output};
use crate::gates::{disk, runs};
use crate::plan;
use crate::units::{Percent, parse_duration};

#[derive(Debug)]
pub struct Settings {
    pub engine: Engine,
    pub output: Output,
    /// List everything that stays.
    pub verbose: bool,
    pub log: LevelFilter,
    pub command: Command,
}

#[derive(Debug)]
pub struct Engine {
    pub host: HostUrl,
    /// The manager to ask about services, where it is another engine.
    pub swarm_host: Option<HostUrl>,
    /// Longest wait for an answer.
    pub timeout: Duration,
    /// Longest wait for a removal.
    pub removal_timeout: Duration,
}

#[derive(Debug)]
pub enum Command {
    Prune(Box<Prune>),
    CheckGates { disk: Disk, runs: Runs, state_dir: PathBuf },
    Disk(Disk),
    Runs(Runs),
    Converge,
    Record(Box<Record>),
    Status { disk: Disk, state_dir: PathBuf, runtime_dir: PathBuf },
    Inhibit { why: Option<String>, command: Vec<OsString>, state_dir: PathBuf, runtime_dir: PathBuf },
    Verify(Box<Verify>),
    Completions(Shell),
    Man,
}

#[derive(Debug)]
pub struct Runs {
    pub policy: runs::Policy,
    /// Where inhibitors register.
    pub runtime_dir: PathBuf,
}

#[derive(Debug)]
pub struct Disk {
    /// Empty: where the engine keeps its data.
    pub paths: Vec<PathBuf>,
    /// Pressure.
    pub limit: disk::Limit,
}

#[derive(Debug)]
pub struct Prune {
    pub dry_run: bool,
    pub disk: Disk,
    pub runs: Runs,
    pub policy: plan::Policy,
    pub state_dir: PathBuf,
    pub metrics_file: Option<PathBuf>,
}

#[derive(Debug)]
pub struct Record {
    /// Prune at this usage, or when a prune is owed.
    pub prune_at: Option<Percent>,
    /// The prune that may be due.
    pub prune: Prune,
}

#[derive(Debug)]
pub struct Verify {
    pub registries: Vec<String>,
    pub online: bool,
    pub redeploy: Option<String>,
    /// The prune that the plan in between is of.
    pub prune: Prune,
}

/// Where an engine listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HostUrl {
    Unix(PathBuf),
    /// `HOST:PORT`, plain HTTP.
    Tcp(String),
    /// `HOST:PORT`, and the folder of `ca.pem`, `cert.pem` and `key.pem`.
    Tls(String, PathBuf),
}

impl fmt::Display for HostUrl {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
            Self::Tcp(address) | Self::Tls(address, _) => write!(f, "tcp://{address}"),
        }
    }
}

impl HostUrl {
    /// The socket of an engine on this host.
    pub fn socket(&self) -> Option<&Path> {
        match self {
            Self::Unix(path) => Some(path),
            Self::Tcp(_) | Self::Tls(..) => None,
        }
    }

    fn parse(text: &str) -> Result<Self, String> {
        let hint = "expected unix:///PATH or tcp://HOST:PORT";
        match text.split_once("://") {
            Some(("unix", path)) if path.starts_with('/') => Ok(Self::Unix(path.into())),
            Some(("https", _)) => {
                Err(format!("{hint}; for TLS set DOCKER_TLS_VERIFY=1 and DOCKER_CERT_PATH"))
            }
            Some(("tcp" | "http", address)) => {
                let address = address.trim_end_matches('/');
                match address.rsplit_once(':') {
                    Some((host, port)) if !host.is_empty() && port.parse::<u16>().is_ok() => {
                        Ok(Self::Tcp(address.into()))
                    }
                    _ => Err(hint.into()),
                }
            }
            Some(("ssh", _)) => Err(format!(
                "{hint}; for ssh, forward the remote socket (ssh -L ./docker.sock:/var/run/docker.sock), and name --disk-path"
            )),
            _ => Err(hint.into()),
        }
    }
}

/// Read the command line and the environment.
///
/// # Errors
/// Wrong usage, and requests for help or the version: clap's error knows its text, its stream and
/// its exit status.
pub fn read(arguments: impl IntoIterator<Item = OsString>) -> Result<Settings, clap::Error> {
    let matches = Cli::command().try_get_matches_from(arguments)?;
    let misplaced = matches.subcommand_name().and_then(|command| {
        let typed = matches.ids().find(|id| {
            let typed = matches.value_source(id.as_str()) == Some(ValueSource::CommandLine);
            typed && Cli::command().get_arguments().any(|it| it.get_id() == *id && !it.is_global_set())
        })?;
        Some((command.to_owned(), typed.as_str().replace('_', "-")))
    });
    if let Some((command, option)) = misplaced {
        let text = format!("--{option} stands before the command; write it after: {command} --{option}");
        return Err(usage(ErrorKind::ArgumentConflict, &text));
    }
    let cli = Cli::from_arg_matches(&matches)?;
    settings(cli)
}

fn usage(kind: ErrorKind, text: &str) -> clap::Error {
    Cli::command().error(kind, text)
}

fn settings(cli: Cli) -> Result<Settings, clap::Error> {
    let Cli { common, prune, command } = cli;
    let command = match command {
        None if prune.dry_run => Command::Prune(Box::new(check(prune)?)),
        None => {
            let help = Cli::command().max_term_width(100).render_help();
            return Err(clap::Error::raw(
                ErrorKind::MissingSubcommand,
                format!("no command given: name one, or --dry-run to look without removing\n\n{help}"),
            ));
        }
        Some(cli::Command::Prune(prune)) => Command::Prune(Box::new(check(prune)?)),
        Some(cli::Command::CheckGates { disk, runs: pattern, state, runtime }) => Command::CheckGates {
            disk: disk.into(),
            runs: runs(pattern, runtime),
            state_dir: state_dir(state),
        },
        Some(cli::Command::Disk(disk)) => Command::Disk(disk.into()),
        Some(cli::Command::Runs { runs: pattern, runtime }) => Command::Runs(runs(pattern, runtime)),
        Some(cli::Command::Converge) => Command::Converge,
        Some(cli::Command::Record(cli::Record { prune_at, dry_run, policy, metrics_file })) => {
            let prune_at = prune_at.filter(|_| !dry_run);
            let prune = check(cli::Prune { dry_run: false, policy, metrics_file })?;
            Command::Record(Box::new(Record { prune_at, prune }))
        }
        Some(cli::Command::Status { disk, state, runtime }) => {
            let (state_dir, runtime_dir) = (state_dir(state), runtime_dir(runtime));
            Command::Status { disk: disk.into(), state_dir, runtime_dir }
        }
        Some(cli::Command::Inhibit(inhibit)) => Command::Inhibit {
            why: inhibit.why,
            command: inhibit.command,
            state_dir: state_dir(inhibit.state),
            runtime_dir: runtime_dir(inhibit.runtime),
        },
        Some(cli::Command::Verify(verify)) => Command::Verify(Box::new(Verify {
            registries: verify.registry,
            online: verify.online,
            redeploy: verify.redeploy,
            prune: check(cli::Prune { dry_run: true, policy: verify.policy, metrics_file: None })?,
        })),
        Some(cli::Command::Completions { shell }) => Command::Completions(shell),
        Some(cli::Command::Man) => Command::Man,
    };
    Ok(Settings {
        output: common.output,
        verbose: common.verbose > 0,
        log: match (common.quiet, common.verbose) {
            (true, _) => LevelFilter::Error,
            (_, 0) => LevelFilter::Warn,
            (_, 1) => LevelFilter::Info,
            (_, 2) => LevelFilter::Debug,
            (_, _) => LevelFilter::Trace,
        },
        engine: engine(&common)?,
        command,
    })
}

fn engine(common: &cli::Common) -> Result<Engine, clap::Error> {
    let parse = |option: &str, text: &str| {
        HostUrl::parse(text).map_err(|why| {
            usage(ErrorKind::ValueValidation, &format!("invalid value '{text}' for {option}: {why}"))
        })
    };
    // As the docker CLI has it: any text but an empty one.
    let tls = env::var("DOCKER_TLS_VERIFY").is_ok_and(|it| !it.is_empty());
    let certificates = || {
        let named = env::var_os("DOCKER_CERT_PATH").filter(|it| !it.is_empty()).map(PathBuf::from);
        named.unwrap_or_else(|| env::home_dir().unwrap_or_default().join(".docker"))
    };
    let parse = |option: &str, text: &str| -> Result<HostUrl, clap::Error> {
        Ok(match parse(option, text)? {
            HostUrl::Tcp(address) if tls => HostUrl::Tls(address, certificates()),
            host => host,
        })
    };
    let docker_host = env::var("DOCKER_HOST").ok().filter(|host| !host.is_empty());
    let host = match (&common.host, docker_host) {
        (Some(host), _) => parse("'--host <URL>'", host)?,
        (None, Some(host)) => parse("the environment variable DOCKER_HOST", &host)?,
        (None, None) => HostUrl::Unix("/var/run/docker.sock".into()),
    };
    let swarm_host = match &common.swarm_host {
        Some(text) => Some(parse("'--swarm-host <URL>'", text)?).filter(|manager| *manager != host),
        None => None,
    };
    if common.timeout.is_zero() {
        let text = "invalid value for '--timeout <DUR>': the engine needs some time to answer, such as 30s";
        return Err(usage(ErrorKind::ValueValidation, text));
    }
    // The default gives way to a longer --timeout.
    let is_default = parse_duration(cli::REMOVAL_TIMEOUT).is_ok_and(|it| it == common.removal_timeout);
    let removal_timeout =
        if is_default { common.removal_timeout.max(common.timeout) } else { common.removal_timeout };
    if removal_timeout < common.timeout {
        let text = format!(
            "invalid value '{}' for '--removal-timeout <DUR>': it must not be less than --timeout {}",
            humantime::format_duration(common.removal_timeout),
            humantime::format_duration(common.timeout)
        );
        return Err(usage(ErrorKind::ValueValidation, &text));
    }
    Ok(Engine { host, swarm_host, timeout: common.timeout, removal_timeout })
}

fn check(prune: cli::Prune) -> Result<Prune, clap::Error> {
    let cli::Prune { dry_run, policy, metrics_file } = prune;
    let cli::Policy { disk_target: target, disk_critical: critical, .. } = policy;
    let disk = Disk::from(policy.disk);
    let disk::Limit { percent: threshold, min_free } = disk.limit;
    if !(target <= threshold && threshold <= critical) {
        let text = format!(
            "--disk-target {} must not exceed --disk-threshold {}, nor --disk-threshold --disk-critical {}",
            target.get(),
            threshold.get(),
            critical.get()
        );
        return Err(usage(ErrorKind::ValueValidation, &text));
    }
    Ok(Prune {
        dry_run,
        runs: runs(policy.runs, policy.runtime),
        policy: plan::Policy {
            older_than: policy.older_than,
            cache_age: policy.cache_age,
            critical_age: policy.critical_age,
            // Where space is short, all but the last rung is used whatever the percentage.
            target: disk::Limit { percent: target, min_free },
            threshold: disk.limit,
            critical: disk::Limit { percent: critical, min_free: None },
            keep_labels: policy.keep_label,
            evict_tagged: policy.evict_tagged,
        },
        disk,
        state_dir: state_dir(policy.state),
        metrics_file,
    })
}

impl From<cli::Disk> for Disk {
    fn from(disk: cli::Disk) -> Self {
        let limit = disk::Limit { percent: disk.disk_threshold, min_free: disk.disk_min_free };
        Self { paths: disk.disk_path, limit }
    }
}

fn runs(runs: cli::RunArgs, runtime: cli::Runtime) -> Runs {
    Runs { policy: runs::Policy { pattern: runs.run_pattern }, runtime_dir: runtime_dir(runtime) }
}

fn runtime_dir(runtime: cli::Runtime) -> PathBuf {
    directory(runtime.runtime_dir, "RUNTIME_DIRECTORY", "/run/ci-docker-prune")
}

fn state_dir(state: cli::State) -> PathBuf {
    directory(state.state_dir, "STATE_DIRECTORY", "/var/lib/ci-docker-prune")
}

/// What was typed, else the first directory of systemd's variable (it separates several by colons),
/// else the default.
fn directory(typed: Option<PathBuf>, variable: &str, default: &str) -> PathBuf {
    let from_systemd = || env::split_paths(&env::var_os(variable)?).find(|it| !it.as_os_str().is_empty());
    typed.or_else(from_systemd).unwrap_or_else(|| default.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    proptest::proptest! {
        #[test]
        fn no_text_makes_the_host_parser_panic(text in "(unix|tcp|http|ssh|)(://)?.{0,30}") {
            if let Ok(host) = HostUrl::parse(&text) {
                // What it shows is the same host.
                proptest::prop_assert_eq!(HostUrl::parse(&host.to_string()), Ok(host));
            }
            let _ = text.parse::<plan::KeepLabel>();
        }
    }

    #[test]
    fn host_urls() {
        let unix = |path: &str| Ok(HostUrl::Unix(path.into()));
        let tcp = |address: &str| Ok(HostUrl::Tcp(address.into()));
        let table = [
            ("unix:///var/run/docker.sock", unix("/var/run/docker.sock")),
            ("tcp://127.0.0.1:2375", tcp("127.0.0.1:2375")),
            ("tcp://[::1]:2375/", tcp("[::1]:2375")),
            ("http://manager:2375", tcp("manager:2375")),
        ];
        for (text, expected) in table {
            assert_eq!(HostUrl::parse(text), expected, "{text}");
        }
        for text in [
            "",
            "/var/run/docker.sock",
            "unix://docker.sock",
            "tcp://host",
            "tcp://:1",
            "ssh://host",
            "npipe:////./pipe/x",
            "https://host:2376",
        ] {
            assert!(HostUrl::parse(text).unwrap_err().contains("unix:///PATH"), "{text}");
        }
    }
}
