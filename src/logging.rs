//! The log on stderr: for people, or with journal priorities where stderr is the journal.

use std::io::Write;

use indicatif::MultiProgress;
use indicatif_log_bridge::LogWrapper;
use log::{Level, LevelFilter, Log, Metadata, Record};

use crate::units::clean;

/// Start logging, around these progress bars. `RUST_LOG` overrides the level of the options.
pub fn start(level: LevelFilter, bars: &MultiProgress) {
    let mut builder = env_logger::Builder::new();
    builder.filter_level(LevelFilter::Error).filter_module("ci_docker_prune", level);
    builder.parse_default_env().format_target(false);
    if stderr_is_the_journal() {
        builder.format(|out, record| {
            // A message of several lines needs the prefix on each: the journal splits by line.
            record
                .args()
                .to_string()
                .lines()
                .try_for_each(|line| writeln!(out, "<{}>{line}", priority(record.level())))
        });
    }
    let logger = builder.build();
    let most = logger.filter();
    // No other logger is set before.
    let _ = LogWrapper::new(bars.clone(), Clean(logger)).try_init();
    // The wrapper passes on the global level only; each module's own level is needed.
    log::set_max_level(most);
}

/// Names and messages come from outside: their control characters do not reach a terminal or the journal.
struct Clean<L>(L);

impl<L: Log> Log for Clean<L> {
    fn enabled(&self, metadata: &Metadata) -> bool {
        self.0.enabled(metadata)
    }

    fn log(&self, record: &Record) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let text = record.args().to_string();
        let text: Vec<String> = text.lines().map(clean).collect();
        let text = text.join("\n");
        let mut clean = Record::builder();
        clean.metadata(record.metadata().clone()).module_path(record.module_path());
        self.0.log(&clean.args(format_args!("{text}")).build());
    }

    fn flush(&self) {
        self.0.flush();
    }
}

/// `JOURNAL_STREAM` holds the device and inode of the journal's socket (systemd.exec(5)).
fn stderr_is_the_journal() -> bool {
    let Ok(stream) = std::env::var("JOURNAL_STREAM") else { return false };
    crate::host::stderr_identity().is_some_and(|(device, inode)| stream == format!("{device}:{inode}"))
}

/// Priorities as in sd-daemon(3).
fn priority(level: Level) -> u8 {
    match level {
        Level::Error => 3,
        Level::Warn => 4,
        Level::Info => 6,
        Level::Debug | Level::Trace => 7,
    }
}
