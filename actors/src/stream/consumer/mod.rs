//! Change streams, the consumer's side: replica vbuckets that follow the active ones of another bucket (see
//! `docs/streams.md`).
//!
//! [`Follows`] says who follows what, [`PassiveState`] is the machine of one stream, [`Consumer`] has the streams of one
//! thread, [`ConsumerCore`] is the actor around it. Invariant: a replica holds a prefix of its source's history, or is on
//! its way back to one; nothing that is replicated is refused for memory (rule R15), its source gets no more room instead.

mod follows;
mod state;
mod inbox;
mod credit;
mod live;
mod streams;
mod actor;

pub use actor::ConsumerCore;
pub use follows::{FollowFigures, Following, Follows, Opening, Source};
pub use live::Asked;
pub use state::{Answered, Apply, Moment, PassiveState, Want};
pub use streams::{Around, Consumer, ConsumerConfig};

#[cfg(test)]
mod tests;
