//! The program from outside: against a real engine that each test starts for itself.

// The longest tests; in the order of their names they begin first.
mod at_each_request;
mod bounds;
mod busy;
mod cgroups;
mod converge;
mod deploys;
mod disk;
mod errors;
mod events;
mod eviction;
mod explain;
mod in_use;
mod inhibit;
mod interrupt;
mod ledger;
mod metrics;
mod moment;
mod nodes;
mod prune;
mod record;
mod requests;
mod runs;
mod support;
mod transcripts;
mod usage;
mod verify;
