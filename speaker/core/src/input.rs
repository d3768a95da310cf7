//! What the core is told.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use ferrolb_model::{Config, NodeView, ServiceId, ServiceView, VirtualIp};

/// One piece of news. Repeating one changes nothing.
#[derive(Clone, Debug)]
pub enum Input {
    /// A new configuration is in force.
    Config(Arc<Config>),
    /// A Service appeared or changed.
    Service(ServiceView),
    /// A Service is gone.
    ServiceGone(ServiceId),
    /// This speaker's own Node appeared or changed.
    OwnNode(NodeView),
    /// A VirtualIP appeared or changed.
    VirtualIp(VirtualIp),
    /// The VirtualIP of this address is gone.
    VirtualIpGone(IpAddr),
    /// Every stream has delivered its first complete list. Before this nothing is announced anew and nothing withdrawn.
    Synced,
    /// The layer-2 engine now answers for `address` on exactly these interfaces (none: not at all).
    Announcing {
        /// The address.
        address: IpAddr,
        /// Names of interfaces.
        interfaces: BTreeSet<String>,
    },
    /// A write of `status.announcer` ended; `false` when it failed and is to be asked for again on [`Input::Retry`].
    AnnouncerWritten {
        /// The address.
        address: IpAddr,
        /// Whether it worked.
        ok: bool,
    },
    /// Time to ask again for writes that failed; the shell sends it with back-off while any has failed.
    Retry,
}
