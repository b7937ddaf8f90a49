//! A worker panics, wherever in the store it is: the store is opened anew through recovery, never used on as it is,
//! every request in hand is answered as lost, the flusher learns behind a barrier what is on disk, and everything
//! reaches it once (rule R19, design section 8).
#![cfg(test)]

mod disk_side;

use std::sync::Arc;

use disk_side::panicking_disk::PanickingDisk;
use disk_side::rig::{Rig, create, options};
use messages::Generation;
use piggin_actors::flusher::Flushable;
use storage::LogStore;
use storage::disk::{Disk, SimulatedDisk};

/// Without the stack traces of panics that are asked for.
fn quietly() {
    std::panic::set_hook(Box::new(|info| {
        let text = info
            .payload()
            .downcast_ref::<&str>()
            .copied()
            .unwrap_or_default();
        if text != "asked for by the test" {
            println!("{info}");
        }
    }));
}

#[test]
fn a_panic_at_any_call_of_the_disk_loses_nothing() {
    quietly();
    let (mut panics, mut reopened) = (0, 0);
    for seed in 0..8 {
        for n in 0.. {
            let what = format!("seed {seed}, panic at {n}");
            let disk = SimulatedDisk::new();
            let seen = PanickingDisk::new(disk.clone());
            let fuse = seen.fuse.clone();
            let seen: Arc<dyn Disk> = Arc::new(seen);
            let store = create(&seen);
            let mut rig = Rig::on(seed, &disk, &seen, store);
            fuse.set(n);
            for _ in 0..400 {
                rig.random_step();
            }
            fuse.set(-1);
            rig.settle(&what);
            let after: Arc<dyn Disk> = Arc::new(disk.crash(seed));
            let store = LogStore::open(after, options(99)).unwrap();
            rig.check_store(&store, true, &what);
            panics += rig.panics;
            reopened += rig.store.generation().0 - 1;
            if rig.panics == 0 {
                break;
            }
        }
    }
    assert!(
        panics > 100 && reopened == panics,
        "{panics} panics, {reopened} reopenings"
    );
}

/// The store did its work, and the vbucket that was told of it panicked: nobody waits for ever.
#[test]
fn a_vbucket_that_panics_when_told_is_answered_as_lost() {
    quietly();
    for seed in 0..20 {
        let mut rig = Rig::new(seed);
        for _ in 0..100 {
            rig.random_step();
        }
        rig.vbuckets[0].panic_on_notes(1);
        rig.write(0);
        while rig.panics == 0 {
            rig.write(0);
            let _left = rig.flusher.look();
            rig.step_writer(0);
        }
        assert_eq!(rig.store.generation().0, 1, "the store is sound");
        rig.settle("");
        assert_eq!(
            rig.vbuckets[0].persisted_seqno(),
            rig.vbuckets[0].high_seqno()
        );
    }
}

#[test]
fn a_flusher_that_is_made_anew_goes_on_where_the_store_is() {
    for seed in 0..40 {
        let mut rig = Rig::new(seed);
        for _ in 0..6 {
            for _ in 0..60 {
                rig.random_step();
            }
            rig.restart_flusher();
        }
        let what = format!("seed {seed}, {:?}", Generation(seed));
        rig.settle(&what);
        assert_eq!(rig.ground.told.count(), 0, "{what}: nothing failed");
        let after: Arc<dyn Disk> = Arc::new(rig.disk.crash(seed));
        let store = LogStore::open(after, options(99)).unwrap();
        rig.check_store(&store, true, &what);
    }
}
