//! A client's durable write: prepared here, answered when it is decided.
//!
//! Invariant: what is refused is refused before anything is written, in the order of the protocol's checks; what is accepted
//! is answered exactly once, behind the vbucket's lock, and never with "it failed". Who is to be answered is noted before
//! the prepare is in the log, so that whoever repairs a panic in between finds him.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::sync::oneshot;

use super::core::VbucketCore;
use super::draft::Draft;
use super::fault::ChangeStep;
use super::lock::Locked;
use super::lookup::LookedUp;
use super::moment::Now;
use super::operations::Ready;
use super::prepares::prepare_of;
use super::waiters::PersistPlace;
use messages::vbucket::{Mutated, Write};
use messages::{Durability, OperationError};
use storage::{DurabilityLevel, Item, Operation};

pub(super) type Answer = Result<Mutated, OperationError>;

/// How an answer reaches who waits for it. Its place is given back with it.
#[derive(Debug)]
pub(super) struct Reply {
    sender: oneshot::Sender<Answer>,
    /// The number it is once it is committed, of one that counts.
    counter: Option<u64>,
    _place: PersistPlace,
}

impl Reply {
    /// Tells him, with no lock held.
    pub(super) fn tell(self, answer: Answer) {
        let counter = self.counter;
        let answer = answer.map(|mutated| Mutated { counter, ..mutated });
        // One who went away needs no answer.
        drop(self.sender.send(answer));
    }
}

/// The answer of a durable write, once it is decided. Dropping it does not take the write back.
#[derive(Debug)]
#[must_use = "nothing is known of a write that is not waited for"]
pub struct DurableWait(oneshot::Receiver<Answer>);

impl Future for DurableWait {
    type Output = Result<Mutated, OperationError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        // The vbucket itself is gone, or a panic took the reply: the write was accepted.
        let gone = |_| Err(OperationError::SyncWriteAmbiguous);
        let answer = Pin::new(&mut self.0).poll(context);
        answer.map(|answer| answer.unwrap_or_else(gone))
    }
}

impl VbucketCore {
    /// Writes durably: the write is prepared when this returns, and answered when it is decided. The answer has the CAS of
    /// the prepare and the seqno of the commit.
    pub fn write_durably(
        &self,
        write: Write,
        durability: Durability,
    ) -> Result<DurableWait, OperationError> {
        self.write_durably_knowing(write, durability, None)
    }

    /// The same, with what the store holds of the key, if somebody looked.
    pub fn write_durably_knowing(
        &self,
        write: Write,
        durability: Durability,
        looked_up: Option<LookedUp>,
    ) -> Result<DurableWait, OperationError> {
        self.admit_write()?;
        let key = write.key().clone();
        self.admit_key_in_force(&key)?;
        if !write.can_be_durable() {
            return Err(OperationError::DurabilityNotSupported);
        }
        let allowed = durability.time_allowed()?;
        // Before what a plain write is refused for: that may be over soon, and this not. Looked at again below.
        self.admit_durable(&self.lock())?;
        let deadline = self.environment.clock.monotonic().saturating_add(allowed);
        let now = self.now();
        let draft = Draft {
            looked_up,
            ..self.draft(write, now)?
        };
        let place = self.reserve_wait()?;
        let mut locked = self.lock();
        self.reached(ChangeStep::Locked);
        self.admit_durable(&locked)?;
        let ready = self.ready(&mut locked, draft, now)?;
        let seqno = locked.log.last_seqno().next();
        let (sender, answer) = oneshot::channel();
        let reply = Reply {
            sender,
            counter: ready.fresh.counter,
            _place: place,
        };
        locked.durable.ledger.park(seqno, Some(deadline), reply);
        if let Err(error) = self.prepare(&mut locked, ready, durability.level, now) {
            // Nothing was appended; this is his answer.
            drop(locked.durable.ledger.complete(seqno));
            return Err(error);
        }
        self.locks.end(&key);
        let accepted = &mut locked.durable.counts.accepted;
        *accepted = accepted.saturating_add(1);
        Ok(DurableWait(answer))
    }

    /// Whether a durable write can be taken on now.
    fn admit_durable(&self, locked: &Locked<'_>) -> Result<(), OperationError> {
        self.admit_write()?;
        locked.durable.admit()
    }

    /// Gives a prepare its place in history, and has the monitor track it.
    fn prepare(
        &self,
        locked: &mut Locked<'_>,
        ready: Ready,
        level: DurabilityLevel,
        now: Now,
    ) -> Result<(), OperationError> {
        let Ready { place, fresh, old } = ready;
        let older = self.prepares.newest(&fresh.item.document.key);
        let item = self.number(locked, fresh, old.as_ref(), now);
        let item = prepared(item, level);
        let item = self.commit_active(locked, place, item, older)?;
        let Some(prepare) = prepare_of(&item) else {
            return Ok(());
        };
        if let Err(error) = locked.durable.track(prepare) {
            // It is in the log: whoever makes the monitor anew finds it there.
            tracing::error!(vbucket = %self.id, %error, "the durability monitor is out of step");
            locked.suspect();
        }
        self.reached(ChangeStep::Tracked);
        locked.after_monitor();
        Ok(())
    }
}

/// The same item, as something that waits to be committed.
fn prepared(mut item: Arc<Item>, level: DurabilityLevel) -> Arc<Item> {
    // Nobody else has it yet, so nothing is copied.
    let fresh = Arc::make_mut(&mut item);
    fresh.operation = Operation::Prepare {
        level,
        is_deletion: fresh.operation.is_tombstone(),
    };
    item
}
