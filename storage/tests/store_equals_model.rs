//! Every store does what a simple model of it does, whatever it is asked.
//!
//! The seeds are fixed, so that a failure is found again; the seed that failed is printed. The canaries show that
//! the suite can see: each is a good store with one fault, and must be found.
#![cfg(test)]

mod support;
mod model;
mod canary;

const SEEDS: std::ops::Range<u64> = 0..120;
const STEPS: u64 = 300;

#[test]
fn whatever_it_is_asked() {
    for factory in support::factories_and_one_with_history() {
        for seed in SEEDS {
            model::run(seed, STEPS, factory.as_ref());
        }
    }
}

#[test]
fn over_a_long_history() {
    for factory in support::factories_and_one_with_history() {
        model::run(0xb0a7, STEPS * 10, factory.as_ref());
    }
}

#[test]
fn planted_faults_are_found() {
    assert!(!canary::Fault::Nothing.is_found(0..3, STEPS));
    for fault in canary::FAULTS {
        assert!(fault.is_found(0..20, STEPS), "{fault:?} was not found");
    }
}
