//! What a CI host is asked to run: made from a seed, or read from a file of JSON lines.
//!
//! A line is a run:
//!
//! ```json
//! {"time": "2026-11-20T09:30:00Z", "run": "shop-4f2a", "minutes": 20, "images": [
//!   {"name": "postgres:15", "digest": "sha256:8d3b…", "built": "2026-11-01T00:00:00Z", "layers": [
//!     {"id": "sha256:1f…", "bytes": 31415926}]}]}
//! ```
//!
//! `built` may be left out. Lines stand in the order of time; layers with the same ID are the same.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use ci_docker_prune::units::Time;
use serde::Deserialize;

use crate::engine::Image;

/// One run.
#[derive(Debug, Clone)]
pub struct Run {
    /// Milliseconds since the beginning.
    pub at: u64,
    pub lasts: u64,
    /// By their names in [`Trace::images`].
    pub images: Vec<String>,
}

/// Runs, and the images that they ask for.
#[derive(Debug, Default)]
pub struct Trace {
    pub runs: Vec<Run>,
    pub images: BTreeMap<String, Image>,
    /// When each was built, milliseconds since the beginning; may lie before it.
    pub built: BTreeMap<String, i64>,
}

const HOUR: u64 = 3_600_000;

/// A generator of numbers that look random (SplitMix64).
struct Random(u64);

impl Random {
    fn next(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) as f64 / u64::MAX as f64
    }

    fn between(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * self.next()
    }

    fn below(&mut self, n: usize) -> usize {
        ((self.next() * n as f64) as usize).min(n - 1)
    }

    /// A size around this that has many small and few large ones.
    fn size(&mut self, typical: f64) -> u64 {
        let spread = (0..6).map(|_| self.next()).sum::<f64>() - 3.0;
        (typical * (1.1 * spread).exp()) as u64
    }
}

const MB: f64 = 1e6;
const BASES: usize = 6;
const DEPENDENCIES: usize = 40;
const APPS: usize = 8;

/// A host's life by its figures: applications on shared base layers, one image for each commit; what they depend on,
/// some of it popular, with a new digest now and then; some runs of an older commit; a weekly job of its own. Weekends
/// are quiet.
pub fn made(days: u64, commits_a_day: u64, seed: u64) -> Trace {
    let mut random = Random(seed);
    let mut trace = Trace::default();
    let mut layers = 0;
    let mut layer = |size: u64| {
        layers += 1;
        (format!("layer{layers}"), size)
    };
    let mut bases: Vec<(String, u64)> =
        (0..BASES).map(|_| layer(random.between(30.0, 120.0).mul_add(MB, 0.0) as u64)).collect();
    let popularity: Vec<f64> = (1..=DEPENDENCIES).map(|n| (n as f64).powf(-0.8)).collect();
    let sizes: Vec<u64> = (0..DEPENDENCIES).map(|_| random.size(200.0 * MB)).collect();
    let mut current: Vec<Option<String>> = vec![None; DEPENDENCIES];
    let mut libraries: Vec<(String, u64)> =
        (0..APPS).map(|_| layer(random.between(100.0, 400.0).mul_add(MB, 0.0) as u64)).collect();
    let mut commits: Vec<(u64, String)> = Vec::new();
    for day in 0..days {
        let weekend = day % 7 >= 5;
        for n in 0..DEPENDENCIES {
            if current[n].is_none() || random.next() < 1.0 / 12.0 {
                let size = (sizes[n] as f64 * random.between(0.9, 1.1) / 2.0) as u64;
                let image = vec![bases[n % BASES].clone(), layer(size), layer(size)];
                current[n] = Some(trace.add(&format!("dep{n}:1"), &format!("dep{n}-{day}"), day, image));
            }
        }
        for base in &mut bases {
            if random.next() < 1.0 / 30.0 {
                *base = layer(random.between(30.0, 120.0).mul_add(MB, 0.0) as u64);
            }
        }
        for library in &mut libraries {
            if random.next() < 1.0 / 7.0 {
                *library = layer(random.between(100.0, 400.0).mul_add(MB, 0.0) as u64);
            }
        }
        let mut wanted = Vec::new();
        for n in 0..if weekend { commits_a_day / 4 } else { commits_a_day } {
            let app = random.below(APPS);
            let own = layer(random.between(50.0, 250.0).mul_add(MB, 0.0) as u64);
            let image = vec![bases[app % BASES].clone(), libraries[app].clone(), own];
            let commit =
                trace.add(&format!("app{app}:c{day}x{n}"), &format!("app{app}-{day}-{n}"), day, image);
            commits.push((day, commit.clone()));
            wanted.push((random.between(8.0, 20.0), commit));
        }
        for (built, commit) in &commits {
            if (1..3).contains(&(day - built)) && random.next() < 0.15 {
                wanted.push((random.between(8.0, 20.0), commit.clone()));
            }
        }
        for (hour, commit) in wanted {
            let mut images = vec![commit];
            for _ in 0..5 {
                let mut draw = random.next() * popularity.iter().sum::<f64>();
                let chosen = popularity.iter().position(|weight| {
                    draw -= weight;
                    draw <= 0.0
                });
                images.extend(current[chosen.unwrap_or(0)].clone());
            }
            images.sort();
            images.dedup();
            let at = day * 24 * HOUR + (hour * HOUR as f64) as u64;
            trace.runs.push(Run { at, lasts: 20 * 60_000, images });
        }
        if day % 7 == 0 {
            let images = current[30..].iter().flatten().cloned().collect();
            trace.runs.push(Run { at: day * 24 * HOUR + 3 * HOUR, lasts: 30 * 60_000, images });
        }
    }
    trace.runs.sort_by_key(|run| run.at);
    trace
}

/// Every recipe once a night, one after the other, with an image of its own on a shared layer: the worst case of least
/// recently used.
pub fn nightly_sweep(recipes: u64, nights: u64, seed: u64) -> Trace {
    let mut random = Random(seed);
    let mut trace = Trace::default();
    let shared = ("library".to_owned(), 100_000_000);
    let images: Vec<String> = (0..recipes)
        .map(|n| {
            let own = (format!("layer{n}"), random.between(100.0, 400.0).mul_add(MB, 0.0) as u64);
            trace.add(&format!("recipe{n}:1"), &format!("recipe-{n}"), 0, vec![shared.clone(), own])
        })
        .collect();
    for night in 0..nights {
        let mut at = night * 24 * HOUR + HOUR / 2;
        for image in &images {
            let lasts = (random.between(4.0, 9.0) * 60_000.0) as u64;
            trace.runs.push(Run { at, lasts, images: vec![image.clone()] });
            at += lasts + 45_000;
        }
    }
    trace
}

/// Slots that are busy round the clock: in each a run begins when the one before has ended, and has an image of its own.
pub fn busy_slots(slots: u64, hours: u64, seed: u64) -> Trace {
    let mut random = Random(seed);
    let mut trace = Trace::default();
    let shared = ("library".to_owned(), 400_000_000);
    for slot in 0..slots {
        let mut at = slot * HOUR / 15;
        while at < hours * HOUR {
            let n = trace.runs.len();
            let own = (format!("commit{n}"), random.between(100.0, 260.0).mul_add(MB, 0.0) as u64);
            let image = trace.add(&format!("app:c{n}"), &format!("app-{n}"), 0, vec![shared.clone(), own]);
            let lasts = (random.between(6.0, 20.0) * 60_000.0) as u64;
            trace.runs.push(Run { at, lasts, images: vec![image] });
            at += lasts;
        }
    }
    trace.runs.sort_by_key(|run| run.at);
    trace
}

impl Trace {
    /// How many runs are live at once, at most: so many the CI has slots for.
    pub fn slots(&self) -> usize {
        let begins = self.runs.iter().map(|run| (run.at, 1));
        // One that ends makes room for one that begins at that time.
        let ends = self.runs.iter().map(|run| (run.at + run.lasts, -1));
        let mut changes: Vec<(u64, isize)> = begins.chain(ends).collect();
        changes.sort_unstable();
        let live = changes.iter().scan(0, |live, (_, change)| {
            *live += change;
            Some(*live)
        });
        live.max().unwrap_or(0).unsigned_abs()
    }

    fn add(&mut self, name_tag: &str, name: &str, day: u64, layers: Vec<(String, u64)>) -> String {
        let reference = format!("{name_tag}@sha256:{name}");
        self.images.insert(name.into(), Image { name: name.into(), reference, layers });
        self.built.insert(name.into(), i64::try_from(day * 24 * HOUR).unwrap_or(i64::MAX));
        name.to_owned()
    }

    /// Read a trace.
    ///
    /// # Errors
    /// Names the line that cannot be understood.
    pub fn read(text: &str) -> Result<Self> {
        #[derive(Deserialize)]
        struct Line {
            time: Time,
            minutes: u64,
            images: Vec<ImageLine>,
        }
        #[derive(Deserialize)]
        struct ImageLine {
            name: String,
            digest: String,
            built: Option<Time>,
            layers: Vec<LayerLine>,
        }
        #[derive(Deserialize)]
        struct LayerLine {
            id: String,
            bytes: u64,
        }
        let mut trace = Self::default();
        let mut start = None;
        for (n, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
            let line: Line = serde_json::from_str(line).with_context(|| format!("line {}", n + 1))?;
            let start = *start.get_or_insert(line.time);
            let since = |at: Time| i64::try_from(at.duration_since(start).as_millis()).unwrap_or(i64::MAX);
            let mut images = Vec::new();
            for image in line.images {
                let name = image.digest.trim_start_matches("sha256:").to_owned();
                let reference = format!("{}@sha256:{name}", image.name);
                let layers = image.layers.into_iter().map(|layer| (layer.id, layer.bytes)).collect();
                trace.built.insert(name.clone(), image.built.map_or(i64::MIN, since));
                trace.images.insert(name.clone(), Image { name: name.clone(), reference, layers });
                images.push(name);
            }
            let at =
                u64::try_from(since(line.time)).with_context(|| format!("line {}: time goes back", n + 1))?;
            trace.runs.push(Run { at, lasts: line.minutes * 60_000, images });
        }
        Ok(trace)
    }
}
