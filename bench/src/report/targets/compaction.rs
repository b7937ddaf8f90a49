//! The targets of compaction, row by row: all of W5.
//!
//! Invariant: as for the others: a ratio is taken within each round, and its median decides.

use super::{
    AMOUNT, Bar, Better, Column, Figure, Kind, MAX_MS, P50, Pick, Row, Summary, View, joined,
    times, two,
};
use crate::results::{Read, VbucketSize, Whose};

const P99: Pick = |sample| sample.latency.map(|latency| latency.p99);
const P999: Pick = |sample| sample.latency.map(|latency| latency.p999);
const P999_MS: Pick = |sample| sample.latency.map(|latency| latency.p999 / 1e3);
/// Large and small vbuckets are equal when one waits at most so many times as long.
const EQUAL: f64 = 2.0;

impl View<'_> {
    pub(super) fn compaction(&self) -> Vec<Row> {
        vec![
            self.against_twin(),
            self.overwrites(),
            self.worst_overwrites(),
            self.publish(),
            self.space(),
            self.write_amplification(),
            self.reads(),
        ]
    }

    fn against_twin(&self) -> Row {
        let (one, twin) = (Figure::Overwrite, Figure::OverwriteUnmerged);
        let picks = [P50, P99, P999];
        let [p50, p99, p999] = picks.map(|pick| self.own(one, twin, pick));
        let text = |figure| joined(picks.map(|pick| self.ours_text(figure, pick, "us")));
        let bar = |text, bars: [f64; 3]| {
            Bar::at_most(text, p50, bars[0])
                .and(Bar::at_most("", p99, bars[1]))
                .and(Bar::at_most("", p999, bars[2]))
        };
        Row {
            work: "W5 overwrites, p50 / p99 / p99.9: against own twin that never merges",
            ours: text(one),
            peer: text(twin).map(|text| format!("twin: {text}")),
            raw: self.raw_text(one, "us", |raw| raw.p50_us),
            ratio: joined([p50, p99, p999].map(|ratio| ratio.map(times))),
            floor: bar("<= 1.2x / 1.5x / 3x", [1.2, 1.5, 3.0]),
            aim: bar("<= 1.1x / 1.3x / 2x", [1.1, 1.3, 2.0]),
        }
    }

    fn overwrites(&self) -> Row {
        let figure = Figure::Overwrite;
        let best = |kind| self.best(figure, AMOUNT, Better::Higher, &[kind]);
        let (rocksdb, fjall) = (best(Kind::Rocksdb), best(Kind::Fjall));
        let ratio = self.against(figure, AMOUNT, rocksdb);
        let to_fjall = self.against(figure, AMOUNT, fjall);
        Row {
            work: "W5 overwrites: against RocksDB",
            ours: self.ours_text(figure, AMOUNT, "/s"),
            peer: self.both(figure, AMOUNT, "/s", rocksdb, fjall),
            raw: self.raw_text(figure, "/s", |raw| raw.amount),
            ratio: two(ratio.map(times), "RocksDB", to_fjall.map(times), "fjall"),
            floor: Bar::at_least(">= 2x", ratio, 2.0),
            aim: Bar::at_least(">= 3x", ratio, 3.0),
        }
    }

    fn worst_overwrites(&self) -> Row {
        let figure = Figure::Overwrite;
        let best = |kind| self.best(figure, P999, Better::Lower, &[kind]);
        let (rocksdb, fjall) = (best(Kind::Rocksdb), best(Kind::Fjall));
        let ratio = self.against(figure, P999, rocksdb);
        let to_fjall = self.against(figure, P999, fjall);
        let max = self.ours(figure, MAX_MS);
        let bar = |text, times, ms| Bar::at_most(text, ratio, times).and(Bar::at_most("", max, ms));
        let p999 = self.ours_text(figure, P999_MS, "ms");
        let max_text = self.ours_text(figure, MAX_MS, "ms");
        Row {
            work: "W5 overwrites, p99.9: against RocksDB; and the longest",
            ours: two(p999, "", max_text, "the longest"),
            peer: self.both(figure, P999_MS, "ms", rocksdb, fjall),
            raw: None,
            ratio: two(ratio.map(times), "RocksDB", to_fjall.map(times), "fjall"),
            floor: bar("<= 1x; <= 50 ms", 1.0, 50.0),
            aim: bar("<= 0.5x; <= 20 ms", 0.5, 20.0),
        }
    }

    fn publish(&self) -> Row {
        let [small, large] = [VbucketSize::Small, VbucketSize::Large].map(|size| Wait {
            longest: self.longest_wait(size),
            publish: self.ours(Figure::Publish { size }, AMOUNT),
        });
        let ratio = self.large_by_small();
        let bar = |text, bar| {
            Bar::at_most(text, small.longest, bar).and(Bar::at_most("", large.longest, bar))
        };
        Row {
            work: "W5 longest wait of a commit for a publish, 10 MB / 1 GB vbucket",
            ours: joined([small.text(), large.text()]),
            peer: None,
            raw: None,
            ratio: ratio.map(times),
            floor: bar("<= 1 ms, equal", 1000.0).and(Bar::at_most("", ratio, EQUAL)),
            aim: bar("<= 100 us", 100.0),
        }
    }

    fn space(&self) -> Row {
        let figures = [Figure::SpacePeak, Figure::SpaceCompacted];
        let [peak, compacted] = figures.map(|figure| self.ours(figure, AMOUNT));
        let best = |figure| self.best(figure, AMOUNT, Better::Lower, &Kind::LSM);
        let bar = |text, most, after| {
            Bar::at_most(text, peak, most).and(Bar::at_most("", compacted, after))
        };
        Row {
            work: "W5 bytes on disk for live bytes: most / after a major compaction",
            ours: joined(figures.map(|figure| self.ours_text(figure, AMOUNT, "x"))),
            peer: joined(figures.map(|figure| self.peer_text(figure, AMOUNT, "x", best(figure)))),
            raw: None,
            ratio: joined(figures.map(|figure| {
                let ratio = self.against(figure, AMOUNT, best(figure));
                ratio.map(times)
            })),
            floor: bar("<= 3 / <= 1.4", 3.0, 1.4),
            aim: bar("<= 2.2 / <= 1.30", 2.2, 1.3),
        }
    }

    fn write_amplification(&self) -> Row {
        let figure = Figure::WriteAmplification { is_settled: false };
        let settled = Figure::WriteAmplification { is_settled: true };
        let best = |kind| self.best(figure, AMOUNT, Better::Lower, &[kind]);
        let (rocksdb, fjall) = (best(Kind::Rocksdb), best(Kind::Fjall));
        let ratio = self.against(figure, AMOUNT, rocksdb);
        let to_fjall = self.against(figure, AMOUNT, fjall);
        let ours = self.ours_text(figure, AMOUNT, "x");
        Row {
            work: "W5 bytes written, log included, for bytes overwritten: against RocksDB",
            ours: two(ours, "", self.ours_text(settled, AMOUNT, "x"), "settled"),
            peer: self.both(figure, AMOUNT, "x", rocksdb, fjall),
            raw: None,
            ratio: two(ratio.map(times), "RocksDB", to_fjall.map(times), "fjall"),
            floor: Bar::at_most("<= RocksDB", ratio, 1.0),
            aim: Bar::at_most("<= 4", self.ours(figure, AMOUNT), 4.0),
        }
    }

    fn reads(&self) -> Row {
        let of = |what, is_compacting| Figure::Read {
            what,
            is_compacting,
        };
        let ratio = |what| self.own(of(what, true), of(what, false), P99);
        let (get, scan) = (ratio(Read::Get), ratio(Read::Scan));
        let both = |is_compacting| {
            let text = |what| self.ours_text(of(what, is_compacting), P99, "us");
            joined([text(Read::Get), text(Read::Scan)])
        };
        let bar = |text, bar| Bar::at_most(text, get, bar).and(Bar::at_most("", scan, bar));
        Row {
            work: "W5 get / scan of a vbucket while compacting, p99: against nothing compacting",
            ours: both(true),
            peer: both(false).map(|text| format!("idle: {text}")),
            raw: None,
            ratio: joined([get.map(times), scan.map(times)]),
            floor: bar("<= 2x", 2.0),
            aim: bar("<= 1.3x", 1.3),
        }
    }

    /// RocksDB, and fjall beside it.
    fn both(
        &self,
        figure: Figure,
        pick: Pick,
        unit: &str,
        rocksdb: Option<Column>,
        fjall: Option<Column>,
    ) -> Option<String> {
        let text = |peer| self.peer_text(figure, pick, unit, peer);
        two(text(rocksdb), "", text(fjall), "")
    }

    /// The longest of a round, whosever commit it was.
    fn longest_waits(&self, size: VbucketSize) -> Vec<f64> {
        let of = |whose| {
            let figure = Figure::MeetPublish { size, whose };
            self.0.samples(figure, Column::PIGGIN).iter()
        };
        let rounds = of(Whose::Same).zip(of(Whose::Other));
        rounds
            .map(|(same, other)| same.amount.max(other.amount))
            .collect()
    }

    fn longest_wait(&self, size: VbucketSize) -> Option<Summary> {
        Summary::of(self.longest_waits(size))
    }

    fn large_by_small(&self) -> Option<Summary> {
        let large = self.longest_waits(VbucketSize::Large).into_iter();
        let rounds = large.zip(self.longest_waits(VbucketSize::Small));
        Summary::of(rounds.map(|(large, small)| large / small))
    }
}

/// For a publish, and the publish itself, in microseconds.
#[derive(Clone, Copy)]
struct Wait {
    longest: Option<Summary>,
    publish: Option<Summary>,
}

impl Wait {
    fn text(self) -> Option<String> {
        let longest = super::with_range(self.longest?);
        let publish = super::with_range(self.publish?);
        Some(format!("{longest} us (publish {publish} us)"))
    }
}
