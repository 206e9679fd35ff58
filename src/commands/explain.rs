//! `explain`: why objects would be removed or kept, now and later.

use anyhow::{Result, anyhow};

use super::print;
use crate::cli::Output;
use crate::exit::Exit;
use crate::facts::Kind;
use crate::host::ThisHost;
use crate::plan::explain::{explain, matching_objects};
use crate::prune::report::PruneReport;
use crate::prune::{self, Ended, Mode};
use crate::report::explain::{ExplainReport, json_of, text};
use crate::settings::Settings;

pub async fn run(host: &ThisHost, settings: &Settings, objects: &[String]) -> Result<Exit> {
    let policy = &settings.policy;
    let (preview, seen) = match prune::run(host, policy, Mode::Preview(None)).await? {
        Ended { report: PruneReport::Preview(preview), seen: Some(seen) } => (preview, seen),
        Ended { report, .. } => return Err(anyhow!("{}", report.failure().unwrap_or_default())),
    };
    let unlisted =
        |unread: &&crate::facts::Unread| unread.id.is_empty() && matches!(unread.kind, Kind::Image(_));
    // If the images could not be listed, none can be explained.
    if let Some(unlisted) = preview.plan.unread.iter().find(unlisted) {
        return Err(unlisted.why.clone().into());
    }
    let (inventory, ledger, now) = (&seen.inventory, &seen.ledger, seen.now);
    let policy = policy.removal.with_room(ledger.growth());
    let explained = objects.iter().map(|query| {
        let found = matching_objects(inventory, ledger, query).into_iter();
        let explain = |object| explain(object, inventory, ledger, &policy, &preview.plan, now);
        (query.clone(), found.map(explain).collect::<Vec<_>>())
    });
    let report =
        ExplainReport { now: ledger.time(now), usage: preview.usage.clone(), objects: explained.collect() };
    print(|mut out| match settings.output {
        Output::Text => text(&mut out, &report),
        Output::Json => json_of(&mut out, &report),
    })?;
    let all_found = report.objects.iter().all(|(_, found)| !found.is_empty());
    Ok(if all_found { Exit::Done } else { Exit::Failed })
}
