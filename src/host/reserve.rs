//! Space that is released when the disk is too full for the engine to write what a removal changes.

use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::posix_fallocate;

use super::chown_to_directory_owner;

/// Bytes. Enough for the engine's records of some thousand images, which it rewrites as a whole.
const SIZE: i64 = 16 << 20;

fn path(state_dir: &Path) -> PathBuf {
    state_dir.join("reserve")
}

/// Keep the reserve, if the state directory is on the filesystem of one of these paths.
pub fn keep(state_dir: &Path, images: &[PathBuf]) {
    let device = |path: &Path| fs::metadata(path).map(|path| path.dev()).ok();
    let reserve = path(state_dir);
    let here = device(state_dir);
    let wanted = here.is_some() && images.iter().any(|path| device(path) == here);
    if !wanted || fs::symlink_metadata(&reserve).is_ok() {
        return;
    }
    let make = || -> std::io::Result<()> {
        let file = File::options().write(true).create_new(true).mode(0o600).open(&reserve)?;
        chown_to_directory_owner(&file, state_dir)?;
        Ok(posix_fallocate(&file, 0, SIZE)?)
    };
    if let Err(error) = make() {
        log::debug!("no reserve is kept in {}: {error}", reserve.display());
        // A partial reserve is of no use.
        let _ = fs::remove_file(&reserve);
    }
}

pub fn release(state_dir: &Path) -> bool {
    let released = fs::remove_file(path(state_dir)).is_ok();
    if released {
        // btrfs and ZFS return the space with their next commit only.
        let _ = File::open(state_dir).map(nix::unistd::syncfs);
    }
    released
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reserve_is_kept_beside_the_images_and_given_up_once() {
        let dir = tempfile::tempdir().unwrap();
        keep(dir.path(), &["/proc".into()]);
        assert!(!release(dir.path()), "it would be no help there");
        for _ in 0..2 {
            keep(dir.path(), &["/proc".into(), dir.path().to_owned()]);
            let reserve = fs::metadata(path(dir.path())).unwrap();
            assert_eq!((reserve.len(), reserve.mode() & 0o777), (16 << 20, 0o600));
            assert!(reserve.blocks() * 512 >= 16 << 20);
        }
        assert!(release(dir.path()));
        assert!(!release(dir.path()));
    }
}
