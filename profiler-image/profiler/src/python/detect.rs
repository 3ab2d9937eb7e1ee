//! Finding CPython in a process: which mapped file holds it, its version, and a layout that passes the self-check.

use std::{fs, path::PathBuf, thread::sleep, time::Duration};

use aiprof_ebpf_types::PythonLayout;

use super::{
    Offsets, Refusal, Version, check, debug_offsets,
    elf::{self, ElfError, Image},
    layout,
    libc::{self, Libc},
};
use crate::{
    maps::{self, Mapping},
    memory::{MemoryError, ReadMemory},
};

/// Waits between attempts, since reads race with the process: 150 ms in all before a failure is believed.
const WAITS_MS: [u64; 7] = [1, 2, 5, 12, 30, 40, 60];

const SYMBOLS: [&str; 4] = ["_PyRuntime", "Py_Version", "PyCode_Type", "Py_GetVersion"];

/// A CPython found in a process. All addresses are that process's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interpreter {
    /// Its version.
    pub version: Version,
    /// Address of `_PyRuntime`.
    pub runtime_address: u64,
    /// Its bytes; 0 if the file does not tell.
    pub runtime_bytes: u64,
    /// What the in-kernel walker needs.
    pub layout: PythonLayout,
    /// What user space needs besides.
    pub offsets: Offsets,
    /// The file that holds it, in the target's mount namespace.
    pub path: PathBuf,
}

/// Looks for CPython in process `pid`, whose memory `memory` reads. `Ok(None)`: there is none, or none yet, as before
/// `exec` or while libraries are loaded.
///
/// It passes on a process that runs, and gives [`Refusal::Starting`] while one starts. It takes some milliseconds, up
/// to 150 more where a check fails.
pub fn detect(pid: u32, memory: &impl ReadMemory) -> Result<Option<Interpreter>, Refusal> {
    let mappings = maps::of_process(pid).map_err(|error| Refusal::Maps(error.to_string()))?;
    detect_in(pid, memory, &mappings)
}

/// The same for a process whose mappings are at hand.
pub fn detect_in(pid: u32, memory: &impl ReadMemory, mappings: &[Mapping]) -> Result<Option<Interpreter>, Refusal> {
    let mut found = Vec::new();
    let mut refusal = None;
    for mapping in candidates(pid, mappings) {
        match inspect(pid, mapping) {
            Ok(Some(candidate)) => found.push(candidate),
            Ok(None) => {}
            Err(reason) => refusal = Some(reason),
        }
        // The files that may well be CPython come first; the others matter only if none of them is.
        if !found.is_empty() && !named_as_python(mapping) {
            break;
        }
    }
    let libraries = libraries(pid, memory, mappings);
    let mut waits = WAITS_MS.iter();
    loop {
        for candidate in &found {
            match settle(memory, candidate, mappings, &libraries) {
                Ok(interpreter) => return Ok(Some(interpreter)),
                Err(reason) => refusal = Some(reason),
            }
        }
        match (&refusal, waits.next()) {
            (Some(reason), Some(wait)) if may_pass_later(reason) => sleep(Duration::from_millis(*wait)),
            _ => return refusal.map_or(Ok(None), Err),
        }
    }
}

/// Whether a reason may be gone a moment later: reads race with the process.
fn may_pass_later(reason: &Refusal) -> bool {
    matches!(reason, Refusal::Starting | Refusal::SelfCheck { .. } | Refusal::Unreadable(MemoryError::Unmapped { .. }))
}

/// A mapped file that defines `_PyRuntime`.
struct Candidate<'maps> {
    mapping: &'maps Mapping,
    runtime: u64,
    runtime_bytes: u64,
    version_address: Option<u64>,
    code_type: Option<u64>,
    /// Whether the file has a section `.PyRuntime`: all do from 3.10 on.
    has_section: bool,
}

/// Mappings of code, one of each file: those that CPython may well be in first.
fn candidates(pid: u32, mappings: &[Mapping]) -> Vec<&Mapping> {
    let executable = fs::read_link(format!("/proc/{pid}/exe")).ok();
    let mut files: Vec<&Mapping> = Vec::new();
    for mapping in mappings.iter().filter(|mapping| mapping.executable && mapping.path.is_some()) {
        let same =
            |file: &&Mapping| (file.device, file.inode, &file.path) == (mapping.device, mapping.inode, &mapping.path);
        if !files.iter().any(same) {
            files.push(mapping);
        }
    }
    // Extension modules (`x.cpython-39-….so`) name the version, but never hold the interpreter.
    files.sort_by_key(|mapping| match mapping {
        mapping if named_as_python(mapping) => 0,
        mapping if mapping.path == executable => 1,
        mapping if mapping.file_name().contains(".cpython-") => 4,
        mapping if mapping.file_name().contains("python") => 2,
        _ => 3,
    });
    files
}

/// Whether a file has the name of an interpreter.
fn named_as_python(mapping: &Mapping) -> bool {
    ["python", "libpython"].iter().any(|start| mapping.file_name().starts_with(start))
}

fn inspect(pid: u32, mapping: &Mapping) -> Result<Option<Candidate<'_>>, Refusal> {
    let likely = named_as_python(mapping);
    let Ok(file) = maps::open_file(pid, mapping) else {
        return Ok(None);
    };
    let image = match elf::inspect(file, mapping, &SYMBOLS) {
        Ok(image) => image,
        Err(ElfError::Machine(found)) if likely => return Err(Refusal::Machine { found }),
        Err(_) => return Ok(None),
    };
    let Image { symbols, first_bytes, runtime_section } = image;
    let [runtime, version_address, code_type, get_version] = *symbols.as_slice() else {
        return Ok(None);
    };
    match runtime.map(|address| (address, first_bytes)).or(runtime_section) {
        Some((runtime, runtime_bytes)) => {
            let has_section = runtime_section.is_some();
            Ok(Some(Candidate { mapping, runtime, runtime_bytes, version_address, code_type, has_section }))
        }
        // Up to 3.6 there is no `_PyRuntime`.
        None if likely && get_version.is_some() => Err(Refusal::TooOld(
            Version::from_path(mapping.file_name())
                .map_or("this CPython".into(), |version| format!("CPython {version}")),
        )),
        None => Ok(None),
    }
}

/// The C libraries to try, the likeliest first.
fn libraries(pid: u32, memory: &impl ReadMemory, mappings: &[Mapping]) -> Vec<Libc> {
    let code = || mappings.iter().filter(|mapping| mapping.executable);
    if code().any(|mapping| mapping.file_name().starts_with("ld-musl-")) {
        return vec![Libc::musl()];
    }
    // Before 2.34 threads were in a library of their own.
    let is_glibc = |name: &str| {
        ["libc.so.6", "libc-2.", "libpthread.so.0", "libpthread-2."].iter().any(|known| name.starts_with(known))
    };
    let described = code().filter(|mapping| is_glibc(mapping.file_name())).find_map(|mapping| {
        let image = elf::inspect(maps::open_file(pid, mapping).ok()?, mapping, &libc::GLIBC_SYMBOLS).ok()?;
        Libc::described_glibc(memory, &image)
    });
    let mut libraries: Vec<_> = described.into_iter().collect();
    if described != Some(Libc::usual_glibc()) {
        libraries.push(Libc::usual_glibc());
    }
    libraries.push(Libc::musl());
    libraries
}

/// Finds the version of a candidate and a layout that passes.
fn settle(
    memory: &impl ReadMemory,
    candidate: &Candidate<'_>,
    mappings: &[Mapping],
    libraries: &[Libc],
) -> Result<Interpreter, Refusal> {
    let interpreter = |version, (layout, offsets)| Interpreter {
        version,
        runtime_address: candidate.runtime,
        runtime_bytes: candidate.runtime_bytes,
        layout,
        offsets,
        path: candidate.mapping.path.clone().unwrap_or_default(),
    };
    if let Some(described) = debug_offsets::read(memory, candidate.runtime)? {
        let mut interpreter = interpreter(described.version, (described.layout, described.offsets));
        check::settle(memory, &mut interpreter, libraries, candidate.code_type, false)?;
        return Ok(interpreter);
    }
    let (versions, certain) = versions(memory, candidate, mappings)?;
    let mut refusal =
        Refusal::UnknownVersion(format!("{}", candidate.mapping.path.clone().unwrap_or_default().display()));
    for version in versions {
        let Some(known) = layout::known(version) else {
            if !certain {
                continue;
            }
            return Err(match version.minor {
                0..8 => Refusal::TooOld(format!("CPython {version}")),
                // It should describe itself, and does not yet.
                13 | 14 => Refusal::Starting,
                _ => Refusal::TooNew(version),
            });
        };
        let mut interpreter = interpreter(version, known);
        match check::settle(memory, &mut interpreter, libraries, candidate.code_type, !certain) {
            // A guessed version needs code objects that bear it out.
            Ok(checked) if certain || checked > 0 => return Ok(interpreter),
            Ok(_) => refusal = Refusal::Starting,
            Err(reason) if certain => return Err(reason),
            Err(_) => {}
        }
    }
    Err(refusal)
}

/// The versions that a candidate may be, and whether that is certain.
fn versions(
    memory: &impl ReadMemory,
    candidate: &Candidate<'_>,
    mappings: &[Mapping],
) -> Result<(Vec<Version>, bool), Refusal> {
    if let Some(address) = candidate.version_address {
        let hex = memory.u64(address)?;
        let version = Version::from_hex(hex);
        return version
            .map(|version| (vec![version], true))
            .ok_or_else(|| Refusal::UnknownVersion(format!("Py_Version, which is {hex:#x}")));
    }
    let named = |mapping: &Mapping| Version::from_path(mapping.path.as_deref()?.to_str()?);
    if let Some(version) = named(candidate.mapping) {
        return Ok((vec![version], true));
    }
    // Another file, such as an extension module, gives a hint only.
    let hint = mappings.iter().find_map(named);
    // `Py_Version` came with 3.11, but stripped executables have no symbols.
    let minors: &[u8] = if candidate.has_section { &[10, 11, 12] } else { &[9, 8] };
    let guesses = minors.iter().map(|minor| Version::three(*minor)).filter(|guess| Some(*guess) != hint);
    Ok((hint.into_iter().chain(guesses).collect(), false))
}
