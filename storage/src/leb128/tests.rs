//! Numbers come back as they were, and bytes that are no number are refused.

use proptest::prelude::{Strategy, any, proptest};

use super::{encode_u32, put_u32, put_u64, take_u32, take_u64};

fn encoded(value: u64) -> Vec<u8> {
    let mut out = Vec::new();
    put_u64(&mut out, value);
    out
}

/// Numbers of every length alike; plain ones would nearly all be long.
fn numbers() -> impl Strategy<Value = u64> {
    (any::<u64>(), 0u32..64).prop_map(|(number, shift)| number >> shift)
}

#[test]
fn the_encoding_is_the_known_one() {
    let known: [(u64, &[u8]); 6] = [
        (0, &[0]),
        (127, &[0x7f]),
        (128, &[0x80, 1]),
        (300, &[0xac, 2]),
        (624_485, &[0xe5, 0x8e, 0x26]),
        (
            u64::MAX,
            &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1],
        ),
    ];
    for (number, bytes) in known {
        assert_eq!(encoded(number), bytes);
        assert_eq!(take_u64(bytes), Some((number, &[][..])));
    }
}

#[test]
fn a_number_that_does_not_fit_is_refused() {
    let mut too_large = encoded(u64::MAX);
    *too_large.last_mut().unwrap() = 2;
    assert_eq!(take_u64(&too_large), None);
    assert_eq!(take_u64(&[0x80; 11]), None);
    assert_eq!(take_u32(&encoded(1 << 32)), None);
    let mut largest = Vec::new();
    put_u32(&mut largest, u32::MAX);
    assert_eq!(take_u32(&largest), Some((u32::MAX, &[][..])));
}

proptest! {
    #[test]
    fn every_number_comes_back(number in numbers(), rest in any::<Vec<u8>>()) {
        let bytes = [encoded(number), rest.clone()].concat();
        assert_eq!(take_u64(&bytes), Some((number, rest.as_slice())));
    }

    #[test]
    fn a_number_cut_off_is_refused(number in numbers()) {
        let bytes = encoded(number);
        for length in 0..bytes.len() {
            assert_eq!(take_u64(&bytes[..length]), None);
        }
    }

    #[test]
    fn any_bytes_are_taken_without_a_panic(bytes in any::<Vec<u8>>()) {
        if let Some((number, rest)) = take_u64(&bytes) {
            assert!(rest.len() < bytes.len());
            assert!(encoded(number).len() <= bytes.len() - rest.len());
        }
    }
}

#[test]
fn both_encoders_write_the_same() {
    for value in (0..32).flat_map(|bit| [(1_u32 << bit) - 1, 1 << bit, u32::MAX >> bit]) {
        let mut out = Vec::new();
        put_u32(&mut out, value);
        let (bytes, length) = encode_u32(value);
        assert_eq!(bytes[..length], out, "{value}");
    }
}
