//! What the core is told.

use std::net::IpAddr;
use std::sync::Arc;

use ferrolb_model::{Config, EndpointsView, NetworkView, NodeView, ServiceId, ServiceView, VirtualIp};

use crate::effect::WriteKey;
use crate::rebalance::RebalanceRequest;

/// One piece of news. Repeating one changes nothing; their order does not change where things end.
#[derive(Clone, Debug)]
pub enum Input {
    /// A new configuration is in force.
    Config(Arc<Config>),
    /// A Service appeared or changed.
    Service(ServiceView),
    /// A Service is gone.
    ServiceGone(ServiceId),
    /// A Node appeared or changed.
    Node(NodeView),
    /// A Node is gone.
    NodeGone(String),
    /// A speaker tells about the network around its node, for the first time or anew.
    Network(NetworkView),
    /// The speaker of this node tells nothing any more.
    NetworkGone(String),
    /// An EndpointSlice appeared or changed.
    Endpoints(EndpointsView),
    /// The EndpointSlice with this namespace and name is gone.
    EndpointsGone((String, String)),
    /// A VirtualIP appeared or changed.
    VirtualIp(VirtualIp),
    /// The VirtualIP of this address is gone.
    VirtualIpGone(IpAddr),
    /// Somebody asks to rebalance; `None`: nobody does any more.
    Rebalance(Option<RebalanceRequest>),
    /// Every stream has delivered its first complete list. Before this nothing is decided; it comes once.
    Synced,
    /// A write that an effect asked for has ended. Until then the core asks for no other write with the same key.
    Written {
        /// Which.
        key: WriteKey,
        /// How.
        result: Result<(), WriteError>,
    },
    /// The deadline that [`crate::Controller::next_deadline`] named has come.
    Tick,
}

/// How a write failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WriteError {
    /// It exists already, or changed since it was read: wait for the watch to say how it is now.
    Conflict,
    /// Another field manager owns the field.
    ForeignManager(String),
    /// It does not exist any more.
    Gone,
    /// It is not allowed (403). A starting API server says so until its access rules are loaded, so this may pass soon;
    /// the text is its message.
    Forbidden(String),
    /// The API server refused it for good; the text is its message.
    Refused(String),
    /// It could not be reached, or asked to come back later; the shell has not retried.
    Unavailable(String),
}
