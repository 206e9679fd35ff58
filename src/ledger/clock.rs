//! The ledger's own clock, which neither jumps nor goes back.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_with::{DefaultOnError, DurationSecondsWithFrac, serde_as, skip_serializing_none};

use super::Ledger;
use crate::units::{Time, elapsed};

/// The ledger's own clock: it goes on by the time that the ledger was kept, and neither jumps nor goes back.
#[serde_as]
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Clock {
    /// What it shows: about the wall clock, unless that was set or the ledger was not kept for long.
    pub time: Time,
    /// How much time has really passed since images were last recorded, as far as the host's clocks tell.
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
    /// The time since the boot (CLOCK_BOOTTIME, which goes on in suspend and cannot be set).
    #[serde(default, rename = "boot_seconds")]
    #[serde_as(as = "DefaultOnError<Option<DurationSecondsWithFrac<f64>>>")]
    pub since_boot: Option<Duration>,
}

/// What two clocks showed at the same moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moment {
    /// The wall clock.
    pub wall: Time,
    pub time: Time,
}

/// From this difference between the two clocks on a gap is remembered: a clock that is slewed needs less.
const JUMP: Duration = Duration::from_secs(60);
/// So many ends of gaps are remembered: the nights of seven weeks.
pub(super) const JUMPS: usize = 100;

/// Between two notes so much time may always pass by the ledger's clock.
pub(super) const USUAL_GAP: Duration = Duration::from_secs(3_600);
/// Where `--older-than` is very short, still this much: a clock that stands would keep pressure from lasting.
const SHORTEST_GAP: Duration = Duration::from_secs(600);
const OLDER_THAN: Duration = Duration::from_secs(86_400);
/// By how many gaps the interval is told at which the ledger is kept. A daily prune beside a record timer that is dead for
/// a week makes seven long ones, which are no majority.
const GAPS: usize = 15;

impl Ledger {
    /// Let its clock go on to this reading: by the boot clock within a boot, by the wall clock across boots, never back,
    /// and since the last note by no more than the longest gap. So a clock that jumps and a host that was off make no
    /// image old.
    ///
    /// Where it is not known whether it is the same boot, a later time since the boot is taken for that: at least so much
    /// time has passed in any case.
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
            // Runs that could note nothing let no more time pass than one.
            let counted = since_record.min(longest).saturating_sub(clock.since_record.min(longest));
            (clock.time.saturating_add(counted).unwrap_or(clock.time), since_record)
        });
        self.clock = Some(Clock { time, since_record, reading });
    }

    /// By how much its clock goes on at most between two notes: by an hour, or twice the interval at which it is kept, so
    /// that a daily prune alone lets images age too. An image that was used in the hour before a gap of any length is
    /// younger than `--older-than` after it, by an hour of a day.
    fn longest_gap(&self) -> Duration {
        let interval = self.interval().unwrap_or_default();
        let younger = self.older_than.unwrap_or(OLDER_THAN) / 24 * 23;
        interval.saturating_mul(2).max(USUAL_GAP).min(younger.max(SHORTEST_GAP))
    }

    /// At which interval the ledger is kept: the (lower) median of the latest gaps, so that a weekend off among them, or
    /// one alone, is not taken for it.
    fn interval(&self) -> Option<Duration> {
        let mut gaps = self.gaps.clone();
        gaps.sort_unstable();
        gaps.get((gaps.len().saturating_sub(1)) / 2).filter(|_| gaps.len() > 1).copied()
    }

    /// Now, by its clock; the wall clock's time where it has none yet.
    pub fn time(&self, wall: Time) -> Time {
        self.clock.as_ref().map_or(wall, |clock| clock.time)
    }

    /// How long ago something was that happened at this time by the wall clock: no longer than by that clock, and no longer
    /// than the ledger was kept since. What happened in a gap may have happened at its end.
    pub fn age(&self, at: Time, wall: Time) -> Duration {
        let by_wall = elapsed(wall, at);
        let now = self.time(wall);
        let recorded = self.recorded_at.zip(self.recorded).map(|(wall, time)| Moment { wall, time });
        let moments: Vec<Moment> = self.jumps.iter().copied().chain(recorded).collect();
        let Some(first) = moments.first() else { return by_wall };
        let next = moments.iter().skip(1).map(|moment| moment.time).chain([now]);
        let since = moments.iter().zip(next).filter(|(moment, _)| moment.wall <= at).map(|(moment, next)| {
            next.min(moment.time.saturating_add(elapsed(at, moment.wall)).unwrap_or(next))
        });
        let by_ledger = since.max().map_or_else(
            || elapsed(now, first.time).saturating_add(elapsed(first.wall, at)),
            |since| elapsed(now, since),
        );
        by_wall.min(by_ledger)
    }

    /// Let this note follow the last one, and remember the gap between them. `until`: when it was by the engine's clock.
    pub(super) fn record_time(&mut self, until: Time, wall: Time) {
        let now = self.time(wall);
        // A prune notes the same once more when it has the list of images: that is no gap, else every other one would be short.
        if let Some(clock) = &mut self.clock
            && self.events_until != Some(until)
        {
            let gap = std::mem::take(&mut clock.since_record);
            self.gaps.extend(self.recorded.map(|_| gap));
            self.gaps.drain(..self.gaps.len().saturating_sub(GAPS));
        }
        let wall = self.clock.as_ref().map_or(wall, |clock| clock.reading.wall);
        if let Some((recorded_at, recorded)) = self.recorded_at.zip(self.recorded)
            && elapsed(wall, recorded_at) > elapsed(now, recorded).saturating_add(JUMP)
        {
            let before = Moment { wall: recorded_at, time: recorded };
            self.jumps.extend([before, Moment { wall, time: now }]);
            self.jumps.drain(..self.jumps.len().saturating_sub(JUMPS));
        }
        self.recorded = Some(now);
        self.recorded_at = Some(wall);
        self.events_until = Some(until);
    }
}
