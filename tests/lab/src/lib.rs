//! The lab: a private Docker engine that a test starts, fills, breaks and throws away.

pub mod deploys;
pub mod engine;
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

/// What this machine's own Docker is configured by must not reach what runs in the lab.
///
/// # Safety
/// No other thread runs.
#[expect(unsafe_code, reason = "the environment is changed before anything reads it")]
pub unsafe fn forget_foreign() {
    for (name, _) in std::env::vars_os() {
        if is_foreign(&name.to_string_lossy()) {
            // SAFETY: no other thread runs.
            unsafe {
                std::env::remove_var(name);
            }
        }
    }
}

/// Let every time in it be so many hours earlier.
pub fn age(value: &mut serde_json::Value, hours: i64) {
    use serde_json::Value;
    match value {
        Value::Object(object) => object.values_mut().for_each(|value| age(value, hours)),
        Value::Array(list) => list.iter_mut().for_each(|value| age(value, hours)),
        Value::String(text) => {
            if let Ok(at) = text.parse::<jiff::Timestamp>() {
                *text = (at - jiff::SignedDuration::from_hours(hours)).to_string();
            }
        }
        _ => {}
    }
}

pub use engine::{Engine, Kind, Options};
pub use host::Host;
pub use image::Image;
pub use proxy::{Fault, Proxy};
