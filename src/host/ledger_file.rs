//! The ledger on disk: read whole, written atomically, never lost.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufWriter, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::error::{Cause, HostError, Result, SetAside};
use super::lock::{lock_soon, open};
use super::replace;
use crate::facts::Layer;
use crate::ledger::{Clock, Entry, Ledger, Pressure, Reading, Reported, Returns, UselessEviction};
use crate::units::{Percent, Time};

const SCHEMA: u32 = 1;

#[derive(Serialize, Deserialize)]
struct LedgerJson {
    schema: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    clock: Option<ClockJson>,
    #[serde(default)]
    noted: Option<Time>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    noted_at: Option<Time>,
    #[serde(default)]
    events_until: Option<Time>,
    images: BTreeMap<String, EntryJson>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    repositories: BTreeMap<String, ReturnsJson>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    last_run: Option<Time>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    last_success: Option<Time>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pressure: Option<PressureJson>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    stuck: Option<(String, String)>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    evicting: BTreeMap<String, Vec<String>>,
}

#[derive(Serialize, Deserialize)]
struct ClockJson {
    time: Time,
    wall: Time,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    boot_id: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    boot_seconds: Option<f64>,
}

#[derive(Serialize, Deserialize)]
struct PressureJson {
    since: Time,
    #[serde(default)]
    blocked: BTreeMap<String, u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    owed_since: Option<Time>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    reported: Option<ReportedJson>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    alarmed: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    freed_nothing: Option<UselessEvictionJson>,
}

#[derive(Serialize, Deserialize)]
struct UselessEvictionJson {
    at: Time,
    used_percent: u8,
}

#[derive(Serialize, Deserialize)]
struct ReportedJson {
    at: Time,
    what: String,
}

#[derive(Serialize, Deserialize)]
struct ReturnsJson {
    images: u32,
    returns: u32,
    last_used: Time,
}

#[derive(Serialize, Deserialize)]
struct EntryJson {
    first_seen: Time,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_used: Option<Time>,
    #[serde(default)]
    named: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    dangling_since: Option<Time>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    references: BTreeMap<String, Time>,
    /// `ID:BYTES …`: a line an image, where a list would take four a layer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    layers: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    refused: Option<Time>,
}

fn shown_layers(layers: &[Layer]) -> String {
    layers.iter().map(|Layer { id, size }| format!("{id}:{size}")).collect::<Vec<_>>().join(" ")
}

/// Layers that cannot be understood are asked for again.
fn parse_layers(text: &str) -> Option<Vec<Layer>> {
    let layer = |word: &str| {
        let (id, size) = word.split_once(':')?;
        Some(Layer { id: id.to_owned(), size: size.parse().ok()? })
    };
    text.split_whitespace().map(layer).collect()
}

impl From<PressureJson> for Pressure {
    fn from(json: PressureJson) -> Self {
        Self {
            since: json.since,
            blocked: json.blocked,
            owed_since: json.owed_since,
            reported: json.reported.map(|ReportedJson { at, what }| Reported { at, what }),
            alarmed: json.alarmed,
            freed_nothing: json.freed_nothing.and_then(|UselessEvictionJson { at, used_percent }| {
                Some(UselessEviction { at, percent: Percent::of(used_percent.into(), 100)? })
            }),
        }
    }
}

impl From<&Pressure> for PressureJson {
    fn from(pressure: &Pressure) -> Self {
        let reported = pressure.reported.clone();
        Self {
            since: pressure.since,
            blocked: pressure.blocked.clone(),
            owed_since: pressure.owed_since,
            reported: reported.map(|Reported { at, what }| ReportedJson { at, what }),
            alarmed: pressure.alarmed,
            freed_nothing: pressure.freed_nothing.map(|UselessEviction { at, percent }| {
                UselessEvictionJson { at, used_percent: percent.get() }
            }),
        }
    }
}

impl From<LedgerJson> for Ledger {
    fn from(json: LedgerJson) -> Self {
        let entry = |json: EntryJson| Entry {
            first_seen: json.first_seen,
            last_used: json.last_used,
            named: json.named,
            dangling_since: json.dangling_since,
            references: json.references,
            layers: json.layers.as_deref().and_then(parse_layers),
            refused: json.refused,
        };
        let returns = |ReturnsJson { images, returns, last_used }| Returns { images, returns, last_used };
        let clock = |ClockJson { time, wall, boot_id, boot_seconds }| {
            let since_boot = boot_seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
            Clock { time, reading: Reading { wall, boot_id, since_boot } }
        };
        Self {
            clock: json.clock.map(clock),
            noted: json.noted,
            noted_at: json.noted_at,
            events_until: json.events_until,
            images: json.images.into_iter().map(|(id, image)| (id, entry(image))).collect(),
            repositories: json
                .repositories
                .into_iter()
                .map(|(name, repository)| (name, returns(repository)))
                .collect(),
            last_run: json.last_run,
            last_success: json.last_success,
            pressure: json.pressure.map(Into::into),
            stuck: json.stuck,
            evicting: json.evicting,
        }
    }
}

impl From<&Ledger> for LedgerJson {
    fn from(ledger: &Ledger) -> Self {
        let entry = |entry: &Entry| EntryJson {
            first_seen: entry.first_seen,
            last_used: entry.last_used,
            named: entry.named,
            dangling_since: entry.dangling_since,
            references: entry.references.clone(),
            layers: entry.layers.as_deref().map(shown_layers),
            refused: entry.refused,
        };
        let returns = |returns: &Returns| ReturnsJson {
            images: returns.images,
            returns: returns.returns,
            last_used: returns.last_used,
        };
        let repositories = ledger
            .repositories
            .iter()
            .map(|(name, repository)| (name.clone(), returns(repository)))
            .collect();
        let images = ledger.images.iter().map(|(id, image)| (id.clone(), entry(image))).collect();
        Self {
            schema: SCHEMA,
            clock: ledger.clock.as_ref().map(|Clock { time, reading }| ClockJson {
                time: *time,
                wall: reading.wall,
                boot_id: reading.boot_id.clone(),
                boot_seconds: reading.since_boot.map(|since| since.as_secs_f64()),
            }),
            noted: ledger.noted,
            noted_at: ledger.noted_at,
            events_until: ledger.events_until,
            images,
            repositories,
            last_run: ledger.last_run,
            last_success: ledger.last_success,
            pressure: ledger.pressure.as_ref().map(Into::into),
            stuck: ledger.stuck.clone(),
            evicting: ledger.evicting.clone(),
        }
    }
}

/// What a ledger's file holds.
#[derive(Debug)]
pub enum Content {
    /// A ledger.
    Ledger(Box<Ledger>),
    /// There is no such file.
    Missing,
    /// It is there and cannot be understood.
    Unreadable(HostError),
}

fn path(state_dir: &Path) -> PathBuf {
    state_dir.join("ledger.json")
}

/// Read the ledger and leave the file as it is.
pub fn read(state_dir: &Path) -> Content {
    let path = path(state_dir);
    let context = || format!("cannot read the ledger {}", path.display());
    let text = match fs::read(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => return Content::Missing,
        Err(error) => return Content::Unreadable(HostError::new(context(), error)),
    };
    let parse = || -> Result<Ledger, Cause> {
        let json: LedgerJson = serde_json::from_slice(&text)?;
        if json.schema != SCHEMA {
            return Err(Cause::Schema { found: json.schema, known: SCHEMA });
        }
        Ok(json.into())
    };
    match parse() {
        Ok(ledger) => Content::Ledger(Box::new(ledger)),
        Err(error) => Content::Unreadable(HostError::new(context(), error)),
    }
}

/// Read, change and write the ledger, while no other process does. An unreadable file is set aside
/// under a name of its own, which is returned.
///
/// # Errors
/// The directory cannot be written, or is full; what was there stays as it was.
pub async fn update(
    state_dir: &Path,
    now: Time,
    change: impl FnOnce(&mut Ledger),
) -> Result<(Ledger, Option<SetAside>)> {
    let failed = |cause| HostError::of_own_directory("cannot write the ledger in", state_dir, cause);
    update_locked(state_dir, now, change).await.map_err(failed)
}

async fn update_locked(
    state_dir: &Path,
    now: Time,
    change: impl FnOnce(&mut Ledger),
) -> Result<(Ledger, Option<SetAside>), Cause> {
    fs::create_dir_all(state_dir)?;
    let lock = open(&state_dir.join("ledger.lock"), 0o600)?;
    let _lock = lock_soon(lock).await?;
    let mut set_aside = None;
    let mut ledger = match read(state_dir) {
        Content::Ledger(ledger) => *ledger,
        Content::Missing => Ledger::default(),
        Content::Unreadable(why) => {
            let aside = state_dir.join(format!("ledger.json.unreadable-{}", now.as_second()));
            fs::rename(path(state_dir), &aside)?;
            set_aside = Some(SetAside { path: aside, why });
            Ledger::default()
        }
    };
    change(&mut ledger);
    write(state_dir, &ledger)?;
    Ok((ledger, set_aside))
}

/// Remove a ledger that is stored elsewhere now.
pub fn remove(state_dir: &Path) {
    // One that stays is older than the other, and not read.
    let _ = fs::remove_file(path(state_dir));
}

fn write(state_dir: &Path, ledger: &Ledger) -> Result<()> {
    replace(&path(state_dir), |file| {
        let mut out = BufWriter::new(file);
        serde_json::to_writer_pretty(&mut out, &LedgerJson::from(ledger))?;
        out.write_all(b"\n")?;
        out.flush()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::now;

    fn ledger() -> Ledger {
        let references = BTreeMap::from([("app:1".into(), now())]);
        let last_used = Some(now());
        let layers = Some(vec![Layer::new("sha256:aa", 7), Layer::new("sha256:bb", 0)]);
        let refused = Some(now());
        let entry = Entry { last_used, named: true, references, layers, refused, ..Entry::new(now()) };
        let (boot_id, since_boot) = (Some("boot".into()), Some(Duration::from_millis(1_500)));
        Ledger {
            clock: Some(Clock { time: now(), reading: Reading { wall: now(), boot_id, since_boot } }),
            noted: Some(now()),
            noted_at: Some(now()),
            events_until: Some(now()),
            images: BTreeMap::from([("sha256:a".into(), entry)]),
            repositories: BTreeMap::from([(
                "app".into(),
                Returns { images: 2, returns: 5, last_used: now() },
            )]),
            last_run: Some(now()),
            last_success: Some(now()),
            pressure: Some(Pressure {
                since: now(),
                blocked: BTreeMap::from([("runs".into(), 5)]),
                owed_since: Some(now()),
                reported: Some(Reported { at: now(), what: "held: runs".into() }),
                alarmed: true,
                freed_nothing: Some(UselessEviction { at: now(), percent: Percent::FULL }),
            }),
            stuck: Some(("container".into(), "c".into())),
            evicting: BTreeMap::from([("sha256:a".into(), vec!["app:1".into()])]),
        }
    }

    #[tokio::test]
    async fn a_ledger_survives_the_disk() {
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(read(dir.path()), Content::Missing));
        update(dir.path(), now(), |kept| *kept = ledger()).await.unwrap();
        assert!(matches!(read(dir.path()), Content::Ledger(read) if *read == ledger()));
        let files: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|path| path.unwrap().file_name()).collect();
        assert_eq!(files.len(), 2, "the ledger and its lock: {files:?}");
    }

    #[test]
    fn a_ledger_from_before_references_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let old = r#"{"schema":1,"noted":null,"images":{"sha256:a":{"first_seen":"2026-11-20T12:00:00Z"}}}"#;
        fs::write(path(dir.path()), old).unwrap();
        let Content::Ledger(read) = read(dir.path()) else { panic!("it is readable") };
        assert!(read.images["sha256:a"].references.is_empty() && read.superseded().is_empty());
    }

    #[tokio::test]
    async fn an_unreadable_ledger_is_set_aside_whole() {
        let newer = r#"{"schema":2,"noted":null,"images":{}}"#;
        for broken in
            ["", "{", "[]", "\0\u{1}garbage", newer, r#"{"schema":1,"noted":"yesterday","images":{}}"#]
        {
            let dir = tempfile::tempdir().unwrap();
            fs::write(path(dir.path()), broken).unwrap();
            assert!(matches!(read(dir.path()), Content::Unreadable(_)), "{broken}");
            let (_, aside) = update(dir.path(), now(), |ledger| ledger.noted = Some(now())).await.unwrap();
            assert_eq!(fs::read_to_string(aside.unwrap().path).unwrap(), broken);
            assert!(matches!(read(dir.path()), Content::Ledger(_)));
        }
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_the_reader_panic(bytes: Vec<u8>) {
            let dir = tempfile::tempdir().unwrap();
            fs::write(path(dir.path()), bytes).unwrap();
            let _ = read(dir.path());
        }
    }
}
