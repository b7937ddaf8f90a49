//! Each fault of the simulated disk strikes the calls it was asked for, and does what it says.

#![expect(
    clippy::unwrap_used,
    reason = "helpers of tests; clippy knows only the tests themselves"
)]

use std::sync::Arc;

use piggin_storage::disk::{
    Call, Disk, DiskError, DiskErrorKind, DiskFile, Fault, OpenMode, SimulatedDisk, SyncFailure,
    Verb,
};

fn create(disk: &SimulatedDisk, name: &str, bytes: &[u8]) -> Arc<dyn DiskFile> {
    let file = disk.open(name, OpenMode::CreateNew).unwrap();
    file.write_at(bytes, 0).unwrap();
    file
}

fn content(disk: &SimulatedDisk, name: &str) -> Vec<u8> {
    disk.files().remove(name).unwrap()
}

fn broken() -> DiskErrorKind {
    DiskErrorKind::Other("broken".to_owned())
}

fn kind<T: std::fmt::Debug>(answer: Result<T, DiskError>) -> DiskErrorKind {
    answer.unwrap_err().kind
}

#[test]
fn a_failed_call_does_nothing_and_names_verb_and_file() {
    let disk = SimulatedDisk::new();
    let file = create(&disk, "a", b"old");
    disk.inject(Fault::failed_call(broken()));
    let expected = DiskError {
        verb: Verb::Write,
        file: "a".to_owned(),
        kind: broken(),
    };
    assert_eq!(file.write_at(b"new", 0).unwrap_err(), expected);
    assert_eq!(content(&disk, "a"), b"old");
    file.write_at(b"new", 0).unwrap();
    assert_eq!(content(&disk, "a"), b"new");
}

#[test]
fn every_verb_can_fail() {
    let disk = SimulatedDisk::new();
    let file = create(&disk, "a", b"old");
    let before = disk.files();
    let strike = |verb, answer: &dyn Fn() -> Result<(), DiskError>, name: &str| {
        disk.inject(Fault::failed_call(broken()).on(verb));
        let expected = DiskError {
            verb,
            file: name.to_owned(),
            kind: broken(),
        };
        assert_eq!(answer().unwrap_err(), expected);
        assert_eq!(disk.faults_waiting(), 0);
        assert_eq!(disk.files(), before);
    };
    strike(
        Verb::Open,
        &|| disk.open("b", OpenMode::CreateNew).map(drop),
        "b",
    );
    strike(Verb::Read, &|| file.read_at(&mut [0], 0), "a");
    strike(Verb::Write, &|| file.write_at(b"x", 0), "a");
    strike(Verb::Sync, &|| file.sync(), "a");
    strike(Verb::Length, &|| file.length().map(drop), "a");
    strike(Verb::Truncate, &|| file.truncate(0), "a");
    strike(Verb::Zero, &|| file.zero(0, 1), "a");
    strike(Verb::Punch, &|| file.punch(0, 1), "a");
    strike(Verb::Rename, &|| disk.rename("a", "b"), "a");
    strike(Verb::Remove, &|| disk.remove("a"), "a");
    strike(Verb::List, &|| disk.list().map(drop), ".");
    strike(Verb::SyncDirectory, &|| disk.sync_directory(), ".");
    strike(Verb::Lock, &|| disk.lock("lock").map(drop), "lock");
}

#[test]
fn a_fault_waits_for_its_verb_file_and_count() {
    let disk = SimulatedDisk::new();
    let (log, other) = (create(&disk, "log-1", b""), create(&disk, "segment-1", b""));
    disk.inject(
        Fault::failed_call(broken())
            .on(Verb::Write)
            .of_files("log-")
            .nth(2),
    );
    log.write_at(b"1", 0).unwrap();
    log.sync().unwrap();
    other.write_at(b"1", 0).unwrap();
    other.write_at(b"2", 0).unwrap();
    assert_eq!(disk.faults_waiting(), 1);
    assert_eq!(kind(log.write_at(b"2", 0)), broken());
    log.write_at(b"3", 0).unwrap();
}

#[test]
fn a_lasting_fault_strikes_until_it_is_cleared() {
    let disk = SimulatedDisk::new();
    let file = create(&disk, "a", b"old");
    disk.inject(Fault::failed_call(broken()).on(Verb::Read).nth(2).lasting());
    file.read_at(&mut [0], 0).unwrap();
    assert_eq!(kind(file.read_at(&mut [0], 0)), broken());
    assert_eq!(kind(file.read_at(&mut [0], 0)), broken());
    disk.clear_faults();
    file.read_at(&mut [0], 0).unwrap();
}

#[test]
fn the_nth_call_of_all_can_fail() {
    for n in 1..=4 {
        let disk = SimulatedDisk::new();
        disk.fail_call(n, broken());
        let answers = [
            disk.open("a", OpenMode::CreateNew).map(drop),
            disk.list().map(drop),
            disk.remove("missing"),
            disk.sync_directory(),
        ];
        for (call, answer) in (1..).zip(answers) {
            assert_eq!(answer.is_err_and(|error| error.kind == broken()), call == n);
        }
    }
}

#[test]
fn of_two_faults_due_the_first_strikes_and_the_other_waits() {
    let disk = SimulatedDisk::new();
    disk.fail_call(1, DiskErrorKind::Full);
    disk.fail_call(1, DiskErrorKind::PermissionDenied);
    assert_eq!(kind(disk.list()), DiskErrorKind::Full);
    assert_eq!(kind(disk.list()), DiskErrorKind::PermissionDenied);
    disk.list().unwrap();
}

#[test]
fn a_short_write_writes_the_beginning() {
    let disk = SimulatedDisk::new();
    let file = create(&disk, "a", b"........");
    disk.inject(Fault::short_write(3, DiskErrorKind::Full));
    assert_eq!(kind(file.write_at(b"abcdef", 1)), DiskErrorKind::Full);
    assert_eq!(content(&disk, "a"), b".abc....");
    disk.inject(Fault::short_write(100, broken()));
    assert_eq!(kind(file.write_at(b"xyz", 7)), broken());
    assert_eq!(content(&disk, "a"), b".abc...xyz");
}

#[test]
fn a_full_disk_writes_the_pages_that_fit_and_heals() {
    let disk = SimulatedDisk::new();
    let file = create(&disk, "a", b"");
    disk.set_space_limit(Some(3 * 4096));
    assert_eq!(
        kind(file.write_at(&vec![1; 20_000], 0)),
        DiskErrorKind::Full
    );
    assert_eq!(content(&disk, "a"), [1; 3 * 4096]);
    assert_eq!(disk.space_used(), 3 * 4096);
    // What has its space already can still be written and zeroed; nothing else can.
    file.write_at(&[2; 3 * 4096], 0).unwrap();
    file.zero(0, 4096).unwrap();
    assert_eq!(kind(file.zero(3 * 4096, 1)), DiskErrorKind::Full);
    assert_eq!(
        kind(create(&disk, "b", b"").write_at(b"x", 0)),
        DiskErrorKind::Full
    );
    file.sync().unwrap();
    disk.set_space_limit(Some(5 * 4096));
    file.write_at(&vec![1; 20_000], 0).unwrap();
    assert_eq!(content(&disk, "a"), vec![1; 20_000]);
}

#[test]
fn space_comes_back_by_punching_cutting_and_removing() {
    let disk = SimulatedDisk::new();
    let file = create(&disk, "a", &vec![1; 1_000_000]);
    file.punch(0, 500_000).unwrap();
    // Whole pages only, and the last one of the file is not whole.
    assert_eq!(disk.space_used(), (245 - 122) * 4096);
    file.zero(0, 4096).unwrap();
    assert_eq!(disk.space_used(), (245 - 121) * 4096);
    file.truncate(4096).unwrap();
    assert_eq!(disk.space_used(), 4096);
    disk.remove("a").unwrap();
    drop(file);
    assert_eq!(disk.space_used(), 4096);
    disk.sync_directory().unwrap();
    assert_eq!(disk.space_used(), 0);
}

#[test]
fn a_flipped_bit_is_read_and_stays() {
    let disk = SimulatedDisk::new();
    let file = create(&disk, "a", &[0; 10]);
    file.sync().unwrap();
    disk.sync_directory().unwrap();
    file.write_at(&[0; 10], 5).unwrap();
    disk.flip_bit("a", 7, 3).unwrap();
    assert_eq!(content(&disk, "a")[7], 8);
    assert_eq!(content(&disk.crash_losing_everything_unsynced(), "a")[7], 8);
    // A later sync does not write the byte as it was before.
    file.sync().unwrap();
    assert_eq!(content(&disk.crash_losing_everything_unsynced(), "a")[7], 8);
    // A later write does.
    file.write_at(&[0], 7).unwrap();
    assert_eq!(content(&disk, "a")[7], 0);
    assert_eq!(kind(disk.flip_bit("a", 15, 0)), DiskErrorKind::EndOfFile);
    assert_eq!(kind(disk.flip_bit("b", 0, 0)), DiskErrorKind::NotFound);
}

#[test]
fn some_bytes_can_be_unreadable() {
    let disk = SimulatedDisk::new();
    let file = create(&disk, "a", &[1; 10]);
    disk.inject(
        Fault::failed_call(broken())
            .on(Verb::Read)
            .touching(4..6)
            .lasting(),
    );
    let mut buffer = [0; 4];
    file.read_at(&mut buffer, 0).unwrap();
    file.read_at(&mut buffer, 6).unwrap();
    assert_eq!(kind(file.read_at(&mut buffer, 1)), broken());
    assert_eq!(kind(file.read_at(&mut buffer, 5)), broken());
    file.length().unwrap();
}

#[test]
fn a_read_only_disk_can_be_read() {
    let disk = SimulatedDisk::new();
    let file = create(&disk, "a", b"old");
    disk.set_read_only(true);
    let read_only = DiskErrorKind::ReadOnly;
    assert_eq!(kind(file.write_at(b"new", 0)), read_only);
    assert_eq!(kind(file.sync()), read_only);
    assert_eq!(kind(disk.open("a", OpenMode::Existing)), read_only);
    assert_eq!(kind(disk.open("b", OpenMode::CreateNew)), read_only);
    assert_eq!(kind(disk.rename("a", "b")), read_only);
    assert_eq!(kind(disk.remove("a")), read_only);
    assert_eq!(kind(disk.sync_directory()), read_only);
    assert_eq!(kind(disk.lock("lock")), read_only);
    let mut buffer = [0; 3];
    disk.open("a", OpenMode::ReadOnly)
        .unwrap()
        .read_at(&mut buffer, 0)
        .unwrap();
    assert_eq!(&buffer, b"old");
    assert_eq!(disk.list().unwrap(), ["a"]);
    disk.set_read_only(false);
    file.write_at(b"new", 0).unwrap();
}

#[test]
fn a_file_removed_underneath_is_gone_for_good() {
    let disk = SimulatedDisk::new();
    let file = create(&disk, "a", b"old");
    let calls = disk.calls();
    disk.remove_underneath("a").unwrap();
    assert_eq!(disk.calls(), calls);
    assert_eq!(
        kind(disk.open("a", OpenMode::Existing)),
        DiskErrorKind::NotFound
    );
    assert_eq!(kind(disk.remove_underneath("a")), DiskErrorKind::NotFound);
    file.read_at(&mut [0; 3], 0).unwrap();
    for seed in 0..20 {
        assert!(disk.crash(seed).files().is_empty());
    }
}

#[test]
fn calls_are_counted_and_traced() {
    let disk = SimulatedDisk::new();
    let file = create(&disk, "a", b"old");
    file.append(b"er").unwrap();
    disk.rename("a", "b").unwrap();
    disk.open("a", OpenMode::Existing).unwrap_err();
    file.sync().unwrap();
    disk.sync_directory().unwrap();
    let expected = [
        (Verb::Open, "a"),
        (Verb::Write, "a"),
        (Verb::Length, "a"),
        (Verb::Write, "a"),
        (Verb::Rename, "a"),
        (Verb::Open, "a"),
        (Verb::Sync, "a"),
        (Verb::SyncDirectory, "."),
    ];
    assert_eq!(
        disk.trace(),
        expected.map(|(verb, file)| Call {
            verb,
            file: file.into()
        })
    );
    assert_eq!((disk.calls(), disk.mutating_calls()), (8, 6));
    assert_eq!(
        (disk.calls_of(Verb::Open), disk.calls_of(Verb::Read)),
        (2, 0)
    );
    disk.clear_trace();
    assert_eq!((disk.trace().len(), disk.calls()), (0, 8));
}

#[test]
fn a_fault_of_one_verb_only_fails_another() {
    let disk = SimulatedDisk::new();
    let file = create(&disk, "a", b"old");
    disk.inject(Fault::failed_sync(SyncFailure::DropsPages).on(Verb::Truncate));
    disk.inject(Fault::short_write(1, broken()).on(Verb::Sync));
    assert!(matches!(kind(file.truncate(0)), DiskErrorKind::Other(_)));
    assert_eq!(kind(file.sync()), broken());
    assert_eq!(content(&disk, "a"), b"old");
}
