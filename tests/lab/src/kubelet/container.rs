//! One container: its process is started, probed, started again, and ended.

use std::fs;
use std::io;
use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, Probe};
use k8s_openapi::jiff::Timestamp;
use nix::sys::signal::Signal;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::environment::{Environment, Facts};
use super::images::{Image, Images};
use super::network::Sandbox;
use super::probe::{Prober, exec};
use super::status::{Ended, State, View};
use super::volumes::{self, Mount, Volumes};
use crate::process::{Process, Spec};

/// The second restart waits so long, every further one twice as long as the one before. A tenth of the real kubelet's
/// ten seconds, as a scenario has no minutes.
const BACK_OFF: Duration = Duration::from_secs(1);
const LONGEST_BACK_OFF: Duration = Duration::from_secs(30);
/// A container that has run so long starts afresh with its back-off.
const SETTLED: Duration = Duration::from_secs(60);

/// When a container has to be gone; `None` while it may run. Moves to earlier times only.
pub(super) type Deadline = watch::Receiver<Option<Instant>>;

/// What a pod's containers have in common.
pub(super) struct Surroundings<'a> {
    pub(super) facts: Facts<'a>,
    pub(super) images: &'a Images,
    pub(super) sandbox: &'a Sandbox,
    pub(super) volumes: &'a Volumes,
    /// The pod's directory.
    pub(super) directory: &'a Path,
    pub(super) log_dir: &'a Path,
    pub(super) restart_policy: &'a str,
    pub(super) grace: Duration,
}

/// A container that can be run.
pub(super) struct Runner {
    view: View,
    spec: Spec,
    env: Environment,
    container: Container,
    address: std::net::IpAddr,
    stop_signal: Signal,
    restart_policy: String,
    grace: Duration,
    index: usize,
    report: mpsc::UnboundedSender<(usize, View)>,
    deadline: Deadline,
}

/// Why a run of the process is over.
enum Outcome {
    Exited,
    Unhealthy,
    Stopped,
}

impl Runner {
    /// Prepares the container; `view` is what the API server knows of its earlier runs.
    ///
    /// # Errors
    /// The reason and the message to wait with.
    pub(super) fn new(
        container: &Container,
        view: View,
        around: &Surroundings<'_>,
        (index, report): (usize, mpsc::UnboundedSender<(usize, View)>),
        deadline: Deadline,
    ) -> Result<Self, (&'static str, String)> {
        let config_error = |message| ("CreateContainerConfigError", message);
        let reference = container.image.as_deref().unwrap_or_default();
        let image = around
            .images
            .resolve(reference)
            .ok_or_else(|| ("ErrImagePull", format!("the lab has no image {reference:?}")))?;
        let env = Environment::new(container, &around.facts).map_err(config_error)?;
        let mounts = volumes::mounts(container, around.volumes, &env).map_err(config_error)?;
        let address = *around
            .sandbox
            .addresses
            .first()
            .ok_or_else(|| config_error("the pod has no address".into()))?;
        let spec = spec(container, image, &env, &mounts, around)
            .map_err(|error| ("CreateContainerError", error.to_string()))?;
        let probes = [
            &container.startup_probe,
            &container.readiness_probe,
            &container.liveness_probe,
        ];
        for probe in probes.into_iter().flatten() {
            Prober::new(probe, container, address).map_err(config_error)?;
        }
        Ok(Self {
            view,
            spec,
            env,
            container: container.clone(),
            address,
            stop_signal: image.stop_signal,
            restart_policy: around.restart_policy.to_owned(),
            grace: around.grace,
            index,
            report,
            deadline,
        })
    }

    /// Runs the container until it has ended for good.
    pub(super) async fn run(mut self) {
        let mut back_off = Duration::ZERO;
        loop {
            if self.deadline.borrow().is_some() {
                return;
            }
            let started = Timestamp::now();
            let clock = Instant::now();
            let code = match Process::start(self.spec.clone()) {
                Ok(process) => {
                    self.say(
                        State::Running { since: started },
                        self.container.startup_probe.is_none(),
                    );
                    self.accompany(&process).await
                }
                Err(error) => {
                    tracing::error!(container = self.view.name, "cannot start: {error:#}");
                    128
                }
            };
            let ended = Ended {
                code,
                started,
                finished: Timestamp::now(),
            };
            self.say(State::Ended(ended.clone()), false);
            let again = match self.restart_policy.as_str() {
                "Never" => false,
                "OnFailure" => code != 0,
                _ => true,
            };
            if !again || self.deadline.borrow().is_some() {
                return;
            }
            self.view.last = Some(ended);
            if clock.elapsed() > SETTLED {
                back_off = Duration::ZERO;
            }
            if !back_off.is_zero() {
                let message = format!("back-off {back_off:?} restarting failed container");
                self.say(
                    State::Waiting {
                        reason: "CrashLoopBackOff",
                        message,
                    },
                    false,
                );
                tokio::select! {
                    () = sleep(back_off) => {}
                    _ = self.deadline.changed() => return,
                }
            }
            back_off = (back_off * 2).clamp(BACK_OFF, LONGEST_BACK_OFF);
            self.view.restarts += 1;
        }
    }

    /// Sets the state and reports it; a container without a readiness probe is ready once it has started.
    fn say(&mut self, state: State, started: bool) {
        self.view.state = state;
        self.view.started = started;
        self.view.ready = started && self.container.readiness_probe.is_none();
        self.send();
    }

    fn send(&self) {
        // The pod's task outlives its containers' tasks, or ends with them.
        let _ = self.report.send((self.index, self.view.clone()));
    }

    /// Stays with the process to its end and returns its exit code.
    async fn accompany(&mut self, process: &Process) -> i32 {
        let mut deadline = self.deadline.clone();
        let outcome = tokio::select! {
            () = exit(process) => Outcome::Exited,
            () = self.watch_health(process.pid()) => Outcome::Unhealthy,
            Ok(_) = deadline.wait_for(Option::is_some) => Outcome::Stopped,
        };
        match outcome {
            Outcome::Exited => {}
            Outcome::Unhealthy => self.terminate(process, Instant::now() + self.grace).await,
            Outcome::Stopped => {
                let until = deadline.borrow().unwrap_or_else(Instant::now);
                self.terminate(process, until).await;
            }
        }
        process.exit().map_or(137, |status| {
            status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(9))
        })
    }

    /// Runs the probes; returns when the container has to be started again.
    async fn watch_health(&mut self, pid: i32) {
        let (env, container, address) = (self.env.clone(), self.container.clone(), self.address);
        let prober = |probe: &Option<Probe>| probe.as_ref().and_then(|it| Prober::new(it, &container, address).ok());
        if let Some(mut startup) = prober(&container.startup_probe) {
            if !startup.next(pid, &env).await {
                return;
            }
            self.say(self.view.state.clone(), true);
        }
        let mut readiness = prober(&container.readiness_probe);
        let mut liveness = prober(&container.liveness_probe);
        loop {
            tokio::select! {
                ready = next(&mut readiness, pid, &env) => {
                    if self.view.ready != ready {
                        self.view.ready = ready;
                        self.send();
                    }
                }
                false = next(&mut liveness, pid, &env) => return,
            }
        }
    }

    /// The graceful end: preStop, the stop signal, SIGKILL at the deadline (which may move while this waits).
    async fn terminate(&mut self, process: &Process, until: Instant) {
        let pre_stop = self
            .container
            .lifecycle
            .as_ref()
            .and_then(|lifecycle| lifecycle.pre_stop.clone());
        if let Some(hook) = pre_stop {
            let run = async {
                if let Some(pause) = hook.sleep {
                    sleep(Duration::from_secs(pause.seconds.try_into().unwrap_or(0))).await;
                } else if let Some(command) = hook.exec.and_then(|exec| exec.command) {
                    exec(&command, process.pid(), &self.env).await;
                }
            };
            tokio::select! {
                () = run => {}
                () = exit(process) => return,
                () = self.expiry(until) => {}
            }
        }
        // It may have ended in the meantime.
        let _ = process.signal(self.stop_signal);
        tokio::select! {
            () = exit(process) => {}
            () = self.expiry(until) => process.kill(),
        }
    }

    /// Returns at `until`, or at the pod's deadline when that comes first.
    async fn expiry(&self, until: Instant) {
        let mut deadline = self.deadline.clone();
        loop {
            let at = deadline.borrow_and_update().map_or(until, |at| at.min(until));
            if timeout(at.saturating_duration_since(Instant::now()), deadline.changed())
                .await
                .map_or(true, |c| c.is_err())
            {
                return sleep_until(at).await;
            }
        }
    }
}

/// The next verdict of a probe; never, when there is none.
async fn next(prober: &mut Option<Prober>, pid: i32, env: &Environment) -> bool {
    match prober {
        Some(prober) => prober.next(pid, env).await,
        None => std::future::pending().await,
    }
}

/// Returns when the process has ended.
async fn exit(process: &Process) {
    while process.is_alive() {
        // Without a descriptor for it (an old kernel), look again soon.
        if wait_for_exit(process.pid()).await.is_err() {
            sleep(Duration::from_millis(10)).await;
        }
    }
}

async fn wait_for_exit(pid: i32) -> io::Result<()> {
    // SAFETY: a system call on integers; the result is a new descriptor that nobody else owns.
    let descriptor = unsafe {
        let fd = libc::syscall(libc::SYS_pidfd_open, pid, 0);
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        OwnedFd::from_raw_fd(fd as i32)
    };
    // SAFETY: the descriptor moves in and stays the same and open until it is dropped together with its registration.
    let descriptor = unsafe { AsyncFd::register_with_interest(descriptor, Interest::READABLE) }?;
    descriptor.readable().await.map(drop)
}

/// How to start the container: `lab_pod enter` makes its inside.
fn spec(
    container: &Container,
    image: &Image,
    env: &Environment,
    mounts: &[Mount],
    around: &Surroundings<'_>,
) -> io::Result<Spec> {
    let directory = around.directory.join(&container.name);
    let (root, layer) = (directory.join("root"), directory.join("image"));
    fs::create_dir_all(&root)?;
    fs::create_dir_all(&layer)?;
    for (path, content) in &image.files {
        let path = layer.join(path.strip_prefix("/").unwrap_or(path));
        fs::create_dir_all(path.parent().unwrap_or(&layer))?;
        fs::write(path, content)?;
    }
    let lab_pod = around.images.lab_pod();
    let mut args = vec![
        "enter".to_owned(),
        "--root".into(),
        text(&root),
        "--layer".into(),
        text(&layer),
    ];
    // The program has to be seen inside wherever it lies, below the container's own /tmp for instance.
    args.extend(["--bind".into(), format!("{0}:{0}:ro", lab_pod.display())]);
    for mount in mounts {
        let suffix = if mount.read_only { ":ro" } else { "" };
        args.extend([
            "--bind".into(),
            format!("{}:{}{suffix}", mount.source.display(), mount.target),
        ]);
    }
    for (name, value) in env.iter() {
        args.extend(["--env".into(), format!("{name}={value}")]);
    }
    if around.sandbox.addresses != around.facts.node_addresses {
        args.extend(["--hostname".into(), hostname(around)]);
    }
    if let Some(directory) = &container.working_dir {
        args.extend(["--workdir".into(), directory.clone()]);
    }
    args.push("--".into());
    args.extend(env.command(container, image));
    let meta = &around.facts.pod.metadata;
    let pod = meta.name.as_deref().unwrap_or_default();
    let namespace = meta.namespace.as_deref().unwrap_or_default();
    let log = around.log_dir.join(format!("{namespace}_{pod}.{}.log", container.name));
    Ok(Spec::new(format!("{pod}/{}", container.name), lab_pod, log)
        .args(args)
        .namespace(&around.sandbox.namespace))
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

/// The host name of the pod: its own name, at most 63 characters of it.
fn hostname(around: &Surroundings<'_>) -> String {
    let pod = around.facts.pod;
    let name = pod
        .spec
        .as_ref()
        .and_then(|spec| spec.hostname.clone())
        .or_else(|| pod.metadata.name.clone());
    name.unwrap_or_default().chars().take(63).collect()
}
