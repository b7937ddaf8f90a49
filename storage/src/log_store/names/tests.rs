//! Names are read as they are written, and every other name is somebody else's.

use proptest::prelude::*;

use super::*;

#[test]
fn names_look_like_this() {
    let known = [
        (Kind::Log, "log.03.0000000042"),
        (Kind::LogPreparing, "log-new.03.0000000042"),
        (Kind::Manifest, "manifest.03.0000000042"),
        (Kind::ManifestPreparing, "manifest-new.03.0000000042"),
        (Kind::Container, "container.03.0000000042"),
    ];
    for (kind, text) in known {
        let name = Name::new(kind, 3, 42);
        assert_eq!(name.to_string(), text);
        assert_eq!(Name::parse(text), Some(name));
    }
}

#[test]
fn names_no_store_gives_are_nobodys() {
    for text in [
        "",
        "log",
        "log.",
        "log.00.",
        "log.0.0000000001",
        "log.00.1",
        "log.000.0000000001",
        "log.00.00000000001",
        "log.00.+000000001",
        "log.00.0000000001.bak",
        "Log.00.0000000001",
        "segment.00.0000000001",
        "log.65536.0000000001",
        "log.00.99999999999999999999",
        " log.00.0000000001",
        IDENTITY,
        IDENTITY_TEMPORARY,
        LOCK,
    ] {
        assert_eq!(Name::parse(text), None, "{text:?}");
    }
}

proptest! {
    #[test]
    fn names_come_back(kind in 0..KINDS.len(), shard in any::<u16>(), number in any::<u64>()) {
        let name = Name::new(KINDS[kind].0, shard, number);
        prop_assert_eq!(Name::parse(&name.to_string()), Some(name));
    }

    #[test]
    fn any_text_may_be_given(text in "[a-z0-9.-]{0,30}") {
        if let Some(name) = Name::parse(&text) {
            prop_assert_eq!(name.to_string(), text);
        }
    }
}
