//! A repair that meets a disk that refuses, loses its power, or is given more damage on its way: nothing is given up for that, and
//! whatever was emptied is told, by the error as well as before the first of it.

use super::*;

/// A disk that refuses, for once or for good, is no proof of damage.
#[test]
fn what_the_disk_does_not_give_is_not_given_up() -> Result {
    let victim = victim(true)?;
    let kinds = [
        DiskErrorKind::PermissionDenied,
        DiskErrorKind::Other("broken".to_owned()),
    ];
    let mut refused = 0;
    for prefix in ["container", "log.", "manifest", "piggin.store"] {
        for verb in [Verb::Open, Verb::Read, Verb::Length] {
            for kind in &kinds {
                let disk = copy_of(&victim.disk);
                let fault = Fault::failed_call(kind.clone());
                disk.inject(fault.on(verb).of_files(prefix).lasting());
                let mut kept = Kept::default();
                let what = format!("{verb:?} of {prefix}: {kind}");
                match repair(at(&disk), &mut kept) {
                    Ok(report) => assert_eq!(report, RepairReport::default(), "{what}"),
                    Err(RepairError::Store(_) | RepairError::Unreadable { .. }) => refused += 1,
                    Err(other) => panic!("{what}: {other}"),
                }
                assert_eq!(kept.changes, [], "{what}");
                disk.clear_faults();
                assert_serves(&victim, &disk, &RepairReport::default(), &what);
            }
        }
    }
    assert!(refused > 10, "{refused}");
    Ok(())
}

/// Damages another vbucket as soon as what was read is kept.
struct Spoils {
    disk: SimulatedDisk,
    at: (String, u64),
}

impl KeepsSalvage for Spoils {
    fn keep(&mut self, _: Change) -> io::Result<()> {
        Ok(())
    }

    fn finish(&mut self, _: &RepairReport) -> io::Result<()> {
        let (name, at) = &self.at;
        self.disk.flip_bit(name, *at, 1).map_err(io::Error::other)
    }
}

/// Nothing is called mended that was not looked at again; and what was emptied is told all the same.
#[test]
fn what_is_damaged_behind_it_is_told() -> Result {
    let (victim, expected) = damaged_by_a_bit()?;
    let aside = names_of(&expected);
    let files = victim.disk.files();
    let containers = files
        .iter()
        .filter(|(name, _)| name.starts_with("container"));
    let mut places = containers.flat_map(|(name, bytes)| {
        let written = (0..bytes.len()).filter(|at| bytes[*at] != 0);
        written.step_by(STRIDE).map(|at| (name.clone(), at as u64))
    });
    let of_another = places.find(|(name, at)| {
        let disk = copy_of(&victim.disk);
        disk.flip_bit(name, *at, 1).unwrap();
        let found = damaged_in(&disk);
        found.len() == 2 && found.is_superset(&aside)
    });
    let disk = copy_of(&victim.disk);
    let mut spoils = Spoils {
        disk: disk.clone(),
        at: of_another.expect("another vbucket"),
    };
    let left = piggin::repair(at(&disk), RepairOptions::default(), &mut spoils);
    let Err(RepairError::Left { fault, report }) = left else {
        panic!("{left:?}");
    };
    assert_eq!(fault.file, spoils.at.0);
    assert_eq!(names_of(&report), aside);
    Ok(())
}

/// Beside damage one call fails: whatever was not read for that is not lost by it.
#[test]
fn a_call_that_fails_beside_damage_loses_nothing_more() -> Result {
    let (victim, expected) = damaged_by_a_bit()?;
    let (mut nth, mut refused, mut told, mut unproven) = (1, 0, 0, 0);
    loop {
        let disk = copy_of(&victim.disk);
        let broken = DiskErrorKind::Other("broken".to_owned());
        disk.inject(Fault::failed_call(broken).nth(nth));
        let mut kept = Kept::default();
        let first = repair(at(&disk), &mut kept);
        let is_over = disk.faults_waiting() > 0;
        disk.clear_faults();
        let what = format!("call {nth} fails");
        let report = match first {
            Ok(report) => report,
            Err(error) if error.report().is_some() => {
                // A disk that refused is no proof of more damage.
                assert!(
                    !matches!(error, RepairError::Left { .. }),
                    "{what}: {error}"
                );
                unproven += usize::from(matches!(error, RepairError::Unproven { .. }));
                told += 1;
                let report = error.report().cloned();
                repair(at(&disk), &mut Kept::default()).expect("the rest");
                report.expect("one")
            }
            Err(_) => {
                refused += 1;
                repair(at(&disk), &mut Kept::default()).expect("all of it")
            }
        };
        assert_eq!(report.set_aside.len(), 1, "{what}");
        let (one, expected) = (&report.set_aside[0], &expected.set_aside[0]);
        assert_eq!(one.vbucket, expected.vbucket, "{what}");
        assert_eq!(one.salvaged, expected.salvaged, "{what}");
        assert_serves(&victim, &disk, &report, &what);
        if is_over {
            break;
        }
        nth += 1;
    }
    println!("calls {nth}, refused {refused}, told behind it {told}, {unproven} of them unproven");
    assert!(
        refused > 10 && told > unproven && unproven > 3,
        "{refused} {told} {unproven}"
    );
    Ok(())
}

/// The damaged vbuckets of a bucket that was cut off are set aside, now or by the next one; whichever it is, each that is empty
/// was named: by the error, and before the first of them was emptied.
#[test]
fn a_repair_that_was_cut_off_is_begun_anew() -> Result {
    let (victim, expected) = damaged_by_a_bit()?;
    let (mut cut, mut again, mut told) = (1, 0, 0);
    loop {
        let disk = copy_of(&victim.disk);
        disk.cut_power_at_call(cut);
        let mut kept = Kept::default();
        let first = repair(at(&disk), &mut kept);
        let left = disk.crash(cut);
        let second = repair(at(&left), &mut Kept::default());
        let second = second.unwrap_or_else(|error| panic!("cut at {cut}: {error}"));
        let mut named = names_of(&second);
        again += usize::from(first.is_err() && !named.is_empty());
        let of_first = match &first {
            Ok(report) => Some(report),
            Err(error) => error.report(),
        };
        if let Some(report) = of_first {
            told += usize::from(named.is_empty());
            assert_eq!(kept.report.as_ref(), Some(report), "cut at {cut}");
            named.extend(names_of(report));
        }
        assert_eq!(named, names_of(&expected), "cut at {cut}");
        assert_serves(&victim, &left, &expected, &format!("cut at {cut}"));
        if first.is_ok() {
            break;
        }
        cut += 1;
    }
    println!("cuts {cut}, again {again}, told by the first {told}");
    assert!(cut > 10 && again > 3 && told > 3, "{cut} {again} {told}");
    Ok(())
}
