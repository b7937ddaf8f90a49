//! What may have happened to a store: per vbucket every state it went through, known or perhaps.
//!
//! Everything that changes a vbucket is an attempt at a [`Point`] of its shard. Until it is acknowledged its outcome
//! is unknown: the state it leads to may be found after a crash, or the one before. What is found in all vbuckets of a
//! shard must be the state of one common point, at or behind the last one known durable.
//!
//! Invariant: an attempt that failed counts only up to the next attempt: what comes later was made without it.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;

use piggin_storage::{
    Incarnation, KvStore, LogStore, RollbackEpoch, Seqno, StorageError, VbucketId,
    VbucketStateRecord,
};

use super::look::{self, Observed, summary};
use crate::model;
use crate::model::random::Random;
use crate::model::vbucket::ModelVbucket;

/// A place in the order of a shard: the attempt, and the batch in it.
pub(crate) type Point = (u64, u16);

/// What a vbucket is, or may be.
#[derive(Clone)]
pub(crate) enum State {
    Absent,
    Is(Arc<ModelVbucket>),
    /// After a rollback of which only the store knows how it ended.
    RolledBack {
        before: Arc<ModelVbucket>,
        to: Seqno,
    },
    /// Created with an incarnation only the store knows, above all that were given before.
    Created {
        state: Arc<VbucketStateRecord>,
        above: Incarnation,
    },
}

#[derive(Clone)]
struct Moment {
    at: Point,
    is_known: bool,
    state: State,
}

#[derive(Clone)]
pub(crate) struct Past {
    log_shards: u16,
    moments: BTreeMap<VbucketId, Vec<Moment>>,
    /// Per shard, everything up to here must be there.
    durable: Vec<Point>,
    attempts: u64,
    newest_incarnation: Incarnation,
    /// How long the store keeps what was superseded.
    pub(crate) window_ms: Option<u64>,
    /// What was done, for who reads of a failure.
    story: Vec<Arc<str>>,
}

impl Past {
    pub(crate) fn new(vbuckets: u16, log_shards: u16) -> Past {
        let absent = Moment {
            at: (0, 0),
            is_known: true,
            state: State::Absent,
        };
        let numbers = (0..vbuckets).filter_map(VbucketId::new);
        Past {
            log_shards,
            moments: numbers
                .map(|vbucket| (vbucket, vec![absent.clone()]))
                .collect(),
            durable: vec![(0, 0); usize::from(log_shards)],
            attempts: 0,
            newest_incarnation: Incarnation(0),
            window_ms: None,
            story: Vec::new(),
        }
    }

    pub(crate) fn tell(&mut self, what: &str) {
        self.story
            .push(format!("after {}: {what}", self.attempts).into());
    }

    fn shard_of(&self, vbucket: VbucketId) -> usize {
        usize::from(vbucket.get() % self.log_shards)
    }

    /// What the vbucket is now, as every acknowledgement says.
    pub(crate) fn current(&self, vbucket: VbucketId) -> Option<&Arc<ModelVbucket>> {
        match self.last_known(vbucket).map(|moment| &moment.state) {
            Some(State::Is(model)) => Some(model),
            _ => None,
        }
    }

    fn last_known(&self, vbucket: VbucketId) -> Option<&Moment> {
        let moments = self.moments.get(&vbucket)?;
        moments.iter().rfind(|moment| moment.is_known)
    }

    pub(crate) fn vbuckets(&self) -> Vec<VbucketId> {
        self.moments.keys().copied().collect()
    }

    /// Those that exist.
    pub(crate) fn present(&self) -> Vec<VbucketId> {
        let all = self.moments.keys().copied();
        all.filter(|vbucket| self.current(*vbucket).is_some())
            .collect()
    }

    /// What a creation may lead to.
    pub(crate) fn created(&self, state: &VbucketStateRecord) -> State {
        State::Created {
            state: Arc::new(state.clone()),
            above: self.newest_incarnation,
        }
    }

    /// A new attempt.
    pub(crate) fn attempt(&mut self) -> u64 {
        self.attempts += 1;
        self.attempts
    }

    /// The vbucket may become `state` from now on.
    pub(crate) fn may_become(&mut self, vbucket: VbucketId, at: Point, state: State) {
        let is_known = false;
        let moments = self.moments.get_mut(&vbucket).unwrap();
        moments.push(Moment {
            at,
            is_known,
            state,
        });
    }

    /// What was attempted at that point did nothing.
    pub(crate) fn never_was(&mut self, vbucket: VbucketId, at: Point) {
        let moments = self.moments.get_mut(&vbucket).unwrap();
        moments.retain(|moment| moment.at != at);
    }

    /// What it might have become at that point, it became.
    pub(crate) fn became(&mut self, vbucket: VbucketId, at: Point, state: State) {
        if let State::Is(model) = &state {
            assert!(model.incarnation <= self.newest_incarnation || model.epoch.0 == 0);
            self.newest_incarnation = self.newest_incarnation.max(model.incarnation);
        }
        let moments = self.moments.get_mut(&vbucket).unwrap();
        let moment = moments.iter_mut().find(|moment| moment.at == at).unwrap();
        moment.is_known = true;
        moment.state = state;
    }

    /// What was before the rollback attempted at that point.
    pub(crate) fn may_have_been(&self, vbucket: VbucketId, at: Point) -> Option<Arc<ModelVbucket>> {
        let moment = self.moments[&vbucket]
            .iter()
            .find(|moment| moment.at == at)?;
        match &moment.state {
            State::RolledBack { before, .. } => Some(Arc::clone(before)),
            State::Absent | State::Is(_) | State::Created { .. } => None,
        }
    }

    /// The state a known attempt leads to.
    pub(crate) fn became_as_planned(&mut self, vbucket: VbucketId, at: Point) {
        let moments = &self.moments[&vbucket];
        let planned = moments.iter().find(|moment| moment.at == at).unwrap();
        let state = planned.state.clone();
        self.became(vbucket, at, state);
    }

    /// Versions whose killer is at or below `floor` may be gone from now on.
    pub(crate) fn may_forget(&mut self, vbucket: VbucketId, floor: Seqno) {
        for moment in self.moments.get_mut(&vbucket).unwrap() {
            match &mut moment.state {
                State::Is(model) | State::RolledBack { before: model, .. } => {
                    Arc::make_mut(model).seal(floor);
                }
                State::Absent | State::Created { .. } => {}
            }
        }
    }

    /// All that is acknowledged in this shard is durable now.
    pub(crate) fn is_durable(&mut self, shard: u16) {
        let shard = usize::from(shard);
        let mine = self.vbuckets();
        let mine = mine
            .iter()
            .filter(|vbucket| self.shard_of(**vbucket) == shard);
        let last = mine.filter_map(|vbucket| self.last_known(*vbucket));
        let last = last.map(|moment| moment.at).max().unwrap_or_default();
        self.durable[shard] = self.durable[shard].max(last);
        let durable = self.durable[shard];
        let log_shards = self.log_shards;
        for (vbucket, moments) in &mut self.moments {
            if usize::from(vbucket.get() % log_shards) != shard {
                continue;
            }
            let covered = |moment: &Moment| moment.is_known && moment.at <= durable;
            if let Some(begin) = moments.iter().rposition(covered) {
                moments.drain(..begin);
            }
        }
    }

    pub(crate) fn all_is_durable(&mut self) {
        for shard in 0..self.log_shards {
            self.is_durable(shard);
        }
    }

    /// The store shows exactly what was acknowledged.
    pub(crate) fn check_current(&self, random: &mut Random, store: &LogStore) {
        let listed: Vec<VbucketId> = store.vbuckets().iter().map(|one| one.vbucket).collect();
        assert_eq!(listed, self.present(), "the vbuckets there are");
        for vbucket in self.present() {
            let expected = self.current(vbucket).unwrap().expected();
            let snapshot = store.snapshot(vbucket).unwrap();
            let observed = Observed::of(snapshot.as_ref()).unwrap();
            assert!(
                observed.is(&expected),
                "vbucket {vbucket} is\n  {}\nand should be\n  {}",
                observed.summary(),
                model_summary(self.current(vbucket).unwrap()),
            );
            look::everything(random, snapshot.as_ref(), &expected);
            if random.percent(50) {
                model::past::check(random, snapshot.as_ref(), self.current(vbucket).unwrap());
            }
        }
    }

    /// The store, opened anew, is at one point of this past, which is its only one from now on.
    pub(crate) fn settle(&mut self, store: &LogStore) {
        self.tell("opened");
        let found = self.observe(store);
        for shard in 0..self.log_shards {
            self.settle_shard(shard, &found);
        }
    }

    fn observe(&self, store: &LogStore) -> BTreeMap<VbucketId, Option<Observed>> {
        let mut found: BTreeMap<_, _> = self
            .vbuckets()
            .into_iter()
            .map(|vbucket| (vbucket, None))
            .collect();
        for status in store.vbuckets() {
            let vbucket = status.vbucket;
            if let Err(cause) = status.position {
                panic!("vbucket {vbucket} is down: {cause}");
            }
            let snapshot = store.snapshot(vbucket).unwrap();
            // A call that fails once may be one of these; then the same snapshot is read again.
            let observed = Observed::of(snapshot.as_ref());
            let observed = observed.or_else(|error| {
                assert!(matches!(error, StorageError::Disk(_)), "{error}");
                Observed::of(snapshot.as_ref())
            });
            let observed = observed.unwrap();
            assert!(
                found.insert(vbucket, Some(observed)).is_some(),
                "vbucket {vbucket} appeared"
            );
        }
        found
    }

    fn settle_shard(&mut self, shard: u16, found: &BTreeMap<VbucketId, Option<Observed>>) {
        let mut points: Option<Vec<(Point, Point)>> = None;
        let mut settled = Vec::new();
        for (vbucket, observed) in found {
            if self.shard_of(*vbucket) != usize::from(shard) {
                continue;
            }
            let matches = self.matches(*vbucket, observed.as_ref());
            let allowed: Vec<(Point, Point)> = matches.iter().map(|found| found.0).collect();
            let common = match &points {
                None => allowed.clone(),
                Some(points) => overlap(points, &allowed),
            };
            assert!(
                !common.is_empty(),
                "vbucket {vbucket} is not at one point with the others of its shard: it is\n  {}\n\
                 allowed were points {points:?} of\n{}",
                observed
                    .as_ref()
                    .map_or_else(|| "absent".to_owned(), Observed::summary),
                self.describe(*vbucket),
            );
            points = Some(common);
            settled.push((*vbucket, matches));
        }
        let points = points.unwrap_or_default();
        let point = points.last().map_or((0, 0), |(first, _)| *first);
        for (vbucket, matches) in settled {
            let inside =
                |found: &&((Point, Point), State)| found.0.0 <= point && point <= found.0.1;
            let (_, state) = matches.iter().rfind(inside).unwrap();
            if let State::Is(model) = state {
                self.newest_incarnation = self.newest_incarnation.max(model.incarnation);
            }
            let moment = Moment {
                at: point,
                is_known: true,
                state: state.clone(),
            };
            self.moments.insert(vbucket, vec![moment]);
        }
        self.durable[usize::from(shard)] = point;
    }

    /// The stretches of the past in which the vbucket was what was found, and what it is then.
    fn matches(
        &self,
        vbucket: VbucketId,
        observed: Option<&Observed>,
    ) -> Vec<((Point, Point), State)> {
        let durable = self.durable[self.shard_of(vbucket)];
        let moments = &self.moments[&vbucket];
        let mut matches = Vec::new();
        for (index, moment) in moments.iter().enumerate() {
            let last = if moment.is_known {
                let later = moments.iter().skip(index + 1).find(|later| later.is_known);
                later.map_or((u64::MAX, 0), |later| before(later.at))
            } else {
                (moment.at.0, u16::MAX)
            };
            let first = moment.at.max(durable);
            if first > last {
                continue;
            }
            if let Some(state) = self.resolve(vbucket, &moment.state, observed) {
                matches.push(((first, last), state));
            }
        }
        matches
    }

    /// The state, if it is what was found.
    fn resolve(
        &self,
        vbucket: VbucketId,
        state: &State,
        observed: Option<&Observed>,
    ) -> Option<State> {
        let Some(observed) = observed else {
            return matches!(state, State::Absent).then_some(State::Absent);
        };
        let candidates = match state {
            State::Absent => Vec::new(),
            State::Is(model) => vec![Arc::clone(model)],
            State::Created { state, above } => {
                let is_new = observed.incarnation > *above;
                let state = VbucketStateRecord::clone(state);
                let model = ModelVbucket::new(vbucket, observed.incarnation, state);
                let model = model.keeping(self.window_ms);
                if is_new {
                    vec![Arc::new(model)]
                } else {
                    Vec::new()
                }
            }
            State::RolledBack { before, to } => rolled_back(before, *to, observed),
        };
        let found = candidates
            .into_iter()
            .find(|model| observed.is(&model.expected()));
        found.map(State::Is)
    }

    /// What was done last.
    pub(crate) fn story(&self) -> String {
        let told = self.story.len().saturating_sub(40);
        let lines: Vec<&str> = self.story.iter().skip(told).map(|line| &**line).collect();
        lines.join("\n")
    }

    fn describe(&self, vbucket: VbucketId) -> String {
        let mut text = format!(
            "  durable through {:?}\n",
            self.durable[self.shard_of(vbucket)]
        );
        for moment in &self.moments[&vbucket] {
            let what = match &moment.state {
                State::Absent => "absent".to_owned(),
                State::Is(model) => model_summary(model),
                State::RolledBack { before, to } => {
                    format!("rolled back to {to} from {}", model_summary(before))
                }
                State::Created { .. } => "just created".to_owned(),
            };
            let known = if moment.is_known { "known" } else { "perhaps" };
            writeln!(text, "  at {:?} {known}: {what}", moment.at).unwrap();
        }
        text
    }
}

fn model_summary(model: &ModelVbucket) -> String {
    let expected = model.expected();
    let seqnos: Vec<u64> = expected.items.iter().map(|item| item.seqno.0).collect();
    summary(model.incarnation, model.epoch, &model.state, &seqnos)
}

/// Both ways a rollback may have ended, where the observed epoch says that it happened.
fn rolled_back(
    before: &Arc<ModelVbucket>,
    to: Seqno,
    observed: &Observed,
) -> Vec<Arc<ModelVbucket>> {
    let epoch = RollbackEpoch(before.epoch.0 + 1);
    if observed.incarnation != before.incarnation || observed.epoch != epoch {
        return Vec::new();
    }
    if before.may_forget(to) {
        let mut reset = ModelVbucket::clone(before);
        reset.reset(epoch);
        if observed.is(&reset.expected()) {
            return vec![Arc::new(reset)];
        }
    }
    if observed.state.watermarks.high_seqno != to || before.must_forget(to) {
        return Vec::new();
    }
    let mut exact = ModelVbucket::clone(before);
    exact.rollback(to, epoch, &observed.state.watermarks);
    vec![Arc::new(exact)]
}

fn before(point: Point) -> Point {
    match point {
        (attempt, 0) => (attempt - 1, u16::MAX),
        (attempt, batch) => (attempt, batch - 1),
    }
}

fn overlap(some: &[(Point, Point)], others: &[(Point, Point)]) -> Vec<(Point, Point)> {
    let mut common = Vec::new();
    for one in some {
        for other in others {
            let both = (one.0.max(other.0), one.1.min(other.1));
            if both.0 <= both.1 {
                common.push(both);
            }
        }
    }
    common.sort_unstable();
    common
}
