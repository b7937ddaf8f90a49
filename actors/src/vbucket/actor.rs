//! The vbucket's actor: the other door. Messages become calls of the same functions the direct door calls.
//!
//! Invariant: nothing lives here but the way to the core, which the bucket owns; so a panic of this actor loses nothing and
//! leaves the direct door open. An answer that waits for the disk does not hold up the next message.

use std::sync::Arc;

use messages::scan::{CloseScan, OpenScan, ReadScan, ScanError, ScanId, ScanPage};
use messages::vbucket::{
    Add, Append, Count, Delete, DeleteWithMeta, DescribeVbucket, EraseEnded, Found, Get,
    GetAndLock, GetAndTouch, GetMany, GetMeta, GetRandom, Meta, Mutated, Observe, ObserveVbucket,
    Observed, ObservedVbucket, Picked, Prepend, Replace, Set, SetVbucketState, SetWithMeta, Touch,
    Unlock, VbucketDescription, Write, WriteBatch,
};
use messages::{OperationError, WriteDurably};

use storage::Outcome;

use super::core::VbucketCore;
use super::lookup::NOT_IN_MEMORY;
use super::scans::Scans;
use super::slot::VbucketSlot;
use crate::backfill::{Answered, Backfills, Begun, Turns, Writing};
use crate::shell::{Core, On, Reply, ShellContext, ShellFault};

/// The inside of a vbucket's actor.
#[derive(Debug)]
pub struct VbucketActor {
    slot: Arc<VbucketSlot>,
    /// Who looks up what is not in memory, and scans; none of an actor that stands alone.
    readers: Option<Backfills>,
    /// Messages that change a document are done in the order they came, also when some have to wait for the store.
    order: Arc<Turns>,
    scans: Scans,
}

impl VbucketActor {
    /// An actor before this core.
    #[must_use]
    pub fn new(core: Arc<VbucketCore>) -> VbucketActor {
        VbucketActor::at(Arc::new(VbucketSlot::of(core)))
    }

    /// An actor before this place, whether or not there is a core in it.
    #[must_use]
    pub fn at(slot: Arc<VbucketSlot>) -> VbucketActor {
        VbucketActor {
            slot,
            readers: None,
            order: Arc::default(),
            scans: Scans::default(),
        }
    }

    /// With these to read from disk.
    #[must_use]
    pub fn reading(mut self, readers: Backfills) -> VbucketActor {
        self.readers = Some(readers);
        self
    }

    fn core(&self) -> Result<&VbucketCore, OperationError> {
        self.slot.core().map(|core| &**core)
    }

    /// Core and readers, of an actor that has both.
    fn readable(&self) -> Option<(Arc<VbucketCore>, Backfills)> {
        let core = self.slot.core().ok().map(Arc::clone)?;
        Some((core, self.readers.clone()?))
    }

    /// What is done with readers, or else without them.
    fn done<R: Send + 'static>(
        &self,
        alone: impl FnOnce(&VbucketCore) -> Result<R, OperationError>,
        reading: impl FnOnce(&Backfills, &Arc<VbucketCore>) -> Begun<R>,
    ) -> Reply<Self, Result<R, OperationError>> {
        let core = match self.slot.core() {
            Ok(core) => core,
            Err(error) => return Reply::Now(Err(error)),
        };
        match self.readers.as_ref().map(|readers| reading(readers, core)) {
            Some(Begun::Done(answer)) => Reply::Now(answer),
            Some(Begun::Asked(asked)) => Reply::later(asked),
            None => Reply::Now(alone(core)),
        }
    }

    fn write(
        &self,
        write: Write,
        answered: Answered,
    ) -> Reply<Self, Result<Mutated, OperationError>> {
        let core = match self.slot.core() {
            Ok(core) => core,
            Err(error) => return Reply::Now(Err(error)),
        };
        let writing = match &self.readers {
            Some(readers) => readers.write(core, write, answered, Some(&self.order)),
            None => Writing::Begun(answered.begin(core, write, None)),
        };
        let begun = match writing {
            Writing::Begun(begun) => begun,
            Writing::Asked(asked) => return Reply::later(asked),
        };
        match begun.now() {
            Ok(answer) => Reply::Now(answer),
            Err(waits) => Reply::later(waits),
        }
    }
}

impl Core for VbucketActor {
    /// Whatever made the last life panic may have been in the middle of a change.
    fn started(&mut self, _: &mut ShellContext<'_, Self>) {
        if let Ok(core) = self.slot.core()
            && core.is_suspect()
        {
            core.reconcile();
        }
    }
}

impl On<Get> for VbucketActor {
    fn on(
        &mut self,
        get: Get,
        _: &mut ShellContext<'_, Self>,
    ) -> Reply<Self, Result<Found, OperationError>> {
        self.done(
            |core| core.get(&get.key),
            |readers, core| readers.get(core, &get.key),
        )
    }
}

impl On<GetMeta> for VbucketActor {
    fn on(
        &mut self,
        get: GetMeta,
        _: &mut ShellContext<'_, Self>,
    ) -> Reply<Self, Result<Meta, OperationError>> {
        self.done(
            |core| core.get_meta(&get.key),
            |readers, core| readers.get_meta(core, &get.key),
        )
    }
}

impl On<GetMany> for VbucketActor {
    fn on(
        &mut self,
        get: GetMany,
        _: &mut ShellContext<'_, Self>,
    ) -> Reply<Self, Vec<Result<Found, OperationError>>> {
        let core = match self.slot.core() {
            Ok(core) => core,
            Err(error) => return Reply::Now(get.keys.iter().map(|_| Err(error.clone())).collect()),
        };
        let answers = core.get_many(&get.keys);
        match &self.readers {
            Some(readers) if answers.contains(&Err(NOT_IN_MEMORY)) => {
                let readers = readers.for_many();
                let read = |(key, answer)| match answer {
                    Err(NOT_IN_MEMORY) => readers.get_evicted(core, key),
                    answer => Begun::Done(answer),
                };
                let begun = get.keys.iter().zip(answers).map(read).collect();
                Reply::later(Begun::all_done(begun))
            }
            _ => Reply::Now(answers),
        }
    }

    fn parts(get: &GetMany) -> usize {
        get.keys.len()
    }
}

impl On<GetAndTouch> for VbucketActor {
    fn on(
        &mut self,
        get: GetAndTouch,
        _: &mut ShellContext<'_, Self>,
    ) -> Reply<Self, Result<Found, OperationError>> {
        self.done(
            |core| core.get_and_touch(&get),
            |readers, core| readers.get_and_touch(core, get.clone(), Some(&self.order)),
        )
    }
}

impl On<GetAndLock> for VbucketActor {
    fn on(
        &mut self,
        get: GetAndLock,
        _: &mut ShellContext<'_, Self>,
    ) -> Reply<Self, Result<Found, OperationError>> {
        self.done(
            |core| core.get_and_lock(&get),
            |readers, core| readers.get_and_lock(core, get.clone(), Some(&self.order)),
        )
    }
}

impl On<GetRandom> for VbucketActor {
    fn on(
        &mut self,
        get: GetRandom,
        _: &mut ShellContext<'_, Self>,
    ) -> Reply<Self, Result<Picked, OperationError>> {
        let answer = self.core().and_then(|core| core.get_random(&get));
        let is_unsure = matches!(answer, Err(OperationError::KeyNotFound | NOT_IN_MEMORY));
        if is_unsure
            && let Some((core, readers)) = self.readable()
            && (core.lacks_documents() || answer == Err(NOT_IN_MEMORY))
        {
            return Reply::later(async move { readers.get_random(&core, &get).await });
        }
        Reply::Now(answer)
    }
}

impl On<Observe> for VbucketActor {
    fn on(
        &mut self,
        observe: Observe,
        _: &mut ShellContext<'_, Self>,
    ) -> Reply<Self, Result<Observed, OperationError>> {
        self.done(
            |core| core.observe(&observe),
            |readers, core| readers.observe(core, observe.clone()),
        )
    }
}

impl On<ObserveVbucket> for VbucketActor {
    fn on(
        &mut self,
        observe: ObserveVbucket,
        _: &mut ShellContext<'_, Self>,
    ) -> Reply<Self, Result<ObservedVbucket, OperationError>> {
        Reply::Now(self.core().and_then(|core| core.observe_vbucket(&observe)))
    }
}

impl On<Unlock> for VbucketActor {
    fn on(
        &mut self,
        unlock: Unlock,
        _: &mut ShellContext<'_, Self>,
    ) -> Reply<Self, Result<(), OperationError>> {
        self.done(
            |core| core.unlock(&unlock),
            |readers, core| readers.unlock(core, unlock.clone(), Some(&self.order)),
        )
    }
}

macro_rules! writes {
    ($($message:ident)*) => {$(
        impl On<$message> for VbucketActor {
            fn on(
                &mut self,
                message: $message,
                _: &mut ShellContext<'_, Self>,
            ) -> Reply<Self, Result<Mutated, OperationError>> {
                self.write(Write::$message(message), Answered::AsAsked)
            }
        }
    )*};
}

writes! { Set Add Replace Delete Touch Append Prepend Count SetWithMeta DeleteWithMeta }

impl On<WriteDurably> for VbucketActor {
    fn on(
        &mut self,
        WriteDurably { write, durability }: WriteDurably,
        _: &mut ShellContext<'_, Self>,
    ) -> Reply<Self, Result<Mutated, OperationError>> {
        self.write(write, Answered::Durably(durability))
    }
}

impl On<WriteBatch> for VbucketActor {
    fn on(
        &mut self,
        batch: WriteBatch,
        _: &mut ShellContext<'_, Self>,
    ) -> Reply<Self, Vec<Result<Mutated, OperationError>>> {
        if let Some((core, readers)) = self.readable() {
            let begun = readers
                .for_many()
                .write_batch(&core, batch, Some(&self.order));
            return Reply::later(Writing::all_done(begun));
        }
        let core = match self.core() {
            Ok(core) => core,
            Err(error) => {
                return Reply::Now(batch.writes.iter().map(|_| Err(error.clone())).collect());
            }
        };
        let begun = core.write_batch_acknowledged(batch);
        Reply::later(async move {
            let mut answers = Vec::with_capacity(begun.len());
            for acknowledged in begun {
                answers.push(acknowledged.await);
            }
            answers
        })
    }

    fn parts(batch: &WriteBatch) -> usize {
        batch.writes.len()
    }
}

impl From<ShellFault> for ScanError {
    fn from(fault: ShellFault) -> ScanError {
        ScanError::Operation(fault.into())
    }
}

impl On<OpenScan> for VbucketActor {
    fn on(
        &mut self,
        OpenScan(request): OpenScan,
        _: &mut ShellContext<'_, Self>,
    ) -> Reply<Self, Result<ScanId, ScanError>> {
        let core = match self.slot.core() {
            Ok(core) => core,
            Err(error) => return Reply::Now(Err(error.into())),
        };
        let Some(readers) = &self.readers else {
            return Reply::Now(Err(ScanError::NoScan));
        };
        let opened = readers.scan(core, &request);
        Reply::Now(opened.map(|scan| self.scans.open(scan)))
    }
}

impl On<ReadScan> for VbucketActor {
    fn on(
        &mut self,
        ReadScan { scan }: ReadScan,
        _: &mut ShellContext<'_, Self>,
    ) -> Reply<Self, Result<ScanPage, ScanError>> {
        Reply::later(self.scans.read(scan))
    }
}

impl On<CloseScan> for VbucketActor {
    fn on(
        &mut self,
        CloseScan { scan }: CloseScan,
        _: &mut ShellContext<'_, Self>,
    ) -> Reply<Self, ()> {
        self.scans.close(scan);
        Reply::Now(())
    }
}

impl On<SetVbucketState> for VbucketActor {
    fn on(
        &mut self,
        change: SetVbucketState,
        _: &mut ShellContext<'_, Self>,
    ) -> Reply<Self, Result<VbucketDescription, OperationError>> {
        Reply::Now(self.core().and_then(|core| core.set_state(change)))
    }
}

impl On<EraseEnded> for VbucketActor {
    fn on(
        &mut self,
        _: EraseEnded,
        _: &mut ShellContext<'_, Self>,
    ) -> Reply<Self, Result<Outcome<()>, OperationError>> {
        Reply::Now(self.core().map(VbucketCore::erase_ended))
    }
}

impl On<DescribeVbucket> for VbucketActor {
    fn on(
        &mut self,
        _: DescribeVbucket,
        _: &mut ShellContext<'_, Self>,
    ) -> Reply<Self, Result<VbucketDescription, OperationError>> {
        Reply::Now(self.core().map(VbucketCore::describe))
    }
}
