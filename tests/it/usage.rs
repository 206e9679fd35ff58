//! Wrong usage: exit status 2, the option's name, and nothing asked of any engine.

use std::os::unix::fs::MetadataExt;

use predicates::prelude::*;
use predicates::str::contains;

use crate::support::bare;

#[test]
fn bad_values_name_their_option() {
    let table: [(&[&str], &str); 20] = [
        (&["disk", "--disk-threshold", "101"], "--disk-threshold"),
        (&["disk", "--disk-threshold", "-1"], "-1"),
        (&["disk", "--disk-threshold", "80.5"], "--disk-threshold"),
        (&["disk", "--disk-threshold", ""], "--disk-threshold"),
        (&["prune", "--disk-target", "90"], "--disk-target 90 must not exceed --disk-threshold 80"),
        (&["prune", "--disk-critical", "79"], "nor --disk-threshold --disk-critical 79"),
        (&["prune", "--older-than", "soon"], "--older-than"),
        (&["prune", "--cache-age", "7"], "--cache-age"),
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
        (&["prnue"], "prune"),
    ];
    for (arguments, expected) in table {
        let assert = bare().args(arguments).assert().code(2).stdout("");
        assert.stderr(contains(expected));
    }
}

#[test]
fn the_environment_is_checked_like_the_command_line() {
    bare().env("DOCKER_HOST", "nowhere").arg("disk").assert().code(2).stderr(contains("DOCKER_HOST"));
    bare()
        .env("CI_DOCKER_PRUNE_DISK_THRESHOLD", "full")
        .arg("disk")
        .assert()
        .code(2)
        .stderr(contains("--disk-threshold"));
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
    bare()
        .args(["--disk-threshold", "50", "prune"])
        .assert()
        .code(2)
        .stderr(contains("prune --disk-threshold"));
}

#[test]
fn help_fits_100_columns_and_names_every_exit_status() {
    for command in
        ["", "prune", "check-gates", "disk", "runs", "converge", "record", "status", "inhibit", "verify"]
    {
        let arguments: Vec<&str> = [command, "--help"].into_iter().filter(|it| !it.is_empty()).collect();
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
    for word in ["check-gates", "verify", "--redeploy", "--why", "--disk-threshold", "EXIT STATUS"] {
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
        let arguments = arguments.into_iter().filter(|it| !it.is_empty());
        bare().args(arguments).assert().code(2).stderr(contains(expected));
    }
}
