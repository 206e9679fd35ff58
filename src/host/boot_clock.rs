//! The time since this boot, which nobody can set.

use std::fs;
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

/// This boot's ID and the time since it, suspend included; `None` where the kernel does not tell.
pub fn read() -> Option<(String, Duration)> {
    let id = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    let since = clock_gettime(ClockId::CLOCK_BOOTTIME).ok()?;
    Some((id.trim().to_owned(), since.into()))
}
