//! Metrics in Prometheus' text format, for node_exporter's textfile collector: of a run, and of what the ledger knows.
//!
//! Names and units follow Prometheus' conventions: base units, and timestamps instead of ages, so that an alert counts on
//! between two runs.

use std::collections::BTreeMap;

use prometheus::{GaugeVec, IntCounter, IntCounterVec, Opts, Registry, TextEncoder};

use crate::execute::Stop;
use crate::facts::Kind;
use crate::gates::{GateState, runs};
use crate::ledger::{Ledger, Totals};
use crate::plan::Removal;
use crate::prune::report::{Attempt, OUTCOMES, OngoingPressure, PruneReport};
use crate::units::{Percent, Time, clean};

type Result<T> = std::result::Result<T, prometheus::Error>;

pub struct RunInfo<'a> {
    pub version: &'a str,
    pub target: Percent,
    pub threshold: Percent,
    pub critical: Percent,
}

#[derive(Default)]
struct File(Registry);

impl File {
    fn metric(&self, name: &str, help: &str, labels: &[&str]) -> Result<GaugeVec> {
        let metric = GaugeVec::new(Opts::new(format!("ci_docker_prune_{name}"), help), labels)?;
        self.0.register(Box::new(metric.clone()))?;
        Ok(metric)
    }

    fn counter(&self, name: &str, help: &str, label: &str) -> Result<IntCounterVec> {
        let metric = IntCounterVec::new(Opts::new(format!("ci_docker_prune_{name}"), help), &[label])?;
        self.0.register(Box::new(metric.clone()))?;
        Ok(metric)
    }

    fn seconds(&self, name: &str, help: &str, seconds: u64) -> Result<()> {
        let metric = IntCounter::with_opts(Opts::new(format!("ci_docker_prune_{name}"), help))?;
        metric.inc_by(seconds);
        self.0.register(Box::new(metric))
    }

    fn value(&self, name: &str, help: &str, value: f64) -> Result<()> {
        self.metric(name, help, &[])?.with_label_values::<&str>(&[]).set(value);
        Ok(())
    }

    fn timestamp(&self, name: &str, help: &str, time: Option<Time>) -> Result<()> {
        time.map_or(Ok(()), |time| self.value(name, help, time.as_millisecond() as f64 / 1e3))
    }

    fn text(self) -> Result<String> {
        TextEncoder::new().encode_to_string(&self.0.gather())
    }
}

/// What the ledger knows: of the runs, of pressure, and of itself.
pub fn ledger(ledger: &Ledger, now: Time) -> Result<String> {
    let file = File::default();
    file.timestamp("last_run_timestamp_seconds", "When a prune last ran.", ledger.last_run)?;
    file.timestamp(
        "last_success_timestamp_seconds",
        "When a prune last ended with status 0.",
        ledger.last_success,
    )?;
    file.timestamp(
        "ledger_recorded_timestamp_seconds",
        "When image usage was last recorded in the ledger.",
        ledger.recorded_at,
    )?;
    file.value("ledger_images", "Images that the ledger knows.", ledger.images.len() as f64)?;
    let pressure = OngoingPressure::of(ledger, now);
    file.value("pressure", "1 while the disk is under pressure.", f64::from(pressure.is_some()))?;
    file.timestamp(
        "pressure_since_timestamp_seconds",
        "Since when the disk has been under pressure; absent while it is not.",
        pressure.as_ref().map(|pressure| pressure.since),
    )?;
    let blocked = file.metric(
        "pressure_blocked",
        "How many prunes each gate has blocked or stopped since the pressure began.",
        &["gate"],
    )?;
    for gate in ["runs", "converge"] {
        let times = pressure.as_ref().and_then(|pressure| pressure.blocked.get(gate));
        blocked.with_label_values(&[gate]).set(times.copied().unwrap_or(0) as f64);
    }
    totals(&file, &ledger.totals)?;
    file.text()
}

fn totals(file: &File, totals: &Totals) -> Result<()> {
    let removed = file.counter("removed_total", "Objects that prunes removed.", "class")?;
    let bytes = file.counter("removed_bytes_total", "What these objects had of their own.", "class")?;
    let blocked = file.counter("blocked_total", "Prunes that each gate blocked.", "gate")?;
    // Also those of which there was none: a rate needs a beginning.
    for class in KINDS.map(|(kind, class)| if class.is_empty() { kind } else { class }) {
        let count = |counts: &BTreeMap<String, u64>| counts.get(class).copied().unwrap_or(0);
        removed.with_label_values(&[class]).inc_by(count(&totals.removed));
        bytes.with_label_values(&[class]).inc_by(count(&totals.removed_bytes));
    }
    for gate in ["disk", "runs", "converge"] {
        blocked.with_label_values(&[gate]).inc_by(totals.blocked.get(gate).copied().unwrap_or(0));
    }
    file.seconds(
        "inhibit_waited_seconds_total",
        "How long commands under inhibit waited for prunes that came.",
        totals.waited.as_secs(),
    )
}

pub fn prune(attempt: &Attempt, run: &RunInfo) -> Result<String> {
    let report = &attempt.report;
    let file = File::default();
    file.metric("build_info", "The program that ran last.", &["version"])?
        .with_label_values(&[run.version])
        .set(1.0);
    let outcome = file.metric(
        "last_run_outcome",
        "How the last prune ended: 1 for its outcome, 0 for the others.",
        &["outcome"],
    )?;
    for name in OUTCOMES {
        outcome.with_label_values(&[name]).set(f64::from(name == attempt.outcome()));
    }
    gates(&file, report)?;
    disk(&file, report, run)?;
    file.value("last_run_reclaimed_bytes", "Measured change of the filesystems.", report.reclaimed() as f64)?;
    objects(&file, report)?;
    file.text()
}

fn gates(file: &File, report: &PruneReport) -> Result<()> {
    let metric =
        file.metric("gate", "State of each gate: 1 for its state, 0 for the others.", &["gate", "state"])?;
    for (gate, is) in report.gates().iter().flat_map(|gates| gates.states()) {
        for state in [GateState::Open, GateState::Closed, GateState::Unknown] {
            metric.with_label_values(&[gate, state.name()]).set(f64::from(state == is));
        }
    }
    match inhibitors(report) {
        Some(inhibitors) => file.value("inhibitors", "Inhibitors that the last run saw.", inhibitors as f64),
        None => Ok(()),
    }
}

fn disk(file: &File, report: &PruneReport, run: &RunInfo) -> Result<()> {
    let ratio = |percent: Percent| f64::from(percent.get()) / 100.0;
    let used = file.metric(
        "disk_used_ratio",
        "How full each filesystem is after the run, as df counts.",
        &["path", "resource"],
    )?;
    for usage in report.after() {
        let path = clean(&usage.filesystem.mount_point.display().to_string());
        let resources = [
            ("blocks", usage.filesystem.block_percent()),
            ("inodes", usage.filesystem.inode_percent()),
            ("metadata", usage.filesystem.metadata_percent()),
        ];
        for (resource, percent) in resources {
            if let Some(percent) = percent {
                used.with_label_values(&[path.as_str(), resource]).set(ratio(percent));
            }
        }
    }
    let limit = file.metric(
        "disk_limit_ratio",
        "The limits that the run was given: --disk-target, --disk-threshold, --disk-critical.",
        &["limit"],
    )?;
    for (name, percent) in [("target", run.target), ("threshold", run.threshold), ("critical", run.critical)]
    {
        limit.with_label_values(&[name]).set(ratio(percent));
    }
    Ok(())
}

fn objects(file: &File, report: &PruneReport) -> Result<()> {
    let objects = file.metric(
        "last_run_objects",
        "What became of the objects that the last run looked at.",
        &["kind", "class", "result"],
    )?;
    if let Some(outcome) = report.outcome() {
        let failed: Vec<&Removal> = outcome.failed.iter().map(|(removal, _)| removal).collect();
        let skipped: Vec<&Removal> = outcome.skipped.iter().map(|(removal, _)| removal).collect();
        let removed: Vec<&Removal> = outcome.removed.iter().collect();
        for (result, removals) in [("removed", removed), ("skipped", skipped), ("failed", failed)] {
            for (kind, class) in KINDS {
                let is_of = |removal: &&&Removal| kind_and_class(removal.object.kind) == (kind, class);
                let n = removals.iter().filter(is_of).count();
                objects.with_label_values(&[kind, class, result]).set(n as f64);
            }
        }
    }
    for kept in report.plan().iter().flat_map(|(plan, _)| &plan.keep) {
        let (kind, class) = kind_and_class(kept.object.kind);
        objects.with_label_values(&[kind, class, "kept"]).inc();
    }
    Ok(())
}

const KINDS: [(&str, &str); 5] =
    [("container", ""), ("image", "tagged"), ("image", "cached"), ("image", "dangling"), ("build-cache", "")];

fn kind_and_class(kind: Kind) -> (&'static str, &'static str) {
    kind.class().map_or((kind.name(), ""), |class| ("image", class.name()))
}

/// How many there were; none where the gate could not be evaluated.
fn inhibitors(report: &PruneReport) -> Option<usize> {
    let stopped = match report.outcome().and_then(|outcome| outcome.stopped.as_ref()) {
        Some(Stop::Inhibited(by)) => by.len(),
        _ => 0,
    };
    let found = runs::found(&report.gates()?.runs)?;
    let inhibitors = found.live().filter(|run| run.kind == runs::RunKind::Inhibitor).count();
    Some(inhibitors.max(stopped))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gates::Verdict;
    use crate::prune::report::Done;
    use crate::testing::{CACHED, DANGLING, TAGGED, ago, done, gates, now, object, removal};

    use crate::execute::Outcome;
    use crate::facts::{Filesystem, Inhibitor, Unavailable, Usage};
    use crate::gates::Gates;
    use crate::plan::{KeepReason, Kept, Plan};

    /// The metrics of a run, without the prefix of their names.
    fn lines_of(report: PruneReport) -> Vec<String> {
        let percent = |text: &str| text.parse().unwrap();
        let run = RunInfo {
            version: "1.2",
            target: percent("70"),
            threshold: percent("80"),
            critical: percent("95"),
        };
        let attempt = Attempt { dry_run: false, report, consumers: None, ledger_error: None };
        let text = prune(&attempt, &run).unwrap();
        text.lines().filter_map(|line| Some(line.strip_prefix("ci_docker_prune_")?.to_owned())).collect()
    }

    #[track_caller]
    fn has(lines: &[String], expected: &str) {
        assert!(lines.iter().any(|line| line == expected), "{expected} {lines:#?}");
    }

    #[test]
    fn what_became_of_each_object_is_counted_by_kind_class_and_result() {
        let error = || crate::testing::status("x", 500, "x");
        let skip = |kind| (removal(kind, ""), crate::execute::Skip::InUse);
        let outcome = Outcome {
            removed: [Kind::Container, Kind::BuildCache, TAGGED].map(|kind| removal(kind, "")).into(),
            skipped: vec![skip(CACHED), skip(CACHED)],
            failed: (0..3).map(|_| (removal(DANGLING, ""), error())).collect(),
            ..Outcome::default()
        };
        let kept = |kind| Kept { object: object(kind, ""), reason: KeepReason::Tagged };
        let keep = vec![kept(Kind::Container), kept(TAGGED), kept(TAGGED)];
        let plan = Plan { keep, ..Plan::default() };
        let lines = lines_of(PruneReport::Done(Box::new(Done { plan, ..done(outcome) })));
        for expected in [
            r#"last_run_objects{class="",kind="container",result="removed"} 1"#,
            r#"last_run_objects{class="",kind="build-cache",result="removed"} 1"#,
            r#"last_run_objects{class="tagged",kind="image",result="removed"} 1"#,
            r#"last_run_objects{class="cached",kind="image",result="removed"} 0"#,
            r#"last_run_objects{class="cached",kind="image",result="skipped"} 2"#,
            r#"last_run_objects{class="cached",kind="image",result="failed"} 0"#,
            r#"last_run_objects{class="dangling",kind="image",result="failed"} 3"#,
            r#"last_run_objects{class="dangling",kind="image",result="skipped"} 0"#,
            r#"last_run_objects{class="",kind="container",result="kept"} 1"#,
            r#"last_run_objects{class="tagged",kind="image",result="kept"} 2"#,
            r#"build_info{version="1.2"} 1"#,
            r#"last_run_outcome{outcome="failed"} 1"#,
            r#"last_run_outcome{outcome="pruned"} 0"#,
            "last_run_reclaimed_bytes 100",
            r#"disk_limit_ratio{limit="target"} 0.7"#,
            r#"disk_limit_ratio{limit="threshold"} 0.8"#,
            r#"disk_limit_ratio{limit="critical"} 0.95"#,
        ] {
            has(&lines, expected);
        }
    }

    #[test]
    fn each_resource_of_each_filesystem_has_its_ratio() {
        let filesystem = Filesystem { inodes: 100, inodes_used: 25, ..crate::testing::usage(85).filesystem };
        let usage = Usage { percent: filesystem.percent().unwrap(), filesystem };
        let done = Done { after: vec![usage], ..done(Outcome::default()) };
        let lines = lines_of(PruneReport::Done(Box::new(done)));
        has(&lines, r#"disk_used_ratio{path="/",resource="blocks"} 0.85"#);
        has(&lines, r#"disk_used_ratio{path="/",resource="inodes"} 0.25"#);
        assert!(!lines.iter().any(|line| line.contains("metadata")), "{lines:#?}");
    }

    #[test]
    fn inhibitors_are_those_that_blocked_a_run_or_stopped_it() {
        let inhibitor = || Inhibitor { pid: None, since: None, why: None, user: None };
        let state = runs::RunState::Live;
        let run = |kind| runs::Run { kind, name: "x".into(), age: None, pid: None, user: None, state };
        let by =
            || vec![run(runs::RunKind::Inhibitor), run(runs::RunKind::Stack), run(runs::RunKind::Inhibitor)];
        let found = || runs::Found { runs: by(), ..Default::default() };
        let closed = || Gates { runs: Verdict::Closed(found()), ..gates(85) };
        let blocked = |gates| PruneReport::Blocked { gates, pressure: None };
        let stopped =
            |by| PruneReport::Done(Box::new(done(Outcome { stopped: Some(by), ..Outcome::default() })));
        let unknown = Gates { runs: Verdict::Unknown(Unavailable("x".into())), ..gates(85) };
        for (report, expected) in [
            (blocked(closed()), Some(2)),
            (blocked(gates(85)), Some(0)),
            (stopped(Stop::Inhibited(vec![inhibitor(), inhibitor(), inhibitor()])), Some(3)),
            (stopped(Stop::Signal), Some(0)),
            (PruneReport::NoAnswer { gates: unknown, why: crate::facts::Unavailable("x".into()) }, None),
            (PruneReport::Failed("x".into()), None),
        ] {
            let shown = format!("{report:?}");
            let lines = lines_of(report);
            let found = lines.iter().find_map(|line| line.strip_prefix("inhibitors "));
            assert_eq!(found.map(|found| found.parse().unwrap()), expected, "{shown}");
        }
        let lines = lines_of(blocked(closed()));
        has(&lines, r#"gate{gate="runs",state="closed"} 1"#);
        has(&lines, r#"gate{gate="runs",state="open"} 0"#);
    }

    #[test]
    fn what_all_prunes_did_is_counted() {
        let mut known = Ledger::default();
        known.totals.remove("cached", 7);
        known.totals.remove("cached", 2);
        known.totals.remove("container", 0);
        known.totals.block("runs");
        known.totals.waited = std::time::Duration::from_secs(90);
        let text = ledger(&known, now()).unwrap();
        for line in [
            "# TYPE ci_docker_prune_removed_total counter",
            r#"ci_docker_prune_removed_total{class="cached"} 2"#,
            r#"ci_docker_prune_removed_total{class="container"} 1"#,
            r#"ci_docker_prune_removed_total{class="tagged"} 0"#,
            r#"ci_docker_prune_removed_total{class="build-cache"} 0"#,
            r#"ci_docker_prune_removed_bytes_total{class="cached"} 9"#,
            r#"ci_docker_prune_blocked_total{gate="runs"} 1"#,
            r#"ci_docker_prune_blocked_total{gate="converge"} 0"#,
            "ci_docker_prune_inhibit_waited_seconds_total 90",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}: {text}");
        }
    }

    #[test]
    fn pressure_is_a_time_that_an_alert_counts_from() {
        let mut known = Ledger::default();
        assert!(!ledger(&known, now()).unwrap().contains("pressure_since"));
        known.owe(["runs"], ago("2h").unwrap());
        let text = ledger(&known, now()).unwrap();
        let since = ago("2h").unwrap().as_second();
        for line in [
            format!("ci_docker_prune_pressure_since_timestamp_seconds {since}\n"),
            "ci_docker_prune_pressure 1\n".into(),
            "ci_docker_prune_pressure_blocked{gate=\"runs\"} 1\n".into(),
            "ci_docker_prune_pressure_blocked{gate=\"converge\"} 0\n".into(),
            "ci_docker_prune_ledger_images 0\n".into(),
        ] {
            assert!(text.contains(&line), "{line}{text}");
        }
    }

    #[test]
    fn the_last_success_is_that_of_the_ledger() {
        let known = Ledger { last_success: ago("1d"), ..Ledger::default() };
        let line = format!("last_success_timestamp_seconds {}\n", ago("1d").unwrap().as_second());
        assert!(ledger(&known, now()).unwrap().contains(&line));
        let nothing = ledger(&Ledger::default(), now()).unwrap();
        assert!(!nothing.contains("last_success") && nothing.contains("ci_docker_prune_pressure 0\n"));
        let entry = crate::ledger::Entry::new(now());
        let known = Ledger {
            last_run: ago("2h"),
            recorded_at: ago("3h"),
            images: [("a".to_owned(), entry)].into(),
            ..Ledger::default()
        };
        let text = ledger(&known, now()).unwrap();
        for (name, value) in [
            ("last_run_timestamp_seconds", ago("2h").unwrap().as_second()),
            ("ledger_recorded_timestamp_seconds", ago("3h").unwrap().as_second()),
            ("ledger_images", 1),
        ] {
            assert!(text.contains(&format!("ci_docker_prune_{name} {value}\n")), "{name} {text}");
        }
    }
}
