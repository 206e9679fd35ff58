//! `prune` and `prune --dry-run`.

use std::collections::HashMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use futures_util::{StreamExt, stream};

use super::gates::{all_unanswered, usages};
use super::survey::{self, Engines, Questions, Survey};
use super::{AT_A_TIME, Signal, ledger, now, occupants, print, watch_signals};
use crate::cli::{self, Output};
use crate::engine::remove::Remover;
use crate::engine::watch::{Scope, Sign, Watch};
use crate::engine::{Engine, EngineError};
use crate::execute::{Asked, Site, Stop, execute};
use crate::exit::Exit;
use crate::facts::{Answer, Unanswered};
use crate::gates::disk::Usage;
use crate::gates::{Gate, Verdict, Word, together};
use crate::host::lock::{self, Taken};
use crate::host::{self, inhibitors};
use crate::ledger::Ledger;
use crate::plan::{self, Inventory, Plan, containers, images};
use crate::report::progress::{self, Bars};
use crate::report::{Ending, Intervention, Lasting, PruneReport, json, metrics, text};
use crate::settings::{self, Prune};
use crate::units::Time;

/// Pressure that could not be relieved for so long, because each prune was blocked or stopped, needs a person.
const BLOCKED_TOO_LONG: Duration = Duration::from_secs(3 * 86_400);

pub async fn run(
    engine: settings::Engine,
    prune: Prune,
    output: Output,
    verbose: bool,
    bars: &Bars,
) -> Result<Exit> {
    let attempt = attempt(&engine, &prune, verbose, bars).await;
    attempt.print(output, verbose)?;
    attempt.log_errors(&prune);
    Ok(attempt.exit)
}

/// A prune that has ended, one way or another.
pub struct Attempt {
    pub report: PruneReport,
    pub exit: Exit,
    /// Why the metrics could not be written.
    metrics: Option<anyhow::Error>,
}

/// Prune, or make the plan of a dry run; note in the ledger how that ended, and write the metrics.
pub async fn attempt(engine: &settings::Engine, prune: &Prune, verbose: bool, bars: &Bars) -> Attempt {
    let report = make(engine, prune, verbose, bars).await.unwrap_or_else(|error| {
        let report = ended(vec![], Ending::Failed(format!("{error:#}")));
        PruneReport { dry_run: prune.dry_run, ..report }
    });
    let exit = match &report.ending {
        Ending::Unanswered | Ending::Failed(_) => Exit::Failed,
        _ if intervention(&report, prune).is_some() => Exit::ManualIntervention,
        Ending::CarriedOut(outcome) if outcome.has_failed() => Exit::Failed,
        _ => Exit::Done,
    };
    let mut attempt = Attempt { report, exit, metrics: None };
    // The prune that is running writes its own.
    if attempt.report.dry_run || attempt.is_beside_another() {
        return attempt;
    }
    let ledger = note_run(prune, exit);
    if let Some(path) = &prune.metrics_file
        && let Err(error) = write_metrics(path, &attempt, prune, &ledger)
    {
        attempt.metrics = Some(error);
        attempt.exit = if exit == Exit::Done { Exit::Failed } else { exit };
    }
    attempt
}

impl Attempt {
    /// Was there nothing to do because another prune is running?
    pub fn is_beside_another(&self) -> bool {
        matches!(self.report.ending, Ending::Busy(..))
    }

    /// Print the report.
    ///
    /// # Errors
    /// Stdout cannot be written.
    pub fn print(&self, output: Output, verbose: bool) -> Result<()> {
        let report = &self.report;
        let failed = matches!(report.ending, Ending::Failed(_));
        match output {
            Output::Json => print(|mut out| json::prune(&mut out, report)),
            Output::Text if failed => Ok(()),
            Output::Text => print(|mut out| text::prune(&mut out, report, verbose)),
        }
    }

    /// Log what went wrong and what needs a person.
    pub fn log_errors(&self, prune: &Prune) {
        let report = &self.report;
        if let Some(error) = &self.metrics {
            log::error!("{error:#}; see --metrics-file");
        }
        if let Some(why) = intervention(report, prune) {
            log::error!("{}: manual intervention required", text::intervention(&why, &report.gates));
        }
        match &report.ending {
            Ending::Unanswered if !report.dry_run => {
                log::error!("nothing was removed: {}", text::unanswered(&report.gates));
            }
            Ending::Failed(why) => log::error!("{why}"),
            _ => {}
        }
    }
}

/// Why a prune that did not fail needs a person all the same.
fn intervention<'a>(report: &'a PruneReport, prune: &Prune) -> Option<Intervention<'a>> {
    if report.dry_run {
        return None;
    }
    let critical = prune.policy.critical;
    if let Some(usage) = report.after.first().filter(|usage| critical.is_reached(usage)) {
        return Some(Intervention::Critical(usage, critical.percent));
    }
    let was_blocked = match &report.ending {
        Ending::Held => true,
        Ending::CarriedOut(outcome) => outcome.stopped.is_some(),
        _ => false,
    };
    let pressure = report.pressure.as_ref().filter(|_| was_blocked)?;
    pressure.owed.filter(|owed| *owed >= BLOCKED_TOO_LONG).map(|_| Intervention::Blocked(pressure))
}

/// Note in the ledger that a prune ran; what is known where that cannot be written.
fn note_run(prune: &Prune, exit: Exit) -> Ledger {
    let now = now();
    let change = |ledger: &mut Ledger| {
        ledger.last_run = Some(now);
        if exit == Exit::Done {
            ledger.last_success = Some(now);
        }
    };
    ledger::note(&prune.state_dir, now, change).unwrap_or_else(|error| {
        log::info!("{error:#}");
        let mut known = ledger::look(&prune.state_dir);
        change(&mut known);
        known
    })
}

fn write_metrics(path: &Path, attempt: &Attempt, prune: &Prune, ledger: &Ledger) -> Result<()> {
    let run = metrics::Run {
        version: cli::VERSION.as_str(),
        at: ledger.last_run.unwrap_or_else(now),
        ledger,
        target: prune.policy.target.percent,
        threshold: prune.policy.threshold.percent,
        critical: prune.policy.critical.percent,
    };
    let text = metrics::prune(&attempt.report, &run)?;
    host::replace(path, |file| file.write_all(text.as_bytes()))
}

async fn make(engine: &settings::Engine, prune: &Prune, verbose: bool, bars: &Bars) -> Result<PruneReport> {
    if prune.dry_run {
        return look(engine, prune, None, verbose).await;
    }
    let runtime_dir = &prune.runs.runtime_dir;
    inhibitors::prepare(runtime_dir, engine.host.socket())
        .context("name another directory with --runtime-dir")?;
    match lock::take(runtime_dir)? {
        Taken::Mine(_lock) => carry_out(engine, prune, bars).await,
        Taken::Busy(pid) => Ok(ended(vec![], Ending::Busy(pid, runtime_dir.clone()))),
    }
}

fn ended(gates: Vec<Gate>, ending: Ending) -> PruneReport {
    let before = measured(&gates);
    let after = before.clone();
    PruneReport {
        dry_run: false,
        plan: None,
        ending,
        after,
        before,
        gates,
        reclaimed: 0,
        pressure: None,
        occupants: None,
        images_on: None,
    }
}

fn is_under_pressure(gates: &[Gate]) -> bool {
    gates.iter().any(|it| matches!(it, Gate::Disk(Verdict::Open(_))))
}

fn measured(gates: &[Gate]) -> Vec<Usage> {
    let found = gates.iter().find_map(|gate| match gate {
        Gate::Disk(Verdict::Open(measured) | Verdict::Closed(measured)) => Some(measured.usages.clone()),
        _ => None,
    });
    found.unwrap_or_default()
}

fn evaluate(engines: &Engines, survey: &Survey, prune: &Prune, now: Time) -> Vec<Gate> {
    vec![survey.disk(engines, &prune.disk), survey.runs(&prune.runs, now), survey.converge(now)]
}

/// The plan of a run at this moment, whatever the gates say; for the disk as it is, or for this usage.
/// With a look at what fills the disk, which may take a while, if that is wanted.
pub async fn look(
    engine: &settings::Engine,
    prune: &Prune,
    usage: Option<Usage>,
    fills: bool,
) -> Result<PruneReport> {
    let engines = Engines::connect(engine).await.map_err(|why| anyhow!(why.0))?;
    let survey = survey::take(&engines, Questions::EVERYTHING).await;
    let now = now();
    let gates = evaluate(&engines, &survey, prune, now);
    let mut inventory = match inventory(&engines.local, &survey).await {
        Ok(inventory) => inventory,
        // Without the services nobody can say what they need.
        Err(error) if together(&gates) == Word::Unknown => {
            log::warn!("no plan: {error:#}");
            return Ok(PruneReport { dry_run: true, ..ended(gates, Ending::Unanswered) });
        }
        Err(error) => return Err(error),
    };
    let mut known = ledger::look(&prune.state_dir);
    let mut seen = ledger::sightings(&engines.local, &survey, known.noted, now).await?;
    ledger::list(&mut seen, &inventory, now);
    known.note(&seen, now);
    let places = survey.disk_places(&engines, &prune.disk);
    let usage = usage.or_else(|| places.and_then(|it| fullest(&it.images)).ok());
    let plan = make_plan(&engines.local, &mut inventory, &known, &prune.policy, usage.as_ref(), now).await?;
    let ending = if together(&gates) == Word::Unknown { Ending::Unanswered } else { Ending::Looked };
    let report = PruneReport { dry_run: true, plan: Some(plan), images_on: usage, ..ended(gates, ending) };
    let occupants = match fills {
        true => Some(occupants::find(&engines, &survey, &inventory, &known, &report, now).await),
        false => None,
    };
    Ok(PruneReport { occupants, ..report })
}

async fn carry_out(engine: &settings::Engine, prune: &Prune, bars: &Bars) -> Result<PruneReport> {
    let told_to_end = watch_signals(&[Signal::SIGTERM, Signal::SIGINT])?;
    let engines = match Engines::connect(engine).await {
        Ok(engines) => engines,
        Err(why) => return Ok(ended(all_unanswered(&why), Ending::Unanswered)),
    };
    // Before the gates are asked, so that nothing can begin unseen in between.
    let watches = match watch(&engines, prune, now()).await {
        Ok(watches) => watches,
        Err(why) => return Ok(ended(all_unanswered(&why.into()), Ending::Unanswered)),
    };
    let survey = survey::take(&engines, Questions::EVERYTHING).await;
    let now = now();
    let gates = evaluate(&engines, &survey, prune, now);
    if together(&gates) == Word::Unknown {
        if is_under_pressure(&gates)
            && let Err(error) = ledger::note(&prune.state_dir, now, |ledger| ledger.owe([], now))
        {
            log::info!("{error:#}");
        }
        return Ok(ended(gates, Ending::Unanswered));
    }
    // Noted on every day, so that ages are known on the day when the disk is full.
    let mut inventory = inventory(&engines.local, &survey).await?;
    let known = note(&engines.local, &survey, &inventory, &gates, &prune.state_dir, now).await?;
    if together(&gates) == Word::Closed {
        let pressure = known.pressure.as_ref().map(|it| Lasting::new(it, now));
        let report = PruneReport { pressure, ..ended(gates, Ending::Held) };
        // A run that waits for space waits for ever: then an operator must know what holds it.
        let critical = report.after.first().is_some_and(|it| prune.policy.critical.is_reached(it));
        let occupants = match critical {
            true => Some(occupants::find(&engines, &survey, &inventory, &known, &report, now).await),
            false => None,
        };
        return Ok(PruneReport { occupants, ..report });
    }
    let before = measured(&gates);
    let places = survey.disk_places(&engines, &prune.disk).map_err(|why| anyhow!(why.0))?;
    let usage = fullest(&places.images).map_err(|why| anyhow!(why.0))?;
    let plan = make_plan(&engines.local, &mut inventory, &known, &prune.policy, Some(&usage), now).await?;

    let bar = progress::bar(bars, plan.remove.len());
    let site = Site {
        engine: &engines.local,
        remover: &Remover::new(&engines.local),
        watches: &watches,
        runtime_dir: &prune.runs.runtime_dir,
        told_to_end: &told_to_end,
        progress: &|done| bar.set_position(u64::try_from(done).unwrap_or(u64::MAX)),
    };
    let outcome =
        execute(plan.clone(), site, async || ask_again(&engines, prune).await, || fullest(&places.images))
            .await;
    bar.finish_and_clear();

    let after = usages(survey::measure(&places.measured)).unwrap_or_else(|why| {
        log::warn!("after the prune: {}", why.0);
        before.clone()
    });
    let relieved = !after.iter().any(|it| prune.disk.limit.is_reached(it));
    let stopped_by = match &outcome.stopped {
        Some(Stop::Gates(gates)) => gates.iter().map(Gate::name).collect(),
        Some(Stop::Inhibited(_) | Stop::Sign(Sign::Run(_))) => vec!["runs"],
        Some(Stop::Sign(Sign::ServiceCreated(_) | Sign::ServiceUpdated(_) | Sign::Pulled(_))) => {
            vec!["converge"]
        }
        Some(Stop::Sign(Sign::Lost(_)) | Stop::Signal | Stop::Unanswered(_)) | None => vec![],
    };
    let noted = ledger::note(&prune.state_dir, now, |ledger| {
        ledger.forget(outcome.removed.iter().map(|it| it.id.as_str()));
        match relieved {
            true => ledger.clear_pressure(),
            false if outcome.stopped.is_some() || outcome.has_failed() => ledger.owe(stopped_by, now),
            false => ledger.settle(now),
        }
    });
    let pressure = match noted {
        Ok(ledger) => ledger.pressure.map(|it| Lasting::new(&it, now)),
        // On a full disk it may be so: what was known at the start holds.
        Err(error) => {
            log::warn!("{error:#}");
            known.pressure.as_ref().filter(|_| !relieved).map(|it| Lasting::new(it, now))
        }
    };
    let reclaimed = used(&before).saturating_sub(used(&after));
    let report = PruneReport {
        dry_run: false,
        plan: Some(plan),
        gates,
        ending: Ending::CarriedOut(outcome),
        before,
        after,
        reclaimed,
        pressure,
        occupants: None,
        images_on: Some(usage),
    };
    // Who is told that the disk is still full wants to know with what; who told us to end does not wait.
    let occupants = match !relieved && !told_to_end.load(Ordering::Relaxed) {
        true => Some(occupants::find(&engines, &survey, &inventory, &known, &report, now).await),
        false => None,
    };
    Ok(PruneReport { occupants, ..report })
}

/// Subscribe to the events of every engine that is asked.
async fn watch(engines: &Engines, prune: &Prune, since: Time) -> Result<Vec<Watch>, EngineError> {
    let mut watches = Vec::new();
    let pattern = &prune.runs.policy.pattern;
    watches.push(engines.local.watch(Scope::Everything(since), pattern.clone()).await?);
    if let Some(manager) = &engines.manager {
        watches.push(manager.watch(Scope::Services, pattern.clone()).await?);
    }
    Ok(watches)
}

fn used(usages: &[Usage]) -> u64 {
    usages.iter().map(|it| it.filesystem.used).sum()
}

fn fullest(places: &[PathBuf]) -> Answer<Usage> {
    let usages = usages(survey::measure(places))?;
    usages.into_iter().next().ok_or_else(|| Unanswered("no filesystem to measure".into()))
}

/// `runs` and `converge`, asked anew, and the images that containers use.
async fn ask_again(engines: &Engines, prune: &Prune) -> Asked {
    let survey = survey::take(engines, Questions::EVERYTHING).await;
    let now = now();
    let mut closed = vec![survey.runs(&prune.runs, now), survey.converge(now)];
    closed.retain(|gate| gate.word() != Word::Open);
    let in_use = survey.containers.iter().flatten().map(|it| it.image_id.clone()).collect();
    Asked { closed, in_use }
}

/// Everything that is there.
async fn inventory(engine: &Engine, survey: &Survey) -> Result<Inventory> {
    let known = |why: &Unanswered| anyhow!(why.0.clone());
    Ok(Inventory {
        containers: survey.containers.clone().map_err(|why| known(&why))?,
        services: survey.services.clone().map_err(|why| known(&why))?,
        tasks: survey.tasks.clone().map_err(|why| known(&why))?,
        images: engine.images().await?,
        build_cache: vec![],
    })
}

/// Complete the inventory by what only single questions tell, and plan.
async fn make_plan(
    engine: &Engine,
    inventory: &mut Inventory,
    ledger: &Ledger,
    policy: &plan::Policy,
    usage: Option<&Usage>,
    now: Time,
) -> Result<Plan> {
    // One object that cannot be asked about must not keep everything else from being pruned.
    let build_cache = async {
        engine.build_cache().await.unwrap_or_else(|error| {
            log::warn!("the build cache stays: {error}");
            vec![]
        })
    };
    let orphans: Vec<String> =
        images::wanting_tag_time(inventory, ledger, policy, now).map(|image| image.id.clone()).collect();
    let inspected = stream::iter(orphans).map(|id| async move {
        let image = engine.image(&id).await;
        (id, image)
    });
    let inspected = inspected.buffer_unordered(AT_A_TIME).collect::<HashMap<String, _>>();
    let ended = inventory.containers.iter_mut().filter(|it| containers::wants_finish_time(it, policy, now));
    let finished = stream::iter(ended).map(|container| async move {
        match engine.finish_time(&container.id).await {
            Ok(finished) => container.finished = finished,
            Err(error) => log::warn!("container {} stays: {error}", container.id),
        }
    });
    let finished = finished.buffer_unordered(AT_A_TIME).collect::<()>();
    let (build_cache, inspected, ()) = tokio::join!(build_cache, inspected, finished);
    inventory.build_cache = build_cache;
    for image in &mut inventory.images {
        match inspected.get(&image.id) {
            Some(Ok(answer)) => image.last_tagged = answer.as_ref().and_then(|it| it.last_tagged),
            Some(Err(error)) => {
                log::warn!("image {} stays: {error}", image.id);
                image.last_tagged = Some(now);
            }
            None => {}
        }
    }
    Ok(plan::make(inventory, ledger, policy, usage, now))
}

/// Note everything that is there; where that cannot be written the run goes on with what is known.
async fn note(
    engine: &Engine,
    survey: &Survey,
    inventory: &Inventory,
    gates: &[Gate],
    state_dir: &Path,
    now: Time,
) -> Result<Ledger> {
    let mut known = ledger::look(state_dir);
    let mut seen = ledger::sightings(engine, survey, known.noted, now).await?;
    ledger::list(&mut seen, inventory, now);
    let change = |ledger: &mut Ledger| {
        ledger.note(&seen, now);
        let closed: Vec<&str> = gates.iter().filter(|it| it.word() == Word::Closed).map(Gate::name).collect();
        match (is_under_pressure(gates), closed.is_empty()) {
            (false, _) => ledger.clear_pressure(),
            (true, true) => {
                ledger.mark_pressure(now);
            }
            (true, false) => ledger.owe(closed, now),
        }
    };
    match ledger::note(state_dir, now, change) {
        Ok(ledger) => Ok(ledger),
        Err(error) => {
            log::warn!("{error:#}; going on with what is known");
            change(&mut known);
            Ok(known)
        }
    }
}
