//! What can be seen from every answer of the API server, whatever was asked: whether it accepts the program's token, and whether
//! this machine's clock agrees with its own.
//!
//! Nothing that matters here goes by a clock that somebody sets, except what others compare with their own: certificates, and the dates of
//! events and conditions. A clock that is wrong is told, because it shows there.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::http::header::DATE;
use axum::http::{HeaderMap, Response, StatusCode};
use jiff::{SignedDuration, Timestamp, fmt::rfc2822};
use tracing::{info, warn};

use crate::readiness::{Check, Readiness};

/// A difference that is worth telling. An answer may be under way for [`crate::client::RESPONSE_TIMEOUT`].
const TOLERANCE: SignedDuration = SignedDuration::from_secs(60);

/// Between two comparisons.
const PERIOD: Duration = Duration::from_secs(10);

/// Looks at answers, and tells `/readyz` and the log.
#[derive(Clone, Debug)]
pub(crate) struct Observer {
    token: Check,
    clock: Check,
    seen: Arc<Mutex<Seen>>,
}

#[derive(Debug, Default)]
struct Seen {
    unauthorized: bool,
    compared: Option<Instant>,
    wrong: bool,
}

impl Observer {
    pub(crate) fn new(readiness: &Readiness) -> Self {
        Observer {
            token: readiness.sound_check("token"),
            clock: readiness.sound_check("clock"),
            seen: Arc::default(),
        }
    }

    /// An answer has come in.
    pub(crate) fn look<B>(&self, answer: Response<B>) -> Response<B> {
        self.answered(answer.status(), answer.headers(), Instant::now(), Timestamp::now());
        answer
    }

    /// An answer has come in at `now`, which is `time` by this machine's clock.
    fn answered(&self, status: StatusCode, headers: &HeaderMap, now: Instant, time: Timestamp) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        self.authorized(&mut seen, status);
        if seen.compared.is_none_or(|at| now.duration_since(at) >= PERIOD)
            && let Some(theirs) = headers.get(DATE).and_then(|value| date(value.to_str().ok()?))
        {
            seen.compared = Some(now);
            self.compare(&mut seen, time.duration_since(theirs));
        }
    }

    fn authorized(&self, seen: &mut Seen, status: StatusCode) {
        let unauthorized = status == StatusCode::UNAUTHORIZED;
        match (std::mem::replace(&mut seen.unauthorized, unauthorized), unauthorized) {
            (false, true) => {
                let why = "the API server does not accept this program's token (401): it has expired, or is none of this cluster's. The \
                           file that it is in is read again until it has been renewed";
                warn!("{why}");
                self.token.not_ready(why);
            }
            (true, false) => {
                info!("the API server accepts this program's token again");
                self.token.ready();
            }
            _ => {}
        }
    }

    fn compare(&self, seen: &mut Seen, fast: SignedDuration) {
        let wrong = fast.abs() > TOLERANCE;
        match (std::mem::replace(&mut seen.wrong, wrong), wrong) {
            (false, true) => {
                let why = format!(
                    "this machine's clock is {} s {} the API server's; dates of events and conditions are wrong, and certificates \
                     may not be accepted: look at the time service of both machines",
                    fast.abs().as_secs(),
                    if fast.is_positive() { "ahead of" } else { "behind" }
                );
                warn!("{why}");
                self.clock.warn(why);
            }
            (true, false) => {
                info!("this machine's clock agrees with the API server's again");
                self.clock.ready();
            }
            _ => {}
        }
    }
}

/// A date as HTTP has it (RFC 9110, section 5.6.7).
fn date(text: &str) -> Option<Timestamp> {
    rfc2822::DateTimeParser::new().parse_timestamp(text).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_clock_that_is_an_hour_off_is_told_until_it_is_set() {
        let readiness = Readiness::default();
        let observer = Observer::new(&readiness);
        let mut headers = HeaderMap::new();
        let begin = Instant::now();
        let time: Timestamp = "2026-11-30T01:00:00Z".parse().unwrap();
        observer.answered(StatusCode::OK, &headers, begin, time);
        let mut look = |date: &str, at: u64| {
            headers.insert(DATE, date.parse().unwrap());
            observer.answered(StatusCode::OK, &headers, begin + Duration::from_secs(at), time);
            readiness.troubles().warnings.join("\n")
        };
        assert_eq!(look("Mon, 30 Nov 2026 00:59:10 GMT", 0), "");
        assert_eq!(look("Mon, 30 Nov 2026 00:00:00 GMT", 5), "", "just compared");
        let told = look("Mon, 30 Nov 2026 00:00:00 GMT", 10);
        assert!(told.contains("clock is 3600 s ahead of the API server's"), "{told}");
        assert_eq!(look("yesterday", 20), told);
        assert_eq!(look("Mon, 30 Nov 2026 01:00:01 GMT", 30), "");
        let told = look("Mon, 30 Nov 2026 02:00:00 GMT", 40);
        assert!(told.contains("clock is 3600 s behind the API server's"), "{told}");
        assert!(readiness.missing().is_empty());
    }

    #[test]
    fn a_token_that_is_not_accepted_keeps_the_program_from_being_ready() {
        let readiness = Readiness::default();
        let observer = Observer::new(&readiness);
        let answered = |status| {
            observer.answered(status, &HeaderMap::new(), Instant::now(), Timestamp::UNIX_EPOCH);
            readiness.missing().len()
        };
        assert_eq!(answered(StatusCode::FORBIDDEN), 0);
        assert_eq!(answered(StatusCode::UNAUTHORIZED), 1);
        assert_eq!(answered(StatusCode::UNAUTHORIZED), 1);
        assert_eq!(answered(StatusCode::OK), 0);
    }

    proptest! {
        #[test]
        fn any_date_is_taken(text in "\\PC{0,40}", broken in "[A-Z][a-z]{2}, [0-9 ]{2} [A-Z][a-z]{2} [0-9]{4} [0-9:]{8} GMT") {
            let _ = (date(&text), date(&broken));
        }
    }
}
