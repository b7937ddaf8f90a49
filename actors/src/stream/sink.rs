//! Where the events of a stream go.
//!
//! Invariant: offering never blocks; what is not taken comes back whole and is offered again before anything else.

use std::fmt::Debug;
use std::sync::Arc;

use actix::Recipient;
use actix::prelude::SendError;
use parking_lot::Mutex;

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

/// Stands where a sink was.
pub(super) struct Nobody;

impl StreamSink for Nobody {
    fn offer(&mut self, _: StreamBatch) -> Offer {
        Offer::Gone
    }

    fn is_gone(&self) -> bool {
        true
    }
}

/// The last words of streams that went while their consumers had no room: the next life of their producer says them. A
/// clone is the same.
#[derive(Clone, Debug, Default)]
pub struct Farewells(Arc<Mutex<Vec<Farewell>>>);

type Farewell = (Box<dyn StreamSink>, StreamBatch);

impl Farewells {
    /// Offers it now, and keeps it if there is no room.
    pub(super) fn say(&self, mut sink: Box<dyn StreamSink>, batch: StreamBatch) {
        if let Offer::Full(batch) = sink.offer(batch) {
            self.0.lock().push((sink, batch));
        }
    }

    /// Offers again what is kept; whether something still is.
    pub(super) fn say_again(&self) -> bool {
        let kept = std::mem::take(&mut *self.0.lock());
        for (sink, batch) in kept {
            self.say(sink, batch);
        }
        !self.0.lock().is_empty()
    }
}

impl Debug for dyn StreamSink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("StreamSink")
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use messages::stream::StreamId;
    use storage::VbucketId;

    use super::*;

    /// Has room for nothing so many times.
    struct Busy(Arc<AtomicUsize>);

    impl StreamSink for Busy {
        fn offer(&mut self, batch: StreamBatch) -> Offer {
            let refuses = |left: usize| left.checked_sub(1);
            match self
                .0
                .fetch_update(Ordering::SeqCst, Ordering::SeqCst, refuses)
            {
                Ok(_) => Offer::Full(batch),
                Err(_) => Offer::Taken,
            }
        }

        fn is_gone(&self) -> bool {
            false
        }
    }

    #[test]
    fn a_last_word_is_kept_until_there_is_room() {
        let farewells = Farewells::default();
        let times = Arc::new(AtomicUsize::new(2));
        let batch = StreamBatch {
            vbucket: VbucketId::FIRST,
            stream: StreamId(1),
            events: Vec::new(),
            bytes: 0,
        };
        farewells.say(Box::new(Busy(Arc::clone(&times))), batch);
        // The next life has a clone of it.
        let next = farewells.clone();
        assert!(next.say_again());
        assert_eq!(times.load(Ordering::SeqCst), 0);
        assert!(!next.say_again());
        assert!(!next.say_again());
    }
}
