//! What fills the disk, as part of a prune's page.

use std::io::{self, Write};
use std::time::Duration;

use serde::Serialize;

use super::prune::{KindJson, ObjectJson};
use super::table::{amount, names_or_id, short, table};
use crate::consumers::rank::{ConsumerKind, DiskConsumer, DiskConsumers};
use crate::facts::{ImageClass, short_id};
use crate::units::{age, clean, size};

pub fn text(out: &mut impl Write, consumers: &DiskConsumers) -> io::Result<()> {
    if !consumers.largest.is_empty() {
        writeln!(out, "\nLargest consumers (images share layers):")?;
        let row = |consumer: &DiskConsumer| {
            let known = |since: Option<Duration>| since.map_or_else(|| "-".into(), age);
            let image = consumer.image.as_ref();
            let last_use = match image {
                Some(image) if image.in_use => "in use".into(),
                Some(image) if image.last_used.is_none() => "never used".into(),
                _ => known(image.and_then(|image| image.last_used)),
            };
            let (kind, name) = (kind_and_name(consumer, consumers), size(consumer.size));
            [kind.0.to_owned(), kind.1, name, known(image.and_then(|image| image.age)), last_use]
        };
        table(out, ["KIND", "NAME", "SIZE", "AGE", "LAST USE"], consumers.largest.iter().map(row))?;
    }
    if !consumers.unreachable.is_empty() {
        writeln!(
            out,
            "The engine has forgotten {} of overlay2: no layer and no container refers there. No prune\n\
             reaches such, and this one leaves them alone:",
            amount(consumers.unreachable.len(), "folder")
        )?;
        for path in &consumers.unreachable {
            writeln!(out, "  {}", clean(&path.display().to_string()))?;
        }
    }
    consumers.unseen.iter().try_for_each(|why| writeln!(out, "could not be read: {}", clean(&why.0)))
}

fn kind_and_name(consumer: &DiskConsumer, all: &DiskConsumers) -> (&'static str, String) {
    let name = || names_or_id(&consumer.names, &consumer.id);
    match consumer.kind {
        ConsumerKind::Image(ImageClass::Tagged) => ("tagged image", name()),
        ConsumerKind::Image(class) => {
            let kind = if class == ImageClass::Cached { "cached image" } else { "dangling" };
            // The name under which it was last used.
            let last = consumer.image.as_ref().and_then(|image| image.last_name.as_ref());
            let used_by = last.map(|last| format!("{} ({})", short(last), short_id(&consumer.id)));
            (kind, used_by.unwrap_or_else(name))
        }
        ConsumerKind::Volume => ("volume", name()),
        ConsumerKind::ContainerLayer => ("container layer", name()),
        ConsumerKind::Log => ("log", name()),
        ConsumerKind::BuildCache => ("build cache", "not shared with images".into()),
        ConsumerKind::Unreachable => ("unreferenced", amount(all.unreachable.len(), "folder")),
        ConsumerKind::Elsewhere if all.other_is_least => {
            ("other", "neither images nor volumes; at least".into())
        }
        ConsumerKind::Elsewhere if all.unseen.is_empty() => ("other", "other files".into()),
        ConsumerKind::Elsewhere => ("other", "other files, and what could not be read".into()),
    }
}

#[derive(Serialize)]
pub struct ConsumersJson {
    largest: Vec<ConsumerJson>,
    unreferenced: Vec<String>,
    not_seen: Vec<String>,
}

#[derive(Serialize)]
struct ConsumerJson {
    #[serde(flatten)]
    object: ObjectJson,
    #[serde(skip_serializing_if = "Option::is_none")]
    image: Option<ImageUseJson>,
}

#[derive(Serialize)]
struct ImageUseJson {
    in_use: bool,
    age_seconds: Option<u64>,
    last_used_seconds: Option<u64>,
    last_name: Option<String>,
}

impl From<&DiskConsumers> for ConsumersJson {
    fn from(consumers: &DiskConsumers) -> Self {
        let consumer = |consumer: &DiskConsumer| ConsumerJson {
            object: ObjectJson {
                kind: match consumer.kind {
                    ConsumerKind::Image(class) => KindJson::image(class),
                    ConsumerKind::Volume => KindJson::plain("volume"),
                    ConsumerKind::ContainerLayer => KindJson::plain("container-layer"),
                    ConsumerKind::BuildCache => KindJson::plain("build-cache"),
                    ConsumerKind::Log => KindJson::plain("log"),
                    ConsumerKind::Unreachable => KindJson::plain("unreferenced"),
                    ConsumerKind::Elsewhere => KindJson::plain("other"),
                },
                id: consumer.id.clone(),
                names: consumer.names.clone(),
                size_bytes: consumer.size,
            },
            image: consumer.image.as_ref().map(|image| ImageUseJson {
                in_use: image.in_use,
                age_seconds: image.age.map(|age| age.as_secs()),
                last_used_seconds: image.last_used.map(|age| age.as_secs()),
                last_name: image.last_name.clone(),
            }),
        };
        Self {
            largest: consumers.largest.iter().map(consumer).collect(),
            unreferenced: consumers.unreachable.iter().map(|path| path.display().to_string()).collect(),
            not_seen: consumers.unseen.iter().map(|why| why.0.clone()).collect(),
        }
    }
}
