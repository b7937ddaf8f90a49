//! Who restarts with whom, and in which order they come up again.
//!
//! Invariant: a child that is held waits for one that starts before it and takes part in the same restart; such a one
//! comes up, or goes out of service, so nobody is held for ever. Restarts that overlap become one.

use messages::ChildName;

use super::{ChildState, Decision, Effect, Lives, Role};
use crate::tree::{Child, Strategy};

impl Lives {
    /// These begin a new life together, each once those before it are up.
    pub(super) fn restart_together(
        &mut self,
        places: &[usize],
        role: Role,
        decision: &mut Decision,
    ) {
        self.last_together = self.last_together.saturating_add(1);
        let together = self.last_together;
        let is_alone = places.len() == 1;
        self.join(places, together);
        for &place in places {
            let Some((child, life)) = self
                .tree
                .children()
                .get(place)
                .zip(self.each.get_mut(place))
            else {
                continue;
            };
            let has_ended = role == Role::Ended(place);
            if !has_ended && !life.state.is_live() {
                continue;
            }
            life.together = together;
            life.restarts = life.restarts.saturating_add(1);
            let name = child.name.clone();
            let is_held = life.state == ChildState::Held;
            let effect = if is_held && (is_alone || role == Role::Stuck(place)) {
                // Its next life is on the way, and waits for others already.
                continue;
            } else if role == Role::Stuck(place) {
                life.state = ChildState::Stalled;
                Effect::Reset(name)
            } else if is_alone && has_ended {
                life.state = ChildState::BackingOff;
                continue;
            } else if is_alone {
                life.state = ChildState::Restarting;
                Effect::Reset(name)
            } else {
                life.state = ChildState::Held;
                if has_ended {
                    Effect::HoldSelf(name)
                } else {
                    Effect::Hold(name)
                }
            };
            decision.effects.push(effect);
        }
    }

    /// Whoever restarts together with one of these, from an earlier restart, now does so with all of them.
    fn join(&mut self, places: &[usize], together: u64) {
        let mut earlier: Vec<u64> = Vec::new();
        for (place, life) in self.each.iter().enumerate() {
            if places.contains(&place) && life.state.is_awaited() && life.together > 0 {
                earlier.push(life.together);
            }
        }
        for life in &mut self.each {
            if life.state.is_awaited() && earlier.contains(&life.together) {
                life.together = together;
            }
        }
    }

    /// Lets those go whose predecessors are up.
    pub(super) fn release(&mut self, decision: &mut Decision) {
        let mut awaited: Vec<u64> = Vec::new();
        for (child, life) in self.tree.children().iter().zip(&mut self.each) {
            if life.state == ChildState::Held && !awaited.contains(&life.together) {
                life.state = ChildState::Restarting;
                decision.effects.push(Effect::Release(child.name.clone()));
            }
            if life.state.is_awaited() && life.together > 0 {
                awaited.push(life.together);
            }
        }
    }

    pub(super) fn names_of_groups(&self, child: &Child) -> Vec<ChildName> {
        let groups = self.tree.groups_of(child).into_iter();
        groups.map(|group| group.name.clone()).collect()
    }

    /// The siblings that restart with a child.
    pub(super) fn coupled(&self, place: usize) -> Vec<usize> {
        let Some((child, _)) = self.at(place) else {
            return Vec::new();
        };
        let Some(group) = self.tree.groups_of(child).first().copied() else {
            return Vec::new();
        };
        let all = self.with_coupled(vec![place], group.strategy, &group.name);
        all.into_iter().filter(|one| *one != place).collect()
    }

    /// These places of a group, and all others of it that restart with them.
    pub(super) fn with_coupled(
        &self,
        inside: Vec<usize>,
        strategy: Strategy,
        group: &ChildName,
    ) -> Vec<usize> {
        let first = inside.iter().min().copied().unwrap_or(0);
        let in_group = self.places_in(group).into_iter();
        match strategy {
            Strategy::OneForOne => inside,
            Strategy::RestForOne => in_group.filter(|place| *place >= first).collect(),
            Strategy::OneForAll => in_group.collect(),
        }
    }

    /// All children in a group, and in groups under it.
    pub(super) fn places_in(&self, group: &ChildName) -> Vec<usize> {
        let is_inside = |child: &Child| {
            let groups = self.tree.groups_of(child);
            groups.iter().any(|one| one.name == *group)
        };
        let children = self.tree.children().iter().enumerate();
        let inside = children.filter(|(_, child)| is_inside(child));
        inside.map(|(place, _)| place).collect()
    }
}
