//! The ledger's own clock. It counts only time that the ledger observed, so that neither a clock that was set nor a
//! host that was off makes an image old.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_with::{DefaultOnError, DurationSecondsWithFrac, serde_as, skip_serializing_none};

use super::Ledger;
use crate::facts::{Moment, Past};
use crate::units::{Time, elapsed};

/// Advanced by [`Ledger::advance`]; it never goes back.
#[serde_as]
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Clock {
    /// What it shows: close to the wall clock, unless that was set or nothing was recorded for long.
    pub time: Time,
    /// Time since images were last recorded, by the host's clocks.
    #[serde(default, rename = "since_record_seconds")]
    #[serde_as(as = "DefaultOnError<DurationSecondsWithFrac<f64>>")]
    pub since_record: Duration,
    /// What the host's clocks showed at that moment.
    #[serde(flatten)]
    pub reading: Reading,
}

/// What the host's clocks show at one moment.
#[serde_as]
#[skip_serializing_none]
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reading {
    /// The wall clock (CLOCK_REALTIME).
    pub wall: Time,
    pub boot_id: Option<String>,
    /// The time since the boot (CLOCK_BOOTTIME: it runs in suspend and cannot be set).
    #[serde(default, rename = "boot_seconds")]
    #[serde_as(as = "DefaultOnError<Option<DurationSecondsWithFrac<f64>>>")]
    pub since_boot: Option<Duration>,
}

/// Gaps in which the two clocks drifted apart by more than this are recorded as jumps. A slewed clock stays below
/// it.
const MIN_JUMP: Duration = Duration::from_secs(60);
/// Jumps kept at most, two for each gap: the nights of seven weeks.
pub(super) const MAX_JUMPS: usize = 100;

/// What the ledger's clock may always advance between two records.
pub(super) const USUAL_GAP: Duration = Duration::from_secs(3_600);
/// And at least this much if `--older-than` is very short: the duration of pressure must still grow.
const SHORTEST_GAP: Duration = Duration::from_secs(600);
const OLDER_THAN: Duration = Duration::from_secs(86_400);
/// Gaps whose median is the usual interval between records. If the record timer is dead for a week, the daily
/// prunes make seven long gaps, which is not a majority.
const MAX_GAPS: usize = 15;

/// Two processes record at a time, and one of them what it asked before the other: up to so much the engine's clock was
/// not set back.
const AT_A_TIME: Duration = Duration::from_secs(60);

/// Whether events were replayed up to `known`, which is later than now by the engine's clock, by another process.
pub(super) fn is_by_another(known: Time, until: Time) -> bool {
    known > until && elapsed(known, until) <= AT_A_TIME
}

/// From when on events are to be replayed that were replayed up to `known`. Of the last minute twice, should the engine's
/// clock have been set back by less; where it was set back by more it is not known how far, and everything is replayed
/// that the engine remembers.
pub fn replay_since(known: Option<Time>, until: Time) -> Time {
    match known {
        Some(known) if known <= until => known,
        Some(known) if is_by_another(known, until) => until.saturating_sub(AT_A_TIME).unwrap_or(until),
        Some(_) | None => Time::UNIX_EPOCH,
    }
}

impl Ledger {
    /// Advance the clock to this reading: by the boot clock within a boot, by the wall clock across boots, never
    /// back, and by no more than the longest gap since the last record.
    ///
    /// If a boot ID is missing, a later time since the boot counts as the same boot: at least that much time has
    /// passed.
    pub fn advance(&mut self, reading: Reading) {
        let longest = self.longest_gap();
        let (time, since_record) = self.clock.as_ref().map_or((reading.wall, Duration::ZERO), |clock| {
            let before = &clock.reading;
            let other_boot =
                before.boot_id.as_ref().zip(reading.boot_id.as_ref()).is_some_and(|(a, b)| a != b);
            let within = before.since_boot.zip(reading.since_boot).filter(|_| !other_boot);
            let passed = within.and_then(|(then, now)| now.checked_sub(then));
            let passed = passed.unwrap_or_else(|| elapsed(reading.wall, before.wall));
            let since_record = clock.since_record.saturating_add(passed);
            // Several prunes that recorded nothing advance it together by no more than one gap.
            let counted = since_record.min(longest).saturating_sub(clock.since_record.min(longest));
            (clock.time.saturating_add(counted).unwrap_or(clock.time), since_record)
        });
        self.clock = Some(Clock { time, since_record, reading });
    }

    /// What the clock advances at most between two records: an hour, or twice the usual interval, so that images
    /// age with a daily prune alone too. After a gap of any length, an image that was used in the hour before it is
    /// still younger than `--older-than`: only 23/24 of that count.
    fn longest_gap(&self) -> Duration {
        let interval = self.interval().unwrap_or_default();
        let younger = self.older_than.unwrap_or(OLDER_THAN) / 24 * 23;
        interval.saturating_mul(2).max(USUAL_GAP).min(younger.max(SHORTEST_GAP))
    }

    /// The usual interval between records: the (lower) median of the latest gaps, so that neither a weekend off nor
    /// a single gap decides.
    fn interval(&self) -> Option<Duration> {
        let mut gaps = self.gaps.clone();
        gaps.sort_unstable();
        gaps.get((gaps.len().saturating_sub(1)) / 2).filter(|_| gaps.len() > 1).copied()
    }

    /// Now, by the ledger's clock; by the wall clock if it has none yet.
    pub fn time(&self, wall: Time) -> Time {
        self.clock.as_ref().map_or(wall, |clock| clock.time)
    }

    /// What the gates want to know of the past.
    pub fn past(&self, wall: Time) -> Past {
        let now = self.time(wall);
        let recorded = self.recorded_at.zip(self.recorded).map(|(wall, time)| Moment { wall, time });
        let moments = self.jumps.iter().copied().chain(recorded).collect();
        let unconverged = self.unconverged.iter().map(|(id, since)| (id.clone(), elapsed(now, *since)));
        Past { moments, now: Some(now), unconverged: unconverged.collect(), growth: self.growth() }
    }

    /// [`Past::age`].
    pub fn age(&self, at: Time, wall: Time) -> Duration {
        self.past(wall).age(at, wall)
    }

    /// Record the time, and the gap since the last record. `until`: now, by the engine's clock.
    pub(super) fn record_time(&mut self, until: Time, wall: Time) {
        let now = self.time(wall);
        // A prune records a second time when it has the list of images, with the same `until`: that is not a gap.
        if let Some(clock) = &mut self.clock
            && self.events_until != Some(until)
        {
            let gap = std::mem::take(&mut clock.since_record);
            self.gaps.extend(self.recorded.map(|_| gap));
            self.gaps.drain(..self.gaps.len().saturating_sub(MAX_GAPS));
        }
        let wall = self.clock.as_ref().map_or(wall, |clock| clock.reading.wall);
        if let Some((recorded_at, recorded)) = self.recorded_at.zip(self.recorded)
            && elapsed(wall, recorded_at) > elapsed(now, recorded).saturating_add(MIN_JUMP)
        {
            let before = Moment { wall: recorded_at, time: recorded };
            self.jumps.extend([before, Moment { wall, time: now }]);
            self.jumps.drain(..self.jumps.len().saturating_sub(MAX_JUMPS));
        }
        self.recorded = Some(now);
        self.recorded_at = Some(wall);
        let known = self.events_until.filter(|known| is_by_another(*known, until));
        self.events_until = Some(known.unwrap_or(until));
    }
}
