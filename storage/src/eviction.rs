//! What may leave memory of a bucket that has less of it than documents: chosen when its store is created.
//!
//! Invariant: the byte that stands for a policy never stands for another, and zero, which every older store has there, for
//! the default.

/// What leaves memory when it is short. The disk has all of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Eviction {
    /// Whole documents, key and all: memory holds what is used, however many documents there are. The field's
    /// `fullEviction`.
    #[default]
    Documents,
    /// Values alone: key and metadata of every document stay, so that whether there is one, and which, is known at once. The
    /// field's `valueOnly`.
    Values,
    /// Nothing: when memory is used up writes are refused. The field's `noEviction`.
    None,
}

impl Eviction {
    /// All of them.
    pub const ALL: [Eviction; 3] = [Eviction::Documents, Eviction::Values, Eviction::None];

    /// What it is called.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Eviction::Documents => "documents",
            Eviction::Values => "values",
            Eviction::None => "none",
        }
    }

    /// As it is stored.
    #[must_use]
    pub const fn byte(self) -> u8 {
        match self {
            Eviction::Documents => 0,
            Eviction::Values => 1,
            Eviction::None => 2,
        }
    }

    /// The one stored as `byte`.
    #[must_use]
    pub fn from_byte(byte: u8) -> Option<Eviction> {
        Eviction::ALL.into_iter().find(|one| one.byte() == byte)
    }
}

impl std::fmt::Display for Eviction {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}
