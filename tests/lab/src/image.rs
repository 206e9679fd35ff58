//! Images made here from static busybox, written straight into a registry's storage or as an archive.

use std::collections::HashSet;
use std::fs;
use std::io::Write;
use std::path::Path;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// An image to make: a busybox layer and a layer of incompressible bytes, so that it has a size.
#[derive(Debug, Clone)]
pub struct Image {
    /// Repository in the registry, such as `app` or `library/redis`.
    pub repository: String,
    pub tag: String,
    /// Build date in RFC 3339; `None` leaves it out of the configuration.
    pub created: Option<String>,
    /// Bytes of the second layer, MiB.
    pub size_mib: usize,
    /// What the second layer is made from: images with the same seed and size share it.
    pub seed: String,
    /// Layers between the two, each by its seed and its size in MiB.
    pub shared: Vec<(String, usize)>,
    pub labels: Vec<(String, String)>,
    pub command: Vec<String>,
}

/// Sleeps until it is told to end, and then ends at once.
const IDLE: &str = "trap 'exit 0' TERM INT; while :; do sleep 3600 & wait; done";

impl Image {
    /// An image that does nothing, built in 2024.
    pub fn new(repository: &str, tag: &str) -> Self {
        Self {
            repository: repository.into(),
            tag: tag.into(),
            created: Some("2024-02-03T04:05:06Z".into()),
            size_mib: 1,
            seed: format!("{repository}:{tag}"),
            shared: Vec::new(),
            labels: Vec::new(),
            command: vec!["/bin/sh".into(), "-c".into(), IDLE.into()],
        }
    }

    pub fn created(mut self, created: Option<&str>) -> Self {
        self.created = created.map(Into::into);
        self
    }

    pub fn size_mib(mut self, size: usize) -> Self {
        self.size_mib = size;
        self
    }

    pub fn seed(mut self, seed: &str) -> Self {
        self.seed = seed.into();
        self
    }

    /// A layer that other images may have too.
    pub fn layer(mut self, seed: &str, size_mib: usize) -> Self {
        self.shared.push((seed.into(), size_mib));
        self
    }

    pub fn label(mut self, key: &str, value: &str) -> Self {
        self.labels.push((key.into(), value.into()));
        self
    }

    /// A shell command instead of idling.
    pub fn shell(mut self, script: &str) -> Self {
        self.command[2] = script.into();
        self
    }

    /// Digest of the layer that only this image has.
    pub fn payload_digest(&self) -> String {
        digest(&payload_layer(&self.seed, self.size_mib))
    }

    /// Digest of its configuration: its ID where the engine keeps images by overlay2.
    pub fn config_digest(&self, busybox: &Path) -> String {
        let digests: Vec<String> = self.layers(busybox).iter().map(|layer| digest(layer)).collect();
        digest(&self.config(&digests))
    }

    fn layers(&self, busybox: &Path) -> Vec<Vec<u8>> {
        let base = base_layer(&fs::read(busybox).expect("read busybox"));
        let shared = self.shared.iter().map(|(seed, size_mib)| payload_layer(seed, *size_mib));
        let own = payload_layer(&self.seed, self.size_mib);
        std::iter::once(base).chain(shared).chain([own]).collect()
    }

    /// With these digests of its layers.
    fn config(&self, layers: &[String]) -> Vec<u8> {
        let labels: Value = self
            .labels
            .iter()
            .map(|(key, value)| (key.clone(), json!(value)))
            .collect::<serde_json::Map<_, _>>()
            .into();
        let mut config = json!({
            "architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" },
            "os": "linux",
            "config": {"Cmd": self.command, "Env": ["PATH=/bin"], "Labels": labels},
            "rootfs": {"type": "layers", "diff_ids": layers},
            "history": (0..layers.len()).map(|_| json!({"created_by": self.seed})).collect::<Vec<_>>(),
        });
        if let Some(created) = &self.created {
            config["created"] = json!(created);
        }
        config.to_string().into_bytes()
    }

    /// Write the image into the storage of a registry (the layout of `distribution`) and return its
    /// digest. A tag that is there moves.
    pub fn publish(&self, registry: &Path, busybox: &Path) -> String {
        let layers = self.layers(busybox);
        let digests: Vec<String> = layers.iter().map(|layer| digest(layer)).collect();
        let config = self.config(&digests);
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": {"mediaType": "application/vnd.oci.image.config.v1+json",
                       "size": config.len(), "digest": digest(&config)},
            "layers": layers.iter().zip(&digests).map(|(layer, digest)| json!({
                "mediaType": "application/vnd.oci.image.layer.v1.tar",
                "size": layer.len(), "digest": digest})).collect::<Vec<_>>(),
        })
        .to_string()
        .into_bytes();

        let root = registry.join("docker/registry/v2");
        let repository = root.join("repositories").join(&self.repository);
        let hex = |digest: &str| digest.trim_start_matches("sha256:").to_owned();
        let blob = |bytes: &[u8], digest: &str| {
            let hex = hex(digest);
            put(&root.join("blobs/sha256").join(&hex[..2]).join(&hex).join("data"), bytes);
        };
        let blobs = layers.iter().zip(digests).chain([(&config, digest(&config))]);
        for (bytes, link) in blobs {
            blob(bytes, &link);
            put(&repository.join("_layers/sha256").join(hex(&link)).join("link"), link.as_bytes());
        }
        let link = digest(&manifest);
        blob(&manifest, &link);
        let manifests = repository.join("_manifests");
        put(&manifests.join("revisions/sha256").join(hex(&link)).join("link"), link.as_bytes());
        let tag = manifests.join("tags").join(&self.tag);
        put(&tag.join("index/sha256").join(hex(&link)).join("link"), link.as_bytes());
        put(&tag.join("current/link"), link.as_bytes());
        link
    }

    /// The image as an archive for `docker load`, under the given name (none: it loads untagged).
    pub fn archive(&self, name: Option<&str>, busybox: &Path) -> Vec<u8> {
        archive(&[(self.clone(), name.map(str::to_owned))], busybox)
    }
}

/// Several images as one archive for `docker load`; layers that they share are in it once.
pub fn archive(images: &[(Image, Option<String>)], busybox: &Path) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    let mut written = HashSet::new();
    let mut once = |path: &str, bytes: &[u8]| {
        if written.insert(path.to_owned()) {
            append(&mut tar, path, bytes, 0o644);
        }
    };
    let mut manifest = Vec::new();
    for (image, name) in images {
        let layers = image.layers(busybox);
        let digests: Vec<String> = layers.iter().map(|layer| digest(layer)).collect();
        let config = image.config(&digests);
        let mut names = Vec::new();
        for (layer, digest) in layers.iter().zip(&digests) {
            let path = format!("{}.tar", &digest[7..]);
            once(&path, layer);
            names.push(path);
        }
        let config_path = format!("{}.json", &digest(&config)[7..]);
        once(&config_path, &config);
        let tags = name.as_ref().map(|name| vec![name]);
        manifest.push(json!({"Config": config_path, "Layers": names, "RepoTags": tags}));
    }
    append(&mut tar, "manifest.json", json!(manifest).to_string().as_bytes(), 0o644);
    tar.into_inner().expect("tar in memory")
}

fn digest(bytes: &[u8]) -> String {
    let hash = Sha256::digest(bytes);
    format!("sha256:{}", hash.iter().map(|byte| format!("{byte:02x}")).collect::<String>())
}

fn put(path: &Path, bytes: &[u8]) {
    fs::create_dir_all(path.parent().expect("a path with a parent")).expect("create the registry's folder");
    fs::File::create(path).and_then(|mut file| file.write_all(bytes)).expect("write into the registry");
}

fn append(tar: &mut tar::Builder<Vec<u8>>, path: &str, bytes: &[u8], mode: u32) {
    let mut header = tar::Header::new_ustar();
    header.set_size(bytes.len() as u64);
    header.set_mode(mode);
    tar.append_data(&mut header, path, bytes).expect("tar in memory");
}

fn base_layer(busybox: &[u8]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    append(&mut tar, "bin/busybox", busybox, 0o755);
    for name in ["sh", "sleep", "true", "false", "cat", "dd"] {
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_size(0);
        header.set_mode(0o777);
        tar.append_link(&mut header, format!("bin/{name}"), "busybox").expect("tar in memory");
    }
    tar.into_inner().expect("tar in memory")
}

/// Bytes that do not compress and depend on the seed alone: SplitMix64 (Steele, Lea and Flood, 2014).
fn payload_layer(seed: &str, mib: usize) -> Vec<u8> {
    let hash = Sha256::digest(seed.as_bytes());
    let mut state = u64::from_le_bytes(hash[..8].try_into().expect("eight bytes"));
    let mut next = || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    };
    let bytes: Vec<u8> = (0..mib << 17).flat_map(|_| next().to_le_bytes()).collect();
    let mut tar = tar::Builder::new(Vec::new());
    append(&mut tar, &format!("payload-{}", &digest(seed.as_bytes())[7..19]), &bytes, 0o644);
    tar.into_inner().expect("tar in memory")
}
