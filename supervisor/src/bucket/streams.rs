//! What a bucket's changes are followed with: one stream of all vbuckets, or the producers themselves.
//!
//! Invariant: none of it is in the way of a read or a write.

use std::sync::Arc;

use actix::{Handler, Message, Recipient};

use actors::shell::Shell;
use actors::stream::ProducerCore;
use storage::VbucketId;

use crate::bucket::Bucket;
use crate::changes::{Changes, ChangesError, ChangesOptions};
use crate::streaming::ProducerAddr;

impl Bucket {
    /// All changes of the bucket as one stream, from where [`ChangesOptions`] says. A handle of the bucket goes with it:
    /// while it is there the bucket stays open, unless it is shut down.
    pub async fn changes(&self, options: ChangesOptions) -> Result<Changes, ChangesError> {
        Changes::open(Arc::clone(self.held()), options).await
    }

    /// The address of the producer that streams a vbucket. It takes the messages of [`messages::stream`].
    #[must_use]
    pub fn producer(&self, vbucket: VbucketId) -> Option<ProducerAddr> {
        let running = self.running();
        let slot = running.table.slots.get(vbucket.index())?;
        let producing = running.streaming.producer(&running.table, slot.id())?;
        Some(producing.address.clone())
    }

    /// The same, for one kind of message.
    #[must_use]
    pub fn producer_recipient<M>(&self, vbucket: VbucketId) -> Option<Recipient<M>>
    where
        M: Message + Send + 'static,
        M::Result: Send,
        Shell<ProducerCore>: Handler<M>,
    {
        Some(self.producer(vbucket)?.recipient())
    }
}
