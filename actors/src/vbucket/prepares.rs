//! The prepares of one vbucket in memory, beside its documents: which keys have a durable write under way.
//!
//! Invariant: changed under the vbucket's lock only, and for each key the newest of its prepares and aborts, as the
//! checkpoint log must know it: one that is over stays as its seqno for as long as the open checkpoint may hold it. Reads
//! come here without the vbucket's lock, and look no further than one number when nothing here concerns them.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::Arc;

use super::memory;
use crate::durability::Prepare;
use crate::sync::RwLock;
use crate::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use storage::{DocumentKey, Item, KeyRange, MemoryAccount, MemoryToken, Operation, Seqno};

/// The newest of a key's prepares and aborts.
#[derive(Debug)]
enum Slot {
    /// A prepare that is not over.
    Open {
        item: Arc<Item>,
        /// It may have been committed elsewhere.
        is_maybe_visible: bool,
    },
    /// What is over: where the newest lies.
    Over { newest: Seqno, _token: MemoryToken },
}

impl Slot {
    /// Whether a prepare at or above `start` may have been committed elsewhere.
    fn hides(&self, start: Seqno) -> bool {
        match self {
            Slot::Open {
                item,
                is_maybe_visible,
            } => *is_maybe_visible && item.seqno >= start,
            Slot::Over { .. } => false,
        }
    }
}

#[derive(Debug, Default)]
struct Table {
    slots: BTreeMap<DocumentKey, Slot>,
    /// Those that are over, to be forgotten in the order of their seqnos.
    over: BTreeMap<Seqno, DocumentKey>,
}

/// The table.
#[derive(Debug)]
pub(super) struct Prepares {
    table: RwLock<Table>,
    open: AtomicUsize,
    maybe_visible: AtomicUsize,
    bytes: AtomicU64,
    /// The store holds prepares that are not here yet.
    is_unloaded: AtomicBool,
}

impl Prepares {
    /// An empty table; `is_unloaded` when the store has what is to be loaded.
    pub(super) fn new(is_unloaded: bool) -> Prepares {
        Prepares {
            table: RwLock::new(Table::default()),
            open: AtomicUsize::new(0),
            maybe_visible: AtomicUsize::new(0),
            bytes: AtomicU64::new(0),
            is_unloaded: AtomicBool::new(is_unloaded),
        }
    }

    /// Whether a read of this key may see nothing, because a prepare at or above `start`, where the life of its collection
    /// began, may have been committed elsewhere. To be asked before the document is read: a commit is put in the map first.
    #[inline]
    pub(super) fn hides(&self, key: &DocumentKey, start: Seqno) -> bool {
        if self.maybe_visible.load(Ordering::Acquire) == 0 {
            return false;
        }
        let table = self.table.read();
        let slot = table.slots.get(key);
        slot.is_some_and(|slot| slot.hides(start))
    }

    /// The same for any of these keys.
    pub(super) fn hides_any(&self, keys: &KeyRange, start: Seqno) -> bool {
        if self.maybe_visible.load(Ordering::Acquire) == 0 {
            return false;
        }
        let is_wanted = |key: &DocumentKey| {
            let (key, end) = (key.as_encoded(), keys.end.as_deref());
            keys.first.as_slice() <= key && end.is_none_or(|end| key < end)
        };
        let table = self.table.read();
        let mut slots = table.slots.iter();
        slots.any(|(key, slot)| is_wanted(key) && slot.hides(start))
    }

    /// The prepare of this key that is not over, if there is one at or above `start`.
    #[inline]
    pub(super) fn open_of(&self, key: &DocumentKey, start: Seqno) -> Option<Arc<Item>> {
        if self.open.load(Ordering::Acquire) == 0 {
            return None;
        }
        match self.table.read().slots.get(key) {
            Some(Slot::Open { item, .. }) if item.seqno >= start => Some(Arc::clone(item)),
            _ => None,
        }
    }

    /// What the checkpoint log must know of the key: the newest of its prepares and aborts, if the open checkpoint may hold
    /// it, or it is not over.
    pub(super) fn newest(&self, key: &DocumentKey) -> Option<Seqno> {
        self.table.read().slots.get(key).map(|slot| match slot {
            Slot::Open { item, .. } => item.seqno,
            Slot::Over { newest, .. } => *newest,
        })
    }

    /// A prepare is in the log, in the place of what was there of its key. The same again changes nothing.
    pub(super) fn put(&self, item: &Arc<Item>, is_maybe_visible: bool) {
        let mut table = self.table.write();
        let slot = Slot::Open {
            item: Arc::clone(item),
            is_maybe_visible,
        };
        self.count(&slot);
        let before = table.slots.insert(item.document.key.clone(), slot);
        self.forget(&mut table, before);
    }

    /// The prepare of this key that lies below `ended_at` is over, if there is one; `newest` is what the log knows of the
    /// key, unless it lies below `open_start`. The same again changes nothing.
    pub(super) fn end(
        &self,
        key: &DocumentKey,
        ended_at: Seqno,
        newest: Newest,
        memory: &Arc<MemoryAccount>,
    ) {
        let Newest { abort, open_start } = newest;
        if self.open.load(Ordering::Acquire) == 0 && abort.is_none() {
            return;
        }
        let mut table = self.table.write();
        let before = match table.slots.get(key) {
            Some(Slot::Open { item, .. }) if item.seqno < ended_at => Some(item.seqno),
            Some(Slot::Open { .. }) => return,
            Some(Slot::Over { .. }) | None => None,
        };
        let Some(newest) = abort.or(before) else {
            return;
        };
        let ended = table.slots.remove(key);
        self.forget(&mut table, ended);
        if newest >= open_start {
            let token = memory.charge(memory::cost_bytes(key, 0));
            let slot = Slot::Over {
                newest,
                _token: token,
            };
            table.slots.insert(key.clone(), slot);
            table.over.insert(newest, key.clone());
        }
    }

    /// Forgets where what is over lies that the open checkpoint, which begins at `open_start`, does not hold.
    pub(super) fn forget_below(&self, open_start: Seqno) {
        let is_old = |table: &Table| {
            let oldest = table.over.first_key_value();
            oldest.is_some_and(|(seqno, _)| *seqno < open_start)
        };
        if !is_old(&self.table.read()) {
            return;
        }
        let mut table = self.table.write();
        while is_old(&table)
            && let Some((seqno, key)) = table.over.pop_first()
        {
            if let Entry::Occupied(slot) = table.slots.entry(key)
                && matches!(slot.get(), Slot::Over { newest, .. } if *newest == seqno)
            {
                slot.remove();
            }
        }
    }

    /// Every prepare that is not over may be committed elsewhere from now on.
    pub(super) fn make_maybe_visible(&self) {
        let mut table = self.table.write();
        for slot in table.slots.values_mut() {
            if let Slot::Open {
                is_maybe_visible, ..
            } = slot
                && !std::mem::replace(is_maybe_visible, true)
            {
                self.maybe_visible.fetch_add(1, Ordering::AcqRel);
            }
        }
    }

    /// The prepares that are not over, in the order of their keys.
    pub(super) fn outstanding(&self) -> Vec<Prepare> {
        let table = self.table.read();
        let open = table.slots.values().filter_map(|slot| match slot {
            Slot::Open { item, .. } => prepare_of(item),
            Slot::Over { .. } => None,
        });
        open.collect()
    }

    /// The same, each with whether it may have been committed elsewhere.
    pub(super) fn shown(&self) -> Vec<(Prepare, bool)> {
        let table = self.table.read();
        let open = table.slots.values().filter_map(|slot| match slot {
            Slot::Open {
                item,
                is_maybe_visible,
            } => Some((prepare_of(item)?, *is_maybe_visible)),
            Slot::Over { .. } => None,
        });
        open.collect()
    }

    /// The lowest prepare that is not over.
    pub(super) fn first_open(&self) -> Option<Seqno> {
        let table = self.table.read();
        let open = table.slots.values().filter_map(|slot| match slot {
            Slot::Open { item, .. } => Some(item.seqno),
            Slot::Over { .. } => None,
        });
        open.min()
    }

    /// Forgets everything; `is_unloaded` when it is to be loaded anew.
    pub(super) fn clear(&self, is_unloaded: bool) {
        self.is_unloaded.store(is_unloaded, Ordering::Release);
        let mut table = self.table.write();
        for slot in std::mem::take(&mut table.slots).into_values() {
            self.discount(&slot);
        }
        table.over.clear();
    }

    /// All that the store held is here.
    pub(super) fn note_loaded(&self) {
        self.is_unloaded.store(false, Ordering::Release);
    }

    /// Whether the store holds prepares that are not here yet.
    pub(super) fn is_unloaded(&self) -> bool {
        self.is_unloaded.load(Ordering::Acquire)
    }

    /// How many are not over.
    pub(super) fn open(&self) -> usize {
        self.open.load(Ordering::Acquire)
    }

    /// How many of these may have been committed elsewhere.
    pub(super) fn maybe_visible(&self) -> usize {
        self.maybe_visible.load(Ordering::Acquire)
    }

    /// Bytes of those that are not over, as they are charged.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    fn forget(&self, table: &mut Table, slot: Option<Slot>) {
        let Some(slot) = slot else { return };
        self.discount(&slot);
        if let Slot::Over { newest, .. } = slot {
            table.over.remove(&newest);
        }
    }

    fn count(&self, slot: &Slot) {
        if let Slot::Open {
            item,
            is_maybe_visible,
        } = slot
        {
            self.open.fetch_add(1, Ordering::AcqRel);
            let visible = usize::from(*is_maybe_visible);
            self.maybe_visible.fetch_add(visible, Ordering::AcqRel);
            let bytes = memory::charged_bytes(item);
            self.bytes.fetch_add(bytes, Ordering::Relaxed);
        }
    }

    fn discount(&self, slot: &Slot) {
        if let Slot::Open {
            item,
            is_maybe_visible,
        } = slot
        {
            self.open.fetch_sub(1, Ordering::AcqRel);
            let visible = usize::from(*is_maybe_visible);
            self.maybe_visible.fetch_sub(visible, Ordering::AcqRel);
            let bytes = memory::charged_bytes(item);
            self.bytes.fetch_sub(bytes, Ordering::Relaxed);
        }
    }
}

/// What the checkpoint log knows of a key whose prepare is over.
#[derive(Clone, Copy, Debug)]
pub(super) struct Newest {
    /// The abort, if that is how it ended.
    pub(super) abort: Option<Seqno>,
    /// Where the open checkpoint begins.
    pub(super) open_start: Seqno,
}

/// An item as a monitor tracks it, if it is a prepare.
pub(super) fn prepare_of(item: &Item) -> Option<Prepare> {
    let Operation::Prepare { level, .. } = item.operation else {
        return None;
    };
    Some(Prepare {
        seqno: item.seqno,
        key: item.document.key.clone(),
        level,
    })
}
