//! One prune, from the facts to what came of it: observe, gates, plan, execute.

mod disk_consumers;
pub mod outcome;

use std::cell::Cell;
use std::collections::HashSet;
use std::path::PathBuf;
use std::time::Duration;

use crate::engine::watch::StopEvent;
use crate::execute::{Execution, Outcome, Recheck, RunContext, Skip, Stop};
use crate::facts::{Answer, Container, Filesystem, Unavailable};
use crate::gates::disk::{Usage, usages};
use crate::gates::{Gate, GateState, Verdict, all_unavailable, combined_state, converge};
use crate::host::lock::Acquisition;
use crate::ledger::{Ledger, Observations};
use crate::observe::{self, DiskPlaces, Questions, Survey};
use crate::plan::{self, Inventory, Plan, Turn};
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
        let removed = plan.remove.iter().map(|removal| removal.object.id.as_str()).collect();
        let (inventory, ledger) = (&inventory, &known);
        let observed = Observed { survey: &survey, inventory, ledger, removed, now };
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
    let mut inventory = observe::inventory(survey)?;
    let mut known = world.ledger();
    let mut seen = observe::image_uses(engine, survey, known.events_until, now).await?;
    let usage = match usage {
        Some(usage) => Some(usage),
        None => match survey.disk_places(world, engine, &prune.disk).await {
            Ok(places) => fullest(world, &places.images).await.ok(),
            Err(_) => None,
        },
    };
    let policy = &prune.policy;
    known.record(&seen, now);
    observe::complete_containers(engine, &mut inventory, &known, policy, now).await;
    observe::images(engine, &mut inventory, &mut seen, &mut known, policy, usage.as_ref(), now).await;
    let plan = plan::build(&inventory, &known, policy, usage.as_ref(), now);
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
    let seen = observe::image_uses(&engine, &evaluated.survey, world.ledger().events_until, now).await?;
    let pressed = is_under_pressure(&evaluated.gates);
    let known = record(world, now, |ledger| {
        ledger.record(&seen, now);
        if !pressed {
            ledger.clear_pressure();
        }
    });
    let known = known.await;
    if !pressed {
        evaluated.keep_reserve().await;
    }
    match combined_state(&evaluated.gates) {
        GateState::Open => evaluated.remove(seen, known, &events, consumers, progress).await,
        _ if known.evicting.is_empty() || evaluated.are_deploys_blocking() => {
            Ok(evaluated.blocked(&known, consumers).await)
        }
        _ => evaluated.finish(known, &events).await,
    }
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

    /// Keep the reserve, where the disk that holds the images is below the target.
    async fn keep_reserve(&self) {
        if let Ok(places) = self.survey.disk_places(self.world, self.engine, &self.prune.disk).await
            && let Ok(usage) = fullest(self.world, &places.images).await
            && !self.prune.policy.target.is_reached(&usage)
        {
            self.world.keep_reserve(&places.images);
        }
    }

    /// Is another gate than `disk` closed?
    fn are_deploys_blocking(&self) -> bool {
        self.gates.iter().any(|gate| !matches!(gate, Gate::Disk(_)) && gate.state() != GateState::Open)
    }

    /// The report of a prune that a gate blocked. It asks for no list of images, which takes long on some hosts.
    async fn blocked(self, known: &Ledger, consumers: bool) -> PruneResult {
        let pressure = OngoingPressure::of(known, self.now);
        let mut result =
            PruneResult { pressure, ..PruneResult::without_removals(self.gates, PruneOutcome::Blocked) };
        // A run that waits for space waits for ever: then an operator must know what takes it.
        let critical = result.after.first().is_some_and(|usage| self.prune.policy.critical.is_reached(usage));
        if critical && consumers {
            let inventory = observe::inventory(&self.survey).unwrap_or_default();
            let (survey, removed, now) = (&self.survey, HashSet::new(), self.now);
            let observed = Observed { survey, inventory: &inventory, ledger: known, removed, now };
            result.disk_consumers = Some(observed.disk_consumers(self.world, self.engine).await);
        }
        result
    }

    /// What carries plans out, and stops where a gate closes.
    fn execution<'b>(
        &'b self,
        events: &'b <W::Engine as EngineApi>::Events,
        images: &'b [PathBuf],
        progress: &'b dyn Fn(usize),
    ) -> Execution<'b, W, impl AsyncFnMut() -> Recheck, impl AsyncFn() -> Answer<Usage>> {
        let Self { world, engine, prune, .. } = *self;
        let context = RunContext { world, engine, events, progress };
        let ask = async || ask_again(world, engine, prune).await;
        Execution::new(context, ask, async || fullest(world, images).await)
    }

    /// Finish or undo what an interrupted eviction left, on a disk that needs no prune.
    async fn finish(&self, known: Ledger, events: &<W::Engine as EngineApi>::Events) -> Answer<PruneResult> {
        let Self { world, engine, prune, ref survey, now, .. } = *self;
        let mut inventory = observe::inventory(survey)?;
        let mut gone = Vec::new();
        for id in known.evicting.keys() {
            match engine.confirmed_image(id).await {
                Ok(Some(image)) => inventory.images.push(image),
                Ok(None) => gone.push(id.clone()),
                Err(error) => log::warn!("an interrupted eviction is not finished: {error}"),
            }
        }
        let mut plan = plan::build(&inventory, &known, &prune.policy, None, now);
        plan.remove.retain(|removal| removal.reason == plan::RemovalReason::Interrupted);
        let places = survey.disk_places(world, engine, &prune.disk).await?;
        let mut run = self.execution(events, &places.images, &|_| ());
        run.outcome.settled = gone;
        for leftover in plan.leftovers.clone() {
            run.undo(leftover).await;
        }
        run.carry_out(plan.remove.clone()).await;
        let outcome = run.outcome;
        record(world, now, |ledger| settle(ledger, &outcome, true, None, now)).await;
        let silent = outcome.removed.is_empty() && !outcome.has_failed();
        let ending = if silent { PruneOutcome::Blocked } else { PruneOutcome::CarriedOut(outcome) };
        let plan = Some(plan).filter(|_| !silent);
        Ok(PruneResult { plan, ..PruneResult::without_removals(self.gates.clone(), ending) })
    }

    /// Plan and carry out, and tell what came of it. Containers and build cache wait for no list of images.
    async fn remove(
        &self,
        seen: Observations,
        mut known: Ledger,
        events: &<W::Engine as EngineApi>::Events,
        consumers: bool,
        progress: Progress<'_>,
    ) -> Answer<PruneResult> {
        let Self { world, engine, prune, ref survey, now, .. } = *self;
        let policy = &prune.policy;
        let places = survey.disk_places(world, engine, &prune.disk).await?;
        let mut usage = fullest(world, &places.images).await?;
        let mut inventory = observe::inventory(survey)?;
        observe::complete_containers(engine, &mut inventory, &known, policy, now).await;
        let mut plan = plan::build(&inventory, &known, policy, Some(&usage), now);

        let planned = Cell::new(plan.remove.len());
        progress(Some((0, planned.get())));
        let step = |done| progress(Some((done, planned.get())));
        let mut run = self.execution(events, &places.images, &step);
        let first = plan.before_images(&known);
        let carried_out = first.len();
        run.carry_out(first).await;

        if run.outcome.stopped.is_none() {
            usage = fullest(world, &places.images).await.unwrap_or(usage);
            known = self.list_images(&mut inventory, seen, known, &usage).await;
            plan = plan::build(&inventory, &known, policy, Some(&usage), now);
            planned.set(plan.remove.len());
            for leftover in plan.leftovers.clone() {
                run.undo(leftover).await;
            }
        }
        run.carry_out(plan.remove.iter().skip(carried_out).cloned().collect()).await;
        progress(None);
        let outcome = run.outcome;
        self.conclude(Planned { plan, inventory, known, usage: Some(usage) }, outcome, &places, consumers)
            .await
    }

    /// Look at the images: what they are, and what the ledger then knows.
    async fn list_images(
        &self,
        inventory: &mut Inventory,
        mut seen: Observations,
        mut known: Ledger,
        usage: &Usage,
    ) -> Ledger {
        let Self { world, engine, prune, now, .. } = *self;
        let policy = &prune.policy;
        let layers =
            observe::images(engine, inventory, &mut seen, &mut known, policy, Some(usage), now).await;
        let change = |ledger: &mut Ledger| {
            ledger.record(&seen, now);
            ledger.record_layers(&layers);
        };
        record(world, now, change).await
    }

    /// Measure and record what a prune has changed.
    async fn conclude(
        &self,
        planned: Planned,
        outcome: Outcome,
        places: &DiskPlaces,
        consumers: bool,
    ) -> Answer<PruneResult> {
        let Self { world, engine, prune, ref survey, now, .. } = *self;
        let Planned { plan, inventory, known, usage } = planned;
        let before = measured(&self.gates);
        let after = usages(world.measure(&places.measured).await).unwrap_or_else(|why| {
            log::warn!("after the prune: {}", why.0);
            before.clone()
        });
        let relieved = !after.iter().any(|usage| prune.disk.limit.is_reached(usage));
        let at_the_end = fullest(world, &places.images).await.ok();
        self.keep_reserve().await;
        // As full as it was, or is: its own records must not count as a point more.
        let fullest = [at_the_end.as_ref(), usage.as_ref()].into_iter().flatten();
        let fullest = fullest.map(|usage| &usage.filesystem).max_by_key(|filesystem| filesystem.used);
        let change = |ledger: &mut Ledger| settle(ledger, &outcome, relieved, fullest, now);
        let pressure = match world.update_ledger(now, change).await {
            Ok(ledger) => OngoingPressure::of(&ledger, now),
            // On a full disk it may be so: what was known at the start holds.
            Err(error) => {
                log::warn!("{error:#}");
                OngoingPressure::of(&known, now).filter(|_| !relieved)
            }
        };
        let reclaimed = used(&before).saturating_sub(used(&after));
        // On a disk that is still full an operator wants to know with what; at a signal there is no time for it.
        let disk_consumers = match consumers && !relieved && !world.shutdown_requested() {
            true => {
                let removed = outcome.removed.iter().map(|removal| removal.object.id.as_str()).collect();
                let observed = Observed { survey, inventory: &inventory, ledger: &known, removed, now };
                Some(observed.disk_consumers(world, engine).await)
            }
            false => None,
        };
        Ok(PruneResult {
            preview: false,
            plan: Some(plan),
            gates: self.gates.clone(),
            ending: PruneOutcome::CarriedOut(outcome),
            before,
            after,
            reclaimed,
            pressure,
            disk_consumers,
            images_on: usage,
            ledger_error: None,
        })
    }
}

/// What a ledger keeps of a prune that was carried out as far as it went.
fn settle(ledger: &mut Ledger, outcome: &Outcome, relieved: bool, images: Option<&Filesystem>, now: Time) {
    ledger.forget(outcome.removed.iter().map(|removal| removal.object.id.as_str()));
    outcome.settled.iter().for_each(|id| drop(ledger.evicting.remove(id)));
    let time = ledger.time(now);
    for (removal, why) in &outcome.skipped {
        let refused =
            removal.turn() == Turn::CachedImages && matches!(why, Skip::Refused(_) | Skip::HasChildren);
        if let (true, Some(entry)) = (refused, ledger.images.get_mut(&removal.object.id)) {
            entry.refused = Some(time);
        }
    }
    let stuck = outcome.failed.iter().find(|(_, error)| error.timed_out());
    let stuck = stuck.map(|(removal, _)| (removal.object.kind.name().to_owned(), removal.object.id.clone()));
    // One that had no turn this time is still last the next time.
    let had_no_turn =
        |(_, id): &(String, String)| outcome.skipped.iter().any(|(removal, _)| removal.object.id == *id);
    ledger.stuck = stuck.or_else(|| ledger.stuck.take().filter(had_no_turn));
    match relieved {
        true => ledger.clear_pressure(),
        false if outcome.stopped.is_some() || outcome.has_failed() => ledger.owe(stopped_by(outcome), now),
        false => ledger.settle(images.filter(|_| outcome.freed_nothing.is_some()), now),
    }
}

/// The gates that stopped a prune.
fn stopped_by(outcome: &Outcome) -> Vec<&'static str> {
    match &outcome.stopped {
        Some(Stop::Gates(gates)) => gates.iter().map(Gate::name).collect(),
        Some(Stop::Inhibited(_) | Stop::Event(StopEvent::Run(_))) => vec!["runs"],
        Some(Stop::Event(StopEvent::ServiceCreated(_) | StopEvent::ServiceUpdated(_))) => vec!["converge"],
        Some(
            Stop::Event(StopEvent::Lost(_))
            | Stop::Signal
            | Stop::GatesUnsettled
            | Stop::NoSpace
            | Stop::Unavailable(_),
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
    let in_use = survey.containers.iter().flatten().flat_map(Container::images).map(str::to_owned).collect();
    Recheck { closed, in_use }
}

/// Record this; where that cannot be written the run goes on with what is known.
async fn record(world: &impl World, now: Time, change: impl Fn(&mut Ledger)) -> Ledger {
    match world.update_ledger(now, &change).await {
        Ok(ledger) => ledger,
        Err(error) => {
            log::warn!("{error:#}; going on with what is known");
            let mut known = world.ledger();
            change(&mut known);
            known
        }
    }
}

#[cfg(test)]
mod tests;
