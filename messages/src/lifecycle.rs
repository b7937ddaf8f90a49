//! How children of the supervision tree live and end.

use std::fmt;
use std::sync::Arc;

/// Name of a child, unique in its tree, such as `flusher-0`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChildName(Arc<str>);

impl ChildName {
    /// The child of that name.
    pub fn new(name: impl Into<Arc<str>>) -> ChildName {
        ChildName(name.into())
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ChildName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Which life of a child: each restart gives it a higher one, so that what an earlier life sent can be told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Generation(pub u64);
