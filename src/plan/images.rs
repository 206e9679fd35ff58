//! Which images go: orphans that are old, and cached images that nobody needed for long.

use std::collections::HashMap;
use std::time::Duration;

use super::{Inventory, Keep, Kept, Kind, Plan, Policy, Removal, Remove, users};
use crate::facts::{Image, ImageClass};
use crate::ledger::Ledger;
use crate::units::{Percent, Time, elapsed};

/// Docker is younger than this; an earlier build date was made up for reproducibility (1970 by
/// Nix's dockerTools and others, 0001 by the zero time) and says nothing.
const FIRST_BELIEVABLE: &str = "2000-01-01T00:00:00Z";

pub(super) fn decide(
    inventory: &Inventory,
    ledger: &Ledger,
    policy: &Policy,
    usage: Option<Percent>,
    now: Time,
    plan: &mut Plan,
) {
    let protection = Protection::new(inventory);
    let mut cached = Vec::new();
    for image in &inventory.images {
        let decision = protection.of(image, policy).map_or(Ok(()), Err).and_then(|()| match image.class() {
            ImageClass::Tagged => Err(Keep::Tagged),
            ImageClass::Orphan => orphan_age(image, ledger, policy, now).map(Remove::Unnamed),
            ImageClass::Cached => cached_age(image, ledger, policy, now).map(Remove::Unused),
        });
        let (id, names, size) = (image.id.clone(), image.digests.clone(), image.size);
        let goes = decision.is_ok() && usage >= Some(policy.disk_target);
        if !goes && !image.is_nameless() {
            plan.release.extend(image.own_tag.clone());
        }
        match decision {
            Ok(reason @ Remove::Unused(_)) if usage >= Some(policy.disk_target) => {
                cached.push(Removal { kind: Kind::Cached, id, names, size, finished: None, reason });
            }
            Ok(Remove::Unused(_)) => {
                let below = |usage| Keep::BelowTarget(usage, policy.disk_target);
                let reason = usage.map_or(Keep::DiskUnknown, below);
                plan.keep.push(Kept { container: false, id, names, size, reason });
            }
            Ok(reason) => {
                plan.remove.push(Removal { kind: Kind::Orphan, id, names, size, finished: None, reason });
            }
            Err(reason) => {
                let names = if image.tags.is_empty() { names } else { image.tags.clone() };
                plan.keep.push(Kept { container: false, id, names, size, reason });
            }
        }
    }
    // Least recently used first; a plan is the same whichever way the engine lists.
    cached.sort_by(|a, b| unused(b).cmp(&unused(a)).then_with(|| a.id.cmp(&b.id)));
    plan.remove.extend(cached);
}

fn unused(removal: &Removal) -> Duration {
    if let Remove::Unused(age) = removal.reason { age } else { Duration::ZERO }
}

/// Must the engine be asked when this image was last tagged? Only of orphans that nothing else keeps.
pub fn wanting_tag_time<'a>(
    inventory: &'a Inventory,
    ledger: &'a Ledger,
    policy: &'a Policy,
    now: Time,
) -> impl Iterator<Item = &'a Image> {
    let protection = Protection::new(inventory);
    inventory.images.iter().filter(move |image| {
        image.class() == ImageClass::Orphan
            && protection.of(image, policy).is_none()
            && orphan_age(image, ledger, policy, now).is_ok()
    })
}

/// Who needs which image, for whatever reason but its age.
struct Protection<'a> {
    /// Container name by image ID.
    users: HashMap<&'a str, &'a str>,
    /// By reference as written, and by the digest in it.
    named: HashMap<&'a str, Keep>,
}

impl<'a> Protection<'a> {
    fn new(inventory: &'a Inventory) -> Self {
        let mut named = HashMap::new();
        let mut protect = |reference: &'a str, why: Keep| {
            if let Some((_, digest)) = reference.split_once('@') {
                named.entry(digest).or_insert_with(|| why.clone());
            }
            named.entry(reference).or_insert(why);
        };
        for service in &inventory.services {
            protect(&service.image, Keep::NamedBy(service.name.clone()));
        }
        for service in &inventory.services {
            if let Some(previous) = &service.previous_image {
                protect(previous, Keep::RollbackOf(service.name.clone()));
            }
        }
        let names: HashMap<_, _> = inventory.services.iter().map(|it| (&it.id, &it.name)).collect();
        for task in inventory.tasks.iter().filter(|task| task.state.is_live()) {
            let service = names.get(&task.service).unwrap_or(&&task.service).to_string();
            protect(&task.image, Keep::NamedBy(service));
        }
        Self { users: users(&inventory.containers), named }
    }

    fn of(&self, image: &Image, policy: &Policy) -> Option<Keep> {
        if let Some(user) = self.users.get(image.id.as_str()) {
            return Some(Keep::UsedBy((*user).to_owned()));
        }
        let references = image.tags.iter().chain(&image.digests);
        let digests = references.clone().filter_map(|it| it.split_once('@')).map(|(_, digest)| digest);
        let id = [image.id.as_str(), image.id.trim_start_matches("sha256:")];
        let mut keys = references.map(String::as_str).chain(digests).chain(id);
        if let Some(why) = keys.find_map(|key| self.named.get(key)) {
            return Some(why.clone());
        }
        policy.kept_by(&image.labels).map(|label| Keep::Label(label.clone()))
    }
}

/// The age of an orphan, if it is old enough: from the latest of its build date, the time of its
/// last tag and the ledger's note; where the build date says nothing, the ledger must know.
fn orphan_age(image: &Image, ledger: &Ledger, policy: &Policy, now: Time) -> Result<Duration, Keep> {
    let first: Time = FIRST_BELIEVABLE.parse().map_err(|_| Keep::AgeUnknown)?;
    let believable = |at: &Time| (first..=now).contains(at);
    let built = image.created.filter(believable);
    let entry = ledger.images.get(&image.id);
    let noted = entry.and_then(|entry| match built {
        Some(_) => entry.orphan_since,
        None => Some(entry.orphan_since.unwrap_or(entry.first_seen)),
    });
    if built.is_none() && noted.is_none() {
        return Err(Keep::AgeUnknown);
    }
    let since = [built, image.last_tagged.filter(believable), noted].into_iter().flatten().max();
    let age = since.map(|since| elapsed(now, since)).ok_or(Keep::AgeUnknown)?;
    if age < policy.older_than { Err(Keep::TooYoung(age, policy.older_than)) } else { Ok(age) }
}

/// The time since a cached image was last needed, if that is long enough; never its build date.
fn cached_age(image: &Image, ledger: &Ledger, policy: &Policy, now: Time) -> Result<Duration, Keep> {
    let entry = ledger.images.get(&image.id).ok_or(Keep::AgeUnknown)?;
    let age = elapsed(now, entry.last_needed());
    let least = policy.cache_age.max(policy.older_than);
    if age < least { Err(Keep::RecentlyUsed(age, least)) } else { Ok(age) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::{Container, Service, Task, TaskState};
    use crate::ledger::Entry;
    use crate::testing::{ago, container, image, labels, now, service, task};

    fn policy() -> Policy {
        Policy {
            older_than: Duration::from_secs(86_400),
            cache_age: Duration::from_secs(7 * 86_400),
            disk_target: "70".parse().unwrap(),
            keep_labels: vec!["keep".parse().unwrap()],
        }
    }

    /// A ledger that saw each of these images in use so long ago.
    fn ledger(images: &[(&str, &str)]) -> Ledger {
        let entry = |used: &str| Entry {
            first_seen: ago("90d").unwrap(),
            last_used: ago(used),
            named: true,
            orphan_since: None,
        };
        let images = images.iter().map(|&(id, used)| (format!("sha256:{id}"), entry(used))).collect();
        Ledger { images, ..Ledger::default() }
    }

    fn plan(inventory: &Inventory, ledger: &Ledger, usage: &str) -> Plan {
        let mut plan = Plan::default();
        decide(inventory, ledger, &policy(), usage.parse().ok(), now(), &mut plan);
        plan
    }

    fn verdict(inventory: &Inventory, ledger: &Ledger) -> Result<Remove, Keep> {
        let mut plan = plan(inventory, ledger, "85");
        plan.remove.pop().map(|it| it.reason).ok_or_else(|| plan.keep.pop().unwrap().reason)
    }

    fn only(image: Image) -> Inventory {
        Inventory { images: vec![image], ..Inventory::default() }
    }

    #[test]
    fn cached_images_go_least_recently_used_first_and_only_at_the_target() {
        let images = vec![image("a"), image("b"), image("c"), image("d")];
        let inventory = Inventory { images, ..Inventory::default() };
        let ledger = ledger(&[("a", "8d"), ("b", "30d"), ("c", "6d"), ("d", "9d")]);
        let gone = |usage| -> Vec<String> {
            plan(&inventory, &ledger, usage).remove.into_iter().map(|it| it.id).collect()
        };
        assert_eq!(gone("70"), ["sha256:b", "sha256:d", "sha256:a"]);
        assert_eq!(gone("69"), Vec::<String>::new());
        assert_eq!(plan(&inventory, &ledger, "69").keep.len(), 4);
    }

    #[test]
    fn a_cached_image_is_as_old_as_its_last_use_never_as_its_build() {
        assert_eq!(verdict(&only(image("a")), &Ledger::default()), Err(Keep::AgeUnknown));
        let recent = verdict(&only(image("a")), &ledger(&[("a", "1h")]));
        assert!(matches!(recent, Err(Keep::RecentlyUsed(..))));
        assert!(verdict(&only(image("a")), &ledger(&[("a", "7d")])).is_ok());
    }

    #[test]
    fn whatever_anyone_needs_stays() {
        let used = ledger(&[("a", "90d")]);
        let named = "other/name:9@sha256:da";
        let base = only(image("a"));
        let with = |change: &dyn Fn(&mut Inventory)| {
            let mut inventory = base.clone();
            change(&mut inventory);
            verdict(&inventory, &used)
        };
        assert!(with(&|_| ()).is_ok());
        let exited = Container { image_id: "sha256:a".into(), ..container() };
        assert_eq!(with(&|it| it.containers = vec![exited.clone()]), Err(Keep::UsedBy("plain".into())));
        let spec = Service { image: named.into(), ..service() };
        assert_eq!(with(&|it| it.services = vec![spec.clone()]), Err(Keep::NamedBy("app".into())));
        let previous = Service { previous_image: Some(named.into()), ..service() };
        assert_eq!(with(&|it| it.services = vec![previous.clone()]), Err(Keep::RollbackOf("app".into())));
        let task = Task { image: named.into(), state: TaskState::Preparing, ..task() };
        assert_eq!(with(&|it| it.tasks = vec![task.clone()]), Err(Keep::NamedBy("service".into())));
        let label = labels(&[("keep", "")]);
        assert!(matches!(with(&|it| it.images[0].labels = label.clone()), Err(Keep::Label(_))));
        assert_eq!(with(&|it| it.images[0].tags = vec!["app:1".into()]), Err(Keep::Tagged));
    }

    #[test]
    fn an_interrupted_eviction_is_finished_or_undone() {
        let tag = "ci-docker-prune.invalid/evicting:a";
        let own_tag = Some(tag.to_owned());
        let nameless = Image { digests: vec![], own_tag: own_tag.clone(), ..image("a") };
        assert!(verdict(&only(nameless.clone()), &ledger(&[("a", "90d")])).is_ok());
        assert!(plan(&only(nameless), &ledger(&[("a", "1h")]), "85").release.is_empty());
        let back = only(Image { own_tag, ..image("a") });
        assert_eq!(plan(&back, &ledger(&[("a", "1h")]), "85").release, [tag]);
        assert_eq!(plan(&back, &ledger(&[("a", "90d")]), "50").release, [tag], "below the target");
        assert!(plan(&back, &ledger(&[("a", "90d")]), "85").release.is_empty(), "it goes anyway");
    }

    #[test]
    fn a_service_that_names_an_image_by_its_id_keeps_it() {
        let by_id = Service { image: "sha256:a".into(), ..service() };
        let inventory = Inventory { services: vec![by_id], ..only(image("a")) };
        assert!(verdict(&inventory, &ledger(&[("a", "90d")])).is_err());
    }

    #[test]
    fn an_orphans_age_is_the_latest_of_what_can_be_believed() {
        let day = Duration::from_secs(86_400);
        let entry = |first_seen: &str, orphan: Option<&str>| Entry {
            first_seen: ago(first_seen).unwrap(),
            last_used: None,
            named: orphan.is_some(),
            orphan_since: orphan.and_then(ago),
        };
        let date = |text: &str| Some(text.parse::<Time>().unwrap());
        let built = ago("9d");
        let table = [
            ("built long ago", built, None, None, Ok(9 * day)),
            ("tagged lately", built, ago("2d"), None, Ok(2 * day)),
            ("tagged just now", built, ago("1h"), None, Err(())),
            ("first seen now, built long ago", built, None, Some(entry("0s", None)), Ok(9 * day)),
            ("became an orphan lately", built, None, Some(entry("9d", Some("1h"))), Err(())),
            ("became an orphan 3 days ago", built, None, Some(entry("9d", Some("3d"))), Ok(3 * day)),
            ("built in 1970", date("1970-01-01T00:00:01Z"), None, None, Err(())),
            (
                "built in 1970, seen 2 days ago",
                date("1970-01-01T00:00:01Z"),
                None,
                Some(entry("2d", None)),
                Ok(2 * day),
            ),
            ("built in 1970, seen now", date("1970-01-01T00:00:01Z"), None, Some(entry("0s", None)), Err(())),
            ("built in 0001", date("0001-01-01T00:00:00Z"), None, None, Err(())),
            ("built in 2999", date("2999-01-01T00:00:00Z"), None, None, Err(())),
            ("no build date", None, None, None, Err(())),
            ("no build date, tagged long ago", None, ago("9d"), None, Err(())),
            (
                "no build date, seen 2 days ago",
                None,
                date("0001-01-01T00:00:00Z"),
                Some(entry("2d", None)),
                Ok(2 * day),
            ),
        ];
        for (name, created, last_tagged, entry, expected) in table {
            let orphan = Image { digests: vec![], created, last_tagged, ..image("a") };
            let images = entry.map(|entry| ("sha256:a".to_owned(), entry)).into_iter().collect();
            let verdict = verdict(&only(orphan), &Ledger { images, ..Ledger::default() });
            assert_eq!(verdict.map_err(|_| ()), expected.map(Remove::Unnamed), "{name}");
        }
    }
}
