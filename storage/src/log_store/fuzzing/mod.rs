//! The decoders as functions of arbitrary bytes: what fuzz targets and the pass over the committed corpus call.
//!
//! Invariant: a target returns for every input, without a panic and without memory beyond a small multiple of the
//! input; what it can read it can write, and reads back as the same. Not part of the public interface.
#![expect(
    clippy::missing_panics_doc,
    reason = "a panic is how a target says that something is broken"
)]

pub(crate) mod stores;
mod segment;
mod recovery;
mod operations;
mod seeds;
#[cfg(test)]
mod tests;

use std::fmt::Debug;

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::counts::VbucketCounts;
use crate::failover_table::FailoverTable;
use crate::kv_store::Batch;
use crate::log_store::identity::{FORMAT_VERSION, Identity};
use crate::log_store::image::Image;
use crate::log_store::log::file::LogFileHeader;
use crate::log_store::log::frame::FrameHeader;
use crate::log_store::log::payload::{Edit, Record};
use crate::log_store::manifest::{Manifest, RawEntry};
use crate::log_store::{codec, log, manifest as manifest_file, record as item_record, samples};
use crate::vbucket::{VbucketId, VbucketIdentity};

pub use operations::store_ops;
pub use recovery::log_recovery;
pub use seeds::{Seed, seeds};
pub use segment::segment;

/// A fuzz target: its name, which is that of its corpus folder, and what it runs.
pub type Target = (&'static str, fn(&[u8]));

/// Every target, the quick ones first.
pub const TARGETS: [Target; 8] = [
    ("record", record),
    ("headers", headers),
    ("payload", payload),
    ("metadata", metadata),
    ("manifest", manifest),
    ("segment", segment),
    ("log_recovery", log_recovery),
    ("store_ops", store_ops),
];

/// An item record.
pub fn record(bytes: &[u8]) {
    let Ok((view, rest)) = item_record::decode(bytes) else {
        return;
    };
    let mut again = Vec::new();
    item_record::encode(&mut again, &view);
    assert!(again.len().saturating_add(rest.len()) <= bytes.len());
    assert_eq!(item_record::decode(&again), Ok((view, &[][..])));
}

/// Everything of fixed length: frame header, log file header, identity.
pub fn headers(bytes: &[u8]) {
    if let Some(header) = FrameHeader::decode(bytes, samples::FILE, 8192) {
        let again = header.encode(samples::FILE, 8192);
        assert!(bytes.starts_with(&again));
    }
    if let Some(header) = LogFileHeader::decode(bytes) {
        assert!(bytes.starts_with(&header.encode()));
    }
    if let Ok(identity) = Identity::decode(bytes) {
        let again = identity.encode(FORMAT_VERSION);
        assert_eq!(Identity::decode(&again), Ok(identity));
    }
}

/// A frame's payload.
pub fn payload(bytes: &[u8]) {
    let Ok(records) = log::payload::read(&Bytes::copy_from_slice(bytes)) else {
        return;
    };
    let mut again = Vec::new();
    for record in &records {
        match record {
            Record::Batch(logged) => {
                let batch = Batch {
                    vbucket: logged.place.vbucket,
                    incarnation: logged.place.incarnation,
                    epoch: logged.place.epoch,
                    items: logged.items.clone(),
                    watermarks: logged.watermarks,
                    identity: logged.identity.clone(),
                };
                let identity = logged.identity.as_deref().map(encoded);
                let identity = identity.as_deref();
                log::payload::put_batch(&mut again, &batch, &batch.watermarks, identity);
            }
            Record::Edit(edit) => log::payload::put_edit(&mut again, &encoded(&**edit)),
        }
    }
    let read = log::payload::read(&again.into());
    assert_eq!(
        format!("{read:?}"),
        format!("{:?}", Ok::<_, String>(records))
    );
}

/// Every kind of metadata.
pub fn metadata(bytes: &[u8]) {
    round_trip::<Edit>(bytes);
    round_trip::<Image>(bytes);
    round_trip::<VbucketIdentity>(bytes);
    round_trip::<VbucketCounts>(bytes);
    if let Some(table) = round_trip::<FailoverTable>(bytes) {
        let sanitized = FailoverTable::sanitized(table.entries().iter().copied());
        assert_eq!(sanitized, Some(table));
    }
}

/// A manifest: as it is, and with checksums made to fit, so that what they guard is reached too.
pub fn manifest(bytes: &[u8]) {
    let whole = Bytes::copy_from_slice(bytes);
    read_entries(&whole, manifest_file::decode(&whole, "m", samples::OWNER));
    let Some((head_length, rest)) = bytes.split_first_chunk::<2>() else {
        return;
    };
    let head_length = usize::from(u16::from_le_bytes(*head_length)).min(rest.len());
    let (head, entries) = rest.split_at(head_length);
    let mut sealed = manifest_file::prefix(head);
    sealed.extend_from_slice(head);
    sealed.extend_from_slice(entries);
    let sealed = Bytes::from(sealed);
    read_entries(&sealed, manifest_file::decode(&sealed, "m", samples::OWNER));
    if let Some(vbucket) = VbucketId::new(513) {
        read_entry(vbucket, whole);
    }
}

fn read_entries<E>(whole: &Bytes, read: Result<Manifest, E>) {
    for (offset, entry) in read.map_or(Vec::new(), |manifest| manifest.entries) {
        let end = offset.saturating_add(entry.bytes.len() as u64);
        assert!(end <= whole.len() as u64);
        drop(entry.image());
        read_entry(entry.vbucket, entry.bytes);
    }
}

fn read_entry(vbucket: VbucketId, bytes: Bytes) {
    let crc = crc32c::crc32c(&bytes);
    let entry = RawEntry {
        vbucket,
        bytes,
        crc,
    };
    if let Ok(image) = entry.image() {
        assert_eq!(image.place.vbucket, vbucket);
    }
}

fn round_trip<T: Serialize + DeserializeOwned + Debug + PartialEq>(bytes: &[u8]) -> Option<T> {
    let value: T = codec::decode(bytes).ok()?;
    let again: T = codec::decode(&encoded(&value)).ok()?;
    assert_eq!(again, value);
    Some(value)
}

/// What was decoded can be encoded: a failure gives no bytes, which no check takes for the value.
fn encoded<T: Serialize>(value: &T) -> Vec<u8> {
    codec::encode(value).unwrap_or_default()
}
