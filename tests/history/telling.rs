//! What is told of a history, judged against a list of all that was written: first what there was when the history began,
//! then every version, by rising seqno, none missing and none twice.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;

use piggin::messages::stream::{
    SnapshotFlags, SnapshotMarker, StreamEndReason, StreamEvent, StreamFilter,
};
use piggin::storage::{CollectionId, DocumentKey, Item, Seqno, SystemEvent, VbucketId};
use piggin::{Bucket, Change, ChangesOptions, ChangesToken, Since, Until};
use supervisor::testing::{Clock, World};

const PATIENCE: Duration = Duration::from_secs(60);

/// A version that was written; no value for a deletion.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Written {
    pub(crate) key: DocumentKey,
    pub(crate) value: Option<Vec<u8>>,
    pub(crate) time: Duration,
}

/// Everything that was written. Between two documents lie the events of collections.
#[derive(Debug, Default)]
pub(crate) struct Journal {
    pub(crate) written: BTreeMap<VbucketId, BTreeMap<Seqno, Written>>,
    pub(crate) dropped: BTreeMap<CollectionId, Duration>,
}

/// What a run did, so that it is known whether anything was tried.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Tried {
    pub(crate) prologues: u64,
    pub(crate) from_memory: u64,
    pub(crate) cursors_dropped: u64,
    pub(crate) rollbacks: u64,
    pub(crate) breaks: u64,
    /// Deletions told to one who may have what they delete, of before the history.
    pub(crate) tombstones: u64,
}

impl Tried {
    pub(crate) fn add(&mut self, other: &Tried) {
        self.prologues += other.prologues;
        self.from_memory += other.from_memory;
        self.cursors_dropped += other.cursors_dropped;
        self.rollbacks += other.rollbacks;
        self.breaks += other.breaks;
        self.tombstones += other.tombstones;
    }
}

/// How far one vbucket was told, and what is not judged yet.
#[derive(Debug, Default)]
pub(crate) struct Told {
    /// Everything up to here was told, and found right.
    at: Seqno,
    last: Seqno,
    snapshot: Option<SnapshotMarker>,
    /// What there was when the history began, as far as it was told.
    before: Vec<(Seqno, Option<Item>)>,
    ended: BTreeSet<CollectionId>,
    /// Version by version from here on.
    is_dense: bool,
}

impl Told {
    fn has(&self, flag: SnapshotFlags) -> bool {
        self.snapshot.is_some_and(|marker| marker.flags.has(flag))
    }

    /// A stream begins behind what was told, whatever that was.
    fn begin(&mut self) {
        self.at = self.last;
        self.snapshot = None;
        self.before.clear();
        self.ended.clear();
        self.is_dense = false;
    }

    fn open(&mut self, marker: SnapshotMarker) {
        let is_history = marker.flags.has(SnapshotFlags::HISTORY);
        let is_disk = marker.flags.has(SnapshotFlags::DISK);
        let repeats = marker.flags.has(SnapshotFlags::MAY_CONTAIN_DUPLICATES);
        assert_eq!(repeats, is_history && is_disk, "{marker:?}");
        assert!(is_history || is_disk, "{marker:?}: memory has all of it");
        let is_second = self.snapshot.is_some_and(|before| {
            let is_same = (marker.start, marker.end) == (before.start, before.end);
            is_same && is_history && !before.flags.has(SnapshotFlags::HISTORY)
        });
        // Perhaps of a stream that was opened again, which nobody is told.
        if !is_second {
            self.begin();
        }
        // Where memory goes on nothing lies between.
        self.is_dense = !is_disk;
        self.snapshot = Some(marker);
    }
}

/// Follows a bucket and judges what it is told.
pub(crate) struct Reader {
    world: World,
    window: Duration,
    /// Nothing of other collections is told.
    only: Option<CollectionId>,
    told: BTreeMap<VbucketId, Told>,
    pub(crate) token: Option<ChangesToken>,
    ends: BTreeMap<VbucketId, StreamEndReason>,
    pub(crate) tried: Tried,
}

impl Reader {
    /// One that was told nothing yet.
    pub(crate) fn new(world: &World, window: Duration) -> Reader {
        Reader {
            world: world.clone(),
            window,
            only: None,
            told: BTreeMap::new(),
            token: None,
            ends: BTreeMap::new(),
            tried: Tried::default(),
        }
    }

    /// One that wants a collection only.
    pub(crate) fn only(self, collection: CollectionId) -> Reader {
        Reader {
            only: Some(collection),
            ..self
        }
    }

    /// Whether a version is missing of those behind `at`, up to `to`. To one who is told everything every seqno is told; between
    /// the documents lie the events of collections.
    fn is_any_missing(&self, journal: &Journal, id: VbucketId, at: Seqno, to: Seqno) -> bool {
        let Some(only) = self.only else {
            return at != to;
        };
        let written = journal.written.get(&id).into_iter().flatten();
        let mut between = written.filter(|(seqno, _)| at < **seqno && **seqno <= to);
        between.any(|(_, written)| written.key.collection() == only)
    }

    fn options(&self, until: Until) -> ChangesOptions {
        ChangesOptions {
            since: self.token.clone().map_or(Since::Beginning, Since::Token),
            until,
            filter: self.only.map_or(StreamFilter::All, |only| {
                StreamFilter::Collections(vec![only])
            }),
            history: true,
            // Little, so that flow control has something to do.
            buffer_bytes: 1,
            ..ChangesOptions::default()
        }
    }

    pub(crate) async fn open(&mut self, bucket: &Bucket, until: Until) -> piggin::Changes {
        self.ends.clear();
        self.told.values_mut().for_each(Told::begin);
        let options = self.options(until);
        bucket.changes(options).await.expect("changes")
    }

    pub(crate) fn take(&mut self, journal: &Journal, change: Change) {
        let Change { vbucket, event } = change;
        let told = self.told.entry(vbucket).or_default();
        match event {
            StreamEvent::SnapshotMarker(marker) => {
                self.tried.from_memory += u64::from(!marker.flags.has(SnapshotFlags::DISK));
                told.open(*marker);
            }
            StreamEvent::Mutation(item)
            | StreamEvent::Deletion(item)
            | StreamEvent::Expiration(item) => {
                self.version(journal, vbucket, item.seqno, Some(&item));
            }
            StreamEvent::SystemEvent(event) => {
                if let SystemEvent::CollectionEnd { collection, .. } = event.event {
                    told.ended.insert(collection);
                }
                self.version(journal, vbucket, event.seqno, None);
            }
            StreamEvent::SeqnoAdvanced(seqno) => {
                told.last = seqno;
                self.judge(journal, vbucket, seqno);
            }
            StreamEvent::Prepare(_) | StreamEvent::Commit(_) | StreamEvent::Abort(_) => {
                panic!("{vbucket}: told to one who is no replica");
            }
            StreamEvent::StreamEnd(reason) => {
                self.ends.insert(vbucket, reason);
            }
        }
    }

    fn version(
        &mut self,
        journal: &Journal,
        id: VbucketId,
        seqno: Seqno,
        item: Option<&Arc<Item>>,
    ) {
        let told = self.told.entry(id).or_default();
        let marker = told.snapshot.expect("a marker before it");
        assert!(told.last < seqno && seqno <= marker.end, "{id}: {seqno}");
        told.last = seqno;
        if !told.has(SnapshotFlags::HISTORY) {
            let item = item.map(|item| Item::clone(item));
            told.before.push((seqno, item));
            if seqno == marker.end {
                self.judge(journal, id, seqno);
            }
            return;
        }
        self.judge(journal, id, Seqno(seqno.0 - 1));
        let told = self.told.entry(id).or_default();
        let of_it = journal.written.get(&id);
        let written = of_it.and_then(|all| all.get(&seqno));
        assert_same(id, seqno, item.map(|item| &**item), written);
        told.at = seqno;
    }

    /// Everything up to `to` was told: the newest of each key as of then, or, behind that, every version.
    fn judge(&mut self, journal: &Journal, id: VbucketId, to: Seqno) {
        let (now, window) = (self.world.clock().since_epoch(), self.window);
        let at = self.told.entry(id).or_default().at;
        let is_any_missing = self.is_any_missing(journal, id, at, to);
        let told = self.told.entry(id).or_default();
        if told.is_dense || told.at == to {
            assert!(
                !is_any_missing,
                "{id}: a version is missing of {at} to {to}"
            );
            assert!(told.before.is_empty(), "{id}: {:?}", told.before);
            told.is_dense = true;
            told.at = to;
            return;
        }
        let empty = BTreeMap::new();
        let all = journal.written.get(&id).unwrap_or(&empty);
        let is_wanted = |written: &Written| {
            self.only
                .is_none_or(|only| written.key.collection() == only)
        };
        if let Some(newest) = all.get(&to).filter(|newest| is_wanted(newest)) {
            let is_past = newest.time + window <= now;
            assert!(is_past, "{id}: {to} is no history, but of {newest:?}");
        }
        let mut expected = BTreeMap::new();
        for (seqno, written) in all.range(..=to) {
            if is_wanted(written) {
                expected.insert(&written.key, (*seqno, written));
            }
        }
        expected.retain(|_, (seqno, _)| *seqno > told.at);
        self.tried.prologues += u64::from(!expected.is_empty());
        for (seqno, item) in &told.before {
            let Some(item) = item else { continue };
            let found = expected.remove(&item.document.key);
            assert_eq!(found.map(|(at, _)| at), Some(*seqno), "{id}: as of {to}");
            assert_same(id, *seqno, Some(item), found.map(|(_, written)| written));
            let deletes = item.operation.is_tombstone() && told.at > Seqno::ZERO;
            self.tried.tombstones += u64::from(deletes);
        }
        for (key, (seqno, written)) in expected {
            let collection = key.collection();
            let is_dropped =
                |time: &Duration| *time + window <= now || told.ended.contains(&collection);
            // Who goes on may have what was deleted.
            let is_nothing = written.value.is_none() && told.at == Seqno::ZERO;
            let may_lack = is_nothing || journal.dropped.get(&collection).is_some_and(is_dropped);
            assert!(
                may_lack,
                "{id}: {written:?} at {seqno} is missing as of {to}"
            );
        }
        told.before.clear();
        told.is_dense = true;
        told.at = to;
    }

    /// What a consumer does when a vbucket no longer has what it got: it begins anew with it.
    pub(crate) fn forget_rolled_back(&mut self) {
        for (vbucket, end) in &self.ends {
            if *end == StreamEndReason::Rollback {
                self.told.remove(vbucket);
                self.tried.rollbacks += 1;
                if let Some(token) = &mut self.token {
                    token.forget(*vbucket);
                }
            }
        }
        let broke = |end: &&StreamEndReason| !matches!(end, StreamEndReason::Ok);
        self.tried.breaks += self.ends.values().filter(broke).count() as u64;
    }

    /// Everything up to now.
    pub(crate) async fn catch_up(&mut self, bucket: &Bucket, journal: &Journal) {
        for attempt in 0.. {
            let mut changes = self.open(bucket, Until::Now).await;
            while let Some(change) = timeout(PATIENCE, changes.next()).await.expect("progress") {
                self.take(journal, change);
            }
            self.token = Some(changes.token());
            self.forget_rolled_back();
            if self.ends.values().all(|end| *end == StreamEndReason::Ok) {
                break;
            }
            assert!(attempt < 4, "{:?}", self.ends);
        }
        for (id, written) in &journal.written {
            let mut wanted = written.iter().rev();
            let is_wanted = |written: &Written| {
                self.only
                    .is_none_or(|only| written.key.collection() == only)
            };
            let newest = wanted.find(|(_, written)| is_wanted(written));
            let newest = newest.map_or(Seqno::ZERO, |(seqno, _)| *seqno);
            let at = self.told.get(id).map_or(Seqno::ZERO, |told| told.at);
            assert!(at >= newest, "{id}: told up to {at} of {newest}");
        }
    }
}

fn assert_same(id: VbucketId, seqno: Seqno, item: Option<&Item>, written: Option<&Written>) {
    let value = |item: &Item| {
        let is_there = !item.operation.is_tombstone();
        is_there.then(|| item.document.value.to_vec())
    };
    let told = item.map(|item| (item.document.key.clone(), value(item)));
    let written = written.map(|written| (written.key.clone(), written.value.clone()));
    let shown = |version: &Option<(DocumentKey, Option<Vec<u8>>)>| {
        let (key, value) = version.as_ref()?;
        let number = value
            .as_ref()
            .map(|value| value.split(|byte| *byte == b' ').next());
        Some(format!(
            "{key:?} {:?}",
            number.flatten().map(String::from_utf8_lossy)
        ))
    };
    let (told_as, written_as) = (shown(&told), shown(&written));
    assert!(
        told == written,
        "{id}: at {seqno} {told_as:?}, not {written_as:?}"
    );
}
