//! Deduplication: what becomes of the older version when a newer one is queued.
//!
//! Invariant: one function judges, for the question beforehand and for the queueing itself, so they agree.
//!
//! | older version in the open checkpoint | newer | what happens |
//! |---|---|---|
//! | none, or a disk checkpoint | any | appended |
//! | a sync-write, a system event, or of a collection with history; also when expelled | any | new checkpoint |
//! | any | a sync-write's, a system event, or of a collection with history | new checkpoint |
//! | expelled document | document | appended: every reader has the older one |
//! | a document some stream was told of and has yet to read | document | new checkpoint |
//! | any other document | document | takes its place |

use storage::{Operation, Predecessor, Seqno};

use super::content::{Checkpoint, Found, may_be_deduplicated};
use super::cursor::Cursors;
use super::log::CheckpointLog;

/// The older version of what is queued, as the document map knows it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Replaces {
    /// Seqno of the newest version of the same key and namespace, if there is any.
    pub older: Option<Seqno>,
    /// Whether the collection keeps all versions, now that the newer one is written.
    pub keeps_history: bool,
}

impl Replaces {
    /// There is no older version.
    pub const NOTHING: Replaces = Replaces {
        older: None,
        keeps_history: false,
    };

    /// The same, of a collection that keeps all versions.
    #[must_use]
    pub fn keeping_history(self) -> Replaces {
        Replaces {
            keeps_history: true,
            ..self
        }
    }
}

impl From<Option<Seqno>> for Replaces {
    fn from(older: Option<Seqno>) -> Replaces {
        Replaces {
            older,
            keeps_history: false,
        }
    }
}

impl From<Seqno> for Replaces {
    fn from(older: Seqno) -> Replaces {
        Some(older).into()
    }
}

/// How far the flusher is with an item.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FlushProgress {
    /// It has yet to take it, or was reset to before it: the store never had it.
    NotTaken,
    /// It took it and was told nothing yet: the store may have it.
    Taken,
    /// The store has it.
    Persisted,
}

/// What queueing does with the older version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disposition {
    /// The newer version goes behind; the older stays wherever it is.
    Append,
    /// The newer version takes the place of the older, which leaves the log.
    Replaces {
        /// How far the flusher was with the older one. Unless `NotTaken`, the newer one is one more item to flush.
        flush: FlushProgress,
        /// What the newer one must name as its predecessor (rule R8), because the older is gone.
        predecessor: Predecessor,
    },
    /// A new checkpoint is opened for the newer version; the older stays wherever it is.
    NewCheckpoint,
}

impl Disposition {
    /// The predecessor the newer version must name (rule R8). `otherwise` is for a key without an older version:
    /// `Absent` if the map knows every key of the store, else `Unknown`.
    #[must_use]
    pub fn predecessor(&self, older: Option<Seqno>, otherwise: Predecessor) -> Predecessor {
        match self {
            Disposition::Replaces { predecessor, .. } => *predecessor,
            Disposition::Append | Disposition::NewCheckpoint => {
                older.map_or(otherwise, Predecessor::At)
            }
        }
    }
}

/// What is to be done; a disposition with the place it is done at.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plan {
    pub(super) disposition: Disposition,
    /// Where the older version lies, of `Replaces`.
    pub(super) position: usize,
}

impl Plan {
    pub(super) const APPEND: Plan = Plan {
        disposition: Disposition::Append,
        position: 0,
    };
    pub(super) const NEW_CHECKPOINT: Plan = Plan {
        disposition: Disposition::NewCheckpoint,
        position: 0,
    };
}

impl CheckpointLog {
    /// What [`CheckpointLog::queue`] would do, so that the caller can make the item with the right predecessor.
    #[must_use]
    pub fn disposition(&self, operation: &Operation, replaces: impl Into<Replaces>) -> Disposition {
        self.plan(operation, replaces.into()).disposition
    }

    /// What [`CheckpointLog::queue_replica`] would do; where it would refuse, this says `NewCheckpoint`.
    #[must_use]
    pub fn disposition_of_replica(
        &self,
        operation: &Operation,
        replaces: impl Into<Replaces>,
    ) -> Disposition {
        self.plan_in_open(operation, replaces.into()).disposition
    }

    /// The plan for an active vbucket's item.
    pub(super) fn plan(&self, operation: &Operation, replaces: Replaces) -> Plan {
        let open = &self.chain.open;
        if open.of_source || self.is_full(open) {
            return Plan::NEW_CHECKPOINT;
        }
        self.plan_in_open(operation, replaces)
    }

    pub(super) fn plan_in_open(&self, operation: &Operation, replaces: Replaces) -> Plan {
        let open = &self.chain.open;
        let Some(older) = replaces.older else {
            return Plan::APPEND;
        };
        // An older one below is in a closed checkpoint, or gone.
        if open.kind.is_disk() || older < open.start {
            return Plan::APPEND;
        }
        let keeps_history = replaces.keeps_history || self.keeps_history;
        let may_take_place = may_be_deduplicated(operation) && !keeps_history;
        plan_against(open, older, may_take_place, &self.cursors)
    }
}

fn plan_against(open: &Checkpoint, older: Seqno, may_take_place: bool, cursors: &Cursors) -> Plan {
    match open.find(older) {
        Found::Nothing => Plan::APPEND,
        Found::Expelled { lasting: false } if may_take_place => Plan::APPEND,
        Found::Expelled { .. } => Plan::NEW_CHECKPOINT,
        Found::Item {
            position,
            item,
            keeps_history,
        } => {
            let may_leave = may_be_deduplicated(&item.operation) && !keeps_history;
            let promised = |older| cursors.readers.iter().any(|one| one.was_promised(older));
            if !may_take_place || !may_leave || promised(older) {
                return Plan::NEW_CHECKPOINT;
            }
            let flush = progress(open, position, cursors);
            let predecessor = match flush {
                FlushProgress::NotTaken => item.predecessor,
                FlushProgress::Taken => Predecessor::Unknown,
                FlushProgress::Persisted => Predecessor::At(older),
            };
            Plan {
                disposition: Disposition::Replaces { flush, predecessor },
                position,
            }
        }
    }
}

fn progress(open: &Checkpoint, position: usize, cursors: &Cursors) -> FlushProgress {
    let place = super::chain::Place {
        checkpoint: open.id,
        position,
    };
    if place < cursors.flush.held {
        FlushProgress::Persisted
    } else if place < cursors.flush.at {
        FlushProgress::Taken
    } else {
        FlushProgress::NotTaken
    }
}
