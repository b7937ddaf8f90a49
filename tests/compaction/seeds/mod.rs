//! The seed tests: what this engine was begun for, by public means only. Run as they are, and by `tests/planted` with a
//! bug planted in the store, each of which must be found by exactly the tests it names.

pub(crate) mod mb_38428;
pub(crate) mod mb_50060;
pub(crate) mod past;
