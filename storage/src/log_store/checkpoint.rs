//! The checkpoint: a new manifest, after which older log files are no longer needed.
//!
//! Invariant: what the images are of is taken in one moment under the writer's lock, after the log was made durable up to it;
//! the manifest gets its name only when it is durable, and nothing is given back before that name is (rule R1).

mod due;

use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::disk::OpenMode;
use crate::error::StorageError;
use crate::log_store::layer::LayerView;
use crate::log_store::log::frame::LogPosition;
use crate::log_store::manifest::{self, ManifestOwner, RawEntry, ShardRecord};
use crate::log_store::names::{Kind, Name};
use crate::log_store::shard::{BusyGuard, Shard, Slot, Writer, image_of};
use crate::log_store::version::{RollbackMark, Version};
use crate::outcome::{AbortReason, Job, Outcome};

pub(crate) use due::Due;

/// Writes a shard's manifest.
#[derive(Debug)]
pub(crate) struct CheckpointJob {
    shard: Arc<Shard>,
    /// Whether this is the last act before the store closes.
    is_closing: bool,
    /// For another one that is at work.
    waits: bool,
    busy: Option<BusyGuard>,
    state: Checkpointing,
}

#[derive(Debug)]
enum Checkpointing {
    Begin,
    Encode(Moment),
    Write(Captured),
    Rename(Captured),
    SyncDirectory(Captured),
    Finish(Captured),
    Done,
}

/// The shard at one moment.
#[derive(Debug)]
struct Moment {
    owner: ManifestOwner,
    record: ShardRecord,
    vbuckets: Vec<Taken>,
    begin: LogPosition,
    settles_doubt: bool,
}

/// A manifest of it.
#[derive(Debug)]
struct Captured {
    number: u64,
    begin: LogPosition,
    bytes: Vec<u8>,
    /// Whether everything that a failed sync left in doubt is in here.
    settles_doubt: bool,
}

/// A vbucket at that moment.
#[derive(Debug)]
enum Taken {
    /// As far as its layers went then.
    Up(Arc<Version>, Vec<LayerView>),
    Down(RawEntry),
}

impl Taken {
    fn entry(self, covers: u64) -> Result<RawEntry, StorageError> {
        match self {
            Taken::Up(version, views) => {
                let image = image_of(&version, &views, covers).ok_or(StorageError::Closed)?;
                RawEntry::of(&image)
            }
            Taken::Down(entry) => Ok(entry),
        }
    }
}

impl Moment {
    /// A thousand vbuckets take milliseconds, in which others commit.
    fn encoded(self) -> Result<Captured, StorageError> {
        let covers = self.record.covers;
        let entries = self.vbuckets.into_iter().map(|one| one.entry(covers));
        let entries: Vec<_> = entries.collect::<Result<_, _>>()?;
        Ok(Captured {
            number: self.owner.number,
            begin: self.begin,
            bytes: manifest::encode(self.owner, self.record, &entries)?,
            settles_doubt: self.settles_doubt,
        })
    }
}

impl CheckpointJob {
    pub(crate) fn new(shard: Arc<Shard>, is_closing: bool) -> CheckpointJob {
        CheckpointJob {
            shard,
            is_closing,
            waits: true,
            busy: None,
            state: Checkpointing::Begin,
        }
    }

    /// Aborted where another one is at work: for whoever has other work to do.
    pub(crate) fn unless_at_work(shard: Arc<Shard>) -> CheckpointJob {
        CheckpointJob {
            waits: false,
            ..CheckpointJob::new(shard, false)
        }
    }

    fn advance(&mut self) -> Result<Outcome<()>, StorageError> {
        self.state = match std::mem::replace(&mut self.state, Checkpointing::Done) {
            Checkpointing::Begin => {
                if self.busy.is_none() && self.waits {
                    self.busy = self.shard.begin(&self.shard.checkpointing);
                } else if self.busy.is_none() {
                    self.busy = self.shard.checkpointing.try_begin();
                    if self.busy.is_none() {
                        return Ok(Outcome::Aborted(AbortReason::Superseded));
                    }
                }
                let moment = match self.busy {
                    Some(_) => self.capture()?,
                    None => None,
                };
                moment.map_or(Checkpointing::Begin, Checkpointing::Encode)
            }
            Checkpointing::Encode(moment) => Checkpointing::Write(moment.encoded()?),
            Checkpointing::Write(captured) => {
                let name = self.name(Kind::ManifestPreparing, captured.number);
                self.write(&name, &captured.bytes)
                    .inspect_err(|_| self.remove_leftover(&name))?;
                Checkpointing::Rename(captured)
            }
            Checkpointing::Rename(captured) => {
                let preparing = self.name(Kind::ManifestPreparing, captured.number);
                let name = self.name(Kind::Manifest, captured.number);
                self.shard
                    .disk
                    .rename(&preparing, &name)
                    .inspect_err(|_| self.remove_leftover(&preparing))?;
                Checkpointing::SyncDirectory(captured)
            }
            Checkpointing::SyncDirectory(captured) => {
                self.shard.disk.sync_directory()?;
                Checkpointing::Finish(captured)
            }
            Checkpointing::Finish(captured) => return self.finish(captured),
            Checkpointing::Done => return Ok(Outcome::Complete(())),
        };
        Ok(Outcome::Yielded)
    }

    fn write(&self, name: &str, bytes: &[u8]) -> Result<(), StorageError> {
        let file = self.shard.disk.open(name, OpenMode::CreateNew)?;
        file.append(bytes)?;
        file.sync()?;
        Ok(())
    }

    /// On a full disk every attempt would leave one.
    fn remove_leftover(&self, name: &str) {
        if let Err(error) = self.shard.disk.remove(name) {
            tracing::debug!(file = name, %error, "leftover stays until the next open");
        }
    }

    fn name(&self, kind: Kind, number: u64) -> String {
        Name::new(kind, self.shard.number, number).to_string()
    }

    fn capture(&mut self) -> Result<Option<Moment>, StorageError> {
        let Some(mut writer) = self.shard.writer() else {
            return Ok(None);
        };
        writer.check_open()?;
        writer.log.settle_doubt();
        writer.sync()?;
        self.shard.note_synced(&writer);
        self.shard.checkpoint_due.begin(writer.log.current_file());
        let covers = writer.log.last_sequence();
        let (vbuckets, begin) = self.take(&writer, covers);
        let number = writer.next_manifest;
        writer.next_manifest = number.saturating_add(1);
        writer.is_closed |= self.is_closing;
        let synced = writer.log.synced();
        let record = ShardRecord {
            covers,
            begin_file: begin.file,
            begin_sequence: begin.sequence,
            synced_file: synced.file,
            synced_sequence: synced.sequence,
            is_clean: self.is_closing,
            next_incarnation: self.shard.next_incarnation.load(Ordering::Relaxed),
            next_segment: self.shard.next_segment.load(Ordering::Relaxed),
            next_container: self.shard.containers.next_number(),
            next_log_file: writer.log.next_number(),
        };
        let settles_doubt = writer.needs_manifest;
        drop(writer);
        let owner = ManifestOwner {
            store_id: self.shard.store_id,
            shard: self.shard.number,
            number,
        };
        Ok(Some(Moment {
            owner,
            record,
            vbuckets,
            begin,
            settles_doubt,
        }))
    }

    /// Every vbucket as it is now, and the place from which on the log is needed.
    fn take(&self, writer: &Writer, covers: u64) -> (Vec<Taken>, LogPosition) {
        let current = writer.log.current_file();
        let mut oldest = current;
        let mut taken = Vec::new();
        let mut is_held = false;
        for vbucket in self.shard.vbuckets() {
            match self.shard.read_slot(vbucket) {
                Slot::Absent => {}
                Slot::Up(version) => {
                    let version = self.shortened(version, writer.begin);
                    oldest = oldest.min(version.log_begin().map_or(current, |begin| begin.file));
                    let views = version.views();
                    taken.push(Taken::Up(version, views));
                }
                Slot::Down(down) => {
                    is_held = true;
                    let entry = down.entry.clone();
                    let entry = entry.unwrap_or_else(|| RawEntry::unreadable(vbucket));
                    taken.push(Taken::Down(entry));
                }
            }
        }
        if is_held {
            return (taken, writer.begin);
        }
        let sequence = writer.log.before_file(oldest).unwrap_or(covers);
        let begin = LogPosition {
            file: oldest,
            sequence,
        };
        (taken, begin)
    }

    /// The version without what has become useless: rollbacks of which the log, beginning at `begin`, holds no undone
    /// items any more.
    fn shortened(&self, version: Arc<Version>, begin: LogPosition) -> Arc<Version> {
        let is_past = |mark: &RollbackMark| mark.sequence <= begin.sequence;
        if !version.rollbacks.iter().any(is_past) {
            return version;
        }
        let mut next = Version::clone(&version);
        next.rollbacks.retain(|mark| !is_past(mark));
        let next = Arc::new(next);
        self.shard
            .publish(version.place.vbucket, Slot::Up(Arc::clone(&next)));
        next
    }

    fn finish(&mut self, captured: Captured) -> Result<Outcome<()>, StorageError> {
        // A closing store's own writer is closed, but this job still owns the end of it.
        let Some(mut writer) = self.shard.writer() else {
            self.state = Checkpointing::Finish(captured);
            return Ok(Outcome::Yielded);
        };
        writer.begin = captured.begin;
        if captured.settles_doubt {
            writer.needs_manifest = false;
        }
        let obsolete = writer.log.take_obsolete(captured.begin.file);
        drop(writer);
        self.shard.obsolete.lock().extend(obsolete);
        let old = self.shard.disk.list()?;
        for name in old.iter().filter_map(|name| Name::parse(name)) {
            let is_ours = name.shard == self.shard.number && name.number < captured.number;
            if is_ours && matches!(name.kind, Kind::Manifest | Kind::ManifestPreparing) {
                self.shard.disk.remove(&name.to_string())?;
            }
        }
        Ok(Outcome::Complete(()))
    }
}

impl Job for CheckpointJob {
    type Output = ();
    type Failure = StorageError;

    fn step(&mut self) -> Outcome<()> {
        let outcome = self.advance().unwrap_or_else(|error| {
            self.state = Checkpointing::Done;
            self.shard.checkpoint_due.owe();
            Outcome::Failed(error)
        });
        if !matches!(outcome, Outcome::Yielded) {
            self.busy = None;
        }
        outcome
    }
}
