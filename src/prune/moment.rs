//! How a prune finds its moment on a busy host: it waits for the gates, and commands that begin let it go first.

use std::time::Duration;

use regex::Regex;
use tokio::time::{Instant, sleep, sleep_until};

use super::{PrunePolicy, subscribe};
use crate::facts::{Answer, Usage};
use crate::gates::{GateState, Gates, disk};
use crate::observe::{self, Questions};
use crate::units::{Percent, elapsed};
use crate::world::{Changes, ContainerScope, EngineEvents, Register, Registration, StopEvent, World};

/// After an event the gates are evaluated again and again, with growing pauses: Swarm tells of a task's state a
/// moment after its container's event.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
/// Without any event they are evaluated this often.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// Of several events in a row.
const BETWEEN_LOOKS: Duration = Duration::from_millis(100);
const RECONNECT_INTERVAL: Duration = Duration::from_secs(2);

/// What the gates need, with the live containers alone, which are cheap to list.
pub const LOOK: Questions = Questions { containers: Some(ContainerScope::Live), ..Questions::EVERYTHING };

/// Call `look` now and after each event of the engine or the inhibitors, until it is content, for so long at most. An
/// engine that goes away is waited for; a signal ends the wait.
pub async fn wait<W: World>(
    world: &W,
    pattern: &Regex,
    limit: Duration,
    mut look: impl AsyncFnMut(&W::Engine) -> bool,
) -> Answer<()> {
    let end = Instant::now() + limit;
    let inhibitors = world.watch(Register::Inhibitors).inspect_err(|error| log::info!("{error:#}")).ok();
    let mut looked = false;
    loop {
        match subscribe(world, pattern).await {
            Ok((engine, events)) => {
                let mut pause = FIRST_PAUSE;
                while !events.poll().await.stops.iter().any(|stop| matches!(stop, StopEvent::Lost(_))) {
                    let moves = events.moves();
                    if look(&engine).await || Instant::now() >= end || world.shutdown_requested() {
                        return Ok(());
                    }
                    looked = true;
                    tokio::select! {
                        () = sleep_until(end) => {}
                        () = world.shutdown() => {}
                        () = events.moved(moves) => pause = FIRST_PAUSE,
                        () = changed(inhibitors.as_ref()) => pause = FIRST_PAUSE,
                        () = sleep(pause) => pause = (pause * 2).min(LONGEST_PAUSE),
                    }
                    sleep_until((Instant::now() + BETWEEN_LOOKS).min(end)).await;
                }
            }
            Err(why) if !looked => return Err(why),
            Err(why) => log::info!("still waiting: {why}"),
        }
        tokio::select! {
            () = sleep_until(end) => return Ok(()),
            () = world.shutdown() => return Ok(()),
            () = sleep(RECONNECT_INTERVAL) => {}
        }
    }
}

async fn changed(changes: Option<&impl Changes>) {
    match changes {
        Some(changes) => changes.changed().await,
        None => std::future::pending().await,
    }
}

/// Wait until `runs` and `converge` allow a prune that is due, for so long at most. `say`: what is waited for. Returns
/// its registration, by which commands that begin let it go first: it is to be kept until the prune has ended. One that
/// was not begun `by_hand` has none where it would probably find nothing.
pub async fn wait_for_moment<W: World>(
    world: &W,
    policy: &PrunePolicy,
    limit: Duration,
    by_hand: bool,
    say: &dyn Fn(&Gates),
) -> Answer<Option<W::Registered>> {
    let mut registered = None;
    let mut is_first = true;
    let look = async |engine: &W::Engine| {
        let survey = observe::survey(world, engine, LOOK, &policy.disk_paths).await;
        let policy = policy.requested(world, &survey);
        let gates = policy.gates(&survey, world.now());
        if !gates.is_under_pressure() {
            registered = None;
            return true;
        }
        let is_critical = |usage: &Usage| policy.removal.young_from.is_reached(usage);
        let is_wanted = || {
            world.requests().is_ok_and(|requests| requests.iter().any(|request| request.min_free.is_some()))
        };
        let is_worth_it = || {
            by_hand
                || gates.usages().iter().any(is_critical)
                || is_wanted()
                || !world.ledger().is_exhausted(world.now())
        };
        if registered.is_none() && is_worth_it() {
            let prune = world.register(Register::Prunes, &Registration::default());
            registered = prune.inspect_err(|error| log::info!("{error:#}")).ok();
        }
        // At the beginning a gate that cannot be evaluated is an error; later the engine may be restarting.
        let is_unknown = is_first && gates.state() == GateState::Unknown;
        let is_over = is_unknown || !gates.are_deploys_blocking() || policy.may_evict_beside_runs(&gates);
        if !is_over {
            if is_first {
                let owed = world.update_ledger(world.now(), |ledger| ledger.owe([], world.now())).await;
                drop(owed.inspect_err(|error| log::info!("{error:#}")));
            }
            say(&gates);
        }
        is_first = false;
        is_over
    };
    wait(world, &policy.gates.runs.pattern, limit, look).await?;
    Ok(registered)
}

/// Wait until the disk is so full that younger images go too, for so long at most.
pub async fn wait_for_critical<W: World>(world: &W, policy: &PrunePolicy, limit: Duration) -> Answer<bool> {
    let mut is_critical = false;
    let look = async |engine: &W::Engine| {
        let survey = observe::survey(
            world,
            engine,
            Questions { disk: true, past: true, ..Questions::NONE },
            &policy.disk_paths,
        )
        .await;
        let policy = policy.requested(world, &survey);
        let gates = policy.gates(&survey, world.now());
        is_critical = gates.usages().iter().any(|usage| policy.removal.young_from.is_reached(usage));
        is_critical || !gates.is_under_pressure()
    };
    wait(world, &policy.gates.runs.pattern, limit, look).await?;
    Ok(is_critical)
}

/// Wait until these gates are open; `is_open` evaluates them.
pub async fn wait_for_gates<W: World>(
    world: &W,
    policy: &PrunePolicy,
    limit: Duration,
    is_open: impl Fn(&Gates) -> GateState,
    say: &dyn Fn(&Gates),
) -> Answer<()> {
    let mut is_first = true;
    let look = async |engine: &W::Engine| {
        let survey = observe::survey(world, engine, Questions { disk: false, ..LOOK }, &[]).await;
        let gates = policy.gates(&survey, world.now());
        let is_over = match is_open(&gates) {
            GateState::Open => true,
            GateState::Unknown => is_first,
            GateState::Closed => false,
        };
        if !is_over {
            say(&gates);
        }
        is_first = false;
        is_over
    };
    wait(world, &policy.gates.runs.pattern, limit, look).await
}

impl PrunePolicy {
    /// The policy of this moment: with the room that runs need, and the space that requests want. Where the disk is not under
    /// pressure, no more than that is freed.
    pub fn requested(&self, world: &impl World, survey: &crate::facts::Survey) -> Self {
        let requests = world.requests().inspect_err(|error| log::info!("{error:#}")).unwrap_or_default();
        let need = requests.into_iter().filter_map(|request| request.min_free).max();
        let mut policy = self.clone();
        policy.removal = policy.removal.with_room(survey.past.growth);
        if need.is_none() {
            return policy;
        }
        let is_under_pressure =
            matches!(disk::evaluate(survey, self.gates.disk), crate::gates::Verdict::Open(_));
        for limit in [&mut policy.gates.disk, &mut policy.removal.threshold, &mut policy.removal.target] {
            limit.min_free = limit.min_free.max(need);
        }
        if !is_under_pressure {
            policy.removal.target.percent = Percent::FULL;
        }
        policy
    }
}

/// What a command that blocks prunes wants before it begins.
#[derive(Debug)]
pub struct Wishes {
    /// How long prunes that are due may go first.
    pub prune_wait: Duration,
    /// From this usage on it asks for a prune.
    pub prune_at: Option<Percent>,
    /// Bytes that must be available.
    pub min_free: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Queueing {
    /// A prune is due, or was asked for.
    Waits,
    /// The prune did not get its turn, or none came.
    GivesUp,
}

/// A prune that was asked for begins within this, if there is something that starts it.
const ANSWERED_WITHIN: Duration = Duration::from_secs(10);
/// What is not announced is looked for this often: the space that others free, a prune that another one leaves its turn.
const QUEUE_INTERVAL: Duration = Duration::from_secs(5);
/// What takes longer is told.
const TOLD_AFTER: Duration = Duration::from_secs(1);

/// Let prunes that are due go first, and ask for one where the disk is urgent or lacks the space that is wanted. Returns
/// how full the disk is if it still lacks that.
pub async fn let_prunes_go_first<W: World>(
    world: &W,
    policy: &PrunePolicy,
    wishes: &Wishes,
    say: &dyn Fn(Queueing),
) -> Answer<Result<(), Usage>> {
    let lacks = |usage: &Usage| wishes.min_free.is_some_and(|need| usage.filesystem.available < need);
    let judged = |usage: Option<Usage>| usage.filter(lacks).map_or(Ok(()), Err);
    // Watched before the first look, so that nothing is missed.
    let prunes = world.watch(Register::Prunes).inspect_err(|error| log::info!("{error:#}")).ok();
    let usage = match usage_of_images(world, policy, wishes).await {
        Err(why) if wishes.min_free.is_some() => return Err(why),
        usage => usage.unwrap_or_default(),
    };
    let worth_a_prune = |usage: &Usage| {
        let ledger = world.ledger();
        let is_critical = policy.removal.with_room(ledger.growth()).young_from.is_reached(usage);
        wishes.prune_at.is_some_and(|at| usage.percent >= at || is_critical)
            && (is_critical || !ledger.is_exhausted(world.now()))
    };
    let is_urgent = usage.as_ref().is_some_and(|usage| lacks(usage) || worth_a_prune(usage));
    if wishes.prune_wait.is_zero() || world.is_inside_inhibitor() {
        return Ok(judged(usage));
    }
    if !is_urgent && !is_prune_due(world) {
        return Ok(judged(usage));
    }
    // Those that gave up have just begun: before they end there is no moment to wait for.
    let requests = || world.requests().inspect_err(|error| log::info!("{error:#}")).unwrap_or_default();
    if requests().iter().any(|request| request.gave_up) && wishes.min_free.is_none() {
        return Ok(judged(usage));
    }
    let request = Registration { why: None, min_free: wishes.min_free };
    let mut request =
        world.register(Register::Requests, &request).inspect_err(|error| log::info!("{error:#}")).ok();
    let began = Instant::now();
    let mut end = began + wishes.prune_wait;
    let answer_by = if wishes.min_free.is_some() { end } else { end.min(began + ANSWERED_WITHIN) };
    let (mut answered, mut told) = (request.is_none(), false);
    loop {
        let is_due = is_prune_due(world);
        answered |= is_due;
        if !is_due && (answered || has_room(world, policy, wishes, lacks).await?) {
            break;
        }
        // All that wait give up together: one after the other they would never leave a gap.
        let waits_since = requests().iter().filter_map(|request| request.since).min();
        let waited = waits_since.map_or(Duration::ZERO, |since| elapsed(world.now(), since));
        end = end.min(Instant::now() + wishes.prune_wait.saturating_sub(waited));
        let until = if is_due { end } else { answer_by.min(end) };
        if Instant::now() >= until {
            say(Queueing::GivesUp);
            let left = request.take().map(|request| world.leave(request, wishes.prune_wait));
            drop(left.transpose().inspect_err(|error| log::info!("{error:#}")));
            break;
        }
        let tell_at = if told { until } else { began + TOLD_AFTER };
        tokio::select! {
            () = changed(prunes.as_ref()) => answered = true,
            () = sleep_until(until.min(tell_at).min(Instant::now() + QUEUE_INTERVAL)) => {}
        }
        if !told && began.elapsed() >= TOLD_AFTER {
            told = true;
            say(Queueing::Waits);
        }
    }
    drop(request);
    match wishes.min_free {
        Some(_) => Ok(judged(usage_of_images(world, policy, wishes).await?)),
        None => Ok(Ok(())),
    }
}

/// A register that cannot be read holds nobody up.
fn is_prune_due(world: &impl World) -> bool {
    let due = world.due_prunes().inspect_err(|error| log::info!("{error:#}"));
    due.is_ok_and(|due| !due.is_empty())
}

/// Whether there is the space that is wanted, without any prune.
async fn has_room<W: World>(
    world: &W,
    policy: &PrunePolicy,
    wishes: &Wishes,
    lacks: impl Fn(&Usage) -> bool,
) -> Answer<bool> {
    if wishes.min_free.is_none() {
        return Ok(false);
    }
    Ok(usage_of_images(world, policy, wishes).await?.is_some_and(|usage| !lacks(&usage)))
}

/// Of the filesystem that holds the images; `None` where nobody wants to know.
async fn usage_of_images<W: World>(
    world: &W,
    policy: &PrunePolicy,
    wishes: &Wishes,
) -> Answer<Option<Usage>> {
    if wishes.min_free.is_none() && wishes.prune_at.is_none() {
        return Ok(None);
    }
    let engine = world.connect().await?;
    let survey =
        observe::survey(world, &engine, Questions { disk: true, ..Questions::NONE }, &policy.disk_paths)
            .await;
    let places = survey.disk_places(&policy.disk_paths)?;
    super::fullest(world, &places.images).await.map(Some)
}
