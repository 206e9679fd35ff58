//! The host's hours: how long CI runs were live over the last day, for a host that is never idle needs another set-up, and
//! how full its disk was over 14 days.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_with::{DurationSeconds, serde_as, skip_serializing_none};

use super::Ledger;
use crate::units::{Percent, Time, elapsed};

/// One hour, by the ledger's clock.
#[serde_as]
#[skip_serializing_none]
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hour {
    pub begins: Time,
    /// The latest look at the gate `runs`.
    pub looked: Time,
    #[serde(rename = "seen_seconds")]
    #[serde_as(as = "DurationSeconds<u64>")]
    pub seen: Duration,
    #[serde(rename = "busy_seconds")]
    #[serde_as(as = "DurationSeconds<u64>")]
    pub busy: Duration,
    /// How full the fullest filesystem was, at most.
    pub used_percent: Option<Percent>,
    /// By how many percentage points the disk was filled before a prune had its turn, at most.
    pub growth: Option<u8>,
}

/// How full the disk was at a moment, from which its growth counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Level {
    pub at: Time,
    pub used_percent: Percent,
    /// Whether an image has been used since: what others write is no growth that comes again.
    #[serde(default)]
    pub was_used: bool,
}

const HOUR: Duration = Duration::from_secs(3_600);
const DAY: Duration = Duration::from_secs(86_400);
/// Hours are kept for so long.
pub const USAGE_RETENTION: Duration = Duration::from_secs(14 * 86_400);
/// What a look tells of the time before it, at most.
const MAX_LOOK: Duration = Duration::from_secs(900);

/// Of the last day.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Busy {
    pub seen: Duration,
    /// While the gate `runs` was closed.
    pub busy: Duration,
}

impl Busy {
    /// Whether there was hardly a moment for a prune: over nine tenths of half a day or more.
    pub fn is_never_idle(&self) -> bool {
        self.seen >= DAY / 2 && self.busy >= self.seen / 10 * 9
    }
}

impl Ledger {
    /// Record whether runs are live now. It counts for the time since the last look.
    pub fn record_runs(&mut self, live: bool, wall: Time) {
        let now = self.time(wall);
        let last = self.hours.last().map_or(now, |hour| hour.looked);
        let seen = elapsed(now, last).min(MAX_LOOK);
        let hour = self.hour(now);
        hour.looked = now;
        hour.seen += seen;
        hour.busy += if live { seen } else { Duration::ZERO };
        if live {
            self.run_seen = Some(now);
        }
        self.began.get_or_insert(now);
    }

    /// Record how full the disk is.
    pub fn record_usage(&mut self, used: Percent, wall: Time) {
        let hour = self.hour(self.time(wall));
        hour.used_percent = hour.used_percent.max(Some(used));
    }

    /// Record how full the disk is when a prune has its turn, or none is due: by how much it has grown, and from where on it
    /// grows next.
    pub fn record_turn(&mut self, used: Percent, wall: Time) {
        self.record_growth(used, wall);
        self.record_level(used, wall);
    }

    fn record_growth(&mut self, used: Percent, wall: Time) {
        let Some(level) = self.level.filter(|level| level.was_used) else { return };
        let hour = self.hour(self.time(wall));
        hour.growth = hour.growth.max(Some(used.get().saturating_sub(level.used_percent.get())));
    }

    /// Record from where on the disk grows, after a prune.
    pub fn record_level(&mut self, used: Percent, wall: Time) {
        self.level = Some(Level { at: self.time(wall), used_percent: used, was_used: false });
    }

    /// By how many percentage points runs filled the disk before a prune had its turn, at most.
    pub fn growth(&self) -> u8 {
        self.hours.iter().filter_map(|hour| hour.growth).max().unwrap_or(0)
    }

    /// The present one.
    fn hour(&mut self, now: Time) -> &mut Hour {
        self.hours.retain(|hour| elapsed(now, hour.begins) < USAGE_RETENTION);
        if self.hours.last().is_none_or(|hour| elapsed(now, hour.begins) >= HOUR) {
            let looked = self.hours.last().map_or(now, |hour| hour.looked);
            let (seen, busy) = (Duration::ZERO, Duration::ZERO);
            self.hours.push(Hour { begins: now, looked, seen, busy, used_percent: None, growth: None });
        }
        let last = self.hours.len() - 1;
        &mut self.hours[last]
    }

    pub fn busy(&self, wall: Time) -> Busy {
        let now = self.time(wall);
        let day = self.hours.iter().filter(|hour| elapsed(now, hour.begins) < DAY);
        day.fold(Busy::default(), |sum, hour| Busy { seen: sum.seen + hour.seen, busy: sum.busy + hour.busy })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{ago, now};

    #[test]
    fn the_usage_of_an_hour_is_its_highest_and_is_kept_for_14_days() {
        let mut ledger = Ledger::default();
        for (at, used) in [("15d", "50"), ("90m", "60"), ("80m", "70"), ("70m", "65"), ("5m", "80")] {
            ledger.record_usage(used.parse().unwrap(), ago(at).unwrap());
        }
        let used: Vec<u8> =
            ledger.hours.iter().filter_map(|hour| hour.used_percent).map(Percent::get).collect();
        assert_eq!(used, [70, 80]);
        // A look at the runs is of the time since the last such look.
        ledger.record_runs(true, now());
        assert_eq!(ledger.busy(now()).seen, MAX_LOOK);
    }

    #[test]
    fn the_disk_grows_by_what_runs_add_before_a_prune_has_its_turn() {
        use super::super::{ImageUse, Observations};
        let percent = |used: u8| used.to_string().parse().unwrap();
        let mut ledger = Ledger::default();
        let mut at = ago("15d").unwrap();
        let mut turn = |ledger: &mut Ledger, hours: i64, is_used: bool, used: u8, left: u8| {
            let began = at + jiff::SignedDuration::from_secs(60);
            at += jiff::SignedDuration::from_hours(hours);
            let used_image = ImageUse { image: "a".into(), name_tag: None, at, began: Some(began) };
            let uses = if is_used { vec![used_image] } else { vec![] };
            ledger.record(&Observations { uses, ..Observations::default() }, at);
            ledger.record_growth(percent(used), at);
            ledger.record_level(percent(left), at);
            ledger.growth()
        };
        // Nothing is known of the time before; others wrote, and no image was used; a run.
        assert_eq!(turn(&mut ledger, 1, true, 60, 60), 0);
        assert_eq!(turn(&mut ledger, 1, false, 90, 50), 0);
        assert_eq!(turn(&mut ledger, 1, true, 57, 55), 7);
        assert_eq!(turn(&mut ledger, 1, true, 58, 50), 7);
        assert_eq!(turn(&mut ledger, 1, true, 40, 40), 7, "it shrank");
        // For 14 days.
        assert_eq!(turn(&mut ledger, 13 * 24, true, 42, 40), 7);
        assert_eq!(turn(&mut ledger, 2 * 24, true, 44, 40), 4);
    }

    #[test]
    fn a_host_is_never_idle_where_a_day_of_looks_saw_hardly_a_gap() {
        // A look every five minutes for so many hours, of which every so many-th finds no run.
        let looked = |hours: u64, idle_every: u64| {
            let mut ledger = Ledger::default();
            for n in (0..=hours * 12).rev() {
                let at = ago(&format!("{}m", n * 5)).unwrap();
                ledger.record_runs(n % idle_every != 0, at);
            }
            ledger.busy(now())
        };
        let hours = |n: u64| Duration::from_secs(n * 3_600);
        for (span, idle_every, never_idle) in
            [(30, 1_000, true), (12, 20, true), (30, 5, false), (6, 1_000, false)]
        {
            let busy = looked(span, idle_every);
            assert_eq!(busy.is_never_idle(), never_idle, "{span} {idle_every} {busy:?}");
            assert!(busy.seen <= hours(24) && busy.seen + hours(1) >= hours(span.min(24)), "{span} {busy:?}");
        }
        // A host that was off tells nothing of that time.
        let mut ledger = Ledger::default();
        ledger.record_runs(true, ago("20h").unwrap());
        ledger.record_runs(true, now());
        assert_eq!(ledger.busy(now()), Busy { seen: MAX_LOOK, busy: MAX_LOOK });
    }
}
