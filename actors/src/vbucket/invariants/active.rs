//! The invariants of an active vbucket.
//!
//! Invariant: each says nothing of a vbucket in another role.

use super::view::{Shown, View};
use super::{Asked, Found, sure};
use crate::durability::{ActiveMonitor, Monitor, Prepare};
use storage::{DurabilityLevel, Seqno};

fn active<'v>(asked: &Asked<'v>) -> Option<(&'v View, &'v ActiveMonitor)> {
    match &asked.now.monitor {
        Monitor::Active(active) => Some((asked.now, active)),
        Monitor::Passive(_) | Monitor::Dead(_) => None,
    }
}

/// 3: what ends ends in the order of the prepares, but for what is of no collection any more.
pub(super) fn in_order(asked: &Asked<'_>) -> Found {
    let (Some((now, active)), Some(before)) = (active(asked), asked.before) else {
        return Ok(0);
    };
    if before.role != now.role || now.since.is_erased {
        return Ok(0);
    }
    let in_force = before.tracked.iter().filter(|one| one.is_in_force);
    let goes_on = |one: &&Shown| active.tracks(one.prepare.seqno);
    let first_open = in_force.clone().find(goes_on).map(|one| one.prepare.seqno);
    let mut ended = 0;
    for one in in_force.filter(|one| !goes_on(one)) {
        let is_before = first_open.is_none_or(|open| one.prepare.seqno < open);
        sure(is_before, || format!("{one:?} ended before {first_open:?}"))?;
        ended += 1;
    }
    Ok(ended)
}

/// 6: what was committed this node held.
pub(super) fn committed_is_prepared(asked: &Asked<'_>) -> Found {
    let Some((_, active)) = active(asked) else {
        return Ok(0);
    };
    let (committed, prepared) = (active.last_committed(), active.high_prepared());
    sure(committed <= prepared, || {
        format!("{committed} above {prepared}")
    })?;
    Ok(usize::from(committed > Seqno::ZERO))
}

/// 7: nothing that must be on this disk, and is not, lies at or below the high prepared seqno.
pub(super) fn fences_hold(asked: &Asked<'_>) -> Found {
    let Some((now, active)) = active(asked) else {
        return Ok(0);
    };
    let (prepared, persisted) = (active.high_prepared(), active.persisted());
    let is_fence = |one: &&Shown| one.is_own && one.prepare.level != DurabilityLevel::Majority;
    let mut looked_at = 0;
    for one in now.tracked.iter().filter(is_fence) {
        let seqno = one.prepare.seqno;
        sure(seqno > prepared || seqno <= persisted, || {
            format!("{one:?} at or below {prepared}, on disk is {persisted}")
        })?;
        looked_at += 1;
    }
    Ok(looked_at)
}

/// 8: nothing waits that enough nodes hold.
pub(super) fn nothing_held_waits(asked: &Asked<'_>) -> Found {
    let Some((_, active)) = active(asked) else {
        return Ok(0);
    };
    let Some(chains) = active.chains() else {
        return Ok(0);
    };
    let is_held = |prepare: &Prepare| {
        chains.iter().all(|chain| {
            let mut holding = chain.nodes().iter();
            let leads = holding
                .clone()
                .take(1)
                .all(|node| active.held_by(node) >= prepare.seqno);
            let count = holding.by_ref();
            let count = count.filter(|node| active.held_by(node) >= prepare.seqno);
            leads && count.count() >= chain.majority()
        })
    };
    let mut looked_at = 0;
    for prepare in active.undecided() {
        let is_fence = prepare.level != DurabilityLevel::Majority;
        if is_fence && prepare.seqno > active.persisted() {
            // What is behind waits with it.
            break;
        }
        sure(!is_held(prepare), || {
            format!("{prepare:?} is held and waits")
        })?;
        looked_at += 1;
    }
    Ok(looked_at)
}

/// 9: a node counts as what it said.
pub(super) fn counts_are_true(asked: &Asked<'_>) -> Found {
    let Some((now, active)) = active(asked) else {
        return Ok(0);
    };
    for (node, said) in &now.heard {
        let counted = active.held_by(node);
        sure(counted == *said, || {
            format!("{node} said {said}, counts as {counted}")
        })?;
    }
    Ok(now.heard.len())
}

/// 12: what may be committed elsewhere is not given up: no more is than was accepted in this role and ended.
pub(super) fn inherited_stay(asked: &Asked<'_>) -> Found {
    let (Some((now, active)), Some(before)) = (active(asked), asked.before) else {
        return Ok(0);
    };
    let is_next = now.number.is_next_to(before.number);
    if before.role != now.role || now.since.is_erased || !is_next {
        return Ok(0);
    }
    let given_up = now.aborted.saturating_sub(before.aborted);
    let (own, inherited): (Vec<&Shown>, Vec<_>) = before.tracked.iter().partition(|one| one.is_own);
    let ended = own.iter().filter(|one| !active.tracks(one.prepare.seqno));
    let ended = ended.count();
    sure(given_up <= u64::try_from(ended).unwrap_or(u64::MAX), || {
        format!("{given_up} given up, {ended} of {own:?} ended, {inherited:?} were inherited")
    })?;
    let is_looked_at = given_up > 0 || !inherited.is_empty();
    Ok(usize::from(is_looked_at))
}

/// 14: whoever was accepted is under way until he is answered, and is answered once: a reply can only be taken out.
pub(super) fn whoever_waits_is_tracked(asked: &Asked<'_>) -> Found {
    let Some((now, active)) = active(asked) else {
        return Ok(0);
    };
    for seqno in &now.parked {
        sure(active.tracks(*seqno), || {
            format!("{seqno} is waited for, and not under way")
        })?;
    }
    sure(now.waiting <= now.parked.len(), || {
        format!("{} wait", now.waiting)
    })?;
    Ok(now.parked.len())
}
