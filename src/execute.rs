//! Carries a plan out, in its order. It skips what changed since the plan was made, evicts in batches no larger than the disk
//! asks for, and stops where a gate closes.
//!
//! A gate is a sample, not a lock. So a run subscribes to the engine's events before it asks the
//! gates, and looks at them, at the inhibitors and at its signals before each single removal.

use std::collections::{HashSet, VecDeque};
use std::rc::{Rc, Weak};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;

use crate::engine::EngineError;
use crate::engine::remove::{Done, eviction_tag};
use crate::engine::watch::StopEvent;
use crate::facts::{Answer, Image, ImageClass, Inhibitor, Unavailable};
use crate::gates::disk::{Limit, Usage};
use crate::gates::{Gate, GateState};
use crate::plan::{Eviction, ObjectKind, Plan, PlannedRemoval, RemovalReason};
use crate::units::Time;
use crate::world::{EngineApi, EngineEvents, EngineOrders, World};

/// Between taking an image's names away and removing it. A deploy that found the names just before
/// makes its container by them 0.2 s after its `service create` event (observed on 20.10 to 29), and
/// one that begins now needs a moment to bring them back.
const EVICTION_GRACE: Duration = Duration::from_secs(1);

/// Cached images that share one such moment, at most.
const BATCH: usize = 32;

/// Orders for dangling images that are in flight at once, at most. One by one, each waits for its way to the engine
/// and back: 500 then took 1.33 to 1.38 × of the engine's own prune (20.10 and 26.1, 2 cores).
const IN_FLIGHT: usize = 3;

/// How long the space of a batch may take to come back, seconds.
const SETTLES_WITHIN: usize = 10;

/// How often the gates are asked anew because of events that came while they were asked.
const MAX_RECHECKS: usize = 20;

/// Where a run works, and what may stop it.
pub struct RunContext<'a, W: World> {
    /// The host.
    pub world: &'a W,
    /// The engine, connected.
    pub engine: &'a W::Engine,
    /// The events of every engine that is asked, since before the gates were evaluated.
    pub events: &'a <W::Engine as EngineApi>::Events,
    /// Is told how many objects are dealt with.
    pub progress: &'a dyn Fn(usize),
}

/// What a run learns when it asks again.
pub struct Recheck {
    /// `runs` and `converge`, where they are not open.
    pub closed: Vec<Gate>,
    /// IDs of the images that any container uses.
    pub in_use: HashSet<String>,
}

/// What was done.
#[derive(Debug, Default)]
pub struct Outcome {
    /// What is gone.
    pub removed: Vec<PlannedRemoval>,
    /// What stayed although nothing failed, and why.
    pub skipped: Vec<(PlannedRemoval, Skip)>,
    /// What could not be removed, and the engine's error.
    pub failed: Vec<(PlannedRemoval, EngineError)>,
    /// Why no further image was evicted: the last ones freed nothing.
    pub freed_nothing: Option<FreedNothing>,
    /// Why it ended before its plan was carried out.
    pub stopped: Option<Stop>,
}

impl Outcome {
    /// How many objects are dealt with.
    fn done(&self) -> usize {
        self.removed.len() + self.skipped.len() + self.failed.len()
    }

    /// Did something fail, be it a removal or a question on the way? Being stopped is no failure.
    pub fn has_failed(&self) -> bool {
        let unanswered = match &self.stopped {
            Some(Stop::Gates(gates)) => gates.iter().any(|gate| gate.state() == GateState::Unknown),
            Some(Stop::Unavailable(_) | Stop::GatesUnsettled | Stop::Event(StopEvent::Lost(_))) => true,
            Some(Stop::Signal | Stop::Event(_) | Stop::Inhibited(_)) | None => false,
        };
        unanswered || !self.failed.is_empty()
    }
}

/// Images that were evicted together, and after which the disk was as full as before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FreedNothing {
    /// How many they were.
    pub images: usize,
    /// Bytes that they take by the engine's list, layers that they share included.
    pub size: u64,
}

/// Why something that was to go stayed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Skip {
    /// The engine would not remove it now, in its own words.
    Refused(String),
    /// Since the plan was made it got another name than it had.
    Renamed,
    /// Since the plan was made a container uses it.
    InUse,
    /// Since the plan was made the container ran again.
    RanAgain,
    /// It was pulled again during its eviction, and has its names back.
    PulledAgain,
    /// The disk is no longer as full as the image's rung of eviction asks for.
    EnoughSpace(Usage, Limit),
    /// The images before it were evicted and freed nothing.
    FreedNothing,
    /// The run ended before its turn.
    Stopped,
    /// The run ended while it was going: it has lost its names, and its layers are still there.
    Interrupted,
}

/// Why a run ended early.
#[derive(Debug)]
pub enum Stop {
    /// These gates are no longer open.
    Gates(Vec<Gate>),
    /// The engine's events.
    Event(StopEvent),
    /// These commands block prunes.
    Inhibited(Vec<Inhibitor>),
    /// SIGTERM or SIGINT.
    Signal,
    /// Events kept coming while the gates were evaluated, [`MAX_RECHECKS`] times.
    GatesUnsettled,
    /// It is not known whether it may go on.
    Unavailable(Unavailable),
}

struct Execution<'a, W: World, Ask, Measure> {
    site: RunContext<'a, W>,
    orders: Rc<<W::Engine as EngineApi>::Orders>,
    ask: Ask,
    usage: Measure,
    /// For which kind of object, and after how many events, the gates were asked last.
    asked_for: Option<(ObjectKind, usize)>,
    in_use: HashSet<String>,
    /// What an inhibitor waits for, as long as an order is in flight.
    lock: Weak<W::RemovalLock>,
    outcome: Outcome,
}

/// Carry the plan out. `ask` asks the gates and looks at the containers anew; `usage` measures the
/// filesystem that holds the images.
pub async fn execute<W, Ask, Measure>(
    plan: Plan,
    site: RunContext<'_, W>,
    ask: Ask,
    usage: Measure,
) -> Outcome
where
    W: World,
    Ask: AsyncFnMut() -> Recheck,
    Measure: AsyncFn() -> Answer<Usage>,
{
    let mut run = Execution {
        orders: Rc::new(site.engine.orders()),
        site,
        ask,
        usage,
        asked_for: None,
        in_use: HashSet::new(),
        lock: Weak::new(),
        outcome: Outcome::default(),
    };
    for tag in plan.stale_eviction_tags {
        run.release(&tag).await;
    }
    let mut left = VecDeque::from(plan.remove);
    while let Some(removal) = left.pop_front() {
        if run.outcome.stopped.is_some() {
            run.outcome.skipped.push((removal, Skip::Stopped));
            continue;
        }
        match removal.reason {
            RemovalReason::Unnamed { .. } => run.remove_dangling_images(removal, &mut left).await,
            RemovalReason::Evicted(Eviction { limit, .. }) => run.evict(removal, limit, &mut left).await,
            RemovalReason::Finished(_) | RemovalReason::NeverStarted(_) => {
                let expect = Precondition::Finished(&removal.id, removal.finished);
                let done = run.order(removal.kind, expect, Order::RemoveContainer(&removal.id)).await;
                run.record_outcome(removal, done);
            }
            RemovalReason::StaleCache { older_than, .. } => {
                let order = Order::PruneBuildCache(older_than);
                let done = run.order(removal.kind, Precondition::Anything, order).await;
                run.record_outcome(removal, done);
            }
        }
    }
    run.outcome
}

impl<W, Ask, Measure> Execution<'_, W, Ask, Measure>
where
    W: World,
    Ask: AsyncFnMut() -> Recheck,
    Measure: AsyncFn() -> Answer<Usage>,
{
    /// Change the engine: look whether anything began and whether the object is still what the plan saw,
    /// and give the order in the same breath. [`Execution::remove_dangling_images`] does the same, a few at a time.
    async fn order(
        &mut self,
        kind: ObjectKind,
        expect: Precondition<'_>,
        order: Order<'_>,
    ) -> Result<Done, NotDone> {
        let permit = self.check_preconditions(kind, expect).await?;
        Ok(permit.give(&*self.orders, order).await?)
    }

    /// Begin no further order, for this reason if it is the first.
    fn stop(&mut self, why: Stop) -> NotDone {
        self.outcome.stopped.get_or_insert(why);
        NotDone::Skipped(Skip::Stopped)
    }

    /// May this be done now?
    async fn check_preconditions(
        &mut self,
        kind: ObjectKind,
        expect: Precondition<'_>,
    ) -> Result<Permit<W::RemovalLock>, NotDone> {
        for _ in 0..MAX_RECHECKS {
            let events = self.events().await?;
            if self.asked_for != Some((kind, events)) {
                let asked = (self.ask)().await;
                if !asked.closed.is_empty() {
                    return Err(self.stop(Stop::Gates(asked.closed)));
                }
                self.in_use = asked.in_use;
                self.asked_for = Some((kind, events));
                // Asking took its time: look at the events once more.
                continue;
            }
            let unanswered = |error| Stop::Unavailable(Unavailable::from(error));
            let lock = match self.lock.upgrade() {
                Some(held) => held,
                None => match self.site.world.lock_removals().await {
                    Ok(lock) => Rc::new(lock),
                    Err(error) => return Err(self.stop(unanswered(error))),
                },
            };
            self.lock = Rc::downgrade(&lock);
            match self.site.world.inhibitors() {
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

    /// How many events there were, if none of them, and no signal, says that this must end.
    async fn events(&mut self) -> Result<usize, NotDone> {
        if self.site.world.shutdown_requested() {
            return Err(self.stop(Stop::Signal));
        }
        match self.site.events.poll().await {
            (Some(sign), _) => Err(self.stop(Stop::Event(sign))),
            (None, others) => Ok(others),
        }
    }

    /// Is the object still what the plan saw?
    async fn check(&self, expect: Precondition<'_>) -> Result<(), NotDone> {
        let engine = self.site.engine;
        let not_done = match expect {
            Precondition::Anything => return Ok(()),
            Precondition::Finished(id, planned) => match engine.finish_time(id).await? {
                Some(finished) if Some(finished) != planned => NotDone::Skipped(Skip::RanAgain),
                _ => return Ok(()),
            },
            Precondition::Unused(removal) => match engine.image(&removal.id).await? {
                None => NotDone::Gone,
                Some(_) if self.in_use.contains(&removal.id) => NotDone::Skipped(Skip::InUse),
                Some(image) if is_as_planned(&image, removal) => return Ok(()),
                Some(_) => NotDone::Skipped(Skip::Renamed),
            },
            // Whatever has a name again loses no more than our tag; without one our tag is all that
            // keeps it for a container.
            Precondition::Nameless(id) => match engine.image(id).await? {
                None => NotDone::Gone,
                Some(image) if self.in_use.contains(id) && image.is_nameless() => {
                    NotDone::Skipped(Skip::InUse)
                }
                Some(_) => return Ok(()),
            },
        };
        Err(not_done)
    }

    fn record_outcome(&mut self, removal: PlannedRemoval, done: Result<Done, NotDone>) {
        match done {
            Ok(Done::Whole | Done::Gone) | Err(NotDone::Gone) => {
                log::info!("removed {} {}", removal.kind.name(), removal.label());
                self.outcome.removed.push(removal);
            }
            // It had just got another reference, which keeps it.
            Ok(Done::Untagged) => self.outcome.skipped.push((removal, Skip::Renamed)),
            Err(NotDone::Skipped(why)) => self.outcome.skipped.push((removal, why)),
            Err(NotDone::Failed(error)) => {
                // The engine may be in trouble: ask again before anything else goes.
                self.asked_for = None;
                if error.timed_out() && self.outcome.stopped.is_none() {
                    // It may still be at work on it: nothing more is ordered beside that.
                    self.outcome.stopped = Some(Stop::Unavailable(error.clone().into()));
                }
                self.outcome.failed.push((removal, error));
            }
        }
        (self.site.progress)(self.outcome.done());
    }

    /// Take a tag of our own off an image that has its names back.
    async fn release(&mut self, tag: &str) {
        if self.outcome.stopped.is_some() {
            return;
        }
        let order = Order::RemoveImage(tag);
        if let Err(NotDone::Failed(error)) =
            self.order(ObjectKind::Cached, Precondition::Anything, order).await
        {
            self.asked_for = None;
            if error.timed_out() {
                self.stop(Stop::Unavailable(error.clone().into()));
            }
            log::warn!("the tag {tag} of an interrupted eviction stays: {error}");
        }
    }

    /// Remove the dangling images from this one on, each looked at right before its own order. No deploy asks for
    /// one by name, so that a few orders may be in flight at once.
    async fn remove_dangling_images(&mut self, first: PlannedRemoval, left: &mut VecDeque<PlannedRemoval>) {
        let mut in_flight = FuturesUnordered::new();
        let mut next = Some(first);
        while let Some(removal) = next {
            let mut ended = Vec::new();
            let looked = {
                let looking = self.check_preconditions(ObjectKind::Dangling, Precondition::Unused(&removal));
                tokio::pin!(looking);
                loop {
                    tokio::select! {
                        biased;
                        Some(done) = in_flight.next() => ended.push(done),
                        looked = &mut looking => break looked,
                    }
                }
            };
            for (removal, done) in ended {
                self.record_outcome(removal, done);
            }
            match looked {
                // What ended meanwhile ends the run, or makes it ask again before another order.
                Ok(_) if self.outcome.stopped.is_some() => {
                    self.record_outcome(removal, Err(NotDone::Skipped(Skip::Stopped)));
                }
                Ok(_) if self.asked_for.is_none() => {
                    next = Some(removal);
                    continue;
                }
                Ok(permit) => {
                    let orders = Rc::clone(&self.orders);
                    in_flight.push(remove_dangling_image(self.site.engine, orders, removal, permit));
                }
                Err(why) => self.record_outcome(removal, Err(why)),
            }
            if in_flight.len() == IN_FLIGHT
                && let Some((removal, done)) = in_flight.next().await
            {
                self.record_outcome(removal, done);
            }
            let more = self.outcome.stopped.is_none();
            next = if more { pop(left, ObjectKind::Dangling) } else { None };
        }
        while let Some((removal, done)) = in_flight.next().await {
            self.record_outcome(removal, done);
        }
    }

    /// Evict as many cached images, from this one on, as the limit of their rung still wants: take their names
    /// away, wait a moment, look again, and remove those that were not asked for meanwhile.
    async fn evict(&mut self, first: PlannedRemoval, limit: Limit, left: &mut VecDeque<PlannedRemoval>) {
        if self.outcome.freed_nothing.is_some() {
            return self.outcome.skipped.push((first, Skip::FreedNothing));
        }
        let usage = match (self.usage)().await {
            Ok(usage) => usage,
            Err(why) => {
                self.outcome.stopped = Some(Stop::Unavailable(why));
                return self.outcome.skipped.push((first, Skip::Stopped));
            }
        };
        if !limit.is_reached(&usage) {
            let all = std::iter::once(first).chain(std::iter::from_fn(|| pop_of_rung(left, &limit)));
            return self
                .outcome
                .skipped
                .extend(all.map(|removal| (removal, Skip::EnoughSpace(usage.clone(), limit))));
        }
        let wanted = wanted_bytes(&usage, &limit);
        let mut nameless = Vec::new();
        let mut size = 0_u64;
        let mut next = Some(first);
        while let Some(removal) = next {
            size = size.saturating_add(removal.size);
            match self.untag(&removal).await {
                Ok(eviction_tag) => nameless.push((removal, eviction_tag)),
                Err(why) => {
                    self.restore_tags(&removal, &why).await;
                    self.record_outcome(removal, Err(why));
                }
            }
            let more = self.outcome.stopped.is_none() && nameless.len() < BATCH && size < wanted;
            next = if more { pop_of_rung(left, &limit) } else { None };
        }
        if !nameless.is_empty() && self.outcome.stopped.is_none() {
            tokio::time::sleep(EVICTION_GRACE).await;
            self.asked_for = None;
        }
        let mut gone = FreedNothing { images: 0, size: 0 };
        for (removal, eviction_tag) in nameless {
            let done = match self.outcome.stopped {
                None => self.finish(&removal, &eviction_tag).await,
                Some(_) => Err(NotDone::Skipped(Skip::Interrupted)),
            };
            match &done {
                Ok(_) | Err(NotDone::Gone) => {
                    gone.images += 1;
                    gone.size = gone.size.saturating_add(removal.size);
                }
                Err(why) => self.restore_tags(&removal, why).await,
            }
            self.record_outcome(removal, done);
        }
        if gone.size > 0 && self.outcome.stopped.is_none() {
            match self.settled_usage(&usage, &limit, gone).await {
                Ok(after) if freed_nothing(&usage, &after, gone) => {
                    self.outcome.freed_nothing = Some(gone);
                }
                Ok(_) => {}
                Err(why) => self.outcome.stopped = Some(Stop::Unavailable(why)),
            }
        }
    }

    /// How full the disk is after a batch, once the filesystem has returned what went. Docker 20.10 on btrfs keeps layers
    /// as subvolumes, which the kernel deletes in the background once they are gone (observed): without waiting for it a
    /// batch looks useless, and the next one takes more than it needs.
    async fn settled_usage(&self, before: &Usage, limit: &Limit, gone: FreedNothing) -> Answer<Usage> {
        let mut usage = (self.usage)().await?;
        for _ in 0..SETTLES_WITHIN {
            if !limit.is_reached(&usage) || self.site.world.shutdown_requested() {
                break;
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
            let later = (self.usage)().await?;
            let settled =
                later.filesystem.used >= usage.filesystem.used && !freed_nothing(before, &later, gone);
            usage = later;
            if settled {
                break;
            }
        }
        Ok(usage)
    }

    /// Give a cached image a tag of our own, so that nothing is deleted, and take its tags and digests away:
    /// from then on no deploy finds it by name, and one that wants it downloads no layer.
    async fn untag(&mut self, removal: &PlannedRemoval) -> Result<String, NotDone> {
        let image: Image = self.site.engine.image(&removal.id).await?.ok_or(NotDone::Gone)?;
        let expect = Precondition::Unused(removal);
        let eviction_tag = match image.eviction_tag {
            Some(tag) => tag,
            None => match self.order(removal.kind, expect, Order::TagImage(&removal.id)).await? {
                Done::Whole | Done::Untagged => eviction_tag(&removal.id),
                Done::Gone => return Err(NotDone::Gone),
            },
        };
        // Each by its name, never by ID: a tag that appears meanwhile keeps the image.
        for reference in image.tags.iter().chain(&image.digests) {
            let done = self.order(removal.kind, expect, Order::RemoveImage(reference)).await;
            match done.map_err(NotDone::interrupted)? {
                Done::Untagged | Done::Gone => {}
                // Our tag was taken off by another.
                Done::Whole => return Err(NotDone::Gone),
            }
        }
        Ok(eviction_tag)
    }

    /// Give an image that was not removed the tags back that it lost: unlike a cached image, it may be in no registry.
    /// That deletes nothing, so that it needs no permit.
    async fn restore_tags(&mut self, removal: &PlannedRemoval, why: &NotDone) {
        if matches!(why, NotDone::Gone) {
            return;
        }
        for name_tag in &removal.tags {
            if let Err(error) = self.orders.restore_tag(&removal.id, name_tag).await {
                log::warn!("the tag {name_tag} of {} is lost: {error}", removal.id);
            }
        }
    }

    /// Remove our tag, and with it the image, unless it was pulled again.
    async fn finish(&mut self, removal: &PlannedRemoval, eviction_tag: &str) -> Result<Done, NotDone> {
        let order = Order::RemoveImage(eviction_tag);
        match self.order(removal.kind, Precondition::Nameless(&removal.id), order).await {
            Ok(Done::Untagged) => Err(NotDone::Skipped(Skip::PulledAgain)),
            other => other.map_err(NotDone::interrupted),
        }
    }
}

/// Carry out the order for a dangling image, and say what came of it.
///
/// Two that go at the same time may have an untagged parent in common, which goes with the last of them:
/// then the engine may fail over the parent that the other took, with the image itself gone (observed:
/// 500 in one of 40 pairs on 20.10, 404 in two of 40 on 26.1).
async fn remove_dangling_image<L>(
    engine: &impl EngineApi,
    orders: Rc<impl EngineOrders>,
    removal: PlannedRemoval,
    permit: Permit<L>,
) -> (PlannedRemoval, Result<Done, NotDone>) {
    let done = permit.give(&*orders, Order::RemoveImage(&removal.id)).await;
    let doubtful = done.as_ref().is_err_and(|error| !error.timed_out());
    let gone = doubtful && matches!(engine.image(&removal.id).await, Ok(None));
    (removal, if gone { Ok(Done::Gone) } else { done.map_err(NotDone::from) })
}

/// Does an image still have no more names than the plan saw, and not fewer than its kind has?
fn is_as_planned(image: &Image, removal: &PlannedRemoval) -> bool {
    let class = image.class();
    match removal.kind {
        ObjectKind::Dangling => class == ImageClass::Dangling,
        _ => class != ImageClass::Dangling && image.tags.iter().all(|tag| removal.tags.contains(tag)),
    }
}

/// What the engine's own records of an image take at most, bytes: that much less is nothing.
const RECORDS: u64 = 1 << 20;

/// Did the removal of these images leave the filesystem as full as it was?
fn freed_nothing(before: &Usage, after: &Usage, gone: FreedNothing) -> bool {
    let (before_, after_) = (&before.filesystem, &after.filesystem);
    let inodes = before.by_inodes() && after_.inodes_used < before_.inodes_used;
    let records = RECORDS.saturating_mul(u64::try_from(gone.images).unwrap_or(u64::MAX));
    !inodes && before_.used.saturating_sub(after_.used) < records.min(gone.size / 100)
}

/// The next removal, if it is an eviction of the rung with this limit.
fn pop_of_rung(left: &mut VecDeque<PlannedRemoval>, limit: &Limit) -> Option<PlannedRemoval> {
    let RemovalReason::Evicted(next) = &left.front()?.reason else { return None };
    if next.limit == *limit { left.pop_front() } else { None }
}

/// The next removal, if it is of this kind.
fn pop(left: &mut VecDeque<PlannedRemoval>, kind: ObjectKind) -> Option<PlannedRemoval> {
    if left.front()?.kind == kind { left.pop_front() } else { None }
}

/// How many bytes must go until the filesystem is below the limit; where its inodes decide, one
/// image at a time.
fn wanted_bytes(usage: &Usage, limit: &Limit) -> u64 {
    let filesystem = &usage.filesystem;
    let missing = limit.min_free.unwrap_or(0).saturating_sub(filesystem.available);
    if usage.by_inodes() {
        return missing;
    }
    let whole = u128::from(filesystem.used) + u128::from(filesystem.available);
    let allowed = whole * u128::from(limit.percent.get().saturating_sub(1)) / 100;
    let above = u64::try_from(u128::from(filesystem.used).saturating_sub(allowed)).unwrap_or(u64::MAX);
    above.max(missing)
}

/// An order to the engine, so specific that giving it leaves no choice.
#[derive(Debug, Clone, Copy)]
enum Order<'a> {
    RemoveContainer(&'a str),
    /// By this reference.
    RemoveImage(&'a str),
    /// With a tag of our own.
    TagImage(&'a str),
    PruneBuildCache(Duration),
}

/// That one order may be given now: only [`Execution::check_preconditions`] makes one, and the order uses it up. It holds the lock that
/// an inhibitor waits for.
struct Permit<L> {
    _lock: Rc<L>,
}

impl<L> Permit<L> {
    async fn give(self, orders: &impl EngineOrders, order: Order<'_>) -> Result<Done, EngineError> {
        match order {
            Order::RemoveContainer(id) => orders.remove_container(id).await,
            Order::RemoveImage(reference) => orders.remove_image(reference).await,
            Order::TagImage(id) => orders.tag_image(id).await,
            Order::PruneBuildCache(older_than) => orders.prune_build_cache(older_than).await,
        }
    }
}

/// What an object must still be for its order to be given.
#[derive(Clone, Copy)]
enum Precondition<'a> {
    Anything,
    /// A container that finished then, or never ran.
    Finished(&'a str, Option<Time>),
    /// An image that no container uses, with no name that the plan did not see.
    Unused(&'a PlannedRemoval),
    /// An image with our tag; where that is all it has, no container uses it.
    Nameless(&'a str),
}

/// Why an object was not removed by an order of ours.
enum NotDone {
    /// It went by itself.
    Gone,
    Skipped(Skip),
    Failed(EngineError),
}

impl NotDone {
    /// Of an image that had lost its names when the run was stopped.
    fn interrupted(self) -> Self {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::Filesystem;

    #[test]
    fn a_batch_is_as_large_as_the_target_wants() {
        let usage = |used, inodes_used| {
            let filesystem = Filesystem {
                mount_point: "/".into(),
                size: 1000,
                used,
                available: 1000 - used,
                inodes: 100,
                inodes_used,
            };
            Usage { percent: filesystem.percent().unwrap(), filesystem }
        };
        for (used, inodes, target, expected) in [
            (850, 1, "70", 160),
            (700, 1, "70", 10),
            (500, 1, "70", 0),
            (500, 90, "70", 0),
            (500, 1, "0", 500),
        ] {
            assert_eq!(wanted_bytes(&usage(used, inodes), &below(target, None)), expected);
        }
        for (used, target, min_free, expected) in
            [(850, "70", 100, 160), (850, "90", 250, 100), (500, "70", 600, 100), (500, "70", 100, 0)]
        {
            assert_eq!(wanted_bytes(&usage(used, 1), &below(target, Some(min_free))), expected);
        }
    }

    fn below(percent: &str, min_free: Option<u64>) -> Limit {
        Limit { percent: percent.parse().unwrap(), min_free }
    }

    #[test]
    fn a_batch_freed_nothing_when_the_disk_is_as_full_as_before() {
        let usage = crate::testing::usage;
        // Of 1,000 bytes; two images of this size.
        for (before, after, size, expected) in [
            (85, 75, 100, false),
            (85, 85, 100, true),
            (85, 86, 100, true),
            (85, 84, 100, false),
            (85, 84, 2_000, true),
        ] {
            let gone = FreedNothing { images: 2, size };
            assert_eq!(
                freed_nothing(&usage(before), &usage(after), gone),
                expected,
                "{before} {after} {size}"
            );
        }
        // Eight images on a base of more than a gigabyte that others have too.
        let disk = |used| {
            let mut usage = usage(85);
            usage.filesystem.used = used;
            usage
        };
        let gone = FreedNothing { images: 8, size: 12 << 30 };
        assert!(!freed_nothing(&disk(90 << 30), &disk((90 << 30) - (96 << 20)), gone));
        assert!(freed_nothing(&disk(90 << 30), &disk((90 << 30) - (4 << 20)), gone));
    }

    #[test]
    fn a_hundred_terabytes_are_no_trouble() {
        const TB: u64 = 1_000_000_000_000;
        for (used, available) in [(85 * TB, 15 * TB), (u64::MAX / 100 * 85, u64::MAX / 100 * 15)] {
            let filesystem = Filesystem {
                mount_point: "/".into(),
                size: used.saturating_add(available),
                used,
                available,
                inodes: u64::MAX,
                inodes_used: u64::MAX / 10,
            };
            let usage = Usage { percent: filesystem.percent().unwrap(), filesystem };
            assert_eq!(usage.percent.get(), 85);
            let wanted = wanted_bytes(&usage, &below("70", None));
            assert_eq!((u128::from(wanted) * 100).div_ceil(u128::from(used) + u128::from(available)), 16);
        }
    }
}
