//! How far a document, or a branch of the vbucket's history, has come.
//!
//! Invariant: nothing is told as on disk, or as held elsewhere, that may not be.

use super::core::VbucketCore;
use super::lookup::LookedUp;
use messages::OperationError;
use messages::vbucket::{
    FailedOver, Observe, ObserveVbucket, Observed, ObservedVbucket, ReplicatedUpTo,
};
use storage::VbucketState;

impl VbucketCore {
    /// How far the newest version of a document is. A read like any other.
    pub fn observe(&self, request: &Observe) -> Result<Observed, OperationError> {
        self.observe_knowing(request, None)
    }

    /// The same, with what the store holds of the key, if somebody looked.
    pub fn observe_knowing(
        &self,
        request: &Observe,
        looked_up: Option<&LookedUp>,
    ) -> Result<Observed, OperationError> {
        // Before the document is looked at: a version is on disk that was there already.
        let persisted = self.persisted_seqno();
        let meta = match self.get_meta_knowing(&request.key, looked_up) {
            Ok(meta) => meta,
            Err(OperationError::KeyNotFound) => return Ok(Observed::Missing),
            Err(error) => return Err(error),
        };
        let (cas, is_persisted) = (meta.cas, meta.seqno <= persisted);
        Ok(match (meta.is_deleted, is_persisted) {
            (false, is_persisted) => Observed::Found { cas, is_persisted },
            (true, false) => Observed::Deleted { cas },
            (true, true) => Observed::Missing,
        })
    }

    /// How far the vbucket is, whatever its state, for whoever knows a branch of its history.
    pub fn observe_vbucket(
        &self,
        request: &ObserveVbucket,
    ) -> Result<ObservedVbucket, OperationError> {
        let locked = self.lock();
        self.admit_engine()?;
        let (vbucket, asked) = (self.id, request.vbucket_uuid);
        let entries = locked.identity.failover_table.entries();
        let place = entries.iter().position(|entry| entry.uuid == asked);
        let unknown = OperationError::UnknownHistory {
            vbucket,
            vbucket_uuid: asked,
        };
        let place = place.ok_or(unknown)?;
        // A branch ends where the next one begins.
        let next = place.checked_sub(1).and_then(|newer| entries.get(newer));
        let heard = locked.durable.ledger.heard();
        let is_active = locked.identity.state == VbucketState::Active;
        Ok(ObservedVbucket {
            vbucket,
            vbucket_uuid: locked.uuid,
            // Not the last seqno on disk: below that, what a newer version replaced may be missing with it.
            persisted_seqno: self.told_on_disk(),
            current_seqno: locked.log.last_seqno(),
            failed_over: next.map(|next| FailedOver {
                vbucket_uuid: asked,
                last_seqno: next.seqno,
            }),
            replicas: heard
                .filter(|_| is_active)
                .map(|(node, prepared_seqno)| ReplicatedUpTo {
                    node: node.to_string(),
                    prepared_seqno,
                })
                .collect(),
        })
    }
}
