//! The supervision tree as data: who there is, in which order they start, who restarts with whom, and how often.
//!
//! Invariant: nothing here decides or does anything; [`restart`](crate::restart) decides, and
//! [`guardian`](crate::guardian) does. The order in which groups and children are added is the order in which they
//! start; they stop the other way round.
//!
//! ```
//! # use std::time::Duration;
//! # use piggin_supervisor::tree::{Child, Excess, Group, Intensity, Strategy, Tree};
//! let tree = Tree::new(Group::new("bucket"))
//!     // Shards only touch the disk; when a writer must go, so must the flusher that hands it batches.
//!     .group(Group::new("shard-0").strategy(Strategy::RestForOne))
//!     .child(Child::new("writer-0").under("shard-0").stop_deadline(Duration::from_secs(30)))
//!     .child(Child::new("flusher-0").under("shard-0"))
//!     // A vbucket that fails too often goes out of service alone.
//!     .group(Group::new("vb-7").intensity(Intensity { restarts: 3, ..Intensity::default() })
//!         .excess(Excess::OutOfService))
//!     .child(Child::new("vbucket-7").under("vb-7"));
//! assert_eq!(tree.check(), Ok(()));
//! ```

use std::time::Duration;

use messages::ChildName;
use storage::VbucketId;

/// Who is restarted when one child of a group must be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Strategy {
    /// Only it: nobody holds anything of it.
    #[default]
    OneForOne,
    /// It and those that start after it: they build on it.
    RestForOne,
    /// All of the group: they hold each other's positions.
    OneForAll,
}

/// What happens when a group restarts more often than its intensity allows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Excess {
    /// The group counts as a failed child of its parent, which restarts it as a whole, or has had too much itself.
    #[default]
    Parent,
    /// The group goes out of service; the rest goes on. The root always does this.
    OutOfService,
}

/// How many restarts a group is allowed, in which time. Levels multiply: a group of three under a root of three may
/// restart sixteen times before the root gives up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Intensity {
    /// So many restarts are allowed,
    pub restarts: u32,
    /// within this time.
    pub window: Duration,
}

impl Default for Intensity {
    /// Enough for a fault that comes and goes, little enough to be told within seconds of one that stays.
    fn default() -> Intensity {
        Intensity {
            restarts: 5,
            window: Duration::from_secs(60),
        }
    }
}

/// How long a child waits before it is made anew: doubled with each failure within its group's window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    /// After the first failure.
    pub first: Duration,
    /// Never longer than this.
    pub most: Duration,
}

impl Default for Backoff {
    /// Short at first, as a caller waits; then long enough that a lasting fault costs nothing.
    fn default() -> Backoff {
        Backoff {
            first: Duration::from_millis(20),
            most: Duration::from_secs(5),
        }
    }
}

impl Backoff {
    /// The wait after the n-th failure, the first being 1: between half and all of the doubled time, as `jitter`
    /// has it, so that children that failed together do not return together.
    #[must_use]
    pub fn delay(self, failures: u32, jitter: u64) -> Duration {
        let doublings = failures.saturating_sub(1).min(31);
        let full = self.first.saturating_mul(1 << doublings).min(self.most);
        let half = full / 2;
        let spread = u64::try_from(full.saturating_sub(half).as_nanos()).unwrap_or(u64::MAX);
        half + Duration::from_nanos(jitter.checked_rem(spread.saturating_add(1)).unwrap_or(0))
    }
}

/// When a child is restarted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Kind {
    /// Whenever it ends.
    #[default]
    Permanent,
    /// When it failed; not when its work is done.
    Transient,
    /// Never.
    Temporary,
}

/// A group of children that share a fate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// Unique in the tree, among children, too.
    pub name: ChildName,
    /// The group it belongs to; `None` is the root.
    pub parent: Option<ChildName>,
    /// Who restarts with whom.
    pub strategy: Strategy,
    /// How often.
    pub intensity: Intensity,
    /// And if that is not enough.
    pub excess: Excess,
}

impl Group {
    /// A group under the root.
    #[must_use]
    pub fn new(name: &str) -> Group {
        Group {
            name: ChildName::new(name),
            parent: None,
            strategy: Strategy::default(),
            intensity: Intensity::default(),
            excess: Excess::default(),
        }
    }

    /// It belongs to this group.
    #[must_use]
    pub fn under(self, parent: &str) -> Group {
        Group {
            parent: Some(ChildName::new(parent)),
            ..self
        }
    }

    /// Who restarts with whom.
    #[must_use]
    pub fn strategy(self, strategy: Strategy) -> Group {
        Group { strategy, ..self }
    }

    /// How often.
    #[must_use]
    pub fn intensity(self, intensity: Intensity) -> Group {
        Group { intensity, ..self }
    }

    /// What if that is not enough.
    #[must_use]
    pub fn excess(self, excess: Excess) -> Group {
        Group { excess, ..self }
    }
}

/// A child: an actor or a worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Child {
    /// Unique in the tree.
    pub name: ChildName,
    /// The group it belongs to; `None` is the root.
    pub group: Option<ChildName>,
    /// When it is restarted.
    pub kind: Kind,
    /// How long it waits before.
    pub backoff: Backoff,
    /// How long it may take to stop.
    pub stop_deadline: Duration,
    /// How long one message, timer, poll or step may take; `None`: as long as it likes.
    pub stall_limit: Option<Duration>,
    /// So many panics in a row caused by one kind of message take it out of service.
    pub panics_in_a_row_max: u32,
    /// The vbucket its requests are about, which goes out of service with it.
    pub vbucket: Option<VbucketId>,
}

impl Child {
    /// A child that gives no sign of life for so long has stalled.
    pub const STALL_LIMIT: Duration = Duration::from_secs(5);
    /// A message that panics its child this often is not served by trying again.
    pub const PANICS_IN_A_ROW_MAX: u32 = 3;
    /// Enough to end what is under way.
    pub const STOP_DEADLINE: Duration = Duration::from_secs(10);

    /// A permanent child of the root.
    #[must_use]
    pub fn new(name: &str) -> Child {
        Child {
            name: ChildName::new(name),
            group: None,
            kind: Kind::default(),
            backoff: Backoff::default(),
            stop_deadline: Child::STOP_DEADLINE,
            stall_limit: Some(Child::STALL_LIMIT),
            panics_in_a_row_max: Child::PANICS_IN_A_ROW_MAX,
            vbucket: None,
        }
    }

    /// It belongs to this group.
    #[must_use]
    pub fn under(self, group: &str) -> Child {
        Child {
            group: Some(ChildName::new(group)),
            ..self
        }
    }

    /// When it is restarted.
    #[must_use]
    pub fn kind(self, kind: Kind) -> Child {
        Child { kind, ..self }
    }

    /// How long it waits before.
    #[must_use]
    pub fn backoff(self, backoff: Backoff) -> Child {
        Child { backoff, ..self }
    }

    /// How long it may take to stop.
    #[must_use]
    pub fn stop_deadline(self, stop_deadline: Duration) -> Child {
        Child {
            stop_deadline,
            ..self
        }
    }

    /// How long one message, timer, poll or step may take.
    #[must_use]
    pub fn stall_limit(self, stall_limit: Option<Duration>) -> Child {
        Child {
            stall_limit,
            ..self
        }
    }

    /// The vbucket its requests are about.
    #[must_use]
    pub fn vbucket(self, vbucket: VbucketId) -> Child {
        Child {
            vbucket: Some(vbucket),
            ..self
        }
    }
}

/// The tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tree {
    root: Group,
    groups: Vec<Group>,
    children: Vec<Child>,
}

impl Tree {
    /// A tree of only a root.
    #[must_use]
    pub fn new(root: Group) -> Tree {
        Tree {
            root,
            groups: Vec::new(),
            children: Vec::new(),
        }
    }

    /// With this group, whose parent is there already.
    #[must_use]
    pub fn group(mut self, group: Group) -> Tree {
        self.groups.push(group);
        self
    }

    /// With this child, whose group is there already. It starts after those added before.
    #[must_use]
    pub fn child(mut self, child: Child) -> Tree {
        self.children.push(child);
        self
    }

    /// The root.
    #[must_use]
    pub fn root(&self) -> &Group {
        &self.root
    }

    /// All children in the order they start.
    #[must_use]
    pub fn children(&self) -> &[Child] {
        &self.children
    }

    /// The group of that name.
    #[must_use]
    pub fn find_group(&self, name: &ChildName) -> Option<&Group> {
        let mut all = std::iter::once(&self.root).chain(&self.groups);
        all.find(|group| group.name == *name)
    }

    /// The groups a child is in, innermost first, the root last.
    #[must_use]
    pub fn groups_of(&self, child: &Child) -> Vec<&Group> {
        let mut path = Vec::new();
        let mut next = child.group.as_ref();
        while let Some(group) = next.and_then(|name| self.find_group(name)) {
            if group.name == self.root.name || path.len() > self.groups.len() {
                break;
            }
            path.push(group);
            next = group.parent.as_ref();
        }
        path.push(&self.root);
        path
    }

    /// Whether it holds together.
    pub fn check(&self) -> Result<(), TreeError> {
        let mut groups = vec![&self.root.name];
        let mut names = vec![&self.root.name];
        for group in &self.groups {
            Tree::check_name(&group.name, group.parent.as_ref(), &groups, &names)?;
            groups.push(&group.name);
            names.push(&group.name);
        }
        for child in &self.children {
            Tree::check_name(&child.name, child.group.as_ref(), &groups, &names)?;
            names.push(&child.name);
        }
        Ok(())
    }

    fn check_name(
        name: &ChildName,
        parent: Option<&ChildName>,
        groups: &[&ChildName],
        names: &[&ChildName],
    ) -> Result<(), TreeError> {
        if names.contains(&name) {
            return Err(TreeError::Twice(name.clone()));
        }
        match parent.filter(|parent| !groups.contains(parent)) {
            None => Ok(()),
            Some(parent) => Err(TreeError::NoSuchGroup {
                name: name.clone(),
                parent: parent.clone(),
            }),
        }
    }
}

/// A tree that does not hold together.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TreeError {
    /// Two of one name.
    #[error("the tree has {0} twice; give each child and group a name of its own")]
    Twice(ChildName),
    /// A parent that is not there, or comes later.
    #[error("{name} is under {parent}, which is not there yet; add that group before it")]
    NoSuchGroup {
        /// Whose parent.
        name: ChildName,
        /// The parent.
        parent: ChildName,
    },
    /// No child of that name.
    #[error("the tree has no child {0}")]
    NoSuchChild(ChildName),
    /// The tree is being shut down.
    #[error("the tree is being shut down")]
    ShuttingDown,
}
