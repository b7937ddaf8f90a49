//! Fields taken off the front of untrusted bytes, little-endian or LEB128, and their counterparts for writing.
//!
//! Invariant: any bytes may be given; what is not there or does not fit is an error, never a panic.

use crate::leb128::{take_u32, take_u64};

/// What a decoder of this format returns: the error says what is wrong, its caller knows where.
pub(super) type Decoded<T> = Result<T, &'static str>;

/// Bytes not yet taken.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Fields<'a> {
        Fields(bytes)
    }

    pub(super) fn rest(&self) -> &'a [u8] {
        self.0
    }

    pub(super) fn bytes(&mut self, length: usize) -> Decoded<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or(CUT_OFF)?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const LENGTH: usize>(&mut self) -> Decoded<[u8; LENGTH]> {
        let (taken, rest) = self.0.split_first_chunk().ok_or(CUT_OFF)?;
        self.0 = rest;
        Ok(*taken)
    }

    pub(super) fn u8(&mut self) -> Decoded<u8> {
        self.array().map(u8::from_le_bytes)
    }

    pub(super) fn u16(&mut self) -> Decoded<u16> {
        self.array().map(u16::from_le_bytes)
    }

    pub(super) fn u32(&mut self) -> Decoded<u32> {
        self.array().map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> Decoded<u64> {
        self.array().map(u64::from_le_bytes)
    }

    pub(super) fn varint_u64(&mut self) -> Decoded<u64> {
        let (value, rest) = take_u64(self.0).ok_or(BAD_NUMBER)?;
        self.0 = rest;
        Ok(value)
    }

    pub(super) fn varint_u32(&mut self) -> Decoded<u32> {
        let (value, rest) = take_u32(self.0).ok_or(BAD_NUMBER)?;
        self.0 = rest;
        Ok(value)
    }

    /// Errs unless everything was taken.
    pub(super) fn end(self) -> Decoded<()> {
        if self.0.is_empty() {
            Ok(())
        } else {
            Err("bytes left over")
        }
    }
}

const CUT_OFF: &str = "a field is cut off";
const BAD_NUMBER: &str = "a number is cut off or too large";

/// `value` as 32 bits. The writer's limits keep every length it is used for below the maximum.
pub(super) fn saturating_u32(value: usize) -> u32 {
    u32::try_from(value).unwrap_or(u32::MAX)
}

/// `value` as a length in memory; one that does not fit is beyond every buffer, so the next check refuses it.
pub(super) fn saturating_usize(value: u64) -> usize {
    usize::try_from(value).unwrap_or(usize::MAX)
}
