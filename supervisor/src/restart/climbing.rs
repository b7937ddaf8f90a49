//! From group to group: who restarts when a group has had too much, and who goes out of service.
//!
//! Invariant: a group that has had too many restarts in its window is told of once, and its count begins anew; a child goes
//! out of service with all that is coupled to it, a group with all that is in it.

use std::time::Duration;

use messages::{ChildName, FailureCause, NextStep};
use storage::VbucketId;

use super::words::{ChildState, Decision, Effect, OutOfService};
use super::{Lives, forget_old};
use crate::tree::Excess;

/// Where climbing from group to group ended.
pub(super) enum Climb {
    /// These restart, by place in the start order.
    Restart(Vec<usize>),
    /// These go out of service, with this scope.
    GiveUp(ChildName, Vec<usize>),
}

impl Lives {
    /// Counts the restart in the child's group, and in each group above as long as the one below has had too much.
    pub(super) fn climb(
        &mut self,
        place: usize,
        cause: &FailureCause,
        now: Duration,
        decision: &mut Decision,
    ) -> Climb {
        let Some((child, _)) = self.at(place) else {
            return Climb::Restart(Vec::new());
        };
        let groups: Vec<_> = self.tree.groups_of(child).into_iter().cloned().collect();
        let mut places = self.coupled(place);
        places.push(place);
        let mut parents = groups.iter().skip(1);
        for group in &groups {
            let restarts = self.group_restarts.entry(group.name.clone()).or_default();
            forget_old(restarts, now, group.intensity.window);
            restarts.push_back(now);
            let count = u32::try_from(restarts.len()).unwrap_or(u32::MAX);
            if count <= group.intensity.restarts {
                break;
            }
            restarts.clear();
            let too_much = FailureCause::Intensity {
                restarts: count.saturating_sub(1),
                window_ms: u64::try_from(group.intensity.window.as_millis()).unwrap_or(u64::MAX),
                last: cause.to_string(),
            };
            let parent = parents.next().filter(|_| group.excess == Excess::Parent);
            let Some(parent) = parent else {
                let next = NextStep::OutOfService;
                self.escalate_group(&group.name, place, too_much, next, decision);
                return Climb::GiveUp(group.name.clone(), self.places_in(&group.name));
            };
            let next = NextStep::Restarted;
            self.escalate_group(&group.name, place, too_much, next, decision);
            let inside = self.places_in(&group.name);
            places = self.with_coupled(inside, parent.strategy, &parent.name);
        }
        places.sort_unstable();
        places.dedup();
        Climb::Restart(places)
    }

    /// The child and those coupled with it go out of service.
    pub(super) fn give_up_around(&mut self, place: usize, why: &str, decision: &mut Decision) {
        let Some((child, _)) = self.at(place) else {
            return;
        };
        let scope = child.name.clone();
        let mut places = self.coupled(place);
        places.push(place);
        places.sort_unstable();
        self.give_up(scope, &places, why, decision);
    }

    pub(super) fn give_up(
        &mut self,
        scope: ChildName,
        places: &[usize],
        why: &str,
        decision: &mut Decision,
    ) {
        let children = self.stand_down(places, why, decision);
        let all = self.tree.children().iter();
        let mut vbuckets: Vec<VbucketId> = all
            .filter(|child| children.contains(&child.name))
            .filter_map(|child| child.vbucket)
            .collect();
        vbuckets.sort_unstable();
        vbuckets.dedup();
        decision.effects.push(Effect::OutOfService(OutOfService {
            is_whole_tree: scope == self.tree.root().name,
            scope,
            children,
            vbuckets,
            why: why.to_owned(),
        }));
    }

    pub(super) fn stand_down(
        &mut self,
        places: &[usize],
        why: &str,
        decision: &mut Decision,
    ) -> Vec<ChildName> {
        let mut children = Vec::new();
        for &place in places {
            let Some((child, life)) = self.at(place) else {
                continue;
            };
            let name = child.name.clone();
            match life.state {
                ChildState::Stopping | ChildState::Stopped | ChildState::Finished => continue,
                ChildState::Lost => {}
                ChildState::NotStarted
                | ChildState::Starting
                | ChildState::Up
                | ChildState::BackingOff
                | ChildState::Held
                | ChildState::Restarting
                | ChildState::Stalled
                | ChildState::OutOfService => {
                    let effect = Effect::StandDown(name.clone(), why.to_owned());
                    decision.effects.push(effect);
                    self.set(place, ChildState::OutOfService);
                }
            }
            children.push(name);
        }
        children
    }
}
