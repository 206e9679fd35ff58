//! What fills the disk, as part of a prune's page.

use std::io::{self, Write};
use std::time::Duration;

use serde::Serialize;
use serde_json::{Value, json as figures};

use super::prune::{KindJson, ObjectJson};
use super::table::{amount, names_or_id, short, table};
use crate::consumers::rank::{ConsumerKind, DiskConsumer, DiskConsumers, Rest};
use crate::facts::{ImageClass, short_id};
use crate::units::{age, clean, size};

pub fn text(out: &mut impl Write, consumers: &DiskConsumers) -> io::Result<()> {
    if !consumers.largest.is_empty() {
        let of = consumers.mount_point.as_ref().map(|path| format!(" of {}", path.display()));
        writeln!(out, "\nLargest consumers{} (images share layers):", clean(&of.unwrap_or_default()))?;
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
        let rest = |rest: &Rest| {
            let name = format!("{} more", rest.count);
            [kind_name(rest.kind).to_owned(), name, size(rest.size), "-".into(), "-".into()]
        };
        let rows = consumers.largest.iter().map(row).chain(consumers.rest.iter().map(rest));
        table(out, ["KIND", "NAME", "SIZE", "AGE", "LAST USE"], rows)?;
    }
    for volume in consumers.largest.iter().filter(|consumer| consumer.kind == ConsumerKind::Volume) {
        if let Some(builder) = builder(&volume.id) {
            writeln!(
                out,
                "the volume of BuildKit builder {builder}: docker buildx prune --builder {builder}"
            )?;
        }
    }
    if let (n @ 1.., bytes) = consumers.unused_volumes {
        writeln!(
            out,
            "{} that no container uses, {}: docker volume ls --filter dangling=true (look first; no prune removes a volume)",
            amount(n, "volume"),
            size(bytes)
        )?;
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

/// Whose build cache the volume is, by the name that buildx gives it.
fn builder(volume: &str) -> Option<&str> {
    let name = volume.strip_prefix("buildx_buildkit_")?.strip_suffix("_state")?;
    let name = name.trim_end_matches(|c: char| c.is_ascii_digit());
    let is_plain =
        |name: &&str| name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte));
    Some(name).filter(|name| !name.is_empty()).filter(is_plain)
}

fn kind_name(kind: ConsumerKind) -> &'static str {
    match kind {
        ConsumerKind::Image(ImageClass::Tagged) => "tagged image",
        ConsumerKind::Image(ImageClass::Cached) => "cached image",
        ConsumerKind::Image(ImageClass::Dangling) => "dangling",
        ConsumerKind::Volume => "volume",
        ConsumerKind::ContainerLayer => "container layer",
        ConsumerKind::Log => "log",
        ConsumerKind::BuildCache => "build cache",
        ConsumerKind::Unreachable => "unreferenced",
        ConsumerKind::Folder => "folder",
        ConsumerKind::Elsewhere => "other",
    }
}

fn kind_and_name(consumer: &DiskConsumer, all: &DiskConsumers) -> (&'static str, String) {
    let name = || names_or_id(&consumer.names, &consumer.id);
    let kind = kind_name(consumer.kind);
    let name = match consumer.kind {
        ConsumerKind::Image(ImageClass::Tagged) => name(),
        ConsumerKind::Image(_) => {
            // The name under which it was last used.
            let last = consumer.image.as_ref().and_then(|image| image.last_name.as_ref());
            let used_by = last.map(|last| format!("{} ({})", short(last), short_id(&consumer.id)));
            used_by.unwrap_or_else(name)
        }
        ConsumerKind::Volume => {
            // An anonymous one has 64 hexadecimal digits.
            let is_anonymous =
                consumer.id.len() == 64 && consumer.id.bytes().all(|byte| byte.is_ascii_hexdigit());
            let name = if is_anonymous { short_id(&consumer.id) } else { name() };
            match &consumer.used_by {
                Some(container) => format!("{name} of {container}"),
                None => format!("{name} of no container"),
            }
        }
        ConsumerKind::ContainerLayer | ConsumerKind::Log => name(),
        // Its path, which is to be looked at.
        ConsumerKind::Folder => consumer.id.clone(),
        ConsumerKind::BuildCache => "not shared with images".into(),
        ConsumerKind::Unreachable => amount(all.unreachable.len(), "folder"),
        ConsumerKind::Elsewhere if all.other_is_least => "neither images nor volumes; at least".into(),
        ConsumerKind::Elsewhere if all.unseen.is_empty() => "other files".into(),
        ConsumerKind::Elsewhere => "other files, and what could not be read".into(),
    };
    (kind, name)
}

#[derive(Serialize)]
pub struct ConsumersJson {
    /// The filesystem that these are on.
    path: Option<String>,
    largest: Vec<ConsumerJson>,
    /// What is not among the largest, by kind.
    rest: Vec<Value>,
    unused_volumes: Value,
    unreferenced: Vec<String>,
    not_seen: Vec<String>,
}

#[derive(Serialize)]
struct ConsumerJson {
    #[serde(flatten)]
    object: ObjectJson,
    #[serde(skip_serializing_if = "Option::is_none")]
    image: Option<ImageUseJson>,
    #[serde(skip_serializing_if = "Option::is_none")]
    used_by: Option<String>,
}

#[derive(Serialize)]
struct ImageUseJson {
    in_use: bool,
    age_seconds: Option<u64>,
    last_used_seconds: Option<u64>,
    last_name: Option<String>,
}

fn kind_json(kind: ConsumerKind) -> KindJson {
    match kind {
        ConsumerKind::Image(class) => KindJson::image(class),
        ConsumerKind::ContainerLayer => KindJson::plain("container-layer"),
        ConsumerKind::BuildCache => KindJson::plain("build-cache"),
        other => KindJson::plain(kind_name(other)),
    }
}

impl From<&DiskConsumers> for ConsumersJson {
    fn from(consumers: &DiskConsumers) -> Self {
        let consumer = |consumer: &DiskConsumer| ConsumerJson {
            object: ObjectJson {
                kind: kind_json(consumer.kind),
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
            used_by: consumer.used_by.clone(),
        };
        let rest = |rest: &Rest| {
            let mut json = figures!(kind_json(rest.kind));
            json["count"] = rest.count.into();
            json["size_bytes"] = rest.size.into();
            json
        };
        Self {
            path: consumers.mount_point.as_ref().map(|path| path.display().to_string()),
            largest: consumers.largest.iter().map(consumer).collect(),
            rest: consumers.rest.iter().map(rest).collect(),
            unused_volumes: figures!({
                "count": consumers.unused_volumes.0, "size_bytes": consumers.unused_volumes.1,
            }),
            unreferenced: consumers.unreachable.iter().map(|path| path.display().to_string()).collect(),
            not_seen: consumers.unseen.iter().map(|why| why.0.clone()).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_volume_of_a_builder_is_known_by_its_name() {
        for (volume, expected) in [
            ("buildx_buildkit_ci0_state", Some("ci")),
            ("buildx_buildkit_multi-arch12_state", Some("multi-arch")),
            ("buildx_buildkit_0_state", None),
            ("buildx_buildkit_x;rm0_state", None),
            ("data", None),
        ] {
            assert_eq!(builder(volume), expected, "{volume}");
        }
    }
}
