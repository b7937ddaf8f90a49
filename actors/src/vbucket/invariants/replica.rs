//! The invariants of a replica.
//!
//! Invariant: each says nothing of a vbucket in another role.

use super::view::View;
use super::{Asked, Found, sure};
use crate::durability::{Monitor, PassiveMonitor, Prepare};
use storage::{DurabilityLevel, Seqno, SnapshotKind};

fn passive<'v>(asked: &Asked<'v>) -> Option<(&'v View, &'v PassiveMonitor)> {
    match &asked.now.monitor {
        Monitor::Passive(passive) => Some((asked.now, passive)),
        Monitor::Active(_) | Monitor::Dead(_) => None,
    }
}

fn whole(view: &View) -> Seqno {
    view.whole.map_or(Seqno::ZERO, |end| end.seqno)
}

/// 16: what was acknowledged is prepared, and what is prepared came whole.
pub(super) fn said_is_whole(asked: &Asked<'_>) -> Found {
    let Some((now, passive)) = passive(asked) else {
        return Ok(0);
    };
    let (said, prepared, whole) = (now.said, passive.high_prepared(), whole(now));
    sure(said <= prepared && prepared <= whole, || {
        format!("said {said}, holds {prepared}, whole is {whole}")
    })?;
    Ok(usize::from(prepared > Seqno::ZERO))
}

/// 17: nothing that must be on this disk is held before, nor anything of a disk snapshot that is not there.
pub(super) fn persisted_before_prepared(asked: &Asked<'_>) -> Found {
    let Some((_, passive)) = passive(asked) else {
        return Ok(0);
    };
    let (prepared, persisted) = (passive.high_prepared(), passive.persisted());
    let mut looked_at = 0;
    for one in passive.incomplete().take_while(|one| one.seqno <= prepared) {
        let must = one.level == DurabilityLevel::PersistToMajority;
        sure(!must || one.seqno <= persisted, || {
            format!("{one:?} at or below {prepared}, on disk is {persisted}")
        })?;
        looked_at += 1;
    }
    let mut ends = passive.waiting_ends();
    let open_disk = ends.find(|end| end.kind == SnapshotKind::Disk && end.seqno > persisted);
    if let Some(end) = open_disk {
        sure(prepared < end.seqno, || {
            format!("{prepared} within {end:?}")
        })?;
        looked_at += 1;
    }
    Ok(looked_at)
}

/// 18: nothing is kept that is over and passed.
pub(super) fn nothing_over_is_kept(asked: &Asked<'_>) -> Found {
    let Some((_, passive)) = passive(asked) else {
        return Ok(0);
    };
    let tracked = passive.tracked_seqnos();
    let first_open = passive.incomplete().map(|one| one.seqno.0).next();
    let prepared = passive.high_prepared().0;
    let is_passed =
        |seqno: &&u64| first_open.is_none_or(|open| **seqno < open) && **seqno <= prepared;
    let kept: Vec<_> = tracked.iter().filter(is_passed).collect();
    sure(kept.is_empty(), || format!("{kept:?}"))?;
    Ok(tracked.len())
}

/// 19: whatever lies behind the high prepared seqno is there for a reason: it did not come whole, or waits for the disk.
pub(super) fn place_is_right(asked: &Asked<'_>) -> Found {
    let Some((now, passive)) = passive(asked) else {
        return Ok(0);
    };
    let (prepared, whole) = (passive.high_prepared(), whole(now));
    let is_behind = |one: &&Prepare| one.seqno > prepared;
    let Some(next) = passive.incomplete().find(is_behind) else {
        return Ok(0);
    };
    let has_reason = next.seqno > whole || passive.waiting_ends().next().is_some();
    sure(has_reason, || {
        format!("{next:?} waits for nothing, whole is {whole}")
    })?;
    Ok(1)
}
