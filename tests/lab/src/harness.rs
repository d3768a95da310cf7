//! Runs scenarios, those of one cluster after another.
//!
//! A [`Group`] is a cluster's [`Setup`] and the scenarios that share it. The cluster starts when the first of them that
//! was asked for begins, and is taken down when the next group begins; a scenario that fails takes its cluster with it,
//! so that what it broke breaks nothing else. Each scenario has a Kubernetes namespace and a range of addresses of its own.
//!
//! Where the machine cannot run the nodes that a group asks for, its scenarios are counted as ignored, with the reason; under
//! continuous integration (`$CI`) they fail with it, because there it means that nobody ever runs them.
//!
//! Names are `group::scenario`; the usual filters, `--exact`, `--skip` and `--list` of `cargo test` work on them.

use std::any::Any;
use std::cell::OnceCell;
use std::fmt;
use std::future::Future;
use std::ops::Deref;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use libtest_mimic::{Arguments, Failed, Trial};
use tokio::runtime::Runtime;

use crate::lab::NAMESPACE;
use crate::net::Families;
use crate::{Lab, NodeKind, Setup, interrupt, privilege, realnode};

/// How long a scenario may take.
const LIMIT: Duration = Duration::from_secs(300);

/// With this variable set, a scenario that fails is tried once more on a new cluster, and those that pass then are listed
/// at the end, so that a long run is not lost to one stall of a machine that others use, too.
const RETRY: &str = "FERROLB_LAB_RETRY";

type Run = Arc<dyn Fn(Story) -> Pin<Box<dyn Future<Output = Result<()>>>> + Send + Sync>;

/// A cluster and the scenarios that share it.
pub struct Group {
    setup: Setup,
    scenarios: Vec<(&'static str, Run)>,
}

impl Group {
    /// A group that is called like its cluster.
    pub fn new(setup: Setup) -> Self {
        Self {
            setup,
            scenarios: Vec::new(),
        }
    }

    /// Adds a scenario.
    pub fn scenario<F, Told>(mut self, name: &'static str, tell: F) -> Self
    where
        F: Fn(Story) -> Told + Send + Sync + 'static,
        Told: Future<Output = Result<()>> + 'static,
    {
        self.scenarios
            .push((name, Arc::new(move |story| Box::pin(tell(story)))));
        self
    }
}

/// What a scenario is given: the cluster (it dereferences to [`Lab`]) and a place in it of its own.
#[derive(Debug, Clone)]
pub struct Story {
    lab: Arc<Lab>,
    namespace: String,
    number: u8,
}

impl Deref for Story {
    type Target = Lab;

    fn deref(&self) -> &Lab {
        &self.lab
    }
}

impl Story {
    /// The cluster.
    pub fn lab(&self) -> &Arc<Lab> {
        &self.lab
    }

    /// The scenario's Kubernetes namespace; it exists.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// The IPv4 range of the scenario: fifty addresses that no other scenario of the cluster uses.
    pub fn range_v4(&self) -> String {
        let n = self.number;
        format!("172.30.{n}.100-172.30.{n}.149")
    }

    /// The IPv6 range of the scenario: 256 addresses that no other scenario of the cluster uses.
    pub fn range_v6(&self) -> String {
        let n = self.number;
        format!("fd00:30::{n}:100-fd00:30::{n}:1ff")
    }

    /// The ranges of those families that the cluster has.
    pub fn ranges(&self) -> Vec<String> {
        match self.setup().families {
            Families::V4 => vec![self.range_v4()],
            Families::V6 => vec![self.range_v6()],
            Families::Dual => vec![self.range_v4(), self.range_v6()],
        }
    }

    /// Makes a pool and an L2Advertisement, both called like the namespace, which serve this namespace alone.
    pub async fn apply_pool(&self) -> Result<()> {
        self.lab.apply(NAMESPACE, &self.pool()).await
    }

    /// What [`Story::apply_pool`] applies.
    pub fn pool(&self) -> String {
        let (name, ranges) = (&self.namespace, self.ranges().join("\", \""));
        format!(
            r#"apiVersion: metallb.io/v1beta1
kind: IPAddressPool
metadata: {{name: {name}, namespace: {NAMESPACE}}}
spec:
  addresses: ["{ranges}"]
  serviceAllocation: {{namespaces: [{name}]}}
---
apiVersion: metallb.io/v1beta1
kind: L2Advertisement
metadata: {{name: {name}, namespace: {NAMESPACE}}}
spec:
  ipAddressPools: [{name}]
"#
        )
    }

    /// Applies YAML to the scenario's namespace.
    pub async fn apply(&self, yaml: &str) -> Result<()> {
        self.lab.apply(&self.namespace, yaml).await
    }

    /// Deletes what the YAML names in the scenario's namespace.
    pub async fn delete(&self, yaml: &str) -> Result<()> {
        self.lab.delete(&self.namespace, yaml).await
    }

    async fn open(&self) -> Result<()> {
        self.lab
            .kubectl(&["create", "namespace", &self.namespace])
            .await
            .map(drop)
    }

    /// Removes the scenario's objects; nobody waits for it.
    async fn close(&self) -> Result<()> {
        self.lab
            .kubectl(&["delete", "namespace", &self.namespace, "--wait=false"])
            .await?;
        if self.setup().ferrolb {
            self.lab.delete(NAMESPACE, &self.pool()).await?;
        }
        Ok(())
    }
}

/// The groups to run.
#[derive(Default)]
pub struct Harness {
    groups: Vec<Group>,
}

impl Harness {
    /// No groups yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a group.
    pub fn group(mut self, group: Group) -> Self {
        self.groups.push(group);
        self
    }

    /// Runs what the command line asks for. Call it first thing in `main`: it may have to enter a user namespace, which
    /// only a program of one thread can.
    pub fn run(self) -> ExitCode {
        let mut arguments = Arguments::from_args();
        if !arguments.list
            && let Err(error) = privilege::acquire().and_then(|()| interrupt::install())
        {
            eprintln!("{error:#}");
            return ExitCode::FAILURE;
        }
        // Clusters are shared in order, and scenarios take nodes away from each other's clusters.
        arguments.test_threads = Some(1);
        let stage = match Stage::new() {
            Ok(stage) => Arc::new(stage),
            Err(error) => {
                eprintln!("{error:#}");
                return ExitCode::FAILURE;
            }
        };
        let mut trials = Vec::new();
        let obstacle = OnceCell::new();
        let in_ci = std::env::var_os("CI").is_some();
        for group in self.groups {
            let setup = Arc::new(group.setup);
            let obstacle = match setup.kind {
                NodeKind::Real if !arguments.list => obstacle.get_or_init(realnode::why_not).clone(),
                NodeKind::Real | NodeKind::Light => None,
            };
            if let Some(reason) = obstacle.as_ref().filter(|_| !in_ci) {
                eprintln!("{} is ignored: no real nodes on this machine: {reason}", setup.name);
            }
            let ignored = obstacle.is_some() && !in_ci;
            for (name, run) in group.scenarios {
                let (stage, setup, obstacle) = (stage.clone(), setup.clone(), obstacle.clone());
                let full = format!("{}::{name}", setup.name);
                let perform = move || match obstacle {
                    Some(reason) => Err(Failed::from(format!("no real nodes on this machine: {reason}"))),
                    None => stage.perform(&setup, name, &run).map_err(Failed::from),
                };
                trials.push(Trial::test(full, perform).with_ignored_flag(ignored));
            }
        }
        let conclusion = libtest_mimic::run(&arguments, trials);
        stage.clear();
        for line in stage.flaky().iter() {
            println!("flaky: {line}");
        }
        conclusion.exit_code()
    }
}

/// Where scenarios are performed: the cluster that stands, if one does.
struct Stage {
    runtime: Runtime,
    standing: Mutex<Option<Standing>>,
    /// A scenario that fails is tried once more.
    retry: bool,
    /// Those that passed at the second attempt only, with what was wrong at the first.
    flaky: Mutex<Vec<String>>,
}

/// Why a scenario has failed, and what the cluster's programs said before.
struct Failure {
    report: String,
    error: String,
}

/// What was wrong comes last: that is what is left of a long output that somebody has cut.
impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}\n{}", self.report, self.error)
    }
}

struct Standing {
    setup: Arc<Setup>,
    lab: Arc<Lab>,
    scenarios: u8,
}

impl Stage {
    fn new() -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()
            .context("start a runtime")?;
        Ok(Self {
            runtime,
            standing: Mutex::default(),
            retry: std::env::var_os(RETRY).is_some(),
            flaky: Mutex::default(),
        })
    }

    fn flaky(&self) -> MutexGuard<'_, Vec<String>> {
        self.flaky.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn standing(&self) -> MutexGuard<'_, Option<Standing>> {
        self.standing.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Takes the standing cluster down.
    fn clear(&self) {
        self.standing().take();
    }

    /// Performs a scenario; one that fails is told so and may get a second chance, on a cluster of its own.
    fn perform(&self, setup: &Arc<Setup>, name: &str, run: &Run) -> Result<(), String> {
        let first = self.attempt(setup, name, run);
        if !self.retry {
            return first.map_err(|failure| failure.to_string());
        }
        first.or_else(|failure| {
            eprintln!(
                "\n{failure}\n  {}::{name} has failed and is tried once more",
                setup.name
            );
            self.attempt(setup, name, run).map_err(|again| again.to_string())?;
            self.flaky().push(format!("{}::{name}: {}", setup.name, failure.error));
            Ok(())
        })
    }

    fn attempt(&self, setup: &Arc<Setup>, name: &str, run: &Run) -> Result<(), Failure> {
        let story = self.cast(setup, name).map_err(|error| Failure {
            report: String::new(),
            error: format!("{error:#}"),
        })?;
        let lab = story.lab.clone();
        let start = Instant::now();
        let played = catch_unwind(AssertUnwindSafe(|| self.runtime.block_on(play(story, run))));
        let outcome = played.unwrap_or_else(|panic| Err(anyhow!("panicked: {}", panic_text(panic.as_ref()))));
        match outcome {
            Ok(()) => {
                // Between the name and the verdict, which libtest-mimic writes to the same line.
                print!("{:.1} s ", start.elapsed().as_secs_f32());
                Ok(())
            }
            Err(error) => {
                let failure = Failure {
                    error: format!("after {:.1} s: {error:#}", start.elapsed().as_secs_f32()),
                    report: lab.failure_report(),
                };
                drop(lab);
                self.clear();
                Err(failure)
            }
        }
    }

    /// Finds or starts the cluster of `setup`, and a place in it for one more scenario.
    fn cast(&self, setup: &Arc<Setup>, name: &str) -> Result<Story> {
        let mut standing = self.standing();
        // 250 places is what the ranges of the LAN are for.
        if standing
            .as_ref()
            .is_some_and(|other| other.setup != *setup || other.scenarios >= 250)
        {
            standing.take();
        }
        if standing.is_none() {
            let start = Instant::now();
            let lab = self.runtime.block_on(Lab::start((**setup).clone()))?;
            let laps: Vec<String> = lab
                .startup()
                .iter()
                .map(|(lap, time)| format!("{lap} {:.1}", time.as_secs_f32()))
                .collect();
            let seconds = start.elapsed().as_secs_f32();
            eprintln!(
                "\n  cluster {}: up in {seconds:.1} s ({}); logs in {}",
                setup.name,
                laps.join(", "),
                lab.log_dir().display()
            );
            *standing = Some(Standing {
                setup: setup.clone(),
                lab: Arc::new(lab),
                scenarios: 0,
            });
        }
        let Some(standing) = standing.as_mut() else {
            bail!("no cluster stands")
        };
        standing.scenarios += 1;
        let namespace = format!("{}-{}", name.replace('_', "-"), standing.scenarios);
        Ok(Story {
            lab: standing.lab.clone(),
            namespace,
            number: standing.scenarios,
        })
    }
}

async fn play(story: Story, run: &Run) -> Result<()> {
    story.open().await?;
    let told = tokio::time::timeout(LIMIT, run(story.clone())).await;
    told.map_err(|_| anyhow!("not finished after {LIMIT:?}"))??;
    story.close().await
}

fn panic_text(panic: &(dyn Any + Send)) -> &str {
    let owned = panic.downcast_ref::<String>().map(String::as_str);
    owned
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("without a message")
}
