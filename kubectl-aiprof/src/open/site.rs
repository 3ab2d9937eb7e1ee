//! A self-hosted UI: the files of one folder, and no others.

use std::{
    fs::File,
    io,
    path::{Component, Path, PathBuf},
    sync::Arc,
};

use hyper::{
    Method, Response, StatusCode,
    header::{CONTENT_TYPE, HeaderValue},
};
use percent_encoding::percent_decode_str;

use super::body::FileBody;

/// The folder of a UI.
#[derive(Clone, Debug)]
pub struct Site {
    root: PathBuf,
}

impl Site {
    /// The site of a folder.
    ///
    /// # Errors
    /// There is no such folder, or no `index.html` in it.
    pub fn open(folder: &Path) -> io::Result<Self> {
        let root = folder.canonicalize()?;
        if root.join("index.html").is_file() {
            return Ok(Self { root });
        }
        Err(io::Error::new(io::ErrorKind::NotFound, "there is no index.html in it"))
    }

    /// The answer to a request.
    #[must_use]
    pub fn respond(&self, method: &Method, path: &str) -> Response<FileBody> {
        if *method != Method::GET {
            return status(StatusCode::METHOD_NOT_ALLOWED);
        }
        let body = self.find(path).and_then(|found| {
            let file = File::open(&found).ok()?;
            Some((found, FileBody::new(Arc::new(file)).ok()?))
        });
        let Some((found, body)) = body else {
            return status(StatusCode::NOT_FOUND);
        };
        let mut response = Response::new(body);
        let kind = mime_guess::from_path(&found).first_or_octet_stream();
        if let Ok(kind) = HeaderValue::from_str(kind.essence_str()) {
            response.headers_mut().insert(CONTENT_TYPE, kind);
        }
        response
    }

    /// The file of a path, if it lies in the folder, also after its links are followed.
    fn find(&self, path: &str) -> Option<PathBuf> {
        let decoded = percent_decode_str(path).decode_utf8().ok()?;
        let relative = Path::new(decoded.trim_start_matches('/'));
        if !relative.components().all(|part| matches!(part, Component::Normal(_))) {
            return None;
        }
        let mut found = self.root.join(relative).canonicalize().ok()?;
        if found.is_dir() {
            found = found.join("index.html").canonicalize().ok()?;
        }
        (found.starts_with(&self.root) && found.is_file()).then_some(found)
    }
}

fn status(status: StatusCode) -> Response<FileBody> {
    let mut response = Response::new(FileBody::empty());
    *response.status_mut() = status;
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn site() -> (tempfile::TempDir, Site) {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("ui");
        std::fs::create_dir_all(root.join("v52")).unwrap();
        std::fs::write(root.join("index.html"), "<html>").unwrap();
        std::fs::write(root.join("v52/engine.wasm"), "wasm").unwrap();
        std::fs::write(folder.path().join("secret"), "secret").unwrap();
        #[cfg(unix)]
        std::os::unix::fs::symlink("../secret", root.join("link")).unwrap();
        let site = Site::open(&root).unwrap();
        (folder, site)
    }

    #[test]
    fn files_come_with_their_types() {
        let (_folder, site) = site();
        for (path, kind) in [("/", "text/html"), ("/index.html", "text/html"), ("/v52/engine.wasm", "application/wasm")]
        {
            let response = site.respond(&Method::GET, path);
            assert_eq!(
                (response.status(), &response.headers()[CONTENT_TYPE]),
                (StatusCode::OK, &HeaderValue::from_static(kind))
            );
        }
    }

    #[test]
    fn nothing_outside_the_folder_is_served() {
        let (_folder, site) = site();
        for path in [
            "/../secret",
            "/v52/../../secret",
            "/%2e%2e/secret",
            "/..%2fsecret",
            "/link",
            "//etc/passwd",
            "/v52",
            "/%00",
            "/%ff",
        ] {
            assert_eq!(site.respond(&Method::GET, path).status(), StatusCode::NOT_FOUND, "{path}");
        }
        assert_eq!(site.respond(&Method::POST, "/").status(), StatusCode::METHOD_NOT_ALLOWED);
    }

    #[test]
    fn a_folder_without_a_ui_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        assert!(Site::open(folder.path()).is_err());
    }
}
