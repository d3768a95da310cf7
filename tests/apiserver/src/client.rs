//! A client for tests.

use std::time::Duration;

use anyhow::{Context, Result};
use hyper_util::client::legacy::Client as HttpClient;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use kube::client::{Body, ClientBuilder, ConfigExt};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use tower::ServiceBuilder;
use tower::timeout::TimeoutLayer;

/// An answer that takes longer does not come at all.
const PATIENCE: Duration = Duration::from_secs(20);

/// A client for a kubeconfig's text that tries everything once, so that a test sees every answer.
///
/// # Errors
/// When the kubeconfig cannot be used.
pub async fn client(kubeconfig: &str) -> Result<Client> {
    // An error only says that a provider is installed already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let config = Kubeconfig::from_yaml(kubeconfig).context("read the kubeconfig")?;
    let config = Config::from_custom_kubeconfig(config, &KubeConfigOptions::default()).await?;
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    let tls = config
        .rustls_https_connector_with_connector(tcp)
        .context("set up TLS")?;
    let http = HttpClient::builder(TokioExecutor::new()).build::<_, Body>(tls);
    let service = ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .option_layer(config.auth_layer().context("set up credentials")?)
        .layer(TimeoutLayer::new(PATIENCE))
        .service(http);
    Ok(ClientBuilder::new(service, config.default_namespace).build())
}
