//! A bar on stderr while a long prune works: only on a terminal.

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

/// The terminal area of the bars. The log writes through it, so that its lines appear above a bar.
pub type Bars = MultiProgress;

pub fn hidden() -> Bars {
    Bars::with_draw_target(indicatif::ProgressDrawTarget::hidden())
}

/// A bar for so many objects. Where stderr is no terminal it draws nothing.
pub fn bar(bars: &Bars, objects: usize) -> ProgressBar {
    let bar = bars.add(ProgressBar::new(u64::try_from(objects).unwrap_or(u64::MAX)));
    let template = "pruning {wide_bar} {pos} of {len}, {elapsed} ";
    bar.with_style(ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()))
}
