//! The power goes, at a moment or at a call of the disk that the seed chooses, or the process is killed.
//!
//! Invariant: when it returns, the world's disk is what the cut left, and nothing of before works on it.

use std::time::Duration;

use supervisor::testing::World;

/// From some call on the disk is dead, in the middle of the work of that call, which the rest of the bucket sees fail.
pub(crate) fn at_some_call(world: &World) {
    let call = world.random("power cut").between(1..=400);
    world.simulated_disk().cut_power_at_call(call);
}

/// Waits for the moment.
pub(crate) async fn moment(world: &World) {
    let random = world.random("power cut");
    if random.chance(500) {
        at_some_call(world);
    }
    let moment = random.between(0..=600);
    world.sleep(Duration::from_millis(moment)).await;
}

/// Cuts, or kills.
pub(crate) fn strike(world: &World) {
    if world.random("power cut").chance(300) {
        world.kill();
    } else {
        world.cut_power();
    }
}

/// Cuts.
pub(crate) fn now(world: &World) {
    world.cut_power();
}
