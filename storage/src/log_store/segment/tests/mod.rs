//! Promises of segments: what went in comes out, damage never does, and the format does not change by accident.

mod damage;
mod refusals;
mod round_trip;
mod support;
mod tail;

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::RwLock;
use proptest::collection::{btree_map, vec};
use proptest::prelude::*;

use self::support::*;
use super::block::{BlockHeader, BlockTable};
use super::fields::saturating_usize;
use super::filter::Filter;
use super::footer::{END_BYTES, Footer};
use super::key_index::{IndexTop, Page};
use super::seqno_cursor::RawRecord;
use super::*;
use crate::cas::Cas;
use crate::disk::{DiskError, DiskErrorKind, DiskFile, Verb};
use crate::document::{
    CollectionId, Datatype, DeleteSource, Document, Expiry, Item, Operation, Predecessor, RevSeqno,
};
use crate::durability::DurabilityLevel;
use crate::error::{Refusal, StorageError};
use crate::kv_store::ItemView;
use crate::memory::MemoryToken;
use crate::seqno::SnapshotRange;
use crate::vbucket::{Incarnation, RollbackEpoch, SnapshotKind, VbucketId, Watermarks};
