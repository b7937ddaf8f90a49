//! Whatever kind of compaction it is, and wherever in it the power goes or a call of the disk fails: the vbucket is found
//! as it was, or as the compaction leaves it, its counts being those of a scan; and the next one brings it there. Two
//! dropped collections are in each case.
#![cfg(test)]

mod support;
#[expect(
    dead_code,
    reason = "only the model of a vbucket is used, not its runs"
)]
mod model;
mod beside;

use beside::Beside;
use piggin_storage::disk::{DiskErrorKind, SimulatedDisk, Verb};
use piggin_storage::{
    Compacted, CompactionFailure, CompactionRequest, DroppedCollection, KvStore, LogStore, Outcome,
    Seqno, StorageError,
};
use support::log_store::{failing, image, open_on};
use support::{Image, vbucket};

/// Of each kind one.
fn kinds() -> [CompactionRequest; 4] {
    let plain = CompactionRequest::default();
    [
        CompactionRequest {
            newest_only: true,
            ..plain.clone()
        },
        CompactionRequest {
            drop_deletes: true,
            ..plain.clone()
        },
        // Of the second collection a rollback may still want everything.
        CompactionRequest {
            drop_deletes: true,
            history_floor: Seqno(Beside::filled().next() - 2),
            ..plain.clone()
        },
        plain,
    ]
}

/// All that is to be seen of the vbucket.
#[derive(Debug, PartialEq)]
struct Seen(Image, Vec<DroppedCollection>);

fn seen(store: &LogStore) -> Seen {
    assert_eq!(store.verify().faults, []);
    let snapshot = store.snapshot(vbucket(0)).unwrap();
    Seen(image(store, 0), snapshot.dropped_collections())
}

type Ended = Outcome<Compacted, CompactionFailure>;

fn compact(store: &LogStore, request: &CompactionRequest) -> Ended {
    store.compact(vbucket(0), request)
}

/// What the compaction leaves where nothing comes in between.
fn after(request: &CompactionRequest) -> Seen {
    let mut beside = Beside::filled();
    beside.compact_with(request, |_, _| {});
    beside.check_disk();
    seen(&beside.store)
}

/// What the power may leave.
fn left(disk: &SimulatedDisk, salt: u64) -> [SimulatedDisk; 4] {
    [
        disk.crash_losing_everything_unsynced(),
        disk.crash_keeping_everything(),
        disk.crash(2 * salt),
        disk.crash(2 * salt + 1),
    ]
}

fn is_power_cut(error: &StorageError) -> bool {
    matches!(error, StorageError::Disk(error) if error.kind == DiskErrorKind::PowerCut)
}

#[test]
fn mb_40415_wherever_the_power_goes() {
    for request in kinds() {
        let after = after(&request);
        let (mut olds, mut news) = (0, 0);
        for call in 1.. {
            let beside = Beside::filled();
            let before = seen(&beside.store);
            beside.disk.cut_power_at_call(call);
            let was_cut = match compact(&beside.store, &request) {
                Outcome::Complete(_) => false,
                Outcome::Failed(failure) => {
                    assert!(is_power_cut(&failure.cause), "{failure}");
                    assert_eq!(failure.published, None);
                    true
                }
                ended @ (Outcome::Yielded | Outcome::Aborted(_)) => panic!("{ended:?}"),
            };
            for disk in left(&beside.disk, call) {
                let store = open_on(&disk, call);
                let found = seen(&store);
                assert!(found == before || found == after, "{call}: {found:?}");
                let is_new = found == after;
                assert!(was_cut || is_new, "{call}: it was told to be done");
                olds += u64::from(!is_new);
                news += u64::from(is_new);
                let again = compact(&store, &request);
                assert!(matches!(again, Outcome::Complete(_)), "{again:?}");
                assert_eq!(seen(&store), after, "{call}: the next one");
            }
            if !was_cut {
                assert!(call > 5, "it has calls");
                break;
            }
        }
        // A merge of the newest is not to be seen at all.
        assert!(
            news > 0 && (olds == 0) == request.newest_only,
            "{olds}, {news}"
        );
    }
}

/// MB-44102: a completion that failed left figures half changed.
#[test]
fn mb_44102_whichever_call_fails() {
    let verbs = [
        Verb::Read,
        Verb::Write,
        Verb::Sync,
        Verb::SyncDirectory,
        Verb::Open,
    ];
    for (request, verb) in kinds()
        .into_iter()
        .flat_map(|kind| verbs.map(|verb| (kind.clone(), verb)))
    {
        let after = after(&request);
        let mut struck = 0;
        for n in 1.. {
            let beside = Beside::filled();
            let before = seen(&beside.store);
            beside.disk.inject(failing(verb, "").nth(n));
            let ended = compact(&beside.store, &request);
            let has_struck = beside.disk.faults_waiting() == 0;
            beside.disk.clear_faults();
            let found = seen(&beside.store);
            match ended {
                Outcome::Complete(_) => assert_eq!(found, after, "{verb:?} {n}"),
                // A pass over a collection failed, and the others are published.
                Outcome::Failed(failure) if failure.published.is_some() => {
                    assert!(!request.newest_only);
                }
                Outcome::Failed(_) => assert_eq!(found, before, "{verb:?} {n}"),
                ended @ (Outcome::Yielded | Outcome::Aborted(_)) => panic!("{ended:?}"),
            }
            if !has_struck {
                break;
            }
            struck += 1;
            let again = compact(&beside.store, &request);
            assert!(matches!(again, Outcome::Complete(_)), "{again:?}");
            assert_eq!(seen(&beside.store), after, "{verb:?} {n}: the next one");
            beside.store.sync().unwrap();
            let left = beside.disk.crash_losing_everything_unsynced();
            assert_eq!(seen(&open_on(&left, n)), after, "{verb:?} {n}: on disk");
        }
        assert!(struck > 0, "{verb:?}");
    }
}
