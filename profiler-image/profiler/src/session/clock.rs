//! The clocks.

use aiprof_capture::event::ClockSnapshot;
use nix::time::{ClockId, clock_gettime};

/// All of them, read together.
pub(super) fn snapshot() -> ClockSnapshot {
    ClockSnapshot {
        boottime_ns: boottime_ns(),
        monotonic_ns: read(ClockId::CLOCK_MONOTONIC),
        realtime_ns: read(ClockId::CLOCK_REALTIME),
    }
}

/// `CLOCK_BOOTTIME`, in which the in-kernel programs tell times.
pub(super) fn boottime_ns() -> u64 {
    read(ClockId::CLOCK_BOOTTIME)
}

fn read(clock: ClockId) -> u64 {
    // These clocks exist on every kernel that the profiler runs on.
    clock_gettime(clock).map_or(0, |time| time.tv_sec() as u64 * 1_000_000_000 + time.tv_nsec() as u64)
}
