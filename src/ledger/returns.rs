//! How long it will be until an image is used again, by what the ledger saw of its repository.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_with::{DurationSeconds, serde_as};

use super::{Entry, ImageUse, Ledger};
use crate::facts::Reference;
use crate::units::{Time, elapsed};

/// What is known of a repository.
#[serde_as]
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Repository {
    /// How many of its images were used, and how many of these again after a gap.
    pub images: u32,
    pub came_back: u32,
    /// The latest gaps between two uses of one of its images, with no container of it in between; oldest first, at most 20.
    #[serde(rename = "gaps_seconds")]
    #[serde_as(as = "Vec<DurationSeconds<u64>>")]
    pub gaps: Vec<Duration>,
    /// When its newest image was used first.
    pub newest: Time,
    pub last_used: Time,
}

/// An image that is gone, and may come back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Absent {
    pub last_used: Time,
    #[serde(default)]
    pub came_back: bool,
}

/// When a cached image is expected to be used again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expectation {
    /// Another image has been used by this `name:tag` of its own since.
    Replaced(String),
    /// At most half of the images of its repository came back, and it is not the latest of them.
    NotExpected { repository: String, images: u32, came_back: u32 },
    /// No image of its repository was idle for so long before it came back; the longest gap, where there is one.
    Overdue(Option<Duration>),
    /// After so long; by these gaps, oldest first.
    In(Duration, Vec<Duration>),
}

impl Expectation {
    /// The order of evictions: what is not expected, then the latest expected use first. Of those that are not
    /// expected the replaced ones go first.
    pub fn turn(&self) -> (u8, Reverse<Duration>) {
        match self {
            Self::Replaced(_) => (0, Reverse(Duration::ZERO)),
            Self::NotExpected { .. } | Self::Overdue(_) => (1, Reverse(Duration::ZERO)),
            Self::In(wait, _) => (2, Reverse(*wait)),
        }
    }
}

/// A shorter gap says nothing: no image goes earlier than this after its last use by default (`--critical-age`).
const SHORTEST_GAP: Duration = Duration::from_secs(3_600);
const MAX_GAPS: usize = 20;
/// What is done once a day comes a little later on some days: an image counts as overdue only from 5/4 of the longest gap.
const TOLERANCE: (u32, u32) = (5, 4);
/// A repository of fewer images says nothing about how many come back.
const FEW_IMAGES: u32 = 3;
/// Images that are gone are remembered for so long, and at most so many of them.
const ABSENT_RETENTION: Duration = Duration::from_secs(60 * 86_400);
const MAX_ABSENT: usize = 1_000;

impl Ledger {
    /// Record the uses of one image, by the ledger's clock.
    pub(super) fn record_uses(
        &mut self,
        image: &str,
        uses: &[&ImageUse],
        now: Time,
        by_ledger: impl Fn(Time) -> Time,
    ) {
        let Some(last) = uses.iter().map(|used| by_ledger(used.at)).max() else { return };
        // What is in use all the time begins with no use.
        let began = uses.iter().map(|used| used.began.map(&by_ledger)).min().flatten();
        if let (Some(level), Some(began)) = (&mut self.level, began) {
            level.was_used |= began > level.at;
        }
        let absent = self.absent.remove(image);
        let entry = self.images.entry(image.to_owned()).or_insert_with(|| Entry::new(now));
        let before = entry.last_used.max(absent.map(|absent| absent.last_used));
        entry.came_back |= absent.is_some_and(|absent| absent.came_back);
        let gap = before.zip(began).map(|(before, began)| elapsed(began, before));
        let gap = gap.filter(|gap| *gap >= SHORTEST_GAP);
        let names = uses.iter().filter_map(|used| used.name_tag.as_deref());
        let repositories: BTreeSet<&str> = names.map(|name| Reference::parse(name).repository).collect();
        for repository in repositories {
            let known = self.repositories.entry(repository.to_owned()).or_default();
            if before.is_none() {
                known.images = known.images.saturating_add(1);
                known.newest = known.newest.max(began.unwrap_or(last));
            }
            if let Some(gap) = gap {
                known.gaps.push(gap);
                known.gaps.drain(..known.gaps.len().saturating_sub(MAX_GAPS));
                known.came_back = known.came_back.saturating_add(u32::from(!entry.came_back));
            }
            known.last_used = known.last_used.max(last);
        }
        entry.came_back |= gap.is_some();
        entry.last_used = entry.last_used.max(Some(last));
    }

    /// Remember images that are gone, as far as they were used.
    pub(super) fn remember(&mut self, gone: BTreeMap<String, Entry>, now: Time) {
        let absent = |(id, entry): (String, Entry)| {
            Some((id, Absent { last_used: entry.last_used?, came_back: entry.came_back }))
        };
        self.absent.extend(gone.into_iter().filter_map(absent));
        self.absent.retain(|_, absent| elapsed(now, absent.last_used) < ABSENT_RETENTION);
        if let Some(too_many) = self.absent.len().checked_sub(MAX_ABSENT).filter(|n| *n > 0) {
            let mut oldest: Vec<Time> = self.absent.values().map(|absent| absent.last_used).collect();
            oldest.sort_unstable();
            self.absent.retain(|_, absent| absent.last_used >= oldest[too_many]);
        }
    }

    /// When an image is expected to be used again, which no other one has replaced; by the repository of it that speaks
    /// most for keeping it.
    pub fn expectation(&self, id: &str, now: Time) -> Expectation {
        let Some(entry) = self.images.get(id) else { return Expectation::Overdue(None) };
        let idle = elapsed(now, entry.last_used_or_seen());
        let names = entry.references.keys().map(|name| Reference::parse(name).repository);
        let known = names.filter_map(|name| Some((name, self.repositories.get(name)?)));
        known
            .map(|(name, repository)| repository.expectation(name, entry, idle))
            .max_by_key(Expectation::turn)
            .unwrap_or(Expectation::Overdue(None))
    }
}

impl Repository {
    fn expectation(&self, name: &str, entry: &Entry, idle: Duration) -> Expectation {
        let last = entry.last_used_or_seen();
        let longest = self.gaps.iter().max().copied();
        let is_old = last < self.newest;
        let few_come_back = self.images >= FEW_IMAGES && self.came_back <= self.images / 2;
        // Where any came back it was mostly the latest.
        let is_latest = last >= self.last_used && self.came_back > 0;
        if few_come_back && !is_latest || is_old && self.came_back == 0 {
            let (images, came_back) = (self.images, self.came_back);
            return Expectation::NotExpected { repository: name.to_owned(), images, came_back };
        }
        if is_old && longest.is_some_and(|longest| idle > longest) {
            return Expectation::Overdue(longest);
        }
        // By the median of the gaps that are not over yet.
        let (times, of) = TOLERANCE;
        let mut left: Vec<Duration> =
            self.gaps.iter().filter(|gap| **gap * times / of > idle).copied().collect();
        left.sort_unstable();
        match left.get(left.len() / 2) {
            Some(median) => Expectation::In(median.saturating_sub(idle), self.gaps.clone()),
            None => Expectation::Overdue(longest),
        }
    }
}

#[cfg(test)]
mod tests {
    use jiff::SignedDuration;

    use super::super::Observations;
    use super::*;
    use crate::testing::now;

    const HOUR: Duration = Duration::from_secs(3_600);

    fn hours_ago(hours: i64) -> Time {
        now() - SignedDuration::from_hours(hours)
    }

    /// Containers of `image`, by this name, each created and seen so many hours ago.
    fn record(ledger: &mut Ledger, image: &str, name: &str, hours: &[(i64, i64)]) {
        for (created, seen) in hours {
            let (at, began) = (hours_ago(*seen), Some(hours_ago(*created)));
            let used = ImageUse { image: image.into(), name_tag: Some(name.into()), at, began };
            ledger.record(&Observations { uses: vec![used], ..Observations::default() }, at);
        }
    }

    fn known(ledger: &Ledger, repository: &str) -> (u32, u32, Vec<u64>) {
        let known = &ledger.repositories[repository];
        (known.images, known.came_back, known.gaps.iter().map(|gap| gap.as_secs() / 3_600).collect())
    }

    #[test]
    fn a_gap_is_between_two_containers_and_one_that_goes_on_has_none() {
        let mut ledger = Ledger::default();
        // Seen all the time, and not for two days, as when nothing was recorded; a minute later a gap of 30 minutes.
        record(&mut ledger, "db", "db:1", &[(200, 200), (200, 199), (200, 150)]);
        assert_eq!(known(&ledger, "db"), (1, 0, vec![]));
        record(&mut ledger, "db", "db:1", &[(149, 149), (125, 125), (120, 101), (100, 99)]);
        assert_eq!(known(&ledger, "db"), (1, 1, vec![1, 24, 5, 1]));
        // In use by two containers, one of them since long ago.
        let uses = [Some(hours_ago(1)), None].map(|began| ImageUse {
            image: "db".into(),
            name_tag: Some("db:1".into()),
            at: now(),
            began,
        });
        ledger.record(&Observations { uses: uses.into(), ..Observations::default() }, now());
        assert_eq!(known(&ledger, "db").2, [1, 24, 5, 1]);
        // Only the latest are kept, and a repository that is not used any more is dropped.
        for n in 0..25 {
            record(&mut ledger, "app", "app:1", &[(-2 * n, -2 * n)]);
        }
        assert_eq!(known(&ledger, "app"), (1, 1, vec![2; MAX_GAPS]));
        ledger.record(&Observations::default(), hours_ago(-48 - 60 * 24));
        assert!(ledger.repositories.is_empty());
    }

    #[test]
    fn an_image_that_was_evicted_and_pulled_again_came_back() {
        let mut ledger = Ledger::default();
        record(&mut ledger, "a", "app:1", &[(100, 100)]);
        record(&mut ledger, "b", "app:2", &[(99, 99)]);
        ledger.forget(["a", "b"], hours_ago(90));
        assert!(ledger.images.is_empty());
        record(&mut ledger, "a", "app:1", &[(50, 50), (20, 20)]);
        assert_eq!(known(&ledger, "app"), (2, 1, vec![50, 30]));
        assert!(ledger.images["a"].came_back && ledger.absent.keys().eq(["b"]));
        // It is remembered that it came back.
        ledger.forget(["a"], hours_ago(19));
        record(&mut ledger, "a", "app:1", &[(10, 10)]);
        assert_eq!(known(&ledger, "app"), (2, 1, vec![50, 30, 10]));
        // For 60 days, and the latest thousand.
        let entry = |n: i64| Entry { last_used: Some(hours_ago(n)), ..Entry::new(hours_ago(n)) };
        let gone = |n: i64| (format!("{n:04}"), entry(n));
        ledger.remember((0..1_500).map(gone).collect(), now());
        assert_eq!((ledger.absent.len(), ledger.absent.keys().max().unwrap().as_str()), (MAX_ABSENT, "b"));
        assert!(ledger.absent.contains_key("0998") && !ledger.absent.contains_key("1001"));
        ledger.remember(BTreeMap::new(), hours_ago(-60 * 24 + 500));
        assert!(ledger.absent.contains_key("0499") && !ledger.absent.contains_key("0501"));
    }

    #[test]
    fn the_next_use_is_expected_by_the_gaps_of_the_repository() {
        // Images, how many came back, hours of gaps, the image's idle hours, whether a newer one is there, and whether it is
        // the latest that was used.
        let table = [
            (1, 1, &[24, 24, 24][..], 10, false, true, "in 14"),
            (1, 1, &[24, 24, 24], 25, false, true, "in 0"),
            // A little late, as things that are done once a day are.
            (1, 1, &[24, 24, 24], 29, false, true, "in 0"),
            (1, 1, &[24, 24, 24], 30, false, true, "overdue 24"),
            // The median of the gaps that are not over.
            (1, 1, &[2, 2, 336, 24, 400], 10, false, true, "in 326"),
            (1, 1, &[2, 2, 336, 24, 400], 40, false, true, "in 360"),
            (1, 0, &[], 6, false, true, "overdue"),
            // A newer one has taken its place.
            (2, 0, &[], 6, true, false, "not expected"),
            (2, 1, &[24], 25, true, false, "overdue 24"),
            (2, 1, &[24], 20, true, false, "in 4"),
            // Half of three or more: those that do not come back are the rule.
            (4, 2, &[24], 6, false, false, "not expected"),
            (4, 3, &[24], 6, false, false, "in 18"),
            (2, 1, &[24], 6, false, false, "in 18"),
            (4, 0, &[], 6, false, true, "not expected"),
            // But the latest may come back, where any did.
            (4, 2, &[24], 6, false, true, "in 18"),
        ];
        for (images, came_back, gaps, idle, newer, latest, expected) in table {
            let mut ledger = Ledger::default();
            let used = hours_ago(idle);
            let references = BTreeMap::from([("ci/app:1".into(), used)]);
            let entry = Entry { last_used: Some(used), references, ..Entry::new(hours_ago(900)) };
            ledger.images.insert("a".into(), entry);
            let repository = Repository {
                images,
                came_back,
                gaps: gaps.iter().map(|hours| HOUR * *hours).collect(),
                newest: if newer { now() } else { hours_ago(900) },
                last_used: if latest { used } else { now() },
            };
            ledger.repositories.insert("ci/app".into(), repository);
            let hours = |time: &Duration| time.as_secs() / 3_600;
            let found = match ledger.expectation("a", now()) {
                Expectation::Replaced(_) => "replaced".into(),
                Expectation::NotExpected { .. } => "not expected".into(),
                Expectation::Overdue(longest) => {
                    longest.map_or_else(|| "overdue".into(), |longest| format!("overdue {}", hours(&longest)))
                }
                Expectation::In(wait, _) => format!("in {}", hours(&wait)),
            };
            assert_eq!(found, expected, "{images} {came_back} {gaps:?} {idle}");
        }
    }

    #[test]
    fn of_several_repositories_the_one_counts_that_expects_it_first() {
        let mut ledger = Ledger::default();
        record(&mut ledger, "a", "mirror/db:1", &[(20, 20)]);
        record(&mut ledger, "a", "db:1", &[(10, 10)]);
        assert_eq!(ledger.expectation("a", now()), Expectation::In(Duration::ZERO, vec![HOUR * 10]));
        assert_eq!(ledger.expectation("unknown", now()), Expectation::Overdue(None));
    }

    #[test]
    fn what_is_not_expected_goes_first_and_then_the_latest_expected_use() {
        let of_app = Expectation::NotExpected { repository: "app".into(), images: 3, came_back: 0 };
        let order = [
            Expectation::Replaced("db:1".into()),
            of_app,
            Expectation::In(HOUR * 9, vec![HOUR * 10]),
            Expectation::In(HOUR, vec![HOUR]),
        ];
        assert!(order.is_sorted_by_key(Expectation::turn));
        assert_eq!(Expectation::Overdue(None).turn(), order[1].turn());
    }
}
