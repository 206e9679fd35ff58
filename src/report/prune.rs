//! The page of a prune and of its preview; and what `record` did.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};
use std::path::Path;
use std::time::Duration;

use serde::Serialize;
use serde_json::{Value, json as figures};

use super::consumers::ConsumersJson;
use super::reason::{self, GateReason, Reason, limit_text, usage_line};
use super::table::{amount, label, table};
use super::{SCHEMA, advice, consumers, gates, json};
use crate::execute::{Outcome, Skip};
use crate::facts::{ImageClass, Kind, Object, Usage, short_id};
use crate::gates::{GateState, Gates, Verdict};
use crate::plan::{self, Kept, Plan, Removal, RemovalReason, Turn};
use crate::prune::due::Intervention;
use crate::prune::report::{Attempt, Done, OngoingPressure, Preview, PruneReport};
use crate::units::{Percent, Time, age, clean, size};

/// Prints nothing for a prune that failed: its error is logged.
pub fn text(out: &mut impl Write, attempt: &Attempt, verbose: bool) -> io::Result<()> {
    if let Some(found) = attempt.report.gates() {
        gates::text(out, &reason::gates(found), &advice::on_gates(found))?;
    }
    let shown_consumers =
        |out: &mut _| attempt.consumers.as_ref().map_or(Ok(()), |found| consumers::text(out, found));
    match &attempt.report {
        PruneReport::Failed(_) => return Ok(()),
        PruneReport::Busy { pid, directory } => return writeln!(out, "{}", busy(*pid, directory)),
        PruneReport::NoAnswer { .. } => {
            return writeln!(out, "nothing removed: a gate could not be evaluated");
        }
        PruneReport::Blocked { gates, .. } => {
            writeln!(out, "nothing removed: blocked by {}", gates.not_open().join(", "))?;
            ledger_error(out, attempt)?;
            pressure_line(out, &attempt.report)?;
            return shown_consumers(out);
        }
        PruneReport::Preview(preview) => {
            writeln!(out)?;
            preview_text(out, preview, verbose)?;
            shown_consumers(out)?;
            let blocked = match preview.gates.not_open() {
                none if none.is_empty() => String::new(),
                not_open => format!(", and a prune now would be blocked by {}", not_open.join(", ")),
            };
            writeln!(out, "dry run: nothing was removed{blocked}")?;
        }
        PruneReport::Done(done) => {
            writeln!(out)?;
            done_text(out, done, attempt, verbose)?;
        }
    }
    ledger_error(out, attempt)?;
    for unread in attempt.report.plan().iter().flat_map(|(plan, _)| &plan.unread) {
        let name = match (unread.kind, unread.id.as_str()) {
            (Kind::Image(_), "") => "images".into(),
            (kind, id) => format!("{} {id}", kind.name()),
        };
        writeln!(out, "could not be read, and stays: {}: {}", clean(name.trim()), clean(&unread.why.0))?;
    }
    Ok(())
}

fn ledger_error(out: &mut impl Write, attempt: &Attempt) -> io::Result<()> {
    let Some(error) = &attempt.ledger_error else { return Ok(()) };
    writeln!(out, "the ledger does not know of this prune: {}", clean(error))
}

fn busy(pid: Option<u32>, directory: &Path) -> String {
    let pid = pid.map(|pid| format!(" (process {pid})")).unwrap_or_default();
    format!("another prune is running{pid}; its lock is in {}", directory.display())
}

/// `above 80% for 3d, prunes blocked: 5 by runs`; nothing where the pressure has just begun.
pub fn pressure_text(pressure: &OngoingPressure, gates: Option<&Gates>) -> Option<String> {
    if pressure.duration < Duration::from_secs(60) {
        return None;
    }
    let limit = match gates.map(|gates| &gates.disk) {
        Some(Verdict::Open(measured)) => match measured.usages.first() {
            Some(usage) if usage.percent < measured.limit.percent => {
                format!("with less than {} available", size(measured.limit.min_free.unwrap_or(0)))
            }
            _ => format!("at or above {}", measured.limit.percent),
        },
        _ => "under pressure".into(),
    };
    let by: Vec<String> = pressure.blocked.iter().map(|(name, n)| format!("{n} by {name}")).collect();
    let blocked = if by.is_empty() { String::new() } else { format!(", prunes blocked: {}", by.join(", ")) };
    Some(format!("{limit} for {}{blocked}", age(pressure.duration)))
}

/// For how long the disk has been under pressure, unless that has just begun.
fn pressure_line(out: &mut impl Write, report: &PruneReport) -> io::Result<()> {
    let line = report.pressure().and_then(|pressure| pressure_text(pressure, report.gates()));
    line.map_or(Ok(()), |line| writeln!(out, "the disk has been {}", clean(&line)))
}

/// Why manual intervention is required. `critical`: `--disk-critical`.
pub fn intervention(why: &Intervention, critical: Percent, gates: Option<&Gates>) -> String {
    match why {
        Intervention::Critical(usage) => {
            format!("{}, at or above --disk-critical {critical}", usage_line(usage))
        }
        Intervention::Blocked(pressure) => {
            let owed = age(pressure.owed.unwrap_or_default());
            let since = pressure_text(pressure, gates).map(|since| format!(": the disk is {since}"));
            format!("no prune could be carried out for {owed}{}", since.unwrap_or_default())
        }
    }
}

/// Why gates could not be evaluated, each reason once.
pub fn unanswered(gates: &Gates) -> String {
    let unknown = reason::gates(gates).into_iter().filter(|gate| gate.state == GateState::Unknown);
    let mut reasons: Vec<String> = unknown.map(|gate| gate.reason.message).collect();
    reasons.dedup();
    reasons.join("; ")
}

fn preview_text(out: &mut impl Write, preview: &Preview, verbose: bool) -> io::Result<()> {
    let plan = &preview.plan;
    if plan.remove.is_empty() {
        writeln!(out, "Would remove: nothing")?;
    } else {
        writeln!(out, "Would remove:")?;
        removals(out, &plan.remove)?;
        writeln!(out, "{}", total(&plan.remove))?;
        if let Some(usage) = &preview.usage {
            let (end, is_known) = plan::projected(plan, usage);
            let at_best = " at best (not all of their layers are known, and images share layers)";
            let shared = if is_known { "" } else { at_best };
            let limit = preview.gates.limit().filter(|_| preview.ends_under_pressure());
            let still = limit.map(|limit| format!(": still {}", limit_text(&limit))).unwrap_or_default();
            writeln!(out, "{}, and would end at {}{shared}{still}", usage_line(usage), end.percent)?;
        }
    }
    for left in &plan.leftovers {
        let tags = if left.lost_tags.is_empty() { "no tag".into() } else { left.lost_tags.join(", ") };
        let id = short_id(&left.id);
        writeln!(out, "Would undo an interrupted eviction of {id}: give back {}", clean(&tags))?;
    }
    writeln!(out)?;
    kept_text(out, &plan.keep, verbose)?;
    if plan.shared_cache > 0 {
        let command = "docker builder prune --all --filter until=24h";
        writeln!(out, "  {} of {}: {command}", size(plan.shared_cache), advice::SHARED_CACHE)?;
    }
    if preview.ends_under_pressure() { free_more(out, plan, &preview.gates, true) } else { Ok(()) }
}

fn free_more(out: &mut impl Write, plan: &Plan, gates: &Gates, evictable: bool) -> io::Result<()> {
    let more = advice::free_more(plan, gates, evictable);
    if !more.is_empty() {
        writeln!(out, "To free more now:")?;
    }
    more.iter().try_for_each(|line| writeln!(out, "  {line}"))
}

/// Removals in their order, those of each rung of eviction under the usage that they ask for.
fn removals(out: &mut impl Write, removals: &[Removal]) -> io::Result<()> {
    let limit = |removal: &Removal| match &removal.reason {
        RemovalReason::Evicted(eviction) => Some(eviction.limit),
        _ => None,
    };
    for some in removals.chunk_by(|a, b| limit(a) == limit(b)) {
        if let Some(limit) = some.first().and_then(limit) {
            writeln!(out, "while the disk is {}, in this order:", limit_text(&limit))?;
        }
        let rows = some.iter().map(|Removal { object, reason, .. }| {
            let (age, why) = (reason::age_of(reason), reason::removal(reason).group);
            [object.kind.name().to_owned(), label(object), size_or_dash(object), age, why]
        });
        table(out, ["KIND", "NAME", "SIZE", "AGE", "REASON"], rows)?;
    }
    Ok(())
}

fn size_or_dash(object: &Object) -> String {
    if object.kind == Kind::Container { "-".into() } else { size(object.size) }
}

/// `3 containers, 1 dangling image, 12 cached images, build cache: 1.2 GB`.
fn total(removals: &[Removal]) -> String {
    let mut counts: BTreeMap<Turn, usize> = BTreeMap::new();
    for removal in removals {
        *counts.entry(removal.turn()).or_default() += 1;
    }
    let part = |(turn, n): (&Turn, &usize)| match turn {
        Turn::Containers => amount(*n, "container"),
        Turn::DanglingImages => amount(*n, "dangling image"),
        Turn::CachedImages => amount(*n, "cached image"),
        Turn::BuildCache => "build cache".into(),
    };
    let parts = counts.iter().map(part).collect::<Vec<_>>().join(", ");
    let mut sized = removals.iter().filter(|removal| removal.object.kind != Kind::Container).peekable();
    if sized.peek().is_none() {
        return parts;
    }
    let (bytes, is_known) = sized.fold((0_u64, true), |(sum, is_known), removal| {
        (sum.saturating_add(removal.freed()), is_known && removal.frees.is_some())
    });
    let (at_most, shared) = if is_known { ("", "") } else { ("at most ", " (images share layers)") };
    format!("{parts}: {at_most}{}{shared}", size(bytes))
}

fn kept_text(out: &mut impl Write, keep: &[Kept], verbose: bool) -> io::Result<()> {
    if keep.is_empty() {
        return writeln!(out, "Stays: nothing else");
    }
    writeln!(out, "Stays:")?;
    if verbose {
        let policies: BTreeSet<String> =
            keep.iter().filter_map(|kept| reason::policy(&kept.reason)).collect();
        for policy in policies {
            writeln!(out, "  cached images may go {policy}")?;
        }
        let rows = keep.iter().map(|Kept { object, reason }| {
            let message = reason::keep_of_one(reason);
            [object.kind.name().to_owned(), label(object), size_or_dash(object), message]
        });
        return table(out, ["KIND", "NAME", "SIZE", "REASON"], rows);
    }
    let mut counts: BTreeMap<(bool, String), usize> = BTreeMap::new();
    for kept in keep {
        let group = reason::keep(&kept.reason).group;
        *counts.entry((kept.object.kind != Kind::Container, group)).or_default() += 1;
    }
    for ((image, why), n) in counts {
        writeln!(out, "  {}: {why}", amount(n, if image { "image" } else { "container" }))?;
    }
    Ok(())
}

fn done_text(out: &mut impl Write, done: &Done, attempt: &Attempt, verbose: bool) -> io::Result<()> {
    let outcome = &done.outcome;
    if outcome.removed.is_empty() {
        writeln!(out, "Removed: nothing")?;
    } else {
        writeln!(out, "Removed:")?;
        removals(out, &outcome.removed)?;
    }
    let name = |removal: &Removal| format!("{} {}", removal.object.kind.name(), label(&removal.object));
    let (left, skipped): (Vec<_>, Vec<_>) = outcome.skipped.iter().partition(|(_, why)| is_common(why));
    for (removal, why) in skipped {
        writeln!(out, "skipped {}: {}", name(removal), clean(&reason::skip(why).message))?;
    }
    for (removal, error) in &outcome.failed {
        writeln!(out, "failed {}: {}", name(removal), clean(&error.to_string()))?;
    }
    for some in left.chunk_by(|(_, a), (_, b)| a == b) {
        if let Some((_, why)) = some.first() {
            writeln!(out, "left {}: {}", amount(some.len(), "object"), clean(&reason::skip(why).message))?;
        }
    }
    if let Some(freed) = &outcome.freed_nothing {
        writeln!(out, "{}", clean(&advice::freed_nothing(freed.images, freed.size, done.after.first())))?;
    }
    if done.is_beside_runs() {
        writeln!(
            out,
            "beside live runs (--during-runs critical): only cached images may go, until the disk is below critical"
        )?;
    }
    if let Some(why) = &outcome.stopped {
        writeln!(out, "stopped: {}", clean(&reason::stop(why).message))?;
    }
    let percent =
        |usages: &[Usage]| usages.first().map_or_else(|| "?".into(), |usage| usage.percent.to_string());
    let (before, after) = (percent(attempt.report.before()), percent(&done.after));
    let reclaimed = size(attempt.report.reclaimed());
    writeln!(out, "reclaimed {reclaimed} (measured): the disk went from {before} to {after}")?;
    if let Verdict::Open(measured) = &done.gates.disk
        && let Some(usage) = done.after.iter().find(|after| measured.limit.is_reached(after))
    {
        still_under_pressure(out, done, attempt, usage, verbose)?;
    }
    Ok(())
}

fn is_common(why: &Skip) -> bool {
    matches!(why, Skip::EnoughSpace(..) | Skip::FreedNothing | Skip::Forbidden | Skip::Stopped)
}

/// The end of a run that left the disk under pressure: why nothing more may go, and what can be done.
fn still_under_pressure(
    out: &mut impl Write,
    done: &Done,
    attempt: &Attempt,
    usage: &Usage,
    verbose: bool,
) -> io::Result<()> {
    pressure_line(out, &attempt.report)?;
    let place = &usage.filesystem.mount_point;
    let why = match done.outcome.skipped.len() + done.outcome.failed.len() {
        0 => "Nothing else is eligible under this policy.".to_owned(),
        n => format!("{} may be removed by the next prune.", amount(n, "object")),
    };
    writeln!(out, "\n{} is still at {}. {why}", place.display(), usage.percent)?;
    kept_text(out, &done.plan.keep, verbose)?;
    let images_on = done.usage.as_ref().map(|usage| &usage.filesystem.mount_point);
    free_more(out, &done.plan, &done.gates, images_on == Some(place))?;
    attempt.consumers.as_ref().map_or(Ok(()), |found| consumers::text(out, found))
}

#[derive(Serialize)]
pub struct PruneJson {
    schema: u32,
    dry_run: bool,
    outcome: &'static str,
    gates: Vec<GateReason>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    advice: Vec<String>,
    /// The usage to which the plan would bring the filesystem that holds the images.
    #[serde(skip_serializing_if = "Option::is_none")]
    projected_percent: Option<u8>,
    plan: PlanJson,
    removed: Vec<DecisionJson>,
    skipped: Vec<DecisionJson>,
    failed: Vec<DecisionJson>,
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

#[derive(Serialize)]
struct FreedNothingJson {
    images: usize,
    size_bytes: u64,
}

#[derive(Serialize)]
pub struct PressureJson {
    since: Time,
    duration_seconds: u64,
    blocked: BTreeMap<String, u64>,
    owed_seconds: Option<u64>,
}

impl From<&OngoingPressure> for PressureJson {
    fn from(pressure: &OngoingPressure) -> Self {
        Self {
            since: pressure.since,
            duration_seconds: pressure.duration.as_secs(),
            blocked: pressure.blocked.clone(),
            owed_seconds: pressure.owed.map(|owed| owed.as_secs()),
        }
    }
}

#[derive(Serialize, Default)]
struct PlanJson {
    remove: Vec<DecisionJson>,
    keep: Vec<DecisionJson>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    leftovers: Vec<Value>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    unread: Vec<UnreadJson>,
    #[serde(skip_serializing_if = "Option::is_none")]
    shared_build_cache_bytes: Option<u64>,
}

#[derive(Serialize)]
struct UnreadJson {
    #[serde(flatten)]
    kind: KindJson,
    id: String,
    reason: Reason,
}

#[derive(Serialize)]
pub struct KindJson {
    kind: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    class: Option<&'static str>,
}

impl KindJson {
    pub fn image(class: ImageClass) -> Self {
        Self { kind: "image", class: Some(class.name()) }
    }

    pub fn plain(kind: &'static str) -> Self {
        Self { kind, class: None }
    }
}

impl From<Kind> for KindJson {
    fn from(kind: Kind) -> Self {
        kind.class().map_or_else(|| Self::plain(kind.name()), Self::image)
    }
}

/// What every object in the JSON has.
#[derive(Serialize)]
pub struct ObjectJson {
    #[serde(flatten)]
    pub kind: KindJson,
    pub id: String,
    pub names: Vec<String>,
    pub size_bytes: u64,
}

#[derive(Serialize)]
struct DecisionJson {
    #[serde(flatten)]
    object: ObjectJson,
    #[serde(skip_serializing_if = "Option::is_none")]
    frees_bytes: Option<u64>,
    reason: Reason,
}

impl DecisionJson {
    fn new(object: &Object, frees_bytes: Option<u64>, reason: Reason) -> Self {
        let Object { kind, id, names, size } = object.clone();
        let object = ObjectJson { kind: kind.into(), id, names, size_bytes: size };
        Self { object, frees_bytes, reason }
    }

    fn removal(removal: &Removal) -> Self {
        Self::new(&removal.object, removal.frees, reason::removal(&removal.reason))
    }
}

#[derive(Serialize)]
struct DiskJson {
    before: Option<Value>,
    after: Option<Value>,
}

/// The fullest filesystem; `filesystems` has them all where there are several.
fn fullest(usages: &[Usage]) -> Option<Value> {
    let mut first = reason::filesystem(usages.first()?);
    if usages.len() > 1 {
        first["filesystems"] = usages.iter().map(reason::filesystem).collect();
    }
    Some(first)
}

impl From<&Plan> for PlanJson {
    fn from(plan: &Plan) -> Self {
        let leftover = |left: &plan::Leftover| figures!({"id": left.id, "lost_tags": left.lost_tags, "eviction_tag": left.eviction_tag});
        let unread = |unread: &crate::facts::Unread| UnreadJson {
            kind: unread.kind.into(),
            id: unread.id.clone(),
            reason: Reason::new("not_available", &*unread.why.0, Value::Null),
        };
        let kept = |kept: &Kept| DecisionJson::new(&kept.object, None, reason::keep(&kept.reason));
        Self {
            remove: plan.remove.iter().map(DecisionJson::removal).collect(),
            keep: plan.keep.iter().map(kept).collect(),
            leftovers: plan.leftovers.iter().map(leftover).collect(),
            unread: plan.unread.iter().map(unread).collect(),
            shared_build_cache_bytes: Some(plan.shared_cache).filter(|bytes| *bytes > 0),
        }
    }
}

impl From<&Attempt> for PruneJson {
    fn from(attempt: &Attempt) -> Self {
        let report = &attempt.report;
        let nothing = Outcome::default();
        let outcome = report.outcome().unwrap_or(&nothing);
        let skipped = |(removal, why): &(Removal, Skip)| {
            DecisionJson::new(&removal.object, removal.frees, reason::skip(why))
        };
        let failed = |(removal, error): &(Removal, _)| {
            DecisionJson::new(&removal.object, removal.frees, reason::failure(error))
        };
        let plan = report.plan();
        let projected = plan.and_then(|(plan, usage)| Some(plan::projected(plan, usage?).0.percent.get()));
        Self {
            schema: SCHEMA,
            dry_run: attempt.dry_run,
            outcome: attempt.outcome(),
            gates: report.gates().map(|gates| reason::gates(gates).into()).unwrap_or_default(),
            advice: report.gates().map(advice::on_gates).unwrap_or_default(),
            projected_percent: projected,
            plan: plan.map(|(plan, _)| plan.into()).unwrap_or_default(),
            removed: outcome.removed.iter().map(DecisionJson::removal).collect(),
            skipped: outcome.skipped.iter().map(skipped).collect(),
            failed: outcome.failed.iter().map(failed).collect(),
            stopped: match report {
                PruneReport::Busy { pid, directory } => {
                    Some(Reason::new("another_prune", busy(*pid, directory), figures!({"pid": pid})))
                }
                PruneReport::Failed(why) => Some(Reason::new("failed", why.clone(), Value::Null)),
                _ => outcome.stopped.as_ref().map(reason::stop),
            },
            disk: DiskJson { before: fullest(report.before()), after: fullest(report.after()) },
            reclaimed_bytes: report.reclaimed(),
            pressure: report.pressure().map(Into::into),
            consumers: attempt.consumers.as_ref().map(Into::into),
            freed_nothing: outcome
                .freed_nothing
                .map(|freed| FreedNothingJson { images: freed.images, size_bytes: freed.size }),
            ledger_error: attempt.ledger_error.clone(),
        }
    }
}

pub fn json_of(out: &mut impl Write, attempt: &Attempt) -> io::Result<()> {
    json(out, &PruneJson::from(attempt))
}

/// What `record` did. `used` and `known`: how many images are in use, and how many the ledger knows.
pub fn record_text(out: &mut impl Write, used: usize, known: usize) -> io::Result<()> {
    writeln!(out, "{} in use now; the ledger knows {}", amount(used, "image"), amount(known, "image"))
}

pub fn record_json(
    out: &mut impl Write,
    used: usize,
    known: usize,
    prune: Option<&Attempt>,
) -> io::Result<()> {
    #[derive(Serialize)]
    struct RecordJson {
        schema: u32,
        in_use: usize,
        known: usize,
        #[serde(skip_serializing_if = "Option::is_none")]
        prune: Option<PruneJson>,
    }
    json(out, &RecordJson { schema: SCHEMA, in_use: used, known, prune: prune.map(Into::into) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::ago;

    #[test]
    fn a_report_of_a_prune_has_what_came_of_each_object_and_how_long_the_pressure_lasts() {
        let removal = |id: &str| Removal {
            object: crate::facts::Object { size: 3, ..crate::testing::object(Kind::Container, id) },
            frees: Some(2),
            ..crate::testing::removal(Kind::Container, id)
        };
        let error = crate::testing::status("x", 500, "x");
        let outcome = Outcome {
            removed: vec![removal("a")],
            skipped: vec![(removal("b"), crate::execute::Skip::InUse)],
            failed: vec![(removal("c"), error)],
            ..Outcome::default()
        };
        let hours = |n: u64| Duration::from_secs(3_600 * n);
        let done = Done {
            plan: Plan { remove: vec![removal("a"), removal("b"), removal("c")], ..Plan::default() },
            pressure: Some(OngoingPressure {
                since: ago("3h").unwrap(),
                duration: hours(3),
                blocked: BTreeMap::from([("runs".into(), 2)]),
                owed: Some(hours(1)),
            }),
            ..crate::testing::done(outcome)
        };
        let report = PruneReport::Done(Box::new(done));
        let attempt = Attempt { dry_run: false, report, consumers: None, ledger_error: None };
        let report = serde_json::to_value(PruneJson::from(&attempt)).unwrap();
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
        let expected = figures!({
            "since": ago("3h").unwrap(), "duration_seconds": 10_800, "blocked": {"runs": 2}, "owed_seconds": 3_600,
        });
        assert_eq!(report["pressure"], expected);
        assert_eq!(report["plan"]["remove"].as_array().unwrap().len(), 3);
        assert_eq!(
            (&report["plan"]["remove"][0]["size_bytes"], &report["plan"]["remove"][0]["frees_bytes"]),
            (&figures!(3), &figures!(2))
        );
    }
}
