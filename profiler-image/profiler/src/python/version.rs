//! Telling the version of a CPython: from `PY_VERSION_HEX` where it is in memory, else from file names.

use std::fmt;

/// A CPython version, such as 3.12.1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Version {
    /// 3.
    pub major: u8,
    /// 12.
    pub minor: u8,
    /// 1; unknown up to 3.10, where it is not in memory in a known place.
    pub micro: Option<u8>,
}

impl Version {
    /// `3.minor`.
    pub(super) const fn three(minor: u8) -> Self {
        Self { major: 3, minor, micro: None }
    }

    /// Takes apart `PY_VERSION_HEX` (0x030c01f0 is 3.12.1 final); `None` if it is no version of CPython 3.
    pub(super) fn from_hex(hex: u64) -> Option<Self> {
        let [_, _, _, _, major, minor, micro, _] = hex.to_be_bytes();
        (hex >> 32 == 0 && major == 3 && minor < 100).then_some(Self { major, minor, micro: Some(micro) })
    }

    /// The version in the name of a file that CPython itself installs: `python3.9`, `libpython3.9.so.1.0`,
    /// `_json.cpython-39-x86_64-linux-gnu.so`, or any file below `lib/python3.9/`.
    pub(super) fn from_path(path: &str) -> Option<Self> {
        let component = |name: &str| {
            let name = name.strip_prefix("lib").unwrap_or(name);
            let tail = name.strip_prefix("python3.")?;
            let (minor, rest) = leading_number(tail)?;
            // "python3.9-config" names no interpreter, "python3.7m" does.
            (rest.is_empty() || rest.starts_with(['m', 't', 'd', '.'])).then_some(Self::three(minor))
        };
        path.rsplit('/').find_map(component).or_else(|| {
            let (_, tail) = path.rsplit('/').next()?.split_once(".cpython-3")?;
            let (minor, rest) = leading_number(tail)?;
            rest.starts_with(['-', 'm', 't', 'd']).then_some(Self::three(minor))
        })
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)?;
        self.micro.map_or(Ok(()), |micro| write!(f, ".{micro}"))
    }
}

fn leading_number(text: &str) -> Option<(u8, &str)> {
    let end = text.find(|character: char| !character.is_ascii_digit()).unwrap_or(text.len());
    Some((text[..end].parse().ok()?, &text[end..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn from_version_hex() {
        assert_eq!(Version::from_hex(0x030c_01f0), Some(Version { major: 3, minor: 12, micro: Some(1) }));
        assert_eq!(Version::from_hex(0x030c_01f0).unwrap().to_string(), "3.12.1");
        for hex in [0, 0x020c_01f0, 0x1_030c_01f0, u64::MAX] {
            assert_eq!(Version::from_hex(hex), None, "{hex:#x}");
        }
    }

    #[test]
    fn from_file_names() {
        for (path, minor) in [
            ("/usr/bin/python3.9", Some(9)),
            ("/opt/lib/libpython3.10.so.1.0", Some(10)),
            ("/usr/lib/libpython3.7m.so.1.0", Some(7)),
            ("/x/python3.8/lib-dynload/_json.so", Some(8)),
            ("/y/_json.cpython-38-x86_64-linux-gnu.so", Some(8)),
            ("/y/_json.cpython-313t-x86_64-linux-gnu.so", Some(13)),
            ("/usr/bin/python3", None),
            ("/usr/bin/python3.", None),
            ("/usr/bin/python3.999", None),
            ("/usr/bin/python3.9-config", None),
            ("/y/x.cpython-3.so", None),
            ("", None),
        ] {
            assert_eq!(Version::from_path(path), minor.map(Version::three), "{path}");
        }
        assert_eq!(Version::from_path("/opt/python3.8/bin/python3.11"), Some(Version::three(11)));
    }
}
