//! The command line: what can be typed, and its help.

use std::ffi::OsString;
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::LazyLock;
use std::time::Duration;

use clap::builder::BoolishValueParser;
use clap::{ArgAction, Args, CommandFactory, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, roman};
use regex::Regex;

use crate::plan::KeepLabel;
use crate::units::{Percent, parse_duration, parse_size};

/// Names of the stacks, services, Compose projects and containers of a CI run.
pub const RUN_PATTERN: &str = "^[^_]{1,4}-[0-9a-f]{6}_ci_commoninternet_net(_|$)";

const EXAMPLES: &str =
    "  ci-docker-prune --dry-run                  what would a prune remove now, and what stays
  ci-docker-prune prune                      prune, if the disk is under pressure and nothing runs
  ci-docker-prune check-gates -o json        the three gates, for a script
  ci-docker-prune inhibit -- ./deploy.sh     deploy while keeping prune away";

const EXIT_STATUS: &str = "  0    done; for prune also: nothing to do, or blocked by a gate
  1    failed: something could not be read or removed
  2    wrong usage
  3    a gate is closed (disk, runs, converge, check-gates)
  10   manual intervention required: prune ended with the disk at or above --disk-critical, or pressure
       has been blocked for more than 3 days (record: once for each episode of pressure)
  255  a gate could not be evaluated (disk, runs, converge, check-gates)
  inhibit exits with the status of its command; verify with 1 if a check fails";

const ENVIRONMENT: &str = "\
Every option can be set by an environment variable too: --disk-threshold by
CI_DOCKER_PRUNE_DISK_THRESHOLD, and so on.";

static AFTER_HELP: LazyLock<String> =
    LazyLock::new(|| format!("Examples:\n{EXAMPLES}\n\nExit status:\n{EXIT_STATUS}\n\n{ENVIRONMENT}"));
static AFTER_LONG_HELP: LazyLock<String> = LazyLock::new(|| {
    format!(
        "{}\n\nFor packagers: completions SHELL and man print shell completions and the man page.",
        *AFTER_HELP
    )
});

/// The version, and the git revision where the build was given one in `CI_DOCKER_PRUNE_REVISION`.
pub static VERSION: LazyLock<String> = LazyLock::new(|| match REVISION {
    Some(revision) => format!("{} ({revision})", env!("CARGO_PKG_VERSION")),
    None => env!("CARGO_PKG_VERSION").to_owned(),
});
const REVISION: Option<&str> = option_env!("CI_DOCKER_PRUNE_REVISION");

/// Prunes a Docker Swarm CI host without losing its image cache: only under real disk pressure,
/// never during a CI run or a deploy, never tagged images or volumes.
#[derive(Debug, Parser)]
#[command(name = "ci-docker-prune", version = VERSION.as_str(), max_term_width = 100)]
#[command(after_help = AFTER_HELP.as_str(), after_long_help = AFTER_LONG_HELP.as_str())]
#[command(subcommand_precedence_over_arg = true)]
pub struct Cli {
    #[command(flatten)]
    pub common: Common,
    #[command(flatten, next_help_heading = "Options of prune, for --dry-run without a command")]
    pub prune: Prune,
    #[command(subcommand)]
    pub command: Option<Command>,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Prune what the policy allows, if every gate is open
    Prune(Prune),
    /// Evaluate every gate
    CheckGates {
        #[command(flatten)]
        disk: Disk,
        #[command(flatten)]
        runs: RunArgs,
        #[command(flatten)]
        state: State,
        #[command(flatten)]
        runtime: Runtime,
    },
    /// Gate: is the disk under pressure?
    Disk(Disk),
    /// Gate: is no CI run live?
    Runs {
        #[command(flatten)]
        runs: RunArgs,
        #[command(flatten)]
        runtime: Runtime,
    },
    /// Gate: is no Swarm service converging?
    Converge,
    /// Record current image usage in the ledger; prune if one is due or urgent (--prune-at)
    Record(Record),
    /// Show last runs, the next run, pressure, active inhibitors and the state of the ledger
    Status {
        #[command(flatten)]
        disk: Disk,
        #[command(flatten)]
        state: State,
        #[command(flatten)]
        runtime: Runtime,
    },
    /// Block prunes while a command runs
    Inhibit(Inhibit),
    /// Check this host: login, retention, other pruners, units; prove layer reuse
    Verify(Verify),
    /// Print completions for a shell
    #[command(hide = true)]
    Completions {
        /// The shell
        shell: Shell,
    },
    /// Print the man page
    #[command(hide = true)]
    Man,
}

/// The default of `--removal-timeout`.
pub const REMOVAL_TIMEOUT: &str = "10m";

#[derive(Debug, Args)]
pub struct Common {
    /// The Docker engine: unix:///PATH or tcp://HOST:PORT [default: $DOCKER_HOST, else
    /// unix:///var/run/docker.sock]
    #[arg(long, global = true, value_name = "URL", env = "CI_DOCKER_PRUNE_HOST", hide_env = true)]
    pub host: Option<String>,
    /// The engine to ask about services: on a Swarm worker, a manager [default: as --host]
    #[arg(long, global = true, value_name = "URL", env = "CI_DOCKER_PRUNE_SWARM_HOST", hide_env = true)]
    pub swarm_host: Option<String>,
    /// How to print the result
    #[arg(long, short, global = true, value_enum, default_value = "text", env = "CI_DOCKER_PRUNE_OUTPUT")]
    #[arg(hide_env = true)]
    pub output: Output,
    /// Longest wait for one answer of the engine
    #[arg(long, global = true, value_name = "DUR", default_value = "30s", value_parser = parse_duration)]
    #[arg(env = "CI_DOCKER_PRUNE_TIMEOUT", hide_env = true)]
    pub timeout: Duration,
    /// Longest wait for one removal, as long as the engine answers other questions meanwhile
    #[arg(long, global = true, value_name = "DUR", default_value = REMOVAL_TIMEOUT, value_parser = parse_duration)]
    #[arg(env = "CI_DOCKER_PRUNE_REMOVAL_TIMEOUT", hide_env = true)]
    pub removal_timeout: Duration,
    /// Log more, and list everything that stays (-vv: still more)
    #[arg(long, short, global = true, action = ArgAction::Count, env = "CI_DOCKER_PRUNE_VERBOSE")]
    #[arg(hide_env = true)]
    pub verbose: u8,
    /// Log errors only
    #[arg(long, short, global = true, action = ArgAction::SetTrue, env = "CI_DOCKER_PRUNE_QUIET")]
    #[arg(value_parser = BoolishValueParser::new(), conflicts_with = "verbose", hide_env = true)]
    pub quiet: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Output {
    Text,
    Json,
}

#[derive(Debug, Args)]
pub struct Disk {
    /// Measure the filesystem of this path; repeatable [default: where the engine keeps its data]
    #[arg(long, value_name = "PATH", value_delimiter = ',', env = "CI_DOCKER_PRUNE_DISK_PATH")]
    #[arg(hide_env = true)]
    pub disk_path: Vec<PathBuf>,
    /// The disk is under pressure at or above this percentage of blocks or inodes
    #[arg(long, value_name = "PCT", default_value = "80", env = "CI_DOCKER_PRUNE_DISK_THRESHOLD")]
    #[arg(hide_env = true)]
    pub disk_threshold: Percent,
    /// The disk is under pressure too with less than this available, such as 20G [default: none]
    #[arg(long, value_name = "SIZE", value_parser = parse_size, env = "CI_DOCKER_PRUNE_DISK_MIN_FREE")]
    #[arg(hide_env = true)]
    pub disk_min_free: Option<u64>,
}

#[derive(Debug, Args)]
pub struct RunArgs {
    /// Names of a run's stacks, services, Compose projects and containers match this
    #[arg(long, value_name = "REGEX", default_value = RUN_PATTERN, value_parser = pattern)]
    #[arg(env = "CI_DOCKER_PRUNE_RUN_PATTERN", hide_env = true)]
    pub run_pattern: Regex,
}

#[derive(Debug, Args)]
pub struct State {
    /// Where the ledger is kept [default: $STATE_DIRECTORY, else /var/lib/ci-docker-prune]
    #[arg(long, value_name = "PATH", env = "CI_DOCKER_PRUNE_STATE_DIR", hide_env = true)]
    pub state_dir: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct Runtime {
    /// Where locks and inhibitors are kept [default: $RUNTIME_DIRECTORY, else /run/ci-docker-prune]
    #[arg(long, value_name = "PATH", env = "CI_DOCKER_PRUNE_RUNTIME_DIR", hide_env = true)]
    pub runtime_dir: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct Prune {
    /// Show what a prune would remove now, and why everything else stays; remove nothing
    #[arg(long, action = ArgAction::SetTrue, env = "CI_DOCKER_PRUNE_DRY_RUN", hide_env = true)]
    #[arg(value_parser = BoolishValueParser::new())]
    pub dry_run: bool,
    #[command(flatten)]
    pub policy: Policy,
    /// Write metrics for Prometheus to this file, for node_exporter's textfile collector
    #[arg(long, value_name = "PATH", env = "CI_DOCKER_PRUNE_METRICS_FILE", hide_env = true)]
    pub metrics_file: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct Record {
    /// Prune, behind the same gates, when the disk is at or above this or a prune is owed [default: never]
    #[arg(long, value_name = "PCT", env = "CI_DOCKER_PRUNE_PRUNE_AT", hide_env = true)]
    pub prune_at: Option<Percent>,
    /// Record only, and never prune
    #[arg(long, action = ArgAction::SetTrue, env = "CI_DOCKER_PRUNE_DRY_RUN", hide_env = true)]
    #[arg(value_parser = BoolishValueParser::new())]
    pub dry_run: bool,
    #[command(flatten)]
    pub policy: Policy,
    /// Write metrics of such a prune for Prometheus to this file
    #[arg(long, value_name = "PATH", env = "CI_DOCKER_PRUNE_METRICS_FILE", hide_env = true)]
    pub metrics_file: Option<PathBuf>,
}

/// What decides about a prune.
#[derive(Debug, Args)]
pub struct Policy {
    #[command(flatten)]
    pub disk: Disk,
    #[command(flatten)]
    pub runs: RunArgs,
    /// Minimum age of what is removed, below --disk-critical
    #[arg(long, value_name = "DUR", default_value = "24h", value_parser = parse_duration)]
    #[arg(env = "CI_DOCKER_PRUNE_OLDER_THAN", hide_env = true)]
    pub older_than: Duration,
    /// Time since last use up to which cached images stay while --disk-target can be reached without them
    #[arg(long, value_name = "DUR", default_value = "7d", value_parser = parse_duration)]
    #[arg(env = "CI_DOCKER_PRUNE_CACHE_AGE", hide_env = true)]
    pub cache_age: Duration,
    /// Minimum time since last use of cached images that go at or above --disk-critical
    #[arg(long, value_name = "DUR", default_value = "1h", value_parser = parse_duration)]
    #[arg(env = "CI_DOCKER_PRUNE_CRITICAL_AGE", hide_env = true)]
    pub critical_age: Duration,
    /// Eviction stops below this
    #[arg(long, value_name = "PCT", default_value = "70", env = "CI_DOCKER_PRUNE_DISK_TARGET")]
    #[arg(hide_env = true)]
    pub disk_target: Percent,
    /// The last rung of eviction begins here; exit with status 10 if usage is still at or above this at the end
    #[arg(long, value_name = "PCT", default_value = "95", env = "CI_DOCKER_PRUNE_DISK_CRITICAL")]
    #[arg(hide_env = true)]
    pub disk_critical: Percent,
    /// Never remove a container or image with this label; repeatable
    #[arg(long, value_name = "KEY[=VALUE]", default_value = "ci-docker-prune.keep", value_delimiter = ',')]
    #[arg(env = "CI_DOCKER_PRUNE_KEEP_LABEL", hide_env = true)]
    pub keep_label: Vec<KeepLabel>,
    /// Treat tagged images whose every tag matches as cached images; repeatable [default: none]
    #[arg(long, value_name = "REGEX", value_parser = pattern, env = "CI_DOCKER_PRUNE_EVICT_TAGGED")]
    #[arg(hide_env = true)]
    pub evict_tagged: Vec<Regex>,
    #[command(flatten)]
    pub state: State,
    #[command(flatten)]
    pub runtime: Runtime,
}

#[derive(Debug, Args)]
pub struct Verify {
    /// Check that there is a credential for this registry; repeatable
    #[arg(long, value_name = "HOST", default_value = "docker.io", value_delimiter = ',', value_parser = registry)]
    #[arg(env = "CI_DOCKER_PRUNE_REGISTRY", hide_env = true)]
    pub registry: Vec<String>,
    /// Have the engine test the credentials at their registries
    #[arg(long, action = ArgAction::SetTrue, env = "CI_DOCKER_PRUNE_ONLINE", hide_env = true)]
    #[arg(value_parser = BoolishValueParser::new())]
    pub online: bool,
    /// Prove layer reuse: deploy this image as a Swarm service, tear it down, plan a prune, deploy it
    /// again
    #[arg(long, value_name = "IMAGE", value_parser = image, env = "CI_DOCKER_PRUNE_REDEPLOY", hide_env = true)]
    pub redeploy: Option<String>,
    #[command(flatten)]
    pub policy: Policy,
}

#[derive(Debug, Args)]
#[command(after_help = INHIBIT_HELP)]
pub struct Inhibit {
    /// What the gates show while the command runs [default: the command]
    #[arg(long, value_name = "TEXT", env = "CI_DOCKER_PRUNE_WHY", hide_env = true)]
    pub why: Option<String>,
    #[command(flatten)]
    pub state: State,
    #[command(flatten)]
    pub runtime: Runtime,
    /// The command and its arguments, after --
    #[arg(required = true, last = true, value_name = "CMD")]
    pub command: Vec<OsString>,
}

const INHIBIT_HELP: &str = "\
Example:
  ci-docker-prune inhibit --why 'deploy shop' -- docker stack deploy -c shop.yml shop

Exit status:
  that of the command; 128 and the signal's number where a signal ended it; 127 where there is no
  such command, 126 where it cannot be run; 1 where prune cannot be kept away (CMD is not started)";

/// A registry as it stands in the name of an image.
fn registry(text: &str) -> Result<String, String> {
    let fine = |c: char| c.is_ascii_alphanumeric() || "._-:[]/".contains(c);
    if text.is_empty() || !text.chars().all(fine) || text.contains("://") {
        return Err("expected a registry's host, such as docker.io or registry.example.org:5000".into());
    }
    Ok(text.into())
}

/// The name of an image: what may stand in one (distribution's reference grammar), no more.
fn image(text: &str) -> Result<String, String> {
    let fine = |c: char| c.is_ascii_alphanumeric() || "._-:/@[]".contains(c);
    if !text.starts_with(|c: char| c.is_ascii_alphanumeric()) || !text.chars().all(fine) {
        return Err("expected the name of an image, such as redis:7-alpine".into());
    }
    Ok(text.into())
}

fn pattern(text: &str) -> Result<Regex, String> {
    if text.is_empty() {
        return Err("an empty pattern would match every name".into());
    }
    Regex::new(text).map_err(|error| error.to_string())
}

/// Print completions for a shell.
///
/// # Errors
/// The writer's.
pub fn completions(shell: Shell, out: &mut dyn Write) -> io::Result<()> {
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "ci-docker-prune", &mut text);
    out.write_all(&text)
}

/// Print the man page, as roff: one page, with what each command adds to the options.
///
/// # Errors
/// The writer's.
pub fn man(mut out: &mut dyn Write) -> io::Result<()> {
    let mut command = Cli::command();
    command.build();
    let common: Vec<_> = command.get_arguments().map(|it| it.get_id().clone()).collect();
    let page = Man::new(command.clone());
    page.render_title(&mut out)?;
    page.render_name_section(&mut out)?;
    page.render_synopsis_section(&mut out)?;
    page.render_description_section(&mut out)?;
    page.render_options_section(&mut out)?;
    let mut roff = Roff::new();
    roff.control("SH", ["COMMANDS"]);
    for command in command.get_subcommands().filter(|it| it.get_name() != "help") {
        roff.control("TP", []);
        roff.text([bold(command.get_name())]);
        roff.text([roman(command.get_about().map(ToString::to_string).unwrap_or_default())]);
        for own in command.get_arguments().filter(|it| !common.contains(it.get_id())) {
            let name = own.get_long().map_or_else(String::new, |it| format!("--{it} "));
            let values = own.get_value_names().unwrap_or_default().join(" ");
            roff.control("RS", []).control("TP", []);
            roff.text([bold(format!("{name}{values}"))]);
            roff.text([roman(own.get_help().map(ToString::to_string).unwrap_or_default())]);
            roff.control("RE", []);
        }
    }
    for (title, text) in [("EXIT STATUS", EXIT_STATUS), ("EXAMPLES", EXAMPLES)] {
        roff.control("SH", [title]).control("nf", []).text([roman(text)]).control("fi", []);
    }
    roff.control("SH", ["ENVIRONMENT"]).text([roman(ENVIRONMENT)]);
    roff.to_writer(&mut out)
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        #[test]
        fn no_text_makes_a_parser_panic_and_what_is_taken_fits_a_url(text in ".{0,60}") {
            let _ = pattern(&text);
            for taken in [registry(&text), image(&text)].into_iter().flatten() {
                proptest::prop_assert!(taken.chars().all(|c| c.is_ascii_graphic() && !"?#%\"".contains(c)));
            }
        }
    }
}
