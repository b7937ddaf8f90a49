//! A repair where a file is missing: it is asked for by its name, nothing is changed before somebody says that it is lost, and
//! with the file back in its place every document is there. A manifest is never given up.

use super::*;

/// It may lie elsewhere: nothing is given up unless that is said, and without a manifest not even then.
#[test]
fn a_file_is_missing() -> Result {
    let victim = aged()?;
    let files = victim.disk.files();
    let (mut tried, mut refused) = (Tried::default(), BTreeMap::new());
    for name in files.keys() {
        let disk = copy_of(&victim.disk);
        disk.remove_underneath(name)?;
        let damaged = disk.files();
        let kind = name.split('.').next().unwrap_or_default();
        match repair(at(&disk), &mut Kept::default()) {
            Ok(report) => {
                assert_eq!(report, RepairReport::default(), "{name}");
                assert!(!name.starts_with("container"), "{name}");
                assert_serves(&victim, &disk, &report, name);
                continue;
            }
            Err(RepairError::Store(_)) => assert_eq!(name, "piggin.store"),
            Err(RepairError::Missing { file }) => assert_eq!(file, *name),
            Err(error @ RepairError::BeyondRepair { .. }) => {
                assert_eq!(kind, "manifest", "{error}");
                assert_names_manifest(&error, name);
            }
            Err(other) => panic!("{name}: {other}"),
        }
        *refused.entry(kind.to_owned()).or_insert(0) += 1;
        assert_put_back(&victim, &disk, &damaged, name);
        let mut kept = Kept::default();
        let repaired = repair_without(at(&disk), &mut kept);
        if kind == "manifest" {
            assert_names_manifest(repaired.as_ref().expect_err("beyond repair"), name);
            assert_put_back(&victim, &disk, &damaged, name);
        }
        let tried = &mut tried;
        judge(&victim, &disk, &damaged, (repaired, &kept), name, tried);
    }
    println!("{tried:?} {refused:?}");
    assert!(tried.set_aside > 0, "{tried:?}");
    for kind in ["container", "log", "manifest", "piggin"] {
        assert!(refused.contains_key(kind), "{refused:?} {:?}", files.keys());
    }
    Ok(())
}

/// Not a log file that is rightly gone.
fn assert_names_manifest(error: &RepairError, name: &str) {
    let RepairError::BeyondRepair { .. } = error else {
        panic!("{name}: {error}");
    };
    let told = error.to_string();
    let shard = name.rsplit_once('.').map_or(name, |(shard, _)| shard);
    assert!(told.contains(&format!("put {shard}.* back")), "{told}");
    assert!(!told.contains("log."), "{told}");
}

/// Nothing was changed, so with the file in its place again every document is there.
fn assert_put_back(
    victim: &Victim,
    disk: &SimulatedDisk,
    damaged: &BTreeMap<String, Vec<u8>>,
    name: &str,
) {
    assert_same(disk, damaged, name);
    let mut files = disk.files();
    files.insert(name.to_owned(), victim.disk.files()[name].clone());
    let back = SimulatedDisk::from_files(files);
    assert_serves(victim, &back, &RepairReport::default(), name);
}
