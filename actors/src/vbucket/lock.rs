//! The vbucket's lock, held: what happens when it is let go, in order or by a panic.
//!
//! Invariant: a panic that unwinds through it leaves the vbucket suspect before anybody else gets the lock (rule R16).
//! The flusher is told, whoever waits for a durable write is answered, and what is no longer needed is freed, once the
//! lock is free.

use std::ops::{Deref, DerefMut};

use super::checkpoint::Garbage;
use super::core::{Inner, VbucketCore};
use super::durable::{Answer, Reply};
use super::invariants::{Since, View};
use super::status::Status;
use crate::sync::MutexGuard;

/// The lock, held. When a panic unwinds through it the vbucket is suspect before anybody else gets it.
pub(super) struct Locked<'a> {
    // Declared in the order of their drops: unlock, then tell.
    inner: MutexGuard<'a, Inner>,
    after: AfterUnlock<'a>,
    was_panicking: bool,
}

impl<'a> Locked<'a> {
    pub(super) fn new(core: &'a VbucketCore, inner: MutexGuard<'a, Inner>) -> Locked<'a> {
        Locked {
            inner,
            after: AfterUnlock {
                core,
                is_suspect: false,
                is_changed: false,
                is_decided: false,
                answers: Vec::new(),
                since: Since::default(),
                view: None,
                garbage: Garbage::default(),
            },
            was_panicking: std::thread::panicking(),
        }
    }

    /// Something was, or is about to be, appended: the flusher is told once the lock is free, whatever happens.
    pub(super) fn note_change(&mut self) {
        self.after.is_changed = true;
    }

    /// Something is to be done about durable writes: whoever does it is told once the lock is free.
    pub(super) fn note_decided(&mut self) {
        self.after.is_decided = true;
    }

    /// Who waits for a durable write is answered once the lock is free, whatever happens.
    pub(super) fn answer_later(&mut self, reply: Reply, answer: Answer) {
        self.after.answers.push((reply, answer));
    }

    /// The monitor was told something, which is judged once the lock is free.
    pub(super) fn since(&mut self) -> &mut Since {
        &mut self.after.since
    }

    /// Nobody may trust this vbucket's memory until it was reconciled.
    pub(super) fn suspect(&mut self) {
        self.after.core.raise(Status::SUSPECT);
        self.after.is_suspect = true;
    }
}

impl Drop for Locked<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() && !self.was_panicking {
            self.suspect();
        } else {
            self.after.garbage = self.inner.log.take_garbage();
            self.after.view = self.after.core.view(&mut self.inner, self.after.since);
        }
    }
}

impl Deref for Locked<'_> {
    type Target = Inner;

    fn deref(&self) -> &Inner {
        &self.inner
    }
}

impl DerefMut for Locked<'_> {
    fn deref_mut(&mut self) -> &mut Inner {
        &mut self.inner
    }
}

struct AfterUnlock<'a> {
    core: &'a VbucketCore,
    is_suspect: bool,
    is_changed: bool,
    is_decided: bool,
    answers: Vec<(Reply, Answer)>,
    since: Since,
    /// How it is, to be judged.
    view: Option<View>,
    /// What the log no longer needs, to be freed behind the lock.
    garbage: Garbage,
}

impl Drop for AfterUnlock<'_> {
    fn drop(&mut self) {
        // First: whatever panics below, somebody comes and repairs it.
        if self.is_suspect {
            self.core.tell_suspect();
        }
        if self.is_changed {
            self.core.mark_dirty();
        }
        if self.is_decided {
            self.core.mark_durability();
        }
        for (reply, answer) in std::mem::take(&mut self.answers) {
            reply.tell(answer);
        }
        if let Some(view) = self.view.take() {
            self.core.judge_invariants(view);
        }
    }
}
