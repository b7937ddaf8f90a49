//! What is read is put back without a look at what left memory meanwhile: the seeds must find it.

use std::panic::catch_unwind;

use actors::planted::{Bug, plant};

use crate::old_values;

#[test]
fn what_is_put_back_without_a_look_is_found() {
    let planted = || plant(Bug::RestoreWithoutLook);
    let found = (0..old_values::seeds()).find(|seed| {
        let seed = *seed;
        catch_unwind(move || old_values::run(seed, planted)).is_err()
    });
    plant(Bug::Nothing);
    assert!(found.is_some(), "old values came back, and nobody noticed");
}
