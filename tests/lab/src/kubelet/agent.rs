//! The agent's life: what its tasks share, and the watch that starts a task per pod.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context as _, Result};
use futures::StreamExt;
use k8s_openapi::api::core::v1::Pod;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client, ResourceExt};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::network::{self, Addresses};
use super::{Config, node, pod};

/// How long the agent waits before it asks the API server again after an error.
pub(super) const RETRY: Duration = Duration::from_millis(300);
/// A watch lives so long, in seconds. Short, because a cut link is noticed only when it should have ended.
const WATCH_SECONDS: u32 = 10;
/// An open connection on which nothing comes for so long is taken for dead; above the watch's life.
const READ_TIMEOUT: Duration = Duration::from_secs(15);
/// Marks pods that somebody else runs, as the real kubelet marks the mirrors of its static pods.
const MIRROR_ANNOTATION: &str = "kubernetes.io/config.mirror";

/// What the tasks of one agent share.
pub(super) struct Context {
    pub(super) config: Config,
    pub(super) client: Client,
    pub(super) addresses: Arc<Mutex<Addresses>>,
}

impl Context {
    pub(super) async fn new(config: Config) -> Result<Arc<Self>> {
        let kubeconfig = Kubeconfig::read_from(&config.kubeconfig)
            .with_context(|| format!("read {}", config.kubeconfig.display()))?;
        let mut client = kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
            .await
            .with_context(|| format!("use {}", config.kubeconfig.display()))?;
        client.read_timeout = Some(READ_TIMEOUT);
        client.reset_reader_on_write = true;
        client.connect_timeout = Some(Duration::from_secs(2));
        let client = Client::try_from(client).context("make the kubelet's client")?;
        network::pin_bridge(&config)?;
        let addresses = Arc::new(Mutex::new(Addresses::new(&config.pods)));
        Ok(Arc::new(Self {
            config,
            client,
            addresses,
        }))
    }

    /// The pods of one namespace.
    pub(super) fn pods(&self, namespace: &str) -> Api<Pod> {
        Api::namespaced(self.client.clone(), namespace)
    }
}

/// Keeps the node registered and its pods running; never returns.
pub(super) async fn run(context: Arc<Context>) {
    let heartbeat = node::run(context.clone());
    let pods = watch_pods(context);
    tokio::join!(heartbeat, pods);
}

/// What the agent knows of a pod's task.
struct Running {
    uid: String,
    latest: watch::Sender<pod::Wanted>,
}

async fn watch_pods(context: Arc<Context>) {
    let all: Api<Pod> = Api::all(context.client.clone());
    let selector = format!("spec.nodeName={}", context.config.name);
    let mut events = watcher(all, watcher::Config::default().fields(&selector).timeout(WATCH_SECONDS)).boxed();
    let mut tasks = JoinSet::new();
    let mut running: HashMap<(String, String), Running> = HashMap::new();
    let mut listed = Vec::new();
    loop {
        let event = tokio::select! {
            event = events.next() => event,
            Some(ended) = tasks.join_next() => {
                if let Err(error) = ended {
                    tracing::error!(node = context.config.name, %error, "a pod's task has panicked");
                }
                continue;
            }
        };
        match event {
            Some(Ok(Event::Apply(pod))) => offer(&context, &mut running, &mut tasks, pod),
            Some(Ok(Event::Delete(pod))) => forget(&mut running, &key(&pod)),
            Some(Ok(Event::Init)) => listed.clear(),
            Some(Ok(Event::InitApply(pod))) => {
                listed.push(key(&pod));
                offer(&context, &mut running, &mut tasks, pod);
            }
            Some(Ok(Event::InitDone)) => {
                let gone: Vec<_> = running.keys().filter(|key| !listed.contains(key)).cloned().collect();
                gone.iter().for_each(|key| forget(&mut running, key));
            }
            Some(Err(error)) => {
                tracing::debug!(node = context.config.name, %error, "watch of pods");
                tokio::time::sleep(RETRY).await;
            }
            None => unreachable!("a watcher never ends"),
        }
    }
}

fn key(pod: &Pod) -> (String, String) {
    (pod.namespace().unwrap_or_default(), pod.name_any())
}

/// Hands the newest form of a pod to its task, which is started when there is none.
fn offer(context: &Arc<Context>, running: &mut HashMap<(String, String), Running>, tasks: &mut JoinSet<()>, pod: Pod) {
    let key = key(&pod);
    let uid = pod.uid().unwrap_or_default();
    if pod.annotations().contains_key(MIRROR_ANNOTATION) {
        return;
    }
    if let Some(known) = running.get(&key) {
        if known.uid == uid {
            // The task may have ended: the pod has run to its end and is still there.
            let _ = known.latest.send(pod::Wanted::Present(Arc::new(pod)));
            return;
        }
        forget(running, &key);
    }
    if pod.metadata.deletion_timestamp.is_none() && pod::has_ended(&pod) {
        return;
    }
    let (latest, wanted) = watch::channel(pod::Wanted::Present(Arc::new(pod)));
    running.insert(key, Running { uid, latest });
    tasks.spawn(pod::run(context.clone(), wanted));
}

/// The object is gone: whatever still runs for it is killed.
fn forget(running: &mut HashMap<(String, String), Running>, key: &(String, String)) {
    if let Some(known) = running.remove(key) {
        let _ = known.latest.send(pod::Wanted::Gone);
    }
}
