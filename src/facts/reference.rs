//! References to images, parsed and formatted here only.

use std::fmt;

/// `REPOSITORY[:TAG][@DIGEST]`, in the short form that the engine shows: without `docker.io/` and `library/`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reference<'a> {
    pub repository: &'a str,
    pub tag: Option<&'a str>,
    pub digest: Option<&'a str>,
}

/// The number of characters of a digest or an ID in text output, as docker(1) does.
const SHORT: usize = 12;

impl<'a> Reference<'a> {
    pub fn parse(text: &'a str) -> Self {
        let (name, digest) = text.split_once('@').map_or((text, None), |(name, digest)| (name, Some(digest)));
        // A colon before a slash belongs to the registry's port.
        let (name, tag) = match name.rsplit_once(':') {
            Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
            _ => (name, None),
        };
        let prefixes = ["docker.io/", "index.docker.io/", "library/"];
        let repository =
            prefixes.into_iter().fold(name, |name, prefix| name.strip_prefix(prefix).unwrap_or(name));
        Self { repository, tag, digest }
    }

    /// `name:tag`, with `latest` where no tag is given. `None` for an image ID, and for a name with a digest only.
    pub fn name_tag(self) -> Option<String> {
        let Self { repository, tag, digest } = self;
        let is_hex = repository.len() >= SHORT && repository.bytes().all(|byte| byte.is_ascii_hexdigit());
        if repository.is_empty() || repository == "sha256" || (is_hex && tag.is_none()) {
            return None;
        }
        let tag = tag.or_else(|| digest.is_none().then_some("latest"))?;
        Some(format!("{repository}:{tag}"))
    }

    /// The registry's host; Docker Hub's where the name has none (distribution/reference: `splitDockerDomain`).
    pub fn registry(self) -> &'a str {
        match self.repository.split_once('/') {
            Some((host, _)) if host.contains(['.', ':']) || host == "localhost" => host,
            _ => "docker.io",
        }
    }

    /// Without its tag if it has a digest, which alone decides.
    pub fn pinned(self) -> Self {
        Self { tag: self.tag.filter(|_| self.digest.is_none()), ..self }
    }

    /// With the digest shortened.
    pub fn short(self) -> Self {
        let cut = |digest: &'a str| digest.get(.."sha256:".len() + SHORT).unwrap_or(digest);
        Self { digest: self.digest.map(cut), ..self }
    }
}

impl fmt::Display for Reference<'_> {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(self.repository)?;
        self.tag.map_or(Ok(()), |tag| write!(f, ":{tag}"))?;
        self.digest.map_or(Ok(()), |digest| write!(f, "@{digest}"))
    }
}

/// The beginning of an ID, as docker(1) shows it.
pub fn short_id(id: &str) -> String {
    id.trim_start_matches("sha256:").chars().take(SHORT).collect()
}

/// The `name:tag` in a reference, if it has one ([`Reference::name_tag`]).
pub fn name_tag(reference: &str) -> Option<String> {
    Reference::parse(reference).name_tag()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reference_is_shown_in_the_short_form_with_its_parts() {
        let digest = "sha256:0123456789abcdef";
        for (text, registry, pinned, short) in [
            ("redis", "docker.io", "redis".to_owned(), "redis"),
            ("docker.io/library/redis:7", "docker.io", "redis:7".into(), "redis:7"),
            (
                &format!("redis:7@{digest}"),
                "docker.io",
                format!("redis@{digest}"),
                "redis:7@sha256:0123456789ab",
            ),
            (
                "localhost:5000/shop/web",
                "localhost:5000",
                "localhost:5000/shop/web".into(),
                "localhost:5000/shop/web",
            ),
            (
                "localhost:5000/a/b:1@sha256:0",
                "localhost:5000",
                "localhost:5000/a/b@sha256:0".into(),
                "localhost:5000/a/b:1@sha256:0",
            ),
            ("localhost/web:1", "localhost", "localhost/web:1".into(), "localhost/web:1"),
            ("shop/web@sha256:d1", "docker.io", "shop/web@sha256:d1".into(), "shop/web@sha256:d1"),
        ] {
            let reference = Reference::parse(text);
            assert_eq!(reference.registry(), registry, "{text}");
            assert_eq!(reference.pinned().to_string(), pinned, "{text}");
            assert_eq!(reference.short().to_string(), short, "{text}");
        }
    }

    #[test]
    fn a_name_and_tag_is_found_in_any_reference() {
        let table = [
            ("redis:7@sha256:aa", Some("redis:7")),
            ("docker.io/library/redis:7@sha256:aa", Some("redis:7")),
            ("redis", Some("redis:latest")),
            ("redis@sha256:aa", None),
            ("localhost:5000/shop/web:1@sha256:aa", Some("localhost:5000/shop/web:1")),
            ("localhost:5000/shop/web", Some("localhost:5000/shop/web:latest")),
            ("localhost:5000/shop/web@sha256:aa", None),
            ("sha256:f02e934b7a31ab9c590f992264c80652aa02e9749feb90384897e32eabe04fe8", None),
            ("f02e934b7a31", None),
            ("f02e934b7a31:1", Some("f02e934b7a31:1")),
            ("", None),
        ];
        for (reference, expected) in table {
            assert_eq!(name_tag(reference).as_deref(), expected, "{reference}");
        }
    }

    #[test]
    fn the_registry_of_an_image() {
        for (image, expected) in [
            ("redis:7-alpine", "docker.io"),
            ("library/redis", "docker.io"),
            ("docker.io/library/redis", "docker.io"),
            ("127.0.0.1:5000/shop/frontend:1", "127.0.0.1:5000"),
            ("localhost/x", "localhost"),
            ("ghcr.io/x/y@sha256:0", "ghcr.io"),
        ] {
            assert_eq!(Reference::parse(image).registry(), expected, "{image}");
        }
    }
}
