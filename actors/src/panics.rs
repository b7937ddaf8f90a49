//! What a panic leaves behind, and how to be rid of it.
//!
//! Invariant: nothing here panics, not even for a payload whose own drop does.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// What a panic brings along.
pub(crate) type Payload = Box<dyn Any + Send>;

/// Runs it and throws any panic away; for drops, and for code of which nobody waits for the outcome.
pub(crate) fn quietly(run: impl FnOnce()) {
    if let Err(payload) = catch_unwind(AssertUnwindSafe(run)) {
        discard(payload);
    }
}

/// Runs it; a panic comes back as its text.
pub fn caught<T>(run: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(run)).map_err(panic_text)
}

/// Drops what a panic brought along, which may panic itself; the payload of that second panic is given up on.
pub(crate) fn discard(payload: Payload) {
    if let Err(another) = catch_unwind(AssertUnwindSafe(|| drop(payload))) {
        let _left_alone: &mut (dyn Any + Send) = Box::leak(another);
    }
}

/// Panics with a text a test asked for, without a word on standard error: it is told as a failure.
pub(crate) fn planted(text: String) -> ! {
    std::panic::resume_unwind(Box::new(text))
}

/// The text of a panic.
pub(crate) fn panic_text(payload: Payload) -> String {
    let text = match payload.downcast_ref::<String>() {
        Some(text) => text.clone(),
        None => payload.downcast_ref::<&str>().map_or_else(
            || "a panic without a text".to_owned(),
            |text| (*text).to_owned(),
        ),
    };
    discard(payload);
    text
}
