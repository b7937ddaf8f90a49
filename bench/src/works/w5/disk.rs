//! How much a store takes on disk at most, while it works.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::raw::bytes_on_disk;

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(50);

/// Looks at a directory again and again.
pub(super) struct DiskWatch {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<u64>,
}

impl DiskWatch {
    pub(super) fn start(directory: &Path) -> DiskWatch {
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, directory) = (Arc::clone(&stop), directory.to_path_buf());
        let thread = std::thread::spawn(move || {
            let mut most = 0;
            while !stopped.load(Ordering::Relaxed) {
                most = most.max(bytes_on_disk(&directory));
                std::thread::park_timeout(PAUSE);
            }
            most.max(bytes_on_disk(&directory))
        });
        DiskWatch { stop, thread }
    }

    /// The most it saw.
    pub(super) fn stop(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.thread().unpark();
        self.thread.join().unwrap()
    }
}
