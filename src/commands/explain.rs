//! `explain`: why objects would be removed or kept, now and later.

use anyhow::{Result, anyhow};

use super::print;
use super::prune::{Preview, preview};
use crate::cli::Output;
use crate::exit::Exit;
use crate::observe::{self, Questions};
use crate::plan::explain::{explain, find};
use crate::report::{ExplainReport, json, text};
use crate::settings::{self, Prune};
use crate::world::World;
use crate::world::real::ThisHost;

/// Explain each object.
///
/// # Errors
/// The engine does not answer, or stdout cannot be written.
pub async fn run(engine: settings::Engine, objects: &[String], prune: Prune, output: Output) -> Result<Exit> {
    let world = ThisHost::new(&engine, &prune.state_dir, &prune.runs.runtime_dir);
    let engine = world.connect().await.map_err(|why| anyhow!(why.0))?;
    let survey = observe::survey(&engine, Questions::EVERYTHING).await;
    let now = world.now();
    let Preview { plan, inventory, known, usage } =
        preview(&world, &engine, &survey, &prune, None, now).await?;
    let explained = objects.iter().map(|query| {
        let found = find(&inventory, &known, query).into_iter();
        let explain = |object| explain(object, &inventory, &known, &prune.policy, &plan, now);
        (query.clone(), found.map(explain).collect::<Vec<_>>())
    });
    let report = ExplainReport { now: known.time(now), usage, objects: explained.collect() };
    print(|mut out| match output {
        Output::Text => text::explain(&mut out, &report),
        Output::Json => json::explain(&mut out, &report),
    })?;
    let all_found = report.objects.iter().all(|(_, found)| !found.is_empty());
    Ok(if all_found { Exit::Done } else { Exit::Failed })
}
