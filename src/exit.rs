//! The exit status: one variant for each meaning.

use std::process::ExitCode;

/// How the program ends. `clap` ends it with 2 by itself for wrong usage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// For `prune` also: nothing to do, or blocked by a gate.
    Done,
    Failed,
    Usage,
    Closed,
    /// `prune` ended with the disk at or above `--disk-critical`, or has been blocked for days. systemd has names for
    /// most codes below 8 (systemd.exec(5), "Process Exit Codes"), and would print 4 as NOPERMISSION.
    ManualIntervention,
    /// A gate could not be evaluated. systemd's `ExecCondition=` skips the unit in silence for 1 to
    /// 254 and fails it for 255 (systemd.service(5)).
    Unavailable,
    /// The space that `inhibit --min-free` wants cannot be had: EX_TEMPFAIL of sysexits.h.
    NoRoom,
    OfCommand(u8),
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(match exit {
            Exit::Done => 0,
            Exit::Failed => 1,
            Exit::Usage => 2,
            Exit::Closed => 3,
            Exit::ManualIntervention => 10,
            Exit::NoRoom => 75,
            Exit::Unavailable => 255,
            Exit::OfCommand(code) => code,
        })
    }
}
