//! The source of a takeover that came to nothing becomes active again, whether or not anybody waits for that.
//!
//! Invariant: never while the target is active; and a source that a panic left half changed becomes active once it is
//! repaired, unless it is out of service or closed by then. Called by a takeover under way or given up, and by whoever repairs
//! vbuckets.

use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use actors::panics::caught;
use actors::vbucket::{Hold, VbucketCore};
use messages::OperationError;
use storage::{Topology, VbucketState};

use super::WhyNot;
use super::roles::{became, become_state, is_in, resign, role};
use crate::running::Running;

/// A source that left its role, and a target that is not to have it.
#[derive(Debug)]
pub(super) struct GiveBack {
    pub(super) source: Arc<VbucketCore>,
    pub(super) target: Arc<VbucketCore>,
    pub(super) hold: Option<Hold>,
    /// Of the source, when it left its role.
    pub(super) left: Topology,
}

impl GiveBack {
    /// Comes to an end once the source is active, or is known not to be.
    pub(super) async fn done(&self) -> Result<(), WhyNot> {
        loop {
            let given = self.attempt();
            if !self.is_passing(&given) {
                return given;
            }
            let is_over = |source: &VbucketCore| {
                let is_over = !source.is_suspect() || source.may_be_stored().is_err();
                is_over.then_some(())
            };
            self.source.until(is_over).await;
        }
    }

    /// Where nobody waits: now, or by whoever repairs the source.
    pub(super) fn now_or_later(self, from: &Weak<Running>) {
        let given = self.attempt();
        if self.is_passing(&given)
            && let Some(from) = from.upgrade()
        {
            from.replicating.to_give_back.0.lock().push(self);
            // It may have been repaired since.
            from.table.suspects.notify_one();
        } else if let Err(why) = given {
            self.tell(&why);
        }
    }

    /// The source is active again, unless the target is.
    fn attempt(&self) -> Result<(), WhyNot> {
        if let Some(hold) = self.hold {
            self.source.let_go_of(hold);
        }
        let (vbucket, state) = (self.target.id(), role(&self.target));
        if state == VbucketState::Active {
            return Err(WhyNot::Target(OperationError::NotMyVbucket {
                vbucket,
                state,
            }));
        }
        resign(&self.target);
        if role(&self.source) == VbucketState::Active {
            return Ok(());
        }
        is_in(&self.source, VbucketState::Dead).map_err(WhyNot::Source)?;
        let topology = Some(self.left.clone());
        let given = caught(|| become_state(&self.source, VbucketState::Active, topology));
        became(&self.source, VbucketState::Active, given, WhyNot::Source)
    }

    /// Whether the source may yet be given back: a panic is repaired soon. Nothing else that stands in the way passes; a dead
    /// vbucket is neither loaded nor rolled back.
    fn is_passing(&self, given: &Result<(), WhyNot>) -> bool {
        let is_suspect = matches!(given, Err(WhyNot::Source(OperationError::Crashed { .. })));
        is_suspect && self.source.may_be_stored().is_ok()
    }

    fn tell(&self, why: &WhyNot) {
        tracing::error!(vbucket = %self.source.id(), %why, "a vbucket that was given up midway is active nowhere");
    }
}

/// Sources of takeovers that nobody waits for any more, to be given back once they are repaired.
#[derive(Debug, Default)]
pub(crate) struct ToGiveBack(Mutex<Vec<GiveBack>>);

impl ToGiveBack {
    /// Gives back what may be given back by now. Called behind every repair.
    pub(crate) fn look(&self) {
        let all = std::mem::take(&mut *self.0.lock());
        for one in all {
            let given = one.attempt();
            if one.is_passing(&given) {
                self.0.lock().push(one);
            } else if let Err(why) = given {
                one.tell(&why);
            }
        }
    }
}
