//! Who is told which prepares compactions erased, and what was not told yet.
//!
//! Invariant: at most one entry for each past of a vbucket (rule R2), kept until it was handed over; a receiver whose mailbox is full delays
//! it and loses nothing (rule R18). After a crash, or a store that was opened anew, nothing needs to be told: whoever
//! tracks prepares reads them anew then.

use std::collections::BTreeMap;
use std::fmt;

use actix::Recipient;
use actix::prelude::SendError;

use messages::compactor::PreparesErased;
use storage::{ErasedPrepare, Incarnation, RollbackEpoch, VbucketId};

/// Which past of which vbucket.
pub type PastOf = (VbucketId, Incarnation, RollbackEpoch);

/// What is to be told, to whom.
#[derive(Default)]
pub struct ErasedPrepares {
    receiver: Option<Recipient<PreparesErased>>,
    /// On disk, not told yet.
    untold: BTreeMap<PastOf, Vec<ErasedPrepare>>,
}

impl ErasedPrepares {
    /// From now on this one is told.
    pub fn tell_to(&mut self, receiver: Recipient<PreparesErased>) {
        self.receiver = Some(receiver);
    }

    /// These are erased, and that is on disk.
    pub fn erased(&mut self, of: PastOf, prepares: &[ErasedPrepare]) {
        if self.receiver.is_some() && !prepares.is_empty() {
            let untold = self.untold.entry(of).or_default();
            untold.extend_from_slice(prepares);
        }
    }

    /// Hands over what there is room for; whether nothing is left.
    pub fn tell(&mut self) -> bool {
        let Some(receiver) = &self.receiver else {
            return true;
        };
        while let Some((of, prepares)) = self.untold.pop_first() {
            let (vbucket, incarnation, epoch) = of;
            let message = PreparesErased {
                vbucket,
                incarnation,
                epoch,
                prepares,
            };
            match receiver.try_send(message) {
                // One whose address is closed has nothing to forget any more.
                Ok(()) | Err(SendError::Closed(_)) => {}
                Err(SendError::Full(message)) => {
                    self.untold.insert(of, message.prepares);
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
