//! Compares what a store says of the past with what the model knows of it.
//!
//! Invariant: any seqno may be asked for. What the store answers must be exactly what was; what it refuses must be
//! something it was allowed to forget.

use piggin_storage::{Item, Seqno, SeqnoRange, Snapshot, StorageError};

use super::check;
use super::random::Random;
use super::vbucket::ModelVbucket;
use crate::support::{drain, without_hint};

/// A few moments of the past, and all versions that are held.
pub(crate) fn check(random: &mut Random, snapshot: &dyn Snapshot, model: &ModelVbucket) {
    let high = model.high_seqno();
    for _ in 0..2 {
        let to = Seqno(random_up_to(random, high));
        at(random, snapshot, model, to);
    }
    at(random, snapshot, model, high);
    not_reached(snapshot, model);
    moment(random, snapshot, model);
    versions(random, snapshot, model);
}

/// Mostly of late.
fn random_up_to(random: &mut Random, high: Seqno) -> u64 {
    let lowest = if random.percent(60) {
        high.0.saturating_sub(12)
    } else {
        0
    };
    random.within(lowest, high.0)
}

fn at(random: &mut Random, snapshot: &dyn Snapshot, model: &ModelVbucket, to: Seqno) {
    match snapshot.as_of(to) {
        Ok(past) => {
            assert!(!model.must_forget(to), "nobody knows what was at {to}");
            let mut then = model.clone();
            then.rollback(to, model.epoch, &past.state().watermarks);
            check::whole(random, past.as_ref(), &then.expected());
            // What is past is past for a snapshot of the past, too.
            if to.0 > 0 && random.percent(20) {
                let before = Seqno(random.within(0, to.0));
                at(random, past.as_ref(), &then, before);
            }
        }
        Err(StorageError::Forgotten { to: told, from, .. }) => {
            assert_eq!(told, to);
            assert!(from > to);
            assert!(model.may_forget(to), "what was at {to} should be known");
        }
        Err(other) => panic!("the past at {to}: {other}"),
    }
}

fn not_reached(snapshot: &dyn Snapshot, model: &ModelVbucket) {
    let high_seqno = model.high_seqno();
    let refused = StorageError::NotReached {
        vbucket: model.vbucket,
        to: high_seqno.next(),
        high_seqno,
    };
    assert_eq!(
        snapshot.as_of(high_seqno.next()).map(drop),
        Err(refused),
        "the future"
    );
}

/// What was at some time.
fn moment(random: &mut Random, snapshot: &dyn Snapshot, model: &ModelVbucket) {
    let newest = model.state.watermarks.commit_time_ms;
    let time_ms = random.within(newest.saturating_sub(400), newest + 1);
    let wanted = model.seqno_at(time_ms);
    match (snapshot.seqno_at(time_ms), wanted) {
        (Ok(found), Some(wanted)) => {
            assert!(
                model.nothing_between(found.min(wanted), found.max(wanted))
                    || model.may_forget(wanted),
                "at {time_ms} it was at {wanted}, not {found}"
            );
        }
        (Ok(found), None) => panic!("{found} at {time_ms}, when there was nothing"),
        (Err(StorageError::ForgottenTime { from_ms, .. }), wanted) => {
            assert!(from_ms > time_ms);
            assert!(wanted.is_none_or(|wanted| model.may_forget(wanted)));
        }
        (Err(other), _) => panic!("the time {time_ms}: {other}"),
    }
}

/// From some seqno on all versions there are, and below nothing that never was.
fn versions(random: &mut Random, snapshot: &dyn Snapshot, model: &ModelVbucket) {
    let start = snapshot.history_start();
    let mut scan = snapshot.scan_history(SeqnoRange::ALL);
    let budget = super::generate::budget(random);
    let (found, _) = drain(scan.as_mut(), budget, usize::MAX);
    let all: Vec<Item> = model.all().map(without_hint).collect();
    let from = |items: &[Item]| -> Vec<Item> {
        let wanted = items.iter().filter(|item| item.seqno >= start);
        wanted.cloned().collect()
    };
    assert_eq!(from(&found), from(&all), "all versions from {start} on");
    assert!(found.iter().all(|item| all.contains(item)));
    let namespace = super::generate::namespace(random);
    let key = super::generate::key_in(random, namespace);
    let of_key = snapshot.versions(namespace, &key, usize::MAX).unwrap();
    let of_key: Vec<Item> = of_key.into_iter().map(without_hint).collect();
    let same = |item: &&Item| item.namespace() == namespace && item.document.key == key;
    let wanted: Vec<Item> = found.iter().rev().filter(same).cloned().collect();
    assert_eq!(of_key, wanted, "the versions of {key:?}");
    for item in found.iter().filter(|item| item.seqno >= start) {
        let at = snapshot.committed_at(item.seqno).unwrap();
        assert!(at >= model.committed_at(item.seqno), "{}", item.seqno);
    }
    let range = super::generate::seqno_range(random, model.high_seqno());
    let mut scan = snapshot.scan_history(range);
    let (part, _) = drain(scan.as_mut(), budget, usize::MAX);
    let wanted = found.iter().filter(|item| range.contains(item.seqno));
    assert_eq!(part, wanted.cloned().collect::<Vec<Item>>());
}
