//! The ledger on disk: read as a whole, written atomically, set aside if malformed.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use serde::{Deserialize, Serialize};

use super::error::{is_full, of_own_directory};
use super::lock::{lock_soon, open};
use super::replace;
use crate::ledger::Ledger;
use crate::units::Time;

const SCHEMA: u32 = 1;

#[derive(Debug)]
pub enum Content {
    Ledger(Box<Ledger>),
    Missing,
    NotUnderstood(anyhow::Error),
    /// It exists and could not be read; its content may be good.
    Unread(anyhow::Error),
}

#[derive(Debug, Clone, Copy)]
pub struct Places<'a> {
    pub state_dir: &'a Path,
    /// The directory, in memory, where it is kept while the disk is full.
    pub stopgap_dir: &'a Path,
    /// The ID of the engine that it is about; `None` where that is not known: then it is the first engine's.
    pub engine: Option<&'a str>,
}

/// A ledger of another engine that was not written for this long is removed.
const RETENTION: Duration = Duration::from_secs(60 * 86_400);

/// `ledger.json` belongs to the first engine, `ledger-ID.json` of any other.
fn path(directory: &Path, engine: Option<&str>) -> PathBuf {
    #[derive(Deserialize)]
    struct Owner {
        engine: Option<String>,
    }
    let first = directory.join("ledger.json");
    let Some(engine) = engine else { return first };
    let own = directory.join(own_name(engine));
    let owner = || serde_json::from_slice::<Owner>(&fs::read(&first).ok()?).ok()?.engine;
    if own.exists() || owner().is_some_and(|owner| owner != engine) { own } else { first }
}

/// The ID comes from outside: letters, digits and hyphens of it, as many as an engine's ID has.
fn own_name(engine: &str) -> String {
    let id = engine.chars().take(64);
    let id = id.map(|letter| if letter.is_ascii_alphanumeric() { letter } else { '-' });
    format!("ledger-{}.json", id.collect::<String>())
}

/// Remove what was not written for [`RETENTION`]; where that was the first engine's, the ledger at `own` takes its place.
fn drop_abandoned(directory: &Path, own: &Path) {
    let is_ledger = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name == "ledger.json" || (name.starts_with("ledger-") && name.ends_with(".json"))
    };
    let is_abandoned = |path: &PathBuf| {
        let written = fs::symlink_metadata(path).and_then(|metadata| metadata.modified()).ok();
        written.and_then(|at| at.elapsed().ok()).is_some_and(|since| since >= RETENTION)
    };
    let paths = fs::read_dir(directory).into_iter().flatten().flatten().map(|file| file.path());
    // The next writer tries again.
    for path in paths.filter(|path| path != own && is_ledger(path) && is_abandoned(path)) {
        let _ = fs::remove_file(path);
    }
    let first = directory.join("ledger.json");
    if matches!(first.try_exists(), Ok(false)) {
        let _ = fs::rename(own, first);
    }
}

/// Read the ledger and leave the files as they are.
pub fn read(places: Places) -> Content {
    let stopgap = stopgap(places);
    match read_file(&path(places.state_dir, places.engine)) {
        Content::Ledger(stored) => Content::Ledger(Box::new(newer(*stored, stopgap))),
        other => stopgap.map_or(other, |stopgap| Content::Ledger(Box::new(stopgap))),
    }
}

/// The ledger from a time when the disk was full. One that cannot be read counts as none: it is gone with the next
/// boot in any case.
fn stopgap(places: Places) -> Option<Ledger> {
    match read_file(&path(places.stopgap_dir, places.engine)) {
        Content::Ledger(ledger) => Some(*ledger),
        Content::Missing | Content::NotUnderstood(_) | Content::Unread(_) => None,
    }
}

fn newer(stored: Ledger, stopgap: Option<Ledger>) -> Ledger {
    stopgap.filter(|stopgap| stopgap.recorded > stored.recorded).unwrap_or(stored)
}

fn read_file(path: &Path) -> Content {
    let context = || format!("cannot read the ledger {}", path.display());
    let text = match fs::read(path) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => return Content::Missing,
        Err(error) => {
            let attempt =
                format!("{}, which stays as it is until it can be read, or is moved away", context());
            return Content::Unread(anyhow::Error::new(error).context(attempt));
        }
    };
    let parse = || -> Result<Ledger> {
        #[derive(Deserialize)]
        struct Version {
            schema: u32,
        }
        let Version { schema } = serde_json::from_slice(&text)?;
        if schema != SCHEMA {
            bail!("it has schema {schema}, and this program knows {SCHEMA}");
        }
        Ok(serde_json::from_slice(&text)?)
    };
    match parse() {
        Ok(ledger) => Content::Ledger(Box::new(ledger)),
        Err(error) => Content::NotUnderstood(error.context(context())),
    }
}

#[derive(Debug)]
pub struct Written {
    pub ledger: Ledger,
    pub in_stopgap: bool,
    /// The file that was there and could not be understood.
    pub set_aside: Option<String>,
}

/// Read, change and write the ledger, while no other process does. A file that was read and cannot be understood is set
/// aside under a name of its own; one that cannot be read stays.
///
/// Where the disk is too full for it, the ledger is kept in the stopgap's directory until it can be stored again:
/// otherwise each alarm would be repeated every five minutes.
///
/// # Errors
/// It can be neither read nor written; what was there stays as it was.
pub async fn update(places: Places<'_>, now: Time, change: impl FnOnce(&mut Ledger)) -> Result<Written> {
    let failed = |error| of_own_directory("cannot write the ledger in", places.state_dir, error);
    update_locked(places, now, change).await.map_err(failed)
}

fn open_lock(directory: &Path) -> Result<File> {
    let path = directory.join("ledger.lock");
    let opened = fs::create_dir_all(directory).and_then(|()| open(&path, 0o600));
    opened.with_context(|| format!("cannot use the lock {}", path.display()))
}

async fn update_locked(places: Places<'_>, now: Time, change: impl FnOnce(&mut Ledger)) -> Result<Written> {
    // The lock covers the copy in memory too, so that no process overwrites what another has put there.
    let lock = match open_lock(places.state_dir) {
        Err(error) if is_full(&error) => open_lock(places.stopgap_dir)?,
        lock => lock?,
    };
    let _lock = lock_soon(lock).await?;
    let path = path(places.state_dir, places.engine);
    let mut set_aside = None;
    let stored = match read_file(&path) {
        Content::Ledger(ledger) => *ledger,
        Content::Missing => Ledger::default(),
        Content::NotUnderstood(why) => {
            let aside = path.with_extension(format!("json.unreadable-{}", now.as_second()));
            fs::rename(&path, &aside)?;
            set_aside = Some(format!("{why:#}; moved to {}", aside.display()));
            Ledger::default()
        }
        Content::Unread(error) => return Err(error),
    };
    let mut ledger = newer(stored, stopgap(places));
    if places.engine.is_some() {
        ledger.engine = places.engine.map(str::to_owned);
    }
    change(&mut ledger);
    let kept_at = self::path(places.stopgap_dir, places.engine);
    let in_stopgap = match write(&path, &ledger).await {
        Err(error) if is_full(&error) => {
            if write(&kept_at, &ledger).await.is_err() {
                return Err(error);
            }
            true
        }
        written => {
            written?;
            // If it cannot be removed, it is older than the other and not read.
            let _ = fs::remove_file(kept_at);
            drop_abandoned(places.state_dir, &path);
            false
        }
    };
    Ok(Written { ledger, in_stopgap, set_aside })
}

/// In a thread of its own: on a disk that others write to, fsync takes seconds, during which events and signals
/// must be noticed.
async fn write(path: &Path, ledger: &Ledger) -> Result<()> {
    let context = || format!("cannot write {}", path.display());
    #[derive(Serialize)]
    struct Versioned<'a> {
        schema: u32,
        #[serde(flatten)]
        ledger: &'a Ledger,
    }
    let mut text = serde_json::to_vec_pretty(&Versioned { schema: SCHEMA, ledger }).with_context(context)?;
    text.push(b'\n');
    let target = path.to_owned();
    let written = tokio::task::spawn_blocking(move || replace(&target, |file| file.write_all(&text)));
    written.await.map_err(io::Error::other).with_context(context)?
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::facts::{Layer, Moment};
    use crate::ledger::{
        Absent, Clock, Entry, Hour, Level, Pressure, Reading, Reported, Repository, Totals, UselessEviction,
    };
    use crate::testing::now;
    use crate::units::Percent;

    fn places(dir: &tempfile::TempDir) -> Places<'_> {
        Places { state_dir: dir.path(), stopgap_dir: Path::new("/nowhere"), engine: None }
    }

    /// With a time of its own for each field.
    fn ledger() -> Ledger {
        let at = |minute| now() - jiff::SignedDuration::from_mins(minute);
        let references = BTreeMap::from([("app:1".into(), at(1))]);
        let last_used = Some(at(2));
        let layers = Some(vec![Layer::new("sha256:aa", 7), Layer::new("sha256:bb", 0)]);
        let (missing_since, refused) = (Some(at(3)), Some(at(4)));
        let entry = Entry {
            last_used,
            named: true,
            dangling_since: Some(at(99)),
            missing_since,
            references,
            layers,
            refused,
            ..Entry::new(at(5))
        };
        let (boot_id, since_boot) = (Some("boot".into()), Some(Duration::from_millis(1_500)));
        Ledger {
            engine: Some("first".into()),
            clock: Some(Clock {
                time: at(6),
                since_record: Duration::from_millis(500),
                reading: Reading { wall: at(7), boot_id, since_boot },
            }),
            gaps: vec![Duration::from_secs(300), Duration::from_secs(301)],
            older_than: Some(Duration::from_secs(3_600)),
            recorded: Some(at(8)),
            recorded_at: Some(at(9)),
            jumps: vec![Moment { wall: at(10), time: at(11) }],
            events_until: Some(at(12)),
            images: BTreeMap::from([("sha256:a".into(), entry)]),
            repositories: BTreeMap::from([(
                "app".into(),
                Repository {
                    images: 3,
                    came_back: 2,
                    gaps: vec![Duration::from_secs(86_400)],
                    newest: at(26),
                    last_used: at(13),
                },
            )]),
            absent: BTreeMap::from([("sha256:b".into(), Absent { last_used: at(27), came_back: true })]),
            last_run: Some(at(14)),
            last_success: Some(at(15)),
            pressure: Some(Pressure {
                since: at(16),
                blocked: BTreeMap::from([("runs".into(), 5)]),
                owed_since: Some(at(17)),
                reported: Some(Reported { at: at(18), what: "held: runs".into() }),
                intervention_since: Some(now()),
                freed_nothing: Some(UselessEviction { at: at(19), percent: Percent::FULL, used: 7 }),
                exhausted_at: Some(at(23)),
            }),
            unconverged: BTreeMap::from([("s".into(), at(20))]),
            hours: vec![Hour {
                begins: at(21),
                looked: at(22),
                seen: Duration::from_secs(9),
                busy: Duration::from_secs(7),
                used_percent: Some(Percent::FULL),
                growth: Some(3),
            }],
            level: Some(Level { at: at(28), used_percent: Percent::FULL, was_used: true }),
            run_seen: Some(at(24)),
            began: Some(at(25)),
            totals: Totals {
                removed: [("cached".into(), 3)].into(),
                removed_bytes: [("cached".into(), 9)].into(),
                blocked: [("runs".into(), 2)].into(),
                waited: Duration::from_secs(8),
            },
            stuck: Some("c".into()),
            evicting: BTreeMap::from([("sha256:a".into(), vec!["app:1".into()])]),
        }
    }

    #[tokio::test]
    async fn a_ledger_survives_the_disk() {
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(read(places(&dir)), Content::Missing));
        update(places(&dir), now(), |kept| *kept = ledger()).await.unwrap();
        assert!(matches!(read(places(&dir)), Content::Ledger(read) if *read == ledger()));
        let files: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|path| path.unwrap().file_name()).collect();
        assert_eq!(files.len(), 2, "the ledger and its lock: {files:?}");
    }

    #[tokio::test]
    async fn a_ledger_that_is_not_read_stays_and_is_an_error() {
        // Reading a folder is EISDIR, and this process's memory at address 0 EIO.
        for (why, is_folder) in [("Is a directory", true), ("Input/output error", false)] {
            let dir = tempfile::tempdir().unwrap();
            let path = path(dir.path(), None);
            match is_folder {
                true => fs::create_dir(&path).unwrap(),
                false => std::os::unix::fs::symlink("/proc/self/mem", &path).unwrap(),
            }
            assert!(matches!(read(places(&dir)), Content::Unread(_)));
            let error = update(places(&dir), now(), |_| panic!("nothing is known")).await.unwrap_err();
            let text = format!("{error:#}");
            assert!(text.contains(why) && text.contains(path.to_str().unwrap()), "{text}");
            let there = path.symlink_metadata().unwrap();
            assert_eq!((there.is_dir(), there.is_symlink()), (is_folder, !is_folder), "it is as it was");
        }
    }

    #[tokio::test]
    async fn the_newer_of_ledger_and_stopgap_is_read_and_stored_again() {
        let at = |hour: i8| Some(now().checked_add(jiff::SignedDuration::from_hours(hour.into())).unwrap());
        for (stored, kept, recorded) in [(Some(0), Some(1), 1), (Some(1), Some(0), 1), (None, Some(1), 1)] {
            let dir = tempfile::tempdir().unwrap();
            let stopgap_dir = tempfile::tempdir().unwrap();
            let places = Places { state_dir: dir.path(), stopgap_dir: stopgap_dir.path(), engine: None };
            for (directory, hour) in [(&dir, stored), (&stopgap_dir, kept)] {
                let Some(hour) = hour else { continue };
                write(&path(directory.path(), None), &Ledger { recorded: at(hour), ..ledger() })
                    .await
                    .unwrap();
            }
            assert!(matches!(read(places), Content::Ledger(read) if read.recorded == at(recorded)));
            let written =
                update(places, now(), |ledger| assert_eq!(ledger.recorded, at(recorded))).await.unwrap();
            assert!(!written.in_stopgap && written.ledger.recorded == at(recorded));
            assert!(!path(stopgap_dir.path(), None).exists() && path(dir.path(), None).exists());
        }
    }

    #[test]
    fn of_two_that_write_at_the_same_time_neither_loses_what_the_other_wrote() {
        let dir = tempfile::tempdir().unwrap();
        let (places, n) = (places(&dir), 40);
        let write = |writer: &str| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
            for i in 0..n {
                let change = |ledger: &mut Ledger| {
                    // The other has its turn between the reading and the writing.
                    std::thread::yield_now();
                    ledger.images.insert(format!("{writer}{i}"), Entry::new(now()));
                };
                runtime.block_on(update(places, now(), change)).unwrap();
            }
        };
        std::thread::scope(|scope| {
            for writer in ["a", "b", "c", "d"] {
                scope.spawn(move || write(writer));
            }
        });
        match read(places) {
            Content::Ledger(ledger) => assert_eq!(ledger.images.len(), 4 * n),
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn each_engine_has_a_ledger_of_its_own() {
        let dir = tempfile::tempdir().unwrap();
        let of = |engine| Places { engine, ..places(&dir) };
        let record = async |engine, image: &str| {
            let change = |ledger: &mut Ledger| {
                ledger.images.insert(image.to_owned(), self::ledger().images["sha256:a"].clone());
            };
            let ledger = update(of(engine), now(), change).await.unwrap().ledger;
            ledger.images.into_keys().collect::<Vec<_>>().join(" ")
        };
        // From before, without an ID: the first engine adopts it.
        assert_eq!(record(None, "old").await, "old");
        for (engine, image, known) in [
            (Some("A:B"), "a", "a old"),
            (Some("../c"), "c", "c"),
            (Some("A:B"), "b", "a b old"),
            (Some("../c"), "d", "c d"),
            (None, "e", "a b e old"),
        ] {
            assert_eq!(record(engine, image).await, known, "{engine:?}");
        }
        let files = || {
            let files = fs::read_dir(dir.path()).unwrap().flatten();
            let mut files: Vec<_> =
                files.map(|file| file.file_name().to_string_lossy().into_owned()).collect();
            files.sort_unstable();
            files
        };
        assert_eq!(files(), ["ledger----c.json", "ledger.json", "ledger.lock"]);
        // The first engine is gone for good, and the other takes its place.
        let age = |name: &str, days: u64| {
            let written = std::time::SystemTime::now() - Duration::from_secs(days * 86_400);
            File::open(dir.path().join(name)).unwrap().set_modified(written).unwrap();
        };
        age("ledger.json", 59);
        assert_eq!(record(Some("../c"), "c").await, "c d");
        assert_eq!(files(), ["ledger----c.json", "ledger.json", "ledger.lock"]);
        age("ledger.json", 61);
        assert_eq!(record(Some("../c"), "c").await, "c d");
        assert_eq!(files(), ["ledger.json", "ledger.lock"]);
        assert_eq!(record(Some("../c"), "c").await, "c d");
        assert_eq!(record(Some("A:B"), "a").await, "a");
        age("ledger-A-B.json", 61);
        record(Some("../c"), "c").await;
        assert_eq!(files(), ["ledger.json", "ledger.lock"]);
    }

    #[test]
    fn a_ledger_from_before_references_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let old =
            r#"{"schema":1,"recorded":null,"images":{"sha256:a":{"first_seen":"2026-11-20T12:00:00Z"}}}"#;
        fs::write(path(dir.path(), None), old).unwrap();
        let Content::Ledger(read) = read(places(&dir)) else { panic!("it is readable") };
        assert!(read.images["sha256:a"].references.is_empty() && read.superseded().is_empty());
    }

    #[tokio::test]
    async fn an_unreadable_ledger_is_set_aside_whole() {
        let newer = r#"{"schema":2,"recorded":null,"images":{}}"#;
        for broken in
            ["", "{", "[]", "\0\u{1}garbage", newer, r#"{"schema":1,"recorded":"yesterday","images":{}}"#]
        {
            let dir = tempfile::tempdir().unwrap();
            fs::write(path(dir.path(), None), broken).unwrap();
            assert!(matches!(read(places(&dir)), Content::NotUnderstood(_)), "{broken}");
            let written = update(places(&dir), now(), |ledger| ledger.recorded = Some(now())).await.unwrap();
            assert_eq!(
                fs::read_to_string(written.set_aside.unwrap().rsplit_once("moved to ").unwrap().1).unwrap(),
                broken
            );
            assert!(matches!(read(places(&dir)), Content::Ledger(_)));
        }
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_the_reader_panic(bytes: Vec<u8>) {
            let dir = tempfile::tempdir().unwrap();
            fs::write(path(dir.path(), None), bytes).unwrap();
            let _ = read(places(&dir));
        }
    }
}
