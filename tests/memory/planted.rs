//! Bugs that are planted where documents and values leave memory and come back: the seeds must find them.

use std::panic::catch_unwind;

use actors::planted::{Bug, plant};
use piggin::storage::Eviction;

use crate::common::LEAVING;
use crate::{equals_a_model, made_of_values, old_values};

#[test]
fn what_is_put_back_without_a_look_is_found() {
    let planted = || plant(Bug::RestoreWithoutLook);
    for eviction in LEAVING {
        let found = (0..old_values::seeds()).find(|seed| {
            let seed = *seed;
            catch_unwind(move || old_values::run(seed, eviction, planted)).is_err()
        });
        plant(Bug::Nothing);
        assert!(found.is_some(), "old values came back, and nobody noticed");
    }
}

#[test]
fn a_stub_that_is_taken_for_a_document_is_found() {
    let planted = || plant(Bug::StubIsWhole);
    let in_a_stream = catch_unwind(|| made_of_values::run(Eviction::Values, planted));
    let by_the_model = catch_unwind(|| equals_a_model::run(1, Eviction::Values, planted));
    plant(Bug::Nothing);
    assert!(in_a_stream.is_err(), "it was streamed, and nobody noticed");
    assert!(by_the_model.is_err(), "it was read, and nobody noticed");
}
