//! The JSON shapes: an interface of its own, apart from the types inside.

use std::collections::BTreeMap;
use std::io::{self, Write};

use serde::Serialize;
use serde_json::{Value, json};

use super::text::{
    busy, keep_reason, kind_name, occupant_kind, reason, remove_reason_line, skip, stop, word,
};
use super::{Ending, Lasting, PruneReport, StatusReport, advice, checks, outcome_word};
use crate::checks::{Check, Deployed, Redeploy, Status};
use crate::gates::disk::{self, Usage};
use crate::gates::{Gate, Verdict, Word, converge, runs, together};
use crate::occupants::{Occupant, Occupants};
use crate::plan::{self, Condition, Keep, Kept, Removal, Remove, Rung};
use crate::units::Time;

const SCHEMA: u32 = 1;

#[derive(Serialize)]
struct GatesJson {
    schema: u32,
    open: bool,
    gates: Vec<GateJson>,
    /// Present where a gate is closed on a disk that is nearly full.
    #[serde(skip_serializing_if = "Option::is_none")]
    advice: Option<String>,
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
    #[serde(skip_serializing_if = "Option::is_none")]
    advice: Option<String>,
    /// How full the filesystem that holds the images would be after the plan, by the sizes.
    #[serde(skip_serializing_if = "Option::is_none")]
    projected_percent: Option<u8>,
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
    #[serde(skip_serializing_if = "Option::is_none")]
    freed_nothing: Option<FreedNothingJson>,
}

/// Present where eviction ended because images that were evicted freed nothing.
#[derive(Serialize)]
struct FreedNothingJson {
    images: usize,
    size: u64,
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
    #[serde(skip_serializing_if = "Option::is_none")]
    image: Option<ImageUseJson>,
}

#[derive(Serialize)]
struct ImageUseJson {
    in_use: bool,
    age_seconds: Option<u64>,
    last_used_seconds: Option<u64>,
    last_name: Option<String>,
}

/// Present while the disk stays under pressure.
#[derive(Serialize)]
struct PressureJson {
    since: Time,
    seconds: u64,
    blocked: BTreeMap<String, u64>,
    /// For how long no prune could be carried out to its end.
    owed_seconds: Option<u64>,
}

#[derive(Serialize, Default)]
struct PlanJson {
    remove: Vec<RemovalJson>,
    keep: Vec<KeptJson>,
    /// Tags of our own that come off images whose eviction was interrupted.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    release: Vec<String>,
    /// What the engine would not tell, and stays for that.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    unread: Vec<UnreadJson>,
}

#[derive(Serialize)]
struct UnreadJson {
    kind: &'static str,
    id: String,
    error: String,
}

#[derive(Serialize)]
struct RemovalJson {
    kind: &'static str,
    id: String,
    names: Vec<String>,
    size: u64,
    reason: String,
    /// Of a cached image.
    #[serde(skip_serializing_if = "Option::is_none")]
    eviction: Option<EvictionJson>,
}

/// It goes while the disk is at or above the percentage, or has less available than the bytes.
#[derive(Serialize)]
struct EvictionJson {
    rung: &'static str,
    used_percent: u8,
    min_free_bytes: Option<u64>,
    superseded: Option<String>,
}

#[derive(Serialize)]
struct KeptJson {
    kind: &'static str,
    id: String,
    names: Vec<String>,
    size: u64,
    reason: String,
    /// Of a cached image: from which time since its last use on, and while how full a disk, it goes.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    conditions: Vec<ConditionJson>,
}

#[derive(Serialize)]
struct ConditionJson {
    unused_seconds: u64,
    used_percent: u8,
    min_free_bytes: Option<u64>,
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
    let advice = advice::blocked_on_a_full_disk(gates);
    print(out, &GatesJson { schema: SCHEMA, open, gates: gates.iter().map(gate).collect(), advice })
}

fn gate(it: &Gate) -> GateJson {
    GateJson { gate: it.name(), verdict: word(it.word()), reason: reason(it), facts: facts(it) }
}

fn facts(gate: &Gate) -> Value {
    match gate {
        Gate::Disk(Verdict::Open(measured) | Verdict::Closed(measured)) => {
            let filesystems: Vec<_> = measured.usages.iter().map(filesystem).collect();
            json!({
                "threshold_percent": measured.limit.percent.get(),
                "min_free_bytes": measured.limit.min_free,
                "filesystems": filesystems,
            })
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
    print(out, &prune_json(report))
}

fn prune_json(report: &PruneReport) -> PruneJson {
    let empty = crate::execute::Outcome::default();
    let outcome = if let Ending::CarriedOut(outcome) = &report.ending { outcome } else { &empty };
    let plan = report.plan.as_ref().map(|plan| PlanJson {
        remove: plan.remove.iter().map(removal).collect(),
        keep: plan.keep.iter().map(kept).collect(),
        release: plan.release.clone(),
        unread: plan.unread.iter().map(unread).collect(),
    });
    let projected = report.plan.as_ref().zip(report.images_on.as_ref());
    PruneJson {
        schema: SCHEMA,
        dry_run: report.dry_run,
        outcome: outcome_word(report),
        gates: report.gates.iter().map(gate).collect(),
        advice: advice::blocked_on_a_full_disk(&report.gates),
        projected_percent: projected.map(|(plan, usage)| plan::projected(plan, usage).percent.get()),
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
        pressure: report.pressure.as_ref().map(pressure),
        occupants: report.occupants.as_ref().map(occupants),
        freed_nothing: outcome.freed_nothing.map(|it| FreedNothingJson { images: it.images, size: it.size }),
    }
}

fn pressure(it: &Lasting) -> PressureJson {
    PressureJson {
        since: it.since,
        seconds: it.duration.as_secs(),
        blocked: it.blocked.clone(),
        owed_seconds: it.owed.map(|it| it.as_secs()),
    }
}

fn occupants(it: &Occupants) -> OccupantsJson {
    let occupant = |it: &Occupant| OccupantJson {
        kind: occupant_kind(it.kind).replace(' ', "-"),
        id: it.id.clone(),
        names: it.names.clone(),
        size: it.size,
        image: it.image.as_ref().map(|it| ImageUseJson {
            in_use: it.in_use,
            age_seconds: it.age.map(|it| it.as_secs()),
            last_used_seconds: it.last_used.map(|it| it.as_secs()),
            last_name: it.last_name.clone(),
        }),
    };
    OccupantsJson {
        largest: it.largest.iter().map(occupant).collect(),
        unreachable: it.unreachable.iter().map(|it| it.display().to_string()).collect(),
        unseen: it.unseen.iter().map(|it| it.0.clone()).collect(),
    }
}

fn unread(it: &plan::Unread) -> UnreadJson {
    UnreadJson { kind: it.kind.name(), id: it.id.clone(), error: it.why.0.clone() }
}

fn removal(it: &Removal) -> RemovalJson {
    RemovalJson {
        kind: kind_name(it),
        id: it.id.clone(),
        names: it.names.clone(),
        size: it.size,
        reason: remove_reason_line(&it.reason),
        eviction: match &it.reason {
            Remove::Evicted(it) => Some(EvictionJson {
                rung: match it.rung {
                    Rung::Target => "target",
                    Rung::Threshold => "threshold",
                    Rung::Critical => "critical",
                },
                used_percent: it.limit.percent.get(),
                min_free_bytes: it.limit.min_free,
                superseded: it.superseded.clone(),
            }),
            _ => None,
        },
    }
}

fn kept(it: &Kept) -> KeptJson {
    KeptJson {
        kind: if it.container { "container" } else { "image" },
        id: it.id.clone(),
        names: it.names.clone(),
        size: it.size,
        reason: keep_reason(&it.reason),
        conditions: match &it.reason {
            Keep::Cached { conditions, .. } => conditions.iter().map(condition).collect(),
            _ => vec![],
        },
    }
}

fn condition(it: &Condition) -> ConditionJson {
    ConditionJson {
        unused_seconds: it.unused_for.as_secs(),
        used_percent: it.limit.percent.get(),
        min_free_bytes: it.limit.min_free,
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

pub fn status(out: &mut impl Write, report: &StatusReport) -> io::Result<()> {
    #[derive(Serialize)]
    struct StatusJson {
        schema: u32,
        disk: GateJson,
        pressure: Option<PressureJson>,
        last_run: Option<Time>,
        last_success: Option<Time>,
        next_run: Option<String>,
        inhibitors: Option<Vec<InhibitorJson>>,
        ledger: LedgerJson,
    }
    #[derive(Serialize)]
    struct InhibitorJson {
        pid: Option<u32>,
        since: Option<Time>,
        why: Option<String>,
    }
    #[derive(Serialize)]
    struct LedgerJson {
        images: usize,
        recorded: Option<Time>,
    }
    let inhibitor =
        |it: &crate::facts::Inhibitor| InhibitorJson { pid: it.pid, since: it.since, why: it.why.clone() };
    let inhibitors = report.inhibitors.as_ref().ok();
    let json = StatusJson {
        schema: SCHEMA,
        disk: gate(&report.disk),
        pressure: report.pressure.as_ref().map(pressure),
        last_run: report.last_run,
        last_success: report.last_success,
        next_run: report.next_run.clone(),
        inhibitors: inhibitors.map(|active| active.iter().map(inhibitor).collect()),
        ledger: LedgerJson { images: report.images, recorded: report.recorded },
    };
    print(out, &json)
}

pub fn recorded(
    out: &mut impl Write,
    used: usize,
    known: usize,
    prune: Option<&PruneReport>,
) -> io::Result<()> {
    #[derive(Serialize)]
    struct RecordJson {
        schema: u32,
        in_use: usize,
        known: usize,
        /// Present where a prune was due.
        #[serde(skip_serializing_if = "Option::is_none")]
        prune: Option<PruneJson>,
    }
    print(out, &RecordJson { schema: SCHEMA, in_use: used, known, prune: prune.map(prune_json) })
}

fn print(out: &mut impl Write, value: &impl Serialize) -> io::Result<()> {
    serde_json::to_writer(&mut *out, value)?;
    writeln!(out)
}
