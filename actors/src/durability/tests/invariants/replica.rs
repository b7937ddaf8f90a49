//! Invariants of replicas: what they acknowledge, and what they keep.

use super::*;

pub(super) fn acknowledged_is_whole(world: &World, _: &Memory) -> Found {
    let mut looked_at = 0;
    for (node, passive) in passives(world) {
        let (prepared, said) = (passive.high_prepared(), node.acknowledged);
        sure(said <= prepared, || {
            format!("{} said {said}, holds {prepared}", node.name)
        })?;
        // One that was active wrote itself what it holds.
        let whole = node.whole.last().map_or(Seqno::ZERO, |(end, _)| end.seqno);
        let whole = whole.max(node.own_from);
        sure(prepared <= whole, || {
            format!("{}: {prepared} above {whole}", node.name)
        })?;
        looked_at += u64::from(prepared > Seqno::ZERO);
    }
    Ok(looked_at)
}

pub(super) fn persisted_before_prepared(world: &World, _: &Memory) -> Found {
    let mut looked_at = 0;
    for (node, passive) in passives(world) {
        let prepared = passive.high_prepared();
        for one in passive.incomplete().filter(|one| one.seqno <= prepared) {
            let holds = one.level != PersistToMajority || node.persisted >= one.seqno;
            sure(holds, || {
                format!("{one:?} of {} below {prepared}", node.name)
            })?;
            looked_at += 1;
        }
        let mut ends = passive.waiting_ends();
        let open_disk = ends.find(|end| end.kind == SnapshotKind::Disk);
        if let Some(end) = open_disk.filter(|end| end.seqno > node.persisted) {
            let holds = prepared < end.seqno;
            sure(holds, || {
                format!("{prepared} of {} inside {end:?}", node.name)
            })?;
        }
    }
    Ok(looked_at)
}

pub(super) fn nothing_over_is_kept(world: &World, _: &Memory) -> Found {
    let mut looked_at = 0;
    for (node, passive) in passives(world) {
        let tracked = passive.tracked_seqnos();
        let first_open = passive.incomplete().map(|one| one.seqno.0).next();
        let is_passed = |seqno: &&u64| {
            first_open.is_none_or(|open| **seqno < open) && **seqno <= passive.high_prepared().0
        };
        let kept: Vec<_> = tracked.iter().filter(is_passed).collect();
        sure(kept.is_empty(), || format!("{kept:?} of {}", node.name))?;
        looked_at += tracked.len() as u64;
    }
    Ok(looked_at)
}

/// Whatever lies behind the high prepared seqno is there for a reason: its snapshot is not whole, or it waits for the disk.
pub(super) fn place_is_right(world: &World, _: &Memory) -> Found {
    let mut looked_at = 0;
    for (node, passive) in passives(world) {
        let prepared = passive.high_prepared();
        let waits: Vec<_> = passive.waiting_ends().collect();
        let whole = node.whole.last().map_or(Seqno::ZERO, |(end, _)| end.seqno);
        let Some(next) = passive.incomplete().find(|one| one.seqno > prepared) else {
            continue;
        };
        let has_reason = next.seqno > whole || !waits.is_empty();
        sure(has_reason, || {
            format!("{next:?} of {} waits for nothing", node.name)
        })?;
        looked_at += 1;
    }
    Ok(looked_at)
}
