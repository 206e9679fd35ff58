//! The metrics file, judged by Prometheus' own tool, and the alerts of the docs.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use lab::{Engine, Image};
use predicates::prelude::*;
use predicates::str::contains;

use crate::support::{RUN, cached, program, remember};

/// What promtool says; `tests/run` unpacks it there.
fn promtool(arguments: &[&str], input: &Path) -> (bool, String) {
    let promtool = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/tools/usr/bin/promtool");
    assert!(promtool.exists(), "{} is missing; tests/run unpacks it", promtool.display());
    let output = Command::new(promtool)
        .args(arguments)
        .stdin(Stdio::from(fs::File::open(input).expect("the input")))
        .output()
        .expect("run promtool");
    let text =
        [output.stdout, output.stderr].map(|stream| String::from_utf8_lossy(&stream).into_owned()).concat();
    (output.status.success(), text)
}

/// The value of one sample.
#[track_caller]
fn value(text: &str, sample: &str) -> f64 {
    let line = text.lines().find_map(|line| line.strip_prefix(sample)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("no {sample} in {text}")).parse().expect("a number")
}

#[test]
fn metrics_tell_how_a_run_ended_and_promtool_likes_them() {
    let engine = Engine::start();
    let name = cached(&engine, &Image::new("app", "1").size_mib(64));
    remember(&engine, &[(&engine.image_id(&name), 30)]);
    let path: PathBuf = engine.folder().join("prune.prom");
    let run = |arguments: &[&str], code: i32| -> String {
        let assert = program(&engine).arg("prune").arg("--metrics-file").arg(&path).args(arguments).assert();
        assert.code(code);
        assert_eq!(promtool(&["check", "metrics"], &path), (true, String::new()));
        fs::read_to_string(&path).expect("the metrics")
    };
    let beside = path.with_file_name("prune-ledger.prom");
    let ledger = || {
        assert_eq!(promtool(&["check", "metrics"], &beside), (true, String::new()));
        fs::read_to_string(&beside).expect("the ledger's metrics")
    };
    // Every five minutes: an alert sees a ledger that is not kept.
    program(&engine).arg("record").arg("--metrics-file").arg(&path).assert().success();
    assert!(value(&ledger(), "ci_docker_prune_ledger_recorded_timestamp_seconds") > 1e9 && !path.exists());
    engine.fill_to(85);
    engine.docker(["run", "--detach", "--name", RUN, &name]);
    let blocked = run(&[], 0);
    assert_eq!(value(&blocked, "ci_docker_prune_last_run_outcome{outcome=\"blocked\"}"), 1.0);
    assert_eq!(value(&blocked, "ci_docker_prune_gate{gate=\"runs\",state=\"closed\"}"), 1.0);
    assert_eq!(value(&ledger(), "ci_docker_prune_pressure_blocked{gate=\"runs\"}"), 1.0);
    engine.docker(["rm", "--force", RUN]);

    let pruned = run(&["--disk-target", "75"], 0);
    assert_eq!(value(&pruned, "ci_docker_prune_last_run_outcome{outcome=\"blocked\"}"), 0.0);
    assert_eq!(value(&pruned, "ci_docker_prune_disk_limit_ratio{limit=\"target\"}"), 0.75);
    let path_label = format!("path=\"{}\"", engine.data().display());
    let used =
        value(&pruned, &format!("ci_docker_prune_disk_used_ratio{{{path_label},resource=\"blocks\"}}"));
    assert!((used * 100.0 - engine.df_percent() as f64).abs() < 1.5, "{used}");
    let success = value(&ledger(), "ci_docker_prune_last_success_timestamp_seconds");
    let now = jiff::Timestamp::now().as_second() as f64;
    assert!((now - 60.0..=now + 1.0).contains(&success), "{success}");

    // A failure keeps the last success, and a dry run and a second prune leave the file alone.
    engine.fill_to(97);
    let critical = run(&[], 10);
    assert_eq!(value(&ledger(), "ci_docker_prune_last_success_timestamp_seconds"), success);
    let since = value(&ledger(), "ci_docker_prune_pressure_since_timestamp_seconds");
    assert!((now - 60.0..=now + 60.0).contains(&since), "{since}");
    assert_eq!(run(&["--dry-run"], 0), critical);
    let lock = fs::File::open(engine.folder().join("runtime/prune.lock")).expect("the lock");
    let lock = nix::fcntl::Flock::lock(lock, nix::fcntl::FlockArg::LockExclusive).expect("take it");
    assert_eq!(run(&[], 0), critical);
    drop(lock);
    let mode = std::os::unix::fs::MetadataExt::mode(&fs::metadata(&path).expect("the metrics"));
    assert_eq!(mode & 0o777, 0o644, "the node exporter is another user");
}

#[test]
fn metrics_that_cannot_be_written_are_an_error_that_names_the_option() {
    let engine = Engine::start();
    program(&engine)
        .args(["prune", "--metrics-file", "/nowhere/prune.prom"])
        .assert()
        .code(1)
        .stdout(contains("keeping local image cache"))
        .stderr(contains("cannot write /nowhere/prune.prom").and(contains("--metrics-file")));
    program(&engine)
        .args(["record", "--metrics-file", "/nowhere/prune.prom"])
        .assert()
        .code(1)
        .stderr(contains("cannot write /nowhere/prune-ledger.prom").and(contains("--metrics-file")));
    // Not even an engine is needed to say that there was none.
    let path = engine.folder().join("none.prom");
    let arguments = ["prune", "--host", "unix:///nowhere", "--metrics-file"];
    program(&engine).args(arguments).arg(&path).assert().code(1);
    let text = fs::read_to_string(&path).expect("the metrics");
    assert_eq!(value(&text, "ci_docker_prune_last_run_outcome{outcome=\"failed\"}"), 1.0);
    assert_eq!(promtool(&["check", "metrics"], &path), (true, String::new()));
}

#[test]
fn the_alerts_and_the_dashboard_of_the_docs_are_of_metrics_that_there_are() {
    let page = include_str!("../../docs/metrics.md");
    let rules = page.split("```yaml\n").nth(1).and_then(|rest| rest.split("```").next()).expect("an example");
    let file = tempfile::NamedTempFile::new().expect("a file");
    fs::write(file.path(), rules).expect("write the rules");
    let (fine, said) = promtool(&["check", "rules", &file.path().display().to_string()], file.path());
    assert!(fine && said.contains("3 rules found"), "{said}");
    // And they are about metrics that there are.
    let source = include_str!("../../src/report/metrics.rs");
    let names = |call: &'static str| {
        source.split(call).skip(1).filter_map(|rest| rest.trim_start().split('"').nth(1))
    };
    let calls = [".metric(", ".value(", ".timestamp(", ".counter(", ".seconds("];
    let all = || calls.into_iter().flat_map(names);
    let dashboard: serde_json::Value =
        serde_json::from_str(include_str!("../../docs/grafana.json")).expect("the dashboard is JSON");
    let expressions: Vec<&str> = dashboard["panels"]
        .as_array()
        .expect("panels")
        .iter()
        .flat_map(|panel| panel["targets"].as_array().expect("targets"))
        .map(|target| target["expr"].as_str().expect("an expression"))
        .collect();
    assert!(expressions.len() >= 10, "{expressions:?}");
    for text in expressions.iter().copied().chain([rules]) {
        for word in text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_') {
            let name = word.strip_prefix("ci_docker_prune_");
            assert!(name.is_none_or(|name| all().any(|known| known == name)), "{word}");
        }
    }
    // promtool reads expressions in rules only.
    let rule = |(n, expression): (usize, &&str)| serde_json::json!({"record": format!("panel:{n}"), "expr": expression});
    let group = expressions.iter().enumerate().map(rule).collect::<Vec<_>>();
    let rules = serde_json::json!({"groups": [{"name": "dashboard", "rules": group}]});
    fs::write(file.path(), rules.to_string()).expect("write the rules");
    let (fine, said) = promtool(&["check", "rules", &file.path().display().to_string()], file.path());
    assert!(fine && said.contains(&format!("{} rules found", expressions.len())), "{said}");
    for name in all() {
        assert!(page.contains(&format!("ci_docker_prune_{name}")), "docs/metrics.md has no {name}");
    }
}
