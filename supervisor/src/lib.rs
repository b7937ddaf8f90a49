//! The supervision tree of a bucket, and the handle an embedder holds.
//!
//! The kit is not only for the bucket's own children. An application supervises its own actors in the same way: a
//! tree, a failure bus, a supervisor, and actors written as cores.
//!
//! ```
//! use std::sync::Arc;
//! use std::sync::atomic::{AtomicU64, Ordering};
//! use std::time::Duration;
//!
//! use actix::{Arbiter, Message, System};
//! use actors::environment::{Clock, Random};
//! use actors::hooks::Hooks;
//! use actors::shell::{Core, On, Reply, ShellContext, ShellFault};
//! use messages::{ChildName, FailureId};
//! use piggin_supervisor::failure_bus::FailureBus;
//! use piggin_supervisor::guardian::{Supervisor, SupervisorParts};
//! use piggin_supervisor::tree::{Child, Group, Strategy, Tree};
//!
//! #[derive(Message)]
//! #[rtype(result = "Result<u64, ShellFault>")]
//! struct Record(u64);
//!
//! /// What must survive a panic is shared; what must not is in the core.
//! struct Recorder {
//!     total: Arc<AtomicU64>,
//!     seen_in_this_life: u64,
//! }
//!
//! impl Core for Recorder {
//!     fn started(&mut self, ctx: &mut ShellContext<'_, Self>) {
//!         ctx.every(Duration::from_secs(60), |core, _| core.seen_in_this_life = 0);
//!     }
//! }
//!
//! impl On<Record> for Recorder {
//!     fn on(&mut self, Record(n): Record, _: &mut ShellContext<'_, Self>) -> Reply<Self, Result<u64, ShellFault>> {
//!         assert_ne!(n, 13, "unlucky");
//!         self.seen_in_this_life += 1;
//!         Reply::Now(Ok(self.total.fetch_add(n, Ordering::Relaxed) + n))
//!     }
//! }
//!
//! # #[derive(Debug)]
//! # struct Stopped;
//! # impl Clock for Stopped {
//! #     fn since_epoch(&self) -> Duration { Duration::ZERO }
//! #     fn monotonic(&self) -> Duration { Duration::ZERO }
//! # }
//! # #[derive(Debug)]
//! # struct Same;
//! # impl Random for Same { fn next_u64(&self) -> u64 { 4 } }
//! # let (clock, random) = (Arc::new(Stopped), Arc::new(Same));
//! System::new().block_on(async {
//!     let tree = Tree::new(Group::new("app").strategy(Strategy::OneForOne)).child(Child::new("recorder"));
//!     let failures = Arc::new(FailureBus::new(clock.clone(), FailureBus::HISTORY_MAX));
//!     let supervisor = Supervisor::new(tree, SupervisorParts {
//!         clock,
//!         random,
//!         failures: failures.clone(),
//!         hooks: Hooks::none(),
//!         on_out_of_service: Box::new(|what| eprintln!("{} is out of service: {}", what.scope, what.why)),
//!     })?;
//!     actix::spawn(supervisor.clone().watch());
//!
//!     let total = Arc::new(AtomicU64::new(0));
//!     let recorder = supervisor.start(&Arbiter::current(), &ChildName::new("recorder"), move |_generation| {
//!         Recorder { total: total.clone(), seen_in_this_life: 0 }
//!     })?;
//!     assert_eq!(recorder.send(Record(5)).await?, Ok(5));
//!     assert!(recorder.send(Record(13)).await?.is_err());
//!     assert_eq!(recorder.send(Record(2)).await?, Ok(7));
//!     assert_eq!(failures.since(FailureId(0)).failures.len(), 1);
//!     assert!(supervisor.shutdown().await.is_clean());
//!     Ok::<(), Box<dyn std::error::Error>>(())
//! }).unwrap();
//! ```

pub mod tree;
pub mod restart;
pub mod watch;
pub mod guardian;
pub mod failure_bus;
mod bucket_config;
mod bucket_error;
mod vbucket_map;
mod vbucket_table;
mod collections;
mod opening;
mod wiring;
mod running;
pub mod metric_names;
mod statistics;
mod figures;
mod streaming;
mod scan;
pub mod changes;
mod replication;
mod take_over;
mod durability;
mod stop;
mod background;
mod shutdown;
mod engine;
mod bucket;
mod compaction;
mod bucket_copy;
mod past;
mod backup;
mod repair;
mod bucket_actor;

#[cfg(any(test, feature = "testing"))]
pub mod testing;

pub use actors::compactor::{CompactionFigures, CompactionPolicy, SizeTier};
pub use actors::warmup::{WarmupEnd, WarmupProgress};
pub use backup::{BackupError, BackupReport, restore};
pub use bucket::{Bucket, Collection, CompactorAddr, VbucketAddr, WriteFuture, WriteRequest};
pub use bucket_actor::{BucketActor, Shutdown};
pub use bucket_config::{BucketConfig, CompactionConfig, Location};
pub use bucket_error::BucketError;
pub use changes::{
    Change, Changes, ChangesError, ChangesOptions, ChangesToken, Since, TokenError, Until,
};
pub use compaction::CompactionReport;
pub use durability::DurabilityFigures;
pub use figures::{Figures, TellsFigures};
pub use past::{Moment, Past, PastDocuments, PastError, Restored, Version};
pub use repair::{KeepsSalvage, RepairError, RepairOptions, RepairReport, SetAside, repair};
pub use replication::{ReplicateError, Replication};
pub use scan::{Scan, ScanBuilder};
pub use shutdown::ShutdownReport;
pub use statistics::{BucketStatistics, CollectionStatistics, MemoryStatistics};
pub use streaming::ProducerAddr;
pub use take_over::{TakeOverError, TakenOver, WhyNot};
pub use vbucket_map::vbucket_of;
