//! `xtask lab`: a cluster that stays, to look at and play with.
//!
//! `up` starts a process in the background that owns the cluster, passes on what it says, and ends when the cluster is
//! up; `down` ends that process, which takes the cluster with it.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use clap::{Subcommand, ValueEnum};
use ferrolb_lab::run_dir::Living;
use ferrolb_lab::{Families, NodeKind, ProxyMode, Setup, interactive, process, run_dir};

#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Start a cluster that stays, and say how to use it.
    Up(Shape),
    /// Take a cluster down: the one of that number, or all that `up` has started.
    Down {
        /// The number that `up` and `list` show.
        id: Option<u32>,
    },
    /// Show the clusters that live on this machine.
    List,
    /// What runs in the background after `up`.
    #[command(hide = true)]
    Keep(Shape),
}

#[derive(clap::Args)]
struct Shape {
    /// How many nodes.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=80))]
    nodes: u8,
    /// What runs the pods: a stand-in for the kubelet, or a kubelet with containerd, which needs the images of `xtask image`.
    #[arg(long, value_enum, default_value_t = Kind::Light)]
    kind: Kind,
    /// What kube-proxy uses.
    #[arg(long, value_enum, default_value_t = Proxy::Nftables)]
    proxy: Proxy,
    /// The address families.
    #[arg(long, value_enum, default_value_t = Family::Dual)]
    families: Family,
    /// Start the cluster without FerroLB.
    #[arg(long)]
    no_ferrolb: bool,
    /// What the log directory is called.
    #[arg(long, default_value = "lab")]
    name: String,
}

#[derive(Clone, Copy, ValueEnum)]
enum Kind {
    Light,
    Real,
}

#[derive(Clone, Copy, ValueEnum)]
enum Proxy {
    Nftables,
    Iptables,
}

#[derive(Clone, Copy, ValueEnum)]
enum Family {
    V4,
    V6,
    Dual,
}

impl Shape {
    fn setup(&self) -> Setup {
        Setup {
            name: self.name.clone(),
            nodes: self.nodes,
            kind: match self.kind {
                Kind::Light => NodeKind::Light,
                Kind::Real => NodeKind::Real,
            },
            proxy: match self.proxy {
                Proxy::Nftables => ProxyMode::Nftables,
                Proxy::Iptables => ProxyMode::Iptables,
            },
            families: match self.families {
                Family::V4 => Families::V4,
                Family::V6 => Families::V6,
                Family::Dual => Families::Dual,
            },
            ferrolb: !self.no_ferrolb,
            ..Setup::default()
        }
    }
}

pub(crate) fn run(args: &Args) -> Result<()> {
    match &args.action {
        Action::Up(_) => up(),
        Action::Down { id } => down(*id),
        Action::List => list(),
        Action::Keep(shape) => interactive::keep(shape.setup(), &mut std::io::stdout()),
    }
}

/// Starts the keeper with the arguments that this process was given.
fn up() -> Result<()> {
    let own = std::env::current_exe().context("find this program")?;
    let errors = std::env::temp_dir().join(format!("ferrolb-lab-up-{}.log", std::process::id()));
    let log = File::create(&errors).with_context(|| format!("make {}", errors.display()))?;
    let mut keeper = Command::new(own)
        .args(["lab", "keep"])
        .args(std::env::args_os().skip_while(|word| word != "up").skip(1))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(log)
        // Ctrl-C in this terminal is not meant for it.
        .process_group(0)
        .spawn()
        .context("start the process that keeps the cluster")?;
    let output = keeper.stdout.take().context("what the keeper says")?;
    let ready = BufReader::new(output).lines().map_while(Result::ok).any(|line| {
        let ready = line == interactive::READY;
        if !ready {
            // Whoever reads this may have seen enough; the cluster comes up all the same.
            let _ = writeln!(std::io::stdout(), "{line}");
        }
        ready
    });
    let said = process::tail(&errors, 100);
    // Nothing of interest is written to it later.
    let _ = std::fs::remove_file(&errors);
    if !ready {
        let status = keeper.wait().context("wait for the keeper")?;
        bail!("the cluster did not come up ({status}): {}", said.trim());
    }
    Ok(())
}

fn down(id: Option<u32>) -> Result<()> {
    let all = run_dir::list()?;
    let chosen: Vec<&Living> = match id {
        Some(id) => all.iter().filter(|lab| lab.id == id).collect(),
        None => all.iter().filter(|lab| interactive::is_interactive(lab)).collect(),
    };
    if let (Some(id), true) = (id, chosen.is_empty()) {
        bail!("there is no lab {id}");
    }
    if chosen.is_empty() {
        println!("no cluster is up");
    }
    for lab in chosen {
        interactive::take_down(lab)?;
        println!("lab {} is gone", lab.id);
    }
    run_dir::sweep()
}

fn list() -> Result<()> {
    for lab in run_dir::list()? {
        let pid = lab.pid.map_or_else(|| "?".to_owned(), |pid| pid.to_string());
        let kind = if interactive::is_interactive(&lab) {
            "stays"
        } else {
            "of a test run"
        };
        let kubeconfig = lab.path.join("kubeconfig");
        println!(
            "lab {}  {kind}  process {pid}  KUBECONFIG={}",
            lab.id,
            kubeconfig.display()
        );
        if let Some(logs) = interactive::log_dir(&lab) {
            println!("       logs in {logs}");
        }
    }
    Ok(())
}
