//! What a vbucket should answer, by an ordered map.

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

#[derive(Clone, Debug, Default)]
pub(super) struct Model {
    pub(super) slots: BTreeMap<u8, Slot>,
    pub(super) high: Seqno,
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
        let slot = self.slots.get(&name);
        let live = slot.and_then(|slot| slot.live(now).map(|_| slot.cas));
        let is_expired = slot.is_some_and(|slot| slot.document.is_some()) && live.is_none();
        let verdict = judge(write, live);
        if verdict.is_err() {
            if is_expired {
                self.change(name, None);
            }
            return verdict;
        }
        let fresh = |value: &Bytes, options: &WriteOptions| Written {
            value: value.clone(),
            flags: options.flags,
            expiry: expiry_at(options.expiry, now),
        };
        let document = match write {
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
        };
        self.change(name, document);
        Ok(())
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
