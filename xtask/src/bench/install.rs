//! `xtask bench install`: FerroLB installed, upgraded and hurt on nodes with a real kubelet, from the images of `xtask image`, and MetalLB
//! beside it from its own manifest.
//!
//! Each run is a new cluster of three nodes. The pods run on one of them, the other two may announce, so what is lost is
//! the announcer's doing. Clients ask once a millisecond.

mod play;
mod seen;
mod side;

use std::time::Duration;

use anyhow::{Result, anyhow, bail};
use clap::value_parser;
use ferrolb_controlplane::{METALLB_VERSION, Metallb};
use ferrolb_lab::{Lab, NodeKind, Setup, privilege, realnode};

use self::play::Play;
use self::seen::Seen;
use self::side::Side;
use super::figures::table;
use super::{footer, progress, publish, runtime};

/// Of the Service and its pods.
const NAMESPACE: &str = "default";
/// What anything may take at most.
const PATIENCE: Duration = Duration::from_secs(90);

/// With the namespace of the installation for `NAMESPACE`.
const POOL: &str = r#"apiVersion: metallb.io/v1beta1
kind: IPAddressPool
metadata: { name: bench, namespace: NAMESPACE }
spec: { addresses: [172.30.0.100-172.30.0.149] }
---
apiVersion: metallb.io/v1beta1
kind: L2Advertisement
metadata: { name: bench, namespace: NAMESPACE }
spec:
  ipAddressPools: [bench]
  nodeSelectors:
    - matchExpressions:
        - { key: kubernetes.io/hostname, operator: NotIn, values: [node-3] }
"#;

const PODS: &str = r#"apiVersion: apps/v1
kind: Deployment
metadata: { name: web }
spec:
  replicas: 2
  selector: { matchLabels: { app: web } }
  template:
    metadata: { labels: { app: web } }
    spec:
      nodeSelector: { kubernetes.io/hostname: node-3 }
      containers:
        - name: web
          image: ferrolb.lab/web:1
          args: ["--http", "8080", "--tcp", "9000", "--udp", "5353"]
          # For a receive queue of seconds.
          securityContext: { runAsUser: 0, capabilities: { add: [NET_ADMIN] } }
          readinessProbe:
            httpGet: { path: /healthz, port: 8080 }
            periodSeconds: 1
"#;

const SERVICE: &str = r#"apiVersion: v1
kind: Service
metadata: { name: web }
spec:
  type: LoadBalancer
  selector: { app: web }
  ports:
    - { name: http, port: 80, targetPort: 8080 }
    - { name: tcp, port: 9000 }
    - { name: udp, port: 53, targetPort: 5353, protocol: UDP }
"#;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// How many clusters, of each side.
    #[arg(long, default_value_t = 5, value_name = "N", value_parser = value_parser!(u32).range(1..=100))]
    runs: u32,
    /// How many rolling updates of the speakers, in each cluster.
    #[arg(long, default_value_t = 2, value_name = "N", value_parser = value_parser!(u32).range(1..=100))]
    rollouts: u32,
    /// How long the programs are left alone before their memory is read, in each cluster.
    #[arg(long, default_value_t = 60, value_name = "SECONDS")]
    idle: u64,
    /// Measure MetalLB as well, in as many clusters, by turns.
    #[arg(long)]
    metallb: bool,
    /// One cluster, not left alone for long: to see that the bench works.
    #[arg(long)]
    quick: bool,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    privilege::acquire()?;
    if let Some(reason) = realnode::why_not() {
        bail!("this machine cannot run real nodes: {reason}");
    }
    let metallb = match args.metallb {
        true => Some(Side::Metallb(Metallb::obtain(&mut |line| progress(line))?)),
        false => None,
    };
    let (runs, rollouts, idle) = match args.quick {
        true => (1, 1, 5),
        false => (args.runs, args.rollouts, args.idle),
    };
    let outcome = measure(runs, rollouts, Duration::from_secs(idle), metallb.as_ref());
    publish("install", &runtime()?.block_on(outcome)?)
}

async fn measure(runs: u32, rollouts: u32, idle: Duration, metallb: Option<&Side>) -> Result<String> {
    let (mut ours, mut theirs) = (Seen::default(), Seen::default());
    for run in 1..=runs {
        progress(&format!("FerroLB, cluster {run} of {runs}"));
        cluster(&Side::Ferrolb, rollouts, idle, &mut ours).await?;
        if let Some(metallb) = metallb {
            progress(&format!("MetalLB, cluster {run} of {runs}"));
            cluster(metallb, rollouts, idle, &mut theirs).await?;
        }
    }
    let table = table(seen::HEAD, &seen::rows(&ours, metallb.map(|_| &theirs))?);
    let mut about = "three nodes with kubelet, containerd and runc, images of the release build".to_owned();
    if metallb.is_some() {
        about += &format!("; MetalLB {METALLB_VERSION}, layer 2, its own manifest");
    }
    Ok(format!("{table}\n{}\n", footer(&about)))
}

async fn cluster(side: &Side, rollouts: u32, idle: Duration, seen: &mut Seen) -> Result<()> {
    let setup = Setup {
        kind: NodeKind::Real,
        ferrolb: false,
        ..Setup::named("bench-install")
    };
    let lab = Lab::start(setup).await?;
    let outcome = async { Play::begin(&lab, side, seen).await?.go_on(rollouts, idle, seen).await }.await;
    outcome.map_err(|error| anyhow!("{error:#}\n{}", lab.failure_report()))
}
