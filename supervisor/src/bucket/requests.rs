//! Writes as an embedder asks for them: a request is put together, then awaited.
//!
//! Invariant: nothing happens before the first poll; the first poll applies the write whole, on the caller's thread, and
//! what is awaited after it is only its way to the disk. One that asks what was there may have to look it up first.
//! So a request dropped at any moment was applied or was not.

use std::future::{Future, IntoFuture};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;

use actors::backfill::{Answered, Asked, Writing};
use actors::vbucket::Acknowledged;
use messages::OperationError;
use messages::durability::Durability;
use messages::vbucket::{
    Acknowledge, Add, Append, Count, Delete, DeleteWithMeta, Delta, ExpiryRequest, GivenMeta,
    Mutated, Prepend, Replace, Resolution, Set, SetWithMeta, Touch, Write, WriteOptions,
};
use storage::{Cas, Datatype, DocumentKey, DurabilityLevel, KeyError};

use crate::bucket::Collection;

/// What a request does with its document.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Verb {
    Set,
    Add,
    Replace,
    Delete,
    Touch,
    Append,
    Prepend,
    Count(Delta),
    SetWithMeta(GivenMeta),
    DeleteWithMeta(GivenMeta),
}

/// A write that is not done before it is awaited.
#[derive(Debug)]
#[must_use = "a write is done when it is awaited"]
pub struct WriteRequest<'b> {
    of: &'b Collection,
    verb: Verb,
    key: Result<DocumentKey, KeyError>,
    value: Bytes,
    options: WriteOptions,
    initial: Option<u64>,
    resolution: Resolution,
    level: Option<DurabilityLevel>,
    timeout: Option<Duration>,
}

impl<'b> WriteRequest<'b> {
    pub(crate) fn new(
        of: &'b Collection,
        verb: Verb,
        key: Result<DocumentKey, KeyError>,
        value: Bytes,
    ) -> WriteRequest<'b> {
        let options = WriteOptions::default();
        WriteRequest {
            of,
            verb,
            key,
            value,
            options,
            initial: None,
            resolution: Resolution::default(),
            level: None,
            timeout: None,
        }
    }

    /// Only if the document's version is this one. ([`Collection::touch`] and counting take no version.)
    pub fn cas(mut self, cas: Cas) -> WriteRequest<'b> {
        self.options.cas = Some(cas);
        self
    }

    /// What a counter that is not there begins with, instead of an error; it is not counted on. ([`Collection::increment`]
    /// and [`Collection::decrement`] alone look at it.)
    pub fn initial(mut self, initial: u64) -> WriteRequest<'b> {
        self.initial = Some(initial);
        self
    }

    /// Whatever is there is replaced, also by an earlier revision. ([`Collection::set_with_meta`] and
    /// [`Collection::delete_with_meta`] alone look at it.)
    pub fn skip_conflict_resolution(mut self) -> WriteRequest<'b> {
        self.resolution = Resolution::Skip;
        self
    }

    /// Flags to keep with the document. (Of a document that is changed, not written whole, they stay as they are.)
    pub fn flags(mut self, flags: u32) -> WriteRequest<'b> {
        self.options.flags = flags;
        self
    }

    /// What the value's bytes are.
    pub fn datatype(mut self, datatype: Datatype) -> WriteRequest<'b> {
        self.options.datatype = datatype;
        self
    }

    /// When the document expires: up to 30 days are seconds from now, more is seconds since the Unix epoch, zero
    /// is never.
    pub fn expiry(mut self, seconds: u32) -> WriteRequest<'b> {
        self.options.expiry = ExpiryRequest(seconds);
        self
    }

    /// Answer only once the change is on disk: it then survives the death of the process. While the disk takes nothing
    /// (it is full, or failing) the answer waits; put a time limit of your own around it. Dropping the future takes back
    /// the wait, not the write.
    pub fn persisted(mut self) -> WriteRequest<'b> {
        self.options.acknowledge = Acknowledge::Persisted;
        self
    }

    /// Answer only once so many nodes of the vbucket's replication chain hold the change that it survives the loss of any
    /// one of them: the write is *durable*. Nobody sees it before. Dropping the future takes back the wait, not the write.
    /// With [`WriteRequest::persisted`] the active node holds it on disk. See `docs/durability.md` for the levels, for what
    /// can be answered instead, and for what that says.
    pub fn durability(mut self, level: DurabilityLevel) -> WriteRequest<'b> {
        self.level = Some(level);
        self
    }

    /// How long a durable write may take before it is given up: 1 ms to 65,534 ms; 30 s if nothing is said.
    pub fn durability_timeout(mut self, timeout: Duration) -> WriteRequest<'b> {
        self.timeout = Some(timeout);
        self
    }

    /// Applies the write in memory, and begins its way to the disk, or to a majority.
    fn begin(self) -> Result<Stage<'b>, OperationError> {
        let (of, timeout, level) = (self.of, self.timeout, self.level);
        let write = self.write()?;
        let core = of.core_of(write.key())?;
        let level = level.or_else(|| core.level_wanted(&write));
        let answered = match level {
            Some(level) => Answered::Durably(Durability { level, timeout }),
            None => Answered::AsAsked,
        };
        Ok(match of.readers().write(core, write, answered, None) {
            Writing::Begun(begun) => Stage::Acknowledging(begun),
            Writing::Asked(asked) => Stage::LookingUp(asked),
        })
    }

    fn write(self) -> Result<Write, KeyError> {
        let key = self.key?;
        let (value, options) = (self.value, self.options);
        let WriteOptions {
            cas, acknowledge, ..
        } = options;
        Ok(match self.verb {
            Verb::Set => Write::Set(Set {
                key,
                value,
                options,
            }),
            Verb::Add => Write::Add(Add {
                key,
                value,
                options,
            }),
            Verb::Replace => Write::Replace(Replace {
                key,
                value,
                options,
            }),
            Verb::Delete => Write::Delete(Delete {
                key,
                cas,
                acknowledge,
            }),
            Verb::Touch => Write::Touch(Touch {
                key,
                expiry: options.expiry,
                acknowledge,
            }),
            Verb::Append => Write::Append(Append {
                key,
                value,
                cas,
                acknowledge,
            }),
            Verb::Prepend => Write::Prepend(Prepend {
                key,
                value,
                cas,
                acknowledge,
            }),
            Verb::Count(delta) => Write::Count(Count {
                key,
                delta,
                initial: self.initial,
                expiry: options.expiry,
                acknowledge,
            }),
            Verb::SetWithMeta(meta) => Write::SetWithMeta(SetWithMeta {
                key,
                value,
                meta,
                cas,
                resolution: self.resolution,
                acknowledge,
            }),
            Verb::DeleteWithMeta(meta) => Write::DeleteWithMeta(DeleteWithMeta {
                key,
                meta,
                cas,
                resolution: self.resolution,
                acknowledge,
            }),
        })
    }
}

impl<'b> IntoFuture for WriteRequest<'b> {
    type Output = Result<Mutated, OperationError>;
    type IntoFuture = WriteFuture<'b>;

    fn into_future(self) -> WriteFuture<'b> {
        WriteFuture {
            stage: Stage::Asked(self),
        }
    }
}

/// A write under way.
#[derive(Debug)]
pub struct WriteFuture<'b> {
    stage: Stage<'b>,
}

#[derive(Debug)]
enum Stage<'b> {
    Asked(WriteRequest<'b>),
    Acknowledging(Acknowledged),
    LookingUp(Asked<Mutated>),
    Answered,
}

impl Future for WriteFuture<'_> {
    type Output = Result<Mutated, OperationError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        loop {
            match std::mem::replace(&mut self.stage, Stage::Answered) {
                Stage::Asked(request) => match request.begin() {
                    Ok(stage) => self.stage = stage,
                    Err(error) => return Poll::Ready(Err(error)),
                },
                Stage::Acknowledging(mut acknowledged) => {
                    let polled = Pin::new(&mut acknowledged).poll(context);
                    if polled.is_pending() {
                        self.stage = Stage::Acknowledging(acknowledged);
                    }
                    return polled;
                }
                Stage::LookingUp(mut asked) => {
                    let polled = Pin::new(&mut asked).poll(context);
                    if polled.is_pending() {
                        self.stage = Stage::LookingUp(asked);
                    }
                    return polled;
                }
                // Asked once more after its answer, it has nothing to say.
                Stage::Answered => return Poll::Pending,
            }
        }
    }
}
