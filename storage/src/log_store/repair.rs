//! What can be done for a vbucket that is damaged: read what is left of it, and put an empty one in its place.
//!
//! Invariant: reading changes nothing and hands over only what its checksums vouch for; the vbucket and the empty one that
//! takes its place are exchanged by one frame of the log, so that a crash leaves the one or the other.

mod life;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::disk::{DiskErrorKind, OpenMode};
use crate::document::Item;
use crate::error::StorageError;
use crate::kv_store::ItemView;
use crate::log_store::layer::LayerView;
use crate::log_store::log::payload::{Edit, Place};
use crate::log_store::log::reader::{FoundLog, read_log};
use crate::log_store::manifest::{self, ManifestOwner, ShardRecord};
use crate::log_store::names::{Kind, Name};
use crate::log_store::segment::{Salvage, SegmentMeta, salvage};
use crate::log_store::shard::{Down, Shard, Slot};
use crate::log_store::store::LogStore;
use crate::log_store::verify::FaultKind;
use crate::log_store::version::Version;
use crate::seqno::{Seqno, SeqnoRange};
use crate::vbucket::{
    Incarnation, RollbackEpoch, VbucketId, VbucketIdentity, VbucketStateRecord, Watermarks,
};

use life::{Life, Lives};

/// What was read of a damaged vbucket.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Salvaged {
    /// Versions handed over.
    pub versions: u64,
    /// The newest of them.
    pub newest: Option<Seqno>,
    /// The highest seqno it is known to have had.
    pub known_high: Option<Seqno>,
    /// Seqnos of which something was there, or may have been where nothing says how it began, and cannot be read; up to
    /// [`Seqno::MAX`] where nobody knows how far it had come. What the log itself lost has none that are known.
    pub lost: Vec<SeqnoRange>,
    /// What it was, if that is known.
    pub identity: Option<Arc<VbucketIdentity>>,
    /// When its newest commit that is known was, in milliseconds since the Unix epoch; zero if none is.
    pub commit_time_ms: u64,
}

/// Where the versions of a vbucket lie, as far as that is known.
#[derive(Default)]
struct Remains {
    segments: Vec<SegmentMeta>,
    /// All that the log, or the memory, holds of it.
    items: BTreeMap<Seqno, Arc<Item>>,
    /// From here on the log holds all of them.
    whole_from: Option<Seqno>,
    sealed: Seqno,
    gaps: Vec<SeqnoRange>,
    watermarks: Option<Watermarks>,
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
            Slot::Up(version) => Remains::of_version(shard, &version)?,
            Slot::Down(down) => Remains::of_files(shard, vbucket, &down)?,
        };
        let watermarks = remains.watermarks.as_ref();
        let mut handed = HandOver {
            salvaged: Salvaged {
                known_high: watermarks.map(|watermarks| watermarks.high_seqno),
                commit_time_ms: watermarks.map_or(0, |watermarks| watermarks.commit_time_ms),
                identity: remains.identity.clone(),
                ..Salvaged::default()
            },
            remains: &remains,
            visit,
        };
        handed.all(shard)?;
        Ok(handed.salvaged)
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
        shard.checkpoint_due.tell();
        Ok(incarnation)
    }

    /// Whether anything of a vbucket can be changed, also of one that is down; if not, why.
    pub fn check_writable(&self, vbucket: VbucketId) -> Result<(), StorageError> {
        let shard = self.shard_with(vbucket)?;
        let writer = shard.writer().ok_or(StorageError::Closed)?;
        writer.check_open()
    }
}

/// What is read of a vbucket, on its way to whoever wants it.
struct HandOver<'a> {
    salvaged: Salvaged,
    remains: &'a Remains,
    visit: &'a mut dyn FnMut(ItemView<'_>),
}

impl HandOver<'_> {
    fn all(&mut self, shard: &Shard) -> Result<(), StorageError> {
        let Remains { segments, gaps, .. } = self.remains;
        let mut gaps = gaps.iter().peekable();
        let mut sealed = self.remains.sealed;
        for meta in segments {
            while let Some(gap) = gaps.next_if(|gap| gap.last < meta.first_seqno) {
                self.lost(*gap);
            }
            self.segment(shard, meta)?;
            sealed = sealed.max(meta.last_seqno.min(meta.visible_last()));
        }
        for gap in gaps {
            self.lost(*gap);
        }
        self.items(SeqnoRange {
            first: sealed.next(),
            last: Seqno::MAX,
        });
        Ok(())
    }

    /// Without the header of its file, which may be what is damaged.
    fn segment(&mut self, shard: &Shard, meta: &SegmentMeta) -> Result<(), StorageError> {
        let name = Name::new(Kind::Container, shard.number, meta.container).to_string();
        match shard.disk.open(&name, OpenMode::ReadOnly) {
            Ok(file) => salvage(&*file, meta, &mut |found| match found {
                Salvage::Item(view) => self.item(view),
                Salvage::Lost(range) => self.lost(range),
            })?,
            Err(error) if error.kind == DiskErrorKind::NotFound => self.lost(SeqnoRange {
                first: meta.first_seqno,
                last: meta.last_seqno.min(meta.visible_last()),
            }),
            // A file that is there and cannot be opened is no damage: what is in it may be whole.
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    fn item(&mut self, view: ItemView<'_>) {
        let salvaged = &mut self.salvaged;
        salvaged.versions = salvaged.versions.saturating_add(1);
        salvaged.newest = salvaged.newest.max(Some(view.seqno));
        salvaged.known_high = salvaged.known_high.max(Some(view.seqno));
        (self.visit)(view);
    }

    /// What the segments lost the log may still hold.
    fn lost(&mut self, range: SeqnoRange) {
        let before = |from: Seqno| Seqno(from.0.saturating_sub(1));
        let last = range
            .last
            .min(self.remains.whole_from.map_or(Seqno::MAX, before));
        if range.first <= last {
            let first = range.first;
            self.salvaged.lost.push(SeqnoRange { first, last });
        }
        self.items(range);
    }

    fn items(&mut self, range: SeqnoRange) {
        if range.first > range.last {
            return;
        }
        let remains = self.remains;
        for item in remains.items.range(range.first..=range.last) {
            self.item(ItemView::of(item.1));
        }
    }
}

impl Remains {
    fn of_version(shard: &Shard, version: &Version) -> Result<Remains, StorageError> {
        let remains = Remains::of_log(shard, version.place.vbucket, None)?;
        let views = version.views();
        let unsealed = views.iter().flat_map(LayerView::items);
        let unsealed = unsealed.map(|item| (item.seqno, Arc::clone(item)));
        let mut items = remains.items;
        // What the log alone holds is only what segments were made of.
        drop(items.split_off(&version.sealed.next()));
        items.extend(unsealed);
        let state = version.state();
        let metas = version.segments.iter().map(|view| view.segment.meta());
        Ok(Remains {
            segments: metas.cloned().collect(),
            items,
            sealed: version.sealed,
            gaps: Vec::new(),
            watermarks: state.as_ref().map(|state| state.watermarks),
            identity: state.map(|state| state.identity),
            ..remains
        })
    }

    /// From its entry in the manifest and what is whole of the log.
    fn of_files(shard: &Shard, vbucket: VbucketId, down: &Down) -> Result<Remains, StorageError> {
        Remains::of_log(shard, vbucket, Some(down))
    }

    fn of_log(
        shard: &Shard,
        vbucket: VbucketId,
        down: Option<&Down>,
    ) -> Result<Remains, StorageError> {
        let entry = down.and_then(|down| down.entry.as_ref());
        let image = entry.and_then(|entry| entry.image().ok());
        let (begin, found) = log_of(shard)?;
        let mut lives = Lives::new(vbucket, image, begin);
        for frame in &found.frames {
            lives.frame(frame);
        }
        let is_whole = lives.is_whole && found.damage.is_empty();
        let Some(life) = lives.newest else {
            return Ok(Remains {
                gaps: vec![SeqnoRange {
                    first: Seqno(1),
                    last: Seqno::MAX,
                }],
                ..Remains::default()
            });
        };
        let gaps = life.gaps();
        let Life {
            segments,
            items,
            sealed,
            watermarks,
            identity,
            ..
        } = life;
        let first = items.keys().next().copied();
        Ok(Remains {
            segments,
            items,
            whole_from: first.filter(|_| is_whole),
            sealed,
            gaps,
            watermarks,
            identity,
        })
    }
}

/// A shard's log as far as it is whole, and the frame behind which it begins.
fn log_of(shard: &Shard) -> Result<(u64, FoundLog), StorageError> {
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
    let found = read_log(&shard.disk, &names, shard.store_id, bounds, shard.number)?;
    let damage = found.damage.iter().map(|damage| &damage.error);
    let unreadable = found.unreadable.iter().map(|file| &file.error);
    let mut errors = damage.chain(unreadable).chain(&found.lost);
    // What the disk does not give may be whole.
    if let Some(error) = errors.find(|error| FaultKind::of(error) == FaultKind::Unreadable) {
        return Err(error.clone());
    }
    Ok((bounds.begin.sequence, found))
}

#[cfg(test)]
mod tests;
