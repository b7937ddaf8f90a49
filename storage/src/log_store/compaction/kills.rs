//! The kill lists of all segments of a compaction as one, read along with their records.
//!
//! Invariant: kills come by rising victim, each once; of what is behind nothing is kept in memory.

use std::sync::Arc;

use crate::error::StorageError;
use crate::log_store::segment::{Kill, KillCursor};
use crate::log_store::version::SegmentView;
use crate::seqno::Seqno;

/// Kills by what may be read of some segments.
#[derive(Debug)]
pub(super) struct Kills {
    lists: Vec<List>,
}

#[derive(Debug)]
struct List {
    cursor: KillCursor,
    next: Option<Kill>,
}

impl Kills {
    pub(super) fn of(views: &[SegmentView]) -> Result<Kills, StorageError> {
        let mut lists = Vec::with_capacity(views.len());
        for view in views {
            if view.segment.meta().kills > 0 {
                let mut cursor = KillCursor::new(Arc::clone(&view.segment), view.high())?;
                let next = cursor.next()?;
                lists.push(List { cursor, next });
            }
        }
        Ok(Kills { lists })
    }

    /// The next kill, if its victim is at most `victim`.
    pub(super) fn next_up_to(&mut self, victim: Seqno) -> Result<Option<Kill>, StorageError> {
        let order = |list: &&mut List| list.next.map(|kill| (kill.victim, kill.killer));
        let waiting = self.lists.iter_mut().filter(|list| list.next.is_some());
        let Some(list) = waiting.min_by_key(order) else {
            return Ok(None);
        };
        if list.next.is_none_or(|kill| kill.victim > victim) {
            return Ok(None);
        }
        let following = list.cursor.next()?;
        Ok(std::mem::replace(&mut list.next, following))
    }
}
