//! Images, their references by kind, and their layers.

use std::fmt;
use std::str::FromStr;

use super::{Labels, Reference, name_tag};
use crate::units::Time;

/// An image (`GET /images/json`), its references by kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// `sha256:…`: of the configuration on overlay2, of the manifest on the containerd image store.
    pub id: String,
    pub tags: Vec<String>,
    /// `name@sha256:…` and, on the containerd image store, `name:tag@sha256:…`.
    pub digests: Vec<String>,
    /// Our tag, which an eviction under way gave it; never among its tags.
    pub eviction_tag: Option<String>,
    /// Build date; `None` where the engine shows none.
    pub created: Option<Time>,
    /// When its tag was last set, where that was asked and is known (`GET /images/{id}/json`).
    pub last_tagged: Option<Time>,
    /// The ID of the image that the classic builder made it from.
    pub parent: Option<String>,
    /// The number of its untagged parents, up the chain, if that was asked.
    pub untagged_parents: usize,
    /// Bytes, layers shared with other images included.
    pub size: u64,
    pub labels: Labels,
}

/// A layer of an image, with the layers below it: two images share one where all below are the same too.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layer {
    /// The digest of its content (`RootFS.Layers`), shortened to [`Layer::ID_DIGITS`] digits.
    pub id: String,
    /// Bytes on disk: on the containerd store packed and unpacked.
    pub size: u64,
}

impl Layer {
    pub const ID_DIGITS: usize = 16;

    pub fn new(digest: &str, size: u64) -> Self {
        let hex = digest.split_once(':').map_or(digest, |(_, hex)| hex);
        Self { id: hex.chars().take(Self::ID_DIGITS).collect(), size }
    }
}

impl fmt::Display for Layer {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{}:{}", self.id, self.size)
    }
}

impl FromStr for Layer {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("'{text}' is no ID:BYTES");
        let (id, size) = text.split_once(':').ok_or_else(wrong)?;
        Ok(Self { id: id.to_owned(), size: size.parse().map_err(|_| wrong())? })
    }
}

/// A step of an image's history (`GET /images/{id}/history`), oldest first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BuildStep {
    /// Bytes of its layer, unpacked; 0 of a step that made none.
    pub size: u64,
    pub created_by: String,
}

/// The commands that write files, and so make a layer, even one of 0 bytes; all others change the configuration
/// only.
const LAYER_COMMANDS: [&str; 4] = ["RUN", "COPY", "ADD", "WORKDIR"];

/// The layers of an image, base first, from the digests of its layers, its history, and its total size; `None` if
/// these three do not match.
///
/// The history does not say which of its steps made a layer. Those with a size did. The layers that are still
/// missing are of steps without a size: first of those whose commands write files. What the image takes beyond the
/// sum of its layers (the containerd store keeps each layer as it was pulled too) is shared out by size.
pub fn layers(digests: &[String], history: &[BuildStep], total: u64) -> Option<Vec<Layer>> {
    let with_size = history.iter().filter(|step| step.size > 0).count();
    let mut empty = digests.len().checked_sub(with_size)?;
    if history.len() < digests.len() {
        return None;
    }
    let writes = |step: &BuildStep| {
        // The classic builder's form; without its `#(nop)` it is a RUN.
        let command = match step.created_by.strip_prefix("/bin/sh -c ") {
            Some(command) => match command.strip_prefix("#(nop)") {
                Some(command) => command.trim_start(),
                None => return true,
            },
            None => &step.created_by,
        };
        LAYER_COMMANDS.iter().any(|name| command.starts_with(name))
    };
    let mut made: Vec<bool> = history.iter().map(|step| step.size > 0).collect();
    for only_writing in [true, false] {
        for (step, made) in history.iter().zip(&mut made) {
            if empty > 0 && !*made && (writes(step) || !only_writing) {
                *made = true;
                empty -= 1;
            }
        }
    }
    let sizes: Vec<u64> =
        history.iter().zip(&made).filter(|(_, made)| **made).map(|(step, _)| step.size).collect();
    let unpacked: u64 = sizes.iter().fold(0, |sum, size| sum.saturating_add(*size));
    let packed = total.saturating_sub(unpacked);
    let share = |size: u64| {
        let of = u128::from(packed) * u128::from(size) / u128::from(unpacked.max(1));
        size.saturating_add(u64::try_from(of).unwrap_or(u64::MAX))
    };
    Some(digests.iter().zip(sizes).map(|(digest, size)| Layer::new(digest, share(size))).collect())
}

/// The repository of our own tags: an image that is being evicted gets one, loses its names, and
/// goes a moment later. No registry can have this name (RFC 2606).
pub const EVICTION_REPOSITORY: &str = "ci-docker-prune.invalid/evicting";

/// The tag that an image has while it is being evicted.
pub fn eviction_tag(id: &str) -> String {
    format!("{EVICTION_REPOSITORY}:{}", id.trim_start_matches("sha256:"))
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct References {
    pub tags: Vec<String>,
    pub digests: Vec<String>,
    pub eviction_tag: Option<String>,
}

/// The classes of images.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ImageClass {
    Tagged,
    /// It has a digest and no tag: what Swarm pulls, or what an eviction has begun to remove.
    Cached,
    Dangling,
}

impl ImageClass {
    pub fn name(self) -> &'static str {
        match self {
            Self::Tagged => "tagged",
            Self::Cached => "cached",
            Self::Dangling => "dangling",
        }
    }
}

/// The shortest prefix that counts as an image's ID, in hexadecimal digits.
pub const SHORTEST_ID: usize = 4;

impl Image {
    pub fn is_named(&self, reference: &str) -> bool {
        let (id, hex) = (self.id.trim_start_matches("sha256:"), reference.trim_start_matches("sha256:"));
        let by_name = || match Reference::parse(reference).digest {
            // On the containerd store the digest is the ID.
            Some(digest) => {
                digest == self.id
                    || self.digests.iter().any(|own| Reference::parse(own).digest == Some(digest))
            }
            // Short names count like full ones.
            None => name_tag(reference)
                .is_some_and(|wanted| self.tags.iter().any(|tag| name_tag(tag).as_ref() == Some(&wanted))),
        };
        reference == self.id || (hex.len() >= SHORTEST_ID && id.starts_with(hex)) || by_name()
    }

    pub fn is_nameless(&self) -> bool {
        self.tags.is_empty() && self.digests.is_empty()
    }

    pub fn has_reference(&self, reference: &str) -> bool {
        self.tags.iter().chain(&self.digests).any(|name| name == reference)
    }

    /// Its class, by its references.
    pub fn class(&self) -> ImageClass {
        match (self.tags.is_empty(), self.digests.is_empty(), &self.eviction_tag) {
            (false, ..) => ImageClass::Tagged,
            (true, false, _) | (true, true, Some(_)) => ImageClass::Cached,
            (true, true, None) => ImageClass::Dangling,
        }
    }
}

impl References {
    /// Sort the references of an answer by kind. The engine's literals for "none" (20.10 writes `<none>:<none>` and
    /// `<none>@<none>`) and the containerd store's `moby-dangling@…` count as no name; a tag with a digest in it is
    /// a digest.
    pub fn new(tags: Vec<String>, digests: Vec<String>) -> Self {
        let own = |name: &String| {
            name.strip_prefix(EVICTION_REPOSITORY).is_some_and(|rest| rest.starts_with([':', '@']))
        };
        let named =
            |name: &String| !name.starts_with("<none>") && !name.starts_with("moby-dangling@") && !own(name);
        let eviction_tag = tags.iter().find(|tag| own(tag)).cloned();
        let (pinned, tags): (Vec<_>, Vec<_>) =
            tags.into_iter().filter(named).partition(|tag| tag.contains('@'));
        let mut digests: Vec<_> = digests.into_iter().filter(named).chain(pinned).collect();
        digests.sort();
        digests.dedup();
        Self { tags, digests, eviction_tag }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(words: &[&str]) -> Vec<String> {
        words.iter().map(|&word| word.to_owned()).collect()
    }

    #[test]
    fn a_tag_with_a_digest_in_it_is_a_digest_and_none_is_none() {
        let digest = "app@sha256:aa";
        let table = [
            (words(&["app:1"]), words(&[digest]), ImageClass::Tagged),
            (words(&["app:1@sha256:aa"]), words(&[digest]), ImageClass::Cached),
            (words(&[]), words(&[digest]), ImageClass::Cached),
            (words(&["<none>:<none>"]), words(&["<none>@<none>"]), ImageClass::Dangling),
            (words(&[]), words(&["moby-dangling@sha256:aa"]), ImageClass::Dangling),
            (words(&["app:1", "app:1@sha256:aa"]), words(&[digest]), ImageClass::Tagged),
            (words(&["ci-docker-prune.invalid/evicting:aa"]), words(&[]), ImageClass::Cached),
            (words(&["ci-docker-prune.invalid/evictings:aa"]), words(&[]), ImageClass::Tagged),
            (
                words(&["app:1", "ci-docker-prune.invalid/evicting:aa"]),
                words(&["ci-docker-prune.invalid/evicting@sha256:aa"]),
                ImageClass::Tagged,
            ),
        ];
        for (tags, digests, expected) in table {
            let shown = format!("{tags:?} {digests:?}");
            let References { tags, digests, eviction_tag } = References::new(tags, digests);
            let image = Image {
                id: String::new(),
                tags,
                digests,
                eviction_tag,
                created: None,
                last_tagged: None,
                parent: None,
                untagged_parents: 0,
                size: 0,
                labels: Labels::new(),
            };
            assert_eq!(image.class(), expected, "{shown}");
        }
    }

    #[test]
    fn an_image_is_named_by_its_id_a_tag_or_a_digest() {
        let image = Image {
            tags: words(&["tools:1", "localhost:5000/tools:latest"]),
            digests: words(&["tools@sha256:d1", "tools:2@sha256:d2"]),
            ..crate::testing::image("f02e934b7a31ab9c")
        };
        let table = [
            ("sha256:f02e934b7a31ab9c", true),
            ("f02e934b7a31", true),
            ("f02e", true),
            ("f0", false),
            ("sha256:", false),
            ("", false),
            ("e934b7a31ab9", false),
            ("tools:1", true),
            ("docker.io/library/tools:1", true),
            ("localhost:5000/tools", true),
            ("tools", false),
            ("tools:2", false),
            ("tools@sha256:d1", true),
            ("tools:1@sha256:d2", true),
            ("tools:1@sha256:d3", false),
            ("other@sha256:f02e934b7a31ab9c", true),
        ];
        for (reference, expected) in table {
            assert_eq!(image.is_named(reference), expected, "{reference}");
        }
    }

    #[test]
    fn layers_are_told_from_the_history() {
        let step = |size, created_by: &str| BuildStep { size, created_by: created_by.into() };
        let digests = |n: usize| (0..n).map(|n| format!("sha256:{n}")).collect::<Vec<_>>();
        let base = || vec![step(100, "ADD base"), step(0, "CMD [\"sh\"]")];
        let table = [
            (digests(1), base(), 100, Some(vec![100])),
            // BuildKit's and the classic builder's layers of 0 bytes.
            (
                digests(2),
                [base(), vec![step(0, "ENV a=b"), step(0, "WORKDIR /x")]].concat(),
                100,
                Some(vec![100, 0]),
            ),
            (
                digests(3),
                [
                    vec![step(0, "/bin/sh -c true"), step(0, "/bin/sh -c #(nop)  ENV a=b")],
                    vec![step(5, "/bin/sh -c #(nop) COPY a /"), step(0, "/bin/sh -c #(nop) WORKDIR /x")],
                ]
                .concat(),
                5,
                Some(vec![0, 5, 0]),
            ),
            // A tool with words of its own: the oldest step of no size.
            (
                digests(2),
                vec![step(0, "bazel build"), step(7, "bazel build"), step(0, "bazel")],
                7,
                Some(vec![0, 7]),
            ),
            // The containerd store keeps what was pulled too.
            (digests(2), vec![step(100, "ADD a"), step(300, "ADD b")], 600, Some(vec![150, 450])),
            (digests(1), vec![step(1, "ADD a"), step(1, "ADD b")], 2, None),
            (digests(3), base(), 100, None),
            (vec![], vec![], 0, Some(vec![])),
        ];
        for (digests, history, total, expected) in table {
            let found = layers(&digests, &history, total);
            let sizes =
                found.as_ref().map(|layers| layers.iter().map(|layer| layer.size).collect::<Vec<_>>());
            assert_eq!(sizes, expected, "{history:?}");
        }
        assert_eq!(Layer::new("sha256:0123456789abcdef0123", 1).id, "0123456789abcdef");
    }
}
