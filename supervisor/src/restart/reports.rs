//! What is told of a child, and of a group that has had too much.
//!
//! Invariant: what is told of a child is also what its status says it failed of last.

use actors::environment::FailureReport;
use messages::{ChildName, FailureCause, FailureKind, NextStep};

use super::Lives;
use super::words::{Decision, Effect};

impl Lives {
    pub(super) fn report(
        &mut self,
        place: usize,
        kind: FailureKind,
        cause: FailureCause,
        next: NextStep,
        decision: &mut Decision,
    ) {
        if let Some(life) = self.each.get_mut(place) {
            life.last_failure = Some(cause.clone());
        }
        if let Some((child, life)) = self.at(place) {
            decision.effects.push(Effect::Report(FailureReport {
                child: child.name.clone(),
                generation: life.generation,
                vbucket: child.vbucket,
                kind,
                cause,
                next,
            }));
        }
    }

    pub(super) fn escalate(
        &mut self,
        place: usize,
        cause: FailureCause,
        next: NextStep,
        decision: &mut Decision,
    ) {
        self.report(place, FailureKind::Escalated, cause, next, decision);
    }

    /// A failure of a group: told under the group's name, with the vbucket of the child that was too much.
    pub(super) fn escalate_group(
        &self,
        group: &ChildName,
        place: usize,
        cause: FailureCause,
        next: NextStep,
        decision: &mut Decision,
    ) {
        if let Some((child, life)) = self.at(place) {
            decision.effects.push(Effect::Report(FailureReport {
                child: group.clone(),
                generation: life.generation,
                vbucket: child.vbucket,
                kind: FailureKind::Escalated,
                cause,
                next,
            }));
        }
    }

    pub(super) fn why(&self, place: usize) -> String {
        let last = self
            .at(place)
            .and_then(|(_, life)| life.last_failure.as_ref());
        last.map_or_else(String::new, ToString::to_string)
    }
}
