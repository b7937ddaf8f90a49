//! Invariants of an active vbucket: what it counts, what it decides, what it shows.

use super::*;

pub(super) fn committed_is_prepared(world: &World, _: &Memory) -> Found {
    let Some((_, active)) = active(world) else {
        return Ok(0);
    };
    let (committed, prepared) = (active.last_committed(), active.high_prepared());
    sure(committed <= prepared, || {
        format!("{committed} above {prepared}")
    })?;
    Ok(committed.0)
}

pub(super) fn fences_hold(world: &World, _: &Memory) -> Found {
    let Some((node, active)) = active(world) else {
        return Ok(0);
    };
    let prepared = active.high_prepared();
    let mut looked_at = 0;
    for item in own_log(node).filter(|item| item.seqno <= prepared) {
        if let Operation::Prepare(level) = item.operation {
            let holds = level == Majority || node.persisted >= item.seqno;
            // One that was given up unpersisted is no fence any more.
            let pending = node.pending_of(&item.key);
            let is_open = pending.is_some_and(|one| one.seqno == item.seqno);
            sure(holds || !is_open, || {
                format!("{} below {prepared}", item.seqno)
            })?;
            looked_at += 1;
        }
    }
    Ok(looked_at)
}

fn held_by_enough(active: &ActiveMonitor, seqno: Seqno) -> bool {
    let Some(chains) = active.chains() else {
        return false;
    };
    chains.iter().all(|chain| {
        let holds = |name: &&NodeName| active.held_by(name) >= seqno;
        let first = chain.nodes().iter().take(1).filter(holds).count();
        chain.nodes().iter().filter(holds).count() >= chain.majority() && first == 1
    })
}

pub(super) fn nothing_satisfied_waits(world: &World, _: &Memory) -> Found {
    let Some((node, active)) = active(world) else {
        return Ok(0);
    };
    let mut looked_at = 0;
    for one in active.undecided() {
        // As a replica it held less than it must as the active; what is behind waits with it.
        let is_inherited = one.level != Majority && one.seqno <= node.own_from;
        if is_inherited && one.seqno > active.persisted() {
            break;
        }
        let is_held = held_by_enough(active, one.seqno);
        sure(!is_held, || format!("{one:?} is held and waits"))?;
        looked_at += 1;
    }
    Ok(looked_at)
}

/// What was delivered counts in full, in the monitor as in the ledger.
pub(super) fn counts_are_true(world: &World, _: &Memory) -> Found {
    let Some((node, active)) = active(world) else {
        return Ok(0);
    };
    let mut looked_at = 0;
    for (other, link) in world.nodes.iter().zip(&world.links) {
        let Some(link) = link else { continue };
        let believed = active.held_by(&other.name);
        let in_ledger = node.ledger.words().of(&other.name);
        sure(believed == in_ledger, || {
            format!("{}: {believed}, the ledger says {in_ledger}", other.name)
        })?;
        let is_heard = link.acks.is_empty() && other.acknowledged > Seqno::ZERO;
        sure(!is_heard || believed >= other.acknowledged, || {
            format!(
                "{} said {}, counts as {believed}",
                other.name, other.acknowledged
            )
        })?;
        looked_at += u64::from(is_heard);
    }
    Ok(looked_at)
}

/// Every abort is of a write that had a deadline.
pub(super) fn infinite_stay(world: &World, _: &Memory) -> Found {
    let Some((node, active)) = active(world) else {
        return Ok(0);
    };
    let mut looked_at = 0;
    for one in active
        .decisions()
        .filter(|one| one.verdict() == Verdict::Abort)
    {
        let prepare = one.prepare();
        let is_own = prepare.seqno > node.own_from;
        sure(is_own, || format!("{prepare:?} was inherited"))?;
        looked_at += 1;
    }
    for item in own_log(node) {
        if let Operation::Abort(of) = item.operation {
            sure(of > node.own_from, || {
                format!("{of} was inherited and given up")
            })?;
            looked_at += 1;
        }
    }
    Ok(looked_at)
}

pub(super) fn maybe_visible(world: &World, _: &Memory) -> Found {
    let mut looked_at = 0;
    for node in world.nodes.iter().filter(|node| node.is_up) {
        for (key, one) in &node.pending {
            let is_own = node.state == VbucketState::Active && one.seqno > node.own_from;
            sure(one.is_maybe_visible != is_own, || {
                format!("{key:?}: {one:?} of {}", node.name)
            })?;
            looked_at += 1;
        }
    }
    Ok(looked_at)
}
