//! `xtask bench memory`: what the controller and a speaker hold in memory, for as many Services and nodes as you like.
//!
//! The API server is the one in memory, so that ten thousand Services take seconds; the programs are the real ones, each in
//! a network namespace of its own on a LAN. Of the nodes only the first few have a speaker; the others are objects. Objects
//! are as large as in a cluster: nodes list their images, and everything says who manages which of its fields. The placements
//! are the controller's, so they also tell how many heartbeats a node has to send.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, TcpListener};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::value_parser;
use ferrolb_api::VirtualIp;
use ferrolb_apiserver::ApiServer;
use ferrolb_lab::lab::{NAMESPACE as FERROLB, binary};
use ferrolb_lab::net::{Families, Host, Lan};
use ferrolb_lab::process::{Process, Spec};
use ferrolb_lab::run_dir::RunDir;
use ferrolb_lab::{privilege, wait_until};
use kube::api::ListParams;
use kube::{Api, Client};
use serde_json::{Value, json};

use super::figures::{Row, Usage, mebibytes, table};
use super::{footer, progress, publish, runtime};

/// Where the Services are.
const NAMESPACE: &str = "bench";
/// All addresses are placed and announced within this.
const PATIENCE: Duration = Duration::from_secs(120);
/// Heartbeats to a peer in a second, by default.
const HEARTBEATS: f64 = 20.0;
/// The bridge of the LAN, which is where the API server listens.
const BRIDGE: Ipv4Addr = Ipv4Addr::new(172, 30, 0, 1);
/// The number of the first node's host.
const FIRST_HOST: u8 = 11;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Instead of the usual worlds one with so many Services.
    #[arg(long, value_name = "N", value_parser = value_parser!(u32).range(1..=20_000), requires = "nodes")]
    services: Option<u32>,
    /// And so many nodes.
    #[arg(long, value_name = "N", value_parser = value_parser!(u32).range(1..=2_000), requires = "services")]
    nodes: Option<u32>,
    /// So many of the nodes run a speaker.
    #[arg(long, default_value_t = 2, value_name = "N", value_parser = value_parser!(u8).range(1..=20))]
    speakers: u8,
    /// Before it is measured, after all is announced.
    #[arg(long, default_value_t = 8, value_name = "SECONDS")]
    idle: u64,
    /// Few Services: to see that the bench works.
    #[arg(long)]
    quick: bool,
}

/// How large a world is, and what its programs may hold, KiB.
struct World {
    services: u32,
    nodes: u32,
    /// Of the speaker and of the controller.
    goals: Option<(u64, u64)>,
}

impl World {
    const fn new(services: u32, nodes: u32, goals: Option<(u64, u64)>) -> Self {
        Self { services, nodes, goals }
    }
}

/// What programs hold that have nothing to do, KiB: goals of the images.
const IDLE: (u64, u64) = (10 * 1024, 14 * 1024);

/// Next to nothing; every address on the speakers that there are; what product and issue name.
const USUAL: [World; 6] = [
    World::new(1, 2, Some(IDLE)),
    World::new(50, 2, Some(IDLE)),
    World::new(1_000, 2, Some((12 * 1024, 24 * 1024))),
    World::new(1_000, 100, Some((12 * 1024, 24 * 1024))),
    World::new(5_000, 500, None),
    World::new(10_000, 1_000, Some((48 * 1024, 96 * 1024))),
];
const QUICK: [World; 1] = [World::new(50, 4, None)];

pub(crate) fn run(args: &Args) -> Result<()> {
    privilege::acquire()?;
    let worlds = match (args.services.zip(args.nodes), args.quick) {
        (Some((services, nodes)), _) => &[World::new(services, nodes, None)][..],
        (None, true) => &QUICK,
        (None, false) => &USUAL,
    };
    let runtime = runtime()?;
    let (mut rows, mut missed) = (Vec::new(), Vec::new());
    for world in worlds {
        rows.extend(runtime.block_on(measure(world, args, &mut missed))?);
    }
    let text = table(["what", "resident", "anonymous", "how it was measured"], &rows);
    publish("memory", &format!("{text}\n{}", footer("an API server in memory")))?;
    ensure!(missed.is_empty(), "larger than they may be: {}", missed.join("; "));
    Ok(())
}

/// `missed` gets what is larger than the goal of its world.
async fn measure(world: &World, args: &Args, missed: &mut Vec<String>) -> Result<Vec<Row>> {
    progress(&format!("{} Services, {} nodes", world.services, world.nodes));
    let run_dir = RunDir::create()?;
    let lan = Lan::create(&run_dir.prefix(), Families::V4)?;
    let mut server = ApiServer::start().await.context("start the API server")?;
    let listener = lan.namespace().run(|| TcpListener::bind((BRIDGE, 0)))??;
    listener.set_nonblocking(true)?;
    let kubeconfig = server.listen(tokio::net::TcpListener::from_std(listener)?)?;
    std::fs::write(run_dir.path().join("kubeconfig"), kubeconfig).context("write the kubeconfig")?;
    fill(&server, world);
    let client = ferrolb_apiserver::client(&server.kubeconfig()).await?;

    let start = |name: &str, program: &str, host: Option<&Host>, more: &[&str]| -> Result<Process> {
        let namespace = host.map_or(lan.namespace(), Host::namespace);
        let state = run_dir.path().join(name);
        let spec = Spec::new(name, binary(program)?, log(name))
            .namespace(namespace)
            .args(["--namespace", FERROLB, "--kubeconfig"])
            .args([run_dir.path().join("kubeconfig")])
            .args(more);
        let spec = if host.is_some() {
            spec.args(["--state-dir".into(), state])
        } else {
            spec
        };
        Process::start(spec)
    };
    let controller = start("controller", "ferrolb-controller", None, &["--pod-name", "controller"])?;
    wait_until("all addresses to be placed", PATIENCE, async || {
        placed(&client, world).await
    })
    .await?;
    let heartbeats = heartbeats(&client, world).await?;
    let mut running = Vec::new();
    for number in 0..args.speakers.min(u8::try_from(world.nodes).unwrap_or(u8::MAX)) {
        let name = node_name(u32::from(number));
        let host = lan.add_host(&format!("n{number}"), FIRST_HOST + number)?;
        running.push(start(&name, "ferrolb-speaker", Some(&host), &["--node-name", &name])?);
    }
    wait_until("their addresses to be announced", PATIENCE, async || {
        announced(&client, &running).await
    })
    .await?;
    tokio::time::sleep(Duration::from_secs(args.idle)).await;

    let mut most = Usage::of(running[0].pid())?;
    for speaker in &running[1..] {
        most = most.max(Usage::of(speaker.pid())?);
    }
    let controller = Usage::of(controller.pid())?;
    let goals = world.goals.unzip();
    let programs = [("speaker", most, goals.0), ("controller", controller, goals.1)];
    let mut rows = vec![heartbeats];
    for (program, usage, goal) in programs {
        if goal.is_some_and(|goal| usage.rss > goal) {
            missed.push(format!(
                "the {program} with {} Services on {} nodes",
                world.services, world.nodes
            ));
        }
        rows.push(row(program, world, usage, goal));
    }
    Ok(rows)
}

fn log(name: &str) -> std::path::PathBuf {
    let folder = crate::repository().join("target/bench/memory");
    let path = folder.join(format!("{name}.log"));
    // What an earlier run may have left; usually nothing.
    let _ = std::fs::remove_file(&path);
    path
}

fn row(program: &str, world: &World, usage: Usage, goal: Option<u64>) -> Row {
    let verdict = |goal| match usage.rss <= goal {
        true => format!("; goal {}: met", mebibytes(goal)),
        false => format!("; goal {}: missed", mebibytes(goal)),
    };
    Row::new(
        format!("{program}, {} Services, {} nodes", world.services, world.nodes),
        mebibytes(usage.rss),
        mebibytes(usage.anonymous),
        format!(
            "most ever {}{}",
            mebibytes(usage.peak),
            goal.map_or_else(String::new, verdict)
        ),
    )
}

/// Whom owners send heartbeats to: the standbys of their addresses, each once per interval.
async fn heartbeats(client: &Client, world: &World) -> Result<Row> {
    let ips = Api::<VirtualIp>::all(client.clone())
        .list(&ListParams::default())
        .await?;
    let mut peers: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for placement in ips.items.into_iter().filter_map(|ip| ip.status?.placement) {
        peers.entry(placement.owner).or_default().extend(placement.standbys);
    }
    let most = peers.values().map(BTreeSet::len).max().unwrap_or_default();
    let all: usize = peers.values().map(BTreeSet::len).sum();
    let mean = all as f64 / peers.len().max(1) as f64;
    let a_second = |peers: f64| format!("{:.0}/s", peers * HEARTBEATS);
    Ok(Row::new(
        format!(
            "heartbeats of an owner, {} Services, {} nodes",
            world.services, world.nodes
        ),
        a_second(mean),
        String::new(),
        format!(
            "computed from the placements: {mean:.1} standbys per owner on average, {most} at most ({}), each {HEARTBEATS} \
             times a second",
            a_second(most as f64)
        ),
    ))
}

/// Every Service's address has an owner.
async fn placed(client: &Client, world: &World) -> Result<()> {
    let ips = Api::<VirtualIp>::all(client.clone())
        .list(&ListParams::default())
        .await?;
    let status = ips.items.into_iter().filter_map(|ip| ip.status);
    let placed = status.filter(|status| status.placement.is_some()).count();
    ensure!(placed == world.services as usize, "{placed} of {} are", world.services);
    Ok(())
}

/// Every address of a node with a speaker is announced there.
async fn announced(client: &Client, speakers: &[Process]) -> Result<()> {
    let names: Vec<String> = speakers.iter().map(Process::name).collect();
    let ips = Api::<VirtualIp>::all(client.clone())
        .list(&ListParams::default())
        .await?;
    let mut left = 0;
    for status in ips.items.into_iter().filter_map(|ip| ip.status) {
        let owner = status.placement.map(|placement| placement.owner);
        let here = owner.as_ref().is_some_and(|owner| names.contains(owner));
        left += usize::from(here && status.announcer.map(|announcer| announcer.node) != owner);
    }
    ensure!(left == 0, "{left} are not");
    Ok(())
}

fn fill(server: &ApiServer, world: &World) {
    server.insert_raw(
        "namespaces",
        json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": NAMESPACE } }),
    );
    server.insert_raw(
        "namespaces",
        json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": FERROLB } }),
    );
    server.insert_raw(
        "ipaddresspools.metallb.io",
        json!({
            "apiVersion": "metallb.io/v1beta1", "kind": "IPAddressPool",
            "metadata": { "name": "bench", "namespace": FERROLB },
            "spec": { "addresses": ["172.30.1.0-172.30.200.255"] },
        }),
    );
    server.insert_raw(
        "l2advertisements.metallb.io",
        json!({
            "apiVersion": "metallb.io/v1beta1", "kind": "L2Advertisement",
            "metadata": { "name": "bench", "namespace": FERROLB }, "spec": {},
        }),
    );
    for number in 0..world.nodes {
        server.insert_raw("nodes", node(number));
    }
    for number in 0..world.services {
        server.insert_raw("services", service(number));
        server.insert_raw("endpointslices.discovery.k8s.io", endpoints(number, world.nodes));
    }
}

fn node_name(number: u32) -> String {
    format!("worker-{number:04}.example.net")
}

/// What is written about each field by those who manage it: about as long as the object itself.
fn managed(fields: &[&str]) -> Value {
    let set: serde_json::Map<String, Value> = fields.iter().map(|field| (format!("f:{field}"), json!({}))).collect();
    let entry = |manager: &str| {
        json!({
            "apiVersion": "v1", "fieldsType": "FieldsV1", "manager": manager, "operation": "Update",
            "time": "2026-01-01T00:00:00Z",
            "fieldsV1": { "f:metadata": { "f:annotations": { ".": {}, "f:node.alpha.kubernetes.io/ttl": {} } }, "f:spec": set },
        })
    };
    json!([entry("kube-controller-manager"), entry("kubectl-client-side-apply")])
}

fn node(number: u32) -> Value {
    let name = node_name(number);
    let address = match u8::try_from(number) {
        Ok(near) if near < 100 => Ipv4Addr::new(172, 30, 0, FIRST_HOST + near),
        _ => Ipv4Addr::from_bits(Ipv4Addr::new(172, 31, 0, 0).to_bits() + number),
    };
    let images: Vec<Value> = (0..50)
        .map(|image| {
            let digest = format!("{:064x}", u64::from(image * 7919 + number));
            json!({
                "names": [
                    format!("registry.example.net/team-{image}/component@sha256:{digest}"),
                    format!("registry.example.net/team-{image}/component:v1.{image}.{}", number % 7),
                ],
                "sizeBytes": 30_000_000 + image,
            })
        })
        .collect();
    let condition = |kind: &str, status: &str| {
        json!({
            "type": kind, "status": status, "reason": "KubeletReady", "message": "kubelet is posting ready status",
            "lastHeartbeatTime": "2026-01-01T00:00:00Z", "lastTransitionTime": "2026-01-01T00:00:00Z",
        })
    };
    let resources = json!({ "cpu": "16", "memory": "65536000Ki", "pods": "110", "ephemeral-storage": "100000000Ki" });
    json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": {
            "name": name, "uid": format!("00000000-0000-0000-0001-{number:012}"),
            "labels": {
                "kubernetes.io/hostname": name, "kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64",
                "topology.kubernetes.io/zone": format!("zone-{}", number % 3), "node.kubernetes.io/instance-type": "bare",
            },
            "annotations": { "node.alpha.kubernetes.io/ttl": "0" },
            "managedFields": managed(&["podCIDR", "podCIDRs", "taints", "unschedulable"]),
        },
        "spec": { "podCIDR": "10.244.0.0/24", "podCIDRs": ["10.244.0.0/24"] },
        "status": {
            "addresses": [{ "type": "InternalIP", "address": address }, { "type": "Hostname", "address": name }],
            "allocatable": resources, "capacity": resources, "images": images,
            "conditions": [
                condition("MemoryPressure", "False"), condition("DiskPressure", "False"),
                condition("PIDPressure", "False"), condition("Ready", "True"),
            ],
            "nodeInfo": { "kubeletVersion": "v1.36.3", "osImage": "Debian GNU/Linux 12 (bookworm)", "architecture": "amd64",
                "bootID": "b", "containerRuntimeVersion": "containerd://2.4.2", "kernelVersion": "6.1.0", "kubeProxyVersion": "",
                "machineID": "m", "operatingSystem": "linux", "systemUUID": "s" },
        },
    })
}

fn service(number: u32) -> Value {
    let name = format!("service-{number:05}");
    let port = |name: &str, port: u16| json!({ "name": name, "port": port, "targetPort": port + 8000, "protocol": "TCP", "nodePort": 30_000 + number % 2_700 });
    let cluster = Ipv4Addr::from_bits(Ipv4Addr::new(10, 96, 0, 10).to_bits() + number);
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {
            "namespace": NAMESPACE, "name": name, "uid": format!("00000000-0000-0000-0002-{number:012}"),
            "creationTimestamp": "2026-01-01T00:00:00Z",
            "labels": { "app.kubernetes.io/name": name, "app.kubernetes.io/managed-by": "Helm" },
            "annotations": { "meta.helm.sh/release-name": name, "meta.helm.sh/release-namespace": NAMESPACE },
            "managedFields": managed(&["allocateLoadBalancerNodePorts", "externalTrafficPolicy", "ports", "selector", "type"]),
        },
        "spec": {
            "type": "LoadBalancer", "allocateLoadBalancerNodePorts": true, "externalTrafficPolicy": "Cluster",
            "internalTrafficPolicy": "Cluster", "ipFamilies": ["IPv4"], "ipFamilyPolicy": "SingleStack",
            "clusterIP": cluster, "clusterIPs": [cluster], "sessionAffinity": "None",
            "selector": { "app.kubernetes.io/name": name }, "ports": [port("http", 80), port("https", 443)],
        },
        "status": { "loadBalancer": {} },
    })
}

fn endpoints(number: u32, nodes: u32) -> Value {
    let service = format!("service-{number:05}");
    let endpoint = |of: u32| {
        let address = Ipv4Addr::from_bits(Ipv4Addr::new(10, 244, 0, 1).to_bits() + number * 3 + of);
        json!({
            "addresses": [address], "nodeName": node_name((number + of) % nodes), "zone": "zone-1",
            "conditions": { "ready": true, "serving": true, "terminating": false },
            "targetRef": { "kind": "Pod", "namespace": NAMESPACE, "name": format!("{service}-{of}"), "uid": "pod" },
        })
    };
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {
            "namespace": NAMESPACE, "name": format!("{service}-abcde"), "uid": format!("00000000-0000-0000-0003-{number:012}"),
            "labels": { "kubernetes.io/service-name": service,
                "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io" },
            "managedFields": managed(&["addressType", "endpoints", "ports"]),
        },
        "addressType": "IPv4",
        "endpoints": [endpoint(0), endpoint(1), endpoint(2)],
        "ports": [{ "name": "http", "port": 8080, "protocol": "TCP" }, { "name": "https", "port": 8443, "protocol": "TCP" }],
    })
}
