//! What a user can do about an archive that cannot be written or read: the end of the sentence that says what is wrong.

use aiprof_capture::archive::ArchiveError;

/// The advice, with what joins it to the sentence; empty where there is none.
#[must_use]
pub const fn advice(error: &ArchiveError) -> &'static str {
    match error {
        ArchiveError::NotOurs { .. } => "; give a file that `kubectl aiprof record` wrote",
        ArchiveError::Torn { .. } | ArchiveError::Manifest { .. } => {
            "; copy it again from where it was made, or record again"
        }
        ArchiveError::Read { .. } => "; give the path of a file that `kubectl aiprof record` wrote",
        ArchiveError::NoFolder { .. } | ArchiveError::Write { .. } => "; choose another place with -o FILE",
        ArchiveError::DiskFull { .. } => "; free some space or choose another place with -o FILE",
        _ => "",
    }
}
