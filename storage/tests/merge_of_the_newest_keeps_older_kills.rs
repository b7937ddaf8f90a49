//! Merging the newest segments alone leaves the older ones as they are, and what was superseded in them stays superseded:
//! beside commits, after a restart, after a rollback, and when all are compacted at last.
#![cfg(test)]

mod support;
#[expect(
    dead_code,
    reason = "only the model of a vbucket is used, not its runs"
)]
mod model;
mod beside;

use beside::Beside;
use piggin_storage::{CompactionRequest, Job, KvStore, Outcome, Seqno};
use support::{deletion, mutation};

fn newest(history_floor: Seqno) -> CompactionRequest {
    CompactionRequest {
        newest_only: true,
        history_floor,
        ..CompactionRequest::default()
    }
}

/// A large old segment, and small ones that overwrite and delete parts of it and of each other.
fn filled() -> Beside {
    let mut beside = Beside::empty();
    let old = (1..=200).map(|seqno| mutation(seqno, &format!("key {seqno}"), &"v".repeat(100)));
    beside.write(old.collect());
    beside.writer.seal(Seqno::ZERO);
    for round in 0..5 {
        let next = beside.next();
        let overwritten = (0..8).map(|number| {
            let name = format!("key {}", 1 + (round * 5 + number * 3) % 40);
            match number % 4 {
                3 => deletion(next + number, &name),
                _ => mutation(next + number, &name, "again"),
            }
        });
        beside.write(overwritten.collect());
        beside.writer.seal(Seqno::ZERO);
    }
    beside
}

fn segments(beside: &Beside) -> usize {
    let statistics = beside.store.file_statistics(beside.writer.vbucket);
    statistics.unwrap().segments
}

#[test]
fn beside_commits_and_seals_at_every_step() {
    for floor in [Seqno::ZERO, Seqno(215), Seqno::MAX] {
        let mut beside = filled();
        assert_eq!(segments(&beside), 6);
        let mut number = 0;
        beside.compact_with(&newest(floor), |beside, stage| {
            let next = beside.next();
            number += 1;
            let name = format!("key {}", 1 + number * 7 % 50);
            beside.write(vec![mutation(next, &name, "beside")]);
            beside.seal_at(stage);
        });
        beside.check_disk();
        let sealed_since = segments(&beside).checked_sub(2).unwrap();
        assert!(
            sealed_since > 0,
            "the old one, the merged one, and what came since"
        );
        // Again, on top of what was merged.
        beside.compact_with(&newest(floor), |_, _| {});
        beside.check_disk();
        assert!(segments(&beside) <= 2);
        let all = CompactionRequest {
            drop_deletes: true,
            ..CompactionRequest::default()
        };
        beside.compact_with(&all, |_, _| {});
        beside.check_disk();
        let left = beside.store.file_statistics(beside.writer.vbucket).unwrap();
        assert_eq!(left.live_bytes, left.total_bytes, "nothing dead is left");
    }
}

/// To every seqno that is still known, each on a store of its own.
#[test]
fn a_rollback_gives_back_what_was_superseded_later() {
    for to in [200, 208, 216, 224, 232] {
        let mut beside = filled();
        let vbucket = beside.writer.vbucket;
        let job = beside.store.compaction_job(vbucket, newest(Seqno(to)));
        let told = job.unwrap().run();
        assert!(matches!(told, Outcome::Complete(_)), "{told:?}");
        assert_eq!(segments(&beside), 2);
        let mut model = beside.model.clone();
        let writer = &mut beside.writer;
        writer.rollback(to);
        model.rollback(Seqno(to), writer.epoch, &writer.stored_watermarks());
        assert_eq!(writer.image().by_seqno, model.expected().items, "{to}");
        assert_eq!(beside.store.verify().faults, []);
    }
}
