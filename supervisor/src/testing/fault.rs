//! Faults by name: what a test may ask to go wrong, and when.
//!
//! Invariant: a fault counts only what concerns it and strikes exactly once, at the n-th (the first is 1) since it was
//! added; so the same plan on the same seed strikes at the same moment. Nothing here is random.

use std::any::type_name;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use actors::hooks::{Delivery, FaultPoint, Passing};
use messages::failure::{CompactionStage, ScanPurpose};
use messages::{ChildName, FailureCause};
use storage::disk::{DiskErrorKind, SyncFailure, Verb};

/// Something that shall go wrong.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Fault {
    /// The n-th step of a scan, for whomever it is read, fails; the scan must end as failed, never as complete
    /// (MB-47790).
    ScanAt(u64),
    /// As [`Fault::ScanAt`], counting only scans of this purpose.
    ScanFor(ScanPurpose, u64),
    /// The next pass of a compaction at this stage fails. Of a failed pass over a collection only that stays as it was;
    /// after any other nothing of the compaction may be published (MB-50060).
    CompactionPass(CompactionStage),
    /// The n-th read of a document that is not in memory fails; whoever asked must be told, never that there is none.
    FetchAt(u64),
    /// The n-th group a writer hands to the store fails before the store sees it; it must be tried again.
    FlushCommit(u64),
    /// The handling of the n-th message of a type panics. Made by [`Fault::panic_on`].
    PanicOn {
        /// The type, as [`std::any::type_name`] gives it.
        message: &'static str,
        /// Which, counted over all children.
        nth: u64,
    },
    /// A child panics: an actor in the handling of its n-th message, a worker in its n-th step.
    PanicIn {
        /// Who.
        child: ChildName,
        /// Which message or step.
        nth: u64,
    },
    /// A child, actor or worker, does nothing for so long, from its next message or step on.
    Stall {
        /// Who.
        child: ChildName,
        /// How long, in virtual time.
        time: Duration,
    },
    /// A call on the disk goes wrong.
    Disk(DiskFault),
}

impl Fault {
    /// The handling of the n-th message of type `M` panics.
    #[must_use]
    pub fn panic_on<M>(nth: u64) -> Fault {
        Fault::PanicOn {
            message: type_name::<M>(),
            nth,
        }
    }
}

/// Which call on the disk, and what becomes of it.
#[derive(Clone, Debug)]
pub struct DiskFault {
    /// Files whose names begin so; empty for all.
    pub files: String,
    /// Only calls of this verb.
    pub verb: Option<Verb>,
    /// Which of those calls, the next one being 1.
    pub nth: u64,
    /// Every call from then on, not one.
    pub is_lasting: bool,
    /// What happens.
    pub effect: DiskEffect,
}

/// What becomes of a call that is struck.
#[derive(Clone, Debug)]
pub enum DiskEffect {
    /// It fails, and nothing is done.
    Fail(DiskErrorKind),
    /// A write writes only so many bytes and fails.
    ShortWrite(usize, DiskErrorKind),
    /// A sync fails and loses what it should have made durable.
    LoseSync(SyncFailure),
}

impl DiskFault {
    /// The n-th call of `verb` on files whose names begin with `files` fails with `kind`.
    #[must_use]
    pub fn fail(verb: Verb, files: &str, nth: u64, kind: DiskErrorKind) -> DiskFault {
        DiskFault {
            files: files.to_owned(),
            verb: Some(verb),
            nth,
            is_lasting: false,
            effect: DiskEffect::Fail(kind),
        }
    }

    /// The n-th sync of files whose names begin with `files` fails and loses its pages.
    #[must_use]
    pub fn lose_sync(files: &str, nth: u64, failure: SyncFailure) -> DiskFault {
        DiskFault {
            files: files.to_owned(),
            verb: None,
            nth,
            is_lasting: false,
            effect: DiskEffect::LoseSync(failure),
        }
    }

    /// The same, in the simulated disk's terms.
    #[must_use]
    pub fn to_simulated(&self) -> storage::disk::Fault {
        use storage::disk::Fault as Simulated;
        let mut fault = match &self.effect {
            DiskEffect::Fail(kind) => Simulated::failed_call(kind.clone()),
            DiskEffect::ShortWrite(bytes, kind) => Simulated::short_write(*bytes, kind.clone()),
            DiskEffect::LoseSync(failure) => Simulated::failed_sync(*failure),
        };
        // A short write is of a write, a lost sync of a sync, whatever else was said.
        if let (Some(verb), DiskEffect::Fail(_)) = (self.verb, &self.effect) {
            fault = fault.on(verb);
        }
        fault = fault.of_files(&self.files).nth(self.nth);
        if self.is_lasting {
            fault = fault.lasting();
        }
        fault
    }
}

/// The faults that wait to strike. A clone is the same plan. Disk faults wait in the simulated disk instead.
#[derive(Clone, Debug, Default)]
pub struct FaultPlan {
    faults: Arc<Mutex<Faults>>,
}

#[derive(Debug, Default)]
struct Faults {
    waiting: Vec<Waiting>,
    struck: Vec<Fault>,
}

#[derive(Debug)]
struct Waiting {
    fault: Fault,
    /// Matching occasions that still pass.
    before: u64,
}

impl FaultPlan {
    /// A plan in which nothing goes wrong.
    #[must_use]
    pub fn new() -> FaultPlan {
        FaultPlan::default()
    }

    /// Adds a fault; one of the disk is no matter of this plan and is given back.
    pub fn add(&self, fault: Fault) -> Result<(), DiskFault> {
        let nth = match &fault {
            Fault::ScanAt(nth)
            | Fault::ScanFor(_, nth)
            | Fault::FetchAt(nth)
            | Fault::FlushCommit(nth)
            | Fault::PanicOn { nth, .. }
            | Fault::PanicIn { nth, .. } => *nth,
            Fault::CompactionPass(_) | Fault::Stall { .. } => 1,
            Fault::Disk(fault) => return Err(fault.clone()),
        };
        self.faults.lock().waiting.push(Waiting {
            fault,
            before: nth.saturating_sub(1),
        });
        Ok(())
    }

    /// How many have not struck.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.faults.lock().waiting.len()
    }

    /// Those that have struck, oldest first.
    #[must_use]
    pub fn struck(&self) -> Vec<Fault> {
        self.faults.lock().struck.clone()
    }

    /// Takes all away, those that have struck, too.
    pub fn clear(&self) {
        *self.faults.lock() = Faults::default();
    }

    pub(crate) fn at(&self, point: FaultPoint) -> Option<FailureCause> {
        let struck = self.strike(|fault| match (fault, point) {
            (Fault::ScanAt(_), FaultPoint::Scan { .. })
            | (Fault::FetchAt(_), FaultPoint::Fetch)
            | (Fault::FlushCommit(_), FaultPoint::FlushCommit) => true,
            (Fault::ScanFor(wanted, _), FaultPoint::Scan { purpose }) => *wanted == purpose,
            (Fault::CompactionPass(wanted), FaultPoint::Compaction { stage }) => *wanted == stage,
            _ => false,
        })?;
        Some(struck.cause())
    }

    pub(crate) fn on_message(&self, passing: &Passing<'_>) -> Delivery {
        let is_meant = |fault: &Fault| matches!(fault, Fault::PanicOn { message, .. } if *message == passing.type_name);
        delivery(self.strike(|fault| is_meant(fault) || concerns(fault, passing.child)))
    }

    pub(crate) fn on_step(&self, who: &ChildName) -> Delivery {
        delivery(self.strike(|fault| concerns(fault, who)))
    }

    /// Counts one occasion for every fault it concerns, and takes the first one that is due.
    fn strike(&self, concerns: impl Fn(&Fault) -> bool) -> Option<Fault> {
        let mut faults = self.faults.lock();
        let mut due = None;
        for (index, one) in faults.waiting.iter_mut().enumerate() {
            if !concerns(&one.fault) {
                continue;
            }
            if one.before > 0 {
                one.before -= 1;
            } else if due.is_none() {
                due = Some(index);
            }
        }
        let struck = faults.waiting.remove(due?).fault;
        faults.struck.push(struck.clone());
        Some(struck)
    }
}

/// Whether it is a fault of whatever this child does next.
fn concerns(fault: &Fault, who: &ChildName) -> bool {
    matches!(fault, Fault::PanicIn { child, .. } | Fault::Stall { child, .. } if child == who)
}

impl Fault {
    /// What the panic says that this fault causes.
    #[must_use]
    pub fn panic_text(&self) -> String {
        format!("injected: {self:?}")
    }

    /// The cause of the failure that this fault makes of a piece of work.
    #[must_use]
    pub fn cause(&self) -> FailureCause {
        FailureCause::Injected(format!("{self:?}"))
    }
}

fn delivery(struck: Option<Fault>) -> Delivery {
    match struck {
        None => Delivery::Handle,
        Some(Fault::Stall { time, .. }) => Delivery::After(time),
        Some(fault) => Delivery::Panic(fault.panic_text()),
    }
}
