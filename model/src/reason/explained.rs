//! What each name means and what to do about it, in one place: the names of `as_str` and the tables of the guide, which
//! `xtask gen` writes.

use super::{NodeRefusal, Reason};

/// One name, explained in Markdown, for a row of the guide's table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// The stable name.
    pub name: &'static str,
    /// When it is said.
    pub when: &'static str,
    /// What to do about it.
    pub remedy: &'static str,
}

/// The names of every variant, each with its explanation. A variant without one does not compile.
macro_rules! explain {
    ($of:ident { $($variant:ident $name:literal: $when:literal, $remedy:literal;)* }) => {
        impl $of {
            /// Every name, explained.
            pub const EXPLAINED: &'static [Explanation] = &[$(Explanation {
                name: $name,
                when: $when,
                remedy: $remedy,
            }),*];

            /// The stable name.
            pub fn as_str(&self) -> &'static str {
                match self {
                    $($of::$variant { .. } => $name,)*
                }
            }
        }
    };
}

explain! {
    Reason {
        NoPools "NoPools":
            "no `IPAddressPool` is in force at all",
            "create one in FerroLB's namespace; if there is one, see ConfigurationState for why it is left out";
        PoolNotFound "PoolNotFound":
            "the pool asked for is not in force",
            "correct `metallb.io/address-pool`, or create the pool";
        NoPoolForService "NoPoolForService":
            "there are pools, but none may be chosen unasked: `autoAssign` is off, or `serviceAllocation` selects \
             others. The message says which, pool by pool",
            "ask for a pool, or open one";
        PoolExcludesService "PoolExcludesService":
            "the pool, or the pool of the address, that is asked for is kept for other Services",
            "change its `serviceAllocation`, or ask for another";
        PoolExhausted "PoolExhausted":
            "every address of the family is taken in all pools that may be used",
            "add addresses, or free some";
        NoAddressOfFamily "NoAddressOfFamily":
            "the pools that may be used have no addresses of the family at all",
            "add a range of that family";
        AddressOutsidePools "AddressOutsidePools":
            "the requested address is in no pool",
            "correct the request, or add the address to a pool";
        AddressOutsidePool "AddressOutsidePool":
            "the requested address is not in the requested pool",
            "drop one of the two requests";
        AddressInUse "AddressInUse":
            "the requested address is held by, reserved for, or cooling down for another Service, which the message \
             names; or its `VirtualIP` exists and cannot be read",
            "ask for another, wait for the end of the cool-down, or share it by a key on both; correct or delete the \
             `VirtualIP`";
        CannotShare "CannotShare":
            "the address carries a sharing key, but keys, traffic policies or ports do not fit",
            "make them fit, as the message says";
        AddressBlocked "AddressBlocked":
            "a `VirtualIP` without a claim blocks the address",
            "delete that `VirtualIP`, or ask for another address";
        AddressAvoided "AddressAvoided":
            "the requested address ends in .0 or .255, and its pool sets `avoidBuggyIPs`",
            "ask for another";
        PolicyRefuses "PolicyRefuses":
            "an AllocationPolicy limits what the Services of this namespace may have; the message names the policy \
             and the limit",
            "ask for something the policy allows, or have the policy changed";
        AddressOfNode "AddressOfNode":
            "the address stands in the status of a Node",
            "ask for another, and take the nodes' addresses out of the pool";
        AddressOfNetwork "AddressOfNetwork":
            "the address is a gateway of a node, or the first or the broadcast address of a subnet of one, as its \
             speaker sees it",
            "ask for another";
        AddressOccupied "AddressOccupied":
            "a machine that is no node uses the requested address; the message has its MAC address, and the node and \
             interface on whose segment it is. As a condition `Conflict`: it uses an address that a Service has",
            "give that machine another address, or take the address out of the pool; it is tried again every 30 s";
        RequestFamilies "RequestFamilies":
            "the requested addresses are not of the families that the Service has; in a `ClearAssignment`: the \
             Service lost the family of its address",
            "name one address for each family of the cluster IPs";
        BadRequest "BadRequest":
            "a requested address cannot be read, there are too many, or annotation and `spec.loadBalancerIP` are both \
             set",
            "correct the field that the message names";
        NotDualStack "NotDualStack":
            "`RequireDualStack`, but the Service has cluster IPs of one family",
            "use `PreferDualStack`, or a dual-stack cluster";
        NoClusterIp "NoClusterIP":
            "the Service is headless or has no cluster IP yet; no event is written",
            "give it a cluster IP";
        NoAdvertisement "NoAdvertisement":
            "no `L2Advertisement` covers the pool and the Service",
            "create one, or correct its selectors";
        NoEligibleNode "NoEligibleNode":
            "advertisements cover the address, but no node may announce it; the message has each node with its \
             refusal",
            "see the refusals below";
        NoEndpoint "NoEndpoint":
            "no endpoint of the Services that hold the address can serve",
            "look at the pods and their readiness; a new Service waits for its first endpoint without a Warning";
        NoSpeaker "NoSpeaker":
            "the address has an owner, and for 30 s no speaker has told of itself on any node that could announce it",
            "look at the DaemonSet `ferrolb-speaker`: whether it is there, and why its pods do not run; it goes away \
             when the owner's speaker announces";
        NotConfirmed "NotConfirmed":
            "the owner's speaker has not confirmed within 30 s, and as much longer as `spec.endpoints.waitSeconds` of \
             an `AnnouncementPolicy` lets it wait, that it announces the address",
            "look at the speaker's pod on the node that the message names, its log and its `/readyz`, and at the \
             events of the Service; it goes away when the speaker announces";
        PoolChanged "PoolChanged":
            "the Service keeps an address that would not be chosen for it today; the message says why",
            "nothing has to be done; to move it, ask for another pool or address, or let the pool \
             [renumber](addresses.md#renumbering)";
        PolicyNotGranted "PolicyNotGranted":
            "the annotation `ferrolb.io/announcement-policy` names a policy that is not there, or that this Service \
             may not have; the message says which",
            "correct the name, or the policy's `spec.onRequest` and selectors";
        Unsettled "Unsettled":
            "the rules about an address led in a circle, which they must not: a fault of FerroLB. The Service stays \
             as it is, and is looked at again after 1 s, then less and less often, at least every 64 s",
            "report it, with the Service, the Services that share its address, the pools and the VirtualIP; change \
             the request of the Service";
        ForeignWriter "ForeignWriter":
            "another program keeps overwriting the Service's status",
            "stop one of the two load balancers, or give one of them a class";
        CannotMove "CannotMove":
            "the node that `ferrolb.io/move-to` names is not there, or may not announce the address; the message has \
             its refusal",
            "correct what the refusal says, and ask again";
        ApiRefused "ApiRefused":
            "the API server refuses a write; the message is its own. A missing permission is told after three \
             refusals in a row and tried again within 2 s, anything else after a minute",
            "add the missing rule, or look at the admission policy that refuses";
    }
}

explain! {
    NodeRefusal {
        NotSelected "NotSelected":
            "the `nodeSelectors` of no advertisement that covers the address match the node",
            "correct the selectors or the node's labels";
        NotReady "NotReady":
            "the Node's `Ready` is `False`, or has been `Unknown` for 20 s",
            "look at the node";
        Excluded "Excluded":
            "it has the label `node.kubernetes.io/exclude-from-external-load-balancers`",
            "take the label off; kubeadm puts it on control plane nodes";
        Cordoned "Cordoned":
            "it is cordoned, and an `AnnouncementPolicy` has `Cordon` among its `drain.triggers`",
            "uncordon it";
        Tainted "Tainted":
            "it has a taint with the effect NoExecute, and an `AnnouncementPolicy` has `Taint` among its \
             `drain.triggers`",
            "take the taint off";
        NetworkUnavailable "NetworkUnavailable":
            "the Node's condition of that name is True",
            "look at the network plugin";
        NoLocalEndpoint "NoLocalEndpoint":
            "`externalTrafficPolicy: Local`, and no endpoint on the node can serve",
            "run a pod there, or use `Cluster`";
        NoEndpoint "NoEndpoint":
            "no endpoint anywhere can serve; shown as the reason of that name",
            "as there";
        NotOwner "NotOwner":
            "the placement names another node, or none; in a speaker's log when it withdraws",
            "nothing";
        NoClaim "NoClaim":
            "none of the Services that claim the address is there as a LoadBalancer of the class that the speaker \
             serves",
            "if it lasts, give controller and speakers the same `--load-balancer-class`";
        NoInterface "NoInterface":
            "none of the interfaces that may be used is up with carrier",
            "see the `announceFailed`; correct `spec.interfaces`, `nodeSelectors` or `--exclude-interfaces`";
        NoSubnet "NoSubnet":
            "none of those has a subnet that contains the address",
            "give the node an address there, correct the pool, or set `spec.layer2.subnetCheck: false` in an \
             `AnnouncementPolicy` if clients reach the address all the same";
        Outweighed "Outweighed":
            "it was asked for by `ferrolb.io/move-to`, but a policy has `preemption`, and another node has a higher \
             weight",
            "change the weights";
        NoSpeaker "NoSpeaker":
            "its speaker has told of no interface for 30 s, and another node's has; the node is left out while others \
             can announce",
            "look at the speaker's pod there";
        NoLayer2 "NoLayer2":
            "packet sockets or netlink cannot be opened on the node",
            "see `/readyz` of the speaker; grant `NET_RAW`";
        NoPeer "NoPeer":
            "a `BGPAdvertisement` speaks for the Service, and no `BGPPeer` that it names is there for the node",
            "create one, or correct `peers` or its `nodeSelectors`";
        DataPathNotReady "DataPathNotReady":
            "the node has yet to see that its kube-proxy serves the address, and waits for it, see \
             [kube-proxy](kube-proxy.md#before-an-address-is-announced)",
            "if it lasts, look at kube-proxy on that node";
        AddressOccupied "AddressOccupied":
            "another machine on the node's segment answers for the address, see \
             [announcing](announcing.md#other-machines-that-use-an-address)",
            "give that machine another address; the node begins within 40 s";
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_explanation_fits_into_a_row() {
        for table in [Reason::EXPLAINED, NodeRefusal::EXPLAINED] {
            for Explanation { name, when, remedy } in table {
                for cell in [when, remedy] {
                    assert!(
                        !cell.is_empty() && !cell.contains(['|', '\n']) && !cell.contains("  "),
                        "{name}: {cell}"
                    );
                }
                assert_eq!(table.iter().filter(|other| other.name == *name).count(), 1, "{name}");
            }
        }
    }
}
