//! Every operation on documents, by a call and by a message: both answer the same, and what an ordered map would.
#![cfg(test)]

mod support;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use actix::{Addr, Arbiter, System};
use bytes::Bytes;
use proptest::prelude::*;

use messages::vbucket::{
    Acknowledge, Append, Count, Delete, DeleteWithMeta, Delta, ExpiryRequest, Found, GetAndLock,
    GetAndTouch, GivenMeta, Mutated, Prepend, Resolution, SetWithMeta, Touch, Unlock, Write,
    WriteOptions,
};
use messages::{ChildName, Generation, OperationError};
use piggin_actors::guardian::{ExitCause, Guardian, Verdict};
use piggin_actors::shell::{Shell, ShellConfig, start};
use piggin_actors::tether::Tether;
use piggin_actors::vbucket::VbucketActor;
use storage::{Cas, Datatype, Expiry, RevSeqno};
use support::{Bench, active, id, key, set};

#[derive(Debug)]
struct Never;

impl Guardian for Never {
    fn child_down(&self, _: &ChildName, _: Generation, cause: ExitCause) -> Verdict {
        panic!("{cause:?}");
    }

    fn child_up(&self, _: &ChildName, _: Generation) {}

    fn tether(&self, child: &ChildName) -> Arc<Tether> {
        Arc::new(Tether::new(child.clone()).for_vbucket(Some(id())))
    }
}

fn door(bench: &Bench) -> Addr<Shell<VbucketActor>> {
    let config = ShellConfig::new(ChildName::new("vbucket-3"), Arc::new(Never));
    let core = Arc::clone(&bench.core);
    start(&Arbiter::current(), config, move |_| {
        VbucketActor::new(Arc::clone(&core))
    })
}

/// Which version is named.
#[derive(Clone, Copy, Debug)]
enum Named {
    None,
    Present,
    /// Of the last lock.
    Lock,
    Another,
}

#[derive(Clone, Debug)]
enum What {
    Set(u8),
    Delete,
    Append(u8),
    Prepend(u8),
    Count(u64, bool, Option<u64>),
    Touch(u32),
    GetAndTouch(u32),
    Lock(u32),
    Unlock,
    SetWithMeta(u64, u64, bool),
    DeleteWithMeta(u64, u64),
    Tick(u64),
}

fn steps() -> impl Strategy<Value = Vec<(What, u8, Named)>> {
    let digit = prop::sample::select(vec![b'0', b'7', b'x']);
    let what = prop_oneof![
        4 => digit.clone().prop_map(What::Set),
        2 => Just(What::Delete),
        2 => digit.clone().prop_map(What::Append),
        1 => digit.prop_map(What::Prepend),
        4 => (prop_oneof![0..9u64, Just(u64::MAX)], any::<bool>(), prop::option::of(0..9u64))
            .prop_map(|(by, up, initial)| What::Count(by, up, initial)),
        1 => prop::sample::select(vec![0, 3]).prop_map(What::Touch),
        1 => prop::sample::select(vec![0, 3]).prop_map(What::GetAndTouch),
        3 => prop::sample::select(vec![0, 2, 30, 31]).prop_map(What::Lock),
        2 => Just(What::Unlock),
        3 => (0..4u64, 1..12u64, any::<bool>())
            .prop_map(|(cas, rev, skip)| What::SetWithMeta(cas, rev, skip)),
        1 => (1..4u64, 1..12u64).prop_map(|(cas, rev)| What::DeleteWithMeta(cas, rev)),
        2 => (1..3u64).prop_map(What::Tick),
    ];
    let named = prop_oneof![
        5 => Just(Named::None),
        2 => Just(Named::Present),
        3 => Just(Named::Lock),
        1 => Just(Named::Another),
    ];
    prop::collection::vec((what, 0..3u8, named), 1..80)
}

/// What there is of a key.
#[derive(Clone, Debug)]
struct Slot {
    /// None of a tombstone.
    value: Option<Vec<u8>>,
    expiry: u32,
    cas: Cas,
    rev: u64,
    lock: Option<(Cas, u64)>,
}

#[derive(Default)]
struct Model {
    slots: BTreeMap<u8, Slot>,
    /// The CAS of the last lock of each key.
    locks: BTreeMap<u8, Cas>,
    /// Nanoseconds since the beginning, and the same in seconds since the epoch.
    ns: u64,
    now: u32,
}

type Answer = Result<Option<Vec<u8>>, OperationError>;

impl Model {
    fn live(&self, name: u8) -> Option<&Slot> {
        let is_live =
            |slot: &&Slot| slot.value.is_some() && (slot.expiry == 0 || slot.expiry > self.now);
        self.slots.get(&name).filter(is_live)
    }

    fn lock(&self, name: u8) -> Option<Cas> {
        let (cas, until) = self.live(name)?.lock?;
        (self.ns < until).then_some(cas)
    }

    fn cas(&self, name: u8, named: Named) -> Option<Cas> {
        match named {
            Named::None => None,
            Named::Present => Some(self.slots.get(&name).map_or(Cas(3), |slot| slot.cas)),
            Named::Lock => Some(self.locks.get(&name).copied().unwrap_or(Cas(4))),
            Named::Another => Some(Cas(5)),
        }
    }

    /// Whether a write may be done: `must` there be a document; `given` names its version.
    fn judge(&self, name: u8, must: bool, given: Option<Cas>) -> Result<(), OperationError> {
        let Some(live) = self.live(name) else {
            return match (must, given) {
                (false, None) => Ok(()),
                _ => Err(OperationError::KeyNotFound),
            };
        };
        match (self.lock(name), given) {
            (Some(lock), given) if given == Some(lock) => Ok(()),
            (Some(_), _) => Err(OperationError::Locked),
            (None, Some(given)) if given != live.cas => {
                let current = live.cas;
                Err(OperationError::CasMismatch { current })
            }
            (None, _) => Ok(()),
        }
    }

    /// An expired document that is in the way of a write is deleted.
    fn refuse(&mut self, name: u8) {
        let is_expired = self.live(name).is_none();
        if let Some(slot) = self.slots.get_mut(&name).filter(|_| is_expired)
            && slot.value.take().is_some()
        {
            slot.rev += 1;
            (slot.expiry, slot.lock) = (0, None);
        }
    }

    fn put(&mut self, name: u8, value: Option<Vec<u8>>, expiry: u32) {
        let rev = self.slots.get(&name).map_or(0, |slot| slot.rev) + 1;
        let slot = Slot {
            value,
            expiry,
            cas: Cas(0),
            rev,
            lock: None,
        };
        self.slots.insert(name, slot);
    }

    fn at(&self, seconds: u32) -> u32 {
        if seconds == 0 { 0 } else { self.now + seconds }
    }

    fn answer(&mut self, what: &What, name: u8, given: Option<Cas>) -> Answer {
        let answer = self.try_answer(what, name, given);
        let is_conflict = matches!(answer, Err(OperationError::InvalidCas { .. }));
        if answer.is_err() && !is_conflict && !matches!(what, What::Lock(31)) {
            self.refuse(name);
        }
        answer
    }

    fn try_answer(&mut self, what: &What, name: u8, given: Option<Cas>) -> Answer {
        let live = self.live(name).cloned();
        let before = live.as_ref().and_then(|live| live.value.clone());
        let expiry = live.as_ref().map_or(0, |live| live.expiry);
        match what {
            What::Set(byte) => {
                self.judge(name, false, given)?;
                self.put(name, Some(vec![*byte]), 0);
            }
            What::Delete => {
                self.judge(name, true, given)?;
                self.put(name, None, 0);
            }
            What::Append(byte) => {
                self.judge(name, true, given)?;
                self.put(
                    name,
                    before.map(|before| [&before[..], &[*byte]].concat()),
                    expiry,
                );
            }
            What::Prepend(byte) => {
                self.judge(name, true, given)?;
                self.put(
                    name,
                    before.map(|before| [&[*byte], &before[..]].concat()),
                    expiry,
                );
            }
            What::Count(by, up, initial) => {
                self.judge(name, initial.is_none(), None)?;
                let number = match before {
                    None => initial.unwrap(),
                    Some(before) => {
                        let number = String::from_utf8(before).unwrap().parse();
                        let number: u64 = number.map_err(|_| OperationError::DeltaBadValue)?;
                        if *up {
                            number.wrapping_add(*by)
                        } else {
                            number.saturating_sub(*by)
                        }
                    }
                };
                let number = number.to_string().into_bytes();
                self.put(name, Some(number.clone()), expiry);
                return Ok(Some(number));
            }
            What::Touch(seconds) | What::GetAndTouch(seconds) => {
                self.judge(name, true, None)?;
                self.put(name, before.clone(), self.at(*seconds));
                return Ok(before.filter(|_| matches!(what, What::GetAndTouch(_))));
            }
            What::Lock(seconds) => {
                if *seconds > 30 {
                    let seconds = *seconds;
                    return Err(OperationError::LockTimeTooLong { seconds });
                }
                self.judge(name, true, None)?;
                let lasts = if *seconds == 0 { 15 } else { *seconds };
                let until = self.ns + u64::from(lasts) * 1_000_000_000;
                self.slots.get_mut(&name).unwrap().lock = Some((Cas(0), until));
                return Ok(before);
            }
            What::Unlock => {
                if self.live(name).is_none() {
                    return Err(OperationError::KeyNotFound);
                }
                let lock = self.lock(name).ok_or(OperationError::NotLocked)?;
                if given.unwrap_or(Cas(0)) != lock {
                    return Err(OperationError::Locked);
                }
                self.slots.get_mut(&name).unwrap().lock = None;
            }
            What::SetWithMeta(cas, rev, skip) => {
                self.resolve(name, Cas(*cas), *rev, given, *skip)?;
                self.put(name, Some(b"1".to_vec()), 0);
                self.slots.get_mut(&name).unwrap().rev = *rev;
            }
            What::DeleteWithMeta(cas, rev) => {
                self.resolve(name, Cas(*cas), *rev, given, false)?;
                self.put(name, None, 0);
                self.slots.get_mut(&name).unwrap().rev = *rev;
            }
            What::Tick(_) => {}
        }
        Ok(None)
    }

    fn resolve(
        &self,
        name: u8,
        cas: Cas,
        rev: u64,
        given: Option<Cas>,
        skip: bool,
    ) -> Result<(), OperationError> {
        if cas == Cas(0) {
            return Err(OperationError::InvalidCas { cas });
        }
        self.judge(name, false, given)?;
        let Some(here) = self.slots.get(&name).filter(|_| !skip) else {
            return Ok(());
        };
        // What is written here never expires and has no flags, so of equals the one there stays.
        if (rev, cas) > (here.rev, here.cas) {
            return Ok(());
        }
        let current = self.lock(name).map_or(here.cas, |_| Cas::LOCKED);
        Err(OperationError::ConflictLost { current })
    }
}

enum Request {
    Write(Write),
    GetAndTouch(GetAndTouch),
    Lock(GetAndLock),
    Unlock(Unlock),
}

fn request(what: &What, name: u8, cas: Option<Cas>) -> Option<Request> {
    let (name, acknowledge) = (format!("k{name}"), Acknowledge::InMemory);
    let key = key(&name);
    let meta = |cas, rev| GivenMeta {
        cas: Cas(cas),
        rev_seqno: RevSeqno(rev),
        flags: 0,
        datatype: Datatype::RAW,
        expiry: Expiry(0),
    };
    let bytes = |byte: u8| Bytes::copy_from_slice(&[byte]);
    Some(Request::Write(match *what {
        What::Set(byte) => {
            let mut set = set(&name, "");
            set.value = bytes(byte);
            set.options = WriteOptions {
                cas,
                ..WriteOptions::default()
            };
            Write::Set(set)
        }
        What::Delete => Write::Delete(Delete {
            key,
            cas,
            acknowledge,
        }),
        What::Append(byte) => Write::Append(Append {
            key,
            value: bytes(byte),
            cas,
            acknowledge,
        }),
        What::Prepend(byte) => Write::Prepend(Prepend {
            key,
            value: bytes(byte),
            cas,
            acknowledge,
        }),
        What::Count(by, up, initial) => Write::Count(Count {
            key,
            delta: if up {
                Delta::Increment(by)
            } else {
                Delta::Decrement(by)
            },
            initial,
            expiry: ExpiryRequest(0),
            acknowledge,
        }),
        What::Touch(seconds) => Write::Touch(Touch {
            key,
            expiry: ExpiryRequest(seconds),
            acknowledge,
        }),
        What::SetWithMeta(given, rev, skip) => Write::SetWithMeta(SetWithMeta {
            key,
            value: bytes(b'1'),
            meta: meta(given, rev),
            cas,
            resolution: if skip {
                Resolution::Skip
            } else {
                Resolution::ByRevision
            },
            acknowledge,
        }),
        What::DeleteWithMeta(given, rev) => Write::DeleteWithMeta(DeleteWithMeta {
            key,
            meta: meta(given, rev),
            cas,
            resolution: Resolution::ByRevision,
            acknowledge,
        }),
        What::GetAndTouch(seconds) => {
            let expiry = ExpiryRequest(seconds);
            return Some(Request::GetAndTouch(GetAndTouch { key, expiry }));
        }
        What::Lock(seconds) => return Some(Request::Lock(GetAndLock { key, seconds })),
        What::Unlock => {
            let cas = cas.unwrap_or(Cas(0));
            return Some(Request::Unlock(Unlock { key, cas }));
        }
        What::Tick(_) => return None,
    }))
}

/// What either door says, with the version that was told.
type Told = Result<(Option<Vec<u8>>, Option<Cas>), OperationError>;

fn mutated(answer: Result<Mutated, OperationError>) -> Told {
    let told = |mutated: Mutated| {
        let number = mutated
            .counter
            .map(|counter| counter.to_string().into_bytes());
        (number, Some(mutated.cas))
    };
    answer.map(told)
}

fn found(answer: Result<Found, OperationError>) -> Told {
    answer.map(|found| (Some(found.value.to_vec()), Some(found.meta.cas)))
}

fn call(bench: &Bench, request: &Request) -> Told {
    let core = &bench.core;
    match request {
        Request::Write(write) => mutated(core.write(write.clone())),
        Request::GetAndTouch(touch) => found(core.get_and_touch(touch)),
        Request::Lock(lock) => found(core.get_and_lock(lock)),
        Request::Unlock(unlock) => core.unlock(unlock).map(|()| (None, None)),
    }
}

async fn send(door: &Addr<Shell<VbucketActor>>, request: Request) -> Told {
    match request {
        Request::Write(write) => mutated(match write {
            Write::Set(set) => door.send(set).await.unwrap(),
            Write::Add(add) => door.send(add).await.unwrap(),
            Write::Replace(replace) => door.send(replace).await.unwrap(),
            Write::Delete(delete) => door.send(delete).await.unwrap(),
            Write::Touch(touch) => door.send(touch).await.unwrap(),
            Write::Append(append) => door.send(append).await.unwrap(),
            Write::Prepend(prepend) => door.send(prepend).await.unwrap(),
            Write::Count(count) => door.send(count).await.unwrap(),
            Write::SetWithMeta(set) => door.send(set).await.unwrap(),
            Write::DeleteWithMeta(delete) => door.send(delete).await.unwrap(),
        }),
        Request::GetAndTouch(touch) => found(door.send(touch).await.unwrap()),
        Request::Lock(lock) => found(door.send(lock).await.unwrap()),
        Request::Unlock(unlock) => door.send(unlock).await.unwrap().map(|()| (None, None)),
    }
}

async fn run(steps: Vec<(What, u8, Named)>) {
    let (called, sent) = (active(), active());
    let door = door(&sent);
    let mut model = Model {
        now: called.clock.seconds(),
        ..Model::default()
    };
    for (what, name, named) in steps {
        if let What::Tick(seconds) = what {
            called.clock.advance(Duration::from_secs(seconds));
            sent.clock.advance(Duration::from_secs(seconds));
            model.ns += seconds * 1_000_000_000;
            model.now = called.clock.seconds();
        }
        let cas = model.cas(name, named);
        let Some(asked) = request(&what, name, cas) else {
            continue;
        };
        let expected = model.answer(&what, name, cas);
        let told = call(&called, &asked);
        assert_eq!(send(&door, asked).await, told, "{what:?}");
        let value = told.as_ref().map(|(value, _)| value.clone());
        assert_eq!(value.map_err(Clone::clone), expected, "{what:?} k{name}");
        if let Ok((_, Some(cas))) = told {
            let slot = model.slots.get_mut(&name).unwrap();
            match (&what, &mut slot.lock) {
                (What::Lock(_), Some(lock)) => {
                    lock.0 = cas;
                    model.locks.insert(name, cas);
                }
                _ => slot.cas = cas,
            }
        } else if told.is_err()
            && let Some(slot) = model.slots.get_mut(&name)
            && slot.value.is_none()
            && let Ok(meta) = called.core.get_meta(&key(&format!("k{name}")))
        {
            // Nobody was told the version of what expired.
            slot.cas = meta.cas;
        }
        for name in 0..3 {
            let shown = called.core.get(&key(&format!("k{name}")));
            let shown =
                shown.map(|found| (found.value.to_vec(), found.meta.cas, found.meta.rev_seqno.0));
            let live = model.live(name).map(|slot| {
                let cas = model.lock(name).map_or(slot.cas, |_| Cas::LOCKED);
                (slot.value.clone().unwrap(), cas, slot.rev)
            });
            assert_eq!(shown.ok(), live, "k{name} after {what:?}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn whatever_is_asked(steps in steps()) {
        System::new().block_on(run(steps));
    }
}
