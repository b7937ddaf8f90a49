//! What is judged of a vbucket, copied under its lock; and the invariants that hold in every role.
//!
//! Invariant: a copy says how the vbucket was at one moment. Nobody makes one of a vbucket that is suspect or not loaded: there
//! memory and log need not be one yet.

use std::collections::BTreeMap;

use super::{Asked, Found, IS_ON, PREPARES_MAX, sure};
use crate::durability::{Chains, Decision, Monitor, NodeName, Prepare, RoleEpoch, SnapshotEnd};
use crate::vbucket::core::{Inner, VbucketCore};
use crate::vbucket::status::Status;
use storage::{DocumentKey, Seqno, VbucketState, Watermarks};

/// What happened while the lock was held, which a comparison with before must know.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::vbucket) struct Since {
    /// The monitor was told something.
    pub(in crate::vbucket) is_told: bool,
    /// A prepare was erased.
    pub(in crate::vbucket) is_erased: bool,
}

/// Numbers of copies of one vbucket.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::vbucket) struct Views {
    last: u64,
    /// Those up to here are of a past that was given up.
    forgotten: u64,
}

impl Views {
    fn next(&mut self) -> Views {
        self.last = self.last.saturating_add(1);
        *self
    }

    /// The vbucket goes back: what was before says nothing of what comes.
    pub(in crate::vbucket) fn forget(&mut self) {
        self.forgotten = self.last;
    }

    pub(super) fn is_behind(self, other: Views) -> bool {
        self.last > other.last
    }

    /// Whether nothing was copied in between.
    pub(super) fn is_next_to(self, other: Views) -> bool {
        self.last == other.last.saturating_add(1)
    }

    /// Whether the other may be compared with this one.
    pub(super) fn knows(self, other: Views) -> bool {
        other.last > self.forgotten
    }
}

/// A prepare that is not over.
#[derive(Clone, Debug)]
pub(super) struct Shown {
    pub(super) prepare: Prepare,
    /// Its collection is the one it was prepared in.
    pub(super) is_in_force: bool,
    /// It was accepted from a client, in this role.
    pub(super) is_own: bool,
}

/// The copy.
#[derive(Debug)]
pub(in crate::vbucket) struct View {
    pub(super) number: Views,
    pub(super) since: Since,
    pub(super) state: VbucketState,
    pub(super) role: RoleEpoch,
    pub(super) high: Seqno,
    pub(super) stored: Watermarks,
    pub(super) monitor: Monitor,
    /// What the monitor has of what is not over, decided first.
    pub(super) tracked: Vec<Shown>,
    /// What the table has, and whether it may be committed elsewhere; by seqno.
    pub(super) table: Vec<(Shown, bool)>,
    /// Who is not over, of those accepted from a client.
    pub(super) parked: Vec<Seqno>,
    pub(super) waiting: usize,
    /// Given up since the bucket was opened.
    pub(super) aborted: u64,
    /// What the ledger knows of the nodes of its chains.
    pub(super) heard: Vec<(NodeName, Seqno)>,
    pub(super) whole: Option<SnapshotEnd>,
    /// What was acknowledged on the stream of now.
    pub(super) said: Seqno,
}

impl VbucketCore {
    /// How it is, where there is something to judge.
    pub(in crate::vbucket) fn view(&self, inner: &mut Inner, since: Since) -> Option<View> {
        let unsure = Status::SUSPECT | Status::WARMING;
        let is_unsure = self.status().has(unsure) || self.prepares.is_unloaded();
        if !IS_ON || !since.is_told || is_unsure || self.prepares.open() > PREPARES_MAX {
            return None;
        }
        let durable = &mut inner.durable;
        let number = durable.views.next();
        let collections = self.collections.read();
        let shown = |prepare: Prepare| Shown {
            is_in_force: collections.has(&prepare.key, prepare.seqno),
            is_own: durable.ledger.is_parked(prepare.seqno),
            prepare,
        };
        let mut table = self.prepares.shown();
        table.sort_by_key(|(prepare, _)| prepare.seqno);
        let table = table.into_iter().map(|(prepare, is)| (shown(prepare), is));
        let heard = nodes(&durable.monitor).into_iter().map(|node| {
            let seqno = durable.ledger.heard_of(&node);
            (node, seqno)
        });
        Some(View {
            number,
            since,
            state: inner.identity.state,
            role: durable.ledger.role(),
            high: inner.log.last_seqno(),
            stored: *inner.flushed.persisted(),
            tracked: open(&durable.monitor).into_iter().map(shown).collect(),
            table: table.collect(),
            parked: durable.ledger.parked().collect(),
            waiting: durable.ledger.waiting(),
            aborted: durable.counts.aborted,
            heard: heard.collect(),
            whole: durable.announced.whole(),
            said: durable.announced.said(),
            monitor: durable.monitor.clone(),
        })
    }
}

/// The nodes of the chains in force, but the active one.
fn nodes(monitor: &Monitor) -> Vec<NodeName> {
    let Monitor::Active(active) = monitor else {
        return Vec::new();
    };
    let chains = active.chains().into_iter().flat_map(Chains::iter);
    let nodes = chains.flat_map(|chain| chain.nodes().iter().skip(1));
    nodes.cloned().collect()
}

fn open(monitor: &Monitor) -> Vec<Prepare> {
    match monitor {
        Monitor::Active(active) => {
            let decided = active.decisions().map(Decision::prepare);
            decided.chain(active.undecided()).cloned().collect()
        }
        Monitor::Passive(passive) => passive.incomplete().cloned().collect(),
        Monitor::Dead(dead) => dead.incomplete().cloned().collect(),
    }
}

/// 1: what is decided and tracked rises strictly, up to the high seqno.
pub(super) fn rises(asked: &Asked<'_>) -> Found {
    let View { tracked, high, .. } = asked.now;
    let seqnos = || tracked.iter().map(|one| one.prepare.seqno);
    let in_order = seqnos().zip(seqnos().skip(1)).all(|(one, next)| one < next);
    sure(in_order, || format!("{tracked:?}"))?;
    let last = seqnos().next_back().unwrap_or_default();
    sure(last <= *high, || format!("{last} above {high}"))?;
    Ok(tracked.len())
}

/// 2: one prepare a key that is not over, and the monitor and the table have the same.
pub(super) fn one_a_key(asked: &Asked<'_>) -> Found {
    let now = asked.now;
    let in_force = |one: &&Shown| one.is_in_force;
    let mut tracked: BTreeMap<&DocumentKey, Seqno> = BTreeMap::new();
    for Shown { prepare, .. } in now.tracked.iter().filter(in_force) {
        let before = tracked.insert(&prepare.key, prepare.seqno);
        sure(before.is_none(), || format!("{prepare:?}, and {before:?}"))?;
    }
    let table = now.table.iter().map(|(one, _)| one).filter(in_force);
    let table: BTreeMap<_, _> = table
        .map(|one| (&one.prepare.key, one.prepare.seqno))
        .collect();
    sure(tracked == table, || {
        format!("the monitor has {tracked:?}, the table {table:?}")
    })?;
    Ok(table.len())
}

/// 5: no high seqno falls.
pub(super) fn nothing_falls(asked: &Asked<'_>) -> Found {
    let Some(before) = asked.before else {
        return Ok(0);
    };
    let memory = |view: &View| {
        let monitor = &view.monitor;
        [view.high, monitor.high_prepared(), monitor.high_completed()]
    };
    let disk = |stored: &Watermarks| {
        let Watermarks {
            prepared_seqno,
            completed_seqno,
            high_prepared_seqno,
            max_visible_seqno,
            ..
        } = *stored;
        [
            prepared_seqno,
            completed_seqno,
            high_prepared_seqno,
            max_visible_seqno,
        ]
    };
    let rose = |was: &[Seqno], is: &[Seqno]| was.iter().zip(is).all(|(was, is)| was <= is);
    let (was, is) = (memory(before), memory(asked.now));
    sure(rose(&was, &is), || format!("{was:?} became {is:?}"))?;
    // A store that was opened anew may hold less than was said to be on its way.
    if before.stored.high_seqno <= asked.now.stored.high_seqno {
        let (was, is) = (disk(&before.stored), disk(&asked.now.stored));
        sure(rose(&was, &is), || format!("on disk {was:?} became {is:?}"))?;
    }
    Ok(1)
}

/// 13: whatever may be committed elsewhere is not read, which is all that this vbucket did not accept itself in this role.
pub(super) fn maybe_visible(asked: &Asked<'_>) -> Found {
    let is_active = asked.now.state == VbucketState::Active;
    for (one, is_maybe_visible) in &asked.now.table {
        let is_own = is_active && one.is_own;
        sure(*is_maybe_visible != is_own, || {
            format!("{one:?} is maybe visible: {is_maybe_visible}")
        })?;
    }
    Ok(asked.now.table.len())
}

/// 15: the monitor is of the role, and nobody waits where nothing is decided.
pub(super) fn monitor_is_of_the_role(asked: &Asked<'_>) -> Found {
    let View {
        state,
        monitor,
        waiting,
        parked,
        ..
    } = asked.now;
    let is_it = match state {
        VbucketState::Active => matches!(monitor, Monitor::Active(_)),
        VbucketState::Replica | VbucketState::Pending => matches!(monitor, Monitor::Passive(_)),
        VbucketState::Dead => matches!(monitor, Monitor::Dead(_)),
    };
    sure(is_it, || format!("{state:?}: {monitor:?}"))?;
    let is_active = *state == VbucketState::Active;
    sure(is_active || (*waiting, parked.len()) == (0, 0), || {
        format!("{waiting} wait, {parked:?} are parked, of a {state:?}")
    })?;
    Ok(1)
}

/// 22: on disk nothing at or below the completed seqno goes on.
pub(super) fn completed_on_disk(asked: &Asked<'_>) -> Found {
    let Watermarks {
        high_seqno,
        completed_seqno,
        ..
    } = asked.now.stored;
    let on_disk = |one: &&Shown| one.is_in_force && one.prepare.seqno <= high_seqno;
    let table = asked.now.table.iter().map(|(one, _)| one).filter(on_disk);
    let mut looked_at = 0;
    for one in table {
        sure(one.prepare.seqno > completed_seqno, || {
            format!("{one:?} at or below {completed_seqno}")
        })?;
        looked_at += 1;
    }
    Ok(looked_at)
}

/// 25: what is stored as prepared this node holds.
pub(super) fn stored_is_prepared(asked: &Asked<'_>) -> Found {
    let stored = asked.now.stored.high_prepared_seqno;
    if let Monitor::Dead(_) = asked.now.monitor {
        // It changes by nothing that happens on the disk.
        return Ok(0);
    }
    let prepared = asked.now.monitor.high_prepared();
    sure(stored <= prepared, || format!("{stored} above {prepared}"))?;
    Ok(usize::from(stored > Seqno::ZERO))
}

/// 26: the highest visible item is there.
pub(super) fn visible_is_there(asked: &Asked<'_>) -> Found {
    let Watermarks {
        high_seqno,
        max_visible_seqno,
        ..
    } = asked.now.stored;
    sure(max_visible_seqno <= high_seqno, || {
        format!("{max_visible_seqno} above {high_seqno}")
    })?;
    Ok(usize::from(max_visible_seqno > Seqno::ZERO))
}
