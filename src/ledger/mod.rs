//! What this host has recorded of each image: when it was first seen, when it was last in use, and by which names.

mod busy;
mod clock;
mod pressure;
mod returns;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_with::formats::SpaceSeparator;
use serde_with::{DefaultOnError, DurationSeconds, StringWithSeparator, serde_as, skip_serializing_none};

use crate::facts::{Image, ImageClass, Layer, Moment, name_tag};
use crate::units::{Time, elapsed};
pub use busy::{Busy, Hour, Level, USAGE_RETENTION};
pub use clock::{Clock, Reading, replay_since};
pub use pressure::{Pressure, Reported, UselessEviction};
pub use returns::{Absent, Expectation, Repository};

/// Its times are by its own [`Clock`], except those of the last prunes and of the events.
#[serde_as]
#[skip_serializing_none]
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ledger {
    /// The ID of the engine whose images these are; `None` before the first record.
    pub engine: Option<String>,
    /// `None` before the first record.
    pub clock: Option<Clock>,
    /// Lengths of the latest intervals between records, oldest first; at most 15.
    #[serde(default, rename = "gaps_seconds")]
    #[serde_as(as = "Vec<DurationSeconds<u64>>")]
    pub gaps: Vec<Duration>,
    #[serde(default, rename = "older_than_seconds")]
    #[serde_as(as = "Option<DurationSeconds<u64>>")]
    pub older_than: Option<Duration>,
    pub recorded: Option<Time>,
    /// `recorded` by the wall clock.
    pub recorded_at: Option<Time>,
    /// The records before and after each gap that did not count in full, oldest first; at most 100.
    #[serde(default)]
    pub jumps: Vec<Moment>,
    /// Up to when the engine's events were replayed, by the engine's clock.
    pub events_until: Option<Time>,
    /// By image ID.
    pub images: BTreeMap<String, Entry>,
    /// By the repository's name.
    #[serde(default)]
    pub repositories: BTreeMap<String, Repository>,
    /// Images that are gone and were used, by ID.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub absent: BTreeMap<String, Absent>,
    /// When a prune last ran, by the wall clock.
    pub last_run: Option<Time>,
    /// When one last ended with exit status 0, by the wall clock.
    pub last_success: Option<Time>,
    pub pressure: Option<Pressure>,
    /// Since when each service has not been converged, by its ID.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub unconverged: BTreeMap<String, Time>,
    /// The last 14 days, oldest first.
    #[serde(default)]
    pub hours: Vec<Hour>,
    /// How full the disk was when a prune had ended, or none was due.
    pub level: Option<Level>,
    /// When a run was last live.
    pub run_seen: Option<Time>,
    /// When the ledger began.
    pub began: Option<Time>,
    #[serde(default)]
    pub totals: Totals,
    /// The ID of the object whose removal the last prune gave up (`--removal-timeout`); build cache has an empty one.
    pub stuck: Option<String>,
    /// By image ID: the names that an eviction removes, recorded before it does. An interrupted eviction is
    /// finished or undone by these.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub evicting: BTreeMap<String, Vec<String>>,
}

/// `status` and `verify` warn if nothing was recorded for this long: `record` runs every five minutes.
pub const MAX_RECORD_AGE: Duration = Duration::from_secs(3_600);

/// Of all prunes, counted by the kind of what went (images: their class), and by gate.
#[serde_as]
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    pub removed: BTreeMap<String, u64>,
    pub removed_bytes: BTreeMap<String, u64>,
    pub blocked: BTreeMap<String, u64>,
    /// How long commands under `inhibit` waited for prunes.
    #[serde(default, rename = "waited_seconds")]
    #[serde_as(as = "DurationSeconds<u64>")]
    pub waited: Duration,
}

impl Totals {
    pub fn remove(&mut self, class: &str, bytes: u64) {
        *self.removed.entry(class.to_owned()).or_default() += 1;
        *self.removed_bytes.entry(class.to_owned()).or_default() += bytes;
    }

    pub fn block(&mut self, gate: &str) {
        *self.blocked.entry(gate.to_owned()).or_default() += 1;
    }
}

/// A name that was not used for this long is dropped, unless it is the latest of its image, and a repository of which none
/// was.
const REPOSITORY_RETENTION: Duration = Duration::from_secs(60 * 86_400);

/// An image that no full list contains for this long is gone.
const MISSING_FOR: Duration = Duration::from_secs(3_600);

#[serde_as]
#[skip_serializing_none]
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    pub first_seen: Time,
    pub last_used: Option<Time>,
    #[serde(default)]
    pub named: bool,
    /// When it was first seen without a name, if it had one.
    pub dangling_since: Option<Time>,
    /// When a full list first did not contain it; `None` as long as each one does.
    pub missing_since: Option<Time>,
    /// Each `name:tag` by which it was used, and when last.
    #[serde(default)]
    pub references: BTreeMap<String, Time>,
    /// Base first; `None` until the engine was asked. A string in the file, so that an image takes one line;
    /// malformed layers are asked for again.
    #[serde(default)]
    #[serde_as(as = "DefaultOnError<Option<StringWithSeparator<SpaceSeparator, Layer>>>")]
    pub layers: Option<Vec<Layer>>,
    /// When the engine refused to remove it although it had no name.
    pub refused: Option<Time>,
    /// Whether it was ever used again after a gap.
    #[serde(default)]
    pub came_back: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageUse {
    pub image: String,
    /// The `name:tag` by which it was asked for, if any.
    pub name_tag: Option<String>,
    /// By the engine's clock.
    pub at: Time,
    /// When this use began, by the engine's clock; `None` where it was in use before.
    pub began: Option<Time>,
}

#[derive(Debug, Clone, Default)]
pub struct Observations {
    pub uses: Vec<ImageUse>,
    /// The `name:tag` of images in the specs of services and tasks. A spec is not a use.
    pub specs: Vec<ImageUse>,
    /// When this was seen, and up to when events were replayed: by the engine's clock, else by ours.
    pub until: Option<Time>,
    /// Every image of the engine, if they were listed.
    pub all: Option<Vec<Listed>>,
}

#[derive(Debug, Clone)]
pub struct Listed {
    pub id: String,
    pub class: ImageClass,
    /// Of its digest references: the containerd store keeps the one by which an image was pulled.
    pub name_tags: Vec<String>,
}

impl Observations {
    pub fn list(&mut self, images: &[Image]) {
        let listed = |image: &Image| Listed {
            id: image.id.clone(),
            class: image.class(),
            name_tags: image.digests.iter().filter_map(|digest| name_tag(digest)).collect(),
        };
        self.all = Some(images.iter().map(listed).collect());
    }
}

impl Entry {
    pub fn new(now: Time) -> Self {
        Self {
            first_seen: now,
            last_used: None,
            named: false,
            dangling_since: None,
            missing_since: None,
            references: BTreeMap::new(),
            layers: None,
            refused: None,
            came_back: false,
        }
    }

    pub fn last_used_or_seen(&self) -> Time {
        self.last_used.map_or(self.first_seen, |used| used.max(self.first_seen))
    }
}

impl Ledger {
    /// Record what was seen now. A new image counts as first seen now. An image that a full list does not contain
    /// is dropped when a list an hour later does not contain it either: one empty or short answer must not wipe the
    /// ledger. If it appears again before that, it counts as first seen now, as if it had just been pulled, and
    /// keeps its references.
    pub fn record(&mut self, seen: &Observations, wall: Time) {
        let now = self.time(wall);
        // Uses are later than the last record, even if the engine's clock was set in between.
        let floor = self.clock.as_ref().and(self.recorded);
        let by_engine = seen.until.unwrap_or(wall);
        // What another process has replayed has its date already.
        let replayed = self.events_until.filter(|known| clock::is_by_another(*known, by_engine));
        let by_ledger = |at: Time| {
            let floor = floor.filter(|_| replayed.is_none());
            let at = now.saturating_sub(elapsed(by_engine, at)).unwrap_or(now);
            floor.map_or(at, |floor| at.max(floor.min(now)))
        };
        // The ledger's clock never goes back: a time in its future was not written by it.
        for entry in self.images.values_mut() {
            entry.first_seen = entry.first_seen.min(now);
            entry.last_used = entry.last_used.map(|at| at.min(now));
        }
        if let Some(all) = &seen.all {
            let there: HashSet<&str> = all.iter().map(|listed| listed.id.as_str()).collect();
            let mut gone = BTreeMap::new();
            self.images.retain(|id, entry| {
                let missing = !there.contains(id.as_str());
                let is_gone = missing && elapsed(now, *entry.missing_since.get_or_insert(now)) >= MISSING_FOR;
                if is_gone {
                    gone.insert(id.clone(), entry.clone());
                }
                !is_gone
            });
            self.remember(gone, now);
            for Listed { id, class, name_tags } in all {
                let entry = self.images.entry(id.clone()).or_insert_with(|| Entry::new(now));
                if entry.missing_since.take().is_some() {
                    entry.first_seen = now;
                }
                if *class != ImageClass::Dangling {
                    entry.named = true;
                    entry.dangling_since = None;
                } else if entry.named {
                    entry.dangling_since.get_or_insert(now);
                }
                for name_tag in name_tags {
                    entry.references.entry(name_tag.clone()).or_insert(entry.first_seen);
                }
            }
        }
        let mut uses: BTreeMap<&str, Vec<&ImageUse>> = BTreeMap::new();
        for used in &seen.uses {
            uses.entry(&used.image).or_default().push(used);
        }
        for (image, uses) in uses {
            self.record_uses(image, &uses, now, by_ledger);
        }
        self.repositories.retain(|_, repository| elapsed(now, repository.last_used) < REPOSITORY_RETENTION);
        for ImageUse { image, name_tag, at, .. } in seen.uses.iter().chain(&seen.specs) {
            let at = by_ledger(*at);
            if let (Some(entry), Some(name_tag)) = (self.images.get_mut(image), name_tag) {
                let last = entry.references.entry(name_tag.clone()).or_insert(at);
                *last = at.max(*last);
            }
        }
        for references in self.images.values_mut().map(|entry| &mut entry.references) {
            let latest = references.values().max().copied();
            references.retain(|_, at| Some(*at) == latest || elapsed(now, *at) < REPOSITORY_RETENTION);
        }
        let images = &self.images;
        self.evicting.retain(|id, _| images.contains_key(id));
        self.record_time(by_engine, wall);
    }

    /// Record which services are not converged now, by their IDs.
    pub fn record_unconverged<'a>(&mut self, services: impl IntoIterator<Item = &'a str>, wall: Time) {
        let now = self.time(wall);
        let before = std::mem::take(&mut self.unconverged);
        let since = |id: &str| before.get(id).map_or(now, |since| now.min(*since));
        self.unconverged = services.into_iter().map(|id| (id.to_owned(), since(id))).collect();
    }

    pub fn record_layers(&mut self, layers: &[(String, Vec<Layer>)]) {
        for (id, layers) in layers {
            if let Some(entry) = self.images.get_mut(id) {
                entry.layers = Some(layers.clone());
            }
        }
    }

    /// The images that were replaced, by ID: for every `name:tag` by which one was used, another image has been
    /// used by it since. Each with one such `name:tag`.
    ///
    /// An image that the latest full list did not contain neither replaces another nor is replaced: it is probably
    /// gone.
    pub fn superseded(&self) -> HashMap<&str, &str> {
        let there = || self.images.iter().filter(|(_, entry)| entry.missing_since.is_none());
        let mut latest: HashMap<&str, Time> = HashMap::new();
        for (name_tag, at) in there().flat_map(|(_, entry)| &entry.references) {
            let last = latest.entry(name_tag).or_insert(*at);
            *last = (*at).max(*last);
        }
        // An image that was used at the latest time is current, as are several that were used at the same time.
        let replaced = |(name_tag, at): (&String, &Time)| latest[name_tag.as_str()] > *at;
        let superseded = there().filter(|(_, entry)| entry.references.iter().all(replaced));
        superseded
            .filter_map(|(id, entry)| {
                let (name_tag, _) = entry.references.iter().max_by_key(|(_, at)| **at)?;
                Some((id.as_str(), name_tag.as_str()))
            })
            .collect()
    }

    /// Images that were removed.
    pub fn forget<'a>(&mut self, ids: impl IntoIterator<Item = &'a str>, wall: Time) {
        let mut gone = BTreeMap::new();
        for id in ids {
            gone.extend(self.images.remove_entry(id));
            self.evicting.remove(id);
        }
        self.remember(gone, self.time(wall));
    }
}

#[cfg(test)]
mod tests {
    use jiff::SignedDuration;

    use super::clock::{MAX_JUMPS, USUAL_GAP};
    use super::*;
    use crate::facts::Filesystem;
    use crate::testing::{ago, now};

    const DAY: Duration = Duration::from_secs(86_400);

    fn listed(images: &[(&str, ImageClass)]) -> Observations {
        let listed =
            |&(id, class): &(&str, ImageClass)| Listed { id: id.to_owned(), class, name_tags: vec![] };
        Observations { all: Some(images.iter().map(listed).collect()), ..Observations::default() }
    }

    fn used_as(id: &str, name_tag: Option<&str>, at: Time) -> Observations {
        let name_tag = name_tag.map(str::to_owned);
        let used = ImageUse { image: id.to_owned(), name_tag, at, began: Some(at) };
        Observations { uses: vec![used], ..Observations::default() }
    }

    #[test]
    fn names_that_nobody_uses_any_more_are_forgotten_but_the_latest_of_an_image() {
        let mut ledger = Ledger::default();
        for (name_tag, at) in [("app:1", "70d"), ("app:2", "61d"), ("app:3", "59d"), ("db:1", "80d")] {
            let id = if name_tag == "db:1" { "db" } else { "app" };
            ledger.record(&used_as(id, Some(name_tag), ago(at).unwrap()), ago(at).unwrap());
        }
        ledger.record(&Observations::default(), now());
        let names: Vec<_> = ledger.images.values().flat_map(|entry| entry.references.keys()).collect();
        assert_eq!(names, ["app:3", "db:1"]);
    }

    fn used(id: &str, at: Time) -> Observations {
        used_as(id, None, at)
    }

    #[test]
    fn an_image_that_came_again_counts_from_then() {
        let entry = Entry { last_used: ago("90d"), ..Entry::new(ago("1h").unwrap()) };
        assert_eq!(entry.last_used_or_seen(), ago("1h").unwrap());
        let entry = Entry { last_used: ago("1h"), ..Entry::new(ago("90d").unwrap()) };
        assert_eq!(entry.last_used_or_seen(), ago("1h").unwrap());
        assert_eq!(Entry::new(ago("2h").unwrap()).last_used_or_seen(), ago("2h").unwrap());
    }

    #[test]
    fn late_events_and_several_names_neither_date_back_nor_count_twice() {
        let mut ledger = Ledger::default();
        let mut note = |names: &[&str], at: &str| {
            let used = |name: &&str| ImageUse {
                image: "db".into(),
                name_tag: Some((*name).to_owned()),
                at: ago(at).unwrap(),
                began: ago(at),
            };
            let uses = names.iter().map(used).collect();
            ledger.record(&Observations { uses, ..Observations::default() }, now());
        };
        note(&["db:1", "db:latest"], "5d");
        note(&["db:1", "db:latest"], "3d");
        // Replayed late.
        note(&["db:1"], "4d");
        let known = &ledger.repositories["db"];
        assert_eq!((known.images, known.came_back, &known.gaps[..]), (1, 1, &[2 * DAY][..]));
        assert_eq!((known.newest, known.last_used), (ago("5d").unwrap(), ago("3d").unwrap()));
        assert_eq!(ledger.images["db"].last_used, ago("3d"));
        assert_eq!(ledger.images["db"].references["db:1"], ago("3d").unwrap());
    }

    #[test]
    fn what_another_process_has_replayed_keeps_its_date() {
        let by = |at: &str, until: &str| Observations { until: ago(until), ..used("a", ago(at).unwrap()) };
        let mut ledger = Ledger::default();
        ledger.record(&by("10m", "10m"), ago("10m").unwrap());
        // It asked a second before another one that has recorded meanwhile, up to 5 s ago, and replays the last minute.
        ledger.record(&Observations { until: ago("5s"), ..Observations::default() }, now());
        assert_eq!(replay_since(ledger.events_until, ago("6s").unwrap()), ago("66s").unwrap());
        ledger.record(&by("50s", "6s"), now());
        assert_eq!(ledger.images["a"].last_used, ago("44s"), "44 s before it asked");
        assert_eq!(ledger.events_until, ago("5s"));
        // A clock that was set back by more.
        ledger.record(&by("9m", "8m"), now());
        assert_eq!(ledger.events_until, ago("8m"));
        assert_eq!(replay_since(ledger.events_until, ago("1h").unwrap()), Time::UNIX_EPOCH);
        assert_eq!(replay_since(ledger.events_until, now()), ago("8m").unwrap());
        assert_eq!(replay_since(None, now()), Time::UNIX_EPOCH);
    }

    #[test]
    fn what_a_wrong_clock_dated_in_the_future_counts_as_now() {
        let future: Time = "2999-01-01T00:00:00Z".parse().unwrap();
        let entry = Entry { last_used: Some(future), ..Entry::new(future) };
        let mut ledger = Ledger { images: BTreeMap::from([("a".into(), entry)]), ..Ledger::default() };
        ledger.record(&Observations::default(), now());
        let entry = &ledger.images["a"];
        assert_eq!((entry.first_seen, entry.last_used), (now(), Some(now())));
    }

    #[test]
    fn pressure_is_dated_by_the_ledgers_clock() {
        let mut ledger = crate::testing::behind("5d");
        ledger.owe(["runs"], now());
        let pressure = ledger.pressure.clone().unwrap();
        assert_eq!((pressure.since, pressure.owed_since), (ago("5d").unwrap(), ago("5d")));
        ledger.clear_owed(Some(&crate::testing::usage(85).filesystem), now());
        let useless = ledger.pressure.as_ref().unwrap().freed_nothing.unwrap();
        assert_eq!(useless.at, ago("5d").unwrap());
        let critical = "95".parse().unwrap();
        let filesystem = crate::testing::usage(85).filesystem;
        assert_eq!(ledger.eviction_is_useless(&filesystem, critical, now()), Some(Duration::ZERO));
        // Of inodes the percentage is all that there is.
        let of_inodes = |inodes_used| Filesystem { inodes: 100, inodes_used, ..filesystem.clone() };
        ledger.clear_owed(Some(&of_inodes(90)), now());
        for (inodes, stays) in [(90, true), (91, true), (92, false)] {
            let found = ledger.eviction_is_useless(&of_inodes(inodes), critical, now());
            assert_eq!(found.is_some(), stays, "{inodes}");
        }
    }

    #[test]
    fn an_unknown_image_counts_as_seen_now() {
        let mut ledger = Ledger::default();
        ledger.record(&listed(&[("a", ImageClass::Cached)]), now());
        assert_eq!(ledger.images["a"].last_used_or_seen(), now());
    }

    #[test]
    fn use_is_remembered_and_gone_images_are_dropped() {
        let (past, later) = (ago("3d").unwrap(), ago("1d").unwrap());
        let mut ledger = Ledger::default();
        ledger.record(&used("a", past), past);
        ledger.record(&listed(&[("a", ImageClass::Cached), ("b", ImageClass::Tagged)]), later);
        assert_eq!(ledger.images["a"].last_used_or_seen(), past);
        ledger.record(&listed(&[("b", ImageClass::Tagged)]), now());
        assert_eq!(ledger.images["a"].missing_since, Some(now()));
        let hours = |hours| now() + SignedDuration::from_hours(hours);
        ledger.record(&listed(&[("b", ImageClass::Tagged)]), hours(1));
        assert_eq!(ledger.images.keys().collect::<Vec<_>>(), ["b"]);
        ledger.forget(["b"], now());
        assert!(ledger.images.is_empty());
    }

    #[test]
    fn one_empty_list_does_not_wipe_the_ledger() {
        let minutes = |minutes| now() + SignedDuration::from_mins(minutes);
        let known = |lists: &[(i64, Option<bool>)]| {
            let mut ledger = Ledger::default();
            ledger.record(&used_as("a", Some("app:1"), ago("3d").unwrap()), ago("3d").unwrap());
            for (at, shown) in lists {
                let list = |shown| if shown { listed(&[("a", ImageClass::Cached)]) } else { listed(&[]) };
                ledger.record(&shown.map_or_else(Observations::default, list), minutes(*at));
            }
            ledger.images.remove("a")
        };
        let (a, empty) = (Some(true), Some(false));
        let missing = |at| Some((ago("3d").unwrap(), Some(minutes(at))));
        let seen = |first_seen| Some((first_seen, None));
        // When it counts as first seen, and since when it is missing.
        let table: [(&str, &[_], _); 7] = [
            ("always there", &[(0, a), (60, a)], seen(ago("3d").unwrap())),
            ("an empty list", &[(0, empty)], missing(0)),
            ("two in an hour", &[(0, empty), (59, empty)], missing(0)),
            ("two, an hour apart", &[(0, empty), (60, empty)], None),
            ("none is asked for", &[(0, empty), (600, None)], missing(0)),
            ("it shows up again", &[(0, empty), (600, None), (601, a)], seen(minutes(601))),
            (
                "and is missing again",
                &[(0, empty), (30, a), (61, empty)],
                Some((minutes(30), Some(minutes(61)))),
            ),
        ];
        for (what, lists, expected) in table {
            let entry = known(lists);
            assert!(entry.as_ref().is_none_or(|entry| entry.references.contains_key("app:1")), "{what}");
            assert_eq!(entry.map(|entry| (entry.first_seen, entry.missing_since)), expected, "{what}");
        }
    }

    #[test]
    fn an_image_that_is_missing_neither_replaces_nor_is_replaced() {
        let mut ledger = Ledger::default();
        for (id, used) in [("old", "3d"), ("new", "2d"), ("newest", "1d")] {
            ledger.record(&used_as(id, Some("db:1"), ago(used).unwrap()), ago(used).unwrap());
        }
        let superseded = |ledger: &Ledger| {
            let mut superseded: Vec<_> = ledger.superseded().into_keys().map(str::to_owned).collect();
            superseded.sort_unstable();
            superseded
        };
        assert_eq!(superseded(&ledger), ["new", "old"]);
        ledger.record(&listed(&[("old", ImageClass::Cached), ("new", ImageClass::Cached)]), now());
        assert_eq!(superseded(&ledger), ["old"]);
        ledger.record(&listed(&[("new", ImageClass::Cached)]), now());
        assert!(superseded(&ledger).is_empty());
    }

    #[test]
    fn an_event_counts_at_its_own_time_and_never_turns_the_clock_back() {
        let past = ago("3d").unwrap();
        let mut ledger = Ledger::default();
        ledger.record(&used("a", ago("2d").unwrap()), ago("2d").unwrap());
        ledger.record(&used("a", past), now());
        ledger.record(&used("b", past), now());
        assert_eq!(ledger.images["a"].last_used, ago("2d"));
        assert_eq!(ledger.images["b"].last_used, Some(past));
    }

    #[test]
    fn only_an_image_that_was_seen_with_a_name_counts_as_dangling_since() {
        let mut ledger = Ledger::default();
        ledger.record(&listed(&[("a", ImageClass::Tagged), ("b", ImageClass::Dangling)]), ago("2d").unwrap());
        ledger
            .record(&listed(&[("a", ImageClass::Dangling), ("b", ImageClass::Dangling)]), ago("1d").unwrap());
        ledger.record(&listed(&[("a", ImageClass::Dangling), ("b", ImageClass::Dangling)]), now());
        assert_eq!(ledger.images["a"].dangling_since, ago("1d"));
        assert_eq!(ledger.images["b"].dangling_since, None);
        ledger.record(&listed(&[("a", ImageClass::Cached)]), now());
        assert_eq!(ledger.images["a"].dangling_since, None);
    }

    #[test]
    fn pressure_is_remembered_until_it_is_relieved_and_a_prune_is_owed_until_one_is_carried_out() {
        let mut ledger = Ledger::default();
        ledger.owe(["runs"], ago("3d").unwrap());
        ledger.owe(["runs", "converge"], ago("1d").unwrap());
        ledger.owe([], now());
        let pressure = ledger.pressure.clone().unwrap();
        assert_eq!((Some(pressure.since), pressure.owed_since), (ago("3d"), ago("3d")));
        assert_eq!(pressure.blocked, BTreeMap::from([("runs".into(), 2), ("converge".into(), 1)]));
        ledger.clear_owed(None, now());
        assert_eq!(ledger.pressure.clone().unwrap().owed_since, None);
        assert_eq!(ledger.pressure.clone().unwrap().since, pressure.since);
        ledger.clear_pressure();
        assert_eq!(ledger.pressure, None);
    }

    #[test]
    fn an_image_is_superseded_when_another_was_used_since_by_each_of_its_names() {
        /// An image's ID, by which name it was used, and how long ago.
        type Used = (&'static str, &'static str, &'static str);
        let table: [(&str, &[Used], &[&str]); 8] = [
            ("a new digest of a tag", &[("old", "db:1", "3d"), ("new", "db:1", "1d")], &["old"]),
            ("another tag", &[("old", "db:15", "3d"), ("new", "db:16", "1d")], &[]),
            ("a tag for each commit", &[("old", "app:c1", "3d"), ("new", "app:c2", "1d")], &[]),
            (
                "back to the old one",
                &[("old", "db:1", "3d"), ("new", "db:1", "2d"), ("old", "db:1", "1d")],
                &["new"],
            ),
            ("both at the same time", &[("old", "db:1", "1d"), ("new", "db:1", "1d")], &[]),
            (
                "still used by another name",
                &[("old", "db:1", "3d"), ("old", "db:1.2", "4d"), ("new", "db:1", "1d")],
                &[],
            ),
            (
                "replaced under both",
                &[("old", "db:1", "3d"), ("old", "db:2", "3d"), ("x", "db:1", "1d"), ("y", "db:2", "1d")],
                &["old"],
            ),
            ("three in a row", &[("a", "db:1", "3d"), ("b", "db:1", "2d"), ("c", "db:1", "1d")], &["a", "b"]),
        ];
        for (what, uses, expected) in table {
            let mut ledger = Ledger::default();
            ledger.record(&used("nameless", ago("9d").unwrap()), now());
            for (id, name_tag, used) in uses {
                ledger.record(&used_as(id, Some(name_tag), ago(used).unwrap()), now());
            }
            let mut superseded: Vec<_> = ledger.superseded().into_keys().collect();
            superseded.sort_unstable();
            assert_eq!(superseded, expected, "{what}");
        }
    }

    #[test]
    fn a_spec_tells_a_name_and_uses_nothing() {
        let mut ledger = Ledger::default();
        ledger.record(&used("old", ago("9d").unwrap()), now());
        let spec = ImageUse { image: "old".into(), name_tag: Some("db:1".into()), at: now(), began: None };
        ledger.record(&Observations { specs: vec![spec], ..Observations::default() }, now());
        assert_eq!(ledger.images["old"].last_used, ago("9d"));
        assert_eq!(ledger.images["old"].references["db:1"], now());
    }

    #[test]
    fn a_list_of_the_containerd_store_tells_by_which_name_an_image_was_pulled() {
        let list = |ids: &[&str]| {
            let listed = |id: &&str| Listed {
                id: (*id).to_owned(),
                class: ImageClass::Cached,
                name_tags: vec!["db:1".into()],
            };
            Observations { all: Some(ids.iter().map(listed).collect()), ..Observations::default() }
        };
        let mut ledger = Ledger::default();
        ledger.record(&list(&["old"]), ago("3d").unwrap());
        assert!(ledger.superseded().is_empty());
        ledger.record(&list(&["old", "new"]), ago("2d").unwrap());
        assert_eq!(ledger.superseded().get("old"), Some(&"db:1"));
        ledger.record(&used_as("old", Some("db:1"), now()), now());
        ledger.record(&list(&["old", "new"]), now());
        assert_eq!(ledger.superseded().into_keys().collect::<Vec<_>>(), ["new"]);
    }

    #[test]
    fn times_in_the_future_count_as_now() {
        let future: Time = "2999-01-01T00:00:00Z".parse().unwrap();
        let mut ledger = Ledger::default();
        ledger.record(&used_as("a", Some("app:1"), future), now());
        assert_eq!(ledger.images["a"].last_used_or_seen(), now());
        assert_eq!(ledger.images["a"].references["app:1"], now());
    }

    /// What the clocks show so many hours after now; each boot begins at zero.
    fn reading(wall: i64, boot: &str, since_boot: u64) -> Reading {
        let wall = now() + SignedDuration::from_hours(wall);
        let boot_id = Some(boot.to_owned()).filter(|boot| !boot.is_empty());
        Reading { wall, boot_id, since_boot: Some(Duration::from_secs(since_boot * 3_600)) }
    }

    #[test]
    fn a_figure_that_makes_no_sense_costs_itself_and_not_the_ledger() {
        let text = r#"{
            "images": {},
            "clock": {"time": "2026-11-20T12:00:00Z", "wall": "2026-11-20T12:00:00Z", "since_record_seconds": -1,
                      "boot_seconds": 1e300},
            "pressure": {"since": "2026-11-20T12:00:00Z",
                         "freed_nothing": {"at": "2026-11-20T12:00:00Z", "used_percent": 120, "used_bytes": 1}}
        }"#;
        let ledger: Ledger = serde_json::from_str(text).unwrap();
        let clock = ledger.clock.unwrap();
        assert_eq!((clock.since_record, clock.reading.since_boot), (Duration::ZERO, None));
        let pressure = ledger.pressure.unwrap();
        assert_eq!((pressure.since, pressure.freed_nothing), (now(), None));
    }

    #[test]
    fn ages_count_only_time_that_the_ledger_observed() {
        let day = 24;
        // How old is an image that was used at the first reading, in hours, at each of the next ones?
        let table: [(&str, &[(Reading, i64)]); 9] = [
            ("the boot has no ID, and the clock jumps", &[(reading(8 * day, "", 11), 1)]),
            ("the boot has no ID, and it is another", &[(reading(20, "", 2), 1), (reading(21, "", 3), 2)]),
            ("time goes on", &[(reading(1, "a", 11), 1), (reading(2, "a", 12), 2)]),
            ("the clock jumps ahead", &[(reading(8 * day, "a", 11), 1), (reading(8 * day + 1, "a", 12), 2)]),
            ("it is set back for a moment", &[(reading(-3 * day, "a", 11), 1), (reading(2, "a", 12), 2)]),
            ("it is not kept for a week", &[(reading(7 * day, "a", 7 * 24 + 10), 1)]),
            (
                "the host was off for a week",
                &[(reading(7 * day, "b", 0), 1), (reading(7 * day + 1, "b", 1), 2)],
            ),
            ("another boot, and a clock two days ahead", &[(reading(2 * day, "b", 0), 1)]),
            (
                "a boot with an earlier clock",
                &[(reading(-2 * day, "b", 0), 0), (reading(-2 * day + 1, "b", 1), 1)],
            ),
        ];
        for (what, readings) in table {
            let mut ledger = Ledger::default();
            ledger.advance(reading(0, "a", 10));
            ledger.record(&used("image", now()), now());
            for (reading, hours) in readings {
                ledger.advance(reading.clone());
                ledger.record(&Observations::default(), reading.wall);
                let age = elapsed(ledger.time(reading.wall), ledger.images["image"].last_used_or_seen());
                assert_eq!(age, Duration::from_secs(u64::try_from(*hours).unwrap() * 3_600), "{what}");
            }
        }
    }

    #[test]
    fn runs_that_note_nothing_let_no_more_than_one_gap_pass() {
        let mut ledger = Ledger::default();
        ledger.advance(reading(0, "a", 10));
        ledger.record(&used("image", now()), now());
        for day in 1..=7 {
            ledger.advance(reading(24 * day, "a", 10 + 24 * day.unsigned_abs()));
        }
        assert_eq!(elapsed(ledger.time(now()), now()), USUAL_GAP);
    }

    #[test]
    fn a_gap_counts_by_how_often_the_ledger_is_kept_and_never_makes_an_image_old() {
        const MINUTES: u64 = 60;
        const HOURS: u64 = 60 * MINUTES;
        const DAYS: u64 = 24 * HOURS;
        /// How often, the time to the next note, and whether the host is booted in between.
        type Notes = (usize, u64, bool);
        type Case = (&'static str, Option<u64>, &'static [Notes], &'static [u64]);
        // By how much each of the last gaps makes an image older that was used at the note before it.
        let table: [Case; 14] = [
            ("each five minutes", None, &[(50, 5 * MINUTES, false)], &[5 * MINUTES, 5 * MINUTES]),
            ("off for 60 hours", None, &[(50, 5 * MINUTES, false), (1, 60 * HOURS, true)], &[HOURS]),
            ("off for 60 hours after the first note", None, &[(1, 60 * HOURS, true)], &[HOURS]),
            ("off twice in the first notes", None, &[(2, 60 * HOURS, true)], &[HOURS, HOURS]),
            (
                "off for a weekend after the first note, then each five minutes, then off",
                None,
                &[(1, 60 * HOURS, true), (2, 5 * MINUTES, false), (1, 60 * HOURS, true)],
                &[5 * MINUTES, HOURS],
            ),
            ("daily, from the first", None, &[(4, DAYS, false)], &[HOURS, HOURS, 23 * HOURS, 23 * HOURS]),
            (
                "daily, and a weekend off",
                None,
                &[(9, DAYS, false), (1, 3 * DAYS, true), (1, DAYS, false)],
                &[23 * HOURS, 23 * HOURS, 23 * HOURS],
            ),
            ("daily, younger goes", Some(12 * HOURS), &[(9, DAYS, false)], &[11 * HOURS + 30 * MINUTES]),
            ("daily, only older goes", Some(7 * DAYS), &[(9, DAYS, false)], &[DAYS]),
            (
                "daily, only older goes, and two weeks off",
                Some(7 * DAYS),
                &[(9, DAYS, false), (1, 14 * DAYS, true)],
                &[2 * DAYS],
            ),
            (
                "a record timer that is dead",
                None,
                &[(50, 5 * MINUTES, false), (1, 7 * DAYS, false)],
                &[HOURS],
            ),
            (
                "a record timer that is dead, beside a daily prune",
                None,
                &[(50, 5 * MINUTES, false), (7, DAYS, false)],
                &[HOURS; 7],
            ),
            (
                "a record timer that was dead",
                None,
                &[(50, 5 * MINUTES, false), (7, DAYS, false), (1, 5 * MINUTES, false), (1, 60 * HOURS, true)],
                &[5 * MINUTES, HOURS],
            ),
            ("whatever is old", Some(0), &[(9, 5 * MINUTES, false), (1, DAYS, true)], &[10 * MINUTES]),
        ];
        for (what, older_than, notes, expected) in table {
            let mut ledger = Ledger { older_than: older_than.map(Duration::from_secs), ..Ledger::default() };
            let (mut wall, mut boot, mut since_boot) = (now(), 0, 600);
            let mut read = |after: u64, boots: bool| {
                wall += SignedDuration::try_from(Duration::from_secs(after)).unwrap();
                (boot, since_boot) = if boots { (boot + 1, 20) } else { (boot, since_boot + after) };
                Reading {
                    wall,
                    boot_id: Some(boot.to_string()),
                    since_boot: Some(Duration::from_secs(since_boot)),
                }
            };
            let mut counted = vec![];
            for (after, boots) in std::iter::once((0, false))
                .chain(notes.iter().flat_map(|&(n, after, boots)| std::iter::repeat_n((after, boots), n)))
            {
                let before = ledger.recorded;
                // A run that notes nothing, half the time before.
                ledger.advance(read(after / 2, false));
                let reading = read(after - after / 2, boots);
                ledger.advance(reading.clone());
                ledger.record(&used("image", reading.wall), reading.wall);
                counted.extend(before.map(|before| elapsed(ledger.recorded.unwrap(), before).as_secs()));
            }
            assert_eq!(counted[counted.len() - expected.len()..], *expected, "{what}: {counted:?}");
        }
    }

    #[test]
    fn a_daily_prune_that_notes_its_list_a_little_later_is_kept_daily() {
        const DAY: u64 = 86_400;
        let mut ledger = Ledger::default();
        let mut days = vec![];
        for day in 0..20 {
            let before = ledger.recorded;
            let began = now() + SignedDuration::from_hours(24 * day);
            let seen = Observations { until: Some(began), ..Observations::default() };
            // The second time with the list of images, which took half a minute.
            for after in [0, 30] {
                let since_boot = Duration::from_secs(day.unsigned_abs() * DAY + after);
                let wall = began + SignedDuration::try_from(Duration::from_secs(after)).unwrap();
                ledger.advance(Reading { wall, boot_id: Some("a".into()), since_boot: Some(since_boot) });
                ledger.record(&seen, wall);
            }
            days.extend(before.map(|before| elapsed(ledger.recorded.unwrap(), before).as_secs()));
        }
        assert_eq!(days.pop(), Some(23 * 3_600));
    }

    #[test]
    fn what_happened_by_the_wall_clock_is_no_older_than_the_ledger_observed() {
        type Case<'a> = (&'a str, &'a [Reading], &'a [(i64, i64)]);
        // What happened so many hours after the first note by the wall clock, and how long ago that is after these notes,
        // before the last one is made and once it is.
        let table: [Case; 7] = [
            ("the first note", &[], &[(-48, 48), (-1, 1), (0, 0)]),
            ("an hour later", &[reading(1, "a", 11)], &[(-48, 49), (-1, 2), (0, 1), (1, 0)]),
            ("the clock is two days ahead", &[reading(48, "a", 11)], &[(-24, 25), (0, 1), (1, 0), (47, 0)]),
            ("the host was off for 60 hours", &[reading(60, "b", 0)], &[(-24, 25), (0, 1), (59, 0)]),
            (
                "it was off, and is on for two hours",
                &[reading(60, "b", 0), reading(61, "b", 1), reading(62, "b", 2)],
                &[(-24, 27), (0, 3), (1, 2), (59, 2), (60, 2), (61, 1)],
            ),
            (
                "the clock was ahead and is right again",
                &[reading(48, "a", 11), reading(2, "a", 12), reading(3, "a", 13)],
                &[(-24, 27), (0, 3), (2, 1), (3, 0)],
            ),
            (
                "off twice, and the second time counts for two hours",
                &[reading(60, "b", 0), reading(61, "b", 1), reading(121, "c", 0)],
                &[(-24, 28), (0, 4), (60, 3), (61, 2), (100, 0)],
            ),
        ];
        for (what, notes, expected) in table {
            let mut ledger = Ledger::default();
            ledger.advance(reading(0, "a", 10));
            ledger.record(&Observations::default(), now());
            for (n, note) in notes.iter().enumerate() {
                ledger.advance(note.clone());
                if n + 1 < notes.len() {
                    ledger.record(&Observations::default(), note.wall);
                }
            }
            let wall = notes.last().map_or(now(), |note| note.wall);
            for recorded in [false, true] {
                for (at, hours) in expected {
                    let age = ledger.age(now() + SignedDuration::from_hours(*at), wall);
                    let expected = Duration::from_secs(u64::try_from(*hours).unwrap() * 3_600);
                    assert_eq!(age, expected, "{what}: {at} h, last note made: {recorded}");
                }
                ledger.record(&Observations::default(), wall);
            }
        }
        let ledger = Ledger::default();
        assert_eq!(
            ledger.age(ago("2d").unwrap(), now()),
            Duration::from_secs(2 * 86_400),
            "nothing is known"
        );
    }

    #[test]
    fn no_more_jumps_are_remembered_than_are_needed() {
        let mut ledger = Ledger::default();
        for night in 0..200 {
            ledger.advance(reading(24 * night, &night.to_string(), 0));
            ledger.record(&Observations::default(), now());
        }
        assert_eq!(ledger.jumps.len(), MAX_JUMPS);
        assert_eq!(ledger.jumps.last().unwrap().time, ledger.recorded.unwrap());
    }

    #[test]
    fn an_event_from_before_a_jump_of_the_clock_is_no_older_than_the_last_note() {
        let mut ledger = Ledger::default();
        ledger.advance(reading(0, "a", 10));
        ledger.record(&Observations::default(), now());
        let jumped = reading(8 * 24, "a", 11);
        ledger.advance(jumped.clone());
        ledger.record(&used("image", now()), jumped.wall);
        assert_eq!(ledger.images["image"].last_used, Some(now()));
    }
}
