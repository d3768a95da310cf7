//! How the program is put together: one owner task, its watches, the candidate for its lease, the poster of events and
//! the admin server.

use std::sync::Arc;
use std::time::Duration;

use ferrolb_api::names::{CONTROLLER_MANAGER, reasons};
use ferrolb_controller_core::{Controller, Settings};
use ferrolb_runtime::admin::{self, Admin, AdminError, Version};
use ferrolb_runtime::leader::{self, Candidate, Grant, Leadership, LeaseLost};
use ferrolb_runtime::readiness::{Heartbeat, Readiness};
use ferrolb_runtime::tasks::{TaskDied, Tasks};
use ferrolb_runtime::troubles::{self, Words};
use ferrolb_runtime::{args as common, client, events, footprint, watch};
use prometheus_client::registry::Registry;
use thiserror::Error;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::args::Args;
use crate::definitions;
use crate::liveness_key::Keeper;
use crate::metrics::Metrics;
use crate::news;
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

    let mut registry = Registry::default();
    let metrics = Metrics::register(&mut registry);
    let watches = watch::Metrics::register(&mut registry);
    let (recorder, poster) = events::recorder(client.clone(), CONTROLLER_MANAGER, "", &mut registry);
    let heartbeat = Heartbeat::new(PULSE);
    let controller = Controller::new(Settings {
        load_balancer_class: args.load_balancer_class.clone(),
        ..Settings::default()
    });

    let mut tasks = Tasks::new();
    let stop = tasks.stop();
    let (sender, inputs) = mpsc::channel(NEWS);
    let leads = leader::gauge(&mut registry);
    let rivals = Rivals::new(client.clone(), &namespace, LEASE, args.load_balancer_class, &readiness);
    let (alone, stands) = oneshot::channel();
    let candidate = Candidate::new(
        client.clone(),
        (&namespace, LEASE),
        leader::identity(args.pod_name.as_deref()),
        CONTROLLER_MANAGER,
        &readiness,
        leads,
    );
    let (grant, leadership) = match args.leader_elect {
        true => (None, candidate.leadership()),
        false => {
            let (grant, leadership) = Leadership::granted();
            (Some(grant), leadership)
        }
    };
    tasks.spawn("leader", stand(candidate, grant, stands, stop.clone()));
    tasks.spawn("rivals", rivals.run(leadership.clone(), alone, stop.clone()));
    let keeper = Keeper::new(client.clone(), &namespace, leadership.clone(), &readiness);
    tasks.spawn("liveness key", keeper.run(stop.clone()));
    let owner = Owner::new(
        controller,
        client.clone(),
        namespace.clone(),
        recorder.clone(),
        metrics,
        readiness.clone(),
        heartbeat.clone(),
        leadership,
    );
    tasks.spawn("owner", owner.run(inputs, stop.clone()));
    tasks.spawn(
        "definitions",
        definitions::keep(client.clone(), readiness.clone(), stop.clone()),
    );
    let pod = args.pod_name.as_deref().unwrap_or(CONTROLLER_MANAGER);
    let pod = troubles::pod(&namespace, pod, args.pod_uid.as_deref());
    tasks.spawn(
        "troubles",
        troubles::tell(readiness.clone(), recorder, pod, WORDS, stop.clone()),
    );
    tasks.spawn("events", poster.run(stop.clone()));
    tasks.spawn("memory", footprint::keep_small(readiness.clone(), stop.clone()));
    news::Watches {
        client,
        namespace,
        readiness: readiness.clone(),
        metrics: watches,
        sender,
    }
    .start(&mut tasks);
    let admin = Admin {
        version: Version {
            name: env!("CARGO_PKG_NAME"),
            version: env!("CARGO_PKG_VERSION"),
        },
        metrics: Arc::new(registry),
        readiness,
        heartbeat,
    };
    tasks.spawn("admin", admin::serve(listener, admin, stop));
    Ok(tasks.run().await?)
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
