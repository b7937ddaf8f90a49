//! What the proofs of the log store share: a run of operations, what it may have left, and how that is judged.
//!
//! A [`world::World`] does seeded operations on a store on a simulated disk and writes down in a [`past::Past`] what
//! each may have done. Whatever strikes the disk, what is found afterwards must be one point of that past, the same
//! for all vbuckets of a shard, at or behind everything acknowledged as durable.
//!
//! Invariant: a run is decided by its seed; every failure says how to run it again.
#![allow(dead_code, reason = "each proof uses only a part of these")]

pub(crate) mod crash;
pub(crate) mod past;
pub(crate) mod look;
pub(crate) mod operation;
pub(crate) mod world;
pub(crate) mod stepped;

/// Says where a proof was when it failed: dropped in a panic, it prints what it was told last.
pub(crate) struct Place(pub(crate) String);

impl Drop for Place {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("failed at: {}", self.0);
        }
    }
}
