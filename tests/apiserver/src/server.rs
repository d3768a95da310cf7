//! What the double shares between its connections, and what tests do with it.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::faults::{Ending, Fault, Faults, Rule, Verb};
use crate::refusal::Refusal;
use crate::resource::{Place, Resource, of_kubernetes};
use crate::select::Selection;
use crate::store::{Change, Store};
use crate::{http, schema};

/// One request that was answered, or whose answer a fault kept back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// What it did.
    pub verb: Verb,
    /// About which resource, as in [`Rule::on`].
    pub resource: String,
    /// In which namespace; empty for none.
    pub namespace: String,
    /// About which object; empty for many.
    pub name: String,
    /// The status code of the answer; what it would have been, where the connection was closed instead.
    pub code: u16,
    /// The fault that happened to it.
    pub fault: Option<Fault>,
}

/// An API server in memory. Dropped, it is gone with all its connections.
#[derive(Debug)]
pub struct ApiServer {
    shared: Shared,
    address: SocketAddr,
    listener: Option<JoinHandle<()>>,
    /// Those of [`ApiServer::listen`].
    doors: Vec<JoinHandle<()>>,
}

/// The state behind all connections.
#[derive(Clone, Debug)]
pub(crate) struct Shared {
    state: Arc<Mutex<State>>,
    /// Ticks when there may be something to tell.
    tick: watch::Sender<()>,
}

#[derive(Debug)]
struct State {
    store: Store,
    faults: Faults,
    log: Vec<Record>,
    /// Which watches somebody ended, and how; `None` is all of them.
    endings: Vec<(Option<String>, Ending)>,
}

impl ApiServer {
    /// Starts one that knows the kinds of FerroLB and those of Kubernetes that FerroLB uses, with what every cluster
    /// has of its own. Needs a tokio runtime, and lives in it.
    ///
    /// # Errors
    /// When the machine gives no port.
    pub async fn start() -> io::Result<Self> {
        let mut resources = of_kubernetes();
        resources.extend(ferrolb_api::crds().iter().map(Resource::custom));
        let state = State {
            store: Store::new(resources),
            faults: Faults::default(),
            log: Vec::new(),
            endings: Vec::new(),
        };
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let mut server = ApiServer {
            shared: Shared {
                state: Arc::new(Mutex::new(state)),
                tick: watch::Sender::new(()),
            },
            address: listener.local_addr()?,
            listener: None,
            doors: Vec::new(),
        };
        server.listener = Some(tokio::spawn(http::serve(listener, server.shared.clone())));
        for name in ["default", "kube-system"] {
            let mut namespace = json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": name } });
            if let Some(place) = server.shared.place("namespaces", "", name) {
                schema::fill_in(&place, &mut namespace, 0);
            }
            server.insert_raw("namespaces", namespace);
        }
        let metadata = json!({ "name": "kubernetes" });
        let range = json!({
            "apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR", "metadata": metadata,
            "spec": { "cidrs": ["10.96.0.0/16"] },
        });
        server.insert_raw("servicecidrs.networking.k8s.io", range);
        Ok(server)
    }

    /// Makes a resource known, or known differently.
    pub fn register(&self, resource: Resource) {
        let mut state = self.shared.lock();
        state
            .store
            .resources
            .retain(|known| known.qualified() != resource.qualified());
        state.store.resources.push(Arc::new(resource));
    }

    /// A kubeconfig for it; JSON, which is YAML too.
    pub fn kubeconfig(&self) -> String {
        Self::kubeconfig_at(self.address)
    }

    /// Takes connections here as well, whatever becomes of the first port: for programs in another network namespace. Gives
    /// the kubeconfig for them.
    ///
    /// # Errors
    /// When the listener has no address.
    pub fn listen(&mut self, listener: TcpListener) -> io::Result<String> {
        let kubeconfig = Self::kubeconfig_at(listener.local_addr()?);
        self.doors
            .push(tokio::spawn(http::serve(listener, self.shared.clone())));
        Ok(kubeconfig)
    }

    fn kubeconfig_at(address: SocketAddr) -> String {
        let config = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{ "name": "double", "cluster": { "server": format!("http://{address}") } }],
            "users": [{ "name": "double", "user": {} }],
            "contexts": [{ "name": "double", "context": { "cluster": "double", "user": "double" } }],
            "current-context": "double",
        });
        config.to_string()
    }

    /// Refuses connections and breaks off those there are; what is stored stays.
    pub async fn down(&mut self) {
        if let Some(listener) = self.listener.take() {
            listener.abort();
            // Cancelled is what it shall be; then its port is closed.
            let _ = listener.await;
        }
    }

    /// Takes connections again, on the port it had.
    ///
    /// # Errors
    /// When somebody else took the port meanwhile.
    pub async fn up(&mut self) -> io::Result<()> {
        if self.listener.is_none() {
            let listener = TcpListener::bind(self.address).await?;
            self.listener = Some(tokio::spawn(http::serve(listener, self.shared.clone())));
        }
        Ok(())
    }

    /// Lets a fault happen from now on. The number is for [`ApiServer::lift`].
    pub fn inject(&self, rule: Rule) -> u64 {
        self.shared.lock().faults.inject(rule)
    }

    /// Ends a fault.
    pub fn lift(&self, fault: u64) {
        self.shared.lock().faults.lift(fault);
    }

    /// Ends all faults.
    pub fn lift_all(&self) {
        self.shared.lock().faults.lift_all();
    }

    /// Where the luck of [`Rule::chance`] starts.
    pub fn seed(&self, seed: u64) {
        self.shared.lock().faults.seed(seed);
    }

    /// Ends every watch that runs: of one resource, or of all.
    pub fn end_watches(&self, resource: Option<&str>, ending: Ending) {
        self.shared.lock().endings.push((resource.map(str::to_owned), ending));
        self.shared.tick.send_replace(());
    }

    /// Forgets what happened so far: whoever asks for changes since an older version is told 410.
    pub fn compact(&self) {
        self.shared.lock().store.compact();
    }

    /// Stores an object that no schema has seen, over whatever is there.
    ///
    /// # Panics
    /// When the resource is unknown.
    pub fn insert_raw(&self, resource: &str, object: Value) {
        let text = |field: &str| object["metadata"][field].as_str().unwrap_or_default().to_owned();
        let place = self.shared.place(resource, &text("namespace"), &text("name"));
        let place = place.unwrap_or_else(|| panic!("unknown resource {resource:?}"));
        self.shared.lock().store.insert_raw(&place, object);
        self.shared.tick.send_replace(());
    }

    /// Every request so far, in the order of their answers. A watch is answered when it begins.
    pub fn log(&self) -> Vec<Record> {
        self.shared.lock().log.clone()
    }

    /// Forgets the requests so far.
    pub fn clear_log(&self) {
        self.shared.lock().log.clear();
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        self.listener.iter().chain(&self.doors).for_each(JoinHandle::abort);
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // A request that panicked has failed its test already; the others may still be told what is stored.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn place(&self, resource: &str, namespace: &str, name: &str) -> Option<Place> {
        let state = self.lock();
        let resource = state
            .store
            .resources
            .iter()
            .find(|known| known.qualified() == resource)?;
        Some(Place {
            version: resource.versions.keys().next()?.clone(),
            resource: Arc::clone(resource),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            status: false,
        })
    }

    pub(crate) fn parse(&self, path: &str) -> Option<Place> {
        Place::parse(&self.lock().store.resources, path)
    }

    /// Does something with what is stored, and wakes the watches if it changed.
    pub(crate) fn store<T>(&self, work: impl FnOnce(&mut Store) -> T) -> T {
        let mut state = self.lock();
        let before = state.store.version;
        let result = work(&mut state.store);
        if state.store.version != before {
            self.tick.send_replace(());
        }
        result
    }

    pub(crate) fn draw(&self, verb: Verb, place: &Place, events: bool) -> Option<Fault> {
        self.lock().faults.draw(verb, place, events)
    }

    pub(crate) fn record(&self, record: Record) {
        self.lock().log.push(record);
    }

    pub(crate) fn ticks(&self) -> watch::Receiver<()> {
        self.tick.subscribe()
    }

    pub(crate) fn version(&self) -> u64 {
        self.lock().store.version
    }

    /// How often watches were ended so far.
    pub(crate) fn endings(&self) -> usize {
        self.lock().endings.len()
    }

    /// How a watch is to end that began after `before` endings.
    pub(crate) fn ending(&self, before: usize, place: &Place) -> Option<Ending> {
        let state = self.lock();
        let concerns = |resource: &Option<String>| resource.as_ref().is_none_or(|name| *name == place.target());
        let mut news = state.endings[before..].iter();
        news.find(|(resource, _)| concerns(resource)).map(|(_, ending)| *ending)
    }

    pub(crate) fn snapshot(&self, place: &Place, selection: &Selection) -> (u64, Vec<Arc<Value>>) {
        let state = self.lock();
        let objects = state.store.all(&place.resource.qualified(), selection);
        (state.store.version, objects)
    }

    pub(crate) fn since(&self, place: &Place, version: u64) -> Result<(u64, Vec<Change>), Refusal> {
        let state = self.lock();
        let changes = state.store.since(&place.resource.qualified(), version)?;
        Ok((state.store.version, changes))
    }
}
