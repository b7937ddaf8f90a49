//! Preparing the next log file ahead, from one that nothing needs any more where there is one.
//!
//! Invariant: whatever way the job ends, what it leaves behind is a log file that is ready, or an obsolete one.

use std::sync::Arc;

use crate::error::StorageError;
use crate::log_store::log::file::{LogFile, PrepareLogFile};
use crate::log_store::log::writer::LogFileSpan;
use crate::log_store::shard::{BusyGuard, Shard};
use crate::outcome::{AbortReason, Job, Outcome};

/// Prepares the next log file, from an obsolete one where that has the size wanted.
#[derive(Debug)]
pub(super) struct PrepareJob {
    shard: Arc<Shard>,
    busy: Option<BusyGuard>,
    preparing: Option<PrepareLogFile>,
    /// The obsolete file it is made of.
    recycled: Option<LogFileSpan>,
    /// Prepared, not handed over yet.
    ready: Option<LogFile>,
}

impl PrepareJob {
    pub(super) fn new(shard: Arc<Shard>) -> PrepareJob {
        PrepareJob {
            shard,
            busy: None,
            preparing: None,
            recycled: None,
            ready: None,
        }
    }

    fn advance(&mut self) -> Result<Outcome<()>, StorageError> {
        if let Some(file) = self.ready.take() {
            return self.hand_over(file);
        }
        let Some(preparing) = &mut self.preparing else {
            return Ok(self.begin());
        };
        self.ready = preparing.step()?;
        if self.ready.is_some() {
            self.preparing = None;
        }
        Ok(Outcome::Yielded)
    }

    fn hand_over(&mut self, file: LogFile) -> Result<Outcome<()>, StorageError> {
        let Some(mut writer) = self.shard.writer() else {
            self.ready = Some(file);
            return Ok(Outcome::Yielded);
        };
        writer.log.offer_spare(file);
        let discarded = writer.log.take_discarded();
        drop(writer);
        for name in discarded {
            self.shard.disk.remove(&name)?;
        }
        Ok(Outcome::Complete(()))
    }

    fn begin(&mut self) -> Outcome<()> {
        if self.busy.is_none() {
            self.busy = self.shard.preparing.try_begin();
        }
        if self.busy.is_none() {
            return Outcome::Aborted(AbortReason::Superseded);
        }
        let Some(mut writer) = self.shard.writer() else {
            return Outcome::Yielded;
        };
        if !writer.log.wants_spare() {
            return Outcome::Complete(());
        }
        let wanted = writer.log.capacity_wanted();
        let recycled = {
            let mut obsolete = self.shard.obsolete.lock();
            // One of half the size is better than zeroing a new one.
            let fits = |span: &LogFileSpan| span.capacity <= wanted && span.capacity >= wanted / 2;
            let found = obsolete.iter().position(fits);
            found.map(|index| obsolete.swap_remove(index))
        };
        let capacity = recycled.as_ref().map_or(wanted, |span| span.capacity);
        let header = writer.log.next_header(capacity);
        drop(writer);
        let name = recycled.as_ref().map(|span| span.name.clone());
        self.recycled = recycled;
        self.preparing = Some(PrepareLogFile::new(
            Arc::clone(&self.shard.disk),
            header,
            name,
        ));
        Outcome::Yielded
    }
}

impl PrepareJob {
    /// What an unfinished preparation may have left goes with the obsolete files: the one it was made of, if nothing
    /// was done to it, and the new one under any of its names.
    fn give_up(&mut self) {
        let preparing = self.preparing.take();
        let keeps = preparing
            .as_ref()
            .is_some_and(PrepareLogFile::keeps_recycled);
        let recycled = self.recycled.take().filter(|_| keeps);
        let leftovers = preparing.map(|preparing| preparing.names());
        let ready = self.ready.take().map(|file| file.name);
        let leftovers = leftovers.into_iter().flatten().chain(ready);
        // Of no size that would ever be used again.
        let leftovers = leftovers.map(|name| LogFileSpan {
            name,
            number: 0,
            capacity: 0,
            after: 0,
        });
        let mut obsolete = self.shard.obsolete.lock();
        obsolete.extend(leftovers.chain(recycled));
        drop(obsolete);
        self.busy = None;
    }
}

impl Drop for PrepareJob {
    fn drop(&mut self) {
        self.give_up();
    }
}

impl Job for PrepareJob {
    type Output = ();
    type Failure = StorageError;

    fn step(&mut self) -> Outcome<()> {
        let outcome = self.advance().unwrap_or_else(Outcome::Failed);
        if !matches!(outcome, Outcome::Yielded) {
            self.give_up();
        }
        outcome
    }
}
