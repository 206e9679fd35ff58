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

use crate::facts::{Answer, Image, ImageClass, Inhibitor, Limit, Unavailable, Usage, eviction_tag};
use crate::gates::{GateState, converge, runs};
use crate::plan::images::is_next_to_nothing;
use crate::plan::{Eviction, Leftover, Removal, RemovalReason, Turn};
use crate::units::Time;
use crate::world::{Done, EngineApi, EngineError, EngineEvents, EngineOrders, StopEvent, World};

/// Between taking an image's names away and removing it. A deploy that found the names just before
/// makes its container by them 0.2 s after its `service create` event (observed on 20.10 to 29), and
/// one that begins now needs a moment to bring them back.
const EVICTION_GRACE: Duration = Duration::from_secs(1);

/// Cached images that share one such moment, at most.
const BATCH: usize = 32;

/// Orders for dangling images that are in flight at once, at most. One by one, each waits for its way to the engine
/// and back: 500 then took 1.33 to 1.38 × of the engine's own prune (20.10 and 26.1, 2 cores).
const IN_FLIGHT: usize = 3;

/// How often an order is given again that the engine is only too busy for, and how long after the last time.
const MAX_RETRIES: usize = 5;
const RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// How often stale build cache is asked for in a row: a record keeps its parents for one call.
const MAX_CACHE_PRUNES: usize = 64;

/// So many batches in a row must free nothing before that is believed: others write to the disk too.
const USELESS_BATCHES: usize = 2;

/// How long the space of a batch may take to come back, seconds.
const SETTLES_WITHIN: usize = 10;

/// How often everything is asked anew in a row before only what the events tell is looked at.
const MAX_SURVEYS: usize = 3;

/// How often the gates are asked anew because of events that came while they were asked.
const MAX_RECHECKS: usize = 20;

pub struct RunContext<'a, W: World> {
    pub world: &'a W,
    pub engine: &'a W::Engine,
    /// The events of every engine that is asked, since before the gates were evaluated.
    pub events: &'a <W::Engine as EngineApi>::Events,
    pub progress: &'a dyn Fn(usize),
}

pub struct Recheck {
    pub runs: runs::Verdict,
    pub converge: converge::Verdict,
    /// What tells the images that containers use ([`crate::facts::Container::images`]).
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
    /// IDs of images of which no eviction has left anything: gone, or with their names and no tag of ours.
    pub settled: Vec<String>,
    pub stopped: Option<Stop>,
}

impl Outcome {
    fn done(&self) -> usize {
        self.removed.len() + self.skipped.len() + self.failed.len()
    }

    /// Did something fail, be it a removal or a question on the way? Being stopped is no failure.
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
    /// Bytes that should have been free after it.
    pub size: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Skip {
    /// The engine would not remove it now, in its own words.
    Refused(String),
    /// Since the plan was made it got another name than it had.
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
    /// The run ended while it was going: it has lost its names, and its layers are still there.
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

/// How many events there were that make the gates worth asking again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Events {
    others: usize,
    of_services: usize,
}

/// Carries out one plan, or several parts of it after each other.
pub struct Execution<'a, W: World, Ask, Measure> {
    site: RunContext<'a, W>,
    orders: Rc<<W::Engine as EngineApi>::Orders>,
    ask: Ask,
    usage: Measure,
    /// For which kind of object, and after which events, the gates were asked last.
    asked_for: Option<(Turn, Events)>,
    in_use: HashSet<String>,
    /// Images that were pulled, tagged or used since the subscription, by ID or reference.
    named_by_events: Vec<String>,
    /// Kinds of which the engine forbids the removal.
    forbidden: Vec<Turn>,
    /// Batches in a row that freed nothing, and what they should have freed in all.
    useless: (usize, FreedNothing),
    /// What an inhibitor waits for, as long as an order is in flight.
    lock: Weak<W::RemovalLock>,
    pub outcome: Outcome,
}

impl<'a, W, Ask, Measure> Execution<'a, W, Ask, Measure>
where
    W: World,
    Ask: AsyncFnMut() -> Recheck,
    Measure: AsyncFn() -> Answer<Usage>,
{
    /// `ask` asks the gates and looks at the containers anew; `usage` measures the filesystem that holds the images.
    pub fn new(site: RunContext<'a, W>, ask: Ask, usage: Measure) -> Self {
        Self {
            orders: Rc::new(site.engine.orders()),
            site,
            ask,
            usage,
            asked_for: None,
            in_use: HashSet::new(),
            named_by_events: vec![],
            forbidden: vec![],
            useless: (0, FreedNothing::default()),
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
                RemovalReason::Evicted(Eviction { limit, .. }) => {
                    self.evict(removal, Some(limit), &mut left).await;
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

    /// Ask for stale build cache until there is none: a record keeps its parents for one call.
    async fn prune_build_cache(&mut self, older_than: Duration) -> Result<Done, NotDone> {
        let order = Order::PruneBuildCache(older_than);
        for n in 0..MAX_CACHE_PRUNES {
            match self.order(Turn::BuildCache, Precondition::Anything, order).await {
                Ok(Done::Gone) => break,
                // What has gone so far is gone.
                Err(NotDone::Skipped(Skip::Stopped)) if n > 0 => break,
                answer => drop(answer?),
            }
        }
        Ok(Done::Whole)
    }

    /// Change the engine: look whether anything began and whether the object is still what the plan saw,
    /// and give the order at once. [`Execution::remove_dangling_images`] does the same, a few at a time.
    async fn order(
        &mut self,
        turn: Turn,
        expect: Precondition<'_>,
        order: Order<'_>,
    ) -> Result<Done, NotDone> {
        let mut retries = 0;
        loop {
            let permit = self.check_preconditions(turn, expect).await?;
            match permit.give(&*self.orders, order).await {
                Err(error) if error.is_busy() && retries < MAX_RETRIES => {
                    retries += 1;
                    tokio::time::sleep(RETRY_INTERVAL).await;
                }
                Err(error) if error.is_no_space() && self.site.world.release_reserve() => {
                    log::info!("the reserve is given up: {error}");
                }
                done => return Ok(done?),
            }
        }
    }

    /// Begin no further order, for this reason if it is the first.
    fn stop(&mut self, why: Stop) -> NotDone {
        self.outcome.stopped.get_or_insert(why);
        NotDone::Skipped(Skip::Stopped)
    }

    async fn check_preconditions(
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
                // On a host where containers start all the time what changed is known: the images that they use.
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
                    // Asking took its time: look at the events once more.
                    continue;
                }
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
    async fn events(&mut self) -> Result<Events, NotDone> {
        if self.site.world.shutdown_requested() {
            return Err(self.stop(Stop::Signal));
        }
        let seen = self.site.events.poll().await;
        match seen.stop {
            Some(event) => Err(self.stop(Stop::Event(event))),
            None => {
                self.named_by_events = seen.images;
                Ok(Events { others: seen.others, of_services: seen.of_services })
            }
        }
    }

    async fn check(&self, expect: Precondition<'_>) -> Result<(), NotDone> {
        let engine = self.site.engine;
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
            // Whatever has a name again loses no more than our tag; without one our tag is all that
            // keeps it for a container.
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

    fn record_outcome(&mut self, removal: Removal, done: Result<Done, NotDone>) {
        match done {
            Ok(Done::Whole | Done::Gone) | Err(NotDone::Gone) => {
                log::info!("removed {} {}", removal.object.kind.name(), removal.object.label());
                self.outcome.removed.push(removal);
            }
            // It had just got another reference, which keeps it.
            Ok(Done::Untagged) | Err(NotDone::Moved) => self.outcome.skipped.push((removal, Skip::Renamed)),
            Err(NotDone::Skipped(why)) => self.outcome.skipped.push((removal, why)),
            Err(NotDone::Failed(error)) => {
                // The engine may be in trouble: ask again before anything else goes.
                self.asked_for = None;
                if error.timed_out() && self.outcome.stopped.is_none() {
                    // It may still be at work on it: nothing more is ordered beside that.
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
        (self.site.progress)(self.outcome.done());
    }

    /// Undo what an interrupted eviction left on an image that stays: give it its tags back, and take our tag off.
    pub async fn undo(&mut self, leftover: Leftover) {
        let Leftover { id, lost_tags, eviction_tag } = leftover;
        if self.outcome.stopped.is_some() || !self.restore_tags(&id, &lost_tags).await {
            return;
        }
        let Some(tag) = eviction_tag else { return self.outcome.settled.push(id) };
        match self.order(Turn::CachedImages, Precondition::Named(&id), Order::RemoveImage(&tag)).await {
            Ok(_) | Err(NotDone::Gone) => self.outcome.settled.push(id),
            Err(NotDone::Skipped(_) | NotDone::Moved) => {}
            Err(NotDone::Failed(error)) => {
                self.asked_for = None;
                if error.timed_out() {
                    self.stop(Stop::Unavailable(error.clone().into()));
                }
                log::warn!("the tag {tag} of an interrupted eviction stays: {error}");
            }
        }
    }

    /// Remove the dangling images from this one on, each looked at right before its own order. No deploy asks for
    /// one by name, so that a few orders may be in flight at once.
    async fn remove_dangling_images(&mut self, first: Removal, left: &mut VecDeque<Removal>) {
        let mut in_flight = FuturesUnordered::new();
        let mut next = Some(first);
        while let Some(removal) = next {
            let mut ended = Vec::new();
            let looked = {
                let looking =
                    self.check_preconditions(Turn::DanglingImages, Precondition::Unused(&removal, None));
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
            next = if more { pop(left, Turn::DanglingImages) } else { None };
        }
        while let Some((removal, done)) = in_flight.next().await {
            self.record_outcome(removal, done);
        }
    }

    /// Evict as many cached images, from this one on, as the limit of their rung still wants: record their names and take
    /// them away, wait a moment, look again, and remove those that were not asked for meanwhile. Without a limit: as
    /// many as an interrupted eviction has left without names.
    async fn evict(&mut self, first: Removal, limit: Option<Limit>, left: &mut VecDeque<Removal>) {
        if limit.is_some() && self.outcome.freed_nothing.is_some() {
            return self.outcome.skipped.push((first, Skip::FreedNothing));
        }
        let before = match (self.usage)().await {
            Ok(usage) => usage,
            Err(why) => {
                self.outcome.stopped = Some(Stop::Unavailable(why));
                return self.outcome.skipped.push((first, Skip::Stopped));
            }
        };
        if let Some(limit) = limit.filter(|limit| !limit.is_reached(&before)) {
            let all = std::iter::once(first).chain(std::iter::from_fn(|| pop_of_rung(left, Some(&limit))));
            return self
                .outcome
                .skipped
                .extend(all.map(|removal| (removal, Skip::EnoughSpace(before.clone(), limit))));
        }
        let batch = batch(first, limit.as_ref(), &before, left);
        let mut nameless = Vec::new();
        for (removal, image) in self.record_names(batch).await {
            if self.outcome.stopped.is_some() {
                self.record_outcome(removal, Err(NotDone::Skipped(Skip::Stopped)));
                continue;
            }
            let mut taken = Vec::new();
            match self.untag(&removal, image, &mut taken).await {
                Ok(eviction_tag) => nameless.push((removal, eviction_tag, taken)),
                Err(why) => {
                    self.restore(&removal, &taken, &why).await;
                    self.record_outcome(removal, Err(why));
                }
            }
        }
        let began = tokio::time::Instant::now();
        if !nameless.is_empty() && self.outcome.stopped.is_none() {
            tokio::time::sleep(EVICTION_GRACE).await;
            self.asked_for = None;
        }
        // Nothing of ours went so far: what the usage has risen by, others have written.
        let (quiet, idle) = (began.elapsed(), (self.usage)().await.unwrap_or_else(|_| before.clone()));
        let mut gone = FreedNothing::default();
        let began = tokio::time::Instant::now();
        for (removal, eviction_tag, taken) in nameless {
            let done = match self.outcome.stopped {
                None => self.finish(&removal, &eviction_tag).await,
                Some(_) => Err(NotDone::Skipped(Skip::Interrupted)),
            };
            match &done {
                Ok(_) => {
                    gone.images += 1;
                    gone.size = gone.size.saturating_add(removal.frees.unwrap_or(0));
                }
                Err(NotDone::Gone) => {}
                Err(why) => self.restore(&removal, &taken, why).await,
            }
            if matches!(done, Ok(_) | Err(NotDone::Gone | NotDone::Skipped(Skip::PulledAgain))) {
                self.outcome.settled.push(removal.object.id.clone());
            }
            self.record_outcome(removal, done);
        }
        let quiet = Quiet { before, after: idle, time: quiet };
        if let Some(limit) = limit.filter(|_| gone.size > 0 && self.outcome.stopped.is_none()) {
            self.judge_batch(quiet, &limit, gone, began.elapsed()).await;
        }
    }

    /// Has the removal of these images, which took so long, freed anything? That it has not is believed when it was so
    /// several times in a row, while nobody else wrote as much.
    async fn judge_batch(&mut self, quiet: Quiet, limit: &Limit, gone: FreedNothing, took: Duration) {
        let after = match self.settled_usage(&quiet.after, limit, gone).await {
            Ok(after) => after,
            Err(why) => return self.outcome.stopped = Some(Stop::Unavailable(why)),
        };
        if !freed_nothing(&quiet.after, &after, gone) {
            self.useless = (0, FreedNothing::default());
        } else if quiet.written_in(took) < gone.size / 2 {
            let (batches, sum) = &mut self.useless;
            *batches += 1;
            sum.images += gone.images;
            sum.size = sum.size.saturating_add(gone.size);
            self.outcome.freed_nothing = (*batches >= USELESS_BATCHES).then_some(*sum);
        }
    }

    /// Look at the images of a batch, and record their names before any is taken off: after a kill or a power cut the next
    /// run gives tags back that no registry may have.
    async fn record_names(&mut self, batch: Vec<Removal>) -> Vec<(Removal, Image)> {
        let mut there = Vec::new();
        for removal in batch {
            match self.site.engine.confirmed_image(&removal.object.id).await {
                Ok(Some(image)) => there.push((removal, image)),
                Ok(None) => self.record_outcome(removal, Err(NotDone::Gone)),
                Err(error) => self.record_outcome(removal, Err(error.into())),
            }
        }
        if self.outcome.stopped.is_some() || there.is_empty() {
            return there;
        }
        let world = self.site.world;
        let recorded = world.update_ledger(world.now(), |ledger| {
            for (_, image) in &there {
                let names = ledger.evicting.entry(image.id.clone()).or_default();
                names.extend(image.tags.iter().chain(&image.digests).cloned());
                names.sort();
                names.dedup();
            }
        });
        if let Err(error) = recorded.await {
            log::warn!("{error:#}");
            for (removal, _) in there.extract_if(.., |(_, image)| !image.tags.is_empty()) {
                self.record_outcome(removal, Err(NotDone::Skipped(Skip::Unrecorded)));
            }
        }
        there
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
    /// from then on no deploy finds it by name, and one that wants it downloads no layer. `taken`: the tags that are
    /// off, or may be.
    async fn untag(
        &mut self,
        removal: &Removal,
        image: Image,
        taken: &mut Vec<String>,
    ) -> Result<String, NotDone> {
        let expect = |reference| Precondition::Unused(removal, reference);
        let eviction_tag = match image.eviction_tag {
            Some(tag) => tag,
            None => {
                match self.order(removal.turn(), expect(None), Order::TagImage(&removal.object.id)).await? {
                    Done::Whole | Done::Untagged => eviction_tag(&removal.object.id),
                    Done::Gone => return Err(NotDone::Gone),
                }
            }
        };
        // Each by its name, never by ID: a tag that appears meanwhile keeps the image.
        for reference in image.tags.iter().chain(&image.digests) {
            let done =
                self.order(removal.turn(), expect(Some(reference)), Order::RemoveImage(reference)).await;
            if image.tags.contains(reference) && matches!(done, Ok(_) | Err(NotDone::Failed(_))) {
                taken.push(reference.clone());
            }
            match done.map_err(NotDone::interrupted) {
                // A newer build or pull has the name.
                Ok(Done::Untagged | Done::Gone) | Err(NotDone::Moved) => {}
                // Our tag was taken off by another.
                Ok(Done::Whole) => return Err(NotDone::Gone),
                Err(why) => return Err(why),
            }
        }
        Ok(eviction_tag)
    }

    /// Give an image that was not removed the tags back that it lost: unlike a digest, they may be in no registry.
    async fn restore(&mut self, removal: &Removal, taken: &[String], why: &NotDone) {
        if !matches!(why, NotDone::Gone) {
            self.restore_tags(&removal.object.id, taken).await;
        }
    }

    /// Give an image its tags back, each where no image has it meanwhile. Have all names found their image? That deletes
    /// nothing, so that it needs no permit; but after an order that timed out the engine may still be at work on it.
    async fn restore_tags(&mut self, id: &str, tags: &[String]) -> bool {
        let mut restored = true;
        for name_tag in tags {
            match self.orders.restore_tag(id, name_tag).await {
                Ok(Done::Whole) => log::info!("{id} has its tag {name_tag} again"),
                Ok(Done::Untagged) => log::debug!("an image has the tag {name_tag}"),
                Ok(Done::Gone) => log::warn!("the tag {name_tag} is lost: its image {id} is gone"),
                Err(error) => {
                    restored = false;
                    log::warn!("the tag {name_tag} of {id} is restored by the next prune: {error}");
                }
            }
        }
        restored
    }

    /// Remove our tag, and with it the image, unless it was pulled again.
    async fn finish(&mut self, removal: &Removal, eviction_tag: &str) -> Result<Done, NotDone> {
        let order = Order::RemoveImage(eviction_tag);
        match self.order(removal.turn(), Precondition::Nameless(&removal.object.id), order).await {
            Ok(Done::Untagged) => match self.site.engine.confirmed_image(&removal.object.id).await? {
                // An image of the classic builder was made from it, and keeps it without a name.
                Some(image) if image.is_nameless() => Err(NotDone::Skipped(Skip::HasChildren)),
                _ => Err(NotDone::Skipped(Skip::PulledAgain)),
            },
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
    removal: Removal,
    permit: Permit<L>,
) -> (Removal, Result<Done, NotDone>) {
    let done = permit.give(&*orders, Order::RemoveImage(&removal.object.id)).await;
    let doubtful = done.as_ref().is_err_and(|error| !error.timed_out());
    let gone = doubtful && matches!(engine.image(&removal.object.id).await, Ok(None));
    (removal, if gone { Ok(Done::Gone) } else { done.map_err(NotDone::from) })
}

fn is_as_planned(image: &Image, removal: &Removal) -> bool {
    let class = image.class();
    match removal.turn() {
        Turn::DanglingImages => class == ImageClass::Dangling,
        _ => class != ImageClass::Dangling && image.tags.iter().all(|tag| removal.tags().contains(tag)),
    }
}

fn freed_nothing(before: &Usage, after: &Usage, gone: FreedNothing) -> bool {
    let (before_, after_) = (&before.filesystem, &after.filesystem);
    let inodes = before.by_inodes() && after_.inodes_used < before_.inodes_used;
    let metadata = before.by_metadata() && after_.metadata_used < before_.metadata_used;
    let freed = before_.used.saturating_sub(after_.used);
    !inodes && !metadata && is_next_to_nothing(freed, gone.images, gone.size)
}

/// A time in which nothing of ours went: what the usage rose by, others have written.
struct Quiet {
    before: Usage,
    after: Usage,
    time: Duration,
}

impl Quiet {
    /// Bytes that others write in this time at the same pace.
    fn written_in(&self, time: Duration) -> u64 {
        let written = self.after.filesystem.used.saturating_sub(self.before.filesystem.used);
        let scaled = u128::from(written) * time.as_millis() / self.time.as_millis().max(1);
        u64::try_from(scaled).unwrap_or(u64::MAX)
    }
}

/// As many removals, from this one on, as the limit of their rung wants by what they free.
fn batch(first: Removal, limit: Option<&Limit>, usage: &Usage, left: &mut VecDeque<Removal>) -> Vec<Removal> {
    let wanted = limit.map_or(u64::MAX, |limit| wanted_bytes(usage, limit));
    let mut size = first.freed();
    let mut batch = vec![first];
    while batch.len() < BATCH
        && size < wanted
        && let Some(removal) = pop_of_rung(left, limit)
    {
        size = size.saturating_add(removal.freed());
        batch.push(removal);
    }
    batch
}

/// The next removal, if it is an eviction of the rung with this limit; without one, what an interrupted eviction left.
fn pop_of_rung(left: &mut VecDeque<Removal>, limit: Option<&Limit>) -> Option<Removal> {
    let next = match &left.front()?.reason {
        RemovalReason::Evicted(next) => Some(&next.limit),
        RemovalReason::Interrupted => None,
        _ => return None,
    };
    if next == limit { left.pop_front() } else { None }
}

fn pop(left: &mut VecDeque<Removal>, turn: Turn) -> Option<Removal> {
    if left.front()?.turn() == turn { left.pop_front() } else { None }
}

/// How many bytes must go until the filesystem is below the limit; where its inodes or its
/// metadata decide, one image at a time.
fn wanted_bytes(usage: &Usage, limit: &Limit) -> u64 {
    let filesystem = &usage.filesystem;
    let missing = limit.min_free.unwrap_or(0).saturating_sub(filesystem.available);
    if usage.by_inodes() || usage.by_metadata() {
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
    RemoveImage(&'a str),
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
    Finished(&'a str, Option<Time>),
    /// An image that no container uses, with no name that the plan did not see, and with this one, which is to be taken off.
    Unused(&'a Removal, Option<&'a str>),
    /// An image with our tag; where that is all it has, no container uses it.
    Nameless(&'a str),
    Named(&'a str),
}

/// Why an object was not removed by an order of ours.
enum NotDone {
    Gone,
    /// The name to be taken off is another image's now, or nobody's.
    Moved,
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
mod tests;
