//! Finds the objects that a name means, and collects everything that decides about them.

use super::{Condition, KeepReason, Kept, LastUse, Plan, Policy, Removal, containers, images};
use crate::facts::{Container, Image, Inventory, Object, Reference, SHORTEST_ID, name_tag};
use crate::ledger::{Entry, Expectation, Ledger};
use crate::units::Time;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found<'a> {
    Container(&'a Container),
    Image(&'a Image),
}

/// What a prune at this moment would do with an object, whatever the gates say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    Remove(Removal),
    Keep(Kept),
}

#[derive(Debug, Clone)]
pub struct Explanation {
    /// An image with its tags and its digest references.
    pub object: Object,
    pub entry: Option<Entry>,
    /// Everything that keeps it whatever its age and the disk's usage.
    pub protections: Vec<KeepReason>,
    /// `None` where a prune does not consider it.
    pub decision: Option<Decision>,
    /// Of a cached image: its last use and when the next one is expected, and under which conditions it may go once
    /// nothing protects it.
    pub eviction: Option<(LastUse, Expectation, Vec<Condition>)>,
}

/// The objects that a text means, as docker(1) takes them: a container's name, an image's `name:tag` (with `latest`
/// where it has no tag), `name@sha256:…`, or the beginning of an ID. A digest may be cut short. A cached image is
/// also found by a `name:tag` by which it was used, and a repository's name means all of its images where there is
/// no `latest`.
pub fn matching_objects<'a>(inventory: &'a Inventory, ledger: &Ledger, text: &str) -> Vec<Found<'a>> {
    let named =
        |container: &&Container| container.names.iter().any(|name| name == text.trim_start_matches('/'));
    let containers: Vec<_> = inventory.containers.iter().filter(named).map(Found::Container).collect();
    let of_images = |matches: &dyn Fn(&Image) -> bool| -> Vec<Found> {
        inventory.images.iter().filter(|image| matches(image)).map(Found::Image).collect()
    };
    // A digest says which image is meant.
    let wanted = name_tag(text).filter(|_| !text.contains('@'));
    let by_name = |image: &Image| {
        let names = image.tags.iter().chain(&image.digests).filter_map(|reference| name_tag(reference));
        let used_by =
            ledger.images.get(&image.id).into_iter().flat_map(|entry| entry.references.keys().cloned());
        wanted.is_some() && names.chain(used_by).any(|name| Some(name) == wanted)
    };
    let by_digest = |image: &Image| image.digests.iter().any(|reference| has_digest(reference, text));
    let hex = text.trim_start_matches("sha256:");
    let is_id = hex.len() >= SHORTEST_ID && hex.bytes().all(|byte| byte.is_ascii_hexdigit());
    let by_id = |id: &str| is_id && id.trim_start_matches("sha256:").starts_with(&hex.to_ascii_lowercase());
    let ids = || {
        let containers = inventory.containers.iter().filter(|container| by_id(&container.id));
        containers.map(Found::Container).chain(of_images(&|image| by_id(&image.id))).collect()
    };
    let asked = Reference::parse(text);
    let by_repository = |image: &Image| {
        let mut names = image.tags.iter().chain(&image.digests).map(|name| Reference::parse(name).repository);
        names.any(|name| name == asked.repository)
    };
    let mut found = containers;
    found.extend(of_images(&|image| by_name(image) || by_digest(image)));
    if found.is_empty() {
        found = ids();
    }
    if found.is_empty() && (asked.tag, asked.digest) == (None, None) {
        found = of_images(&by_repository);
    }
    found
}

fn has_digest(reference: &str, text: &str) -> bool {
    let (own, asked) = (Reference::parse(reference), Reference::parse(text));
    let begins = |(own, asked): (&str, &str)| asked.len() > "sha256:".len() && own.starts_with(asked);
    own.repository == asked.repository && own.digest.zip(asked.digest).is_some_and(begins)
}

pub fn explain(
    object: Found,
    inventory: &Inventory,
    ledger: &Ledger,
    policy: &Policy,
    plan: &Plan,
    now: Time,
) -> Explanation {
    let (object, entry, protections, eviction) = match object {
        Found::Container(container) => {
            (container.into(), None, containers::protections(container, inventory, policy), None)
        }
        Found::Image(image) => {
            let names = image.tags.iter().chain(&image.digests).cloned().collect();
            (
                Object { names, ..image.into() },
                ledger.images.get(&image.id).cloned(),
                images::protections(image, inventory, policy),
                images::eviction_conditions(image, ledger, policy, now),
            )
        }
    };
    let removal = plan.remove.iter().find(|removal| removal.object.id == object.id);
    let kept = plan.keep.iter().find(|kept| kept.object.id == object.id);
    let decision = removal.cloned().map(Decision::Remove).or_else(|| Some(Decision::Keep(kept?.clone())));
    Explanation { object, entry, protections, decision, eviction }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::testing::{ago, container, image, labels, now, policy, service};

    fn inventory() -> Inventory {
        let strings = |texts: &[&str]| texts.iter().map(|&text| text.to_owned()).collect::<Vec<_>>();
        let images = [
            ("aaaa1111", strings(&["redis:7"]), vec![]),
            ("bbbb2222", vec![], strings(&["redis@sha256:0123456789abcdef"])),
            ("cccc3333", vec![], strings(&["shop/web:1@sha256:fedcba98"])),
            ("dddd4444", strings(&["localhost:5000/db:latest"]), vec![]),
        ];
        let images = images.into_iter().map(|(id, tags, digests)| Image { tags, digests, ..image(id) });
        let web = Container { id: "eeee5555".into(), names: vec!["web".into()], ..container() };
        Inventory { containers: vec![web], images: images.collect(), ..Inventory::default() }
    }

    #[test]
    fn objects_are_found_by_the_names_that_people_type() {
        let inventory = inventory();
        let references = BTreeMap::from([("redis:6".into(), now())]);
        let entry = Entry { last_used: ago("1h"), named: true, references, ..Entry::new(now()) };
        let ledger = Ledger { images: [("sha256:bbbb2222".into(), entry)].into(), ..Ledger::default() };
        let table = [
            ("redis:7", "aaaa1111"),
            ("docker.io/library/redis:7", "aaaa1111"),
            ("redis:6", "bbbb2222"),
            ("redis@sha256:0123", "bbbb2222"),
            ("redis@sha256:9", ""),
            ("shop@sha256:fedc", ""),
            ("shop/web@sha256:fedc", "cccc3333"),
            ("shop/web@sha256:", ""),
            ("redis:7@sha256:9", ""),
            ("redis:7@sha256:0123", "bbbb2222"),
            ("redis", "aaaa1111 bbbb2222"),
            ("shop/web:1", "cccc3333"),
            ("shop/web", "cccc3333"),
            ("localhost:5000/db", "dddd4444"),
            ("localhost:5000/db:2", ""),
            ("dddd", "dddd4444"),
            ("sha256:dddd4444", "dddd4444"),
            ("DDDD", "dddd4444"),
            ("web", "eeee5555"),
            ("/web", "eeee5555"),
            ("eeee5", "eeee5555"),
            ("nothing", ""),
            ("", ""),
        ];
        for (text, expected) in table {
            let id = |object: &Found| match object {
                Found::Container(container) => container.id.clone(),
                Found::Image(image) => image.id.trim_start_matches("sha256:").to_owned(),
            };
            let found: Vec<_> = matching_objects(&inventory, &ledger, text).iter().map(id).collect();
            assert_eq!(found.join(" "), expected, "{text}");
        }
    }

    #[test]
    fn everything_that_protects_an_image_is_told() {
        let (mut inventory, ledger) = (inventory(), Ledger::default());
        inventory.images[0].labels = labels(&[("keep", "")]);
        let users = ["web", "api"].map(|name| Container {
            id: name.into(),
            names: vec![name.into()],
            image_id: inventory.images[0].id.clone(),
            ..container()
        });
        inventory.containers = users.into();
        let service = crate::facts::Service { image: "redis:7".into(), ..service() };
        let name = service.name.clone();
        inventory.services = vec![service];
        let policy = Policy { keep_labels: vec!["keep".parse().unwrap()], ..policy() };
        let object = Found::Image(&inventory.images[0]);
        let found = explain(object, &inventory, &ledger, &policy, &Plan::default(), now());
        let expected = [
            KeepReason::UsedBy("web".into()),
            KeepReason::UsedBy("api".into()),
            KeepReason::NamedBy(name),
            KeepReason::Label("keep".parse().unwrap()),
            KeepReason::Tagged,
        ];
        assert_eq!(found.protections, expected);
    }
}
