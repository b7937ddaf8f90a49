//! What follows from the writers' answers, and from a store that was opened anew.
//!
//! Invariant: an answer counts only for the batch that is under way now; whatever it is, the vbucket is afterwards
//! ready, kept until a time, to be placed anew, or down with its cause, never forgotten.

use std::sync::Arc;
use std::time::Duration;

use messages::{DownCause, FailureCause};
use storage::disk::DiskErrorKind;
use storage::{Advice, Batch, Refusal, StorageError, VbucketId, VbucketPosition};

use crate::flusher::answers::{Answered, Committed, Placed, Ticket};
use crate::flusher::batch::Place;
use crate::flusher::lane::{Phase, Sent};
use crate::flusher::requests::{Told, Want};
use crate::flusher::state::{Effect, FlusherState, vbucket_down};

/// How long until a writer without room is tried again.
const ROOM_WAIT: Duration = Duration::from_millis(10);

/// Batches in a row the store will never take, after which a vbucket goes out of service: after the first, its
/// position is learnt anew.
const FAULTS_MAX: u32 = 2;

impl FlusherState {
    /// The store was opened anew: where everything stands must be learnt again.
    pub fn note_store_reopened(&mut self) {
        self.ask_later.clear();
        for lane in self.lanes.values_mut() {
            match &lane.phase {
                Phase::UnderWay(..) | Phase::Asked(_) => lane.is_stale = true,
                Phase::Unplaced | Phase::Ready | Phase::Kept(..) | Phase::Down(_) => {
                    lane.phase = Phase::Unplaced;
                }
            }
        }
        self.retries.clear();
    }

    /// The writers answered.
    pub fn note_answers(&mut self, now: Duration, answered: Answered) {
        for (vbucket, (ticket, committed)) in answered.batches {
            self.note_committed(now, vbucket, ticket, committed);
        }
        for (log_shard, (ticket, placed)) in answered.barriers {
            self.note_placed(now, log_shard, ticket, placed);
        }
    }

    fn note_committed(&mut self, now: Duration, id: VbucketId, ticket: Ticket, what: Committed) {
        let Some(lane) = self.lanes.get_mut(&id) else {
            return;
        };
        let sent = match &lane.phase {
            Phase::UnderWay(current, sent) if *current == ticket => *sent,
            // Of an earlier life, or answered already.
            Phase::Unplaced
            | Phase::Asked(_)
            | Phase::Ready
            | Phase::UnderWay(..)
            | Phase::Kept(..)
            | Phase::Down(_) => return,
        };
        self.under_way = self.under_way.saturating_sub(1);
        lane.phase = Phase::Unplaced;
        let is_stale = std::mem::take(&mut lane.is_stale);
        match what {
            Committed::Persisted { .. } => {
                lane.faults = 0;
                lane.set_disk_full(false);
                if !is_stale {
                    lane.phase = Phase::Ready;
                    self.turns.push(id);
                }
                self.note_flushed(id, Some(&sent));
            }
            Committed::Failed {
                batch,
                cause,
                retry_at,
            } => {
                lane.set_disk_full(is_full(&cause));
                if !is_stale {
                    let retry_at = retry_at.max(now);
                    lane.phase = Phase::Kept(batch, sent, retry_at);
                    self.retries.insert((retry_at, id));
                }
            }
            Committed::Refused { refusal, position } => {
                self.note_refused(id, refusal, position, is_stale);
            }
            Committed::Unserved { cause } => self.take_down(id, cause),
            Committed::Lost => {}
        }
    }

    fn note_refused(
        &mut self,
        id: VbucketId,
        refusal: Refusal,
        position: Result<VbucketPosition, StorageError>,
        is_stale: bool,
    ) {
        let Some(lane) = self.lanes.get_mut(&id) else {
            return;
        };
        let cause = StorageError::Refused {
            vbucket: id,
            refusal,
        };
        let is_down = if cause.advice() == Advice::Resynchronize {
            false
        } else {
            lane.faults = lane.faults.saturating_add(1);
            lane.faults >= FAULTS_MAX
        };
        if is_down {
            return self.take_down(id, cause);
        }
        // Rolled back or made anew meanwhile: nobody's fault.
        let is_stale_past = matches!(
            refusal,
            Refusal::StaleEpoch { .. } | Refusal::StaleIncarnation { .. }
        );
        if !is_stale_past {
            self.effects.push(Effect::Report {
                vbucket: id,
                cause,
                is_down: false,
            });
        }
        if !is_stale {
            self.place(id, position);
        }
    }

    fn note_placed(&mut self, now: Duration, log_shard: u16, ticket: Ticket, placed: Placed) {
        if self.asked.get(&log_shard) != Some(&ticket) {
            return;
        }
        self.asked.remove(&log_shard);
        let waiting: Vec<VbucketId> = self
            .lanes
            .iter_mut()
            .filter(|(_, lane)| matches!(&lane.phase, Phase::Asked(asked) if *asked == ticket))
            .map(|(id, lane)| {
                lane.phase = Phase::Unplaced;
                *id
            })
            .collect();
        match placed {
            Placed::At(positions) => {
                for (id, position) in positions {
                    if !waiting.contains(&id) {
                        continue;
                    }
                    let lane = self.lanes.get_mut(&id);
                    let is_stale = lane.is_some_and(|lane| std::mem::take(&mut lane.is_stale));
                    if !is_stale {
                        self.place(id, position);
                    }
                }
            }
            Placed::Later(at) => {
                self.ask_later.insert(log_shard, at.max(now));
            }
            Placed::Lost => {}
        }
    }

    /// Takes the store's word for where a vbucket stands.
    fn place(&mut self, id: VbucketId, position: Result<VbucketPosition, StorageError>) {
        let position = match position {
            Ok(position) => position,
            Err(cause) => return self.take_down(id, cause),
        };
        let Some(lane) = self.lanes.get_mut(&id) else {
            return;
        };
        if lane.vbucket.is_of_past(position.epoch) {
            // Read before a rollback: it is asked for again.
            return;
        }
        if position.high_seqno < lane.vbucket.persisted_seqno() {
            // What was freed from memory as persisted is not there any more.
            return self.take_down(id, StorageError::Gone);
        }
        lane.place = Some(Place {
            incarnation: position.incarnation,
            epoch: position.epoch,
        });
        if !lane.vbucket.resync_at(&position) {
            return;
        }
        lane.set_disk_full(false);
        if std::mem::take(&mut lane.is_taken_down) {
            lane.vbucket.bring_up();
        }
        lane.phase = Phase::Ready;
        self.turns.push(id);
        self.note_flushed(id, None);
    }

    fn take_down(&mut self, id: VbucketId, cause: StorageError) {
        let Some(lane) = self.lanes.get_mut(&id) else {
            return;
        };
        let down = DownCause::Storage(Arc::new(cause.clone()));
        lane.phase = Phase::Down(down.clone());
        // Deleted is nobody's fault.
        if !matches!(cause, StorageError::UnknownVbucket(_)) {
            lane.is_taken_down = true;
            lane.vbucket.take_down(down.clone());
            self.effects.push(Effect::Report {
                vbucket: id,
                cause,
                is_down: true,
            });
        }
        self.refuse_down();
    }

    /// Tells those who wait for a vbucket that went out of service.
    pub(super) fn refuse_down(&mut self) {
        let (lanes, effects) = (&self.lanes, &mut self.effects);
        self.waiters.flush.retain(|waiter| {
            let mut wanted = waiter.wants.keys();
            let down = wanted.find_map(|id| Some((*id, lanes.get(id)?.down()?)));
            if let Some((id, cause)) = &down {
                let told = Told::Done(Err(vbucket_down(*id, cause)));
                effects.push(Effect::Tell(waiter.id, told));
            }
            down.is_none()
        });
    }

    /// A commit had no room in its channel.
    pub fn unsent(&mut self, now: Duration, ticket: Ticket, batch: Batch) {
        let id = batch.vbucket;
        let Some(lane) = self.lanes.get_mut(&id) else {
            return;
        };
        if let Phase::UnderWay(current, sent) = &lane.phase
            && *current == ticket
        {
            let at = now.saturating_add(ROOM_WAIT);
            lane.phase = Phase::Kept(Box::new(batch), *sent, at);
            self.retries.insert((at, id));
            self.under_way = self.under_way.saturating_sub(1);
        }
    }

    /// A question had no room in its channel.
    pub fn unasked(&mut self, now: Duration, log_shard: u16, ticket: Ticket) {
        let later = Placed::Later(now.saturating_add(ROOM_WAIT));
        self.note_placed(now, log_shard, ticket, later);
    }

    /// Looks who waited for what is on disk now.
    pub(super) fn note_flushed(&mut self, id: VbucketId, sent: Option<&Sent>) {
        if self.waiters.flush.is_empty() {
            return;
        }
        let Some(lane) = self.lanes.get(&id) else {
            return;
        };
        let (is_quiet, settled) = (lane.is_quiet(), lane.vbucket.settled_seqno());
        let effects = &mut self.effects;
        self.waiters.flush.retain_mut(|waiter| {
            let is_met =
                |want: &Want| is_quiet || sent.is_some_and(|sent| want.is_met_by(sent, settled));
            if waiter.wants.get(&id).is_some_and(is_met) {
                waiter.wants.remove(&id);
            }
            if waiter.wants.is_empty() {
                effects.push(Effect::Tell(waiter.id, Told::Done(Ok(()))));
            }
            !waiter.wants.is_empty()
        });
    }
}

fn is_full(cause: &FailureCause) -> bool {
    matches!(cause, FailureCause::Storage(StorageError::Disk(error)) if error.kind == DiskErrorKind::Full)
}
