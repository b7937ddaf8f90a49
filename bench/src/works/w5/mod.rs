//! W5: random overwrites while the store compacts, then a major compaction; and what compacting costs those who commit
//! and read meanwhile.
//!
//! Ours takes turns with a twin of its own that seals and never merges; each is held while it is the other's turn. The
//! peers cannot be held and have the machine to themselves. Only those that merge take part.

mod disk;
mod overwrite;
mod publish;
mod reading;

use super::Bench;
use crate::results::{Figure, Sample};
use crate::stores::{Column, Kind};

/// As `actors::executor` has it for compaction.
#[cfg(target_os = "linux")]
const NICE: i32 = 5;

/// What a part of the work measured.
type Samples = Vec<(Figure, Column, Sample)>;

/// Measures everything of the columns that take part.
pub(crate) fn run(bench: &mut Bench, round: usize) {
    for column in bench.columns_of_round(round) {
        match column.kind {
            Kind::Piggin => {
                quietly(bench, |bench| overwrite::ours(bench, round));
                quietly(bench, publish::run);
            }
            Kind::Fjall | Kind::Rocksdb => {
                quietly(bench, |bench| overwrite::peer(bench, column, round));
            }
            Kind::Redb | Kind::Lmdb => {}
        }
    }
}

/// A part with a quiet disk before, which it sees to, and after.
fn quietly(bench: &mut Bench, part: impl Fn(&mut Bench) -> Samples) {
    let mut attempt = 1;
    loop {
        let samples = part(bench);
        if bench.raw.is_quiet() || !bench.raw.try_again(attempt) {
            for (figure, column, sample) in samples {
                bench.results.add(figure, column, sample);
            }
            return;
        }
        attempt += 1;
    }
}

/// A figure that is a number and nothing else.
fn number(amount: f64, bytes_on_disk: Option<u64>) -> Sample {
    Sample {
        amount,
        operations: 1,
        latency: None,
        bytes_on_disk,
        processor: Default::default(),
        raw: None,
    }
}

/// Has the calling thread give way to others, as a bucket has the threads that compact.
fn give_way() {
    #[cfg(target_os = "linux")]
    rustix::process::setpriority_process(None, NICE).unwrap();
}
