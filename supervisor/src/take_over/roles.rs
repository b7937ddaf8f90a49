//! The roles of the two vbuckets of a takeover: asked for, and looked at.
//!
//! Invariant: what a vbucket became it is, whoever panicked behind that. Called by a takeover under way and by what undoes one.

use actors::panics::caught;
use actors::vbucket::VbucketCore;
use messages::OperationError;
use messages::vbucket::SetVbucketState;
use storage::{Topology, VbucketState};

use super::WhyNot;

/// What a vbucket is, also where a panic left it suspect: what it serves may not say so yet.
pub(super) fn role(core: &VbucketCore) -> VbucketState {
    core.identity().state
}

/// Whether it is still what the takeover made it.
pub(super) fn is_in(core: &VbucketCore, wanted: VbucketState) -> Result<(), OperationError> {
    let (vbucket, state) = (core.id(), role(core));
    if state == wanted {
        Ok(())
    } else {
        Err(OperationError::NotMyVbucket { vbucket, state })
    }
}

/// Gives a vbucket a role, in the history it has.
pub(super) fn become_state(
    core: &VbucketCore,
    state: VbucketState,
    topology: Option<Topology>,
) -> Result<(), OperationError> {
    let is_takeover = true;
    let change = SetVbucketState {
        state,
        topology,
        is_takeover,
    };
    core.set_state(change).map(drop)
}

/// What came of a change of state: what it became it is, whoever panicked behind that, once it is repaired.
pub(super) fn became(
    core: &VbucketCore,
    state: VbucketState,
    asked: Result<Result<(), OperationError>, String>,
    refused: fn(OperationError) -> WhyNot,
) -> Result<(), WhyNot> {
    if role(core) == state {
        return Ok(());
    }
    asked.map_err(WhyNot::Panic)?.map_err(refused)
}

/// The target waits for nothing any more.
pub(super) fn resign(target: &VbucketCore) {
    if role(target) == VbucketState::Pending {
        // One that is out of reach stays pending, which is no more than a replica.
        drop(caught(|| become_state(target, VbucketState::Replica, None)));
    }
}
