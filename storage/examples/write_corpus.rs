//! Writes the seeds of the fuzz corpus: `cargo run -p piggin-storage --features fuzzing --example write_corpus`.

use std::io;
use std::path::Path;

#[expect(
    clippy::disallowed_methods,
    reason = "files of the source tree, not of a store"
)]
fn main() -> io::Result<()> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
    for (target, name, bytes) in piggin_storage::fuzzing::seeds() {
        let folder = folder.join(target);
        std::fs::create_dir_all(&folder)?;
        std::fs::write(folder.join(name), bytes)?;
    }
    Ok(())
}
