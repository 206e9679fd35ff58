//! `explain`: why objects would be removed or kept, now and later.

use anyhow::Result;

use super::print;
use crate::cli::Output;
use crate::exit::Exit;
use crate::facts::{ImageClass, Kind};
use crate::observe::{self, Questions};
use crate::plan::explain::{explain, matching_objects};
use crate::plan::{Plan, Unread};
use crate::prune::{Planned, planned};
use crate::report::{ExplainReport, json, text};
use crate::settings::{self, PruneSettings};
use crate::world::World;
use crate::world::real::ThisHost;

/// Explain each object.
///
/// # Errors
/// The engine does not answer, or stdout cannot be written.
pub async fn run(
    engine: settings::EngineSettings,
    objects: &[String],
    prune: PruneSettings,
    output: Output,
) -> Result<Exit> {
    let world = ThisHost::new(&engine, &prune.state_dir, &prune.runs.runtime_dir);
    let engine = world.connect().await?;
    let survey = observe::survey(&engine, Questions::EVERYTHING).await;
    let now = world.now();
    let Planned { plan, inventory, known, usage } =
        planned(&world, &engine, &survey, &prune, None, now).await?;
    if let Some(unlisted) = unlisted(&plan) {
        return Err(unlisted.why.clone().into());
    }
    let explained = objects.iter().map(|query| {
        let found = matching_objects(&inventory, &known, query).into_iter();
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

/// Where the images could not be listed, nothing can be said of any: why not.
fn unlisted(plan: &Plan) -> Option<&Unread> {
    plan.unread.iter().find(|unread| unread.id.is_empty() && unread.kind == Kind::Image(ImageClass::Cached))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::Unavailable;

    #[test]
    fn only_a_list_of_images_that_did_not_come_leaves_nothing_to_say() {
        for (kind, id, expected) in [
            (crate::testing::CACHED, "", true),
            (Kind::BuildCache, "", false),
            (crate::testing::DANGLING, "sha256:a", false),
            (Kind::Container, "c", false),
        ] {
            let unread = vec![Unread { kind, id: id.into(), why: Unavailable("x".into()) }];
            let plan = Plan { unread, ..Plan::default() };
            assert_eq!(unlisted(&plan).is_some(), expected, "{kind:?} {id}");
        }
    }
}
