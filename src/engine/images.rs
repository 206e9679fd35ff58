//! Images.

use serde::Deserialize;

use super::Engine;
use super::wire::{from_seconds, gone_is_none, parse_time};
use crate::facts::{self, BuildStep, Image, Labels, Layer, References};
use crate::world::EngineError;

impl Engine {
    /// `GET /images/json`.
    pub async fn images(&self) -> Result<Vec<Image>, EngineError> {
        let images: Vec<ImageAnswer> = self.get_list(self.version, "/images/json").await?;
        Ok(images.into_iter().map(Into::into).collect())
    }

    /// One image by any reference; `None` where there is none.
    pub async fn image(&self, reference: &str) -> Result<Option<Image>, EngineError> {
        let image: Option<InspectAnswer> =
            gone_is_none(self.get(&format!("/images/{reference}/json")).await)?;
        Ok(image.map(Into::into))
    }

    /// The layers of a listed image, base first, with their sizes; `None` where there is no such image, or where
    /// its history does not say.
    pub async fn sized_layers(&self, image: &Image) -> Result<Option<Vec<Layer>>, EngineError> {
        let id = &image.id;
        let history =
            async { gone_is_none(self.get::<Vec<StepAnswer>>(&format!("/images/{id}/history")).await) };
        let (digests, steps) = tokio::join!(self.layers(id), history);
        let (Some(digests), Some(steps)) = (digests?, steps?) else { return Ok(None) };
        Ok(facts::layers(&digests, &oldest_first(steps), image.size))
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct StepAnswer {
    #[serde(default)]
    size: i64,
    #[serde(default)]
    created_by: String,
}

/// The engine lists the newest first.
pub(super) fn oldest_first(steps: Vec<StepAnswer>) -> Vec<BuildStep> {
    let step = |step: StepAnswer| BuildStep {
        size: u64::try_from(step.size).unwrap_or(0),
        created_by: step.created_by,
    };
    steps.into_iter().rev().map(step).collect()
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct ImageAnswer {
    id: String,
    repo_tags: Option<Vec<String>>,
    repo_digests: Option<Vec<String>>,
    created: Option<i64>,
    #[serde(default)]
    size: i64,
    labels: Option<Labels>,
    parent_id: Option<String>,
}

impl From<ImageAnswer> for Image {
    fn from(image: ImageAnswer) -> Self {
        let References { tags, digests, eviction_tag } =
            References::new(image.repo_tags.unwrap_or_default(), image.repo_digests.unwrap_or_default());
        Self {
            id: image.id,
            tags,
            digests,
            eviction_tag,
            created: from_seconds(image.created),
            last_tagged: None,
            parent: image.parent_id.filter(|id| !id.is_empty()),
            untagged_parents: 0,
            size: u64::try_from(image.size).unwrap_or(0),
            labels: image.labels.unwrap_or_default(),
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct InspectAnswer {
    id: String,
    repo_tags: Option<Vec<String>>,
    repo_digests: Option<Vec<String>>,
    created: Option<String>,
    #[serde(default)]
    size: i64,
    parent: Option<String>,
    config: Option<ConfigAnswer>,
    metadata: Option<MetadataAnswer>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase", default)]
struct ConfigAnswer {
    labels: Option<Labels>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase", default)]
struct MetadataAnswer {
    last_tag_time: Option<String>,
}

impl From<InspectAnswer> for Image {
    fn from(image: InspectAnswer) -> Self {
        let created = image.created.as_deref().and_then(parse_time);
        let last_tagged = image.metadata.unwrap_or_default().last_tag_time.as_deref().and_then(parse_time);
        let listed = ImageAnswer {
            id: image.id,
            repo_tags: image.repo_tags,
            repo_digests: image.repo_digests,
            created: None,
            size: image.size,
            labels: image.config.unwrap_or_default().labels,
            parent_id: image.parent,
        };
        Self { created, last_tagged, ..listed.into() }
    }
}
