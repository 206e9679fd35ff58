//! Past prunes on disk: one line of JSON for each, oldest first.

use std::fs;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::error::{is_full, of_own_directory};
use super::lock::{lock_soon, open};
use super::replace;
use crate::history::{PastPrune, RETENTION};
use crate::units::elapsed;

fn path(state_dir: &Path) -> PathBuf {
    state_dir.join("history.jsonl")
}

/// A line that is not understood, such as one of another version, is left out.
pub fn read(state_dir: &Path) -> Result<Vec<PastPrune>> {
    let path = path(state_dir);
    let text = match fs::read(&path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(vec![]),
        text => text.with_context(|| format!("cannot read {}", path.display()))?,
    };
    let lines = text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    let parsed = |line| {
        serde_json::from_slice(line).inspect_err(|error| log::info!("{}: {error}", path.display())).ok()
    };
    Ok(lines.filter_map(parsed).collect())
}

/// Add a prune, unless it repeats the last one; what is too old goes.
pub async fn append(state_dir: &Path, past: &PastPrune) -> Result<()> {
    let append = async {
        let _lock = lock_soon(open(&state_dir.join("history.lock"), 0o600)?).await?;
        let mut history = read(state_dir)?;
        if history.last().is_some_and(|last| past.repeats(last)) {
            return Ok(());
        }
        history.retain(|old| elapsed(past.at, old.at) < RETENTION);
        let lines = history.iter().chain([past]).map(|past| Ok(serde_json::to_string(past)? + "\n"));
        let text = lines.collect::<Result<String>>()?;
        replace(&path(state_dir), |file| file.write_all(text.as_bytes()))
    };
    match append.await {
        // The prune that makes room is the next one on record.
        Err(error) if is_full(&error) => {
            log::info!("{error:#}");
            Ok(())
        }
        written => {
            written.map_err(|error| of_own_directory("cannot write the log of prunes in", state_dir, error))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{ago, block, past_prune};

    #[test]
    fn prunes_are_kept_for_90_days_whatever_else_is_in_the_file() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(read(folder.path()).unwrap(), []);
        let past = |at: &str| PastPrune { at: ago(at).unwrap(), ..past_prune("pruned", &[]) };
        let blocked = |at: &str| PastPrune { at: ago(at).unwrap(), ..past_prune("blocked", &["runs"]) };
        block(append(folder.path(), &past("91d"))).unwrap();
        block(append(folder.path(), &past("89d"))).unwrap();
        // One whose writer was killed.
        let text = fs::read_to_string(path(folder.path())).unwrap() + "{\"at\":\"2026";
        fs::write(path(folder.path()), text).unwrap();
        for at in ["2h", "70m", "30m", "0s"] {
            block(append(folder.path(), &blocked(at))).unwrap();
        }
        let ages: Vec<_> = read(folder.path()).unwrap().into_iter().map(|past| past.at).collect();
        assert_eq!(ages, ["89d", "2h", "30m"].map(|at| ago(at).unwrap()));
        let nowhere = Path::new("/proc/nowhere");
        assert!(block(append(nowhere, &past("0s"))).unwrap_err().to_string().contains("log of prunes"));
    }
}
