//! The policy before a vbucket that does what it says: whatever is sealed, superseded, dropped and deleted, and whatever
//! comes while a compaction runs, it comes to rest, and at rest nothing is left that a rewrite would let go.

use std::ops::Range;

use proptest::prelude::*;

use super::*;

/// What happens to a vbucket.
#[derive(Clone, Copy, Debug)]
enum Act {
    /// So many bytes are sealed, and of what was there this share dies, in per cent.
    Seal { bytes: u64, dies: u64 },
    /// A collection is dropped; with history there may be somebody who still asks for it.
    Drop { is_erasable: bool },
    /// So many documents become tombstones.
    Delete(u64),
    /// So many seconds go by.
    Wait(u32),
}

/// One that comes while a compaction runs, and how many segments a merge of the newest takes.
#[derive(Clone, Copy, Debug)]
struct Meanwhile {
    act: Option<Act>,
    merges: usize,
}

#[derive(Clone, Copy, Debug, Default)]
struct Segment {
    live: u64,
    dead: u64,
}

/// A vbucket and its policy.
#[derive(Debug, Default)]
struct Model {
    keeps_history: bool,
    segments: Vec<Segment>,
    dropped: Vec<(DroppedCollection, bool)>,
    documents: u64,
    /// When each was deleted.
    tombstones: Vec<u32>,
    written_at_s: u32,
    now_s: u32,
    collections: u32,
    past: Option<Past>,
    /// Runs, and what was done that may be a reason for one.
    runs: usize,
    acts: usize,
}

impl Model {
    fn space(&self) -> FileStatistics {
        let live = self.segments.iter().map(|segment| segment.live).sum();
        let dead: u64 = self.segments.iter().map(|segment| segment.dead).sum();
        space(self.segments.len(), live + dead, live)
    }

    fn figures(&self) -> VbucketFigures {
        let mut figures = VbucketFigures {
            space: self.space(),
            dropped: self.dropped.iter().map(|(dropped, _)| *dropped).collect(),
            written_at_s: self.written_at_s,
            ..VbucketFigures::default()
        };
        if tombstones_count(&figures, self.past.as_ref(), self.now_s, AGE) {
            figures.tombstones = self.tombstones.len() as u64;
            figures.documents = self.documents;
        }
        figures
    }

    fn act(&mut self, act: Act) {
        self.acts += 1;
        match act {
            Act::Seal { bytes, dies } => {
                for segment in &mut self.segments {
                    let died = segment.live * dies / 100;
                    segment.live -= died;
                    segment.dead += died;
                }
                self.segments.push(Segment {
                    live: bytes,
                    dead: 0,
                });
                self.written_at_s = self.now_s;
                self.documents += 20;
            }
            Act::Drop { is_erasable } => {
                self.collections += 1;
                let is_erasable = is_erasable || !self.keeps_history;
                self.dropped.push((dropped(self.collections), is_erasable));
            }
            Act::Delete(documents) => {
                for _ in 0..documents.min(self.documents) {
                    self.documents -= 1;
                    self.tombstones.push(self.now_s);
                }
                self.written_at_s = self.now_s;
            }
            Act::Wait(seconds) => self.now_s += seconds,
        }
    }

    /// Does what the policy says, until it says nothing.
    fn come_to_rest(&mut self, meanwhile: &mut impl Iterator<Item = Meanwhile>) {
        let policy = CompactionPolicy::default();
        while let Some(reason) = reason(&policy, &self.figures(), self.past.as_ref(), self.now_s) {
            self.runs += 1;
            // Each leaves fewer segments, or takes what was dropped, died or grew old.
            assert!(self.runs <= 3 * self.acts, "it goes on for ever: {self:?}");
            let now = meanwhile.next();
            let act = now.and_then(|now| now.act);
            if reason == Reason::Segments {
                let count = self.segments.len();
                assert!(count > 1, "nothing to merge: {self:?}");
                let merges = now.map_or(2, |now| now.merges).clamp(2, count);
                self.merge(count - merges..count);
                if let Some(act) = act {
                    self.act(act);
                }
            } else {
                let began = self.figures();
                self.merge(0..self.segments.len());
                self.dropped.retain(|(_, is_erasable)| !is_erasable);
                let old = Duration::from_secs(u64::from(self.now_s)).saturating_sub(AGE);
                self.tombstones
                    .retain(|deleted_at| u64::from(*deleted_at) >= old.as_secs());
                if let Some(act) = act {
                    self.act(act);
                }
                let left = began.unchanged_in(self.figures(), self.keeps_history);
                let at_s = self.now_s;
                self.past = Some(Past { at_s, left });
            }
        }
    }

    fn merge(&mut self, range: Range<usize>) {
        let mut merged = Segment::default();
        for segment in self.segments.drain(range) {
            merged.live += segment.live;
            if self.keeps_history {
                merged.dead += segment.dead;
            }
        }
        self.segments.push(merged);
    }

    fn check_rest(&self) {
        let policy = CompactionPolicy::default();
        let space = self.space();
        assert!(space.segments <= policy.segments_max(space.total_bytes));
        let erasable = self.dropped.iter().filter(|(_, is_erasable)| *is_erasable);
        assert_eq!(erasable.count(), 0, "{self:?}");
        let dead = dead_bytes(&space);
        let is_much = dead >= policy.fragmented_bytes_min && dead * 2 >= space.total_bytes;
        assert!(!is_much || self.keeps_history, "{self:?}");
    }
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        8 => (1u64..(8 << 20), 0u64..60).prop_map(|(bytes, dies)| Act::Seal { bytes, dies }),
        1 => any::<bool>().prop_map(|is_erasable| Act::Drop { is_erasable }),
        2 => (0u64..100).prop_map(Act::Delete),
        1 => (0u32..3000).prop_map(Act::Wait),
    ]
}

fn meanwhile() -> impl Strategy<Value = Meanwhile> {
    let acts = prop::option::weighted(0.7, act());
    (acts, 0usize..12).prop_map(|(act, merges)| Meanwhile { act, merges })
}

proptest! {
    #[test]
    fn any_history_comes_to_rest_and_little_that_is_dead_is_left(
        keeps_history in any::<bool>(),
        acts in prop::collection::vec((act(), any::<bool>()), 0..120),
        meanwhile in prop::collection::vec(meanwhile(), 0..60),
    ) {
        let mut model = Model {
            keeps_history,
            now_s: NOW_S,
            ..Model::default()
        };
        let mut meanwhile = meanwhile.into_iter();
        for (act, rests) in acts {
            model.act(act);
            // Not every seal is looked at before the next.
            if rests {
                model.come_to_rest(&mut meanwhile);
                model.check_rest();
            }
        }
        model.come_to_rest(&mut meanwhile);
        model.check_rest();
    }
}

/// The whole is rewritten in the end however small the pieces are that supersede it, and however often the newest were
/// merged before.
#[test]
fn a_vbucket_that_is_overwritten_bit_by_bit_is_rewritten_when_half_of_it_is_dead() {
    let mut model = Model {
        now_s: NOW_S,
        ..Model::default()
    };
    model.act(Act::Seal {
        bytes: 1 << 30,
        dies: 0,
    });
    let (mut most, mut merged) = (0, 0);
    for _ in 0..3000 {
        model.act(Act::Seal {
            bytes: 1 << 20,
            dies: 0,
        });
        // All that lives was written at random: what is new takes the place of as much of all that is old.
        let all: u64 = model.segments.iter().map(|segment| segment.live).sum();
        for segment in &mut model.segments {
            let died = (1 << 20) * segment.live / all;
            segment.live -= died;
            segment.dead += died;
        }
        most = most.max(model.space().total_bytes);
        // Eight of a megabyte at a time.
        let (runs, past) = (model.runs, model.past.clone());
        model.come_to_rest(&mut std::iter::repeat(Meanwhile {
            act: None,
            merges: 8,
        }));
        merged += usize::from(model.runs > runs && model.past == past);
    }
    assert!(most < (2 << 30) + (2 << 20), "{most}");
    assert!(
        merged > 200,
        "{merged}: most merges are of the newest alone"
    );
    let rewritten = model.past.expect("a rewrite");
    assert!(rewritten.left.space.total_bytes < (1 << 30) + (2 << 20));
}
