//! A stream with history: two parts under two markers of one range, and no marker without anything behind it.

use super::*;

fn wanted(start: u64) -> Admitted {
    Admitted {
        has_history: true,
        ..admitted(start, u64::MAX)
    }
}

/// Its backfill read these, of one part or the other.
fn read(state: &mut StreamState, seqnos: &[u64], up_to: u64, is_history: bool) {
    read_past(state, seqnos, up_to, is_history, 0);
}

/// The same, and passed over so many items that are not for the stream.
fn read_past(state: &mut StreamState, seqnos: &[u64], up_to: u64, is_history: bool, others: u64) {
    let everything = Filter::of(&StreamFilter::All, &[], &[].into()).expect("a filter");
    let events = seqnos
        .iter()
        .filter_map(|seqno| everything.event_of(item(*seqno)));
    state.backfilled(Read {
        events: events.map(Counted::from).collect(),
        last: Seqno(seqnos.last().copied().unwrap_or_default()),
        up_to: Seqno(up_to),
        skipped: Skipped {
            items: others,
            has_invisible: false,
        },
        is_history,
    });
}

/// What it says, with the flags of a history.
fn flagged(state: &mut StreamState) -> Vec<String> {
    let (events, _) = state.take_output(u64::MAX);
    let flagged = |event: &StreamEvent| {
        let StreamEvent::SnapshotMarker(marker) = event else {
            return shown(event);
        };
        let has_history = marker.flags.has(SnapshotFlags::HISTORY);
        let is_disk = marker.flags.has(SnapshotFlags::DISK);
        let repeats = marker.flags.has(SnapshotFlags::MAY_CONTAIN_DUPLICATES);
        assert_eq!(repeats, has_history && is_disk);
        let what = if has_history { "history " } else { "" };
        format!("{what}{}", shown(event))
    };
    events.iter().map(flagged).collect()
}

#[test]
fn both_markers_say_the_whole_range() {
    let mut state = opened(wanted(0), 9);
    read(&mut state, &[2, 4], 5, false);
    read(&mut state, &[6, 7, 9], 9, true);
    state.backfill_ended(BackfillEnd::Complete(Seqno(9)));
    let expected = [
        "disk+ 0-9",
        "set 2",
        "set 4",
        "history disk+ 0-9",
        "set 6",
        "set 7",
        "set 9",
    ];
    assert_eq!(flagged(&mut state), expected);
    // Memory has every version, too.
    let mut log = log(9);
    let cursor = register(&mut log, Seqno(9)).cursor;
    queue(&mut log, item(10));
    take(&mut state, &mut log, cursor, 10);
    assert_eq!(flagged(&mut state), ["history memory+ 10-10", "set 10"]);
}

/// MB-55590, MB-54729.
#[test]
fn no_marker_is_sent_for_nothing() {
    let mut inside = opened(wanted(5), 9);
    read(&mut inside, &[6, 9], 9, true);
    inside.backfill_ended(BackfillEnd::Complete(Seqno(9)));
    assert_eq!(
        flagged(&mut inside),
        ["history disk+ 5-9", "set 6", "set 9"]
    );
    // Of what was before the history nothing is for the stream.
    let mut empty = opened(wanted(0), 9);
    read(&mut empty, &[], 5, false);
    read(&mut empty, &[9], 9, true);
    empty.backfill_ended(BackfillEnd::Complete(Seqno(9)));
    assert_eq!(flagged(&mut empty), ["history disk+ 0-9", "set 9"]);
    // Of the history nothing is: the end that was told comes all the same.
    let mut before = opened(wanted(0), 9);
    read(&mut before, &[3], 5, false);
    read(&mut before, &[], 9, true);
    before.backfill_ended(BackfillEnd::Complete(Seqno(9)));
    assert_eq!(flagged(&mut before), ["disk+ 0-9", "set 3", "advanced 9"]);
}

/// So much was passed over that it is told how far the stream is: under the marker of the part it is in.
#[test]
fn a_part_of_which_nothing_is_for_the_stream_is_told_as_what_it_is() {
    let mut inside = opened(wanted(5), 20_000);
    read_past(&mut inside, &[], 10_005, true, 10_000);
    read(&mut inside, &[20_000], 20_000, true);
    inside.backfill_ended(BackfillEnd::Complete(Seqno(20_000)));
    let expected = ["history disk+ 5-20000", "advanced 10005", "set 20000"];
    assert_eq!(flagged(&mut inside), expected);
    // Of the first part, and then of the second, after something of the first.
    let mut both = opened(wanted(0), 40_000);
    read_past(&mut both, &[], 10_000, false, 10_000);
    read(&mut both, &[10_001], 10_001, false);
    read_past(&mut both, &[], 20_001, true, 10_000);
    read(&mut both, &[40_000], 40_000, true);
    both.backfill_ended(BackfillEnd::Complete(Seqno(40_000)));
    let expected = [
        "disk+ 0-40000",
        "advanced 10000",
        "set 10001",
        "history disk+ 0-40000",
        "advanced 20001",
        "set 40000",
    ];
    assert_eq!(flagged(&mut both), expected);
    // No event follows.
    let mut nothing = opened(wanted(5), 20_000);
    read_past(&mut nothing, &[], 20_000, true, 14_995);
    nothing.backfill_ended(BackfillEnd::Complete(Seqno(20_000)));
    let expected = ["history disk+ 5-20000", "advanced 20000"];
    assert_eq!(flagged(&mut nothing), expected);
}

#[test]
fn another_backfill_has_its_own_two_parts() {
    let mut state = opened(wanted(0), 4);
    read(&mut state, &[1], 2, false);
    read(&mut state, &[3, 4], 4, true);
    // Its place in memory was given back meanwhile.
    state.cursor_dropped();
    state.backfill_ended(BackfillEnd::Complete(Seqno(4)));
    let first = ["disk+ 0-4", "set 1", "history disk+ 0-4", "set 3", "set 4"];
    assert_eq!(flagged(&mut state), first);
    state.registered(registered(true, 10));
    state.scheduled();
    state.opened(&at(9), Some(registered(false, 10)));
    // The history went on: what was written since is in part no history any more.
    read(&mut state, &[7], 7, false);
    read(&mut state, &[8, 9], 9, true);
    state.backfill_ended(BackfillEnd::Complete(Seqno(9)));
    let second = ["disk+ 5-9", "set 7", "history disk+ 5-9", "set 8", "set 9"];
    assert_eq!(flagged(&mut state), second);
}
