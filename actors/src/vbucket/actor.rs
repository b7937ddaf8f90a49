//! The second door: messages to one vbucket, each a call on its core.
//!
//! Invariant: nothing is decided here and nothing is kept here but the core, which is the bucket's: this may panic and
//! be made anew at any moment. What a life before left half done is repaired before the first message.

use std::sync::Arc;

use messages::OperationError;
use messages::vbucket::{
    Add, Delete, DescribeVbucket, Found, Get, GetAndTouch, GetMany, GetMeta, Meta, Mutated,
    Replace, Set, SetVbucketState, Touch, VbucketDescription, Write, WriteBatch,
};

use super::acknowledge::Acknowledged;
use super::core::VbucketCore;
use crate::shell::{Core, On, Reply, ShellContext};

/// The inside of a vbucket's actor.
#[derive(Debug)]
pub struct VbucketActor {
    core: Arc<VbucketCore>,
}

impl VbucketActor {
    /// An actor before this core.
    #[must_use]
    pub fn new(core: Arc<VbucketCore>) -> VbucketActor {
        VbucketActor { core }
    }

    fn write(&self, write: Write) -> Reply<VbucketActor, Result<Mutated, OperationError>> {
        match self.core.write_acknowledged(write).now() {
            Ok(answer) => Reply::Now(answer),
            Err(waits) => Reply::later(waits),
        }
    }
}

type Context<'a> = ShellContext<'a, VbucketActor>;
type Answered<T> = Reply<VbucketActor, Result<T, OperationError>>;
type AllAnswered<T> = Reply<VbucketActor, Vec<Result<T, OperationError>>>;

impl Core for VbucketActor {
    fn started(&mut self, _ctx: &mut Context<'_>) {
        if self.core.is_suspect() {
            self.core.reconcile();
        }
    }
}

impl On<Get> for VbucketActor {
    fn on(&mut self, Get { key }: Get, _ctx: &mut Context<'_>) -> Answered<Found> {
        self.core.get(&key).into()
    }
}

impl On<GetMeta> for VbucketActor {
    fn on(&mut self, GetMeta { key }: GetMeta, _ctx: &mut Context<'_>) -> Answered<Meta> {
        self.core.get_meta(&key).into()
    }
}

impl On<GetMany> for VbucketActor {
    fn on(&mut self, GetMany { keys }: GetMany, _ctx: &mut Context<'_>) -> AllAnswered<Found> {
        self.core.get_many(&keys).into()
    }

    fn parts(message: &GetMany) -> usize {
        message.keys.len()
    }
}

impl On<Set> for VbucketActor {
    fn on(&mut self, set: Set, _ctx: &mut Context<'_>) -> Answered<Mutated> {
        self.write(Write::Set(set))
    }
}

impl On<Add> for VbucketActor {
    fn on(&mut self, add: Add, _ctx: &mut Context<'_>) -> Answered<Mutated> {
        self.write(Write::Add(add))
    }
}

impl On<Replace> for VbucketActor {
    fn on(&mut self, replace: Replace, _ctx: &mut Context<'_>) -> Answered<Mutated> {
        self.write(Write::Replace(replace))
    }
}

impl On<Delete> for VbucketActor {
    fn on(&mut self, delete: Delete, _ctx: &mut Context<'_>) -> Answered<Mutated> {
        self.write(Write::Delete(delete))
    }
}

impl On<Touch> for VbucketActor {
    fn on(&mut self, touch: Touch, _ctx: &mut Context<'_>) -> Answered<Mutated> {
        self.write(Write::Touch(touch))
    }
}

impl On<GetAndTouch> for VbucketActor {
    fn on(&mut self, request: GetAndTouch, _ctx: &mut Context<'_>) -> Answered<Found> {
        self.core.get_and_touch(&request).into()
    }
}

impl On<WriteBatch> for VbucketActor {
    fn on(&mut self, batch: WriteBatch, _ctx: &mut Context<'_>) -> AllAnswered<Mutated> {
        let answers = self.core.write_batch_acknowledged(batch);
        if answers.iter().all(Acknowledged::is_known) {
            let known = answers.into_iter().filter_map(|answer| answer.now().ok());
            return Reply::Now(known.collect());
        }
        Reply::later(async move {
            let mut answered = Vec::with_capacity(answers.len());
            for answer in answers {
                answered.push(answer.await);
            }
            answered
        })
    }

    fn parts(message: &WriteBatch) -> usize {
        message.writes.len()
    }
}

impl On<SetVbucketState> for VbucketActor {
    fn on(
        &mut self,
        request: SetVbucketState,
        _ctx: &mut Context<'_>,
    ) -> Answered<VbucketDescription> {
        self.core.set_state(request).into()
    }
}

impl On<DescribeVbucket> for VbucketActor {
    fn on(
        &mut self,
        _: DescribeVbucket,
        _ctx: &mut Context<'_>,
    ) -> Reply<VbucketActor, VbucketDescription> {
        self.core.describe().into()
    }
}
