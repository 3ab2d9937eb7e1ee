//! Brings the profiler that this binary carries into a container whose image has a shell: streamed in, checked, then moved into place.

use std::{fs, path::Path, time::Duration};

use aiprof_capture::attach::UPLOADED;
use sha2::{Digest as _, Sha256};

use super::{
    container::says_no_program,
    error::ClusterError,
    exec::{self, Output, Place},
    storage,
};
use crate::{
    strings::{hex, printable},
    transport::embedded,
};

/// The upload of some megabytes over a slow line lasts at most so long.
const UPLOAD: Duration = Duration::from_mins(3);
/// A small command lasts at most so long.
const COMMAND: Duration = Duration::from_secs(20);
/// Reads exactly as many bytes as it is told: the end of standard input does not arrive everywhere.
const RECEIVE: &str = "umask 077; mkdir -p \"${2%/*}\"; head -c \"$1\" >\"$2\" && chmod 700 \"$2\"";
/// Exit status of a shell that does not find a program.
const NOT_FOUND: i32 = 127;
const NO_SHELL: &str = "the target's image has no shell, or lacks mkdir, head, chmod or mv; \
give --image REF, an image that holds the profiler";

/// A profiler to bring.
#[derive(Debug)]
pub struct Program {
    bytes: Vec<u8>,
    sha256: String,
}

impl Program {
    /// The one at `path`, or the embedded one.
    ///
    /// # Errors
    /// It cannot be read, or there is none in this build.
    pub fn load(path: Option<&Path>) -> Result<Self, ClusterError> {
        let bytes = match path {
            Some(path) => {
                fs::read(path).map_err(|source| ClusterError::ReadProgram { path: path.to_owned(), source })?
            }
            None => embedded::x86_64().map_err(ClusterError::Unpack)?.ok_or(ClusterError::NoneEmbedded)?,
        };
        Ok(Self::new(bytes))
    }

    fn new(bytes: Vec<u8>) -> Self {
        let sha256 = hex(&Sha256::digest(&bytes));
        Self { bytes, sha256 }
    }

    /// Says why it is not to be brought into a pod with this limit of ephemeral storage.
    ///
    /// # Errors
    /// The pod could be evicted for it.
    pub fn fits(&self, limit: Option<u64>) -> Result<(), ClusterError> {
        let bytes = self.bytes.len() as u64;
        match limit {
            Some(limit) if !storage::has_room(limit, bytes) => Err(ClusterError::Upload {
                why: format!(
                    "of the {} MiB of ephemeral storage that the pod may use it would take {} MiB; \
                     give --image REF, an image that holds the profiler",
                    limit >> 20,
                    bytes.div_ceil(1 << 20)
                ),
            }),
            _ => Ok(()),
        }
    }

    /// Whether the container holds this very program in its place already.
    pub async fn is_there(&self, place: &Place) -> bool {
        verify(place, UPLOADED, &self.sha256).await.is_ok_and(|output| says_ok(&output))
    }

    /// Brings it.
    ///
    /// # Errors
    /// The image has no shell, the disk is full, or what arrived is not what was sent.
    pub async fn upload(&self, place: &Place) -> Result<(), ClusterError> {
        let size = self.bytes.len().to_string();
        let temporary = format!("{UPLOADED}.new");
        let command = words(&["sh", "-c", RECEIVE, "sh", &size, &temporary]);
        judge(exec::run(place, &command, &self.bytes, UPLOAD).await, "it does not arrive")?;
        let checked =
            judge(verify(place, &temporary, &self.sha256).await, "it does not run there, or arrived damaged")?;
        if !says_ok(&checked) {
            return Err(ClusterError::Upload { why: "what arrived is not what was sent; try again".to_owned() });
        }
        let command = words(&["mv", &temporary, UPLOADED]);
        judge(exec::run(place, &command, &[], COMMAND).await, "it cannot be moved into place")?;
        Ok(())
    }
}

async fn verify(place: &Place, program: &str, sha256: &str) -> Result<Output, ClusterError> {
    exec::run(place, &words(&[program, "verify", "--sha256", sha256]), &[], COMMAND).await
}

fn says_ok(output: &Output) -> bool {
    output.code == 0 && output.stdout.trim_ascii() == b"ok"
}

/// A step of the upload: its output, or why it failed.
fn judge(result: Result<Output, ClusterError>, what: &str) -> Result<Output, ClusterError> {
    let no_shell = || ClusterError::Upload { why: NO_SHELL.to_owned() };
    match result {
        Ok(output) if output.code == 0 => Ok(output),
        Ok(output) if output.code == NOT_FOUND || says_no_program(&output.stderr) => Err(no_shell()),
        Ok(Output { code, stderr, .. }) => {
            let said = printable(&stderr);
            let said = if said.is_empty() { format!("exit status {code}") } else { said };
            Err(ClusterError::Upload { why: format!("{what}: {said}") })
        }
        Err(ClusterError::Command { why, .. }) if says_no_program(&why) => Err(no_shell()),
        Err(ClusterError::Command { why, .. }) => Err(ClusterError::Upload { why: format!("{what}: {why}") }),
        Err(other) => Err(other),
    }
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|&word| word.to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(unix)]
    #[test]
    fn the_shells_part_takes_exactly_what_was_sent() {
        use std::{
            io::Write as _,
            process::{Command, Stdio},
        };
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("in/profiler.new");
        let mut shell = Command::new("sh");
        shell.args(["-c", RECEIVE, "sh", "5"]).arg(&path).stdin(Stdio::piped());
        let mut child = shell.spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        stdin.write_all(b"12345").unwrap();
        // Its input is still open.
        assert!(child.wait().unwrap().success());
        drop(stdin);
        assert_eq!(fs::read(path).unwrap(), b"12345");
    }

    #[test]
    fn the_checksum_is_written_as_sha256sum_has_it() {
        let program = Program::new(b"abc".to_vec());
        assert_eq!(program.sha256, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    }

    #[test]
    fn no_pod_is_evicted_for_an_upload() {
        let program = Program::new(vec![0; 4 << 20]);
        assert!(program.fits(None).is_ok() && program.fits(Some(1 << 30)).is_ok());
        let text = program.fits(Some(8 << 20)).unwrap_err().to_string();
        assert!(text.contains("of the 8 MiB of ephemeral storage that the pod may use it would take 4 MiB"), "{text}");
    }

    #[test]
    fn an_image_without_a_shell_leads_to_image() {
        let output = |code, stderr: &str| Ok(Output { code, stdout: vec![], stderr: stderr.to_owned() });
        let command = |why: &str| Err(ClusterError::Command { doing: "run sh".to_owned(), why: why.to_owned() });
        for result in [
            command("OCI runtime exec failed: exec: \"sh\": executable file not found in $PATH"),
            output(127, "sh: head: not found"),
        ] {
            assert!(judge(result, "x").unwrap_err().to_string().contains("give --image REF"));
        }
        let text = judge(output(1, "No space left on device"), "it does not arrive").unwrap_err().to_string();
        assert_eq!(text, "cannot bring the profiler into the pod: it does not arrive: No space left on device");
        assert!(judge(output(0, ""), "x").is_ok());
    }

    #[test]
    fn only_the_right_word_is_a_yes() {
        let output = |code, stdout: &[u8]| Output { code, stdout: stdout.to_vec(), stderr: String::new() };
        assert!(says_ok(&output(0, b"ok\n")));
        assert!(!says_ok(&output(0, b"")) && !says_ok(&output(1, b"ok")));
    }
}
