//! The parts of the program, and what joins them.
//!
//! Each part is a task, most with a thread or a channel of its own, and says in its module what it does. Here they are made, in
//! the order in which they are needed: who answers first, who tells about it last.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ferrolb_api::names::{SPEAKER_MANAGER, liveness_secret, reasons};
use ferrolb_api::{IpAddressPool, L2Advertisement, ServiceBgpStatus, ServiceL2Status, SpeakerState, VirtualIp};
use ferrolb_handover::{Heir, Predecessor};
use ferrolb_l2::{Report, Wanted};
use ferrolb_liveness::Outcome;
use ferrolb_runtime::admin::{self, Admin, AdminError, Version};
use ferrolb_runtime::events::{self, Recorder};
use ferrolb_runtime::readiness::{Check, Heartbeat, Readiness};
use ferrolb_runtime::tasks::{Signals, TaskDied, Tasks};
use ferrolb_runtime::troubles::{self, Words};
use ferrolb_runtime::watch::{self, Source, watch};
use ferrolb_runtime::write_health::WriteHealth;
use ferrolb_runtime::{args as common, client, footprint};
use ferrolb_speaker_core::{DataPath, Input, Ownership, Speaker};
use k8s_openapi::api::core::v1::{Node, Secret, Service};
use kube::Client;
use prometheus_client::registry::Registry;
use thiserror::Error;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot, watch as latest};
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::api::Api;
use crate::args::Args;
use crate::bgp::{self, BgpPicture, Decider};
use crate::engine::Engine;
use crate::guard::{self, Briefing, KeyFile};
use crate::hand_over::{self, Beginning, Work};
use crate::kube_proxy::{Asker, Asks};
use crate::metrics::{self, Board};
use crate::news::{self, News, Stream};
use crate::owner::{Ends, Owner};
use crate::picture::Picture;
use crate::prober::Prober;
use crate::reporter::{Health, Pictures, Reporter, Seen, bgp_seen, layer2_seen, of_node, state_seen};
use crate::snapshot::{self, Identity, Memory};
use crate::store::Store;
use crate::strict_arp;
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

/// Why the speaker cannot begin, or ends early.
#[derive(Debug, Error)]
pub(crate) enum Ended {
    /// Nobody can ask how it is.
    #[error(transparent)]
    Admin(#[from] AdminError),
    /// The kernel refuses what every program needs: signals, or one more descriptor or thread.
    #[error("the kernel refuses signals, a descriptor or a thread: {0}")]
    Kernel(#[from] io::Error),
    /// A part of it ended although nobody asked for it.
    #[error(transparent)]
    Task(#[from] TaskDied),
}

/// Speaks for the node until the program is told to end, or has handed over.
pub(crate) async fn speak(args: Args) -> Result<(), Ended> {
    // Nothing is asked of the API server yet.
    let readiness = Readiness::default();
    let client = match client::connect(&args.common, &readiness).await {
        Ok(client) => client,
        Err(error) => common::refuse::<Args>(error),
    };
    let node = args.node_name.as_str();
    info!(node, version = env!("CARGO_PKG_VERSION"), "starting");
    let mut signals = Signals::new()?;
    let kept = Kept::open(&args);
    let Some(begun) = begin(&args, &client, &mut signals).await? else {
        return Ok(());
    };
    let Begun {
        socket,
        mut work,
        listener,
        predecessor: _predecessor,
    } = begun;
    let settings = ferrolb_speaker_core::Settings {
        load_balancer_class: args.load_balancer_class.clone(),
    };
    let identity = kept.store.identity().clone();
    let memory = work
        .memory(&identity)
        .or_else(|| kept.store.restore())
        .unwrap_or_default();
    let mut ownership = Ownership::new(node, Speaker::new(node, settings.clone()));
    // The core has nothing to say before it knows anything else: the guard goes by the same memory.
    ownership.handle(Input::Restored(memory.duties.clone()));

    let mut shell = Shell::new(&args, client, readiness);
    let (news_in, news) = mpsc::channel(NEWS);
    let answering = shell.answer(kept, memory, work.heartbeats(args.liveness_port), &news_in);
    let board = Board::default();
    metrics::register(&mut shell.registry, node, board.clone(), answering.counters);
    let watches = watch::Metrics::register(&mut shell.registry);
    let takeovers = Takeovers::register(&mut shell.registry);
    let recorder = shell.record_events();
    let (bgp, bgp_picture, bgp_orders) = shell.talk_to_routers(settings, recorder.clone(), work.bgp(&identity));
    let (data_path, asks) = shell.ask_kube_proxy(&news_in);
    let (leaving, hand_over) = leaving(
        (socket, identity),
        (answering.orders, bgp_orders),
        answering.memory,
        &listener,
    )?;
    shell
        .tasks
        .spawn("hand-over", hand_over::serve(hand_over, shell.tasks.stop()));
    let heartbeat = Heartbeat::new(STUCK);
    shell.attend(listener, &recorder, heartbeat.clone());
    let (picture_in, picture) = latest::channel(Picture::default());
    let seen_in = shell.report(picture, bgp_picture);
    let ends = Ends {
        news,
        reports: answering.reports,
        outcomes: answering.outcomes,
        briefing: answering.briefing,
        board,
        picture: picture_in,
        bgp,
        data_path,
        prober: Prober::new(node, answering.members),
        asks,
        engine: answering.engine,
        writes: WriteHealth::new(&shell.readiness, "patch virtualips/status"),
        heartbeat,
    };
    let api = Api::new(shell.client.clone(), node, recorder);
    let (exclude, followed) = (args.exclude_interfaces.clone(), Stream::followed(args.layer2_only));
    let owner = Owner::new(ownership, api, exclude, followed, takeovers, ends);
    shell.tasks.spawn("owner", owner.run(shell.tasks.stop()));
    shell.spawn_watches(&watches, (news_in, seen_in));
    leaving.wait(shell.tasks, signals).await
}

/// What of this node's speaker is on disk.
struct Kept {
    store: Store<Memory>,
    keys: KeyFile,
    /// Names this run.
    boot: u64,
}

impl Kept {
    /// A slow disk is waited for here: before a predecessor falls silent, and not after.
    fn open(args: &Args) -> Self {
        let store = Store::of_layer2(&args.state_dir, &args.node_name);
        let keys = KeyFile::beside(store.file());
        let boot = keys.boot();
        Kept { store, keys, boot }
    }
}

/// A speaker that has begun: nobody else speaks for the node any more.
struct Begun {
    /// Where its own successor will knock.
    socket: PathBuf,
    /// What it goes on with.
    work: Work,
    /// The admin server's.
    listener: TcpListener,
    /// Lies still for as long as this is held.
    predecessor: Option<Predecessor>,
}

/// Takes over from the speaker that runs here, or waits for its end; `None` if it was told to stop before.
async fn begin(args: &Args, client: &Client, signals: &mut Signals) -> Result<Option<Begun>, Ended> {
    let (node, address) = (&args.node_name, args.common.admin_addr);
    let socket = hand_over::socket(&args.state_dir, &args.common.namespace(), node);
    let (mut work, predecessor) = match hand_over::take(&socket, node, signals).await {
        Beginning::With(work, predecessor) => (*work, Some(predecessor)),
        Beginning::Alone => (Work::default(), None),
        Beginning::Stopped => return Ok(None),
    };
    let listener = match work.admin(address.port()) {
        Some(listener) => Some(admin::resume(listener)?),
        None => hand_over::bind(address, client, node, signals).await?,
    };
    Ok(listener.map(|listener| Begun {
        socket,
        work,
        listener,
        predecessor,
    }))
}

/// What is left to do once the program is told to end.
struct Leaving {
    /// Whether a hand-over is under way.
    busy: latest::Receiver<bool>,
    /// Whoever waits for the admin server's address waits for the end of the process.
    bound: OwnedFd,
    heir: oneshot::Receiver<Heir>,
}

/// Makes the two sides of a hand-over: who waits for its end, and who gives the work away.
fn leaving(
    (socket, identity): (PathBuf, Identity),
    (guard, bgp): (mpsc::Sender<guard::Order>, mpsc::Sender<bgp::Order>),
    memory: latest::Receiver<Arc<Memory>>,
    listener: &TcpListener,
) -> io::Result<(Leaving, hand_over::Ends)> {
    let bound = listener.as_fd().try_clone_to_owned()?;
    let (heir_in, heir) = oneshot::channel();
    let (busy_in, busy) = latest::channel(false);
    let ends = hand_over::Ends {
        socket,
        identity,
        bgp,
        guard,
        memory,
        admin: bound.try_clone()?,
        busy: busy_in,
        heir: heir_in,
    };
    Ok((Leaving { busy, bound, heir }, ends))
}

impl Leaving {
    /// Waits for the end of everything, and lies still for an heir.
    async fn wait(self, tasks: Tasks, mut signals: Signals) -> Result<(), Ended> {
        tasks.run_until(hand_over::told_to_end(&mut signals, self.busy)).await?;
        drop(self.bound);
        match self.heir.await {
            Ok(heir) => Ok(hand_over::lie_still(heir, signals).await?),
            Err(_) => Ok(()),
        }
    }
}

/// What the tasks that answer leave in the hands of others.
struct Answering {
    briefing: Briefing,
    reports: mpsc::Receiver<Report>,
    outcomes: mpsc::Receiver<Outcome>,
    /// What layer 2 does: other members are no strangers.
    members: latest::Receiver<Arc<Wanted>>,
    engine: Check,
    counters: (Arc<ferrolb_l2::Counters>, Arc<ferrolb_liveness::Counters>),
    /// To the guard.
    orders: mpsc::Sender<guard::Order>,
    memory: latest::Receiver<Arc<Memory>>,
}

/// What all parts have in common.
struct Shell<'a> {
    args: &'a Args,
    node: &'a str,
    namespace: String,
    client: Client,
    readiness: Readiness,
    registry: Registry,
    tasks: Tasks,
}

impl<'a> Shell<'a> {
    fn new(args: &'a Args, client: Client, readiness: Readiness) -> Self {
        Shell {
            args,
            node: &args.node_name,
            namespace: args.common.namespace(),
            client,
            readiness,
            registry: Registry::default(),
            tasks: Tasks::new(),
        }
    }

    /// Layer 2 and the guard, by what the last run knew, and the files in which that is kept.
    fn answer(
        &mut self,
        Kept { store, keys, boot }: Kept,
        memory: Memory,
        lent: Option<ferrolb_liveness::Lent>,
        news: &mpsc::Sender<News>,
    ) -> Answering {
        let (reports_in, reports) = mpsc::channel(REPORTS);
        let (keys_in, keys_out) = latest::channel(keys.read());
        let (memory_in, memory) = latest::channel(Arc::new(memory));
        let briefing = Briefing::new((self.node, boot), keys_in, memory_in);
        let (wanted, wanted_out) = latest::channel(Arc::default());
        let (questions, questions_out) = mpsc::channel(QUESTIONS);
        let (announce, announce_out) = mpsc::channel(QUESTIONS);
        let (notes_in, notes) = mpsc::channel(NOTES);
        let (outcomes_in, outcomes) = mpsc::channel(REPORTS);
        let (orders, orders_out) = mpsc::channel(1);
        let members = wanted.subscribe();
        let counters = <(Arc<ferrolb_l2::Counters>, Arc<ferrolb_liveness::Counters>)>::default();
        let guard = guard::Keeper {
            settings: ferrolb_liveness::Settings {
                port: self.args.liveness_port,
                seed: seed(self.node),
            },
            told: briefing.subscribe(),
            wanted,
            questions,
            announce,
            notes,
            outcomes: outcomes_in,
            counters: Arc::clone(&counters.1),
            check: self.readiness.check("liveness", "starting"),
            lent,
            orders: orders_out,
        };
        let engine = self.readiness.check("layer 2", "starting");
        let layer2 = Engine {
            settings: ferrolb_l2::Settings {
                refresh: self.args.refresh(),
                exclude: self.args.exclude_interfaces.clone(),
                seed: seed(self.node),
            },
            channels: ferrolb_l2::Channels {
                wanted: wanted_out,
                questions: questions_out,
                announce: announce_out,
                notes: notes_in,
                reports: reports_in,
            },
            counters: Arc::clone(&counters.0),
            check: engine.clone(),
            news: news.clone(),
        };
        // Answers until the guard has seen that others do.
        let silence = CancellationToken::new();
        self.tasks.spawn("layer2", layer2.run(silence.clone()));
        self.tasks.spawn("guard", guard.run(self.tasks.stop(), silence));
        self.tasks
            .spawn("snapshot", store.keep(memory.clone(), self.tasks.stop()));
        self.tasks.spawn("keys", keys.keep(keys_out, self.tasks.stop()));
        Answering {
            briefing,
            reports,
            outcomes,
            members,
            engine,
            counters,
            orders,
            memory,
        }
    }

    /// Events go to the API server from now on.
    fn record_events(&mut self) -> Recorder {
        let (recorder, poster) = events::recorder(self.client.clone(), SPEAKER_MANAGER, self.node, &mut self.registry);
        self.tasks.spawn("events", poster.run(self.tasks.stop()));
        recorder
    }

    /// BGP and BFD.
    fn talk_to_routers(
        &mut self,
        settings: ferrolb_speaker_core::Settings,
        recorder: Recorder,
        before: bgp::Before,
    ) -> (Decider, latest::Receiver<BgpPicture>, mpsc::Sender<bgp::Order>) {
        let (orders, orders_out) = mpsc::channel(1);
        let marker = bgp::Marker::new(&self.args.state_dir, self.node);
        let resumes = marker.is_set();
        let fixed = bgp::Fixed {
            node: self.node.to_owned(),
            namespace: self.namespace.clone(),
            marker,
            port: self.args.bgp_port,
            seed: seed(self.node),
        };
        let (mut decider, picture) = bgp::spawn(
            &mut self.tasks,
            &mut self.registry,
            fixed,
            settings,
            (Store::of_bgp(&self.args.state_dir, self.node), recorder),
            (before, orders_out),
        );
        if resumes {
            decider.resume();
        }
        (decider, picture, orders)
    }

    /// What is known of kube-proxy, and how it is asked for more.
    fn ask_kube_proxy(&mut self, news: &mpsc::Sender<News>) -> (DataPath, latest::Sender<Asks>) {
        let (asks_in, asks) = latest::channel(None);
        let Some(target) = self.args.kube_proxy_metrics.0 else {
            return (DataPath::off(self.node), asks_in);
        };
        let news = news.clone();
        let asker = Asker { target, asks, news };
        self.tasks.spawn("kube-proxy", asker.run(self.tasks.stop()));
        (DataPath::new(self.node), asks_in)
    }

    /// Who looks after the program itself: the admin server, which takes the metrics registered by now, and what is told of it.
    fn attend(&mut self, listener: TcpListener, recorder: &Recorder, heartbeat: Heartbeat) {
        let (readiness, stop) = (self.readiness.clone(), self.tasks.stop());
        let admin = Admin {
            version: Version {
                name: "ferrolb-speaker",
                version: env!("CARGO_PKG_VERSION"),
            },
            metrics: Arc::new(std::mem::take(&mut self.registry)),
            readiness: readiness.clone(),
            heartbeat,
        };
        self.tasks.spawn("admin", admin::serve(listener, admin, stop.clone()));
        self.tasks
            .spawn("strict ARP", strict_arp::watch(&readiness, stop.clone()));
        let about = troubles::node(self.node);
        let told = troubles::tell(readiness.clone(), recorder.clone(), about, WORDS, stop.clone());
        self.tasks.spawn("troubles", told);
        self.tasks.spawn("memory", footprint::keep_small(readiness, stop));
    }

    /// Who writes down what this speaker says of itself; what is written down already goes to the sender.
    fn report(&mut self, owner: latest::Receiver<Picture>, bgp: latest::Receiver<BgpPicture>) -> mpsc::Sender<Seen> {
        let (seen_in, seen) = mpsc::channel(NEWS);
        let health = Health {
            states: WriteHealth::new(&self.readiness, "create and patch speakerstates"),
            layer2: WriteHealth::new(&self.readiness, "create, patch and delete servicel2statuses"),
            bgp: WriteHealth::new(&self.readiness, "create, patch and delete servicebgpstatuses"),
        };
        let pictures = Pictures { owner, bgp };
        let reporter = Reporter::new(self.client.clone(), &self.namespace, self.node, pictures, seen, health);
        self.tasks.spawn("reporter", reporter.run(self.tasks.stop()));
        seen_in
    }

    /// Which node announces what is read as it is now; the rest may come from the API server's cache, which is cheaper when
    /// every node asks.
    fn spawn_watches(&mut self, metrics: &watch::Metrics, (news, seen): (mpsc::Sender<News>, mpsc::Sender<Seen>)) {
        let Shell {
            args,
            node,
            namespace,
            client,
            readiness,
            tasks,
            ..
        } = self;
        let (client, namespace, node) = (&*client, namespace.as_str(), *node);
        let pools = Source::<IpAddressPool>::namespaced(client, namespace).cached();
        let ads = Source::<L2Advertisement>::namespaced(client, namespace).cached();
        let services = Source::<Service>::all(client).fields("spec.type=LoadBalancer").cached();
        let nodes = Source::<Node>::all(client).cached();
        let keys =
            Source::<Secret>::namespaced(client, namespace).fields(format!("metadata.name={}", liveness_secret::NAME));
        let ips = Source::<VirtualIp>::all(client);
        let state = Source::<SpeakerState>::all(client).fields(format!("metadata.name={node}"));
        let layer2 = Source::<ServiceL2Status>::namespaced(client, namespace).labels(of_node(node));
        let told = Source::<ServiceBgpStatus>::namespaced(client, namespace).labels(of_node(node));
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
        let of_bgp = (namespace, args.layer2_only);
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
}

/// Nodes that refresh their announcements do it at different moments.
fn seed(node: &str) -> u64 {
    let sum = snapshot::sum(node.as_bytes());
    u64::from_str_radix(&sum[..16], 16).unwrap_or_default()
}
