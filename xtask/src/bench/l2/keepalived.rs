//! keepalived on two hosts of the same LAN, with an echo behind its address: what FerroLB is compared with.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use ferrolb_lab::client::Client as Browser;
use ferrolb_lab::net::Host;
use ferrolb_lab::process::Process;
use ferrolb_lab::{Lab, wait_until};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{ASK, ECHO, PATIENCE, REST};

/// The address that moves.
pub(super) const ADDRESS: Ipv4Addr = Ipv4Addr::new(172, 30, 200, 1);

/// What stands in the table.
pub(super) const HOW: &str = "two hosts of the same LAN, priorities 200 and 150";

/// By this priority the first host is master when both are there.
const PRIORITIES: [u8; 2] = [200, 150];

pub(crate) struct Keepalived<'a> {
    lab: &'a Lab,
    program: PathBuf,
    hosts: Vec<Host>,
    running: Mutex<Vec<Process>>,
}

impl<'a> Keepalived<'a> {
    /// Makes the hosts; `None` where the program is not installed.
    pub(crate) fn find(lab: &'a Lab) -> Result<Option<Self>> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let folders = std::env::split_paths(&path).chain(["/usr/sbin".into()]);
        let Some(program) = folders
            .map(|folder| folder.join("keepalived"))
            .find(|path| path.is_file())
        else {
            return Ok(None);
        };
        let mut hosts = Vec::new();
        for number in [231, 232] {
            let host = lab.add_host(&format!("vrrp-{number}"), number)?;
            echo(&host)?;
            hosts.push(host);
        }
        Ok(Some(Self {
            lab,
            program,
            hosts,
            running: Mutex::default(),
        }))
    }

    /// Starts it on both hosts.
    pub(crate) fn start(&self, interval: &str) -> Result<()> {
        for (host, priority) in self.hosts.iter().zip(PRIORITIES) {
            let file = |kind: &str| self.lab.run_dir().join(format!("{}-{interval}.{kind}", host.name()));
            let text = format!(
                "global_defs {{\n  router_id {}\n}}\nvrrp_instance bench {{\n  version 3\n  state BACKUP\n  \
                 interface eth0\n  virtual_router_id 51\n  priority {priority}\n  advert_int {interval}\n  \
                 virtual_ipaddress {{\n    {ADDRESS}/16 dev eth0\n  }}\n}}\n",
                host.name()
            );
            std::fs::write(file("conf"), text).context("write the configuration of keepalived")?;
            let spec = self
                .lab
                .spec(&format!("keepalived-{}-{interval}", host.name()), &self.program, host)
                .args(["--dont-fork", "--log-console", "--vrrp"])
                .args(["--use-file".into(), file("conf")])
                .args(["--pid".into(), file("pid"), "--vrrp_pid".into(), file("vrrp.pid")]);
            self.running().push(self.lab.start_process(spec)?);
        }
        Ok(())
    }

    /// Ends it on both.
    pub(super) fn stop(&self) {
        self.running().drain(..).for_each(|process| process.kill());
    }

    /// Stops the one that is master when all is well in its tracks, with its child that speaks VRRP.
    pub(crate) fn freeze(&self) -> Result<()> {
        self.signal(Signal::SIGSTOP)
    }

    /// Undoes [`Keepalived::freeze`].
    pub(crate) fn thaw(&self) -> Result<()> {
        self.signal(Signal::SIGCONT)
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        let running = self.running();
        let parent = running.first().context("keepalived does not run")?.pid();
        let tasks = format!("/proc/{parent}/task/{parent}/children");
        let children = std::fs::read_to_string(&tasks).with_context(|| format!("read {tasks}"))?;
        for child in children.split_whitespace() {
            kill(Pid::from_raw(child.parse()?), signal).with_context(|| format!("{signal} to keepalived"))?;
        }
        Ok(())
    }

    /// How often one of the two has become master after the first time.
    pub(crate) fn takeovers(&self) -> usize {
        let running = self.running();
        let logs = running
            .iter()
            .filter_map(|process| std::fs::read_to_string(process.log()).ok());
        let masters: usize = logs.map(|log| log.matches("Entering MASTER STATE").count()).sum();
        masters.saturating_sub(1)
    }

    fn running(&self) -> std::sync::MutexGuard<'_, Vec<Process>> {
        self.running.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Waits until one host alone has answered for a while.
    pub(crate) async fn settled(&self, client: &Browser) -> Result<&Host> {
        let mut since = Instant::now();
        let master = wait_until("keepalived to settle", PATIENCE, async || {
            let only = client.resolve(IpAddr::V4(ADDRESS), ASK)?.only();
            let master = self.hosts.iter().find(|host| Some(host.mac()) == only);
            if master.is_none() {
                since = Instant::now();
            }
            let master = master.with_context(|| format!("{only:?} answers"))?;
            ensure!(since.elapsed() > REST, "{} answers", master.name());
            Ok(master)
        })
        .await?;
        client.flush_neighbours()?;
        client.udp(SocketAddr::new(ADDRESS.into(), ECHO), b"0", Duration::from_secs(3))?;
        Ok(master)
    }
}

/// Sends back what comes to the address, after the host's name, as the pods of the lab do.
fn echo(host: &Host) -> Result<()> {
    host.namespace().sysctl(&[("net/ipv4/ip_nonlocal_bind", "1")])?;
    let socket = host.namespace().run(|| UdpSocket::bind((ADDRESS, ECHO)))?;
    let (socket, name) = (socket.context("bind the echo")?, host.name().to_owned());
    std::thread::spawn(move || {
        let mut buffer = [0; 512];
        // Until the bench ends: nobody waits for this thread.
        while let Ok((length, from)) = socket.recv_from(&mut buffer) {
            let answer = [name.as_bytes(), b" ", &buffer[..length]].concat();
            if let Err(error) = socket.send_to(&answer, from) {
                super::progress(&format!("the echo of {name}: {error}"));
            }
        }
    });
    Ok(())
}
