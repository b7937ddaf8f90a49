//! What the frames that are whole tell of one vbucket, whatever between them was lost.
//!
//! Invariant: nothing is refused because something before it is missing, as recovery must: a record says what is, and what it
//! contradicts gives way, since the newer life and the newer epoch win. Called for a vbucket that is set aside.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::document::Item;
use crate::log_store::image::Image;
use crate::log_store::log::payload::{self, Edit, LoggedBatch, Place, Record};
use crate::log_store::log::reader::FoundFrame;
use crate::log_store::segment::SegmentMeta;
use crate::log_store::version::RollbackMark;
use crate::seqno::{Seqno, SeqnoRange};
use crate::vbucket::{RollbackEpoch, VbucketId, VbucketIdentity, Watermarks};

/// The newest life of a vbucket.
#[derive(Debug)]
pub(super) struct Life {
    place: Place,
    rollbacks: Vec<RollbackMark>,
    /// The last frame whose edits and states are in here.
    covers: u64,
    pub(super) identity: Option<Arc<VbucketIdentity>>,
    pub(super) watermarks: Option<Watermarks>,
    /// By rising seqno, none above another.
    pub(super) segments: Vec<SegmentMeta>,
    /// Every item up to here lies in the segments, or did.
    pub(super) sealed: Seqno,
    /// Every item of its branch that the log holds, sealed or not.
    pub(super) items: BTreeMap<Seqno, Arc<Item>>,
    /// Below `sealed`, what no segment that is known answers for.
    gaps: Vec<SeqnoRange>,
    /// Whether it is known from its beginning on.
    is_begun: bool,
}

/// The lives of a vbucket, frame by frame.
pub(super) struct Lives {
    vbucket: VbucketId,
    pub(super) newest: Option<Life>,
    /// The frame that should come next.
    expected: u64,
    /// A frame is missing since the last seal.
    is_broken: bool,
    /// Whether none is missing at all.
    pub(super) is_whole: bool,
}

impl Lives {
    /// From what the manifest knew of it; the log begins behind frame `begin`.
    pub(super) fn new(vbucket: VbucketId, image: Option<Image>, begin: u64) -> Lives {
        Lives {
            vbucket,
            newest: image.map(Life::of_image),
            expected: begin.saturating_add(1),
            is_broken: false,
            is_whole: true,
        }
    }

    pub(super) fn frame(&mut self, frame: &FoundFrame) {
        let sequence = frame.position.sequence;
        let records = payload::read(&frame.payload);
        if records.is_err() || sequence > self.expected {
            self.is_broken = true;
            self.is_whole = false;
        }
        self.expected = sequence.saturating_add(1);
        for record in records.unwrap_or_default() {
            match record {
                Record::Batch(batch) if batch.place.vbucket == self.vbucket => {
                    let life = self.life_at(batch.place, sequence);
                    life.batch(batch, sequence);
                }
                Record::Edit(edit) if edit.place().vbucket == self.vbucket => {
                    self.edit(*edit, sequence);
                }
                Record::Batch(_) | Record::Edit(_) => {}
            }
        }
    }

    /// The life a record speaks of, or the newer one there is. How one began may be lost.
    fn life_at(&mut self, place: Place, sequence: u64) -> &mut Life {
        let is_new = |life: &Life| life.place.incarnation < place.incarnation;
        if self.newest.as_ref().is_some_and(is_new) {
            self.newest = None;
        }
        let begun = || Life::new(place, sequence.saturating_sub(1));
        self.newest.get_or_insert_with(begun)
    }

    fn edit(&mut self, edit: Edit, sequence: u64) {
        if self
            .newest
            .as_ref()
            .is_some_and(|life| sequence <= life.covers)
        {
            return;
        }
        match edit {
            Edit::Delete { .. } => self.newest = None,
            Edit::Create {
                place,
                identity,
                watermarks,
            } => {
                let mut life = Life::new(place, sequence);
                life.identity = Some(identity);
                life.watermarks = Some(watermarks);
                life.is_begun = true;
                self.newest = Some(life);
            }
            edit @ (Edit::Rollback { .. }
            | Edit::Seal { .. }
            | Edit::Merge { .. }
            | Edit::Relocate { .. }) => {
                let is_broken = self.is_broken;
                self.is_broken &= !matches!(edit, Edit::Seal { .. });
                let life = self.life_at(edit.place(), sequence);
                life.edit(edit, is_broken);
            }
        }
    }
}

impl Life {
    fn new(place: Place, covers: u64) -> Life {
        Life {
            place,
            rollbacks: Vec::new(),
            covers,
            identity: None,
            watermarks: None,
            segments: Vec::new(),
            sealed: Seqno::ZERO,
            items: BTreeMap::new(),
            gaps: Vec::new(),
            is_begun: false,
        }
    }

    fn of_image(image: Image) -> Life {
        Life {
            rollbacks: image.rollbacks,
            identity: Some(image.identity),
            watermarks: Some(image.watermarks),
            segments: image.segments,
            sealed: image.sealed,
            is_begun: true,
            ..Life::new(image.place, image.covers)
        }
    }

    /// What may have been there and is not known, by rising seqno; what the log has of it is no loss.
    pub(super) fn gaps(&self) -> Vec<SeqnoRange> {
        if self.is_begun {
            return self.gaps.clone();
        }
        // Nothing says which segments there were: what neither one that is known nor the log has may have been in another.
        let mut gaps = Vec::new();
        let mut first = Seqno(1);
        for meta in &self.segments {
            let last = before(meta.first_seqno);
            gaps.push(SeqnoRange { first, last });
            first = first.max(meta.last_seqno.min(meta.visible_last()).next());
        }
        let logged = self.items.keys().next().map(|seqno| before(*seqno));
        let known = self.watermarks.map(|watermarks| watermarks.high_seqno);
        let last = logged.or(known).unwrap_or(Seqno::MAX).max(self.sealed);
        gaps.push(SeqnoRange { first, last });
        gaps.retain(|gap| gap.first <= gap.last);
        gaps
    }

    fn batch(&mut self, batch: LoggedBatch, sequence: u64) {
        if batch.place.incarnation != self.place.incarnation {
            return;
        }
        let high = batch.watermarks.high_seqno;
        let first = batch.items.first().map_or(high.next(), |item| item.seqno);
        self.come_to(batch.place.epoch, first);
        let epoch = batch.place.epoch;
        let later = self.rollbacks.iter().filter(|mark| mark.epoch > epoch);
        if later.clone().any(|mark| mark.is_reset) {
            return;
        }
        let limit = later.map(|mark| mark.to).min().unwrap_or(Seqno::MAX);
        for item in batch.items {
            if item.seqno <= limit {
                self.items.insert(item.seqno, item);
            }
        }
        if sequence > self.covers {
            self.watermarks = Some(batch.watermarks);
            self.identity = batch.identity.or(self.identity.take());
        }
    }

    fn edit(&mut self, edit: Edit, is_broken: bool) {
        let place = edit.place();
        if place.incarnation != self.place.incarnation || place.epoch < self.place.epoch {
            return;
        }
        match edit {
            Edit::Create { .. } | Edit::Delete { .. } => {}
            Edit::Rollback {
                to,
                identity,
                watermarks,
                is_reset,
                segments,
                ..
            } => {
                let kept = if is_reset { Seqno::ZERO } else { to };
                let epoch = RollbackEpoch(place.epoch.0.saturating_add(1));
                self.come_to(epoch, kept.next());
                self.segments = segments;
                self.identity = Some(identity);
                self.watermarks = Some(watermarks);
            }
            Edit::Seal {
                segment, sealed, ..
            } => {
                self.come_to(place.epoch, segment.first_seqno);
                let last = before(segment.first_seqno);
                let first = self.sealed.next();
                if is_broken && first <= last {
                    self.gaps.push(SeqnoRange { first, last });
                }
                self.insert(segment);
                self.sealed = self.sealed.max(sealed);
            }
            Edit::Merge { inputs, output, .. } => {
                self.come_to(place.epoch, output.last_seqno.next());
                self.segments.retain(|meta| !inputs.contains(&meta.id));
                self.sealed = self
                    .sealed
                    .max(output.last_seqno.min(output.visible_last()));
                self.gaps
                    .retain(|gap| gap.first < output.first_seqno || gap.last > output.last_seqno);
                self.insert(output);
            }
            Edit::Relocate {
                segment,
                container,
                offset,
                ..
            } => {
                let mut metas = self.segments.iter_mut();
                if let Some(meta) = metas.find(|meta| meta.id == segment) {
                    meta.container = container;
                    meta.offset = offset;
                }
            }
        }
    }

    /// A record is of this epoch, and begins with `first`: what an older one had from there on is undone, also where the
    /// rollback itself was lost.
    fn come_to(&mut self, epoch: RollbackEpoch, first: Seqno) {
        if epoch <= self.place.epoch {
            return;
        }
        self.place.epoch = epoch;
        let last = before(first);
        drop(self.items.split_off(&first));
        self.sealed = self.sealed.min(last);
        self.gaps.retain(|gap| gap.last <= last);
        self.segments.retain(|meta| meta.first_seqno <= last);
        self.cut(last);
    }

    /// What another segment answers for is no longer of this one.
    fn insert(&mut self, segment: SegmentMeta) {
        let first = segment.first_seqno;
        let is_above = |meta: &SegmentMeta| meta.first_seqno > segment.last_seqno;
        let above: Vec<SegmentMeta> = self
            .segments
            .iter()
            .filter(|meta| is_above(meta))
            .cloned()
            .collect();
        self.segments.retain(|meta| meta.first_seqno < first);
        self.cut(before(first));
        self.segments.push(segment);
        self.segments.extend(above);
    }

    fn cut(&mut self, last: Seqno) {
        for meta in &mut self.segments {
            if meta.last_seqno.min(meta.visible_last()) > last {
                meta.cut = Some(last);
            }
        }
    }
}

fn before(seqno: Seqno) -> Seqno {
    Seqno(seqno.0.saturating_sub(1))
}
