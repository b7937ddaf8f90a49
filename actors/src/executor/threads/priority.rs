//! How a thread gives way to others where there are fewer processors than work.
//!
//! Invariant: it still gets a share of a busy processor. What it does holds locks now and then, for some microseconds; with
//! the least priority there is, others would wait for them as long as anybody has anything to do.

/// As `nice` counts: beside a thread of usual priority it gets a quarter of a processor.
#[cfg(target_os = "linux")]
const NICE: i32 = 5;

/// From now on the calling thread gives way. Never to be taken back: that would need a privilege.
#[cfg(target_os = "linux")]
pub(super) fn give_way() -> std::io::Result<()> {
    // Linux counts it for each thread.
    rustix::process::setpriority_process(None, NICE)?;
    Ok(())
}

/// Elsewhere it would be the whole process that gives way.
#[cfg(not(target_os = "linux"))]
pub(super) fn give_way() -> std::io::Result<()> {
    Ok(())
}
