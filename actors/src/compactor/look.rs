//! Looking at the bucket's vbuckets for the policy, a few at a time, and remembering how compactions left them.
//!
//! Invariant: a look reads figures only, never the disk for longer than a figure takes; one that was asked for while
//! another was under way begins again after that, so nothing that happened before is missed.

use std::collections::BTreeMap;
use std::time::Duration;

use super::desk::{Compactor, CompactorConfig};
use super::policy::{self, Past, Reason, VbucketFigures};
use storage::{KvStore, LogStore, Seqno, StorageError, VbucketId};

/// Without being asked to, it looks so often: for what grows old.
const LOOK_EVERY: Duration = Duration::from_secs(60);
/// After an opening it looks not before: what was asked of the bucket comes first.
const FIRST_LOOK: Duration = Duration::from_secs(1);
/// Vbuckets looked at in one step.
const SLICE: usize = 32;

#[derive(Debug)]
pub(super) struct Look {
    /// The next vbucket of the look under way.
    at: Option<u16>,
    /// When the next look begins (monotonic).
    next_at: Duration,
    /// How rewrites of this opening left them.
    past: BTreeMap<VbucketId, Past>,
}

impl Look {
    pub(super) fn new(now: Duration) -> Look {
        Look {
            at: None,
            next_at: now.saturating_add(FIRST_LOOK),
            past: BTreeMap::new(),
        }
    }

    pub(super) fn soon(&mut self, now: Duration) {
        self.next_at = self.next_at.min(now);
    }

    pub(super) fn next_at(&self) -> Duration {
        self.next_at
    }

    pub(super) fn is_under_way(&self) -> bool {
        self.at.is_some()
    }

    /// Looks at the next few; which of them are to be compacted, the most urgent first.
    pub(super) fn slice(
        &mut self,
        compactor: &Compactor,
        store: &LogStore,
    ) -> Vec<(VbucketId, Reason)> {
        let now = compactor.now();
        let first = match self.at {
            Some(at) => at,
            None if self.next_at <= now => {
                self.next_at = now.saturating_add(LOOK_EVERY);
                0
            }
            None => return Vec::new(),
        };
        let count = compactor.config().table.vbuckets();
        let mut rest = (first..count).filter_map(VbucketId::new);
        let slice: Vec<VbucketId> = rest.by_ref().take(SLICE).collect();
        self.at = rest.next().map(VbucketId::get);
        let now_s = compactor.now_s();
        let seen = slice.into_iter().filter(|id| !compactor.has(*id));
        let seen = seen.filter_map(|id| {
            compactor.config().table.vbucket(id).ok()?;
            // One that is down, or deleted a moment ago, has nothing to compact.
            let figures = self.figures(compactor.config(), store, id, now_s).ok()?;
            Some((id, figures))
        });
        let seen: Vec<(VbucketId, VbucketFigures)> = seen.collect();
        let with_past = seen
            .iter()
            .map(|(id, figures)| (*id, figures, self.past.get(id)));
        let chosen = policy::choose(&compactor.config().policy, with_past, now_s);
        for (vbucket, reason) in &chosen {
            tracing::debug!(%vbucket, ?reason, "to be compacted");
        }
        chosen
    }

    /// How a vbucket stands before a compaction. `None`: it cannot be said.
    pub(super) fn before(
        &self,
        compactor: &Compactor,
        vbucket: VbucketId,
        store: &LogStore,
    ) -> Option<VbucketFigures> {
        let now_s = compactor.now_s();
        let figures = self.figures(compactor.config(), store, vbucket, now_s);
        figures.ok()
    }

    /// A rewrite that began at those figures is complete.
    pub(super) fn note_compacted(
        &mut self,
        compactor: &Compactor,
        vbucket: VbucketId,
        began: &VbucketFigures,
        store: &LogStore,
    ) {
        let at_s = compactor.now_s();
        let after = self.figures(compactor.config(), store, vbucket, at_s);
        // One of another past was not compacted.
        if let Some(after) = after.ok().filter(|after| after.of == began.of) {
            let floor = compactor.config().history_floor;
            let keeps_history = floor != Seqno::MAX || store.retention().is_some();
            let left = began.unchanged_in(after, keeps_history);
            self.past.insert(vbucket, Past { at_s, left });
        }
    }

    fn figures(
        &self,
        config: &CompactorConfig,
        store: &LogStore,
        vbucket: VbucketId,
        now_s: u32,
    ) -> Result<VbucketFigures, StorageError> {
        let snapshot = store.snapshot(vbucket)?;
        let written_at = snapshot.state().watermarks.commit_time_ms / 1000;
        let mut figures = VbucketFigures {
            of: (snapshot.incarnation(), snapshot.epoch()),
            space: store.file_statistics(vbucket)?,
            dropped: snapshot.dropped_collections(),
            written_at_s: u32::try_from(written_at).unwrap_or(u32::MAX),
            history_s: store.retention().map_or(0, |retention| retention.window_s),
            ..VbucketFigures::default()
        };
        let past = self.past.get(&vbucket);
        if policy::tombstones_count(&figures, past, now_s, config.purge_age) {
            let total = snapshot.counts()?.total();
            let of = |figure: i64| u64::try_from(figure).unwrap_or(0);
            figures.tombstones = of(total.tombstones).saturating_add(of(total.aborts));
            figures.documents = of(total.documents);
        }
        Ok(figures)
    }
}
