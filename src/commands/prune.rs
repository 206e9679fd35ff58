//! `prune` and `prune --dry-run`.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, anyhow};

use super::gates::{all_unanswered, usages};
use super::{disk_consumers, print};
use crate::cli::{self, Output};
use crate::engine::watch::StopEvent;
use crate::execute::{Outcome, Recheck, RunContext, Stop, execute};
use crate::exit::Exit;
use crate::facts::{Answer, Unavailable};
use crate::gates::disk::Usage;
use crate::gates::{Gate, GateState, Verdict, combined_state, converge};
use crate::host;
use crate::host::lock::Acquisition;
use crate::ledger::Ledger;
use crate::observe::{self, Questions, Survey};
use crate::plan::{self, Inventory, Plan};
use crate::report::progress::{self, Bars};
use crate::report::{Intervention, OngoingPressure, PruneOutcome, PruneReport, json, metrics, text};
use crate::settings::{self, Prune};
use crate::units::{Time, age};
use crate::world::real::ThisHost;
use crate::world::{EngineApi, World};

/// Pressure that could not be relieved for so long, because each prune was blocked or stopped, requires manual intervention.
const BLOCKED_TOO_LONG: Duration = Duration::from_secs(3 * 86_400);

/// Prune, or show what a prune would do, and report.
///
/// # Errors
/// Stdout cannot be written.
pub async fn run(
    engine: settings::Engine,
    prune: Prune,
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
    pub report: PruneReport,
    pub exit: Exit,
    /// Why the metrics could not be written.
    metrics: Option<anyhow::Error>,
}

/// Prune, or make the plan of a dry run; note in the ledger how that ended, and write the metrics. `consumers`: with
/// what fills the disk, where a dry run or a prune that did not help wants to show that; it takes a while.
pub async fn attempt(world: &impl World, prune: &Prune, consumers: bool, bars: &Bars) -> Attempt {
    let report = run_or_preview(world, prune, consumers, bars).await.unwrap_or_else(|error| {
        let report = ended(vec![], PruneOutcome::Failed(format!("{error:#}")));
        PruneReport { dry_run: prune.dry_run, ..report }
    });
    let exit = match intervention(&report, prune) {
        Some(_) => Exit::ManualIntervention,
        None => status(&report),
    };
    let mut attempt = Attempt { report, exit, metrics: None };
    // The prune that is running writes its own.
    if attempt.report.dry_run || attempt.is_beside_another() {
        return attempt;
    }
    let ledger = note_run(world, exit).await;
    if let Some(path) = &prune.metrics_file
        && let Err(error) = write_metrics(path, &attempt, prune, &ledger, world.now())
    {
        attempt.metrics = Some(error);
        attempt.exit = if exit == Exit::Done { Exit::Failed } else { exit };
    }
    attempt
}

/// The exit status of a prune that requires no manual intervention.
fn status(report: &PruneReport) -> Exit {
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
    pub fn log_errors(&self, prune: &Prune) {
        let report = &self.report;
        if let Some(error) = &self.metrics {
            log::error!("{error:#}; see --metrics-file");
        }
        if let Some(why) = intervention(report, prune) {
            log::error!("{}: manual intervention required", text::intervention(&why, &report.gates));
        }
        match &report.ending {
            PruneOutcome::Unavailable if !report.dry_run => {
                log::error!("nothing was removed: {}", text::unanswered(&report.gates));
            }
            PruneOutcome::Failed(why) => log::error!("{why}"),
            _ => {}
        }
    }
}

/// Why a prune that did not fail requires manual intervention all the same.
fn intervention<'a>(report: &'a PruneReport, prune: &Prune) -> Option<Intervention<'a>> {
    if report.dry_run || matches!(report.ending, PruneOutcome::Unavailable | PruneOutcome::Failed(_)) {
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

/// Note in the ledger that a prune ran; what is known where that cannot be written.
async fn note_run(world: &impl World, exit: Exit) -> Ledger {
    let now = world.now();
    let change = |ledger: &mut Ledger| {
        ledger.last_run = Some(now);
        if exit == Exit::Done {
            ledger.last_success = Some(now);
        }
    };
    world.update_ledger(now, change).await.unwrap_or_else(|error| {
        log::info!("{error:#}");
        let mut known = world.ledger();
        change(&mut known);
        known
    })
}

fn write_metrics(path: &Path, attempt: &Attempt, prune: &Prune, ledger: &Ledger, now: Time) -> Result<()> {
    let run = metrics::Run {
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
    host::replace(&path, |file| file.write_all(text.as_bytes()))
}

async fn run_or_preview(
    world: &impl World,
    prune: &Prune,
    consumers: bool,
    bars: &Bars,
) -> Result<PruneReport> {
    if prune.dry_run {
        return preview_report(world, prune, None, consumers).await;
    }
    world.prepare().context("name another directory with --runtime-dir")?;
    match world.lock_prunes()? {
        Acquisition::Acquired(_lock) => carry_out(world, prune, consumers, bars).await,
        Acquisition::Held(pid) => Ok(ended(vec![], PruneOutcome::Busy(pid, prune.runs.runtime_dir.clone()))),
    }
}

fn ended(gates: Vec<Gate>, ending: PruneOutcome) -> PruneReport {
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
        disk_consumers: None,
        images_on: None,
    }
}

fn is_under_pressure(gates: &[Gate]) -> bool {
    gates.iter().any(|gate| matches!(gate, Gate::Disk(Verdict::Open(_))))
}

fn measured(gates: &[Gate]) -> Vec<Usage> {
    let found = gates.iter().find_map(|gate| match gate {
        Gate::Disk(Verdict::Open(measured) | Verdict::Closed(measured)) => Some(measured.usages.clone()),
        _ => None,
    });
    found.unwrap_or_default()
}

/// From this age on a service that does not converge is its owner's to fix.
const CONVERGES_WITHIN: Duration = Duration::from_secs(24 * 3_600);

/// What keeps `converge` closed although nothing is under way: an operator must be told by name.
pub fn warn_of_what_hinders(world: &impl World, survey: &Survey, gates: &[Gate]) {
    for name in survey.left_by_proofs(world) {
        log::warn!(
            "service {name} was left behind by a verify --redeploy that was killed; \
             verify --redeploy takes it away, or docker service rm {name}"
        );
    }
    for gate in gates {
        let Gate::Converge(Verdict::Closed(converge::Closed::Converging(converging))) = gate else {
            continue;
        };
        for service in converging {
            let Some(since) = service.age.filter(|age| *age >= CONVERGES_WITHIN) else { continue };
            log::warn!(
                "service {} is not converged ({}/{} tasks run) and was last changed {} ago: no prune can run before its \
                 owner fixes or removes it",
                service.service,
                service.has,
                service.wants,
                age(since)
            );
        }
    }
}

fn evaluate_gates<W: World>(
    world: &W,
    engine: &W::Engine,
    survey: &Survey,
    prune: &Prune,
    now: Time,
) -> Vec<Gate> {
    let disk = survey.disk(world, engine, &prune.disk);
    vec![disk, survey.runs(world, &prune.runs, now), survey.converge(now)]
}

/// The plan of a run at this moment, whatever the gates say; for the disk as it is, or for this usage.
/// With a look at what fills the disk, which may take a while, if that is wanted.
pub async fn preview_report(
    world: &impl World,
    prune: &Prune,
    usage: Option<Usage>,
    fills: bool,
) -> Result<PruneReport> {
    let engine = world.connect().await.map_err(|why| anyhow!(why.0))?;
    let survey = observe::survey(&engine, Questions::EVERYTHING).await;
    let now = world.now();
    let gates = evaluate_gates(world, &engine, &survey, prune, now);
    warn_of_what_hinders(world, &survey, &gates);
    let Preview { plan, inventory, known, usage } =
        match preview(world, &engine, &survey, prune, usage, now).await {
            Ok(preview) => preview,
            // Without the services it is not known what they need.
            Err(error) if combined_state(&gates) == GateState::Unknown => {
                log::warn!("no plan: {error:#}");
                return Ok(PruneReport { dry_run: true, ..ended(gates, PruneOutcome::Unavailable) });
            }
            Err(error) => return Err(error),
        };
    let ending = if combined_state(&gates) == GateState::Unknown {
        PruneOutcome::Unavailable
    } else {
        PruneOutcome::Looked
    };
    let report = PruneReport { dry_run: true, plan: Some(plan), images_on: usage, ..ended(gates, ending) };
    let disk_consumers = match fills {
        true => Some(disk_consumers::find(world, &engine, &survey, &inventory, &known, &report, now).await),
        false => None,
    };
    Ok(PruneReport { disk_consumers, ..report })
}

/// The plan of a run at this moment, and what it was made from.
pub struct Preview {
    pub plan: Plan,
    pub inventory: Inventory,
    /// With what is in use now.
    pub known: Ledger,
    /// Of the filesystem that holds the images, where it could be measured.
    pub usage: Option<Usage>,
}

/// Plan, for the disk as it is, or for this usage; nothing is written.
///
/// # Errors
/// The engine does not answer.
pub async fn preview<W: World>(
    world: &W,
    engine: &W::Engine,
    survey: &Survey,
    prune: &Prune,
    usage: Option<Usage>,
    now: Time,
) -> Result<Preview> {
    let mut inventory = observe::inventory(engine, survey).await?;
    let mut known = world.ledger();
    let mut seen = observe::sightings(engine, survey, known.events_until, now).await?;
    observe::list(&mut seen, &inventory, now);
    known.record(&seen, now);
    let places = survey.disk_places(world, engine, &prune.disk);
    let usage = usage.or_else(|| places.and_then(|places| fullest(world, &places.images)).ok());
    observe::complete(engine, &mut inventory, &known, &prune.policy, now).await;
    let plan = plan::build(&inventory, &known, &prune.policy, usage.as_ref(), now);
    Ok(Preview { plan, inventory, known, usage })
}

/// What a prune works with, once its gates are evaluated.
struct Evaluated<'a, W: World> {
    world: &'a W,
    engine: &'a W::Engine,
    prune: &'a Prune,
    survey: Survey,
    gates: Vec<Gate>,
    now: Time,
}

async fn carry_out(world: &impl World, prune: &Prune, consumers: bool, bars: &Bars) -> Result<PruneReport> {
    world.watch_shutdown()?;
    let engine = match world.connect().await {
        Ok(engine) => engine,
        Err(why) => return Ok(ended(all_unanswered(&why), PruneOutcome::Unavailable)),
    };
    // Before the gates are asked, so that nothing can begin unseen in between: since now by the engine's clock, which
    // need not be ours.
    let subscribed = async {
        let since = engine.info().await?.time.unwrap_or_else(|| world.now());
        engine.subscribe(since, &prune.runs.policy.pattern).await
    };
    let events = match subscribed.await {
        Ok(events) => events,
        Err(why) => return Ok(ended(all_unanswered(&why.into()), PruneOutcome::Unavailable)),
    };
    let survey = observe::survey(&engine, Questions::EVERYTHING).await;
    let now = world.now();
    let gates = evaluate_gates(world, &engine, &survey, prune, now);
    // `record`, every five minutes, does not repeat it each time.
    if consumers {
        warn_of_what_hinders(world, &survey, &gates);
    }
    let evaluated = Evaluated { world, engine: &engine, prune, survey, gates, now };
    evaluated.owe().await;
    if combined_state(&evaluated.gates) == GateState::Unknown {
        return Ok(ended(evaluated.gates, PruneOutcome::Unavailable));
    }
    // Recorded on every day, so that ages are known on the day when the disk is full.
    let inventory = observe::inventory(&engine, &evaluated.survey).await?;
    let known = note(world, &engine, &evaluated.survey, &inventory, &evaluated.gates, now).await?;
    if combined_state(&evaluated.gates) == GateState::Closed {
        return Ok(evaluated.blocked(&inventory, &known, consumers).await);
    }
    evaluated.remove(inventory, &known, &events, consumers, bars).await
}

impl<W: World> Evaluated<'_, W> {
    /// Under pressure a prune is owed until one is carried out, whatever ends this one before: a fault, a signal, or a
    /// power cut.
    async fn owe(&self) {
        let closed = || self.gates.iter().filter(|gate| gate.state() == GateState::Closed).map(Gate::name);
        if is_under_pressure(&self.gates)
            && let Err(error) =
                self.world.update_ledger(self.now, |ledger| ledger.owe(closed(), self.now)).await
        {
            log::info!("{error:#}");
        }
    }

    /// The report of a prune that a gate blocked.
    async fn blocked(self, inventory: &Inventory, known: &Ledger, consumers: bool) -> PruneReport {
        let pressure = OngoingPressure::of(known, self.now);
        let report = PruneReport { pressure, ..ended(self.gates, PruneOutcome::Blocked) };
        // A run that waits for space waits for ever: then an operator must know what takes it.
        let critical = report.after.first().is_some_and(|usage| self.prune.policy.critical.is_reached(usage));
        let disk_consumers = match critical && consumers {
            true => {
                let (survey, now) = (&self.survey, self.now);
                Some(
                    disk_consumers::find(self.world, self.engine, survey, inventory, known, &report, now)
                        .await,
                )
            }
            false => None,
        };
        PruneReport { disk_consumers, ..report }
    }

    /// Plan and carry out, and tell what came of it.
    async fn remove(
        self,
        mut inventory: Inventory,
        known: &Ledger,
        events: &<W::Engine as EngineApi>::Events,
        consumers: bool,
        bars: &Bars,
    ) -> Result<PruneReport> {
        let Self { world, engine, prune, ref survey, now, .. } = self;
        let before = measured(&self.gates);
        let places = survey.disk_places(world, engine, &prune.disk).map_err(|why| anyhow!(why.0))?;
        let usage = fullest(world, &places.images).map_err(|why| anyhow!(why.0))?;
        observe::complete(engine, &mut inventory, known, &prune.policy, now).await;
        let plan = plan::build(&inventory, known, &prune.policy, Some(&usage), now);

        let bar = progress::bar(bars, plan.remove.len());
        let progress = |done| bar.set_position(u64::try_from(done).unwrap_or(u64::MAX));
        let context = RunContext { world, engine, events, progress: &progress };
        let ask = async || ask_again(world, engine, prune).await;
        let outcome = execute(plan.clone(), context, ask, || fullest(world, &places.images)).await;
        bar.finish_and_clear();

        let after = usages(world.measure(&places.measured)).unwrap_or_else(|why| {
            log::warn!("after the prune: {}", why.0);
            before.clone()
        });
        let relieved = !after.iter().any(|usage| prune.disk.limit.is_reached(usage));
        let change = |ledger: &mut Ledger| settle(ledger, &outcome, relieved, now);
        let pressure = match world.update_ledger(now, change).await {
            Ok(ledger) => OngoingPressure::of(&ledger, now),
            // On a full disk it may be so: what was known at the start holds.
            Err(error) => {
                log::warn!("{error:#}");
                OngoingPressure::of(known, now).filter(|_| !relieved)
            }
        };
        let reclaimed = used(&before).saturating_sub(used(&after));
        let report = PruneReport {
            dry_run: false,
            plan: Some(plan),
            gates: self.gates,
            ending: PruneOutcome::CarriedOut(outcome),
            before,
            after,
            reclaimed,
            pressure,
            disk_consumers: None,
            images_on: Some(usage),
        };
        // On a disk that is still full an operator wants to know with what; at a signal there is no time for it.
        let disk_consumers = match consumers && !relieved && !world.shutdown_requested() {
            true => Some(disk_consumers::find(world, engine, survey, &inventory, known, &report, now).await),
            false => None,
        };
        Ok(PruneReport { disk_consumers, ..report })
    }
}

/// What a ledger keeps of a prune that was carried out as far as it went.
fn settle(ledger: &mut Ledger, outcome: &Outcome, relieved: bool, now: Time) {
    ledger.forget(outcome.removed.iter().map(|removal| removal.id.as_str()));
    let stuck = outcome.failed.iter().find(|(_, error)| error.timed_out());
    let stuck = stuck.map(|(removal, _)| (removal.kind.name().to_owned(), removal.id.clone()));
    // One that had no turn this time is still last the next time.
    let had_no_turn =
        |(_, id): &(String, String)| outcome.skipped.iter().any(|(removal, _)| removal.id == *id);
    ledger.stuck = stuck.or_else(|| ledger.stuck.take().filter(had_no_turn));
    match relieved {
        true => ledger.clear_pressure(),
        false if outcome.stopped.is_some() || outcome.has_failed() => ledger.owe(stopped_by(outcome), now),
        false => ledger.settle(outcome.freed_nothing.is_some(), now),
    }
}

/// The gates that stopped a prune.
fn stopped_by(outcome: &Outcome) -> Vec<&'static str> {
    match &outcome.stopped {
        Some(Stop::Gates(gates)) => gates.iter().map(Gate::name).collect(),
        Some(Stop::Inhibited(_) | Stop::Event(StopEvent::Run(_))) => vec!["runs"],
        Some(Stop::Event(
            StopEvent::ServiceCreated(_) | StopEvent::ServiceUpdated(_) | StopEvent::Pulled(_),
        )) => vec!["converge"],
        Some(Stop::Event(StopEvent::Lost(_)) | Stop::Signal | Stop::Unavailable(_)) | None => vec![],
    }
}

fn used(usages: &[Usage]) -> u64 {
    usages.iter().map(|usage| usage.filesystem.used).sum()
}

fn fullest(world: &impl World, places: &[PathBuf]) -> Answer<Usage> {
    let usages = usages(world.measure(places))?;
    usages.into_iter().next().ok_or_else(|| Unavailable("no filesystem to measure".into()))
}

/// `runs` and `converge`, asked anew, and the images that containers use.
async fn ask_again<W: World>(world: &W, engine: &W::Engine, prune: &Prune) -> Recheck {
    let survey = observe::survey(engine, Questions::EVERYTHING).await;
    let now = world.now();
    let mut closed = vec![survey.runs(world, &prune.runs, now), survey.converge(now)];
    closed.retain(|gate| gate.state() != GateState::Open);
    let in_use = survey.containers.iter().flatten().map(|container| container.image_id.clone()).collect();
    Recheck { closed, in_use }
}

/// Note everything that is there; where that cannot be written the run goes on with what is known.
async fn note<W: World>(
    world: &W,
    engine: &W::Engine,
    survey: &Survey,
    inventory: &Inventory,
    gates: &[Gate],
    now: Time,
) -> Result<Ledger> {
    let mut known = world.ledger();
    let mut seen = observe::sightings(engine, survey, known.events_until, now).await?;
    observe::list(&mut seen, inventory, now);
    let change = |ledger: &mut Ledger| {
        ledger.record(&seen, now);
        if !is_under_pressure(gates) {
            ledger.clear_pressure();
        }
    };
    match world.update_ledger(now, change).await {
        Ok(ledger) => Ok(ledger),
        Err(error) => {
            log::warn!("{error:#}; going on with what is known");
            change(&mut known);
            Ok(known)
        }
    }
}
