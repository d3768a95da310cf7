//! When Services have their addresses, as a watch tells it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use futures::TryStreamExt;
use k8s_openapi::api::core::v1::Service;
use kube::Api;
use kube::runtime::{WatchStreamExt, watcher};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

use super::progress;

/// The address of a Service, and when it was first seen.
pub(super) type Seen = (IpAddr, Instant);

/// Watches Services until it is dropped.
pub(super) struct Addresses {
    patience: Duration,
    receiver: mpsc::UnboundedReceiver<(String, Seen)>,
    seen: BTreeMap<String, Seen>,
    watch: AbortHandle,
}

impl Addresses {
    pub(super) fn watch(services: Api<Service>, patience: Duration) -> Self {
        let (sender, receiver) = mpsc::unbounded_channel();
        let task = tokio::spawn(async move {
            let objects = watcher(services, watcher::Config::default())
                .default_backoff()
                .applied_objects();
            let mut objects = std::pin::pin!(objects);
            loop {
                match objects.try_next().await {
                    Ok(Some(service)) => {
                        let at = Instant::now();
                        if let Some((name, address)) = named_address(service) {
                            // Nobody listens any more when the measurement ends.
                            let _ = sender.send((name, (address, at)));
                        }
                    }
                    Ok(None) => return,
                    // Another attempt follows; who waits in vain says so.
                    Err(error) => progress(&format!("the watch of Services: {error}")),
                }
            }
        });
        Self {
            patience,
            receiver,
            seen: BTreeMap::new(),
            watch: task.abort_handle(),
        }
    }

    /// Waits until all of `services` have one; all that have been seen, by name.
    pub(super) async fn wait(&mut self, services: &[impl AsRef<str>]) -> Result<&BTreeMap<String, Seen>> {
        let mut missing: BTreeSet<&str> = services.iter().map(AsRef::as_ref).collect();
        missing.retain(|name| !self.seen.contains_key(*name));
        let look = async {
            while !missing.is_empty() {
                let Some((name, seen)) = self.receiver.recv().await else {
                    bail!("the watch of Services has ended");
                };
                missing.remove(name.as_str());
                self.seen.entry(name).or_insert(seen);
            }
            Ok(())
        };
        let found = tokio::time::timeout(self.patience, look).await;
        found.with_context(|| {
            let some = missing.first().copied().unwrap_or_default();
            format!(
                "{} Services have no address after {:?}, {some} among them",
                missing.len(),
                self.patience
            )
        })??;
        Ok(&self.seen)
    }
}

impl Drop for Addresses {
    fn drop(&mut self) {
        self.watch.abort();
    }
}

fn named_address(service: Service) -> Option<(String, IpAddr)> {
    let ingress = service.status?.load_balancer?.ingress?;
    Some((service.metadata.name?, ingress.first()?.ip.as_ref()?.parse().ok()?))
}
