//! A child comes to its end in order, whatever it does meanwhile, and what cannot be caught is noted.

use super::*;

#[test]
fn a_reset_is_noticed_idle_and_in_backoff() {
    run(async {
        let it = Setting::new();
        assert_eq!(it.ask(Do::Answer).await, Ok(1));
        let reset = || it.notes.tether.give(|orders| orders.resets += 1);
        let soon = async {
            sleep(Duration::from_millis(1)).await;
            reset();
        };
        let (waits, ()) = join(it.ask(Do::NeverAnswer), soon).await;
        assert_eq!(waits, Err(FaultCause::Reset));
        let (first, ()) = join(it.ask(Do::Answer), async { reset() }).await;
        assert_eq!(
            first,
            Ok(3),
            "it was not yet looked at: the next life serves it"
        );
        assert_eq!(it.ask(Do::Panic).await, crashed());
        let begin = Instant::now();
        reset();
        assert_eq!(it.ask(Do::Answer).await, Ok(4));
        assert_eq!(begin.elapsed(), Duration::ZERO, "the backoff went on");
        it.notes.tether.give(|orders| {
            orders.resets += 1;
            orders.is_held = true;
        });
        let (held, ()) = join(it.ask(Do::Answer), async {
            sleep(Duration::from_secs(1)).await;
            it.notes.tether.give(|orders| orders.is_held = false);
        })
        .await;
        assert_eq!(held, Ok(5));
        assert_eq!(begin.elapsed(), Duration::from_secs(1));
    });
}

#[test]
fn a_child_told_to_stop_ends_in_order_whatever_it_does() {
    run(async {
        let stop = |it: &Setting| it.notes.tether.give(|orders| orders.must_stop = true);
        let idle = Setting::new();
        assert_eq!(idle.ask(Do::Answer).await, Ok(1));
        stop(&idle);
        assert_eq!(idle.ask(Do::Answer).await, Err(FaultCause::Stopped));
        assert_eq!(idle.notes.told(), ["1: up", "1: stopped"]);

        let paused = Setting::new();
        assert_eq!(paused.ask(Do::Panic).await, crashed());
        stop(&paused);
        let begin = Instant::now();
        assert_eq!(paused.ask(Do::Answer).await, Err(FaultCause::Stopped));
        assert_eq!(begin.elapsed(), Duration::ZERO);

        let slow = Setting::with(None, Stopping::NotYet);
        assert_eq!(slow.ask(Do::Answer).await, Ok(1));
        let soon = async {
            sleep(Duration::from_millis(1)).await;
            stop(&slow);
        };
        let (waits, ()) = join(slow.ask(Do::NeverAnswer), soon).await;
        assert_eq!(waits, Err(FaultCause::Stopped));
        assert_eq!(begin.elapsed(), Duration::from_millis(1001));
    });
}

#[test]
fn a_core_can_give_up_and_finish() {
    run(async {
        let it = Setting::new();
        assert_eq!(it.ask(Do::GiveUp).await, Ok(1));
        *it.notes.stays_down.lock() = true;
        assert_eq!(it.ask(Do::Finish).await, Ok(2));
        assert_eq!(it.ask(Do::Answer).await, Err(FaultCause::Stopped));
        assert!(!it.notes.tether.is_lost());
    });
}

#[test]
fn a_frozen_core_gives_no_sign_of_life_and_answers_at_the_end() {
    run(async {
        let it = Setting::new();
        let begin = Instant::now();
        let (answer, (), queued) = join3(
            async {
                let answer = it.ask(Do::Freeze).await;
                assert_eq!(begin.elapsed(), Duration::from_secs(9), "it came early");
                answer
            },
            async {
                sleep(Duration::from_secs(5)).await;
                assert_eq!(it.notes.tether.pulse() % 2, 1);
            },
            it.ask(Do::Answer),
        )
        .await;
        assert_eq!((answer, queued), (Ok(1), Ok(1)));
        assert_eq!(begin.elapsed(), Duration::from_secs(9));
        assert_eq!(it.notes.tether.pulse() % 2, 0);
    });
}

#[test]
fn what_cannot_be_caught_is_noted() {
    let notes = Notes::new(None);
    let gone = Arc::clone(&notes);
    run(async move {
        let arbiter = Arbiter::new();
        let config = ShellConfig::new(ChildName::new("it"), gone as _);
        let address = start(&arbiter.handle(), config, |generation| Doer {
            generation,
            ticks: Arc::default(),
            stopping: Stopping::Done,
        });
        assert_eq!(
            address.send(Do::Answer).await.expect("up").map(|g| g.0),
            Ok(1)
        );
        arbiter.stop();
        arbiter.join().expect("the thread ends");
        assert!(address.send(Do::Answer).await.is_err());
    });
    assert!(notes.tether.is_lost());
}

#[test]
fn a_child_started_where_nobody_runs_is_noted() {
    let notes = Notes::new(None);
    let gone = Arc::clone(&notes);
    run(async move {
        let arbiter = Arbiter::new();
        let handle = arbiter.handle();
        arbiter.stop();
        arbiter.join().expect("the thread ends");
        let config = ShellConfig::new(ChildName::new("it"), gone as _);
        let address = start(&handle, config, |generation| Doer {
            generation,
            ticks: Arc::default(),
            stopping: Stopping::Done,
        });
        assert!(address.send(Do::Answer).await.is_err());
    });
    assert!(notes.tether.is_lost());
}
