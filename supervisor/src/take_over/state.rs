//! The state machine of a takeover: what is to be done next, what a failure leads to, what must be undone.
//!
//! ```text
//! Follow -> Hold -> Drain -> Ready -> Leave -> Bury -> Crown -> Confirm -> Over(Done)
//!    |        |       |        |        |       |        |         |
//!    |        |       +--------+--Release       +-------+        |
//!    |        |                +-> Stays            GiveBack      |
//!    +--------+-----------------> Stays   Nobody <-+ | +-> Unconfirmed
//!                                            Stays <-+
//! ```
//!
//! Pure: it says what it [`Want`]s and is told what came of it. Invariant: the target becomes active only once the source is dead
//! on its disk, and the source becomes active again only if the target is not: never are there two.

use storage::Seqno;

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Want {
    /// The target follows the source, and has all there was at some moment.
    Follow,
    /// The source takes no writes any more, for a while.
    Hold,
    /// The target has everything up to there.
    Drain(Seqno),
    /// The target is pending, also on its disk, and nothing is applied to it any more.
    Ready(Seqno),
    /// The source is dead.
    Leave,
    /// The source is dead on its disk.
    Bury,
    /// The target is active.
    Crown,
    /// The target is active on its disk.
    Confirm,
    /// The source takes writes again.
    Release,
    /// The source is active again.
    GiveBack,
    /// Nothing any more.
    Over(End),
}

/// How it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// The target is active, the source dead.
    Done,
    /// The source is active as before.
    Stays,
    /// Neither is known to be active, and the target was never asked to be.
    Nobody,
    /// The target became active, by this or by somebody else, and whether its disk has that is not known.
    Unconfirmed,
}

/// What came of what was wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Came {
    /// It is done; of [`Want::Hold`] it is the high seqno.
    Done(Option<Seqno>),
    /// It is not, and will not be.
    Failed,
    /// It is not, for the target is active by somebody else's word.
    Forestalled,
}

/// What must be done where nobody waits for the end any more.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Undo {
    /// Nothing.
    Nothing,
    /// As [`Want::Release`].
    Release,
    /// As [`Want::GiveBack`].
    GiveBack,
}

/// The machine.
#[derive(Debug)]
pub(super) struct TakeOver {
    want: Want,
}

impl TakeOver {
    /// One of which nothing is done yet.
    pub(super) const fn new() -> TakeOver {
        TakeOver { want: Want::Follow }
    }

    /// What is to be done now.
    pub(super) const fn want(&self) -> Want {
        self.want
    }

    /// What was wanted came to this.
    pub(super) fn came(&mut self, came: Came) {
        self.want = match (self.want, came) {
            (Want::Over(end), _) => Want::Over(end),
            (Want::Follow, Came::Done(_)) => Want::Hold,
            (Want::Hold, Came::Done(high)) => Want::Drain(high.unwrap_or_default()),
            (Want::Drain(high), Came::Done(_)) => Want::Ready(high),
            (Want::Ready(_), Came::Done(_)) => Want::Leave,
            (Want::Leave, Came::Done(_)) => Want::Bury,
            (Want::Bury, Came::Done(_)) => Want::Crown,
            (Want::Crown, Came::Done(_)) => Want::Confirm,
            (Want::Confirm, Came::Done(_)) => Want::Over(End::Done),
            (Want::Drain(_) | Want::Ready(_) | Want::Leave, Came::Failed) => Want::Release,
            (Want::Bury | Want::Crown, Came::Failed) => Want::GiveBack,
            // Its disk may say either: the source alone knows once it is opened again.
            (Want::GiveBack, Came::Failed) => Want::Over(End::Nobody),
            (Want::Confirm, Came::Failed) | (_, Came::Forestalled) => Want::Over(End::Unconfirmed),
            (Want::Follow | Want::Hold, Came::Failed)
            | (Want::Release, Came::Done(_) | Came::Failed)
            | (Want::GiveBack, Came::Done(_)) => Want::Over(End::Stays),
        };
    }

    /// What must be done if nobody goes on with it.
    pub(super) const fn undo(&self) -> Undo {
        match self.want {
            Want::Drain(_) | Want::Ready(_) | Want::Leave | Want::Release => Undo::Release,
            Want::Bury | Want::Crown | Want::GiveBack => Undo::GiveBack,
            Want::Follow | Want::Hold | Want::Confirm | Want::Over(_) => Undo::Nothing,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Who is active when everything up to some want was done, and that one failed in whichever way.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    struct Roles {
        source: bool,
        target: bool,
    }

    fn after(done: &[Want]) -> Roles {
        let mut roles = Roles {
            source: true,
            target: false,
        };
        for want in done {
            match want {
                Want::Leave => roles.source = false,
                Want::Crown => roles.target = true,
                Want::GiveBack => roles.source = true,
                Want::Follow
                | Want::Hold
                | Want::Drain(_)
                | Want::Ready(_)
                | Want::Bury
                | Want::Confirm
                | Want::Release
                | Want::Over(_) => {}
            }
        }
        roles
    }

    /// Goes on until it is over; the wants whose numbers are given fail. What was done, and how it ended.
    fn run(failing: &[usize]) -> (Vec<Want>, End) {
        let (mut machine, mut done) = (TakeOver::new(), Vec::new());
        for number in 0.. {
            let want = machine.want();
            if let Want::Over(end) = want {
                return (done, end);
            }
            if failing.contains(&number) {
                machine.came(Came::Failed);
            } else {
                done.push(want);
                machine.came(Came::Done(Some(Seqno(7))));
            }
        }
        unreachable!("it ends")
    }

    #[test]
    fn whatever_fails_there_are_never_two() {
        let all = 10;
        let one = (0..all).map(|first| vec![first]);
        let two =
            (0..all).flat_map(|first| (first + 1..all).map(move |second| vec![first, second]));
        for failing in std::iter::once(Vec::new()).chain(one).chain(two) {
            let (done, end) = run(&failing);
            for length in 0..=done.len() {
                let roles = after(&done[..length]);
                assert!(!(roles.source && roles.target), "{failing:?}: {done:?}");
            }
            let expected = match end {
                End::Done | End::Unconfirmed => (false, true),
                End::Stays => (true, false),
                End::Nobody => (false, false),
            };
            let roles = after(&done);
            assert_eq!(
                (roles.source, roles.target),
                expected,
                "{failing:?}: {done:?}"
            );
        }
    }

    #[test]
    fn whoever_goes_away_leaves_one_active() {
        let mut machine = TakeOver::new();
        let mut done = Vec::new();
        loop {
            let roles = after(&done);
            let undone = match machine.undo() {
                Undo::GiveBack => Roles {
                    source: true,
                    ..roles
                },
                Undo::Nothing | Undo::Release => roles,
            };
            assert!(undone.source != undone.target, "{:?}", machine.want());
            if let Want::Over(end) = machine.want() {
                assert_eq!(end, End::Done);
                return;
            }
            done.push(machine.want());
            machine.came(Came::Done(Some(Seqno(7))));
        }
    }

    #[test]
    fn a_hold_is_let_go_of_unless_the_role_is_left() {
        for failing in 2..5 {
            let (done, end) = run(&[failing]);
            assert_eq!((done.last(), end), (Some(&Want::Release), End::Stays));
        }
        for failing in [5, 6] {
            let (done, end) = run(&[failing]);
            assert_eq!((done.last(), end), (Some(&Want::GiveBack), End::Stays));
            assert_eq!(run(&[failing, failing + 1]).1, End::Nobody);
        }
        assert_eq!(run(&[7]).1, End::Unconfirmed);
    }
}
