//! Durable writes: which prepare has come how far, and what is to be done about it. Plain state machines, which know no
//! actor, no lock and no clock: whoever drives them hands in items, acknowledgements, the time and what is on disk.
//!
//! - [`Monitor`] is what a vbucket has one of, by its state: an [`ActiveMonitor`] decides, a [`PassiveMonitor`] says how
//!   far a replica may acknowledge, a [`DeadMonitor`] keeps both for later.
//! - [`Ledger`] is what must survive the one who drives them: who waits for an answer, who acknowledged what (rule R20).
//!   A monitor is made anew from it, the outstanding prepares and the store's watermarks.
//!
//! Names are those of the field. The vbucket holds a monitor and a ledger under its lock, and tells them of everything as it
//! happens ([`vbucket`](crate::vbucket)).
//!
//! Invariant: writes are decided, and so completed, in the order of their prepares; a node counts as holding a prepare
//! exactly when it acknowledged that seqno or a higher one.

mod topology;
mod prepare;
mod words;
mod open;
mod active;
mod passive;
mod dead;
mod monitor;
mod ledger;
mod driver;

pub use active::{ActiveMonitor, Decision, OutOfTurn, Settled, Verdict};
pub use dead::DeadMonitor;
pub use driver::{Driver, DriverConfig, DriverCore};
pub use ledger::{Ledger, RoleEpoch};
pub use monitor::{Monitor, Outstanding, Standing, high_prepared_on_disk};
pub use passive::{
    Acknowledger, Completion, CompletionOrder, PassiveError, PassiveMonitor, SnapshotEnd,
    SnapshotEndError,
};
pub use prepare::{OutOfOrder, Prepare};
pub use topology::{Chain, Chains, NodeName, Requirements, TopologyError};

#[cfg(test)]
mod tests;
