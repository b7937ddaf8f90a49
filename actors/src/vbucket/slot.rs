//! A vbucket's place in its bucket: empty until its state was read, then its core, or why there is none.
//!
//! Invariant: filled once; a request that finds no core learns why, so that a vbucket never looks empty.

use std::sync::{Arc, OnceLock};

use messages::{Busy, DownCause, OperationError};
use storage::VbucketId;

use super::core::VbucketCore;

/// A vbucket's place in its bucket.
#[derive(Debug)]
pub struct VbucketSlot {
    id: VbucketId,
    content: OnceLock<Result<Arc<VbucketCore>, DownCause>>,
}

impl VbucketSlot {
    /// An empty place.
    #[must_use]
    pub fn new(id: VbucketId) -> VbucketSlot {
        let content = OnceLock::new();
        VbucketSlot { id, content }
    }

    /// The place of a vbucket that is there already.
    #[must_use]
    pub fn of(core: Arc<VbucketCore>) -> VbucketSlot {
        let id = core.id();
        let content = OnceLock::from(Ok(core));
        VbucketSlot { id, content }
    }

    /// Whose.
    #[must_use]
    pub fn id(&self) -> VbucketId {
        self.id
    }

    /// The core, made by `make` if the place is empty; `None` when it is known that there can be none.
    pub fn core_or_make(
        &self,
        make: impl FnOnce() -> Arc<VbucketCore>,
    ) -> Option<&Arc<VbucketCore>> {
        self.content.get_or_init(|| Ok(make())).as_ref().ok()
    }

    /// Its state cannot be read. What came first stays.
    pub fn note_down(&self, cause: DownCause) {
        self.content.get_or_init(|| Err(cause));
    }

    /// The core, or why it serves nothing.
    pub fn core(&self) -> Result<&Arc<VbucketCore>, OperationError> {
        match self.content.get() {
            Some(Ok(core)) => Ok(core),
            Some(Err(cause)) => Err(OperationError::VbucketDown {
                vbucket: self.id,
                cause: cause.clone(),
            }),
            None => Err(OperationError::TemporaryFailure(Busy::WarmingUp)),
        }
    }

    /// Why there is no core, when that is known.
    #[must_use]
    pub fn down(&self) -> Option<&DownCause> {
        self.content.get()?.as_ref().err()
    }
}
