//! Frames by `pnet`: what the neighbour questions and the captures share.

use std::io;

use anyhow::{Context, Result};
use pnet::datalink::{self, DataLinkReceiver, NetworkInterface};

/// The interface called `name` in the caller's namespace.
pub(crate) fn find(name: &str) -> Result<NetworkInterface> {
    let found = datalink::interfaces()
        .into_iter()
        .find(|interface| interface.name == name);
    found.with_context(|| format!("there is no interface {name}"))
}

/// The next frame; `None` when the read timeout passed without one.
pub(crate) fn next_frame(receiver: &mut dyn DataLinkReceiver) -> Result<Option<&[u8]>> {
    match receiver.next() {
        Ok(frame) => Ok(Some(frame)),
        Err(error) if matches!(error.kind(), io::ErrorKind::TimedOut | io::ErrorKind::Interrupted) => Ok(None),
        Err(error) => Err(error).context("receive"),
    }
}
