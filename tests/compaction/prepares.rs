//! Which prepares were erased is told once they are gone, also to one whose mailbox is full at that moment.

use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;
use parking_lot::Mutex;
use piggin::messages::compactor::PreparesErased;
use piggin::storage::{Incarnation, RollbackEpoch};
use supervisor::testing::World;

use crate::seeds::past::{self, PLAIN, VBUCKET};

/// Reads one message, then nothing for a minute.
struct Slow(Arc<Mutex<Vec<PreparesErased>>>);

impl Actor for Slow {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Context<Self>) {
        ctx.set_mailbox_capacity(1);
        ctx.wait(fut::wrap_future(tokio::time::sleep(Duration::from_secs(
            60,
        ))));
    }
}

impl Handler<PreparesErased> for Slow {
    type Result = ();

    fn handle(&mut self, message: PreparesErased, _: &mut Context<Self>) {
        self.0.lock().push(message);
    }
}

#[test]
fn a_full_mailbox_delays_and_loses_nothing() {
    World::run(11, async |world: World| {
        past::write(&world);
        let bucket = world.open(past::config(&world)).await.expect("a bucket");
        let heard = Arc::<Mutex<Vec<PreparesErased>>>::default();
        let slow = Slow(Arc::clone(&heard)).start();
        world.sleep(Duration::from_millis(1)).await;
        let filler = PreparesErased {
            vbucket: VBUCKET,
            incarnation: Incarnation(0),
            epoch: RollbackEpoch(0),
            prepares: Vec::new(),
        };
        let mut fillers = 0;
        while slow.try_send(filler.clone()).is_ok() {
            fillers += 1;
        }
        bucket.tell_erased_prepares(slow.recipient());
        let compacted = bucket.compact(VBUCKET, PLAIN).await.expect("a compaction");
        world.sleep(Duration::from_secs(50)).await;
        assert_eq!(heard.lock().len(), 0, "it reads nothing");
        world.sleep(Duration::from_secs(20)).await;
        let heard = heard.lock().split_off(fillers);
        let [told] = &heard[..] else {
            panic!("{heard:?}");
        };
        assert_eq!(told.prepares, compacted.prepares_erased);
        assert_eq!(told.prepares.len(), 2);
        bucket.shutdown().await.expect("an orderly end");
    })
    .expect("a run that ends");
}
