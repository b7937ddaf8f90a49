//! The past of a vbucket: what a snapshot was at an earlier seqno, which seqno a moment was, and all versions of a key.
//!
//! Invariant: a past is a snapshot like any other, made of the same segments, cut, with only the kills that had happened,
//! and the first of the same unsealed items. It is exact or refused, as a rollback is exact or a reset (rule R11).

use std::sync::Arc;

use crate::document::{Item, Namespace};
use crate::error::StorageError;
use crate::kv_store::Snapshot;
use crate::log_store::layer::LayerView;
use crate::log_store::recovery::find_dead;
use crate::log_store::rollback::state_at;
use crate::log_store::segment::{IndexKey, KeyCursor, Patience};
use crate::log_store::snapshot::LogSnapshot;
use crate::log_store::version::{SegmentView, Version};
use crate::seqno::Seqno;
use crate::vbucket::Watermarks;

impl LogSnapshot {
    /// What it was at `to`.
    pub(crate) fn at(&self, to: Seqno) -> Result<LogSnapshot, StorageError> {
        let vbucket = self.version.place.vbucket;
        let high_seqno = self.state.watermarks.high_seqno;
        if to > high_seqno {
            return Err(StorageError::NotReached {
                vbucket,
                to,
                high_seqno,
            });
        }
        let from = self.version.exact_at(to);
        if to < from {
            return Err(StorageError::Forgotten { vbucket, to, from });
        }
        let state = state_at(&self.version, &self.views, &self.state, to)?;
        let views: Vec<LayerView> = self.views.iter().map(|view| view.up_to(to)).collect();
        let segments = segments_at(&self.version, to)?;
        let recounts = self.recounts || to < self.version.sealed;
        let version = Version {
            segments,
            ..Version::clone(&self.version)
        };
        Ok(LogSnapshot {
            version: Arc::new(version),
            views: views.into(),
            state,
            recounts,
        })
    }

    /// The highest seqno that was committed at or before that moment, as far as batch ends tell. Of those below where the
    /// past is exact most are forgotten, so a moment that seems to lie there is not known.
    pub(crate) fn seqno_at(&self, time_ms: u64) -> Result<Seqno, StorageError> {
        let exact_from = self.version.exact_at(Seqno::MAX);
        if let Some(found) = self
            .last_end_at(time_ms)?
            .filter(|found| *found >= exact_from)
        {
            return Ok(found);
        }
        Err(StorageError::ForgottenTime {
            vbucket: self.version.place.vbucket,
            time_ms,
            from_ms: Snapshot::committed_at(self, exact_from)?,
        })
    }

    fn last_end_at(&self, time_ms: u64) -> Result<Option<Seqno>, StorageError> {
        let high_seqno = self.state.watermarks.high_seqno;
        let is_wanted =
            |mark: &Watermarks| mark.high_seqno <= high_seqno && mark.commit_time_ms <= time_ms;
        let unsealed: Vec<Watermarks> = self.views.iter().flat_map(LayerView::boundaries).collect();
        if let Some(mark) = unsealed.into_iter().rfind(is_wanted) {
            return Ok(Some(mark.high_seqno));
        }
        for view in self.version.segments.iter().rev() {
            if let Some(mark) = view.segment.boundaries()?.into_iter().rfind(is_wanted) {
                return Ok(Some(mark.high_seqno));
            }
        }
        Ok(None)
    }
}

impl LogSnapshot {
    /// The newest versions of a key that are held, `most` at most, newest first.
    pub(crate) fn versions_of(
        &self,
        namespace: Namespace,
        key: &[u8],
        most: usize,
    ) -> Result<Vec<Item>, StorageError> {
        let unsealed = self.views.iter().rev();
        let unsealed = unsealed.flat_map(|view| view.versions(namespace, key));
        let unsealed = unsealed.map(|item| Item::clone(&item));
        let mut versions: Vec<Item> = unsealed.take(most).collect();
        let key = IndexKey::new(namespace, key);
        for view in self.version.segments.iter().rev() {
            if versions.len() >= most {
                break;
            }
            let mut cursor = KeyCursor::new(Arc::clone(&view.segment), key.as_bytes())?;
            while versions.len() < most
                && let Some(entry) = cursor.peek().filter(|entry| entry.key == key.as_bytes())
            {
                if entry.seqno <= view.high() {
                    let (location, seqno) = (entry.location, entry.seqno);
                    versions.push(view.segment.read_record(location, seqno, Patience::Waits)?);
                }
                cursor.advance()?;
            }
        }
        Ok(versions)
    }

    /// What the first batch left that ended at or above each of these.
    pub(crate) fn ends_of(&self, rising: &[Seqno]) -> Result<Vec<Watermarks>, StorageError> {
        let mut ends = EndsOf {
            rising,
            found: Vec::with_capacity(rising.len()),
        };
        for view in &self.version.segments {
            let Some(next) = ends.next() else {
                break;
            };
            if view.high() >= next {
                view.segment
                    .boundaries()?
                    .into_iter()
                    .for_each(|mark| ends.note(mark));
            }
        }
        let newest = self.state.watermarks;
        for mark in self.views.iter().flat_map(LayerView::boundaries) {
            ends.note(Watermarks {
                commit_time_ms: mark.commit_time_ms.min(newest.commit_time_ms),
                ..mark
            });
        }
        ends.found.resize(rising.len(), newest);
        Ok(ends.found)
    }
}

/// Seqnos whose batch ends are looked for, and those found so far.
struct EndsOf<'a> {
    rising: &'a [Seqno],
    found: Vec<Watermarks>,
}

impl EndsOf<'_> {
    fn next(&self) -> Option<Seqno> {
        self.rising.get(self.found.len()).copied()
    }

    /// The next batch end comes.
    fn note(&mut self, mark: Watermarks) {
        while self.next().is_some_and(|next| next <= mark.high_seqno) {
            self.found.push(mark);
        }
    }
}

/// The segments as they were at `to`.
fn segments_at(version: &Version, to: Seqno) -> Result<Vec<SegmentView>, StorageError> {
    if version.segments.iter().all(|view| view.high() <= to) {
        return Ok(version.segments.clone());
    }
    let mut views = Vec::with_capacity(version.segments.len());
    let begins_below = |view: &&SegmentView| view.segment.meta().first_seqno <= to;
    let below = version.segments.iter().take_while(begins_below).count();
    // The one behind may know the end of the batch before its first item; nothing else of it is seen.
    for view in version.segments.iter().take(below.saturating_add(1)) {
        let segment = if view.high() > to {
            Arc::new(view.segment.cut_at(to)?)
        } else {
            Arc::clone(&view.segment)
        };
        views.push(SegmentView {
            segment,
            dead: Arc::default(),
            dead_bytes: 0,
        });
    }
    find_dead(&mut views)?;
    Ok(views)
}
