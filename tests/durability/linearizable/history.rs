//! What clients asked of one document and what they were told, in the order of both; judged by stateright's tester.
//!
//! Invariant: what was refused was never done, and is no part of a history; what was answered with "not known" never came to
//! an end, so it may take effect at any later moment, or never.

use stateright::semantics::{ConsistencyTester, LinearizabilityTester, SequentialSpec};

/// What is asked of a document. Every value is written once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asked {
    Set(u64),
    Add(u64),
    Replace(u64),
    Delete,
    Get,
}

/// What is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Told {
    Done,
    /// It is there already.
    Exists,
    /// There is none.
    Missing,
    Value(u64),
}

/// A document, as it would be if it lay in one place and everything happened one after the other.
#[derive(Clone, Debug, Default)]
struct Document(Option<u64>);

impl SequentialSpec for Document {
    type Op = Asked;
    type Ret = Told;

    fn invoke(&mut self, asked: &Asked) -> Told {
        match (*asked, self.0) {
            (Asked::Get, Some(value)) => Told::Value(value),
            (Asked::Add(_), Some(_)) => Told::Exists,
            (Asked::Get | Asked::Replace(_) | Asked::Delete, None) => Told::Missing,
            (Asked::Set(value), _)
            | (Asked::Add(value), None)
            | (Asked::Replace(value), Some(_)) => {
                self.0 = Some(value);
                Told::Done
            }
            (Asked::Delete, Some(_)) => {
                self.0 = None;
                Told::Done
            }
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct Operation {
    client: usize,
    asked: Asked,
    began: usize,
    end: End,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// None came, or none that says anything.
    Unknown,
    Refused,
    Told(usize, Told),
}

/// The history of one document. A client asks for one thing after the other.
#[derive(Debug, Default)]
pub(super) struct History {
    operations: Vec<Operation>,
    moments: usize,
}

impl History {
    /// A client asks; the number of what it asked.
    pub(super) fn ask(&mut self, client: usize, asked: Asked) -> usize {
        let (began, end) = (self.moment(), End::Unknown);
        self.operations.push(Operation {
            client,
            asked,
            began,
            end,
        });
        self.operations.len() - 1
    }

    pub(super) fn tell(&mut self, number: usize, told: Told) {
        self.operations[number].end = End::Told(self.moment(), told);
    }

    /// Nothing was done.
    pub(super) fn refuse(&mut self, number: usize) {
        self.operations[number].end = End::Refused;
    }

    /// How much was asked and not refused, and of how much of that nothing is known.
    pub(super) fn figures(&self) -> (u64, u64) {
        let ends = || self.operations.iter().map(|one| one.end);
        let done = ends().filter(|end| *end != End::Refused).count();
        let unknown = ends().filter(|end| *end == End::Unknown).count();
        (done as u64, unknown as u64)
    }

    /// Whether all of it could have happened to one document in one place, each thing at one moment between its question
    /// and its answer.
    pub(super) fn is_linearizable(&self) -> bool {
        let mut moments = Vec::new();
        for (number, one) in self.operations.iter().enumerate() {
            // What never ended is of a client that asks no more; tried last, since as a rule it is done late or never.
            let (thread, told) = match one.end {
                End::Refused => continue,
                End::Unknown => (self.operations.len() + number, None),
                End::Told(at, told) => (one.client, Some((at, told))),
            };
            moments.push((one.began, thread, Err(one.asked)));
            moments.extend(told.map(|(at, told)| (at, thread, Ok(told))));
        }
        moments.sort_by_key(|(at, _, _)| *at);
        let mut tester = LinearizabilityTester::new(Document::default());
        for (_, thread, what) in moments {
            let noted = match what {
                Err(asked) => tester.on_invoke(thread, asked),
                Ok(told) => tester.on_return(thread, told),
            };
            noted.expect("a client asks for one thing after the other");
        }
        tester.is_consistent()
    }

    fn moment(&mut self) -> usize {
        self.moments += 1;
        self.moments
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn history(of: &[(usize, Asked, Option<Told>)]) -> History {
        let mut history = History::default();
        for (client, asked, told) in of {
            let number = history.ask(*client, *asked);
            if let Some(told) = told {
                history.tell(number, *told);
            }
        }
        history
    }

    #[test]
    fn what_was_read_stays_read() {
        let (set, done) = (Asked::Set(1), Some(Told::Done));
        let read = |told| (1, Asked::Get, Some(told));
        let value = read(Told::Value(1));
        assert!(history(&[(0, set, done), value]).is_linearizable());
        // A committed write is gone.
        assert!(!history(&[(0, set, done), read(Told::Missing)]).is_linearizable());
        // One that nobody asked for is there.
        assert!(!history(&[read(Told::Value(1))]).is_linearizable());
        // One of which nothing is known is seen, and is gone again.
        assert!(!history(&[(0, set, None), value, read(Told::Missing)]).is_linearizable());
        assert!(history(&[(0, set, None), read(Told::Missing), value]).is_linearizable());
    }

    #[test]
    fn a_document_is_there_or_is_not() {
        let done = Some(Told::Done);
        let added = (0, Asked::Add(1), done);
        let exists = (1, Asked::Add(2), Some(Told::Exists));
        assert!(history(&[added, exists]).is_linearizable());
        assert!(!history(&[exists, added]).is_linearizable());
        let replaced = (1, Asked::Replace(2), Some(Told::Missing));
        assert!(!history(&[added, replaced]).is_linearizable());
        let deleted = (1, Asked::Delete, done);
        assert!(history(&[added, deleted, replaced]).is_linearizable());
        assert!(!history(&[added, deleted, deleted]).is_linearizable());
    }

    #[test]
    fn what_is_refused_never_happens() {
        let mut history = History::default();
        let refused = history.ask(0, Asked::Set(1));
        history.refuse(refused);
        let read = history.ask(0, Asked::Get);
        history.tell(read, Told::Value(1));
        assert!(!history.is_linearizable());
        assert_eq!(history.figures(), (1, 0));
    }

    /// Two that overlap may have happened in either order.
    #[test]
    fn what_overlaps_may_have_any_order() {
        let mut history = History::default();
        let first = history.ask(0, Asked::Set(1));
        let second = history.ask(1, Asked::Set(2));
        history.tell(second, Told::Done);
        history.tell(first, Told::Done);
        let read = history.ask(2, Asked::Get);
        history.tell(read, Told::Value(2));
        assert!(history.is_linearizable());
    }
}
