//! The store behind a handle that can be reopened through recovery, because a store that is poisoned must never be
//! used on (design section 8).
//!
//! Life cycle: open; recalled (somebody found that only recovery helps: no new lease is given, and holders should
//! come to an end); missing (the old store and its lock are gone, the new one did not open yet); open again, one
//! generation later; closed or abandoned, for ever. Invariant: a new store is opened only after the last lease of the old one
//! was returned, so two stores never work on the same files.

use std::fmt;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::executor::WakeWorker;
use storage::{KvStore, LogStore, StorageError, VbucketStatus};

/// Which opening of the store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StoreGeneration(pub u64);

/// Opens the store, the first time and after a recall; draws new entropy each time.
pub type OpenStore = Box<dyn Fn() -> Result<LogStore, StorageError> + Send + Sync>;

/// The store, for whoever works with it. Clones are the same handle.
#[derive(Clone)]
pub struct StoreHandle {
    shared: Arc<Shared>,
}

struct Shared {
    open: OpenStore,
    state: Mutex<State>,
    /// Told when something changed that somebody may wait for.
    watchers: Mutex<Vec<WakeWorker>>,
}

struct State {
    held: Held,
    generation: StoreGeneration,
    leases: usize,
    /// Why the store must be reopened, if it must.
    recall: Option<StorageError>,
    is_opening: bool,
    /// No lease and no reopening any more.
    is_closing: bool,
    /// Let go of as soon as nobody uses it.
    is_abandoned: bool,
}

impl State {
    /// The store, if it is to be let go of now; to be dropped outside the lock.
    fn left_over(&mut self) -> Option<Held> {
        let is_left = self.is_abandoned && self.leases == 0;
        is_left.then(|| std::mem::replace(&mut self.held, Held::Closed))
    }
}

enum Held {
    Open(LogStore),
    Missing(StorageError),
    Closed,
}

/// What [`StoreHandle::reopen`] came to.
#[must_use = "a store that did not open must be tried again"]
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reopening {
    /// The store is open, and nobody asks for another opening.
    Open,
    /// A new store was opened just now.
    Reopened(StoreGeneration),
    /// Others still use the old store, or open the new one; watchers are woken when that ended.
    Waiting,
    /// It did not open; to be tried again later.
    Failed(StorageError),
    /// The store was closed for ever.
    Closed,
}

impl StoreHandle {
    /// A handle to an open store, which `open` opens anew when needed.
    #[must_use]
    pub fn new(store: LogStore, open: OpenStore) -> StoreHandle {
        let state = State {
            held: Held::Open(store),
            generation: StoreGeneration(1),
            leases: 0,
            recall: None,
            is_opening: false,
            is_closing: false,
            is_abandoned: false,
        };
        StoreHandle {
            shared: Arc::new(Shared {
                open,
                state: Mutex::new(state),
                watchers: Mutex::new(Vec::new()),
            }),
        }
    }

    /// Has `wake` called when the store was reopened or closed, or the last lease of a recalled one returned.
    pub fn watch(&self, wake: WakeWorker) {
        self.shared.watchers.lock().push(wake);
    }

    /// The store for one job, or why there is none now.
    pub fn lease(&self) -> Result<StoreLease, StorageError> {
        let mut state = self.shared.state.lock();
        if state.is_closing {
            return Err(StorageError::Closed);
        }
        if let Some(cause) = &state.recall {
            return Err(cause.clone());
        }
        let store = match &state.held {
            Held::Open(store) => store.clone(),
            Held::Missing(cause) => return Err(cause.clone()),
            Held::Closed => return Err(StorageError::Closed),
        };
        state.leases = state.leases.saturating_add(1);
        Ok(StoreLease {
            store,
            generation: state.generation,
            lent: Lent(Arc::clone(&self.shared)),
        })
    }

    /// Which opening this is; rises with every reopening.
    #[must_use]
    pub fn generation(&self) -> StoreGeneration {
        self.shared.state.lock().generation
    }

    /// Whether it was closed or abandoned, or is about to be: nobody gets a lease any more, and whatever was read from the
    /// store may not be read on.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.shared.state.lock().is_closing
    }

    /// Says that the store of that generation may not be used on: only recovery helps. Nothing happens when it was
    /// replaced already.
    pub fn recall(&self, generation: StoreGeneration, cause: StorageError) {
        let mut state = self.shared.state.lock();
        let is_of_now = state.generation == generation && matches!(state.held, Held::Open(_));
        if !is_of_now || state.recall.is_some() {
            return;
        }
        tracing::warn!(generation = generation.0, %cause, "the store must be reopened");
        state.recall = Some(cause);
        drop(state);
        self.shared.wake_watchers();
    }

    /// Whether somebody must call [`StoreHandle::reopen`].
    #[must_use]
    pub fn wants_reopening(&self) -> bool {
        let state = self.shared.state.lock();
        match state.held {
            Held::Open(_) => state.recall.is_some() && !state.is_closing,
            Held::Missing(_) => !state.is_closing,
            Held::Closed => false,
        }
    }

    /// Replaces a recalled store by a new one, if nobody uses it any more. Blocks on the disk, never on others.
    pub fn reopen(&self) -> Reopening {
        let old = {
            let mut state = self.shared.state.lock();
            match &state.held {
                Held::Closed => return Reopening::Closed,
                Held::Open(_) | Held::Missing(_) if state.is_closing => return Reopening::Closed,
                Held::Open(_) if state.recall.is_none() => return Reopening::Open,
                Held::Open(_) | Held::Missing(_) => {}
            }
            if state.leases > 0 || state.is_opening {
                return Reopening::Waiting;
            }
            state.is_opening = true;
            let cause = state.recall.take().unwrap_or(StorageError::Closed);
            match std::mem::replace(&mut state.held, Held::Missing(cause)) {
                Held::Open(store) => Some(store),
                missing @ (Held::Missing(_) | Held::Closed) => {
                    state.held = missing;
                    None
                }
            }
        };
        let opening = Opening(&self.shared);
        // With it goes its lock on the directory.
        drop(old);
        let opened = (self.shared.open)();
        let mut state = self.shared.state.lock();
        state.is_opening = false;
        let reopening = match (opened, &state.held) {
            (_, Held::Closed) => Reopening::Closed,
            (Ok(store), _) => {
                state.held = Held::Open(store);
                state.generation.0 = state.generation.0.saturating_add(1);
                Reopening::Reopened(state.generation)
            }
            (Err(cause), _) => {
                state.held = Held::Missing(cause.clone());
                Reopening::Failed(cause)
            }
        };
        drop(state);
        // Tells the watchers.
        drop(opening);
        reopening
    }

    /// Lets go of the store as it is, for ever, and with it of its directory: nobody gets a lease any more, and nothing
    /// more is written. While others still use it this happens with the last lease.
    pub fn abandon(&self) {
        let left_over = {
            let mut state = self.shared.state.lock();
            state.is_closing = true;
            state.is_abandoned = true;
            state.left_over()
        };
        drop(left_over);
        self.shared.wake_watchers();
    }

    /// Closes the store for ever, in order: nobody gets a lease any more. `None` while others still use it; watchers
    /// are woken when they ended. `last` is done behind everything else, while the directory is still ours, with what
    /// the store holds: there the mark of a clean shutdown is written.
    #[must_use]
    pub fn close(
        &self,
        last: impl FnOnce(&[VbucketStatus]) -> Result<(), StorageError>,
    ) -> Option<Result<(), StorageError>> {
        let held = {
            let mut state = self.shared.state.lock();
            state.is_closing = true;
            if state.leases > 0 || state.is_opening {
                return None;
            }
            std::mem::replace(&mut state.held, Held::Closed)
        };
        self.shared.wake_watchers();
        Some(match held {
            Held::Open(store) => {
                // A clone keeps the lock on the directory.
                let held = store.clone();
                store.close().and_then(|()| last(&held.vbuckets()))
            }
            Held::Missing(cause) => Err(cause),
            Held::Closed => Ok(()),
        })
    }
}

impl Shared {
    fn wake_watchers(&self) {
        let watchers = self.watchers.lock().clone();
        for watcher in watchers {
            watcher.wake();
        }
    }
}

impl fmt::Debug for StoreHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.shared.state.lock();
        f.debug_struct("StoreHandle")
            .field("generation", &state.generation)
            .field("leases", &state.leases)
            .field("recall", &state.recall)
            .finish_non_exhaustive()
    }
}

/// Held while the store is opened: a panic there must not leave others waiting.
struct Opening<'h>(&'h Shared);

impl Drop for Opening<'_> {
    fn drop(&mut self) {
        self.0.state.lock().is_opening = false;
        self.0.wake_watchers();
    }
}

/// The store for the time of one job. Whatever job was made from it must have ended before it is dropped.
pub struct StoreLease {
    // Dropped before `lent`: the store must be gone when its return is told.
    store: LogStore,
    generation: StoreGeneration,
    lent: Lent,
}

impl StoreLease {
    /// The store; not to be kept beyond the lease.
    #[must_use]
    pub fn store(&self) -> &LogStore {
        &self.store
    }

    /// Which opening of it.
    #[must_use]
    pub fn generation(&self) -> StoreGeneration {
        self.generation
    }

    /// Whether the job should come to an end, because the store must be reopened or closed.
    #[must_use]
    pub fn is_recalled(&self) -> bool {
        let state = self.lent.0.state.lock();
        state.recall.is_some() || state.is_closing
    }
}

impl fmt::Debug for StoreLease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoreLease")
            .field("generation", &self.generation)
            .finish_non_exhaustive()
    }
}

/// One lease, counted until dropped.
struct Lent(Arc<Shared>);

impl Drop for Lent {
    fn drop(&mut self) {
        let mut state = self.0.state.lock();
        state.leases = state.leases.saturating_sub(1);
        let is_awaited = state.leases == 0 && (state.recall.is_some() || state.is_closing);
        let left_over = state.left_over();
        drop(state);
        drop(left_over);
        if is_awaited {
            self.0.wake_watchers();
        }
    }
}
