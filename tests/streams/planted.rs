//! The bug of MB-47790 planted: what finds it must find it.

use actors::planted::{Bug, plant};

use crate::common::run;
use crate::mb_47790;

#[test]
fn mb_47790_planted_is_found() {
    let found = std::panic::catch_unwind(|| {
        run(1, async |world| {
            plant(Bug::FailedScanIsComplete);
            mb_47790::check(world).await;
        });
    });
    assert!(
        found.is_err(),
        "a failed scan counted as complete, and nobody noticed"
    );
}
