//! The invariants of durable writes, by their numbers, looked at whenever a vbucket's monitor was told something: in debug
//! builds, and in whatever a harness runs.
//!
//! Invariant: what is judged was copied under the vbucket's lock, at the end of whatever was done; it is judged once the lock
//! is free. A finding is told to the harness or, where there is none, as a failure of the vbucket; nothing else follows from it.

mod active;
mod replica;
mod view;

use std::collections::BTreeSet;
use std::sync::Arc;

use super::core::VbucketCore;
use crate::environment::FailureReport;
use crate::hooks::Judged;
use crate::sync::Mutex;
use messages::{ChildName, FailureCause, FailureKind, Generation, NextStep};

pub(super) use view::{Since, View, Views};

/// Whether anything is judged.
pub(super) const IS_ON: bool = cfg!(any(debug_assertions, feature = "testing"));

/// With more prepares than this nothing is judged: every look goes over all of them.
const PREPARES_MAX: usize = 1024;

/// What an invariant finds: how much it looked at, or what is wrong.
type Found = Result<usize, String>;

/// What an invariant is asked: how it is, and how it was, where nothing was taken back in between.
struct Asked<'v> {
    before: Option<&'v View>,
    now: &'v View,
}

/// One of them.
struct Invariant {
    id: u8,
    check: fn(&Asked<'_>) -> Found,
}

const fn of(id: u8, check: fn(&Asked<'_>) -> Found) -> Invariant {
    Invariant { id, check }
}

const INVARIANTS: [Invariant; 19] = [
    of(1, view::rises),
    of(2, view::one_a_key),
    of(3, active::in_order),
    of(5, view::nothing_falls),
    of(6, active::committed_is_prepared),
    of(7, active::fences_hold),
    of(8, active::nothing_held_waits),
    of(9, active::counts_are_true),
    of(12, active::inherited_stay),
    of(13, view::maybe_visible),
    of(14, active::whoever_waits_is_tracked),
    of(15, view::monitor_is_of_the_role),
    of(16, replica::said_is_whole),
    of(17, replica::persisted_before_prepared),
    of(18, replica::nothing_over_is_kept),
    of(19, replica::place_is_right),
    of(22, view::completed_on_disk),
    of(25, view::stored_is_prepared),
    of(26, view::visible_is_there),
];

/// How a vbucket was when it was judged last.
#[derive(Debug, Default)]
pub(super) struct Invariants(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    last: Option<Arc<View>>,
    /// What was told to be broken: once is enough.
    told: BTreeSet<u8>,
}

impl VbucketCore {
    /// Judges what was copied under the lock, which is free by now.
    pub(super) fn judge_invariants(&self, view: View) {
        let now = Arc::new(view);
        let before = {
            let last = &mut self.invariants.0.lock().last;
            if last
                .as_ref()
                .is_some_and(|last| !now.number.is_behind(last.number))
            {
                // Another thread was faster, with something newer.
                return;
            }
            last.replace(Arc::clone(&now))
        };
        let before = before.filter(|before| now.number.knows(before.number));
        let judged = judged(&Asked {
            before: before.as_deref(),
            now: &now,
        });
        if !self.environment.hooks.judged(self.id, &judged) {
            self.tell_broken(judged);
        }
    }

    fn tell_broken(&self, judged: Judged) {
        for (id, what) in judged.broken {
            if !self.invariants.0.lock().told.insert(id) {
                continue;
            }
            self.environment.failures.report(FailureReport {
                child: ChildName::new(format!("vbucket-{}", self.id)),
                generation: Generation::default(),
                vbucket: Some(self.id),
                kind: FailureKind::Invariant,
                cause: FailureCause::Invariant { id, what },
                next: NextStep::Nothing,
            });
        }
    }
}

#[cfg(any(test, feature = "testing"))]
impl VbucketCore {
    /// Breaks invariant 13, where a client's durable write is under way: to see that it is found.
    pub fn break_an_invariant(&self) {
        self.prepares.make_maybe_visible();
    }
}

fn judged(asked: &Asked<'_>) -> Judged {
    let mut judged = Judged::default();
    for invariant in &INVARIANTS {
        match (invariant.check)(asked) {
            Ok(0) => {}
            Ok(_) => judged.looked_at.push(invariant.id),
            Err(what) => judged.broken.push((invariant.id, what)),
        }
    }
    judged
}

fn sure(is_so: bool, what: impl FnOnce() -> String) -> Result<(), String> {
    if is_so { Ok(()) } else { Err(what()) }
}
