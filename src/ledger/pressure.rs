//! Ongoing pressure, and what prunes did about it.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_with::{DefaultOnError, serde_as, skip_serializing_none};

use super::Ledger;
use crate::facts::Filesystem;
use crate::units::{Percent, Time, elapsed};

/// Present from the first prune that finds the disk under pressure until one finds it relieved.
#[serde_as]
#[skip_serializing_none]
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pressure {
    pub since: Time,
    /// How often each gate blocked or stopped a prune.
    #[serde(default)]
    pub blocked: BTreeMap<String, u64>,
    /// Since when no prune was carried out to its end; a prune is owed as long as this is set.
    pub owed_since: Option<Time>,
    pub reported: Option<Reported>,
    /// Since when manual intervention has been required.
    pub intervention_since: Option<Time>,
    /// Set if the last prune ended its evictions because they freed nothing: the next ones must not evict the cache
    /// in vain.
    #[serde(default)]
    #[serde_as(as = "DefaultOnError")]
    pub freed_nothing: Option<UselessEviction>,
    /// When a prune was last carried out to its end, and the disk stayed under pressure: nothing more was eligible.
    pub exhausted_at: Option<Time>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct UselessEviction {
    pub at: Time,
    /// How full the filesystem that holds the images was.
    #[serde(rename = "used_percent")]
    pub percent: Percent,
    /// Bytes in use on it.
    #[serde(rename = "used_bytes")]
    pub used: u64,
}

/// Evictions that freed nothing are tried again after this.
pub const RETRY_USELESS_EVICTION: Duration = Duration::from_secs(3_600);

/// What `record` last reported of a prune that could do nothing, so that it is not repeated every five minutes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reported {
    pub at: Time,
    pub what: String,
}

impl Pressure {
    fn new(now: Time) -> Self {
        Self {
            since: now,
            blocked: BTreeMap::new(),
            owed_since: None,
            reported: None,
            intervention_since: None,
            freed_nothing: None,
            exhausted_at: None,
        }
    }
}

impl Ledger {
    /// A prune found the disk under pressure and was not carried out to its end; these gates, if any, blocked or
    /// stopped it.
    pub fn owe<'a>(&mut self, blocked_by: impl IntoIterator<Item = &'a str>, now: Time) {
        let now = self.time(now);
        let pressure = self.mark_pressure(now);
        pressure.owed_since.get_or_insert(now);
        for gate in blocked_by {
            *pressure.blocked.entry(gate.to_owned()).or_default() += 1;
        }
    }

    fn mark_pressure(&mut self, now: Time) -> &mut Pressure {
        self.pressure.get_or_insert_with(|| Pressure::new(now))
    }

    /// A prune was carried out to its end, and the disk is still under pressure. `freed_nothing`: the filesystem
    /// that holds the images, if evictions freed nothing on it.
    pub fn clear_owed(&mut self, freed_nothing: Option<&Filesystem>, now: Time) {
        let now = self.time(now);
        let pressure = self.mark_pressure(now);
        pressure.owed_since = None;
        pressure.exhausted_at = Some(now);
        if let Some(filesystem) = freed_nothing
            && let Some(percent) = filesystem.percent()
        {
            pressure.freed_nothing = Some(UselessEviction { at: now, percent, used: filesystem.used });
        }
    }

    /// How long ago evictions freed nothing, unless it is time to try again: after an hour, on a filesystem that is
    /// one percentage point fuller, and on one that has become `critical`.
    pub fn eviction_is_useless(
        &self,
        filesystem: &Filesystem,
        critical: Percent,
        wall: Time,
    ) -> Option<Duration> {
        let last = self.pressure.as_ref()?.freed_nothing?;
        let percent = filesystem.percent()?;
        let ago = elapsed(self.time(wall), last.at);
        // Percentages are rounded, so that one more may be a byte. For inodes and metadata there is only the
        // percentage.
        let point = filesystem.used.saturating_add(filesystem.available) / 100;
        let risen =
            filesystem.used >= last.used.saturating_add(point) || percent.get() > last.percent.get() + 1;
        let is_critical = percent >= critical && last.percent < critical;
        (ago < RETRY_USELESS_EVICTION && !risen && !is_critical).then_some(ago)
    }

    /// Whether another prune would probably find nothing to remove, so that no command should wait for it: one has just
    /// been carried out to its end, and the disk has not become critical since.
    pub fn is_exhausted(&self, wall: Time) -> bool {
        let at = self.pressure.as_ref().and_then(|pressure| pressure.exhausted_at);
        at.is_some_and(|at| elapsed(self.time(wall), at) < RETRY_USELESS_EVICTION)
    }

    /// Record whether a prune required manual intervention. Returns whether this is news.
    pub fn require_intervention(&mut self, is_required: bool, now: Time) -> bool {
        let now = self.time(now);
        let Some(pressure) = &mut self.pressure else { return is_required };
        let is_news = is_required && pressure.intervention_since.is_none();
        let since = pressure.intervention_since.take().unwrap_or(now);
        pressure.intervention_since = is_required.then_some(since);
        is_news
    }

    pub fn clear_pressure(&mut self) {
        self.pressure = None;
    }
}
