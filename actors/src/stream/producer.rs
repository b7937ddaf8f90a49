//! The streams of the vbuckets of one thread: opened, looked at when something changed, closed.
//!
//! Invariant: every look begins by taking back the wake-up, then reads shared state, so that what is changed later wakes
//! again (rule R18). No actix here: the actor's handlers are calls of these methods. Streams live and die with this: one
//! that is dropped, in order or by a panic, gives back all it holds and tells its consumer.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use messages::OperationError;
use messages::stream::{
    StreamEndReason, StreamError, StreamId, StreamOpened, StreamRequest, StreamRequestError,
};
use storage::{FailoverEntry, Seqno, VbucketId};

use super::admit::{admit, check_words};
use super::live::{Links, Live, Looked};
use super::sink::{Farewells, StreamSink};
use super::slice::Slice;
use super::window::{Acknowledged, Window};
use crate::backfill::Backfills;
use crate::vbucket::{DirtyVbuckets, VbucketCore, VbucketSlot};

/// Vbuckets looked at before others of the thread have their turn, however little each needs.
const VBUCKETS_PER_LOOK: usize = 32;

/// What a producer works with.
#[derive(Clone, Debug)]
pub struct ProducerConfig {
    /// Its vbuckets.
    pub vbuckets: Vec<Arc<VbucketSlot>>,
    /// Where they say that something changed.
    pub edge: Arc<DirtyVbuckets>,
    /// Who reads what is no longer in memory.
    pub backfills: Backfills,
    /// Numbers for the streams of a bucket.
    pub numbers: StreamNumbers,
    /// What streams of an earlier life could not say.
    pub farewells: Farewells,
}

/// Numbers streams; a clone goes on where the other is.
#[derive(Clone, Debug, Default)]
pub struct StreamNumbers(Arc<AtomicU64>);

impl StreamNumbers {
    fn next(&self) -> StreamId {
        StreamId(self.0.fetch_add(1, Ordering::Relaxed).saturating_add(1))
    }
}

/// The streams of one thread's vbuckets.
#[derive(Debug)]
pub struct Producer {
    config: ProducerConfig,
    slots: BTreeMap<VbucketId, Arc<VbucketSlot>>,
    streams: BTreeMap<VbucketId, Vec<Live>>,
    /// Vbuckets with a stream whose consumer had no room.
    full: BTreeSet<VbucketId>,
}

impl Producer {
    /// One without streams.
    #[must_use]
    pub fn new(config: ProducerConfig) -> Producer {
        let slots = config.vbuckets.iter();
        Producer {
            slots: slots.map(|slot| (slot.id(), Arc::clone(slot))).collect(),
            config,
            streams: BTreeMap::new(),
            full: BTreeSet::new(),
        }
    }

    /// Opens a stream. Nothing is sent before the next look, so that the answer comes first.
    pub fn open(
        &mut self,
        request: &StreamRequest,
        sink: Box<dyn StreamSink>,
        acknowledged: Acknowledged,
    ) -> Result<StreamOpened, StreamRequestError> {
        check_words(request)?;
        let vbucket = request.vbucket;
        let core = Arc::clone(self.core(vbucket)?);
        let (view, past) = core.stream_view()?;
        let (consumer, number) = (&request.consumer, request.stream_number);
        let streams = self.streams.entry(vbucket).or_default();
        // A node that comes back is heard on its new stream, and its old one ended before that.
        streams.iter_mut().for_each(Live::release_if_over);
        let is_open = streams.iter().any(|one| one.is_open_as(consumer, number));
        let admitted = admit(request, &view, is_open)?;
        if let Some(node) = &admitted.node
            && streams.iter().any(|one| one.hears(node))
        {
            let node = node.to_string().into();
            return Err(StreamRequestError::NodeHasStream { node });
        }
        core.set_stream_edge(Arc::clone(&self.config.edge));
        let opened = StreamOpened {
            stream: self.config.numbers.next(),
            failover_log: view.failover_table.into(),
            start: admitted.start,
            end: admitted.end,
        };
        let links = Links {
            core,
            edge: Arc::clone(&self.config.edge),
            backfills: self.config.backfills.clone(),
            past,
            farewells: self.config.farewells.clone(),
        };
        let window = Window::new(request.options.buffer_bytes, acknowledged);
        streams.push(Live::new(opened.stream, admitted, links, window, sink));
        self.config.edge.mark(vbucket);
        Ok(opened)
    }

    /// Ends a stream with `Closed`.
    pub fn close(&mut self, vbucket: VbucketId, stream: StreamId) -> Result<(), StreamError> {
        self.stream(vbucket, stream)?.end(StreamEndReason::Closed);
        self.config.edge.mark(vbucket);
        Ok(())
    }

    /// A consumer is done with so much of what it got.
    pub fn acknowledge(
        &mut self,
        vbucket: VbucketId,
        stream: StreamId,
        bytes: u64,
    ) -> Result<(), StreamError> {
        self.stream(vbucket, stream)?.acknowledge(bytes)?;
        self.config.edge.mark(vbucket);
        Ok(())
    }

    /// A replica holds every prepare up to `seqno`. Of a stream that is over nothing is heard, which is nobody's fault.
    pub fn acknowledge_prepared(
        &mut self,
        vbucket: VbucketId,
        stream: StreamId,
        seqno: Seqno,
    ) -> Result<(), StreamError> {
        let Ok(stream) = self.stream(vbucket, stream) else {
            return Ok(());
        };
        let acknowledged = stream.acknowledge_prepared(seqno);
        self.config.edge.mark(vbucket);
        acknowledged
    }

    /// The branches of a vbucket's history, newest first.
    pub fn failover_log(
        &self,
        vbucket: VbucketId,
    ) -> Result<Vec<FailoverEntry>, StreamRequestError> {
        let (view, _) = self.core(vbucket)?.stream_view()?;
        Ok(view.failover_table.into())
    }

    /// How many streams there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.streams.values().map(Vec::len).sum()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Reads all shared state, and does a bounded piece of what there is to do; for the rest it is woken again. Whether a
    /// consumer had no room, and is to be offered the same again a little later.
    #[must_use]
    pub fn look(&mut self) -> bool {
        self.config.edge.clear_wake();
        let is_kept = self.config.farewells.say_again();
        let mut slice = Slice::default();
        for _ in 0..VBUCKETS_PER_LOOK {
            if slice.is_used_up() {
                break;
            }
            let Some(vbucket) = self.config.edge.take() else {
                break;
            };
            self.look_at(vbucket, &mut slice);
        }
        self.config.edge.wake_for_rest();
        is_kept || !self.full.is_empty()
    }

    /// Has streams looked at whose consumer is gone: where nothing changes nobody would miss it.
    pub fn probe(&mut self) {
        for (vbucket, streams) in &self.streams {
            if streams.iter().any(Live::is_orphan) {
                self.config.edge.mark(*vbucket);
            }
        }
    }

    /// Offers again what consumers had no room for.
    pub fn offer_again(&mut self) {
        for vbucket in std::mem::take(&mut self.full) {
            self.config.edge.mark(vbucket);
        }
    }

    fn look_at(&mut self, vbucket: VbucketId, slice: &mut Slice) {
        let Some(streams) = self.streams.get_mut(&vbucket) else {
            return;
        };
        let (mut is_more, mut is_full) = (false, false);
        let mut served = 0usize;
        streams.retain_mut(|stream| {
            if slice.is_used_up() {
                is_more = true;
                return true;
            }
            let looked = stream.look(slice);
            is_more |= looked == Looked::More;
            is_full |= looked == Looked::SinkIsFull;
            let stays = looked != Looked::Over;
            served = served.saturating_add(usize::from(stays));
            stays
        });
        // Those that had no turn are the first next time.
        let served = served.min(streams.len());
        streams.rotate_left(served);
        if streams.is_empty() {
            self.streams.remove(&vbucket);
        }
        if is_full {
            self.full.insert(vbucket);
        }
        if is_more {
            self.config.edge.mark(vbucket);
        }
    }

    fn core(&self, vbucket: VbucketId) -> Result<&Arc<VbucketCore>, OperationError> {
        match self.slots.get(&vbucket) {
            Some(slot) => slot.core(),
            None => Err(OperationError::UnknownVbucket(vbucket)),
        }
    }

    fn stream(&mut self, vbucket: VbucketId, stream: StreamId) -> Result<&mut Live, StreamError> {
        let streams = self.streams.get_mut(&vbucket).into_iter().flatten();
        let mut found = streams.filter(|one| one.id() == stream);
        found
            .next()
            .ok_or(StreamError::NotFound { vbucket, stream })
    }
}
