//! The token by which the API server knows the program, from a file that somebody else renews: the kubelet, for a pod.
//!
//! Guarantees: the file is read again when it was last read [`FRESH`] ago, by a clock that nobody sets, and as soon as the API
//! server has not accepted what was read; a file that cannot be read leaves the last token in use.

use std::fs;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::http::header::AUTHORIZATION;
use axum::http::{HeaderValue, Request, Response, StatusCode};
use tracing::warn;

/// The kubelet renews a token when a fifth of its time is left, which is two minutes at least.
const FRESH: Duration = Duration::from_secs(30);

/// After the API server has refused a token the file is read again, but not more often than this.
const AGAIN: Duration = Duration::from_secs(1);

/// The token in a file, put on every request.
#[derive(Clone, Debug)]
pub(crate) struct TokenFile {
    path: PathBuf,
    read: Arc<Mutex<Read>>,
}

#[derive(Debug, Default)]
struct Read {
    header: Option<HeaderValue>,
    at: Option<Instant>,
    refused: bool,
    /// It could not be read, as far as that was logged.
    unreadable: bool,
}

impl TokenFile {
    pub(crate) fn new(path: impl Into<PathBuf>) -> Self {
        TokenFile {
            path: path.into(),
            read: Arc::default(),
        }
    }

    /// Puts the token on a request.
    pub(crate) fn sign<B>(&self, mut request: Request<B>) -> Request<B> {
        if let Some(header) = self.header(Instant::now()) {
            request.headers_mut().insert(AUTHORIZATION, header);
        }
        request
    }

    /// Reads in an answer whether the token was accepted.
    pub(crate) fn look<B>(&self, answer: Response<B>) -> Response<B> {
        if answer.status() == StatusCode::UNAUTHORIZED {
            self.refused();
        }
        answer
    }

    fn header(&self, now: Instant) -> Option<HeaderValue> {
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        let patience = if read.refused { AGAIN } else { FRESH };
        if read.at.is_none_or(|at| now.duration_since(at) >= patience) {
            read.at = Some(now);
            read.refused = false;
            match self.load() {
                Ok(header) => {
                    read.header = Some(header);
                    read.unreadable = false;
                }
                Err(error) => {
                    if !std::mem::replace(&mut read.unreadable, true) {
                        warn!(path = %self.path.display(), "the token cannot be read, the last one stays in use: {error}");
                    }
                }
            }
        }
        read.header.clone()
    }

    fn load(&self) -> Result<HeaderValue, String> {
        let text = fs::read_to_string(&self.path).map_err(|error| error.to_string())?;
        let header = HeaderValue::from_str(&format!("Bearer {}", text.trim()));
        let mut header = header.map_err(|_| "it is no token".to_owned())?;
        header.set_sensitive(true);
        Ok(header)
    }

    fn refused(&self) {
        self.read.lock().unwrap_or_else(PoisonError::into_inner).refused = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_read_again_in_time_and_when_it_is_refused() {
        let path = std::env::temp_dir().join(format!("ferrolb-token-{}", std::process::id()));
        let token = TokenFile::new(&path);
        let start = Instant::now();
        assert_eq!(token.header(start), None);

        let held = |at| token.header(at).map(|header| header.to_str().unwrap().to_owned());
        let write = |text| fs::write(&path, text).unwrap();
        write("one\n");
        assert_eq!(held(start + FRESH), Some("Bearer one".to_owned()));
        write("two");
        let soon = start + FRESH + AGAIN;
        assert_eq!(held(soon), Some("Bearer one".to_owned()));
        token.refused();
        assert_eq!(held(soon), Some("Bearer two".to_owned()));
        write("three");
        token.refused();
        assert_eq!(held(soon), Some("Bearer two".to_owned()), "not on every request");
        fs::remove_file(&path).unwrap();
        assert_eq!(
            held(soon + FRESH),
            Some("Bearer two".to_owned()),
            "the last one stays in use"
        );
    }
}
