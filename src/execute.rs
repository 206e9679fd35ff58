//! Carries a plan out, and makes no choices: what goes, in which order, was decided.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::engine::remove::{Removed, Remover};
use crate::engine::{Engine, EngineError};
use crate::facts::{Image, ImageClass, Unanswered};
use crate::gates::Gate;
use crate::gates::disk::Usage;
use crate::plan::{Kind, Plan, Removal, Remove};
use crate::units::Percent;

/// What was done.
#[derive(Debug, Default)]
pub struct Outcome {
    pub removed: Vec<Removal>,
    pub skipped: Vec<(Removal, Skip)>,
    pub failed: Vec<(Removal, EngineError)>,
    /// Why it ended before its plan was carried out.
    pub stopped: Option<Stop>,
}

/// Why something that was to go stayed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Skip {
    /// The engine would not remove it now, in its own words.
    Refused(String),
    /// Since the plan was made it got a name, or another than it had.
    Renamed,
    /// The disk fell below the target.
    TargetReached(Percent),
    /// The run ended before its turn.
    Stopped,
}

/// Why a run ended early.
#[derive(Debug)]
pub enum Stop {
    /// These gates are no longer open.
    Gates(Vec<Gate>),
    /// The disk could not be measured any more.
    Disk(Unanswered),
    /// SIGTERM or SIGINT.
    Signal,
}

/// Carry the plan out. `closed_gates` asks `runs` and `converge` anew and names those that are not
/// open: before each kind of object, and after a failure. `usage` measures the fullest filesystem.
pub async fn execute(
    plan: Plan,
    target: Percent,
    engine: &Engine,
    remover: &Remover,
    mut closed_gates: impl AsyncFnMut() -> Vec<Gate>,
    usage: impl Fn() -> Result<Usage, Unanswered>,
    told_to_end: &AtomicBool,
) -> Outcome {
    let mut outcome = Outcome::default();
    let mut asked_for = None;
    for removal in plan.remove {
        if outcome.stopped.is_none() {
            outcome.stopped = if told_to_end.load(Ordering::Relaxed) {
                Some(Stop::Signal)
            } else if asked_for == Some(removal.kind) {
                None
            } else {
                asked_for = Some(removal.kind);
                Some(closed_gates().await).filter(|closed| !closed.is_empty()).map(Stop::Gates)
            };
        }
        if outcome.stopped.is_some() {
            outcome.skipped.push((removal, Skip::Stopped));
            continue;
        }
        if removal.kind == Kind::Cached {
            match usage() {
                Ok(usage) if usage.percent < target => {
                    outcome.skipped.push((removal, Skip::TargetReached(usage.percent)));
                    continue;
                }
                Ok(_) => {}
                Err(why) => {
                    outcome.stopped = Some(Stop::Disk(why));
                    outcome.skipped.push((removal, Skip::Stopped));
                    continue;
                }
            }
        }
        match remove(&removal, engine, remover).await {
            Tried::Removed => {
                log::info!("removed {} {}", removal.kind.name(), removal.label());
                outcome.removed.push(removal);
            }
            Tried::Skipped(why) => outcome.skipped.push((removal, why)),
            Tried::Failed(error) => {
                // The engine may be in trouble: ask again before anything else goes.
                asked_for = None;
                outcome.failed.push((removal, error));
            }
        }
    }
    outcome
}

enum Tried {
    Removed,
    Skipped(Skip),
    Failed(EngineError),
}

impl From<Removed> for Tried {
    fn from(removed: Removed) -> Self {
        match removed {
            Removed::Yes | Removed::Gone => Self::Removed,
            Removed::Refused(why) => Self::Skipped(Skip::Refused(why)),
            Removed::Failed(error) => Self::Failed(error),
        }
    }
}

async fn remove(removal: &Removal, engine: &Engine, remover: &Remover) -> Tried {
    match removal.kind {
        Kind::Container => remover.container(&removal.id).await.into(),
        Kind::BuildCache => match removal.reason {
            Remove::StaleCache { older_than, .. } => remover.build_cache(older_than).await.into(),
            _ => Tried::Skipped(Skip::Stopped),
        },
        Kind::Orphan | Kind::Cached => remove_image(removal, engine, remover).await,
    }
}

/// Look once more, then take the references away one by one; the image goes with the last.
async fn remove_image(removal: &Removal, engine: &Engine, remover: &Remover) -> Tried {
    let image: Image = match engine.image(&removal.id).await {
        Ok(Some(image)) => image,
        Ok(None) => return Tried::Removed,
        Err(error) => return Tried::Failed(error),
    };
    match image.class() {
        ImageClass::Orphan => remover.image(&image.id).await.into(),
        ImageClass::Cached if removal.kind == Kind::Cached => {
            for reference in &image.digests {
                match remover.image(reference).await.into() {
                    Tried::Removed => {}
                    other => return other,
                }
            }
            Tried::Removed
        }
        ImageClass::Cached | ImageClass::Tagged => Tried::Skipped(Skip::Renamed),
    }
}
