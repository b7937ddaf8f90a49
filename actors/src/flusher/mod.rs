//! The flusher of a shard: takes what is dirty from its vbuckets and hands it to the writers, many vbuckets at once,
//! one batch of each.
//!
//! Read in this order: `flushable` (what it needs of a vbucket), `batch` (limits and fair turns), `stage` and `lane`
//! (the lives of a flusher and of a vbucket in it), `answers` (what writers tell it), `requests` (who waits), `state`
//! (the machine), `core` (the machine with its links), `actor`. Invariant: nothing is known only here; a flusher that is made anew learns where its vbuckets stand
//! behind a writer barrier and goes on (rule R19).

pub mod flushable;
pub mod batch;
pub mod stage;
mod lane;
pub mod answers;
pub mod requests;
pub mod state;
pub mod core;
pub mod actor;

pub use self::actor::FlusherCore;
pub use self::answers::FlusherEdge;
pub use self::batch::FlushLimits;
pub use self::core::{Flusher, FlusherConfig};
pub use self::flushable::{DirtyQueue, FlushTake, Flushable};
pub use self::stage::Stage;
pub use self::state::{Effect, FlushedVbucket, FlusherState};
