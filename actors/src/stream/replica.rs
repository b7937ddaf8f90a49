//! What the producer knows of a consumer that is a replica: what was sent to it, and what it said it holds of that.
//!
//! Invariant: the monitor hears only what was sent on a stream that lives, in the role the vbucket had when the stream
//! began; and it hears once that the stream ended, however that came.

use std::sync::Arc;

use super::window::Acknowledged;
use crate::durability::{NodeName, RoleEpoch};
use crate::vbucket::VbucketCore;
use messages::stream::StreamError;
use storage::Seqno;

/// A replica at the other end of a stream; dropped, its stream has ended.
#[derive(Debug)]
pub(super) struct Replica {
    core: Arc<VbucketCore>,
    role: RoleEpoch,
    node: NodeName,
    words: Acknowledged,
    /// The last event that was sent lies here.
    sent: Seqno,
    heard: Seqno,
}

impl Replica {
    /// The replica called `node`, which holds everything up to `start` and says in `words` what it holds of prepares.
    pub(super) fn new(
        core: Arc<VbucketCore>,
        role: RoleEpoch,
        node: NodeName,
        (start, words): (Seqno, Acknowledged),
    ) -> Replica {
        Replica {
            core,
            role,
            node,
            words,
            sent: start,
            heard: Seqno::ZERO,
        }
    }

    /// Everything up to `seqno` was sent.
    pub(super) fn note_sent(&mut self, seqno: Seqno) {
        self.sent = self.sent.max(seqno);
    }

    /// Hears what it has said since. An error: it says it holds what it was not sent.
    pub(super) fn hear(&mut self) -> Result<(), StreamError> {
        self.hear_word(self.words.prepared())
    }

    /// The same, of a word that came as a message.
    pub(super) fn hear_word(&mut self, acknowledged: Seqno) -> Result<(), StreamError> {
        let sent = self.sent;
        if acknowledged > sent {
            return Err(StreamError::AcknowledgedUnsent { acknowledged, sent });
        }
        if acknowledged > self.heard {
            self.heard = acknowledged;
            self.core
                .acknowledge_prepared(self.role, &self.node, acknowledged);
        }
        Ok(())
    }
}

impl Drop for Replica {
    fn drop(&mut self) {
        self.core.end_node_stream(self.role, &self.node);
    }
}
