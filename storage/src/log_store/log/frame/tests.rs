//! A frame's header comes back where it was written, and nowhere else.

use proptest::prelude::*;

use super::*;
use crate::log_store::samples;

prop_compose! {
    fn any_header()(
        sequence in any::<u64>(),
        synced_through in any::<u64>(),
        payload_length in any::<u32>(),
        payload_crc in any::<u32>(),
        touched in any::<u128>(),
        file in any::<u64>(),
        continues in any::<u64>(),
    ) -> FrameHeader {
        FrameHeader {
            sequence,
            synced_through,
            payload_length,
            payload_crc,
            touched: Touched(touched),
            continues: LogPosition { file, sequence: continues },
        }
    }
}

fn any_file() -> impl Strategy<Value = FileIdentity> {
    (any::<u64>(), any::<u64>()).prop_map(|(number, nonce)| FileIdentity { number, nonce })
}

proptest! {
    #[test]
    fn what_went_in_comes_out(header in any_header(), file in any_file(), offset in any::<u64>()) {
        let bytes = header.encode(file, offset);
        prop_assert_eq!(FrameHeader::decode(&bytes, file, offset), Some(header));
    }

    #[test]
    fn it_is_valid_nowhere_else(
        header in any_header(),
        file in any_file(),
        offset in any::<u64>(),
        other in 1u64..,
    ) {
        let bytes = header.encode(file, offset);
        let FileIdentity { number, nonce } = file;
        let elsewhere = FileIdentity { number: number ^ other, nonce };
        prop_assert_eq!(FrameHeader::decode(&bytes, elsewhere, offset), None);
        let recycled = FileIdentity { number, nonce: nonce ^ other };
        prop_assert_eq!(FrameHeader::decode(&bytes, recycled, offset), None);
        prop_assert_eq!(FrameHeader::decode(&bytes, file, offset ^ other), None);
    }

    #[test]
    fn any_bytes_may_be_given(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
        crate::log_store::fuzzing::headers(&bytes);
    }
}

#[test]
fn every_flipped_bit_and_every_cut_is_found() {
    let bytes = samples::frame_header().encode(samples::FILE, 8192);
    for bit in 0..HEADER_LENGTH * 8 {
        let mut damaged = bytes;
        damaged[bit / 8] ^= 1 << (bit % 8);
        let found = FrameHeader::decode(&damaged, samples::FILE, 8192);
        assert_eq!(found, None, "bit {bit}");
    }
    for end in 0..HEADER_LENGTH {
        let found = FrameHeader::decode(&bytes[..end], samples::FILE, 8192);
        assert_eq!(found, None, "cut off at {end}");
    }
}

#[test]
fn frames_begin_at_multiples_of_the_header() {
    let lengths = [0, 1, 63, 64, 65].map(frame_length);
    assert_eq!(lengths, [64, 128, 128, 128, 192]);
    assert_eq!(frame_length(u32::MAX as usize) % HEADER_LENGTH, 0);
}

#[test]
fn touched_never_denies_a_vbucket_it_was_told_of() {
    let vbucket = |number| VbucketId::new(number).unwrap();
    let mut touched = Touched::default();
    touched.insert(vbucket(5));
    touched.insert(vbucket(1023));
    assert!(touched.contains(vbucket(5)) && touched.contains(vbucket(1023)));
    assert!(touched.contains(vbucket(133)), "128 further: may be");
    assert!(!touched.contains(vbucket(6)));
}
