//! The boot's ID, and the time since the boot (CLOCK_BOOTTIME), which cannot be set.

use std::fs;
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

/// This boot's ID; `None` where the kernel or a sandbox (systemd's `ProcSubset=pid`) does not tell.
pub fn id() -> Option<String> {
    let id = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    Some(id.trim().to_owned())
}

pub fn since() -> Option<Duration> {
    clock_gettime(ClockId::CLOCK_BOOTTIME).ok().map(Duration::from)
}
