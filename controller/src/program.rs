//! How the program is put together: one owner task, its watches, the candidate for its lease, the poster of events and
//! the admin server.

use std::sync::Arc;
use std::time::Duration;

use ferrolb_api::names::{CONTROLLER_MANAGER, reasons};
use ferrolb_controller_core::{Controller, Settings};
use ferrolb_runtime::admin::{self, Admin, AdminError, Version};
use ferrolb_runtime::events::Recorder;
use ferrolb_runtime::leader::{self, Candidate, Grant, Leadership, LeaseLost};
use ferrolb_runtime::readiness::{Heartbeat, Readiness};
use ferrolb_runtime::tasks::{TaskDied, Tasks};
use ferrolb_runtime::troubles::{self, Words};
use ferrolb_runtime::{args as common, client, events, footprint, watch};
use kube::Client;
use prometheus_client::registry::Registry;
use thiserror::Error;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::args::Args;
use crate::definitions;
use crate::liveness_key::Keeper;
use crate::metrics::Metrics;
use crate::news::{News, Watches};
use crate::owner::Owner;
use crate::rivals::Rivals;

/// The Lease that the leader holds, in the controller's namespace.
const LEASE: &str = "ferrolb-controller";

/// News that may wait for the owner task; then the watches wait.
const NEWS: usize = 256;

/// Silence of the owner task after which the process counts as dead.
const PULSE: Duration = Duration::from_secs(10);

/// Events about the program itself.
const WORDS: Words = Words {
    not_ready: reasons::NOT_READY,
    warning: reasons::WARNING,
    ready: reasons::READY,
};

/// Why the program ended unasked.
#[derive(Debug, Error)]
pub(crate) enum Ended {
    /// The admin server has no port.
    #[error(transparent)]
    Admin(#[from] AdminError),
    /// A task that the program cannot do without is gone.
    #[error(transparent)]
    Task(#[from] TaskDied),
}

/// Runs until SIGTERM, or until a task dies.
pub(crate) async fn run(args: Args) -> Result<(), Ended> {
    let namespace = args.common.namespace();
    let listener = admin::bind(args.common.admin_addr).await?;
    let readiness = Readiness::default();
    let client = match client::connect(&args.common, &readiness).await {
        Ok(client) => client,
        Err(error) => common::refuse::<Args>(error),
    };
    info!(
        version = env!("CARGO_PKG_VERSION"),
        namespace,
        class = args.load_balancer_class,
        admin = %args.common.admin_addr,
        "starting"
    );
    let tasks = Tasks::new();
    let mut program = Program {
        args,
        client,
        namespace,
        readiness,
        registry: Registry::default(),
        stop: tasks.stop(),
        tasks,
    };
    let metrics = Metrics::register(&mut program.registry);
    let watches = watch::Metrics::register(&mut program.registry);
    let recorder = program.tell();
    let leadership = program.elect();
    let heartbeat = Heartbeat::new(PULSE);
    let sender = program.decide(leadership, recorder, metrics, heartbeat.clone());
    program.watch(sender, watches);
    Ok(program.serve(listener, heartbeat).run().await?)
}

/// The program while it is put together: each method starts tasks.
struct Program {
    args: Args,
    client: Client,
    namespace: String,
    readiness: Readiness,
    registry: Registry,
    tasks: Tasks,
    stop: CancellationToken,
}

impl Program {
    /// Those that tell of Services and of the program itself, as events.
    fn tell(&mut self) -> Recorder {
        let (recorder, poster) = events::recorder(self.client.clone(), CONTROLLER_MANAGER, "", &mut self.registry);
        let pod = self.args.pod_name.as_deref().unwrap_or(CONTROLLER_MANAGER);
        let pod = troubles::pod(&self.namespace, pod, self.args.pod_uid.as_deref());
        let (readiness, stop) = (self.readiness.clone(), self.stop.clone());
        let troubles = troubles::tell(readiness, recorder.clone(), pod, WORDS, stop.clone());
        self.tasks.spawn("troubles", troubles);
        self.tasks.spawn("events", poster.run(stop));
        recorder
    }

    /// Those that find out whether this controller leads, and what the leader does besides its decisions.
    fn elect(&mut self) -> Leadership {
        let (client, namespace, stop) = (&self.client, &self.namespace, &self.stop);
        let class = self.args.load_balancer_class.clone();
        let rivals = Rivals::new(client.clone(), namespace, LEASE, class, &self.readiness);
        let (alone, stands) = oneshot::channel();
        let candidate = Candidate::new(
            client.clone(),
            (namespace, LEASE),
            leader::identity(self.args.pod_name.as_deref()),
            CONTROLLER_MANAGER,
            &self.readiness,
            leader::gauge(&mut self.registry),
        );
        let (grant, leadership) = match self.args.leader_elect {
            true => (None, candidate.leadership()),
            false => {
                let (grant, leadership) = Leadership::granted();
                (Some(grant), leadership)
            }
        };
        let keeper = Keeper::new(client.clone(), namespace, leadership.clone(), &self.readiness);
        self.tasks
            .spawn("leader", stand(candidate, grant, stands, stop.clone()));
        self.tasks
            .spawn("rivals", rivals.run(leadership.clone(), alone, stop.clone()));
        self.tasks.spawn("liveness key", keeper.run(stop.clone()));
        leadership
    }

    /// The task that owns the core; gives where it takes its news from.
    fn decide(
        &mut self,
        leadership: Leadership,
        recorder: Recorder,
        metrics: Metrics,
        heartbeat: Heartbeat,
    ) -> mpsc::Sender<News> {
        let controller = Controller::new(Settings {
            load_balancer_class: self.args.load_balancer_class.clone(),
            ..Settings::default()
        });
        let owner = Owner::new(
            controller,
            self.client.clone(),
            self.namespace.clone(),
            recorder,
            metrics,
            self.readiness.clone(),
            heartbeat,
            leadership,
        );
        let (sender, inputs) = mpsc::channel(NEWS);
        self.tasks.spawn("owner", owner.run(inputs, self.stop.clone()));
        sender
    }

    /// Those that look at the cluster.
    fn watch(&mut self, sender: mpsc::Sender<News>, metrics: watch::Metrics) {
        let definitions = definitions::keep(self.client.clone(), self.readiness.clone(), self.stop.clone());
        self.tasks.spawn("definitions", definitions);
        let watches = Watches {
            client: self.client.clone(),
            namespace: self.namespace.clone(),
            readiness: self.readiness.clone(),
            metrics,
            sender,
        };
        watches.start(&mut self.tasks);
    }

    /// Those that look after the process, and show it to others; with them the program is complete.
    fn serve(mut self, listener: TcpListener, heartbeat: Heartbeat) -> Tasks {
        let memory = footprint::keep_small(self.readiness.clone(), self.stop.clone());
        self.tasks.spawn("memory", memory);
        let admin = Admin {
            version: Version {
                name: env!("CARGO_PKG_NAME"),
                version: env!("CARGO_PKG_VERSION"),
            },
            metrics: Arc::new(self.registry),
            readiness: self.readiness,
            heartbeat,
        };
        self.tasks.spawn("admin", admin::serve(listener, admin, self.stop));
        self.tasks
    }
}

/// Stands for election once nobody else gives addresses in the cluster. Who has a grant leads then without one, and stands
/// all the same: a FerroLB in another namespace knows this one by its Lease.
async fn stand(
    candidate: Candidate,
    grant: Option<Grant>,
    alone: oneshot::Receiver<()>,
    stop: CancellationToken,
) -> Result<(), LeaseLost> {
    tokio::select! {
        () = stop.cancelled() => Ok(()),
        Ok(()) = alone => {
            if let Some(grant) = grant {
                grant.give();
            }
            candidate.run(stop.clone()).await
        }
    }
}
