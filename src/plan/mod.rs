//! What to remove and what to keep, each with its reason: decided here and nowhere else.

pub mod containers;
pub mod explain;
pub mod images;
#[cfg(test)]
mod properties;
mod sharing;

use std::collections::HashMap;
use std::time::Duration;

use regex::Regex;

use crate::facts::{Container, Image, ImageClass, Inventory, Kind, Labels, Limit, Object, Unread, Usage};
use crate::ledger::{Expectation, Ledger};
use crate::units::{Percent, Time, elapsed};

/// What may be removed, and from which age and disk usage.
#[derive(Debug, Clone)]
pub struct Policy {
    /// Minimum age of what is removed, but for cached images on a critical disk.
    pub older_than: Duration,
    pub critical_age: Duration,
    pub target: Limit,
    pub threshold: Limit,
    pub critical: Limit,
    /// From here on younger images go too: at critical, or earlier, where runs need more room than that leaves.
    pub young_from: Limit,
    /// Where their evictions end.
    pub critical_target: Limit,
    /// Labels that protect their containers and images.
    pub keep_labels: Vec<KeepLabel>,
    /// An image whose every tag matches one of these is treated as a cached image.
    pub evict_tagged: Vec<Regex>,
    /// Matches the names of the Compose projects of runs.
    pub runs: Regex,
}

/// A label that protects, with any value or with this one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeepLabel {
    pub key: String,
    /// `None`: any.
    pub value: Option<String>,
}

impl std::str::FromStr for KeepLabel {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (key, value) = match text.split_once('=') {
            Some((key, value)) => (key, Some(value.to_owned())),
            None => (text, None),
        };
        if key.is_empty() || key.chars().any(|c| c.is_whitespace() || c.is_control()) {
            return Err("expected KEY or KEY=VALUE, with a key that has no blanks".into());
        }
        Ok(Self { key: key.to_owned(), value })
    }
}

impl std::fmt::Display for KeepLabel {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        f.write_str(&self.key)?;
        self.value.as_ref().map_or(Ok(()), |value| write!(f, "={value}"))
    }
}

impl KeepLabel {
    fn protects(&self, labels: &Labels) -> bool {
        labels.get(&self.key).is_some_and(|value| self.value.as_ref().is_none_or(|wanted| wanted == value))
    }
}

/// Percentage points that are left for runs, at most: the kubelet begins at 85 % too.
const MAX_ROOM: u8 = 15;
/// Percentage points that a prune makes below where it begins for that room: with fewer it begins more often, and on a host
/// that is never idle runs wait for each; with more it evicts what is needed again.
const ROOM_MADE: u8 = 3;

impl Policy {
    /// How full the disk must still be for the cached images of a rung to go.
    pub fn limit(&self, rung: Rung) -> Limit {
        match rung {
            Rung::Target => self.target,
            Rung::Critical => self.critical_target,
        }
    }

    /// How full the disk must be for evictions of a rung to begin.
    fn begins(&self, rung: Rung) -> Limit {
        match rung {
            Rung::Target => self.threshold,
            Rung::Critical => self.young_from,
        }
    }

    /// With room for two of what runs were seen to add, in percentage points, before a prune had its turn.
    pub fn with_room(&self, growth: u8) -> Self {
        let least = Percent::FULL.minus(MAX_ROOM).max(self.threshold.percent);
        let from = Percent::FULL.minus(growth.saturating_mul(2)).max(least).min(self.critical.percent);
        let mut policy = self.clone();
        policy.young_from.percent = from;
        policy.critical_target.percent = self.critical_target.percent.min(from.minus(ROOM_MADE));
        policy
    }

    /// Beside live runs: no evictions below critical.
    pub fn beside_runs(&self) -> Self {
        let critical = self.critical;
        let (target, threshold, young_from, critical_target) = (critical, critical, critical, critical);
        Self { target, threshold, young_from, critical_target, ..self.clone() }
    }

    /// The label among these that protects its object.
    fn kept_by(&self, labels: &Labels) -> Option<&KeepLabel> {
        self.keep_labels.iter().find(|label| label.protects(labels))
    }
}

/// The kinds in the order of a plan: first what needs no list of images; cached images, which may be needed again,
/// last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Turn {
    Containers,
    /// Before the cached images: what it frees need not be evicted.
    BuildCache,
    DanglingImages,
    /// Tagged ones too, where `evict_tagged` names them.
    CachedImages,
}

impl Turn {
    pub fn of(kind: Kind) -> Self {
        match kind {
            Kind::Container => Self::Containers,
            Kind::BuildCache => Self::BuildCache,
            Kind::Image(ImageClass::Dangling) => Self::DanglingImages,
            Kind::Image(ImageClass::Cached | ImageClass::Tagged) => Self::CachedImages,
        }
    }
}

/// A rung of eviction: on a critical disk more recently used images go, when those of the first rung are used up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rung {
    /// From the threshold down to the target.
    Target,
    Critical,
}

/// How long a cached image has been unused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LastUse {
    Used(Duration),
    NeverUsed(Duration),
}

impl LastUse {
    pub fn ago(self) -> Duration {
        match self {
            Self::Used(ago) | Self::NeverUsed(ago) => ago,
        }
    }
}

/// Why a cached image may be evicted, and at which usage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Eviction {
    pub rung: Rung,
    /// The rung begins only where the disk is at or above this.
    pub begins: Limit,
    /// It goes only while the disk is at or above this.
    pub limit: Limit,
    pub last_use: LastUse,
    pub expected: Expectation,
}

impl Eviction {
    /// How full the disk must be for this one to go. `last`: the rung of the one that went before; those of the rungs
    /// before may have made the room.
    pub fn needs(&self, last: Option<Rung>) -> Limit {
        if self.rung == Rung::Critical && last != Some(self.rung) { self.begins } else { self.limit }
    }
}

/// What a cached image that stays needs to be evicted: a time since its last use, and a usage of the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Condition {
    pub unused_for: Duration,
    /// Where evictions of this rung begin: of the first rung at the threshold.
    pub begins: Limit,
    pub limit: Limit,
}

/// The condition whose time has come, so that only the disk is not full enough.
pub fn satisfied(conditions: &[Condition], last_use: LastUse) -> Option<&Condition> {
    conditions.iter().find(|condition| last_use.ago() >= condition.unused_for)
}

/// A decision to remove, with all that its execution needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Removal {
    pub object: Object,
    /// Bytes that its removal frees once all planned before it are gone; absent where that is not known: of a container,
    /// and of an image whose layers the engine did not tell.
    pub frees: Option<u64>,
    /// When a container ended; it is left alone if it ran again since.
    pub finished: Option<Time>,
    pub reason: RemovalReason,
}

impl Removal {
    pub fn turn(&self) -> Turn {
        Turn::of(self.object.kind)
    }

    /// Bytes that its removal frees; at most, if that is not known.
    pub fn freed(&self) -> u64 {
        self.frees.unwrap_or(self.object.size)
    }

    /// The tags that are removed with an image that `evict_tagged` matches.
    pub fn tags(&self) -> &[String] {
        if self.object.kind == Kind::Image(ImageClass::Tagged) { &self.object.names } else { &[] }
    }

    fn is_stuck(&self, ledger: &Ledger) -> bool {
        ledger.stuck.as_ref() == Some(&self.object.id)
    }
}

/// Why something goes, with the age that decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RemovalReason {
    Finished(Duration),
    NeverStarted(Duration),
    Unnamed {
        /// Since the latest of its build, its last tag, its last use, and when it was first seen without a name.
        age: Duration,
        /// Untagged parents of a classic build that are removed with it, at most: those that no other image needs.
        parents: usize,
    },
    Evicted(Eviction),
    /// An eviction that was interrupted has taken all of its names: no deploy can find it.
    Interrupted,
    /// Records of the build cache that were not used for long enough.
    StaleCache {
        records: usize,
        older_than: Duration,
    },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    pub object: Object,
    pub reason: KeepReason,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeepReason {
    Live(&'static str),
    Label(KeepLabel),
    /// The container belongs to a task of this service.
    TaskOf(String),
    /// The container belongs to this Compose project, which is no run, or has a running container.
    ComposeProject(String),
    /// The engine starts the container again, by this restart policy.
    RestartPolicy(String),
    /// The container is that of this BuildKit builder, whose volume is there.
    Builder(String),
    TooYoung(Duration, Duration),
    AgeUnknown,
    /// The engine did not answer a question about it.
    Unread,
    /// The image has a `name:tag`, and no consent to evict it.
    Tagged,
    UsedBy(String),
    NamedBy(String),
    /// The service's previous spec names the image: a rollback needs it.
    RollbackOf(String),
    /// A cached image that may go under other conditions.
    Cached {
        last_use: LastUse,
        expected: Expectation,
        conditions: Vec<Condition>,
    },
    /// Cached, and the usage of the disk is not known.
    DiskUnknown,
    /// Cached, and images that stay have its layers: its removal would free next to nothing.
    SharesLayers(LastUse),
    /// Cached, and evictions freed nothing this long ago.
    EvictionUseless(Duration),
    /// The engine refused, so long ago, to remove it although it had no name any more.
    Refused(Duration),
}

/// What a prune would do and why everything else stays.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    pub remove: Vec<Removal>,
    pub keep: Vec<Kept>,
    /// Images that stay, and of which an interrupted eviction has left something to undo.
    pub leftovers: Vec<Leftover>,
    pub unread: Vec<Unread>,
    /// Bytes of stale build cache that stay because the containerd store counts every step on a base image that is there as
    /// shared, so that a prune without `all` never takes them (observed on 28.5 and 29.7).
    pub shared_cache: u64,
}

/// What an interrupted eviction left on an image that stays.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leftover {
    pub id: String,
    /// The `name:tag`s that the eviction took off, to be given back where no image has them.
    pub lost_tags: Vec<String>,
    /// Our tag, to be removed once the image has another name.
    pub eviction_tag: Option<String>,
}

/// Decide what to remove and what to keep. The plan has every object of the inventory once. `usage` is that of the
/// filesystem that holds the images, where it could be measured.
pub fn build(
    inventory: &Inventory,
    ledger: &Ledger,
    policy: &Policy,
    usage: Option<&Usage>,
    now: Time,
) -> Plan {
    let mut plan = Plan { unread: inventory.unread.clone(), ..Plan::default() };
    containers::decide(inventory, ledger, policy, now, &mut plan);
    images::decide(inventory, ledger, policy, usage, now, &mut plan);
    build_cache(inventory, ledger, policy, now, &mut plan);
    // An object on which the last prune gave up must not block all others each day.
    let last = plan.stuck(ledger).map(Removal::turn);
    plan.remove
        .sort_by_key(|removal| (last == Some(removal.turn()), removal.turn(), removal.is_stuck(ledger)));
    plan
}

impl Plan {
    /// What the last run gave up, if it is to go now.
    fn stuck(&self, ledger: &Ledger) -> Option<&Removal> {
        self.remove.iter().find(|removal| removal.is_stuck(ledger))
    }

    /// The removals that need no list of images: containers and build cache, unless the last prune gave up on one
    /// of that kind.
    pub fn before_images(&self, ledger: &Ledger) -> Vec<Removal> {
        let last = self.stuck(ledger).map(Removal::turn);
        let first = |removal: &&Removal| removal.turn() <= Turn::BuildCache && last != Some(removal.turn());
        self.remove.iter().take_while(first).cloned().collect()
    }
}

/// How full the filesystem that holds the images would be after the plan, and whether all that it frees is known.
/// If not, sizes of the engine's list are used; the disk may end fuller, because images share layers.
pub fn projected(plan: &Plan, usage: &Usage) -> (Usage, bool) {
    let mut usage = usage.clone();
    let (mut is_known, mut last) = (true, None);
    for removal in &plan.remove {
        if let RemovalReason::Evicted(eviction) = &removal.reason {
            if !eviction.needs(last).is_reached(&usage) {
                continue;
            }
            last = Some(eviction.rung);
        }
        is_known &= removal.frees.is_some() || removal.object.kind == Kind::Container;
        let filesystem = &mut usage.filesystem;
        let freed = removal.freed().min(filesystem.used);
        filesystem.used -= freed;
        filesystem.available = filesystem.available.saturating_add(freed);
        usage.percent = filesystem.percent().unwrap_or(usage.percent);
    }
    (usage, is_known)
}

/// BuildKit uses the wall clock: time that the ledger did not observe is added to the minimum age.
fn build_cache(inventory: &Inventory, ledger: &Ledger, policy: &Policy, now: Time, plan: &mut Plan) {
    let stale = |shared: bool| {
        inventory.build_cache.iter().filter(move |record| {
            let idle = record.last_used.is_some_and(|used| ledger.age(used, now) >= policy.older_than);
            idle && !record.in_use && record.shared == shared && !record.internal
        })
    };
    let size = |shared| stale(shared).fold(0_u64, |sum, record| sum.saturating_add(record.size));
    if inventory.containerd_store {
        plan.shared_cache = size(true);
    }
    let unobserved = |used: Time| elapsed(now, used).saturating_sub(ledger.age(used, now));
    let youngest = stale(false).filter_map(|record| record.last_used).max();
    if let Some(youngest) = youngest {
        let (records, size) = (stale(false).count(), size(false));
        let older_than = policy.older_than.saturating_add(unobserved(youngest));
        plan.remove.push(Removal {
            object: Object { kind: Kind::BuildCache, id: String::new(), names: vec![], size },
            frees: Some(size),
            finished: None,
            reason: RemovalReason::StaleCache { records, older_than },
        });
    }
}

struct Users<'a> {
    by_image: HashMap<&'a str, &'a str>,
    /// Containers that mount images, by each reference.
    mounting: Vec<(&'a str, &'a str)>,
}

impl<'a> Users<'a> {
    fn new(containers: &'a [Container]) -> Self {
        let mut users = Self { by_image: HashMap::new(), mounting: vec![] };
        for container in containers {
            let name = container.names.first().unwrap_or(&container.id).as_str();
            users.by_image.entry(container.image_id.as_str()).or_insert(name);
            users.mounting.extend(container.mounted_images.iter().map(|image| (image.as_str(), name)));
        }
        users
    }

    fn of(&self, image: &Image) -> Option<&'a str> {
        let mounting = || self.mounting.iter().find(|(reference, _)| image.is_named(reference));
        self.by_image.get(image.id.as_str()).copied().or_else(|| Some(mounting()?.1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::{CacheRecord, Unavailable};
    use crate::testing::{ago, labels, now};

    #[test]
    fn keep_labels_match_by_key_or_by_key_and_value() {
        let table = [
            ("keep", "keep", "", true),
            ("keep", "keep", "no", true),
            ("keep=yes", "keep", "yes", true),
            ("keep=yes", "keep", "no", false),
            ("keep=", "keep", "", true),
            ("keep", "keeper", "", false),
        ];
        for (text, key, value, expected) in table {
            let label: KeepLabel = text.parse().unwrap();
            assert_eq!(label.protects(&labels(&[(key, value)])), expected, "{text} on {key}={value}");
        }
        for text in ["", "=x", "a b", "a\n=x"] {
            assert!(text.parse::<KeepLabel>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_projection_goes_no_further_than_the_limits_ask() {
        let removal = |size, percent: Option<&str>| {
            let limit = |percent: &str| Limit { percent: percent.parse().unwrap(), min_free: None };
            let age = Duration::ZERO;
            let evicted = |percent| Eviction {
                rung: Rung::Target,
                begins: limit(percent),
                limit: limit(percent),
                expected: Expectation::Overdue(None),
                last_use: LastUse::Used(age),
            };
            Removal {
                object: Object { size, ..crate::testing::object(crate::testing::DANGLING, "") },
                reason: percent.map_or(RemovalReason::Unnamed { age, parents: 0 }, |value| {
                    RemovalReason::Evicted(evicted(value))
                }),
                ..crate::testing::removal(crate::testing::DANGLING, "")
            }
        };
        let remove = vec![
            removal(50, None),
            removal(60, Some("70")),
            removal(60, Some("70")),
            removal(10, Some("70")),
            removal(10, Some("80")),
        ];
        let plan = Plan { remove, ..Plan::default() };
        let end = |percent| projected(&plan, &crate::testing::usage(percent)).0.percent.get();
        // 85: 80 without what goes anyway, then 74, 68, and below 70 no more.
        assert_eq!((end(85), end(60), end(3)), (68, 55, 0));
        // What is freed is known where it is known of each.
        let known = |removals: &[(Kind, Option<u64>)]| {
            let remove = removals.iter().map(|(kind, frees)| Removal {
                object: Object { kind: *kind, ..removal(50, None).object },
                frees: *frees,
                ..removal(50, None)
            });
            let plan = Plan { remove: remove.collect(), ..Plan::default() };
            let (usage, known) = projected(&plan, &crate::testing::usage(50));
            (usage.percent.get(), known)
        };
        assert_eq!(known(&[]), (50, true));
        assert_eq!(known(&[(crate::testing::DANGLING, Some(10)), (Kind::Container, None)]), (44, true));
        assert_eq!(
            known(&[(crate::testing::DANGLING, Some(10)), (crate::testing::DANGLING, None)]),
            (44, false)
        );
    }

    #[test]
    fn younger_images_go_earlier_where_runs_need_more_room() {
        for (growth, threshold, critical, expected) in [
            (0, "80", "95", (95, 90)),
            (2, "80", "95", (95, 90)),
            (4, "80", "95", (92, 89)),
            (6, "80", "95", (88, 85)),
            (8, "80", "95", (85, 82)),
            (200, "80", "95", (85, 82)),
            (200, "90", "95", (90, 87)),
            (200, "60", "70", (70, 65)),
            (1, "80", "100", (98, 95)),
        ] {
            let percent = |text: &str| text.parse::<Percent>().unwrap();
            let mut policy = crate::testing::policy();
            policy.threshold.percent = percent(threshold);
            policy.critical.percent = percent(critical);
            policy.critical_target.percent = percent(critical).minus(5);
            let policy = policy.with_room(growth);
            let found = (policy.begins(Rung::Critical), policy.limit(Rung::Critical));
            assert_eq!((found.0.percent.get(), found.1.percent.get()), expected, "{growth} {threshold}");
        }
    }

    /// Two containers that ended, two dangling images and build cache, all old.
    fn full_inventory() -> (Inventory, Ledger) {
        use crate::facts::ContainerState;
        let ended = |id: &str| Container {
            id: id.into(),
            state: ContainerState::Exited,
            finished: ago("9d"),
            ..crate::testing::container()
        };
        let dangling = |id: &str| Image { digests: vec![], ..crate::testing::image(id) };
        let entry = |id: &str| (format!("sha256:{id}"), crate::ledger::Entry::new(ago("9d").unwrap()));
        let record =
            CacheRecord { size: 10, in_use: false, shared: false, internal: false, last_used: ago("9d") };
        let inventory = Inventory {
            containers: vec![ended("c1"), ended("c2")],
            images: vec![dangling("a"), dangling("b")],
            build_cache: vec![record],
            ..Inventory::default()
        };
        let ledger = Ledger { images: ["a", "b"].map(entry).into(), ..Ledger::default() };
        (inventory, ledger)
    }

    #[test]
    fn what_the_last_run_gave_up_goes_last_and_so_does_its_kind() {
        let (inventory, mut ledger) = full_inventory();
        let usage = crate::testing::usage(85);
        for (stuck, order, first) in [
            (None, "c1 c2  sha256:a sha256:b", 3),
            (Some("c1"), " sha256:a sha256:b c2 c1", 1),
            (Some("sha256:a"), "c1 c2  sha256:b sha256:a", 3),
            // The build cache has no ID.
            (Some(""), "c1 c2 sha256:a sha256:b ", 2),
            (Some("gone"), "c1 c2  sha256:a sha256:b", 3),
        ] {
            ledger.stuck = stuck.map(str::to_owned);
            let plan = build(&inventory, &ledger, &crate::testing::policy(), Some(&usage), now());
            let ids: Vec<_> = plan.remove.iter().map(|removal| removal.object.id.as_str()).collect();
            assert_eq!(ids.join(" "), order, "{stuck:?}");
            assert_eq!(plan.before_images(&ledger).len(), first, "{stuck:?}");
        }
    }

    #[test]
    fn before_the_images_are_listed_no_object_of_the_stuck_kind_goes() {
        let (inventory, mut ledger) = full_inventory();
        let unlisted = Inventory { images: vec![], ..inventory };
        ledger.stuck = Some("c1".into());
        let plan = build(&unlisted, &ledger, &crate::testing::policy(), None, now());
        let first: Vec<_> = plan.before_images(&ledger).iter().map(|removal| removal.object.kind).collect();
        assert_eq!(first, [Kind::BuildCache]);
    }

    #[test]
    fn the_youngest_record_tells_how_much_time_off_counts() {
        use crate::ledger::{Observations, Reading};
        let hours = |n: i64| now() + jiff::SignedDuration::from_hours(n);
        let reading = |n, boot: &str, since_boot: u64| Reading {
            wall: hours(n),
            boot_id: Some(boot.into()),
            since_boot: Some(Duration::from_secs(3_600 * since_boot)),
        };
        let mut ledger = Ledger::default();
        // Kept hourly for two days, off for 60 hours, and kept for another two days.
        for (n, boot, since_boot) in (0..48).map(|n| (n, "a", n)).chain((0..48).map(|n| (n + 108, "b", n))) {
            ledger.advance(reading(n, boot, since_boot.unsigned_abs()));
            ledger.record(&Observations::default(), hours(n));
        }
        let record = |at: i64| CacheRecord {
            size: 10,
            in_use: false,
            shared: false,
            internal: false,
            last_used: Some(hours(at)),
        };
        let inventory = Inventory { build_cache: vec![record(10), record(120)], ..Inventory::default() };
        let mut plan = Plan::default();
        super::build_cache(&inventory, &ledger, &crate::testing::policy(), hours(155), &mut plan);
        let RemovalReason::StaleCache { records, older_than } = plan.remove[0].reason else {
            panic!("{plan:?}")
        };
        assert_eq!((records, older_than), (2, Duration::from_secs(86_400)));
    }

    #[test]
    fn a_removal_is_called_by_its_first_name_and_frees_at_most_its_size() {
        let (inventory, ledger) = full_inventory();
        let plan = build(&inventory, &ledger, &crate::testing::policy(), None, now());
        assert_eq!((plan.remove[0].object.label(), plan.remove[3].object.label()), ("plain", "sha256:a"));
        let object = Object { size: 7, ..plan.remove[3].object.clone() };
        let freed = |frees| Removal { frees, object: object.clone(), ..plan.remove[3].clone() }.freed();
        assert_eq!((freed(None), freed(Some(3))), (7, 3));
        assert!(plan.keep.is_empty() && plan.shared_cache == 0);
        let unread = vec![Unread { kind: Kind::BuildCache, id: String::new(), why: Unavailable("x".into()) }];
        let unlisted = Inventory { unread: unread.clone(), ..Inventory::default() };
        assert_eq!(build(&unlisted, &ledger, &crate::testing::policy(), None, now()).unread, unread);
        assert!(plan.remove.iter().map(|removal| removal.object.kind.name()).eq([
            "container",
            "container",
            "build-cache",
            "dangling",
            "dangling"
        ]));
    }

    #[test]
    fn a_host_that_was_off_makes_no_build_cache_old() {
        use crate::ledger::{Observations, Reading};
        let record = |used: &str| CacheRecord {
            size: 10,
            in_use: false,
            shared: false,
            internal: false,
            last_used: ago(used),
        };
        let reading = |wall, boot: &str| Reading {
            wall,
            boot_id: Some(boot.into()),
            since_boot: Some(Duration::from_secs(1_000)),
        };
        let mut ledger = Ledger::default();
        ledger.advance(reading(now(), "a"));
        ledger.record(&Observations::default(), now());
        let later = now() + jiff::SignedDuration::from_hours(60);
        ledger.advance(reading(later, "b"));
        let planned = |used: &[&str]| {
            let build_cache = used.iter().map(|used| record(used)).collect();
            let inventory = Inventory { build_cache, ..Inventory::default() };
            let mut plan = Plan::default();
            super::build_cache(&inventory, &ledger, &crate::testing::policy(), later, &mut plan);
            plan.remove.pop().map(|removal| removal.reason)
        };
        assert_eq!(planned(&["5m", "22h"]), None);
        // Off for 60 hours, of which one counts: what was used two days before that goes, and nothing younger.
        let older_than = Duration::from_secs((24 + 59) * 3_600);
        let expected = RemovalReason::StaleCache { records: 1, older_than };
        assert_eq!(planned(&["5m", "22h", "48h"]), Some(expected));
    }

    #[test]
    fn only_stale_private_cache_records_count() {
        let stale =
            CacheRecord { size: 10, in_use: false, shared: false, internal: false, last_used: ago("2d") };
        let records = [
            stale.clone(),
            stale.clone(),
            CacheRecord { in_use: true, ..stale.clone() },
            CacheRecord { shared: true, ..stale.clone() },
            CacheRecord { internal: true, ..stale.clone() },
            CacheRecord { last_used: ago("1h"), ..stale.clone() },
            CacheRecord { last_used: None, ..stale },
        ];
        let policy = crate::testing::policy();
        for containerd_store in [false, true] {
            let planned = |records: &[CacheRecord]| {
                let inventory =
                    Inventory { build_cache: records.to_vec(), containerd_store, ..Inventory::default() };
                let mut plan = Plan::default();
                build_cache(&inventory, &Ledger::default(), &policy, now(), &mut plan);
                (plan.remove.iter().map(|removal| removal.object.size).collect::<Vec<_>>(), plan.shared_cache)
            };
            // On overlay2 an image has what is shared, and its removal would free nothing.
            let shared = if containerd_store { 10 } else { 0 };
            assert_eq!(planned(&records), (vec![20], shared));
            assert_eq!(planned(&records[2..]), (vec![], shared));
        }
    }
}
