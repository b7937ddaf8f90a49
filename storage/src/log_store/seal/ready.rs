//! A seal of a vbucket, made ready to be published: what changes is worked out before anybody waits for it.
//!
//! Invariant: what was made ready is published only on what it was made ready for; what is only committed meanwhile
//! changes nothing of that. Publishing it is a few pointers, whatever the vbucket's size.

use std::sync::Arc;

use crate::counts::VbucketCounts;
use crate::log_store::log::payload::Edit;
use crate::log_store::segment::Segment;
use crate::log_store::version::{SegmentView, Version, apply_kills};

use super::Sealed;

/// A vbucket's new segment, open.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) sealed: Sealed,
    pub(super) segment: Arc<Segment>,
}

/// A seal of a vbucket, made ready to be published.
#[derive(Debug)]
pub(super) struct Ready {
    pub(super) opened: Opened,
    /// The segments and counts it was made ready for.
    was: Vec<SegmentView>,
    counted: Arc<VbucketCounts>,
    /// Those that take their place.
    segments: Vec<SegmentView>,
    counts: Arc<VbucketCounts>,
}

impl Opened {
    pub(super) fn edit(&self) -> Edit {
        let Sealed {
            place,
            meta,
            counts,
            ..
        } = &self.sealed;
        Edit::Seal {
            place: *place,
            segment: meta.clone(),
            sealed: meta.last_seqno,
            counts: counts.clone(),
        }
    }

    /// Works out what grows with the vbucket: which versions are dead then, and the counts.
    pub(super) fn ready(self, version: &Version) -> Ready {
        let mut segments = version.segments.clone();
        segments.push(SegmentView {
            segment: Arc::clone(&self.segment),
            dead: Arc::default(),
            dead_bytes: 0,
        });
        apply_kills(&mut segments, &self.sealed.kills);
        let mut counts = VbucketCounts::clone(&version.counts);
        counts.apply(&self.sealed.counts);
        Ready {
            opened: self,
            was: version.segments.clone(),
            counted: Arc::clone(&version.counts),
            segments,
            counts: Arc::new(counts),
        }
    }
}

impl Ready {
    /// Whether nothing of what it was made ready for has changed, nor lies elsewhere. What is only committed meanwhile
    /// changes nothing of it.
    pub(super) fn is_for(&self, version: &Version) -> bool {
        version.place == self.opened.sealed.place
            && version.purges == self.opened.sealed.purges
            && Arc::ptr_eq(&version.counts, &self.counted)
            && version.segments.len() == self.was.len()
            && version
                .segments
                .iter()
                .zip(&self.was)
                .all(|(now, then)| now.is_same(then) && Arc::ptr_eq(&now.segment, &then.segment))
    }

    /// The version with the new segment in place of the layers.
    pub(super) fn applied_to(&self, version: &Version) -> Version {
        let sealed = &self.opened.sealed;
        let mut next = Version {
            segments: self.segments.clone(),
            counts: Arc::clone(&self.counts),
            sealed: sealed.meta.last_seqno,
            ..Version::clone(version)
        };
        next.layers
            .retain(|layer| !sealed.layers.iter().any(|gone| Arc::ptr_eq(gone, layer)));
        next
    }
}
