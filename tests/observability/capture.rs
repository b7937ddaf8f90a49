//! Captures what the program logs and counts. Tests take turns, for both are global.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use metrics::{
    Counter, CounterFn, Gauge, GaugeFn, Histogram, Key, KeyName, Metadata, Recorder, SharedString,
    Unit,
};
use parking_lot::{Mutex, MutexGuard};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Subscriber};

/// Fields of a span or event, by name.
pub(crate) type Fields = BTreeMap<String, String>;

/// What was captured.
#[derive(Debug, Default)]
pub(crate) struct Capture {
    turn: Mutex<()>,
    spans: Mutex<Vec<(String, Fields)>>,
    errors: Mutex<Vec<Fields>>,
    figures: Mutex<BTreeMap<String, Arc<Figure>>>,
    last_span: AtomicU64,
}

/// Somebody's turn; nothing of an earlier one is seen.
#[derive(Debug)]
pub(crate) struct Turn {
    capture: &'static Arc<Capture>,
    _turn: MutexGuard<'static, ()>,
}

impl Turn {
    pub(crate) fn take() -> Turn {
        static CAPTURE: OnceLock<Arc<Capture>> = OnceLock::new();
        let capture = CAPTURE.get_or_init(|| {
            let capture = Arc::new(Capture::default());
            tracing::subscriber::set_global_default(Watcher(Arc::clone(&capture))).unwrap();
            metrics::set_global_recorder(Meter(Arc::clone(&capture))).unwrap();
            capture
        });
        let turn = capture.turn.lock();
        capture.spans.lock().clear();
        capture.errors.lock().clear();
        capture.figures.lock().values().for_each(|one| one.set(0.0));
        Turn {
            capture,
            _turn: turn,
        }
    }

    /// The spans of that name so far.
    pub(crate) fn spans(&self, name: &str) -> Vec<Fields> {
        let spans = self.capture.spans.lock();
        let named = spans.iter().filter(|(one, _)| one == name);
        named.map(|(_, fields)| fields.clone()).collect()
    }

    /// The failures logged so far.
    pub(crate) fn logged_failures(&self) -> Vec<Fields> {
        let errors = self.capture.errors.lock();
        let failures = errors.iter().filter(|one| one.contains_key("failure"));
        failures.cloned().collect()
    }

    /// A counter or gauge, by name and labels.
    pub(crate) fn figure(&self, name: &str) -> Option<f64> {
        let figures = self.capture.figures.lock();
        figures.get(name).map(|one| one.get())
    }
}

struct Watcher(Arc<Capture>);

#[derive(Default)]
struct Visitor(Fields);

impl Visit for Visitor {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.0.insert(field.name().to_owned(), format!("{value:?}"));
    }
}

impl Subscriber for Watcher {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        metadata.target().starts_with("piggin")
    }

    fn new_span(&self, attributes: &Attributes<'_>) -> Id {
        let mut visitor = Visitor::default();
        attributes.record(&mut visitor);
        let name = attributes.metadata().name().to_owned();
        self.0.spans.lock().push((name, visitor.0));
        Id::from_u64(self.0.last_span.fetch_add(1, Ordering::Relaxed) + 1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        if *event.metadata().level() == Level::ERROR {
            let mut visitor = Visitor::default();
            event.record(&mut visitor);
            self.0.errors.lock().push(visitor.0);
        }
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

struct Meter(Arc<Capture>);

/// The bits of a float.
#[derive(Debug, Default)]
struct Figure(AtomicU64);

impl Figure {
    fn get(&self) -> f64 {
        f64::from_bits(self.0.load(Ordering::SeqCst))
    }

    fn change(&self, change: impl Fn(f64) -> f64) {
        let changed = |bits| Some(change(f64::from_bits(bits)).to_bits());
        self.0
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, changed)
            .unwrap();
    }
}

#[expect(clippy::cast_precision_loss, reason = "the counts of a test are small")]
impl CounterFn for Figure {
    fn increment(&self, value: u64) {
        self.change(|old| old + value as f64);
    }

    fn absolute(&self, value: u64) {
        self.change(|_| value as f64);
    }
}

impl GaugeFn for Figure {
    fn increment(&self, value: f64) {
        self.change(|old| old + value);
    }

    fn decrement(&self, value: f64) {
        self.change(|old| old - value);
    }

    fn set(&self, value: f64) {
        self.change(|_| value);
    }
}

impl Meter {
    fn figure(&self, key: &Key) -> Arc<Figure> {
        let labels = key.labels().map(|label| format!("{{{}}}", label.value()));
        let name = key.name().to_owned() + &labels.collect::<String>();
        let mut figures = self.0.figures.lock();
        Arc::clone(figures.entry(name).or_default())
    }
}

impl Recorder for Meter {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        Counter::from_arc(self.figure(key))
    }

    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::from_arc(self.figure(key))
    }

    fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::noop()
    }
}
