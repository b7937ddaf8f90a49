//! The vbucket's actor: the other door. Messages become calls of the same functions the direct door calls.
//!
//! Invariant: nothing lives here but the way to the core, which the bucket owns; so a panic of this actor loses nothing and
//! leaves the direct door open. An answer that waits for the disk does not hold up the next message.

use std::future::Future;
use std::sync::Arc;

use messages::scan::{CloseScan, OpenScan, ReadScan, ScanError, ScanId, ScanPage};
use messages::vbucket::{
    Add, Append, Count, Delete, DeleteWithMeta, DescribeVbucket, EraseEnded, Found, Get,
    GetAndLock, GetAndTouch, GetMany, GetMeta, GetRandom, Meta, Mutated, Observe, ObserveVbucket,
    Observed, ObservedVbucket, Picked, Prepend, Replace, Set, SetVbucketState, SetWithMeta, Touch,
    Unlock, VbucketDescription, Write, WriteBatch,
};
use messages::{Busy, OperationError, WriteDurably};

use storage::Outcome;

use super::acknowledge::Acknowledged;
use super::core::VbucketCore;
use super::scans::Scans;
use super::slot::VbucketSlot;
use crate::backfill::Backfills;
use crate::shell::{Core, On, Reply, ShellContext, ShellFault};

/// The inside of a vbucket's actor.
#[derive(Debug)]
pub struct VbucketActor {
    slot: Arc<VbucketSlot>,
    /// Who looks up what is not in memory, and scans; none of an actor that stands alone.
    readers: Option<Backfills>,
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

    /// The answer that is known, or else what comes of it with readers.
    fn knowing<R, F>(
        &self,
        answer: Result<R, OperationError>,
        again: impl FnOnce(Arc<VbucketCore>, Backfills) -> F,
    ) -> Reply<Self, Result<R, OperationError>>
    where
        R: Send + 'static,
        F: Future<Output = Result<R, OperationError>> + Send + 'static,
    {
        match answer {
            Err(NOT_IN_MEMORY) => match self.readable() {
                Some((core, readers)) => Reply::later(again(core, readers)),
                None => Reply::Now(Err(NOT_IN_MEMORY)),
            },
            answer => Reply::Now(answer),
        }
    }

    fn write(&self, write: Write) -> Reply<Self, Result<Mutated, OperationError>> {
        let kept = (!write.is_blind()).then(|| write.clone());
        let begun = self.core().map(|core| core.write_acknowledged(write));
        self.answered(begun, kept, |core, readers, write| async move {
            readers.write(&core, write).await
        })
    }

    /// The answer of a write that was begun, or of one that is begun again with readers.
    fn answered<F>(
        &self,
        begun: Result<Acknowledged, OperationError>,
        kept: Option<Write>,
        again: impl FnOnce(Arc<VbucketCore>, Backfills, Write) -> F,
    ) -> Reply<Self, Result<Mutated, OperationError>>
    where
        F: Future<Output = Result<Mutated, OperationError>> + Send + 'static,
    {
        let begun = match begun {
            Ok(begun) => begun,
            Err(error) => return Reply::Now(Err(error)),
        };
        if begun.is_not_in_memory()
            && let Some(write) = kept
            && let Some((core, readers)) = self.readable()
        {
            return Reply::later(again(core, readers, write));
        }
        match begun.now() {
            Ok(answer) => Reply::Now(answer),
            Err(waits) => Reply::later(waits),
        }
    }
}

const NOT_IN_MEMORY: OperationError = OperationError::TemporaryFailure(Busy::NotInMemory);

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
        let answer = self.core().and_then(|core| core.get(&get.key));
        self.knowing(answer, |core, readers| async move {
            readers.get(&core, &get.key).await
        })
    }
}

impl On<GetMeta> for VbucketActor {
    fn on(
        &mut self,
        get: GetMeta,
        _: &mut ShellContext<'_, Self>,
    ) -> Reply<Self, Result<Meta, OperationError>> {
        let answer = self.core().and_then(|core| core.get_meta(&get.key));
        let is_unsure = matches!(answer, Err(OperationError::KeyNotFound | NOT_IN_MEMORY));
        if is_unsure
            && let Some((core, readers)) = self.readable()
            && core.has_forgotten()
        {
            return Reply::later(async move { readers.get_meta(&core, &get.key).await });
        }
        Reply::Now(answer)
    }
}

impl On<GetMany> for VbucketActor {
    fn on(
        &mut self,
        get: GetMany,
        _: &mut ShellContext<'_, Self>,
    ) -> Reply<Self, Vec<Result<Found, OperationError>>> {
        let core = match self.core() {
            Ok(core) => core,
            Err(error) => return Reply::Now(get.keys.iter().map(|_| Err(error.clone())).collect()),
        };
        let answers = core.get_many(&get.keys);
        match self.readable() {
            Some((core, readers)) if answers.contains(&Err(NOT_IN_MEMORY)) => {
                let get_one = |key| readers.begin_get(&core, key);
                let begun: Vec<_> = get.keys.iter().map(get_one).collect();
                Reply::later(async move {
                    let mut answers = Vec::with_capacity(begun.len());
                    for getting in begun {
                        answers.push(getting.found().await);
                    }
                    answers
                })
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
        let answer = self.core().and_then(|core| core.get_and_touch(&get));
        self.knowing(answer, |core, readers| async move {
            readers.get_and_touch(&core, &get).await
        })
    }
}

impl On<GetAndLock> for VbucketActor {
    fn on(
        &mut self,
        get: GetAndLock,
        _: &mut ShellContext<'_, Self>,
    ) -> Reply<Self, Result<Found, OperationError>> {
        let answer = self.core().and_then(|core| core.get_and_lock(&get));
        self.knowing(answer, |core, readers| async move {
            readers.get_and_lock(&core, &get).await
        })
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
        let answer = self.core().and_then(|core| core.observe(&observe));
        self.knowing(answer, |core, readers| async move {
            readers.observe(&core, &observe).await
        })
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
        let answer = self.core().and_then(|core| core.unlock(&unlock));
        self.knowing(answer, |core, readers| async move {
            readers.unlock(&core, &unlock).await
        })
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
                self.write(Write::$message(message))
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
        let kept = (!write.is_blind()).then(|| write.clone());
        let begun = self
            .core()
            .map(|core| core.write_durably_acknowledged(write, durability));
        self.answered(begun, kept, move |core, readers, write| async move {
            readers.write_durably(&core, write, durability).await
        })
    }
}

impl On<WriteBatch> for VbucketActor {
    fn on(
        &mut self,
        batch: WriteBatch,
        _: &mut ShellContext<'_, Self>,
    ) -> Reply<Self, Vec<Result<Mutated, OperationError>>> {
        if let Some((core, readers)) = self.readable() {
            return Reply::later(readers.write_batch(&core, batch));
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
