//! The power goes, at a moment or at a call of the disk that the seed chooses.
//!
//! Invariant: when it returns, the world's disk is what the cut left, and nothing of before works on it.

use std::time::Duration;

use supervisor::testing::World;

/// Waits for the moment and cuts.
pub(crate) async fn strike(world: &World) {
    let random = world.random("power cut");
    if random.chance(500) {
        // In the middle of the work of a call, which the rest of the engine sees fail.
        let call = random.between(1..=400);
        world.simulated_disk().cut_power_at_call(call);
    }
    let moment = random.between(0..=600);
    world.sleep(Duration::from_millis(moment)).await;
    world.cut_power();
}
