//! A file as the body of an answer, read in pieces, so that no file is held whole.

use std::{
    convert::Infallible,
    fs::File,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use hyper::body::{Body, Bytes, Frame, SizeHint};

use crate::platform::read_exact_at;

/// Bytes of one piece.
const PIECE_BYTES: u64 = 256 << 10;

/// The body.
#[derive(Debug)]
pub struct FileBody {
    file: Option<Arc<File>>,
    offset: u64,
    end: u64,
}

impl FileBody {
    /// A body without bytes.
    #[must_use]
    pub const fn empty() -> Self {
        Self { file: None, offset: 0, end: 0 }
    }

    /// All of `file` as long as it is now; the file's own position does not matter.
    pub fn new(file: Arc<File>) -> io::Result<Self> {
        let end = file.metadata()?.len();
        Ok(Self { file: Some(file), offset: 0, end })
    }
}

impl Body for FileBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        let Some(file) = self.file.clone().filter(|_| self.offset < self.end) else {
            return Poll::Ready(None);
        };
        let mut piece = vec![0; PIECE_BYTES.min(self.end - self.offset) as usize];
        Poll::Ready(Some(match read_exact_at(&file, &mut piece, self.offset) {
            Ok(()) => {
                self.offset += piece.len() as u64;
                Ok(Frame::data(piece.into()))
            }
            Err(error) => {
                self.end = self.offset;
                Err(error)
            }
        }))
    }

    fn is_end_stream(&self) -> bool {
        self.offset == self.end
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.end - self.offset)
    }
}

/// What hyper's services return: nothing fails, an error is an answer too.
pub type Answered = Result<hyper::Response<FileBody>, Infallible>;
