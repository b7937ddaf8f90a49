//! What a power cut leaves of a file's unsynced changes.
//!
//! Invariant: every choice comes from the seed, in the order of names and changes; the same disk and seed leave
//! the same bytes. Only what is not synced is ever looked at.

use super::image::{Image, pieces, to_usize};
use super::inode::{Change, Inode};

/// What a drive writes as a whole.
const SECTOR: u64 = 512;

/// What becomes of all that is not synced.
#[derive(Debug)]
pub(super) enum Fate {
    Lost,
    Kept,
    Drawn(Random),
}

impl Fate {
    /// How many of the unsynced changes of names remain.
    pub(super) fn names_kept(&mut self, unsynced: usize) -> usize {
        match self {
            Fate::Lost => 0,
            Fate::Kept => unsynced,
            Fate::Drawn(random) => to_usize(random.below(unsynced as u64 + 1)),
        }
    }

    /// The content a file has after the power cut.
    pub(super) fn survivor(&mut self, inode: &Inode) -> Image {
        let mut image = inode.durable().clone();
        let changes = inode.unsynced();
        match self {
            Fate::Lost => {}
            _ if changes.is_empty() => {}
            Fate::Kept => keep_all(changes, &mut image),
            Fate::Drawn(random) => match random.below(4) {
                0 => {}
                1 => keep_all(changes, &mut image),
                2 => keep_prefix(changes, &mut image, random),
                _ => keep_sectors(inode, &mut image, random),
            },
        }
        image
    }
}

fn keep_all(changes: &[Change], image: &mut Image) {
    for change in changes {
        change.apply(image);
    }
}

/// The changes up to some point, the last one torn at any byte.
fn keep_prefix(changes: &[Change], image: &mut Image, random: &mut Random) {
    let whole = to_usize(random.below(changes.len() as u64));
    let (kept, rest) = changes.split_at(whole);
    keep_all(kept, image);
    match rest.first() {
        Some(Change::Write { offset, data }) => {
            let (torn, _) = data.split_at(to_usize(random.below(data.len() as u64 + 1)));
            image.write(torn, *offset);
        }
        Some(Change::Zero { offset, length }) => image.zero(*offset, random.below(length + 1)),
        Some(Change::Punch { .. } | Change::Truncate { .. }) | None => {}
    }
}

/// Any sectors of any changes; perhaps the length of the file without the bytes.
fn keep_sectors(inode: &Inode, image: &mut Image, random: &mut Random) {
    // Mostly lost, half and half, mostly kept: with one chance for all, nearly whole files would be rare.
    let chance = [1, 4, 7]
        .get(to_usize(random.below(3)))
        .copied()
        .unwrap_or(4);
    for change in inode.unsynced() {
        match change {
            Change::Write { offset, data } => {
                let mut rest = data.as_slice();
                for (at, length) in pieces(*offset, data.len() as u64, SECTOR) {
                    let (sector, tail) = rest.split_at(to_usize(length));
                    if random.below(8) < chance {
                        image.write(sector, at);
                    }
                    rest = tail;
                }
            }
            Change::Zero { offset, length } => {
                for (at, length) in pieces(*offset, *length, SECTOR) {
                    if random.below(8) < chance {
                        image.zero(at, length);
                    }
                }
            }
            Change::Punch { .. } | Change::Truncate { .. } => {
                if random.below(8) < chance {
                    change.apply(image);
                }
            }
        }
    }
    let length = inode.current().length();
    if length > image.length() && random.below(2) == 0 {
        image.truncate(length);
    }
}

/// Numbers from a seed (splitmix64): short, and the same on every machine.
#[derive(Debug)]
pub(super) struct Random {
    state: u64,
}

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    /// A number below `limit`, which is not 0. The bias of the remainder does not matter here.
    fn below(&mut self, limit: u64) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^= mixed >> 31;
        mixed.checked_rem(limit).unwrap_or(0)
    }
}
