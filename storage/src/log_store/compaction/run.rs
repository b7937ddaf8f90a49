//! What a compaction works on: some segments of a vbucket as they were when it began, and what was found to go.
//!
//! Invariant: the segments lie next to each other and reach up to the newest one there was. So what supersedes their
//! versions lies in them, or was sealed since; and what they supersede in older segments stays superseded, because their
//! kills go on in the output.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use roaring::RoaringTreemap;

use crate::collections::DroppedCollection;
use crate::compaction::{CompactionRequest, Completions, Highest, Rules};
use crate::counts::{VbucketCounts, Weight};
use crate::document::split;
use crate::error::StorageError;
use crate::log_store::log::payload::Place;
use crate::log_store::segment::{Chunk, SeqnoCursor};
use crate::log_store::version::{SegmentView, Version};
use crate::seqno::Seqno;
use crate::vbucket::Watermarks;

use super::found::Found;
use super::marks::BatchEnds;

/// Bytes read at once to look up one record.
const LOOK_UP_BYTES: usize = 1;

/// The segments, and what goes.
#[derive(Debug)]
pub(super) struct Run {
    pub(super) place: Place,
    pub(super) views: Vec<SegmentView>,
    /// Versions below lie in older segments, which stay as they are; zero where there are none.
    pub(super) older_below: Seqno,
    /// `None` when only what is superseded goes.
    pub(super) rules: Option<Rules>,
    /// Still to be passed over.
    pub(super) dropped: VecDeque<DroppedCollection>,
    pub(super) found: Found,
}

impl Run {
    /// Lets go what the rules of a request say; the run is of all segments.
    pub(super) fn purges(
        &mut self,
        version: &Version,
        request: &CompactionRequest,
    ) -> Result<(), StorageError> {
        let mut completions = Completions::default();
        let mut last = Watermarks::default();
        let mut ends = BatchEnds::of(&self.views)?;
        while let Some(mark) = ends.next_below(Seqno::MAX)? {
            completions.note(&mark);
            last = mark;
        }
        for mark in version.before_unsealed() {
            completions.note(&mark);
            last = mark;
        }
        let highest = Highest::of(&version.counts);
        let rules = Rules::new(request.clone(), &last, highest, completions);
        let erases = |one: &&DroppedCollection| rules.erases(one);
        self.dropped = version.dropped.iter().filter(erases).copied().collect();
        self.rules = Some(rules);
        Ok(())
    }

    /// Of the segments from number `first` on, of which only what is superseded goes.
    pub(super) fn from(version: &Version, first: usize) -> Run {
        let (older, views) = version
            .segments
            .split_at_checked(first)
            .unwrap_or((&version.segments, &[]));
        let oldest = views.first().filter(|_| !older.is_empty());
        let older_below = oldest.map_or(Seqno::ZERO, |view| view.segment.meta().first_seqno);
        let exact_from = views.iter().map(|view| view.segment.meta().exact_from);
        Run {
            place: version.place,
            older_below,
            rules: None,
            dropped: VecDeque::new(),
            found: Found {
                exact_from: exact_from.max().unwrap_or_default(),
                ..Found::default()
            },
            views: views.to_vec(),
        }
    }

    /// Where the segments are among those of `version`; nothing when they are no longer all there.
    pub(super) fn inputs_in(&self, version: &Version) -> Option<Range<usize>> {
        let id = |view: &SegmentView| view.segment.meta().id;
        let first = id(self.views.first()?);
        let first = version.segments.iter().position(|view| id(view) == first)?;
        let range = first..first.checked_add(self.views.len())?;
        let inputs = version.segments.get(range.clone())?;
        let are_same = inputs.iter().map(id).eq(self.views.iter().map(id));
        are_same.then_some(range)
    }

    /// What these versions counted, read anew.
    pub(super) fn counts_of(&self, seqnos: &RoaringTreemap) -> Result<VbucketCounts, StorageError> {
        let mut counts = VbucketCounts::default();
        let mut wanted = seqnos.iter().map(Seqno).peekable();
        for view in &self.views {
            while let Some(seqno) = wanted.peek().copied().filter(|at| *at <= view.high()) {
                let mut cursor = SeqnoCursor::new(Arc::clone(&view.segment), seqno);
                let mut chunk = cursor.next_chunk(LOOK_UP_BYTES)?;
                while let Some(record) = chunk.as_mut().and_then(Chunk::next) {
                    let item = record?.item;
                    while wanted.next_if(|at| *at < item.seqno).is_some() {}
                    if wanted.next_if_eq(&item.seqno).is_some()
                        && let Ok((collection, _)) = split(item.key)
                    {
                        counts.gained(collection, Weight::of_view(&item), Seqno::ZERO);
                    }
                }
                // One that is nowhere would be looked for again and again.
                wanted.next_if_eq(&seqno);
            }
        }
        Ok(counts)
    }
}
