//! What this process may do, told before the kernel is asked, so that the missing capability can be named.

use procfs::process::Process;

/// Capabilities by number (`include/uapi/linux/capability.h`).
const SYS_PTRACE: u32 = 19;
const SYS_ADMIN: u32 = 21;
const PERFMON: u32 = 38;
const BPF: u32 = 39;

/// Names of the capabilities that a capture needs and this process lacks; empty when all is well.
#[must_use]
pub fn missing() -> Vec<&'static str> {
    let effective = Process::myself().and_then(|own| own.status()).map_or(0, |status| status.capeff);
    missing_of(effective)
}

fn missing_of(effective: u64) -> Vec<&'static str> {
    let has = |capability: u32| effective >> capability & 1 != 0;
    let mut missing = Vec::new();
    // SYS_ADMIN includes both of the narrower ones.
    if !has(SYS_ADMIN) {
        if !has(BPF) {
            missing.push("CAP_BPF");
        }
        if !has(PERFMON) {
            missing.push("CAP_PERFMON");
        }
    }
    if !has(SYS_PTRACE) {
        missing.push("CAP_SYS_PTRACE");
    }
    missing
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_what_is_missing() {
        assert_eq!(missing_of(0), ["CAP_BPF", "CAP_PERFMON", "CAP_SYS_PTRACE"]);
        assert_eq!(missing_of(1 << SYS_ADMIN), ["CAP_SYS_PTRACE"]);
        assert_eq!(missing_of(1 << BPF | 1 << PERFMON | 1 << SYS_PTRACE), [""; 0]);
    }
}
