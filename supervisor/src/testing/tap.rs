//! Taps: all messages of a bucket, in the order they are handled.
//!
//! Invariant: a tap sees each message once, before it is handled, and changes nothing.

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use actors::hooks::Passing;
use messages::{ChildName, Generation};

/// Watches messages pass. Must not block.
pub trait Tap: Debug + Send + Sync + 'static {
    /// A message is about to be handled; `at` is virtual time since the start.
    fn saw(&self, at: Duration, passing: &Passing<'_>);
}

/// A message that passed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tapped {
    /// When.
    pub at: Duration,
    /// Who got it.
    pub child: ChildName,
    /// Which life of that child.
    pub generation: Generation,
    /// The type of the message, as [`std::any::type_name`] gives it.
    pub type_name: &'static str,
}

/// Keeps who got what, for all messages. A clone is the same log.
#[derive(Clone, Debug, Default)]
pub struct MessageLog {
    seen: Arc<Mutex<Vec<Tapped>>>,
}

impl MessageLog {
    /// All so far, in order.
    #[must_use]
    pub fn all(&self) -> Vec<Tapped> {
        self.seen.lock().clone()
    }
}

impl Tap for MessageLog {
    fn saw(&self, at: Duration, passing: &Passing<'_>) {
        self.seen.lock().push(Tapped {
            at,
            child: passing.child.clone(),
            generation: passing.generation,
            type_name: passing.type_name,
        });
    }
}

/// Keeps the messages of one type themselves. A clone is the same log.
#[derive(Clone, Debug)]
pub struct MessagesOf<M> {
    seen: Arc<Mutex<Vec<(ChildName, M)>>>,
}

impl<M> Default for MessagesOf<M> {
    fn default() -> MessagesOf<M> {
        MessagesOf {
            seen: Arc::default(),
        }
    }
}

impl<M: Clone> MessagesOf<M> {
    /// All so far with their receivers, in order.
    #[must_use]
    pub fn all(&self) -> Vec<(ChildName, M)> {
        self.seen.lock().clone()
    }
}

impl<M: Clone + Debug + Send + 'static> Tap for MessagesOf<M> {
    fn saw(&self, _: Duration, passing: &Passing<'_>) {
        if let Some(message) = passing.message.downcast_ref::<M>() {
            let child = passing.child.clone();
            self.seen.lock().push((child, message.clone()));
        }
    }
}
