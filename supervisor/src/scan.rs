//! A scan of a collection: the scans of all vbuckets, merged by key.
//!
//! Invariant: each vbucket is read as it was at one moment, which is not the same one for all; what is told comes by rising key,
//! each key of a vbucket once; and the end is told only behind all vbuckets' ends. One that fails ends the scan with its error.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::Stream;

use actors::backfill::RangeScan;
use messages::scan::{ScanConsistency, ScanError, ScanRange, ScanRequest, Scanned};
use messages::vbucket::MutationToken;
use storage::{DocumentKey, VbucketId};

use crate::bucket::Collection;

/// About so much is read ahead by a scan, of all vbuckets together.
const AHEAD_BYTES: usize = 4 << 20;
/// The least that is read of a vbucket at once.
const PAGE_BYTES_MIN: usize = 4 << 10;

/// A scan that is not begun yet. Unless it is told otherwise it sees every write that was answered before it is opened, for
/// which it waits until they are on disk, and reads whole documents.
#[derive(Clone, Debug)]
#[must_use = "a scan is opened before it is read"]
pub struct ScanBuilder<'c> {
    of: &'c Collection,
    request: ScanRequest,
    tokens: Option<Vec<MutationToken>>,
}

impl<'c> ScanBuilder<'c> {
    pub(crate) fn new(of: &'c Collection, range: ScanRange) -> ScanBuilder<'c> {
        ScanBuilder {
            of,
            request: ScanRequest::of(of.id(), range),
            tokens: None,
        }
    }

    /// Without values.
    pub fn keys_only(mut self) -> ScanBuilder<'c> {
        self.request.with_values = false;
        self
    }

    /// The first so many documents.
    pub fn limit(mut self, documents: u64) -> ScanBuilder<'c> {
        self.request.limit = Some(documents);
        self
    }

    /// What is on disk, without waiting for anything.
    pub fn on_disk(mut self) -> ScanBuilder<'c> {
        self.tokens = Some(Vec::new());
        self
    }

    /// At least these changes, and of other vbuckets what is on disk. The last of each vbucket counts.
    pub fn at_least(mut self, tokens: impl IntoIterator<Item = MutationToken>) -> ScanBuilder<'c> {
        self.tokens = Some(tokens.into_iter().collect());
        self
    }

    /// How long it waits for that: 30 s if nothing is said.
    pub fn within(mut self, patience: Duration) -> ScanBuilder<'c> {
        self.request.patience = patience;
        self
    }

    /// Opens it: from here on what it must see is known. Nothing is read yet.
    pub fn open(self) -> Result<Scan, ScanError> {
        let running = self.of.running();
        let vbuckets = usize::from(running.table.count()).max(1);
        let ahead = AHEAD_BYTES.checked_div(vbuckets).unwrap_or(0);
        let page_bytes = ahead.clamp(PAGE_BYTES_MIN, ScanRequest::PAGE_BYTES);
        let mut sources = Vec::with_capacity(vbuckets);
        for slot in &running.table.slots {
            let core = running.table.core(slot.id())?;
            let request = ScanRequest {
                consistency: self.consistency(slot.id()),
                page_bytes,
                ..self.request.clone()
            };
            sources.push(running.streaming.readers().scan(core, &request)?);
        }
        Ok(Scan {
            lacking: (0..sources.len()).collect(),
            sources,
            heads: BTreeMap::new(),
            kept_until: Duration::ZERO,
            left: self.request.limit.unwrap_or(u64::MAX),
            is_over: false,
        })
    }

    fn consistency(&self, vbucket: VbucketId) -> ScanConsistency {
        let Some(tokens) = &self.tokens else {
            return ScanConsistency::Answered;
        };
        let of_it = tokens.iter().filter(|token| token.vbucket == vbucket);
        let last = of_it.max_by_key(|token| token.seqno);
        last.map_or(ScanConsistency::OnDisk, |token| {
            ScanConsistency::AtLeast(*token)
        })
    }
}

/// A scan under way. It holds a snapshot of every vbucket that is not read to its end, until it is dropped; one of
/// which nothing is asked for twelve minutes ends with [`ScanError::Idle`].
#[derive(Debug)]
#[must_use = "what is not read to its end may lack anything"]
pub struct Scan {
    /// By vbucket.
    sources: Vec<RangeScan>,
    /// The next document of each vbucket that has one, by its key and the place of its source: by message a key can be put
    /// into several vbuckets.
    heads: BTreeMap<(DocumentKey, usize), Scanned>,
    /// Those of which the next document is not known.
    lacking: Vec<usize>,
    /// Behind that they must be told that they are in use: those whose next document is known are asked nothing.
    kept_until: Duration,
    left: u64,
    is_over: bool,
}

impl Scan {
    /// The next document; `None` behind the last, or behind as many as were asked for. After an error there is no more.
    pub async fn next(&mut self) -> Result<Option<Scanned>, ScanError> {
        poll_fn(|context| self.poll_scanned(context)).await
    }

    fn poll_scanned(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Result<Option<Scanned>, ScanError>> {
        if self.is_over {
            return Poll::Ready(Ok(None));
        }
        if self.left == 0 {
            self.end();
            return Poll::Ready(Ok(None));
        }
        self.keep_sources();
        let mut pending = Vec::new();
        while let Some(place) = self.lacking.pop() {
            let Some(source) = self.sources.get_mut(place) else {
                continue;
            };
            match source.poll_next(context) {
                Poll::Ready(Ok(Some(scanned))) => {
                    self.heads.insert((scanned.key.clone(), place), scanned);
                }
                Poll::Ready(Ok(None)) => {}
                Poll::Ready(Err(error)) => {
                    self.end();
                    return Poll::Ready(Err(error));
                }
                Poll::Pending => pending.push(place),
            }
        }
        self.lacking = pending;
        if !self.lacking.is_empty() {
            return Poll::Pending;
        }
        let Some(((_, place), next)) = self.heads.pop_first() else {
            self.end();
            return Poll::Ready(Ok(None));
        };
        self.lacking.push(place);
        self.left = self.left.saturating_sub(1);
        Poll::Ready(Ok(Some(next)))
    }

    fn keep_sources(&mut self) {
        let now = self.sources.first().map(RangeScan::now);
        if now.is_some_and(|now| now >= self.kept_until) {
            let kept = self.sources.iter().map(RangeScan::keep);
            self.kept_until = kept.min().unwrap_or(Duration::MAX);
        }
    }

    /// Gives all snapshots back.
    fn end(&mut self) {
        self.is_over = true;
        self.sources.clear();
        self.heads.clear();
        self.lacking.clear();
    }
}

impl Stream for Scan {
    type Item = Result<Scanned, ScanError>;

    /// The end of this stream is that of the scan only if no error came before it.
    fn poll_next(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Scanned, ScanError>>> {
        self.poll_scanned(context).map(Result::transpose)
    }
}
