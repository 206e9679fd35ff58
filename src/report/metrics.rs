//! Metrics in Prometheus' text format, for node_exporter's textfile collector: of a run, and of what the ledger knows.
//!
//! Names and units follow Prometheus' conventions: base units, and timestamps instead of ages, so that an alert counts on
//! between two runs.

use prometheus::{GaugeVec, Opts, Registry, TextEncoder};

use super::text::{class_name, gate_state};
use super::{OUTCOMES, outcome_word};
use crate::execute::Stop;
use crate::facts::ImageClass;
use crate::gates::{Gate, GateState, Verdict, runs};
use crate::ledger::Ledger;
use crate::plan::{ObjectKind, PlannedRemoval};
use crate::prune::outcome::{OngoingPressure, PruneOutcome, PruneResult};
use crate::units::{Percent, Time, clean};

type Result<T> = std::result::Result<T, prometheus::Error>;

/// What the report of a run does not know.
pub struct RunInfo<'a> {
    /// This program's.
    pub version: &'a str,
    /// `--disk-target`.
    pub target: Percent,
    /// `--disk-threshold`.
    pub threshold: Percent,
    /// `--disk-critical`.
    pub critical: Percent,
}

/// A file of metrics.
#[derive(Default)]
struct File(Registry);

impl File {
    fn metric(&self, name: &str, help: &str, labels: &[&str]) -> Result<GaugeVec> {
        let metric = GaugeVec::new(Opts::new(format!("ci_docker_prune_{name}"), help), labels)?;
        self.0.register(Box::new(metric.clone()))?;
        Ok(metric)
    }

    /// A metric without labels.
    fn value(&self, name: &str, help: &str, value: f64) -> Result<()> {
        self.metric(name, help, &[])?.with_label_values::<&str>(&[]).set(value);
        Ok(())
    }

    /// The same, where there is a time.
    fn timestamp(&self, name: &str, help: &str, time: Option<Time>) -> Result<()> {
        time.map_or(Ok(()), |time| self.value(name, help, time.as_millisecond() as f64 / 1e3))
    }

    fn text(self) -> Result<String> {
        TextEncoder::new().encode_to_string(&self.0.gather())
    }
}

/// What the ledger knows: of the runs, of pressure, and of itself.
///
/// # Errors
/// A name or label that Prometheus does not allow: a fault of this program.
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
        ledger.noted_at,
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
        "How many prunes each gate blocked or stopped since the disk is under pressure.",
        &["gate"],
    )?;
    for gate in ["runs", "converge"] {
        let times = pressure.as_ref().and_then(|pressure| pressure.blocked.get(gate));
        blocked.with_label_values(&[gate]).set(times.copied().unwrap_or(0) as f64);
    }
    file.text()
}

/// What the last run found and did.
///
/// # Errors
/// As [`ledger`].
pub fn prune(report: &PruneResult, run: &RunInfo) -> Result<String> {
    let file = File::default();
    file.metric("build_info", "The program that ran last.", &["version"])?
        .with_label_values(&[run.version])
        .set(1.0);
    let outcome = file.metric(
        "last_run_outcome",
        "How the last run ended: 1 for the outcome that it had.",
        &["outcome"],
    )?;
    for name in OUTCOMES {
        outcome.with_label_values(&[name]).set(f64::from(name == outcome_word(report)));
    }
    gates(&file, report)?;
    disk(&file, report, run)?;
    file.value("last_run_reclaimed_bytes", "Measured change of the filesystems.", report.reclaimed as f64)?;
    objects(&file, report)?;
    file.text()
}

fn gates(file: &File, report: &PruneResult) -> Result<()> {
    let metric = file.metric("gate", "State of each gate: 1 for the one it has.", &["gate", "state"])?;
    for gate in &report.gates {
        for state in [GateState::Open, GateState::Closed, GateState::Unknown] {
            let is = f64::from(state == gate.state());
            metric.with_label_values(&[gate.name(), gate_state(state)]).set(is);
        }
    }
    match inhibitors(report) {
        Some(inhibitors) => file.value("inhibitors", "Inhibitors that the last run saw.", inhibitors as f64),
        None => Ok(()),
    }
}

fn disk(file: &File, report: &PruneResult, run: &RunInfo) -> Result<()> {
    let ratio = |percent: Percent| f64::from(percent.get()) / 100.0;
    let used = file.metric(
        "disk_used_ratio",
        "How full each filesystem is after the run, as df counts.",
        &["path", "resource"],
    )?;
    for usage in &report.after {
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

/// By kind and class, as in the JSON.
fn objects(file: &File, report: &PruneResult) -> Result<()> {
    let objects = file.metric(
        "last_run_objects",
        "What became of the objects that the last run looked at.",
        &["kind", "class", "result"],
    )?;
    if let PruneOutcome::CarriedOut(outcome) = &report.ending {
        let failed: Vec<&PlannedRemoval> = outcome.failed.iter().map(|(removal, _)| removal).collect();
        let skipped: Vec<&PlannedRemoval> = outcome.skipped.iter().map(|(removal, _)| removal).collect();
        let removed: Vec<&PlannedRemoval> = outcome.removed.iter().collect();
        for (result, removals) in [("removed", removed), ("skipped", skipped), ("failed", failed)] {
            for (kind, class) in KINDS {
                let is_of = |removal: &&&PlannedRemoval| kind_and_class(removal) == (kind, class);
                let n = removals.iter().filter(is_of).count();
                objects.with_label_values(&[kind, class, result]).set(n as f64);
            }
        }
    }
    for kept in report.plan.iter().flat_map(|plan| &plan.keep) {
        let (kind, class) = kept.class.map_or(("container", ""), |class| ("image", class_name(class)));
        objects.with_label_values(&[kind, class, "kept"]).inc();
    }
    Ok(())
}

const KINDS: [(&str, &str); 5] =
    [("container", ""), ("image", "tagged"), ("image", "cached"), ("image", "dangling"), ("build-cache", "")];

fn kind_and_class(removal: &PlannedRemoval) -> (&'static str, &'static str) {
    match removal.kind {
        ObjectKind::Container => ("container", ""),
        ObjectKind::BuildCache => ("build-cache", ""),
        ObjectKind::Dangling => ("image", class_name(ImageClass::Dangling)),
        ObjectKind::Cached if removal.tags.is_empty() => ("image", class_name(ImageClass::Cached)),
        ObjectKind::Cached => ("image", class_name(ImageClass::Tagged)),
    }
}

/// How many there were; none where the gate could not be evaluated.
fn inhibitors(report: &PruneResult) -> Option<usize> {
    let stopped = match &report.ending {
        PruneOutcome::CarriedOut(outcome) => match &outcome.stopped {
            Some(Stop::Inhibited(by)) => by.len(),
            _ => 0,
        },
        _ => 0,
    };
    report.gates.iter().find_map(|gate| match gate {
        Gate::Runs(Verdict::Closed(runs)) => {
            Some(runs.iter().filter(|run| run.kind == runs::RunKind::Inhibitor).count())
        }
        Gate::Runs(Verdict::Open(())) => Some(stopped),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{ago, now};

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
        ] {
            assert!(text.contains(&line), "{line}{text}");
        }
    }

    #[test]
    fn the_last_success_is_that_of_the_ledger() {
        let known = Ledger { last_success: ago("1d"), ..Ledger::default() };
        let line = format!("last_success_timestamp_seconds {}\n", ago("1d").unwrap().as_second());
        assert!(ledger(&known, now()).unwrap().contains(&line));
        assert!(!ledger(&Ledger::default(), now()).unwrap().contains("last_success"));
    }
}
