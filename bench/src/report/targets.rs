//! The targets, row by row, and what was measured for each.
//!
//! Invariant: a ratio between two stores is taken within each round, where they took turns, and then its median over
//! the rounds; a bar is met or not by that median, and by nothing where a part of it was not measured.

mod compaction;

use super::comparison::{AMOUNT, Better, P50, P50_AGAINST_RAW, Pick};
use super::{Bar, Row, joined, times, two, with_range};
use crate::results::{Figure, Raw, Results};
use crate::statistics::Summary;
use crate::stores::{Column, Kind};

const PEERS: &[Kind] = &[Kind::Fjall, Kind::Redb, Kind::Rocksdb, Kind::Lmdb];

/// All of them, in the order of the list.
pub(super) fn rows(results: &Results) -> Vec<Row> {
    let view = View(results);
    vec![
        view.smallest_batch(),
        view.commit("W1 256 B, batch 64: against best peer", 256, 64, 1.7, 2.5),
        view.commit(
            "W1 256 B, batch 1024: against best peer",
            256,
            1024,
            2.0,
            3.0,
        ),
        view.commit("W1 4 KiB, batch 64: against best peer", 4096, 64, 1.5, 2.0),
        view.commit(
            "W1 4 KiB, batch 1024: against best peer",
            4096,
            1024,
            1.5,
            2.0,
        ),
        view.every_vbucket(),
        view.worst_batch(),
        view.load(),
        view.get(),
        view.get_scaling(),
        view.scan_warm(),
        view.scan_cold(),
        view.open_clean(),
        view.open_after_crash(),
    ]
}

/// Those of compaction, in the order of the list.
pub(super) fn compaction_rows(results: &Results) -> Vec<Row> {
    View(results).compaction()
}

const MAX_MS: Pick = |sample| sample.latency.map(|latency| latency.max / 1e3);
const FILES_AGAINST_P50: Pick = |sample| Some(sample.raw?.files_p50_us? / sample.latency?.p50);
const AMOUNT_AGAINST_RAW: Pick = |sample| Some(sample.amount / sample.raw?.amount?);
const MAX_AGAINST_P50: Pick = |sample| sample.latency.map(|latency| latency.max / latency.p50);
const THREAD_US: Pick = |sample| Some(sample.thread_us_each());

/// The results, as the rows ask for them.
struct View<'a>(&'a Results);

impl View<'_> {
    fn ours(&self, figure: Figure, pick: Pick) -> Option<Summary> {
        self.0.summary(figure, Column::PIGGIN, pick)
    }

    fn ours_text(&self, figure: Figure, pick: Pick, unit: &str) -> Option<String> {
        self.0.text(figure, Column::PIGGIN, pick, unit)
    }

    /// The best column of these kinds.
    fn best(&self, figure: Figure, pick: Pick, better: Better, of: &[Kind]) -> Option<Column> {
        let is_wanted = |column: Column| of.contains(&column.kind);
        self.0.best(figure, pick, better, is_wanted)
    }

    fn peer_text(
        &self,
        figure: Figure,
        pick: Pick,
        unit: &str,
        peer: Option<Column>,
    ) -> Option<String> {
        self.0.peer_text(figure, pick, unit, peer)
    }

    fn raw_text(
        &self,
        figure: Figure,
        unit: &str,
        pick: impl Fn(&Raw) -> Option<f64>,
    ) -> Option<String> {
        self.0.raw_text(figure, unit, pick)
    }

    /// Ours by the peer's, round by round.
    fn against(&self, figure: Figure, pick: Pick, peer: Option<Column>) -> Option<Summary> {
        self.0.ratio(figure, pick, Column::PIGGIN, peer)
    }

    /// One figure of ours by another of ours, round by round.
    fn own(&self, one: Figure, other: Figure, pick: Pick) -> Option<Summary> {
        let pairs = self.0.samples(one, Column::PIGGIN).iter();
        let pairs = pairs.zip(self.0.samples(other, Column::PIGGIN));
        Summary::of(pairs.filter_map(|(one, other)| Some(pick(one)? / pick(other)?)))
    }

    fn smallest_batch(&self) -> Row {
        let figure = commit_figure(256, 1);
        let ratio = self.ours(figure, P50_AGAINST_RAW);
        let peer = self.best(figure, P50, Better::Lower, PEERS);
        Row {
            work: "W1 256 B, batch 1: p50 against raw sync",
            ours: self.ours_text(figure, P50, "us"),
            peer: self.peer_text(figure, P50, "us", peer),
            raw: self.raw_text(figure, "us", |raw| raw.p50_us),
            ratio: ratio.map(times),
            floor: Bar::at_most("<= 1.25x", ratio, 1.25),
            aim: Bar::at_most("<= 1.1x", ratio, 1.1),
        }
    }

    fn commit(
        &self,
        work: &'static str,
        value_length: usize,
        batch: usize,
        floor: f64,
        aim: f64,
    ) -> Row {
        let figure = commit_figure(value_length, batch);
        let peer = self.best(figure, AMOUNT, Better::Higher, PEERS);
        let ratio = self.against(figure, AMOUNT, peer);
        let nothing_else = Bar::new("", Some(true));
        let (floor_text, aim_text, also, cell) = match (value_length, batch) {
            (256, 64) => {
                let p50 = self.ours(figure, P50_AGAINST_RAW);
                let cell = two(ratio.map(times), "", p50.map(times), "raw p50");
                let also = Bar::at_most("", p50, 2.0);
                (">= 1.7x", ">= 2.5x, p50 <= 2x raw", also, cell)
            }
            (256, _) => {
                let caller = self.ours(figure, THREAD_US);
                let cell = two(
                    ratio.map(times),
                    "",
                    caller.map(with_range),
                    "us of CPU each",
                );
                let also = Bar::at_most("", caller, 1.6);
                (">= 2x", ">= 3x, caller's CPU <= 1.6 us each", also, cell)
            }
            _ => (">= 1.5x", ">= 2x", nothing_else, ratio.map(times)),
        };
        Row {
            work,
            ours: self.ours_text(figure, AMOUNT, "/s"),
            peer: self.peer_text(figure, AMOUNT, "/s", peer),
            raw: self.raw_text(figure, "/s", |raw| raw.amount),
            ratio: cell,
            floor: Bar::at_least(floor_text, ratio, floor),
            aim: Bar::at_least(aim_text, ratio, aim).and(also),
        }
    }

    fn every_vbucket(&self) -> Row {
        let figure = Figure::CommitToEveryVbucket;
        let ratio = self.ours(figure, FILES_AGAINST_P50);
        let peer = self.best(figure, P50, Better::Lower, PEERS);
        let files = self.raw_text(figure, "us", |raw| raw.files_p50_us);
        Row {
            work: "one commit touching every vbucket: against two syncs per vbucket file",
            ours: self.ours_text(figure, P50, "us"),
            peer: self.peer_text(figure, P50, "us", peer),
            raw: files.map(|files| format!("files: {files}")),
            ratio: ratio.map(times),
            floor: Bar::at_least(">= 50x", ratio, 50.0),
            aim: Bar::at_least(">= 100x", ratio, 100.0),
        }
    }

    fn worst_batch(&self) -> Row {
        let figure = commit_figure(256, 1024);
        let rocksdb = self.best(figure, MAX_MS, Better::Lower, &[Kind::Rocksdb]);
        let ratio = self.against(figure, MAX_MS, rocksdb);
        let own = self.ours(figure, MAX_AGAINST_P50);
        Row {
            work: "W1 256 B, batch 1024: worst batch",
            ours: self.ours_text(figure, MAX_MS, "ms"),
            peer: self.peer_text(figure, MAX_MS, "ms", rocksdb),
            raw: None,
            ratio: two(ratio.map(times), "rocksdb's", own.map(times), "own p50"),
            floor: Bar::at_most("<= RocksDB's", ratio, 1.0),
            aim: Bar::at_most("<= 10x own p50", own, 10.0),
        }
    }

    fn load(&self) -> Row {
        let figure = Figure::Load;
        let peer = self.best(figure, AMOUNT, Better::Higher, PEERS);
        let ratio = self.against(figure, AMOUNT, peer);
        Row {
            work: "W2 load incl. final sync: against best peer",
            ours: self.ours_text(figure, AMOUNT, "/s"),
            peer: self.peer_text(figure, AMOUNT, "/s", peer),
            raw: self.raw_text(figure, "/s", |raw| raw.amount),
            ratio: ratio.map(times),
            floor: Bar::at_least(">= 1.5x", ratio, 1.5),
            aim: Bar::at_least(">= 2x", ratio, 2.0),
        }
    }

    fn get(&self) -> Row {
        let figure = Figure::Get { threads: 1 };
        let peer = self.best(figure, AMOUNT, Better::Higher, PEERS);
        let lsm = self.best(figure, AMOUNT, Better::Higher, &Kind::LSM);
        let lmdb = self.best(figure, AMOUNT, Better::Higher, &[Kind::Lmdb]);
        let to_lsm = self.against(figure, AMOUNT, lsm);
        let to_lmdb = self.against(figure, AMOUNT, lmdb);
        Row {
            work: "W3 random get, warm, 1 thread: against best peer",
            ours: self.ours_text(figure, AMOUNT, "/s"),
            peer: self.peer_text(figure, AMOUNT, "/s", peer),
            raw: None,
            ratio: two(to_lsm.map(times), "best LSM", to_lmdb.map(times), "LMDB"),
            floor: Bar::at_least(">= best LSM", to_lsm, 1.0),
            aim: Bar::at_least(">= LMDB", to_lmdb, 1.0),
        }
    }

    fn get_scaling(&self) -> Row {
        let (one, two) = (Figure::Get { threads: 1 }, Figure::Get { threads: 2 });
        let scaling = |column| {
            let pairs = self.0.samples(two, column).iter();
            let pairs = pairs.zip(self.0.samples(one, column));
            Summary::of(pairs.map(|(two, one)| two.amount / one.amount))
        };
        let ratio = scaling(Column::PIGGIN);
        let peer = self.best(two, AMOUNT, Better::Higher, PEERS);
        let peer_scaling = peer.and_then(scaling);
        Row {
            work: "W3 random get, warm: 2 threads / 1 thread",
            ours: self.ours_text(two, AMOUNT, "/s"),
            peer: self
                .peer_text(two, AMOUNT, "/s", peer)
                .zip(peer_scaling)
                .map(|(text, scaling)| format!("{text}, {}", times(scaling))),
            raw: None,
            ratio: ratio.map(times),
            floor: Bar::at_least(">= 1.6", ratio, 1.6),
            aim: Bar::at_least(">= 1.9", ratio, 1.9),
        }
    }

    fn scan_warm(&self) -> Row {
        let figure = Figure::ScanWarm;
        let peer = self.best(figure, AMOUNT, Better::Higher, PEERS);
        let rocksdb = self.best(figure, AMOUNT, Better::Higher, &[Kind::Rocksdb]);
        let lmdb = self.best(figure, AMOUNT, Better::Higher, &[Kind::Lmdb]);
        let to_rocksdb = self.against(figure, AMOUNT, rocksdb);
        let to_lmdb = self.against(figure, AMOUNT, lmdb);
        Row {
            work: "W4 by-seqno scan, warm, checksums verified",
            ours: self.ours_text(figure, AMOUNT, "MB/s"),
            peer: self.peer_text(figure, AMOUNT, "MB/s", peer),
            raw: None,
            ratio: two(to_rocksdb.map(times), "RocksDB", to_lmdb.map(times), "LMDB"),
            floor: Bar::at_least(">= 1.5x RocksDB", to_rocksdb, 1.5),
            aim: Bar::at_least(">= LMDB", to_lmdb, 1.0),
        }
    }

    fn scan_cold(&self) -> Row {
        let figure = Figure::ScanCold;
        let peer = self.best(figure, AMOUNT, Better::Higher, PEERS);
        let ratio = self.ours(figure, AMOUNT_AGAINST_RAW);
        Row {
            work: "W4 by-seqno scan, cold: against raw cold sequential",
            ours: self.ours_text(figure, AMOUNT, "MB/s"),
            peer: self.peer_text(figure, AMOUNT, "MB/s", peer),
            raw: self.raw_text(figure, "MB/s", |raw| raw.amount),
            ratio: ratio.map(times),
            floor: Bar::at_least(">= 0.6x", ratio, 0.6),
            aim: Bar::at_least(">= 0.85x", ratio, 0.85),
        }
    }

    fn open_clean(&self) -> Row {
        let figure = Figure::OpenClean;
        let peer = self.best(figure, AMOUNT, Better::Lower, PEERS);
        let ours = self.ours(figure, AMOUNT);
        Row {
            work: "W6 clean open, 4 segments per vbucket",
            ours: self.ours_text(figure, AMOUNT, "ms"),
            peer: self.peer_text(figure, AMOUNT, "ms", peer),
            raw: None,
            ratio: self.against(figure, AMOUNT, peer).map(times),
            floor: Bar::at_most("<= 100 ms", ours, 100.0),
            aim: Bar::at_most("<= 20 ms", ours, 20.0),
        }
    }

    fn open_after_crash(&self) -> Row {
        let figure = Figure::OpenAfterCrash;
        let rocksdb = self.best(figure, AMOUNT, Better::Lower, &[Kind::Rocksdb]);
        let ratio = self.against(figure, AMOUNT, rocksdb);
        let ours = self.ours(figure, AMOUNT);
        Row {
            work: "W6 open after a crash",
            ours: self.ours_text(figure, AMOUNT, "ms"),
            peer: self.peer_text(figure, AMOUNT, "ms", rocksdb),
            raw: None,
            ratio: ratio.map(times),
            floor: Bar::at_most("<= RocksDB", ratio, 1.0),
            aim: Bar::at_most("<= 150 ms", ours, 150.0),
        }
    }
}

const fn commit_figure(value_length: usize, batch: usize) -> Figure {
    Figure::Commit {
        value_length,
        batch,
    }
}
