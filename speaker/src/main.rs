//! `ferrolb-speaker`: announces LoadBalancer addresses from one node.
//!
//! A thin shell around `ferrolb-speaker-core`: watches become inputs (`news`, `configuration`), one task owns the core
//! (`owner`), its effects go to the layer-2 engine (`engine`), the snapshot (`store`, `snapshot`), the API server
//! (`api`) and the metrics (`metrics`). What the speaker says about itself (`picture`) is written by a task of its own
//! (`reporter`, `mirror`). What was announced before a restart is announced from the first moment on,
//! before the API server is asked.

mod api;
mod args;
mod bgp;
mod configuration;
mod engine;
mod guard;
mod hand_over;
mod kube_proxy;
mod metrics;
mod mirror;
mod news;
mod owner;
mod picture;
mod prober;
mod reporter;
mod snapshot;
mod state_dir;
mod store;
mod strict_arp;
mod takeovers;
mod whole;

use std::os::fd::AsFd;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use ferrolb_api::names::{SPEAKER_MANAGER, liveness_secret, reasons};
use ferrolb_api::{IpAddressPool, L2Advertisement, ServiceBgpStatus, ServiceL2Status, SpeakerState, VirtualIp};
use ferrolb_l2::{Counters, Settings};
use ferrolb_runtime::admin::{self, Admin, Version};
use ferrolb_runtime::readiness::{Heartbeat, Readiness};
use ferrolb_runtime::tasks::{Signals, Tasks};
use ferrolb_runtime::troubles::{self, Words};
use ferrolb_runtime::watch::{self, Source, watch};
use ferrolb_runtime::write_health::WriteHealth;
use ferrolb_runtime::{args as common, client, events, footprint, logs};
use ferrolb_speaker_core::{DataPath, Input, Ownership, Speaker};
use k8s_openapi::api::core::v1::{Node, Secret, Service};
use prometheus_client::registry::Registry;
use tokio::sync::{mpsc, oneshot, watch as latest};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::api::Api;
use crate::args::{Args, Errand, OwnStateDir};
use crate::engine::Engine;
use crate::guard::{Briefing, KeyFile};
use crate::hand_over::{Beginning, Work};
use crate::kube_proxy::Asker;
use crate::metrics::Board;
use crate::news::{News, Stream};
use crate::owner::{Ends, Owner};
use crate::picture::Picture;
use crate::prober::Prober;
use crate::reporter::{Health, Pictures, Reporter, Seen, bgp_seen, layer2_seen, of_node, state_seen};
use crate::store::Store;
use crate::takeovers::Takeovers;

/// News that may wait for the owner task.
const NEWS: usize = 256;

/// Reports of the engine that may wait for the owner task.
const REPORTS: usize = 256;

/// Questions of the guard that may wait for layer 2, and what layer 2 hears that may wait for the guard.
const QUESTIONS: usize = 64;
const NOTES: usize = 1024;

/// Events about the program itself.
const WORDS: Words = Words {
    not_ready: reasons::NOT_READY,
    warning: reasons::WARNING,
    ready: reasons::READY,
};

/// The owner task counts as stuck after this long.
const STUCK: Duration = Duration::from_secs(30);

/// What still blocks a thread at the end, a disk at most, gets this long.
const END: Duration = Duration::from_millis(500);

fn main() -> ExitCode {
    if std::env::args_os().nth(1).is_some_and(|word| Errand::is(&word)) {
        let Errand::OwnStateDir(args) = common::parse();
        return own_state_dir(&args);
    }
    footprint::one_heap();
    client::install_crypto();
    let args: Args = common::parse();
    logs::init(&args.common);
    match run(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Before the speaker that runs as another user. That starts in any case: it goes on without a directory.
fn own_state_dir(args: &OwnStateDir) -> ExitCode {
    logs::init(&args.common);
    let dir = args.state_dir.display();
    match state_dir::give(&args.state_dir, args.uid) {
        Ok(0) => {}
        Ok(changed) => info!(%dir, user = args.uid, changed, "gave the state directory to the speaker's user"),
        Err(error) => warn!(%dir, user = args.uid, %error,
            "the state directory is not the speaker's: no snapshot, and no upgrade takes over"),
    }
    ExitCode::SUCCESS
}

/// One thread does everything but layer 2, which has its own: a slow API server cannot delay an answer.
fn run(args: Args) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot build the runtime")?;
    let result = runtime.block_on(speak(args));
    runtime.shutdown_timeout(END);
    result
}

async fn speak(args: Args) -> anyhow::Result<()> {
    // Nothing is asked of the API server yet.
    let readiness = Readiness::default();
    let client = match client::connect(&args.common, &readiness).await {
        Ok(client) => client,
        Err(error) => common::refuse::<Args>(error),
    };
    let node = args.node_name.as_str();
    info!(node, version = env!("CARGO_PKG_VERSION"), "starting");
    let mut signals = Signals::new()?;
    let namespace = args.common.namespace();
    let store = Store::of_layer2(&args.state_dir, node);
    let key_file = KeyFile::beside(store.file());
    // A slow disk is waited for before the predecessor falls silent, and not after.
    let boot = key_file.boot();
    let socket = hand_over::socket(&args.state_dir, &namespace, node);
    let (mut before, _predecessor) = match hand_over::take(&socket, node, &mut signals).await {
        Beginning::With(work, predecessor) => (*work, Some(predecessor)),
        Beginning::Alone => (Work::default(), None),
        Beginning::Stopped => return Ok(()),
    };
    let listener = match before.admin(args.common.admin_addr.port()) {
        Some(listener) => Some(admin::resume(listener)?),
        None => hand_over::bind(args.common.admin_addr, &client, node, &mut signals).await?,
    };
    let Some(listener) = listener else { return Ok(()) };
    let mut tasks = Tasks::new();
    let counters = Arc::new(Counters::default());
    let identity = store.identity().clone();
    let settings = ferrolb_speaker_core::Settings {
        load_balancer_class: args.load_balancer_class.clone(),
    };
    let mut ownership = Ownership::new(node, Speaker::new(node, settings.clone()));
    let memory = before.memory(&identity).or_else(|| store.restore()).unwrap_or_default();
    // The core has nothing to say before it knows anything else: the guard goes by the same memory.
    ownership.handle(Input::Restored(memory.duties.clone()));

    let (news_in, news) = mpsc::channel(NEWS);
    let (reports_in, reports) = mpsc::channel(REPORTS);
    let (keys, keys_out) = latest::channel(key_file.read());
    let (memory, memory_out) = latest::channel(Arc::new(memory));
    let to_hand_over = memory_out.clone();
    let (guard_orders, guard_orders_out) = mpsc::channel(1);
    let (bgp_orders, bgp_orders_out) = mpsc::channel(1);
    let briefing = Briefing::new((node, boot), keys, memory);
    let (wanted, wanted_out) = latest::channel(Arc::default());
    let (questions, questions_out) = mpsc::channel(QUESTIONS);
    let (announce, announce_out) = mpsc::channel(QUESTIONS);
    let (notes_in, notes) = mpsc::channel(NOTES);
    let (outcomes_in, outcomes) = mpsc::channel(REPORTS);
    let members = wanted.subscribe();
    let guard_counters = Arc::new(ferrolb_liveness::Counters::default());
    let guard = guard::Keeper {
        settings: ferrolb_liveness::Settings {
            port: args.liveness_port,
            seed: seed(node),
        },
        told: briefing.subscribe(),
        wanted,
        questions,
        announce,
        notes,
        outcomes: outcomes_in,
        counters: Arc::clone(&guard_counters),
        check: readiness.check("liveness", "starting"),
        lent: before.heartbeats(args.liveness_port),
        orders: guard_orders_out,
    };
    let engine = readiness.check("layer 2", "starting");
    let layer2 = Engine {
        settings: Settings {
            refresh: args.refresh(),
            exclude: args.exclude_interfaces.clone(),
            seed: seed(node),
        },
        channels: ferrolb_l2::Channels {
            wanted: wanted_out,
            questions: questions_out,
            announce: announce_out,
            notes: notes_in,
            reports: reports_in,
        },
        counters: Arc::clone(&counters),
        check: engine.clone(),
        news: news_in.clone(),
    };
    // Answers until the guard has seen that others do.
    let silence = CancellationToken::new();
    tasks.spawn("layer2", layer2.run(silence.clone()));
    tasks.spawn("guard", guard.run(tasks.stop(), silence));
    tasks.spawn("snapshot", store.keep(memory_out, tasks.stop()));
    tasks.spawn("keys", key_file.keep(keys_out, tasks.stop()));

    let mut registry = Registry::default();
    let board = Board::default();
    metrics::register(&mut registry, node, board.clone(), (counters, guard_counters));
    let watches = watch::Metrics::register(&mut registry);
    let takeovers = Takeovers::register(&mut registry);
    let (recorder, poster) = events::recorder(client.clone(), SPEAKER_MANAGER, node, &mut registry);
    let marker = bgp::Marker::new(&args.state_dir, node);
    let resumes = marker.is_set();
    let kept = Store::of_bgp(&args.state_dir, node);
    let fixed = bgp::Fixed {
        node: node.to_owned(),
        namespace: namespace.clone(),
        marker,
        port: args.bgp_port,
        seed: seed(node),
    };
    let (mut decider, bgp_picture) = bgp::spawn(
        &mut tasks,
        &mut registry,
        fixed,
        settings,
        (kept, recorder.clone()),
        (before.bgp(&identity), bgp_orders_out),
    );
    if resumes {
        decider.resume();
    }
    let (asks, asked) = latest::channel(None);
    let data_path = match args.kube_proxy_metrics.0 {
        None => DataPath::off(node),
        Some(target) => {
            let news = news_in.clone();
            let asker = Asker {
                target,
                asks: asked,
                news,
            };
            tasks.spawn("kube-proxy", asker.run(tasks.stop()));
            DataPath::new(node)
        }
    };
    let heartbeat = Heartbeat::new(STUCK);
    let writes = WriteHealth::new(&readiness, "patch virtualips/status");
    // Whoever waits for the address waits for the end of the process.
    let bound = listener.as_fd().try_clone_to_owned()?;
    let (heir, inherited) = oneshot::channel();
    let (busy, handing_over) = latest::channel(false);
    let hand_over = hand_over::Ends {
        socket,
        identity,
        bgp: bgp_orders,
        guard: guard_orders,
        memory: to_hand_over,
        admin: bound.try_clone()?,
        busy,
        heir,
    };
    tasks.spawn("hand-over", hand_over::serve(hand_over, tasks.stop()));
    let admin = Admin {
        version: Version {
            name: "ferrolb-speaker",
            version: env!("CARGO_PKG_VERSION"),
        },
        metrics: Arc::new(registry),
        readiness: readiness.clone(),
        heartbeat: heartbeat.clone(),
    };
    tasks.spawn("admin", admin::serve(listener, admin, tasks.stop()));
    tasks.spawn("events", poster.run(tasks.stop()));
    tasks.spawn("strict ARP", strict_arp::watch(&readiness, tasks.stop()));
    let told = troubles::tell(
        readiness.clone(),
        recorder.clone(),
        troubles::node(node),
        WORDS,
        tasks.stop(),
    );
    tasks.spawn("troubles", told);
    tasks.spawn("memory", footprint::keep_small(readiness.clone(), tasks.stop()));
    let (picture_in, picture) = latest::channel(Picture::default());
    let (seen_in, seen) = mpsc::channel(NEWS);
    let health = Health {
        states: WriteHealth::new(&readiness, "create and patch speakerstates"),
        layer2: WriteHealth::new(&readiness, "create, patch and delete servicel2statuses"),
        bgp: WriteHealth::new(&readiness, "create, patch and delete servicebgpstatuses"),
    };
    let pictures = Pictures {
        owner: picture,
        bgp: bgp_picture,
    };
    let reporter = Reporter::new(client.clone(), &namespace, node, pictures, seen, health);
    tasks.spawn("reporter", reporter.run(tasks.stop()));
    let ends = Ends {
        news,
        reports,
        outcomes,
        briefing,
        board,
        picture: picture_in,
        bgp: decider,
        data_path,
        prober: Prober::new(node, members),
        asks,
        engine,
        writes,
        heartbeat,
    };
    let api = Api::new(client.clone(), node, recorder);
    let (exclude, followed) = (args.exclude_interfaces.clone(), Stream::followed(args.layer2_only));
    let owner = Owner::new(ownership, api, exclude, followed, takeovers, ends);
    tasks.spawn("owner", owner.run(tasks.stop()));
    spawn_watches(&mut tasks, &client, &args, &readiness, &watches, (news_in, seen_in));
    tasks
        .run_until(hand_over::told_to_end(&mut signals, handing_over))
        .await?;
    drop(bound);
    match inherited.await {
        Ok(heir) => Ok(hand_over::lie_still(heir, signals).await?),
        Err(_) => Ok(()),
    }
}

/// Which node announces what is read as it is now; the rest may come from the API server's cache, which is cheaper when
/// every node asks.
fn spawn_watches(
    tasks: &mut Tasks,
    client: &kube::Client,
    args: &Args,
    readiness: &Readiness,
    metrics: &watch::Metrics,
    (news, seen): (mpsc::Sender<News>, mpsc::Sender<Seen>),
) {
    let namespace = args.common.namespace();
    let pools = Source::<IpAddressPool>::namespaced(client, &namespace).cached();
    let ads = Source::<L2Advertisement>::namespaced(client, &namespace).cached();
    let services = Source::<Service>::all(client).fields("spec.type=LoadBalancer").cached();
    let nodes = Source::<Node>::all(client).cached();
    let keys =
        Source::<Secret>::namespaced(client, &namespace).fields(format!("metadata.name={}", liveness_secret::NAME));
    let ips = Source::<VirtualIp>::all(client);
    let state = Source::<SpeakerState>::all(client).fields(format!("metadata.name={}", args.node_name));
    let layer2 = Source::<ServiceL2Status>::namespaced(client, &namespace).labels(of_node(&args.node_name));
    let told = Source::<ServiceBgpStatus>::namespaced(client, &namespace).labels(of_node(&args.node_name));
    macro_rules! spawn {
        ($name:literal, $source:expr, $to:expr, $to_news:path) => {
            tasks.spawn(
                $name,
                watch(
                    $source,
                    readiness.clone(),
                    metrics.clone(),
                    $to.clone(),
                    $to_news,
                    tasks.stop(),
                ),
            )
        };
    }
    let of_bgp = (namespace.as_str(), args.layer2_only);
    bgp::news::spawn_watches(tasks, client, of_bgp, readiness, metrics, &news);
    spawn!("watch pools", pools, news, news::pool);
    spawn!("watch advertisements", ads, news, news::advertisement);
    spawn!("watch services", services, news, news::service);
    spawn!("watch nodes", nodes, news, news::node);
    spawn!("watch liveness key", keys, news, news::liveness_keys);
    spawn!("watch virtualips", ips, news, news::virtual_ip);
    spawn!("watch speakerstate", state, seen, state_seen);
    spawn!("watch servicel2statuses", layer2, seen, layer2_seen);
    // What was told when this node did BGP is to go where it does not any more.
    spawn!("watch servicebgpstatuses", told, seen, bgp_seen);
}

/// Nodes that refresh their announcements do it at different moments.
fn seed(node: &str) -> u64 {
    let sum = snapshot::sum(node.as_bytes());
    u64::from_str_radix(&sum[..16], 16).unwrap_or_default()
}
