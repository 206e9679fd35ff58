//! Metrics of a prune in Prometheus' text format, for node_exporter's textfile collector.

use prometheus::{GaugeVec, Opts, Registry, TextEncoder};

use super::text::word;
use super::{Ending, Lasting, OUTCOMES, PruneReport, outcome_word};
use crate::execute::Stop;
use crate::gates::{Gate, Verdict, Word, runs};
use crate::ledger::Ledger;
use crate::plan::{Kind, Removal};
use crate::units::{Percent, Time, clean};

const LAST_SUCCESS: &str = "ci_docker_prune_last_success_timestamp_seconds";
const LEDGER_NOTED: &str = "ci_docker_prune_ledger_noted_timestamp_seconds";

const PRESSURE: &str = "ci_docker_prune_pressure_seconds";
const HELD_BACK: &str = "ci_docker_prune_pressure_held_back";

/// What the report does not know.
pub struct Run<'a> {
    pub version: &'a str,
    pub at: Time,
    /// With this run noted.
    pub ledger: &'a Ledger,
    pub target: Percent,
    pub threshold: Percent,
    pub critical: Percent,
}

/// The whole file. Names and units follow Prometheus' conventions: seconds, bytes, and ratios of 1.
///
/// # Errors
/// A name or label that Prometheus does not allow: a fault of this program.
pub fn prune(report: &PruneReport, run: &Run) -> Result<String, prometheus::Error> {
    let registry = Registry::new();
    let metric = |name: &str, help: &str, labels: &[&str]| -> Result<GaugeVec, prometheus::Error> {
        let metric = GaugeVec::new(Opts::new(name, help), labels)?;
        registry.register(Box::new(metric.clone()))?;
        Ok(metric)
    };

    metric("ci_docker_prune_build_info", "The program that ran last.", &["version"])?
        .with_label_values(&[run.version])
        .set(1.0);
    metric("ci_docker_prune_last_run_timestamp_seconds", "When a prune last ran.", &[])?
        .with_label_values::<&str>(&[])
        .set(seconds(run.at));
    if let Some(success) = run.ledger.last_success {
        metric(LAST_SUCCESS, "When a prune last ended with status 0.", &[])?
            .with_label_values::<&str>(&[])
            .set(seconds(success));
    }
    if let Some(noted) = run.ledger.noted_at {
        metric(LEDGER_NOTED, "When image usage was last noted in the ledger.", &[])?
            .with_label_values::<&str>(&[])
            .set(seconds(noted));
    }
    let outcome = metric(
        "ci_docker_prune_last_run_outcome",
        "How the last run ended: 1 for the outcome that it had.",
        &["outcome"],
    )?;
    for name in OUTCOMES {
        outcome.with_label_values(&[name]).set(f64::from(name == outcome_word(report)));
    }

    let verdict =
        metric("ci_docker_prune_gate", "Verdict of each gate: 1 for the one it has.", &["gate", "verdict"])?;
    for gate in &report.gates {
        for possible in [Word::Open, Word::Closed, Word::Unknown] {
            let is = f64::from(possible == gate.word());
            verdict.with_label_values(&[gate.name(), word(possible)]).set(is);
        }
    }
    if let Some(inhibitors) = inhibitors(report) {
        metric("ci_docker_prune_inhibitors", "Commands that keep prune away.", &[])?
            .with_label_values::<&str>(&[])
            .set(inhibitors as f64);
    }

    let used = metric(
        "ci_docker_prune_disk_used_ratio",
        "How full each filesystem is after the run, as df counts.",
        &["path", "resource"],
    )?;
    for usage in &report.after {
        let path = clean(&usage.filesystem.mount_point.display().to_string());
        let resources =
            [("blocks", usage.filesystem.block_percent()), ("inodes", usage.filesystem.inode_percent())];
        for (resource, percent) in resources {
            if let Some(percent) = percent {
                used.with_label_values(&[path.as_str(), resource]).set(ratio(percent));
            }
        }
    }
    let limit = metric(
        "ci_docker_prune_disk_limit_ratio",
        "The limits that the run was given: --disk-target, --disk-threshold, --disk-critical.",
        &["limit"],
    )?;
    for (name, percent) in [("target", run.target), ("threshold", run.threshold), ("critical", run.critical)]
    {
        limit.with_label_values(&[name]).set(ratio(percent));
    }

    metric("ci_docker_prune_last_run_reclaimed_bytes", "Measured change of the filesystems.", &[])?
        .with_label_values::<&str>(&[])
        .set(report.reclaimed as f64);
    let objects = metric(
        "ci_docker_prune_last_run_objects",
        "What became of the objects that the last run looked at.",
        &["kind", "result"],
    )?;
    if let Ending::CarriedOut(outcome) = &report.ending {
        let failed: Vec<&Removal> = outcome.failed.iter().map(|(it, _)| it).collect();
        let skipped: Vec<&Removal> = outcome.skipped.iter().map(|(it, _)| it).collect();
        let removed: Vec<&Removal> = outcome.removed.iter().collect();
        for (result, removals) in [("removed", removed), ("skipped", skipped), ("failed", failed)] {
            for kind in [Kind::Container, Kind::Orphan, Kind::Cached, Kind::BuildCache] {
                let n = removals.iter().filter(|it| it.kind == kind).count();
                objects.with_label_values(&[kind.name(), result]).set(n as f64);
            }
        }
    }
    if let Some(plan) = &report.plan {
        for (kind, container) in [("container", true), ("image", false)] {
            let n = plan.keep.iter().filter(|it| it.container == container).count();
            objects.with_label_values(&[kind, "kept"]).set(n as f64);
        }
    }

    // A run that could not tell says what is known: an alert must not end because of it.
    let told = !matches!(report.ending, Ending::Unanswered | Ending::Failed(_));
    let known = Lasting::of(run.ledger, run.at).filter(|_| !told);
    let pressure = report.pressure.as_ref().or(known.as_ref());
    metric(PRESSURE, "How long the disk has been under pressure.", &[])?
        .with_label_values::<&str>(&[])
        .set(pressure.map_or(0.0, |it| it.duration.as_secs_f64()));
    let blocked = metric(
        HELD_BACK,
        "How many prunes each gate blocked or stopped since the disk is under pressure.",
        &["gate"],
    )?;
    for gate in ["runs", "converge"] {
        let times = pressure.and_then(|it| it.blocked.get(gate)).copied().unwrap_or(0);
        blocked.with_label_values(&[gate]).set(times as f64);
    }
    TextEncoder::new().encode_to_string(&registry.gather())
}

fn seconds(at: Time) -> f64 {
    at.as_millisecond() as f64 / 1e3
}

fn ratio(percent: Percent) -> f64 {
    f64::from(percent.get()) / 100.0
}

/// None where nobody could tell.
fn inhibitors(report: &PruneReport) -> Option<usize> {
    let stopped = match &report.ending {
        Ending::CarriedOut(outcome) => match &outcome.stopped {
            Some(Stop::Inhibited(by)) => by.len(),
            _ => 0,
        },
        _ => 0,
    };
    report.gates.iter().find_map(|gate| match gate {
        Gate::Runs(Verdict::Closed(runs)) => {
            Some(runs.iter().filter(|it| it.kind == runs::Kind::Inhibitor).count())
        }
        Gate::Runs(Verdict::Open(())) => Some(stopped),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{ago, now};

    fn failed() -> PruneReport {
        PruneReport {
            dry_run: false,
            gates: vec![],
            plan: None,
            ending: Ending::Failed("no engine".into()),
            before: vec![],
            after: vec![],
            reclaimed: 0,
            pressure: None,
            occupants: None,
            images_on: None,
        }
    }

    fn run(ledger: &Ledger) -> Run<'_> {
        let percent = |n: &str| n.parse().unwrap();
        let (target, threshold, critical) = (percent("70"), percent("80"), percent("95"));
        Run { version: "1 (abc)", at: now(), ledger, target, threshold, critical }
    }

    #[test]
    fn a_run_that_cannot_tell_keeps_the_pressure_that_was() {
        let mut ledger = Ledger::default();
        ledger.owe(["runs"], ago("2h").unwrap());
        let text = prune(&failed(), &run(&ledger)).unwrap();
        for line in [format!("{PRESSURE} 7200\n"), format!("{HELD_BACK}{{gate=\"runs\"}} 1\n")] {
            assert!(text.contains(&line), "{text}");
        }
        let nothing = PruneReport { ending: Ending::Held, ..failed() };
        assert!(prune(&nothing, &run(&ledger)).unwrap().contains(&format!("{PRESSURE} 0\n")));
    }

    #[test]
    fn the_last_success_is_that_of_the_ledger() {
        let success = ago("1d").unwrap();
        let ledger = Ledger { last_success: Some(success), ..Ledger::default() };
        let text = prune(&failed(), &run(&ledger)).unwrap();
        assert!(text.contains(&format!("{LAST_SUCCESS} {}\n", success.as_second())), "{text}");
        assert!(!prune(&failed(), &run(&Ledger::default())).unwrap().contains(LAST_SUCCESS));
    }
}
