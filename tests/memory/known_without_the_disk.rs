//! Where values leave memory alone, what a document is and whether there is one is known without the disk: it is asked for a
//! value, and for nothing else.

use piggin::messages::OperationError;
use piggin::messages::vbucket::Observed;
use piggin::storage::{Cas, Eviction, RevSeqno};

use crate::common::{bucket, evict};
use crate::support::{Result, block_on};

#[test]
fn the_disk_is_asked_for_values_alone() -> Result {
    let bucket = bucket(Eviction::Values);
    let mut cas = block_on(bucket.set("a", "value").flags(7))?.cas;
    for name in ["b", "c", "d", "e", "f"] {
        block_on(bucket.set(name, "value"))?;
    }
    evict(&bucket);
    let meta = block_on(bucket.get_meta("a"))?;
    assert_eq!((meta.cas, meta.flags, meta.is_deleted), (cas, 7, false));
    assert!(block_on(bucket.exists("a"))?);
    let is_persisted = true;
    let observed = Observed::Found { cas, is_persisted };
    assert_eq!(block_on(bucket.observe("a"))?, observed);
    // Refused for what is there.
    let exists = Err(OperationError::KeyExists);
    assert_eq!(block_on(bucket.add("a", "x")), exists);
    let other = Err(OperationError::CasMismatch { current: cas });
    assert_eq!(block_on(bucket.set("a", "x").cas(Cas(1))), other);
    assert_eq!(block_on(bucket.delete("a").cas(Cas(1))), other);
    assert_eq!(block_on(bucket.append("a", "x").cas(Cas(1))), other);
    let free = Err(OperationError::NotLocked);
    assert_eq!(block_on(bucket.unlock("a", Cas(1))), free);
    // Refused for what is not there, and done for that.
    let missing = OperationError::KeyNotFound;
    assert_eq!(block_on(bucket.get("z")), Err(missing.clone()));
    assert_eq!(block_on(bucket.replace("z", "x")), Err(missing.clone()));
    assert_eq!(block_on(bucket.append("z", "x")), Err(missing.clone()));
    assert_eq!(block_on(bucket.increment("z", 1)), Err(missing.clone()));
    block_on(bucket.add("z", "new"))?;
    // Done for what is there.
    cas = block_on(bucket.set("a", "cas").cas(cas))?.cas;
    block_on(bucket.replace("b", "replaced"))?;
    block_on(bucket.delete("c"))?;
    block_on(bucket.set("d", "blind"))?;
    let meta = block_on(bucket.get_meta("d"))?;
    assert_eq!(meta.rev_seqno, RevSeqno(2), "behind the one before");
    assert_eq!(block_on(bucket.get("a"))?.meta.cas, cas);
    assert_eq!(block_on(bucket.get("c")), Err(missing));
    assert_eq!(bucket.memory().fetched, 0);
    assert_eq!(bucket.statistics().documents, 6);
    // For a value, once.
    assert_eq!(block_on(bucket.get("e"))?.value, "value");
    assert_eq!(block_on(bucket.get("e"))?.value, "value");
    assert_eq!(bucket.memory().fetched, 1);
    block_on(bucket.append("f", "+"))?;
    assert_eq!(block_on(bucket.get("f"))?.value, "value+");
    let figures = bucket.memory();
    assert_eq!((figures.fetched, figures.restored), (2, 2));
    Ok(block_on(bucket.shutdown()).map(drop)?)
}
