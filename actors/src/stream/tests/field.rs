//! What the field once got wrong of a stream, by its number there, and is right here.

use super::super::snapshot::of_disk;
use super::*;

#[test]
fn mb_56084_what_is_passed_over_is_read_and_no_reason_to_begin_again() {
    let mut state = opened(of_fruit(0, u64::MAX), 20);
    let others = Skipped {
        items: 20,
        has_invisible: false,
    };
    backfilled(&mut state, [], Seqno(20), others);
    state.backfill_ended(BackfillEnd::Complete(Seqno(20)));
    assert_eq!(state.want(), Want::Log);
    state.cursor_dropped();
    assert_eq!(state.want(), Want::Register { held: Seqno(20) });
    state.registered(registered(true, 31));
    let range = BackfillRange {
        first: Seqno(21),
        last: Seqno(30),
    };
    assert_eq!(state.want(), Want::Backfill(range));
}

/// MB-65581 is the same with an item behind it.
#[test]
fn mb_62847_a_change_of_state_is_no_item() {
    let mut log = log(3);
    let mut state = StreamState::new(admitted(3, u64::MAX));
    let registered = register(&mut log, Seqno(3));
    state.registered(registered);
    let identity = VbucketStateRecord::new(VbucketUuid(7)).identity;
    log.queue_identity(Arc::clone(&identity));
    take(&mut state, &mut log, registered.cursor, 10);
    assert!(said(&mut state).is_empty());
    assert_eq!(state.last_read(), Seqno(3));
    queue(&mut log, item(4));
    log.queue_identity(identity);
    take(&mut state, &mut log, registered.cursor, 10);
    assert_eq!(said(&mut state), ["memory+ 3-4", "set 4"]);
    assert_eq!(state.last_read(), Seqno(4));
}

/// MB-27876 is another number of it.
#[test]
fn mb_48010_a_seqno_is_advanced_once_and_at_the_end() {
    for items_max in 1..6 {
        let mut log = log(0);
        let mut state = StreamState::new(of_fruit(0, u64::MAX));
        let registered = register(&mut log, Seqno::ZERO);
        state.registered(registered);
        queue(&mut log, item_of(FRUIT, 1, "a"));
        queue(&mut log, item(2));
        queue(&mut log, item_of(FRUIT, 3, "b"));
        queue(&mut log, prepare(4));
        queue(&mut log, item(5));
        for _ in 0..5 {
            take(&mut state, &mut log, registered.cursor, items_max);
        }
        let expected = ["memory+ 0-5", "set 1", "set 3", "advanced 5"];
        assert_eq!(said(&mut state), expected, "{items_max}");
    }
}

/// MB-55590: a marker that nothing followed. Both, and MB-54729: each marker's end is an event that was sent.
#[test]
fn mb_47437_a_marker_ends_with_what_was_sent() {
    for last_is_wanted in [false, true] {
        let mut state = opened(of_fruit(0, u64::MAX), 9);
        let items = [item_of(FRUIT, 4, "a"), item_of(FRUIT, 9, "b")];
        let wanted = if last_is_wanted {
            &items[..]
        } else {
            &items[..1]
        };
        let others = Skipped {
            items: 9 - wanted.len() as u64,
            has_invisible: false,
        };
        backfilled(&mut state, wanted.to_vec(), Seqno(9), others);
        state.backfill_ended(BackfillEnd::Complete(Seqno(9)));
        let last = if last_is_wanted {
            "set 9"
        } else {
            "advanced 9"
        };
        assert_eq!(said(&mut state), ["disk+ 0-9", "set 4", last]);
    }
    let mut nothing = opened(of_fruit(0, u64::MAX), 9);
    nothing.backfill_ended(BackfillEnd::Complete(Seqno(9)));
    assert!(said(&mut nothing).is_empty());
}

#[test]
fn mb_67467_what_a_disk_snapshot_holds_of_prepares_is_named() {
    for (prepared, acknowledged) in [(3, 7), (7, 3)] {
        let watermarks = Watermarks {
            prepared_seqno: Seqno(prepared),
            high_prepared_seqno: Seqno(acknowledged),
            ..at(9)
        };
        let marker = of_disk(Seqno(1), &watermarks, true);
        assert_eq!(marker.high_prepared_seqno, Some(Seqno(7)));
    }
}
