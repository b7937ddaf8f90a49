//! What can be done for a vbucket that is damaged: read what is left of it, and put an empty one in its place.
//!
//! Invariant: reading changes nothing and hands over only what its checksums vouch for; the vbucket and the empty one that
//! takes its place are exchanged by one frame of the log, so that a crash leaves the one or the other.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::disk::{DiskErrorKind, OpenMode};
use crate::document::Item;
use crate::error::StorageError;
use crate::kv_store::ItemView;
use crate::log_store::image::Replay;
use crate::log_store::layer::LayerView;
use crate::log_store::log::payload::{self, Edit, Place, Record};
use crate::log_store::log::reader::{FoundFrame, read_log};
use crate::log_store::manifest::{self, ManifestOwner, ShardRecord};
use crate::log_store::names::{Kind, Name};
use crate::log_store::segment::{SegmentMeta, salvage};
use crate::log_store::shard::{Down, Shard, Slot};
use crate::log_store::store::LogStore;
use crate::log_store::version::Version;
use crate::seqno::{Seqno, SeqnoRange};
use crate::vbucket::{
    Incarnation, RollbackEpoch, VbucketId, VbucketIdentity, VbucketStateRecord, VbucketUuid,
};

/// What was read of a damaged vbucket.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Salvaged {
    /// Versions handed over.
    pub versions: u64,
    /// The newest of them.
    pub newest: Option<Seqno>,
    /// The highest seqno it is known to have had.
    pub known_high: Option<Seqno>,
    /// Of its segments, seqnos of which something was there and cannot be read. What the log lost has none that are known.
    pub lost: Vec<SeqnoRange>,
    /// What it was, if that is known.
    pub identity: Option<Arc<VbucketIdentity>>,
}

/// Where the versions of a vbucket lie, as far as that is known.
struct Remains {
    segments: Vec<SegmentMeta>,
    unsealed: Vec<Arc<Item>>,
    known_high: Option<Seqno>,
    identity: Option<Arc<VbucketIdentity>>,
}

impl LogStore {
    /// Hands over every version of a vbucket that can be read, by rising seqno, also one that is down.
    pub fn salvage(
        &self,
        vbucket: VbucketId,
        visit: &mut dyn FnMut(ItemView<'_>),
    ) -> Result<Salvaged, StorageError> {
        let shard = self.shard_with(vbucket)?;
        let remains = match shard.read_slot(vbucket) {
            Slot::Absent => return Err(StorageError::UnknownVbucket(vbucket)),
            Slot::Up(version) => Remains::of_version(&version),
            Slot::Down(down) => Remains::of_files(shard, vbucket, &down)?,
        };
        let Remains {
            segments,
            unsealed,
            known_high,
            identity,
        } = remains;
        let mut salvaged = Salvaged {
            known_high,
            identity,
            ..Salvaged::default()
        };
        for meta in &segments {
            let mut note = |view: ItemView<'_>| {
                salvaged.note(view.seqno);
                visit(view);
            };
            let lost = read_segment(shard, meta, &mut note)?;
            salvaged.lost.extend(lost);
        }
        for item in unsealed {
            salvaged.note(item.seqno);
            visit(ItemView::of(&item));
        }
        Ok(salvaged)
    }

    /// Puts an empty vbucket in the place of one, also of one that is down. Durable when it returns.
    pub fn renew_vbucket(
        &self,
        vbucket: VbucketId,
        state: &VbucketStateRecord,
    ) -> Result<Incarnation, StorageError> {
        let shard = self.shard_with(vbucket)?;
        let mut writer = shard.writer().ok_or(StorageError::Closed)?;
        writer.check_open()?;
        let segments = match shard.read_slot(vbucket) {
            Slot::Absent => return Err(StorageError::UnknownVbucket(vbucket)),
            Slot::Up(version) => version.segments.clone(),
            Slot::Down(_) => Vec::new(),
        };
        let incarnation = Incarnation(shard.next_incarnation.fetch_add(1, Ordering::Relaxed));
        let place = |incarnation| Place {
            vbucket,
            incarnation,
            epoch: RollbackEpoch(0),
        };
        let edits = [
            // Whichever life it was in: nothing of any is left.
            Edit::Delete {
                place: place(Incarnation(0)),
            },
            Edit::Create {
                place: place(incarnation),
                identity: Arc::clone(&state.identity),
                watermarks: state.watermarks,
            },
        ];
        let sequence = writer.write_edits_synced(&edits)?;
        shard.note_synced(&writer);
        let empty = Version::empty(place(incarnation), state.clone());
        shard.publish(vbucket, Slot::Up(Arc::new(empty)));
        shard.retire(segments.iter().map(|view| view.segment.meta()), sequence);
        shard.wants_checkpoint.store(true, Ordering::Release);
        Ok(incarnation)
    }

    /// Whether anything of a vbucket can be changed, also of one that is down; if not, why.
    pub fn check_writable(&self, vbucket: VbucketId) -> Result<(), StorageError> {
        let shard = self.shard_with(vbucket)?;
        let writer = shard.writer().ok_or(StorageError::Closed)?;
        writer.check_open()
    }
}

impl Salvaged {
    fn note(&mut self, seqno: Seqno) {
        self.versions = self.versions.saturating_add(1);
        self.newest = self.newest.max(Some(seqno));
        self.known_high = self.known_high.max(Some(seqno));
    }
}

/// Without the header of its file, which may be what is damaged.
fn read_segment(
    shard: &Shard,
    meta: &SegmentMeta,
    visit: &mut dyn FnMut(ItemView<'_>),
) -> Result<Vec<SeqnoRange>, StorageError> {
    let name = Name::new(Kind::Container, shard.number, meta.container).to_string();
    match shard.disk.open(&name, OpenMode::ReadOnly) {
        Ok(file) => Ok(salvage(&*file, meta, visit)),
        Err(error) if error.kind == DiskErrorKind::NotFound => Ok(vec![SeqnoRange {
            first: meta.first_seqno,
            last: meta.last_seqno,
        }]),
        // A file that is there and cannot be opened is no damage: what is in it may be whole.
        Err(error) => Err(error.into()),
    }
}

impl Remains {
    fn of_version(version: &Version) -> Remains {
        let views = version.views();
        let items = views.iter().flat_map(LayerView::items);
        let state = version.state();
        Remains {
            segments: version
                .segments
                .iter()
                .map(|view| view.segment.meta().clone())
                .collect(),
            unsealed: items.map(Arc::clone).collect(),
            known_high: state.as_ref().map(|state| state.watermarks.high_seqno),
            identity: state.map(|state| state.identity),
        }
    }

    /// From its entry in the manifest and what is whole of the log, as recovery would, but for what is damaged.
    fn of_files(shard: &Shard, vbucket: VbucketId, down: &Down) -> Result<Remains, StorageError> {
        let image = down.entry.as_ref().and_then(|entry| entry.image().ok());
        let mut lives = Lives {
            vbucket,
            replay: image.map(Replay::new),
        };
        for frame in frames(shard)? {
            lives.frame(&frame);
        }
        let Some(replay) = lives.replay else {
            return Ok(Remains {
                segments: Vec::new(),
                unsealed: Vec::new(),
                known_high: None,
                identity: None,
            });
        };
        let items = replay.batches.into_iter().flat_map(|batch| batch.items);
        Ok(Remains {
            segments: replay.image.segments,
            unsealed: items.collect(),
            known_high: Some(replay.image.watermarks.high_seqno),
            identity: Some(replay.image.identity),
        })
    }
}

/// The vbucket's lives, as the frames that are whole tell them.
struct Lives {
    vbucket: VbucketId,
    replay: Option<Replay>,
}

impl Lives {
    fn frame(&mut self, frame: &FoundFrame) {
        let Ok(records) = payload::read(&frame.payload) else {
            return;
        };
        let sequence = frame.position.sequence;
        for record in records {
            match record {
                Record::Batch(batch) if batch.place.vbucket == self.vbucket => {
                    let replay = self.replay.get_or_insert_with(|| {
                        // How it began was lost.
                        let begun = VbucketStateRecord::new(VbucketUuid(0));
                        Replay::created(batch.place, begun.identity, begun.watermarks, 0)
                    });
                    replay.batch(batch, frame.position);
                }
                Record::Edit(edit) if edit.place().vbucket == self.vbucket => {
                    self.edit(*edit, sequence);
                }
                Record::Batch(_) | Record::Edit(_) => {}
            }
        }
    }

    fn edit(&mut self, edit: Edit, sequence: u64) {
        let covers = self.replay.as_ref().map_or(0, |replay| replay.image.covers);
        if sequence <= covers {
            return;
        }
        match edit {
            Edit::Create {
                place,
                identity,
                watermarks,
            } => self.replay = Some(Replay::created(place, identity, watermarks, sequence)),
            Edit::Delete { .. } => self.replay = None,
            edit @ (Edit::Rollback { .. }
            | Edit::Seal { .. }
            | Edit::Merge { .. }
            | Edit::Relocate { .. }) => {
                let Some(replay) = &mut self.replay else {
                    return;
                };
                // It speaks of what was lost.
                if let Err(what) = replay.edit(edit, sequence) {
                    tracing::warn!(vbucket = %self.vbucket, sequence, what, "an edit cannot be followed");
                }
            }
        }
    }
}

/// Every frame of a shard's log that is whole.
fn frames(shard: &Shard) -> Result<Vec<FoundFrame>, StorageError> {
    // Nothing is written while the log is read.
    let _writer = shard.writer().ok_or(StorageError::Closed)?;
    let names = shard.disk.list()?;
    let names = names.iter().filter_map(|name| Name::parse(name));
    let names: Vec<Name> = names.filter(|name| name.shard == shard.number).collect();
    let manifests = names.iter().filter(|name| name.kind == Kind::Manifest);
    let mut bounds = ShardRecord::NEW.bounds();
    if let Some(newest) = manifests.map(|name| name.number).max() {
        let name = Name::new(Kind::Manifest, shard.number, newest).to_string();
        let owner = ManifestOwner {
            store_id: shard.store_id,
            shard: shard.number,
            number: newest,
        };
        bounds = manifest::read(&*shard.disk, &name, owner)?.record.bounds();
    }
    Ok(read_log(&shard.disk, &names, shard.store_id, bounds)?.frames)
}
