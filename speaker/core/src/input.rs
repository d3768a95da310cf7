//! What the core is told.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use ferrolb_model::{Config, EndpointsView, Labels, NodeView, Password, Placement, ServiceId, ServiceView, VirtualIp};

use crate::effect::Duties;
use crate::interfaces::Subnets;

/// One piece of news. Repeating one changes nothing.
#[derive(Clone, Debug)]
pub enum Input {
    /// What this node had a part in when its speaker last ran, from its snapshot; comes first, if at all. What it owned is
    /// announced at once and stays until the API server has been heard in full.
    Restored(Duties),
    /// A new configuration is in force.
    Config(Arc<Config>),
    /// A Service appeared or changed.
    Service(ServiceView),
    /// A Service is gone.
    ServiceGone(ServiceId),
    /// This speaker's own Node appeared or changed. A Node that is deleted keeps the labels it last had: moving
    /// addresses away from it is the controller's decision.
    OwnNode(NodeView),
    /// Another Node appeared or changed. For BGP alone.
    OtherNode(NodeView),
    /// Another Node is gone. For BGP alone.
    OtherNodeGone(String),
    /// The annotations of this speaker's own Node. For BGP alone.
    OwnAnnotations(Labels),
    /// The default gateways of this node, by interface. For BGP alone.
    Gateways(BTreeMap<String, BTreeSet<IpAddr>>),
    /// A VirtualIP appeared or changed.
    VirtualIp(VirtualIp),
    /// The VirtualIP of this address is gone.
    VirtualIpGone(IpAddr),
    /// Every stream has delivered its first complete list. Before this nothing is announced anew, and nothing withdrawn
    /// unless a VirtualIP itself takes it away.
    Synced,
    /// An EndpointSlice of a Service appeared or changed. For BGP alone.
    Endpoints(EndpointsView),
    /// The EndpointSlice of this namespace and name is gone. For BGP alone.
    EndpointsGone((String, String)),
    /// What a Secret holds as a key for sessions: `None` if it is gone, or has none that can be used. For BGP alone.
    Password {
        /// The Secret's name.
        secret: String,
        /// The key.
        password: Option<Password>,
    },
    /// Every stream that BGP depends on has delivered its first complete list.
    BgpSynced,
    /// The layer-2 engine now answers for `address` on exactly these interfaces (none: not at all).
    Announcing {
        /// The address.
        address: IpAddr,
        /// Names of interfaces.
        interfaces: BTreeSet<String>,
    },
    /// The layer-2 engine runs, and these interfaces are fit to announce on now, wanted or not.
    Interfaces {
        /// Those that an advertisement without interfaces uses.
        usable: Subnets,
        /// Those that are used only where an advertisement names them.
        excluded: Subnets,
    },
    /// The layer-2 engine does not run, for this reason: nothing is answered.
    EngineDown(String),
    /// Somebody else on the segment claims an address that is announced here.
    Conflict {
        /// The address.
        address: IpAddr,
        /// The interface it was heard on.
        interface: String,
        /// The stranger's MAC address.
        mac: [u8; 6],
    },
    /// The speakers go by this placement now: somebody, perhaps this node, has taken the address over.
    TookOver {
        /// The address.
        address: IpAddr,
        /// Greater than all before it.
        placement: Placement,
    },
    /// The new owner of an address that was placed elsewhere is heard, or has had its time: this node answers no more.
    HandedOver(IpAddr),
    /// A write of `status.placement` ended; `false` when it failed and is to be asked for again on [`Input::Retry`].
    PlacementWritten {
        /// The address.
        address: IpAddr,
        /// Whether it worked.
        ok: bool,
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
