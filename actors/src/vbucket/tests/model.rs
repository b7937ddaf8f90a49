//! What a vbucket should answer, by an ordered map; and the durable writes under way, by another.

use std::collections::BTreeMap;

use bytes::Bytes;

use messages::OperationError;
use messages::vbucket::{ExpiryRequest, Write, WriteOptions};
use storage::{Cas, Expiry, RevSeqno, Seqno};

/// The newest version of a key.
#[derive(Clone, Debug)]
pub(super) struct Slot {
    pub(super) seqno: Seqno,
    pub(super) cas: Cas,
    pub(super) rev: u64,
    /// None of a tombstone.
    pub(super) document: Option<Written>,
}

#[derive(Clone, Debug)]
pub(super) struct Written {
    value: Bytes,
    flags: u32,
    expiry: u32,
}

impl Slot {
    fn live(&self, now: u32) -> Option<&Written> {
        let is_live = |document: &&Written| document.expiry == 0 || document.expiry > now;
        self.document.as_ref().filter(is_live)
    }

    pub(super) fn shown(&self, now: u32) -> Option<(Bytes, u32, Expiry, RevSeqno, Seqno)> {
        let Written {
            value,
            flags,
            expiry,
        } = self.live(now)?;
        let (expiry, rev) = (Expiry(*expiry), RevSeqno(self.rev));
        Some((value.clone(), *flags, expiry, rev, self.seqno))
    }
}

/// A durable write under way.
#[derive(Clone, Debug)]
pub(super) struct Pending {
    pub(super) name: u8,
    document: Option<Written>,
    rev: u64,
    /// When it is given up, in seconds; never, once another may have committed it.
    deadline: Option<u32>,
    pub(super) is_hidden: bool,
    /// Committed or not, once that is decided.
    verdict: Option<bool>,
}

/// How a durable write was ended, for whoever waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    Committed(Seqno),
    Unknown,
    /// A panic came between: he may have been told either.
    PerhapsTold(Seqno),
}

#[derive(Clone, Debug, Default)]
pub(super) struct Model {
    pub(super) slots: BTreeMap<u8, Slot>,
    pub(super) high: Seqno,
    pub(super) pending: BTreeMap<Seqno, Pending>,
    acknowledged: Seqno,
}

/// Seconds a durable write is given.
const TIMEOUT_S: u32 = 30;

impl Model {
    pub(super) fn pending_of(&self, name: u8) -> Option<&Pending> {
        self.pending.values().find(|one| one.name == name)
    }

    pub(super) fn write_durably(
        &mut self,
        name: u8,
        write: &Write,
        now: u32,
    ) -> Result<(), OperationError> {
        if matches!(write, Write::Touch(_)) {
            return Err(OperationError::DurabilityNotSupported);
        }
        self.admit(name, write, now)?;
        self.high = self.high.next();
        let pending = Pending {
            name,
            document: self.made(name, write, now),
            rev: self.slots.get(&name).map_or(0, |slot| slot.rev) + 1,
            deadline: Some(now + TIMEOUT_S),
            is_hidden: false,
            verdict: None,
        };
        self.pending.insert(self.high, pending);
        Ok(())
    }

    /// The other node holds everything up to here.
    pub(super) fn acknowledge(&mut self, seqno: Seqno) {
        self.acknowledged = self.acknowledged.max(seqno);
        for (prepare, one) in &mut self.pending {
            if *prepare <= self.acknowledged {
                one.verdict.get_or_insert(true);
            }
        }
    }

    /// Gives up what is overdue and first in line; who else is told that he waited long enough.
    pub(super) fn tick(&mut self, now: u32) -> Vec<Seqno> {
        let is_overdue = |one: &Pending| one.deadline.is_some_and(|at| at < now);
        let undecided = self.pending.values_mut();
        for one in undecided.skip_while(|one| one.verdict.is_some()) {
            if !is_overdue(one) {
                break;
            }
            one.verdict = Some(false);
        }
        let behind = self.pending.iter();
        let behind = behind.filter(|(_, one)| one.verdict.is_none() && is_overdue(one));
        behind.map(|(seqno, _)| *seqno).collect()
    }

    /// Does the next that is decided.
    pub(super) fn end_next(&mut self) -> Option<(Seqno, Ended)> {
        let next = self.pending.first_entry()?;
        let is_commit = next.get().verdict?;
        let (seqno, one) = next.remove_entry();
        self.high = self.high.next();
        if !is_commit {
            return Some((seqno, Ended::Unknown));
        }
        let slot = Slot {
            seqno: self.high,
            cas: Cas(0),
            rev: one.rev,
            document: one.document,
        };
        self.slots.insert(one.name, slot);
        Some((seqno, Ended::Committed(self.high)))
    }

    /// The monitor was made anew: what was given up and not done is undecided.
    pub(super) fn rebuild(&mut self) {
        for one in self.pending.values_mut() {
            one.verdict = None;
        }
        self.acknowledge(self.acknowledged);
    }

    /// It was something else in between.
    pub(super) fn bounce(&mut self) {
        self.acknowledged = Seqno::ZERO;
        for one in self.pending.values_mut() {
            one.verdict = None;
            one.deadline = None;
            one.is_hidden = true;
        }
    }

    /// Whether a write may be done; what is in its way and expired is deleted by the way.
    fn admit(&mut self, name: u8, write: &Write, now: u32) -> Result<(), OperationError> {
        let slot = self.slots.get(&name);
        let live = slot.and_then(|slot| slot.live(now).map(|_| slot.cas));
        let is_expired = slot.is_some_and(|slot| slot.document.is_some()) && live.is_none();
        if let Some(pending) = self.pending_of(name) {
            return Err(match (write, live) {
                (Write::Replace(_), None) if !pending.is_hidden => OperationError::KeyNotFound,
                _ => OperationError::SyncWriteInProgress,
            });
        }
        let verdict = judge(write, live);
        if verdict.is_err() && is_expired {
            self.change(name, None);
        }
        verdict
    }
}

impl Model {
    pub(super) fn cas(&self, name: u8) -> Cas {
        self.slots.get(&name).map_or(Cas(2), |slot| slot.cas)
    }

    pub(super) fn write(
        &mut self,
        name: u8,
        write: &Write,
        now: u32,
    ) -> Result<(), OperationError> {
        self.admit(name, write, now)?;
        let document = self.made(name, write, now);
        self.change(name, document);
        Ok(())
    }

    fn made(&self, name: u8, write: &Write, now: u32) -> Option<Written> {
        let slot = self.slots.get(&name);
        let fresh = |value: &Bytes, options: &WriteOptions| Written {
            value: value.clone(),
            flags: options.flags,
            expiry: expiry_at(options.expiry, now),
        };
        match write {
            Write::Set(set) => Some(fresh(&set.value, &set.options)),
            Write::Add(add) => Some(fresh(&add.value, &add.options)),
            Write::Replace(replace) => Some(fresh(&replace.value, &replace.options)),
            Write::Delete(_) => None,
            Write::Touch(touch) => {
                slot.and_then(|slot| slot.document.clone())
                    .map(|before| Written {
                        expiry: expiry_at(touch.expiry, now),
                        ..before
                    })
            }
        }
    }

    fn change(&mut self, name: u8, document: Option<Written>) {
        self.high = self.high.next();
        let rev = self.slots.get(&name).map_or(0, |slot| slot.rev) + 1;
        let slot = Slot {
            seqno: self.high,
            cas: Cas(0),
            rev,
            document,
        };
        self.slots.insert(name, slot);
    }
}

fn judge(write: &Write, live: Option<Cas>) -> Result<(), OperationError> {
    let given = match write {
        Write::Add(add) => {
            return match (add.options.cas, live) {
                (Some(_), live) => Err(OperationError::CasMismatch {
                    current: live.unwrap_or(Cas(0)),
                }),
                (None, Some(_)) => Err(OperationError::KeyExists),
                (None, None) => Ok(()),
            };
        }
        Write::Set(set) if set.options.cas.is_none() => return Ok(()),
        Write::Set(set) => set.options.cas,
        Write::Replace(replace) => replace.options.cas,
        Write::Delete(delete) => delete.cas,
        Write::Touch(_) => None,
    };
    let current = live.ok_or(OperationError::KeyNotFound)?;
    match given {
        Some(given) if given != current => Err(OperationError::CasMismatch { current }),
        Some(_) | None => Ok(()),
    }
}

fn expiry_at(request: ExpiryRequest, now: u32) -> u32 {
    match request.0 {
        0 => 0,
        seconds => now + seconds,
    }
}
