//! The JSON shapes: an interface of its own, apart from the types inside.

use std::collections::BTreeMap;
use std::io::{self, Write};

use serde::Serialize;
use serde_json::{Value, json};

use super::text::{busy, keep_reason, occupant_kind, reason, remove_reason_line, skip, stop, word};
use super::{Ending, PruneReport, checks, outcome_word};
use crate::checks::{Check, Deployed, Redeploy, Status};
use crate::gates::disk::{self, Usage};
use crate::gates::{Gate, Verdict, Word, converge, runs, together};
use crate::occupants::{Occupant, Occupants};
use crate::plan::{Kept, Removal};
use crate::units::Time;

const SCHEMA: u32 = 1;

#[derive(Serialize)]
struct GatesJson {
    schema: u32,
    open: bool,
    gates: Vec<GateJson>,
}

#[derive(Serialize)]
struct GateJson {
    gate: &'static str,
    verdict: &'static str,
    reason: String,
    facts: Value,
}

#[derive(Serialize)]
struct PruneJson {
    schema: u32,
    dry_run: bool,
    outcome: &'static str,
    gates: Vec<GateJson>,
    plan: PlanJson,
    removed: Vec<RemovalJson>,
    skipped: Vec<SkippedJson>,
    failed: Vec<FailedJson>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stopped: Option<String>,
    disk: DiskJson,
    reclaimed_bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pressure: Option<PressureJson>,
    #[serde(skip_serializing_if = "Option::is_none")]
    occupants: Option<OccupantsJson>,
}

/// Present where it was looked at: with `--verbose`, and at the end of a run under pressure.
#[derive(Serialize)]
struct OccupantsJson {
    largest: Vec<OccupantJson>,
    unreachable: Vec<String>,
    unseen: Vec<String>,
}

#[derive(Serialize)]
struct OccupantJson {
    kind: String,
    id: String,
    names: Vec<String>,
    size: u64,
}

/// Present while the disk stays under pressure.
#[derive(Serialize)]
struct PressureJson {
    since: Time,
    seconds: u64,
    held_back: BTreeMap<String, u64>,
}

#[derive(Serialize, Default)]
struct PlanJson {
    remove: Vec<RemovalJson>,
    keep: Vec<KeptJson>,
    /// Tags of our own that come off images whose eviction was interrupted.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    release: Vec<String>,
}

#[derive(Serialize)]
struct RemovalJson {
    kind: &'static str,
    id: String,
    names: Vec<String>,
    size: u64,
    reason: String,
}

#[derive(Serialize)]
struct KeptJson {
    kind: &'static str,
    id: String,
    names: Vec<String>,
    size: u64,
    reason: String,
}

#[derive(Serialize)]
struct SkippedJson {
    id: String,
    reason: String,
}

#[derive(Serialize)]
struct FailedJson {
    id: String,
    error: String,
}

#[derive(Serialize)]
struct DiskJson {
    before: Option<FilesystemJson>,
    after: Option<FilesystemJson>,
}

/// The fullest filesystem; `filesystems` has them all where there are several.
#[derive(Serialize)]
struct FilesystemJson {
    path: String,
    used_percent: u8,
    block_percent: Option<u8>,
    inode_percent: Option<u8>,
    size_bytes: u64,
    used_bytes: u64,
    available_bytes: u64,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    filesystems: Vec<FilesystemJson>,
}

pub fn gates(out: &mut impl Write, gates: &[Gate]) -> io::Result<()> {
    let open = together(gates) == Word::Open;
    print(out, &GatesJson { schema: SCHEMA, open, gates: gates.iter().map(gate).collect() })
}

fn gate(it: &Gate) -> GateJson {
    GateJson { gate: it.name(), verdict: word(it.word()), reason: reason(it), facts: facts(it) }
}

fn facts(gate: &Gate) -> Value {
    match gate {
        Gate::Disk(Verdict::Open(measured) | Verdict::Closed(measured)) => {
            let filesystems: Vec<_> = measured.usages.iter().map(filesystem).collect();
            json!({"threshold_percent": measured.threshold.get(), "filesystems": filesystems})
        }
        Gate::Disk(Verdict::Unknown(disk::Unknown::NoBlocks(it))) => json!({"path": it.mount_point}),
        Gate::Disk(Verdict::Unknown(disk::Unknown::Unanswered(_))) | Gate::Runs(Verdict::Unknown(_)) => {
            json!({})
        }
        Gate::Runs(Verdict::Open(())) => json!({"runs": []}),
        Gate::Runs(Verdict::Closed(found)) => {
            let run = |run: &runs::Run| {
                let kind = match run.kind {
                    runs::Kind::Stack => "stack",
                    runs::Kind::Service => "service",
                    runs::Kind::ComposeProject => "compose-project",
                    runs::Kind::Container => "container",
                    runs::Kind::Inhibitor => "inhibitor",
                };
                let age = run.age.map(|age| age.as_secs());
                json!({"kind": kind, "name": run.name, "pid": run.pid, "age": age})
            };
            json!({"runs": found.iter().map(run).collect::<Vec<_>>()})
        }
        Gate::Converge(Verdict::Open(converge::Open::NotInSwarm)) => json!({"swarm": false}),
        Gate::Converge(Verdict::Open(converge::Open::Settled(n))) => json!({"swarm": true, "services": n}),
        Gate::Converge(Verdict::Closed(converge::Closed::Converging(services))) => {
            let service = |it: &converge::Unsettled| {
                let cause = match it.cause {
                    converge::Cause::Updating => "updating",
                    converge::Cause::RollingBack => "rolling-back",
                    converge::Cause::Pulling => "pulling",
                    converge::Cause::Starting => "starting",
                    converge::Cause::CrashLooping(_) => "crash-looping",
                    converge::Cause::FailedForGood(_) => "failed",
                    converge::Cause::ImageNotFound(_) => "image-not-found",
                    converge::Cause::NoSuitableNode(_) => "no-suitable-node",
                };
                let age = it.age.map(|age| age.as_secs());
                json!({"name": it.service, "running": it.has, "desired": it.wants, "cause": cause, "age": age})
            };
            json!({"swarm": true, "converging": services.iter().map(service).collect::<Vec<_>>()})
        }
        Gate::Converge(Verdict::Closed(converge::Closed::EngineSettling(tasks))) => {
            json!({"swarm": true, "tasks_without_container": tasks})
        }
        Gate::Converge(Verdict::Unknown(_)) => json!({}),
    }
}

pub fn prune(out: &mut impl Write, report: &PruneReport) -> io::Result<()> {
    let empty = crate::execute::Outcome::default();
    let outcome = if let Ending::CarriedOut(outcome) = &report.ending { outcome } else { &empty };
    let plan = report.plan.as_ref().map(|plan| PlanJson {
        remove: plan.remove.iter().map(removal).collect(),
        keep: plan.keep.iter().map(kept).collect(),
        release: plan.release.clone(),
    });
    print(
        out,
        &PruneJson {
            schema: SCHEMA,
            dry_run: report.dry_run,
            outcome: outcome_word(report),
            gates: report.gates.iter().map(gate).collect(),
            plan: plan.unwrap_or_default(),
            removed: outcome.removed.iter().map(removal).collect(),
            skipped: outcome
                .skipped
                .iter()
                .map(|(it, why)| SkippedJson { id: it.id.clone(), reason: skip(why) })
                .collect(),
            failed: outcome
                .failed
                .iter()
                .map(|(it, error)| FailedJson { id: it.id.clone(), error: error.to_string() })
                .collect(),
            stopped: match &report.ending {
                Ending::Busy(pid, dir) => Some(busy(*pid, dir)),
                Ending::Failed(why) => Some(why.clone()),
                _ => outcome.stopped.as_ref().map(stop),
            },
            disk: DiskJson { before: fullest(&report.before), after: fullest(&report.after) },
            reclaimed_bytes: report.reclaimed,
            pressure: report.pressure.as_ref().map(|it| PressureJson {
                since: it.since,
                seconds: it.duration.as_secs(),
                held_back: it.held_back.clone(),
            }),
            occupants: report.occupants.as_ref().map(occupants),
        },
    )
}

fn occupants(it: &Occupants) -> OccupantsJson {
    let occupant = |it: &Occupant| OccupantJson {
        kind: occupant_kind(it.kind).replace(' ', "-"),
        id: it.id.clone(),
        names: it.names.clone(),
        size: it.size,
    };
    OccupantsJson {
        largest: it.largest.iter().map(occupant).collect(),
        unreachable: it.unreachable.iter().map(|it| it.display().to_string()).collect(),
        unseen: it.unseen.iter().map(|it| it.0.clone()).collect(),
    }
}

fn removal(it: &Removal) -> RemovalJson {
    RemovalJson {
        kind: it.kind.name(),
        id: it.id.clone(),
        names: it.names.clone(),
        size: it.size,
        reason: remove_reason_line(&it.reason),
    }
}

fn kept(it: &Kept) -> KeptJson {
    KeptJson {
        kind: if it.container { "container" } else { "image" },
        id: it.id.clone(),
        names: it.names.clone(),
        size: it.size,
        reason: keep_reason(&it.reason),
    }
}

fn fullest(usages: &[Usage]) -> Option<FilesystemJson> {
    let mut first = filesystem(usages.first()?);
    if usages.len() > 1 {
        first.filesystems = usages.iter().map(filesystem).collect();
    }
    Some(first)
}

fn filesystem(usage: &Usage) -> FilesystemJson {
    let it = &usage.filesystem;
    FilesystemJson {
        path: it.mount_point.display().to_string(),
        used_percent: usage.percent.get(),
        block_percent: it.block_percent().map(crate::units::Percent::get),
        inode_percent: it.inode_percent().map(crate::units::Percent::get),
        size_bytes: it.size,
        used_bytes: it.used,
        available_bytes: it.available,
        filesystems: vec![],
    }
}

pub fn checks(out: &mut impl Write, list: &[Check]) -> io::Result<()> {
    let check = |check: &Check| {
        let mut json = json!({
            "check": check.name(),
            "status": checks::status(check.status()),
            "detail": checks::detail(check),
        });
        if let Check::Redeploy(Redeploy::Proved { cold, warm, planned }) = check {
            let deploy = |it: &Deployed| json!({"image": it.image, "milliseconds": it.milliseconds, "layers_downloaded": it.layers});
            json["facts"] = json!({"cold": deploy(cold), "warm": deploy(warm), "planned": planned});
        }
        json
    };
    let ok = list.iter().all(|check| check.status() != Status::Failed);
    print(out, &json!({"schema": SCHEMA, "ok": ok, "checks": list.iter().map(check).collect::<Vec<_>>()}))
}

pub fn recorded(out: &mut impl Write, used: usize, known: usize) -> io::Result<()> {
    print(out, &json!({"schema": SCHEMA, "in_use": used, "known": known}))
}

fn print(out: &mut impl Write, value: &impl Serialize) -> io::Result<()> {
    serde_json::to_writer(&mut *out, value)?;
    writeln!(out)
}
