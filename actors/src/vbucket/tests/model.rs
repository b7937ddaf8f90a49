//! What a vbucket should answer, by an ordered map; and the durable writes under way, by another.

use std::collections::BTreeMap;

use bytes::Bytes;

use messages::OperationError;
use messages::vbucket::{Delta, ExpiryRequest, Write, WriteOptions};
use storage::{Cas, Expiry, RevSeqno, Seqno};

/// The newest version of a key.
#[derive(Clone, Debug)]
pub(super) struct Slot {
    pub(super) seqno: Seqno,
    pub(super) cas: Cas,
    pub(super) rev: u64,
    /// A tombstone that is on disk alone.
    pub(super) is_forgotten: bool,
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
    /// Highest of the tombstones on disk alone.
    pub(super) forgotten_rev: u64,
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
        if !write.can_be_durable() {
            return Err(OperationError::DurabilityNotSupported);
        }
        self.admit(name, write, now)?;
        let document = self.made(name, write, now)?;
        self.high = self.high.next();
        let pending = Pending {
            name,
            document,
            rev: self.next_rev(name),
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
            is_forgotten: false,
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
        let document = self.made(name, write, now)?;
        self.change(name, document);
        Ok(())
    }

    /// What the document is after a write that may be done; none of a deletion.
    fn made(&self, name: u8, write: &Write, now: u32) -> Result<Option<Written>, OperationError> {
        let live = self.slots.get(&name).and_then(|slot| slot.live(now));
        let fresh = |value: &Bytes, options: &WriteOptions| Written {
            value: value.clone(),
            flags: options.flags,
            expiry: expiry_at(options.expiry, now),
        };
        let with_value = |value: Vec<u8>| {
            live.map(|before| Written {
                value: value.into(),
                ..before.clone()
            })
        };
        let before = live.map_or(&[][..], |live| &live.value);
        Ok(match write {
            Write::Set(set) => Some(fresh(&set.value, &set.options)),
            Write::Add(add) => Some(fresh(&add.value, &add.options)),
            Write::Replace(replace) => Some(fresh(&replace.value, &replace.options)),
            Write::Delete(_) => None,
            Write::Touch(touch) => live.map(|before| Written {
                expiry: expiry_at(touch.expiry, now),
                ..before.clone()
            }),
            Write::Append(append) => with_value([before, &append.value].concat()),
            Write::Prepend(prepend) => with_value([&prepend.value, before].concat()),
            Write::Count(count) if live.is_none() => Some(Written {
                value: count.initial.unwrap().to_string().into(),
                flags: 0,
                expiry: expiry_at(count.expiry, now),
            }),
            Write::Count(count) => {
                let number = String::from_utf8_lossy(before).parse();
                let number: u64 = number.map_err(|_| OperationError::DeltaBadValue)?;
                let number = match count.delta {
                    Delta::Increment(by) => number.wrapping_add(by),
                    Delta::Decrement(by) => number.saturating_sub(by),
                };
                with_value(number.to_string().into())
            }
            Write::SetWithMeta(_) | Write::DeleteWithMeta(_) => {
                unreachable!("not asked for here")
            }
        })
    }

    fn next_rev(&self, name: u8) -> u64 {
        let known = self.slots.get(&name).filter(|slot| !slot.is_forgotten);
        known.map_or(self.forgotten_rev, |slot| slot.rev) + 1
    }

    fn change(&mut self, name: u8, document: Option<Written>) {
        self.high = self.high.next();
        let rev = self.next_rev(name);
        let slot = Slot {
            seqno: self.high,
            cas: Cas(0),
            rev,
            is_forgotten: false,
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
        Write::Append(append) => append.cas,
        Write::Prepend(prepend) => prepend.cas,
        Write::Count(count) if count.initial.is_some() => return Ok(()),
        Write::Count(_) | Write::Touch(_) => None,
        Write::SetWithMeta(_) | Write::DeleteWithMeta(_) => unreachable!("not asked for here"),
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
