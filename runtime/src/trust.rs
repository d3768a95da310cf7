//! Which certificate of the API server is trusted: one that is signed by an authority in a file that somebody else keeps, the
//! kubelet for a pod, and that is valid by this machine's clock.
//!
//! Guarantees: the file is read again when it was last read [`FRESH`] ago, and before any certificate is refused, so that
//! new authorities are trusted as soon as they are needed and old ones not for long; a file that cannot be read leaves those
//! in force that were there before. A refusal says what is wrong in words that lead somewhere.

use std::error::Error as StdError;
use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, DigitallySignedStruct, Error, OtherError, RootCertStore, SignatureScheme};
use thiserror::Error as ThisError;
use tracing::{info, warn};

/// How long authorities are trusted without a look at the file.
const FRESH: Duration = Duration::from_secs(60);

/// The authorities in a file.
#[derive(Debug)]
pub(crate) struct FileTrust {
    path: PathBuf,
    trusted: Mutex<Trusted>,
}

#[derive(Debug)]
struct Trusted {
    pem: Vec<u8>,
    verifier: Arc<WebPkiServerVerifier>,
    at: Instant,
}

/// Why a certificate is not trusted, for an operator.
#[derive(Debug, ThisError)]
#[error("{0}")]
struct Refused(String);

impl FileTrust {
    /// Those in the file at `path`.
    ///
    /// # Errors
    /// Says what is wrong with the file.
    pub(crate) fn new(path: PathBuf) -> Result<Self, String> {
        let pem = fs::read(&path).map_err(|error| error.to_string())?;
        let verifier = verifier(&pem)?;
        let trusted = Mutex::new(Trusted {
            pem,
            verifier,
            at: Instant::now(),
        });
        Ok(FileTrust { path, trusted })
    }

    /// Those in force; the file is looked at first if that has not been done within `age`.
    fn verifier(&self, age: Duration) -> Arc<WebPkiServerVerifier> {
        let mut trusted = self.trusted.lock().unwrap_or_else(PoisonError::into_inner);
        if trusted.at.elapsed() >= age {
            trusted.at = Instant::now();
            let path = self.path.display();
            match fs::read(&self.path) {
                Ok(pem) if pem == trusted.pem => {}
                Ok(pem) => match verifier(&pem) {
                    Ok(verifier) => {
                        info!(%path, "the API server's certificate authorities have changed: trusting those in the file now");
                        trusted.pem = pem;
                        trusted.verifier = verifier;
                    }
                    Err(error) => warn!(%path, "the API server's certificate authorities stay as they were: {error}"),
                },
                Err(error) => warn!(%path, "the API server's certificate authorities stay as they were: {error}"),
            }
        }
        Arc::clone(&trusted.verifier)
    }

    fn explain(&self, error: Error) -> Error {
        let moment = |time: UnixTime| {
            let seconds = i64::try_from(time.as_secs()).unwrap_or(i64::MAX);
            Timestamp::from_second(seconds).map_or_else(|_| "?".to_owned(), |time| time.to_string())
        };
        let Error::InvalidCertificate(wrong) = &error else {
            return error;
        };
        let why = match wrong {
            // A new authority with the name of an old one: its signature does not fit.
            CertificateError::UnknownIssuer | CertificateError::BadSignature => format!(
                "the API server's certificate is signed by none of the authorities in {}",
                self.path.display()
            ),
            CertificateError::NotValidYetContext { time, not_before } => format!(
                "the API server's certificate is valid from {} on only, and this machine's clock says {}: is it slow?",
                moment(*not_before),
                moment(*time)
            ),
            CertificateError::ExpiredContext { time, not_after } => format!(
                "the API server's certificate was valid until {}, and this machine's clock says {}: has it not been renewed, or \
                 is the clock fast?",
                moment(*not_after),
                moment(*time)
            ),
            _ => return error,
        };
        Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(Refused(why)))))
    }
}

fn verifier(pem: &[u8]) -> Result<Arc<WebPkiServerVerifier>, String> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        let certificate = certificate.map_err(|error| error.to_string())?;
        roots.add(certificate).map_err(|error| error.to_string())?;
    }
    WebPkiServerVerifier::builder(Arc::new(roots))
        .build()
        .map_err(|error| error.to_string())
}

impl ServerCertVerifier for FileTrust {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let verify = |verifier: Arc<WebPkiServerVerifier>| {
            verifier.verify_server_cert(end_entity, intermediates, name, ocsp, now)
        };
        verify(self.verifier(FRESH))
            .or_else(|_| verify(self.verifier(Duration::ZERO)))
            .map_err(|error| self.explain(error))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verifier(FRESH)
            .verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verifier(FRESH)
            .verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.verifier(FRESH).supported_verify_schemes()
    }
}

/// Whether what failed is that the two sides do not trust each other, which no second attempt changes.
pub(crate) fn is_distrust(error: &(dyn StdError + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        if error.is::<Error>() {
            return true;
        }
        // What an io::Error wraps is none of its sources.
        let wrapped = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        if wrapped.is_some_and(|inner| is_distrust(inner)) {
            return true;
        }
        next = error.source();
    }
    false
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, CertifiedIssuer, KeyPair};

    use super::*;

    fn authority() -> CertifiedIssuer<'static, KeyPair> {
        let mut params = CertificateParams::default();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
    }

    /// A certificate for `kubernetes`, valid in 2026.
    fn certificate(authority: &CertifiedIssuer<'static, KeyPair>) -> CertificateDer<'static> {
        let mut params = CertificateParams::new(vec!["kubernetes".to_owned()]).unwrap();
        params.not_before = rcgen::date_time_ymd(2026, 1, 1);
        params.not_after = rcgen::date_time_ymd(2027, 1, 1);
        let signed = params.signed_by(&KeyPair::generate().unwrap(), authority).unwrap();
        signed.der().clone()
    }

    fn verdict(trust: &FileTrust, certificate: &CertificateDer<'_>, date: &str) -> Result<(), String> {
        let seconds = date.parse::<Timestamp>().unwrap().as_second();
        let now = UnixTime::since_unix_epoch(Duration::from_secs(seconds.cast_unsigned()));
        let name = ServerName::try_from("kubernetes").unwrap();
        let verdict = trust.verify_server_cert(certificate, &[], &name, &[], now);
        verdict.map(drop).map_err(|error| error.to_string())
    }

    #[test]
    fn a_new_authority_is_trusted_when_the_file_has_it_and_a_refusal_says_why() {
        // An error means that another test has installed it.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let path = std::env::temp_dir().join(format!("ferrolb-trust-{}", std::process::id()));
        let (old, new) = (authority(), authority());
        fs::write(&path, old.pem()).unwrap();
        let trust = FileTrust::new(path.clone()).unwrap();
        let (before, after) = (certificate(&old), certificate(&new));
        let summer = "2026-07-01T00:00:00Z";
        assert_eq!(verdict(&trust, &before, summer), Ok(()));
        let unknown = verdict(&trust, &after, summer).unwrap_err();
        assert!(unknown.contains("signed by none of the authorities in"), "{unknown}");

        for content in ["", "no certificate"] {
            fs::write(&path, content).unwrap();
            assert!(verdict(&trust, &after, summer).is_err());
            assert_eq!(verdict(&trust, &before, summer), Ok(()), "what was in force stays");
        }
        fs::write(&path, new.pem()).unwrap();
        assert_eq!(verdict(&trust, &after, summer), Ok(()));
        assert!(verdict(&trust, &before, summer).is_err());
        fs::write(&path, format!("{}{}", old.pem(), new.pem())).unwrap();
        for both in [&before, &after] {
            assert_eq!(verdict(&trust, both, summer), Ok(()));
        }

        let early = verdict(&trust, &after, "2025-12-31T23:00:00Z").unwrap_err();
        assert!(
            early.contains("valid from 2026-01-01T00:00:00Z on only")
                && early.contains("clock says 2025-12-31T23:00:00Z"),
            "{early}"
        );
        let late = verdict(&trust, &after, "2027-01-01T01:00:00Z").unwrap_err();
        assert!(late.contains("was valid until 2027-01-01T00:00:00Z"), "{late}");
        fs::remove_file(&path).unwrap();
    }

    #[test]
    fn distrust_is_found_however_deep() {
        let refused = Error::InvalidCertificate(CertificateError::UnknownIssuer);
        let wrapped = io::Error::other(io::Error::new(io::ErrorKind::InvalidData, refused));
        assert!(is_distrust(&wrapped));
        assert!(!is_distrust(&io::Error::other("connection refused")));
    }
}
