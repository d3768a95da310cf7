//! `xtask demo`: FerroLB's main job, shown step by step to a person who reads along.
//!
//! On real nodes where this machine can run them, on light ones otherwise: FerroLB is built as they need it, as images or as
//! programs. A real cluster comes up, a Service gets an IPv4 and an IPv6 address, a client on the LAN gets pages over both, the
//! node that announces is lost, and pages come again. Every step waits for what it claims and fails when it does not
//! come, so exit code 0 means that all of it was seen. Nothing is left behind, neither at the end nor after Ctrl-C.

mod screen;

use std::net::{IpAddr, SocketAddr};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use ferrolb_api::VirtualIp;
use ferrolb_controlplane::KUBERNETES_VERSION;
use ferrolb_lab::client::{Client, Probe, Response};
use ferrolb_lab::{Lab, NodeKind, Setup, privilege, realnode, run_dir, wait_until};
use kube::Api;
use kube::api::ListParams;

use crate::{image, repository};
use screen::{Screen, seconds};

/// What any step may take at most.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long the client waits for one page. Below the second after which a lost SYN is sent again.
const REQUEST: Duration = Duration::from_millis(400);
/// How long the LAN is asked who has an address.
const ASK: Duration = Duration::from_millis(300);
/// So many pages in a row show that it works again for everybody.
const IN_A_ROW: u32 = 30;

const NAMESPACE: &str = "default";
const SERVICE: &str = "web";

const POOL: &str = r#"apiVersion: metallb.io/v1beta1
kind: IPAddressPool
metadata:
  name: lan
  namespace: ferrolb-system
spec:
  addresses:
    - 172.30.0.100-172.30.0.149
    - fd00:30::100-fd00:30::1ff
---
apiVersion: metallb.io/v1beta1
kind: L2Advertisement
metadata:
  name: lan
  namespace: ferrolb-system
spec:
  ipAddressPools: [lan]
"#;

const WEB: &str = r#"apiVersion: apps/v1
kind: Deployment
metadata:
  name: web
spec:
  replicas: 3
  selector:
    matchLabels: { app: web }
  template:
    metadata:
      labels: { app: web }
    spec:
      containers:
        - name: web
          image: ferrolb.lab/web:1
          args: ["--http", "8080"]
          env:
            - { name: NODE_NAME, valueFrom: { fieldRef: { fieldPath: spec.nodeName } } }
          ports:
            - { name: http, containerPort: 8080 }
          readinessProbe:
            httpGet: { path: /healthz, port: http }
            periodSeconds: 1
---
apiVersion: v1
kind: Service
metadata:
  name: web
spec:
  type: LoadBalancer
  ipFamilyPolicy: PreferDualStack
  selector: { app: web }
  ports:
    - { name: http, port: 80, targetPort: http }
"#;

#[derive(clap::Args)]
pub(crate) struct Args {}

pub(crate) fn run(Args {}: &Args) -> Result<()> {
    let obstacle = realnode::why_not();
    // Before a user namespace is entered, which has no network to fetch crates by. What somebody has built elsewhere is used.
    let given = |variable| std::env::var_os(variable).is_some();
    match obstacle {
        None if !given("FERROLB_IMAGE_DIR") => image::run(&image::Args::usual())?,
        Some(_) if !given("FERROLB_BIN_DIR") => build_programs()?,
        _ => {}
    }
    // Before any thread: a program with several cannot enter a user namespace.
    privilege::acquire()?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("start a runtime")?;
    runtime.block_on(perform(obstacle))
}

/// Builds what light nodes run.
fn build_programs() -> Result<()> {
    let status = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .current_dir(repository())
        .args([
            "build",
            "--locked",
            "--release",
            "-p",
            "ferrolb-controller",
            "-p",
            "ferrolb-speaker",
        ])
        .status()
        .context("run cargo")?;
    ensure!(status.success(), "the programs cannot be built");
    Ok(())
}

async fn perform(obstacle: Option<String>) -> Result<()> {
    let mut screen = Screen::new();
    screen.step("A cluster of three nodes, dual-stack, kube-proxy in nftables mode")?;
    let kind = match obstacle {
        None => {
            screen.say("The nodes are real: a kubelet and containerd each. FerroLB is installed by its manifest and runs in pods.")?;
            NodeKind::Real
        }
        Some(reason) => {
            screen.say(format!(
                "The nodes are light: a stand-in for the kubelet runs processes in place of containers, because {reason}."
            ))?;
            NodeKind::Light
        }
    };
    let mut told = Ok(());
    let mut report = |line: &str| {
        if told.is_ok() {
            told = screen.say(line);
        }
    };
    let setup = Setup {
        kind,
        ..Setup::named("demo")
    };
    let lab = Lab::start_reporting(setup, &mut report).await?;
    told?;
    let mut demo = Demo { screen, lab };
    let figures = match demo.play().await {
        Ok(figures) => figures,
        Err(error) => {
            let (step, report) = (demo.screen.running(), demo.lab.failure_report());
            return Err(anyhow!("in step {step:?}: {error:#}\n{report}"));
        }
    };
    let Demo { mut screen, lab } = demo;
    screen.step("The cluster is taken down")?;
    take_down(&mut screen, lab)?;
    screen.summary()?;
    screen.say("")?;
    screen.say(format!(
        "Service applied -> addresses: {}; -> first page: {}",
        seconds(figures.addresses),
        seconds(figures.first_page)
    ))?;
    screen.say(format!(
        "node lost -> announced by another: {}; -> first page: {}",
        seconds(figures.moved),
        seconds(figures.page_again)
    ))
}

/// The cluster goes, and what the machine shows afterwards is looked at.
fn take_down(screen: &mut Screen, lab: Lab) -> Result<()> {
    let (id, logs) = (lab.id(), lab.log_dir().to_owned());
    let processes = lab.processes();
    drop(lab);
    let alive: Vec<String> = processes
        .iter()
        .filter(|process| process.is_alive())
        .map(|process| process.name())
        .collect();
    ensure!(alive.is_empty(), "still running: {}", alive.join(", "));
    ensure!(
        run_dir::list()?.iter().all(|other| other.id != id),
        "lab {id} is still listed"
    );
    let prefix = format!("flb{id}-");
    let names = std::fs::read_dir("/run/netns").into_iter().flatten().flatten();
    let left: Vec<String> = names
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .filter(|name| name.starts_with(&prefix))
        .collect();
    ensure!(left.is_empty(), "network namespaces are left: {}", left.join(", "));
    screen.say(format!(
        "{} processes, the network namespaces and the files are gone; the logs stay in {}",
        processes.len(),
        logs.display()
    ))
}

/// What the summary tells besides the times of the steps.
struct Figures {
    addresses: Duration,
    first_page: Duration,
    moved: Duration,
    page_again: Duration,
}

struct Demo {
    screen: Screen,
    lab: Lab,
}

impl Demo {
    async fn play(&mut self) -> Result<Figures> {
        self.show_cluster()?;
        self.let_definitions_age().await?;
        self.screen.step("A pool of addresses, announced at layer 2")?;
        self.apply(POOL).await?;

        self.screen
            .step("Three web servers behind one Service of type LoadBalancer")?;
        let begin = Instant::now();
        self.apply(WEB).await?;
        let found = self.lab.wait_external_ips(NAMESPACE, SERVICE, 2, PATIENCE).await?;
        let addresses = begin.elapsed();
        let both = Both::of(&found)?;
        self.screen.say(format!(
            "{} after kubectl was called: {} and {} are in the Service's status",
            seconds(addresses),
            both.v4,
            both.v6
        ))?;
        let lab = &self.lab;
        let (first_page, ..) = tokio::try_join!(
            async {
                self.page(both.v4).await?;
                Ok(begin.elapsed())
            },
            lab.wait_pods_ready(NAMESPACE, "app=web", 3, PATIENCE),
            self.announced(both.v4, |_| true),
            self.announced(both.v6, |_| true),
        )?;
        self.screen.say(format!(
            "{} after kubectl was called: a client on the LAN has the first page",
            seconds(first_page)
        ))?;
        self.show_service().await?;

        self.screen
            .step("Who answers on the wire: ARP and neighbour discovery, in raw frames")?;
        let onlooker = Client::new(self.lab.add_host("onlooker", 200)?.namespace());
        for address in both.all() {
            self.show_answer(&onlooker, address).await?;
        }

        self.screen.step("Pages for a client on the LAN")?;
        for address in both.all() {
            let response = self.page(address).await?;
            self.show_page(address, &response)?;
        }

        let (moved, page_again) = self.lose_node(both, &onlooker).await?;
        Ok(Figures {
            addresses,
            first_page,
            moved,
            page_again,
        })
    }

    fn show_cluster(&mut self) -> Result<()> {
        let laps: Vec<String> = self
            .lab
            .startup()
            .iter()
            .map(|(lap, time)| format!("{lap} {}", seconds(*time)))
            .collect();
        self.screen.say(format!(
            "Kubernetes {KUBERNETES_VERSION} with FerroLB's controller and a speaker on each node is up ({})",
            laps.join(", ")
        ))?;
        let nodes = self.lab.nodes().iter().map(|node| node.host());
        let hosts: Vec<String> = nodes
            .chain([self.lab.client_host()])
            .map(|host| {
                let addresses: Vec<String> = host.addresses().iter().map(ToString::to_string).collect();
                format!("{:<8} {}  {}", host.name(), host.mac(), addresses.join("  "))
            })
            .collect();
        self.screen.block(&hosts.join("\n"))
    }

    /// The API server holds back the creation of a custom resource for two seconds while its definition is younger than
    /// that (apiextensions-apiserver, `customresource_handler.go`). Nobody's cluster is that young.
    async fn let_definitions_age(&mut self) -> Result<()> {
        const AGE: Duration = Duration::from_secs(2);
        self.screen.say(format!(
            "The custom resources are left to age for {}: the API server is slow to create objects of brand-new ones.",
            seconds(AGE)
        ))?;
        tokio::time::sleep(AGE).await;
        Ok(())
    }

    async fn apply(&mut self, yaml: &str) -> Result<()> {
        self.screen.output("kubectl apply -f -", yaml)?;
        self.lab.apply(NAMESPACE, yaml).await
    }

    async fn kubectl(&mut self, command: &str) -> Result<()> {
        let args: Vec<&str> = command.split(' ').collect();
        let text = self.lab.kubectl(&args).await?;
        self.screen.output(&format!("kubectl {command}"), &text)
    }

    async fn show_service(&mut self) -> Result<()> {
        let lab = &self.lab;
        wait_until("an event about each assignment", PATIENCE, async || {
            let events = lab.events(NAMESPACE, "Service", SERVICE).await?;
            let has = |reason| events.iter().any(|event| event.reason == reason);
            ensure!(has("IPAllocated") && has("nodeAssigned"), "{events:?}");
            Ok(())
        })
        .await?;
        self.kubectl("get pods -o wide").await?;
        self.kubectl("get svc web").await?;
        self.kubectl("get vip").await?;
        self.kubectl("events --for service/web").await
    }

    /// Waits until the node that the address is placed on, and that `wanted` likes, says that it announces it.
    async fn announced(&self, address: IpAddr, wanted: impl Fn(&str) -> bool) -> Result<String> {
        let api: Api<VirtualIp> = Api::all(self.lab.client());
        wait_until(&format!("the announcer of {address}"), PATIENCE, async || {
            let all = api.list(&ListParams::default()).await?.items;
            let held = all
                .into_iter()
                .find(|vip| vip.spec.address.parse() == Ok(address))
                .with_context(|| format!("there is no VirtualIP for {address}"))?;
            let status = held.status.unwrap_or_default();
            match (status.placement, status.announcer) {
                (Some(placed), Some(announcer)) if placed.owner == announcer.node && wanted(&placed.owner) => {
                    Ok(placed.owner)
                }
                (placed, announcer) => bail!("placed {placed:?}, announced {announcer:?}"),
            }
        })
        .await
    }

    /// Waits until one node alone answers for the address on the LAN, and it is `owner`; returns its MAC address.
    async fn answered_by(&self, onlooker: &Client, address: IpAddr, owner: &str) -> Result<(String, Duration)> {
        let wanted = self.lab.node(owner)?.host().mac();
        wait_until(
            &format!("{owner} alone to answer for {address}"),
            PATIENCE,
            async || {
                let onlooker = onlooker.clone();
                let replies = blocking(move || onlooker.resolve(address, ASK)).await?;
                ensure!(replies.only().as_ref() == Some(&wanted), "{:?} answer", replies.macs());
                let after = replies.0.first().map(|reply| reply.after).unwrap_or_default();
                Ok((wanted.clone(), after))
            },
        )
        .await
    }

    async fn show_answer(&mut self, onlooker: &Client, address: IpAddr) -> Result<()> {
        let owner = self.announced(address, |_| true).await?;
        let (mac, after) = self.answered_by(onlooker, address, &owner).await?;
        let protocol = if address.is_ipv4() { "ARP" } else { "NDP" };
        let millis = after.as_secs_f64() * 1000.0;
        self.screen.say(format!(
            "{protocol}  {address} is at {mac}, which is {owner}; nobody else answers ({millis:.2} ms)"
        ))
    }

    fn browser(&self) -> Client {
        Client::new(self.lab.client_host().namespace())
    }

    /// Asks until a page comes.
    async fn page(&self, address: IpAddr) -> Result<Response> {
        let browser = self.browser();
        wait_until(&format!("a page from {address}"), PATIENCE, async || {
            page(&browser, address).await
        })
        .await
    }

    fn show_page(&mut self, address: IpAddr, response: &Response) -> Result<()> {
        let target = SocketAddr::new(address, 80).to_string();
        let target = target.trim_end_matches(":80");
        self.screen.output(&format!("curl http://{target}/"), &response.body)
    }

    /// Cuts the power of the node that announces the IPv4 address. Returns how long it took until another node announced
    /// it, and until the client had a page again.
    async fn lose_node(&mut self, both: Both, onlooker: &Client) -> Result<(Duration, Duration)> {
        let owner = self.announced(both.v4, |_| true).await?;
        self.screen
            .step(&format!("{owner}, which announces {}, loses its power", both.v4))?;
        let grace = self.lab.setup().node_monitor_grace;
        self.screen.say(format!(
            "A move waits until Kubernetes calls the silent node NotReady: after {} in this lab, 50 s by default.",
            seconds(grace)
        ))?;
        let known = self.browser().neighbour(both.v4)?;
        self.screen.say(format!(
            "The client's neighbour table stays as it is: it has {} at {}.",
            both.v4,
            known.as_deref().unwrap_or("no MAC address")
        ))?;
        let probe = Probe::Http {
            host: "demo.example".to_owned(),
            path: "/".to_owned(),
            timeout: REQUEST,
        };
        let prober = self
            .browser()
            .probe(SocketAddr::new(both.v4, 80), probe, Duration::from_millis(50))?;
        let cut = Instant::now();
        self.lab.node(&owner)?.power_off()?;
        let (not_ready, (heir, moved), page_again) = tokio::try_join!(
            async {
                self.lab.wait_node_ready(&owner, false, PATIENCE).await?;
                Ok(cut.elapsed())
            },
            async {
                let heir = self.announced(both.v4, |node| node != owner).await?;
                anyhow::Ok((heir, cut.elapsed()))
            },
            async {
                self.page(both.v4).await?;
                anyhow::Ok(cut.elapsed())
            },
        )?;
        let (mac, _) = self.answered_by(onlooker, both.v4, &heir).await?;
        let settled = self.pages_in_a_row(both.v4, cut).await?;
        let tally = blocking(move || Ok(prober.stop())).await?;
        for (time, what) in [
            (not_ready, format!("Kubernetes calls {owner} NotReady")),
            (
                moved,
                format!("{heir} announces {} (ARP: {mac} alone answers)", both.v4),
            ),
            (page_again, "the client has its first page again".to_owned()),
            (settled, format!("from here on every page comes: {IN_A_ROW} in a row")),
        ] {
            self.screen.say(format!("{:>7} after the cut: {what}", seconds(time)))?;
        }
        self.screen.say(format!(
            "A client that asked again and again lost {} of {} pages; its longest time without one was {}.",
            tally.lost,
            tally.sent,
            seconds(tally.longest_gap)
        ))?;
        self.show_after(both, onlooker, &owner).await?;
        Ok((moved, page_again))
    }

    /// How long after `cut` it was when a row of pages began that all came at the first attempt.
    async fn pages_in_a_row(&self, address: IpAddr, cut: Instant) -> Result<Duration> {
        let browser = self.browser();
        wait_until(&format!("{IN_A_ROW} pages in a row"), PATIENCE, async || {
            let begin = cut.elapsed();
            for _ in 0..IN_A_ROW {
                page(&browser, address).await?;
            }
            Ok(begin)
        })
        .await
    }

    async fn show_after(&mut self, both: Both, onlooker: &Client, lost: &str) -> Result<()> {
        self.screen.step("The cluster without that node")?;
        for address in both.all() {
            self.announced(address, |node| node != lost).await?;
            self.show_answer(onlooker, address).await?;
            let response = self.page(address).await?;
            let line = |key| response.line(key).unwrap_or("?");
            let (pod, node) = (line("pod").to_owned(), line("node").to_owned());
            self.screen
                .say(format!("page {address} was served by {pod} on {node}"))?;
        }
        self.kubectl("get nodes").await?;
        self.kubectl("get vip").await
    }
}

/// The Service's addresses.
#[derive(Clone, Copy)]
struct Both {
    v4: IpAddr,
    v6: IpAddr,
}

impl Both {
    fn of(addresses: &[IpAddr]) -> Result<Self> {
        let find = |v4| addresses.iter().copied().find(|address| address.is_ipv4() == v4);
        let both = find(true).zip(find(false));
        let (v4, v6) = both.with_context(|| format!("not one address of each family: {addresses:?}"))?;
        Ok(Self { v4, v6 })
    }

    fn all(self) -> [IpAddr; 2] {
        [self.v4, self.v6]
    }
}

/// One attempt at a page.
async fn page(browser: &Client, address: IpAddr) -> Result<Response> {
    let browser = browser.clone();
    let response = blocking(move || browser.http_get(address, 80, "demo.example", "/", REQUEST)).await?;
    ensure!(response.status == 200, "status {}: {}", response.status, response.body);
    ensure!(
        response.line("pod").is_some(),
        "no page of a web server: {}",
        response.body
    );
    Ok(response)
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .context("a thread has panicked")?
}
