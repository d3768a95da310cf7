//! A door into the lab: connections to a loopback port of the lab's own process come out inside a namespace.
//!
//! It stands in a thread of its own, so it serves whatever runtimes come and go.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::thread::JoinHandle;

use anyhow::{Context, Result};
use tokio::net::{TcpSocket, TcpStream};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::net::Namespace;

/// A TCP forwarder; dropping it closes the door and every connection through it.
#[derive(Debug)]
pub struct Forwarder {
    local: SocketAddr,
    stop: Option<DropGuard>,
    thread: Option<JoinHandle<()>>,
}

impl Forwarder {
    /// Forwards a free port of 127.0.0.1 to `target` as seen from inside `namespace`.
    pub fn start(namespace: &Namespace, target: SocketAddr) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("bind a port of 127.0.0.1")?;
        listener
            .set_nonblocking(true)
            .context("make the listener non-blocking")?;
        let local = listener.local_addr().context("the listener's address")?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .build()
            .context("start a runtime")?;
        let stop = CancellationToken::new();
        let namespace = namespace.clone();
        let thread = std::thread::Builder::new()
            .name("forward".into())
            .spawn({
                let stop = stop.clone();
                move || {
                    runtime.block_on(stop.run_until_cancelled(serve(listener, namespace, target)));
                }
            })
            .context("start the forwarder's thread")?;
        Ok(Self {
            local,
            stop: Some(stop.drop_guard()),
            thread: Some(thread),
        })
    }

    /// Where to connect.
    pub fn local(&self) -> SocketAddr {
        self.local
    }
}

impl Drop for Forwarder {
    fn drop(&mut self) {
        self.stop.take();
        if let Some(thread) = self.thread.take() {
            // A panic in there has been printed; nothing is left to forward.
            let _ = thread.join();
        }
    }
}

async fn serve(listener: TcpListener, namespace: Namespace, target: SocketAddr) {
    let listener = tokio::net::TcpListener::from_std(listener).expect("a non-blocking listener inside a runtime");
    loop {
        match listener.accept().await {
            Ok((outside, _)) => {
                let namespace = namespace.clone();
                tokio::spawn(async move {
                    // Either end may close or fail at any time; the other one then sees a closed connection.
                    let _ = carry(outside, &namespace, target).await;
                });
            }
            // Out of descriptors, or a connection that was gone at once: give others time to end.
            Err(_) => tokio::task::yield_now().await,
        }
    }
}

async fn carry(mut outside: TcpStream, namespace: &Namespace, target: SocketAddr) -> io::Result<()> {
    let socket = namespace.run(|| {
        if target.is_ipv4() {
            TcpSocket::new_v4()
        } else {
            TcpSocket::new_v6()
        }
    })??;
    let mut inside = socket.connect(target).await?;
    outside.set_nodelay(true)?;
    inside.set_nodelay(true)?;
    tokio::io::copy_bidirectional(&mut outside, &mut inside).await?;
    Ok(())
}
