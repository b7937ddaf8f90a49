//! Failures: what is told of every background job that failed and every child that ended as it should not.
//!
//! Invariant: every failure has its own id, rising by one, and moves exactly one counter, named by
//! [`FailureKind::counter`]; an abort is not a failure.

use actix::Message;
use storage::{StorageError, VbucketId};

use crate::lifecycle::{ChildName, Generation};

/// Place of a failure in the bucket's history of failures; the first is 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FailureId(pub u64);

/// Something that failed, and what will be done about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Its place in the history.
    pub id: FailureId,
    /// When, in milliseconds since the Unix epoch by the injected clock.
    pub at_ms: u64,
    /// Who failed, or whose job it was.
    pub child: ChildName,
    /// Which life of that child.
    pub generation: Generation,
    /// The vbucket concerned, if it was one.
    pub vbucket: Option<VbucketId>,
    /// What failed.
    pub kind: FailureKind,
    /// Why.
    pub cause: FailureCause,
    /// What is done about it.
    pub next: NextStep,
}

/// What failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FailureKind {
    /// Writing changes to disk.
    Flush,
    /// Turning what was written into segments.
    Seal,
    /// Rewriting segments.
    Compaction {
        /// Where in it.
        stage: CompactionStage,
    },
    /// Reading a snapshot.
    Scan {
        /// For whom.
        purpose: ScanPurpose,
    },
    /// Reading one document that is not in memory.
    Fetch,
    /// Loading a vbucket at opening.
    Warmup {
        /// Where in it.
        phase: WarmupPhase,
    },
    /// Taking a vbucket back to an earlier seqno.
    Rollback,
    /// A child panicked.
    ChildPanicked,
    /// A child gave no sign of life.
    ChildStalled,
    /// Restarts did not help; the next level up took over.
    Escalated,
    /// What must always be so of durable writes is not: a fault of this program. Looked for in debug builds only.
    Invariant,
}

/// Where in a compaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CompactionStage {
    /// Choosing and opening what to rewrite.
    Start,
    /// Merging segments.
    Merge,
    /// The pass over one dropped collection.
    Collection,
    /// The pass over the prepares (MB-50060).
    Prepare,
    /// The pass over the system events.
    SystemEvent,
    /// Making the result visible.
    Publish,
}

impl From<storage::CompactionStage> for CompactionStage {
    fn from(stage: storage::CompactionStage) -> CompactionStage {
        match stage {
            storage::CompactionStage::Start => CompactionStage::Start,
            storage::CompactionStage::Merge => CompactionStage::Merge,
            storage::CompactionStage::Collection(_) => CompactionStage::Collection,
            storage::CompactionStage::Prepare => CompactionStage::Prepare,
            storage::CompactionStage::SystemEvent => CompactionStage::SystemEvent,
            storage::CompactionStage::Publish => CompactionStage::Publish,
        }
    }
}

/// For whom a snapshot is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ScanPurpose {
    /// A stream's backfill.
    Backfill,
    /// Loading a vbucket at opening.
    Warmup,
    /// A client's range read.
    Client,
    /// Repairing memory after a rollback.
    Rollback,
}

/// Where in a warmup.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum WarmupPhase {
    /// Reading the state records, making the vbuckets.
    State,
    /// Reading prepares.
    Prepares,
    /// Reading documents.
    Documents,
    /// Writing the new state records (failover entries).
    Persist,
}

/// Why it failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FailureCause {
    /// The store's word.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// What the panic said.
    #[error("panicked: {0}")]
    Panic(String),
    /// No sign of life for so long.
    #[error("no sign of life for {for_ms} ms")]
    Stalled {
        /// Milliseconds by the injected clock.
        for_ms: u64,
    },
    /// The child itself said it cannot go on.
    #[error("gave up: {0}")]
    GaveUp(String),
    /// The thread, or the actix `System`, it lived on ended under it.
    #[error("its thread or System ended under it")]
    Lost,
    /// The same kind of request panicked it again and again.
    #[error("{request} made it panic {times} times in a row: {last}")]
    PoisonedRequest {
        /// The type of the message.
        request: String,
        /// How often.
        times: u32,
        /// What the last panic said.
        last: String,
    },
    /// More restarts than the tree allows.
    #[error("{restarts} restarts within {window_ms} ms: {last}")]
    Intensity {
        /// Restarts counted.
        restarts: u32,
        /// Within these milliseconds.
        window_ms: u64,
        /// Why the last one was needed.
        last: String,
    },
    /// What must always be so is not.
    #[error("invariant {id} of durable writes does not hold: {what}; report it with the logs")]
    Invariant {
        /// Which, by the number in `docs/testing.md`.
        id: u8,
        /// How that shows.
        what: String,
    },
    /// A fault a test asked for.
    #[error("injected: {0}")]
    Injected(String),
}

/// What is done about a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NextStep {
    /// It is tried again then, in milliseconds since the Unix epoch.
    RetryAt {
        /// When.
        at_ms: u64,
    },
    /// The child was, or is about to be, restarted.
    Restarted,
    /// The vbucket, or the bucket, is out of service.
    OutOfService,
    /// Nothing: whoever asked was told, and decides.
    Nothing,
}

/// What subscribers of the failure bus get.
#[derive(Clone, Debug, PartialEq, Eq, Message)]
#[rtype(result = "()")]
pub enum FailureNotice {
    /// A failure.
    Failed(Failure),
    /// The subscriber was too slow for these; the history has them.
    Missed {
        /// First one missed.
        from: FailureId,
        /// Last one missed.
        to: FailureId,
    },
}

impl FailureKind {
    /// Every kind there is.
    pub const ALL: [FailureKind; 22] = [
        FailureKind::Flush,
        FailureKind::Seal,
        FailureKind::Compaction {
            stage: CompactionStage::Start,
        },
        FailureKind::Compaction {
            stage: CompactionStage::Merge,
        },
        FailureKind::Compaction {
            stage: CompactionStage::Collection,
        },
        FailureKind::Compaction {
            stage: CompactionStage::Prepare,
        },
        FailureKind::Compaction {
            stage: CompactionStage::SystemEvent,
        },
        FailureKind::Compaction {
            stage: CompactionStage::Publish,
        },
        FailureKind::Scan {
            purpose: ScanPurpose::Backfill,
        },
        FailureKind::Scan {
            purpose: ScanPurpose::Warmup,
        },
        FailureKind::Scan {
            purpose: ScanPurpose::Client,
        },
        FailureKind::Scan {
            purpose: ScanPurpose::Rollback,
        },
        FailureKind::Fetch,
        FailureKind::Warmup {
            phase: WarmupPhase::State,
        },
        FailureKind::Warmup {
            phase: WarmupPhase::Prepares,
        },
        FailureKind::Warmup {
            phase: WarmupPhase::Documents,
        },
        FailureKind::Warmup {
            phase: WarmupPhase::Persist,
        },
        FailureKind::Rollback,
        FailureKind::ChildPanicked,
        FailureKind::ChildStalled,
        FailureKind::Escalated,
        FailureKind::Invariant,
    ];

    /// Name of the one counter this kind moves.
    #[must_use]
    pub const fn counter(self) -> &'static str {
        match self {
            FailureKind::Flush => "flush_failures",
            FailureKind::Seal => "seal_failures",
            FailureKind::Compaction { stage } => match stage {
                CompactionStage::Start => "compaction_start_failures",
                CompactionStage::Merge => "compaction_merge_failures",
                CompactionStage::Collection => "compaction_collection_failures",
                CompactionStage::Prepare => "compaction_prepare_failures",
                CompactionStage::SystemEvent => "compaction_system_event_failures",
                CompactionStage::Publish => "compaction_publish_failures",
            },
            FailureKind::Scan { purpose } => match purpose {
                ScanPurpose::Backfill => "backfill_scan_failures",
                ScanPurpose::Warmup => "warmup_scan_failures",
                ScanPurpose::Client => "client_scan_failures",
                ScanPurpose::Rollback => "rollback_scan_failures",
            },
            FailureKind::Fetch => "fetch_failures",
            FailureKind::Warmup { phase } => match phase {
                WarmupPhase::State => "warmup_state_failures",
                WarmupPhase::Prepares => "warmup_prepare_failures",
                WarmupPhase::Documents => "warmup_document_failures",
                WarmupPhase::Persist => "warmup_persist_failures",
            },
            FailureKind::Rollback => "rollback_failures",
            FailureKind::ChildPanicked => "child_panics",
            FailureKind::ChildStalled => "child_stalls",
            FailureKind::Escalated => "escalations",
            FailureKind::Invariant => "broken_invariants",
        }
    }
}
