//! One moment by the wall clock, read once for a request; and what has expired by then.
//!
//! Invariant: a request is judged by one moment from its beginning to its end.

use std::time::Duration;

use super::core::VbucketCore;
use messages::vbucket::ExpiryRequest;
use storage::Expiry;

/// One moment by the wall clock.
#[derive(Clone, Copy, Debug)]
pub(super) struct Now {
    pub(super) nanoseconds: u64,
    pub(super) seconds: u32,
}

impl VbucketCore {
    pub(super) fn now(&self) -> Now {
        let since_epoch = self.environment.clock.since_epoch();
        Now {
            nanoseconds: nanoseconds(since_epoch),
            seconds: seconds(since_epoch),
        }
    }
}

pub(super) const fn is_expired(expiry: Expiry, now: u32) -> bool {
    expiry.0 != 0 && expiry.0 <= now
}

/// When a document expires for which this was asked `now`, in a collection whose documents live so long at most.
pub(super) fn expiry_at(request: ExpiryRequest, max_ttl_s: u32, now: u32) -> Expiry {
    let asked = match request.0 {
        0 => 0,
        seconds if seconds <= ExpiryRequest::RELATIVE_SECONDS_MAX => now.saturating_add(seconds),
        absolute => absolute,
    };
    let latest = now.saturating_add(max_ttl_s);
    let is_beyond = max_ttl_s != 0 && (asked == 0 || asked > latest);
    Expiry(if is_beyond { latest } else { asked })
}

pub(super) fn seconds(since_epoch: Duration) -> u32 {
    u32::try_from(since_epoch.as_secs()).unwrap_or(u32::MAX)
}

fn nanoseconds(since_epoch: Duration) -> u64 {
    u64::try_from(since_epoch.as_nanos()).unwrap_or(u64::MAX)
}
