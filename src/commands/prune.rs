//! `prune` and `prune --dry-run`.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, anyhow};

use super::gates::{all_unanswered, usages};
use super::{occupants, print};
use crate::cli::{self, Output};
use crate::engine::watch::Sign;
use crate::execute::{Asked, Site, Stop, execute};
use crate::exit::Exit;
use crate::facts::{Answer, Unanswered};
use crate::gates::disk::Usage;
use crate::gates::{Gate, Verdict, Word, converge, together};
use crate::host;
use crate::host::lock::Taken;
use crate::ledger::Ledger;
use crate::observe::{self, Questions, Survey};
use crate::plan::{self, Inventory};
use crate::report::progress::{self, Bars};
use crate::report::{Ending, Intervention, Lasting, PruneReport, json, metrics, text};
use crate::settings::{self, Prune};
use crate::units::{Time, age};
use crate::world::real::ThisHost;
use crate::world::{EngineApi, World};

/// Pressure that could not be relieved for so long, because each prune was blocked or stopped, needs a person.
const BLOCKED_TOO_LONG: Duration = Duration::from_secs(3 * 86_400);

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
    let report = make(world, prune, consumers, bars).await.unwrap_or_else(|error| {
        let report = ended(vec![], Ending::Failed(format!("{error:#}")));
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
        && let Err(error) = write_metrics(path, &attempt, prune, &ledger)
    {
        attempt.metrics = Some(error);
        attempt.exit = if exit == Exit::Done { Exit::Failed } else { exit };
    }
    attempt
}

/// The exit status of a prune that needs no person.
fn status(report: &PruneReport) -> Exit {
    if report.has_failed() { Exit::Failed } else { Exit::Done }
}

impl Attempt {
    /// The exit status where a person was called already.
    pub fn exit_without_intervention(&self) -> Exit {
        status(&self.report)
    }

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
    if report.dry_run || matches!(report.ending, Ending::Unanswered | Ending::Failed(_)) {
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

fn write_metrics(path: &Path, attempt: &Attempt, prune: &Prune, ledger: &Ledger) -> Result<()> {
    let run = metrics::Run {
        version: cli::VERSION.as_str(),
        at: ledger.last_run.unwrap_or_default(),
        ledger,
        target: prune.policy.target.percent,
        threshold: prune.policy.threshold.percent,
        critical: prune.policy.critical.percent,
    };
    let text = metrics::prune(&attempt.report, &run)?;
    host::replace(path, |file| file.write_all(text.as_bytes()))
}

async fn make(world: &impl World, prune: &Prune, consumers: bool, bars: &Bars) -> Result<PruneReport> {
    if prune.dry_run {
        return look(world, prune, None, consumers).await;
    }
    world.prepare().context("name another directory with --runtime-dir")?;
    match world.lock_prunes()? {
        Taken::Mine(_lock) => carry_out(world, prune, consumers, bars).await,
        Taken::Busy(pid) => Ok(ended(vec![], Ending::Busy(pid, prune.runs.runtime_dir.clone()))),
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

/// From this age on a service that does not converge is its owner's to mend.
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
        let Gate::Converge(Verdict::Closed(converge::Closed::Converging(unsettled))) = gate else { continue };
        for it in unsettled {
            let Some(since) = it.age.filter(|age| *age >= CONVERGES_WITHIN) else { continue };
            log::warn!(
                "service {} is not converged ({}/{} tasks run) and was last changed {} ago: no prune can run before its \
                 owner mends or removes it",
                it.service,
                it.has,
                it.wants,
                age(since)
            );
        }
    }
}

fn evaluate<W: World>(world: &W, engine: &W::Engine, survey: &Survey, prune: &Prune, now: Time) -> Vec<Gate> {
    let disk = survey.disk(world, engine, &prune.disk);
    vec![disk, survey.runs(world, &prune.runs, now), survey.converge(now)]
}

/// The plan of a run at this moment, whatever the gates say; for the disk as it is, or for this usage.
/// With a look at what fills the disk, which may take a while, if that is wanted.
pub async fn look(
    world: &impl World,
    prune: &Prune,
    usage: Option<Usage>,
    fills: bool,
) -> Result<PruneReport> {
    let engine = world.connect().await.map_err(|why| anyhow!(why.0))?;
    let survey = observe::survey(&engine, Questions::EVERYTHING).await;
    let now = world.now();
    let gates = evaluate(world, &engine, &survey, prune, now);
    warn_of_what_hinders(world, &survey, &gates);
    let mut inventory = match observe::inventory(&engine, &survey).await {
        Ok(inventory) => inventory,
        // Without the services nobody can say what they need.
        Err(error) if together(&gates) == Word::Unknown => {
            log::warn!("no plan: {error:#}");
            return Ok(PruneReport { dry_run: true, ..ended(gates, Ending::Unanswered) });
        }
        Err(error) => return Err(error),
    };
    let mut known = world.ledger();
    let mut seen = observe::sightings(&engine, &survey, known.events_until, now).await?;
    observe::list(&mut seen, &inventory, now);
    known.note(&seen, now);
    let places = survey.disk_places(world, &engine, &prune.disk);
    let usage = usage.or_else(|| places.and_then(|it| fullest(world, &it.images)).ok());
    observe::complete(&engine, &mut inventory, &known, &prune.policy, now).await;
    let plan = plan::make(&inventory, &known, &prune.policy, usage.as_ref(), now);
    let ending = if together(&gates) == Word::Unknown { Ending::Unanswered } else { Ending::Looked };
    let report = PruneReport { dry_run: true, plan: Some(plan), images_on: usage, ..ended(gates, ending) };
    let occupants = match fills {
        true => Some(occupants::find(world, &engine, &survey, &inventory, &known, &report, now).await),
        false => None,
    };
    Ok(PruneReport { occupants, ..report })
}

async fn carry_out(world: &impl World, prune: &Prune, consumers: bool, bars: &Bars) -> Result<PruneReport> {
    world.watch_shutdown()?;
    let engine = match world.connect().await {
        Ok(engine) => engine,
        Err(why) => return Ok(ended(all_unanswered(&why), Ending::Unanswered)),
    };
    // Before the gates are asked, so that nothing can begin unseen in between: since now by the engine's clock, which
    // need not be ours.
    let subscribed = async {
        let since = engine.info().await?.time.unwrap_or_else(|| world.now());
        engine.subscribe(since, &prune.runs.policy.pattern).await
    };
    let events = match subscribed.await {
        Ok(events) => events,
        Err(why) => return Ok(ended(all_unanswered(&why.into()), Ending::Unanswered)),
    };
    let survey = observe::survey(&engine, Questions::EVERYTHING).await;
    let now = world.now();
    let gates = evaluate(world, &engine, &survey, prune, now);
    // `record`, every five minutes, does not repeat it each time.
    if consumers {
        warn_of_what_hinders(world, &survey, &gates);
    }
    // Owed until it is carried out, whatever ends it before: a fault, a signal, or a power cut.
    let closed = || gates.iter().filter(|it| it.word() == Word::Closed).map(Gate::name);
    if is_under_pressure(&gates)
        && let Err(error) = world.update_ledger(now, |ledger| ledger.owe(closed(), now)).await
    {
        log::info!("{error:#}");
    }
    if together(&gates) == Word::Unknown {
        return Ok(ended(gates, Ending::Unanswered));
    }
    // Noted on every day, so that ages are known on the day when the disk is full.
    let mut inventory = observe::inventory(&engine, &survey).await?;
    let known = note(world, &engine, &survey, &inventory, &gates, now).await?;
    if together(&gates) == Word::Closed {
        let pressure = Lasting::of(&known, now);
        let report = PruneReport { pressure, ..ended(gates, Ending::Held) };
        // A run that waits for space waits for ever: then an operator must know what holds it.
        let critical = report.after.first().is_some_and(|it| prune.policy.critical.is_reached(it));
        let occupants = match critical && consumers {
            true => Some(occupants::find(world, &engine, &survey, &inventory, &known, &report, now).await),
            false => None,
        };
        return Ok(PruneReport { occupants, ..report });
    }
    let before = measured(&gates);
    let places = survey.disk_places(world, &engine, &prune.disk).map_err(|why| anyhow!(why.0))?;
    let usage = fullest(world, &places.images).map_err(|why| anyhow!(why.0))?;
    observe::complete(&engine, &mut inventory, &known, &prune.policy, now).await;
    let plan = plan::make(&inventory, &known, &prune.policy, Some(&usage), now);

    let bar = progress::bar(bars, plan.remove.len());
    let site = Site {
        world,
        engine: &engine,
        events: &events,
        progress: &|done| bar.set_position(u64::try_from(done).unwrap_or(u64::MAX)),
    };
    let ask = async || ask_again(world, &engine, prune).await;
    let outcome = execute(plan.clone(), site, ask, || fullest(world, &places.images)).await;
    bar.finish_and_clear();

    let after = usages(world.measure(&places.measured)).unwrap_or_else(|why| {
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
    let change = |ledger: &mut Ledger| {
        ledger.forget(outcome.removed.iter().map(|it| it.id.as_str()));
        let stuck = outcome.failed.iter().find(|(_, error)| error.timed_out());
        let stuck = stuck.map(|(it, _)| (it.kind.name().to_owned(), it.id.clone()));
        // One that had no turn this time is still last the next time.
        let had_no_turn = |(_, id): &(String, String)| outcome.skipped.iter().any(|(it, _)| it.id == *id);
        ledger.stuck = stuck.or_else(|| ledger.stuck.take().filter(had_no_turn));
        match relieved {
            true => ledger.clear_pressure(),
            false if outcome.stopped.is_some() || outcome.has_failed() => ledger.owe(stopped_by, now),
            false => ledger.settle(outcome.freed_nothing.is_some(), now),
        }
    };
    let pressure = match world.update_ledger(now, change).await {
        Ok(ledger) => Lasting::of(&ledger, now),
        // On a full disk it may be so: what was known at the start holds.
        Err(error) => {
            log::warn!("{error:#}");
            Lasting::of(&known, now).filter(|_| !relieved)
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
    let occupants = match consumers && !relieved && !world.shutdown_requested() {
        true => Some(occupants::find(world, &engine, &survey, &inventory, &known, &report, now).await),
        false => None,
    };
    Ok(PruneReport { occupants, ..report })
}

fn used(usages: &[Usage]) -> u64 {
    usages.iter().map(|it| it.filesystem.used).sum()
}

fn fullest(world: &impl World, places: &[PathBuf]) -> Answer<Usage> {
    let usages = usages(world.measure(places))?;
    usages.into_iter().next().ok_or_else(|| Unanswered("no filesystem to measure".into()))
}

/// `runs` and `converge`, asked anew, and the images that containers use.
async fn ask_again<W: World>(world: &W, engine: &W::Engine, prune: &Prune) -> Asked {
    let survey = observe::survey(engine, Questions::EVERYTHING).await;
    let now = world.now();
    let mut closed = vec![survey.runs(world, &prune.runs, now), survey.converge(now)];
    closed.retain(|gate| gate.word() != Word::Open);
    let in_use = survey.containers.iter().flatten().map(|it| it.image_id.clone()).collect();
    Asked { closed, in_use }
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
        ledger.note(&seen, now);
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
