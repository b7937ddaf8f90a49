//! Writes that make a document from the one that is there, and locks on documents.
//!
//! Invariant: what is there is read and written as one step; an error means nothing changed. Each is an argument at both doors,
//! as in [`super`].

use actix::Message;
use bytes::Bytes;
use storage::{Cas, DocumentKey};

use super::{Acknowledge, ExpiryRequest, Found, Mutated};
use crate::status::OperationError;

/// Put bytes behind the value of a document that must be there. Flags and expiry stay; what was JSON and is none any more is
/// raw from then on.
#[derive(Clone, Debug, PartialEq, Eq, Message)]
#[rtype(result = "Result<Mutated, OperationError>")]
pub struct Append {
    /// Which.
    pub key: DocumentKey,
    /// What is added.
    pub value: Bytes,
    /// The version the caller read; the write fails when it is not the present one.
    pub cas: Option<Cas>,
    /// When it is answered.
    pub acknowledge: Acknowledge,
}

/// [`Append`], before the value.
#[derive(Clone, Debug, PartialEq, Eq, Message)]
#[rtype(result = "Result<Mutated, OperationError>")]
pub struct Prepend {
    /// Which.
    pub key: DocumentKey,
    /// What is added.
    pub value: Bytes,
    /// The version the caller read; the write fails when it is not the present one.
    pub cas: Option<Cas>,
    /// When it is answered.
    pub acknowledge: Acknowledge,
}

/// Which way a counter goes, and how far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delta {
    /// Up; beyond the highest number of 64 bits it begins again at zero.
    Increment(u64),
    /// Down; it stops at zero.
    Decrement(u64),
}

impl Delta {
    /// What comes after `before`.
    #[must_use]
    pub const fn of(self, before: u64) -> u64 {
        match self {
            Delta::Increment(by) => before.wrapping_add(by),
            Delta::Decrement(by) => before.saturating_sub(by),
        }
    }
}

/// Count: the value is a number of 64 bits in decimal digits, and the answer's [`Mutated::counter`] the new one. Flags and
/// expiry of a document that is there stay.
#[derive(Clone, Debug, PartialEq, Eq, Message)]
#[rtype(result = "Result<Mutated, OperationError>")]
pub struct Count {
    /// Which.
    pub key: DocumentKey,
    /// How.
    pub delta: Delta,
    /// What is written, and not counted on, where there is no document; `None`: there must be one.
    pub initial: Option<u64>,
    /// When a document that is made expires.
    pub expiry: ExpiryRequest,
    /// When it is answered.
    pub acknowledge: Acknowledge,
}

/// Read a document and lock it: for a while only who has the answer's CAS, which is the lock's, can change it. A lock is in
/// memory only: it is no change, and ends with the vbucket's role or the process.
#[derive(Clone, Debug, PartialEq, Eq, Message)]
#[rtype(result = "Result<Found, OperationError>")]
pub struct GetAndLock {
    /// Which.
    pub key: DocumentKey,
    /// For how long: up to [`GetAndLock::SECONDS_MAX`]; zero is [`GetAndLock::SECONDS_DEFAULT`].
    pub seconds: u32,
}

impl GetAndLock {
    /// For how long a document is locked if nothing is said.
    pub const SECONDS_DEFAULT: u32 = 15;
    /// For how long it can be locked.
    pub const SECONDS_MAX: u32 = 30;

    /// For how long, if that can be.
    pub const fn seconds(&self) -> Result<u32, OperationError> {
        match self.seconds {
            0 => Ok(Self::SECONDS_DEFAULT),
            seconds if seconds <= Self::SECONDS_MAX => Ok(seconds),
            seconds => Err(OperationError::LockTimeTooLong { seconds }),
        }
    }
}

/// Take a lock back before its time is up.
#[derive(Clone, Debug, PartialEq, Eq, Message)]
#[rtype(result = "Result<(), OperationError>")]
pub struct Unlock {
    /// Which.
    pub key: DocumentKey,
    /// The lock's, as [`GetAndLock`] answered it.
    pub cas: Cas,
}
