//! The seeds of the committed corpus: valid inputs of every target, and the simplest damage to each.
//!
//! Invariant: made of the same fixed samples as the conformance table, so writing them again changes no file
//! unless the format changed.

use crate::document::KeyError;
use crate::log_store::identity::FORMAT_VERSION;
use crate::log_store::manifest::{self, RawEntry};
use crate::log_store::{codec, log, samples};

/// A file of the corpus: target, name, content.
pub type Seed = (&'static str, String, Vec<u8>);

/// Every file of the corpus; none when a sample cannot be made.
#[must_use]
pub fn seeds() -> Vec<Seed> {
    let mut seeds = Vec::new();
    for (target, name, bytes) in valid().unwrap_or_default() {
        let half = bytes.get(..bytes.len() / 2).unwrap_or_default().to_vec();
        let mut flipped = bytes.clone();
        if let Some(byte) = flipped.get_mut(bytes.len() / 3) {
            *byte ^= 0x10;
        }
        seeds.push((target, format!("{name}-half"), half));
        seeds.push((target, format!("{name}-flipped"), flipped));
        seeds.push((target, name, bytes));
    }
    for (target, _) in super::TARGETS {
        seeds.push((target, "empty".to_owned(), Vec::new()));
        seeds.push((target, "zeros".to_owned(), vec![0; 200]));
        seeds.push((target, "ones".to_owned(), vec![0xff; 200]));
    }
    seeds
}

fn valid() -> Result<Vec<Seed>, KeyError> {
    let mut seeds = Vec::new();
    for (name, operation, predecessor) in samples::OPERATIONS {
        let name = name.replace(' ', "-");
        seeds.push(("record", name, samples::record(operation, predecessor)?));
    }
    let frame = samples::frame_header().encode(samples::FILE, 8192);
    for (name, bytes) in [
        ("frame-header", frame.to_vec()),
        ("log-file-header", samples::LOG_FILE_HEADER.encode()),
        ("identity", samples::IDENTITY.encode(FORMAT_VERSION)),
    ] {
        seeds.push(("headers", name.to_owned(), bytes));
    }
    frames(&mut seeds)?;
    stores(&mut seeds);
    Ok(seeds)
}

/// Payloads, metadata and manifests; the payloads also as frames of a log.
fn frames(seeds: &mut Vec<Seed>) -> Result<(), KeyError> {
    let Some(place) = samples::place() else {
        return Ok(());
    };
    let mut payloads = Vec::new();
    let batch = samples::batch(place)?;
    let identity = super::encoded(&*samples::identity());
    let mut bytes = Vec::new();
    log::payload::put_batch(&mut bytes, &batch, &batch.watermarks, Some(&identity));
    payloads.push(("batch".to_owned(), bytes));
    for (name, edit) in samples::edits(place) {
        let edit = super::encoded(&edit);
        let mut bytes = Vec::new();
        log::payload::put_edit(&mut bytes, &edit);
        seeds.push(("metadata", format!("edit-{name}"), edit));
        payloads.push((format!("edit-{name}"), bytes));
    }
    for (name, bytes) in payloads {
        let in_frame = [&[2], &*bytes].concat();
        seeds.push(("log_recovery", format!("frame-of-{name}"), in_frame));
        seeds.push(("payload", name, bytes));
    }
    let image = samples::image(place);
    let table = super::encoded(&samples::identity().failover_table);
    for (name, bytes) in [
        ("image", super::encoded(&image)),
        ("identity", identity),
        ("counts", super::encoded(&samples::counts())),
        ("failover-table", table),
    ] {
        seeds.push(("metadata", name.to_owned(), bytes));
    }
    let entries = RawEntry::of(&image).map_or(Vec::new(), |entry| vec![entry]);
    let whole = manifest::encode(samples::OWNER, samples::SHARD_RECORD, &entries);
    let whole = whole.unwrap_or_default();
    let entry = entries.first().map_or(0, |entry| entry.bytes.len());
    let head = whole.len().saturating_sub(entry).saturating_sub(32);
    let [low, high, ..] = head.to_le_bytes();
    let body = whole.get(32..).unwrap_or_default();
    let sealed = [&[low, high], body].concat();
    seeds.push(("manifest", "sealed".to_owned(), sealed));
    seeds.push(("manifest", "whole".to_owned(), whole));
    let number = codec::encode(&7u64).unwrap_or_default();
    seeds.push(("manifest", "another-value".to_owned(), number));
    Ok(())
}

/// Inputs of the targets that change a store: a mode, then changes or operations.
fn stores(seeds: &mut Vec<Seed>) {
    let changes: Vec<u8> = (0..30u8)
        .flat_map(|n| [n.wrapping_mul(37), n, n ^ 0x5a])
        .collect();
    for mode in 0..4u8 {
        let bytes = [&[mode], &*changes].concat();
        seeds.push(("segment", format!("changes-{mode}"), bytes.clone()));
        seeds.push(("log_recovery", format!("mode-{mode}"), bytes));
        let one = vec![mode, 0x20, 0x10, 0x81];
        seeds.push(("segment", format!("one-change-{mode}"), one.clone()));
        seeds.push(("log_recovery", format!("one-change-{mode}"), one));
        seeds.push(("segment", format!("unchanged-{mode}"), vec![mode]));
    }
    for how in 0..5u8 {
        let operations = (0..60u8).flat_map(|n| [n.wrapping_mul(53) ^ how, n.wrapping_mul(29)]);
        let mut bytes = vec![how.wrapping_mul(17), how];
        bytes.extend(operations);
        seeds.push(("store_ops", format!("mixed-{how}"), bytes));
    }
}
