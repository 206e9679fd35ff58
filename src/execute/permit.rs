//! Checks right before an order whether it may be given, and gives it.

use std::rc::Rc;
use std::time::Duration;

use super::{Execution, Recheck, Skip, Stop};
use crate::facts::{Answer, Image, ImageClass, Unavailable, Usage};
use crate::gates::GateState;
use crate::plan::{Removal, Turn};
use crate::units::Time;
use crate::world::{Effect, EngineApi, EngineError, EngineEvents, EngineOrders, StopEvent, World};

/// An order for which the engine was only too busy is repeated this often, and after this time.
pub(super) const MAX_RETRIES: usize = 5;
const RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// For one order the gates are evaluated this often because of events. After that only what the events name counts.
pub(super) const MAX_SURVEYS: usize = 3;

/// Checks for one order, at most, while events keep coming.
pub(super) const MAX_RECHECKS: usize = 20;

/// How many events require the gates to be evaluated again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Events {
    others: usize,
    of_services: usize,
}

impl<W, Ask, Measure> Execution<'_, W, Ask, Measure>
where
    W: World,
    Ask: AsyncFnMut() -> Recheck,
    Measure: AsyncFn() -> Answer<Usage>,
{
    /// Check that nothing began and that the object is still what the plan saw, and give the order at once.
    pub(super) async fn order(
        &mut self,
        turn: Turn,
        expect: Precondition<'_>,
        order: Order<'_>,
    ) -> Result<Effect, NotDone> {
        let mut retries = 0;
        loop {
            let permit = self.check_preconditions(turn, expect).await?;
            match permit.give(&*self.orders, order).await {
                Err(error) if error.is_busy() && retries < MAX_RETRIES => {
                    retries += 1;
                    tokio::time::sleep(RETRY_INTERVAL).await;
                }
                Err(error) if error.is_no_space() && self.context.world.release_reserve() => {
                    log::info!("the reserve is given up: {error}");
                }
                done => return Ok(done?),
            }
        }
    }

    /// Give no further order. The first reason is kept.
    pub(super) fn stop(&mut self, why: Stop) -> NotDone {
        self.outcome.stopped.get_or_insert(why);
        NotDone::Skipped(Skip::Stopped)
    }

    pub(super) async fn check_preconditions(
        &mut self,
        turn: Turn,
        expect: Precondition<'_>,
    ) -> Result<Permit<W::RemovalLock>, NotDone> {
        if self.forbidden.contains(&turn) {
            return Err(NotDone::Skipped(Skip::Forbidden));
        }
        let mut surveys = 0;
        for _ in 0..MAX_RECHECKS {
            let events = self.events().await?;
            match self.asked_for {
                Some(asked) if asked == (turn, events) => {}
                // Containers start all the time. What changed is known: the images that they use.
                Some((of_turn, asked))
                    if of_turn == turn
                        && asked.of_services == events.of_services
                        && surveys >= MAX_SURVEYS =>
                {
                    self.asked_for = Some((turn, events));
                }
                _ => {
                    let Recheck { runs, converge, in_use } = (self.ask)().await;
                    if [runs.state(), converge.state()] != [GateState::Open; 2] {
                        return Err(self.stop(Stop::Gates { runs, converge }));
                    }
                    self.in_use = in_use;
                    self.asked_for = Some((turn, events));
                    surveys += 1;
                    // That took a while: check the events once more.
                    continue;
                }
            }
            let unanswered = |error| Stop::Unavailable(Unavailable::from(error));
            let lock = match self.lock.upgrade() {
                Some(held) => held,
                None => match self.context.world.lock_removals().await {
                    Ok(lock) => Rc::new(lock),
                    Err(error) => return Err(self.stop(unanswered(error))),
                },
            };
            self.lock = Rc::downgrade(&lock);
            match self.context.world.inhibitors() {
                Ok(none) if none.is_empty() => {}
                Ok(inhibitors) => return Err(self.stop(Stop::Inhibited(inhibitors))),
                Err(error) => return Err(self.stop(unanswered(error))),
            }
            self.check(expect).await?;
            if self.events().await? == events {
                return Ok(Permit { _lock: lock });
            }
        }
        Err(self.stop(Stop::GatesUnsettled))
    }

    /// How many events there were. Stops at a signal, or at an event that does not allow any removal.
    async fn events(&mut self) -> Result<Events, NotDone> {
        if self.context.world.shutdown_requested() {
            return Err(self.stop(Stop::Signal));
        }
        let seen = self.context.events.poll().await;
        // What a run does that closes no gate stops nothing either.
        let is_let_go = |event: &StopEvent| {
            let StopEvent::Run(name) = event else { return false };
            let is_of = |run: &String| {
                name.strip_prefix(run.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
            };
            self.context.let_go.iter().any(is_of)
        };
        match seen.stops.into_iter().find(|event| !is_let_go(event)) {
            Some(event) => Err(self.stop(Stop::Event(event))),
            None => {
                self.named_by_events = seen.images;
                Ok(Events { others: seen.others, of_services: seen.of_services })
            }
        }
    }

    pub(super) async fn check(&self, expect: Precondition<'_>) -> Result<(), NotDone> {
        let engine = self.context.engine;
        let not_done = match expect {
            Precondition::Anything => return Ok(()),
            Precondition::Finished(id, planned) => {
                match engine.inspect_container(id).await?.and_then(|now| now.finished) {
                    Some(finished) if Some(finished) != planned => NotDone::Skipped(Skip::RanAgain),
                    _ => return Ok(()),
                }
            }
            Precondition::Unused(removal, reference) => {
                match engine.confirmed_image(&removal.object.id).await? {
                    None => NotDone::Gone,
                    Some(image) if !is_as_planned(&image, removal) => NotDone::Skipped(Skip::Renamed),
                    Some(image) if self.is_in_use(&image) => NotDone::Skipped(Skip::InUse),
                    Some(image) if reference.is_some_and(|name| !image.has_reference(name)) => NotDone::Moved,
                    Some(_) => return Ok(()),
                }
            }
            // If the image has a name again, only our tag is removed. If it has none, our tag is all that keeps it
            // for a container.
            Precondition::Nameless(id) => match engine.confirmed_image(id).await? {
                None => NotDone::Gone,
                Some(image) if self.is_in_use(&image) && image.is_nameless() => NotDone::Skipped(Skip::InUse),
                Some(_) => return Ok(()),
            },
            Precondition::Named(id) => match engine.confirmed_image(id).await? {
                None => NotDone::Gone,
                Some(image) if image.is_nameless() => NotDone::Skipped(Skip::Renamed),
                Some(_) => return Ok(()),
            },
        };
        Err(not_done)
    }

    fn is_in_use(&self, image: &Image) -> bool {
        let mut used = self.in_use.iter().chain(&self.named_by_events);
        self.in_use.contains(&image.id) || used.any(|used| image.is_named(used))
    }
}

pub(super) fn is_as_planned(image: &Image, removal: &Removal) -> bool {
    let class = image.class();
    match removal.turn() {
        Turn::DanglingImages => class == ImageClass::Dangling,
        _ => class != ImageClass::Dangling && image.tags.iter().all(|tag| removal.tags().contains(tag)),
    }
}

/// An order to the engine, with all its parameters.
#[derive(Debug, Clone, Copy)]
pub enum Order<'a> {
    RemoveContainer(&'a str),
    RemoveImage(&'a str),
    TagImage(&'a str),
    PruneBuildCache(Duration),
}

/// Permission for one order, now. Only [`Execution::check_preconditions`] makes one, and the order uses it up. It holds
/// the lock that `inhibit` waits for.
pub struct Permit<L> {
    _lock: Rc<L>,
}

impl<L> Permit<L> {
    pub async fn give(self, orders: &impl EngineOrders, order: Order<'_>) -> Result<Effect, EngineError> {
        match order {
            Order::RemoveContainer(id) => orders.remove_container(id).await,
            Order::RemoveImage(reference) => orders.remove_image(reference).await,
            Order::TagImage(id) => orders.tag_image(id).await,
            Order::PruneBuildCache(older_than) => orders.prune_build_cache(older_than).await,
        }
    }
}

#[cfg(test)]
impl Permit<()> {
    pub fn without_checks() -> Self {
        Self { _lock: Rc::new(()) }
    }
}

/// What an object must still be for its order to be given.
#[derive(Clone, Copy)]
pub enum Precondition<'a> {
    Anything,
    Finished(&'a str, Option<Time>),
    /// An image that no container uses, without names that the plan did not see, and with this name, which is to be removed.
    Unused(&'a Removal, Option<&'a str>),
    /// An image with our tag; if that is its only name, no container may use it.
    Nameless(&'a str),
    Named(&'a str),
}

/// Why an object was not removed by an order of ours.
pub enum NotDone {
    Gone,
    /// The image no longer has the name to be removed.
    Moved,
    Skipped(Skip),
    Failed(EngineError),
}

impl NotDone {
    /// For an image that had lost its names when the prune was stopped.
    pub fn interrupted(self) -> Self {
        match self {
            Self::Skipped(Skip::Stopped) => Self::Skipped(Skip::Interrupted),
            other => other,
        }
    }
}

impl From<EngineError> for NotDone {
    fn from(error: EngineError) -> Self {
        match error.status() {
            Some((409, why)) => Self::Skipped(Skip::Refused(why.to_owned())),
            _ => Self::Failed(error),
        }
    }
}
