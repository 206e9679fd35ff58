//! One prune, from the facts to what came of it: observe, gates, plan, execute.

mod disk_consumers;
pub mod outcome;

use std::collections::HashSet;
use std::path::PathBuf;
use std::time::Duration;

use crate::engine::watch::StopEvent;
use crate::execute::{Outcome, Recheck, RunContext, Stop, execute};
use crate::facts::{Answer, Unavailable};
use crate::gates::disk::{Usage, usages};
use crate::gates::{Gate, GateState, Verdict, all_unavailable, combined_state, converge};
use crate::host::lock::Acquisition;
use crate::ledger::Ledger;
use crate::observe::{self, Questions, Survey};
use crate::plan::{self, Inventory, Plan};
use crate::settings::PruneSettings;
use crate::units::{Time, age};
use crate::world::{EngineApi, World};
use disk_consumers::Observed;
use outcome::{OngoingPressure, PruneOutcome, PruneResult, measured};

/// Called with how many of the planned objects are done, and how many there are; with `None` once no more are removed.
pub type Progress<'a> = &'a dyn Fn(Option<(usize, usize)>);

/// Prune, if the gates let it.
///
/// `consumers`: with what fills the disk, where the prune did not help; that takes a while.
///
/// # Errors
/// Neither gates nor a plan could be had; the text says why.
pub async fn prune(
    world: &impl World,
    prune: &PruneSettings,
    consumers: bool,
    progress: Progress<'_>,
) -> Answer<PruneResult> {
    world
        .prepare()
        .map_err(|error| Unavailable(format!("{error:#}; name another directory with --runtime-dir")))?;
    match world.lock_prunes()? {
        Acquisition::Acquired(_lock) => carry_out(world, prune, consumers, progress).await,
        Acquisition::Held(pid) => {
            let ending = PruneOutcome::Busy(pid, prune.runs.runtime_dir.clone());
            Ok(PruneResult::without_removals(vec![], ending))
        }
    }
}

fn is_under_pressure(gates: &[Gate]) -> bool {
    gates.iter().any(|gate| matches!(gate, Gate::Disk(Verdict::Open(_))))
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

async fn evaluate_gates<W: World>(
    world: &W,
    engine: &W::Engine,
    survey: &Survey,
    prune: &PruneSettings,
    now: Time,
) -> Vec<Gate> {
    let disk = survey.disk(world, engine, &prune.disk).await;
    vec![disk, survey.runs(world, &prune.runs, now), survey.converge(now)]
}

/// What a prune would do at this moment, whatever the gates say; for the disk as it is, or for this usage.
///
/// `consumers`: with what fills the disk, which takes a while.
///
/// # Errors
/// The engine does not answer.
pub async fn preview(
    world: &impl World,
    prune: &PruneSettings,
    usage: Option<Usage>,
    consumers: bool,
) -> Answer<PruneResult> {
    let engine = world.connect().await?;
    let survey = observe::survey(&engine, Questions::EVERYTHING).await;
    let now = world.now();
    let gates = evaluate_gates(world, &engine, &survey, prune, now).await;
    warn_of_what_hinders(world, &survey, &gates);
    let Planned { plan, inventory, known, usage } =
        match planned(world, &engine, &survey, prune, usage, now).await {
            Ok(planned) => planned,
            // Without the services it is not known what they need.
            Err(error) if combined_state(&gates) == GateState::Unknown => {
                log::warn!("no plan: {error}");
                return Ok(PruneResult::without_removals(gates, PruneOutcome::Unavailable).of_preview());
            }
            Err(error) => return Err(error),
        };
    let ending = if combined_state(&gates) == GateState::Unknown {
        PruneOutcome::Unavailable
    } else {
        PruneOutcome::Previewed
    };
    let mut result = PruneResult::without_removals(gates, ending).of_preview();
    if consumers {
        let removed = plan.remove.iter().map(|removal| removal.id.as_str()).collect();
        let (inventory, ledger) = (&inventory, &known);
        let observed = Observed { survey: &survey, inventory, ledger, removed, after: &result.after, now };
        result.disk_consumers = Some(observed.disk_consumers(world, &engine).await);
    }
    Ok(PruneResult { plan: Some(plan), images_on: usage, ..result })
}

/// The plan of a run at this moment, and what it was made from.
pub struct Planned {
    /// What would be removed, and what would stay.
    pub plan: Plan,
    /// What the plan was made from.
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
pub async fn planned<W: World>(
    world: &W,
    engine: &W::Engine,
    survey: &Survey,
    prune: &PruneSettings,
    usage: Option<Usage>,
    now: Time,
) -> Answer<Planned> {
    let mut inventory = observe::inventory(engine, survey).await?;
    let mut known = world.ledger();
    let mut seen = observe::image_uses(engine, survey, known.events_until, now).await?;
    observe::list(&mut seen, &inventory, now);
    known.record(&seen, now);
    let usage = match usage {
        Some(usage) => Some(usage),
        None => match survey.disk_places(world, engine, &prune.disk).await {
            Ok(places) => fullest(world, &places.images).await.ok(),
            Err(_) => None,
        },
    };
    observe::complete(engine, &mut inventory, &known, &prune.policy, now).await;
    let plan = plan::build(&inventory, &known, &prune.policy, usage.as_ref(), now);
    Ok(Planned { plan, inventory, known, usage })
}

/// What a prune works with, once its gates are evaluated.
struct Evaluated<'a, W: World> {
    world: &'a W,
    engine: &'a W::Engine,
    prune: &'a PruneSettings,
    survey: Survey,
    gates: Vec<Gate>,
    now: Time,
}

async fn carry_out(
    world: &impl World,
    prune: &PruneSettings,
    consumers: bool,
    progress: Progress<'_>,
) -> Answer<PruneResult> {
    world.watch_shutdown()?;
    let engine = match world.connect().await {
        Ok(engine) => engine,
        Err(why) => {
            return Ok(PruneResult::without_removals(all_unavailable(&why), PruneOutcome::Unavailable));
        }
    };
    // Before the gates are asked, so that nothing can begin unseen in between: since now by the engine's clock, which
    // need not be ours.
    let subscribed = async {
        let since = engine.info().await?.time.unwrap_or_else(|| world.now());
        engine.subscribe(since, &prune.runs.policy.pattern).await
    };
    let events = match subscribed.await {
        Ok(events) => events,
        Err(why) => {
            return Ok(PruneResult::without_removals(
                all_unavailable(&why.into()),
                PruneOutcome::Unavailable,
            ));
        }
    };
    let survey = observe::survey(&engine, Questions::EVERYTHING).await;
    let now = world.now();
    let gates = evaluate_gates(world, &engine, &survey, prune, now).await;
    // `record`, every five minutes, does not repeat it each time.
    if consumers {
        warn_of_what_hinders(world, &survey, &gates);
    }
    let evaluated = Evaluated { world, engine: &engine, prune, survey, gates, now };
    evaluated.owe().await;
    if combined_state(&evaluated.gates) == GateState::Unknown {
        return Ok(PruneResult::without_removals(evaluated.gates, PruneOutcome::Unavailable));
    }
    // Recorded on every day, so that ages are known on the day when the disk is full.
    let inventory = observe::inventory(&engine, &evaluated.survey).await?;
    let known = record(world, &engine, &evaluated.survey, &inventory, &evaluated.gates, now).await?;
    if combined_state(&evaluated.gates) == GateState::Closed {
        return Ok(evaluated.blocked(&inventory, &known, consumers).await);
    }
    evaluated.remove(inventory, &known, &events, consumers, progress).await
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
    async fn blocked(self, inventory: &Inventory, known: &Ledger, consumers: bool) -> PruneResult {
        let pressure = OngoingPressure::of(known, self.now);
        let mut result =
            PruneResult { pressure, ..PruneResult::without_removals(self.gates, PruneOutcome::Blocked) };
        // A run that waits for space waits for ever: then an operator must know what takes it.
        let critical = result.after.first().is_some_and(|usage| self.prune.policy.critical.is_reached(usage));
        if critical && consumers {
            let (survey, removed, now) = (&self.survey, HashSet::new(), self.now);
            let observed = Observed { survey, inventory, ledger: known, removed, after: &result.after, now };
            result.disk_consumers = Some(observed.disk_consumers(self.world, self.engine).await);
        }
        result
    }

    /// Plan and carry out, and tell what came of it.
    async fn remove(
        self,
        mut inventory: Inventory,
        known: &Ledger,
        events: &<W::Engine as EngineApi>::Events,
        consumers: bool,
        progress: Progress<'_>,
    ) -> Answer<PruneResult> {
        let Self { world, engine, prune, ref survey, now, .. } = self;
        let before = measured(&self.gates);
        let places = survey.disk_places(world, engine, &prune.disk).await?;
        let usage = fullest(world, &places.images).await?;
        observe::complete(engine, &mut inventory, known, &prune.policy, now).await;
        let plan = plan::build(&inventory, known, &prune.policy, Some(&usage), now);

        let planned = plan.remove.len();
        progress(Some((0, planned)));
        let step = |done| progress(Some((done, planned)));
        let context = RunContext { world, engine, events, progress: &step };
        let ask = async || ask_again(world, engine, prune).await;
        let outcome =
            execute(plan.clone(), context, ask, async || fullest(world, &places.images).await).await;
        progress(None);

        let after = usages(world.measure(&places.measured).await).unwrap_or_else(|why| {
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
        // On a disk that is still full an operator wants to know with what; at a signal there is no time for it.
        let disk_consumers = match consumers && !relieved && !world.shutdown_requested() {
            true => {
                let removed = outcome.removed.iter().map(|removal| removal.id.as_str()).collect();
                let (inventory, after) = (&inventory, after.as_slice());
                let observed = Observed { survey, inventory, ledger: known, removed, after, now };
                Some(observed.disk_consumers(world, engine).await)
            }
            false => None,
        };
        Ok(PruneResult {
            preview: false,
            plan: Some(plan),
            gates: self.gates,
            ending: PruneOutcome::CarriedOut(outcome),
            before,
            after,
            reclaimed,
            pressure,
            disk_consumers,
            images_on: Some(usage),
        })
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
        Some(
            Stop::Event(StopEvent::Lost(_)) | Stop::Signal | Stop::GatesUnsettled | Stop::Unavailable(_),
        )
        | None => vec![],
    }
}

fn used(usages: &[Usage]) -> u64 {
    usages.iter().map(|usage| usage.filesystem.used).sum()
}

async fn fullest(world: &impl World, places: &[PathBuf]) -> Answer<Usage> {
    let usages = usages(world.measure(places).await)?;
    usages.into_iter().next().ok_or_else(|| Unavailable("no filesystem to measure".into()))
}

/// `runs` and `converge`, asked anew, and the images that containers use.
async fn ask_again<W: World>(world: &W, engine: &W::Engine, prune: &PruneSettings) -> Recheck {
    let survey = observe::survey(engine, Questions::EVERYTHING).await;
    let now = world.now();
    let mut closed = vec![survey.runs(world, &prune.runs, now), survey.converge(now)];
    closed.retain(|gate| gate.state() != GateState::Open);
    let in_use = survey.containers.iter().flatten().map(|container| container.image_id.clone()).collect();
    Recheck { closed, in_use }
}

/// Record everything that is there; where that cannot be written the run goes on with what is known.
async fn record<W: World>(
    world: &W,
    engine: &W::Engine,
    survey: &Survey,
    inventory: &Inventory,
    gates: &[Gate],
    now: Time,
) -> Answer<Ledger> {
    let mut known = world.ledger();
    let mut seen = observe::image_uses(engine, survey, known.events_until, now).await?;
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
