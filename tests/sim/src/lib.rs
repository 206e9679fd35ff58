//! A simulated host and Docker engine, deterministic by seed, in which the program's own gates, plan, ledger and
//! execution run. Time is tokio's paused clock, so that a second of grace costs nothing.

pub mod engine;
pub mod months;
pub mod run;
pub mod scenarios;
pub mod trace;
pub mod world;

pub use engine::{State, Store};
pub use run::{Begin, Case, Deed, Verdict};
pub use world::{Breakage, Fault, Simulated};
