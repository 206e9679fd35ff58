//! What a plan is about: containers, images and the build cache, each with its name in the output.

use super::{Container, Image, ImageClass};

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    Container,
    Image(ImageClass),
    BuildCache,
}

impl Kind {
    /// One word, as in the tables; the JSON tells an image's class apart.
    pub fn name(self) -> &'static str {
        match self {
            Self::Container => "container",
            Self::Image(class) => class.name(),
            Self::BuildCache => "build-cache",
        }
    }

    pub fn class(self) -> Option<ImageClass> {
        match self {
            Self::Image(class) => Some(class),
            Self::Container | Self::BuildCache => None,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Object {
    pub kind: Kind,
    /// Empty for the build cache.
    pub id: String,
    /// A container's names; an image's tags, else its digest references.
    pub names: Vec<String>,
    /// Bytes; of an image with the layers that it shares, of a container 0: the engine would have to walk its files.
    pub size: u64,
}

impl Object {
    pub fn label(&self) -> &str {
        self.names.first().unwrap_or(&self.id)
    }
}

impl From<&Container> for Object {
    fn from(container: &Container) -> Self {
        let (id, names) = (container.id.clone(), container.names.clone());
        Self { kind: Kind::Container, id, names, size: 0 }
    }
}

impl From<&Image> for Object {
    fn from(image: &Image) -> Self {
        let names = if image.tags.is_empty() { image.digests.clone() } else { image.tags.clone() };
        Self { kind: Kind::Image(image.class()), id: image.id.clone(), names, size: image.size }
    }
}
