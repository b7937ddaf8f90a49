//! Changes of documents that are not in memory, and those of the same keys that came behind them: done as they came, one after the
//! other, though each of them may have to wait for the store.
//!
//! Invariant: of a key at most one has its turn, and the next has it when that one is dropped; who goes away before is passed
//! over. Whoever holds a turn is polled by the one whose order this is: a batch, or an actor.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::oneshot;

use messages::{Busy, OperationError};
use storage::DocumentKey;

/// Most that wait behind others in one order: as many as may wait for the store.
const WAITING_MAX: usize = super::fetches::FETCHES_MAX;

/// The order in which somebody's changes are to be done.
#[derive(Debug, Default)]
pub struct Turns(Mutex<Lines>);

#[derive(Debug, Default)]
struct Lines {
    /// A key is here while somebody has its turn, with those who are to have it next.
    of: BTreeMap<DocumentKey, VecDeque<oneshot::Sender<()>>>,
    waiting: usize,
}

/// A place in the order of one key.
#[derive(Debug)]
pub(super) struct Turn {
    order: Arc<Turns>,
    key: DocumentKey,
    /// Of one that is not the first.
    before: Option<oneshot::Receiver<()>>,
}

impl Turns {
    /// Whether a change of this key is to be waited for.
    pub(super) fn has(&self, key: &DocumentKey) -> bool {
        let lines = self.0.lock();
        !lines.of.is_empty() && lines.of.contains_key(key)
    }

    /// The next place; refused when too many wait.
    pub(super) fn take(self: &Arc<Turns>, key: &DocumentKey) -> Result<Turn, OperationError> {
        let mut lines = self.0.lock();
        if lines.waiting >= WAITING_MAX {
            return Err(OperationError::TemporaryFailure(Busy::Queue));
        }
        let before = if let Some(line) = lines.of.get_mut(key) {
            let (come, before) = oneshot::channel();
            line.push_back(come);
            lines.waiting = lines.waiting.saturating_add(1);
            Some(before)
        } else {
            lines.of.insert(key.clone(), VecDeque::new());
            None
        };
        Ok(Turn {
            order: Arc::clone(self),
            key: key.clone(),
            before,
        })
    }

    /// Who had the turn is done.
    fn pass_on(&self, key: &DocumentKey) {
        let mut lines = self.0.lock();
        while let Some(next) = lines.of.get_mut(key).and_then(VecDeque::pop_front) {
            lines.waiting = lines.waiting.saturating_sub(1);
            if next.send(()).is_ok() {
                return;
            }
        }
        lines.of.remove(key);
    }
}

impl Turn {
    /// Whether all before it are done.
    pub(super) fn is_first(&self) -> bool {
        self.before.is_none()
    }

    /// Comes to an end when all before it are done.
    pub(super) async fn come(&mut self) {
        if let Some(before) = &mut self.before {
            // Whoever is in line is told, or goes away itself.
            drop(before.await);
            self.before = None;
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if let Some(before) = &mut self.before {
            before.close();
            if before.try_recv().is_err() {
                return;
            }
        }
        self.order.pass_on(&self.key);
    }
}

#[cfg(test)]
mod tests {
    use storage::CollectionId;

    use super::*;

    fn is_come(turn: &mut Turn) -> bool {
        use futures_util::FutureExt;
        turn.come().now_or_never().is_some()
    }

    #[test]
    fn turns_come_as_they_were_taken_and_pass_over_who_went_away() {
        let order = Arc::new(Turns::default());
        let key = |text: &str| DocumentKey::new(CollectionId::DEFAULT, text.as_bytes()).unwrap();
        assert!(!order.has(&key("a")));
        let first = order.take(&key("a")).unwrap();
        assert!(first.is_first() && order.has(&key("a")) && !order.has(&key("b")));
        let gone = order.take(&key("a")).unwrap();
        let mut told = order.take(&key("a")).unwrap();
        let mut last = order.take(&key("a")).unwrap();
        assert!(!is_come(&mut told) && !is_come(&mut last));
        assert!(order.take(&key("b")).unwrap().is_first());
        drop(gone);
        drop(first);
        // It has the turn now, and does not know: whoever is next must have it all the same.
        drop(told);
        assert!(is_come(&mut last));
        drop(last);
        assert!(!order.has(&key("a")));
        assert_eq!(order.0.lock().waiting, 0);
    }

    #[test]
    fn more_than_may_wait_are_refused() {
        let order = Arc::new(Turns::default());
        let key = DocumentKey::new(CollectionId::DEFAULT, b"a").unwrap();
        let all: Vec<_> = (0..=WAITING_MAX)
            .map(|_| order.take(&key).unwrap())
            .collect();
        let refused = order.take(&key).unwrap_err();
        assert_eq!(refused, OperationError::TemporaryFailure(Busy::Queue));
        drop(all);
        assert!(order.take(&key).unwrap().is_first());
    }
}
