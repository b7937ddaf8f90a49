//! A worker panics in the middle of its work, or stalls for a while.
//!
//! Invariant: what has not struck when the power is cut strikes no more.

use std::time::Duration;

use piggin::messages::ChildName;
use supervisor::testing::{Fault, World};

pub(crate) fn plan(world: &World) {
    let random = world.random("worker panic");
    let names = ["writer-0", "writer-1", "writer-3", "maintenance-0"];
    let which = usize::try_from(random.below(4)).unwrap_or(0);
    let Some(name) = names.get(which).copied().map(ChildName::new) else {
        return;
    };
    match random.below(3) {
        0 => world.inject(Fault::PanicInStep {
            worker: name,
            nth: random.between(1..=60),
        }),
        1 => world.inject(Fault::Stall {
            child: name,
            time: Duration::from_millis(random.between(1..=300)),
        }),
        _ => {}
    }
}
