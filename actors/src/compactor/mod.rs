//! The compactor of a bucket: has the segments of vbuckets rewritten, beside their flushers, never in their way
//! (MB-38428), without what nobody can ask for any more.
//!
//! Read in this order: `policy` (what the engine compacts by itself), `state` (what waits and what runs), `budget` (how
//! fast), `vbucket` (what it needs of one), `words` (what others have to hear of it), `desk` (all of that,
//! shared), `look` (the policy's eyes), `worker` (who does it), `actor` (who is asked). Invariant: requests are answered
//! exactly once; what failed is told, with its stage, and is never passed off as complete (MB-50060).

pub mod policy;
pub mod state;
pub mod budget;
pub mod vbucket;
pub mod words;
pub mod desk;
mod look;
pub mod worker;
pub mod actor;

pub use self::actor::CompactorCore;
pub use self::desk::{Compactor, CompactorConfig};
pub use self::policy::{CompactionPolicy, SizeTier};
pub use self::state::{CompactionFigures, CompactorLimits};
pub use self::vbucket::{Compactable, CompactionTable, Expiring};
pub use self::worker::CompactionWorker;
