//! `prune` and `prune --dry-run`.

use std::cell::{Cell, RefCell};
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Result;
use indicatif::ProgressBar;

use super::print;
use crate::cli::{self, Output};
use crate::consumers;
use crate::exit::Exit;
use crate::gates::{GateState, Gates};
use crate::host::{self, ThisHost};
use crate::ledger::{Ledger, Totals};
use crate::prune::due::intervention;
use crate::prune::report::{Attempt, PruneReport};
use crate::prune::{self, Mode, moment, warn_of_leftovers};
use crate::report;
use crate::report::progress::{self, Bars};
use crate::report::{advice, metrics, reason};
use crate::settings::{Command, Settings};
use crate::units::{Time, elapsed};
use crate::world::World;

/// Prune, or show what a prune would do, and report.
pub async fn run(host: &ThisHost, settings: &Settings, dry_run: bool, bars: &Bars) -> Result<Exit> {
    let wait = if dry_run { Duration::ZERO } else { settings.wait };
    let ended = attempt(host, settings, dry_run, wait, true, bars).await;
    if dry_run || !settings.quiet || ended.exit != Exit::Done || settings.output == Output::Json {
        ended.print(settings)?;
    }
    ended.log_errors(settings);
    Ok(ended.exit)
}

pub struct Ended {
    pub attempt: Attempt,
    pub exit: Exit,
    /// Manual intervention is required since this one.
    pub is_alarm: bool,
    metrics: Option<anyhow::Error>,
}

/// Prune, or preview it; record in the ledger how that ended, and write the metrics. `wait`: how long a prune may wait
/// for its moment. `is_read`: the report will be
/// read, so that it is worth the time to find out what fills the disk, if that is of interest.
pub async fn attempt(
    world: &impl World,
    settings: &Settings,
    dry_run: bool,
    wait: Duration,
    is_read: bool,
    bars: &Bars,
) -> Ended {
    let moment = if wait.is_zero() { None } else { wait_for_moment(world, settings, wait).await };
    let attempt = run_once(world, settings, dry_run, is_read, bars).await;
    // One that is still due will be tried again soon: what begins lets it go first.
    match moment {
        Some(moment) if matches!(attempt.report, PruneReport::Blocked { .. }) => {
            drop(world.leave(moment, DUE_AGAIN_WITHIN).inspect_err(|error| log::info!("{error:#}")));
        }
        moment => drop(moment),
    }
    let exit = match intervention(&attempt.report, settings.policy.removal.critical) {
        Some(_) => Exit::ManualIntervention,
        None => status(&attempt),
    };
    let mut ended = Ended { attempt, exit, is_alarm: false, metrics: None };
    // The other prune records itself.
    if dry_run || matches!(ended.attempt.report, PruneReport::Busy { .. }) {
        return ended;
    }
    let fail = |exit: &mut Exit| {
        if *exit == Exit::Done {
            *exit = Exit::Failed;
        }
    };
    let now = world.now();
    let waited = waited(world, &ended.attempt.report);
    let is_alarm = Cell::new(false);
    let change = |ledger: &mut Ledger| {
        ledger.older_than = Some(settings.policy.removal.older_than);
        ledger.last_run = Some(now);
        count(&mut ledger.totals, &ended.attempt.report);
        ledger.totals.waited += waited;
        // One that failed does not know.
        if exit != Exit::Failed {
            is_alarm.set(ledger.require_intervention(exit == Exit::ManualIntervention, now));
        }
        if exit == Exit::Done {
            ledger.last_success = Some(now);
        }
    };
    let (ledger, error) = prune::record(world, now, change).await;
    ended.is_alarm = is_alarm.get();
    if let Some(error) = error {
        // If it could not begin, its own error is shown.
        if !matches!(ended.attempt.report, PruneReport::Failed(_)) {
            ended.attempt.ledger_error = Some(error);
        }
        fail(&mut ended.exit);
    }
    let past = report::log::past(&ended.attempt, &settings.started_by, now);
    drop(world.record_prune(&past).await.inspect_err(|error| log::warn!("{error:#}")));
    if let Some(path) = &settings.metrics_file
        && let Err(error) = write_metrics(path, &ended.attempt, settings, &ledger, world.now())
    {
        ended.metrics = Some(error);
        fail(&mut ended.exit);
    }
    ended
}

/// How long the commands waited that have let this prune go first; where it was blocked they may wait on.
fn waited(world: &impl World, report: &PruneReport) -> Duration {
    if !matches!(report, PruneReport::Done(_)) {
        return Duration::ZERO;
    }
    let requests = world.requests().inspect_err(|error| log::info!("{error:#}")).unwrap_or_default();
    let waiting = requests.into_iter().filter(|request| !request.gave_up);
    waiting.filter_map(|request| Some(elapsed(world.now(), request.since?))).sum()
}

fn count(totals: &mut Totals, report: &PruneReport) {
    for removal in report.outcome().iter().flat_map(|outcome| &outcome.removed) {
        totals.remove(removal.object.kind.name(), removal.freed());
    }
    if let PruneReport::Blocked { gates, .. } = report {
        gates.not_open().into_iter().for_each(|gate| totals.block(gate));
    }
}

async fn wait_for_moment<W: World>(world: &W, settings: &Settings, wait: Duration) -> Option<W::Registered> {
    let by_hand = !matches!(settings.command, Command::Record);
    let say = tell_wait(log::Level::Info);
    let waited = async {
        world.prepare()?;
        world.watch_shutdown()?;
        Ok::<_, anyhow::Error>(moment::wait_for_moment(world, &settings.policy, wait, by_hand, &say).await?)
    };
    // What keeps it from waiting keeps it from pruning too, which says so.
    waited.await.inspect_err(|error| log::debug!("{error:#}")).unwrap_or_default()
}

/// The record unit is started again within this: nothing may begin in between that has let its prune go first.
const DUE_AGAIN_WITHIN: Duration = Duration::from_secs(60);

/// A wait that takes longer is logged.
const TOLD_AFTER: Duration = Duration::from_secs(1);

/// Logs once, with the gates that are not open, that something waits for them.
pub fn tell_wait(level: log::Level) -> impl Fn(&Gates) {
    let (began, told) = (Instant::now(), Cell::new(false));
    move |gates| {
        if began.elapsed() < TOLD_AFTER || told.replace(true) {
            return;
        }
        let closed = reason::gates(gates).into_iter().filter(|gate| gate.gate != "disk");
        let closed = closed.filter(|gate| gate.state != GateState::Open);
        let lines: Vec<_> = closed.map(|gate| format!("{}: {}", gate.gate, gate.reason.message)).collect();
        log::log!(level, "waiting for {}", lines.join("; "));
    }
}

/// The exit status of a prune that requires no manual intervention.
pub fn status(attempt: &Attempt) -> Exit {
    if attempt.has_failed() { Exit::Failed } else { Exit::Done }
}

impl Ended {
    pub fn print(&self, settings: &Settings) -> Result<()> {
        print(|mut out| match settings.output {
            Output::Json => report::prune::json_of(&mut out, &self.attempt),
            Output::Text => report::prune::text(&mut out, &self.attempt, settings.verbose),
        })
    }

    /// Log what went wrong, and what requires manual intervention.
    pub fn log_errors(&self, settings: &Settings) {
        let (attempt, critical) = (&self.attempt, settings.policy.removal.critical);
        if let Some(error) = &self.metrics {
            log::error!("{error:#}; see --metrics-file");
        }
        if let Some(error) = &attempt.ledger_error {
            log::error!("{error}");
        }
        if let Some(why) = intervention(&attempt.report, critical) {
            let why = report::prune::intervention(&why, critical.percent, attempt.report.gates());
            log::error!("{why}: manual intervention required");
        }
        match &attempt.report {
            PruneReport::NoAnswer { why, .. } if attempt.dry_run => log::warn!("no plan: {why}"),
            PruneReport::NoAnswer { gates, .. } => {
                log::error!("nothing was removed: {}", report::prune::unanswered(gates));
            }
            PruneReport::Failed(why) => log::error!("{why}"),
            _ => {}
        }
    }
}

async fn run_once(
    world: &impl World,
    settings: &Settings,
    dry_run: bool,
    is_read: bool,
    bars: &Bars,
) -> Attempt {
    let policy = &settings.policy;
    let bar = RefCell::new(None);
    let show = |progress: Option<(usize, usize)>| match progress {
        Some((done, planned)) => {
            let mut bar = bar.borrow_mut();
            let bar = bar.get_or_insert_with(|| progress::bar(bars, planned));
            bar.set_position(u64::try_from(done).unwrap_or(u64::MAX));
        }
        None => bar.take().into_iter().for_each(|bar: ProgressBar| bar.finish_and_clear()),
    };
    let mode = if dry_run { Mode::Preview(None) } else { Mode::Prune(&show) };
    let (report, seen) = match prune::run(world, policy, mode).await {
        Ok(ended) => (ended.report, ended.seen),
        Err(why) => (PruneReport::Failed(why.0), None),
    };
    let mut attempt = Attempt { dry_run, report, consumers: None, ledger_error: None };
    let Some(seen) = seen else { return attempt };
    if is_read {
        warn_of_leftovers(&seen.survey);
        attempt.report.gates().into_iter().flat_map(advice::let_go).for_each(|line| log::warn!("{line}"));
    }
    let wants_consumers = attempt.report.wants_consumers(policy.removal.critical);
    let shows_consumers = wants_consumers || dry_run && settings.verbose;
    // After a signal there is no time for it.
    if is_read && shows_consumers && !world.shutdown_requested() {
        let gone = attempt.report.gone();
        let prune::Seen { engine, survey, inventory, ledger, now } = &seen;
        let found = consumers::ask(world, engine, survey, inventory, ledger, &gone, *now).await;
        attempt.consumers = Some(found);
    }
    attempt
}

fn write_metrics(
    path: &Path,
    attempt: &Attempt,
    settings: &Settings,
    ledger: &Ledger,
    now: Time,
) -> Result<()> {
    let removal = &settings.policy.removal;
    let run = metrics::RunInfo {
        version: cli::VERSION.as_str(),
        target: removal.target.percent,
        threshold: removal.threshold.percent,
        critical: removal.critical.percent,
    };
    let text = metrics::prune(attempt, &run)?;
    host::replace(path, |file| file.write_all(text.as_bytes()))?;
    write_ledger_metrics(path, ledger, now)
}

/// The metrics of the ledger, in a file beside those of a prune: `NAME-ledger.prom` for `NAME.prom`.
pub fn write_ledger_metrics(path: &Path, ledger: &Ledger, now: Time) -> Result<()> {
    let name = path.file_stem().unwrap_or_default().to_string_lossy();
    let path = path.with_file_name(format!("{name}-ledger.prom"));
    let text = metrics::ledger(ledger, now)?;
    host::replace(&path, |file| file.write_all(text.as_bytes()))
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;
    use std::time::Duration;

    use super::*;
    use crate::testing::fake::Fake;
    use crate::testing::{ago, block, now, settings};
    use crate::world::Request;

    #[test]
    fn an_attempt_records_itself_and_writes_its_metrics() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("prune.prom");
        let prune = settings(&format!("prune --older-than 2h --metrics-file {}", path.display()));
        let attempted = |fake: Fake, settings: &Settings, dry_run| {
            let fake = Rc::new(fake);
            let ended = block(attempt(&fake, settings, dry_run, Duration::ZERO, false, &progress::hidden()));
            let ledger = fake.ledger.borrow().clone();
            (ended, ledger)
        };
        let (ended, ledger) = attempted(Fake::new(), &prune, false);
        assert_eq!((ended.exit, ledger.older_than), (Exit::Done, Some(Duration::from_secs(7_200))));
        assert_eq!((ledger.last_run, ledger.last_success), (Some(now()), Some(now())));
        let text = std::fs::read_to_string(&path).unwrap();
        for (limit, ratio) in [("target", "0.75"), ("threshold", "0.8"), ("critical", "0.95")] {
            let line = format!("ci_docker_prune_disk_limit_ratio{{limit=\"{limit}\"}} {ratio}\n");
            assert!(text.contains(&line), "{line}{text}");
        }
        let of_ledger = std::fs::read_to_string(folder.path().join("prune-ledger.prom")).unwrap();
        assert!(of_ledger.contains("last_run_timestamp_seconds"), "{of_ledger}");
        // One that fails is no success, and a ledger or metrics that cannot be written fail it.
        let (ended, ledger) = attempted(Fake::new().failing("info", 500), &prune, false);
        assert_eq!((ended.exit, ledger.last_run, ledger.last_success), (Exit::Failed, Some(now()), None));
        let (ended, _) = attempted(Fake::new().failing("update ledger", 500), &prune, false);
        assert_eq!((ended.exit, ended.attempt.ledger_error.is_some()), (Exit::Failed, true));
        let nowhere = settings("prune --metrics-file /nowhere/x.prom");
        let (ended, ledger) = attempted(Fake::new(), &nowhere, false);
        assert_eq!((ended.exit, ended.metrics.is_some()), (Exit::Failed, true));
        assert_eq!(ledger.last_success, Some(now()));
        // What waited for it is counted once it was carried out.
        let fake = Fake::new();
        let request = |since| Request { since: ago(since), min_free: None, gave_up: false };
        *fake.wanted.borrow_mut() = vec![request("90s"), Request { gave_up: true, ..request("5m") }];
        let (_, ledger) = attempted(fake, &prune, false);
        assert_eq!(ledger.totals.waited, Duration::from_secs(90));
        // A preview records nothing.
        let (ended, ledger) = attempted(Fake::new(), &nowhere, true);
        assert_eq!((ended.exit, ended.attempt.dry_run, ledger), (Exit::Done, true, Ledger::default()));
    }

    #[test]
    fn what_fills_the_disk_is_asked_where_that_is_read_and_there_is_time() {
        let asked = |percent, dry_run, is_read, shutdown| {
            let fake = Fake::new();
            *fake.filesystem.borrow_mut() = crate::testing::usage(percent).filesystem;
            fake.shutdown.set(shutdown);
            let fake = Rc::new(fake);
            let ended = block(attempt(
                &fake,
                &settings("prune"),
                dry_run,
                Duration::ZERO,
                is_read,
                &progress::hidden(),
            ));
            ended.attempt.consumers.is_some()
        };
        assert!(asked(85, false, true, false));
        assert!(!asked(85, false, false, false), "nobody reads it");
        assert!(!asked(85, false, true, true), "a signal");
        assert!(!asked(75, false, true, false), "blocked by a disk with room");
        assert!(asked(85, true, true, false), "a preview that would end under pressure");
        assert!(!asked(75, true, true, false), "a preview on a disk with room");
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
