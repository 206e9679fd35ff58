//! What this host remembers of each image: when it was first seen, and when it was last in use.

use std::collections::{BTreeMap, HashSet};

use crate::facts::{Image, ImageClass};
use crate::units::Time;

/// Keyed by image ID.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ledger {
    /// When images were last noted: the engine's events since then are still to be replayed.
    pub noted: Option<Time>,
    pub images: BTreeMap<String, Entry>,
    /// Present while the disk is under pressure.
    pub pressure: Option<Pressure>,
}

/// Pressure that lasts, and what kept prunes away meanwhile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pressure {
    pub since: Time,
    /// How often each gate held a prune back.
    pub held_back: BTreeMap<String, u64>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub first_seen: Time,
    /// Last time that a container used it.
    pub last_used: Option<Time>,
    /// Was it ever seen with a tag or digest?
    pub named: bool,
    /// When an image that had a name was first seen without one.
    pub orphan_since: Option<Time>,
}

/// What one look at the engine showed.
#[derive(Debug, Clone, Default)]
pub struct Sightings {
    /// IDs of images that a container uses now.
    pub in_use: HashSet<String>,
    /// IDs of images that a container used at this time, by the engine's events.
    pub used: Vec<(String, Time)>,
    /// Up to when events were replayed, by the engine's clock.
    pub until: Option<Time>,
    /// Every image that the engine has, where that was asked.
    pub all: Option<Vec<(String, ImageClass)>>,
}

impl Sightings {
    pub fn list(&mut self, images: &[Image]) {
        self.all = Some(images.iter().map(|image| (image.id.clone(), image.class())).collect());
    }
}

impl Entry {
    fn new(now: Time) -> Self {
        Self { first_seen: now, last_used: None, named: false, orphan_since: None }
    }

    /// What a cached image's age is measured from.
    pub fn last_needed(&self) -> Time {
        self.last_used.map_or(self.first_seen, |used| used.max(self.first_seen))
    }
}

impl Ledger {
    /// Take note of what was seen at `now`. An image that was never seen before counts as first
    /// seen now; images that are gone are dropped where every image was listed. Times in the future
    /// (the clock was set back) count as now.
    pub fn note(&mut self, seen: &Sightings, now: Time) {
        self.clamp(now);
        if let Some(all) = &seen.all {
            let there: HashSet<&str> = all.iter().map(|(id, _)| id.as_str()).collect();
            self.images.retain(|id, _| there.contains(id.as_str()));
            for (id, class) in all {
                let entry = self.images.entry(id.clone()).or_insert_with(|| Entry::new(now));
                if *class != ImageClass::Orphan {
                    entry.named = true;
                    entry.orphan_since = None;
                } else if entry.named {
                    entry.orphan_since.get_or_insert(now);
                }
            }
        }
        let uses = seen.in_use.iter().map(|id| (id, now));
        for (id, at) in uses.chain(seen.used.iter().map(|(id, at)| (id, *at))) {
            let entry = self.images.entry(id.clone()).or_insert_with(|| Entry::new(now));
            entry.last_used = entry.last_used.max(Some(at.min(now)));
        }
        self.noted = Some(seen.until.unwrap_or(now).min(now));
    }

    /// Drop images that were just removed.
    pub fn forget<'a>(&mut self, ids: impl IntoIterator<Item = &'a str>) {
        for id in ids {
            self.images.remove(id);
        }
    }

    /// A prune found the disk under pressure; these gates, if any, held it back.
    pub fn pressed<'a>(&mut self, held_back_by: impl IntoIterator<Item = &'a str>, now: Time) {
        let pressure =
            self.pressure.get_or_insert_with(|| Pressure { since: now, held_back: BTreeMap::new() });
        for gate in held_back_by {
            *pressure.held_back.entry(gate.to_owned()).or_default() += 1;
        }
    }

    /// The disk is not under pressure (any more).
    pub fn eased(&mut self) {
        self.pressure = None;
    }

    fn clamp(&mut self, now: Time) {
        if let Some(pressure) = &mut self.pressure {
            pressure.since = pressure.since.min(now);
        }
        self.noted = self.noted.map(|at| at.min(now));
        for entry in self.images.values_mut() {
            entry.first_seen = entry.first_seen.min(now);
            entry.last_used = entry.last_used.map(|at| at.min(now));
            entry.orphan_since = entry.orphan_since.map(|at| at.min(now));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{ago, now};

    fn listed(images: &[(&str, ImageClass)]) -> Sightings {
        let all = images.iter().map(|&(id, class)| (id.to_owned(), class)).collect();
        Sightings { all: Some(all), ..Sightings::default() }
    }

    fn used(id: &str) -> Sightings {
        Sightings { in_use: HashSet::from([id.to_owned()]), ..Sightings::default() }
    }

    #[test]
    fn an_unknown_image_counts_as_seen_now() {
        let mut ledger = Ledger::default();
        ledger.note(&listed(&[("a", ImageClass::Cached)]), now());
        assert_eq!(ledger.images["a"].last_needed(), now());
    }

    #[test]
    fn use_is_remembered_and_gone_images_are_dropped() {
        let (past, later) = (ago("3d").unwrap(), ago("1d").unwrap());
        let mut ledger = Ledger::default();
        ledger.note(&used("a"), past);
        ledger.note(&listed(&[("a", ImageClass::Cached), ("b", ImageClass::Tagged)]), later);
        assert_eq!(ledger.images["a"].last_needed(), past);
        ledger.note(&listed(&[("b", ImageClass::Tagged)]), now());
        assert_eq!(ledger.images.keys().collect::<Vec<_>>(), ["b"]);
        ledger.forget(["b"]);
        assert!(ledger.images.is_empty());
    }

    #[test]
    fn an_event_counts_at_its_own_time_and_never_turns_the_clock_back() {
        let past = ago("3d").unwrap();
        let mut ledger = Ledger::default();
        ledger.note(&used("a"), ago("2d").unwrap());
        let event = Sightings { used: vec![("a".into(), past), ("b".into(), past)], ..Sightings::default() };
        ledger.note(&event, now());
        assert_eq!(ledger.images["a"].last_used, ago("2d"));
        assert_eq!(ledger.images["b"].last_used, Some(past));
    }

    #[test]
    fn only_an_image_that_was_seen_with_a_name_becomes_an_orphan() {
        let mut ledger = Ledger::default();
        ledger.note(&listed(&[("a", ImageClass::Tagged), ("b", ImageClass::Orphan)]), ago("2d").unwrap());
        ledger.note(&listed(&[("a", ImageClass::Orphan), ("b", ImageClass::Orphan)]), ago("1d").unwrap());
        ledger.note(&listed(&[("a", ImageClass::Orphan), ("b", ImageClass::Orphan)]), now());
        assert_eq!(ledger.images["a"].orphan_since, ago("1d"));
        assert_eq!(ledger.images["b"].orphan_since, None);
        ledger.note(&listed(&[("a", ImageClass::Cached)]), now());
        assert_eq!(ledger.images["a"].orphan_since, None);
    }

    #[test]
    fn pressure_is_remembered_until_it_eases() {
        let mut ledger = Ledger::default();
        ledger.pressed(["runs"], ago("3d").unwrap());
        ledger.pressed(["runs", "converge"], ago("1d").unwrap());
        ledger.pressed([], now());
        let pressure = ledger.pressure.clone().unwrap();
        assert_eq!(Some(pressure.since), ago("3d"));
        assert_eq!(pressure.held_back, BTreeMap::from([("runs".into(), 2), ("converge".into(), 1)]));
        ledger.eased();
        assert_eq!(ledger.pressure, None);
    }

    #[test]
    fn times_in_the_future_count_as_now() {
        let future: Time = "2999-01-01T00:00:00Z".parse().unwrap();
        let mut ledger = Ledger::default();
        ledger.note(&used("a"), future);
        ledger.note(&Sightings::default(), now());
        assert_eq!(ledger.images["a"].last_needed(), now());
        assert_eq!(ledger.noted, Some(now()));
    }
}
