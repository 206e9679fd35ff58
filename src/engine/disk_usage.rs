//! `/system/df`: what the engine counts, including BuildKit's records.

use serde::Deserialize;

use super::wire::parse_time;
use super::{Engine, Version};
use crate::facts::{CacheRecord, DiskUsage, Volume};
use crate::world::EngineError;

impl Engine {
    /// BuildKit's records. Before API 1.42 they come only with all the rest of `/system/df`.
    pub async fn build_cache(&self) -> Result<Vec<CacheRecord>, EngineError> {
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Response {
            build_cache: Option<Vec<CacheAnswer>>,
        }
        let alone = self.version >= Version { major: 1, minor: 42 };
        let path = if alone { "/system/df?type=build-cache" } else { "/system/df" };
        let answer: Response = self.get_df(path).await?;
        Ok(answer.build_cache.unwrap_or_default().into_iter().map(Into::into).collect())
    }

    /// What the engine's objects take up. The engine walks volumes and containers for it.
    ///
    /// On the containerd store images are not asked for: counting them takes seconds there (11 s with 2,000 on
    /// 28.5). Before API 1.42 everything comes at once.
    pub async fn disk_usage(&self, containerd_store: bool) -> Result<DiskUsage, EngineError> {
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Response {
            layers_size: Option<i64>,
            volumes: Option<Vec<VolumeAnswer>>,
            containers: Option<Vec<Written>>,
            build_cache: Option<Vec<CacheAnswer>>,
        }
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct VolumeAnswer {
            name: String,
            usage_data: Option<Used>,
        }
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Used {
            size: i64,
            ref_count: i64,
        }
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Written {
            id: String,
            names: Option<Vec<String>>,
            size_rw: Option<i64>,
        }
        let parts = "/system/df?type=volume&type=container&type=build-cache";
        let path = match self.version >= (Version { major: 1, minor: 42 }) {
            true if containerd_store => parts.to_owned(),
            true => format!("{parts}&type=image"),
            false => "/system/df".to_owned(),
        };
        let answer: Response = self.get_df(&path).await?;
        let bytes = |size: Option<i64>| size.and_then(|size| u64::try_from(size).ok()).unwrap_or(0);
        let named = |written: Written| {
            let name = written.names.unwrap_or_default().into_iter().next().unwrap_or(written.id);
            (name.trim_start_matches('/').to_owned(), bytes(written.size_rw))
        };
        let volume = |volume: VolumeAnswer| Volume {
            // Where it was not counted it may be in use.
            is_used: volume.usage_data.as_ref().is_none_or(|data| data.ref_count != 0),
            size: bytes(volume.usage_data.map(|data| data.size)),
            name: volume.name,
        };
        let cache = answer.build_cache.unwrap_or_default().into_iter().map(CacheRecord::from);
        // What an image shares is counted with its layers.
        let private =
            cache.filter(|cache| !cache.shared).fold(0_u64, |sum, record| sum.saturating_add(record.size));
        Ok(DiskUsage {
            layers: answer
                .layers_size
                .and_then(|bytes| u64::try_from(bytes).ok())
                .filter(|_| !containerd_store),
            volumes: answer.volumes.unwrap_or_default().into_iter().map(volume).collect(),
            containers: answer.containers.unwrap_or_default().into_iter().map(named).collect(),
            build_cache: private,
        })
    }

    async fn get_df<T: serde::de::DeserializeOwned>(&self, path: &str) -> Result<T, EngineError> {
        self.get_list(spoken(self.version), path).await
    }
}

/// `/system/df` by API 1.51 at most: later ones may answer in another shape (moby: api/docs/CHANGELOG.md, 1.52),
/// and an engine without API 1.51 must fail, not seem empty.
fn spoken(version: Version) -> Version {
    version.min(Version { major: 1, minor: 51 })
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct CacheAnswer {
    #[serde(rename = "Type", default)]
    kind: String,
    #[serde(default)]
    in_use: bool,
    #[serde(default)]
    shared: bool,
    #[serde(default)]
    size: i64,
    created_at: Option<String>,
    last_used_at: Option<String>,
}

impl From<CacheAnswer> for CacheRecord {
    fn from(record: CacheAnswer) -> Self {
        Self {
            size: u64::try_from(record.size).unwrap_or(0),
            in_use: record.in_use,
            shared: record.shared,
            internal: matches!(record.kind.as_str(), "internal" | "frontend"),
            last_used: record.last_used_at.or(record.created_at).as_deref().and_then(parse_time),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_asked_in_a_version_whose_answer_is_known() {
        for (version, expected) in [("1.41", "1.41"), ("1.51", "1.51"), ("1.52", "1.51"), ("2.0", "1.51")] {
            assert_eq!(spoken(version.parse().unwrap()), expected.parse().unwrap(), "{version}");
        }
    }
}
