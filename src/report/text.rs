//! Text for people.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::Path;
use std::time::Duration;

use anstyle::AnsiColor;
use comfy_table::{CellAlignment, ColumnConstraint, ContentArrangement, Table, presets};

use super::{ExplainReport, StatusReport, advice, checks};
use crate::checks::{Check, MAX_RECORD_AGE};
use crate::disk_consumers::{self, DiskConsumer, DiskConsumers};
use crate::engine::watch::StopEvent;
use crate::execute::{Outcome, Skip, Stop};
use crate::facts::{ImageClass, Inhibitor, Kind, Object, Reference, short_id};
use crate::gates::disk::{Limit, Usage};
use crate::gates::{Gate, GateState, Verdict, converge, runs};
use crate::plan::explain::{Decision, Explanation};
use crate::plan::{
    self, Condition, Eviction, KeepLabel, KeepReason, Kept, LastUse, Plan, Removal, RemovalReason, Turn,
};
use crate::prune::outcome::{Intervention, OngoingPressure, PruneOutcome, PruneResult};
use crate::units::{Time, age, clean, duration, elapsed, size};

/// One line a gate: name, state, reason; further reasons below it. Gates that are unknown for the same reason share a
/// line.
pub fn gates(out: &mut impl Write, gates: &[Gate]) -> io::Result<()> {
    let mut lines: Vec<(Vec<&str>, &str, Vec<String>)> = Vec::new();
    for gate in gates {
        let reasons = reasons(gate);
        match lines.last_mut() {
            Some((names, state, last)) if *state == "unknown" && *last == reasons => names.push(gate.name()),
            _ => lines.push((vec![gate.name()], gate_state(gate.state()), reasons)),
        }
    }
    let width = lines.iter().map(|(names, ..)| names.join(", ").len()).max().unwrap_or(0);
    for (names, state, reasons) in lines {
        let pad = 7 - state.len();
        let first = reasons.first().map(|reason| clean(reason)).unwrap_or_default();
        writeln!(out, "{:width$}  {}{:pad$}  {first}", names.join(", "), paint(state), "")?;
        for reason in reasons.iter().skip(1) {
            writeln!(out, "{:width$}  {:7}  {}", "", "", clean(reason))?;
        }
    }
    advice::on_gates(gates).iter().try_for_each(|advice| writeln!(out, "{}", clean(advice)))
}

/// A verdict or status in its colour. Where no colour is wanted, the stream that it is written to takes it
/// off again.
fn paint(word: &str) -> String {
    let colour = match word {
        "open" | "ok" => AnsiColor::Green,
        "closed" | "warning" => AnsiColor::Yellow,
        "unknown" | "failed" => AnsiColor::Red,
        _ => return word.to_owned(),
    };
    let style = colour.on_default();
    format!("{style}{word}{style:#}")
}

/// `open`, `closed` or `unknown`.
pub fn gate_state(state: GateState) -> &'static str {
    match state {
        GateState::Open => "open",
        GateState::Closed => "closed",
        GateState::Unknown => "unknown",
    }
}

/// A gate's reason, in one line.
pub fn reason(gate: &Gate) -> String {
    reasons(gate).join(", ")
}

/// The reasons for a gate's state: one for each run, stack or service that closes it.
fn reasons(gate: &Gate) -> Vec<String> {
    use crate::gates::Verdict::{Closed, Open, Unknown};
    let reason = match gate {
        Gate::Disk(Open(measured)) => {
            let pressed = |usage: &&Usage| measured.limit.is_reached(usage);
            measured_line(measured.usages.iter().filter(pressed), &measured.limit)
        }
        Gate::Disk(Closed(measured)) => {
            format!("{}, keeping local image cache", measured_line(measured.usages.iter(), &measured.limit))
        }
        Gate::Disk(Unknown(why)) => why.to_string(),
        Gate::Runs(Open(())) => "no CI run is live".into(),
        Gate::Runs(Closed(runs)) => return runs.iter().map(run).collect(),
        Gate::Runs(Unknown(why)) => why.0.clone(),
        Gate::Converge(Open(converge::Open::NotInSwarm)) => "this node is not in a Swarm".into(),
        Gate::Converge(Open(converge::Open::Converged(0))) => "no services".into(),
        Gate::Converge(Open(converge::Open::Converged(1))) => "1 service, converged".into(),
        Gate::Converge(Open(converge::Open::Converged(n))) => format!("{n} services, all converged"),
        Gate::Converge(Closed(converge::Closed::Converging(services))) => return by_stack(services),
        Gate::Converge(Closed(converge::Closed::EngineRestoring(tasks))) => {
            format!(
                "the engine is still restoring containers: it lists none for {tasks} of its running tasks"
            )
        }
        Gate::Converge(Unknown(why)) => converge_unknown(why),
    };
    vec![reason]
}

/// The services that converge: those of a stack in one line, by name.
fn by_stack(services: &[converge::ConvergingService]) -> Vec<String> {
    let mut lines: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for service in services {
        let (place, name) = match &service.stack {
            Some(stack) => {
                let prefix = format!("{stack}_");
                (
                    format!("stack {stack}: "),
                    service.service.strip_prefix(&prefix).unwrap_or(&service.service),
                )
            }
            None => (format!("service {} ", service.service), ""),
        };
        let name = if name.is_empty() { String::new() } else { format!("{name} ") };
        let line = format!("{name}{}/{} ({})", service.has, service.wants, cause(service));
        lines.entry(place).or_default().push(line);
    }
    for services in lines.values_mut() {
        services.sort();
    }
    lines.into_iter().map(|(place, services)| format!("{place}{}", services.join(", "))).collect()
}

/// `/ at 83% (>= 80%)`, with the available space where a limit asks for it.
fn measured_line<'a>(usages: impl Iterator<Item = &'a Usage>, limit: &Limit) -> String {
    usages.map(|usage| against(usage, limit)).collect::<Vec<_>>().join(", ")
}

fn against(usage: &Usage, limit: &Limit) -> String {
    let resource = match (usage.by_inodes(), usage.by_metadata()) {
        (true, _) => " of its inodes",
        (_, true) => " of its metadata",
        _ => "",
    };
    let relation = if usage.percent >= limit.percent { ">=" } else { "<" };
    let place = usage.filesystem.mount_point.display();
    let mut line = format!("{place} at {}{resource} ({relation} {})", usage.percent, limit.percent);
    if let Some(min_free) = limit.min_free {
        let relation = if limit.lacks_space(usage) { "<" } else { ">=" };
        let available = size(usage.filesystem.available);
        line += &format!(" with {available} available ({relation} {})", size(min_free));
    }
    line
}

/// `/ is at 99%`.
pub fn usage_line(usage: &Usage) -> String {
    format!("{} is at {}", usage.filesystem.mount_point.display(), usage.percent)
}

/// `at or above 80%`, or also `with less than 20.0 GB available`.
fn limit_text(limit: &Limit) -> String {
    let min_free = limit.min_free.map(|min_free| format!(" or with less than {} available", size(min_free)));
    format!("at or above {}{}", limit.percent, min_free.unwrap_or_default())
}

/// `while the disk is at or above 95%`, or where eviction begins later than it ends: `once the disk is at or above 80%, down
/// to 70%`.
fn disk_of(condition: &Condition) -> String {
    if condition.begins == condition.limit {
        format!("while the disk is {}", limit_text(&condition.limit))
    } else {
        format!("once the disk is {}, down to {}", limit_text(&condition.begins), condition.limit.percent)
    }
}

fn run(run: &runs::Run) -> String {
    let kind = match run.kind {
        runs::RunKind::Stack => "stack",
        runs::RunKind::Service => "service",
        runs::RunKind::ComposeProject => "compose project",
        runs::RunKind::Container => "container",
        runs::RunKind::Inhibitor => return inhibitor(run.pid, Some(&run.name), run.age),
    };
    let stale = if run.is_possibly_stale() { ", possibly stale" } else { "" };
    match run.age {
        Some(since) => format!("{kind} {} (for {}{stale})", run.name, age(since)),
        None => format!("{kind} {}", run.name),
    }
}

fn inhibitor(pid: Option<u32>, why: Option<&str>, since: Option<Duration>) -> String {
    let process = pid.map_or_else(|| "a process".into(), |pid| format!("process {pid}"));
    let why = why.filter(|why| !why.is_empty()).map(|why| format!(" '{why}'")).unwrap_or_default();
    let since = since.map(|since| format!(" (for {})", age(since))).unwrap_or_default();
    format!("inhibited by {process}{why}{since}")
}

/// Why a service has not converged.
pub fn cause(service: &converge::ConvergingService) -> String {
    let with = |what: &str, detail: &Option<String>| match detail {
        Some(detail) => format!("{what}: {detail}"),
        None => what.to_owned(),
    };
    let cause = match &service.cause {
        converge::ConvergeCause::Updating => "update in progress".into(),
        converge::ConvergeCause::RollingBack => "rollback in progress".into(),
        converge::ConvergeCause::Pulling => "pulling its image".into(),
        converge::ConvergeCause::Starting => "starting".into(),
        converge::ConvergeCause::CrashLooping(error) if service.gave_up => with("failed", error),
        converge::ConvergeCause::CrashLooping(error) => with("crash-looping", error),
        converge::ConvergeCause::Failed(error) => with("failed", error),
        converge::ConvergeCause::ImageNotFound(error) => {
            let image = error.as_ref().and_then(|error| error.split_once("No such image: "));
            with("image not found", &image.map(|(_, image)| short(image)))
        }
        converge::ConvergeCause::NoSuitableNode(error) => match error {
            Some(error) => error.clone(),
            None => "no suitable node".into(),
        },
    };
    if service.gave_up { format!("{cause}; Swarm will not start it again") } else { cause }
}

fn converge_unknown(why: &converge::Unknown) -> String {
    match why {
        converge::Unknown::Unavailable(why) => why.0.clone(),
        converge::Unknown::Worker => {
            "this node is a Swarm worker and cannot see the services; name a manager with --swarm-host".into()
        }
        converge::Unknown::Locked => {
            "this Swarm manager is locked; unlock it with docker swarm unlock".into()
        }
        converge::Unknown::Pending => "this node is still joining its Swarm; try again in a minute".into(),
        converge::Unknown::Failed(error) => {
            format!("this node's Swarm is in trouble: {error}; see docker info and journalctl -u docker")
        }
        converge::Unknown::NoStatus(service) => {
            format!(
                "the engine does not count the tasks of service {service}; is it older than Docker 20.10?"
            )
        }
    }
}

/// The report of a prune or a dry run.
pub fn prune(out: &mut impl Write, report: &PruneResult, verbose: bool) -> io::Result<()> {
    gates(out, &report.gates)?;
    match &report.ending {
        PruneOutcome::Busy(pid, dir) => return writeln!(out, "{}", busy(*pid, dir)),
        PruneOutcome::Unavailable if report.plan.is_none() => {
            return writeln!(out, "nothing removed: a gate could not be evaluated");
        }
        PruneOutcome::Blocked if report.plan.is_none() => {
            writeln!(out, "nothing removed: blocked by {}", not_open(&report.gates))?;
            ledger_error(out, report)?;
            pressure_line(out, report)?;
            return report
                .disk_consumers
                .as_ref()
                .map_or(Ok(()), |disk_consumers| fills(out, disk_consumers));
        }
        _ => {}
    }
    if let Some(plan) = &report.plan {
        writeln!(out)?;
        if report.preview {
            plan_text(out, plan, report.images_on.as_ref(), verbose)?;
            if let Some(disk_consumers) = &report.disk_consumers {
                fills(out, disk_consumers)?;
            }
            let not_open = not_open(&report.gates);
            if not_open.is_empty() {
                writeln!(out, "dry run: nothing was removed")?;
            } else {
                writeln!(
                    out,
                    "dry run: nothing was removed, and a prune now would be blocked by {not_open}"
                )?;
            }
        }
    }
    if let PruneOutcome::CarriedOut(outcome) = &report.ending {
        carried_out(out, outcome, report, verbose)?;
    }
    ledger_error(out, report)?;
    for unread in report.plan.iter().flat_map(|plan| &plan.unread) {
        let name = match (unread.kind, unread.id.as_str()) {
            (Kind::Image(ImageClass::Cached), "") => "images".into(),
            (kind, id) => format!("{} {id}", kind.name()),
        };
        writeln!(out, "could not be read, and stays: {}: {}", clean(name.trim()), clean(&unread.why.0))?;
    }
    Ok(())
}

fn ledger_error(out: &mut impl Write, report: &PruneResult) -> io::Result<()> {
    let Some(error) = &report.ledger_error else { return Ok(()) };
    writeln!(out, "the ledger does not know of this prune: {}", clean(error))
}

/// That another prune runs, and in which directory its lock is.
pub fn busy(pid: Option<u32>, runtime_dir: &Path) -> String {
    let pid = pid.map(|pid| format!(" (process {pid})")).unwrap_or_default();
    format!("another prune is running{pid}; its lock is in {}", runtime_dir.display())
}

/// `above 80% for 3d, prunes blocked: 5 by runs`; nothing where the pressure has just begun.
pub fn lasting(duration: Duration, blocked: &BTreeMap<String, u64>, gates: &[Gate]) -> Option<String> {
    if duration < Duration::from_secs(60) {
        return None;
    }
    let limit = gates.iter().find_map(|gate| match gate {
        Gate::Disk(Verdict::Open(measured)) => Some(match measured.usages.first() {
            Some(usage) if usage.percent < measured.limit.percent => {
                format!("with less than {} available", size(measured.limit.min_free.unwrap_or(0)))
            }
            _ => format!("at or above {}", measured.limit.percent),
        }),
        _ => None,
    });
    let by: Vec<String> = blocked.iter().map(|(name, n)| format!("{n} by {name}")).collect();
    let limit = limit.unwrap_or_else(|| "under pressure".into());
    let blocked = if by.is_empty() { String::new() } else { format!(", prunes blocked: {}", by.join(", ")) };
    Some(format!("{limit} for {}{blocked}", age(duration)))
}

fn ongoing(pressure: &OngoingPressure, gates: &[Gate]) -> Option<String> {
    lasting(pressure.duration, &pressure.blocked, gates)
}

/// Why manual intervention is required.
pub fn intervention(why: &Intervention, gates: &[Gate]) -> String {
    match why {
        Intervention::Critical(usage, critical) => {
            format!("{}, at or above --disk-critical {critical}", usage_line(usage))
        }
        Intervention::Blocked(pressure) => {
            let owed = age(pressure.owed.unwrap_or_default());
            let since = ongoing(pressure, gates).map(|since| format!(": the disk is {since}"));
            format!("no prune could be carried out for {owed}{}", since.unwrap_or_default())
        }
    }
}

/// Why gates could not be evaluated, each reason once.
pub fn unanswered(gates: &[Gate]) -> String {
    let mut reasons: Vec<String> =
        gates.iter().filter(|gate| gate.state() == GateState::Unknown).map(reason).collect();
    reasons.dedup();
    reasons.join("; ")
}

/// For how long the disk has been under pressure, unless that has just begun.
fn pressure_line(out: &mut impl Write, report: &PruneResult) -> io::Result<()> {
    let pressure = report.pressure.as_ref().and_then(|pressure| ongoing(pressure, &report.gates));
    pressure.map_or(Ok(()), |line| writeln!(out, "the disk has been {}", clean(&line)))
}

fn not_open(gates: &[Gate]) -> String {
    let names = gates.iter().filter(|gate| gate.state() != GateState::Open).map(Gate::name);
    names.collect::<Vec<_>>().join(", ")
}

fn plan_text(out: &mut impl Write, plan: &Plan, usage: Option<&Usage>, verbose: bool) -> io::Result<()> {
    if plan.remove.is_empty() {
        writeln!(out, "Would remove: nothing")?;
    } else {
        writeln!(out, "Would remove:")?;
        removals(out, &plan.remove)?;
        writeln!(out, "{}", total(&plan.remove))?;
        if let Some(usage) = usage {
            let (end, is_known) = plan::projected(plan, usage);
            let (from, shared) = (usage_line(usage), if is_known { "" } else { SHARED });
            writeln!(out, "{from}, and would end at {}{shared}", end.percent)?;
        }
    }
    for left in &plan.leftovers {
        let tags = if left.lost_tags.is_empty() { "no tag".into() } else { left.lost_tags.join(", ") };
        writeln!(
            out,
            "Would undo an interrupted eviction of {}: give back {}",
            short_id(&left.id),
            clean(&tags)
        )?;
    }
    writeln!(out)?;
    stays(out, &plan.keep, verbose)?;
    if plan.shared_cache > 0 {
        let command = "docker builder prune --all --filter until=24h";
        writeln!(out, "  {} of {}: {command}", size(plan.shared_cache), advice::SHARED_CACHE)?;
    }
    Ok(())
}

/// After a figure that is an upper bound.
const SHARED: &str = " at the best: not all of their layers are known, and images share layers";

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
        let rows = some.iter().map(|removal| {
            let (since, why) = remove_reason(&removal.reason);
            [removal.object.kind.name().to_owned(), label(&removal.object), size_or_dash(removal), since, why]
        });
        table(out, ["KIND", "NAME", "SIZE", "AGE", "REASON"], rows)?;
    }
    Ok(())
}

/// The largest consumers of the disk, and what could not be measured.
fn fills(out: &mut impl Write, disk_consumers: &DiskConsumers) -> io::Result<()> {
    if !disk_consumers.largest.is_empty() {
        writeln!(out, "\nLargest consumers (images share layers):")?;
        let row = |consumer: &DiskConsumer| {
            let name = match consumer.kind {
                disk_consumers::ConsumerKind::Elsewhere if disk_consumers.other_is_least => {
                    "neither image nor volume, at least".into()
                }
                disk_consumers::ConsumerKind::Elsewhere if disk_consumers.unseen.is_empty() => {
                    "other files".into()
                }
                disk_consumers::ConsumerKind::Elsewhere => "other files, and what is not seen".into(),
                disk_consumers::ConsumerKind::BuildCache => "not shared with images".into(),
                disk_consumers::ConsumerKind::Unreachable => {
                    amount(disk_consumers.unreachable.len(), "folder")
                }
                _ => consumer_name(consumer),
            };
            let known = |since: Option<Duration>| since.map_or_else(|| "-".into(), age);
            let image = consumer.image.as_ref();
            let last_use = match image {
                Some(image) if image.in_use => "in use".into(),
                Some(image) if image.last_used.is_none() => "never seen".into(),
                _ => known(image.and_then(|image| image.last_used)),
            };
            let kind = disk_consumer_kind(consumer.kind).to_owned();
            [kind, name, size(consumer.size), known(image.and_then(|image| image.age)), last_use]
        };
        table(out, ["KIND", "NAME", "SIZE", "AGE", "LAST USE"], disk_consumers.largest.iter().map(row))?;
    }
    if !disk_consumers.unreachable.is_empty() {
        writeln!(
            out,
            "The engine has forgotten {} of overlay2: no layer and no container refers there. No prune\n\
             reaches such, and this one leaves them alone:",
            amount(disk_consumers.unreachable.len(), "folder")
        )?;
        for path in &disk_consumers.unreachable {
            writeln!(out, "  {}", clean(&path.display().to_string()))?;
        }
    }
    disk_consumers.unseen.iter().try_for_each(|why| writeln!(out, "not seen: {}", clean(&why.0)))
}

/// An image that has no tag is shown by the one that it was last used by, and its ID.
fn consumer_name(consumer: &DiskConsumer) -> String {
    match consumer.image.as_ref().and_then(|image| image.last_name.as_ref()) {
        Some(last) if consumer.kind != disk_consumers::ConsumerKind::Image(ImageClass::Tagged) => {
            format!("{} ({})", short(last), short_id(&consumer.id))
        }
        _ => names_or_id(&consumer.names, &consumer.id),
    }
}

/// As the table names it.
pub fn disk_consumer_kind(kind: disk_consumers::ConsumerKind) -> &'static str {
    match kind {
        disk_consumers::ConsumerKind::Image(ImageClass::Tagged) => "tagged image",
        disk_consumers::ConsumerKind::Image(ImageClass::Cached) => "cached image",
        disk_consumers::ConsumerKind::Image(ImageClass::Dangling) => "dangling",
        disk_consumers::ConsumerKind::Volume => "volume",
        disk_consumers::ConsumerKind::ContainerLayer => "container layer",
        disk_consumers::ConsumerKind::BuildCache => "build cache",
        disk_consumers::ConsumerKind::Log => "log",
        disk_consumers::ConsumerKind::Unreachable => "unreferenced",
        disk_consumers::ConsumerKind::Elsewhere => "other",
    }
}

fn size_or_dash(removal: &Removal) -> String {
    if removal.object.kind == Kind::Container { "-".into() } else { size(removal.object.size) }
}

/// `3 containers, 1 dangling image, 12 cached images, build cache: 1.2 GB`.
fn total(removals: &[Removal]) -> String {
    let mut counts: BTreeMap<Turn, usize> = BTreeMap::new();
    for removal in removals {
        *counts.entry(removal.turn()).or_default() += 1;
    }
    let parts: Vec<String> = counts
        .iter()
        .map(|(turn, n)| match turn {
            Turn::Containers => amount(*n, "container"),
            Turn::DanglingImages => amount(*n, "dangling image"),
            Turn::CachedImages => amount(*n, "cached image"),
            Turn::BuildCache => "build cache".into(),
        })
        .collect();
    let parts = parts.join(", ");
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

/// `1 image`, `2 images`.
pub fn amount(n: usize, thing: &str) -> String {
    if n == 1 { format!("1 {thing}") } else { format!("{n} {thing}s") }
}

fn remove_reason(reason: &RemovalReason) -> (String, String) {
    match reason {
        RemovalReason::Finished(since) => (age(*since), "finished".into()),
        RemovalReason::NeverStarted(since) => (age(*since), "created, never started".into()),
        RemovalReason::Unnamed { age: since, parents: 0 } => (age(*since), "dangling, unused".into()),
        RemovalReason::Unnamed { age: since, parents } => {
            let parents = amount(*parents, "untagged parent");
            (age(*since), format!("dangling, unused; with it at most {parents}"))
        }
        RemovalReason::Evicted(Eviction { superseded: Some(name_tag), last_use, .. }) => {
            (age(last_use.ago()), format!("superseded: {name_tag} is another image now"))
        }
        RemovalReason::Evicted(Eviction { last_use: LastUse::Used(since), .. }) => {
            (age(*since), "cached, idle".into())
        }
        RemovalReason::Evicted(Eviction { last_use: LastUse::NeverUsed(since), .. }) => {
            (age(*since), "cached, never seen in use".into())
        }
        RemovalReason::Interrupted => ("-".into(), "its eviction was interrupted".into()),
        RemovalReason::StaleCache { records, older_than } => {
            (format!("> {}", duration(*older_than)), format!("{} idle", amount(*records, "record")))
        }
    }
}

/// What stays: in numbers by reason, or each.
fn stays(out: &mut impl Write, keep: &[Kept], verbose: bool) -> io::Result<()> {
    if keep.is_empty() {
        return writeln!(out, "Stays: nothing else is there");
    }
    writeln!(out, "Stays:")?;
    if verbose {
        let rows = keep.iter().map(|kept| {
            let bytes = if kept.object.kind == Kind::Container { "-".into() } else { size(kept.object.size) };
            [kept.object.kind.name().to_owned(), label(&kept.object), bytes, keep_reason(&kept.reason)]
        });
        return table(out, ["KIND", "NAME", "SIZE", "REASON"], rows);
    }
    let mut counts: BTreeMap<(bool, String), usize> = BTreeMap::new();
    for kept in keep {
        *counts.entry((kept.object.kind != Kind::Container, keep_group(&kept.reason))).or_default() += 1;
    }
    for ((image, why), n) in counts {
        writeln!(out, "  {}: {why}", amount(n, if image { "image" } else { "container" }))?;
    }
    Ok(())
}

/// A reason to stay that fits every object which shares it.
fn keep_group(reason: &KeepReason) -> String {
    match reason {
        KeepReason::Live(state) => (*state).to_owned(),
        KeepReason::Label(_) => "keep label".into(),
        KeepReason::TaskOf(_) => "belongs to a service that exists".into(),
        KeepReason::TooYoung(_, least) => format!("younger than {}", duration(*least)),
        KeepReason::AgeUnknown => "nothing trustworthy says how old".into(),
        KeepReason::Unread => "the engine did not tell".into(),
        KeepReason::DiskUnknown => "cached, and the disk could not be measured".into(),
        KeepReason::Tagged => "tagged".into(),
        KeepReason::UsedBy(_) => "used by a container".into(),
        KeepReason::NamedBy(_) => "a service names it".into(),
        KeepReason::RollbackOf(_) => "a service may roll back to it".into(),
        KeepReason::ComposeProject(_) => "belongs to a Compose project".into(),
        KeepReason::RestartPolicy(policy) => format!("restart policy {policy}"),
        KeepReason::Builder(_) => "belongs to a BuildKit builder whose volume is there".into(),
        KeepReason::SharesLayers(_) => "cached, and images that stay have their layers".into(),
        KeepReason::EvictionUseless(_) => "cached, and the last evictions freed nothing".into(),
        KeepReason::Refused(_) => "the engine refuses to remove it".into(),
        KeepReason::Cached { satisfied: Some(condition), .. } => {
            format!("cached, may go {}", disk_of(condition))
        }
        KeepReason::Cached { conditions, .. } => {
            let least = conditions.last().map(|condition| condition.unused_for).unwrap_or_default();
            format!("cached, in use or first seen within the last {}", duration(least))
        }
    }
}

/// A reason to stay, in full.
pub fn keep_reason(reason: &KeepReason) -> String {
    match reason {
        KeepReason::Label(KeepLabel { key, value: None }) => format!("keep label {key}"),
        KeepReason::Label(KeepLabel { key, value: Some(value) }) => format!("keep label {key}={value}"),
        KeepReason::TaskOf(service) => format!("belongs to service {service}"),
        KeepReason::TooYoung(since, least) => {
            format!("{} old, younger than {}", age(*since), duration(*least))
        }
        KeepReason::UsedBy(container) => format!("used by container {container}"),
        KeepReason::NamedBy(service) => format!("service {service} names it"),
        KeepReason::RollbackOf(service) => format!("service {service} may roll back to it"),
        KeepReason::ComposeProject(project) => format!("belongs to Compose project {project}"),
        KeepReason::Builder(builder) => {
            format!(
                "belongs to BuildKit builder {builder}, whose volume is there (docker buildx rm {builder})"
            )
        }
        KeepReason::Cached { last_use, conditions, satisfied } => {
            let seen = last_use_text(*last_use);
            // What comes first in time comes first.
            let still = conditions
                .iter()
                .rev()
                .skip_while(|condition| satisfied.is_some_and(|now| now != **condition));
            let still = still.map(|condition| {
                format!("from {} on {}", duration(condition.unused_for), disk_of(condition))
            });
            format!("cached, {seen}; may go {}", still.collect::<Vec<_>>().join(", "))
        }
        KeepReason::SharesLayers(last_use) => format!(
            "cached, {}; images that stay have its layers, so that its removal frees next to nothing",
            last_use_text(*last_use)
        ),
        KeepReason::EvictionUseless(ago) => format!(
            "cached; evictions freed nothing {} ago, and are tried again after an hour, or on a fuller disk",
            age(*ago)
        ),
        KeepReason::Refused(ago) => {
            format!("{} {} ago, without a name that would keep it", keep_group(reason), age(*ago))
        }
        KeepReason::Live(_)
        | KeepReason::RestartPolicy(_)
        | KeepReason::AgeUnknown
        | KeepReason::Unread
        | KeepReason::DiskUnknown
        | KeepReason::Tagged => keep_group(reason),
    }
}

fn last_use_text(last_use: LastUse) -> String {
    match last_use {
        LastUse::Used(ago) => format!("in use {} ago", age(ago)),
        LastUse::NeverUsed(ago) => format!("first seen {} ago, never seen in use", age(ago)),
    }
}

/// A reason to go, in full.
pub fn remove_reason_line(reason: &RemovalReason) -> String {
    let (since, why) = remove_reason(reason);
    format!("{why}: {since}")
}

fn carried_out(
    out: &mut impl Write,
    outcome: &Outcome,
    report: &PruneResult,
    verbose: bool,
) -> io::Result<()> {
    if outcome.removed.is_empty() {
        writeln!(out, "Removed: nothing")?;
    } else {
        writeln!(out, "Removed:")?;
        removals(out, &outcome.removed)?;
    }
    let (left, skipped): (Vec<_>, Vec<_>) = outcome.skipped.iter().partition(|(_, why)| is_common(why));
    for (removal, why) in skipped {
        writeln!(
            out,
            "skipped {} {}: {}",
            removal.object.kind.name(),
            label(&removal.object),
            clean(&skip(why))
        )?;
    }
    for (removal, error) in &outcome.failed {
        let error = clean(&error.to_string());
        writeln!(out, "failed {} {}: {error}", removal.object.kind.name(), label(&removal.object))?;
    }
    for some in left.chunk_by(|(_, a), (_, b)| a == b) {
        if let Some((_, why)) = some.first() {
            writeln!(out, "left {}: {}", amount(some.len(), "object"), clean(&skip(why)))?;
        }
    }
    if let Some(freed) = &outcome.freed_nothing {
        writeln!(out, "{}", clean(&advice::freed_nothing(freed.images, freed.size, report.after.first())))?;
    }
    if let Some(why) = &outcome.stopped {
        writeln!(out, "stopped: {}", clean(&stop(why)))?;
    }
    let percents =
        |usages: &[Usage]| usages.first().map_or_else(|| "?".into(), |usage| usage.percent.to_string());
    writeln!(
        out,
        "reclaimed {} (measured): the disk went from {} to {}",
        size(report.reclaimed),
        percents(&report.before),
        percents(&report.after)
    )?;
    let limit = report.gates.iter().find_map(|gate| match gate {
        Gate::Disk(crate::gates::Verdict::Open(measured)) => Some(measured.limit),
        _ => None,
    });
    let still = limit.and_then(|limit| report.after.iter().find(|after| limit.is_reached(after)));
    match (still, &report.plan) {
        (Some(usage), Some(plan)) => still_full(out, outcome, report, plan, usage, verbose),
        _ => Ok(()),
    }
}

/// The end of a run that left the disk under pressure: why nothing more may go, and what can be done.
fn still_full(
    out: &mut impl Write,
    outcome: &Outcome,
    report: &PruneResult,
    plan: &Plan,
    usage: &Usage,
    verbose: bool,
) -> io::Result<()> {
    pressure_line(out, report)?;
    let place = usage.filesystem.mount_point.display();
    let why = match outcome.skipped.len() + outcome.failed.len() {
        0 => "Nothing else is eligible under this policy.".to_owned(),
        n => format!("{} may still go with the next run.", amount(n, "object")),
    };
    writeln!(out, "\n{place} is still at {}. {why}", usage.percent)?;
    stays(out, &plan.keep, verbose)?;
    let images_on = report.images_on.as_ref().map(|usage| &usage.filesystem.mount_point);
    let more = advice::free_more(plan, images_on == Some(&usage.filesystem.mount_point));
    if !more.is_empty() {
        writeln!(out, "To free more now:")?;
        more.iter().try_for_each(|line| writeln!(out, "  {line}"))?;
    }
    report.disk_consumers.as_ref().map_or(Ok(()), |disk_consumers| fills(out, disk_consumers))
}

/// Does this reason say the same of every object that shares it?
fn is_common(why: &Skip) -> bool {
    matches!(why, Skip::EnoughSpace(..) | Skip::FreedNothing | Skip::Forbidden | Skip::Stopped)
}

/// Why something was skipped.
pub fn skip(why: &Skip) -> String {
    match why {
        Skip::Refused(words) => words.clone(),
        Skip::Renamed => "it got another name since the plan was made".into(),
        Skip::RanAgain => "it ran again since the plan was made".into(),
        Skip::InUse => "it was pulled, or a container uses it, since the plan was made".into(),
        Skip::PulledAgain => "pulled again during eviction".into(),
        Skip::Interrupted => {
            "interrupted; its layers are there, and the next prune completes or reverts the eviction".into()
        }
        Skip::EnoughSpace(usage, limit) => against(usage, limit),
        Skip::FreedNothing => "the images evicted before it freed nothing".into(),
        Skip::HasChildren => {
            "the engine keeps it for an image that was built from it; docker image history tells which".into()
        }
        Skip::Forbidden => "the engine forbids it".into(),
        Skip::Unrecorded => {
            "its tags cannot be recorded in the ledger, without which an interrupted eviction would lose them"
                .into()
        }
        Skip::Stopped => "the run ended before its turn".into(),
    }
}

/// Why a run ended early.
pub fn stop(why: &Stop) -> String {
    match why {
        Stop::Gates(gates) => {
            let each = gates
                .iter()
                .map(|gate| format!("{} is {}: {}", gate.name(), gate_state(gate.state()), reason(gate)));
            each.collect::<Vec<_>>().join("; ")
        }
        Stop::Event(StopEvent::ServiceCreated(name)) => format!("service {name} was created"),
        Stop::Event(StopEvent::ServiceUpdated(name)) => format!("service {name} was updated"),
        Stop::Event(StopEvent::Run(name)) => format!("a CI run began: {name}"),
        Stop::Event(StopEvent::Lost(why)) => format!("the engine's event stream was lost: {why}"),
        Stop::Inhibited(by) => {
            let each = by.iter().map(|active| inhibitor(active.pid, active.why.as_deref(), None));
            each.collect::<Vec<_>>().join(", ")
        }
        Stop::GatesUnsettled => "containers kept starting while the gates were evaluated; retry later".into(),
        Stop::NoSpace => {
            "the disk is too full for the engine to write what a removal changes; make some MiB of room: \
             journalctl --vacuum-size=50M, docker builder prune, or docker image rm a dangling image by its ID \
             (docker image ls --filter dangling=true)"
                .into()
        }
        Stop::Unavailable(why) => why.0.clone(),
        Stop::Signal => "interrupted by a signal".into(),
    }
}

/// The list of checks: one line each, however long.
pub fn checks(out: &mut impl Write, list: &[Check]) -> io::Result<()> {
    for check in list {
        let status = checks::status(check.status());
        let pad = 8 - status.len();
        writeln!(out, "{:9}  {}{:pad$} {}", check.name(), paint(status), "", clean(&checks::detail(check)))?;
    }
    for check in list {
        for (n, line) in checks::figures(check).iter().enumerate() {
            writeln!(out, "{}{}", if n == 0 { "\n" } else { "" }, clean(line))?;
        }
    }
    Ok(())
}

/// What `status` says: one line for each thing that it knows.
pub fn status(out: &mut impl Write, report: &StatusReport) -> io::Result<()> {
    let at = |time: Option<Time>| {
        time.map_or_else(
            || "never".into(),
            |value| {
                format!(
                    "{} ({} ago)",
                    value.round(jiff::Unit::Second).unwrap_or(value),
                    age(elapsed(report.now, value))
                )
            },
        )
    };
    let unnoted = match report.disk.state() {
        GateState::Open => "the disk is under pressure, and no prune has run since",
        GateState::Closed | GateState::Unknown => "none",
    };
    let pressure = report.pressure.as_ref().map_or_else(
        || unnoted.into(),
        |pressure| {
            let owed = pressure.owed.map(|owed| format!("; a prune is owed for {}", age(owed)));
            let since = ongoing(pressure, std::slice::from_ref(&report.disk));
            format!("{}{}", since.unwrap_or_else(|| "just begun".into()), owed.unwrap_or_default())
        },
    );
    let inhibitors = match &report.inhibitors {
        Err(why) => why.0.clone(),
        Ok(active) if active.is_empty() => "none".into(),
        Ok(active) => {
            let one = |value: &crate::facts::Inhibitor| {
                inhibitor(
                    value.pid,
                    value.why.as_deref(),
                    value.since.map(|since| elapsed(report.now, since)),
                )
            };
            active.iter().map(one).collect::<Vec<_>>().join(", ")
        }
    };
    let next =
        report.next_run.clone().unwrap_or_else(|| "unknown: ci-docker-prune.timer is not active".into());
    let recorded = match report.recorded {
        None => "no usage recorded so far".to_owned(),
        Some(time) => {
            let late = elapsed(report.now, time) >= MAX_RECORD_AGE;
            let hint = if late { "; it is not kept: see ci-docker-prune-record.timer" } else { "" };
            format!("{}, recorded {}{hint}", amount(report.images, "image"), at(Some(time)))
        }
    };
    for (name, line) in [
        ("disk", reason(&report.disk)),
        ("pressure", pressure),
        ("last run", at(report.last_run)),
        ("last success", at(report.last_success)),
        ("next run", next),
        ("inhibitors", inhibitors),
        ("ledger", recorded),
    ] {
        writeln!(out, "{name:12}  {}", clean(&line))?;
    }
    Ok(())
}

/// What `inhibit --list` shows.
pub fn inhibitors(out: &mut impl Write, active: &[Inhibitor], now: Time) -> io::Result<()> {
    if active.is_empty() {
        return writeln!(out, "no inhibitor is active");
    }
    let row = |inhibitor: &Inhibitor| {
        let since = inhibitor.since.map_or_else(|| "-".into(), |since| age(elapsed(now, since)));
        let pid = inhibitor.pid.map_or_else(|| "-".into(), |pid| pid.to_string());
        [pid, since, inhibitor.why.clone().unwrap_or_default()]
    };
    table(out, ["PID", "AGE", "WHY"], active.iter().map(row))
}

/// What `check-config` says of a file that is valid, or of none.
pub fn valid_config(out: &mut impl Write, path: Option<&Path>, keys: usize) -> io::Result<()> {
    match path {
        Some(path) => writeln!(out, "{} is valid and sets {}", path.display(), amount(keys, "key")),
        None => writeln!(out, "there is no configuration file; the defaults apply"),
    }
}

/// What `explain` says: a paragraph for each object.
pub fn explain(out: &mut impl Write, report: &ExplainReport) -> io::Result<()> {
    let mut first = true;
    for (query, found) in &report.objects {
        if found.is_empty() {
            writeln!(out, "{}: no such image or container", clean(query))?;
        }
        for found in found {
            if !std::mem::take(&mut first) {
                writeln!(out)?;
            }
            explanation(out, found, report)?;
        }
    }
    Ok(())
}

fn explanation(out: &mut impl Write, found: &Explanation, report: &ExplainReport) -> io::Result<()> {
    let since = |at| age(elapsed(report.now, at));
    let object = &found.object;
    let class = object.kind.class();
    let kind = class.map_or_else(|| "container".into(), |class| format!("{} image", class.name()));
    writeln!(out, "{} ({kind})", clean(object.label()))?;
    let mut lines = vec![("id", object.id.clone())];
    lines.extend(object.names.iter().skip(1).map(|reference| ("also", reference.clone())));
    if class.is_some() {
        lines.push(("size", format!("{}, layers that it shares included", size(object.size))));
    }
    match &found.entry {
        Some(entry) => {
            lines.push(("first seen", format!("{} ago", since(entry.first_seen))));
            let used = entry.last_used.map(|at| format!("{} ago", since(at)));
            lines.push(("last used", used.unwrap_or_else(|| "never seen in use".into())));
            lines.extend(
                entry.references.iter().map(|(name, at)| ("used by", format!("{name}, {} ago", since(*at)))),
            );
        }
        None if class.is_some() => lines.push(("ledger", "no entry".into())),
        None => {}
    }
    lines.push((
        "now",
        match &found.decision {
            Some(Decision::Remove(removal)) => format!("goes: {}", remove_reason_line(&removal.reason)),
            // When it may go has its own lines.
            Some(Decision::Keep(kept)) => {
                let reason = keep_reason(&kept.reason);
                format!("stays: {}", reason.split("; may go").next().unwrap_or(&reason))
            }
            None => "stays".into(),
        },
    ));
    lines.extend(found.protections.iter().map(|reason| ("protected", keep_reason(reason))));
    if let Some((last_use, conditions)) = &found.eviction {
        // What comes first in time comes first; of those whose time has come the last asks for the emptiest disk.
        let reached = conditions.iter().filter(|condition| condition.unused_for <= last_use.ago()).count();
        let protected = if found.protections.is_empty() { "" } else { ", were it not protected" };
        lines.extend(conditions.iter().rev().skip(reached.saturating_sub(1)).map(|condition| {
            let left = condition.unused_for.saturating_sub(last_use.ago());
            let when = if left.is_zero() { "now".to_owned() } else { format!("in {}", age(left)) };
            let unused = duration(condition.unused_for);
            ("may go", format!("{when}, {} (unused for {unused}){protected}", disk_of(condition)))
        }));
        lines.extend(report.usage.as_ref().map(|usage| ("disk", usage_line(usage))));
    }
    lines.iter().try_for_each(|(name, line)| writeln!(out, "  {name:10}  {}", clean(line)))
}

/// What `record` says.
pub fn recorded(out: &mut impl Write, used: usize, known: usize) -> io::Result<()> {
    writeln!(out, "{} in use now; the ledger knows {}", amount(used, "image"), amount(known, "image"))
}

fn label(object: &Object) -> String {
    names_or_id(&object.names, &object.id)
}

/// The first name and how many more there are, else the beginning of the ID.
fn names_or_id(names: &[String], id: &str) -> String {
    match names {
        [] => short_id(id),
        [name] => short(name),
        [name, more @ ..] => format!("{} (+{})", short(name), more.len()),
    }
}

fn short(name: &str) -> String {
    clean(&Reference::parse(name).short().to_string())
}

/// A table for the terminal that stdout is, or as wide as it comes.
fn table<const N: usize>(
    out: &mut impl Write,
    header: [&str; N],
    rows: impl Iterator<Item = [String; N]>,
) -> io::Result<()> {
    let terminal = terminal_size::terminal_size_of(io::stdout()).map(|(width, _)| usize::from(width.0));
    table_of_width(out, header, rows, terminal)
}

/// The narrowest column of reasons, in columns of a terminal: the names are shortened before it gets narrower.
const NARROWEST_REASON: usize = 24;

/// The shortest name, in characters.
const SHORTEST_NAME: usize = 16;

/// A table. Where it is too wide the reasons are wrapped, and the names, which never are, are shortened in the middle.
fn table_of_width<const N: usize>(
    out: &mut impl Write,
    header: [&str; N],
    rows: impl Iterator<Item = [String; N]>,
    width: Option<usize>,
) -> io::Result<()> {
    let mut rows: Vec<[String; N]> = rows.map(|row| row.map(|cell| clean(&cell))).collect();
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    if let Some(width) = width {
        table.set_content_arrangement(ContentArrangement::Dynamic);
        table.set_width(u16::try_from(width).unwrap_or(u16::MAX));
        let widest = |at: usize| {
            let cells = rows.iter().map(|row| row[at].chars().count());
            cells.chain([header[at].len()]).max().unwrap_or(0)
        };
        let others: usize = (0..N)
            .filter(|&at| header[at] != "NAME")
            .map(|at| if header[at] == "REASON" { widest(at).min(NARROWEST_REASON) } else { widest(at) })
            .sum();
        let room = width.saturating_sub(others + 2 * N).max(SHORTEST_NAME);
        if let Some(name) = header.iter().position(|title| *title == "NAME") {
            rows.iter_mut().for_each(|row| row[name] = shortened(&row[name], room));
        }
    }
    table.set_header(header);
    for row in rows {
        table.add_row(row);
    }
    for (at, title) in header.iter().enumerate() {
        let Some(column) = table.column_mut(at) else { continue };
        column.set_padding((0, 2));
        if matches!(*title, "SIZE" | "AGE" | "LAST USE") {
            column.set_cell_alignment(CellAlignment::Right);
        }
        if *title != "REASON" {
            column.set_constraint(ColumnConstraint::ContentWidth);
        }
    }
    table.lines().try_for_each(|line| writeln!(out, "{}", line.trim_end()))
}

/// Without its middle, where it has more characters than this.
fn shortened(name: &str, longest: usize) -> String {
    let length = name.chars().count();
    if length <= longest {
        return name.to_owned();
    }
    let (start, end) = ((longest - 1) * 2 / 3, length - (longest - 1 - (longest - 1) * 2 / 3));
    let part = |from: usize, to: usize| name.chars().take(to).skip(from).collect::<String>();
    format!("{}…{}", part(0, start), part(end, length))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Columns of a terminal: these characters of the tests take two.
    fn columns(text: &str) -> usize {
        text.chars().map(|c| if ('\u{3000}'..'\u{a000}').contains(&c) { 2 } else { 1 }).sum()
    }

    #[test]
    fn tables_stay_aligned_with_long_wide_and_hostile_names() {
        let long = "x".repeat(200);
        let names = ["a", "日本語", &long, "é\u{1b}[31m", ""];
        for width in [None, Some(80), Some(48)] {
            let rows =
                names.map(|name| ["image".to_owned(), name.to_owned(), "1 B".into(), "a reason".into()]);
            let mut out = Vec::new();
            table_of_width(&mut out, ["KIND", "NAME", "SIZE", "REASON"], rows.into_iter(), width).unwrap();
            let text = String::from_utf8(out).unwrap();
            assert!(!text.contains('\u{1b}'), "{text:?}");
            let starts: Vec<usize> = text
                .lines()
                .filter_map(|line| line.find("a reason").map(|at| columns(&line[..at])))
                .collect();
            assert_eq!(starts.len(), names.len(), "{text}");
            assert!(starts.iter().all(|start| *start == starts[0]), "{text}");
            assert!(width.is_none_or(|width| text.lines().all(|line| columns(line) <= width)), "{text}");
            assert_eq!(text.contains(&long), width.is_none(), "{text}");
        }
    }

    #[test]
    fn a_name_is_shortened_in_the_middle() {
        assert_eq!(shortened("registry.example.org/shop/web:1", 16), "registry.e…web:1");
        assert_eq!(shortened("web:1", 16), "web:1");
    }

    #[test]
    fn services_are_told_by_stack_and_in_order() {
        let service = |name: &str, stack: Option<&str>, cause, gave_up| converge::ConvergingService {
            service: name.into(),
            has: 0,
            wants: 1,
            cause,
            gave_up,
            stack: stack.map(str::to_owned),
            age: None,
        };
        let missing = converge::ConvergeCause::ImageNotFound(Some("No such image: web:1@sha256:aa".into()));
        let services = vec![
            service("shop_web", Some("shop"), missing, true),
            service("lone", None, converge::ConvergeCause::Pulling, false),
            service("blog_db", Some("blog"), converge::ConvergeCause::Starting, false),
            service("shop_db", Some("shop"), converge::ConvergeCause::Updating, false),
        ];
        let gate = Gate::Converge(Verdict::Closed(converge::Closed::Converging(services)));
        let expected = [
            "service lone 0/1 (pulling its image)",
            "stack blog: db 0/1 (starting)",
            "stack shop: db 0/1 (update in progress), \
             web 0/1 (image not found: web:1@sha256:aa; Swarm will not start it again)",
        ];
        assert_eq!(reasons(&gate), expected);
    }
}
