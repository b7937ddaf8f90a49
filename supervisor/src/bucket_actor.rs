//! A bucket as an actor in the embedder's own System.
//!
//! Invariant: the actor holds a handle and nothing else: operations are done on its arbiter by the same functions as
//! everywhere, and an answer that waits for the disk does not hold up the next message. It stops when the bucket is out of
//! service, so that whoever supervises it learns of it; when it is stopped its handle is dropped, no more.

use std::sync::Arc;

use actix::prelude::*;

use ::actors::backfill::{Answered, Begun, Turns};
use messages::collections::GetManifest;
use messages::durability::WriteDurably;
use messages::vbucket::{
    Add, Append, Count, Delete, DeleteWithMeta, Found, Get, GetAndLock, GetAndTouch, GetMany,
    GetMeta, GetRandom, Meta, Mutated, Observe, Observed, Picked, Prepend, Replace, Set,
    SetWithMeta, Touch, Unlock, Write, WriteBatch,
};
use messages::{ChangeManifest, FailureKind, FailureNotice, ManifestError, OperationError};
use storage::ManifestUid;

use crate::bucket::Bucket;
use crate::bucket_error::BucketError;
use crate::shutdown::ShutdownReport;

/// A bucket as an actor: takes every client's message of [`messages::vbucket`], and finds the vbucket itself; and those of
/// [`messages::collections`].
#[derive(Debug)]
pub struct BucketActor {
    bucket: Bucket,
    escalations: Option<Recipient<FailureNotice>>,
    /// Messages that change a document are done in the order they came, also when some have to wait for the store.
    order: Arc<Turns>,
}

impl BucketActor {
    /// An actor around this bucket.
    #[must_use]
    pub fn new(bucket: Bucket) -> BucketActor {
        BucketActor {
            bucket,
            escalations: None,
            order: Arc::default(),
        }
    }

    /// Tells `subscriber` of every failure that restarts did not help against.
    #[must_use]
    pub fn forward_escalations(mut self, subscriber: Recipient<FailureNotice>) -> BucketActor {
        self.escalations = Some(subscriber);
        self
    }

    fn write(
        &self,
        write: Write,
        answered: Answered,
    ) -> ResponseFuture<Result<Mutated, OperationError>> {
        let written = match self.bucket.core_of(write.key()) {
            Ok(core) => {
                let order = Some(&self.order);
                self.bucket.readers().write(core, write, answered, order)
            }
            Err(error) => return Box::pin(std::future::ready(Err(error))),
        };
        Box::pin(written.done())
    }
}

/// Stop the bucket in order (see [`Bucket::shutdown`]); the actor stops after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Message)]
#[rtype(result = "Result<ShutdownReport, BucketError>")]
pub struct Shutdown;

impl Actor for BucketActor {
    type Context = Context<Self>;

    fn started(&mut self, context: &mut Context<Self>) {
        self.bucket.subscribe(context.address().recipient());
    }
}

impl Handler<FailureNotice> for BucketActor {
    type Result = ();

    fn handle(&mut self, notice: FailureNotice, context: &mut Context<Self>) {
        let concerns_escalation = match &notice {
            FailureNotice::Failed(failure) => failure.kind == FailureKind::Escalated,
            // An escalation may be among those missed: the history has it.
            FailureNotice::Missed { .. } => true,
        };
        if let Some(subscriber) = self.escalations.as_ref().filter(|_| concerns_escalation)
            && let Err(error) = subscriber.try_send(notice)
        {
            tracing::warn!(%error, "an escalation could not be forwarded; the bucket's history has it");
        }
        if self.bucket.is_closed() {
            context.stop();
        }
    }
}

impl Handler<Shutdown> for BucketActor {
    type Result = ResponseActFuture<Self, Result<ShutdownReport, BucketError>>;

    fn handle(&mut self, _: Shutdown, _: &mut Context<Self>) -> Self::Result {
        let bucket = self.bucket.clone();
        let shutdown = async move { bucket.shutdown().await }.into_actor(self);
        Box::pin(shutdown.map(|report, _, context| {
            context.stop();
            report
        }))
    }
}

/// Operations on one document, begun at once; one that asks for what is not in memory is answered when that was read.
macro_rules! operations {
    ($($message:ident => $answer:ty, |$readers:ident, $core:ident, $asked:ident, $order:ident| $begun:expr;)*) => {$(
        impl Handler<$message> for BucketActor {
            type Result = ResponseFuture<Result<$answer, OperationError>>;

            fn handle(&mut self, $asked: $message, _: &mut Context<Self>) -> Self::Result {
                let $readers = self.bucket.readers();
                let $order = Some(&self.order);
                let begun = match self.bucket.core_of(&$asked.key) {
                    Ok($core) => $begun,
                    Err(error) => Begun::Done(Err(error)),
                };
                Box::pin(begun.done())
            }
        }
    )*};
}

operations! {
    Get => Found, |readers, core, get, _order| readers.get(core, &get.key);
    GetMeta => Meta, |readers, core, get, _order| readers.get_meta(core, &get.key);
    GetAndTouch => Found, |readers, core, touch, order| readers.get_and_touch(core, touch, order);
    GetAndLock => Found, |readers, core, lock, order| readers.get_and_lock(core, lock, order);
    Unlock => (), |readers, core, unlock, order| readers.unlock(core, unlock, order);
    Observe => Observed, |readers, core, observe, _order| readers.observe(core, observe);
}

impl Handler<GetRandom> for BucketActor {
    type Result = ResponseFuture<Result<Picked, OperationError>>;

    fn handle(&mut self, message: GetRandom, _: &mut Context<Self>) -> Self::Result {
        let collection = self.bucket.collection_of(message.collection);
        Box::pin(async move { collection.get_random().await })
    }
}

impl Handler<GetManifest> for BucketActor {
    type Result = MessageResult<GetManifest>;

    fn handle(&mut self, _: GetManifest, _: &mut Context<Self>) -> Self::Result {
        MessageResult(self.bucket.manifest())
    }
}

impl Handler<ChangeManifest> for BucketActor {
    type Result = ResponseFuture<Result<ManifestUid, ManifestError>>;

    fn handle(&mut self, message: ChangeManifest, _: &mut Context<Self>) -> Self::Result {
        let bucket = self.bucket.clone();
        Box::pin(async move { bucket.change_manifest(message).await })
    }
}

impl Handler<GetMany> for BucketActor {
    type Result = ResponseFuture<Vec<Result<Found, OperationError>>>;

    fn handle(&mut self, message: GetMany, _: &mut Context<Self>) -> Self::Result {
        let readers = self.bucket.readers().for_many();
        let get = |key| match self.bucket.core_of(key) {
            Ok(core) => readers.get(core, key),
            Err(error) => Begun::Done(Err(error)),
        };
        let begun: Vec<_> = message.keys.iter().map(get).collect();
        Box::pin(Begun::all_done(begun))
    }
}

/// Writes, answered when their acknowledgement says.
macro_rules! writes {
    ($($message:ident)*) => {$(
        impl Handler<$message> for BucketActor {
            type Result = ResponseFuture<Result<Mutated, OperationError>>;

            fn handle(&mut self, message: $message, _: &mut Context<Self>) -> Self::Result {
                self.write(Write::$message(message), Answered::AsAsked)
            }
        }
    )*};
}

writes! { Set Add Replace Delete Touch Append Prepend Count SetWithMeta DeleteWithMeta }

impl Handler<WriteDurably> for BucketActor {
    type Result = ResponseFuture<Result<Mutated, OperationError>>;

    fn handle(&mut self, message: WriteDurably, _: &mut Context<Self>) -> Self::Result {
        let WriteDurably { write, durability } = message;
        self.write(write, Answered::Durably(durability))
    }
}

impl Handler<WriteBatch> for BucketActor {
    type Result = ResponseFuture<Vec<Result<Mutated, OperationError>>>;

    fn handle(&mut self, message: WriteBatch, _: &mut Context<Self>) -> Self::Result {
        Box::pin(self.bucket.begin_batch(message.writes, Some(&self.order)))
    }
}
