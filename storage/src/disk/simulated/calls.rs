//! The one gate every call passes: it is counted and traced, and either lets pass or is struck by what fails.
//!
//! Invariant: whoever holds the state's lock makes the only call at this moment; an inode's lock is taken after
//! it, never before. Power goes before read-only, read-only before faults.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use parking_lot::{Mutex, MutexGuard};

use super::directory::Directory;
use super::fault::{Effect, Faults};
use super::image::{self, Image};
use super::inode::{Inode, SharedInode};
use crate::disk::{DiskError, DiskErrorKind, Verb, refuse_unless_plain};

/// As far as the offsets of an operating system reach.
const LENGTH_MAX: u64 = i64::MAX as u64;

/// A call that was made, whatever it answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// What was asked.
    pub verb: Verb,
    /// Of which file: the name it was opened by, the source of a rename, `.` for the directory.
    pub file: Arc<str>,
}

pub(super) struct Shared {
    pub(super) state: Mutex<State>,
    /// Bytes all files take.
    pub(super) used: Arc<AtomicU64>,
}

/// What the lock of the disk guards.
#[derive(Default)]
pub(super) struct State {
    pub(super) directory: Directory,
    pub(super) faults: Faults,
    pub(super) power: Power,
    pub(super) read_only: bool,
    pub(super) space_limit: Option<u64>,
    /// One of so many reads that may not wait finds its bytes in memory; 0: none.
    pub(super) in_memory_one_of: u64,
    pub(super) reads_at_once: u64,
    pub(super) calls: u64,
    pub(super) mutating_calls: u64,
    pub(super) calls_by_verb: BTreeMap<Verb, u64>,
    pub(super) trace: Vec<Call>,
}

#[derive(Clone, Copy, Debug, Default)]
pub(super) enum Power {
    #[default]
    On,
    /// After this many more mutating calls.
    FailsAfter(u64),
    Off,
}

/// A call about to be made.
pub(super) struct Attempt<'a> {
    verb: Verb,
    file: &'a Arc<str>,
    mutating: bool,
    bytes: Option<Range<u64>>,
}

impl Shared {
    pub(super) fn create(&self, state: &mut State, name: &Arc<str>) -> SharedInode {
        let inode = Inode::new(Image::default(), &self.used);
        state.directory.create(Arc::clone(name), Arc::clone(&inode));
        inode
    }

    /// Counts a call on a name and lets it pass, or says why not.
    pub(super) fn begin_named(
        &self,
        attempt: &Attempt<'_>,
    ) -> Result<MutexGuard<'_, State>, DiskError> {
        let state = self.begin(attempt)?;
        refuse_unless_plain(attempt.verb, attempt.file)?;
        Ok(state)
    }

    /// Counts a call and lets it pass, or says why not. For calls that are done wholly or not at all.
    pub(super) fn begin(&self, attempt: &Attempt<'_>) -> Result<MutexGuard<'_, State>, DiskError> {
        let (state, effect) = self.admit(attempt)?;
        match effect {
            None => Ok(state),
            Some(effect) => Err(attempt.error(effect.as_failure())),
        }
    }

    /// Counts a call and says what strikes it.
    pub(super) fn admit(
        &self,
        attempt: &Attempt<'_>,
    ) -> Result<(MutexGuard<'_, State>, Option<Effect>), DiskError> {
        let mut state = self.state.lock();
        state.count(attempt);
        match state.power {
            Power::Off => return Err(attempt.error(DiskErrorKind::PowerCut)),
            Power::FailsAfter(0) if attempt.mutating => {
                state.power = Power::Off;
                if state.read_only {
                    return Err(attempt.error(DiskErrorKind::PowerCut));
                }
                let kind = DiskErrorKind::PowerCut;
                // Under way as a whole: what of it reaches the disk is for the crash to say.
                return Ok((
                    state,
                    Some(Effect::ShortWrite {
                        bytes: usize::MAX,
                        kind,
                    }),
                ));
            }
            Power::FailsAfter(left) if attempt.mutating => {
                state.power = Power::FailsAfter(left - 1);
            }
            Power::On | Power::FailsAfter(_) => {}
        }
        if state.read_only && attempt.mutating {
            return Err(attempt.error(DiskErrorKind::ReadOnly));
        }
        let effect = state
            .faults
            .strike(attempt.verb, attempt.file, attempt.bytes.as_ref());
        Ok((state, effect))
    }
}

impl State {
    /// Whether the next read that may not wait finds what it wants.
    pub(super) fn is_in_memory(&mut self) -> bool {
        if self.in_memory_one_of == 0 {
            return false;
        }
        self.reads_at_once += 1;
        self.reads_at_once.is_multiple_of(self.in_memory_one_of)
    }

    pub(super) fn count(&mut self, attempt: &Attempt<'_>) {
        self.calls += 1;
        self.mutating_calls += u64::from(attempt.mutating);
        *self.calls_by_verb.entry(attempt.verb).or_default() += 1;
        self.trace.push(Call {
            verb: attempt.verb,
            file: Arc::clone(attempt.file),
        });
    }
}

impl<'a> Attempt<'a> {
    pub(super) fn new(verb: Verb, file: &'a Arc<str>) -> Self {
        Self {
            verb,
            file,
            mutating: false,
            bytes: None,
        }
    }

    pub(super) fn mutating(mut self, mutating: bool) -> Self {
        self.mutating = mutating;
        self
    }

    pub(super) fn touching(mut self, offset: u64, length: u64) -> Self {
        self.bytes = Some(offset..offset.saturating_add(length));
        self
    }

    pub(super) fn error(&self, kind: DiskErrorKind) -> DiskError {
        DiskError {
            verb: self.verb,
            file: self.file.to_string(),
            kind,
        }
    }

    pub(super) fn found(&self, found: bool) -> Result<(), DiskError> {
        if found {
            Ok(())
        } else {
            Err(self.error(DiskErrorKind::NotFound))
        }
    }

    pub(super) fn refuse_beyond_limits(&self, offset: u64, length: u64) -> Result<(), DiskError> {
        if image::within(offset, length, LENGTH_MAX) {
            return Ok(());
        }
        Err(self.error(DiskErrorKind::Other("offset out of range".to_owned())))
    }
}

impl Effect {
    /// The error of a call that this effect can only fail as a whole.
    pub(super) fn as_failure(&self) -> DiskErrorKind {
        match self {
            Effect::Fail(kind) | Effect::ShortWrite { kind, .. } => kind.clone(),
            Effect::LoseSync(_) => sync_error(),
        }
    }
}

pub(super) fn sync_error() -> DiskErrorKind {
    DiskErrorKind::Other("input/output error".to_owned())
}
