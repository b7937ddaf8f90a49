//! Doubts by hand: what one opening of the store left is settled apart from what the next one left, and a step that came
//! back leaves what it found.

use super::*;
use crate::compactor::vbucket::Expiring;
use crate::vbucket::LookedUp;
use storage::{CollectionId, DocumentKey, ExpiredDocument};

const OF: PastOf = (VbucketId::FIRST, Incarnation(1), RollbackEpoch(0));

#[derive(Debug)]
struct Any;

impl Compactable for Any {
    fn expire(&self, _: &ExpiredDocument, _: Option<&LookedUp>) -> Expiring {
        Expiring::Left
    }

    fn purged(&self, _: Seqno) {}

    fn forget_erased(&self, _: &PreparesErased) {}
}

fn prepare(seqno: u64) -> ErasedPrepare {
    let key = DocumentKey::new(CollectionId::DEFAULT, b"k").unwrap();
    let seqno = Seqno(seqno);
    ErasedPrepare { key, seqno }
}

/// A publish in that opening that does not come back.
fn fails(words: &mut Words, opening: u64, prepares: &[u64], vbucket: &Arc<dyn Compactable>) {
    let prepares: Vec<_> = prepares.iter().copied().map(prepare).collect();
    let of = (OF, StoreGeneration(opening));
    drop(words.begins(of, &prepares, vbucket));
}

/// What was in doubt before that opening: since when, and the seqnos of the prepares.
fn before(words: &Words, opening: u64) -> Vec<(u64, Vec<Seqno>)> {
    let doubts = words.doubts_before(StoreGeneration(opening));
    let doubts = doubts.into_iter();
    doubts
        .map(|((_, since), doubt)| (since.0, doubt.prepares.into_keys().collect()))
        .collect()
}

fn vbucket() -> Arc<dyn Compactable> {
    Arc::new(Any)
}

#[test]
fn a_late_answer_does_not_settle_a_newer_doubt() {
    let (mut words, vbucket) = (Words::default(), vbucket());
    fails(&mut words, 1, &[2], &vbucket);
    assert_eq!(before(&words, 1), [], "it says nothing of itself");
    assert_eq!(before(&words, 2), [(1, vec![Seqno(2)])]);
    // One asks; before it has the answer, another's run erases that prepare and does not come back either.
    fails(&mut words, 2, &[2], &vbucket);
    let asked = (OF, StoreGeneration(1));
    words.is_settled(asked, &Found::default());
    assert_eq!(before(&words, 3), [(2, vec![Seqno(2)])]);
    words.is_settled(asked, &Found::default());
    assert_eq!(before(&words, 3), [(2, vec![Seqno(2)])], "asked twice");
}

#[test]
fn a_newer_doubt_does_not_put_off_an_older_one() {
    let (mut words, vbucket) = (Words::default(), vbucket());
    fails(&mut words, 1, &[2], &vbucket);
    fails(&mut words, 2, &[3], &vbucket);
    assert_eq!(before(&words, 2), [(1, vec![Seqno(2)])]);
}

#[test]
fn a_step_that_came_back_leaves_what_it_found() {
    let (mut words, vbucket) = (Words::default(), vbucket());
    let of = (OF, StoreGeneration(1));
    let at_stake = words.begins(of, &[prepare(2)], &vbucket);
    words.came_back(at_stake);
    assert_eq!(before(&words, 2), []);
    fails(&mut words, 1, &[2], &vbucket);
    let at_stake = words.begins(of, &[prepare(3)], &vbucket);
    words.came_back(at_stake);
    assert_eq!(before(&words, 2), [(1, vec![Seqno(2)])]);
    words.done(OF, &[prepare(2)], None, Arc::downgrade(&vbucket));
    assert_eq!(before(&words, 2), [(1, vec![])], "told, but for the purge");
}

#[test]
fn no_vbucket_is_kept_by_what_it_did_not_hear() {
    let (mut words, vbucket) = (Words::default(), vbucket());
    fails(&mut words, 1, &[2], &vbucket);
    let weak = Arc::downgrade(&vbucket);
    words.done(OF, &[prepare(2)], Some(Seqno(9)), Weak::clone(&weak));
    assert!(words.next_unheard().is_some());
    drop(vbucket);
    assert_eq!(weak.strong_count(), 0);
    assert!(words.next_unheard().is_none());
}
