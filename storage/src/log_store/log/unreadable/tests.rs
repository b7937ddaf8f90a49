//! How far a file without a header may have reached: believed where its bytes agree, and never less than may be.

use super::*;
use crate::log_store::log::frame::{FileIdentity, LogPosition, Touched};

const FILE: u64 = 3;

/// The manifest needs the log above frame 10, and knows it durable up to frame 20 of file `synced_file`.
fn bounds(synced_file: u64) -> LogBounds {
    let at = |file, sequence| LogPosition { file, sequence };
    LogBounds {
        begin: at(1, 10),
        synced: at(synced_file, 20),
        is_clean: false,
    }
}

/// A file of 8 KiB without a header, with frames of these sequences.
fn file(sequences: &[u64], payload: &[u8]) -> Vec<u8> {
    let identity = FileIdentity {
        number: FILE,
        nonce: 77,
    };
    let mut bytes = vec![0; 4096];
    for sequence in sequences {
        let header = FrameHeader {
            sequence: *sequence,
            synced_through: 0,
            payload_length: u32::try_from(payload.len()).unwrap(),
            payload_crc: crc32c::crc32c(payload),
            touched: Touched::ALL,
            continues: LogPosition::default(),
        };
        let begin = bytes.len();
        bytes.extend_from_slice(&header.encode(identity, begin as u64));
        bytes.extend_from_slice(payload);
        bytes.resize(begin + header.frame_length(), 0);
    }
    bytes.resize(8192, 0);
    bytes
}

/// As far as there is room in 8 KiB beyond frame 20.
const MOST: u64 = 20 + 128 + 1;

#[test]
fn file_that_was_never_used_reaches_nothing() {
    assert_eq!(Reach::of(&file(&[], b""), FILE, bounds(2)), Reach::Nothing);
    let old = file(&[4, 5, 6], b"from an earlier use");
    assert_eq!(Reach::of(&old, FILE, bounds(2)), Reach::Nothing);
}

#[test]
fn file_in_use_reaches_to_its_last_frame() {
    let used = file(&[19, 20, 21, 22], b"payload");
    assert_eq!(Reach::of(&used, FILE, bounds(FILE)), Reach::Until(22));
    let next = file(&[21, 22, 23], b"payload");
    assert_eq!(Reach::of(&next, FILE, bounds(2)), Reach::Until(23));
}

#[test]
fn file_all_of_which_the_manifest_covers_reaches_nothing() {
    let mut covered = bounds(FILE);
    covered.begin.sequence = 20;
    let used = file(&[18, 19, 20], b"payload");
    assert_eq!(Reach::of(&used, FILE, covered), Reach::Nothing);
}

#[test]
fn file_that_contradicts_itself_may_reach_as_far_as_it_has_room() {
    let gap = file(&[19, 20, 22], b"payload");
    assert_eq!(Reach::of(&gap, FILE, bounds(FILE)), Reach::Until(MOST));
    let before_the_synced = file(&[18, 19], b"payload");
    let reach = Reach::of(&before_the_synced, FILE, bounds(FILE));
    assert_eq!(reach, Reach::Until(MOST));
    let blank = file(&[], b"");
    assert_eq!(Reach::of(&blank, FILE, bounds(FILE)), Reach::Until(MOST));
    let mut garbage = file(&[], b"");
    garbage[5000] = 1;
    assert_eq!(Reach::of(&garbage, FILE, bounds(2)), Reach::Until(MOST));
    assert!(matches!(Reach::of(b"", FILE, bounds(2)), Reach::Until(_)));
}

#[test]
fn frame_inside_a_value_is_passed_over() {
    let inner = file(&[90], b"forged")[4096..4096 + 128].to_vec();
    let outer = file(&[21, 22], &inner);
    assert_eq!(Reach::of(&outer, FILE, bounds(2)), Reach::Until(22));
}

#[test]
fn sequence_beyond_all_room_is_not_believed() {
    let forged = file(&[u64::MAX], b"payload");
    assert_eq!(Reach::of(&forged, FILE, bounds(2)), Reach::Until(MOST));
}
