//! Runs in which everything happens at once: commits, seals, merges, checkpoints, maintenance, rollbacks and scans,
//! one step at a time in an order the seed decides.
//!
//! Invariant: in each shard at most one commit, rollback, creation or deletion is under way, so that the past has an
//! order; background jobs and scans are under way at any time, and may be dropped half done.

use std::ops::ControlFlow;
use std::sync::Arc;

use piggin_storage::{
    AbortReason, Batch, CommitDurability, CompactionRequest, Item, ItemView, Job, KvStore, Outcome,
    RolledBack, Scan, Seqno, SeqnoRange, StorageError, VbucketId,
};

use super::operation::{self, Operation};
use super::past::State;
use super::world::{Failed, LOG_SHARDS, World};
use crate::model::vbucket::Expected;
use crate::support::owned;

/// Background work under way.
struct Running {
    what: String,
    /// What it may drop.
    forgets: Option<(VbucketId, Seqno)>,
    job: Box<dyn Job<Output = (), Failure = StorageError>>,
}

/// A scan under way, what it found so far and what it must find.
struct Scanning {
    scan: Box<dyn Scan>,
    found: Vec<Item>,
    expected: Expected,
}

/// What is under way besides what the caller waits for.
#[derive(Default)]
pub(crate) struct UnderWay {
    jobs: Vec<Running>,
    scans: Vec<Scanning>,
    /// Steps made and jobs ended, to be told at the end.
    pub(crate) steps: u64,
    pub(crate) completed: u64,
    pub(crate) aborted: u64,
}

impl World {
    /// Does up to `turns` things, until one fails.
    pub(crate) fn run_stepped(
        &mut self,
        turns: u64,
        under_way: &mut UnderWay,
    ) -> Result<(), Failed> {
        for _ in 0..turns {
            self.turn(under_way)?;
        }
        Ok(())
    }

    fn turn(&mut self, under_way: &mut UnderWay) -> Result<(), Failed> {
        match operation::next(&mut self.random, &self.past) {
            Operation::Commit(group, durability) => {
                self.commit_stepped(&group, durability, under_way)
            }
            Operation::Rollback(vbucket, to) => self.rollback_stepped(vbucket, to, under_way),
            Operation::Seal(vbucket, floor) => {
                let job = self.store().seal_job(vbucket, floor).unwrap();
                self.start(
                    format!("seal {vbucket} {floor}"),
                    Some((vbucket, floor)),
                    Box::new(job),
                    under_way,
                );
                Ok(())
            }
            Operation::Merge(vbucket, floor) => {
                let job = self.store().merge_job(vbucket, floor).unwrap();
                self.start(
                    format!("merge {vbucket} {floor}"),
                    Some((vbucket, floor)),
                    Box::new(job),
                    under_way,
                );
                Ok(())
            }
            Operation::Compact(vbucket, request) => {
                self.compact_stepped(vbucket, &request, under_way)
            }
            Operation::Checkpoint => {
                let shard = self.any_shard();
                let job = self.store().checkpoint_job(shard).unwrap();
                self.start(
                    format!("checkpoint {shard}"),
                    None,
                    Box::new(job),
                    under_way,
                );
                Ok(())
            }
            Operation::Maintain => {
                let shard = self.any_shard();
                if let Some(job) = self.store().maintenance_job(shard) {
                    self.start(format!("maintain {shard}"), None, Box::new(job), under_way);
                }
                Ok(())
            }
            Operation::Read(vbucket) => {
                let expected = self.past.current(vbucket).unwrap().expected();
                let snapshot = self.store().snapshot(vbucket).unwrap();
                let scan = snapshot.scan_by_seqno(SeqnoRange::ALL);
                let found = Vec::new();
                under_way.scans.push(Scanning {
                    scan,
                    found,
                    expected,
                });
                Ok(())
            }
            operation @ Operation::Reopen { .. } => {
                under_way.jobs.clear();
                under_way.scans.clear();
                self.apply(operation)
            }
            operation @ (Operation::Create(..) | Operation::Delete(_) | Operation::Sync) => {
                self.apply(operation)
            }
        }?;
        let steps = self.random.below(8);
        for _ in 0..steps {
            self.step_something(under_way)?;
        }
        Ok(())
    }

    fn any_shard(&mut self) -> u16 {
        u16::try_from(self.random.below(u64::from(LOG_SHARDS))).unwrap()
    }

    fn start(
        &mut self,
        what: String,
        forgets: Option<(VbucketId, Seqno)>,
        job: Box<dyn Job<Output = (), Failure = StorageError>>,
        under_way: &mut UnderWay,
    ) {
        if under_way.jobs.len() >= 4 {
            // Dropped half done.
            let index = self.random.index(under_way.jobs.len());
            let dropped = under_way.jobs.swap_remove(index);
            self.past.tell(&format!("dropped: {}", dropped.what));
        }
        self.past.tell(&format!("started: {what}"));
        under_way.jobs.push(Running { what, forgets, job });
    }

    /// A step of a job or a scan, if there is any.
    fn step_something(&mut self, under_way: &mut UnderWay) -> Result<(), Failed> {
        let all = under_way.jobs.len() + under_way.scans.len();
        if all == 0 {
            return Ok(());
        }
        under_way.steps += 1;
        let index = self.random.index(all);
        if let Some(scan) = index.checked_sub(under_way.jobs.len()) {
            return step_scan(under_way, scan, self.random.pick(&[1, 100, 4096]));
        }
        let running = &mut under_way.jobs[index];
        if let Some((vbucket, floor)) = running.forgets {
            self.past.may_forget(vbucket, floor);
        }
        let outcome = running.job.step();
        if outcome == Outcome::Yielded {
            return Ok(());
        }
        let ended = under_way.jobs.swap_remove(index);
        self.past.tell(&format!("{}: {outcome:?}", ended.what));
        match outcome {
            Outcome::Yielded => Ok(()),
            Outcome::Complete(()) => {
                under_way.completed += 1;
                Ok(())
            }
            Outcome::Aborted(
                AbortReason::RolledBack | AbortReason::Deleted | AbortReason::Superseded,
            ) => {
                under_way.aborted += 1;
                Ok(())
            }
            Outcome::Aborted(other) => panic!("{} was aborted: {other}", ended.what),
            // It was asked for before the vbucket was deleted.
            Outcome::Failed(StorageError::UnknownVbucket(_)) if ended.forgets.is_some() => Ok(()),
            Outcome::Failed(error) => Err(failed(error)),
        }
    }

    fn commit_stepped(
        &mut self,
        group: &[Batch],
        durability: CommitDurability,
        under_way: &mut UnderWay,
    ) -> Result<(), Failed> {
        let operation = Operation::Commit(group.to_vec(), durability);
        self.past.tell(&operation.summary());
        let of_shard = |shard| {
            let mine = group
                .iter()
                .filter(move |batch| batch.vbucket.get() % LOG_SHARDS == shard);
            mine.cloned().collect::<Vec<Batch>>()
        };
        let parts: Vec<(u16, Vec<Batch>)> = (0..LOG_SHARDS)
            .map(|shard| (shard, of_shard(shard)))
            .filter(|(_, part)| !part.is_empty())
            .collect();
        let mut jobs = Vec::new();
        for (shard, part) in &parts {
            let attempt = self.past.attempt();
            self.may_commit(attempt, part);
            let job = self.store().commit_job(*shard, part, durability).unwrap();
            jobs.push((attempt, part, job));
        }
        while !jobs.is_empty() {
            if self.random.percent(50) {
                self.step_something(under_way)?;
                continue;
            }
            let index = self.random.index(jobs.len());
            match jobs[index].2.step() {
                Outcome::Yielded => {}
                Outcome::Complete(results) => {
                    let (attempt, part, _) = jobs.swap_remove(index);
                    let (_, error) = self.committed(attempt, part, durability, results);
                    if let Some(error) = error {
                        return Err(failed(error));
                    }
                }
                other @ (Outcome::Aborted(_) | Outcome::Failed(_)) => {
                    panic!("a commit ended as {other:?}")
                }
            }
        }
        Ok(())
    }

    /// Beside other jobs and scans; commits at every step have a proof of their own.
    fn compact_stepped(
        &mut self,
        vbucket: VbucketId,
        request: &CompactionRequest,
        under_way: &mut UnderWay,
    ) -> Result<(), Failed> {
        self.past.tell(&format!("compact {vbucket} {request:?}"));
        let at = self.may_compact(vbucket, request);
        let mut job = self
            .store()
            .compaction_job(vbucket, request.clone())
            .unwrap();
        let mut idle = 0;
        loop {
            if idle > 200 {
                // It waits for one of those under way, which the past's order keeps from being dropped by chance.
                under_way.jobs.clear();
            }
            idle += 1;
            under_way.steps += 1;
            match job.step() {
                Outcome::Yielded => self.step_something(under_way)?,
                Outcome::Complete(told) => {
                    under_way.completed += 1;
                    self.compacted(at, vbucket, request, told);
                    return Ok(());
                }
                Outcome::Aborted(AbortReason::Superseded) => {
                    under_way.aborted += 1;
                    self.past.never_was(vbucket, at);
                    return Ok(());
                }
                Outcome::Failed(failure) => return Err(failed(failure.cause)),
                ended @ Outcome::Aborted(_) => panic!("a compaction ended as {ended:?}"),
            }
        }
    }

    fn rollback_stepped(
        &mut self,
        vbucket: VbucketId,
        to: Seqno,
        under_way: &mut UnderWay,
    ) -> Result<(), Failed> {
        self.past.tell(&format!("rollback of {vbucket} to {to}"));
        let at = (self.past.attempt(), 0);
        let before = Arc::clone(self.past.current(vbucket).unwrap());
        let state = State::RolledBack {
            before: Arc::clone(&before),
            to,
        };
        self.past.may_become(vbucket, at, state);
        let mut job = self.store().rollback_job(vbucket, to).unwrap();
        let rolled_back: RolledBack = loop {
            match job.step() {
                Outcome::Yielded => self.step_something(under_way)?,
                Outcome::Complete(rolled_back) => break rolled_back,
                Outcome::Failed(error) => return Err(failed(error)),
                Outcome::Aborted(reason) => panic!("a rollback was aborted: {reason}"),
            }
        };
        drop(job);
        // What a seal or merge meanwhile may have dropped, it may have dropped before the rollback.
        let before = self.past.may_have_been(vbucket, at).unwrap_or(before);
        self.rolled_back(at, &before, to, rolled_back);
        Ok(())
    }
}

fn failed(error: StorageError) -> Failed {
    Failed {
        left: Box::new(Operation::Sync),
        error,
    }
}

fn step_scan(under_way: &mut UnderWay, index: usize, budget: usize) -> Result<(), Failed> {
    let Scanning { scan, found, .. } = &mut under_way.scans[index];
    let mut visit = |view: ItemView<'_>| {
        found.push(owned(view));
        ControlFlow::Continue(())
    };
    match scan.step(budget, &mut visit) {
        Outcome::Yielded => Ok(()),
        Outcome::Complete(end) => {
            let ended = under_way.scans.swap_remove(index);
            assert_eq!(ended.found, ended.expected.items, "a scan in steps");
            assert_eq!(end.items, ended.found.len() as u64);
            let high_seqno = ended.expected.state.watermarks.high_seqno;
            assert_eq!(end.high_seqno, high_seqno);
            Ok(())
        }
        Outcome::Failed(error) => Err(failed(error)),
        Outcome::Aborted(reason) => panic!("a scan was aborted: {reason}"),
    }
}
