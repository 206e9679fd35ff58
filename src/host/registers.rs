//! What processes register: locked files that say which process blocks prunes, waits to prune, or asks for a prune; freed
//! by the kernel with their process.

use std::fs::{self, DirBuilder, File, Permissions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg, OFlag};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use serde::{Deserialize, Serialize};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::lock::user_name;
use crate::facts::Inhibitor;
use crate::units::Time;
use crate::world::{Changes, Register, Registration};

#[derive(Serialize, Deserialize)]
struct RegistrationJson {
    pid: u32,
    since: Time,
    #[serde(default)]
    why: Option<String>,
    #[serde(default, rename = "min_free_bytes")]
    min_free: Option<u64>,
    /// It counts until then although no process holds it.
    #[serde(default)]
    until: Option<Time>,
}

/// A registration of this process. Dropping it ends it.
#[derive(Debug)]
pub struct Registered {
    path: PathBuf,
    lock: Flock<File>,
    is_left: bool,
}

impl Drop for Registered {
    fn drop(&mut self) {
        if self.is_left {
            return;
        }
        // The lock goes with the file's descriptor; a file that stays is stale, and cleared away later.
        let _ = fs::remove_file(&self.path);
    }
}

impl Registered {
    /// Leave it to the next process that registers there, until then.
    pub fn leave(mut self, until: Time) -> Result<()> {
        let path = self.path.clone();
        let mut write = || -> io::Result<()> {
            let json = RegistrationJson {
                pid: std::process::id(),
                since: until,
                why: None,
                min_free: None,
                until: Some(until),
            };
            self.lock.set_len(0)?;
            io::Seek::rewind(&mut *self.lock)?;
            serde_json::to_writer(&mut *self.lock, &json)?;
            self.is_left = true;
            Ok(())
        };
        write().with_context(|| format!("cannot write {}", path.display()))
    }
}

/// The file of a registration is shorter than this; bytes.
const MAX_FILE_BYTES: u64 = 64 << 10;

/// How long a registration counts after its process, at most: the clock may be set back.
const MAX_LEFT: jiff::SignedDuration = jiff::SignedDuration::from_hours(24);

pub fn folder(runtime_dir: &Path, register: Register) -> PathBuf {
    runtime_dir.join(match register {
        Register::Inhibitors => "inhibitors",
        Register::Prunes => "prunes",
        Register::Requests => "requests",
    })
}

/// Make the directories where they are missing, as far as this user may. `socket` is the engine's:
/// its group may inhibit, and so owns the folders.
pub fn prepare(runtime_dir: &Path, socket: Option<&Path>) -> Result<()> {
    [Register::Inhibitors, Register::Prunes, Register::Requests]
        .into_iter()
        .try_for_each(|register| prepare_folder(runtime_dir, &folder(runtime_dir, register), socket))
}

fn prepare_folder(runtime_dir: &Path, folder: &Path, socket: Option<&Path>) -> Result<()> {
    let make = || -> std::io::Result<()> {
        if !runtime_dir.is_dir() {
            fs::create_dir_all(runtime_dir)?;
            // Every member of the group must get in, whatever the umask.
            fs::set_permissions(runtime_dir, Permissions::from_mode(0o755))?;
        }
        if let Err(error) = DirBuilder::new().mode(0o755).create(folder)
            && error.kind() != ErrorKind::AlreadyExists
        {
            return Err(error);
        }
        let group = socket.and_then(|socket| fs::metadata(socket).ok()).map(|socket| socket.gid());
        // The directory around it may be another user's: a link in its place is not followed.
        let flags = (OFlag::O_NOFOLLOW | OFlag::O_DIRECTORY).bits();
        let opened = File::options().read(true).custom_flags(flags).open(folder)?;
        if let (true, Some(group)) = (nix::unistd::geteuid().is_root(), group)
            && (opened.metadata()?.gid() != group || opened.metadata()?.mode() & 0o7777 != 0o3775)
        {
            fchown(&opened, None, Some(group))?;
            // Sticky: no user removes the inhibitor of another. With the setgid bit, files in it belong to the
            // group: only its members can read an inhibitor, and so lock it.
            opened.set_permissions(Permissions::from_mode(0o3775))?;
        }
        Ok(())
    };
    make().with_context(|| format!("cannot make the directory {}", folder.display()))
}

pub fn register(
    runtime_dir: &Path,
    register: Register,
    what: &Registration<'_>,
    now: Time,
) -> Result<Registered> {
    let folder = folder(runtime_dir, register);
    let write = || -> Result<Registered> {
        // Locked before it has its name: no other process sees it without its lock.
        let pid = std::process::id();
        let mut file = tempfile::Builder::new().prefix(".new-").tempfile_in(&folder)?;
        let why = what.why.map(str::to_owned);
        let json = RegistrationJson { pid, since: now, why, min_free: what.min_free, until: None };
        serde_json::to_writer(&mut file, &json)?;
        file.write_all(b"\n")?;
        file.as_file().set_permissions(Permissions::from_mode(0o640))?;
        let (file, temporary) = file.into_parts();
        let lock = Flock::lock(file, FlockArg::LockExclusiveNonblock)
            .map_err(|(_, error)| io::Error::from(error))?;
        let name = temporary.file_name().unwrap_or_default().to_string_lossy().replace(".new-", "");
        let path = folder.join(format!("{pid}-{name}"));
        temporary.persist(&path).map_err(|error| error.error)?;
        Ok(Registered { path, lock, is_left: false })
    };
    write().with_context(|| {
        let what_to_do = if folder.is_dir() {
            "run as root or as a member of the group that owns it"
        } else {
            "it is not there: run ci-docker-prune record once as root, which makes it"
        };
        format!(
            "cannot register in {}: {what_to_do}, or name the directory that prune uses \
             with --runtime-dir",
            folder.display()
        )
    })
}

/// The inhibitors that are active now, oldest first. Stale files are cleared away where permitted.
pub fn inhibitors(runtime_dir: &Path, now: Time) -> Result<Vec<Inhibitor>> {
    let json = active(runtime_dir, Register::Inhibitors, now)?.into_iter();
    Ok(json.map(Into::into).collect())
}

/// Of a file whose text may be malformed: it counts all the same where a process holds it.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Active {
    pub pid: Option<u32>,
    pub since: Option<Time>,
    pub why: Option<String>,
    /// The owner of its file.
    pub user: Option<String>,
    pub min_free: Option<u64>,
    /// Its process has ended, and wanted it to count a little longer.
    pub is_left: bool,
}

impl From<Active> for Inhibitor {
    fn from(active: Active) -> Self {
        Self { pid: active.pid, since: active.since, why: active.why, user: active.user }
    }
}

pub fn active(runtime_dir: &Path, register: Register, now: Time) -> Result<Vec<Active>> {
    let folder = folder(runtime_dir, register);
    let context = || format!("cannot read {}", folder.display());
    let entries = match fs::read_dir(&folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(vec![]),
        Err(error) => return Err(error).with_context(context),
    };
    let mut active = Vec::new();
    for entry in entries {
        let path = entry.with_context(context)?.path();
        if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.')) {
            continue;
        }
        active.extend(read(&path, now).map_err(|cause| unreadable(&path, cause)).with_context(context)?);
    }
    active.sort_by_key(|active: &Active| active.since);
    Ok(active)
}

/// What to do about a file that this user may not read: it may be an inhibitor.
fn unreadable(path: &Path, error: std::io::Error) -> anyhow::Error {
    let denied = error.kind() == ErrorKind::PermissionDenied;
    let owner = fs::symlink_metadata(path).map(|path| user_name(path.uid()));
    match owner {
        Ok(owner) if denied => anyhow::Error::new(error).context(format!(
            "{} of user {owner} may be one, and this user may not read it; wait until its command ends, or \
                 remove it if there is none",
            path.display()
        )),
        _ => anyhow::Error::new(error).context(path.display().to_string()),
    }
}

fn read(path: &Path, now: Time) -> std::io::Result<Option<Active>> {
    // The group may put anything here: only a plain file can be an inhibitor, and a short one.
    let flags = (OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK).bits();
    let file = match File::options().read(true).custom_flags(flags).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) if error.raw_os_error() == Some(Errno::ELOOP as i32) => return Ok(None),
        Err(error) => return Err(error),
    };
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Ok(None);
    }
    let mut text = Vec::new();
    (&file).take(MAX_FILE_BYTES).read_to_end(&mut text)?;
    let json: Option<RegistrationJson> = serde_json::from_slice(&text).ok();
    let until = json.as_ref().and_then(|json| json.until);
    let is_left = until.is_some_and(|until| now < until && until.duration_since(now) <= MAX_LEFT);
    match Flock::lock(file, FlockArg::LockSharedNonblock) {
        Ok(_) if is_left => Ok(Some(Active { is_left, ..Active::default() })),
        Ok(_stale) => {
            let _ = fs::remove_file(path);
            Ok(None)
        }
        Err((_, Errno::EWOULDBLOCK)) => {
            let (pid, since) = json.as_ref().map(|json| (json.pid, json.since)).unzip();
            let (why, min_free) = json.map(|json| (json.why, json.min_free)).unwrap_or_default();
            Ok(Some(Active {
                pid,
                since,
                why,
                user: Some(user_name(metadata.uid())),
                min_free,
                is_left: false,
            }))
        }
        Err((_, error)) => Err(error.into()),
    }
}

/// Remove what was left to this process: it has registered itself.
pub fn take_over(runtime_dir: &Path, register: Register) {
    for entry in fs::read_dir(folder(runtime_dir, register)).into_iter().flatten().flatten() {
        let lock = File::open(entry.path())
            .ok()
            .and_then(|file| Flock::lock(file, FlockArg::LockSharedNonblock).ok());
        if lock.is_some() {
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// Whether one of the processes that this one descends from is among these: then it is what they wait for.
pub fn is_descendant_of(pids: &[u32]) -> bool {
    let mut pid = std::process::id();
    // Deeper than any tree of processes, should one be a ring.
    for _ in 0..64 {
        if pids.contains(&pid) {
            return true;
        }
        // `pid (name) state ppid …`, and the name may have anything in it.
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let parent = stat.rsplit_once(") ").and_then(|(_, rest)| rest.split(' ').nth(1)?.parse().ok());
        match parent {
            Some(parent) if parent > 1 => pid = parent,
            _ => return false,
        }
    }
    false
}

/// Changes of a folder: files that are made, removed, or closed by a process that ends.
#[derive(Debug)]
pub struct FolderWatch {
    inotify: AsyncFd<OwnedFd>,
}

impl FolderWatch {
    pub fn new(folder: &Path) -> Result<Self> {
        let watch = || -> io::Result<Self> {
            let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
            let what = AddWatchFlags::IN_CLOSE_WRITE | AddWatchFlags::IN_DELETE | AddWatchFlags::IN_MOVED_TO;
            inotify.add_watch(folder, what)?;
            let descriptor = OwnedFd::from(inotify);
            // SAFETY: the descriptor is owned, and is closed only after it is taken off the reactor again.
            Ok(Self { inotify: unsafe { AsyncFd::register_with_interest(descriptor, Interest::READABLE)? } })
        };
        watch().with_context(|| format!("cannot watch {}", folder.display()))
    }
}

impl Changes for FolderWatch {
    async fn changed(&self) {
        let Ok(mut ready) = self.inotify.readable().await else { return std::future::pending().await };
        let mut events = [0; 4096];
        while nix::unistd::read(self.inotify.get_ref(), &mut events).is_ok_and(|read| read > 0) {}
        ready.clear_ready();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::now;

    fn this_user() -> Option<String> {
        Some(user_name(nix::unistd::geteuid().as_raw()))
    }

    #[test]
    fn an_inhibitor_is_active_as_long_as_it_is_held() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(inhibitors(dir.path(), now()).unwrap(), []);
        assert!(
            register(dir.path(), Register::Inhibitors, &Registration::default(), now()).is_err(),
            "its directory is missing"
        );
        prepare(dir.path(), None).unwrap();
        let held = register(
            dir.path(),
            Register::Inhibitors,
            &Registration { why: Some("deploy"), min_free: None },
            now(),
        )
        .unwrap();
        let expected = Inhibitor {
            pid: Some(std::process::id()),
            since: Some(now()),
            why: Some("deploy".into()),
            user: this_user(),
        };
        assert_eq!(inhibitors(dir.path(), now()).unwrap(), [expected]);
        drop(held);
        assert_eq!(inhibitors(dir.path(), now()).unwrap(), []);
    }

    #[test]
    fn what_is_no_plain_file_is_no_inhibitor_and_blocks_nothing() {
        let dir = tempfile::tempdir().unwrap();
        prepare(dir.path(), None).unwrap();
        let folder = folder(dir.path(), Register::Inhibitors);
        nix::unistd::mkfifo(&folder.join("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        fs::create_dir(folder.join("directory")).unwrap();
        std::os::unix::fs::symlink("/dev/zero", folder.join("link")).unwrap();
        assert_eq!(inhibitors(dir.path(), now()).unwrap(), []);
    }

    #[test]
    fn a_stale_file_is_cleared_away_and_a_held_one_counts_whatever_it_says() {
        let dir = tempfile::tempdir().unwrap();
        prepare(dir.path(), None).unwrap();
        let path = folder(dir.path(), Register::Inhibitors).join("7-x");
        fs::write(&path, "{half").unwrap();
        let held = Flock::lock(File::open(&path).unwrap(), FlockArg::LockExclusiveNonblock).unwrap();
        assert_eq!(
            inhibitors(dir.path(), now()).unwrap(),
            [Inhibitor { pid: None, since: None, why: None, user: this_user() }]
        );
        drop(held);
        assert_eq!(inhibitors(dir.path(), now()).unwrap(), []);
        assert!(!path.exists());
    }
}
