//! The lab: a private Docker engine that a test starts, fills, breaks and throws away.

pub mod days;
pub mod deploys;
pub mod engine;
pub mod figure;
pub mod host;
pub mod image;
pub mod proxy;
pub mod tls;

/// Is this an environment variable that would point the program, or docker, at another engine or
/// change what it says?
pub fn is_foreign(name: &str) -> bool {
    let exact = ["RUST_LOG", "JOURNAL_STREAM", "STATE_DIRECTORY", "RUNTIME_DIRECTORY"];
    exact.contains(&name) || name.starts_with("CI_DOCKER_PRUNE_") || name.starts_with("DOCKER_")
}

pub use engine::{Engine, Kind, Options};
pub use host::Host;
pub use image::Image;
pub use proxy::{Fault, Proxy};
