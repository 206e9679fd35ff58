//! What only the ledger tells of what a survey shows: how long it has really been so.

use std::collections::HashMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::units::{Time, elapsed};

/// The wall clock and the ledger's clock at the same moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moment {
    pub wall: Time,
    /// By the ledger's clock.
    pub time: Time,
}

/// Empty: nothing is recorded, and the wall clock alone counts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Past {
    /// Moments before and after each gap that did not count in full, and of the last record; oldest first.
    pub moments: Vec<Moment>,
    /// Now, by the ledger's clock.
    pub now: Option<Time>,
    /// How long the records have shown a service not to be converged, by its ID.
    pub unconverged: HashMap<String, Duration>,
    /// By how many percentage points runs filled the disk before a prune had its turn, at most.
    pub growth: u8,
}

impl Past {
    /// The age of what happened at this time by the wall clock: at most its age by that clock, and at most the time
    /// that the ledger's clock counted since. Of what happened during a gap, the end of the gap counts.
    pub fn age(&self, at: Time, wall: Time) -> Duration {
        let by_wall = elapsed(wall, at);
        let now = self.now.unwrap_or(wall);
        let moments = &self.moments;
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
}
