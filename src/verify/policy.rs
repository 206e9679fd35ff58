//! Checks whether what fills the disk may go at all: tagged images never do without consent.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use regex::Regex;
use serde_json::json;

use super::{found, unavailable};
use crate::facts::{Answer, Image, ImageClass, Reference};
use crate::report::verify::{Check, CheckStatus};
use crate::units::{Percent, size};

const NAME: &str = "policy";

/// So many images of one repository, each with such a tag, are those of commits or builds.
const MANY: usize = 3;

pub fn check(images: Answer<&[Image]>, evicts_tagged: bool, prune_at: Option<Percent>) -> Check {
    let images = match images {
        Ok(images) => images,
        Err(why) => return unavailable(NAME, CheckStatus::Skipped, &why),
    };
    let tagged: Vec<&Image> = images.iter().filter(|image| image.class() == ImageClass::Tagged).collect();
    let sum = |images: &[&Image]| images.iter().fold(0_u64, |sum, image| sum.saturating_add(image.size));
    let (bytes, all) = (sum(&tagged), sum(&images.iter().collect::<Vec<_>>()));
    let figures = json!({"images": images.len(), "tagged_images": tagged.len(), "tagged_bytes": bytes});
    // Images share layers, so that these are at most so many bytes.
    let share = format!("{} of {} images are tagged (at most {})", tagged.len(), images.len(), size(bytes));
    let lines = suggestions(&tagged);
    let (status, code, message) = if prune_at.is_none() {
        let message =
            "prune-at is not set: between two daily prunes a disk fills unseen; prune-at = 90 is usual";
        (CheckStatus::Warning, "no_prune_at", message.to_owned())
    } else if !evicts_tagged && (bytes > all / 2 || !lines.is_empty()) {
        let message = format!("{share} and never go: evict-tagged is not set");
        (CheckStatus::Warning, "tagged_never_go", message)
    } else {
        (CheckStatus::Ok, "may_go", share)
    };
    let lines = if evicts_tagged { vec![] } else { lines };
    Check { lines, ..found(NAME, status, code, message, figures) }
}

/// Tags of commits and builds, and the expression that matches such.
static TAGS: LazyLock<[(Regex, &str); 2]> = LazyLock::new(|| {
    let expression = |text: &str| Regex::new(text).expect("a valid expression");
    [(expression("^[0-9]{1,12}$"), "[0-9]{1,12}"), (expression("^[0-9a-f]{7,40}$"), "[0-9a-f]{7,40}")]
});

/// The patterns that would match images of commits or builds, largest first.
fn suggestions(tagged: &[&Image]) -> Vec<String> {
    let mut repositories: BTreeMap<(&str, &str), (usize, u64)> = BTreeMap::new();
    for image in tagged {
        let Some(reference) = image.tags.first().map(|tag| Reference::parse(tag)) else { continue };
        let of_tag = |tag: &str| TAGS.iter().find(|(is, _)| is.is_match(tag)).map(|(_, pattern)| *pattern);
        let Some(pattern) = reference.tag.and_then(of_tag) else { continue };
        let sum = repositories.entry((reference.repository, pattern)).or_default();
        *sum = (sum.0 + 1, sum.1.saturating_add(image.size));
    }
    let mut many: Vec<_> = repositories.into_iter().filter(|(_, (n, _))| *n >= MANY).collect();
    many.sort_by_key(|(_, (_, bytes))| std::cmp::Reverse(*bytes));
    let line = |((repository, pattern), (n, bytes)): ((&str, &str), (usize, u64))| {
        let repository = regex::escape(repository);
        format!("evict-tagged = ['^{repository}:{pattern}$']  # {n} images, at most {}", size(bytes))
    };
    many.into_iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::Unavailable;
    use crate::testing::image;

    #[test]
    fn what_only_evict_tagged_could_free_is_told_with_the_pattern() {
        let tagged = |tag: &str| Image { tags: vec![tag.into()], size: 100_000_000, ..image(tag) };
        let commits = ["0123abc", "1234def", "deadbeef"]
            .map(|tag| tagged(&format!("registry.example.org/ci/app:{tag}")));
        let base = [tagged("node:22"), Image { size: 900_000_000, ..image("cached") }];
        let at = "90".parse().ok();
        let checked = |images: &[Image], consent| check(Ok(images), consent, at);
        let all = [&commits[..], &base[..]].concat();
        let found = checked(&all, false);
        assert_eq!((found.status, found.reason.code), (CheckStatus::Warning, "tagged_never_go"));
        assert!(
            found.reason.message.starts_with("4 of 5 images are tagged (at most 400.0 MB)"),
            "{}",
            found.reason.message
        );
        assert_eq!(
            found.lines,
            [
                "evict-tagged = ['^registry\\.example\\.org/ci/app:[0-9a-f]{7,40}$']  # 3 images, at most 300.0 MB"
            ]
        );
        assert_eq!(checked(&all, true).status, CheckStatus::Ok);
        // A few tagged ones beside a cache are as they should be.
        assert_eq!(checked(&base, false).status, CheckStatus::Ok);
        assert_eq!(checked(&base[..1], false).status, CheckStatus::Warning, "all of them");
        assert_eq!(check(Ok(&base), false, None).reason.code, "no_prune_at");
        assert_eq!(check(Err(Unavailable("x".into())), false, at).status, CheckStatus::Skipped);
    }
}
