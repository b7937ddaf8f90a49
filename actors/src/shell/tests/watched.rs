//! What a harness sees of a child's messages, and what it may do to them.

use super::*;

/// Says what becomes of the first messages, and which it saw in which life.
#[derive(Debug)]
struct Harness {
    deliveries: Mutex<Vec<Delivery>>,
    seen: Mutex<Vec<(u64, String)>>,
}

impl Harness {
    fn new<const N: usize>(mut deliveries: [Delivery; N]) -> Arc<Harness> {
        deliveries.reverse();
        Arc::new(Harness {
            deliveries: Mutex::new(deliveries.to_vec()),
            seen: Mutex::default(),
        })
    }

    fn seen(&self) -> Vec<(u64, String)> {
        self.seen.lock().clone()
    }
}

impl Hook for Harness {
    fn message(&self, passing: &Passing<'_>) -> Delivery {
        assert_eq!(passing.child.as_str(), "it");
        let what = passing.message.downcast_ref::<Do>();
        let what = what.map_or_else(|| "other".to_owned(), |what| format!("{what:?}"));
        self.seen.lock().push((passing.generation.0, what));
        self.deliveries.lock().pop().unwrap_or(Delivery::Handle)
    }
}

fn watched(harness: &Arc<Harness>) -> Setting {
    let hooks = Hooks::new(Arc::clone(harness) as _);
    Setting::watched(None, Stopping::Done, &hooks)
}

#[test]
fn a_harness_sees_each_message_once_and_may_make_it_panic() {
    run(async {
        let harness = Harness::new([
            Delivery::Handle,
            Delivery::Panic("planted".to_owned()),
            Delivery::Handle,
        ]);
        let it = watched(&harness);
        assert_eq!(it.ask(Do::Answer).await, Ok(1));
        let asked = join(it.ask(Do::Answer), it.ask(Do::AnswerLater));
        assert_eq!(asked.await, (crashed(), Ok(2)));
        assert_eq!(it.notes.told(), ["1: up", "1: message x1", "2: up"]);
        let seen = ["Answer", "Answer", "AnswerLater"].map(str::to_owned);
        let lives = [1, 1, 2].into_iter();
        assert_eq!(harness.seen(), lives.zip(seen).collect::<Vec<_>>());
    });
}

#[test]
fn a_message_held_up_holds_up_those_behind_it_and_counts_as_work() {
    run(async {
        let held = Duration::from_secs(9);
        let harness = Harness::new([Delivery::After(held), Delivery::Handle]);
        let it = watched(&harness);
        let begin = Instant::now();
        let looks = async {
            sleep(Duration::from_secs(1)).await;
            let first = it.notes.tether.pulse();
            sleep(Duration::from_secs(7)).await;
            (first, it.notes.tether.pulse())
        };
        let (one, other, pulse) = join3(it.ask(Do::Answer), it.ask(Do::Answer), looks).await;
        assert_eq!((one, other), (Ok(1), Ok(1)));
        assert_eq!(begin.elapsed(), held);
        assert!(pulse.0 % 2 == 1 && pulse.0 == pulse.1, "{pulse:?}");
        assert_eq!(it.notes.tether.pulse() % 2, 0);
        assert_eq!(harness.seen().len(), 2);
    });
}

#[test]
fn a_message_held_up_over_a_restart_is_served_by_the_next_generation() {
    run(async {
        let harness = Harness::new([Delivery::Handle, Delivery::After(Duration::from_secs(9))]);
        let it = watched(&harness);
        assert_eq!(it.ask(Do::Answer).await, Ok(1));
        let order = async {
            sleep(Duration::from_secs(1)).await;
            it.notes.tether.give(|orders| orders.resets += 1);
        };
        let (one, other, ()) = join3(it.ask(Do::Answer), it.ask(Do::Answer), order).await;
        assert_eq!((one, other), (Ok(2), Ok(2)));
        assert_eq!(harness.seen().len(), 3);
    });
}
