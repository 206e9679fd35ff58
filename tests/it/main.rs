//! The program from outside: against a real engine that each test starts for itself.

mod converge;
mod disk;
mod errors;
mod ledger;
mod prune;
mod runs;
mod support;
mod usage;
