//! The command line, the configuration file and the environment become validated settings. No other module but `cli` and
//! `config_file` uses clap.

use std::collections::HashSet;
use std::env;
use std::ffi::OsString;
use std::fmt;
use std::fs;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{ArgMatches, FromArgMatches};
use clap_complete::Shell;
use log::LevelFilter;
use regex::Regex;

use crate::cli::{self, Ci, Cli, DuringRuns, GateName, Output};
use crate::config_file::ConfigFile;
use crate::engine::{EngineSettings, HostUrl};
use crate::facts::Limit;
use crate::gates;
use crate::plan;
use crate::prune::PrunePolicy;
use crate::units::{Percent, duration};

#[derive(Debug)]
pub struct Settings {
    pub command: Command,
    pub output: Output,
    pub verbose: bool,
    /// Print no report of a prune that succeeds.
    pub quiet: bool,
    pub log: LevelFilter,
    pub engine: EngineSettings,
    pub policy: PrunePolicy,
    /// `record` prunes at this usage, or when a prune is owed.
    pub prune_at: Option<Percent>,
    /// How long `prune`, `record` and `check-gates` wait for `runs` and `converge`.
    pub wait: Duration,
    /// How long `inhibit` lets prunes go first.
    pub prune_wait: Duration,
    pub state_dir: PathBuf,
    pub runtime_dir: PathBuf,
    pub metrics_file: Option<PathBuf>,
    /// A systemd unit, or a user.
    pub started_by: String,
}

#[derive(Debug)]
pub enum Command {
    Prune {
        dry_run: bool,
    },
    Gates {
        /// Empty: all.
        names: Vec<GateName>,
        record: bool,
    },
    Record,
    Explain {
        objects: Vec<String>,
    },
    Status,
    Log {
        since: Option<Duration>,
        query: Option<String>,
    },
    Inhibit {
        why: Option<String>,
        /// Bytes that must be available before it begins.
        min_free: Option<u64>,
        command: Vec<OsString>,
    },
    ListInhibitors,
    Verify(cli::Verify),
    /// A valid file, if there is one, and the number of its keys.
    CheckConfig {
        path: Option<PathBuf>,
        keys: usize,
    },
    ExampleConfig,
    Completions(Shell),
    Man,
}

/// Read the command line, the configuration file and the environment.
///
/// # Errors
/// Wrong usage or configuration; requests for help or the version too, as clap does it.
pub fn read(arguments: impl IntoIterator<Item = OsString>) -> Result<Settings, clap::Error> {
    read_in(arguments, &|variable| env::var_os(variable))
}

type Environment<'a> = &'a dyn Fn(&str) -> Option<OsString>;

fn read_in(
    arguments: impl IntoIterator<Item = OsString>,
    environment: Environment,
) -> Result<Settings, clap::Error> {
    let mut arguments: Vec<OsString> = arguments.into_iter().collect();
    let matches = cli::command(|option| option).try_get_matches_from(&arguments)?;
    if matches.subcommand_name().is_some() && matches.get_flag("dry_run") {
        let text = "--dry-run is before the command; write it after: prune --dry-run";
        return Err(usage(ErrorKind::ArgumentConflict, text));
    }
    let typed = |matches: &ArgMatches, id: &str| matches.value_source(id) == Some(ValueSource::CommandLine);
    let packager = matches.subcommand_name().filter(|name| ["completions", "man"].contains(name));
    if let Some(name) = packager
        && let Some(option) = matches.ids().find(|id| typed(&matches, id.as_str()))
    {
        let option = option.as_str().replace('_', "-");
        return Err(usage(ErrorKind::UnknownArgument, &format!("{name} takes no --{option}")));
    }
    let example =
        matches.subcommand_matches("check-config").is_some_and(|matches| matches.get_flag("example"));
    let file = if packager.is_some() || example { None } else { config_file(&matches, environment)? };
    if let Some(name) = matches.subcommand_name() {
        command_first(&mut arguments, name);
    }
    let command = cli::command(|option| match &file {
        Some(file) => file.as_default(option),
        None => option,
    });
    let matches = command.try_get_matches_from(&arguments)?;
    let sources = Sources {
        typed: matches.ids().filter(|id| typed(&matches, id.as_str())).map(ToString::to_string).collect(),
        file: file.unwrap_or_default(),
        environment,
    };
    settings(Cli::from_arg_matches(&matches)?, &sources)
}

/// Move the options before the command behind it: of an option in both places clap would see only the one behind.
/// Then the last one counts, and repeatable ones add up.
fn command_first(arguments: &mut [OsString], name: &str) {
    let mut after_program = arguments.iter().enumerate().skip(1);
    if let Some((at, _)) = after_program.find(|(_, argument)| *argument == name) {
        arguments[1..=at].rotate_right(1);
    }
}

/// The configuration file that is named, or the default one where it exists.
fn config_file(matches: &ArgMatches, environment: Environment) -> Result<Option<ConfigFile>, clap::Error> {
    let operand = matches.subcommand_matches("check-config").and_then(|matches| matches.get_one("file"));
    let variable = || environment(cli::CONFIG_VARIABLE).filter(|path| !path.is_empty()).map(PathBuf::from);
    let named: Option<PathBuf> = operand.or_else(|| matches.get_one("config")).cloned().or_else(variable);
    let (path, is_named) = named.map_or_else(|| (cli::CONFIG_FILE.into(), false), |path| (path, true));
    let error = |text: String| clap::Error::raw(ErrorKind::ValueValidation, text + "\n");
    match fs::read_to_string(&path) {
        Ok(text) => ConfigFile::parse(&path, &text).map(Some).map_err(error),
        Err(absent) if absent.kind() == io::ErrorKind::NotFound && !is_named => Ok(None),
        Err(why) => Err(error(format!("cannot read the configuration file {}: {why}", path.display()))),
    }
}

/// Where each setting comes from, for errors that name more than one.
struct Sources<'a> {
    typed: HashSet<String>,
    file: ConfigFile,
    environment: Environment<'a>,
}

impl Sources<'_> {
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

    fn is_default(&self, option: &str) -> bool {
        !self.is_typed(option) && self.file.key(option).is_none()
    }

    /// The value of an environment variable; an empty one counts as unset.
    fn variable(&self, name: &str) -> Option<OsString> {
        (self.environment)(name).filter(|value| !value.is_empty())
    }

    /// What was typed, else the first directory of systemd's variable (it separates several by colons),
    /// else the default.
    fn directory(&self, typed: &Option<PathBuf>, variable: &str, default: &str) -> PathBuf {
        let from_systemd =
            || env::split_paths(&self.variable(variable)?).find(|path| !path.as_os_str().is_empty());
        typed.clone().or_else(from_systemd).unwrap_or_else(|| default.into())
    }
}

fn usage(kind: ErrorKind, text: &str) -> clap::Error {
    cli::command(|option| option).error(kind, text)
}

fn invalid(text: &str) -> clap::Error {
    clap::Error::raw(ErrorKind::ValueValidation, format!("{text}\n"))
}

fn settings(cli: Cli, sources: &Sources) -> Result<Settings, clap::Error> {
    let Cli { options, dry_run, command } = cli;
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
    let gate = |name| Command::Gates { names: vec![name], record: false };
    let command = match command {
        None if dry_run => Command::Prune { dry_run },
        None => {
            let help = cli::command(|option| option).max_term_width(100).render_help();
            return Err(clap::Error::raw(
                ErrorKind::MissingSubcommand,
                format!("no command given: name one, or --dry-run to look without removing\n\n{help}"),
            ));
        }
        Some(cli::Command::Prune { dry_run }) => Command::Prune { dry_run },
        Some(cli::Command::CheckGates { gates: names }) => Command::Gates { names, record: true },
        Some(cli::Command::Disk) => gate(GateName::Disk),
        Some(cli::Command::Runs) => gate(GateName::Runs),
        Some(cli::Command::Converge) => gate(GateName::Converge),
        Some(cli::Command::Record) => Command::Record,
        Some(cli::Command::Explain { objects }) => Command::Explain { objects },
        Some(cli::Command::Status) => Command::Status,
        Some(cli::Command::Log { since, object }) => Command::Log { since, query: object },
        Some(cli::Command::Inhibit(inhibit)) if inhibit.list => Command::ListInhibitors,
        Some(cli::Command::Inhibit(cli::Inhibit { why, min_free, command, .. })) => {
            Command::Inhibit { why, min_free, command }
        }
        Some(cli::Command::Verify(verify)) => Command::Verify(verify),
        Some(cli::Command::CheckConfig { example: true, .. }) => Command::ExampleConfig,
        Some(cli::Command::CheckConfig { .. }) => {
            let path = Some(&sources.file.path).filter(|path| !path.as_os_str().is_empty());
            Command::CheckConfig { path: path.cloned(), keys: sources.file.keys.len() }
        }
        Some(cli::Command::Completions { shell }) => Command::Completions(shell),
        Some(cli::Command::Man) => Command::Man,
    };
    let directory = |typed: &Option<PathBuf>, variable, default| sources.directory(typed, variable, default);
    Ok(Settings {
        command,
        output: options.output,
        verbose: verbose > 0,
        quiet,
        log: if quiet { LevelFilter::Error } else { level(verbose) },
        engine,
        prune_at: options.prune_at,
        wait: options.wait,
        prune_wait: options.prune_wait,
        state_dir: directory(&options.state_dir, "STATE_DIRECTORY", "/var/lib/ci-docker-prune"),
        runtime_dir: directory(&options.runtime_dir, "RUNTIME_DIRECTORY", "/run/ci-docker-prune"),
        metrics_file: options.metrics_file.clone(),
        started_by: started_by(sources),
        policy: policy(options, sources)?,
    })
}

/// systemd (from version 252 on) names the timer or path that started a unit.
fn started_by(sources: &Sources) -> String {
    let variable = |name: &str| sources.variable(name).map(|value| value.to_string_lossy().into_owned());
    let by_systemd = || variable("INVOCATION_ID").and(variable("JOURNAL_STREAM")).map(|_| "systemd".into());
    let user = || variable("SUDO_USER").or_else(|| variable("USER"));
    variable("TRIGGER_UNIT").or_else(by_systemd).or_else(user).unwrap_or_else(|| "by hand".into())
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
    let tls = sources.variable("DOCKER_TLS_VERIFY").is_some();
    let certificates = || {
        let named = sources.variable("DOCKER_CERT_PATH").map(PathBuf::from);
        named.unwrap_or_else(|| env::home_dir().unwrap_or_default().join(".docker"))
    };
    let parse = |source: String, text: &str| match HostUrl::parse(text) {
        Ok(HostUrl::Tcp(address)) if tls => Ok(HostUrl::Tls(address, certificates())),
        Ok(host) => Ok(host),
        Err(why) => Err(invalid(&format!("invalid value in {source}: {why}"))),
    };
    let docker_host = sources.variable("DOCKER_HOST").and_then(|host| host.into_string().ok());
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
    // The default is raised to a longer --timeout.
    let is_default = sources.is_default("removal-timeout");
    let removal_timeout =
        if is_default { options.removal_timeout.max(timeout) } else { options.removal_timeout };
    if removal_timeout < timeout {
        let removal = sources.show("removal-timeout", &duration(removal_timeout));
        return Err(invalid(&format!("{removal} must not be less than {shown}")));
    }
    Ok(EngineSettings { host, swarm_host, timeout, removal_timeout })
}

/// Evictions make some room for what comes next; percentage points below the threshold, and below critical.
const ROOM: u8 = 5;

fn policy(options: cli::Options, sources: &Sources) -> Result<PrunePolicy, clap::Error> {
    let threshold = options.disk_threshold;
    let target = options.disk_target.unwrap_or_else(|| threshold.minus(ROOM));
    let critical = match options.disk_critical {
        // The default follows a threshold that is set above it.
        default if sources.is_default("disk-critical") => default.max(threshold),
        critical => critical,
    };
    let ascending = [("disk-target", target), ("disk-threshold", threshold), ("disk-critical", critical)];
    for pair in ascending.windows(2) {
        if let [(lower, low), (higher, high)] = pair
            && low > high
        {
            let (low, high) = (sources.show(lower, &low.get()), sources.show(higher, &high.get()));
            return Err(invalid(&format!("{low} must not exceed {high}")));
        }
    }
    let limit = Limit { percent: threshold, min_free: options.disk_min_free };
    let gates = gates::Policy {
        disk: limit,
        runs: run_policy(&options)?,
        converge_max_age: options.converge_max_age.0,
    };
    let removal = plan::Policy {
        older_than: options.older_than,
        critical_age: options.critical_age,
        // With too little space, the first rung applies at any percentage.
        target: Limit { percent: target, min_free: limit.min_free },
        threshold: limit,
        critical: Limit { percent: critical, min_free: None },
        young_from: Limit { percent: critical, min_free: None },
        critical_target: Limit { percent: critical.minus(ROOM), min_free: None },
        keep_labels: options.keep_label,
        evict_tagged: options.evict_tagged,
        runs: gates.runs.pattern.clone(),
    };
    let during_runs = options.during_runs == DuringRuns::Critical;
    Ok(PrunePolicy { disk_paths: options.disk_path, gates, during_runs, removal })
}

/// The runs of each `--ci`, and of each `--run-pattern`.
fn run_policy(options: &cli::Options) -> Result<gates::runs::Policy, clap::Error> {
    let of_ci = match &options.ci[..] {
        [] if options.run_pattern.is_empty() => &[Ci::CoopCloud][..],
        named => named,
    };
    let patterns = of_ci.iter().map(|ci| ci.pattern()).chain(options.run_pattern.iter().map(Regex::as_str));
    let joined = patterns.map(|pattern| format!("(?:{pattern})")).collect::<Vec<_>>().join("|");
    let names = of_ci.iter().map(|ci| ci.name());
    let names = names.chain(options.run_pattern.iter().map(ToString::to_string)).collect::<Vec<_>>();
    let too_large = |error| invalid(&format!("the patterns of --ci and --run-pattern together: {error}"));
    Ok(gates::runs::Policy {
        pattern: Regex::new(&joined).map_err(too_large)?,
        looks_for: names.join(", "),
        max_age: options.run_max_age.0,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    use crate::plan::Policy;

    #[test]
    fn the_command_line_is_consistent() {
        cli::command(|option| option).debug_assert();
    }

    /// Read these words, with these lines of a configuration file and these variables.
    fn settings_of(words: &str, file: &str, variables: &[(&str, &str)]) -> Result<Settings, String> {
        let config = tempfile::NamedTempFile::new().unwrap();
        fs::write(config.path(), file).unwrap();
        let environment = |name: &str| {
            let named = (name == cli::CONFIG_VARIABLE).then(|| config.path().into());
            named.or_else(|| Some(variables.iter().find(|(key, _)| *key == name)?.1.into()))
        };
        let words = ["ci-docker-prune"].into_iter().chain(words.split_whitespace()).map(Into::into);
        read_in(words, &environment).map_err(|error| error.to_string())
    }

    fn prune_of(words: &str, file: &str) -> Settings {
        settings_of(words, file, &[]).unwrap()
    }

    fn percent(text: &str) -> Percent {
        text.parse().unwrap()
    }

    #[test]
    fn a_prune_has_the_defaults_of_the_help_and_what_is_set_comes_through() {
        const HOUR: u64 = 3_600;
        let limits = |policy: &plan::Policy| {
            [policy.target, policy.threshold, policy.critical].map(|limit| limit.percent.get())
        };
        let ages =
            |policy: &plan::Policy| [policy.older_than, policy.critical_age].map(|age| age.as_secs() / HOUR);
        let prune = prune_of("prune", "");
        assert!(matches!(prune.command, Command::Prune { dry_run: false }));
        assert!(prune.policy.disk_paths.is_empty() && prune.metrics_file.is_none());
        assert_eq!((limits(&prune.policy.removal), ages(&prune.policy.removal)), ([75, 80, 95], [24, 1]));
        assert_eq!(prune.policy.removal.keep_labels, ["ci-docker-prune.keep".parse().unwrap()]);
        assert!(prune.policy.removal.evict_tagged.is_empty());
        assert_eq!(prune.policy.gates.runs.looks_for, "coop-cloud");
        assert_eq!(prune.state_dir, Path::new("/var/lib/ci-docker-prune"));
        assert_eq!(prune.runtime_dir, Path::new("/run/ci-docker-prune"));

        let prune = prune_of(
            "prune --older-than 2h --critical-age 4h --disk-target 5 --disk-threshold 6 \
             --disk-critical 7 --disk-path /a --disk-path /b --metrics-file /m --run-pattern ^run- \
             --keep-label a --keep-label b=c --evict-tagged ^d",
            "",
        );
        assert_eq!((limits(&prune.policy.removal), ages(&prune.policy.removal)), ([5, 6, 7], [2, 4]));
        assert_eq!(prune.policy.disk_paths, ["/a", "/b"].map(PathBuf::from));
        assert_eq!(prune.metrics_file, Some("/m".into()));
        assert_eq!(prune.policy.gates.runs.looks_for, "^run-");
        assert_eq!(prune.policy.removal.keep_labels, ["a", "b=c"].map(|label| label.parse().unwrap()));
        assert_eq!(prune.policy.removal.evict_tagged[0].as_str(), "^d");
    }

    #[test]
    fn the_target_follows_a_lower_threshold_unless_it_is_set() {
        for (words, file, expected) in [
            ("--disk-threshold 60", "", Ok(55)),
            ("--disk-threshold 90", "", Ok(85)),
            ("--disk-threshold 3", "", Ok(0)),
            ("--disk-threshold 99", "", Ok(94)),
            ("--disk-target 80", "", Ok(80)),
            ("--disk-target 10", "disk-target = 90", Ok(10)),
            ("--disk-threshold 60", "disk-target = 60", Ok(60)),
            ("--disk-critical 80", "", Ok(75)),
            ("--disk-threshold 60", "disk-target = 61", Err("disk-target = 61 (")),
            ("--disk-threshold 60 --disk-target 61", "", Err("must not exceed --disk-threshold 60\n")),
            (
                "--disk-critical 79",
                "",
                Err("--disk-threshold 80 (default) must not exceed --disk-critical 79"),
            ),
        ] {
            let read = settings_of(&format!("prune {words}"), file, &[]);
            match (read, expected) {
                (Ok(prune), Ok(target)) => {
                    assert_eq!(prune.policy.removal.target.percent.get(), target, "{words} {file}");
                }
                (Err(error), Err(part)) => assert!(error.contains(part), "{words} {file}: {error}"),
                (read, _) => panic!("{words} {file}: {read:?}"),
            }
        }
    }

    #[test]
    fn too_little_space_never_reaches_the_last_rung() {
        let prune = prune_of("prune --disk-min-free 20G", "");
        let min_free = Some(20_000_000_000);
        let Policy { target, threshold, critical, .. } = prune.policy.removal;
        assert_eq!([target, threshold].map(|limit| limit.min_free), [min_free; 2]);
        assert_eq!(critical.min_free, None);
    }

    #[test]
    fn what_only_looks_removes_nothing() {
        let dry_run = |words: &str| match settings_of(words, "", &[]).unwrap().command {
            Command::Prune { dry_run } => dry_run,
            other => panic!("{other:?}"),
        };
        for (words, expected) in [("--dry-run", true), ("prune --dry-run", true), ("prune", false)] {
            assert_eq!(dry_run(words), expected, "{words}");
        }
        for (words, expected) in
            [("record", None), ("record --prune-at 90", Some(90)), ("--prune-at 90 record", Some(90))]
        {
            assert_eq!(settings_of(words, "", &[]).unwrap().prune_at.map(Percent::get), expected, "{words}");
        }
    }

    #[test]
    fn an_option_before_the_command_and_after_it_is_the_last_and_one_that_is_repeatable_collects() {
        for (words, expected) in
            [("--state-dir /a status --state-dir /b", "/b"), ("--state-dir /a status", "/a")]
        {
            let settings = settings_of(words, "", &[]).unwrap();
            assert_eq!(settings.state_dir, Path::new(expected), "{words}");
            assert!(matches!(settings.command, Command::Status), "{words}");
        }
        let labels = |words: &str| {
            let labels = settings_of(words, "keep-label = ['f']", &[]).unwrap().policy.removal.keep_labels;
            labels.into_iter().map(|label| label.key).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(labels("--keep-label a prune --keep-label b --keep-label c"), "a b c");
        assert_eq!(labels("prune"), "f");
        // The program's own name is no command.
        let named = ["status", "--state-dir=/a", "--config=/dev/null", "status"].map(Into::into);
        assert_eq!(read(named).unwrap().state_dir, Path::new("/a"));
        let inhibit = settings_of("--state-dir /a inhibit --why w inhibit -x", "", &[]).unwrap();
        assert!(matches!(inhibit.command, Command::Inhibit { command, .. } if command == ["inhibit", "-x"]));
    }

    #[test]
    fn how_much_is_told() {
        use LevelFilter::{Debug, Error, Info, Trace, Warn};
        for (words, file, level, verbose) in [
            ("", "", Warn, false),
            ("-q", "", Error, false),
            ("-v", "", Info, true),
            ("-vv", "", Debug, true),
            ("-v -v -v", "", Trace, true),
            ("", "quiet = true", Error, false),
            ("", "verbose = 2", Debug, true),
            // A flag wins over a key.
            ("-v", "quiet = true", Info, true),
            ("-q", "verbose = 2", Error, false),
            ("-v", "verbose = 2", Info, true),
        ] {
            let settings = settings_of(&format!("converge {words}"), file, &[]).unwrap();
            assert_eq!((settings.log, settings.verbose), (level, verbose), "{words} {file}");
        }
        assert_eq!(settings_of("converge", "", &[]).unwrap().output, Output::Text);
        assert_eq!(settings_of("converge -o json", "", &[]).unwrap().output, Output::Json);
    }

    #[test]
    fn directories_are_typed_or_systemds_or_the_default() {
        for (words, file, systemd, expected) in [
            ("", "", None, "/var/lib/ci-docker-prune /run/ci-docker-prune"),
            ("", "", Some("/s1:/s2"), "/s1 /s1"),
            ("", "", Some(":/s2"), "/s2 /s2"),
            ("", "", Some(""), "/var/lib/ci-docker-prune /run/ci-docker-prune"),
            ("--state-dir /a", "", Some("/s"), "/a /s"),
            ("--runtime-dir /b", "", Some("/s"), "/s /b"),
            ("", "state-dir = '/f'", Some("/s"), "/f /s"),
            ("--state-dir /a", "state-dir = '/f'\nruntime-dir = '/g'", None, "/a /g"),
        ] {
            let variables: Vec<_> = ["STATE_DIRECTORY", "RUNTIME_DIRECTORY"]
                .into_iter()
                .zip(systemd.into_iter().cycle())
                .collect();
            let Settings { state_dir, runtime_dir, .. } =
                settings_of(&format!("status {words}"), file, &variables).unwrap();
            let shown = format!("{} {}", state_dir.display(), runtime_dir.display());
            assert_eq!(shown, expected, "{words} {file} {systemd:?}");
        }
    }

    #[test]
    fn the_engine_is_typed_or_the_environments_or_the_default() {
        let unix = |path: &str| HostUrl::Unix(path.into());
        let tls = |address: &str, path: &str| HostUrl::Tls(address.into(), path.into());
        let address = "tcp://a:1";
        let tcp = || HostUrl::Tcp("a:1".into());
        let on = [("DOCKER_TLS_VERIFY", "0"), ("DOCKER_CERT_PATH", "/c")];
        type Row<'a> = (&'a str, &'a [(&'a str, &'a str)], HostUrl, Option<HostUrl>);
        let table: [Row; 9] = [
            ("", &[], unix("/var/run/docker.sock"), None),
            ("", &[("DOCKER_HOST", "")], unix("/var/run/docker.sock"), None),
            ("", &[("DOCKER_HOST", address)], tcp(), None),
            ("--host unix:///b", &[("DOCKER_HOST", address)], unix("/b"), None),
            ("--swarm-host tcp://a:1", &[], unix("/var/run/docker.sock"), Some(tcp())),
            // It is the same engine.
            ("--swarm-host tcp://a:1", &[("DOCKER_HOST", address)], tcp(), None),
            ("--host tcp://a:1", &on, tls("a:1", "/c"), None),
            ("--host unix:///b --swarm-host tcp://a:1", &on, unix("/b"), Some(tls("a:1", "/c"))),
            ("--host tcp://a:1", &[("DOCKER_TLS_VERIFY", "")], tcp(), None),
        ];
        for (words, variables, host, swarm_host) in table {
            let engine = settings_of(&format!("converge {words}"), "", variables).unwrap().engine;
            assert_eq!((engine.host, engine.swarm_host), (host, swarm_host), "{words} {variables:?}");
        }
        // Without a folder it is that of the docker CLI.
        let engine = settings_of("converge --host tcp://a:1", "", &on[..1]).unwrap().engine;
        assert!(matches!(&engine.host, HostUrl::Tls(_, path) if path.ends_with(".docker")), "{engine:?}");
        for (words, variable, part) in [
            ("converge", address.trim_start_matches("tcp"), "DOCKER_HOST=://a:1"),
            ("converge --swarm-host x", "", "--swarm-host x"),
        ] {
            let error = settings_of(words, "", &[("DOCKER_HOST", variable)]).unwrap_err();
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn a_removal_has_at_least_the_time_of_a_request() {
        const MINUTE: u64 = 60;
        for (words, file, expected) in [
            ("", "", Ok((MINUTE / 2, 10 * MINUTE))),
            ("--timeout 1h", "", Ok((60 * MINUTE, 60 * MINUTE))),
            ("", "timeout = '1h'", Ok((60 * MINUTE, 60 * MINUTE))),
            ("--timeout 5m --removal-timeout 5m", "", Ok((5 * MINUTE, 5 * MINUTE))),
            ("--timeout 5m --removal-timeout 299s", "", Err("--removal-timeout 4m 59s must not be less")),
            ("--timeout 1h", "removal-timeout = '59m'", Err("removal-timeout = 59m (")),
            ("--timeout 0s", "", Err("--timeout 0s: the engine needs some time")),
        ] {
            let read = settings_of(&format!("converge {words}"), file, &[]);
            match (read, expected) {
                (Ok(Settings { engine, .. }), Ok(expected)) => {
                    let times = (engine.timeout.as_secs(), engine.removal_timeout.as_secs());
                    assert_eq!(engine.longest_removal().as_secs(), times.1 + 2 * times.0);
                    assert_eq!(times, expected, "{words} {file}");
                }
                (Err(error), Err(part)) => assert!(error.contains(part), "{words} {file}: {error}"),
                (read, _) => panic!("{words} {file}: {read:?}"),
            }
        }
    }

    #[test]
    fn each_command_is_what_was_typed() {
        let command = |words: &str| settings_of(words, "quiet = false", &[]).unwrap().command;
        for (words, expected, recorded) in [
            ("check-gates disk converge", &[GateName::Disk, GateName::Converge][..], true),
            ("check-gates", &[], true),
            ("disk", &[GateName::Disk], false),
            ("runs", &[GateName::Runs], false),
            ("converge", &[GateName::Converge], false),
        ] {
            let found = command(words);
            let is = matches!(&found, Command::Gates { names, record } if names == expected && *record == recorded);
            assert!(is, "{words}: {found:?}");
        }
        assert!(matches!(command("explain a b"), Command::Explain { objects } if objects == ["a", "b"]));
        assert!(matches!(command("inhibit --list"), Command::ListInhibitors));
        match command("inhibit --why w true -x") {
            Command::Inhibit { why, command, .. } => {
                assert_eq!((why.as_deref(), command), (Some("w"), vec!["true".into(), "-x".into()]));
            }
            other => panic!("{other:?}"),
        }
        match command("verify --online --registry a --registry b --redeploy c --docker-hub d") {
            Command::Verify(verify) => {
                assert_eq!((verify.registry, verify.online), (vec!["a".into(), "b".into()], true));
                assert_eq!(
                    (verify.redeploy.as_deref(), verify.docker_hub.as_deref()),
                    (Some("c"), Some("d"))
                );
            }
            other => panic!("{other:?}"),
        }
        match command("check-config") {
            Command::CheckConfig { path: Some(_), keys: 1 } => {}
            other => panic!("{other:?}"),
        }
        assert!(matches!(command("check-config --example"), Command::ExampleConfig));
        let shell = settings_of("completions bash", "", &[]).unwrap().command;
        assert!(matches!(shell, Command::Completions(Shell::Bash)), "{shell:?}");
        assert!(matches!(settings_of("man", "not = 'read'", &[]).unwrap().command, Command::Man));
    }

    #[test]
    fn the_file_that_is_named_is_read_and_must_be_there() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), "disk-threshold = 77\ndisk-path = ['/x']\n").unwrap();
        let path = file.path().display();
        // An option wins over the variable, and the operand of check-config over both.
        let prune = prune_of(&format!("prune --config {path}"), "disk-threshold = 1");
        assert_eq!(
            (prune.policy.removal.threshold.percent, prune.policy.disk_paths),
            (percent("77"), vec!["/x".into()])
        );
        let prune = prune_of(&format!("prune --config {path} --disk-threshold 78"), "");
        assert_eq!(prune.policy.removal.threshold.percent, percent("78"));
        let checked =
            settings_of(&format!("check-config {path} --config /nowhere"), "", &[]).unwrap().command;
        assert!(
            matches!(&checked, Command::CheckConfig { path: Some(read), keys: 2 } if read == file.path())
        );
        // An empty variable names none.
        let empty = read_in(["ci-docker-prune", "converge"].map(Into::into), &|_| Some(OsString::new()));
        assert!(empty.is_ok() || Path::new(cli::CONFIG_FILE).exists(), "{empty:?}");
        let missing = settings_of("prune --config /nowhere", "", &[]).unwrap_err();
        assert!(missing.contains("cannot read the configuration file /nowhere: "), "{missing}");
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        for (words, part) in [
            ("", "no command given"),
            ("--dry-run prune", "write it after: prune --dry-run"),
            ("-q converge -v", "--quiet and --verbose exclude each other"),
            ("converge -q -v", "--quiet and --verbose exclude each other"),
            ("man --host unix:///a", "man takes no --host"),
            ("completions bash --disk-path /x", "completions takes no --disk-path"),
        ] {
            let error = settings_of(words, "", &[]).unwrap_err();
            assert!(error.contains(part), "{words}: {error}");
        }
    }
}
