//! `prune` and `prune --dry-run`.

use std::cell::RefCell;
use std::io::Write;
use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use indicatif::ProgressBar;

use super::print;
use crate::cli::{self, Output};
use crate::exit::Exit;
use crate::facts::Answer;
use crate::host;
use crate::host::error::HostError;
use crate::ledger::Ledger;
use crate::prune::outcome::{Intervention, PruneOutcome, PruneResult};
use crate::prune::{preview, prune as carry_out};
use crate::report::progress::{self, Bars};
use crate::report::{json, metrics, text};
use crate::settings::{self, PruneSettings};
use crate::units::Time;
use crate::world::World;
use crate::world::real::ThisHost;

/// Pressure that could not be relieved for so long, because each prune was blocked or stopped, requires manual intervention.
const BLOCKED_TOO_LONG: Duration = Duration::from_secs(3 * 86_400);

/// Prune, or show what a prune would do, and report.
///
/// # Errors
/// Stdout cannot be written.
pub async fn run(
    engine: settings::EngineSettings,
    prune: PruneSettings,
    output: Output,
    verbose: bool,
    bars: &Bars,
) -> Result<Exit> {
    let world = ThisHost::new(&engine, &prune.state_dir, &prune.runs.runtime_dir);
    let attempt = attempt(&world, &prune, verbose || !prune.dry_run, bars).await;
    attempt.print(output, verbose)?;
    attempt.log_errors(&prune);
    Ok(attempt.exit)
}

/// A prune that has ended, one way or another.
pub struct Attempt {
    /// What came of it.
    pub report: PruneResult,
    /// The exit status of the contract.
    pub exit: Exit,
    /// Why the metrics could not be written.
    metrics: Option<anyhow::Error>,
}

/// Prune, or make the plan of a dry run; note in the ledger how that ended, and write the metrics. `consumers`: with
/// what fills the disk, where a dry run or a prune that did not help wants to show that; it takes a while.
pub async fn attempt(world: &impl World, prune: &PruneSettings, consumers: bool, bars: &Bars) -> Attempt {
    let result = run_or_preview(world, prune, consumers, bars).await;
    let report = result.unwrap_or_else(|why| PruneResult {
        preview: prune.dry_run,
        ..PruneResult::without_removals(vec![], PruneOutcome::Failed(why.0))
    });
    let exit = match intervention(&report, prune) {
        Some(_) => Exit::ManualIntervention,
        None => status(&report),
    };
    let mut attempt = Attempt { report, exit, metrics: None };
    // The prune that is running writes its own.
    if attempt.report.preview || attempt.is_beside_another() {
        return attempt;
    }
    let ledger = match note_run(world, prune, exit).await {
        Ok(ledger) => ledger,
        Err((error, known)) => {
            // One that could not even begin has said why.
            if !matches!(attempt.report.ending, PruneOutcome::Failed(_)) {
                attempt.report.ledger_error = Some(format!("{error:#}"));
            }
            if attempt.exit == Exit::Done {
                attempt.exit = Exit::Failed;
            }
            known
        }
    };
    if let Some(path) = &prune.metrics_file
        && let Err(error) = write_metrics(path, &attempt, prune, &ledger, world.now())
    {
        attempt.metrics = Some(error);
        attempt.exit = if attempt.exit == Exit::Done { Exit::Failed } else { attempt.exit };
    }
    attempt
}

/// The exit status of a prune that requires no manual intervention.
fn status(report: &PruneResult) -> Exit {
    if report.has_failed() { Exit::Failed } else { Exit::Done }
}

impl Attempt {
    /// The exit status where manual intervention was demanded already.
    pub fn exit_without_intervention(&self) -> Exit {
        status(&self.report)
    }

    /// Was there nothing to do because another prune is running?
    pub fn is_beside_another(&self) -> bool {
        matches!(self.report.ending, PruneOutcome::Busy(..))
    }

    /// Print the report.
    ///
    /// # Errors
    /// Stdout cannot be written.
    pub fn print(&self, output: Output, verbose: bool) -> Result<()> {
        let report = &self.report;
        let failed = matches!(report.ending, PruneOutcome::Failed(_));
        match output {
            Output::Json => print(|mut out| json::prune(&mut out, report)),
            Output::Text if failed => Ok(()),
            Output::Text => print(|mut out| text::prune(&mut out, report, verbose)),
        }
    }

    /// Log what went wrong, and what requires manual intervention.
    pub fn log_errors(&self, prune: &PruneSettings) {
        let report = &self.report;
        if let Some(error) = &self.metrics {
            log::error!("{error:#}; see --metrics-file");
        }
        if let Some(error) = &report.ledger_error {
            log::error!("{error}");
        }
        if let Some(why) = intervention(report, prune) {
            log::error!("{}: manual intervention required", text::intervention(&why, &report.gates));
        }
        match &report.ending {
            PruneOutcome::Unavailable if !report.preview => {
                log::error!("nothing was removed: {}", text::unanswered(&report.gates));
            }
            PruneOutcome::Failed(why) => log::error!("{why}"),
            _ => {}
        }
    }
}

/// Why a prune that did not fail requires manual intervention all the same.
fn intervention<'a>(report: &'a PruneResult, prune: &PruneSettings) -> Option<Intervention<'a>> {
    if report.preview || matches!(report.ending, PruneOutcome::Unavailable | PruneOutcome::Failed(_)) {
        return None;
    }
    let critical = prune.policy.critical;
    if let Some(usage) = report.after.first().filter(|usage| critical.is_reached(usage)) {
        return Some(Intervention::Critical(usage, critical.percent));
    }
    let was_blocked = match &report.ending {
        PruneOutcome::Blocked => true,
        PruneOutcome::CarriedOut(outcome) => outcome.stopped.is_some(),
        _ => false,
    };
    let pressure = report.pressure.as_ref().filter(|_| was_blocked)?;
    pressure.owed.filter(|owed| *owed >= BLOCKED_TOO_LONG).map(|_| Intervention::Blocked(pressure))
}

/// Note in the ledger that a prune ran.
///
/// # Errors
/// The ledger can be neither read nor written; with what is known.
async fn note_run(
    world: &impl World,
    prune: &PruneSettings,
    exit: Exit,
) -> Result<Ledger, (HostError, Ledger)> {
    let now = world.now();
    let change = |ledger: &mut Ledger| {
        ledger.older_than = Some(prune.policy.older_than);
        ledger.last_run = Some(now);
        if exit == Exit::Done {
            ledger.last_success = Some(now);
        }
    };
    world.update_ledger(now, change).await.map_err(|error| {
        let mut known = world.ledger();
        change(&mut known);
        (error, known)
    })
}

fn write_metrics(
    path: &Path,
    attempt: &Attempt,
    prune: &PruneSettings,
    ledger: &Ledger,
    now: Time,
) -> Result<()> {
    let run = metrics::RunInfo {
        version: cli::VERSION.as_str(),
        target: prune.policy.target.percent,
        threshold: prune.policy.threshold.percent,
        critical: prune.policy.critical.percent,
    };
    let text = metrics::prune(&attempt.report, &run)?;
    host::replace(path, |file| file.write_all(text.as_bytes()))?;
    write_ledger_metrics(path, ledger, now)
}

/// What the ledger knows, beside the metrics of a run: `NAME-ledger.prom` for `NAME.prom`.
///
/// # Errors
/// The file cannot be written.
pub fn write_ledger_metrics(path: &Path, ledger: &Ledger, now: Time) -> Result<()> {
    let name = path.file_stem().unwrap_or_default().to_string_lossy();
    let path = path.with_file_name(format!("{name}-ledger.prom"));
    let text = metrics::ledger(ledger, now)?;
    Ok(host::replace(&path, |file| file.write_all(text.as_bytes()))?)
}

async fn run_or_preview(
    world: &impl World,
    prune: &PruneSettings,
    consumers: bool,
    bars: &Bars,
) -> Answer<PruneResult> {
    if prune.dry_run {
        return preview(world, prune, None, consumers).await;
    }
    let bar = RefCell::new(None);
    let show = |progress: Option<(usize, usize)>| match progress {
        Some((done, planned)) => {
            let mut bar = bar.borrow_mut();
            let bar = bar.get_or_insert_with(|| progress::bar(bars, planned));
            bar.set_position(u64::try_from(done).unwrap_or(u64::MAX));
        }
        None => bar.take().into_iter().for_each(|bar: ProgressBar| bar.finish_and_clear()),
    };
    carry_out(world, prune, consumers, &show).await
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::rc::Rc;

    use super::*;
    use crate::execute::{Outcome, Stop};
    use crate::facts::Unavailable;
    use crate::testing::fake::Fake;
    use crate::testing::{ago, block, now, usage};

    /// How an attempt ended, its disk at this percentage after it, and a prune owed for so many hours.
    fn report(ending: PruneOutcome, percent: u64, owed: Option<u64>) -> PruneResult {
        let pressure = owed.map(|hours| crate::prune::outcome::OngoingPressure {
            since: ago("9d").unwrap(),
            duration: Duration::from_secs(9 * 86_400),
            blocked: BTreeMap::new(),
            owed: (hours > 0).then(|| Duration::from_secs(hours * 3_600)),
        });
        let after = vec![usage(percent), usage(1)];
        PruneResult { after, pressure, ..PruneResult::without_removals(vec![], ending) }
    }

    #[test]
    fn a_prune_that_cannot_work_for_days_or_leaves_a_critical_disk_demands_intervention() {
        let settings = crate::settings::read(
            ["ci-docker-prune", "--config=/dev/null", "prune", "--disk-min-free", "999B"].map(Into::into),
        );
        let prune = match settings.unwrap().command {
            settings::Command::Prune(prune) => *prune,
            other => panic!("{other:?}"),
        };
        let done = || PruneOutcome::CarriedOut(Outcome::default());
        let stopped =
            || PruneOutcome::CarriedOut(Outcome { stopped: Some(Stop::Signal), ..Outcome::default() });
        type Row<'a> = (&'a str, PruneResult, Option<&'a str>);
        let table: [Row; 15] = [
            ("blocked for 2 days", report(PruneOutcome::Blocked, 90, Some(48)), None),
            ("blocked for 3 days", report(PruneOutcome::Blocked, 90, Some(72)), Some("blocked")),
            ("stopped for 4 days", report(stopped(), 90, Some(96)), Some("blocked")),
            ("stopped for 2 days", report(stopped(), 90, Some(48)), None),
            ("carried out", report(done(), 90, Some(96)), None),
            ("pressure, and nothing owed", report(PruneOutcome::Blocked, 90, Some(0)), None),
            ("no pressure", report(PruneOutcome::Blocked, 10, None), None),
            ("94 %", report(done(), 94, None), None),
            ("95 %", report(done(), 95, None), Some("critical")),
            ("95 %, blocked", report(PruneOutcome::Blocked, 95, Some(1)), Some("critical")),
            ("95 %, stopped", report(stopped(), 95, None), Some("critical")),
            ("unknown gates", report(PruneOutcome::Unavailable, 95, Some(96)), None),
            ("it failed", report(PruneOutcome::Failed("x".into()), 95, Some(96)), None),
            ("another runs", report(PruneOutcome::Busy(None, "/x".into()), 90, Some(96)), None),
            ("a preview", report(PruneOutcome::Previewed, 95, Some(96)).of_preview(), None),
        ];
        for (what, report, expected) in table {
            let found = intervention(&report, &prune).map(|why| match why {
                Intervention::Critical(usage, limit) => {
                    assert_eq!((usage.percent.get(), limit.get()), (95, 95), "{what}");
                    "critical"
                }
                Intervention::Blocked(_) => "blocked",
            });
            assert_eq!(found, expected, "{what}");
        }
    }

    #[test]
    fn an_attempt_notes_itself_and_writes_its_metrics() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("prune.prom");
        let words = format!(
            "ci-docker-prune --config=/dev/null prune --older-than 2h --metrics-file {}",
            path.display()
        );
        let settings = crate::settings::read(words.split_whitespace().map(Into::into)).unwrap();
        let settings::Command::Prune(prune) = settings.command else { panic!("{:?}", settings.command) };
        let attempted = |fake: Fake, prune: &PruneSettings| {
            let fake = Rc::new(fake);
            let attempt = block(attempt(&fake, prune, false, &progress::hidden()));
            let ledger = fake.ledger.borrow().clone();
            (attempt, ledger)
        };
        let (attempt_, ledger) = attempted(Fake::new(), &prune);
        assert_eq!((attempt_.exit, ledger.older_than), (Exit::Done, Some(Duration::from_secs(7_200))));
        assert_eq!((ledger.last_run, ledger.last_success), (Some(now()), Some(now())));
        let text = std::fs::read_to_string(&path).unwrap();
        for (limit, ratio) in [("target", "0.7"), ("threshold", "0.8"), ("critical", "0.95")] {
            let line = format!("ci_docker_prune_disk_limit_ratio{{limit=\"{limit}\"}} {ratio}\n");
            assert!(text.contains(&line), "{line}{text}");
        }
        let of_ledger = std::fs::read_to_string(folder.path().join("prune-ledger.prom")).unwrap();
        assert!(of_ledger.contains("last_run_timestamp_seconds"), "{of_ledger}");
        // One that fails is no success, and a ledger or metrics that cannot be written fail it.
        let (attempt_, ledger) = attempted(Fake::new().failing("info", 500), &prune);
        assert_eq!((attempt_.exit, ledger.last_run, ledger.last_success), (Exit::Failed, Some(now()), None));
        let (attempt_, _) = attempted(Fake::new().failing("update ledger", 500), &prune);
        assert_eq!((attempt_.exit, attempt_.report.ledger_error.is_some()), (Exit::Failed, true));
        let nowhere = PruneSettings { metrics_file: Some("/nowhere/x.prom".into()), ..*prune };
        let (attempt_, ledger) = attempted(Fake::new(), &nowhere);
        assert_eq!((attempt_.exit, attempt_.metrics.is_some()), (Exit::Failed, true));
        assert_eq!(ledger.last_success, Some(now()));
        // A preview notes nothing.
        let preview = PruneSettings { dry_run: true, ..nowhere };
        let (attempt_, ledger) = attempted(Fake::new(), &preview);
        assert_eq!((attempt_.exit, attempt_.report.preview, ledger), (Exit::Done, true, Ledger::default()));
    }

    #[test]
    fn a_failure_is_status_1() {
        let unread = crate::plan::Unread {
            kind: crate::facts::Kind::BuildCache,
            id: String::new(),
            why: Unavailable("x".into()),
        };
        let plan = crate::plan::Plan { unread: vec![unread], ..crate::plan::Plan::default() };
        let base = |ending| PruneResult::without_removals(vec![], ending);
        let lost = Outcome { stopped: Some(Stop::NoSpace), ..Outcome::default() };
        for (what, report, expected) in [
            ("blocked", base(PruneOutcome::Blocked), Exit::Done),
            ("another runs", base(PruneOutcome::Busy(Some(1), "/x".into())), Exit::Done),
            ("carried out", base(PruneOutcome::CarriedOut(Outcome::default())), Exit::Done),
            ("unknown", base(PruneOutcome::Unavailable), Exit::Failed),
            ("failed", base(PruneOutcome::Failed("x".into())), Exit::Failed),
            ("no space", base(PruneOutcome::CarriedOut(lost)), Exit::Failed),
            (
                "a ledger that cannot be written",
                PruneResult { ledger_error: Some("x".into()), ..base(PruneOutcome::Blocked) },
                Exit::Failed,
            ),
            (
                "something unread",
                PruneResult { plan: Some(plan), ..base(PruneOutcome::Previewed) },
                Exit::Failed,
            ),
        ] {
            assert_eq!(status(&report), expected, "{what}");
        }
    }

    #[test]
    fn each_status_is_that_of_the_contract() {
        for (exit, code) in [
            (Exit::Done, 0),
            (Exit::Failed, 1),
            (Exit::Usage, 2),
            (Exit::Closed, 3),
            (Exit::ManualIntervention, 10),
            (Exit::Unavailable, 255),
            (Exit::OfCommand(7), 7),
        ] {
            let shown = format!("{:?}", std::process::ExitCode::from(exit));
            assert_eq!(shown, format!("{:?}", std::process::ExitCode::from(code)), "{exit:?}");
        }
    }
}
