//! Carries a plan out, in its order. It skips what changed since the plan was made, evicts in batches no larger than
//! necessary, and stops where a gate closes.
//!
//! A deploy may begin right after the gates were evaluated. So a prune subscribes to the engine's events before that,
//! and checks them, the inhibitors and its signals before each order ([`permit`]).

mod evict;
mod permit;

use std::collections::{HashSet, VecDeque};
use std::rc::{Rc, Weak};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;

use crate::facts::{Answer, Inhibitor, Limit, Unavailable, Usage};
use crate::gates::{GateState, converge, runs};
use crate::plan::{Removal, RemovalReason, Rung, Turn};
use crate::world::{Effect, EngineApi, EngineError, EngineOrders, StopEvent, World};
use permit::{Events, NotDone, Order, Permit, Precondition};

/// Orders for dangling images in flight at once, at most. One at a time, each order waits for a round trip: 500
/// images took 1.33 to 1.38 × of the engine's own prune (20.10 and 26.1, 2 cores).
const IN_FLIGHT: usize = 3;

/// Requests for stale build cache in a row, at most.
const MAX_CACHE_PRUNES: usize = 64;

pub struct Context<'a, W: World> {
    pub world: &'a W,
    pub engine: &'a W::Engine,
    /// The events of every engine that is asked, since before the gates were evaluated.
    pub events: &'a <W::Engine as EngineApi>::Events,
    /// Names of the runs whose events stop nothing.
    pub let_go: &'a [String],
    pub progress: &'a dyn Fn(usize),
}

pub struct Recheck {
    pub runs: runs::Verdict,
    pub converge: converge::Verdict,
    /// By what the images that containers use are known ([`crate::facts::Container::images`]).
    pub in_use: HashSet<String>,
}

#[derive(Debug, Default)]
pub struct Outcome {
    pub removed: Vec<Removal>,
    pub skipped: Vec<(Removal, Skip)>,
    /// What could not be removed, and the engine's error.
    pub failed: Vec<(Removal, EngineError)>,
    /// Why no further image was evicted: the last ones freed nothing.
    pub freed_nothing: Option<FreedNothing>,
    /// IDs of images whose eviction is over: removed, or with their names and without our tag.
    pub settled: Vec<String>,
    pub stopped: Option<Stop>,
}

impl Outcome {
    fn done(&self) -> usize {
        self.removed.len() + self.skipped.len() + self.failed.len()
    }

    /// Whether something failed, be it a removal or a question on the way. Being stopped is not a failure.
    pub fn has_failed(&self) -> bool {
        let unanswered = match &self.stopped {
            Some(Stop::Gates { runs, converge }) => {
                [runs.state(), converge.state()].contains(&GateState::Unknown)
            }
            Some(
                Stop::Unavailable(_) | Stop::GatesUnsettled | Stop::NoSpace | Stop::Event(StopEvent::Lost(_)),
            ) => true,
            Some(Stop::Signal | Stop::Event(_) | Stop::Inhibited(_)) | None => false,
        };
        unanswered || !self.failed.is_empty()
    }
}

/// Images that were evicted in a row, and after which the disk was as full as before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FreedNothing {
    pub images: usize,
    /// Bytes that it should have freed.
    pub size: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Skip {
    /// The engine would not remove it now, in its own words.
    Refused(String),
    /// It has got another name since the plan was made.
    Renamed,
    /// Since the plan was made it was pulled, or a container uses it.
    InUse,
    /// Since the plan was made the container ran again.
    RanAgain,
    /// It was pulled again during its eviction, and has its names back.
    PulledAgain,
    /// The disk is no longer as full as the image's rung of eviction asks for.
    EnoughSpace(Usage, Limit),
    /// The images before it were evicted and freed nothing.
    FreedNothing,
    /// The engine has untagged it and keeps it for an image that was built from it.
    HasChildren,
    /// The engine, or a proxy before it, forbids orders of this kind.
    Forbidden,
    /// It has tags that no registry may have, and they could not be recorded before they were taken off.
    Unrecorded,
    Stopped,
    /// The prune ended during its eviction: it has lost its names, and its layers are still there.
    Interrupted,
}

#[derive(Debug)]
pub enum Stop {
    Gates {
        runs: runs::Verdict,
        converge: converge::Verdict,
    },
    Event(StopEvent),
    Inhibited(Vec<Inhibitor>),
    /// SIGTERM or SIGINT.
    Signal,
    /// Events kept coming while the gates were evaluated, [`MAX_RECHECKS`] times.
    GatesUnsettled,
    /// The disk is too full for the engine to write what an order changes.
    NoSpace,
    Unavailable(Unavailable),
}

/// Carries out one plan, in one or several parts.
pub struct Execution<'a, W: World, Ask, Measure> {
    context: Context<'a, W>,
    orders: Rc<<W::Engine as EngineApi>::Orders>,
    ask: Ask,
    usage: Measure,
    /// The kind of object and the events for which the gates were last evaluated.
    asked_for: Option<(Turn, Events)>,
    in_use: HashSet<String>,
    /// Images that were pulled, tagged or used since the subscription, by ID or reference.
    named_by_events: Vec<String>,
    /// Kinds of which the engine forbids the removal.
    forbidden: Vec<Turn>,
    /// The rung of the latest eviction.
    rung: Option<Rung>,
    /// Batches in a row that freed nothing, and what they should have freed together.
    useless_batches: (usize, FreedNothing),
    /// The lock that `inhibit` waits for. The permits of the orders in flight hold it.
    lock: Weak<W::RemovalLock>,
    pub outcome: Outcome,
}

impl<'a, W, Ask, Measure> Execution<'a, W, Ask, Measure>
where
    W: World,
    Ask: AsyncFnMut() -> Recheck,
    Measure: AsyncFn() -> Answer<Usage>,
{
    /// `ask` evaluates the gates again; `usage` measures the filesystem that holds the images.
    pub fn new(context: Context<'a, W>, ask: Ask, usage: Measure) -> Self {
        Self {
            orders: Rc::new(context.engine.orders()),
            context,
            ask,
            usage,
            asked_for: None,
            in_use: HashSet::new(),
            named_by_events: vec![],
            forbidden: vec![],
            rung: None,
            useless_batches: (0, FreedNothing::default()),
            lock: Weak::new(),
            outcome: Outcome::default(),
        }
    }

    pub async fn carry_out(&mut self, removals: Vec<Removal>) {
        let mut left = VecDeque::from(removals);
        while let Some(removal) = left.pop_front() {
            if self.outcome.stopped.is_some() {
                self.outcome.skipped.push((removal, Skip::Stopped));
                continue;
            }
            match removal.reason {
                RemovalReason::Unnamed { .. } => self.remove_dangling_images(removal, &mut left).await,
                RemovalReason::Evicted(ref eviction) => {
                    let limits = (eviction.needs(self.rung), eviction.limit);
                    self.rung = Some(eviction.rung);
                    self.evict(removal, Some(limits), &mut left).await;
                }
                RemovalReason::Interrupted => self.evict(removal, None, &mut left).await,
                RemovalReason::Finished(_) | RemovalReason::NeverStarted(_) => {
                    let expect = Precondition::Finished(&removal.object.id, removal.finished);
                    let done =
                        self.order(removal.turn(), expect, Order::RemoveContainer(&removal.object.id)).await;
                    self.record_outcome(removal, done);
                }
                RemovalReason::StaleCache { older_than, .. } => {
                    let done = self.prune_build_cache(older_than).await;
                    self.record_outcome(removal, done);
                }
            }
        }
    }

    /// Prune stale build cache until there is none: one request does not remove the parents of what it removes.
    async fn prune_build_cache(&mut self, older_than: Duration) -> Result<Effect, NotDone> {
        let order = Order::PruneBuildCache(older_than);
        for n in 0..MAX_CACHE_PRUNES {
            match self.order(Turn::BuildCache, Precondition::Anything, order).await {
                Ok(Effect::Gone) => break,
                // Some of it has been removed.
                Err(NotDone::Skipped(Skip::Stopped)) if n > 0 => break,
                answer => drop(answer?),
            }
        }
        Ok(Effect::Complete)
    }

    fn record_outcome(&mut self, removal: Removal, done: Result<Effect, NotDone>) {
        match done {
            Ok(Effect::Complete | Effect::Gone) | Err(NotDone::Gone) => {
                log::info!("removed {} {}", removal.object.kind.name(), removal.object.label());
                self.outcome.removed.push(removal);
            }
            // It had just got another reference, which keeps it.
            Ok(Effect::Untagged) | Err(NotDone::Moved) => self.outcome.skipped.push((removal, Skip::Renamed)),
            Err(NotDone::Skipped(why)) => self.outcome.skipped.push((removal, why)),
            Err(NotDone::Failed(error)) => {
                // The engine may be in trouble: evaluate the gates again before the next order.
                self.asked_for = None;
                if error.timed_out() && self.outcome.stopped.is_none() {
                    // It may still be at work on it: no further order until that has ended.
                    self.outcome.stopped = Some(Stop::Unavailable(error.clone().into()));
                }
                if error.is_no_space() && self.outcome.stopped.is_none() {
                    self.outcome.stopped = Some(Stop::NoSpace);
                }
                if error.is_forbidden() {
                    self.forbidden.push(removal.turn());
                }
                self.outcome.failed.push((removal, error));
            }
        }
        (self.context.progress)(self.outcome.done());
    }

    /// Remove the dangling images from this one on, each checked right before its own order. No deploy asks for
    /// one by name, so that a few orders may be in flight at once.
    async fn remove_dangling_images(&mut self, first: Removal, left: &mut VecDeque<Removal>) {
        let mut in_flight = FuturesUnordered::new();
        let mut next = Some(first);
        while let Some(removal) = next {
            let mut ended = Vec::new();
            let permit = {
                let check =
                    self.check_preconditions(Turn::DanglingImages, Precondition::Unused(&removal, None));
                tokio::pin!(check);
                loop {
                    tokio::select! {
                        biased;
                        Some(done) = in_flight.next() => ended.push(done),
                        permit = &mut check => break permit,
                    }
                }
            };
            for (removal, done) in ended {
                self.record_outcome(removal, done);
            }
            match permit {
                // An order that has just ended stops the prune, or requires the gates to be evaluated again.
                Ok(_) if self.outcome.stopped.is_some() => {
                    self.record_outcome(removal, Err(NotDone::Skipped(Skip::Stopped)));
                }
                Ok(_) if self.asked_for.is_none() => {
                    next = Some(removal);
                    continue;
                }
                Ok(permit) => {
                    let orders = Rc::clone(&self.orders);
                    in_flight.push(remove_dangling_image(self.context.engine, orders, removal, permit));
                }
                Err(why) => self.record_outcome(removal, Err(why)),
            }
            if in_flight.len() == IN_FLIGHT
                && let Some((removal, done)) = in_flight.next().await
            {
                self.record_outcome(removal, done);
            }
            let more = self.outcome.stopped.is_none();
            next = if more { pop(left, Turn::DanglingImages) } else { None };
        }
        while let Some((removal, done)) = in_flight.next().await {
            self.record_outcome(removal, done);
        }
    }
}

/// Remove a dangling image.
///
/// Two that are removed at the same time may have an untagged parent in common. Then the engine may fail because the
/// other order has just removed the parent, although the image itself is gone (observed: 500 in one of 40 pairs on
/// 20.10, 404 in two of 40 on 26.1).
async fn remove_dangling_image<L>(
    engine: &impl EngineApi,
    orders: Rc<impl EngineOrders>,
    removal: Removal,
    permit: Permit<L>,
) -> (Removal, Result<Effect, NotDone>) {
    let done = permit.give(&*orders, Order::RemoveImage(&removal.object.id)).await;
    let doubtful = done.as_ref().is_err_and(|error| !error.timed_out());
    let gone = doubtful && matches!(engine.image(&removal.object.id).await, Ok(None));
    (removal, if gone { Ok(Effect::Gone) } else { done.map_err(NotDone::from) })
}

fn pop(left: &mut VecDeque<Removal>, turn: Turn) -> Option<Removal> {
    if left.front()?.turn() == turn { left.pop_front() } else { None }
}

#[cfg(test)]
mod tests;
