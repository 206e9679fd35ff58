//! The lab: a private Docker engine that a test starts, fills, breaks and throws away.

pub mod deploys;
pub mod engine;
pub mod image;
pub mod proxy;

pub use engine::{Engine, Kind, Options};
pub use image::Image;
pub use proxy::{Fault, Proxy};
