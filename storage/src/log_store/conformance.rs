//! The bytes of every encoding, pinned: one fixed value each, its length and its hash.
//!
//! Invariant: whoever changes an encoding makes this fail, and so cannot do it by accident. The hash is no crc: the
//! crc of bytes that end in their own crc is the same for all of them. Segments are pinned in their own tests, whole
//! stores by the folders in `storage/fixtures/`.

use xxhash_rust::xxh3::xxh3_64;

use crate::log_store::identity::FORMAT_VERSION;
use crate::log_store::log::payload;
use crate::log_store::manifest::{self, RawEntry};
use crate::log_store::{codec, containers, samples};

/// Name, length and hash.
type Pin = (String, usize, u64);

fn pin(name: impl Into<String>, bytes: &[u8]) -> Pin {
    (name.into(), bytes.len(), xxh3_64(bytes))
}

const PINNED: &[(&str, usize, u64)] = &[
    ("identity", 32, 0xdf00_4204_1309_5c53),
    ("log file header", 56, 0xa367_df65_1fa4_e751),
    ("frame header", 64, 0x7d03_c1a4_84e1_590c),
    ("container header", 40, 0xb7b6_c329_b059_eab1),
    ("item record: mutation", 51, 0x9c03_a0f5_0f5d_3513),
    (
        "item record: mutation of a new key",
        51,
        0x9f50_51e6_5bee_bced,
    ),
    (
        "item record: mutation of a known key",
        53,
        0x3772_eb9a_e3e8_853d,
    ),
    ("item record: deletion", 56, 0xfdf6_522d_e871_41a8),
    ("item record: expiration", 56, 0xe8ea_d219_6afc_051b),
    ("item record: prepare", 52, 0x12df_5f9b_3fc8_c9b9),
    (
        "item record: prepare of a deletion",
        52,
        0x9850_7c83_a5cf_35f7,
    ),
    ("item record: abort", 58, 0x484d_9ef5_86e8_c464),
    ("item record: commit", 53, 0xd699_216e_1ced_c84b),
    (
        "item record: commit of a deletion",
        59,
        0x9753_6542_b7f3_661e,
    ),
    (
        "item record: system event begins",
        51,
        0x4230_5023_8c8b_cbeb,
    ),
    ("item record: system event ends", 51, 0x2d7a_908f_48c6_db77),
    ("batch with identity", 158, 0x9639_5ce4_3a91_db32),
    ("batch without identity", 133, 0xb4b3_677a_1741_1a43),
    ("edit: create", 66, 0x85b2_6125_24ec_2ac3),
    ("edit: delete", 9, 0xa7f2_19ae_c4db_4bd8),
    ("edit: rollback", 121, 0xca4b_04c9_7605_507d),
    ("edit: seal", 51, 0xc90e_28d6_302c_0516),
    ("edit: merge", 58, 0x9ea7_ce26_1c68_b9cb),
    ("edit: relocate", 14, 0xc2dc_5643_a438_0dd4),
    ("failover table", 10, 0x9788_5491_c3d9_7760),
    ("vbucket identity", 24, 0xf746_ad4f_be4f_3ffd),
    ("manifest entry", 199, 0x7c01_67c7_1f27_93eb),
    ("manifest without entries", 55, 0x1f63_ac55_3fe6_36c9),
    ("manifest", 263, 0xed22_f3be_92b2_e863),
];

fn computed() -> Vec<Pin> {
    let mut pins = vec![
        pin("identity", &samples::IDENTITY.encode(FORMAT_VERSION)),
        pin("log file header", &samples::LOG_FILE_HEADER.encode()),
        pin(
            "frame header",
            &samples::frame_header().encode(samples::FILE, 8192),
        ),
        pin(
            "container header",
            &containers::header(samples::STORE_ID, 1, 22),
        ),
    ];
    for (name, operation, predecessor) in samples::OPERATIONS {
        let bytes = samples::record(operation, predecessor).unwrap();
        pins.push(pin(format!("item record: {name}"), &bytes));
    }
    let place = samples::place().unwrap();
    let batch = samples::batch(place).unwrap();
    let identity = codec::encode(&*samples::identity()).unwrap();
    for (name, identity) in [
        ("batch with identity", Some(&*identity)),
        ("batch without identity", None),
    ] {
        let mut bytes = Vec::new();
        payload::put_batch(&mut bytes, &batch, &batch.watermarks, identity);
        pins.push(pin(name, &bytes));
    }
    for (name, edit) in samples::edits(place) {
        let mut bytes = Vec::new();
        payload::put_edit(&mut bytes, &codec::encode(&edit).unwrap());
        pins.push(pin(format!("edit: {name}"), &bytes));
    }
    let table = &samples::identity().failover_table;
    pins.push(pin("failover table", &codec::encode(table).unwrap()));
    pins.push(pin("vbucket identity", &identity));
    let entry = RawEntry::of(&samples::image(place)).unwrap();
    pins.push(pin("manifest entry", &entry.bytes));
    let empty = manifest::encode(samples::OWNER, samples::SHARD_RECORD, &[]).unwrap();
    pins.push(pin("manifest without entries", &empty));
    let whole = manifest::encode(samples::OWNER, samples::SHARD_RECORD, &[entry]).unwrap();
    pins.push(pin("manifest", &whole));
    pins
}

#[test]
fn every_encoding_is_what_it_was() {
    let computed = computed();
    let lines: Vec<String> = computed
        .iter()
        .map(|(name, length, hash)| {
            let [a, b, c, d] = [48, 32, 16, 0].map(|shift| (hash >> shift) & 0xffff);
            format!("    ({name:?}, {length}, 0x{a:04x}_{b:04x}_{c:04x}_{d:04x}),")
        })
        .collect();
    let pinned: Vec<Pin> = PINNED
        .iter()
        .map(|(name, length, hash)| ((*name).to_owned(), *length, *hash))
        .collect();
    assert_eq!(
        computed,
        pinned,
        "\nAn encoding changed. Stores written before can no longer be read unless the old form is still decoded: \
         raise FORMAT_VERSION in identity.rs, keep the old fixtures, add a fixture folder for the new version \
         (storage/fixtures/README.md), describe the change in docs/storage-format.md, and pin the new bytes:\n{}\n",
        lines.join("\n")
    );
}
