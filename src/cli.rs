//! The command line: what can be typed, and its help.

use std::ffi::OsString;
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::LazyLock;
use std::time::Duration;

use clap::{Arg, ArgAction, Args, CommandFactory, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, roman};
use regex::Regex;

use crate::plan::KeepLabel;
use crate::units::{MaxAge, Percent, parse_duration, parse_size};

/// The CI systems whose runs are known by name; docs/ci-systems.md has the sources of the patterns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Ci {
    CoopCloud,
    GitlabRunner,
    Woodpecker,
    Drone,
    GiteaActions,
    ForgejoActions,
    GithubActions,
    Buildkite,
    Jenkins,
}

impl Ci {
    pub fn all() -> &'static [Self] {
        Self::value_variants()
    }

    pub fn name(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }

    /// The names of its stacks, services, Compose projects and containers.
    pub fn pattern(self) -> &'static str {
        match self {
            Self::CoopCloud => "^[^_]{1,4}-[0-9a-f]{6}_ci_commoninternet_net(_|$)",
            Self::GitlabRunner => {
                "^runner-[0-9A-Za-z_-]{1,20}-project-[0-9]+-concurrent-[0-9]+(?:-[0-9a-f]{16})?-(?:build|predefined|[0-9A-Za-z][0-9A-Za-z_.-]*-[0-9]+(?:-wait-for-service)?)$"
            }
            Self::Woodpecker => {
                "^wp_(?:[0-7][0-9A-HJKMNP-TV-Z]{25}|[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})$"
            }
            Self::Drone => "^drone-[0-9A-Za-z]{20}$",
            Self::GiteaActions => "^GITEA-ACTIONS-TASK-[0-9]+[-_]WORKFLOW[-_]",
            Self::ForgejoActions => "^FORGEJO-ACTIONS-TASK-[0-9]+[-_]WORKFLOW[-_]",
            Self::GithubActions => "^(?:[0-9a-f]{32}_[0-9A-Za-z_]*|[a-f][0-9a-f]{19,37})_[0-9a-f]{6}$",
            Self::Buildkite => "^buildkite[0-9a-f]{32}(?:[-_][0-9A-Za-z][0-9A-Za-z_.-]*)?$",
            Self::Jenkins => r"^agt-[0-9A-Za-z_]{1,15}-[0-9]{1,7}(?:\.[0-9]+\.[0-9a-z]{25})?$",
        }
    }
}

/// The configuration file that is read where it exists and no other is named.
pub const CONFIG_FILE: &str = "/etc/ci-docker-prune.toml";

/// The variable that names the configuration file.
pub const CONFIG_VARIABLE: &str = "CI_DOCKER_PRUNE_CONFIG";

const EXAMPLES: &str =
    "  ci-docker-prune --dry-run                  show what a prune would remove now, and what stays
  ci-docker-prune prune                      prune, if the disk is under pressure and nothing runs
  ci-docker-prune check-gates runs converge  exit with 0 if no run is live and nothing converges
  ci-docker-prune inhibit ./deploy.sh        deploy while blocking prunes
  ci-docker-prune explain redis:7            show what protects an image, and when it may go";

const EXIT_STATUS: &str = "  0    done; for prune also: nothing to do, or blocked by a gate
  1    failed: something could not be read or removed
  2    wrong usage or configuration
  3    a gate is closed (disk, runs, converge, check-gates)
  10   manual intervention required: prune ended with the disk at or above --disk-critical, or
       prunes under pressure were blocked for more than 3 days (record: once for each full disk)
  255  a gate could not be evaluated (disk, runs, converge, check-gates)
  inhibit exits with the status of its command, with 75 where --min-free cannot be had; verify with 1
  if a check fails; explain with 1 if there is no such object";

const ENVIRONMENT: [(&str, &str); 7] = [
    (CONFIG_VARIABLE, "the configuration file, where --config names none"),
    ("DOCKER_HOST", "the engine, where --host names none"),
    ("DOCKER_TLS_VERIFY, DOCKER_CERT_PATH", "TLS for a tcp:// engine, as for docker(1)"),
    ("DOCKER_CONFIG, DOCKER_AUTH_CONFIG", "where the credentials of registries are, for verify"),
    (
        "STATE_DIRECTORY, RUNTIME_DIRECTORY",
        "the directories, where --state-dir and --runtime-dir name none; systemd sets them",
    ),
    ("RUST_LOG", "the log level, over -v and -q"),
    ("NO_COLOR", "if not empty: no colour"),
];

/// Files that are read or written by default.
const FILES: [(&str, &str); 5] = [
    (CONFIG_FILE, "the configuration: keys are the names of the long options"),
    (
        "/var/lib/ci-docker-prune/ledger.json",
        "when each image was seen and used, the last prunes, ongoing pressure",
    ),
    ("/var/lib/ci-docker-prune/history.jsonl", "the prunes of the last 90 days, for log"),
    ("/run/ci-docker-prune/", "locks, and the inhibitors that are active"),
    ("/var/run/docker.sock", "the engine"),
];

static AFTER_HELP: LazyLock<String> = LazyLock::new(|| {
    format!(
        "Every option but --config can be a key of the configuration file {CONFIG_FILE}: flags win over the file, the \
         file over the defaults.\n\nExamples:\n{EXAMPLES}\n\nExit status:\n{EXIT_STATUS}"
    )
});
static AFTER_LONG_HELP: LazyLock<String> = LazyLock::new(|| {
    let environment: String =
        ENVIRONMENT.iter().map(|(name, what)| format!("  {name}\n      {what}\n")).collect();
    format!(
        "{}\n\nEnvironment:\n{environment}\nFor packagers: completions SHELL and man print shell completions and \
         the man page.",
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
#[command(subcommand_precedence_over_arg = true, args_override_self = true)]
pub struct Cli {
    /// Without a command: as prune --dry-run
    #[arg(long)]
    pub dry_run: bool,
    #[command(flatten)]
    pub options: Options,
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Prune what the policy allows, if every gate is open
    Prune {
        /// Show what a prune would remove now, and why everything else stays; remove nothing
        #[arg(long)]
        dry_run: bool,
    },
    /// Evaluate the gates: all, or those that are named
    CheckGates {
        /// The gates to evaluate [default: all]
        #[arg(value_name = "GATE")]
        gates: Vec<GateName>,
    },
    /// Evaluate a gate: open if the disk is under pressure
    Disk,
    /// Evaluate a gate: open if no CI run is live
    Runs,
    /// Evaluate a gate: open if no Swarm service is converging
    Converge,
    /// Record current image usage in the ledger; prune if one is due or urgent (--prune-at)
    Record,
    /// Explain why an image or a container would be removed or kept, now and later
    Explain {
        /// Images and containers, by name or ID, as docker takes them: redis:7, 0f3a1b2c, web
        #[arg(value_name = "NAME|ID", required = true)]
        objects: Vec<String>,
    },
    /// Show what happened, what blocks prunes and since when, what comes next, and usage over 14 days
    Status,
    /// Show past prunes: why, what each removed, and what it reclaimed
    Log {
        /// Only prunes of this time, such as 7d [default: 90 days]
        #[arg(long, value_name = "DUR", value_parser = parse_duration)]
        since: Option<Duration>,
        /// Only what has this ID, or a name that contains this
        #[arg(value_name = "NAME|ID")]
        object: Option<String>,
    },
    /// Block prunes while a command runs
    Inhibit(Inhibit),
    /// Check this host: login, retention, other pruners, units; prove layer reuse
    Verify(Verify),
    /// Validate a configuration file
    CheckConfig {
        /// The file [default: the one that the other commands read]
        #[arg(value_name = "FILE")]
        file: Option<PathBuf>,
        /// Print a configuration file with every key, its default and what it means
        #[arg(long, conflicts_with = "file")]
        example: bool,
    },
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

/// The gates that `check-gates` can be given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum GateName {
    Disk,
    Runs,
    Converge,
}

/// The default of `--removal-timeout`.
pub const REMOVAL_TIMEOUT: &str = "10m";

/// The groups of options in the help. All of them are keys of the configuration file.
pub mod group {
    /// How the engine is reached.
    pub const ENGINE: &str = "Engine";
    /// Options of the gates.
    pub const GATES: &str = "Gates";
    /// What is removed.
    pub const POLICY: &str = "Policy";
    /// What is printed.
    pub const OUTPUT: &str = "Output";
    /// What is read and written.
    pub const FILES: &str = "Files";
}

/// The options that every command and the configuration file take.
#[derive(Debug, Args)]
pub struct Options {
    /// The Docker engine: unix:///PATH or tcp://HOST:PORT [default: $DOCKER_HOST, else
    /// unix:///var/run/docker.sock]
    #[arg(long, global = true, value_name = "URL", help_heading = group::ENGINE)]
    pub host: Option<String>,
    /// The engine to ask about services: on a Swarm worker, a manager [default: as --host]
    #[arg(long, global = true, value_name = "URL", help_heading = group::ENGINE)]
    pub swarm_host: Option<String>,
    /// Timeout for one request to the engine; a list of images or containers may take ten times as long
    #[arg(long, global = true, value_name = "DUR", help_heading = group::ENGINE)]
    #[arg(default_value = "30s", value_parser = parse_duration)]
    pub timeout: Duration,
    /// Timeout for one removal, while the engine answers other requests
    #[arg(long, global = true, value_name = "DUR", help_heading = group::ENGINE)]
    #[arg(default_value = REMOVAL_TIMEOUT, value_parser = parse_duration)]
    pub removal_timeout: Duration,

    /// Measure the filesystem of this path; repeatable [default: where the engine keeps its data]
    #[arg(long, global = true, value_name = "PATH", help_heading = group::GATES)]
    pub disk_path: Vec<PathBuf>,
    /// The disk is under pressure at or above this percentage of blocks, inodes or btrfs metadata
    #[arg(long, global = true, value_name = "PCT", help_heading = group::GATES)]
    #[arg(default_value = "80")]
    pub disk_threshold: Percent,
    /// The disk is under pressure too with less than this available, such as 20G [default: none]
    #[arg(long, global = true, value_name = "SIZE", help_heading = group::GATES)]
    #[arg(value_parser = parse_size)]
    pub disk_min_free: Option<u64>,
    /// The CI whose runs deploy here; repeatable [default: coop-cloud, without --run-pattern]
    #[arg(long, global = true, value_name = "NAME", value_enum, help_heading = group::GATES)]
    pub ci: Vec<Ci>,
    /// Names of a run's stacks, services, Compose projects and containers match this, beside those of --ci;
    /// repeatable [default: none]
    #[arg(long, global = true, value_name = "REGEX", help_heading = group::GATES)]
    #[arg(value_parser = pattern)]
    pub run_pattern: Vec<Regex>,
    /// A run that has been live for longer is abandoned and closes no gate; never: it always does
    #[arg(long, global = true, value_name = "DUR", help_heading = group::GATES)]
    #[arg(default_value = "24h")]
    pub run_max_age: MaxAge,
    /// A service that has not been converged for longer closes no gate; never: it always does
    #[arg(long, global = true, value_name = "DUR", help_heading = group::GATES)]
    #[arg(default_value = "24h")]
    pub converge_max_age: MaxAge,
    /// critical: at or above --disk-critical, evict cached images beside live runs, but for those under inhibit
    #[arg(long, global = true, value_name = "WHEN", value_enum, help_heading = group::GATES)]
    #[arg(default_value = "never")]
    pub during_runs: DuringRuns,
    /// For prune, record and check-gates: wait so long for runs and converge to open
    #[arg(long, global = true, value_name = "DUR", help_heading = group::GATES)]
    #[arg(default_value = "0s", value_parser = parse_duration)]
    pub wait: Duration,
    /// For inhibit: let a prune that is due go first, for so long at most
    #[arg(long, global = true, value_name = "DUR", help_heading = group::GATES)]
    #[arg(default_value = "10m", value_parser = parse_duration)]
    pub prune_wait: Duration,

    /// Minimum age of what is removed, below --disk-critical
    #[arg(long, global = true, value_name = "DUR", help_heading = group::POLICY)]
    #[arg(default_value = "24h", value_parser = parse_duration)]
    pub older_than: Duration,
    /// Minimum time since last use of cached images that are evicted at or above --disk-critical
    #[arg(long, global = true, value_name = "DUR", help_heading = group::POLICY)]
    #[arg(default_value = "1h", value_parser = parse_duration)]
    pub critical_age: Duration,
    /// Eviction stops below this; never above --disk-threshold [default: 5 below it]
    #[arg(long, global = true, value_name = "PCT", help_heading = group::POLICY)]
    pub disk_target: Option<Percent>,
    /// Younger images go too from here on, down to 5 below; still here at the end: exit status 10; at least the threshold
    #[arg(long, global = true, value_name = "PCT", help_heading = group::POLICY)]
    #[arg(default_value = "95")]
    pub disk_critical: Percent,
    /// Treat tagged images whose every tag matches as cached images; repeatable [default: none]
    #[arg(long, global = true, value_name = "REGEX", help_heading = group::POLICY)]
    #[arg(value_parser = pattern)]
    pub evict_tagged: Vec<Regex>,
    /// Never remove a container or image with this label; repeatable
    #[arg(long, global = true, value_name = "KEY[=VALUE]", help_heading = group::POLICY)]
    #[arg(default_value = "ci-docker-prune.keep")]
    pub keep_label: Vec<KeepLabel>,
    /// For record: prune, behind the same gates, when the disk is at or above this or a prune is owed; for inhibit: ask for
    /// a prune from here on [default: never]
    #[arg(long, global = true, value_name = "PCT", help_heading = group::POLICY)]
    pub prune_at: Option<Percent>,

    /// How to print the result
    #[arg(long, short, global = true, value_enum, help_heading = group::OUTPUT)]
    #[arg(default_value = "text")]
    pub output: Output,
    /// Log more, and list everything that stays (-vv: still more)
    #[arg(long, short, global = true, action = ArgAction::Count, help_heading = group::OUTPUT)]
    pub verbose: u8,
    /// Log errors only, and print no report of a prune that succeeds
    #[arg(long, short, global = true, help_heading = group::OUTPUT)]
    pub quiet: bool,

    /// The configuration file [default: $CI_DOCKER_PRUNE_CONFIG, else /etc/ci-docker-prune.toml where it exists]
    #[arg(long, global = true, value_name = "PATH", help_heading = group::FILES)]
    pub config: Option<PathBuf>,
    /// Where the ledger is kept [default: $STATE_DIRECTORY, else /var/lib/ci-docker-prune]
    #[arg(long, global = true, value_name = "PATH", help_heading = group::FILES)]
    pub state_dir: Option<PathBuf>,
    /// Where locks and inhibitors are kept [default: $RUNTIME_DIRECTORY, else /run/ci-docker-prune]
    #[arg(long, global = true, value_name = "PATH", help_heading = group::FILES)]
    pub runtime_dir: Option<PathBuf>,
    /// Write metrics of each prune for Prometheus to this file, for node_exporter's textfile collector
    #[arg(long, global = true, value_name = "PATH", help_heading = group::FILES)]
    pub metrics_file: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum DuringRuns {
    Never,
    Critical,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Output {
    Text,
    Json,
}

#[derive(Debug, Args)]
pub struct Verify {
    /// Check that there is a credential for this registry; repeatable
    #[arg(long, value_name = "HOST", default_value = "docker.io", value_parser = registry)]
    pub registry: Vec<String>,
    /// Have the engine test the credentials at their registries, and print Docker Hub's remaining pulls
    #[arg(long)]
    pub online: bool,
    /// Prove layer reuse: deploy this image as a Swarm service, tear it down, plan a prune, deploy it
    /// again
    #[arg(long, value_name = "IMAGE", value_parser = image)]
    pub redeploy: Option<String>,
    /// The URL to ask in place of Docker Hub's
    #[arg(long, value_name = "URL", hide = true)]
    pub docker_hub: Option<String>,
}

#[derive(Debug, Args)]
#[command(after_help = INHIBIT_HELP)]
pub struct Inhibit {
    /// What the gates show while the command runs [default: the program's name]
    #[arg(long, value_name = "TEXT")]
    pub why: Option<String>,
    /// Begin only when this much is available where the images are, such as 20G; ask for a prune if it is not
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub min_free: Option<u64>,
    /// List the inhibitors that are active, and run nothing
    #[arg(long, conflicts_with_all = ["why", "min_free", "command"])]
    pub list: bool,
    /// The command and its arguments; after -- where it begins with a dash
    #[arg(required_unless_present = "list", trailing_var_arg = true, value_name = "CMD")]
    pub command: Vec<OsString>,
}

const INHIBIT_HELP: &str = "\
Example:
  ci-docker-prune inhibit --why 'deploy shop' docker stack deploy -c shop.yml shop

Exit status:
  that of the command; 128 and the signal's number where a signal ended it; 127 where there is no
  such command, 126 where it cannot be run; 75 where --min-free cannot be had, 1 where prunes cannot
  be blocked (CMD is not started)";

/// The command line. `change` is applied to each option; the help of a command shows only the options that affect
/// it.
pub fn command(change: impl Fn(Arg) -> Arg) -> clap::Command {
    let mut command = Cli::command().mut_args(|arg| {
        // `-1d` is the value of a figure, so that the error names the option. An option that takes any text must
        // not take the next flag for it.
        let figure = |name: &clap::builder::Str| ["DUR", "PCT", "SIZE"].contains(&name.as_str());
        let hyphens = arg.get_value_names().is_some_and(|names| names.iter().any(figure));
        change(arg.allow_hyphen_values(hyphens))
    });
    // Passes the global options on to the commands.
    command.build();
    command.mut_subcommands(|sub| {
        let name = sub.get_name().to_owned();
        sub.mut_args(|arg| {
            let hidden = arg.is_hide_set() || arg.is_global_set() && !matters(&name, &arg);
            arg.hide(hidden)
        })
    })
}

/// Whether a global option affects this command.
fn matters(command: &str, option: &Arg) -> bool {
    let of_commands: Option<&[&str]> = match option.get_id().as_str() {
        "wait" => Some(&["prune", "record", "check-gates"]),
        "prune_wait" => Some(&["inhibit"]),
        "prune_at" => Some(&["record", "inhibit", "status", "verify"]),
        "during_runs" => Some(&["prune", "record"]),
        "run_max_age" | "ci" | "run_pattern" if command == "converge" => Some(&[]),
        "converge_max_age" if command == "converge" => Some(&["converge"]),
        _ => None,
    };
    if let Some(commands) = of_commands {
        return commands.contains(&command);
    }
    let groups: &[&str] = match command {
        "completions" | "man" | "help" => return false,
        "check-config" => return option.get_id() == "config",
        "inhibit" => &[group::ENGINE, group::OUTPUT, group::FILES],
        "converge" => &[group::ENGINE, group::OUTPUT],
        "log" => &[group::OUTPUT, group::FILES],
        "disk" | "runs" | "check-gates" | "status" => {
            &[group::ENGINE, group::GATES, group::OUTPUT, group::FILES]
        }
        _ => return true,
    };
    let writes_metrics = option.get_id() == "metrics_file";
    !writes_metrics && option.get_help_heading().is_some_and(|heading| groups.contains(&heading))
}

/// A registry as in the name of an image.
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

pub fn completions(shell: Shell, out: &mut dyn Write) -> io::Result<()> {
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut command(|option| option), "ci-docker-prune", &mut text);
    out.write_all(&text)
}

/// Write the man page as roff: one page, with what each command adds to the options.
pub fn man(mut out: &mut dyn Write) -> io::Result<()> {
    let command = command(|option| option);
    let page = Man::new(command.clone());
    page.render_title(&mut out)?;
    page.render_name_section(&mut out)?;
    page.render_synopsis_section(&mut out)?;
    page.render_description_section(&mut out)?;
    page.render_options_section(&mut out)?;
    let mut roff = Roff::new();
    roff.control("SH", ["COMMANDS"]);
    for command in command.get_subcommands().filter(|sub| sub.get_name() != "help") {
        roff.control("TP", []);
        let operands = command.get_positionals().filter_map(|arg| arg.get_value_names()?.first());
        let operands: String = operands.map(|name| format!(" {name}...")).collect();
        roff.text([bold(command.get_name()), roman(operands)]);
        roff.text([roman(command.get_about().map(ToString::to_string).unwrap_or_default())]);
        let own = command.get_arguments().filter(|arg| !arg.is_global_set() && arg.get_id() != "help");
        for option in own {
            let name = option.get_long().map_or_else(String::new, |long| format!("--{long} "));
            let values = option.get_value_names().filter(|_| option.get_action().takes_values());
            let values = values.unwrap_or_default().join(" ");
            roff.control("RS", []).control("TP", []);
            roff.text([bold(format!("{name}{values}").trim())]);
            roff.text([roman(option.get_help().map(ToString::to_string).unwrap_or_default())]);
            roff.control("RE", []);
        }
    }
    for (title, text) in [("EXIT STATUS", EXIT_STATUS), ("EXAMPLES", EXAMPLES)] {
        roff.control("SH", [title]).control("nf", []).text([roman(text)]).control("fi", []);
    }
    for (title, rows) in [("ENVIRONMENT", &ENVIRONMENT[..]), ("FILES", &FILES[..])] {
        roff.control("SH", [title]);
        for (name, what) in rows {
            roff.control("TP", []).text([bold(*name)]).text([roman(*what)]);
        }
    }
    let see_also = "docker-image-prune(1), docker-system-df(1), systemd.timer(5), systemd-inhibit(1)";
    roff.control("SH", ["SEE ALSO"]).text([roman(see_also)]);
    roff.to_writer(&mut out)
}

/// Write a configuration file in which every key is a comment, with its default.
pub fn example_config(out: &mut dyn Write) -> io::Result<()> {
    writeln!(out, "# The configuration of ci-docker-prune: {CONFIG_FILE}.")?;
    writeln!(
        out,
        "# Every key is a long option's name, and every line below shows its default or an example."
    )?;
    writeln!(out, "# Check a change with: ci-docker-prune check-config")?;
    let command = Cli::command();
    for heading in [group::ENGINE, group::GATES, group::POLICY, group::OUTPUT, group::FILES] {
        writeln!(out, "\n## {heading}")?;
        for arg in command.get_arguments().filter(|arg| arg.get_help_heading() == Some(heading)) {
            let Some(key) = arg.get_long().filter(|_| is_key(arg)) else { continue };
            let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
            writeln!(out, "\n# {}\n# {key} = {}", help.replace('\n', "\n# "), example_value(arg))?;
        }
    }
    Ok(())
}

/// An option's default as TOML, else an example.
fn example_value(arg: &Arg) -> String {
    let default = arg.get_default_values().first().map(|value| value.to_string_lossy().into_owned());
    let value = default.unwrap_or_else(|| {
        let example = match arg.get_id().as_str() {
            "host" => "unix:///var/run/docker.sock",
            "swarm_host" => "tcp://manager.internal:2376",
            "disk_path" => "/var/lib/docker",
            "disk_min_free" => "20G",
            "ci" => "coop-cloud",
            "run_pattern" => "^ci-[0-9]+([_-]|$)",
            "evict_tagged" => "^registry\\.example\\.org/ci/.*:[0-9a-f]{40}$",
            "prune_at" => "90",
            "disk_target" => "75",
            "state_dir" => "/var/lib/ci-docker-prune",
            "runtime_dir" => "/run/ci-docker-prune",
            "metrics_file" => "/var/lib/node-exporter/ci-docker-prune.prom",
            _ => "",
        };
        example.to_owned()
    });
    match value_type(arg) {
        ValueType::Boolean => "false".into(),
        ValueType::Integer => value.parse().unwrap_or(0_u8).to_string(),
        ValueType::String => quoted(&value),
        ValueType::Strings => format!("[{}]", quoted(&value)),
    }
}

/// A TOML string: a literal one if it has a backslash, which is not an escape there.
fn quoted(text: &str) -> String {
    let quote = if text.contains('\\') { '\'' } else { '"' };
    format!("{quote}{text}{quote}")
}

/// Whether an option can be a key of the configuration file.
pub fn is_key(option: &Arg) -> bool {
    option.is_global_set() && option.get_id() != "config"
}

/// What a key of the configuration file takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ValueType {
    Boolean,
    Integer,
    String,
    /// For an option that can be repeated.
    Strings,
}

pub fn value_type(option: &Arg) -> ValueType {
    let is_percentage = option.get_value_names().is_some_and(|names| names[0] == "PCT");
    match option.get_action() {
        ArgAction::SetTrue => ValueType::Boolean,
        ArgAction::Count => ValueType::Integer,
        ArgAction::Append => ValueType::Strings,
        _ if is_percentage => ValueType::Integer,
        _ => ValueType::String,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        #[test]
        fn no_text_makes_a_parser_panic_and_what_is_taken_fits_a_url(text in "([a-z0-9._:/@-]{1,30}|.{0,60})") {
            let _ = pattern(&text);
            for taken in [registry(&text), image(&text)].into_iter().flatten() {
                proptest::prop_assert!(taken.chars().all(|c| c.is_ascii_graphic() && !"?#%\"".contains(c)));
            }
        }
    }

    #[test]
    fn the_help_of_a_command_has_its_own_options_and_those_that_affect_it() {
        let mut command = command(|option| option);
        let mut help = |name| command.find_subcommand_mut(name).unwrap().render_long_help().to_string();
        let verify = help("verify");
        assert!(verify.contains("--redeploy") && verify.contains("--critical-age"), "{verify}");
        assert!(!verify.contains("--docker-hub"), "for tests: {verify}");
        assert!(!help("status").contains("--critical-age"));
    }
}
