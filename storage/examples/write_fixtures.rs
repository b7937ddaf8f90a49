//! Writes the fixture folders: `cargo run -p piggin-storage --example write_fixtures -- storage/fixtures/v1`.

#[path = "../tests/fixture_stores/mod.rs"]
mod fixture_stores;

use std::path::PathBuf;

use fixture_stores::{FOLDERS, Failure, make, write};

fn main() -> Result<(), Failure> {
    let target = std::env::args_os().nth(1).map(PathBuf::from);
    let target = target.ok_or("say where to: storage/fixtures/v1")?;
    for folder in FOLDERS {
        write(&target.join(folder), &make(folder)?)?;
    }
    Ok(())
}
