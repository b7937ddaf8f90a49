//! The kill list: which older versions the items of a segment replaced (rule R6).
//!
//! Invariant: entries rise by (victim, killer), and a killer is younger than its victim. The list belongs to the
//! killers: it goes when their segment goes, and a merge carries it on.

use super::fields::{Decoded, Fields, saturating_usize};
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

/// The list as bytes; `None` when it is out of order.
pub(super) fn encode(kills: &[Kill]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(kills.len().saturating_mul(6));
    let mut before = (Seqno::ZERO, Seqno::ZERO);
    for kill in kills {
        if (kill.victim, kill.killer) <= before || kill.killer <= kill.victim {
            return None;
        }
        put_u64(&mut out, kill.victim.0.checked_sub(before.0.0)?);
        put_u64(&mut out, kill.killer.0.checked_sub(kill.victim.0)?);
        put_u32(&mut out, kill.victim_bytes);
        before = (kill.victim, kill.killer);
    }
    Some(out)
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
        if (kill.victim, kill.killer) <= before || kill.killer <= kill.victim {
            return Err("the kill list is out of order");
        }
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

const TOO_LARGE: &str = "a seqno of the kill list is too large";
