//! One fixed value of every encoding: for the conformance table, and as seeds of the fuzzing corpus.
//!
//! Invariant: the values never change (their bytes are pinned), and every field that could be mistaken for another
//! has a value of its own, so that two fields that change places change the bytes.

use std::sync::Arc;

use bytes::Bytes;

use crate::cas::Cas;
use crate::collections::DroppedCollection;
use crate::counts::{CollectionCounts, VbucketCounts};
use crate::document::{
    CollectionId, Datatype, DeleteSource, Document, DocumentKey, Expiry, Item, KeyError, Operation,
    Predecessor, RevSeqno,
};
use crate::durability::DurabilityLevel;
use crate::failover_table::{FailoverEntry, FailoverTable};
use crate::kv_store::{Batch, ItemView};
use crate::log_store::identity::Identity;
use crate::log_store::image::Image;
use crate::log_store::log::file::LogFileHeader;
use crate::log_store::log::frame::{FileIdentity, FrameHeader, LogPosition, Touched};
use crate::log_store::log::payload::{Edit, Place};
use crate::log_store::manifest::{ManifestOwner, ShardRecord};
use crate::log_store::options::CreateOptions;
use crate::log_store::record;
use crate::log_store::segment::SegmentMeta;
use crate::log_store::version::RollbackMark;
use crate::memory::MemoryToken;
use crate::seqno::{Seqno, SnapshotRange};
use crate::vbucket::{
    Incarnation, RollbackEpoch, SnapshotKind, Topology, VbucketId, VbucketIdentity, VbucketState,
    VbucketUuid, Watermarks,
};

pub(crate) const STORE_ID: u64 = 0x1122_3344_5566_7788;

pub(crate) const OWNER: ManifestOwner = ManifestOwner {
    store_id: STORE_ID,
    shard: 1,
    number: 9,
};

pub(crate) const FILE: FileIdentity = FileIdentity {
    number: 5,
    nonce: 0x0123_4567_89ab_cdef,
};

pub(crate) const IDENTITY: Identity = Identity {
    retention: None,
    store_id: STORE_ID,
    shape: CreateOptions::of(64, 2),
};

pub(crate) const LOG_FILE_HEADER: LogFileHeader = LogFileHeader {
    store_id: STORE_ID,
    shard: 1,
    identity: FILE,
    capacity: 65_536,
};

/// Every operation there is, by name, with predecessors of every kind among them.
pub(crate) const OPERATIONS: [(&str, Operation, Predecessor); 12] = [
    ("mutation", Operation::Mutation, Predecessor::Unknown),
    (
        "mutation of a new key",
        Operation::Mutation,
        Predecessor::Absent,
    ),
    (
        "mutation of a known key",
        Operation::Mutation,
        Predecessor::At(Seqno(299)),
    ),
    (
        "deletion",
        Operation::Deletion {
            deleted_at: 1_700_000_000,
            source: DeleteSource::Explicit,
        },
        Predecessor::Unknown,
    ),
    (
        "expiration",
        Operation::Deletion {
            deleted_at: 1_700_000_001,
            source: DeleteSource::Expiration,
        },
        Predecessor::Unknown,
    ),
    (
        "prepare",
        Operation::Prepare {
            level: DurabilityLevel::Majority,
            is_deletion: false,
        },
        Predecessor::Unknown,
    ),
    (
        "prepare of a deletion",
        Operation::Prepare {
            level: DurabilityLevel::PersistToMajority,
            is_deletion: true,
        },
        Predecessor::Unknown,
    ),
    (
        "abort",
        Operation::Abort {
            prepare_seqno: Seqno(290),
            deleted_at: 1_700_000_002,
        },
        Predecessor::Unknown,
    ),
    (
        "commit",
        Operation::CommitMutation {
            prepare_seqno: Seqno(291),
        },
        Predecessor::Unknown,
    ),
    (
        "commit of a deletion",
        Operation::CommitDeletion {
            prepare_seqno: Seqno(292),
            deleted_at: 1_700_000_003,
        },
        Predecessor::At(Seqno(1)),
    ),
    (
        "system event begins",
        Operation::SystemEventBegin,
        Predecessor::Unknown,
    ),
    (
        "system event ends",
        Operation::SystemEventEnd,
        Predecessor::Unknown,
    ),
];

pub(crate) fn item(operation: Operation, predecessor: Predecessor) -> Result<Item, KeyError> {
    Ok(Item {
        seqno: Seqno(300),
        operation,
        predecessor,
        document: Document {
            key: DocumentKey::new(CollectionId(200), b"the key")?,
            value: Bytes::from_static(b"{\"the\":\"value\"}"),
            datatype: Datatype::JSON,
            flags: 0xdead_beef,
            expiry: Expiry(1_800_000_000),
            cas: Cas(0x0102_0304_0506_0708),
            rev_seqno: RevSeqno(70_000),
        },
        token: MemoryToken::default(),
    })
}

pub(crate) fn record(operation: Operation, predecessor: Predecessor) -> Result<Vec<u8>, KeyError> {
    let mut bytes = Vec::new();
    record::encode(&mut bytes, &ItemView::of(&item(operation, predecessor)?));
    Ok(bytes)
}

pub(crate) fn frame_header() -> FrameHeader {
    FrameHeader {
        sequence: 41,
        synced_through: 40,
        payload_length: 1234,
        payload_crc: 0xcafe_f00d,
        touched: Touched(0x8000_0000_0000_0000_0000_0000_0000_0003),
        continues: LogPosition {
            file: 4,
            sequence: 39,
        },
    }
}

pub(crate) fn watermarks() -> Watermarks {
    Watermarks {
        high_seqno: Seqno(300),
        max_visible_seqno: Seqno(299),
        prepared_seqno: Seqno(298),
        completed_seqno: Seqno(297),
        high_prepared_seqno: Seqno(296),
        purge_seqno: Seqno(295),
        snapshot: SnapshotRange {
            start: Seqno(294),
            end: Seqno(301),
        },
        snapshot_kind: SnapshotKind::Disk,
        commit_time_ms: 1_700_000_000_123,
    }
}

pub(crate) fn identity() -> Arc<VbucketIdentity> {
    let entries = [(0xabcd, 250), (0x1234, 0)].map(|(uuid, seqno)| FailoverEntry {
        uuid: VbucketUuid(uuid),
        seqno: Seqno(seqno),
    });
    let fresh = FailoverTable::new(VbucketUuid(0x1234));
    Arc::new(VbucketIdentity {
        state: VbucketState::Replica,
        failover_table: FailoverTable::sanitized(entries).unwrap_or(fresh),
        topology: Topology {
            chains: vec![vec![Some("node-a".into()), None], Vec::new()],
        },
        manifest_uid: 77,
    })
}

/// `None` never: the number is in range.
pub(crate) fn place() -> Option<Place> {
    Some(Place {
        vbucket: VbucketId::new(513)?,
        incarnation: Incarnation(12),
        epoch: RollbackEpoch(3),
    })
}

pub(crate) fn segment_meta() -> SegmentMeta {
    SegmentMeta {
        id: 21,
        container: 22,
        offset: 4096,
        length: 2_586,
        first_seqno: Seqno(23),
        last_seqno: Seqno(280),
        exact_from: Seqno(24),
        records: 25,
        data_bytes: 2_000,
        kills: 26,
        footer_crc: 0x0bad_cafe,
        cut: Some(Seqno(270)),
    }
}

pub(crate) fn counts() -> VbucketCounts {
    let figures = CollectionCounts {
        documents: 1,
        document_bytes: -2,
        tombstones: 3,
        prepares: -4,
        prepare_bytes: 5,
        aborts: 6,
        system_events: 7,
        high_seqno: Seqno(280),
    };
    VbucketCounts {
        collections: [(CollectionId(200), figures)].into(),
    }
}

pub(crate) fn dropped() -> DroppedCollection {
    DroppedCollection {
        collection: CollectionId(9),
        start: Seqno(31),
        end: Seqno(32),
    }
}

/// Every edit there is, by name.
pub(crate) fn edits(place: Place) -> [(&'static str, Edit); 6] {
    [
        (
            "create",
            Edit::Create {
                place,
                identity: identity(),
                watermarks: watermarks(),
            },
        ),
        ("delete", Edit::Delete { place }),
        (
            "rollback",
            Edit::Rollback {
                place,
                to: Seqno(270),
                identity: identity(),
                watermarks: watermarks(),
                is_reset: false,
                segments: vec![segment_meta()],
                boundaries: vec![Watermarks::default()],
                counts: counts(),
            },
        ),
        (
            "seal",
            Edit::Seal {
                place,
                segment: segment_meta(),
                sealed: Seqno(280),
                counts: counts(),
            },
        ),
        (
            "merge",
            Edit::Merge {
                place,
                inputs: vec![19, 20],
                output: segment_meta(),
                counts: counts(),
                purge_seqno: Seqno(265),
                erased: vec![dropped()],
            },
        ),
        (
            "relocate",
            Edit::Relocate {
                place,
                segment: 21,
                container: 30,
                offset: 8192,
            },
        ),
    ]
}

pub(crate) fn batch(place: Place) -> Result<Batch, KeyError> {
    let mut first = item(Operation::Mutation, Predecessor::Absent)?;
    first.seqno = Seqno(299);
    let second = item(Operation::SystemEventBegin, Predecessor::At(Seqno(299)))?;
    Ok(Batch {
        vbucket: place.vbucket,
        incarnation: place.incarnation,
        epoch: place.epoch,
        items: vec![Arc::new(first), Arc::new(second)],
        watermarks: watermarks(),
        identity: Some(identity()),
    })
}

pub(crate) fn image(place: Place) -> Image {
    let mark = RollbackMark {
        epoch: RollbackEpoch(3),
        to: Seqno(270),
        watermarks: watermarks(),
        is_reset: true,
        sequence: 35,
    };
    Image {
        place,
        rollbacks: vec![mark],
        identity: identity(),
        watermarks: watermarks(),
        base: vec![Watermarks::default(), watermarks()],
        segments: vec![segment_meta()],
        sealed: Seqno(280),
        exact_from: Seqno(24),
        counts: counts(),
        dropped: vec![dropped()],
        covers: 38,
        needs_from: 36,
    }
}

pub(crate) const SHARD_RECORD: ShardRecord = ShardRecord {
    covers: 38,
    begin_file: 3,
    begin_sequence: 31,
    synced_file: 4,
    synced_sequence: 40,
    is_clean: true,
    next_incarnation: 13,
    next_segment: 27,
    next_container: 28,
    next_log_file: 6,
};
