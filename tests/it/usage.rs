//! Wrong usage: exit status 2, the option's name, and nothing asked of any engine.

use std::os::unix::fs::MetadataExt;

use predicates::prelude::*;
use predicates::str::contains;

use crate::support::bare;

#[test]
fn bad_values_name_their_option() {
    let table: [(&[&str], &str); 29] = [
        (&["disk", "--disk-threshold", "101"], "--disk-threshold"),
        (&["disk", "--disk-threshold", "-1"], "--disk-threshold"),
        (&["prune", "--critical-age", "-1d"], "--critical-age"),
        (&["check-gates", "disk", "run"], "runs"),
        (&["explain"], "NAME|ID"),
        (&["man", "--host", "unix:///x"], "man takes no --host"),
        // A flag is no value of the option before it.
        (&["prune", "--keep-label", "--dry-run"], "--keep-label"),
        (&["prune", "--run-pattern", "--dry-run"], "--run-pattern"),
        (&["prune", "--critical-age", "--dry-run"], "--critical-age"),
        (&["-q", "disk", "-v"], "--quiet and --verbose exclude each other"),
        (&["completions", "bash", "-q"], "completions takes no --quiet"),
        (&["disk", "--disk-threshold", "80.5"], "--disk-threshold"),
        (&["disk", "--disk-threshold", ""], "--disk-threshold"),
        (&["prune", "--disk-target", "90"], "--disk-target 90 must not exceed --disk-threshold 80 (default)"),
        (
            &["prune", "--disk-critical", "79"],
            "--disk-threshold 80 (default) must not exceed --disk-critical 79",
        ),
        (&["prune", "--older-than", "soon"], "--older-than"),
        (&["prune", "--critical-age", "7"], "--critical-age"),
        (&["runs", "--run-pattern", "("], "--run-pattern"),
        (&["runs", "--run-pattern", ""], "--run-pattern"),
        (&["prune", "--keep-label", "=x"], "--keep-label"),
        (&["prune", "--evict-tagged", "("], "--evict-tagged"),
        (&["disk", "--disk-min-free", "20X"], "--disk-min-free"),
        (&["record", "--prune-at", "101"], "--prune-at"),
        (&["disk", "--timeout", "0s"], "--timeout"),
        (&["prune", "--removal-timeout", "10s"], "--removal-timeout"),
        (&["disk", "--host", "docker.sock"], "--host"),
        (&["disk", "--swarm-host", "manager"], "--swarm-host"),
        (&["disk", "--output", "yaml"], "--output"),
        (&["prnue"], "'prune'"),
    ];
    for (arguments, expected) in table {
        let assert = bare().args(arguments).assert().code(2).stdout("");
        assert.stderr(contains(expected));
    }
}

#[test]
fn the_environment_is_checked_like_the_command_line() {
    bare().env("DOCKER_HOST", "nowhere").arg("disk").assert().code(2).stderr(contains("DOCKER_HOST"));
    // No option has a variable of its own.
    bare().env("CI_DOCKER_PRUNE_DISK_THRESHOLD", "full").args(["check-config"]).assert().success();
}

/// A configuration file with this text.
fn config(text: &str) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), text).unwrap();
    file
}

#[test]
fn a_flag_wins_over_the_file_and_the_file_over_the_default() {
    let file = config("disk-threshold = 60\nkeep-label = [\"a\", \"b\"]\n");
    let path = file.path().to_str().unwrap();
    // The target's default follows the threshold.
    let valid = bare().args(["check-config", path]).assert().success();
    valid.stdout(contains("is valid and sets 2 keys"));
    let by_name = |arguments: &[&str]| bare().args(["--config", path]).args(arguments).assert();
    by_name(&["check-config"]).success();
    bare().env("CI_DOCKER_PRUNE_CONFIG", path).arg("check-config").assert().success().stdout(contains(path));
    by_name(&["disk", "--disk-target", "61"])
        .code(2)
        .stderr(contains(format!("--disk-target 61 must not exceed disk-threshold = 60 ({path}:1)")));
    by_name(&["check-config", "--disk-target", "61", "--disk-threshold", "61"]).success();
    // A flag given twice takes the last, wherever it stands.
    by_name(&["--disk-threshold", "62", "check-config", "--disk-target", "90", "--disk-target", "61"])
        .success();
    bare().args(["check-config", "-o", "json", path]).assert().success().stdout(contains("\"keys\":2"));
    // Without one.
    let none = bare().env_remove("CI_DOCKER_PRUNE_CONFIG").arg("check-config").assert().success();
    none.stdout(contains("the defaults apply").or(contains("/etc/ci-docker-prune.toml is valid")));
}

#[test]
fn a_wrong_file_is_told_with_file_line_and_key() {
    let file = config("# comment\ndisk-treshold = 60\ncritical-age = 7\n");
    let path = file.path().to_str().unwrap();
    for command in [&["check-config", path][..], &["--config", path, "disk"], &["--config", path, "status"]] {
        let assert = bare().args(command).assert().code(2).stdout("");
        assert.stderr(
            contains(format!("{path}:2: disk-treshold: no such key; did you mean disk-threshold?"))
                .and(contains(format!("{path}:3: critical-age: expected a string, not the integer 7"))),
        );
    }
    let crossing = config("disk-target = 85\n");
    let path = crossing.path().to_str().unwrap();
    bare().args(["check-config", path]).assert().code(2).stderr(contains(format!(
        "disk-target = 85 ({path}:1) must not exceed --disk-threshold 80 (default)"
    )));
    for named in [&["check-config", "/nowhere.toml"][..], &["--config", "/nowhere.toml", "disk"]] {
        bare().args(named).assert().code(2).stderr(contains("/nowhere.toml"));
    }
    // Help is no use of the file.
    bare().args(["--config", "/nowhere.toml", "--help"]).assert().success();
    bare().env("CI_DOCKER_PRUNE_CONFIG", "/nowhere.toml").arg("man").assert().success();
}

#[test]
fn the_example_of_the_configuration_is_the_programs_own_and_valid() {
    // Also where the file that is there is broken.
    bare().args(["check-config", "--example", "--config", "/nowhere"]).assert().success();
    let printed = bare().args(["check-config", "--example"]).assert().success().stderr("");
    let printed = String::from_utf8_lossy(&printed.get_output().stdout).into_owned();
    let kept = include_str!("../../docs/ci-docker-prune.toml");
    assert_eq!(printed, kept, "docs/ci-docker-prune.toml: write check-config --example into it");
    // Every line that is commented out is one that the program takes.
    let keys = printed.lines().filter_map(|line| line.strip_prefix("# ")).filter(|line| line.contains(" = "));
    let file = config(&keys.collect::<Vec<_>>().join("\n"));
    bare().arg("check-config").arg(file.path()).assert().success().stdout(contains("sets 27 keys"));
}

#[test]
fn a_host_that_wants_tls_is_never_asked_in_the_clear() {
    bare()
        .env("DOCKER_TLS_VERIFY", "1")
        .env("DOCKER_CERT_PATH", "/nowhere")
        .args(["disk", "--host", "tcp://127.0.0.1:2376"])
        .assert()
        .code(255)
        .stdout(contains("/nowhere/ca.pem").and(contains("DOCKER_CERT_PATH")));
}

#[test]
fn a_removal_is_always_spelled_out() {
    bare().assert().code(2).stdout("").stderr(contains("Usage:").and(contains("--dry-run")));
    bare().args(["--dry-run", "prune"]).assert().code(2).stderr(contains("prune --dry-run"));
}

#[test]
fn help_fits_100_columns_and_names_every_exit_status() {
    for command in [
        "",
        "prune",
        "check-gates",
        "disk",
        "runs",
        "converge",
        "record",
        "explain",
        "status",
        "inhibit",
        "verify",
        "check-config",
    ] {
        let arguments: Vec<&str> =
            [command, "--help"].into_iter().filter(|argument| !argument.is_empty()).collect();
        let assert = bare().args(arguments).env("COLUMNS", "200").assert().success().stderr("");
        let help = String::from_utf8_lossy(&assert.get_output().stdout).into_owned();
        for line in help.lines() {
            assert!(line.chars().count() <= 100, "{command}: {line}");
        }
    }
    let codes = ["0  ", "1  ", "2  ", "3  ", "10 ", "255"];
    let assert = bare().arg("--help").assert();
    let help = String::from_utf8_lossy(&assert.get_output().stdout).into_owned();
    assert!(codes.iter().all(|code| help.contains(&format!("\n  {code}"))), "{help}");
}

#[test]
fn in_the_journal_lines_carry_their_priority_and_nothing_else() {
    let log = tempfile::NamedTempFile::new().unwrap();
    let identity = log.as_file().metadata().unwrap();
    let run = |stream: String| {
        let program = bare();
        let status = std::process::Command::new(program.get_program())
            .args(["record", "--host", "unix:///nowhere/docker.sock"])
            .env("JOURNAL_STREAM", stream)
            .stderr(log.reopen().unwrap())
            .status()
            .unwrap();
        assert_eq!(status.code(), Some(1));
        std::fs::read_to_string(log.path()).unwrap()
    };
    let (device, inode) = (identity.dev(), identity.ino());
    let line = "no Docker engine at unix:///nowhere/docker.sock";
    assert!(run(format!("{device}:{inode}")).starts_with(&format!("<3>{line}")));
    // Somebody else's journal is not ours.
    assert!(!run(format!("{device}:{}", inode + 1)).starts_with("<3>"));
}

/// What the program prints on a terminal, with these variables.
fn on_a_terminal(variables: &str) -> String {
    let program = bare();
    let command =
        format!("{variables} {} check-gates --host unix:///nowhere", program.get_program().display());
    let output = std::process::Command::new("script")
        .args(["--quiet", "--return", "--command", &command, "/dev/null"])
        .env("TERM", "xterm")
        .env_remove("NO_COLOR")
        // Where it is set, programs colour for a dumb terminal too.
        .env_remove("CI")
        .output()
        .expect("run script (util-linux)");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn there_is_colour_only_on_a_terminal_that_wants_it() {
    let red = "\u{1b}[31munknown\u{1b}[0m";
    assert!(on_a_terminal("").contains(red), "{:?}", on_a_terminal(""));
    for variables in ["NO_COLOR=1", "TERM=dumb"] {
        assert!(!on_a_terminal(variables).contains('\u{1b}'), "{:?}", on_a_terminal(variables));
    }
    let assert = bare().args(["check-gates", "--host", "unix:///nowhere"]).assert().code(255);
    assert.stdout(contains("unknown").and(contains("\u{1b}").not()));
}

#[test]
fn completions_and_the_man_page_know_every_command_and_option() {
    let page = bare().arg("man").assert().success().stderr("");
    let page = String::from_utf8_lossy(&page.get_output().stdout).replace("\\-", "-");
    for word in [
        "check-gates",
        "verify",
        "--redeploy",
        "--why",
        "--disk-threshold",
        "EXIT STATUS",
        "ENVIRONMENT",
        "FILES",
        "SEE ALSO",
    ] {
        assert!(page.contains(word), "{word}: {page}");
    }
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let assert = bare().args(["completions", shell]).assert().success().stderr("");
        assert.stdout(contains("check-gates").and(contains("disk-threshold")));
    }
    bare().args(["completions", "csh"]).assert().code(2).stderr(contains("fish"));
    let help = bare().arg("-h").assert().success();
    help.stdout(contains("completions").not());
    bare().arg("--help").assert().success().stdout(contains("completions SHELL"));
}

#[test]
fn typos_get_a_suggestion() {
    for (arguments, expected) in [
        (["chek-gates", ""], "check-gates"),
        (["prune", "--disk-treshold=80"], "--disk-threshold"),
        (["verify", "--re-deploy=x"], "--redeploy"),
    ] {
        let arguments = arguments.into_iter().filter(|argument| !argument.is_empty());
        bare().args(arguments).assert().code(2).stderr(contains(expected));
    }
}
