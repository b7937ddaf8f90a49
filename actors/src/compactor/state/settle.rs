//! How a run's end becomes answers, figures, and perhaps another run.
//!
//! Invariant: the run is forgotten before anybody is answered, and whoever waited for it is answered or waits for the
//! run that is begun again; what was asked for meanwhile keeps its place. An abort moves no failure figure.

use std::time::Duration;

use super::{Assignment, BUSY_REST, CompactorState, Effect, Entry, Life, Queued, RunEnd, Running};
use messages::compactor::CompactError;
use storage::{AbortReason, Compacted, VbucketId};

/// What becomes of those who wanted a run that ended.
enum Verdict {
    Answer(Result<Compacted, CompactError>),
    /// It is begun again, not before then.
    Again(Duration),
}

impl CompactorState {
    /// A run failed: the engine leaves the vbucket alone for a while, longer each time. When it tries again by itself
    /// (monotonic), if it wanted that run. To be called once, before [`CompactorState::settle`].
    pub fn note_failure(&mut self, of: Assignment, now: Duration, random: u64) -> Option<Duration> {
        let backoff = self.limits.backoff;
        let is_open = self.life == Life::Open;
        let entry = self.vbuckets.get_mut(&of.vbucket)?;
        entry.failures = entry.failures.saturating_add(1);
        entry.put_off = now.saturating_add(backoff.wait(entry.failures, random));
        let run = entry.running.as_ref().filter(|run| run.id == of.run);
        let is_retried = is_open && run.is_some_and(|run| run.of.own.is_some());
        is_retried.then_some(entry.put_off)
    }

    /// A run panicked: a failure like others, that nobody tries again at once. Whether the engine leaves the vbucket
    /// alone from now on, until one that was asked for is complete. To be called once, before
    /// [`CompactorState::settle`].
    pub fn note_crash(&mut self, of: Assignment, now: Duration, random: u64) -> bool {
        self.note_failure(of, now, random);
        let entry = self.vbuckets.get_mut(&of.vbucket);
        entry.is_some_and(Entry::note_crash)
    }

    /// A run ended.
    pub fn settle(&mut self, of: Assignment, end: RunEnd, now: Duration) {
        let Some(run) = self.take_run(of) else {
            return;
        };
        // What it was told comes before what it found.
        let end = match (end, run.abort) {
            (RunEnd::Aborted(_) | RunEnd::Interrupted, Some(reason)) => RunEnd::Aborted(reason),
            (end, _) => end,
        };
        self.count(&end, run.abort.is_some());
        let is_failure = matches!(end, RunEnd::Failed { .. });
        if let RunEnd::Complete(_) = &end
            && let Some(entry) = self.vbuckets.get_mut(&of.vbucket)
        {
            entry.failures = 0;
            entry.crashes = 0;
            entry.put_off = Duration::ZERO;
        }
        match verdict(end, run.abort.is_some(), now) {
            Verdict::Again(not_before) => {
                let again = Queued {
                    not_before,
                    ..run.of
                };
                self.put_back(of.vbucket, again);
            }
            Verdict::Answer(answer) => {
                let Queued {
                    waiters,
                    own,
                    place,
                    ..
                } = run.of;
                let answers = waiters.into_iter();
                let answers = answers.map(|waiter| Effect::Answer(waiter, answer.clone()));
                self.effects.extend(answers);
                if let Some(work) = own
                    && is_failure
                    && self.life == Life::Open
                {
                    // Who asked for more was told, and decides.
                    let retry = Queued {
                        work,
                        own,
                        ..Queued::new(place)
                    };
                    self.put_back(of.vbucket, retry);
                }
            }
        }
        self.vbuckets.retain(|_, entry| !entry.is_blank(now));
        // Its place is free.
        self.effects.push(Effect::WakeWorkers);
    }

    fn take_run(&mut self, of: Assignment) -> Option<Running> {
        let entry = self.vbuckets.get_mut(&of.vbucket)?;
        entry.running.take_if(|run| run.id == of.run)
    }

    fn put_back(&mut self, vbucket: VbucketId, mut wish: Queued) {
        let entry = self.vbuckets.entry(vbucket).or_default();
        if let Some(newer) = entry.queued.take() {
            wish.merge(newer);
        }
        entry.queued = Some(wish);
    }

    fn count(&mut self, end: &RunEnd, was_told: bool) {
        let figures = &mut self.figures;
        let bump = |figure: &mut u64, by: u64| *figure = figure.saturating_add(by);
        let published = match end {
            RunEnd::Complete(compacted) => {
                bump(&mut figures.completed, 1);
                Some(compacted)
            }
            RunEnd::Failed { published, .. } => {
                bump(&mut figures.failed, 1);
                published.as_deref()
            }
            RunEnd::Aborted(reason) => {
                let is_over = was_told || *reason != AbortReason::Superseded;
                bump(&mut figures.aborted, u64::from(is_over));
                None
            }
            RunEnd::Crashed(_) => {
                bump(&mut figures.failed, 1);
                None
            }
            RunEnd::Refused(_) | RunEnd::Interrupted => None,
        };
        if let Some(published) = published {
            bump(&mut figures.tombstones_purged, published.tombstones_purged);
            bump(&mut figures.prepares_purged, published.prepares_purged);
            let items = published.collection_items_purged;
            bump(&mut figures.collection_items_purged, items);
        }
    }
}

fn verdict(end: RunEnd, was_told: bool, now: Duration) -> Verdict {
    let refused = |error| Verdict::Answer(Err(error));
    match end {
        RunEnd::Complete(compacted) => Verdict::Answer(Ok(compacted)),
        RunEnd::Failed {
            stage,
            cause,
            published,
        } => refused(CompactError::Failed {
            stage,
            cause,
            published,
        }),
        RunEnd::Refused(error) => refused(error),
        RunEnd::Crashed(child) => refused(CompactError::Crashed { child }),
        RunEnd::Interrupted => Verdict::Again(now),
        RunEnd::Aborted(AbortReason::Superseded) if !was_told => {
            Verdict::Again(now.saturating_add(BUSY_REST))
        }
        RunEnd::Aborted(reason) => refused(CompactError::Aborted(reason)),
    }
}
