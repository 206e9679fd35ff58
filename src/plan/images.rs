//! Which images go: dangling images that are old, and cached images by the rungs of eviction.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::time::Duration;

use super::sharing::Sharing;
use super::{
    Condition, Eviction, KeepReason, Kept, LastUse, Leftover, Plan, Policy, Removal, RemovalReason, Rung,
    Users,
};
use crate::facts::{Container, Image, ImageClass, Inventory, Labels, Object, Reference, Usage, name_tag};
use crate::ledger::{Entry, Expectation, Ledger};
use crate::units::{Time, elapsed};

pub(super) fn decide(
    inventory: &Inventory,
    ledger: &Ledger,
    policy: &Policy,
    usage: Option<&Usage>,
    now: Time,
    plan: &mut Plan,
) {
    let (removals, kept) = judge(inventory, ledger, policy, usage, now);
    let (removals, shared) = without_shared(removals, inventory, ledger);
    for (image, reason) in kept.into_iter().chain(shared) {
        plan.leftovers.extend(leftover(image, ledger));
        plan.keep.push(Kept { object: image.into(), reason });
    }
    let mut sharing = Sharing::new(&inventory.images, ledger);
    for (image, mut removal) in removals {
        removal.frees = sharing.remove(&removal.object.id);
        // The eviction reuses our tag, and tags that were lost are given back first.
        let lost = leftover(image, ledger).filter(|left| !left.lost_tags.is_empty() && !image.is_nameless());
        plan.leftovers.extend(lost.map(|left| Leftover { eviction_tag: None, ..left }));
        plan.remove.push(removal);
    }
}

type Removals<'a> = Vec<(&'a Image, Removal)>;
type KeptImages<'a> = Vec<(&'a Image, KeepReason)>;

/// The removals and the kept images, by references, age and the disk's usage; the removals in their order.
fn judge<'a>(
    inventory: &'a Inventory,
    ledger: &Ledger,
    policy: &Policy,
    usage: Option<&Usage>,
    now: Time,
) -> (Removals<'a>, KeptImages<'a>) {
    let protection = Protection::new(inventory);
    let replaced = ledger.superseded();
    let (mut removals, mut kept) = (Vec::new(), Vec::new());
    for image in &inventory.images {
        let taken = taken_names(image, ledger);
        let reason = match (protection.of(image, taken, policy), image.class()) {
            (Some(protected), _) => Err(protected),
            (None, _) if let Some(ago) = refusal(image, ledger, now) => Err(KeepReason::Refused(ago)),
            (None, ImageClass::Cached) if image.is_nameless() => match is_evictable(taken, policy) {
                false if taken.iter().any(|name| !name.contains('@')) => Err(KeepReason::Tagged),
                _ => Ok(RemovalReason::Interrupted),
            },
            (None, ImageClass::Tagged) if !is_evictable(&image.tags, policy) => Err(KeepReason::Tagged),
            (None, ImageClass::Tagged | ImageClass::Cached) => {
                let expected = expectation(image, ledger, &replaced, now);
                eviction(image, ledger, expected, policy, usage, now).map(RemovalReason::Evicted)
            }
            (None, ImageClass::Dangling) if inventory.is_unread(&image.id) => Err(KeepReason::Unread),
            (None, ImageClass::Dangling) => {
                let parents = image.untagged_parents;
                dangling_age(image, ledger, policy, now).map(|age| RemovalReason::Unnamed { age, parents })
            }
        };
        match reason {
            Err(reason) => kept.push((image, reason)),
            Ok(reason) => {
                let (object, frees, finished) = (Object::from(image), None, None);
                removals.push((image, Removal { object, frees, finished, reason }));
            }
        }
    }
    // A plan does not depend on the order of the engine's list.
    removals.sort_by_cached_key(|(_, removal)| {
        (removal.turn(), eviction_order(removal), removal.object.id.clone())
    });
    (removals, kept)
}

pub fn wants_layers(
    inventory: &Inventory,
    ledger: &Ledger,
    policy: &Policy,
    usage: Option<&Usage>,
    now: Time,
) -> bool {
    let (removals, _) = judge(inventory, ledger, policy, usage, now);
    removals.iter().any(|(_, removal)| matches!(removal.reason, RemovalReason::Evicted(_)))
}

/// Keep the images whose eviction would free a negligible amount, because images that stay have the same layers.
fn without_shared<'a>(
    removals: Removals<'a>,
    inventory: &Inventory,
    ledger: &Ledger,
) -> (Removals<'a>, KeptImages<'a>) {
    let going = removals.iter().map(|(_, removal)| removal.object.id.as_str()).collect();
    let own = Sharing::new(&inventory.images, ledger).own_among(&going);
    let mut shared = Vec::new();
    let left = removals.into_iter().filter(|(image, removal)| match &removal.reason {
        RemovalReason::Evicted(eviction)
            if own.get(image.id.as_str()).is_some_and(|own| is_negligible(*own, 1, image.size)) =>
        {
            shared.push((*image, KeepReason::SharesLayers(eviction.last_use)));
            false
        }
        _ => true,
    });
    (left.collect(), shared)
}

/// Bytes that the engine's own records of an image take, at most.
const ENGINE_RECORDS: u64 = 1 << 20;

/// Whether `freed` bytes are no more than the engine's own records of these images, which should free `size`.
pub fn is_negligible(freed: u64, images: usize, size: u64) -> bool {
    let records = ENGINE_RECORDS.saturating_mul(u64::try_from(images).unwrap_or(u64::MAX));
    freed < records.min(size / 100)
}

/// The names that an eviction of this image has recorded.
fn taken_names<'a>(image: &Image, ledger: &'a Ledger) -> &'a [String] {
    ledger.evicting.get(&image.id).map(Vec::as_slice).unwrap_or_default()
}

/// An image whose removal the engine refused is not asked for again for this long: something holds it that this
/// program does not see.
const REFUSAL_RETENTION: Duration = Duration::from_secs(7 * 86_400);

fn refusal(image: &Image, ledger: &Ledger, now: Time) -> Option<Duration> {
    let ago = elapsed(ledger.time(now), ledger.images.get(&image.id)?.refused?);
    (ago < REFUSAL_RETENTION).then_some(ago)
}

/// What an interrupted eviction left to undo on an image that stays: lost tags, and our tag.
fn leftover(image: &Image, ledger: &Ledger) -> Option<Leftover> {
    let lost = |name: &&String| !name.contains('@') && !image.tags.contains(name);
    let lost_tags: Vec<String> = taken_names(image, ledger).iter().filter(lost).cloned().collect();
    // Without a name our tag is all that keeps it.
    let is_over = !image.is_nameless() || !lost_tags.is_empty();
    let eviction_tag = image.eviction_tag.clone();
    (is_over && (eviction_tag.is_some() || ledger.evicting.contains_key(&image.id))).then(|| Leftover {
        id: image.id.clone(),
        lost_tags,
        eviction_tag,
    })
}

/// By rung, then by the expected next use, then least recently used first.
fn eviction_order(removal: &Removal) -> Option<impl Ord + use<>> {
    let RemovalReason::Evicted(eviction) = &removal.reason else { return None };
    Some((eviction.rung, eviction.expected.turn(), Reverse(eviction.last_use.ago())))
}

fn expectation(image: &Image, ledger: &Ledger, replaced: &HashMap<&str, &str>, now: Time) -> Expectation {
    let by = replaced.get(image.id.as_str());
    by.map_or_else(|| ledger.expectation(&image.id, now), |name| Expectation::Replaced((*name).to_owned()))
}

fn is_evictable(names: &[String], policy: &Policy) -> bool {
    let matches = |tag: &String| policy.evict_tagged.iter().any(|pattern| pattern.is_match(tag));
    let mut tags = names.iter().filter(|name| !name.contains('@')).peekable();
    tags.peek().is_some() && tags.all(matches)
}

/// Why a cached image may go now, if its time since last use and the disk allow it; never by its build date.
fn eviction(
    image: &Image,
    ledger: &Ledger,
    expected: Expectation,
    policy: &Policy,
    usage: Option<&Usage>,
    now: Time,
) -> Result<Eviction, KeepReason> {
    let entry = ledger.images.get(&image.id).ok_or(KeepReason::AgeUnknown)?;
    let last_use = last_use(entry, ledger, now);
    if let Some(ago) =
        usage.and_then(|usage| ledger.eviction_is_useless(&usage.filesystem, policy.critical.percent, now))
    {
        return Err(KeepReason::EvictionUseless(ago));
    }
    let steps = rungs(&expected, policy);
    let step = steps.iter().find(|(_, unused_for)| last_use.ago() >= *unused_for);
    match (step, usage) {
        (Some(_), None) => Err(KeepReason::DiskUnknown),
        // Nothing is evicted from a disk that is not under pressure itself.
        (Some((rung, _)), Some(usage))
            if policy.begins(*rung).is_reached(usage) && policy.limit(*rung).is_reached(usage) =>
        {
            Ok(Eviction {
                rung: *rung,
                begins: policy.begins(*rung),
                limit: policy.limit(*rung),
                last_use,
                expected,
            })
        }
        _ => {
            let conditions = conditions(&steps, policy);
            Err(KeepReason::Cached { last_use, expected, conditions })
        }
    }
}

/// The time since its last use from which an image is evicted on each rung. A rung with no shorter time than one
/// before it is left out.
fn rungs(expected: &Expectation, policy: &Policy) -> Vec<(Rung, Duration)> {
    let critical_age = policy.critical_age.min(policy.older_than);
    let mut steps = vec![];
    if !is_due(expected, policy.older_than) {
        steps.push((Rung::Target, policy.older_than));
    }
    if steps.is_empty() || critical_age < policy.older_than {
        steps.push((Rung::Critical, critical_age));
    }
    steps
}

/// Whether its repository's history says that it comes back within twice this age: then it would be pulled again about
/// as soon as it is gone, and it goes on a critical disk only.
pub fn is_due(expected: &Expectation, older_than: Duration) -> bool {
    matches!(expected, Expectation::In(wait, _) if *wait < older_than * 2)
}

/// Everything that keeps an image whatever its age and the disk's usage.
pub(super) fn protections(image: &Image, inventory: &Inventory, policy: &Policy) -> Vec<KeepReason> {
    let uses = |container: &&Container| container.images().any(|used| image.is_named(used));
    let users = inventory.containers.iter().filter(uses);
    let name = |container: &Container| container.names.first().unwrap_or(&container.id).clone();
    let mut reasons: Vec<_> = users.map(|container| KeepReason::UsedBy(name(container))).collect();
    // One of each kind is enough.
    let unused = Inventory { containers: vec![], ..inventory.clone() };
    let unlabelled = Image { labels: Labels::new(), ..image.clone() };
    reasons.extend(Protection::new(&unused).of(&unlabelled, &[], policy));
    reasons.extend(policy.kept_by(&image.labels).map(|label| KeepReason::Label(label.clone())));
    if image.class() == ImageClass::Tagged && !is_evictable(&image.tags, policy) {
        reasons.push(KeepReason::Tagged);
    }
    reasons
}

/// When a cached image was last used and is expected again, and under which conditions it may go once nothing protects
/// it.
pub(super) fn eviction_conditions(
    image: &Image,
    ledger: &Ledger,
    policy: &Policy,
    now: Time,
) -> Option<(LastUse, Expectation, Vec<Condition>)> {
    let cached = image.class() == ImageClass::Cached || is_evictable(&image.tags, policy);
    let entry = ledger.images.get(&image.id).filter(|_| cached)?;
    let expected = expectation(image, ledger, &ledger.superseded(), now);
    let steps = rungs(&expected, policy);
    Some((last_use(entry, ledger, now), expected, conditions(&steps, policy)))
}

fn last_use(entry: &Entry, ledger: &Ledger, now: Time) -> LastUse {
    let ago = elapsed(ledger.time(now), entry.last_used_or_seen());
    if entry.last_used.is_some() { LastUse::Used(ago) } else { LastUse::NeverUsed(ago) }
}

fn conditions(steps: &[(Rung, Duration)], policy: &Policy) -> Vec<Condition> {
    let condition = |&(rung, unused_for): &(Rung, Duration)| Condition {
        unused_for,
        begins: policy.begins(rung),
        limit: policy.limit(rung),
    };
    steps.iter().map(condition).collect()
}

/// The images of which the engine must be asked when they were last tagged: dangling ones that nothing else keeps.
pub fn needing_tag_time<'a>(
    inventory: &'a Inventory,
    ledger: &'a Ledger,
    policy: &'a Policy,
    now: Time,
) -> impl Iterator<Item = &'a Image> {
    let protection = Protection::new(inventory);
    inventory.images.iter().filter(move |image| {
        image.class() == ImageClass::Dangling
            && protection.of(image, &[], policy).is_none()
            && dangling_age(image, ledger, policy, now).is_ok()
    })
}

/// What protects which image, apart from its age.
struct Protection<'a> {
    users: Users<'a>,
    /// By reference as written, and by the digest in it.
    named: HashMap<&'a str, KeepReason>,
    tags: HashMap<String, KeepReason>,
}

impl<'a> Protection<'a> {
    fn new(inventory: &'a Inventory) -> Self {
        let (mut named, mut tags) = (HashMap::new(), HashMap::new());
        let mut protect = |reference: &'a str, why: KeepReason| {
            if let Some(digest) = Reference::parse(reference).digest {
                named.entry(digest).or_insert_with(|| why.clone());
            }
            // A tagged image is named by its tag too, however the reference is written.
            if let Some(name_tag) = name_tag(reference) {
                tags.entry(name_tag).or_insert_with(|| why.clone());
            }
            named.entry(reference).or_insert(why);
        };
        for service in &inventory.services {
            protect(&service.image, KeepReason::NamedBy(service.name.clone()));
        }
        for service in &inventory.services {
            if let Some(previous) = &service.previous_image {
                protect(previous, KeepReason::RollbackOf(service.name.clone()));
            }
        }
        let names: HashMap<_, _> =
            inventory.services.iter().map(|service| (&service.id, &service.name)).collect();
        for task in inventory.tasks.iter().filter(|task| task.state.is_live()) {
            let service = names.get(&task.service).unwrap_or(&&task.service).to_string();
            protect(&task.image, KeepReason::NamedBy(service));
        }
        Self { users: Users::new(&inventory.containers), named, tags }
    }

    /// `taken`: names that it had before an eviction.
    fn of(&self, image: &Image, taken: &[String], policy: &Policy) -> Option<KeepReason> {
        if let Some(user) = self.users.of(image) {
            return Some(KeepReason::UsedBy(user.to_owned()));
        }
        let references = image.tags.iter().chain(&image.digests).chain(taken);
        let digests = references.clone().filter_map(|reference| Reference::parse(reference).digest);
        let id = [image.id.as_str(), image.id.trim_start_matches("sha256:")];
        let mut keys = references.map(String::as_str).chain(digests).chain(id);
        let by_tag = || image.tags.iter().chain(taken).find_map(|tag| self.tags.get(&name_tag(tag)?));
        if let Some(why) = keys.find_map(|key| self.named.get(key)).or_else(by_tag) {
            return Some(why.clone());
        }
        policy.kept_by(&image.labels).map(|label| KeepReason::Label(label.clone()))
    }
}

/// The age of a dangling image, if it is old enough: from the latest of its build date, the time of its last tag,
/// and its times in the ledger: first seen, last used, and lost its name. One that the ledger does not know stays.
fn dangling_age(image: &Image, ledger: &Ledger, policy: &Policy, now: Time) -> Result<Duration, KeepReason> {
    let entry = ledger.images.get(&image.id).ok_or(KeepReason::AgeUnknown)?;
    let known = entry.last_used_or_seen().max(entry.dangling_since.unwrap_or(entry.first_seen));
    // A date that was made up for reproducibility (1970, 0001) is never the latest; one in the future says nothing.
    let by_engine = [image.created, image.last_tagged].into_iter().flatten().filter(|at| *at <= now);
    let age =
        by_engine.map(|since| elapsed(now, since)).fold(elapsed(ledger.time(now), known), Duration::min);
    if age < policy.older_than { Err(KeepReason::TooYoung(age, policy.older_than)) } else { Ok(age) }
}

#[cfg(test)]
mod tests {

    use super::*;
    use regex::Regex;

    use super::super::satisfied;

    use crate::facts::{Container, Service, Task, TaskState};
    use crate::ledger::{Entry, Repository};
    use crate::testing::{ago, container, image, labels, now, policy, service, task, usage};
    use crate::units::parse_duration;

    /// A ledger that saw each of these images in use so long ago.
    fn ledger(images: &[(&str, &str)]) -> Ledger {
        let entry =
            |used: &str| Entry { last_used: ago(used), named: true, ..Entry::new(ago("90d").unwrap()) };
        let images = images.iter().map(|&(id, used)| (format!("sha256:{id}"), entry(used))).collect();
        Ledger { images, ..Ledger::default() }
    }

    fn repository(images: u32, came_back: u32, gaps: &[&str]) -> Repository {
        let gaps = gaps.iter().map(|gap| parse_duration(gap).unwrap()).collect();
        Repository { images, came_back, gaps, newest: ago("90d").unwrap(), last_used: now() }
    }

    fn code(expected: &Expectation) -> &'static str {
        crate::report::reason::expectation(expected).code
    }

    fn plan(inventory: &Inventory, ledger: &Ledger, percent: u64) -> Plan {
        plan_by(&policy(), inventory, ledger, percent)
    }

    fn plan_by(policy: &Policy, inventory: &Inventory, ledger: &Ledger, percent: u64) -> Plan {
        let mut plan = Plan::default();
        decide(inventory, ledger, policy, Some(&usage(percent)), now(), &mut plan);
        plan
    }

    fn verdict(inventory: &Inventory, ledger: &Ledger) -> Result<RemovalReason, KeepReason> {
        let mut plan = plan(inventory, ledger, 85);
        plan.remove.pop().map(|removal| removal.reason).ok_or_else(|| plan.keep.pop().unwrap().reason)
    }

    fn only(image: Image) -> Inventory {
        Inventory { images: vec![image], ..Inventory::default() }
    }

    /// The letters of the images that a plan evicts, with a `|` between the rungs.
    fn rungs(plan: &Plan) -> String {
        let mut shown = String::new();
        let mut last = None;
        for removal in &plan.remove {
            let RemovalReason::Evicted(eviction) = &removal.reason else { continue };
            if last.is_some_and(|last| last != eviction.rung) {
                shown.push('|');
            }
            last = Some(eviction.rung);
            shown.push_str(removal.object.id.trim_start_matches("sha256:"));
        }
        shown
    }

    #[test]
    fn the_fuller_the_disk_the_more_recently_used_are_the_images_that_go() {
        let images = ["a", "b", "c", "d", "e", "f", "g"].map(image).into();
        let inventory = Inventory { images, ..Inventory::default() };
        let mut ledger = ledger(&[
            ("a", "8d"),
            ("b", "30d"),
            ("c", "6d"),
            ("d", "2d"),
            ("e", "2h"),
            ("f", "90m"),
            ("g", "5m"),
        ]);
        for (percent, expected) in [(74, ""), (75, ""), (79, ""), (80, "bacd"), (94, "bacd"), (95, "bacd|ef")]
        {
            assert_eq!(rungs(&plan(&inventory, &ledger, percent)), expected, "{percent}");
        }
        // d and f are superseded: images that another one has replaced go before all others.
        for (old, new, name) in [("d", "e", "db:1"), ("f", "g", "web:1")] {
            for (id, ago_) in [(old, "3d"), (new, "5m")] {
                let entry = ledger.images.get_mut(&format!("sha256:{id}")).unwrap();
                entry.references.insert(name.into(), ago(ago_).unwrap());
            }
        }
        for (percent, expected) in [(79, ""), (80, "dbac"), (95, "dbac|fe")] {
            assert_eq!(rungs(&plan(&inventory, &ledger, percent)), expected, "{percent}, superseded");
        }
        assert_eq!(plan(&inventory, &ledger, 69).keep.len(), 7);
    }

    #[test]
    fn too_little_space_evicts_whatever_the_percentage() {
        let inventory = Inventory { images: ["a", "b", "c"].map(image).into(), ..Inventory::default() };
        let ledger = ledger(&[("a", "8d"), ("b", "2d"), ("c", "2h")]);
        let with = |min_free| {
            let mut policy = policy();
            (policy.target.min_free, policy.threshold.min_free) = (Some(min_free), Some(min_free));
            rungs(&plan_by(&policy, &inventory, &ledger, 50))
        };
        assert_eq!((with(500), with(501)), (String::new(), "ab".into()));
    }

    #[test]
    fn tagged_images_go_only_where_each_tag_is_named_and_nothing_needs_them() {
        let tagged =
            |tags: &[&str]| Image { tags: tags.iter().map(|&tag| tag.to_owned()).collect(), ..image("a") };
        let policy = Policy { evict_tagged: vec![Regex::new("^ci/app:").unwrap()], ..policy() };
        let used = ledger(&[("a", "90d")]);
        let goes = |image: Image, service: Option<Service>| {
            let services = service.into_iter().collect();
            let inventory = Inventory { services, ..only(image) };
            plan_by(&policy, &inventory, &used, 85).remove.pop().map(|removal| removal.tags().to_vec())
        };
        let tags = |tags: &[&str]| Some(tags.iter().map(|&tag| tag.to_owned()).collect::<Vec<_>>());
        assert_eq!(goes(tagged(&["ci/app:1"]), None), tags(&["ci/app:1"]));
        assert_eq!(goes(tagged(&["ci/app:1", "ci/app:2"]), None), tags(&["ci/app:1", "ci/app:2"]));
        assert_eq!(goes(tagged(&["ci/app:1", "ci/base:1"]), None), None);
        assert_eq!(goes(tagged(&["ci/base:1"]), None), None);
        for name in ["ci/app:1", "docker.io/ci/app:1", "ci/app:1@sha256:0000"] {
            let service = Service { image: name.into(), ..service() };
            assert_eq!(goes(tagged(&["ci/app:1"]), Some(service)), None, "{name}");
        }
        assert_eq!(goes(image("a"), None), Some(vec![]), "a cached image goes as ever");
    }

    #[test]
    fn a_cached_image_is_as_old_as_its_last_use_never_as_its_build() {
        assert_eq!(verdict(&only(image("a")), &Ledger::default()), Err(KeepReason::AgeUnknown));
        let Err(KeepReason::Cached { last_use, conditions, .. }) =
            verdict(&only(image("a")), &ledger(&[("a", "2h")]))
        else {
            panic!("it stays, as a cached image")
        };
        assert_eq!(last_use, LastUse::Used(Duration::from_secs(7_200)));
        let policy = policy();
        let condition = |unused_for, begins, limit| Condition { unused_for, begins, limit };
        let critical = condition(policy.critical_age, policy.critical, policy.critical_target);
        let expected = [
            // A prune begins at the threshold, and goes on down to the target.
            condition(policy.older_than, policy.threshold, policy.target),
            critical,
        ];
        assert_eq!(
            (conditions.as_slice(), satisfied(&conditions, last_use)),
            (&expected[..], Some(&critical))
        );
        assert!(verdict(&only(image("a")), &ledger(&[("a", "24h")])).is_ok());
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
        for state in [crate::facts::ContainerState::Exited, crate::facts::ContainerState::Running] {
            let user = Container { image_id: "sha256:a".into(), state, ..container() };
            assert_eq!(
                with(&|inventory| inventory.containers = vec![user.clone()]),
                Err(KeepReason::UsedBy("plain".into()))
            );
        }
        for reference in ["sha256:a", "other/name@sha256:da", named] {
            let mounting = Container { mounted_images: vec![reference.into()], ..container() };
            let kept = with(&|inventory| inventory.containers = vec![mounting.clone()]);
            assert_eq!(kept, Err(KeepReason::UsedBy("plain".into())), "{reference}");
        }
        let spec = Service { image: named.into(), ..service() };
        assert_eq!(
            with(&|inventory| inventory.services = vec![spec.clone()]),
            Err(KeepReason::NamedBy("app".into()))
        );
        let previous = Service { previous_image: Some(named.into()), ..service() };
        assert_eq!(
            with(&|inventory| inventory.services = vec![previous.clone()]),
            Err(KeepReason::RollbackOf("app".into()))
        );
        let task = Task { image: named.into(), state: TaskState::Preparing, ..task() };
        assert_eq!(
            with(&|inventory| inventory.tasks = vec![task.clone()]),
            Err(KeepReason::NamedBy("service".into()))
        );
        let label = labels(&[("keep", "")]);
        assert!(matches!(
            with(&|inventory| inventory.images[0].labels = label.clone()),
            Err(KeepReason::Label(_))
        ));
        assert_eq!(
            with(&|inventory| inventory.images[0].tags = vec!["app:1".into()]),
            Err(KeepReason::Tagged)
        );
    }

    #[test]
    fn an_interrupted_eviction_is_finished_or_undone() {
        let tag = "ci-docker-prune.invalid/evicting:a";
        let eviction_tag = Some(tag.to_owned());
        let undone = |lost_tags: &[&str], eviction_tag: Option<&str>| {
            let (id, eviction_tag) = ("sha256:a".to_owned(), eviction_tag.map(str::to_owned));
            vec![Leftover {
                id,
                lost_tags: lost_tags.iter().map(|&tag| tag.to_owned()).collect(),
                eviction_tag,
            }]
        };
        let nameless = || Image { digests: vec![], eviction_tag: eviction_tag.clone(), ..image("a") };
        let judged = |image: Image, taken: &[&str], policy: &Policy, percent| {
            let mut ledger = ledger(&[("a", "1h")]);
            if !taken.is_empty() {
                let taken = taken.iter().map(|&name| name.to_owned()).collect();
                ledger.evicting.insert("sha256:a".into(), taken);
            }
            let plan = plan_by(policy, &only(image), &ledger, percent);
            let goes = plan.remove.iter().any(|removal| removal.reason == RemovalReason::Interrupted);
            (goes, plan.leftovers)
        };
        let consent = Policy { evict_tagged: vec![Regex::new("^ci:").unwrap()], ..policy() };
        // However full the disk: nothing can ask for it by name.
        for percent in [1, 85] {
            assert_eq!(judged(nameless(), &[], &policy(), percent), (true, vec![]));
            assert_eq!(judged(nameless(), &["app@sha256:da"], &policy(), percent), (true, vec![]));
            assert_eq!(judged(nameless(), &["ci:1", "app@sha256:da"], &consent, percent), (true, vec![]));
        }
        // Consent was withdrawn, or was never for that tag: it gets its tags back.
        for policy in [&policy(), &consent] {
            let taken = if policy.evict_tagged.is_empty() { "ci:1" } else { "app:1" };
            assert_eq!(judged(nameless(), &[taken], policy, 85), (false, undone(&[taken], Some(tag))));
        }
        // With a name again, or still, it loses our tag, and gets back what it has lost.
        let named = || Image { eviction_tag: eviction_tag.clone(), ..image("a") };
        assert_eq!(judged(named(), &[], &policy(), 85), (false, undone(&[], Some(tag))));
        assert_eq!(judged(named(), &["ci:1"], &consent, 85), (false, undone(&["ci:1"], Some(tag))));
        // All is well already: the ledger may forget it.
        assert_eq!(judged(image("a"), &["app@sha256:da"], &policy(), 85), (false, undone(&[], None)));
        assert_eq!(judged(image("a"), &[], &policy(), 85), (false, vec![]));
        // One that goes anyway keeps our tag, and has its lost tag back first: it might be stopped.
        let mut old = ledger(&[("a", "90d")]);
        old.evicting.insert("sha256:a".into(), vec!["ci:1".into()]);
        let plan = plan_by(&consent, &only(named()), &old, 85);
        assert_eq!((plan.remove.len(), plan.leftovers), (1, undone(&["ci:1"], None)));
    }

    #[test]
    fn what_an_eviction_has_taken_still_protects() {
        let mut ledger = ledger(&[("a", "90d")]);
        let nameless = Image { digests: vec![], eviction_tag: Some("x".into()), ..image("a") };
        let spec = |image: &str| Service { image: image.into(), ..service() };
        for (taken, spec) in [("app@sha256:da", spec("app:1@sha256:da")), ("ci:1", spec("ci:1"))] {
            ledger.evicting.insert("sha256:a".into(), vec![taken.into()]);
            let inventory = Inventory { services: vec![spec], ..only(nameless.clone()) };
            assert_eq!(verdict(&inventory, &ledger), Err(KeepReason::NamedBy("app".into())), "{taken}");
        }
    }

    #[test]
    fn an_image_that_frees_nothing_is_passed_over_and_the_others_free_what_is_their_own() {
        let images = ["a", "b", "c", "d", "e"].map(|id| Image { size: 200_000_000, ..image(id) });
        let used = Container { image_id: "sha256:e".into(), ..container() };
        let inventory = Inventory { images: images.into(), containers: vec![used], ..Inventory::default() };
        let mut ledger = ledger(&[("a", "40d"), ("b", "30d"), ("c", "20d"), ("d", "10d"), ("e", "1h")]);
        let layer = |(id, size): &(&str, u64)| crate::facts::Layer { id: (*id).to_owned(), size: *size };
        for (id, layers) in [
            // All of it, and next to all of it, is another's that stays.
            ("a", vec![("base", 200_000_000)]),
            ("b", vec![("base", 200_000_000), ("b", 1_000_000)]),
            // These two share a layer, which goes with the second.
            ("c", vec![("own", 150_000_000), ("c", 50_000_000)]),
            ("d", vec![("own", 150_000_000)]),
            ("e", vec![("base", 200_000_000)]),
        ] {
            let layers = layers.iter().map(layer).collect();
            ledger.images.get_mut(&format!("sha256:{id}")).unwrap().layers = Some(layers);
        }
        let found = plan(&inventory, &ledger, 85);
        let frees: Vec<_> =
            found.remove.iter().map(|removal| (removal.object.id.as_str(), removal.frees)).collect();
        assert_eq!(frees, [("sha256:c", Some(50_000_000)), ("sha256:d", Some(150_000_000))]);
        let kept = |id: &str| found.keep.iter().find(|kept| kept.object.id == id).unwrap().reason.clone();
        for id in ["sha256:a", "sha256:b"] {
            assert!(matches!(kept(id), KeepReason::SharesLayers(_)), "{id}");
        }
        // Where nothing else has the layers they go.
        let alone = Inventory { containers: vec![], ..inventory };
        ledger.images.get_mut("sha256:e").unwrap().last_used = ago("5d");
        assert_eq!(plan(&alone, &ledger, 85).remove.len(), 5);
    }

    #[test]
    fn what_the_engine_refused_and_what_freed_nothing_is_not_tried_all_the_time() {
        let inventory = only(image("a"));
        let mut known = ledger(&[("a", "90d")]);
        for (refused, stays) in [("1h", true), ("6d", true), ("7d", false)] {
            known.images.get_mut("sha256:a").unwrap().refused = ago(refused);
            let kept = matches!(verdict(&inventory, &known), Err(KeepReason::Refused(_)));
            assert_eq!(kept, stays, "{refused}");
        }
        let mut known = ledger(&[("a", "90d")]);
        // In bytes of 1,000.
        let at =
            |used: u64| crate::facts::Filesystem { used, available: 1000 - used, ..usage(85).filesystem };
        for (used_then, since, used, stays) in [
            (850, "5m", 850, true),
            (850, "5m", 840, true),
            // 86 % as df rounds, and hardly more.
            (850, "5m", 851, true),
            (850, "5m", 860, false),
            (850, "1h", 850, false),
            // From 94 % to 95 %, critical.
            (939, "5m", 942, false),
            (960, "5m", 960, true),
            (950, "5m", 950, true),
        ] {
            known.clear_owed(Some(&at(used_then)), ago(since).unwrap());
            let filesystem = at(used);
            let usage = Usage { percent: filesystem.percent().unwrap(), filesystem };
            let mut plan = Plan::default();
            decide(&inventory, &known, &policy(), Some(&usage), now(), &mut plan);
            let kept = plan.keep.first().map(|kept| &kept.reason);
            assert_eq!(
                matches!(kept, Some(KeepReason::EvictionUseless(_))),
                stays,
                "{used_then} {since} {used}"
            );
            known.clear_pressure();
        }
    }

    #[test]
    fn a_service_that_names_an_image_by_its_id_keeps_it() {
        for (name, stays) in [("sha256:a", true), ("a", true), ("sha256:b", false), ("b", false)] {
            let by_id = Service { image: name.into(), ..service() };
            let inventory = Inventory { services: vec![by_id], ..only(image("a")) };
            assert_eq!(verdict(&inventory, &ledger(&[("a", "90d")])).is_err(), stays, "{name}");
        }
    }

    #[test]
    fn a_task_keeps_its_image_as_long_as_it_may_run() {
        for (state, stays) in [
            (TaskState::Starting, true),
            (TaskState::Pending, true),
            (TaskState::Preparing, true),
            (TaskState::Running, true),
            (TaskState::Complete, false),
            (TaskState::Failed, false),
            (TaskState::Rejected, false),
            (TaskState::Over, false),
        ] {
            let task = Task { state, image: "x:1@sha256:da".into(), ..task() };
            let services = vec![Service { image: "y:1@sha256:00".into(), ..service() }];
            let inventory = Inventory { services, tasks: vec![task], ..only(image("a")) };
            let kept = verdict(&inventory, &ledger(&[("a", "90d")]));
            let expected = Err(KeepReason::NamedBy("app".into()));
            assert_eq!(kept == expected, stays, "{state:?}: {kept:?}");
            assert_eq!(kept.is_err(), stays, "{state:?}");
        }
    }

    #[test]
    fn what_the_engine_would_not_tell_of_keeps_a_dangling_image() {
        let unread = super::super::Unread {
            kind: crate::testing::DANGLING,
            id: "sha256:a".into(),
            why: crate::facts::Unavailable("500".into()),
        };
        let dangling = |id: &str| Image { digests: vec![], ..image(id) };
        let known = Ledger {
            images: ["a", "b"].map(|id| (format!("sha256:{id}"), Entry::new(ago("9d").unwrap()))).into(),
            ..Ledger::default()
        };
        let inventory = Inventory {
            images: vec![dangling("a"), dangling("b")],
            unread: vec![unread],
            ..Inventory::default()
        };
        let found = plan(&inventory, &known, 85);
        assert_eq!((found.keep.len(), found.remove.len()), (1, 1));
        assert_eq!(
            (found.keep[0].object.id.as_str(), &found.keep[0].reason),
            ("sha256:a", &KeepReason::Unread)
        );
        // Which of them the engine is asked about: those that nothing else keeps.
        let labelled = Image { labels: labels(&[("keep", "")]), ..dangling("c") };
        let inventory = Inventory {
            images: vec![dangling("a"), labelled, image("d"), dangling("unknown")],
            ..Inventory::default()
        };
        let policy = policy();
        let asked: Vec<_> =
            needing_tag_time(&inventory, &known, &policy, now()).map(|image| &image.id).collect();
        assert_eq!(asked, ["sha256:a"]);
    }

    #[test]
    fn what_comes_back_often_goes_after_what_was_used_more_recently() {
        let inventory = Inventory { images: ["a", "b", "c"].map(image).into(), ..Inventory::default() };
        let mut known = ledger(&[("a", "20d"), ("b", "15d"), ("c", "15d")]);
        // Those of `db` come back on another day once, so that 20 days count as 10.
        known.repositories.insert("db".into(), repository(3, 3, &["30d"]));
        known.images.get_mut("sha256:a").unwrap().references.insert("db:1".into(), now());
        let order = |plan: Plan| {
            plan.remove.iter().map(|removal| removal.object.id[7..].to_owned()).collect::<String>()
        };
        assert_eq!(order(plan(&inventory, &known, 85)), "bca");
        known.repositories.clear();
        assert_eq!(order(plan(&inventory, &known, 85)), "abc");
    }

    #[test]
    fn ages_go_by_the_ledgers_clock() {
        let mut known = crate::testing::behind("10d");
        let at = |text: &str| ago("10d").unwrap() - ago("0s").unwrap().duration_since(ago(text).unwrap());
        let entry = Entry { last_used: Some(at("2h")), named: true, ..Entry::new(at("20d")) };
        known.images.insert("sha256:a".into(), entry.clone());
        let Err(KeepReason::Cached { last_use, .. }) = verdict(&only(image("a")), &known) else {
            panic!("it was used two hours before the host was off")
        };
        assert_eq!(last_use.ago(), Duration::from_secs(7_200));
        let refused = Entry { refused: Some(at("1h")), last_used: Some(at("19d")), ..entry };
        known.images.insert("sha256:a".into(), refused);
        let expected = KeepReason::Refused(Duration::from_secs(3_600));
        assert_eq!(verdict(&only(image("a")), &known), Err(expected));
        let lost = Entry { named: true, dangling_since: Some(at("2h")), ..Entry::new(at("20d")) };
        known.images.insert("sha256:a".into(), lost);
        let dangling = Image { digests: vec![], ..image("a") };
        let day = Duration::from_secs(86_400);
        assert_eq!(
            verdict(&only(dangling), &known),
            Err(KeepReason::TooYoung(Duration::from_secs(7_200), day))
        );
    }

    #[test]
    fn what_explains_an_image_says_what_a_prune_does() {
        let mut known = ledger(&[("a", "3d"), ("b", "1h")]);
        for (id, used) in [("a", "3d"), ("b", "1h")] {
            let entry = known.images.get_mut(&format!("sha256:{id}")).unwrap();
            entry.references.insert("db:1".into(), ago(used).unwrap());
        }
        let policy = policy();
        let of = |known: &Ledger, id: &str| {
            let (_, expected, conditions) = eviction_conditions(&image(id), known, &policy, now()).unwrap();
            (code(&expected), conditions.iter().map(|condition| condition.unused_for).collect::<Vec<_>>())
        };
        let both = vec![policy.older_than, policy.critical_age];
        assert_eq!((of(&known, "a"), of(&known, "b")), (("superseded", both.clone()), ("overdue", both)));
        // What is expected within two days goes on a critical disk only.
        known.repositories.insert("db".into(), repository(2, 2, &["49h"]));
        let critical = vec![policy.critical_age];
        assert_eq!(of(&known, "b"), ("expected", vec![policy.older_than, policy.critical_age]));
        known.repositories.insert("db".into(), repository(2, 2, &["48h"]));
        assert_eq!(of(&known, "b"), ("expected", critical));
        let tagged = Image { tags: vec!["ci/app:1".into()], ..image("a") };
        let consent = Policy { evict_tagged: vec![Regex::new("^ci/").unwrap()], ..crate::testing::policy() };
        assert_eq!(protections(&tagged, &only(tagged.clone()), &policy), [KeepReason::Tagged]);
        assert_eq!(protections(&tagged, &only(tagged.clone()), &consent), []);
        assert!(eviction_conditions(&tagged, &known, &policy, now()).is_none());
        assert!(eviction_conditions(&tagged, &known, &consent, now()).is_some());
    }

    #[test]
    fn what_goes_anyway_keeps_no_layer() {
        let dangling = Image { digests: vec![], ..image("d") };
        let cached = Image { size: 100_000_000, ..image("a") };
        let mut known = ledger(&[("a", "40d")]);
        known.images.insert("sha256:d".into(), Entry::new(ago("9d").unwrap()));
        for entry in known.images.values_mut() {
            entry.layers = Some(vec![crate::facts::Layer { id: "base".into(), size: 100_000_000 }]);
        }
        let inventory = Inventory { images: vec![cached, dangling], ..Inventory::default() };
        let found = plan(&inventory, &known, 85);
        let frees: Vec<_> = found.remove.iter().map(|removal| (removal.object.kind, removal.frees)).collect();
        assert_eq!(frees, [(crate::testing::DANGLING, Some(0)), (crate::testing::CACHED, Some(100_000_000))]);
    }

    #[test]
    fn layers_matter_only_where_an_image_may_be_evicted() {
        let wants = |images: Vec<Image>, used: &str, percent: Option<u64>| {
            let inventory = Inventory { images, ..Inventory::default() };
            let usage = percent.map(usage);
            wants_layers(&inventory, &ledger(&[("a", used)]), &policy(), usage.as_ref(), now())
        };
        assert!(wants(vec![image("a")], "90d", Some(85)));
        assert!(!wants(vec![image("a")], "90d", Some(75)));
        assert!(!wants(vec![image("a")], "1h", Some(85)));
        assert!(!wants(vec![image("a")], "90d", None));
        assert!(!wants(vec![Image { digests: vec![], ..image("a") }], "90d", Some(85)));
    }

    #[test]
    fn next_to_nothing_is_less_than_the_records_of_an_image_and_a_hundredth() {
        const MB: u64 = 1 << 20;
        for (freed, images, size, expected) in [
            (0, 1, 1_000 * MB, true),
            (MB - 1, 1, 1_000 * MB, true),
            (MB, 1, 1_000 * MB, false),
            (2 * MB - 1, 2, 1_000 * MB, true),
            (2 * MB, 2, 1_000 * MB, false),
            (1, 1, 1_000, true),
            (10, 1, 1_000, false),
            (0, 0, 0, false),
        ] {
            assert_eq!(is_negligible(freed, images, size), expected, "{freed} {images} {size}");
        }
    }

    #[test]
    fn the_usage_that_is_not_known_keeps_what_else_would_go() {
        let mut plan = Plan::default();
        decide(&only(image("a")), &ledger(&[("a", "90d")]), &policy(), None, now(), &mut plan);
        assert_eq!(plan.keep[0].reason, KeepReason::DiskUnknown);
        let mut plan = Plan::default();
        decide(&only(image("a")), &ledger(&[("a", "5m")]), &policy(), None, now(), &mut plan);
        assert!(matches!(plan.keep[0].reason, KeepReason::Cached { .. }));
    }

    #[test]
    fn the_age_of_a_dangling_image_is_the_latest_of_what_can_be_believed() {
        let day = Duration::from_secs(86_400);
        let entry = |first_seen: &str, dangling: Option<&str>| Entry {
            named: dangling.is_some(),
            dangling_since: dangling.and_then(ago),
            ..Entry::new(ago(first_seen).unwrap())
        };
        let date = |text: &str| Some(text.parse::<Time>().unwrap());
        let built = ago("9d");
        let table = [
            ("built long ago, unknown", built, None, None, Err(())),
            ("built and seen long ago", built, None, Some(entry("9d", None)), Ok(9 * day)),
            ("built lately", ago("1h"), None, Some(entry("9d", None)), Err(())),
            ("tagged lately", built, ago("2d"), Some(entry("9d", None)), Ok(2 * day)),
            ("tagged just now", built, ago("1h"), Some(entry("9d", None)), Err(())),
            ("loaded just now, built long ago", built, None, Some(entry("0s", None)), Err(())),
            (
                "a container of it ended a minute ago",
                built,
                None,
                Some(Entry { last_used: ago("1m"), ..entry("9d", None) }),
                Err(()),
            ),
            ("became a dangling image lately", built, None, Some(entry("9d", Some("1h"))), Err(())),
            ("became a dangling image 3 days ago", built, None, Some(entry("9d", Some("3d"))), Ok(3 * day)),
            (
                "built in 1970, seen 2 days ago",
                date("1970-01-01T00:00:01Z"),
                None,
                Some(entry("2d", None)),
                Ok(2 * day),
            ),
            ("built in 1970, seen now", date("1970-01-01T00:00:01Z"), None, Some(entry("0s", None)), Err(())),
            ("built in 0001", date("0001-01-01T00:00:00Z"), None, Some(entry("2d", None)), Ok(2 * day)),
            ("built in 2999", date("2999-01-01T00:00:00Z"), None, Some(entry("2d", None)), Ok(2 * day)),
            ("tagged in 2999", built, date("2999-01-01T00:00:00Z"), Some(entry("2d", None)), Ok(2 * day)),
            ("no build date", None, None, Some(entry("2d", None)), Ok(2 * day)),
            ("tagged long ago", None, ago("9d"), Some(entry("2d", None)), Ok(2 * day)),
            ("exactly old enough", built, ago("24h"), Some(entry("2d", None)), Ok(day)),
            ("whatever the dates, it is unknown", built, ago("9d"), None, Err(())),
            (
                "it has its name again since",
                built,
                None,
                Some(Entry { named: true, dangling_since: None, ..entry("5d", None) }),
                Ok(5 * day),
            ),
            (
                "no build date, seen 2 days ago",
                None,
                date("0001-01-01T00:00:00Z"),
                Some(entry("2d", None)),
                Ok(2 * day),
            ),
        ];
        for (name, created, last_tagged, entry, expected) in table {
            let dangling = Image { digests: vec![], created, last_tagged, ..image("a") };
            let images = entry.map(|entry| ("sha256:a".to_owned(), entry)).into_iter().collect();
            let verdict = verdict(&only(dangling), &Ledger { images, ..Ledger::default() });
            assert_eq!(
                verdict.map_err(|_| ()),
                expected.map(|age| RemovalReason::Unnamed { age, parents: 0 }),
                "{name}"
            );
        }
    }
}
