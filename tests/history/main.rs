//! A bucket that keeps a history: what was can be read, told and written down as it was, and compaction goes on beside it
//! by the same rules. By public means.
#![cfg(test)]

#[path = "../support/mod.rs"]
mod support;
/// The seed tests of compaction, of a bucket that keeps a history.
#[path = "../compaction/seeds/mod.rs"]
mod seeds;
#[path = "../streams/rollback.rs"]
mod rollback;

mod bad_input;
mod beside_others;
mod every_version;
mod instants;
mod repaired;
mod restore;
mod straddling;
mod streamed;
mod telling;

use piggin::storage::Retention;

/// No bug.
fn plant() {}

/// The seed tests' past is older than that when they begin: what may go goes, by another way.
const RETENTION: Option<Retention> = Some(Retention::of_seconds(60));
