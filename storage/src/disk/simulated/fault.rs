//! Faults a test asks for: which call they strike, and what they do to it.
//!
//! Invariant: a fault counts the calls that match it, whether or not another fault strikes them; among those due,
//! the one injected first strikes. Matching needs no randomness, so a fault strikes the same call in every run.

use std::ops::Range;

use crate::disk::{DiskErrorKind, Verb};

/// A fault, to be handed to [`SimulatedDisk::inject`](super::SimulatedDisk::inject). As made it strikes the next
/// call of its kind, on any file, once.
#[derive(Clone, Debug)]
pub struct Fault {
    effect: Effect,
    verb: Option<Verb>,
    prefix: String,
    bytes: Option<Range<u64>>,
    calls_before: u64,
    lasting: bool,
}

/// What reads find after a sync that failed and lost the pages it should have written. In both cases the writes
/// are gone for good: no later sync makes them durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SyncFailure {
    /// The new bytes, as long as the power is on (ext4 and XFS mark the pages clean and keep them).
    KeepsPages,
    /// The bytes and the length of before, as they are on the disk (btrfs drops the pages).
    DropsPages,
}

#[derive(Clone, Debug)]
pub(super) enum Effect {
    /// Nothing is done.
    Fail(DiskErrorKind),
    /// This many bytes are written.
    ShortWrite {
        bytes: usize,
        kind: DiskErrorKind,
    },
    LoseSync(SyncFailure),
}

impl Fault {
    fn new(effect: Effect, verb: Option<Verb>) -> Self {
        let prefix = String::new();
        Self {
            effect,
            verb,
            prefix,
            bytes: None,
            calls_before: 0,
            lasting: false,
        }
    }

    /// A call, of any verb, that fails with nothing done. A sync failed so leaves the writes waiting: a power cut
    /// may keep them and another sync make them durable; see [`Fault::failed_sync`] for the other outcome.
    #[must_use]
    pub fn failed_call(kind: DiskErrorKind) -> Self {
        Self::new(Effect::Fail(kind), None)
    }

    /// A write that writes only the first `bytes` of its data, then fails.
    #[must_use]
    pub fn short_write(bytes: usize, kind: DiskErrorKind) -> Self {
        Self::new(Effect::ShortWrite { bytes, kind }, Some(Verb::Write))
    }

    /// A sync of a file that fails and loses everything it should have made durable.
    #[must_use]
    pub fn failed_sync(failure: SyncFailure) -> Self {
        Self::new(Effect::LoseSync(failure), Some(Verb::Sync))
    }

    /// Only calls of this verb.
    #[must_use]
    pub fn on(mut self, verb: Verb) -> Self {
        self.verb = Some(verb);
        self
    }

    /// Only calls on files whose name begins so. A handle has the name it was opened by, a rename that of its
    /// source, a call on the directory itself `.`.
    #[must_use]
    pub fn of_files(mut self, prefix: &str) -> Self {
        prefix.clone_into(&mut self.prefix);
        self
    }

    /// Only reads, writes, zeros and punches that touch these bytes of the file.
    #[must_use]
    pub fn touching(mut self, bytes: Range<u64>) -> Self {
        self.bytes = Some(bytes);
        self
    }

    /// The n-th matching call from now, the next one being the first.
    #[must_use]
    pub fn nth(mut self, n: u64) -> Self {
        self.calls_before = n.saturating_sub(1);
        self
    }

    /// Every matching call from then on, not one.
    #[must_use]
    pub fn lasting(mut self) -> Self {
        self.lasting = true;
        self
    }

    fn matches(&self, verb: Verb, file: &str, bytes: Option<&Range<u64>>) -> bool {
        let touches = match (&self.bytes, bytes) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(mine), Some(touched)) => mine.start < touched.end && touched.start < mine.end,
        };
        touches && self.verb.is_none_or(|mine| mine == verb) && file.starts_with(&self.prefix)
    }
}

/// The faults of a disk, in the order they were injected.
#[derive(Debug, Default)]
pub(super) struct Faults {
    faults: Vec<Fault>,
}

impl Faults {
    pub(super) fn inject(&mut self, fault: Fault) {
        self.faults.push(fault);
    }

    pub(super) fn clear(&mut self) {
        self.faults.clear();
    }

    pub(super) fn len(&self) -> usize {
        self.faults.len()
    }

    /// What strikes this call, if anything. A fault that strikes once is gone afterwards.
    pub(super) fn strike(
        &mut self,
        verb: Verb,
        file: &str,
        bytes: Option<&Range<u64>>,
    ) -> Option<Effect> {
        let mut effect = None;
        self.faults.retain_mut(|fault| {
            if !fault.matches(verb, file, bytes) {
                return true;
            }
            if fault.calls_before > 0 {
                fault.calls_before -= 1;
                return true;
            }
            if effect.is_some() {
                return true;
            }
            effect = Some(fault.effect.clone());
            fault.lasting
        });
        effect
    }
}
