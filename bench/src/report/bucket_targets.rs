//! The bucket's targets, row by row, and what was measured for each.
//!
//! Invariant: as for the storage: a ratio is taken within each round, and its median decides.

use super::comparison::{AMOUNT, Better, P50, P50_AGAINST_RAW, P99, Pick};
use super::{Bar, Row, times, two};
use crate::bucket::figures::Mix;
use crate::bucket::{BucketBench, BucketFigure, Contender};
use crate::results::{Measure, Results};
use crate::statistics::Summary;
use crate::stores::{Durability, Kind};

/// All of them, in the order of the list.
pub(super) fn rows(bench: &BucketBench) -> Vec<Row> {
    let view = View {
        results: &bench.results,
        ours: bench.ours(),
    };
    let mut rows = vec![view.get(), view.set_in_memory(), view.set_persisted()];
    rows.extend([view.set_by_message(), view.memory()]);
    for durability in [Durability::Buffered, Durability::Synced] {
        let is_there = |mix: &Mix| *mix != Mix::C || durability == Durability::Buffered;
        let mixes = Mix::ALL.into_iter().filter(is_there);
        rows.extend(mixes.map(|mix| view.ycsb(mix, durability)));
    }
    rows.push(view.open());
    rows.extend(view.streams());
    rows.extend(view.durable());
    for &vbuckets in bench.vbuckets.iter().skip(1) {
        rows.push(view.at(vbuckets));
    }
    rows.push(view.panicked());
    rows
}

struct View<'a> {
    results: &'a Results<BucketFigure, Contender>,
    ours: Contender,
}

impl View<'_> {
    fn text(&self, figure: BucketFigure, pick: Pick, unit: &str) -> Option<String> {
        self.results.text(figure, self.ours, pick, unit)
    }

    fn ratio(&self, figure: BucketFigure, pick: Pick, other: Option<Contender>) -> Option<Summary> {
        self.results.ratio(figure, pick, self.ours, other)
    }

    fn best(&self, figure: BucketFigure, kinds: &[Kind]) -> Option<Contender> {
        let is_wanted = |contender: Contender| contender.is_peer_of(kinds);
        self.results.best(figure, AMOUNT, Better::Higher, is_wanted)
    }

    fn get(&self) -> Row {
        let figure = BucketFigure::Get;
        let map = Some(Contender::DashMap);
        let ratio = self.ratio(figure, AMOUNT, map);
        Row {
            work: "get, in memory, 2 threads: against a bare DashMap",
            ours: self.text(figure, AMOUNT, "/s"),
            peer: self.results.peer_text(figure, AMOUNT, "/s", map),
            raw: None,
            ratio: ratio.map(times),
            floor: Bar::at_least(">= 0.5x", ratio, 0.5),
            aim: Bar::at_least(">= 0.8x", ratio, 0.8),
        }
    }

    fn set_in_memory(&self) -> Row {
        let figure = BucketFigure::SetInMemory;
        let map = Some(Contender::DashMap);
        let lsm = self.best(figure, &Kind::LSM);
        let to_map = self.ratio(figure, AMOUNT, map);
        let to_lsm = self.ratio(figure, AMOUNT, lsm);
        Row {
            work: "set in memory, 2 writers: against bare DashMap inserts / the best LSM peer's, unsynced",
            ours: self.text(figure, AMOUNT, "/s"),
            peer: two(
                self.results.peer_text(figure, AMOUNT, "/s", map),
                "",
                self.results.peer_text(figure, AMOUNT, "/s", lsm),
                "",
            ),
            raw: None,
            ratio: two(to_map.map(times), "DashMap", to_lsm.map(times), "LSM"),
            floor: Bar::at_least(">= 0.4x / >= 3x", to_map, 0.4)
                .and(Bar::at_least("", to_lsm, 3.0)),
            aim: Bar::at_least(">= 0.6x / >= 5x", to_map, 0.6).and(Bar::at_least("", to_lsm, 5.0)),
        }
    }

    fn set_persisted(&self) -> Row {
        let figure = BucketFigure::SetPersisted;
        let storage = Some(Contender::Storage);
        let ratio = self.ratio(figure, AMOUNT, storage);
        let to_raw = self.results.summary(figure, self.ours, P50_AGAINST_RAW);
        let raw = |raw: &crate::results::Raw| raw.p50_us;
        Row {
            work: "set, wait persisted, 64 callers: against W1 batch 64; p50 against raw sync",
            ours: two(
                self.text(figure, AMOUNT, "/s"),
                "",
                self.text(figure, P50, "us"),
                "p50",
            ),
            peer: self.results.peer_text(figure, AMOUNT, "/s", storage),
            raw: self.results.raw_text(figure, "us", raw),
            ratio: two(ratio.map(times), "W1", to_raw.map(times), "raw p50"),
            floor: Bar::at_least(">= 0.7x; <= 3x", ratio, 0.7).and(Bar::at_most("", to_raw, 3.0)),
            aim: Bar::at_least(">= 0.9x; <= 2.2x", ratio, 0.9).and(Bar::at_most("", to_raw, 2.2)),
        }
    }

    fn set_by_message(&self) -> Row {
        let figure = BucketFigure::SetByMessage;
        let empty = Some(Contender::EmptyMessage);
        let ratio = self.ratio(figure, P50, empty);
        Row {
            work: "`Set` by message across arbiters, one at a time, p50: against an empty actix message",
            ours: self.text(figure, P50, "us"),
            peer: self.results.peer_text(figure, P50, "us", empty),
            raw: None,
            ratio: ratio.map(times),
            floor: Bar::at_most("<= 1.5x", ratio, 1.5),
            aim: Bar::at_most("<= 1.2x", ratio, 1.2),
        }
    }

    fn memory(&self) -> Row {
        let figure = BucketFigure::MemoryOfProcess;
        let ours = self.results.summary(figure, self.ours, AMOUNT);
        let counted = self.text(BucketFigure::MemoryAsCounted, AMOUNT, "B");
        Row {
            work: "memory for each document beyond key and value (16 B keys)",
            ours: two(
                self.text(figure, AMOUNT, "B"),
                "",
                counted,
                "as the engine counts",
            ),
            peer: None,
            raw: None,
            ratio: None,
            floor: Bar::at_most("<= 96 B", ours, 96.0),
            aim: Bar::at_most("<= 64 B", ours, 64.0),
        }
    }

    fn ycsb(&self, mix: Mix, durability: Durability) -> Row {
        let figure = BucketFigure::Ycsb { mix, durability };
        let peer = self.best(figure, &Kind::ALL);
        let ratio = self.ratio(figure, AMOUNT, peer);
        Row {
            work: match (mix, durability) {
                (Mix::A, Durability::Buffered) => "YCSB A, unsynced: against best peer",
                (Mix::B, Durability::Buffered) => "YCSB B, unsynced: against best peer",
                (Mix::C, _) => "YCSB C: against best peer",
                (Mix::F, Durability::Buffered) => "YCSB F, unsynced: against best peer",
                (Mix::A, Durability::Synced) => "YCSB A, every write synced: against best peer",
                (Mix::B, Durability::Synced) => "YCSB B, every write synced: against best peer",
                (Mix::F, Durability::Synced) => "YCSB F, every write synced: against best peer",
            },
            ours: self.text(figure, AMOUNT, "/s"),
            peer: self.results.peer_text(figure, AMOUNT, "/s", peer),
            raw: self.results.raw_text(figure, "us", |raw| raw.p50_us),
            ratio: ratio.map(times),
            floor: Bar::at_least(">= 1.5x", ratio, 1.5),
            aim: Bar::at_least(">= 3x", ratio, 3.0),
        }
    }

    fn open(&self) -> Row {
        let figure = BucketFigure::Open;
        let storage = Some(Contender::Storage);
        let ratio = self.ratio(figure, AMOUNT, storage);
        let opening = BucketFigure::OpenStorage;
        Row {
            work: "open and warm up: against the storage's own scan",
            ours: self.text(figure, AMOUNT, "ms"),
            peer: two(
                self.results.peer_text(figure, AMOUNT, "ms", storage),
                "",
                self.results.text(opening, Contender::Storage, AMOUNT, "ms"),
                "to open it",
            ),
            raw: None,
            ratio: ratio.map(times),
            floor: Bar::at_most("<= 2x", ratio, 2.0),
            aim: Bar::at_most("<= 1.3x", ratio, 1.3),
        }
    }

    fn streams(&self) -> [Row; 5] {
        let rate = |work, figure, other, floor: (&'static str, f64), aim: (&'static str, f64)| {
            let ratio = self.ratio(figure, AMOUNT, Some(other));
            Row {
                work,
                ours: self.text(figure, AMOUNT, "/s"),
                peer: self.results.peer_text(figure, AMOUNT, "/s", Some(other)),
                raw: None,
                ratio: ratio.map(times),
                floor: Bar::at_least(floor.0, ratio, floor.1),
                aim: Bar::at_least(aim.0, ratio, aim.1),
            }
        };
        let empty = Some(Contender::EmptyMessage);
        let delivery = BucketFigure::Delivery;
        // There and back are two hops.
        let hops = self.ratio(delivery, P50, empty).map(Summary::doubled);
        let memory = BucketFigure::StreamsMemory;
        let one = Some(Contender::OneStream);
        let more = self.ratio(memory, AMOUNT, one);
        [
            rate(
                "backfill to a recipient, warm: against the storage's scan",
                BucketFigure::Backfill,
                Contender::Storage,
                (">= 0.5x", 0.5),
                (">= 0.8x", 0.8),
            ),
            rate(
                "in-memory stream, one consumer: against a bare channel of as many handles",
                BucketFigure::MemoryStream,
                Contender::Channel,
                (">= 0.2x", 0.2),
                (">= 0.4x", 0.4),
            ),
            Row {
                work: "set to delivery, idle system, p50: in message hops",
                ours: self.text(delivery, P50, "us"),
                peer: self.results.peer_text(delivery, P50, "us", empty),
                raw: None,
                ratio: hops.map(|hops| format!("{} hops", times(hops))),
                floor: Bar::at_most("<= 3 hops", hops, 3.0),
                aim: Bar::at_most("<= 2 hops", hops, 2.0),
            },
            Row {
                work: "memory of 10 streams of each vbucket: against 1",
                ours: self.text(memory, AMOUNT, "B"),
                peer: self.results.peer_text(memory, AMOUNT, "B", one),
                raw: None,
                ratio: more.map(times),
                floor: Bar::at_most("<= 1.5x", more, 1.5),
                aim: Bar::at_most("<= 1.1x", more, 1.1),
            },
            rate(
                "set in memory, 2 writers, 4 live streams: against none",
                BucketFigure::SetStreamed,
                Contender::NoStreams,
                (">= 0.7x", 0.7),
                (">= 0.85x", 0.85),
            ),
        ]
    }

    fn durable(&self) -> [Row; 3] {
        let (one, disks, many) = (
            BucketFigure::DurableMajority,
            BucketFigure::DurableOnDisks,
            BucketFigure::DurableAtOnce,
        );
        let empty = Some(Contender::EmptyMessage);
        // There and back are two hops.
        let hops = self.ratio(one, P50, empty).map(Summary::doubled);
        let to_raw = self.results.summary(disks, self.ours, P50_AGAINST_RAW);
        let rate = self.results.summary(many, self.ours, AMOUNT);
        [
            Row {
                work: "durable by majority, 2 replicas in the process, one at a time, p50: in message hops",
                ours: self.text(one, P50, "us"),
                peer: self.results.peer_text(one, P50, "us", empty),
                raw: None,
                ratio: hops.map(|hops| format!("{} hops", times(hops))),
                floor: Bar::at_most("<= 10 hops", hops, 10.0),
                aim: Bar::at_most("<= 6 hops", hops, 6.0),
            },
            Row {
                work: "durable on the disks of a majority, one at a time, p50: against raw sync",
                ours: self.text(disks, P50, "us"),
                peer: None,
                raw: self.results.raw_text(disks, "us", |raw| raw.p50_us),
                ratio: to_raw.map(times),
                floor: Bar::at_most("<= 3x", to_raw, 3.0),
                aim: Bar::at_most("<= 2.2x", to_raw, 2.2),
            },
            Row {
                work: "durable by majority, 256 under way, 2 cores",
                ours: self.text(many, AMOUNT, "/s"),
                peer: None,
                raw: None,
                ratio: None,
                floor: Bar::at_least(">= 60k/s", rate, 60_000.0),
                aim: Bar::at_least(">= 150k/s", rate, 150_000.0),
            },
        ]
    }

    /// Not measured without the feature `panics`.
    fn panicked(&self) -> Row {
        let figure = BucketFigure::ServesAgain;
        let p99 = self.results.summary(figure, self.ours, P99);
        Row {
            work: "a vbucket actor that panicked serves again, p99",
            ours: self.text(figure, P99, "us"),
            peer: None,
            raw: None,
            ratio: None,
            floor: Bar::at_most("<= 10 ms", p99, 10_000.0),
            aim: Bar::at_most("<= 1 ms", p99, 1_000.0),
        }
    }

    /// The bucket of other vbuckets beside the first: the row that suffers most.
    fn at(&self, vbuckets: u16) -> Row {
        let other = Contender::Bucket { vbuckets };
        let mut figures: Vec<BucketFigure> =
            self.results.iter().map(|(figure, ..)| figure).collect();
        figures.dedup();
        let worse = |&figure: &BucketFigure| {
            let is_less_better = matches!(figure.unit(), "ms" | "B each");
            let ratio = match is_less_better {
                true => self.results.ratio(figure, AMOUNT, other, Some(self.ours)),
                false => self.results.ratio(figure, AMOUNT, self.ours, Some(other)),
            };
            ratio.map(|ratio| (figure, ratio))
        };
        let worst = figures
            .iter()
            .filter_map(worse)
            .max_by(|(_, one), (_, other)| one.median.total_cmp(&other.median));
        let ratio = worst.map(|(_, ratio)| ratio);
        let text = |contender| {
            worst
                .and_then(|(figure, _)| self.results.text(figure, contender, AMOUNT, figure.unit()))
        };
        Row {
            work: match vbuckets {
                1024 => "the rows above at 1,024 vbuckets: the worst",
                _ => "the rows above at another number of vbuckets: the worst",
            },
            ours: text(other)
                .zip(worst)
                .map(|(text, (figure, _))| format!("{figure}: {text}")),
            peer: text(self.ours).map(|text| format!("{}: {text}", self.ours)),
            raw: None,
            ratio: ratio.map(|ratio| format!("{} worse", times(ratio))),
            floor: Bar::at_most("no row worse than 1.5x", ratio, 1.5),
            aim: Bar::at_most("1.2x", ratio, 1.2),
        }
    }
}
