//! The tables: targets first, then everything that was measured.

mod comparison;
mod targets;
mod bucket_targets;

use crate::bucket::BucketBench;
use crate::raw::RawDisk;
use crate::results::{Measure, Measured, Results, Sample};
use crate::statistics::Summary;
use crate::works::Bench;

/// Prints both tables of the storage to standard output.
pub(crate) fn print_storage(bench: &Bench) {
    print_targets("Storage", &targets::rows(&bench.results));
    println!();
    print_targets("Compaction", &targets::compaction_rows(&bench.results));
    let shape = format!("Rounds: {}, vbuckets: {}", bench.rounds, bench.vbuckets);
    print_discarded(&shape, &bench.raw);
    print_figures(&bench.results);
}

/// Prints both tables of the bucket to standard output.
pub(crate) fn print_bucket(bench: &BucketBench) {
    print_targets("Bucket", &bucket_targets::rows(bench));
    let vbuckets: Vec<String> = bench.vbuckets.iter().map(ToString::to_string).collect();
    let rounds = bench.storage.rounds;
    let shape = format!("Rounds: {rounds}, vbuckets: {}", vbuckets.join(" and "));
    print_discarded(&shape, &bench.storage.raw);
    print_figures(&bench.results);
}

fn print_targets(of: &str, rows: &[Row]) {
    println!("## {of} against its targets\n");
    println!("| work | ours | best peer | raw | ratio | floor | aim | met? |");
    println!("|---|---|---|---|---|---|---|---|");
    for row in rows {
        println!("{row}");
    }
}

fn print_discarded(shape: &str, raw: &RawDisk) {
    let (discarded, loud) = raw.discarded_and_loud();
    println!(
        "\n{shape}; thrown away because the disk was busy: {discarded}, measured although it was: {loud}."
    );
}

fn print_figures<F: Measure, C: Measured>(results: &Results<F, C>) {
    println!("\n## Every figure\n");
    println!(
        "Medians over the rounds, with the range of the rate. Times of one operation or batch in us.\n"
    );
    println!(
        "| work | store | rate | p50 | p99 | p99.9 | max | MB on disk | CPU s | caller's CPU us each | raw p50 | raw rate |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|---|---|");
    for (figure, column, samples) in results.iter() {
        print_samples(figure, column, samples);
    }
}

fn print_samples<F: Measure, C: Measured>(figure: F, column: C, samples: &[Sample]) {
    let of = |pick: &dyn Fn(&Sample) -> Option<f64>| Summary::of(samples.iter().filter_map(pick));
    let median = |pick: &dyn Fn(&Sample) -> Option<f64>| match of(pick) {
        Some(summary) => number(summary.median),
        None => "-".to_owned(),
    };
    let rate = of(&|sample| Some(sample.amount));
    println!(
        "| {figure} | {column} | {} {} | {} | {} | {} | {} | {} | {} | {} | {} | {} |",
        rate.map_or_else(|| "-".to_owned(), with_range),
        figure.unit(),
        median(&|sample| sample.latency.map(|latency| latency.p50)),
        median(&|sample| sample.latency.map(|latency| latency.p99)),
        median(&|sample| sample.latency.map(|latency| latency.p999)),
        median(&|sample| sample.latency.map(|latency| latency.max)),
        median(&|sample| sample.bytes_on_disk.map(|bytes| bytes as f64 / 1e6)),
        median(&|sample| Some(sample.processor.process)),
        median(&|sample| (sample.operations > 1).then(|| sample.thread_us_each())),
        median(&|sample| sample.raw.and_then(|raw| raw.p50_us)),
        median(&|sample| sample.raw.and_then(|raw| raw.amount)),
    );
}

/// One row of the targets.
struct Row {
    work: &'static str,
    ours: Option<String>,
    peer: Option<String>,
    raw: Option<String>,
    ratio: Option<String>,
    floor: Bar,
    aim: Bar,
}

/// A target, and whether it was met, where that was measured.
struct Bar {
    text: &'static str,
    met: Option<bool>,
}

impl Bar {
    fn new(text: &'static str, met: Option<bool>) -> Bar {
        Bar { text, met }
    }

    /// A figure, at least this.
    fn at_least(text: &'static str, figure: Option<Summary>, bar: f64) -> Bar {
        Bar::new(text, figure.map(|figure| figure.median >= bar))
    }

    /// A figure, at most this.
    fn at_most(text: &'static str, figure: Option<Summary>, bar: f64) -> Bar {
        Bar::new(text, figure.map(|figure| figure.median <= bar))
    }

    fn and(self, other: Bar) -> Bar {
        let met = match (self.met, other.met) {
            (Some(false), _) | (_, Some(false)) => Some(false),
            (Some(true), Some(true)) => Some(true),
            _ => None,
        };
        Bar { met, ..self }
    }
}

impl std::fmt::Display for Row {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let or_dash = |cell: &Option<String>| cell.clone().unwrap_or_else(|| "-".to_owned());
        let answer = |bar: &Bar| match bar.met {
            Some(true) => "yes",
            Some(false) => "no",
            None => "not measured",
        };
        write!(
            f,
            "| {} | {} | {} | {} | {} | {} | {} | floor: {}, aim: {} |",
            self.work,
            or_dash(&self.ours),
            or_dash(&self.peer),
            or_dash(&self.raw),
            or_dash(&self.ratio),
            self.floor.text,
            self.aim.text,
            answer(&self.floor),
            answer(&self.aim),
        )
    }
}

fn times(ratio: Summary) -> String {
    let text = |ratio: f64| format!("{ratio:.2}");
    if ratio.least == ratio.most {
        return format!("{}x", text(ratio.median));
    }
    let (least, most) = (text(ratio.least), text(ratio.most));
    format!("{}x ({least} to {most})", text(ratio.median))
}

fn with_range(summary: Summary) -> String {
    if summary.least == summary.most {
        return number(summary.median);
    }
    let (least, most) = (number(summary.least), number(summary.most));
    format!("{} ({least} to {most})", number(summary.median))
}

/// Three digits that say something.
fn number(value: f64) -> String {
    match value.abs() {
        large if large >= 999_500.0 => format!("{:.2}M", value / 1e6),
        large if large >= 99_950.0 => format!("{:.0}k", value / 1e3),
        middle if middle >= 99.95 => format!("{value:.0}"),
        middle if middle >= 9.995 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

/// Figures that belong together in one cell.
fn joined(cells: impl IntoIterator<Item = Option<String>>) -> Option<String> {
    let cells: Option<Vec<String>> = cells.into_iter().collect();
    cells.map(|cells| cells.join(" / "))
}

/// Two figures in one cell.
fn two(a: Option<String>, to_a: &str, b: Option<String>, to_b: &str) -> Option<String> {
    let a = a.map(|ratio| format!("{ratio} {to_a}").trim_end().to_owned());
    let b = b.map(|ratio| format!("{ratio} {to_b}").trim_end().to_owned());
    match (a, b) {
        (Some(a), Some(b)) => Some(format!("{a}; {b}")),
        (a, b) => a.or(b),
    }
}
