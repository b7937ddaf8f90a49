//! Recovery: from the files a shard left behind to versions that serve.
//!
//! Invariant: manifest, segment footers, then the log. What was durable is there exactly; what was not is gone
//! without a trace. Damage takes down the vbuckets it may concern, by name, and keeps every file they may need; the
//! others serve. Where nobody can say what the shard holds or where its log ends, all of its vbuckets are down and
//! nothing of it is written. Nothing is called durable before it was synced here once (rule R3).

mod replay;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::{Mutex, RwLock};

use crate::disk::{Disk, DiskErrorKind, OpenMode};
use crate::error::StorageError;
use crate::log_store::checkpoint::Due;
use crate::log_store::containers::Containers;
use crate::log_store::identity::Identity;
use crate::log_store::image::Replay;
use crate::log_store::layer::Layer;
use crate::log_store::log::frame::LogPosition;
use crate::log_store::log::payload::Place;
use crate::log_store::log::reader::{FoundLog, LogDamage, read_log};
use crate::log_store::log::writer::{LogOwner, LogResume, LogWriter};
use crate::log_store::manifest::{self, Manifest, ManifestOwner, RawEntry, ShardRecord};
use crate::log_store::names::{Kind, Name};
use crate::log_store::options::{CreateOptions, OpenOptions};
use crate::log_store::segment::SegmentMeta;
use crate::log_store::shard::{Busy, Down, LogFigures, Shard, Slot, Writer};
use crate::log_store::version::{SegmentView, Version, apply_kills};
use crate::vbucket::{VbucketId, VbucketStateRecord};

/// A vbucket while the log is replayed.
enum State {
    Up {
        replay: Box<Replay>,
        entry: Option<RawEntry>,
    },
    Down(Down),
}

impl State {
    fn is_unknown(&self) -> bool {
        match self {
            State::Down(down) => down.is_unknown(),
            State::Up { .. } => false,
        }
    }
}

/// Everything learnt so far of one shard.
struct Recovery {
    identity: Identity,
    number: u16,
    disk: Arc<dyn Disk>,
    options: OpenOptions,
    record: ShardRecord,
    states: BTreeMap<VbucketId, State>,
    /// What the manifest knew nothing of: it covers no record of theirs.
    unknown: BTreeSet<VbucketId>,
    /// The damage met so far.
    damage: Vec<LogDamage>,
    next_incarnation: u64,
    next_segment: u64,
    next_container: u64,
}

/// Opens one shard from what is in the directory. `incarnations` is the counter all shards share.
pub(crate) fn open_shard(
    disk: &Arc<dyn Disk>,
    identity: Identity,
    number: u16,
    options: OpenOptions,
    incarnations: &Arc<AtomicU64>,
) -> Result<Shard, StorageError> {
    let names = disk.list()?;
    let names: Vec<Name> = names.iter().filter_map(|name| Name::parse(name)).collect();
    let names: Vec<Name> = names
        .into_iter()
        .filter(|name| name.shard == number)
        .collect();
    let manifests = names.iter().filter(|name| name.kind == Kind::Manifest);
    let newest = manifests.map(|name| name.number).max();
    let mut recovery = match Recovery::begin(disk, identity, number, options, newest) {
        Ok(recovery) => recovery,
        Err(error) if error.is_of_one_file() => {
            let recovery = Recovery::of_nothing(disk, identity, number, options);
            return Ok(recovery.out_of_service(error, incarnations));
        }
        Err(error) => return Err(error),
    };
    let mut found = read_log(
        disk,
        &names,
        identity.store_id,
        recovery.record.bounds(),
        number,
    )?;
    if let Some(error) = found.lost.take() {
        return Ok(recovery.out_of_service(error, incarnations));
    }
    recovery.replay(std::mem::take(&mut found.frames), &found.damage);
    settle(disk, &found)?;
    recovery.finish(&names, newest.unwrap_or(0), found, incarnations)
}

/// Makes durable what recovery read: it may have come from memory, not from the disk. What may have been lost by a
/// sync that failed in the last life is written again as it is, because a later sync does not bring it back.
fn settle(disk: &Arc<dyn Disk>, found: &FoundLog) -> Result<(), StorageError> {
    if let Some((file, frames)) = &found.unproven {
        for (offset, bytes) in frames {
            file.write_at(bytes, *offset)?;
        }
    }
    for span in &found.files {
        disk.open(&span.name, OpenMode::Existing)?.sync()?;
    }
    disk.sync_directory()?;
    Ok(())
}

impl Recovery {
    fn begin(
        disk: &Arc<dyn Disk>,
        identity: Identity,
        number: u16,
        options: OpenOptions,
        newest: Option<u64>,
    ) -> Result<Recovery, StorageError> {
        let manifest = match newest {
            Some(newest) => {
                let name = Name::new(Kind::Manifest, number, newest).to_string();
                let store_id = identity.store_id;
                let owner = ManifestOwner {
                    store_id,
                    shard: number,
                    number: newest,
                };
                manifest::read(&**disk, &name, owner)?
            }
            None => Manifest {
                record: ShardRecord::NEW,
                entries: Vec::new(),
            },
        };
        let mut recovery = Recovery::of_nothing(disk, identity, number, options);
        let record = manifest.record;
        let name = Name::new(Kind::Manifest, number, newest.unwrap_or(0)).to_string();
        for (offset, entry) in manifest.entries {
            let vbucket = entry.vbucket;
            let state = match entry.image() {
                Ok(image) => State::Up {
                    replay: Box::new(Replay::new(image)),
                    entry: Some(entry),
                },
                Err(what) => {
                    let cause = StorageError::corruption(name.as_str(), offset, what);
                    State::Down(Down {
                        cause,
                        entry: Some(entry),
                    })
                }
            };
            recovery.states.insert(vbucket, state);
        }
        Ok(Recovery {
            record,
            next_incarnation: record.next_incarnation,
            next_segment: record.next_segment,
            next_container: record.next_container,
            ..recovery
        })
    }

    fn of_nothing(
        disk: &Arc<dyn Disk>,
        identity: Identity,
        number: u16,
        options: OpenOptions,
    ) -> Recovery {
        let record = ShardRecord::NEW;
        Recovery {
            identity,
            number,
            disk: Arc::clone(disk),
            options,
            record,
            states: BTreeMap::new(),
            unknown: BTreeSet::new(),
            damage: Vec::new(),
            next_incarnation: record.next_incarnation,
            next_segment: record.next_segment,
            next_container: record.next_container,
        }
    }

    /// The vbuckets that may live here.
    fn vbuckets(&self) -> impl Iterator<Item = VbucketId> + use<> {
        let CreateOptions {
            vbuckets,
            log_shards,
            ..
        } = self.identity.shape;
        let mine = (self.number..vbuckets).step_by(usize::from(log_shards.max(1)));
        mine.filter_map(VbucketId::new)
    }

    /// A shard of which nothing can be served, nor written, because of `error`. Its files stay as they are.
    fn out_of_service(self, error: StorageError, incarnations: &Arc<AtomicU64>) -> Shard {
        tracing::error!(shard = self.number, %error, "a log shard is out of service");
        let down = Slot::Down(Arc::new(Down {
            cause: error.clone(),
            entry: None,
        }));
        let slots = self.vbuckets().map(|vbucket| (vbucket, down.clone()));
        let slots = slots.collect();
        let containers = self.containers();
        let shard = self.number;
        let (found, incarnations) = (FoundLog::default(), Arc::clone(incarnations));
        let assembled = self.shard(containers, slots, 0, found, incarnations);
        {
            let mut writer = assembled.writer.lock();
            writer.is_closed = true;
            let cause = Arc::new(error);
            writer.out_of_service = Some(StorageError::ShardDown { shard, cause });
        }
        assembled
    }

    fn containers(&self) -> Containers {
        let disk = Arc::clone(&self.disk);
        let shards = usize::from(self.identity.shape.log_shards.max(1));
        let cache = self.options.index_cache_bytes / shards;
        let store_id = self.identity.store_id;
        Containers::new(disk, store_id, self.number, self.next_container, cache)
    }

    fn finish(
        mut self,
        names: &[Name],
        newest_manifest: u64,
        found: FoundLog,
        incarnations: &Arc<AtomicU64>,
    ) -> Result<Shard, StorageError> {
        incarnations.fetch_max(self.next_incarnation, Ordering::Relaxed);
        for name in names.iter().filter(|name| name.kind == Kind::Container) {
            self.next_container = self.next_container.max(name.number.saturating_add(1));
        }
        let containers = self.containers();
        let slots = self.open_slots(&containers);
        // Where the log is damaged, a lost record may name what looks unused.
        let holds =
            !found.damage.is_empty() || slots.values().any(|slot| matches!(slot, Slot::Down(_)));
        self.remove_leftovers(names, newest_manifest, &found, &containers, holds)?;
        Ok(self.shard(
            containers,
            slots,
            newest_manifest,
            found,
            Arc::clone(incarnations),
        ))
    }

    /// Opens the segments of every vbucket; one whose segments cannot be read stays down.
    fn open_slots(&mut self, containers: &Containers) -> BTreeMap<VbucketId, Slot> {
        let mut slots = BTreeMap::new();
        for (vbucket, state) in std::mem::take(&mut self.states) {
            let slot = match state {
                State::Down(down) => Slot::Down(Arc::new(down)),
                State::Up { replay, entry } => {
                    let metas = replay.image.segments.clone();
                    match version_of(*replay, containers) {
                        Ok(version) => Slot::Up(Arc::new(version)),
                        Err(cause) => {
                            // Nothing is given back while a vbucket is down; once this one is deleted, its extents
                            // must not seem to live for ever.
                            for meta in &metas {
                                containers.retire(meta, 1);
                            }
                            Slot::Down(Arc::new(Down { cause, entry }))
                        }
                    }
                }
            };
            slots.insert(vbucket, slot);
        }
        slots
    }

    /// Removes what interrupted steps left behind. What a vbucket that is down may need stays.
    fn remove_leftovers(
        &self,
        names: &[Name],
        newest_manifest: u64,
        found: &FoundLog,
        containers: &Containers,
        holds: bool,
    ) -> Result<(), StorageError> {
        let known = containers.names();
        for name in names {
            let text = name.to_string();
            let is_leftover = match name.kind {
                Kind::LogPreparing | Kind::ManifestPreparing => true,
                Kind::Manifest => name.number < newest_manifest,
                Kind::Log => !holds && found.unused.contains(&text),
                Kind::Container => !holds && !known.iter().any(|known| **known == *text),
            };
            if is_leftover {
                match self.disk.remove(&text) {
                    Ok(()) => {}
                    // A disk that can only be read keeps its leftovers; they do no harm.
                    Err(error) if error.kind == DiskErrorKind::ReadOnly => {}
                    Err(error) => return Err(error.into()),
                }
            }
        }
        Ok(())
    }

    fn shard(
        self,
        containers: Containers,
        mut slots: BTreeMap<VbucketId, Slot>,
        newest_manifest: u64,
        found: FoundLog,
        incarnations: Arc<AtomicU64>,
    ) -> Shard {
        let owner = LogOwner {
            store_id: self.identity.store_id,
            shard: self.number,
            entropy: self.options.entropy,
        };
        let resume = LogResume {
            synced: found.last,
            next_number: found
                .highest_number
                .saturating_add(1)
                .max(self.record.next_log_file),
            files: found.files,
            current: found.tail,
        };
        let log = LogWriter::new(
            Arc::clone(&self.disk),
            owner,
            self.options.log_sizes(),
            resume,
        );
        let Identity {
            shape, retention, ..
        } = self.identity;
        let history = retention.map(|retention| retention.share(shape.vbuckets));
        let bounds = self.record.bounds();
        let log_figures = Mutex::new(LogFigures::of(&log));
        let writer = Writer {
            log,
            next_manifest: newest_manifest.saturating_add(1),
            begin: bounds.begin,
            needs_manifest: false,
            is_closed: false,
            out_of_service: None,
        };
        let slots: Vec<RwLock<Slot>> = self
            .vbuckets()
            .map(|vbucket| RwLock::new(slots.remove(&vbucket).unwrap_or(Slot::Absent)))
            .collect();
        let unsealed = slots.iter().map(|slot| match &*slot.read() {
            Slot::Up(version) => version.unsealed_bytes(),
            Slot::Absent | Slot::Down(_) => 0,
        });
        let unsealed_bytes = AtomicU64::new(unsealed.sum());
        let merging = slots.iter().map(|_| Busy::default()).collect();
        Shard {
            number: self.number,
            log_shards: self.identity.shape.log_shards,
            store_id: self.identity.store_id,
            disk: self.disk,
            options: self.options,
            history,
            slots,
            synced: AtomicU64::new(writer.log.synced().sequence),
            writer: Arc::new(Mutex::new(writer)),
            containers,
            next_incarnation: incarnations,
            next_segment: AtomicU64::new(self.next_segment),
            unsealed_bytes,
            sealing: Busy::default(),
            merging,
            copying_out: Busy::default(),
            checkpointing: Busy::default(),
            preparing: Busy::default(),
            obsolete: Mutex::default(),
            checkpoint_due: Due::since(bounds.begin.file),
            failed_work: Mutex::default(),
            log_figures,
        }
    }
}

/// A vbucket that serves, from its image and what the log holds beyond.
fn version_of(replay: Replay, containers: &Containers) -> Result<Version, StorageError> {
    let Replay { image, batches } = replay;
    let state = image.state();
    let known = |watermarks| VbucketStateRecord {
        watermarks,
        ..state.clone()
    };
    let mut bases = image.base.iter().map(|mark| known(*mark));
    let mut last = bases.next().unwrap_or_else(|| state.clone());
    let layer = Layer::new(last.clone());
    for base in bases {
        layer.append(&[], base.clone(), LogPosition::default());
        last = base;
    }
    for batch in batches {
        layer.append(&batch.items, batch.state.clone(), batch.position);
        last = batch.state;
    }
    if last != state {
        // States that were flushed without items after the last batch.
        layer.append(&[], state, LogPosition::default());
    }
    Ok(Version {
        place: image.place,
        rollbacks: image.rollbacks,
        segments: open_segments(image.place, &image.segments, containers)?,
        layers: vec![Arc::new(layer)],
        sealed: image.sealed,
        exact_from: image.exact_from,
        counts: Arc::new(image.counts),
        dropped: image.dropped.into(),
        purges: 0,
    })
}

/// Opens segments and finds out which of their versions are dead.
pub(crate) fn open_segments(
    place: Place,
    metas: &[SegmentMeta],
    containers: &Containers,
) -> Result<Vec<SegmentView>, StorageError> {
    let mut views = Vec::with_capacity(metas.len());
    for meta in metas {
        let segment = containers.open_segment(meta)?;
        let ident = segment.ident();
        if (ident.vbucket, ident.incarnation) != (place.vbucket, place.incarnation) {
            let what = format!(
                "the segment is of vbucket {}, not {}",
                ident.vbucket, place.vbucket
            );
            return Err(StorageError::corruption(
                segment.file_name(),
                meta.offset,
                what,
            ));
        }
        views.push(SegmentView {
            segment,
            dead: Arc::default(),
            dead_bytes: 0,
        });
    }
    find_dead(&mut views)?;
    Ok(views)
}

/// Marks what is superseded by what may be read of these segments.
pub(crate) fn find_dead(views: &mut [SegmentView]) -> Result<(), StorageError> {
    let mut kills = Vec::with_capacity(views.len());
    for view in &*views {
        kills.push(view.visible_kills()?);
    }
    for kills in kills {
        apply_kills(views, &kills);
    }
    Ok(())
}
