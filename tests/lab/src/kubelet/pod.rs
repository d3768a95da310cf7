//! One pod's task: from the first sight of the object to its final deletion.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, ContainerStatus, Pod, PodSpec};
use k8s_openapi::jiff::Timestamp;
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use kube::{Error, ResourceExt};
use serde_json::Value;
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, sleep, timeout};

use super::agent::{Context, RETRY};
use super::container::{Runner, Surroundings};
use super::environment::Facts;
use super::network::Sandbox;
use super::status::{Builder, Containers, Place, View};
use super::volumes::{self, ConfigMaps, Volumes};

/// An API call that takes longer is made again.
const PATIENCE: Duration = Duration::from_secs(5);

/// What the API server wants of a pod.
#[derive(Debug, Clone)]
pub(super) enum Wanted {
    /// The object as it is now.
    Present(Arc<Pod>),
    /// There is no such object any more.
    Gone,
}

/// Whether the pod has run to its end.
pub(super) fn has_ended(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
}

/// Runs a pod to its end and sees its object off.
pub(super) async fn run(context: Arc<Context>, wanted: watch::Receiver<Wanted>) {
    let Wanted::Present(pod) = wanted.borrow().clone() else {
        return;
    };
    let (deadline, _) = watch::channel(None);
    let mut task = Task {
        directory: context.config.run_dir.join("pods").join(pod.uid().unwrap_or_default()),
        status: StatusWriter::start(&context, &pod),
        builder: Builder::new(Timestamp::now()),
        place: Place {
            node: context.config.addresses.clone(),
            pod: Vec::new(),
        },
        containers: Containers::default(),
        context,
        wanted,
        deadline,
        pod,
    };
    task.take_in();
    let spec = task.pod.spec.clone().unwrap_or_default();
    let statuses = task.pod.status.clone().unwrap_or_default();
    task.containers.init = views(
        spec.init_containers.iter().flatten(),
        statuses.init_container_statuses.as_deref(),
        "PodInitializing",
    );
    task.containers.main = views(
        spec.containers.iter(),
        statuses.container_statuses.as_deref(),
        "ContainerCreating",
    );
    if let Some(ground) = task.prepare(&spec).await {
        task.run_containers(&spec, &ground).await;
    }
    task.linger().await;
    task.finish().await;
}

/// The first views of containers; earlier runs that the API server knows of count as restarts.
fn views<'a>(
    containers: impl Iterator<Item = &'a Container>,
    known: Option<&[ContainerStatus]>,
    reason: &'static str,
) -> Vec<View> {
    let restarts = |name: &str| {
        let status = known?.iter().find(|status| status.name == name)?;
        let ran = status
            .state
            .as_ref()
            .is_some_and(|state| state.running.is_some() || state.terminated.is_some());
        Some(status.restart_count + i32::from(ran))
    };
    containers
        .map(|container| View {
            restarts: restarts(&container.name).unwrap_or(0),
            ..View::waiting(
                &container.name,
                container.image.as_deref().unwrap_or_default(),
                reason,
                "",
            )
        })
        .collect()
}

/// What a pod's containers stand on.
struct Ground {
    sandbox: Sandbox,
    maps: ConfigMaps,
    volumes: Volumes,
}

struct Task {
    context: Arc<Context>,
    wanted: watch::Receiver<Wanted>,
    deadline: watch::Sender<Option<Instant>>,
    pod: Arc<Pod>,
    directory: PathBuf,
    status: StatusWriter,
    builder: Builder,
    place: Place,
    containers: Containers,
}

impl Task {
    /// Takes in what is wanted now: a deletion sets the deadline, or brings it forward.
    fn take_in(&mut self) {
        let deadline = match self.wanted.borrow_and_update().clone() {
            Wanted::Gone => Some(Instant::now()),
            Wanted::Present(pod) => {
                let meta = &pod.metadata;
                let grace = meta
                    .deletion_grace_period_seconds
                    .and_then(|seconds| u64::try_from(seconds).ok());
                let deleted = meta.deletion_timestamp.is_some();
                self.pod = pod;
                deleted.then(|| Instant::now() + Duration::from_secs(grace.unwrap_or(30)))
            }
        };
        if let Some(new) = deadline {
            self.containers.ending = true;
            self.deadline.send_if_modified(|old| {
                let sooner = old.is_none_or(|old| new < old);
                if sooner {
                    *old = Some(new);
                }
                sooner
            });
        }
    }

    fn ending(&self) -> bool {
        self.deadline.borrow().is_some()
    }

    fn show(&mut self) {
        let patch = self
            .builder
            .patch(&self.pod, &self.place, &self.containers, Timestamp::now());
        self.status.latest.send_replace(Some(patch));
    }

    /// Waits for the next change of what is wanted; `false` when the agent has no more to say.
    async fn changed(&mut self) -> bool {
        let more = self.wanted.changed().await.is_ok();
        if more {
            self.take_in();
        }
        more
    }

    /// Makes network and volumes, again and again until it works; `None` when the pod is to end before.
    async fn prepare(&mut self, spec: &PodSpec) -> Option<Ground> {
        while !self.ending() {
            match self.try_prepare(spec).await {
                Ok(ground) => {
                    self.place.pod.clone_from(&ground.sandbox.addresses);
                    return Some(ground);
                }
                Err(message) => {
                    tracing::info!(pod = self.pod.name_any(), message, "pod cannot be prepared yet");
                    for view in &mut self.containers.main {
                        *view = View {
                            restarts: view.restarts,
                            ..View::waiting(&view.name, &view.image, "ContainerCreating", &message)
                        };
                    }
                    self.show();
                    // Whether a change or the time ends the wait, the loop looks at everything again.
                    let _ = timeout(RETRY, self.changed()).await;
                }
            }
        }
        None
    }

    async fn try_prepare(&self, spec: &PodSpec) -> Result<Ground, String> {
        let namespace = self.pod.namespace().unwrap_or_default();
        let maps = volumes::fetch(&self.context.client, &namespace, spec).await?;
        let volumes = volumes::make(spec, &maps, &self.directory.join("volumes"))?;
        let (context, uid) = (self.context.clone(), self.pod.uid().unwrap_or_default());
        let host = spec.host_network == Some(true);
        let make = move || {
            if host {
                Ok(Sandbox::host(&context.config))
            } else {
                Sandbox::create(&context.config, &context.addresses, &uid)
            }
        };
        let sandbox = tokio::task::spawn_blocking(make)
            .await
            .map_err(|error| error.to_string())?;
        Ok(Ground {
            sandbox: sandbox.map_err(|error| format!("network: {error:#}"))?,
            maps,
            volumes,
        })
    }

    /// Runs the init containers one after the other, then all others until the last one has ended.
    async fn run_containers(&mut self, spec: &PodSpec, ground: &Ground) {
        let policy = spec.restart_policy.clone().unwrap_or_else(|| "Always".into());
        let init_policy = if policy == "Always" {
            "OnFailure"
        } else {
            policy.as_str()
        };
        for (index, container) in spec.init_containers.iter().flatten().enumerate() {
            self.run_group(&[(index, container)], ground, init_policy, true).await;
            let ended_well = Containers {
                init: vec![self.containers.init[index].clone()],
                ..Containers::default()
            };
            if self.ending() || ended_well.phase("Never") == "Failed" {
                return;
            }
        }
        let all: Vec<_> = spec.containers.iter().enumerate().collect();
        self.run_group(&all, ground, &policy, false).await;
    }

    /// Runs some containers at once until they have all ended for good.
    async fn run_group(&mut self, group: &[(usize, &Container)], ground: &Ground, policy: &str, init: bool) {
        let (report, mut reports) = mpsc::unbounded_channel();
        let mut running = JoinSet::new();
        for (index, container) in group {
            let (pod, context) = (self.pod.clone(), self.context.clone());
            let config = &context.config;
            let view = self.slot(init, *index).clone();
            let grace = pod
                .spec
                .as_ref()
                .and_then(|spec| spec.termination_grace_period_seconds)
                .unwrap_or(30);
            let around = Surroundings {
                facts: Facts {
                    pod: &pod,
                    node: &config.name,
                    pod_addresses: &ground.sandbox.addresses,
                    node_addresses: &config.addresses,
                    config_maps: &ground.maps,
                },
                images: &config.images,
                sandbox: &ground.sandbox,
                volumes: &ground.volumes,
                directory: &self.directory,
                log_dir: &config.log_dir,
                restart_policy: policy,
                grace: Duration::from_secs(u64::try_from(grace).unwrap_or(0)),
            };
            match Runner::new(
                container,
                view,
                &around,
                (*index, report.clone()),
                self.deadline.subscribe(),
            ) {
                Ok(runner) => drop(running.spawn(runner.run())),
                Err((reason, message)) => {
                    let slot = self.slot(init, *index);
                    *slot = View::waiting(&slot.name, &slot.image, reason, message);
                    // Waits for what cannot come, as a container does whose image is missing, and holds the pod up.
                    let mut deadline = self.deadline.subscribe();
                    running.spawn(async move {
                        // An error means that the pod's task is gone.
                        let _ = deadline.wait_for(Option::is_some).await;
                    });
                }
            }
        }
        drop(report);
        self.show();
        loop {
            tokio::select! {
                biased;
                Some((index, view)) = reports.recv() => {
                    *self.slot(init, index) = view;
                    while let Ok((index, view)) = reports.try_recv() {
                        *self.slot(init, index) = view;
                    }
                    self.show();
                }
                Some(_) = self.next_wanted() => self.show(),
                ended = running.join_next() => match ended {
                    None => return,
                    Some(Ok(())) => {}
                    Some(Err(error)) => tracing::error!(%error, "a container's task has panicked"),
                },
            }
        }
    }

    /// `Some` after a change was taken in; waits for ever when there can be none.
    async fn next_wanted(&mut self) -> Option<()> {
        if self.changed().await {
            return Some(());
        }
        std::future::pending().await
    }

    fn slot(&mut self, init: bool, index: usize) -> &mut View {
        let views = if init {
            &mut self.containers.init
        } else {
            &mut self.containers.main
        };
        &mut views[index]
    }

    /// After the last container: the object stays until somebody deletes it.
    async fn linger(&mut self) {
        self.show();
        while !self.ending() {
            self.next_wanted().await;
        }
        self.show();
    }

    /// Cleans up, tells the API server how it ended, and deletes the object for good.
    async fn finish(self) {
        if let Err(error) = std::fs::remove_dir_all(&self.directory)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(%error, "remove {}", self.directory.display());
        }
        let Self {
            context,
            wanted,
            pod,
            status,
            ..
        } = self;
        let last = status.stop();
        let pods = context.pods(&pod.namespace().unwrap_or_default());
        let name = pod.name_any();
        let preconditions = Preconditions {
            uid: pod.uid(),
            resource_version: None,
        };
        let delete = DeleteParams {
            grace_period_seconds: Some(0),
            preconditions: Some(preconditions),
            ..DeleteParams::default()
        };
        while matches!(*wanted.borrow(), Wanted::Present(_)) {
            let attempt = async {
                if let Some(last) = &last {
                    pods.patch_status(&name, &PatchParams::default(), &Patch::Strategic(last))
                        .await?;
                }
                pods.delete(&name, &delete).await.map(drop)
            };
            match timeout(PATIENCE, attempt).await {
                Ok(Ok(())) => return,
                // 404: gone; 409: another pod has the name by now.
                Ok(Err(Error::Api(status))) if matches!(status.code, 404 | 409) => return,
                Ok(Err(error)) => tracing::debug!(pod = name, %error, "final deletion"),
                Err(_) => tracing::debug!(pod = name, "final deletion: no answer"),
            }
            sleep(RETRY).await;
        }
    }
}

/// Writes a pod's status, always the newest, until it is stopped.
struct StatusWriter {
    latest: watch::Sender<Option<Value>>,
    task: JoinHandle<()>,
}

impl StatusWriter {
    fn start(context: &Arc<Context>, pod: &Pod) -> Self {
        let (latest, mut newest) = watch::channel::<Option<Value>>(None);
        let (pods, name) = (context.pods(&pod.namespace().unwrap_or_default()), pod.name_any());
        let task = tokio::spawn(async move {
            while newest.changed().await.is_ok() {
                loop {
                    let Some(patch) = newest.borrow_and_update().clone() else {
                        break;
                    };
                    let (params, patch) = (PatchParams::default(), Patch::Strategic(patch));
                    match timeout(PATIENCE, pods.patch_status(&name, &params, &patch)).await {
                        Ok(Ok(_)) => break,
                        Ok(Err(Error::Api(status))) if matches!(status.code, 404 | 409) => break,
                        Ok(Err(error)) => tracing::debug!(pod = name, %error, "status"),
                        Err(_) => tracing::debug!(pod = name, "status: no answer"),
                    }
                    sleep(RETRY).await;
                }
            }
        });
        Self { latest, task }
    }

    /// Ends the writing and returns the last status that was to be written.
    fn stop(self) -> Option<Value> {
        self.task.abort();
        self.latest.borrow().clone()
    }
}
