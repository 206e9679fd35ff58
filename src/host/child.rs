//! Runs a command and passes on its signals and its status: its streams, its signals, its exit status.

use std::ffi::OsString;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

use anyhow::{Context, Result, bail};

pub use nix::sys::signal::Signal;
use nix::sys::signal::kill;
use nix::unistd::{Pid, getpgrp, tcgetpgrp};
use tokio::process::Command;
use tokio::signal::unix::{SignalKind, signal};

/// The statuses of a shell for commands that cannot be started (POSIX, 2.8.2).
const NOT_FOUND: u8 = 127;
const NOT_EXECUTABLE: u8 = 126;

/// Run a command and wait for it; its exit status, or 128 and the signal that ended it.
pub async fn run(command: &[OsString]) -> Result<u8> {
    let passed_on =
        [Signal::SIGHUP, Signal::SIGINT, Signal::SIGQUIT, Signal::SIGTERM, Signal::SIGUSR1, Signal::SIGUSR2];
    let (sender, mut signals) = tokio::sync::mpsc::unbounded_channel();
    // The command ignores what this process ignores (nohup).
    for kind in passed_on.into_iter().filter(|&signal| !is_ignored(signal)) {
        let mut signals =
            signal(SignalKind::from_raw(kind as i32)).with_context(|| "cannot watch for signals")?;
        let sender = sender.clone();
        tokio::spawn(async move { while signals.recv().await.is_some() && sender.send(kind).is_ok() {} });
    }
    let [program, arguments @ ..] = command else {
        bail!("cannot run it: no command");
    };
    let mut child = match Command::new(program).args(arguments).spawn() {
        Ok(child) => child,
        Err(error) => {
            log::error!("cannot run {}: {error}", program.display());
            let missing = error.kind() == std::io::ErrorKind::NotFound;
            return Ok(if missing { NOT_FOUND } else { NOT_EXECUTABLE });
        }
    };
    let pid = child.id().and_then(|pid| i32::try_from(pid).ok()).map(Pid::from_raw);
    loop {
        tokio::select! {
            status = child.wait() => return Ok(code(status.with_context(|| "cannot wait for the command")?)),
            Some(signal) = signals.recv() => {
                // The terminal has sent it to the whole foreground process group, including the child.
                let from_terminal = matches!(signal, Signal::SIGINT | Signal::SIGQUIT) && in_foreground();
                if let (Some(pid), false) = (pid, from_terminal) {
                    // It may have ended meanwhile; the wait shows it.
                    let _ = kill(pid, signal);
                }
            }
        }
    }
}

/// Whether this process ignores it (proc(5), `SigIgn`).
pub fn is_ignored(signal: Signal) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0);
    mask & (1 << (signal as u64 - 1)) != 0
}

fn in_foreground() -> bool {
    tcgetpgrp(std::io::stdin()).is_ok_and(|group| group == getpgrp())
}

fn code(status: ExitStatus) -> u8 {
    let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
    u8::try_from(code).unwrap_or(1)
}
