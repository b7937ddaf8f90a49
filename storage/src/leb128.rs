//! Unsigned LEB128: the variable-length integers of keys and records.
//!
//! Invariant: decoding takes any bytes; a number that is cut off or does not fit is `None`, never a panic.

/// Appends `value`.
pub(crate) fn put_u32(out: &mut Vec<u8>, value: u32) {
    put_u64(out, u64::from(value));
}

/// `value` in the first so many bytes.
pub(crate) fn encode_u32(mut value: u32) -> ([u8; 5], usize) {
    let mut bytes = [0; 5];
    let mut length = 0;
    // Seven bits a byte: five hold all of it.
    for place in &mut bytes {
        let [low, ..] = value.to_le_bytes();
        value >>= 7;
        length += 1;
        if value == 0 {
            *place = low & 0x7f;
            break;
        }
        *place = low | 0x80;
    }
    (bytes, length)
}

/// Appends `value`.
pub(crate) fn put_u64(out: &mut Vec<u8>, mut value: u64) {
    loop {
        let [low, ..] = value.to_le_bytes();
        value >>= 7;
        if value == 0 {
            out.push(low & 0x7f);
            return;
        }
        out.push(low | 0x80);
    }
}

/// Takes a number off the front: the number and the rest.
pub(crate) fn take_u64(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let mut value = 0u64;
    let mut rest = bytes;
    for shift in (0..64).step_by(7) {
        let (&byte, tail) = rest.split_first()?;
        rest = tail;
        let bits = u64::from(byte & 0x7f);
        if shift == 63 && bits > 1 {
            return None;
        }
        value |= bits << shift;
        if byte & 0x80 == 0 {
            return Some((value, rest));
        }
    }
    None
}

/// Takes a number that must fit in 32 bits off the front.
pub(crate) fn take_u32(bytes: &[u8]) -> Option<(u32, &[u8])> {
    let (value, rest) = take_u64(bytes)?;
    Some((u32::try_from(value).ok()?, rest))
}

#[cfg(test)]
mod tests;
