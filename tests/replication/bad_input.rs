//! What cannot be replicated is answered once, with a reason, and changes nothing.

use piggin::messages::OperationError;
use piggin::storage::{VbucketId, VbucketState};
use piggin::{BucketConfig, ReplicateError};

use crate::common::{become_state, config, created, run};

#[test]
fn a_bucket_does_not_follow_itself() {
    run(1, async |here, _| {
        let bucket = created(&here).await;
        let refused = bucket.replicate([VbucketId::FIRST], &bucket.clone());
        assert_eq!(refused.err(), Some(ReplicateError::SameBucket));
    });
}

#[test]
fn keys_must_lie_in_the_same_vbuckets() {
    run(2, async |here, there| {
        let source = created(&here).await;
        let other = BucketConfig {
            vbuckets: Some(8),
            ..config(&there)
        };
        let target = there.create(other).await.expect("a bucket");
        let refused = source.replicate([VbucketId::FIRST], &target);
        let shape = ReplicateError::OtherShape {
            source_vbuckets: 4,
            target_vbuckets: 8,
        };
        assert_eq!(refused.err(), Some(shape));
    });
}

#[test]
fn one_vbucket_that_cannot_follow_leaves_all_as_they_were() {
    run(3, async |here, there| {
        let (source, target) = (created(&here).await, created(&there).await);
        let unknown = VbucketId::new(77).expect("a number");
        let refused = source.replicate([VbucketId::FIRST, unknown], &target);
        let why = ReplicateError::Vbucket {
            vbucket: unknown,
            error: OperationError::UnknownVbucket(unknown),
        };
        assert_eq!(refused.err(), Some(why));
        assert_eq!(target.statistics().vbuckets[0].state, VbucketState::Active);
        assert_eq!(target.statistics().replicas, 0);
    });
}

#[test]
fn only_what_is_active_is_followed() {
    run(4, async |here, there| {
        let (source, target) = (created(&here).await, created(&there).await);
        become_state(&source, VbucketState::Dead).await;
        let (vbucket, state) = (VbucketId::FIRST, VbucketState::Dead);
        let refused = source.replicate([vbucket], &target);
        let error = OperationError::NotMyVbucket { vbucket, state };
        assert_eq!(
            refused.err(),
            Some(ReplicateError::Vbucket { vbucket, error })
        );
    });
}

#[test]
fn a_closed_bucket_neither_follows_nor_is_followed() {
    run(5, async |here, there| {
        let (source, target) = (created(&here).await, created(&there).await);
        let vbucket = VbucketId::FIRST;
        let closed = ReplicateError::Vbucket {
            vbucket,
            error: OperationError::Closed,
        };
        target.clone().shutdown().await.expect("an end");
        let refused = source.replicate([vbucket], &target);
        assert_eq!(refused.err(), Some(closed.clone()));
        let target = crate::common::opened(&there).await;
        source.clone().shutdown().await.expect("an end");
        let refused = source.replicate([vbucket], &target);
        assert_eq!(refused.err(), Some(closed));
    });
}
