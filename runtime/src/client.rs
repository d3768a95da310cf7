//! The connection to the API server.
//!
//! Guarantees: a dead link is noticed within [`DEAD_LINK`], also on a watch where nothing is ever sent, because the
//! kernel probes idle connections; a server that accepts a request and never answers is noticed after
//! [`RESPONSE_TIMEOUT`]; nothing is retried behind the caller's back, so a caller knows what it has written; a token and
//! certificate authorities that stand in files are read again when they are renewed.

use std::env;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use hyper_rustls::{FixedServerNameResolver, HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client as HttpClient;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use kube::client::{Body, ClientBuilder, ConfigExt};
use kube::config::{Config, InClusterError, KubeConfigOptions, Kubeconfig, KubeconfigError};
use kube::{Client, Error};
use rustls::pki_types::ServerName;
use thiserror::Error as ThisError;
use tower::ServiceBuilder;
use tower::timeout::TimeoutLayer;
use tower::util::{MapRequestLayer, MapResponseLayer};

use crate::answers::Observer;
use crate::args::CommonArgs;
use crate::credentials::TokenFile;
use crate::readiness::Readiness;
use crate::trust::FileTrust;

/// Time to establish a TCP connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// Silence after which the kernel asks whether the peer is still there, and the interval of asking again.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(2);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(1);

/// Silence after which a connection is given up (RFC 5482 user timeout; bounds the keepalive probes as well).
pub const DEAD_LINK: Duration = Duration::from_secs(4);

/// Time from the end of a request to the head of its response. Watches answer with a head at once as well.
pub const RESPONSE_TIMEOUT: Duration = Duration::from_secs(15);

/// Idle connections kept for the next write, so that it need not wait for a handshake, and how long: the API server
/// closes them after 90 s itself.
const IDLE_CONNECTIONS: usize = 2;
const IDLE_TIMEOUT: Duration = Duration::from_secs(80);

/// What a connection reads at once, and the longest head of an answer that it takes. Left to itself it grows with every list
/// that it reads, to half a mebibyte, and keeps that: there are as many connections as watches, and each has two of them.
const READ_BUFFER: usize = 8 << 10;

/// Why there is no client.
#[derive(Debug, ThisError)]
pub enum ClientError {
    /// The file that was named cannot be used.
    #[error("kubeconfig {path}: {source}")]
    Kubeconfig {
        /// As given on the command line.
        path: PathBuf,
        /// What is wrong with it.
        source: KubeconfigError,
    },
    /// The files in `$KUBECONFIG` cannot be used.
    #[error("$KUBECONFIG ({value}): {source}")]
    KubeconfigVariable {
        /// The variable's value.
        value: String,
        /// What is wrong with it.
        source: KubeconfigError,
    },
    /// No kubeconfig was named, and this is not a pod.
    #[error("no --kubeconfig, no $KUBECONFIG, and no service account of a pod: {0}")]
    NotInCluster(#[source] InClusterError),
    /// The kubeconfig names a proxy.
    #[error("kubeconfig: proxy-url {0:?} is not supported; connect to the API server directly")]
    Proxy(String),
    /// The file with the authorities that sign the API server's certificate.
    #[error("certificate authorities in {path}: {problem}")]
    Authorities {
        /// Where it is.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// Certificates or credentials cannot be used.
    #[error("cannot set up the connection to the API server: {0}")]
    Setup(#[source] Box<Error>),
}

/// Makes ring the TLS provider of the process. Call it first in `main`; calling it again does no harm.
pub fn install_crypto() {
    // An error only says that a provider is installed already.
    let _ = rustls::crypto::ring::default_provider().install_default();
}

/// A client for the API server that `args` point to. Nothing is sent yet. `readiness` hears of a token
/// that is not accepted, and of a clock that is wrong.
pub async fn connect(args: &CommonArgs, readiness: &Readiness) -> Result<Client, ClientError> {
    build(config(args.kubeconfig.as_deref()).await?, Observer::new(readiness))
}

async fn config(named: Option<&Path>) -> Result<Config, ClientError> {
    let options = KubeConfigOptions::default();
    if let Some(path) = named {
        let wrong = |source| ClientError::Kubeconfig {
            path: path.to_owned(),
            source,
        };
        let file = Kubeconfig::read_from(path).map_err(wrong)?;
        let authorities = authorities(&file);
        let mut config = Config::from_custom_kubeconfig(file, &options).await.map_err(wrong)?;
        config.root_cert_file = authorities;
        return Ok(config);
    }
    if let Some(value) = env::var("KUBECONFIG").ok().filter(|value| !value.is_empty()) {
        return Config::from_kubeconfig(&options)
            .await
            .map_err(|source| ClientError::KubeconfigVariable { value, source });
    }
    Config::incluster().map_err(ClientError::NotInCluster)
}

/// The file with the certificate authorities of the current context, if it names one.
fn authorities(file: &Kubeconfig) -> Option<PathBuf> {
    let current = file.current_context.as_deref()?;
    let context = file.contexts.iter().find(|context| context.name == current)?;
    let name = &context.context.as_ref()?.cluster;
    let cluster = file.clusters.iter().find(|cluster| cluster.name == *name)?;
    let cluster = cluster.cluster.as_ref()?;
    let inline = cluster.certificate_authority_data.is_some();
    cluster
        .certificate_authority
        .as_ref()
        .filter(|_| !inline)
        .map(PathBuf::from)
}

fn secured(config: &mut Config, tcp: HttpConnector) -> Result<HttpsConnector<HttpConnector>, ClientError> {
    let file = config.root_cert_file.take().filter(|_| !config.accept_invalid_certs);
    let setup = |error| ClientError::Setup(Box::new(error));
    let mut tls = config.rustls_client_config().map_err(setup)?;
    if let Some(path) = file {
        let trust = FileTrust::new(path.clone());
        let trust = trust.map_err(|problem| ClientError::Authorities { path, problem })?;
        tls.dangerous().set_certificate_verifier(Arc::new(trust));
    }
    let builder = HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http();
    Ok(match config.tls_server_name.clone().map(ServerName::try_from) {
        Some(Ok(name)) => {
            let resolver = FixedServerNameResolver::new(name);
            builder
                .with_server_name_resolver(resolver)
                .enable_http1()
                .wrap_connector(tcp)
        }
        // One that is no name fits no certificate either.
        Some(Err(_)) | None => builder.enable_http1().wrap_connector(tcp),
    })
}

fn build(mut config: Config, observer: Observer) -> Result<Client, ClientError> {
    if let Some(proxy) = &config.proxy_url {
        return Err(ClientError::Proxy(proxy.to_string()));
    }
    let setup = |error| ClientError::Setup(Box::new(error));

    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    tcp.set_connect_timeout(Some(CONNECT_TIMEOUT));
    tcp.set_keepalive(Some(KEEPALIVE_IDLE));
    tcp.set_keepalive_interval(Some(KEEPALIVE_INTERVAL));
    tcp.set_tcp_user_timeout(Some(DEAD_LINK));
    let tls = secured(&mut config, tcp)?;
    let token = config.auth_info.token_file.take().map(TokenFile::new);

    let http = HttpClient::builder(TokioExecutor::new())
        .pool_idle_timeout(IDLE_TIMEOUT)
        .pool_max_idle_per_host(IDLE_CONNECTIONS)
        .http1_read_buf_exact_size(READ_BUFFER)
        .build::<_, Body>(tls);
    let service = ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .option_layer(
            token
                .clone()
                .map(|token| MapRequestLayer::new(move |request| token.sign(request))),
        )
        .option_layer(token.map(|token| MapResponseLayer::new(move |answer| token.look(answer))))
        .option_layer(config.auth_layer().map_err(setup)?)
        .layer(config.extra_headers_layer().map_err(setup)?)
        .map_response(move |answer| observer.look(answer))
        .layer(TimeoutLayer::new(RESPONSE_TIMEOUT))
        .service(http);
    Ok(ClientBuilder::new(service, config.default_namespace).build())
}
