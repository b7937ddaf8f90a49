//! What a source gets back room for: the bytes of what it sent, once they are done with and there is memory for more.
//!
//! Invariant: every byte that was received is given back exactly once, or goes with its stream (MB-31410).

/// The bytes of one stream that were received, and not given back.
#[derive(Debug, Default)]
pub(super) struct Credit {
    /// Done with, and held back for lack of memory.
    owed: u64,
}

impl Credit {
    /// So many bytes are done with.
    pub(super) fn done(&mut self, bytes: u64) {
        self.owed = self.owed.saturating_add(bytes);
    }

    /// What may be given back now.
    pub(super) fn release(&mut self, is_memory_short: bool) -> u64 {
        if is_memory_short {
            0
        } else {
            std::mem::take(&mut self.owed)
        }
    }

    /// What is held back.
    pub(super) fn owed(&self) -> u64 {
        self.owed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mb_31410_what_is_held_back_is_given_back_once() {
        let mut credit = Credit::default();
        let (mut received, mut given) = (0, 0);
        for (bytes, is_short) in [(10, false), (7, true), (5, true), (0, false), (3, false)] {
            received += bytes;
            credit.done(bytes);
            given += credit.release(is_short);
        }
        assert_eq!((given, credit.owed()), (received, 0));
    }
}
