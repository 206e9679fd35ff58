//! Checks that the engine's data outlives a reboot, and that its disk can be measured.

use std::path::PathBuf;

use serde_json::Value;

use super::{found, unavailable};
use crate::facts::{Survey, Unavailable};
use crate::host::filesystem;
use crate::prune::PrunePolicy;
use crate::report::verify::{Check, CheckStatus};

const NAME: &str = "retention";

pub fn check(survey: &Survey, policy: &PrunePolicy) -> Check {
    let places = match &survey.places {
        Ok(Some(places)) => places.all(),
        Ok(None) => {
            let message = "the engine is on another host";
            return found(NAME, CheckStatus::Skipped, "remote_engine", message, Value::Null);
        }
        Err(why) => return unavailable(NAME, CheckStatus::Skipped, why),
    };
    for place in &places {
        match filesystem::volatile(place) {
            Ok(None) => {}
            Ok(Some(kind)) => {
                let message = format!(
                    "{} lies on {kind}, and the image cache is gone with the next reboot; put data-root (daemon.json) on a disk",
                    place.display()
                );
                return found(NAME, CheckStatus::Failed, "volatile", message, Value::Null);
            }
            Err(error) => return unavailable(NAME, CheckStatus::Skipped, &Unavailable::from(error)),
        }
    }
    if policy.removal.threshold.min_free.is_none()
        && let Some(place) = places.iter().find(|place| filesystem::is_zfs(place))
    {
        let message = format!(
            "{} lies on ZFS, whose datasets do not show how full their pool is; set --disk-min-free, such as 20GB",
            place.display()
        );
        return found(NAME, CheckStatus::Warning, "zfs_by_percent", message, Value::Null);
    }
    let lies_in_another =
        |place: &PathBuf| places.iter().any(|other| place != other && place.starts_with(other));
    let shown = places.iter().filter(|place| !lies_in_another(place));
    let shown: Vec<_> = shown.map(|place| place.display().to_string()).collect();
    let message = format!("{} is on persistent storage", shown.join(", "));
    found(NAME, CheckStatus::Ok, "persistent", message, Value::Null)
}
