//! Change streams, the producer's side: what happened in a vbucket, told in order to whoever asks, from disk first and
//! then from memory, with no gap and no duplicate (see `docs/streams.md`).
//!
//! [`admit`](admit()) checks a request, [`StreamState`] is the machine of one stream, [`Producer`] has the streams of one
//! thread, [`ProducerCore`] is the actor around it. Invariant: everything a stream says is a prefix of its vbucket's
//! history as filtered, and it ends once, with a reason.

mod rollback;
mod filter;
mod size;
mod admit;
mod snapshot;
mod want;
mod state;
mod window;
mod slice;
mod sink;
mod replica;
mod live;
mod producer;
mod actor;
pub mod consumer;

pub use actor::{OpenStreamInto, ProducerCore};
pub use admit::{Admitted, VbucketView, admit, check_words};
pub use filter::{Filter, OpenCollection, Sight, as_written};
pub use producer::{Producer, ProducerConfig, StreamNumbers};
pub use rollback::{Purged, RollbackQuestion, rollback_to};
pub use sink::{Farewells, Offer, StreamSink};
pub use size::flow_bytes;
pub use state::StreamState;
pub use want::{BackfillEnd, BackfillRange, Counted, Read, Skipped, Want};
pub use window::Acknowledged;

#[cfg(test)]
mod tests;
