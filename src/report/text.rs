//! Text for people: one line a gate, tables of at most 100 columns.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::Path;
use std::time::Duration;

use anstyle::AnsiColor;
use comfy_table::{CellAlignment, ColumnConstraint, ContentArrangement, Table, Width, presets};

use super::{Ending, Intervention, Lasting, PruneReport, StatusReport, advice, checks};
use crate::checks::{Check, LEDGER_KEPT};
use crate::engine::watch::Sign;
use crate::execute::{Outcome, Skip, Stop};
use crate::gates::disk::{self, Limit, Usage};
use crate::gates::{Gate, Verdict, Word, converge, runs};
use crate::occupants::{self, Occupant, Occupants};
use crate::plan::{self, Eviction, Keep, KeepLabel, Kept, Kind, LastUse, Plan, Removal, Remove};
use crate::units::{Time, age, clean, duration, elapsed, size};

const COLUMNS: u16 = 100;

/// One line a gate: name, verdict, reason. Gates that are unknown for the same reason share a line.
pub fn gates(out: &mut impl Write, gates: &[Gate]) -> io::Result<()> {
    let mut lines: Vec<(Vec<&str>, &str, String)> = Vec::new();
    for gate in gates {
        let reason = reason(gate);
        match lines.last_mut() {
            Some((names, word, last)) if *word == "unknown" && *last == reason => names.push(gate.name()),
            _ => lines.push((vec![gate.name()], word(gate.word()), reason)),
        }
    }
    let width = lines.iter().map(|(names, ..)| names.join(", ").len()).max().unwrap_or(0);
    for (names, word, reason) in lines {
        let pad = 7 - word.len();
        writeln!(out, "{:width$}  {}{:pad$}  {}", names.join(", "), paint(word), "", clean(&reason))?;
    }
    match advice::blocked_on_a_full_disk(gates) {
        Some(advice) => writeln!(out, "{}", clean(&advice)),
        None => Ok(()),
    }
}

/// A verdict or status in its colour. Where nobody wants colour, the stream that it is written to takes it
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

pub fn word(word: Word) -> &'static str {
    match word {
        Word::Open => "open",
        Word::Closed => "closed",
        Word::Unknown => "unknown",
    }
}

/// A gate's reason, in one line.
pub fn reason(gate: &Gate) -> String {
    use crate::gates::Verdict::{Closed, Open, Unknown};
    match gate {
        Gate::Disk(Open(measured)) => {
            let pressed = |it: &&Usage| measured.limit.is_reached(it);
            measured_line(measured.usages.iter().filter(pressed), &measured.limit)
        }
        Gate::Disk(Closed(measured)) => {
            format!("{}, keeping local image cache", measured_line(measured.usages.iter(), &measured.limit))
        }
        Gate::Disk(Unknown(disk::Unknown::Unanswered(why))) => why.0.clone(),
        Gate::Disk(Unknown(disk::Unknown::NoBlocks(filesystem))) => {
            format!(
                "{} says that it has no blocks; name a path on the engine's disk with --disk-path",
                filesystem.mount_point.display()
            )
        }
        Gate::Runs(Open(())) => "no CI run is live".into(),
        Gate::Runs(Closed(runs)) => runs.iter().map(run).collect::<Vec<_>>().join(", "),
        Gate::Runs(Unknown(why)) => why.0.clone(),
        Gate::Converge(Open(converge::Open::NotInSwarm)) => "this node is not in a Swarm".into(),
        Gate::Converge(Open(converge::Open::Settled(0))) => "no services".into(),
        Gate::Converge(Open(converge::Open::Settled(1))) => "1 service, settled".into(),
        Gate::Converge(Open(converge::Open::Settled(n))) => format!("{n} services, all settled"),
        Gate::Converge(Closed(converge::Closed::Converging(services))) => {
            services.iter().map(unsettled).collect::<Vec<_>>().join(", ")
        }
        Gate::Converge(Closed(converge::Closed::EngineSettling(tasks))) => {
            format!("the engine is settling: it lists no container for {tasks} of its running tasks")
        }
        Gate::Converge(Unknown(why)) => converge_unknown(why),
    }
}

/// `/ at 83% (>= 80%)`, with the available space where a limit asks for it.
fn measured_line<'a>(usages: impl Iterator<Item = &'a Usage>, limit: &Limit) -> String {
    usages.map(|usage| against(usage, limit)).collect::<Vec<_>>().join(", ")
}

fn against(usage: &Usage, limit: &Limit) -> String {
    let inodes = if usage.by_inodes() { " of its inodes" } else { "" };
    let relation = if usage.percent >= limit.percent { ">=" } else { "<" };
    let place = usage.filesystem.mount_point.display();
    let mut line = format!("{place} at {}{inodes} ({relation} {})", usage.percent, limit.percent);
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
    let min_free = limit.min_free.map(|it| format!(" or with less than {} available", size(it)));
    format!("at or above {}{}", limit.percent, min_free.unwrap_or_default())
}

fn run(run: &runs::Run) -> String {
    let kind = match run.kind {
        runs::Kind::Stack => "stack",
        runs::Kind::Service => "service",
        runs::Kind::ComposeProject => "compose project",
        runs::Kind::Container => "container",
        runs::Kind::Inhibitor => return inhibitor(run.pid, Some(&run.name), run.age),
    };
    let abandoned = if run.looks_abandoned() { ", looks abandoned" } else { "" };
    match run.age {
        Some(since) => format!("{kind} {} ({} old{abandoned})", run.name, age(since)),
        None => format!("{kind} {}", run.name),
    }
}

fn inhibitor(pid: Option<u32>, why: Option<&str>, since: Option<Duration>) -> String {
    let process = pid.map_or_else(|| "a process".into(), |pid| format!("process {pid}"));
    let why = why.filter(|it| !it.is_empty()).map(|it| format!(" '{it}'")).unwrap_or_default();
    let since = since.map(|it| format!(" ({} old)", age(it))).unwrap_or_default();
    format!("inhibited by {process}{why}{since}")
}

fn unsettled(service: &converge::Unsettled) -> String {
    let with = |what: &str, detail: &Option<String>| match detail {
        Some(detail) => format!("{what}: {detail}"),
        None => what.to_owned(),
    };
    let cause = match &service.cause {
        converge::Cause::Updating => "update in progress".into(),
        converge::Cause::RollingBack => "rollback in progress".into(),
        converge::Cause::Pulling => "pulling its image".into(),
        converge::Cause::Starting => "starting".into(),
        converge::Cause::CrashLooping(error) => with("crash-looping", error),
        converge::Cause::FailedForGood(error) => with("failed, and will not be restarted", error),
        converge::Cause::ImageNotFound(error) => with("image not found", error),
        converge::Cause::NoSuitableNode(error) => match error {
            Some(error) => error.clone(),
            None => "no suitable node".into(),
        },
    };
    format!("service {} {}/{} ({cause})", service.service, service.has, service.wants)
}

fn converge_unknown(why: &converge::Unknown) -> String {
    match why {
        converge::Unknown::Unanswered(why) => why.0.clone(),
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
pub fn prune(out: &mut impl Write, report: &PruneReport, verbose: bool) -> io::Result<()> {
    gates(out, &report.gates)?;
    match &report.ending {
        Ending::Busy(pid, dir) => return writeln!(out, "{}", busy(*pid, dir)),
        Ending::Unanswered if report.plan.is_none() => {
            return writeln!(out, "nothing removed: a gate could not be evaluated");
        }
        Ending::Held if report.plan.is_none() => {
            writeln!(out, "nothing removed: blocked by {}", not_open(&report.gates))?;
            if let Some(pressure) = &report.pressure {
                writeln!(out, "{}", clean(&ongoing(pressure, &report.gates)))?;
            }
            return report.occupants.as_ref().map_or(Ok(()), |occupants| fills(out, occupants));
        }
        _ => {}
    }
    if let Some(plan) = &report.plan {
        writeln!(out)?;
        if report.dry_run {
            plan_text(out, plan, report.images_on.as_ref(), verbose)?;
            if let Some(occupants) = &report.occupants {
                fills(out, occupants)?;
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
    if let Ending::CarriedOut(outcome) = &report.ending {
        carried_out(out, outcome, report, verbose)?;
    }
    for unread in report.plan.iter().flat_map(|plan| &plan.unread) {
        let name = format!("{} {}", unread.kind.name(), unread.id);
        writeln!(out, "could not be read, and stays: {}: {}", clean(name.trim()), clean(&unread.why.0))?;
    }
    Ok(())
}

pub fn busy(pid: Option<u32>, runtime_dir: &Path) -> String {
    let pid = pid.map(|pid| format!(" (process {pid})")).unwrap_or_default();
    format!("another prune is running{pid}; its lock is in {}", runtime_dir.display())
}

/// `over 80% for 3 days, blocked 5 times by runs: stack abcd-… (61 h old, looks abandoned)`.
pub fn lasting(duration: Duration, blocked: &BTreeMap<String, u64>, gates: &[Gate]) -> String {
    let limit = gates.iter().find_map(|gate| match gate {
        Gate::Disk(Verdict::Open(measured)) => Some(match measured.usages.first() {
            Some(usage) if usage.percent < measured.limit.percent => {
                format!("with less than {} available", size(measured.limit.min_free.unwrap_or(0)))
            }
            _ => format!("over {}", measured.limit.percent),
        }),
        _ => None,
    });
    let times = |n: u64| if n == 1 { "once".to_owned() } else { format!("{n} times") };
    let by: Vec<String> = blocked
        .iter()
        .map(|(name, n)| {
            let now = gates.iter().find(|gate| gate.name() == name && gate.word() == Word::Closed);
            let why = now.map(|gate| format!(": {}", reason(gate))).unwrap_or_default();
            format!("{} by {name}{why}", times(*n))
        })
        .collect();
    let limit = limit.unwrap_or_else(|| "under pressure".into());
    let long = duration >= Duration::from_secs(60);
    let since = if long { format!(" for {}", age(duration)) } else { String::new() };
    let blocked = if by.is_empty() { String::new() } else { format!(", blocked {}", by.join(", ")) };
    format!("{limit}{since}{blocked}")
}

fn ongoing(pressure: &Lasting, gates: &[Gate]) -> String {
    lasting(pressure.duration, &pressure.blocked, gates)
}

/// Why a person must look after the host.
pub fn intervention(why: &Intervention, gates: &[Gate]) -> String {
    match why {
        Intervention::Critical(usage, critical) => {
            format!("{}, at or above --disk-critical {critical}", usage_line(usage))
        }
        Intervention::Blocked(pressure) => {
            let owed = age(pressure.owed.unwrap_or_default());
            format!("no prune could be carried out for {owed}: the disk is {}", ongoing(pressure, gates))
        }
    }
}

/// Why gates could not be answered, each reason once.
pub fn unanswered(gates: &[Gate]) -> String {
    let mut reasons: Vec<String> =
        gates.iter().filter(|gate| gate.word() == Word::Unknown).map(reason).collect();
    reasons.dedup();
    reasons.join("; ")
}

fn not_open(gates: &[Gate]) -> String {
    let names = gates.iter().filter(|gate| gate.word() != Word::Open).map(Gate::name);
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
            let end = plan::projected(plan, usage);
            let from = usage_line(usage);
            writeln!(out, "{from}; by these sizes it would end at {} (images share layers)", end.percent)?;
        }
    }
    writeln!(out)?;
    stays(out, &plan.keep, verbose)
}

/// Removals in their order, those of each rung of eviction under the usage that they ask for.
fn removals(out: &mut impl Write, removals: &[Removal]) -> io::Result<()> {
    let limit = |it: &Removal| match &it.reason {
        Remove::Evicted(eviction) => Some(eviction.limit),
        _ => None,
    };
    for some in removals.chunk_by(|a, b| limit(a) == limit(b)) {
        if let Some(limit) = some.first().and_then(limit) {
            writeln!(out, "while the disk is {}, in this order:", limit_text(&limit))?;
        }
        let rows = some.iter().map(|it| {
            let (since, why) = remove_reason(&it.reason);
            [kind_name(it).to_owned(), label(&it.names, &it.id), size_or_dash(it), since, why]
        });
        table(out, ["KIND", "NAME", "SIZE", "AGE", "REASON"], rows)?;
    }
    Ok(())
}

/// A tagged image that goes by consent is shown as such.
pub fn kind_name(removal: &Removal) -> &'static str {
    if removal.tags.is_empty() { removal.kind.name() } else { "tagged" }
}

/// What takes the most room, and what could not be looked at.
fn fills(out: &mut impl Write, occupants: &Occupants) -> io::Result<()> {
    if !occupants.largest.is_empty() {
        writeln!(out, "\nLargest consumers (images share layers):")?;
        let row = |it: &Occupant| {
            let name = match it.kind {
                occupants::Kind::Elsewhere if occupants.unseen.is_empty() => "other files".into(),
                occupants::Kind::Elsewhere => "other files, and what is not seen".into(),
                occupants::Kind::BuildCache => "not shared with images".into(),
                occupants::Kind::Unreachable => amount(occupants.unreachable.len(), "folder"),
                _ => consumer_name(it),
            };
            let known = |since: Option<Duration>| since.map_or_else(|| "-".into(), age);
            let image = it.image.as_ref();
            let last_use = match image {
                Some(image) if image.in_use => "in use".into(),
                Some(image) if image.last_used.is_none() => "never seen".into(),
                _ => known(image.and_then(|it| it.last_used)),
            };
            let kind = occupant_kind(it.kind).to_owned();
            [kind, name, size(it.size), known(image.and_then(|it| it.age)), last_use]
        };
        table(out, ["KIND", "NAME", "SIZE", "AGE", "LAST USE"], occupants.largest.iter().map(row))?;
    }
    if !occupants.unreachable.is_empty() {
        writeln!(
            out,
            "The engine has forgotten {} of overlay2: no layer and no container refers there. No prune\n\
             reaches such, and this one leaves them alone:",
            amount(occupants.unreachable.len(), "folder")
        )?;
        for path in &occupants.unreachable {
            writeln!(out, "  {}", clean(&path.display().to_string()))?;
        }
    }
    occupants.unseen.iter().try_for_each(|why| writeln!(out, "not seen: {}", clean(&why.0)))
}

/// An image that has no tag is shown by the one that it was last used by, and its ID.
fn consumer_name(it: &Occupant) -> String {
    match it.image.as_ref().and_then(|it| it.last_name.as_ref()) {
        Some(last) if !matches!(it.kind, occupants::Kind::TaggedImage) => {
            format!("{} ({})", short(last), label(&[], &it.id))
        }
        _ => label(&it.names, &it.id),
    }
}

pub fn occupant_kind(kind: occupants::Kind) -> &'static str {
    match kind {
        occupants::Kind::TaggedImage => "tagged image",
        occupants::Kind::CachedImage => "cached image",
        occupants::Kind::Orphan => "orphan",
        occupants::Kind::Volume => "volume",
        occupants::Kind::ContainerLayer => "container layer",
        occupants::Kind::BuildCache => "build cache",
        occupants::Kind::Log => "log",
        occupants::Kind::Unreachable => "unreachable",
        occupants::Kind::Elsewhere => "elsewhere",
    }
}

fn size_or_dash(removal: &Removal) -> String {
    if removal.kind == Kind::Container { "-".into() } else { size(removal.size) }
}

/// `3 containers, 1 orphan, 12 cached images, build cache: at most 1.2 GB`.
fn total(removals: &[Removal]) -> String {
    let mut counts: BTreeMap<Kind, usize> = BTreeMap::new();
    for removal in removals {
        *counts.entry(removal.kind).or_default() += 1;
    }
    let parts: Vec<String> = counts
        .iter()
        .map(|(kind, n)| match kind {
            Kind::Container => amount(*n, "container"),
            Kind::Orphan => amount(*n, "orphan"),
            Kind::Cached => amount(*n, "cached image"),
            Kind::BuildCache => "build cache".into(),
        })
        .collect();
    let bytes = removals.iter().fold(0_u64, |sum, it| sum.saturating_add(it.size));
    format!("{}: at most {} (images share layers)", parts.join(", "), size(bytes))
}

/// `1 image`, `2 images`.
pub fn amount(n: usize, thing: &str) -> String {
    if n == 1 { format!("1 {thing}") } else { format!("{n} {thing}s") }
}

fn remove_reason(reason: &Remove) -> (String, String) {
    match reason {
        Remove::Finished(since) => (age(*since), "finished".into()),
        Remove::NeverStarted(since) => (age(*since), "created, never started".into()),
        Remove::Unnamed { age: since, parents: 0 } => (age(*since), "no name, no container".into()),
        Remove::Unnamed { age: since, parents } => {
            let parents = amount(*parents, "untagged parent");
            (age(*since), format!("no name, no container; with it at most {parents}"))
        }
        Remove::Evicted(Eviction { superseded: Some(name_tag), last_use, .. }) => {
            (age(last_use.ago()), format!("superseded: {name_tag} is another image now"))
        }
        Remove::Evicted(Eviction { last_use: LastUse::Used(since), .. }) => {
            (age(*since), "cached, not used since".into())
        }
        Remove::Evicted(Eviction { last_use: LastUse::NeverUsed(since), .. }) => {
            (age(*since), "cached, never seen in use".into())
        }
        Remove::StaleCache { records, older_than } => {
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
        let rows = keep.iter().map(|it| {
            let kind = if it.container { "container" } else { "image" };
            let bytes = if it.container { "-".into() } else { size(it.size) };
            [kind.to_owned(), label(&it.names, &it.id), bytes, keep_reason(&it.reason)]
        });
        return table(out, ["KIND", "NAME", "SIZE", "REASON"], rows);
    }
    let mut counts: BTreeMap<(bool, String), usize> = BTreeMap::new();
    for kept in keep {
        *counts.entry((!kept.container, keep_group(&kept.reason))).or_default() += 1;
    }
    for ((image, why), n) in counts {
        writeln!(out, "  {}: {why}", amount(n, if image { "image" } else { "container" }))?;
    }
    Ok(())
}

/// A reason to stay that fits every object which shares it.
fn keep_group(reason: &Keep) -> String {
    match reason {
        Keep::Live(state) => (*state).to_owned(),
        Keep::Label(_) => "keep label".into(),
        Keep::TaskOf(_) => "belongs to a service that exists".into(),
        Keep::TooYoung(_, least) => format!("younger than {}", duration(*least)),
        Keep::AgeUnknown => "nothing trustworthy says how old".into(),
        Keep::Unread => "the engine did not tell".into(),
        Keep::DiskUnknown => "cached, and the disk could not be measured".into(),
        Keep::Tagged => "tagged".into(),
        Keep::UsedBy(_) => "used by a container".into(),
        Keep::NamedBy(_) => "a service names it".into(),
        Keep::RollbackOf(_) => "a service may roll back to it".into(),
        Keep::ComposeProject(_) => "belongs to a Compose project that runs".into(),
        Keep::Cached { satisfied: Some(condition), .. } => {
            format!("cached, may go while the disk is {}", limit_text(&condition.limit))
        }
        Keep::Cached { conditions, .. } => {
            let least = conditions.last().map(|it| it.unused_for).unwrap_or_default();
            format!("cached, in use or first seen within the last {}", duration(least))
        }
    }
}

/// A reason to stay, in full.
pub fn keep_reason(reason: &Keep) -> String {
    match reason {
        Keep::Label(KeepLabel { key, value: None }) => format!("keep label {key}"),
        Keep::Label(KeepLabel { key, value: Some(value) }) => format!("keep label {key}={value}"),
        Keep::TaskOf(service) => format!("belongs to service {service}"),
        Keep::TooYoung(since, least) => format!("{} old, younger than {}", age(*since), duration(*least)),
        Keep::UsedBy(container) => format!("used by container {container}"),
        Keep::NamedBy(service) => format!("service {service} names it"),
        Keep::RollbackOf(service) => format!("service {service} may roll back to it"),
        Keep::ComposeProject(project) => format!("belongs to Compose project {project}, which runs"),
        Keep::Cached { last_use, conditions, satisfied } => {
            let seen = match last_use {
                LastUse::Used(ago) => format!("in use {} ago", age(*ago)),
                LastUse::NeverUsed(ago) => format!("first seen {} ago, never seen in use", age(*ago)),
            };
            // What comes first in time comes first.
            let still = conditions.iter().rev().skip_while(|it| satisfied.is_some_and(|now| now != **it));
            let still = still.map(|it| {
                format!("from {} on while the disk is {}", duration(it.unused_for), limit_text(&it.limit))
            });
            format!("cached, {seen}; may go {}", still.collect::<Vec<_>>().join(", "))
        }
        Keep::Live(_) | Keep::AgeUnknown | Keep::Unread | Keep::DiskUnknown | Keep::Tagged => {
            keep_group(reason)
        }
    }
}

/// A reason to go, in full.
pub fn remove_reason_line(reason: &Remove) -> String {
    let (since, why) = remove_reason(reason);
    format!("{why}: {since}")
}

fn carried_out(
    out: &mut impl Write,
    outcome: &Outcome,
    report: &PruneReport,
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
            removal.kind.name(),
            label(&removal.names, &removal.id),
            clean(&skip(why))
        )?;
    }
    for (removal, error) in &outcome.failed {
        let error = clean(&error.to_string());
        writeln!(out, "failed {} {}: {error}", removal.kind.name(), label(&removal.names, &removal.id))?;
    }
    for some in left.chunk_by(|(_, a), (_, b)| a == b) {
        if let Some((_, why)) = some.first() {
            writeln!(out, "left {}: {}", amount(some.len(), "object"), clean(&skip(why)))?;
        }
    }
    if let Some(it) = &outcome.freed_nothing {
        writeln!(out, "{}", clean(&advice::freed_nothing(it.images, it.size, report.after.first())))?;
    }
    if let Some(why) = &outcome.stopped {
        writeln!(out, "stopped: {}", clean(&stop(why)))?;
    }
    let percents = |usages: &[Usage]| usages.first().map_or_else(|| "?".into(), |it| it.percent.to_string());
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
    report: &PruneReport,
    plan: &Plan,
    usage: &Usage,
    verbose: bool,
) -> io::Result<()> {
    if let Some(pressure) = &report.pressure {
        writeln!(out, "{}", clean(&ongoing(pressure, &report.gates)))?;
    }
    let place = usage.filesystem.mount_point.display();
    let why = match outcome.skipped.len() + outcome.failed.len() {
        0 => "Nothing else is eligible under this policy.".to_owned(),
        n => format!("{} may still go with the next run.", amount(n, "object")),
    };
    writeln!(out, "\n{place} is still at {}. {why}", usage.percent)?;
    stays(out, &plan.keep, verbose)?;
    let images_on = report.images_on.as_ref().map(|it| &it.filesystem.mount_point);
    let more = advice::free_more(plan, images_on == Some(&usage.filesystem.mount_point));
    if !more.is_empty() {
        writeln!(out, "To free more now:")?;
        more.iter().try_for_each(|line| writeln!(out, "  {line}"))?;
    }
    report.occupants.as_ref().map_or(Ok(()), |occupants| fills(out, occupants))
}

/// Does this reason say the same of every object that shares it?
fn is_common(why: &Skip) -> bool {
    matches!(why, Skip::EnoughSpace(..) | Skip::FreedNothing | Skip::Stopped)
}

/// Why something was skipped.
pub fn skip(why: &Skip) -> String {
    match why {
        Skip::Refused(words) => words.clone(),
        Skip::Renamed => "it got another name since the plan was made".into(),
        Skip::RanAgain => "it ran again since the plan was made".into(),
        Skip::InUse => "a container uses it since the plan was made".into(),
        Skip::Back => "somebody asked for it while it was going".into(),
        Skip::HalfWay => {
            "the run ended while it was going; its layers are there, and the next prune finishes or undoes it"
                .into()
        }
        Skip::EnoughSpace(usage, limit) => against(usage, limit),
        Skip::FreedNothing => "the images evicted before it freed nothing".into(),
        Skip::Stopped => "the run ended before its turn".into(),
    }
}

/// Why a run ended early.
pub fn stop(why: &Stop) -> String {
    match why {
        Stop::Gates(gates) => {
            let each = gates.iter().map(|it| format!("{} is {}: {}", it.name(), word(it.word()), reason(it)));
            each.collect::<Vec<_>>().join("; ")
        }
        Stop::Sign(Sign::ServiceCreated(name)) => format!("service {name} was created"),
        Stop::Sign(Sign::ServiceUpdated(name)) => format!("service {name} was updated"),
        Stop::Sign(Sign::Pulled(name)) => format!("image {name} was pulled"),
        Stop::Sign(Sign::Run(name)) => format!("a CI run began: {name}"),
        Stop::Sign(Sign::Lost(why)) => format!("the engine's event stream was lost: {why}"),
        Stop::Inhibited(by) => {
            let each = by.iter().map(|it| inhibitor(it.pid, it.why.as_deref(), None));
            each.collect::<Vec<_>>().join(", ")
        }
        Stop::Unanswered(why) => why.0.clone(),
        Stop::Signal => "told to end by a signal".into(),
    }
}

/// The list of checks.
pub fn checks(out: &mut impl Write, list: &[Check]) -> io::Result<()> {
    let row = |check: &Check| {
        [check.name().to_owned(), checks::status(check.status()).to_owned(), checks::detail(check)]
    };
    let mut lines = Vec::new();
    table(&mut lines, ["CHECK", "STATUS", "DETAIL"], list.iter().map(row))?;
    let mut left = list.iter().map(|check| (check.name(), checks::status(check.status()))).peekable();
    for line in String::from_utf8_lossy(&lines).lines() {
        // The first line of a check begins with its name and status; others go on with its detail.
        let first = left.next_if(|(name, status)| line.split_whitespace().take(2).eq([*name, *status]));
        match first {
            Some((_, status)) => writeln!(out, "{}", line.replacen(status, &paint(status), 1))?,
            None => writeln!(out, "{line}")?,
        }
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
            |it| {
                format!(
                    "{} ({} ago)",
                    it.round(jiff::Unit::Second).unwrap_or(it),
                    age(elapsed(report.now, it))
                )
            },
        )
    };
    let unnoted = match report.disk.word() {
        Word::Open => "the disk is under pressure, and no prune has run since",
        Word::Closed | Word::Unknown => "none",
    };
    let pressure = report.pressure.as_ref().map_or_else(
        || unnoted.into(),
        |it| {
            let owed = it.owed.map(|owed| format!("; a prune is owed for {}", age(owed))).unwrap_or_default();
            format!("{}{owed}", ongoing(it, std::slice::from_ref(&report.disk)))
        },
    );
    let inhibitors = match &report.inhibitors {
        Err(why) => why.0.clone(),
        Ok(active) if active.is_empty() => "none".into(),
        Ok(active) => {
            let one = |it: &crate::facts::Inhibitor| {
                inhibitor(it.pid, it.why.as_deref(), it.since.map(|since| elapsed(report.now, since)))
            };
            active.iter().map(one).collect::<Vec<_>>().join(", ")
        }
    };
    let next =
        report.next_run.clone().unwrap_or_else(|| "unknown: ci-docker-prune.timer is not active".into());
    let recorded = match report.recorded {
        None => "no usage recorded so far".to_owned(),
        Some(time) => {
            let late = elapsed(report.now, time) >= LEDGER_KEPT;
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

/// What `record` says.
pub fn recorded(out: &mut impl Write, used: usize, known: usize) -> io::Result<()> {
    writeln!(out, "{} in use now; the ledger knows {}", amount(used, "image"), amount(known, "image"))
}

/// The first name and how many more there are, else the beginning of the ID.
fn label(names: &[String], id: &str) -> String {
    match names {
        [] => id.trim_start_matches("sha256:").chars().take(12).collect(),
        [name] => short(name),
        [name, more @ ..] => format!("{} (+{})", short(name), more.len()),
    }
}

/// A digest in full fills a line and tells a person no more than its beginning; so does a name of
/// kilobytes. The JSON has both in full.
fn short(name: &str) -> String {
    const LONGEST: usize = 100;
    let name = match name.split_once("@sha256:") {
        Some((name, digest)) if digest.len() > 12 && digest.is_ascii() => {
            format!("{name}@sha256:{}", &digest[..12])
        }
        _ => name.to_owned(),
    };
    match name.chars().count() {
        0..=LONGEST => clean(&name),
        length => {
            let (start, end) = (LONGEST * 2 / 3, length - LONGEST / 3);
            let part = |from: usize, to: usize| name.chars().take(to).skip(from).collect::<String>();
            clean(&format!("{}…{}", part(0, start), part(end, length)))
        }
    }
}

fn table<const N: usize>(
    out: &mut impl Write,
    header: [&str; N],
    rows: impl Iterator<Item = [String; N]>,
) -> io::Result<()> {
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Dynamic)
        .set_width(COLUMNS);
    table.set_header(header);
    for row in rows {
        table.add_row(row.map(|cell| clean(&cell)));
    }
    for (at, title) in header.iter().enumerate() {
        let Some(column) = table.column_mut(at) else { continue };
        column.set_padding((0, 2));
        match *title {
            "SIZE" | "AGE" | "LAST USE" => {
                column.set_cell_alignment(CellAlignment::Right);
                column.set_constraint(ColumnConstraint::ContentWidth);
            }
            "KIND" | "CHECK" | "STATUS" => {
                column.set_constraint(ColumnConstraint::ContentWidth);
            }
            "NAME" => {
                column.set_constraint(ColumnConstraint::UpperBoundary(Width::Fixed(54)));
            }
            _ => {}
        }
    }
    table.lines().try_for_each(|line| writeln!(out, "{}", line.trim_end()))
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
        let names = ["a", "日本語", &"x".repeat(200), "é\u{1b}[31m", ""];
        let rows = names.map(|name| ["image".to_owned(), name.to_owned(), "1 B".into(), "a reason".into()]);
        let mut out = Vec::new();
        table(&mut out, ["KIND", "NAME", "SIZE", "REASON"], rows.into_iter()).unwrap();
        let text = String::from_utf8(out).unwrap();
        assert!(!text.contains('\u{1b}'), "{text:?}");
        let starts: Vec<usize> =
            text.lines().filter_map(|line| line.find("a reason").map(|at| columns(&line[..at]))).collect();
        assert_eq!(starts.len(), names.len(), "{text}");
        assert!(starts.iter().all(|it| *it == starts[0]), "{text}");
        assert!(text.lines().all(|line| columns(line) <= COLUMNS.into()), "{text}");
    }
}
