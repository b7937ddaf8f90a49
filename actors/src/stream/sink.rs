//! Where the events of a stream go.
//!
//! Invariant: offering never blocks; what is not taken comes back whole and is offered again before anything else.

use std::fmt::Debug;

use actix::Recipient;
use actix::prelude::SendError;

use messages::stream::StreamBatch;

/// What became of a batch.
#[must_use]
#[derive(Debug)]
pub enum Offer {
    /// The consumer has it.
    Taken,
    /// It has no room now.
    Full(StreamBatch),
    /// There is no consumer any more.
    Gone,
}

/// A consumer, as its producer sees it.
pub trait StreamSink: Send {
    /// Hands it a batch.
    fn offer(&mut self, batch: StreamBatch) -> Offer;
    /// Whether it is known to take nothing any more.
    fn is_gone(&self) -> bool;
}

impl StreamSink for Recipient<StreamBatch> {
    fn offer(&mut self, batch: StreamBatch) -> Offer {
        match self.try_send(batch) {
            Ok(()) => Offer::Taken,
            Err(SendError::Full(batch)) => Offer::Full(batch),
            Err(SendError::Closed(_)) => Offer::Gone,
        }
    }

    fn is_gone(&self) -> bool {
        !self.connected()
    }
}

impl Debug for dyn StreamSink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("StreamSink")
    }
}
