//! Durable writes: what a client asks of one, and how a vbucket stands with those under way.
//!
//! Answers: [`WriteDurably`] is answered exactly once, when the write is decided. Refused before anything was written, in this
//! order: the vbucket's state, `UnknownCollection`, `DurabilityInvalidLevel`, `DurabilityImpossible` or `TemporaryFailure` (no
//! topology is known yet), too large or no memory, `SyncWriteInProgress`, what else a plain write is refused for. Accepted,
//! its outcome not known: `SyncWriteAmbiguous`. Accepted, its collection dropped meanwhile: `UnknownCollection`.

use std::time::Duration;

use actix::Message;
use storage::{DurabilityLevel, Seqno, VbucketId};

use crate::status::OperationError;
use crate::vbucket::{Mutated, Write};

/// What a durable write waits for, and how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Durability {
    /// Who must hold it, and how, before it is committed.
    pub level: DurabilityLevel,
    /// How long it may take until it is given up, 1 to 65534 ms; `None` is [`Durability::TIMEOUT`].
    pub timeout: Option<Duration>,
}

impl Durability {
    /// How long a durable write may take unless it says otherwise.
    pub const TIMEOUT: Duration = Duration::from_secs(30);
    /// The longest timeout in milliseconds: the protocol keeps the next value for "never".
    pub const TIMEOUT_MS_MAX: u64 = 65_534;

    /// That level, with the usual timeout.
    #[must_use]
    pub const fn of(level: DurabilityLevel) -> Durability {
        Durability {
            level,
            timeout: None,
        }
    }

    /// How long it may take. What lies outside the range is refused as the protocol does, as an invalid level.
    pub fn time_allowed(&self) -> Result<Duration, OperationError> {
        let Some(asked) = self.timeout else {
            return Ok(Durability::TIMEOUT);
        };
        let range = Duration::from_millis(1)..=Duration::from_millis(Durability::TIMEOUT_MS_MAX);
        if range.contains(&asked) {
            Ok(asked)
        } else {
            Err(OperationError::DurabilityInvalidLevel)
        }
    }
}

/// Write durably: answered with the document's version and the seqno of its commit once it is committed. When a plain
/// write would be answered is not looked at; the level says more.
#[derive(Clone, Debug, PartialEq, Eq, Message)]
#[rtype(result = "Result<Mutated, OperationError>")]
pub struct WriteDurably {
    /// What is written ([`Write::can_be_durable`]).
    pub write: Write,
    /// How durably.
    pub durability: Durability,
}

/// Something is decided, or to be acknowledged: look at the shared state. At most one is under way per edge (rule R18).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Message)]
#[rtype(result = "()")]
pub struct LookAtPrepares;

/// How a vbucket stands with durable writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DurabilityStatus {
    /// Which.
    pub vbucket: VbucketId,
    /// Highest prepare this node holds as strongly as it asks.
    pub high_prepared: Seqno,
    /// Highest prepare that is over.
    pub high_completed: Seqno,
    /// Prepares that are not over.
    pub prepares: usize,
    /// Of these, such as may have been committed elsewhere: their keys cannot be read.
    pub maybe_visible: usize,
    /// Clients that wait for an answer.
    pub waiting: usize,
    /// Bytes of the prepares in memory.
    pub bytes: u64,
    /// What it has done since the bucket was opened.
    pub counts: DurableWrites,
}

/// Durable writes since the bucket was opened, of an active vbucket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DurableWrites {
    /// Accepted from clients.
    pub accepted: u64,
    /// Committed, those of an earlier role included.
    pub committed: u64,
    /// Given up.
    pub aborted: u64,
}
