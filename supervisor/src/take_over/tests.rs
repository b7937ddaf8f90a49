//! Whatever role somebody gives either vbucket by hand between two steps of a takeover, and whether or not that is waited for:
//! there are never two active because of the takeover, and what was made active by hand stays so.

use std::time::Duration;

use storage::{Topology, VbucketId, VbucketState};

use super::UnderWay;
use super::roles::{become_state, role};
use super::state::Want;
use crate::bucket::Bucket;
use crate::bucket_config::BucketConfig;
use crate::testing::World;

const ROLES: [VbucketState; 4] = [
    VbucketState::Active,
    VbucketState::Replica,
    VbucketState::Pending,
    VbucketState::Dead,
];
/// From `Follow` to `Confirm`.
const STEPS: usize = 8;

async fn bucket(world: &World, name: &str) -> Bucket {
    let config = BucketConfig {
        node_name: Some(name.to_owned()),
        vbuckets: Some(1),
        ..world.config()
    };
    world.create(config).await.unwrap()
}

/// What is done by hand, before which step.
#[derive(Clone, Copy, Debug)]
struct ByHand {
    before: usize,
    is_source: bool,
    role: VbucketState,
    goes_away: bool,
}

/// How both ended, where it was the takeover that ended it; which step the word came before.
async fn ended(world: World, by_hand: ByHand) -> (Want, Option<[VbucketState; 2]>) {
    let there = world.beside("b");
    let (from, to) = (bucket(&world, "a").await, bucket(&there, "b").await);
    from.set("k", "v").await.unwrap();
    let alone = Topology::of_chain([to.node_name()]);
    let mut under_way = UnderWay::begin((&from, &to), VbucketId::FIRST, &alone).unwrap();
    for _ in 0..by_hand.before {
        under_way.step().await;
    }
    let want = under_way.machine.want();
    let cores = [&under_way.source, &under_way.target].map(std::sync::Arc::clone);
    let roles = || [role(&cores[0]), role(&cores[1])];
    let named = usize::from(!by_hand.is_source);
    become_state(&cores[named], by_hand.role, None).unwrap();
    if roles() == [VbucketState::Active; 2] {
        // Made so by hand, and nobody's to undo.
        return (want, None);
    }
    if by_hand.goes_away {
        drop(under_way);
    } else {
        while !matches!(under_way.machine.want(), Want::Over(_)) {
            under_way.step().await;
            assert_ne!(roles(), [VbucketState::Active; 2], "{by_hand:?}: {want:?}");
        }
    }
    world.sleep(Duration::from_secs(20)).await;
    (want, Some(roles()))
}

#[test]
fn a_word_by_hand_before_any_step_makes_no_two_active() {
    let mut seen = Vec::new();
    for number in 0..STEPS * ROLES.len() * 4 {
        let by_hand = ByHand {
            before: number % STEPS,
            role: ROLES[number / STEPS % ROLES.len()],
            is_source: (number / (STEPS * ROLES.len())).is_multiple_of(2),
            goes_away: number / (STEPS * ROLES.len() * 2) == 1,
        };
        let (want, ended) = World::run(1, |world| ended(world, by_hand)).unwrap();
        let Some(ended) = ended else { continue };
        assert_ne!(ended, [VbucketState::Active; 2], "{by_hand:?}: {want:?}");
        let is_to_be = by_hand.role == VbucketState::Active;
        // One that was active already is what the takeover takes.
        if is_to_be && matches!(want, Want::Bury | Want::Crown) {
            let named = ended[usize::from(!by_hand.is_source)];
            assert_eq!(named, VbucketState::Active, "{by_hand:?}: {want:?}");
        }
        seen.push(want);
    }
    for want in [Want::Leave, Want::Bury, Want::Crown, Want::Confirm] {
        assert!(seen.contains(&want), "{want:?}: {seen:?}");
    }
}
