//! A past, written down as a bucket of its own.
//!
//! Invariant: the place is empty before, and holds a bucket only when all of it is there, was read back and compared, and is
//! durable: cut off, it is refused as a place that holds other files. The new bucket has the documents, their seqnos, CAS and
//! revisions, and the collections; of the shape and with the history of the old one. Its vbuckets are active and begin a branch
//! of their own, so that nobody takes what they write for what the old ones wrote. Prepares stay behind: nobody could read them.

use storage::CopyOf;

use super::read::events_of;
use super::{Past, PastError};
use crate::bucket_config::Location;
use crate::bucket_copy::BucketCopy;

/// What was written down.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Restored {
    /// Documents, also those whose time was up and that nobody had looked at since.
    pub documents: u64,
    /// Bytes of their keys and values.
    pub bytes: u64,
}

impl Past {
    /// Makes a bucket of it in a place that holds nothing: a directory that is empty or missing, as a rule. Blocks until
    /// it is durable, and was compared with what was read. Whatever fails leaves no bucket there.
    pub fn restore_into(&self, place: &Location) -> Result<Restored, PastError> {
        self.check()?;
        let random = self.held.0.table.random();
        let is_over = || self.check().is_err();
        let mut copy = BucketCopy::begin(place, self.shape, Some(self.retention), random)?;
        for one in &self.vbuckets {
            let events = events_of(&*one.snapshot).map_err(|error| self.told(error))?;
            let of = CopyOf::Documents {
                manifest_uid: events.0.0,
            };
            let added = copy.add(&*one.snapshot, of, random, &is_over);
            added.map_err(|error| self.told(error))?;
        }
        let copied = copy.finish(&|| false)?;
        let mut restored = Restored::default();
        for one in copied {
            restored.documents = restored.documents.saturating_add(one.documents);
            restored.bytes = restored.bytes.saturating_add(one.document_bytes);
        }
        Ok(restored)
    }
}
