//! Writes as an embedder asks for them: a request is put together, then awaited.
//!
//! Invariant: nothing happens before the first poll; the first poll applies the write whole, on the caller's thread, and
//! what is awaited after it is only its way to the disk. So a request dropped at any moment was applied or was not.

use std::future::{Future, IntoFuture};
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;

use actors::vbucket::Acknowledged;
use messages::OperationError;
use messages::vbucket::{
    Acknowledge, Add, Delete, ExpiryRequest, Mutated, Replace, Set, Touch, Write, WriteOptions,
};
use storage::{Cas, Datatype, DocumentKey, KeyError};

use crate::bucket::Collection;

/// What a request does with its document.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Verb {
    Set,
    Add,
    Replace,
    Delete,
    Touch,
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
        }
    }

    /// Only if the document's version is this one. ([`Collection::touch`] takes no version.)
    pub fn cas(mut self, cas: Cas) -> WriteRequest<'b> {
        self.options.cas = Some(cas);
        self
    }

    /// Flags to keep with the document.
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

    /// Applies the write in memory, and begins its way to the disk.
    fn begin(self) -> Result<Acknowledged, OperationError> {
        let key = self.key?;
        let (value, options) = (self.value, self.options);
        let core = self.of.core_of(&key)?;
        Ok(core.write_acknowledged(match self.verb {
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
                cas: options.cas,
                acknowledge: options.acknowledge,
            }),
            Verb::Touch => Write::Touch(Touch {
                key,
                expiry: options.expiry,
                acknowledge: options.acknowledge,
            }),
        }))
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
    Answered,
}

impl Future for WriteFuture<'_> {
    type Output = Result<Mutated, OperationError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        loop {
            match std::mem::replace(&mut self.stage, Stage::Answered) {
                Stage::Asked(request) => match request.begin() {
                    Ok(acknowledged) => self.stage = Stage::Acknowledging(acknowledged),
                    Err(error) => return Poll::Ready(Err(error)),
                },
                Stage::Acknowledging(mut acknowledged) => {
                    let polled = Pin::new(&mut acknowledged).poll(context);
                    if polled.is_pending() {
                        self.stage = Stage::Acknowledging(acknowledged);
                    }
                    return polled;
                }
                // Asked once more after its answer, it has nothing to say.
                Stage::Answered => return Poll::Pending,
            }
        }
    }
}
