//! Who is told which prepares compactions erased, and what was not told yet.
//!
//! Invariant: at most one entry for each vbucket, kept until it was handed over; a receiver whose mailbox is full delays
//! it and loses nothing (rule R18). After a crash, or a store that was opened anew, nothing needs to be told: whoever
//! tracks prepares reads them anew then.

use std::collections::BTreeMap;
use std::fmt;

use actix::Recipient;
use actix::prelude::SendError;

use messages::compactor::PreparesErased;
use storage::{ErasedPrepare, VbucketId};

/// What is to be told, to whom.
#[derive(Default)]
pub struct ErasedPrepares {
    receiver: Option<Recipient<PreparesErased>>,
    /// On disk, not told yet.
    untold: BTreeMap<VbucketId, Vec<ErasedPrepare>>,
}

impl ErasedPrepares {
    /// From now on this one is told.
    pub fn tell_to(&mut self, receiver: Recipient<PreparesErased>) {
        self.receiver = Some(receiver);
    }

    /// These are erased, and that is on disk.
    pub fn erased(&mut self, vbucket: VbucketId, prepares: &[ErasedPrepare]) {
        if self.receiver.is_some() && !prepares.is_empty() {
            let untold = self.untold.entry(vbucket).or_default();
            untold.extend_from_slice(prepares);
        }
    }

    /// Hands over what there is room for; whether nothing is left.
    pub fn tell(&mut self) -> bool {
        let Some(receiver) = &self.receiver else {
            return true;
        };
        while let Some((vbucket, prepares)) = self.untold.pop_first() {
            let message = PreparesErased { vbucket, prepares };
            match receiver.try_send(message) {
                // One whose address is closed has nothing to forget any more.
                Ok(()) | Err(SendError::Closed(_)) => {}
                Err(SendError::Full(message)) => {
                    self.untold.insert(vbucket, message.prepares);
                    return false;
                }
            }
        }
        true
    }
}

impl fmt::Debug for ErasedPrepares {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ErasedPrepares")
            .field("untold", &self.untold.len())
            .finish_non_exhaustive()
    }
}
