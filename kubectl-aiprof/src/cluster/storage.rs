//! How much of a pod's ephemeral storage the profiler may take. Takes objects of the API; no I/O.
//!
//! The kubelet evicts a pod whose containers together have written more than the limits of those that have one; ephemeral containers
//! can have none, but what they write counts.

use k8s_openapi::api::core::v1::Pod;

/// What a profiler takes of a disk for a connection that is slow or away, where nothing limits it.
const MOST_BYTES: u64 = 256 << 20;
/// Less than this is not worth to be taken: memory must do.
const LEAST_BYTES: u64 = 16 << 20;
/// What an uploaded profiler takes, generously.
const UPLOAD_BYTES: u64 = 6 << 20;
/// The profiler takes at most one part of so many of the limit.
const PART: u64 = 4;

/// The pod's limit; none if no container has one.
#[must_use]
pub fn limit_bytes(pod: &Pod) -> Option<u64> {
    let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
    let limits = containers.filter_map(|container| {
        let limits = container.resources.as_ref()?.limits.as_ref()?;
        bytes(&limits.get("ephemeral-storage")?.0)
    });
    limits.reduce(u64::saturating_add)
}

/// What may wait on disk for the connection; 0: nothing.
#[must_use]
pub fn spool_bytes(limit: Option<u64>, uploaded: bool) -> u64 {
    let Some(limit) = limit else { return MOST_BYTES };
    let upload = if uploaded { UPLOAD_BYTES } else { 0 };
    let share = (limit / PART).saturating_sub(upload);
    if share < LEAST_BYTES { 0 } else { share.min(MOST_BYTES) }
}

/// Whether a profiler of so many bytes may be uploaded.
#[must_use]
pub const fn has_room(limit: u64, program_bytes: u64) -> bool {
    limit / PART >= program_bytes
}

/// The value of a quantity as the API has it (`1Gi`, `500M`, `1e9`, `1500m`); none if it is not one.
fn bytes(quantity: &str) -> Option<u64> {
    let digits = quantity.find(|letter: char| !letter.is_ascii_digit() && letter != '.').unwrap_or(quantity.len());
    let (number, suffix) = quantity.split_at(digits);
    let number: f64 = number.parse().ok()?;
    let factor = match suffix {
        "" => 1.0,
        "n" => 1e-9,
        "u" => 1e-6,
        "m" => 1e-3,
        "k" => 1e3,
        "M" => 1e6,
        "G" => 1e9,
        "T" => 1e12,
        "P" => 1e15,
        "E" => 1e18,
        "Ki" => 2_f64.powi(10),
        "Mi" => 2_f64.powi(20),
        "Gi" => 2_f64.powi(30),
        "Ti" => 2_f64.powi(40),
        "Pi" => 2_f64.powi(50),
        "Ei" => 2_f64.powi(60),
        _ => 10_f64.powi(suffix.strip_prefix(['e', 'E'])?.parse().ok()?),
    };
    Some((number * factor) as u64)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn quantities_are_read_as_the_api_writes_them() {
        for (quantity, expected) in [
            ("0", Some(0)),
            ("1048576", Some(1 << 20)),
            ("1Gi", Some(1 << 30)),
            ("1.5Gi", Some(3 << 29)),
            ("500M", Some(500_000_000)),
            ("64k", Some(64_000)),
            ("2E", Some(2_000_000_000_000_000_000)),
            ("1e9", Some(1_000_000_000)),
            ("1E3", Some(1_000)),
            ("1500m", Some(1)),
            ("99999999Ei", Some(u64::MAX)),
            ("", None),
            ("Gi", None),
            ("1GiB", None),
            ("-1", None),
            ("1.2.3", None),
        ] {
            assert_eq!(bytes(quantity), expected, "{quantity}");
        }
    }

    #[test]
    fn the_limits_of_the_containers_that_have_one_are_the_pods() {
        let pod = |limits: &[Option<&str>]| -> Pod {
            let container = |limit: Option<&str>| match limit {
                Some(limit) => json!({"name": "c", "resources": {"limits": {"ephemeral-storage": limit}}}),
                None => json!({"name": "c", "resources": {"limits": {"memory": "1Gi"}}}),
            };
            let containers: Vec<_> = limits.iter().copied().map(container).collect();
            serde_json::from_value(json!({"metadata": {}, "spec": {"containers": containers}})).unwrap()
        };
        assert_eq!(limit_bytes(&pod(&[None, None])), None);
        assert_eq!(limit_bytes(&pod(&[Some("1Gi"), None])), Some(1 << 30));
        assert_eq!(limit_bytes(&pod(&[Some("1Gi"), Some("1Gi")])), Some(2 << 30));
    }

    #[test]
    fn a_quarter_may_be_taken_and_little_is_left_alone() {
        const MIB: u64 = 1 << 20;
        assert_eq!(spool_bytes(None, true), 256 * MIB);
        assert_eq!(spool_bytes(Some(100 << 30), true), 256 * MIB);
        assert_eq!(spool_bytes(Some(400 * MIB), true), 94 * MIB);
        assert_eq!(spool_bytes(Some(400 * MIB), false), 100 * MIB);
        assert_eq!(spool_bytes(Some(80 * MIB), true), 0);
        assert_eq!(spool_bytes(Some(0), true), 0);
        assert!(has_room(16 * MIB, 4 * MIB) && !has_room(15 * MIB, 4 * MIB));
    }
}
