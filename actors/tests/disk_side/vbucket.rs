//! A vbucket that is only its log: what it was given, how far it was taken, what it was told.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;

use messages::DownCause;
use piggin_actors::flusher::{FlushTake, Flushable};
use piggin_actors::warmup::Warmable;
use storage::{
    Cas, CollectionId, Document, DocumentKey, Item, Seqno, SystemEvent, VbucketId, VbucketIdentity,
    Watermarks,
};

#[derive(Debug)]
pub(crate) struct LogVbucket {
    pub(crate) id: VbucketId,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "what it was told, each for itself"
)]
struct Inner {
    log: Vec<Arc<Item>>,
    /// Everything up to there was on disk when the log began.
    base: Seqno,
    cursor: Seqno,
    persisted: Seqno,
    identity: Option<Arc<VbucketIdentity>>,
    identity_pending: bool,
    is_disk_full: bool,
    down: Option<DownCause>,
    warm: BTreeMap<Vec<u8>, Item>,
    is_warm: bool,
    is_held: bool,
    panics_on_note: u32,
}

pub(crate) fn key(number: u64) -> DocumentKey {
    DocumentKey::new(CollectionId::DEFAULT, format!("key-{number}").as_bytes()).unwrap()
}

impl LogVbucket {
    pub(crate) fn new(id: u16, base: Seqno) -> Arc<LogVbucket> {
        let inner = Inner {
            base,
            cursor: base,
            persisted: base,
            ..Inner::default()
        };
        Arc::new(LogVbucket {
            id: VbucketId::new(id).unwrap(),
            inner: Mutex::new(inner),
        })
    }

    /// Appends a new version of a key.
    pub(crate) fn write(&self, key_number: u64, value: &[u8]) -> Seqno {
        let mut inner = self.inner.lock();
        let seqno = inner.high().next();
        let document = Document::new(
            key(key_number),
            Bytes::copy_from_slice(value),
            Cas(seqno.0 + 1),
        );
        inner.log.push(Arc::new(Item::mutation(seqno, document)));
        seqno
    }

    pub(crate) fn change_state(&self, identity: VbucketIdentity) {
        let mut inner = self.inner.lock();
        inner.identity = Some(Arc::new(identity));
        inner.identity_pending = true;
    }

    pub(crate) fn items(&self) -> Vec<Arc<Item>> {
        self.inner.lock().log.clone()
    }

    pub(crate) fn is_disk_full(&self) -> bool {
        self.inner.lock().is_disk_full
    }

    pub(crate) fn warm(&self) -> Vec<Item> {
        self.inner.lock().warm.values().cloned().collect()
    }

    pub(crate) fn is_warm(&self) -> bool {
        self.inner.lock().is_warm
    }

    pub(crate) fn is_held(&self) -> bool {
        self.inner.lock().is_held
    }

    /// The next so many notes that something is on disk panic.
    pub(crate) fn panic_on_notes(&self, count: u32) {
        self.inner.lock().panics_on_note = count;
    }
}

impl Inner {
    fn high(&self) -> Seqno {
        self.log.last().map_or(self.base, |item| item.seqno)
    }
}

impl Flushable for LogVbucket {
    fn take_for_flush(&self, items_max: usize, bytes_max: usize) -> Option<FlushTake> {
        let mut inner = self.inner.lock();
        if inner.down.is_some() {
            return None;
        }
        let mut bytes = 0;
        let mut items = Vec::new();
        let cursor = inner.cursor;
        for item in inner.log.iter().filter(|item| item.seqno > cursor) {
            if items.len() == items_max || (bytes >= bytes_max && !items.is_empty()) {
                break;
            }
            bytes += usize::try_from(item.user_bytes()).unwrap();
            items.push(Arc::clone(item));
        }
        let high = items.last().map_or(inner.cursor, |item| item.seqno);
        let has_more = high < inner.high();
        let identity = if !has_more && std::mem::take(&mut inner.identity_pending) {
            inner.identity.clone()
        } else {
            None
        };
        if items.is_empty() && identity.is_none() {
            return None;
        }
        inner.cursor = high;
        Some(FlushTake {
            items,
            watermarks: Watermarks::at(high, 1),
            identity,
            has_more,
        })
    }

    fn note_persisted(&self, seqno: Seqno) {
        let mut inner = self.inner.lock();
        if inner.panics_on_note > 0 {
            inner.panics_on_note -= 1;
            drop(inner);
            panic!("asked for by the test");
        }
        inner.persisted = inner.persisted.max(seqno);
    }

    fn resync(&self, persisted: Seqno) {
        let mut inner = self.inner.lock();
        inner.cursor = persisted;
        inner.persisted = inner.persisted.max(persisted);
        inner.identity_pending = inner.identity.is_some();
    }

    fn has_unflushed(&self) -> bool {
        let inner = self.inner.lock();
        inner.down.is_none() && (inner.cursor < inner.high() || inner.identity_pending)
    }

    fn high_seqno(&self) -> Seqno {
        self.inner.lock().high()
    }

    fn persisted_seqno(&self) -> Seqno {
        self.inner.lock().persisted
    }

    fn settled_seqno(&self) -> Seqno {
        self.inner.lock().persisted
    }

    fn set_disk_full(&self, is_full: bool) {
        self.inner.lock().is_disk_full = is_full;
    }

    fn down(&self) -> Option<DownCause> {
        self.inner.lock().down.clone()
    }

    fn take_down(&self, cause: DownCause) {
        self.inner.lock().down = Some(cause);
    }

    fn bring_up(&self) {
        self.inner.lock().down = None;
    }
}

impl Warmable for LogVbucket {
    fn warm_insert(&self, item: Item) {
        let mut inner = self.inner.lock();
        let key = item.document.key.as_encoded().to_vec();
        inner.warm.entry(key).or_insert(item);
    }

    fn warm_collections(&self, _: Vec<(Seqno, SystemEvent)>) {}

    fn warm_prepares(&self, _: Vec<Item>) {}

    fn warm_done(&self) {
        self.inner.lock().is_warm = true;
    }

    fn hold_writes(&self, is_held: bool) {
        self.inner.lock().is_held = is_held;
    }

    fn take_down(&self, cause: DownCause) {
        self.inner.lock().down = Some(cause);
    }
}
