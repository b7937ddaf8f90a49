//! The kill list: which older versions the items of a segment replaced (rule R6).
//!
//! Invariant: entries rise by (victim, killer), and a killer is younger than its victim. The list belongs to the
//! killers: it goes when their segment goes, and a merge carries it on.

use std::sync::Arc;

use super::fields::{Decoded, Fields, saturating_usize};
use super::reader::Segment;
use super::section_cursor::SectionCursor;
use crate::error::StorageError;
use crate::leb128::{put_u32, put_u64};
use crate::seqno::Seqno;

/// Fewest bytes an entry takes.
const ENTRY_BYTES_MIN: usize = 3;

/// One version replaced by another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Kill {
    /// The version that is no longer the newest of its key.
    pub(crate) victim: Seqno,
    /// The version that replaced it.
    pub(crate) killer: Seqno,
    /// Length of the victim's record: what its death leaves to reclaim.
    pub(crate) victim_bytes: u32,
}

/// A list being made, as bytes.
#[derive(Debug, Default)]
pub(super) struct KillList {
    pub(super) bytes: Vec<u8>,
    pub(super) count: u64,
    last: (Seqno, Seqno),
}

impl KillList {
    /// Adds an entry; nothing when that is out of order.
    pub(super) fn push(&mut self, kill: &Kill) -> Option<()> {
        check_order(self.last, kill)?;
        let victim = kill.victim.0.checked_sub(self.last.0.0)?;
        put_u64(&mut self.bytes, victim);
        let killer = kill.killer.0.checked_sub(kill.victim.0)?;
        put_u64(&mut self.bytes, killer);
        put_u32(&mut self.bytes, kill.victim_bytes);
        self.last = (kill.victim, kill.killer);
        self.count = self.count.saturating_add(1);
        Some(())
    }
}

fn check_order(before: (Seqno, Seqno), kill: &Kill) -> Option<()> {
    let is_in_order = (kill.victim, kill.killer) > before && kill.killer > kill.victim;
    is_in_order.then_some(())
}

/// A position in the kill list of a segment.
#[derive(Debug)]
pub(crate) struct KillCursor {
    section: SectionCursor,
    left: u64,
    before: (Seqno, Seqno),
    at_most: Seqno,
}

impl KillCursor {
    /// At the first entry whose killer is at most `at_most` (and not above the cut).
    pub(crate) fn new(segment: Arc<Segment>, at_most: Seqno) -> Result<KillCursor, StorageError> {
        let at_most = at_most.min(segment.meta.visible_last());
        let (section, left) = (segment.footer.sections.kills, segment.footer.kills);
        Ok(KillCursor {
            section: SectionCursor::open(segment, section)?,
            left,
            before: (Seqno::ZERO, Seqno::ZERO),
            at_most,
        })
    }

    /// The next entry; `None` at the end.
    pub(crate) fn next(&mut self) -> Result<Option<Kill>, StorageError> {
        while self.left > 0 {
            let before = self.before;
            let kill = self.section.take(|fields| {
                let kill = take(fields, before.0)?;
                check_order(before, &kill).ok_or(OUT_OF_ORDER)?;
                Ok(kill)
            })?;
            self.left = self.left.saturating_sub(1);
            if self.left == 0 {
                self.section.end()?;
            }
            self.before = (kill.victim, kill.killer);
            if kill.killer <= self.at_most {
                return Ok(Some(kill));
            }
        }
        Ok(None)
    }
}

/// The list of `count` entries that fills `bytes`.
pub(super) fn decode(bytes: &[u8], count: u64) -> Decoded<Vec<Kill>> {
    let count = saturating_usize(count);
    if count > bytes.len() / ENTRY_BYTES_MIN {
        return Err("the kill list is too short for its count");
    }
    let mut fields = Fields::new(bytes);
    let mut kills = Vec::with_capacity(count);
    let mut before = (Seqno::ZERO, Seqno::ZERO);
    for _ in 0..count {
        let kill = take(&mut fields, before.0)?;
        check_order(before, &kill).ok_or(OUT_OF_ORDER)?;
        before = (kill.victim, kill.killer);
        kills.push(kill);
    }
    fields.end()?;
    Ok(kills)
}

fn take(fields: &mut Fields<'_>, before: Seqno) -> Decoded<Kill> {
    let victim = before
        .0
        .checked_add(fields.varint_u64()?)
        .ok_or(TOO_LARGE)?;
    let killer = victim.checked_add(fields.varint_u64()?).ok_or(TOO_LARGE)?;
    Ok(Kill {
        victim: Seqno(victim),
        killer: Seqno(killer),
        victim_bytes: fields.varint_u32()?,
    })
}

const OUT_OF_ORDER: &str = "the kill list is out of order";
const TOO_LARGE: &str = "a seqno of the kill list is too large";
