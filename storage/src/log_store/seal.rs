//! The seal: unsealed items of many vbuckets become segments in one container file, with one sync.
//!
//! Invariant: the commit path is touched twice, for a pointer each: once to freeze the layers, once to publish. Until
//! the publish the items are served from the frozen layers; a seal that fails leaves them there, and the next one
//! takes them. Versions whose killer is above the history floor are kept (rule R11).

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use roaring::RoaringTreemap;

use crate::counts::{VbucketCounts, Weight};
use crate::document::Item;
use crate::error::StorageError;
use crate::kv_store::ItemView;
use crate::log_store::containers::EXTENT_ALIGNMENT;
use crate::log_store::layer::{Layer, LayerView};
use crate::log_store::log::payload::{Edit, Place};
use crate::log_store::output::Output;
use crate::log_store::segment::{
    ExtentWriter, IndexEntry, IndexKey, Kill, RecordLocation, Segment, SegmentIdent, SegmentMeta,
    SegmentTail, SegmentWriter,
};
use crate::log_store::shard::{Shard, Slot};
use crate::log_store::version::{SegmentView, Version, apply_kills, last_at_each_seqno};
use crate::outcome::{Job, Outcome};
use crate::seqno::Seqno;
use crate::vbucket::VbucketId;

/// Seals vbuckets of one shard.
#[derive(Debug)]
pub(crate) struct SealJob {
    shard: Arc<Shard>,
    history_floor: Seqno,
    which: Which,
    /// Why a vbucket could not be sealed while the others were.
    failed: Option<StorageError>,
    output: Output,
    state: Sealing,
}

#[derive(Clone, Copy, Debug)]
enum Which {
    One(VbucketId),
    /// Every vbucket that is up when the seal begins.
    All,
}

#[derive(Debug)]
enum Sealing {
    Begin,
    Write {
        extent: ExtentWriter,
        todo: VecDeque<Arc<Version>>,
        sealed: Vec<Sealed>,
    },
    Sync(Vec<Sealed>),
    SyncDirectory(Vec<Sealed>),
    Publish(Vec<Opened>),
    Done,
}

/// One vbucket's new segment, and what it changes.
#[derive(Debug)]
struct Sealed {
    place: Place,
    /// The layers whose items are in it now.
    layers: Vec<Arc<Layer>>,
    meta: SegmentMeta,
    kills: Vec<Kill>,
    counts: VbucketCounts,
}

#[derive(Debug)]
struct Opened {
    sealed: Sealed,
    segment: Arc<Segment>,
}

impl SealJob {
    /// Seals one vbucket.
    pub(crate) fn one(shard: Arc<Shard>, vbucket: VbucketId, history_floor: Seqno) -> Self {
        SealJob::new(shard, Which::One(vbucket), history_floor)
    }

    /// Seals all vbuckets of the shard. One that cannot be sealed, because its segments are damaged, does not keep
    /// the others from it, but the job ends as failed.
    pub(crate) fn all(shard: Arc<Shard>, history_floor: Seqno) -> Self {
        SealJob::new(shard, Which::All, history_floor)
    }

    fn new(shard: Arc<Shard>, which: Which, history_floor: Seqno) -> Self {
        let output = Output::new(Arc::clone(&shard));
        SealJob {
            shard,
            history_floor,
            which,
            failed: None,
            output,
            state: Sealing::Begin,
        }
    }

    fn advance(&mut self) -> Result<Outcome<()>, StorageError> {
        self.state = match std::mem::replace(&mut self.state, Sealing::Done) {
            Sealing::Begin => match self.begin()? {
                Begun::Nothing => return Ok(Outcome::Complete(())),
                Begun::Waits => Sealing::Begin,
                Begun::Frozen(todo) => {
                    let extent = self.output.create()?;
                    Sealing::Write {
                        extent,
                        todo,
                        sealed: Vec::new(),
                    }
                }
            },
            Sealing::Write {
                extent,
                todo,
                sealed,
            } => self.write_next(extent, todo, sealed)?,
            Sealing::Sync(sealed) => {
                self.output.sync()?;
                Sealing::SyncDirectory(sealed)
            }
            Sealing::SyncDirectory(sealed) => self.open(sealed)?,
            Sealing::Publish(sealed) => return self.publish(sealed),
            Sealing::Done => return Ok(Outcome::Complete(())),
        };
        Ok(Outcome::Yielded)
    }

    /// Freezes the newest layers: what is committed from now on goes to new ones.
    fn begin(&mut self) -> Result<Begun, StorageError> {
        let Some(busy) = self.shard.begin(&self.shard.sealing) else {
            return Ok(Begun::Waits);
        };
        let Some(writer) = self.shard.writer() else {
            return Ok(Begun::Waits);
        };
        let mut todo = VecDeque::new();
        let versions = match self.which {
            Which::One(vbucket) => vec![self.shard.version(vbucket)?],
            Which::All => self.shard.versions(),
        };
        for version in versions {
            if let Some(frozen) = freeze(&version) {
                if !Arc::ptr_eq(&frozen, &version) {
                    let slot = Slot::Up(Arc::clone(&frozen));
                    self.shard.publish(version.place.vbucket, slot);
                }
                todo.push_back(frozen);
            }
        }
        drop(writer);
        self.output.begin(busy);
        Ok(if todo.is_empty() {
            Begun::Nothing
        } else {
            Begun::Frozen(todo)
        })
    }

    fn write_next(
        &mut self,
        mut extent: ExtentWriter,
        mut todo: VecDeque<Arc<Version>>,
        mut sealed: Vec<Sealed>,
    ) -> Result<Sealing, StorageError> {
        let Some(version) = todo.pop_front() else {
            if sealed.is_empty()
                && let Some(error) = self.failed.take()
            {
                return Err(error);
            }
            extent.flush()?;
            return Ok(Sealing::Sync(sealed));
        };
        let (one, extent) = self.write_segment(extent, &version)?;
        match one {
            Ok(one) => sealed.push(one),
            Err(error) => {
                let vbucket = version.place.vbucket;
                tracing::warn!(%vbucket, %error, "a vbucket cannot be sealed");
                self.failed.get_or_insert(error);
            }
        }
        Ok(Sealing::Write {
            extent,
            todo,
            sealed,
        })
    }

    /// Writes a vbucket's segment, unless the vbucket's own segments cannot be read; then nothing of it is written.
    fn write_segment(
        &self,
        mut extent: ExtentWriter,
        version: &Version,
    ) -> Result<(Result<Sealed, StorageError>, ExtentWriter), StorageError> {
        let frozen = frozen_layers(version);
        let views: Vec<LayerView> = frozen.iter().map(Layer::view).collect();
        let run = match Run::of(&views, version, self.history_floor) {
            Ok(run) => run,
            Err(error) => return Ok((Err(error), extent)),
        };
        extent.align(EXTENT_ALIGNMENT)?;
        let ident = SegmentIdent {
            vbucket: version.place.vbucket,
            incarnation: version.place.incarnation,
            epoch: version.place.epoch,
        };
        let options = self.shard.options.segment_options();
        let mut writer = SegmentWriter::new(extent, options, ident);
        let locations = run.write_records(&mut writer)?;
        writer.begin_index()?;
        run.write_index(&mut writer, &locations)?;
        let boundaries = last_at_each_seqno(views.iter().flat_map(LayerView::boundaries));
        let tail = SegmentTail {
            id: self.shard.new_segment_id(),
            container: self.output.number(),
            exact_from: run.exact_from,
            kills: &run.kills_with_bytes(&locations),
            boundaries: &boundaries,
            first_seqno_ceiling: run.first(),
            // After a rollback the high seqno may lie above the last item.
            last_seqno_floor: views.last().map_or(Seqno::ZERO, LayerView::high_seqno),
        };
        let kills = tail.kills.to_vec();
        let (meta, extent) = writer.finish(tail)?;
        let (place, layers, counts) = (version.place, frozen.to_vec(), run.counts);
        let sealed = Sealed {
            place,
            layers,
            meta,
            kills,
            counts,
        };
        Ok((Ok(sealed), extent))
    }

    fn open(&mut self, sealed: Vec<Sealed>) -> Result<Sealing, StorageError> {
        let metas = sealed.iter().map(|one| one.meta.clone());
        self.output.adopt(metas.collect())?;
        let mut opened = Vec::with_capacity(sealed.len());
        for one in sealed {
            let segment = self.shard.containers.open_segment(&one.meta)?;
            opened.push(Opened {
                sealed: one,
                segment,
            });
        }
        Ok(Sealing::Publish(opened))
    }

    fn publish(&mut self, sealed: Vec<Opened>) -> Result<Outcome<()>, StorageError> {
        let Some(mut writer) = self.shard.writer() else {
            self.state = Sealing::Publish(sealed);
            return Ok(Outcome::Yielded);
        };
        self.output.hand_over();
        let mut gone = None;
        let mut current = Vec::with_capacity(sealed.len());
        for one in sealed {
            match self.shard.version_of(one.sealed.place) {
                Ok(version) => current.push((one, version)),
                Err(reason) => {
                    self.shard.retire([&one.sealed.meta], 0);
                    gone = Some(reason);
                }
            }
        }
        let edits: Vec<Edit> = current.iter().map(|(one, _)| one.sealed.edit()).collect();
        if !edits.is_empty() {
            let next = writer.log.last_sequence().saturating_add(1);
            if let Err(error) = writer.write_edits(&edits) {
                let metas = current.iter().map(|(one, _)| &one.sealed.meta);
                self.shard.retire(metas, next);
                return Err(error);
            }
        }
        for (one, version) in &current {
            let vbucket = one.sealed.place.vbucket;
            self.shard
                .publish(vbucket, Slot::Up(Arc::new(one.applied_to(version))));
        }
        // `current` holds the last references to the layers that are sealed now: many items, and no commit should wait
        // while they are freed.
        drop(writer);
        if !edits.is_empty() {
            // The log files whose items are sealed now can go after the next manifest.
            self.shard.wants_checkpoint.store(true, Ordering::Release);
        }
        if let Some(error) = self.failed.take() {
            return Ok(Outcome::Failed(error));
        }
        Ok(match gone {
            Some(reason) if edits.is_empty() => Outcome::Aborted(reason),
            Some(_) | None => Outcome::Complete(()),
        })
    }
}

enum Begun {
    Nothing,
    Waits,
    Frozen(VecDeque<Arc<Version>>),
}

/// The version with everything committed so far in frozen layers; `None` when there is nothing to seal.
fn freeze(version: &Arc<Version>) -> Option<Arc<Version>> {
    let active = version.active()?.view();
    if active.is_empty() {
        return (version.layers.len() > 1).then(|| Arc::clone(version));
    }
    let mut frozen = Version::clone(version);
    frozen
        .layers
        .push(Arc::new(Layer::new(active.state().clone())));
    Some(Arc::new(frozen))
}

fn frozen_layers(version: &Version) -> &[Arc<Layer>] {
    version
        .layers
        .split_last()
        .map_or(&[], |(_, frozen)| frozen)
}

/// The items of a seal, by seqno and by key, and what becomes of each.
struct Run<'v> {
    items: Vec<&'v Arc<Item>>,
    /// Numbers of the items kept, by (namespace, key), newest version first.
    by_key: Vec<u32>,
    /// Whether the item is left out.
    dropped: Vec<bool>,
    /// Victims in older segments, with their bytes there.
    kills: Vec<Kill>,
    /// Superseded items kept: victim and killer, as numbers of items.
    kept_victims: Vec<(u32, Seqno)>,
    exact_from: Seqno,
    counts: VbucketCounts,
}

impl<'v> Run<'v> {
    fn of(
        views: &'v [LayerView],
        version: &Version,
        history_floor: Seqno,
    ) -> Result<Run<'v>, StorageError> {
        let items: Vec<&Arc<Item>> = views.iter().flat_map(LayerView::items).collect();
        let mut run = Run {
            by_key: sorted_by_key(&items),
            dropped: vec![false; items.len()],
            items,
            kills: Vec::new(),
            kept_victims: Vec::new(),
            exact_from: Seqno::ZERO,
            counts: VbucketCounts::default(),
        };
        run.decide(version, history_floor)?;
        Ok(run)
    }

    fn item(&self, number: u32) -> Option<&'v Arc<Item>> {
        self.items.get(number as usize).copied()
    }

    fn first(&self) -> Seqno {
        self.items.first().map_or(Seqno::ZERO, |item| item.seqno)
    }

    /// Key by key: the newest version lives, older ones go or become history, what lies in segments dies.
    fn decide(&mut self, version: &Version, floor: Seqno) -> Result<(), StorageError> {
        let by_key = std::mem::take(&mut self.by_key);
        let mut kept = Vec::with_capacity(by_key.len());
        let mut newer: Option<&Arc<Item>> = None;
        for (place, number) in by_key.iter().enumerate() {
            let Some(item) = self.item(*number) else {
                continue;
            };
            let killer = newer
                .filter(|newer| same_key(newer, item))
                .map(|newer| newer.seqno);
            self.judge(*number, item, killer, floor);
            if !self.dropped.get(*number as usize).copied().unwrap_or(false) {
                kept.push(*number);
            }
            let next = by_key
                .get(place.saturating_add(1))
                .and_then(|next| self.item(*next));
            if next.is_none_or(|next| !same_key(next, item)) {
                self.kill_sealed(version, item)?;
            }
            newer = Some(item);
        }
        self.by_key = kept;
        self.kills.sort_unstable_by_key(|kill| kill.victim);
        Ok(())
    }

    fn judge(&mut self, number: u32, item: &Item, killer: Option<Seqno>, floor: Seqno) {
        let collection = item.document.key.collection();
        match killer {
            None => self.counts.gained(collection, Weight::of(item), item.seqno),
            Some(killer) => {
                self.counts.saw(collection, item.seqno);
                if killer <= floor {
                    self.exact_from = self.exact_from.max(killer);
                    if let Some(dropped) = self.dropped.get_mut(number as usize) {
                        *dropped = true;
                    }
                } else {
                    self.kept_victims.push((number, killer));
                }
            }
        }
    }

    /// The key's version in the segments, if there is one, is superseded by `killer`, its oldest version here.
    /// Looked up whatever the writer's hint said (rule R8).
    fn kill_sealed(&mut self, version: &Version, killer: &Item) -> Result<(), StorageError> {
        let key = &killer.document.key;
        let Some((_, found)) = version.find_sealed(killer.namespace(), key.as_encoded())? else {
            return Ok(());
        };
        self.counts
            .lost(key.collection(), found.weight(killer.namespace()));
        self.kills.push(Kill {
            victim: found.seqno,
            killer: killer.seqno,
            victim_bytes: found.location.length,
        });
        Ok(())
    }

    /// Writes the items by seqno; where each lies.
    fn write_records(
        &self,
        writer: &mut SegmentWriter,
    ) -> Result<Vec<Option<RecordLocation>>, StorageError> {
        let mut locations = Vec::with_capacity(self.items.len());
        for (item, is_dropped) in self.items.iter().zip(&self.dropped) {
            let kept = (!is_dropped).then(|| writer.push(&ItemView::of(item)));
            locations.push(kept.transpose()?);
        }
        Ok(locations)
    }

    fn write_index(
        &self,
        writer: &mut SegmentWriter,
        locations: &[Option<RecordLocation>],
    ) -> Result<(), StorageError> {
        for number in &self.by_key {
            let location = locations.get(*number as usize).copied().flatten();
            let (Some(item), Some(location)) = (self.item(*number), location) else {
                continue;
            };
            let key = IndexKey::new(item.namespace(), item.document.key.as_encoded());
            writer.push_index(IndexEntry {
                key: key.as_bytes(),
                seqno: item.seqno,
                location,
                is_tombstone: item.operation.is_tombstone(),
                user_bytes: item.user_bytes(),
            })?;
        }
        Ok(())
    }

    /// All kills, those of versions kept as history included, by victim.
    fn kills_with_bytes(&self, locations: &[Option<RecordLocation>]) -> Vec<Kill> {
        let mut kills = self.kills.clone();
        for (number, killer) in &self.kept_victims {
            let location = locations.get(*number as usize).copied().flatten();
            if let (Some(item), Some(location)) = (self.item(*number), location) {
                let victim_bytes = location.length;
                kills.push(Kill {
                    victim: item.seqno,
                    killer: *killer,
                    victim_bytes,
                });
            }
        }
        kills.sort_unstable_by_key(|kill| kill.victim);
        kills
    }
}

fn same_key(one: &Item, other: &Item) -> bool {
    one.namespace() == other.namespace() && one.document.key == other.document.key
}

/// Numbers of the items by (namespace, key), newest first within a key. The first bytes decide most comparisons
/// without going to the items.
fn sorted_by_key(items: &[&Arc<Item>]) -> Vec<u32> {
    let prefix = |item: &Item| {
        let mut bytes = [0u8; 8];
        let key = item.document.key.as_encoded();
        let source = std::iter::once(item.namespace() as u8).chain(key.iter().copied());
        for (slot, byte) in bytes.iter_mut().zip(source) {
            *slot = byte;
        }
        u64::from_be_bytes(bytes)
    };
    let numbers = 0..u32::try_from(items.len()).unwrap_or(u32::MAX);
    let mut order: Vec<(u64, u32)> = items
        .iter()
        .zip(numbers)
        .map(|(item, number)| (prefix(item), number))
        .collect();
    order.sort_unstable_by(|(prefix_a, a), (prefix_b, b)| {
        prefix_a.cmp(prefix_b).then_with(|| {
            let key = |n: &u32| items.get(*n as usize).map(|i| i.document.key.as_encoded());
            // Equal prefixes mean equal namespaces; a higher number is a higher seqno.
            key(a).cmp(&key(b)).then_with(|| b.cmp(a))
        })
    });
    order.into_iter().map(|(_, number)| number).collect()
}

impl Sealed {
    fn edit(&self) -> Edit {
        Edit::Seal {
            place: self.place,
            segment: self.meta.clone(),
            sealed: self.meta.last_seqno,
            counts: self.counts.clone(),
        }
    }
}

impl Opened {
    /// The version with the new segment in place of the layers.
    fn applied_to(&self, version: &Version) -> Version {
        let Opened { sealed, segment } = self;
        let mut next = Version::clone(version);
        let mut counts = VbucketCounts::clone(&next.counts);
        counts.apply(&sealed.counts);
        next.counts = Arc::new(counts);
        next.sealed = sealed.meta.last_seqno;
        next.layers
            .retain(|layer| !sealed.layers.iter().any(|gone| Arc::ptr_eq(gone, layer)));
        let dead = Arc::new(RoaringTreemap::new());
        next.segments.push(SegmentView {
            segment: Arc::clone(segment),
            dead,
            dead_bytes: 0,
        });
        apply_kills(&mut next.segments, &sealed.kills);
        next
    }
}

impl Job for SealJob {
    type Output = ();

    fn step(&mut self) -> Outcome<()> {
        let result = self.advance();
        self.output.after_step(result)
    }
}
