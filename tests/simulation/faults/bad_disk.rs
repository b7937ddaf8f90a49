//! A call on the disk fails: a write of the log, or its sync, which may lose what it should have made durable.
//!
//! Invariant: it is the disk of this opening that fails; after a power cut it is well again.

use piggin::storage::disk::{DiskErrorKind, SyncFailure, Verb};
use supervisor::testing::{DiskFault, Fault, World};

pub(crate) fn plan(world: &World) {
    let random = world.random("bad disk");
    let nth = random.between(1..=40);
    let fault = match random.below(6) {
        0 => DiskFault::fail(Verb::Write, "log", nth, DiskErrorKind::Full),
        1 => DiskFault::fail(Verb::Sync, "", nth, other()),
        2 => DiskFault::lose_sync("log", nth, SyncFailure::KeepsPages),
        3 => DiskFault::lose_sync("log", nth, SyncFailure::DropsPages),
        _ => return,
    };
    world.inject(Fault::Disk(fault));
}

fn other() -> DiskErrorKind {
    DiskErrorKind::Other("as asked".to_owned())
}
