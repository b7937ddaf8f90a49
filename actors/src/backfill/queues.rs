//! Whose backfill is read next: queues, limits, turns, and who must wait because its consumer takes nothing.
//!
//! Pure; `T` is the backfill itself, `P` its pipe. Invariant: an entry is in one queue, or in the hands of one reader; a
//! consumer that takes nothing holds up nobody else's backfills; what was buffered is given back exactly once.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

/// How much at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BackfillLimits {
    /// Backfills that hold a snapshot, of one consumer.
    pub of_consumer_max: usize,
    /// Backfills that hold a snapshot, of all.
    pub in_progress_max: usize,
    /// Bytes read for a consumer and not taken by its streams.
    pub buffer_bytes_max: u64,
    /// Bytes of a step.
    pub step_bytes: usize,
    /// After so long with a full buffer a backfill of which nothing was taken is given up.
    pub idle_max: Duration,
    /// What cannot be done yet is tried again after this, unless somebody says earlier that it can.
    pub retry: Duration,
}

impl Default for BackfillLimits {
    /// The field's numbers, but for the step: a reader that does little at once lets others have their turn.
    fn default() -> BackfillLimits {
        BackfillLimits {
            of_consumer_max: 64,
            in_progress_max: 1024,
            buffer_bytes_max: 20 << 20,
            step_bytes: 256 << 10,
            idle_max: Duration::from_secs(720),
            retry: Duration::from_secs(1),
        }
    }
}

/// A backfill.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BackfillId(pub u64);

/// A backfill with its owner.
#[derive(Debug)]
pub struct Entry<T> {
    /// Which.
    pub id: BackfillId,
    /// Whose.
    pub consumer: Arc<str>,
    /// The backfill.
    pub job: T,
}

/// What a reader does next.
#[must_use]
#[derive(Debug)]
pub enum Next<T, P> {
    /// A step of this, which then goes back by [`Queues::put_back`], or is [`Queues::done`].
    Run(Entry<T>),
    /// The backfills of these pipes are given up: nothing was taken of them for too long. Whoever has the other end
    /// cancels them.
    GiveUp(Vec<P>),
    /// Nothing before this time.
    WaitUntil(Duration),
    /// Nothing until somebody says so.
    Wait,
    /// Nothing any more.
    End,
}

/// Where an entry goes after a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// Behind the others.
    Again,
    /// Not before this time.
    Later(Duration),
}

/// What was read by one backfill, which may be over by now, and not taken.
#[derive(Debug)]
struct Unread<P> {
    pipe: P,
    bytes: u64,
    /// When something of it was taken last.
    taken_at: Duration,
}

#[derive(Debug)]
struct Group<T, P> {
    /// Over the limits: hold nothing yet.
    pending: VecDeque<Entry<T>>,
    /// Never run.
    initializing: VecDeque<Entry<T>>,
    active: VecDeque<Entry<T>>,
    snoozing: Vec<(Duration, Entry<T>)>,
    running: BTreeSet<BackfillId>,
    /// Of those running: to be run again at once, whatever they say.
    hastened: BTreeSet<BackfillId>,
    unread: BTreeMap<BackfillId, Unread<P>>,
    /// The bytes of all of them.
    buffered: u64,
    /// Since when there are too many, if there are.
    full_since: Option<Duration>,
}

impl<T, P: Clone> Group<T, P> {
    fn new() -> Group<T, P> {
        Group {
            pending: VecDeque::new(),
            initializing: VecDeque::new(),
            active: VecDeque::new(),
            snoozing: Vec::new(),
            running: BTreeSet::new(),
            hastened: BTreeSet::new(),
            unread: BTreeMap::new(),
            buffered: 0,
            full_since: None,
        }
    }

    fn in_progress(&self) -> usize {
        let queued = self.initializing.len().saturating_add(self.active.len());
        let queued = queued.saturating_add(self.snoozing.len());
        queued.saturating_add(self.running.len())
    }

    fn is_forgotten(&self) -> bool {
        self.pending.is_empty() && self.in_progress() == 0 && self.buffered == 0
    }

    fn wake_snoozing(&mut self, now: Duration) {
        let (due, later) = std::mem::take(&mut self.snoozing)
            .into_iter()
            .partition(|(until, _)| *until <= now);
        self.snoozing = later;
        let due: Vec<(Duration, Entry<T>)> = due;
        self.active.extend(due.into_iter().map(|(_, entry)| entry));
    }

    fn take(&mut self, id: BackfillId) -> Option<Entry<T>> {
        for queue in [&mut self.pending, &mut self.initializing, &mut self.active] {
            if let Some(at) = queue.iter().position(|entry| entry.id == id) {
                return queue.remove(at);
            }
        }
        let at = self.snoozing.iter().position(|(_, entry)| entry.id == id)?;
        Some(self.snoozing.swap_remove(at).1)
    }

    /// Of a buffer that is full: the pipes of which nothing was taken for `idle_max`, or when the first of them will be
    /// one.
    fn idle(&mut self, full_since: Duration, idle_max: Duration, now: Duration) -> Idle<P> {
        let (mut pipes, mut first) = (Vec::new(), None::<Duration>);
        for unread in self.unread.values_mut() {
            let since = unread.taken_at.max(full_since);
            let until = since.saturating_add(idle_max);
            if until <= now {
                pipes.push(unread.pipe.clone());
                // Should nobody listen, it is said again.
                unread.taken_at = now;
            } else {
                first = Some(first.map_or(until, |first| first.min(until)));
            }
        }
        if pipes.is_empty() {
            Idle::NotBefore(first)
        } else {
            Idle::Since(pipes)
        }
    }
}

/// What of a full buffer stands still.
enum Idle<P> {
    Since(Vec<P>),
    NotBefore(Option<Duration>),
}

/// All backfills of a bucket.
#[derive(Debug)]
pub struct Queues<T, P> {
    limits: BackfillLimits,
    groups: BTreeMap<Arc<str>, Group<T, P>>,
    last_served: Option<Arc<str>>,
    next_id: u64,
    is_stopped: bool,
}

impl<T, P: Clone> Queues<T, P> {
    /// Nothing to do yet.
    #[must_use]
    pub fn new(limits: BackfillLimits) -> Queues<T, P> {
        Queues {
            limits,
            groups: BTreeMap::new(),
            last_served: None,
            next_id: 0,
            is_stopped: false,
        }
    }

    /// Has a backfill read; given back when there will be no reading any more.
    pub fn schedule(
        &mut self,
        consumer: &Arc<str>,
        make: impl FnOnce(BackfillId) -> T,
    ) -> Result<BackfillId, Entry<T>> {
        self.next_id = self.next_id.saturating_add(1);
        let id = BackfillId(self.next_id);
        let entry = Entry {
            id,
            consumer: Arc::clone(consumer),
            job: make(id),
        };
        if self.is_stopped {
            return Err(entry);
        }
        let group = self.groups.entry(Arc::clone(consumer));
        group.or_insert_with(Group::new).pending.push_back(entry);
        Ok(id)
    }

    /// What to do next. Consumers take turns.
    pub fn next(&mut self, now: Duration) -> Next<T, P> {
        if self.is_stopped {
            return Next::End;
        }
        let mut wake: Option<Duration> = None;
        let mut wake_by = |at: Duration| wake = Some(wake.map_or(at, |wake| wake.min(at)));
        for consumer in self.in_turn() {
            self.admit(&consumer);
            let Some(group) = self.groups.get_mut(&consumer) else {
                continue;
            };
            group.wake_snoozing(now);
            let first = group.snoozing.iter().map(|(until, _)| *until).min();
            first.into_iter().for_each(&mut wake_by);
            if let Some(full_since) = group.full_since {
                match group.idle(full_since, self.limits.idle_max, now) {
                    Idle::Since(pipes) => return Next::GiveUp(pipes),
                    Idle::NotBefore(until) => until.into_iter().for_each(&mut wake_by),
                }
                continue;
            }
            let next = group.initializing.pop_front();
            if let Some(entry) = next.or_else(|| group.active.pop_front()) {
                group.running.insert(entry.id);
                self.last_served = Some(consumer);
                return Next::Run(entry);
            }
        }
        wake.map_or(Next::Wait, Next::WaitUntil)
    }

    /// A reader is done with a step; the entry again when nothing is read any more.
    pub fn put_back(&mut self, entry: Entry<T>, turn: Turn) -> Result<(), Entry<T>> {
        if self.is_stopped {
            return Err(entry);
        }
        let Some(group) = self.groups.get_mut(&entry.consumer) else {
            return Err(entry);
        };
        group.running.remove(&entry.id);
        let is_hastened = group.hastened.remove(&entry.id);
        match turn {
            Turn::Later(until) if !is_hastened => group.snoozing.push((until, entry)),
            Turn::Again | Turn::Later(_) => group.active.push_back(entry),
        }
        Ok(())
    }

    /// A backfill in the hands of a reader is over.
    pub fn done(&mut self, consumer: &Arc<str>, id: BackfillId) {
        if let Some(group) = self.groups.get_mut(consumer) {
            group.running.remove(&id);
            group.hastened.remove(&id);
        }
        self.forget(consumer);
    }

    /// Takes a backfill out, whose stream needs it no more. `None`: a reader has it, and will notice.
    pub fn cancel(&mut self, consumer: &Arc<str>, id: BackfillId) -> Option<Entry<T>> {
        let taken = self.groups.get_mut(consumer)?.take(id);
        self.forget(consumer);
        taken
    }

    /// What it waits for may be there now; whether it waits no longer because of that.
    pub fn hasten(&mut self, consumer: &Arc<str>, id: BackfillId) -> bool {
        let Some(group) = self.groups.get_mut(consumer) else {
            return false;
        };
        if group.running.contains(&id) {
            group.hastened.insert(id);
            return false;
        }
        let at = group.snoozing.iter().position(|(_, entry)| entry.id == id);
        let Some(at) = at else { return false };
        let (_, entry) = group.snoozing.swap_remove(at);
        group.active.push_back(entry);
        true
    }

    /// So much was read by a backfill, and put in this pipe.
    pub fn buffered(&mut self, of: (&Arc<str>, BackfillId), pipe: &P, bytes: u64, now: Duration) {
        if bytes == 0 {
            return;
        }
        let (consumer, id) = of;
        let group = self.groups.entry(Arc::clone(consumer));
        let group = group.or_insert_with(Group::new);
        let unread = group.unread.entry(id).or_insert_with(|| Unread {
            pipe: pipe.clone(),
            bytes: 0,
            taken_at: now,
        });
        unread.bytes = unread.bytes.saturating_add(bytes);
        group.buffered = group.buffered.saturating_add(bytes);
        if group.buffered >= self.limits.buffer_bytes_max {
            group.full_since.get_or_insert(now);
        }
    }

    /// So much of it was taken, or thrown away; whether reading goes on because of that.
    pub fn released(&mut self, of: (&Arc<str>, BackfillId), bytes: u64, now: Duration) -> bool {
        let (consumer, id) = of;
        let Some(group) = self.groups.get_mut(consumer) else {
            return false;
        };
        let unread = group.unread.get_mut(&id);
        let there = unread.as_ref().map_or(0, |unread| unread.bytes);
        if bytes > there {
            tracing::error!(%consumer, bytes, there, "more was taken than was read");
        }
        let bytes = bytes.min(there);
        if let Some(unread) = unread {
            unread.bytes = unread.bytes.saturating_sub(bytes);
            unread.taken_at = now;
        }
        group.unread.retain(|_, unread| unread.bytes > 0);
        group.buffered = group.buffered.saturating_sub(bytes);
        let max = self.limits.buffer_bytes_max;
        let has_room = group.buffered == 0 || group.buffered < max.saturating_sub(max / 4);
        let goes_on = has_room && group.full_since.is_some();
        if has_room {
            group.full_since = None;
        }
        self.forget(consumer);
        goes_on
    }

    /// Takes out all that satisfy this, but for those in the hands of readers.
    pub fn take_all(&mut self, mut is_wanted: impl FnMut(&T) -> bool) -> Vec<Entry<T>> {
        let mut taken = Vec::new();
        for group in self.groups.values_mut() {
            let Group {
                pending,
                initializing,
                active,
                snoozing,
                ..
            } = group;
            for queue in [pending, initializing, active] {
                let all = std::mem::take(queue).into_iter();
                let (out, left): (Vec<_>, Vec<_>) = all.partition(|entry| is_wanted(&entry.job));
                taken.extend(out);
                queue.extend(left);
            }
            let all = std::mem::take(snoozing).into_iter();
            let (out, left): (Vec<_>, Vec<_>) = all.partition(|(_, entry)| is_wanted(&entry.job));
            taken.extend(out.into_iter().map(|(_, entry)| entry));
            snoozing.extend(left);
        }
        self.groups.retain(|_, group| !group.is_forgotten());
        taken
    }

    /// Nothing is read any more; all that waits.
    pub fn stop(&mut self) -> Vec<Entry<T>> {
        self.is_stopped = true;
        self.take_all(|_| true)
    }

    /// Whether a stop was ordered.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        self.is_stopped
    }

    /// Backfills there are, and bytes read for all consumers and not taken.
    #[must_use]
    pub fn figures(&self) -> (usize, u64) {
        let groups = self.groups.values();
        let count = |group: &Group<T, P>| group.pending.len().saturating_add(group.in_progress());
        let backfills = groups.clone().map(count).sum();
        (backfills, groups.map(|group| group.buffered).sum())
    }

    /// The consumers, the one after the last served first.
    fn in_turn(&self) -> Vec<Arc<str>> {
        let is_later = |consumer: &&Arc<str>| {
            let last = self.last_served.as_ref();
            last.is_some_and(|last| *consumer > last)
        };
        let consumers = self.groups.keys();
        let later = consumers.clone().filter(is_later);
        let earlier = consumers.filter(|one| !is_later(one));
        later.chain(earlier).cloned().collect()
    }

    /// Lets pending ones in, as far as the limits allow.
    fn admit(&mut self, consumer: &Arc<str>) {
        let all: usize = self.groups.values().map(Group::in_progress).sum();
        let mut free = self.limits.in_progress_max.saturating_sub(all);
        let Some(group) = self.groups.get_mut(consumer) else {
            return;
        };
        while free > 0
            && group.in_progress() < self.limits.of_consumer_max
            && let Some(entry) = group.pending.pop_front()
        {
            free = free.saturating_sub(1);
            group.initializing.push_back(entry);
        }
    }

    fn forget(&mut self, consumer: &Arc<str>) {
        if self.groups.get(consumer).is_some_and(Group::is_forgotten) {
            self.groups.remove(consumer);
        }
    }
}

#[cfg(test)]
mod tests;
