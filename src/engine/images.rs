//! Images.

use serde::Deserialize;

use super::wire::{from_seconds, gone_is_none, parse_time};
use super::{Engine, EngineError};
use crate::facts::{Image, Labels, References};

impl Engine {
    /// `GET /images/json`.
    pub async fn images(&self) -> Result<Vec<Image>, EngineError> {
        let images: Vec<ImageAnswer> = self.get("/images/json").await?;
        Ok(images.into_iter().map(Into::into).collect())
    }

    /// One image by any reference; `None` where there is none.
    pub async fn image(&self, reference: &str) -> Result<Option<Image>, EngineError> {
        let image: Option<InspectAnswer> =
            gone_is_none(self.get(&format!("/images/{reference}/json")).await)?;
        Ok(image.map(Into::into))
    }
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
            parent: None,
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
        let parent = image.parent.filter(|id| !id.is_empty());
        let listed = ImageAnswer {
            id: image.id,
            repo_tags: image.repo_tags,
            repo_digests: image.repo_digests,
            created: None,
            size: image.size,
            labels: image.config.unwrap_or_default().labels,
        };
        Self { created, last_tagged, parent, ..listed.into() }
    }
}
