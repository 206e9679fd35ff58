//! The command line, the configuration file and the environment become validated settings. No other module but `cli` uses clap.

mod file;

use std::collections::HashSet;
use std::env;
use std::ffi::OsString;
use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{ArgMatches, FromArgMatches};
use clap_complete::Shell;
use log::LevelFilter;

use crate::cli::{self, Cli, GateName, Output};
use crate::gates::{disk, runs};
use crate::plan;
use crate::units::{Percent, duration};
use file::ConfigFile;

/// Everything that was asked for, validated.
#[derive(Debug)]
pub struct Settings {
    /// Which engine, and how long to wait for it.
    pub engine: EngineSettings,
    /// Text or JSON on stdout.
    pub output: Output,
    /// List everything that stays.
    pub verbose: bool,
    /// The least severe level that is logged on stderr.
    pub log: LevelFilter,
    /// What to do.
    pub command: Command,
}

/// How to reach the engine, and how long to wait for it.
#[derive(Debug)]
pub struct EngineSettings {
    /// The engine to prune.
    pub host: HostUrl,
    /// The manager to ask about services, where it is another engine.
    pub swarm_host: Option<HostUrl>,
    /// Timeout for one request.
    pub timeout: Duration,
    /// Timeout for one removal, while the engine answers other requests.
    pub removal_timeout: Duration,
}

/// What to do, with the settings that matter to it.
#[derive(Debug)]
pub enum Command {
    /// Prune, or show what a prune would do.
    Prune(Box<PruneSettings>),
    /// These gates, or all.
    CheckGates {
        /// Empty: all.
        gates: Vec<GateName>,
        /// For `disk`.
        disk: DiskSettings,
        /// For `runs`.
        runs: RunsSettings,
        /// Where the ledger is, in which usage is recorded.
        state_dir: PathBuf,
    },
    /// Evaluate `disk`.
    Disk(DiskSettings),
    /// Evaluate `runs`.
    Runs(RunsSettings),
    /// Evaluate `converge`.
    Converge,
    /// Record image usage, and prune where that is due.
    Record(Box<RecordSettings>),
    /// Why objects would be removed or kept.
    Explain {
        /// IDs and names, as they were typed.
        objects: Vec<String>,
        /// The prune that it is about.
        prune: Box<PruneSettings>,
    },
    /// What is known about the disk, the last prune and the next.
    Status {
        /// For the gate `disk`.
        disk: DiskSettings,
        /// Where the ledger is.
        state_dir: PathBuf,
        /// Where inhibitors register.
        runtime_dir: PathBuf,
    },
    /// Block prunes while a command runs.
    Inhibit {
        /// The reason that `runs` shows.
        why: Option<String>,
        /// The command and its arguments.
        command: Vec<OsString>,
        /// Where the ledger is, in which usage is recorded at the end.
        state_dir: PathBuf,
        /// Where inhibitors register.
        runtime_dir: PathBuf,
    },
    /// List the inhibitors that are active.
    ListInhibitors {
        /// Where inhibitors register.
        runtime_dir: PathBuf,
    },
    /// Check what a prune on this host needs, and what works against it.
    Verify(Box<VerifySettings>),
    /// The file that was read, if there is one, and how many keys it sets: it is valid.
    CheckConfig {
        /// The file that was read; `None` where there is none.
        path: Option<PathBuf>,
        /// How many keys it sets.
        keys: usize,
    },
    /// Print a file with every key and its default.
    ExampleConfig,
    /// Print completions for this shell.
    Completions(Shell),
    /// Print the man page.
    Man,
}

/// What the gate `runs` goes by.
#[derive(Debug)]
pub struct RunsSettings {
    /// What counts as a CI run.
    pub policy: runs::RunPolicy,
    /// Where inhibitors register.
    pub runtime_dir: PathBuf,
}

/// What the gate `disk` goes by.
#[derive(Debug)]
pub struct DiskSettings {
    /// Empty: where the engine keeps its data.
    pub paths: Vec<PathBuf>,
    /// Pressure.
    pub limit: disk::Limit,
}

/// What a prune goes by.
#[derive(Debug)]
pub struct PruneSettings {
    /// Only show what would be removed.
    pub dry_run: bool,
    /// For the gate `disk`.
    pub disk: DiskSettings,
    /// For the gate `runs`.
    pub runs: RunsSettings,
    /// What may be removed, and when.
    pub policy: plan::Policy,
    /// Where the ledger is.
    pub state_dir: PathBuf,
    /// Where metrics are written, if anywhere (node_exporter's textfile collector).
    pub metrics_file: Option<PathBuf>,
}

/// What `record` goes by.
#[derive(Debug)]
pub struct RecordSettings {
    /// Prune at this usage, or when a prune is owed.
    pub prune_at: Option<Percent>,
    /// The prune that may be due.
    pub prune: PruneSettings,
}

/// What `verify` goes by.
#[derive(Debug)]
pub struct VerifySettings {
    /// Registries whose credentials are checked.
    pub registries: Vec<String>,
    /// Ask these registries, and Docker Hub for its pull limit.
    pub online: bool,
    /// Prove with this image that a second deploy downloads nothing.
    pub redeploy: Option<String>,
    /// What stands in for Docker Hub.
    pub docker_hub: Option<String>,
    /// The prune that the plan in between is of.
    pub prune: PruneSettings,
}

/// Where an engine listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HostUrl {
    /// A socket on this host.
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

/// Read the command line, the configuration file and the environment.
///
/// # Errors
/// Wrong usage or configuration, and requests for help or the version: clap's error knows its text, its
/// stream and its exit status.
pub fn read(arguments: impl IntoIterator<Item = OsString>) -> Result<Settings, clap::Error> {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    let matches = cli::command(|option| option).try_get_matches_from(&arguments)?;
    let typed = |matches: &ArgMatches, id: &str| matches.value_source(id) == Some(ValueSource::CommandLine);
    if let Some(option) = typed_at_both_levels(&arguments) {
        let text = format!("--{option} stands before the command and after it; write it in one place");
        return Err(usage(ErrorKind::ArgumentConflict, &text));
    }
    let packager = matches.subcommand_name().filter(|name| ["completions", "man"].contains(name));
    if let Some(name) = packager
        && let Some(option) = matches.ids().find(|id| typed(&matches, id.as_str()))
    {
        let option = option.as_str().replace('_', "-");
        return Err(usage(ErrorKind::UnknownArgument, &format!("{name} takes no --{option}")));
    }
    let example =
        matches.subcommand_matches("check-config").is_some_and(|matches| matches.get_flag("example"));
    let file = if packager.is_some() || example { None } else { config_file(&matches)? };
    let matches = match &file {
        Some(file) => cli::command(|option| file.as_default(option)).try_get_matches_from(&arguments)?,
        None => matches,
    };
    let sources = Sources {
        typed: matches.ids().filter(|id| typed(&matches, id.as_str())).map(ToString::to_string).collect(),
        file: file.unwrap_or_default(),
    };
    settings(Cli::from_arg_matches(&matches)?, &sources)
}

/// An option that stands before the command and after it: clap would keep the latter only.
fn typed_at_both_levels(arguments: &[OsString]) -> Option<String> {
    // Not passed on, so that each level shows its own.
    let own = |command: clap::Command| command.mut_args(|option| option.global(false));
    let command = own(cli::command(|option| option)).mut_subcommands(own);
    let matches = command.try_get_matches_from(arguments).ok()?;
    let (_, below) = matches.subcommand()?;
    let typed = |matches: &ArgMatches, id: &str| {
        matches.try_contains_id(id).is_ok() && matches.value_source(id) == Some(ValueSource::CommandLine)
    };
    let both = matches.ids().find(|id| typed(&matches, id.as_str()) && typed(below, id.as_str()))?;
    Some(both.as_str().replace('_', "-"))
}

/// The configuration file that is named, or the default one where it exists.
fn config_file(matches: &ArgMatches) -> Result<Option<ConfigFile>, clap::Error> {
    let operand = matches.subcommand_matches("check-config").and_then(|matches| matches.get_one("file"));
    let variable = env::var_os(cli::CONFIG_VARIABLE).filter(|path| !path.is_empty()).map(PathBuf::from);
    let named: Option<PathBuf> = operand.or_else(|| matches.get_one("config")).cloned().or(variable);
    let (path, is_named) = named.map_or_else(|| (cli::CONFIG_FILE.into(), false), |path| (path, true));
    let error = |text: String| clap::Error::raw(ErrorKind::ValueValidation, text + "\n");
    match fs::read_to_string(&path) {
        Ok(text) => ConfigFile::parse(&path, &text).map(Some).map_err(error),
        Err(absent) if absent.kind() == io::ErrorKind::NotFound && !is_named => Ok(None),
        Err(why) => Err(error(format!("cannot read the configuration file {}: {why}", path.display()))),
    }
}

/// Where each setting comes from, for errors that name more than one.
struct Sources {
    /// IDs of the options on the command line.
    typed: HashSet<String>,
    file: ConfigFile,
}

impl Sources {
    /// `--disk-target 85`, `disk-target = 85 (/etc/ci-docker-prune.toml:3)` or `--disk-target 70 (default)`.
    fn show(&self, option: &str, value: &impl fmt::Display) -> String {
        match self.file.key(option) {
            _ if self.is_typed(option) => format!("--{option} {value}"),
            Some(key) => format!("{option} = {value} ({}:{})", self.file.path.display(), key.line),
            None => format!("--{option} {value} (default)"),
        }
    }

    fn is_typed(&self, option: &str) -> bool {
        self.typed.contains(&option.replace('-', "_"))
    }

    /// Is the option neither on the command line nor in the file?
    fn is_default(&self, option: &str) -> bool {
        !self.is_typed(option) && self.file.key(option).is_none()
    }
}

fn usage(kind: ErrorKind, text: &str) -> clap::Error {
    cli::command(|option| option).error(kind, text)
}

/// A value that is wrong wherever it comes from.
fn invalid(text: &str) -> clap::Error {
    clap::Error::raw(ErrorKind::ValueValidation, format!("{text}\n"))
}

fn settings(cli: Cli, sources: &Sources) -> Result<Settings, clap::Error> {
    let Cli { options, dry_run, command } = cli;
    if let (Some(_), true) = (&command, dry_run) {
        let text = "--dry-run stands before the command; write it after: prune --dry-run";
        return Err(usage(ErrorKind::ArgumentConflict, text));
    }
    let engine = engine(&options, sources)?;
    // A flag wins over a key of the file.
    let (quiet, verbose) = match (sources.is_typed("quiet"), sources.is_typed("verbose")) {
        (true, true) => {
            return Err(usage(ErrorKind::ArgumentConflict, "--quiet and --verbose exclude each other"));
        }
        (true, false) => (true, 0),
        (false, true) => (false, options.verbose),
        (false, false) => (options.quiet, options.verbose),
    };
    let output = options.output;
    let log = if quiet { LevelFilter::Error } else { level(verbose) };
    let prune_at = options.prune_at;
    let prune = prune(options, sources)?;
    let command = match command {
        None if dry_run => Command::Prune(Box::new(PruneSettings { dry_run, ..prune })),
        None => {
            let help = cli::command(|option| option).max_term_width(100).render_help();
            return Err(clap::Error::raw(
                ErrorKind::MissingSubcommand,
                format!("no command given: name one, or --dry-run to look without removing\n\n{help}"),
            ));
        }
        Some(cli::Command::Prune { dry_run }) => Command::Prune(Box::new(PruneSettings { dry_run, ..prune })),
        Some(cli::Command::CheckGates { gates }) => {
            Command::CheckGates { gates, disk: prune.disk, runs: prune.runs, state_dir: prune.state_dir }
        }
        Some(cli::Command::Disk) => Command::Disk(prune.disk),
        Some(cli::Command::Runs) => Command::Runs(prune.runs),
        Some(cli::Command::Converge) => Command::Converge,
        Some(cli::Command::Record { dry_run }) => {
            Command::Record(Box::new(RecordSettings { prune_at: prune_at.filter(|_| !dry_run), prune }))
        }
        Some(cli::Command::Explain { objects }) => Command::Explain { objects, prune: Box::new(prune) },
        Some(cli::Command::Status) => Command::Status {
            disk: prune.disk,
            state_dir: prune.state_dir,
            runtime_dir: prune.runs.runtime_dir,
        },
        Some(cli::Command::Inhibit(inhibit)) if inhibit.list => {
            Command::ListInhibitors { runtime_dir: prune.runs.runtime_dir }
        }
        Some(cli::Command::Inhibit(inhibit)) => Command::Inhibit {
            why: inhibit.why,
            command: inhibit.command,
            state_dir: prune.state_dir,
            runtime_dir: prune.runs.runtime_dir,
        },
        Some(cli::Command::Verify(verify)) => Command::Verify(Box::new(VerifySettings {
            registries: verify.registry,
            online: verify.online,
            redeploy: verify.redeploy,
            docker_hub: verify.docker_hub,
            prune: PruneSettings { dry_run: true, ..prune },
        })),
        Some(cli::Command::CheckConfig { example: true, .. }) => Command::ExampleConfig,
        Some(cli::Command::CheckConfig { .. }) => {
            let path = Some(&sources.file.path).filter(|path| !path.as_os_str().is_empty());
            Command::CheckConfig { path: path.cloned(), keys: sources.file.keys.len() }
        }
        Some(cli::Command::Completions { shell }) => Command::Completions(shell),
        Some(cli::Command::Man) => Command::Man,
    };
    Ok(Settings { output, verbose: verbose > 0, log, engine, command })
}

fn level(verbose: u8) -> LevelFilter {
    match verbose {
        0 => LevelFilter::Warn,
        1 => LevelFilter::Info,
        2 => LevelFilter::Debug,
        _ => LevelFilter::Trace,
    }
}

fn engine(options: &cli::Options, sources: &Sources) -> Result<EngineSettings, clap::Error> {
    // As the docker CLI has it: any text but an empty one.
    let tls = env::var("DOCKER_TLS_VERIFY").is_ok_and(|value| !value.is_empty());
    let certificates = || {
        let named = env::var_os("DOCKER_CERT_PATH").filter(|path| !path.is_empty()).map(PathBuf::from);
        named.unwrap_or_else(|| env::home_dir().unwrap_or_default().join(".docker"))
    };
    let parse = |source: String, text: &str| match HostUrl::parse(text) {
        Ok(HostUrl::Tcp(address)) if tls => Ok(HostUrl::Tls(address, certificates())),
        Ok(host) => Ok(host),
        Err(why) => Err(invalid(&format!("invalid value in {source}: {why}"))),
    };
    let docker_host = env::var("DOCKER_HOST").ok().filter(|host| !host.is_empty());
    let host = match (&options.host, docker_host) {
        (Some(host), _) => parse(sources.show("host", host), host)?,
        (None, Some(host)) => parse(format!("the environment variable DOCKER_HOST={host}"), &host)?,
        (None, None) => HostUrl::Unix("/var/run/docker.sock".into()),
    };
    let swarm_host = match &options.swarm_host {
        Some(text) => Some(parse(sources.show("swarm-host", text), text)?).filter(|manager| *manager != host),
        None => None,
    };
    let timeout = options.timeout;
    let shown = sources.show("timeout", &duration(timeout));
    if timeout.is_zero() {
        return Err(invalid(&format!(
            "invalid value in {shown}: the engine needs some time to answer, such as 30s"
        )));
    }
    // The default gives way to a longer --timeout.
    let is_default = sources.is_default("removal-timeout");
    let removal_timeout =
        if is_default { options.removal_timeout.max(timeout) } else { options.removal_timeout };
    if removal_timeout < timeout {
        let removal = sources.show("removal-timeout", &duration(removal_timeout));
        return Err(invalid(&format!("{removal} must not be less than {shown}")));
    }
    Ok(EngineSettings { host, swarm_host, timeout, removal_timeout })
}

fn prune(options: cli::Options, sources: &Sources) -> Result<PruneSettings, clap::Error> {
    let (threshold, critical) = (options.disk_threshold, options.disk_critical);
    let target = match options.disk_target {
        // The default follows a threshold that is set below it.
        default if sources.is_default("disk-target") => default.min(threshold),
        target => target,
    };
    let rising = [("disk-target", target), ("disk-threshold", threshold), ("disk-critical", critical)];
    for pair in rising.windows(2) {
        if let [(lower, low), (higher, high)] = pair
            && low > high
        {
            let (low, high) = (sources.show(lower, &low.get()), sources.show(higher, &high.get()));
            return Err(invalid(&format!("{low} must not exceed {high}")));
        }
    }
    let limit = disk::Limit { percent: threshold, min_free: options.disk_min_free };
    let runtime_dir = directory(options.runtime_dir, "RUNTIME_DIRECTORY", "/run/ci-docker-prune");
    Ok(PruneSettings {
        dry_run: false,
        disk: DiskSettings { paths: options.disk_path, limit },
        runs: RunsSettings { policy: runs::RunPolicy { pattern: options.run_pattern.clone() }, runtime_dir },
        policy: plan::Policy {
            older_than: options.older_than,
            cache_age: options.cache_age,
            critical_age: options.critical_age,
            // Where space is short, all but the last rung is used whatever the percentage.
            target: disk::Limit { percent: target, min_free: limit.min_free },
            threshold: limit,
            critical: disk::Limit { percent: critical, min_free: None },
            keep_labels: options.keep_label,
            evict_tagged: options.evict_tagged,
            runs: options.run_pattern,
        },
        state_dir: directory(options.state_dir, "STATE_DIRECTORY", "/var/lib/ci-docker-prune"),
        metrics_file: options.metrics_file,
    })
}

/// What was typed, else the first directory of systemd's variable (it separates several by colons),
/// else the default.
fn directory(typed: Option<PathBuf>, variable: &str, default: &str) -> PathBuf {
    let from_systemd = || env::split_paths(&env::var_os(variable)?).find(|path| !path.as_os_str().is_empty());
    typed.or_else(from_systemd).unwrap_or_else(|| default.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        cli::command(|option| option).debug_assert();
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
