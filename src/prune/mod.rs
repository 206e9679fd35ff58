//! A prune and its preview: one road, from the survey to the report.

pub mod due;
pub mod moment;
pub mod report;

use std::cell::Cell;
use std::path::PathBuf;

use regex::Regex;

use crate::execute::{Context, Execution, Outcome, Recheck, Skip, Stop};
use crate::facts::{Answer, Container, DiskPlaces, Filesystem, Inventory, Past, Survey, Unavailable, Usage};
use crate::gates::disk::usages;
use crate::gates::{self, GateState, Gates, Verdict, converge, runs};
use crate::ledger::{Ledger, Observations};
use crate::observe::{self, Questions};
use crate::plan::{self, Plan, RemovalReason, Turn};
use crate::units::Time;
use crate::world::{Acquisition, EngineApi, StopEvent, World};
use report::{Done, OngoingPressure, Preview, PruneReport};

#[derive(Debug, Clone)]
pub struct PrunePolicy {
    /// What `--disk-path` names; empty: where the engine keeps its data.
    pub disk_paths: Vec<PathBuf>,
    pub gates: gates::Policy,
    /// At or above critical, evict cached images beside live runs.
    pub during_runs: bool,
    pub removal: plan::Policy,
}

impl PrunePolicy {
    pub fn gates(&self, survey: &Survey, now: Time) -> Gates {
        gates::evaluate(survey, &self.gates, now)
    }

    /// Whether live runs are all that is in the way, on a disk that is critical, and evictions go on beside them.
    pub fn may_evict_beside_runs(&self, gates: &Gates) -> bool {
        let critical = |usage: &Usage| self.removal.critical.is_reached(usage);
        self.during_runs
            && gates.runs_alone_block()
            && gates.is_under_pressure()
            && gates.usages().iter().any(critical)
    }
}

/// Called with how many of the planned objects are done, and how many there are; with `None` once no more are removed.
pub type Progress<'a> = &'a dyn Fn(Option<(usize, usize)>);

#[derive(Clone, Copy)]
pub enum Mode<'a> {
    /// Stop before the first write. The plan is for the disk as it is, or as if its usage were this.
    Preview(Option<&'a Usage>),
    Prune(Progress<'a>),
}

/// A report, and what it was made from; `None` if the engine could not be asked.
pub struct Ended<E> {
    pub report: PruneReport,
    pub seen: Option<Seen<E>>,
}

pub struct Seen<E> {
    pub engine: E,
    pub survey: Survey,
    /// Without images where the prune was blocked, because listing them takes long on some hosts; empty, as the ledger,
    /// where there is no plan.
    pub inventory: Inventory,
    pub ledger: Ledger,
    pub now: Time,
}

pub async fn run<W: World>(world: &W, policy: &PrunePolicy, mode: Mode<'_>) -> Answer<Ended<W::Engine>> {
    let is_prune = matches!(mode, Mode::Prune(_));
    let unseen = |report| Ok(Ended { report, seen: None });
    let _lock = match is_prune.then(|| begin(world)).transpose()? {
        Some(Acquisition::Held { pid, directory }) => return unseen(PruneReport::Busy { pid, directory }),
        lock => lock,
    };
    let (engine, events) = match connect(world, policy, is_prune).await {
        Err(why) if is_prune => {
            let gates = policy.gates(&Survey::unavailable(&why), world.now());
            return unseen(PruneReport::NoAnswer { gates, why });
        }
        connected => connected?,
    };
    let survey = observe::survey(world, &engine, Questions::EVERYTHING, &policy.disk_paths).await;
    let (now, policy) = (world.now(), policy.requested(world, &survey));
    let gates = policy.gates(&survey, now);
    let look = Look::new(world, &engine, &policy, &survey, &gates, now);
    let is_unknown = gates.state() == GateState::Unknown;
    let planned = if is_unknown && is_prune {
        look.owe().await;
        Err(Unavailable("a gate could not be evaluated".into()))
    } else {
        look.plan_and_execute(mode, events.as_ref()).await
    };
    let (report, inventory, ledger) = planned.unwrap_or_else(|why| {
        let report =
            if is_unknown { PruneReport::NoAnswer { gates, why } } else { PruneReport::Failed(why.0) };
        (report, Inventory::default(), Ledger::default())
    });
    Ok(Ended { report, seen: Some(Seen { engine, survey, inventory, ledger, now }) })
}

fn begin<W: World>(world: &W) -> Answer<Acquisition<W::PruneLock>> {
    let prepared = world.prepare();
    prepared.map_err(|error| Unavailable(format!("{error:#}; name another directory with --runtime-dir")))?;
    let lock = world.lock_prunes()?;
    if let Acquisition::Acquired(_) = lock {
        world.watch_shutdown()?;
    }
    Ok(lock)
}

type Events<W> = <<W as World>::Engine as EngineApi>::Events;

/// Connect; and for a prune subscribe before the gates are evaluated, so that nothing can begin unseen in between.
/// The subscription begins now by the engine's clock, which may differ from ours.
async fn connect<W: World>(
    world: &W,
    policy: &PrunePolicy,
    is_prune: bool,
) -> Answer<(W::Engine, Option<Events<W>>)> {
    if !is_prune {
        return Ok((world.connect().await?, None));
    }
    let (engine, events) = subscribe(world, &policy.removal.runs).await?;
    Ok((engine, Some(events)))
}

async fn subscribe<W: World>(world: &W, run_pattern: &Regex) -> Answer<(W::Engine, Events<W>)> {
    let engine = world.connect().await?;
    let since = engine.info().await?.time.unwrap_or_else(|| world.now());
    let events = engine.subscribe(since, run_pattern).await?;
    Ok((engine, events))
}

/// The survey and its gates, with which a prune continues.
struct Look<'a, W: World> {
    world: &'a W,
    engine: &'a W::Engine,
    policy: &'a PrunePolicy,
    survey: &'a Survey,
    gates: &'a Gates,
    /// Only cached images go, beside live runs.
    beside_runs: bool,
    /// Names of the runs that are not waited for.
    let_go: Vec<String>,
    now: Time,
}

type Planned = (PruneReport, Inventory, Ledger);

impl<'a, W: World> Look<'a, W> {
    fn new(
        world: &'a W,
        engine: &'a W::Engine,
        policy: &'a PrunePolicy,
        survey: &'a Survey,
        gates: &'a Gates,
        now: Time,
    ) -> Self {
        let beside_runs = policy.may_evict_beside_runs(gates);
        let runs = runs::found(&gates.runs).into_iter().flat_map(|found| &found.runs);
        let let_go = runs.filter(|run| beside_runs || run.state != runs::RunState::Live);
        let let_go = let_go.map(|run| run.name.clone()).collect();
        Self { world, engine, policy, survey, gates, beside_runs, let_go, now }
    }

    fn plan(&self, inventory: &Inventory, ledger: &Ledger, usage: Option<&Usage>) -> Plan {
        let policy = &self.policy.removal;
        if !self.beside_runs {
            return plan::build(inventory, ledger, policy, usage, self.now);
        }
        let mut plan = plan::build(inventory, ledger, &policy.beside_runs(), usage, self.now);
        plan.remove.retain(|removal| matches!(removal.reason, RemovalReason::Evicted(_)));
        plan
    }

    /// From the ledger to the report. Containers and build cache are removed before the images are listed.
    async fn plan_and_execute(&self, mode: Mode<'_>, events: Option<&Events<W>>) -> Answer<Planned> {
        let Self { world, engine, survey, gates, now, .. } = *self;
        let policy = &self.policy.removal;
        let (mut ledger, mut uses) = self.record_uses(events.is_some()).await?;
        let mut inventory = survey.inventory()?;
        let is_blocked = gates.state() != GateState::Open && !self.beside_runs;
        if let Some(events) = events.filter(|_| is_blocked) {
            let report = self.finish_or_block(&ledger, &mut inventory, events).await?;
            return Ok((report, inventory, ledger));
        }
        let places = survey.disk_places(&self.policy.disk_paths);
        let mut usage = self.usage(mode, &places).await?;
        observe::complete_containers(engine, &mut inventory, &ledger, policy, now).await;
        let mut plan = self.plan(&inventory, &ledger, usage.as_ref());
        let planned = Cell::new(plan.remove.len());
        let show = |done: Option<usize>| {
            if let Mode::Prune(progress) = mode {
                progress(done.map(|done| (done, planned.get())));
            }
        };
        let step = |done| show(Some(done));
        let images = places.clone().map(|places| places.images).unwrap_or_default();
        let mut execution = events.map(|events| self.execution(events, &images, &step));
        let mut carried_out = 0;
        if let Some(run) = &mut execution {
            step(0);
            let first = plan.before_images(&ledger);
            carried_out = first.len();
            run.carry_out(first).await;
        }
        if execution.as_ref().is_none_or(|run| run.outcome.stopped.is_none()) {
            if execution.is_some() {
                usage = fullest(world, &images).await.ok().or(usage);
            }
            ledger = self.list_images(&mut inventory, &mut uses, ledger, &usage, events.is_some()).await;
            plan = self.plan(&inventory, &ledger, usage.as_ref());
            planned.set(plan.remove.len());
        }
        let Some(mut run) = execution else {
            let report = PruneReport::Preview(Preview { gates: gates.clone(), plan, usage });
            return Ok((report, inventory, ledger));
        };
        for leftover in plan.leftovers.clone() {
            run.undo(leftover).await;
        }
        run.carry_out(plan.remove.iter().skip(carried_out).cloned().collect()).await;
        show(None);
        let report = self.conclude(plan, run.outcome, usage, &places?, &ledger).await;
        Ok((report, inventory, ledger))
    }

    /// Under pressure a prune is owed until one is carried out, even if a fault, a signal or a power cut ends this
    /// one.
    async fn owe(&self) {
        let closed = || self.gates.in_state(GateState::Closed);
        if self.gates.is_under_pressure()
            && let Err(error) =
                self.world.update_ledger(self.now, |ledger| ledger.owe(closed(), self.now)).await
        {
            log::info!("{error:#}");
        }
    }

    /// Record what is in use; a preview does so in memory.
    async fn record_uses(&self, stored: bool) -> Answer<(Ledger, Observations)> {
        let Self { world, engine, survey, gates, now, .. } = *self;
        if stored {
            self.owe().await;
        }
        let mut in_memory = world.ledger();
        let uses = observe::image_uses(engine, survey, in_memory.events_until, now).await?;
        let is_under_pressure = self.gates.is_under_pressure();
        let change = |ledger: &mut Ledger| {
            ledger.record(&uses, now);
            record_gates(ledger, gates, now);
            if let Some(fullest) = gates.usages().first().filter(|_| !gates.are_deploys_blocking()) {
                ledger.record_turn(fullest.percent, now);
            }
            if !is_under_pressure {
                ledger.clear_pressure();
            }
        };
        if !stored {
            change(&mut in_memory);
            return Ok((in_memory, uses));
        }
        let ledger = record_or_warn(world, now, change).await;
        if !is_under_pressure
            && let Ok(places) = survey.disk_places(&self.policy.disk_paths)
            && let Ok(usage) = fullest(world, &places.images).await
        {
            self.keep_reserve(&places, &usage);
        }
        Ok((ledger, uses))
    }

    /// Keep the reserve, if the disk that holds the images is below the target.
    fn keep_reserve(&self, places: &DiskPlaces, usage: &Usage) {
        if !self.policy.removal.target.is_reached(usage) {
            self.world.keep_reserve(&places.images);
        }
    }

    /// The usage of the filesystem that holds the images. A preview continues without it.
    async fn usage(&self, mode: Mode<'_>, places: &Answer<DiskPlaces>) -> Answer<Option<Usage>> {
        let measured = async {
            let places = places.as_ref().map_err(Clone::clone)?;
            fullest(self.world, &places.images).await
        };
        match mode {
            Mode::Preview(Some(assumed)) => Ok(Some(assumed.clone())),
            Mode::Preview(None) => Ok(measured.await.ok()),
            Mode::Prune(_) => measured.await.map(Some),
        }
    }

    /// An execution that evaluates the gates of this policy again.
    fn execution<'b>(
        &'b self,
        events: &'b Events<W>,
        images: &'b [PathBuf],
        progress: &'b dyn Fn(usize),
    ) -> Execution<'b, W, impl AsyncFnMut() -> Recheck, impl AsyncFn() -> Answer<Usage>> {
        let Self { world, engine, policy, survey, .. } = *self;
        let context = Context { world, engine, events, let_go: &self.let_go, progress };
        let ask = async || {
            let mut again = ask_again(world, engine, policy, &survey.past).await;
            if self.beside_runs
                && let Verdict::Closed(found) = &again.runs
                && found.holds_no_inhibitor()
            {
                again.runs = Verdict::Open(found.clone());
            }
            again
        };
        Execution::new(context, ask, async || fullest(world, images).await)
    }

    /// List the images, and record them. Returns the ledger.
    async fn list_images(
        &self,
        inventory: &mut Inventory,
        uses: &mut Observations,
        mut ledger: Ledger,
        usage: &Option<Usage>,
        stored: bool,
    ) -> Ledger {
        let Self { world, engine, now, .. } = *self;
        let policy = &self.policy.removal;
        let layers = observe::images(engine, inventory, uses, &mut ledger, policy, usage.as_ref(), now).await;
        if !stored {
            return ledger;
        }
        let change = |ledger: &mut Ledger| {
            ledger.record(uses, now);
            ledger.record_layers(&layers);
        };
        record_or_warn(world, now, change).await
    }

    /// A gate is closed. Where that is `disk` alone, what an interrupted eviction left is finished or undone.
    async fn finish_or_block(
        &self,
        ledger: &Ledger,
        inventory: &mut Inventory,
        events: &Events<W>,
    ) -> Answer<PruneReport> {
        let Self { world, engine, survey, now, .. } = *self;
        let gates = self.gates.clone();
        let blocked = |gates| PruneReport::Blocked { gates, pressure: OngoingPressure::of(ledger, now) };
        if ledger.evicting.is_empty() || gates.are_deploys_blocking() {
            return Ok(blocked(gates));
        }
        let mut gone = Vec::new();
        for id in ledger.evicting.keys() {
            match engine.confirmed_image(id).await {
                Ok(Some(image)) => inventory.images.push(image),
                Ok(None) => gone.push(id.clone()),
                Err(error) => log::warn!("an interrupted eviction is not finished: {error}"),
            }
        }
        let mut plan = plan::build(inventory, ledger, &self.policy.removal, None, now);
        plan.remove.retain(|removal| removal.reason == RemovalReason::Interrupted);
        let places = survey.disk_places(&self.policy.disk_paths)?;
        let mut run = self.execution(events, &places.images, &|_| ());
        run.outcome.settled = gone;
        for leftover in plan.leftovers.clone() {
            run.undo(leftover).await;
        }
        run.carry_out(plan.remove.clone()).await;
        let outcome = run.outcome;
        record_or_warn(world, now, |ledger| settle(ledger, &outcome, true, None, now)).await;
        if outcome.removed.is_empty() && !outcome.has_failed() {
            return Ok(blocked(gates));
        }
        let after = gates.usages().to_vec();
        let (usage, pressure, relieved) = (None, None, true);
        Ok(PruneReport::Done(Box::new(Done { gates, plan, usage, outcome, after, relieved, pressure })))
    }

    async fn conclude(
        &self,
        plan: Plan,
        outcome: Outcome,
        usage: Option<Usage>,
        places: &DiskPlaces,
        ledger: &Ledger,
    ) -> PruneReport {
        let Self { world, policy, now, .. } = *self;
        let gates = self.gates.clone();
        let after = usages(world.measure(&places.measured).await).unwrap_or_else(|why| {
            log::warn!("after the prune: {}", why.0);
            gates.usages().to_vec()
        });
        let relieved = !after.iter().any(|usage| policy.removal.threshold.is_reached(usage));
        let at_the_end = fullest(world, &places.images).await.ok();
        at_the_end.iter().for_each(|usage| self.keep_reserve(places, usage));
        // The fuller of before and after: the engine's own records must not count as a point more.
        let fullest = [at_the_end.as_ref(), usage.as_ref()].into_iter().flatten();
        let fullest = fullest.map(|usage| &usage.filesystem).max_by_key(|filesystem| filesystem.used);
        let change = |ledger: &mut Ledger| {
            settle(ledger, &outcome, relieved, fullest, now);
            if self.beside_runs && !relieved {
                ledger.owe(["runs"], now);
            }
            if let Some(fullest) = after.first() {
                ledger.record_level(fullest.percent, now);
            }
        };
        let pressure = match world.update_ledger(now, change).await {
            Ok(ledger) => OngoingPressure::of(&ledger, now),
            // As may be on a full disk. The pressure is as it was at the start.
            Err(error) => {
                log::warn!("{error:#}");
                OngoingPressure::of(ledger, now).filter(|_| !relieved)
            }
        };
        PruneReport::Done(Box::new(Done { gates, plan, usage, outcome, after, relieved, pressure }))
    }
}

/// Record which services are not converged, and whether runs are live, where that is known.
pub fn record_gates(ledger: &mut Ledger, gates: &Gates, now: Time) {
    if let Some((converging, stuck)) = converge::unconverged(&gates.converge) {
        ledger.record_unconverged(converging.iter().chain(stuck).map(|service| service.id.as_str()), now);
    }
    if let Some(fullest) = gates.usages().first() {
        ledger.record_usage(fullest.percent, now);
    }
    if let Some(found) = runs::found(&gates.runs) {
        ledger.record_runs(found.live().next().is_some(), now);
    }
}

/// Record the outcome of a prune that was carried out, to its end or not.
fn settle(ledger: &mut Ledger, outcome: &Outcome, relieved: bool, images: Option<&Filesystem>, now: Time) {
    ledger.forget(outcome.removed.iter().map(|removal| removal.object.id.as_str()), now);
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
    let stuck = stuck.map(|(removal, _)| removal.object.id.clone());
    // If it had no turn this time, it is still last the next time.
    let had_no_turn = |id: &String| outcome.skipped.iter().any(|(removal, _)| removal.object.id == *id);
    ledger.stuck = stuck.or_else(|| ledger.stuck.take().filter(had_no_turn));
    match relieved {
        true => ledger.clear_pressure(),
        false if outcome.stopped.is_some() || outcome.has_failed() => ledger.owe(stopped_by(outcome), now),
        false => ledger.clear_owed(images.filter(|_| outcome.freed_nothing.is_some()), now),
    }
}

fn stopped_by(outcome: &Outcome) -> Vec<&'static str> {
    match &outcome.stopped {
        Some(Stop::Gates { runs, converge }) => {
            let states = [("runs", runs.state()), ("converge", converge.state())];
            states.into_iter().filter(|(_, state)| *state != GateState::Open).map(|(name, _)| name).collect()
        }
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

async fn fullest(world: &impl World, places: &[PathBuf]) -> Answer<Usage> {
    let usages = usages(world.measure(places).await)?;
    usages.into_iter().next().ok_or_else(|| Unavailable("no filesystem to measure".into()))
}

/// Evaluate `runs` and `converge` again, and ask which images containers use.
async fn ask_again<W: World>(world: &W, engine: &W::Engine, policy: &PrunePolicy, past: &Past) -> Recheck {
    let mut survey = observe::survey(world, engine, Questions::DEPLOYS, &[]).await;
    survey.past.clone_from(past);
    let Gates { runs, converge, .. } = policy.gates(&survey, world.now());
    let in_use = survey.containers.iter().flatten().flat_map(Container::images).map(str::to_owned).collect();
    Recheck { runs, converge, in_use }
}

/// The ledger with this change; in memory, and with the error, if it cannot be written.
pub async fn record(world: &impl World, now: Time, change: impl Fn(&mut Ledger)) -> (Ledger, Option<String>) {
    match world.update_ledger(now, &change).await {
        Ok(ledger) => (ledger, None),
        Err(error) => {
            let mut ledger = world.ledger();
            change(&mut ledger);
            (ledger, Some(format!("{error:#}")))
        }
    }
}

/// [`record`], for a prune that continues in either case.
async fn record_or_warn(world: &impl World, now: Time, change: impl Fn(&mut Ledger)) -> Ledger {
    let (ledger, error) = record(world, now, change).await;
    if let Some(error) = error {
        log::warn!("{error}; continuing with the ledger in memory");
    }
    ledger
}

/// Name the services that a proof of layer reuse left behind.
pub fn warn_of_leftovers(survey: &Survey) {
    for name in survey.left_by_proofs() {
        log::warn!(
            "service {name} was left behind by a verify --redeploy that was killed; \
             remove it with verify --redeploy, or docker service rm {name}"
        );
    }
}

#[cfg(test)]
mod tests;
