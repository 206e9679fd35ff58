//! The page of `explain`: a paragraph for each object.

use std::collections::BTreeMap;
use std::io::{self, Write};

use serde_json::{Value, json as figures};

use super::reason::{self, disk_of, usage_line};
use super::{SCHEMA, json};
use crate::facts::{ImageClass, Usage};
use crate::plan::explain::{Decision, Explanation};
use crate::units::{Time, age, clean, duration, elapsed, size};

#[derive(Debug)]
pub struct ExplainReport {
    /// By the ledger's clock.
    pub now: Time,
    /// Of the filesystem that holds the images, where it could be measured.
    pub usage: Option<Usage>,
    /// Each query, and the objects that it means.
    pub objects: Vec<(String, Vec<Explanation>)>,
}

pub fn text(out: &mut impl Write, report: &ExplainReport) -> io::Result<()> {
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
            let used_by = |(name, at): (&String, &Time)| ("used by", format!("{name}, {} ago", since(*at)));
            lines.extend(entry.references.iter().map(used_by));
        }
        None if class.is_some() => lines.push(("ledger", "no entry".into())),
        None => {}
    }
    let now = match &found.decision {
        Some(Decision::Remove(removal)) => format!("goes: {}", reason::removal(&removal.reason).message),
        // The conditions of its eviction have lines of their own.
        Some(Decision::Keep(kept)) => {
            let message = reason::keep(&kept.reason).message;
            format!("stays: {}", message.split("; may go").next().unwrap_or(&message))
        }
        None => "stays".into(),
    };
    lines.push(("now", now));
    lines.extend(found.protections.iter().map(|why| ("protected", reason::keep(why).message)));
    if let Some((last_use, expected, conditions)) = &found.eviction {
        if !matches!(found.decision, Some(Decision::Remove(_))) {
            lines.push(("next use", reason::expectation(expected).message));
        }
        // In the order of time. Of the conditions whose time has come only the last is shown: it has the lowest
        // usage.
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

pub fn json_of(out: &mut impl Write, report: &ExplainReport) -> io::Result<()> {
    let object = |(query, found): &(String, Vec<Explanation>)| {
        let found: Vec<_> = found.iter().map(|found| explanation_json(found, report.now)).collect();
        figures!({"query": query, "found": found})
    };
    let objects: Vec<_> = report.objects.iter().map(object).collect();
    let disk = report.usage.as_ref().map(reason::filesystem);
    json(out, &figures!({"schema": SCHEMA, "disk": disk, "objects": objects}))
}

fn explanation_json(found: &Explanation, now: Time) -> Value {
    let class = found.object.kind.class();
    let (decision, why) = match &found.decision {
        Some(Decision::Remove(removal)) => ("remove", Some(reason::removal(&removal.reason))),
        Some(Decision::Keep(kept)) => ("keep", Some(reason::keep(&kept.reason))),
        None => ("keep", None),
    };
    let ledger = found.entry.as_ref().map(|entry| {
        let age = |at| elapsed(now, at).as_secs();
        let references: BTreeMap<_, _> = entry.references.iter().map(|(name, at)| (name, age(*at))).collect();
        figures!({
            "first_seen_seconds": age(entry.first_seen),
            "last_used_seconds": entry.last_used.map(age),
            "used_by_seconds": references,
        })
    });
    let eviction = found.eviction.as_ref().map(|(last_use, expected, conditions)| {
        let mut json = reason::last_use_json(*last_use);
        json["expected"] = figures!(reason::expectation(expected));
        json["conditions"] = conditions.iter().map(reason::condition).collect();
        json
    });
    figures!({
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
