//! A process's memory mappings (`/proc/PID/maps`), and how to open the files behind them.

use std::{
    ffi::{OsStr, OsString},
    fs::{self, File},
    io,
    os::unix::ffi::OsStringExt,
    path::{Path, PathBuf},
};

/// One mapping.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// First address.
    pub start: u64,
    /// First address behind it.
    pub end: u64,
    /// Byte of the file at which it starts.
    pub offset: u64,
    /// Device of the file as `major << 32 | minor`; 0 without one. On overlay file systems it may differ from what `stat` says.
    pub device: u64,
    /// Inode of the file, 0 without one.
    pub inode: u64,
    /// Path in the target's mount namespace; `None` for anonymous memory and the kernel's own (`[stack]`, `[vdso]`).
    pub path: Option<PathBuf>,
    /// Whether the file has been unlinked since, or replaced by another of that name.
    pub deleted: bool,
    /// Whether it may be executed.
    pub executable: bool,
    /// Whether it may be read.
    pub readable: bool,
}

impl Mapping {
    /// The file's name without its folder; empty for a mapping without a file.
    #[must_use]
    pub fn file_name(&self) -> &str {
        self.path.as_deref().and_then(Path::file_name).and_then(OsStr::to_str).unwrap_or_default()
    }
}

/// Parses the text of `/proc/PID/maps`. A line that is none, as at a torn end, is left out.
#[must_use]
pub fn parse(text: &[u8]) -> Vec<Mapping> {
    text.split(|byte| *byte == b'\n').filter_map(parse_line).collect()
}

/// The mappings of process `pid`.
pub fn of_process(pid: u32) -> io::Result<Vec<Mapping>> {
    fs::read(format!("/proc/{pid}/maps")).map(|text| parse(&text))
}

/// Opens the file behind a mapping of process `pid`: by its path in the target's mount namespace, else (it was deleted,
/// or the path leads elsewhere) by `/proc/PID/map_files`, which needs `CAP_SYS_ADMIN` or `CAP_CHECKPOINT_RESTORE`.
pub fn open_file(pid: u32, mapping: &Mapping) -> io::Result<File> {
    let path = mapping.path.as_deref().ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "anonymous mapping"))?;
    let by_mapping = || File::open(format!("/proc/{pid}/map_files/{:x}-{:x}", mapping.start, mapping.end));
    if mapping.deleted {
        return by_mapping();
    }
    let relative = path.strip_prefix("/").unwrap_or(path);
    File::open(Path::new(&format!("/proc/{pid}/root")).join(relative))
        .or_else(|by_path| by_mapping().map_err(|_| by_path))
}

fn parse_line(line: &[u8]) -> Option<Mapping> {
    // start-end perms offset major:minor inode      path
    let mut rest = line;
    let mut field = || {
        let skip = rest.iter().position(|byte| *byte != b' ')?;
        let end = rest[skip..].iter().position(|byte| *byte == b' ').map_or(rest.len(), |length| skip + length);
        let field = std::str::from_utf8(&rest[skip..end]).ok();
        rest = &rest[end..];
        field
    };
    let (start, end) = field()?.split_once('-')?;
    let permissions = field()?.as_bytes();
    let offset = hexadecimal(field()?)?;
    let (major, minor) = field()?.split_once(':')?;
    let inode = field()?.parse().ok()?;
    let name = rest.trim_ascii_start();
    let (name, deleted) = match name.strip_suffix(b" (deleted)") {
        Some(name) => (name, true),
        None => (name, false),
    };
    let (start, end) = (hexadecimal(start)?, hexadecimal(end)?);
    (start < end && permissions.len() == 4).then(|| Mapping {
        start,
        end,
        offset,
        device: hexadecimal(major).unwrap_or(0) << 32 | hexadecimal(minor).unwrap_or(0),
        inode,
        path: name.starts_with(b"/").then(|| unescape(name)),
        deleted,
        executable: permissions[2] == b'x',
        readable: permissions[0] == b'r',
    })
}

fn hexadecimal(digits: &str) -> Option<u64> {
    u64::from_str_radix(digits, 16).ok()
}

/// Undoes the only escape that the kernel makes here: a newline as `\012`.
fn unescape(name: &[u8]) -> PathBuf {
    let mut path = Vec::with_capacity(name.len());
    let mut rest = name;
    while let Some((byte, tail)) = rest.split_first() {
        if let Some(tail) = rest.strip_prefix(b"\\012") {
            path.push(b'\n');
            rest = tail;
        } else {
            path.push(*byte);
            rest = tail;
        }
    }
    PathBuf::from(OsString::from_vec(path))
}

#[cfg(test)]
mod tests {
    use std::{io::Read, os::unix::ffi::OsStrExt};

    use super::*;

    #[test]
    fn parses_each_kind_of_line() {
        let text = b"00400000-0041f000 r-xp 00002000 fe:01 12345                              /usr/bin/python3.14\n\
            7f00-8000 rw-p 00000000 00:00 0 \n\
            9000-a000 rw-p 00000000 00:00 0                          [stack]\n\
            b000-c000 r--p 00001000 00:2f 77                         /tmp/a b\\012c (deleted)\n\
            d000-e000 ---p 00000000 00:2f 78                         /tmp/\xff\n\
            torn-";
        let mappings = parse(text);
        assert_eq!(mappings.len(), 5);
        let expected = Mapping {
            start: 0x40_0000,
            end: 0x41_f000,
            offset: 0x2000,
            device: 0xfe << 32 | 1,
            inode: 12345,
            path: Some("/usr/bin/python3.14".into()),
            deleted: false,
            executable: true,
            readable: true,
        };
        assert_eq!(mappings[0], expected);
        assert_eq!(mappings[0].file_name(), "python3.14");
        assert_eq!((&mappings[1].path, &mappings[2].path), (&None, &None));
        assert_eq!((mappings[3].path.as_deref(), mappings[3].deleted), (Some(Path::new("/tmp/a b\nc")), true));
        assert_eq!(
            (mappings[4].readable, mappings[4].path.as_deref()),
            (false, Some(Path::new(OsStr::from_bytes(b"/tmp/\xff"))))
        );
    }

    #[test]
    fn hostile_lines_give_nothing() {
        for line in
            ["", " ", "1-", "2-1 r-xp 0 0:0 0", "1-2 r 0 0:0 0", "1-2 r-xp", "1-2 r-xp zz 0:0 0", "1-2 r-xp 0 0 0 /a"]
        {
            assert_eq!(parse(line.as_bytes()), [], "{line:?}");
        }
    }

    #[test]
    fn opens_our_own_executable() {
        let mappings = of_process(std::process::id()).unwrap();
        let executable = std::env::current_exe().unwrap();
        let mapping = mappings.iter().find(|mapping| mapping.path.as_deref() == Some(&executable)).unwrap();
        let mut magic = [0; 4];
        open_file(std::process::id(), mapping).unwrap().read_exact(&mut magic).unwrap();
        assert_eq!(&magic, b"\x7fELF");
    }
}
