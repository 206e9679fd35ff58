//! The JSON shapes: an interface of its own, apart from the types inside.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::Path;

use serde::Serialize;
use serde_json::{Value, json};

use super::reason::{self, Reason};
use super::{ExplainReport, StatusReport, advice, checks, outcome_word, text};
use crate::checks::pull_limit::PullLimit;
use crate::checks::{Check, CheckStatus, Deployed, Redeploy};
use crate::disk_consumers::{self, DiskConsumer, DiskConsumers};
use crate::facts::{ImageClass, Inhibitor, Kind};
use crate::gates::disk::Usage;
use crate::gates::{Gate, GateState, combined_state};
use crate::plan::explain::{Decision, Explanation};
use crate::plan::{self, Kept, Leftover, Removal};
use crate::prune::outcome::{OngoingPressure, PruneOutcome, PruneResult};
use crate::units::{Time, elapsed};

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
    state: &'static str,
    reason: Reason,
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
    removed: Vec<ObjectJson>,
    skipped: Vec<ObjectJson>,
    failed: Vec<ObjectJson>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stopped: Option<Reason>,
    disk: DiskJson,
    reclaimed_bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pressure: Option<PressureJson>,
    #[serde(skip_serializing_if = "Option::is_none")]
    consumers: Option<ConsumersJson>,
    #[serde(skip_serializing_if = "Option::is_none")]
    freed_nothing: Option<FreedNothingJson>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ledger_error: Option<String>,
}

/// Present where eviction ended because images that were evicted freed nothing.
#[derive(Serialize)]
struct FreedNothingJson {
    images: usize,
    size_bytes: u64,
}

/// Present where it was looked at: with `--verbose`, and at the end of a run under pressure.
#[derive(Serialize)]
struct ConsumersJson {
    largest: Vec<ConsumerJson>,
    unreferenced: Vec<String>,
    not_seen: Vec<String>,
}

#[derive(Serialize)]
struct ConsumerJson {
    #[serde(flatten)]
    kind: KindJson,
    id: String,
    names: Vec<String>,
    size_bytes: u64,
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
    duration_seconds: u64,
    blocked: BTreeMap<String, u64>,
    /// For how long no prune could be carried out to its end.
    owed_seconds: Option<u64>,
}

#[derive(Serialize, Default)]
struct PlanJson {
    remove: Vec<ObjectJson>,
    keep: Vec<ObjectJson>,
    /// What interrupted evictions left on images that stay, and is undone.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    leftovers: Vec<LeftoverJson>,
    /// What the engine would not tell, and stays for that.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    unread: Vec<UnreadJson>,
    /// Stale build cache that stays because the containerd store counts it as shared with images.
    #[serde(skip_serializing_if = "Option::is_none")]
    shared_build_cache_bytes: Option<u64>,
}

#[derive(Serialize)]
struct LeftoverJson {
    id: String,
    lost_tags: Vec<String>,
    eviction_tag: Option<String>,
}

#[derive(Serialize)]
struct UnreadJson {
    #[serde(flatten)]
    kind: KindJson,
    id: String,
    reason: Reason,
}

/// `"kind": "image", "class": "cached"`
#[derive(Serialize)]
struct KindJson {
    kind: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    class: Option<&'static str>,
}

/// Something that goes, went or stays, and why.
#[derive(Serialize)]
struct ObjectJson {
    #[serde(flatten)]
    kind: KindJson,
    id: String,
    names: Vec<String>,
    size_bytes: u64,
    /// Of what goes: bytes that are free then, where that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    frees_bytes: Option<u64>,
    reason: Reason,
}

#[derive(Serialize)]
struct DiskJson {
    before: Option<Value>,
    after: Option<Value>,
}

#[derive(Serialize)]
struct InhibitorJson {
    pid: Option<u32>,
    since: Option<Time>,
    why: Option<String>,
}

/// The gates that were asked for.
///
/// # Errors
/// The writer's, as of every function here that writes.
pub fn gates(out: &mut impl Write, gates: &[Gate]) -> io::Result<()> {
    let open = combined_state(gates) == GateState::Open;
    let advice = advice::blocked_on_a_full_disk(gates);
    print(out, &GatesJson { schema: SCHEMA, open, gates: gates.iter().map(gate).collect(), advice })
}

fn gate(gate: &Gate) -> GateJson {
    GateJson { gate: gate.name(), state: text::gate_state(gate.state()), reason: reason::gate(gate) }
}

/// The report of a prune or a dry run.
pub fn prune(out: &mut impl Write, report: &PruneResult) -> io::Result<()> {
    print(out, &prune_json(report))
}

fn prune_json(report: &PruneResult) -> PruneJson {
    let empty = crate::execute::Outcome::default();
    let outcome = if let PruneOutcome::CarriedOut(outcome) = &report.ending { outcome } else { &empty };
    let plan = report.plan.as_ref().map(|plan| PlanJson {
        remove: plan
            .remove
            .iter()
            .map(|removal| planned(removal, reason::removal(&removal.reason)))
            .collect(),
        keep: plan.keep.iter().map(kept).collect(),
        leftovers: plan.leftovers.iter().map(leftover).collect(),
        unread: plan.unread.iter().map(unread).collect(),
        shared_build_cache_bytes: Some(plan.shared_cache).filter(|bytes| *bytes > 0),
    });
    let projected = report.plan.as_ref().zip(report.images_on.as_ref());
    let removed = outcome.removed.iter().map(|removal| planned(removal, reason::removal(&removal.reason)));
    let skipped = outcome.skipped.iter().map(|(removal, why)| planned(removal, reason::skip(why)));
    let failed = outcome.failed.iter().map(|(removal, error)| planned(removal, reason::failure(error)));
    PruneJson {
        schema: SCHEMA,
        dry_run: report.preview,
        outcome: outcome_word(report),
        gates: report.gates.iter().map(gate).collect(),
        advice: advice::blocked_on_a_full_disk(&report.gates),
        projected_percent: projected.map(|(plan, usage)| plan::projected(plan, usage).0.percent.get()),
        plan: plan.unwrap_or_default(),
        removed: removed.collect(),
        skipped: skipped.collect(),
        failed: failed.collect(),
        stopped: match &report.ending {
            PruneOutcome::Busy(pid, dir) => {
                Some(Reason::new("another_prune", text::busy(*pid, dir), json!({"pid": pid})))
            }
            PruneOutcome::Failed(why) => Some(Reason::new("failed", why.clone(), Value::Null)),
            _ => outcome.stopped.as_ref().map(reason::stop),
        },
        disk: DiskJson { before: fullest(&report.before), after: fullest(&report.after) },
        reclaimed_bytes: report.reclaimed,
        pressure: report.pressure.as_ref().map(pressure),
        consumers: report.disk_consumers.as_ref().map(consumers),
        freed_nothing: outcome
            .freed_nothing
            .map(|freed| FreedNothingJson { images: freed.images, size_bytes: freed.size }),
        ledger_error: report.ledger_error.clone(),
    }
}

fn leftover(left: &Leftover) -> LeftoverJson {
    LeftoverJson {
        id: left.id.clone(),
        lost_tags: left.lost_tags.clone(),
        eviction_tag: left.eviction_tag.clone(),
    }
}

fn pressure(pressure: &OngoingPressure) -> PressureJson {
    PressureJson {
        since: pressure.since,
        duration_seconds: pressure.duration.as_secs(),
        blocked: pressure.blocked.clone(),
        owed_seconds: pressure.owed.map(|owed| owed.as_secs()),
    }
}

fn consumers(consumers: &DiskConsumers) -> ConsumersJson {
    let consumer = |consumer: &DiskConsumer| ConsumerJson {
        kind: consumer_kind(consumer.kind),
        id: consumer.id.clone(),
        names: consumer.names.clone(),
        size_bytes: consumer.size,
        image: consumer.image.as_ref().map(|image| ImageUseJson {
            in_use: image.in_use,
            age_seconds: image.age.map(|age| age.as_secs()),
            last_used_seconds: image.last_used.map(|age| age.as_secs()),
            last_name: image.last_name.clone(),
        }),
    };
    ConsumersJson {
        largest: consumers.largest.iter().map(consumer).collect(),
        unreferenced: consumers.unreachable.iter().map(|path| path.display().to_string()).collect(),
        not_seen: consumers.unseen.iter().map(|why| why.0.clone()).collect(),
    }
}

fn consumer_kind(kind: disk_consumers::ConsumerKind) -> KindJson {
    use disk_consumers::ConsumerKind as Consumer;
    let kind = match kind {
        Consumer::Image(class) => return image(class),
        Consumer::Volume => "volume",
        Consumer::ContainerLayer => "container-layer",
        Consumer::BuildCache => "build-cache",
        Consumer::Log => "log",
        Consumer::Unreachable => "unreferenced",
        Consumer::Elsewhere => "other",
    };
    KindJson { kind, class: None }
}

fn image(class: ImageClass) -> KindJson {
    KindJson { kind: "image", class: Some(class.name()) }
}

fn kind(kind: Kind) -> KindJson {
    kind.class().map_or(KindJson { kind: kind.name(), class: None }, image)
}

fn unread(unread: &plan::Unread) -> UnreadJson {
    let reason = Reason::new("not_available", unread.why.0.clone(), Value::Null);
    UnreadJson { kind: kind(unread.kind), id: unread.id.clone(), reason }
}

fn planned(removal: &Removal, reason: Reason) -> ObjectJson {
    ObjectJson {
        kind: kind(removal.object.kind),
        id: removal.object.id.clone(),
        names: removal.object.names.clone(),
        size_bytes: removal.object.size,
        frees_bytes: removal.frees,
        reason,
    }
}

fn kept(kept: &Kept) -> ObjectJson {
    ObjectJson {
        kind: kind(kept.object.kind),
        id: kept.object.id.clone(),
        names: kept.object.names.clone(),
        size_bytes: kept.object.size,
        frees_bytes: None,
        reason: reason::keep(&kept.reason),
    }
}

/// The fullest filesystem; `filesystems` has them all where there are several.
fn fullest(usages: &[Usage]) -> Option<Value> {
    let mut first = reason::filesystem(usages.first()?);
    if usages.len() > 1 {
        first["filesystems"] = usages.iter().map(reason::filesystem).collect();
    }
    Some(first)
}

/// The checks of `verify`.
pub fn checks(out: &mut impl Write, list: &[Check]) -> io::Result<()> {
    let check = |check: &Check| {
        let mut json = json!({
            "check": check.name(),
            "status": checks::status(check.status()),
            "reason": Reason::new(checks::code(check), checks::detail(check), check_figures(check)),
        });
        if let Check::Login(registry, _) = check {
            json["registry"] = registry.clone().into();
        }
        json
    };
    let ok = list.iter().all(|check| check.status() != CheckStatus::Failed);
    print(out, &json!({"schema": SCHEMA, "ok": ok, "checks": list.iter().map(check).collect::<Vec<_>>()}))
}

fn check_figures(check: &Check) -> Value {
    match check {
        Check::Redeploy(Redeploy::Proved { cold, warm, planned }) => {
            let deploy = |deployed: &Deployed| {
                json!({
                    "image": deployed.image,
                    "duration_milliseconds": deployed.milliseconds,
                    "layers_downloaded": deployed.layers,
                })
            };
            json!({"cold": deploy(cold), "warm": deploy(warm), "planned": planned})
        }
        Check::Pulls(PullLimit::Limited { remaining, limit, window }) => {
            json!({"remaining_pulls": remaining, "limit_pulls": limit, "window_seconds": window.as_secs()})
        }
        Check::Ledger(since) => json!({"recorded_seconds_ago": since.map(|since| since.as_secs())}),
        _ => Value::Null,
    }
}

/// What `status` knows.
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
    struct LedgerJson {
        images: usize,
        recorded: Option<Time>,
    }
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

fn inhibitor(inhibitor: &Inhibitor) -> InhibitorJson {
    InhibitorJson { pid: inhibitor.pid, since: inhibitor.since, why: inhibitor.why.clone() }
}

/// What `inhibit --list` shows.
pub fn inhibitors(out: &mut impl Write, active: &[Inhibitor]) -> io::Result<()> {
    let active: Vec<_> = active.iter().map(inhibitor).collect();
    print(out, &json!({"schema": SCHEMA, "inhibitors": active}))
}

/// What `check-config` says of a file that is valid, or of none.
pub fn valid_config(out: &mut impl Write, path: Option<&Path>, keys: usize) -> io::Result<()> {
    print(
        out,
        &json!({"schema": SCHEMA, "valid": true, "path": path.map(|path| path.display().to_string()), "keys": keys}),
    )
}

/// What `explain` says.
pub fn explain(out: &mut impl Write, report: &ExplainReport) -> io::Result<()> {
    let object = |(query, found): &(String, Vec<Explanation>)| json!({"query": query, "found": found.iter().map(|found| explanation(found, report.now)).collect::<Vec<_>>()});
    let objects: Vec<_> = report.objects.iter().map(object).collect();
    let disk = report.usage.as_ref().map(reason::filesystem);
    print(out, &json!({"schema": SCHEMA, "disk": disk, "objects": objects}))
}

fn explanation(found: &Explanation, now: Time) -> Value {
    let class = found.object.kind.class();
    let (decision, why) = match &found.decision {
        Some(Decision::Remove(removal)) => ("remove", Some(reason::removal(&removal.reason))),
        Some(Decision::Keep(kept)) => ("keep", Some(reason::keep(&kept.reason))),
        None => ("keep", None),
    };
    let ledger = found.entry.as_ref().map(|entry| {
        let age = |at| elapsed(now, at).as_secs();
        let references: BTreeMap<_, _> = entry.references.iter().map(|(name, at)| (name, age(*at))).collect();
        json!({
            "first_seen_seconds": age(entry.first_seen),
            "last_used_seconds": entry.last_used.map(age),
            "used_by_seconds": references,
        })
    });
    let eviction = found.eviction.as_ref().map(|(last_use, conditions)| {
        let mut json = reason::last_use_json(*last_use);
        json["conditions"] = conditions.iter().map(reason::condition).collect();
        json
    });
    json!({
        "kind": if class.is_some() { "image" } else { "container" },
        "class": class.map(ImageClass::name),
        "id": found.object.id,
        "references": found.object.names,
        "size_bytes": class.map(|_| found.object.size),
        "ledger": ledger,
        "decision": decision,
        "reason": why,
        "protections": found.protections.iter().map(reason::keep).collect::<Vec<_>>(),
        "eviction": eviction,
    })
}

/// What `record` did.
pub fn recorded(
    out: &mut impl Write,
    used: usize,
    known: usize,
    prune: Option<&PruneResult>,
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::checks::Retention;
    use crate::execute::Outcome;
    use crate::plan::Plan;
    use crate::testing::{ago, usage};

    fn parsed(write: impl FnOnce(&mut Vec<u8>) -> io::Result<()>) -> Value {
        let mut text = Vec::new();
        write(&mut text).unwrap();
        assert!(text.ends_with(b"\n"));
        serde_json::from_slice(&text).unwrap()
    }

    #[test]
    fn a_check_that_failed_is_what_makes_verify_not_ok() {
        let of = |list: &[Check]| parsed(|out| checks(out, list))["ok"].clone();
        let fine = || Check::Retention(Retention::Persistent(vec![]));
        let warning = || Check::Ledger(None);
        let skipped = || Check::Retention(Retention::Elsewhere);
        let failed = || Check::Retention(Retention::Volatile("/x".into(), "tmpfs"));
        assert_eq!(of(&[fine(), warning(), skipped()]), true);
        assert_eq!(of(&[fine(), failed(), warning()]), false);
        assert_eq!(parsed(|out| checks(out, &[warning()]))["checks"][0]["status"], "warning");
    }

    #[test]
    fn a_report_of_a_prune_has_what_came_of_each_object_and_how_long_the_pressure_lasts() {
        let removal = |id: &str| Removal {
            object: crate::facts::Object { size: 3, ..crate::testing::object(Kind::Container, id) },
            frees: Some(2),
            ..crate::testing::removal(Kind::Container, id)
        };
        let error = crate::engine::EngineError::simulated_status("x", 500, "x");
        let outcome = Outcome {
            removed: vec![removal("a")],
            skipped: vec![(removal("b"), crate::execute::Skip::InUse)],
            failed: vec![(removal("c"), error)],
            ..Outcome::default()
        };
        let hours = |n: u64| Duration::from_secs(3_600 * n);
        let result = PruneResult {
            plan: Some(Plan { remove: vec![removal("a"), removal("b"), removal("c")], ..Plan::default() }),
            before: vec![usage(85), usage(10)],
            after: vec![usage(75), usage(10)],
            reclaimed: 100,
            pressure: Some(OngoingPressure {
                since: ago("3h").unwrap(),
                duration: hours(3),
                blocked: BTreeMap::from([("runs".into(), 2)]),
                owed: Some(hours(1)),
            }),
            ..PruneResult::without_removals(vec![], PruneOutcome::CarriedOut(outcome))
        };
        let report = parsed(|out| prune(out, &result));
        for (list, id) in [("removed", "a"), ("skipped", "b"), ("failed", "c")] {
            assert_eq!(report[list].as_array().unwrap().len(), 1, "{list}");
            assert_eq!(report[list][0]["id"], id, "{list}");
        }
        assert_eq!(report["skipped"][0]["reason"]["code"], "in_use");
        assert_eq!(report["failed"][0]["reason"]["http_status"], 500);
        assert_eq!((&report["outcome"], &report["dry_run"]), (&"failed".into(), &false.into()));
        assert_eq!(report["reclaimed_bytes"], 100);
        assert_eq!(report["disk"]["before"]["used_percent"], 85);
        assert_eq!(report["disk"]["after"]["used_percent"], 75);
        let expected = json!({
            "since": ago("3h").unwrap(), "duration_seconds": 10_800, "blocked": {"runs": 2}, "owed_seconds": 3_600,
        });
        assert_eq!(report["pressure"], expected);
        assert_eq!(report["plan"]["remove"].as_array().unwrap().len(), 3);
        assert_eq!(
            (&report["plan"]["remove"][0]["size_bytes"], &report["plan"]["remove"][0]["frees_bytes"]),
            (&json!(3), &json!(2))
        );
    }
}
