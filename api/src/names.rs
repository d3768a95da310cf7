//! Every string that others script against: groups, annotations, labels, field managers, reasons of events.

/// The namespace of an installation from `deploy/manifests`.
pub const DEFAULT_NAMESPACE: &str = "ferrolb-system";

/// Group of the kinds that users already have.
pub const METALLB_GROUP: &str = "metallb.io";

/// Field manager of everything the controller writes.
pub const CONTROLLER_MANAGER: &str = "ferrolb-controller";
/// Field manager of everything a speaker writes.
pub const SPEAKER_MANAGER: &str = "ferrolb-speaker";

/// Annotations, of Services unless another kind is named. Each input of a Service is read under two prefixes; where both
/// are present, the new one wins, even empty.
pub mod annotations {
    /// Prefix of the deprecated twins. Their use is answered with the event [`super::reasons::DEPRECATED_ANNOTATION`].
    pub const OLD_PREFIX: &str = "metallb.universe.tf";

    /// Input: take the address from this pool.
    pub const ADDRESS_POOL: &str = "metallb.io/address-pool";
    /// Deprecated twin of [`ADDRESS_POOL`].
    pub const ADDRESS_POOL_OLD: &str = "metallb.universe.tf/address-pool";

    /// Input: take these addresses, one or two of different families, separated by a comma.
    pub const LOAD_BALANCER_IPS: &str = "metallb.io/loadBalancerIPs";
    /// Deprecated twin of [`LOAD_BALANCER_IPS`].
    pub const LOAD_BALANCER_IPS_OLD: &str = "metallb.universe.tf/loadBalancerIPs";

    /// Input: the sharing key. Services with the same key may share an address; an empty key shares nothing.
    pub const ALLOW_SHARED_IP: &str = "metallb.io/allow-shared-ip";
    /// Deprecated twin of [`ALLOW_SHARED_IP`].
    pub const ALLOW_SHARED_IP_OLD: &str = "metallb.universe.tf/allow-shared-ip";

    /// Input: the AnnouncementPolicy, one that may be asked for, whose settings go before those of others.
    pub const ANNOUNCEMENT_POLICY: &str = "ferrolb.io/announcement-policy";

    /// Output, the only one: the pool of the Service's address.
    pub const ALLOCATED_FROM_POOL: &str = "metallb.io/ip-allocated-from-pool";

    /// Of an IPAddressPool: what becomes of holders whose address the pool no longer has. Without it, they keep it.
    pub const ON_SHRINK: &str = "ferrolb.io/on-shrink";
    /// Value of [`ON_SHRINK`]: they get another address.
    pub const ON_SHRINK_REASSIGN: &str = "reassign";

    /// Of a VirtualIP, input: the node that shall announce the address from now on. Anything after a space makes the request a
    /// new one and is not read.
    pub const MOVE_TO: &str = "ferrolb.io/move-to";

    /// Of the controller's ConfigurationState, input: so many addresses may move from the fullest nodes to the emptiest. Anything
    /// after a space makes the request a new one and is not read.
    pub const REBALANCE: &str = "ferrolb.io/rebalance";
    /// Of the controller's ConfigurationState, output: the last request of that kind, and what became of it.
    pub const REBALANCED: &str = "ferrolb.io/rebalanced";

    /// Of the controller's ConfigurationState, output: the last good versions of objects that are wrong at present.
    pub const LAST_GOOD: &str = "ferrolb.io/last-good";
}

/// Labels.
pub mod labels {
    /// On a ConfigurationState: `controller` or `speaker`.
    pub const COMPONENT_TYPE: &str = "metallb.io/component-type";
    /// On the ConfigurationState of a speaker: the node.
    pub const NODE_NAME: &str = "metallb.io/node-name";
    /// On a ServiceL2Status: the node that announces the Service.
    pub const NODE: &str = "metallb.io/node";
    /// On a ServiceL2Status: the name of the Service.
    pub const SERVICE: &str = "metallb.io/service-name";
    /// On a ServiceL2Status: the namespace of the Service.
    pub const SERVICE_NAMESPACE: &str = "metallb.io/service-namespace";
    /// On a Node, with any value: it announces nothing.
    pub const EXCLUDE_NODE: &str = "node.kubernetes.io/exclude-from-external-load-balancers";
    /// On an EndpointSlice: the Service it belongs to.
    pub const SERVICE_NAME: &str = "kubernetes.io/service-name";
}

/// The Secret with the keys that speakers sign their heartbeats with, in the namespace of the installation. The
/// controller makes it and changes the keys from time to time.
pub mod liveness_secret {
    /// Its name.
    pub const NAME: &str = "ferrolb-liveness";
    /// Prefix of the names of keys in its data; a number follows.
    pub const KEY: &str = "key-";
    /// In its data: the number of the key that signs.
    pub const SIGNING: &str = "signing";
    /// Annotation: when the controller changed the keys last, as in RFC 3339.
    pub const CHANGED: &str = "ferrolb.io/changed";
}

/// Names and conditions of ConfigurationStates.
pub mod configuration_state {
    /// The object of the controller.
    pub const CONTROLLER: &str = "controller";

    /// Condition of the controller.
    pub const POOLS_VALID: &str = "poolReconcilerValid";

    /// Reason of a condition that is True.
    pub const RECONCILED: &str = "Reconciled";
    /// Reason of a condition that is False because an object is wrong.
    pub const CONFIGURATION_ERROR: &str = "ConfigurationError";
}

/// Reasons of events.
pub mod reasons {
    /// Normal, on a Service: it has its address.
    pub const ALLOCATED: &str = "IPAllocated";
    /// Warning, on a Service: an address was taken away.
    pub const CLEARED: &str = "ClearAssignment";
    /// Warning, on a Service: no address could be given.
    pub const ALLOCATION_FAILED: &str = "AllocationFailed";
    /// Warning, on a Service: the request cannot be read or met as written.
    pub const LOAD_BALANCER_FAILED: &str = "LoadBalancerFailed";
    /// Warning, on a Service: an annotation under the old prefix is in use.
    pub const DEPRECATED_ANNOTATION: &str = "deprecatedAnnotation";
    /// Warning, on a Service: it keeps an address that would not be chosen for it today.
    pub const POOL_CHANGED: &str = "PoolChanged";
    /// Warning, on a Service: it does not have the AnnouncementPolicy that it asks for.
    pub const POLICY_NOT_GRANTED: &str = "policyNotGranted";
    /// Normal, on a Service: it has a new address beside the one that its pool would not give any more.
    pub const RENUMBERING: &str = "Renumbering";
    /// Normal, on a Service: the new address has taken the place of the old one.
    pub const RENUMBERED: &str = "Renumbered";
    /// Normal, on a Service: a node announces its address.
    pub const NODE_ASSIGNED: &str = "nodeAssigned";
    /// Warning, on a Service: the address is not announced.
    pub const ANNOUNCE_FAILED: &str = "announceFailed";
    /// Normal, on a Service: another node announces its address from now on, because somebody asked for it.
    pub const MOVED: &str = "addressMoved";
    /// Warning, on a Service: its address cannot be moved as asked.
    pub const MOVE_FAILED: &str = "moveFailed";
    /// Warning, on a Service: a node announces its address although its kube-proxy is not known to serve it.
    pub const DATA_PATH_NOT_READY: &str = "dataPathNotReady";
    /// Warning, on a Service: another machine claims its address.
    pub const ADDRESS_CONFLICT: &str = "addressConflict";
    /// Warning, on a Node: another node has taken addresses over from it.
    pub const TAKEN_OVER: &str = "addressesTakenOver";
    /// Normal, on a BGPPeer: a node has a session with the router.
    pub const SESSION_UP: &str = "bgpSessionUp";
    /// Warning, on a BGPPeer: a node has no session with the router.
    pub const SESSION_DOWN: &str = "bgpSessionDown";
    /// Warning, on a pod of the controller or on the Node of a speaker: the program is not ready.
    pub const NOT_READY: &str = "ferrolbNotReady";
    /// Warning, on the same: the program is ready, and something about its surroundings is wrong.
    pub const WARNING: &str = "ferrolbWarning";
    /// Normal, on the same: nothing is wrong any more.
    pub const READY: &str = "ferrolbReady";
    /// Warning, on an object of the configuration: it is left out.
    pub const CONFIGURATION_ERROR: &str = "ConfigurationError";
    /// Warning, on an object of the configuration: it is in force, and something about it is likely to be a mistake.
    pub const CONFIGURATION_WARNING: &str = "ConfigurationWarning";
}
