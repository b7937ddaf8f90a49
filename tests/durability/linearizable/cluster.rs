//! Three machines of which one leads each vbucket: who that is, who follows whom, and how the lead passes on.
//!
//! Invariant: clients are sent to one leader of a vbucket at a time, and to the next only once it is one.

use std::cell::RefCell;
use std::collections::BTreeMap;

use piggin::storage::{Topology, VbucketId};
use piggin::{Bucket, Replication};
use supervisor::testing::World;

use crate::common::{caught_up, created, opened, promote, settled};

pub(super) const NODES: [&str; 3] = ["a", "b", "c"];

/// Who is promoted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Choice {
    /// The one that holds the most, as `docs/durability.md` says.
    Best,
    /// The one that holds the least: what an embedder must not do.
    Worst,
}

pub(super) struct Cluster {
    worlds: [World; 3],
    buckets: RefCell<[Bucket; 3]>,
    leaders: RefCell<BTreeMap<VbucketId, usize>>,
    links: RefCell<BTreeMap<(usize, usize), Replication>>,
}

impl Cluster {
    /// The first leads all vbuckets.
    pub(super) async fn created(worlds: &[World; 3]) -> Cluster {
        let [a, b, c] = worlds;
        let buckets = [
            created(a, NODES[0]).await,
            created(b, NODES[1]).await,
            created(c, NODES[2]).await,
        ];
        let leaders = buckets[0].vbuckets().map(|vbucket| (vbucket, 0)).collect();
        let cluster = Cluster {
            worlds: worlds.clone(),
            buckets: RefCell::new(buckets),
            leaders: RefCell::new(leaders),
            links: RefCell::default(),
        };
        cluster.join();
        cluster
    }

    pub(super) fn bucket(&self, node: usize) -> Bucket {
        self.buckets.borrow()[node].clone()
    }

    /// Where clients are sent with this key.
    pub(super) fn leader_of(&self, key: &str) -> Bucket {
        let vbucket = self.buckets.borrow()[0].vbucket_of(key.as_bytes());
        self.bucket(self.leaders.borrow()[&vbucket])
    }

    /// A node that leads something.
    pub(super) fn some_leader(&self, draw: u64) -> usize {
        let leaders: Vec<usize> = self.leaders.borrow().values().copied().collect();
        leaders[usize::try_from(draw).expect("a number") % leaders.len()]
    }

    fn led_by(&self, node: usize) -> Vec<VbucketId> {
        let leaders = self.leaders.borrow();
        let led = leaders.iter().filter(|(_, leader)| **leader == node);
        led.map(|(vbucket, _)| *vbucket).collect()
    }

    /// A node gets nothing from another any more.
    pub(super) fn cut(&self, from: usize, to: usize) {
        drop(self.links.borrow_mut().remove(&(from, to)));
    }

    /// Those a node leads are followed by another.
    fn link(&self, from: usize, to: usize) {
        let led = self.led_by(from);
        if led.is_empty() {
            return self.cut(from, to);
        }
        let follows = self.bucket(from).replicate(led, &self.bucket(to));
        let follows = follows.expect("it follows");
        drop(self.links.borrow_mut().insert((from, to), follows));
    }

    /// Every node follows every leader, and all of them are in the chains.
    fn join(&self) {
        for node in 0..3 {
            let others = [(node + 1) % 3, (node + 2) % 3];
            for other in others {
                self.link(node, other);
            }
            let chain = Topology::of_chain([node, others[0], others[1]].map(|node| NODES[node]));
            let set = self.bucket(node).set_topology(self.led_by(node), &chain);
            set.expect("a topology");
        }
    }

    /// What a node led is led by one of the others, and followed by the third.
    pub(super) async fn fail_over(&self, from: usize, choice: Choice) {
        let left = [(from + 1) % 3, (from + 2) % 3];
        for vbucket in self.led_by(from) {
            let held = |node: usize| {
                let bucket = self.bucket(node);
                let status = bucket.durability_status(vbucket).expect("a vbucket");
                let high = bucket.vbucket_core(vbucket).expect("it").high_seqno();
                (status.high_prepared, high)
            };
            let [one, other] = left;
            let is_first = match choice {
                Choice::Best => held(one) >= held(other),
                Choice::Worst => held(one) < held(other),
            };
            let (next, other) = if is_first { (one, other) } else { (other, one) };
            let chain = Topology::of_chain([NODES[next], NODES[other]]);
            promote(&self.bucket(next), vbucket, chain).await;
            self.leaders.borrow_mut().insert(vbucket, next);
        }
        self.link(left[0], left[1]);
        self.link(left[1], left[0]);
    }

    /// The machine of a node lost its process.
    pub(super) async fn reopen(&self, node: usize) {
        let bucket = opened(&self.worlds[node], NODES[node]).await;
        self.buckets.borrow_mut()[node] = bucket;
    }

    /// All nodes are there again; waits until they have what they should.
    pub(super) async fn heal(&self) {
        self.join();
        let links = std::mem::take(&mut *self.links.borrow_mut());
        for link in links.values() {
            caught_up(link).await;
        }
        *self.links.borrow_mut() = links;
        for node in 0..3 {
            settled(&self.bucket(node)).await;
        }
    }
}
