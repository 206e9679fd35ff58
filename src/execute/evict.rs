//! Evicts cached images, each in two steps: its names first, and after a moment the image.

use std::collections::VecDeque;
use std::time::Duration;

use super::permit::{NotDone, Order, Precondition};
use super::{Execution, FreedNothing, Recheck, Skip, Stop};
use crate::facts::{Answer, Image, Limit, Usage, eviction_tag};
use crate::plan::images::is_negligible;
use crate::plan::{Leftover, Removal, RemovalReason, Turn};
use crate::world::{Effect, EngineApi, EngineOrders, World};

/// The time between removing an image's names and the image. A deploy that found the names just before makes its
/// container by them 0.2 s after its `service create` event (observed on 20.10 to 29), and one that begins now needs a
/// moment to bring them back.
pub(super) const EVICTION_GRACE: Duration = Duration::from_secs(1);

/// Images that share this time, at most.
pub(super) const BATCH: usize = 32;

/// Evictions end after this many batches in a row that freed nothing. A single one may be due to others that write.
const USELESS_BATCHES: usize = 2;

/// How long the space of a batch may take to come back, seconds.
const SETTLES_WITHIN: usize = 10;

impl<W, Ask, Measure> Execution<'_, W, Ask, Measure>
where
    W: World,
    Ask: AsyncFnMut() -> Recheck,
    Measure: AsyncFn() -> Answer<Usage>,
{
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

    /// Evict a batch of cached images, from this one on, to bring the disk below the limit of their rung: record their
    /// names and remove them, wait, check again, and remove the images that nothing asked for in between. Without
    /// limits, of how full the disk must be and how far to go: the images that an interrupted eviction has left
    /// without names.
    pub(super) async fn evict(
        &mut self,
        first: Removal,
        limits: Option<(Limit, Limit)>,
        left: &mut VecDeque<Removal>,
    ) {
        let (needed, limit) = limits.unzip();
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
        if let Some(needed) = needed.filter(|needed| !needed.is_reached(&before)) {
            let all = std::iter::once(first).chain(std::iter::from_fn(|| pop_of_rung(left, limit.as_ref())));
            return self
                .outcome
                .skipped
                .extend(all.map(|removal| (removal, Skip::EnoughSpace(before.clone(), needed))));
        }
        let batch = batch(first, limit.as_ref(), &before, left);
        let mut nameless = Vec::new();
        for (removal, image) in self.record_names(batch).await {
            if self.outcome.stopped.is_some() {
                self.record_outcome(removal, Err(NotDone::Skipped(Skip::Stopped)));
                continue;
            }
            let mut removed_tags = Vec::new();
            match self.untag(&removal, image, &mut removed_tags).await {
                Ok(eviction_tag) => nameless.push((removal, eviction_tag, removed_tags)),
                Err(why) => {
                    self.restore(&removal, &removed_tags, &why).await;
                    self.record_outcome(removal, Err(why));
                }
            }
        }
        let began = tokio::time::Instant::now();
        if !nameless.is_empty() && self.outcome.stopped.is_none() {
            tokio::time::sleep(EVICTION_GRACE).await;
            self.asked_for = None;
        }
        // Nothing of ours was removed yet: others have written what the usage has risen by.
        let (quiet, idle) = (began.elapsed(), (self.usage)().await.unwrap_or_else(|_| before.clone()));
        let mut gone = FreedNothing::default();
        let began = tokio::time::Instant::now();
        for (removal, eviction_tag, removed_tags) in nameless {
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
                Err(why) => self.restore(&removal, &removed_tags, why).await,
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

    /// End evictions if several batches in a row have freed nothing although others wrote less than half as much. `took`:
    /// how long the removal of this batch took.
    async fn judge_batch(&mut self, quiet: Quiet, limit: &Limit, gone: FreedNothing, took: Duration) {
        let after = match self.settled_usage(&quiet.after, limit, gone).await {
            Ok(after) => after,
            Err(why) => return self.outcome.stopped = Some(Stop::Unavailable(why)),
        };
        if !freed_nothing(&quiet.after, &after, gone) {
            self.useless_batches = (0, FreedNothing::default());
        } else if quiet.written_in(took) < gone.size / 2 {
            let (batches, sum) = &mut self.useless_batches;
            *batches += 1;
            sum.images += gone.images;
            sum.size = sum.size.saturating_add(gone.size);
            self.outcome.freed_nothing = (*batches >= USELESS_BATCHES).then_some(*sum);
        }
    }

    /// The images of a batch as they are now, their names recorded before any is removed: after a kill or a power cut the
    /// next prune gives back the tags, which may be in no registry.
    async fn record_names(&mut self, batch: Vec<Removal>) -> Vec<(Removal, Image)> {
        let mut there = Vec::new();
        for removal in batch {
            match self.context.engine.confirmed_image(&removal.object.id).await {
                Ok(Some(image)) => there.push((removal, image)),
                Ok(None) => self.record_outcome(removal, Err(NotDone::Gone)),
                Err(error) => self.record_outcome(removal, Err(error.into())),
            }
        }
        if self.outcome.stopped.is_some() || there.is_empty() {
            return there;
        }
        let world = self.context.world;
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

    /// The usage after a batch, once the filesystem has returned its space. Docker 20.10 on btrfs keeps layers as
    /// subvolumes, which the kernel deletes in the background (observed): without waiting, a batch would seem useless and
    /// the next one would be larger than necessary.
    async fn settled_usage(&self, before: &Usage, limit: &Limit, gone: FreedNothing) -> Answer<Usage> {
        let mut usage = (self.usage)().await?;
        for _ in 0..SETTLES_WITHIN {
            if !limit.is_reached(&usage) || self.context.world.shutdown_requested() {
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

    /// Give a cached image our tag, so that nothing is deleted, and remove its tags and digests: from then on no deploy
    /// finds it by name, and one that pulls it downloads no layer. `removed_tags`: the tags that were, or may have been, removed.
    async fn untag(
        &mut self,
        removal: &Removal,
        image: Image,
        removed_tags: &mut Vec<String>,
    ) -> Result<String, NotDone> {
        let expect = |reference| Precondition::Unused(removal, reference);
        let eviction_tag = match image.eviction_tag {
            Some(tag) => tag,
            None => {
                match self.order(removal.turn(), expect(None), Order::TagImage(&removal.object.id)).await? {
                    Effect::Complete | Effect::Untagged => eviction_tag(&removal.object.id),
                    Effect::Gone => return Err(NotDone::Gone),
                }
            }
        };
        // By name, never by ID, so that a tag that appears in between keeps the image.
        for reference in image.tags.iter().chain(&image.digests) {
            let done =
                self.order(removal.turn(), expect(Some(reference)), Order::RemoveImage(reference)).await;
            if image.tags.contains(reference) && matches!(done, Ok(_) | Err(NotDone::Failed(_))) {
                removed_tags.push(reference.clone());
            }
            match done.map_err(NotDone::interrupted) {
                // A newer build or pull has the name.
                Ok(Effect::Untagged | Effect::Gone) | Err(NotDone::Moved) => {}
                // Something else removed our tag.
                Ok(Effect::Complete) => return Err(NotDone::Gone),
                Err(why) => return Err(why),
            }
        }
        Ok(eviction_tag)
    }

    /// Give the tags back to an image that was not removed: unlike a digest, they may be in no registry.
    async fn restore(&mut self, removal: &Removal, removed_tags: &[String], why: &NotDone) {
        if !matches!(why, NotDone::Gone) {
            self.restore_tags(&removal.object.id, removed_tags).await;
        }
    }

    /// Give an image its tags back, except those that another image has by now. `false` if one could not be given back.
    /// That deletes nothing, and so needs no permit.
    async fn restore_tags(&mut self, id: &str, tags: &[String]) -> bool {
        let mut restored = true;
        for name_tag in tags {
            match self.orders.restore_tag(id, name_tag).await {
                Ok(Effect::Complete) => log::info!("{id} has its tag {name_tag} again"),
                Ok(Effect::Untagged) => log::debug!("{name_tag} names an image already"),
                Ok(Effect::Gone) => log::warn!("the tag {name_tag} is lost: its image {id} is gone"),
                Err(error) => {
                    restored = false;
                    log::warn!("the tag {name_tag} of {id} is restored by the next prune: {error}");
                }
            }
        }
        restored
    }

    /// Remove our tag, and with it the image, unless it was pulled again.
    async fn finish(&mut self, removal: &Removal, eviction_tag: &str) -> Result<Effect, NotDone> {
        let order = Order::RemoveImage(eviction_tag);
        match self.order(removal.turn(), Precondition::Nameless(&removal.object.id), order).await {
            Ok(Effect::Untagged) => match self.context.engine.confirmed_image(&removal.object.id).await? {
                // An image that the classic builder made from it keeps it without a name.
                Some(image) if image.is_nameless() => Err(NotDone::Skipped(Skip::HasChildren)),
                _ => Err(NotDone::Skipped(Skip::PulledAgain)),
            },
            other => other.map_err(NotDone::interrupted),
        }
    }
}

pub(super) fn freed_nothing(before: &Usage, after: &Usage, gone: FreedNothing) -> bool {
    let (before_, after_) = (&before.filesystem, &after.filesystem);
    let inodes = before.by_inodes() && after_.inodes_used < before_.inodes_used;
    let metadata = before.by_metadata() && after_.metadata_used < before_.metadata_used;
    let freed = before_.used.saturating_sub(after_.used);
    !inodes && !metadata && is_negligible(freed, gone.images, gone.size)
}

/// A time in which nothing of ours was removed: others have written what the usage rose by.
pub(super) struct Quiet {
    pub(super) before: Usage,
    pub(super) after: Usage,
    pub(super) time: Duration,
}

impl Quiet {
    /// Bytes that others write in this time at the same pace.
    pub(super) fn written_in(&self, time: Duration) -> u64 {
        let written = self.after.filesystem.used.saturating_sub(self.before.filesystem.used);
        let scaled = u128::from(written) * time.as_millis() / self.time.as_millis().max(1);
        u64::try_from(scaled).unwrap_or(u64::MAX)
    }
}

/// The removals, from this one on, that by what they free bring the disk below the limit of their rung.
pub(super) fn batch(
    first: Removal,
    limit: Option<&Limit>,
    usage: &Usage,
    left: &mut VecDeque<Removal>,
) -> Vec<Removal> {
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

/// The next removal, if it is an eviction of the rung with this limit; without a limit, if it was interrupted.
fn pop_of_rung(left: &mut VecDeque<Removal>, limit: Option<&Limit>) -> Option<Removal> {
    let next = match &left.front()?.reason {
        RemovalReason::Evicted(next) => Some(&next.limit),
        RemovalReason::Interrupted => None,
        _ => return None,
    };
    if next == limit { left.pop_front() } else { None }
}

/// The bytes to remove until the filesystem is below the limit. If its inodes or its metadata are what is short, only the
/// missing free space, so that a batch has one image.
pub(super) fn wanted_bytes(usage: &Usage, limit: &Limit) -> u64 {
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
