//! What to remove and what to keep, each with its reason: decided here and nowhere else.

pub mod containers;
pub mod images;
#[cfg(test)]
mod properties;

use std::collections::HashMap;
use std::time::Duration;

use crate::facts::{CacheRecord, Container, Image, Labels, Service, Task};
use crate::ledger::Ledger;
use crate::units::{Percent, Time, elapsed};

/// Everything that the engine has and that a plan is made from.
#[derive(Debug, Clone, Default)]
pub struct Inventory {
    pub containers: Vec<Container>,
    pub images: Vec<Image>,
    pub services: Vec<Service>,
    pub tasks: Vec<Task>,
    pub build_cache: Vec<CacheRecord>,
}

#[derive(Debug, Clone)]
pub struct Policy {
    /// Least age of what is removed.
    pub older_than: Duration,
    /// Least time since a cached image was last in use.
    pub cache_age: Duration,
    /// Cached images are evicted only while the disk is at or above this.
    pub disk_target: Percent,
    pub keep_labels: Vec<KeepLabel>,
}

/// A label that protects: any value, or this one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeepLabel {
    pub key: String,
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

impl KeepLabel {
    fn protects(&self, labels: &Labels) -> bool {
        labels.get(&self.key).is_some_and(|value| self.value.as_ref().is_none_or(|wanted| wanted == value))
    }
}

impl Policy {
    /// The label among these that protects its object.
    fn kept_by(&self, labels: &Labels) -> Option<&KeepLabel> {
        self.keep_labels.iter().find(|label| label.protects(labels))
    }
}

/// What a plan is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    Container,
    Orphan,
    Cached,
    BuildCache,
}

impl Kind {
    /// As in the JSON and the tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Container => "container",
            Self::Orphan => "orphan",
            Self::Cached => "cached",
            Self::BuildCache => "build-cache",
        }
    }
}

/// A decision to remove, with all that carrying it out takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Removal {
    pub kind: Kind,
    /// Empty for the build cache.
    pub id: String,
    pub names: Vec<String>,
    /// Bytes; for an image with the layers that it shares, for a container 0 (the engine would have
    /// to walk its files to tell).
    pub size: u64,
    /// When a container ended; it is left alone if it ran again since.
    pub finished: Option<Time>,
    pub reason: Remove,
}

impl Removal {
    /// Its first name, else its ID.
    pub fn label(&self) -> &str {
        self.names.first().unwrap_or(&self.id)
    }
}

/// Why something goes, with the age that decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Remove {
    /// This long ago it ended.
    Finished(Duration),
    /// Created this long ago and never started.
    NeverStarted(Duration),
    /// No name, and this old.
    Unnamed(Duration),
    /// Last in use this long ago.
    Unused(Duration),
    /// This many records were last used longer ago than the least age.
    StaleCache { records: usize, older_than: Duration },
}

/// A decision to keep.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    /// `false` for an image.
    pub container: bool,
    pub id: String,
    pub names: Vec<String>,
    /// Bytes, as in [`Removal`].
    pub size: u64,
    pub reason: Keep,
}

/// Why something stays.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Keep {
    /// The container is in this state.
    Live(&'static str),
    Label(KeepLabel),
    /// The container belongs to a task of this service.
    TaskOf(String),
    /// This old, and the least age is the second.
    TooYoung(Duration, Duration),
    /// Nothing trustworthy says how old it is.
    AgeUnknown,
    Tagged,
    /// A container uses the image.
    UsedBy(String),
    /// The service's spec names the image.
    NamedBy(String),
    /// The service's previous spec names the image: a rollback needs it.
    RollbackOf(String),
    /// In use this long ago, and the least time since then is the second.
    RecentlyUsed(Duration, Duration),
    /// The cached image could go, but nobody knows how full the disk is.
    DiskUnknown,
    /// The cached image could go, but the disk is at the first, below the target.
    BelowTarget(Percent, Percent),
}

/// What a prune would do and why everything else stays. It is used up by carrying it out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// In the order in which it is carried out.
    pub remove: Vec<Removal>,
    pub keep: Vec<Kept>,
    /// Tags of our own to take off images that have their names back: an eviction was interrupted.
    pub release: Vec<String>,
}

/// Decide about everything. `usage` is that of the fullest filesystem, where it could be measured.
pub fn make(
    inventory: &Inventory,
    ledger: &Ledger,
    policy: &Policy,
    usage: Option<Percent>,
    now: Time,
) -> Plan {
    let mut plan = Plan::default();
    containers::decide(inventory, policy, now, &mut plan);
    images::decide(inventory, ledger, policy, usage, now, &mut plan);
    build_cache(&inventory.build_cache, policy, now, &mut plan);
    plan
}

fn build_cache(records: &[CacheRecord], policy: &Policy, now: Time, plan: &mut Plan) {
    let stale = records.iter().filter(|record| {
        let idle = record.last_used.is_some_and(|used| elapsed(now, used) >= policy.older_than);
        idle && !record.in_use && !record.shared && !record.internal
    });
    let (records, size) =
        stale.fold((0, 0_u64), |(n, size), record| (n + 1, size.saturating_add(record.size)));
    if records > 0 {
        plan.remove.push(Removal {
            kind: Kind::BuildCache,
            id: String::new(),
            names: vec![],
            size,
            finished: None,
            reason: Remove::StaleCache { records, older_than: policy.older_than },
        });
    }
}

/// The first container that uses each image, by image ID.
fn users(containers: &[Container]) -> HashMap<&str, &str> {
    let mut users = HashMap::new();
    for container in containers {
        let name = container.names.first().unwrap_or(&container.id);
        users.entry(container.image_id.as_str()).or_insert(name.as_str());
    }
    users
}

#[cfg(test)]
mod tests {
    use super::*;
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
        let policy = Policy {
            older_than: Duration::from_secs(86_400),
            cache_age: Duration::ZERO,
            disk_target: "70".parse().unwrap(),
            keep_labels: vec![],
        };
        let mut plan = Plan::default();
        build_cache(&records, &policy, now(), &mut plan);
        assert_eq!(plan.remove.len(), 1);
        assert_eq!(plan.remove[0].size, 20);
        build_cache(&records[2..], &policy, now(), &mut plan);
        assert_eq!(plan.remove.len(), 1);
    }
}
