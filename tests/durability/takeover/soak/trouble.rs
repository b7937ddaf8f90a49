//! What goes wrong in a takeover: each kind on either machine, at each stage, so that each comes up.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::sleep;

use piggin::actors::vbucket::ChangeStep;
use piggin::messages::ChildName;
use piggin::storage::VbucketState;
use piggin::storage::disk::SyncFailure;
use supervisor::testing::{DiskFault, Fault, Random, SimulatedRandom, World};

use super::pair::Pair;
use crate::takeover::{fill_disk, leave_suspect};

/// How far a takeover is, as the roles of both vbuckets show.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Stage {
    /// The target follows, up to `Drain`.
    Follow,
    /// It stands still.
    Ready,
    /// The source is dead, and the target not active.
    Bury,
    /// The target is active.
    Confirm,
}

pub(super) const STAGES: [Stage; 4] = [Stage::Follow, Stage::Ready, Stage::Bury, Stage::Confirm];

fn stage(source: Option<VbucketState>, target: Option<VbucketState>) -> Option<Stage> {
    use VbucketState::{Active, Dead, Pending, Replica};
    match (source?, target?) {
        (Active, Replica) => Some(Stage::Follow),
        (Active, Pending) => Some(Stage::Ready),
        (Dead, Pending) => Some(Stage::Bury),
        (Dead, Active) => Some(Stage::Confirm),
        _ => None,
    }
}

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum What {
    /// The machine loses its power.
    PowerCut,
    /// The process ends.
    Kill,
    /// Nobody waits for the takeover any more.
    GivenUp,
    /// A panic left the vbucket half changed.
    Suspect,
    /// The next change of what the vbucket is panics.
    PanicAtChange,
    /// The disk takes nothing, for a while.
    DiskFull,
    /// A sync fails.
    FailedSync,
    /// A group of batches fails.
    FailedCommit,
    /// A child panics.
    Child(&'static str),
}

pub(super) const KINDS: [What; 13] = [
    What::PowerCut,
    What::Kill,
    What::GivenUp,
    What::Suspect,
    What::PanicAtChange,
    What::DiskFull,
    What::FailedSync,
    What::FailedCommit,
    What::Child("producer"),
    What::Child("consumer"),
    What::Child("flusher"),
    What::Child("durability"),
    What::Child("writer"),
];

/// Of the source, of the target, at each stage.
pub(super) const ALL: usize = KINDS.len() * 2 * STAGES.len();

const SOURCE: usize = 0;
const TARGET: usize = 1;

#[derive(Clone, Copy, Debug)]
struct Trouble {
    what: What,
    /// The source, or the target.
    side: usize,
    stage: Stage,
    delay: Duration,
}

impl Trouble {
    fn numbered(number: usize, draw: u64) -> Trouble {
        let (kind, rest) = (number % KINDS.len(), number / KINDS.len());
        // Half of them strike at once.
        let delay = if draw.is_multiple_of(2) { 0 } else { draw >> 8 };
        Trouble {
            what: KINDS[kind],
            side: rest % 2,
            stage: STAGES[rest / 2 % STAGES.len()],
            delay: Duration::from_millis(delay % 4),
        }
    }
}

/// How often what came, at which stage.
pub(super) type Struck = BTreeMap<(What, Stage), u64>;

/// What goes wrong in one takeover.
pub(super) struct Plan {
    pair: Rc<Pair>,
    /// Numbers of the machines: the source's, the target's.
    sides: [usize; 2],
    waiting: Vec<Trouble>,
    under_way: Vec<JoinHandle<()>>,
    /// What was asked of a machine, and as what that counts if it comes.
    asked: Vec<(usize, Fault, (What, Stage))>,
    /// The machines whose next change of role panics.
    armed: [bool; 2],
    pub(super) give_up: Rc<Notify>,
    random: Arc<SimulatedRandom>,
}

impl Plan {
    /// The trouble of that number, and by chance another.
    pub(super) fn new(
        pair: &Rc<Pair>,
        source: usize,
        number: usize,
        random: Arc<SimulatedRandom>,
    ) -> Plan {
        let first = Trouble::numbered(number % ALL, random.next_u64());
        let mut waiting = vec![first];
        let has_left = first.side == SOURCE && first.stage == Stage::Bury;
        if has_left && matches!(first.what, What::Suspect | What::PanicAtChange) {
            // What is to come of it shows where the source is given back.
            let whats = [What::GivenUp, What::DiskFull];
            let what = whats[number / ALL % whats.len()];
            let delay = Duration::ZERO;
            waiting[0].delay = delay;
            waiting.push(Trouble {
                what,
                delay,
                ..first
            });
        } else if random.next_u64().is_multiple_of(2) {
            let of = u64::try_from(ALL).expect("few");
            let number = usize::try_from(random.next_u64() % of).expect("few");
            waiting.push(Trouble::numbered(number, random.next_u64()));
        }
        Plan {
            pair: Rc::clone(pair),
            sides: [source, 1 - source],
            waiting,
            under_way: Vec::new(),
            asked: Vec::new(),
            armed: [false; 2],
            give_up: Rc::default(),
            random,
        }
    }

    /// None of a machine that ended.
    fn role(&self, side: usize) -> Option<VbucketState> {
        let core = self.pair.core(self.sides[side])?;
        Some(core.identity().state)
    }

    /// The takeover did what it could: what is due now strikes.
    pub(super) fn look(&mut self, struck: &mut Struck, steps: &mut BTreeMap<&'static str, u64>) {
        self.count_steps(steps);
        let now = stage(self.role(SOURCE), self.role(TARGET));
        let (due, waiting) = std::mem::take(&mut self.waiting)
            .into_iter()
            .partition(|one| Some(one.stage) == now && !self.is_early(one));
        self.waiting = waiting;
        for one in due {
            self.strike(one, struck);
        }
    }

    /// What a target takes over from its source when it begins to follow is no change of its role.
    fn is_early(&self, one: &Trouble) -> bool {
        let is_of_change = (one.what, one.side) == (What::PanicAtChange, TARGET);
        let histories = self.sides.map(|at| {
            let identity = self.pair.core(at).map(|core| core.identity());
            identity.map(|identity| identity.failover_table.clone())
        });
        is_of_change && histories[SOURCE] != histories[TARGET]
    }

    /// Whose change of role panicked, by what became of it.
    pub(super) fn count_steps(&mut self, steps: &mut BTreeMap<&'static str, u64>) {
        use VbucketState::{Active, Dead, Pending};
        for side in [SOURCE, TARGET] {
            let Some(core) = self.pair.core(self.sides[side]) else {
                continue;
            };
            if !self.armed[side] || !core.is_suspect() {
                continue;
            }
            if core.disarm() {
                // Something else panicked.
                core.panic_at(ChangeStep::Identified);
                continue;
            }
            self.armed[side] = false;
            let step = match (side, self.role(side)) {
                (SOURCE, Some(Dead)) => "Leave",
                (SOURCE, Some(Active)) => "GiveBack",
                (TARGET, Some(Pending)) => "Ready",
                (TARGET, Some(Active)) => "Crown",
                _ => "another",
            };
            *steps.entry(step).or_default() += 1;
        }
    }

    fn strike(&mut self, one: Trouble, struck: &mut Struck) {
        let (what, stage, at) = (one.what, one.stage, self.sides[one.side]);
        let nth = 1 + self.random.next_u64() % 3;
        let child = |name: &str| ChildName::new(format!("{name}-0"));
        let fault = match what {
            What::PowerCut | What::Kill | What::GivenUp => {
                *struck.entry((what, stage)).or_default() += 1;
                return self.end_soon(what, at, one.delay);
            }
            What::Suspect => {
                if let Some(core) = self.pair.core(at) {
                    leave_suspect(&core);
                    self.armed[one.side] = false;
                    *struck.entry((what, stage)).or_default() += 1;
                }
                return;
            }
            What::PanicAtChange => {
                if let Some(core) = self.pair.core(at) {
                    core.panic_at(ChangeStep::Identified);
                    self.armed[one.side] = true;
                    *struck.entry((what, stage)).or_default() += 1;
                }
                return;
            }
            What::DiskFull => {
                *struck.entry((what, stage)).or_default() += 1;
                return self.fill(at);
            }
            What::FailedSync => {
                let failures = [SyncFailure::KeepsPages, SyncFailure::DropsPages];
                let failure = failures[usize::from(nth == 1)];
                Fault::Disk(DiskFault::lose_sync("", nth, failure))
            }
            What::FailedCommit => Fault::FlushCommit(nth),
            What::Child(name) => {
                let child = child(name);
                Fault::PanicIn { child, nth }
            }
        };
        self.pair.worlds[at].inject(fault.clone());
        self.asked.push((at, fault, (what, stage)));
    }

    fn end_soon(&mut self, what: What, at: usize, delay: Duration) {
        let (pair, give_up) = (Rc::clone(&self.pair), Rc::clone(&self.give_up));
        let end = move || {
            if what == What::PowerCut {
                pair.end(at, World::cut_power);
            } else if what == What::Kill {
                pair.end(at, World::kill);
            } else {
                give_up.notify_one();
            }
        };
        if delay.is_zero() {
            return end();
        }
        self.under_way.push(actix::spawn(async move {
            sleep(delay).await;
            end();
        }));
    }

    /// For less than writes are held, or for more.
    fn fill(&mut self, at: usize) {
        let world = self.pair.worlds[at].clone();
        fill_disk(&world);
        let draw = self.random.next_u64();
        let long = [
            Duration::from_millis(1 + draw % 20),
            Duration::from_secs(20),
        ];
        let time = long[usize::from((draw >> 8).is_multiple_of(2))];
        self.under_way.push(actix::spawn(async move {
            sleep(time).await;
            world.simulated_disk().clear_faults();
        }));
    }

    /// Nothing more goes wrong: counts what came of what was asked.
    pub(super) fn end(self, struck: &mut Struck) {
        for one in self.under_way {
            one.abort();
        }
        for (at, fault, key) in self.asked {
            let world = &self.pair.worlds[at];
            let text = format!("{fault:?}");
            let has_come = if let Fault::Disk(_) = &fault {
                world.simulated_disk().faults_waiting() == 0
            } else {
                let struck = world.faults_struck();
                struck.iter().any(|one| format!("{one:?}") == text)
            };
            *struck.entry(key).or_default() += u64::from(has_come);
        }
        for at in 0..2 {
            self.pair.worlds[at].clear_faults();
            if let Some(core) = self.pair.core(at) {
                core.disarm();
            }
        }
    }
}
