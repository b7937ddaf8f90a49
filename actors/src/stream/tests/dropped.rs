//! A cursor that is taken away from a stream: it reads the disk for what it did not read, once.

use super::*;

#[test]
fn a_cursor_that_is_dropped_leads_back_to_the_disk() {
    let mut log = log(0);
    let mut state = StreamState::new(admitted(0, u64::MAX));
    let registered_first = register(&mut log, Seqno::ZERO);
    state.registered(registered_first);
    queue(&mut log, item(1));
    take(&mut state, &mut log, registered_first.cursor, 10);
    assert!(state.may_drop_cursor());
    state.cursor_dropped();
    // What waits is said all the same.
    assert_eq!(said(&mut state), ["memory+ 0-1", "set 1"]);
    assert_eq!(state.want(), Want::Register { held: Seqno(1) });
    state.registered(registered(true, 9));
    assert!(matches!(state.want(), Want::Backfill(range) if range.first == Seqno(2)));
    // In the middle of a snapshot whose end was told the stream cannot go on.
    for seqno in 2..=3 {
        queue(&mut log, item(seqno));
    }
    let mut state = StreamState::new(admitted(0, u64::MAX));
    let registered = register(&mut log, Seqno::ZERO);
    state.registered(registered);
    take(&mut state, &mut log, registered.cursor, 1);
    assert!(!state.may_drop_cursor());
    state.cursor_dropped();
    assert_eq!(said(&mut state), ["state_changed"]);
}

#[test]
fn one_that_is_dropped_during_a_backfill_is_made_up_for() {
    let mut state = opened(admitted(0, u64::MAX), 4);
    state.cursor_dropped();
    backfilled(&mut state, [item(4)], Seqno(4), Skipped::default());
    state.backfill_ended(BackfillEnd::Complete(Seqno(4)));
    assert_eq!(said(&mut state), ["disk+ 0-4", "set 4"]);
    assert_eq!(state.want(), Want::Register { held: Seqno(4) });
    // The checkpoints begin later than the snapshot ended: another backfill.
    let mut state = StreamState::new(admitted(0, u64::MAX));
    state.registered(registered(true, 5));
    state.scheduled();
    state.opened(&at(4), Some(registered(true, 8)));
    backfilled(&mut state, [item(4)], Seqno(4), Skipped::default());
    state.backfill_ended(BackfillEnd::Complete(Seqno(4)));
    assert_eq!(state.want(), Want::Register { held: Seqno(4) });
    state.registered(registered(true, 8));
    state.scheduled();
    state.opened(&at(7), Some(registered(false, 8)));
    backfilled(&mut state, [item(7)], Seqno(7), Skipped::default());
    state.backfill_ended(BackfillEnd::Complete(Seqno(7)));
    assert_eq!(
        said(&mut state),
        ["disk+ 0-4", "set 4", "disk+ 5-7", "set 7"]
    );
    assert_eq!(state.want(), Want::Log);
}
