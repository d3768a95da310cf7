//! What the owner task writes to the API server: `status.announcer`, `status.probe` and, after a takeover,
//! `status.placement` of VirtualIPs, and events on Services and Nodes. Hundreds of writes may wait for their turn: what a
//! request needs is made when it is sent.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use ferrolb_api::names::{SPEAKER_MANAGER, reasons};
use ferrolb_api::{Announcer, Probe, ProbeResult, VirtualIp};
use ferrolb_liveness::Takeover;
use ferrolb_model::{Placement, ServiceId, VirtualIpName};
use ferrolb_runtime::apply::{Failure, merge_status, merge_status_of};
use ferrolb_runtime::events::{Note, Recorder};
use ferrolb_speaker_core::{Finding, NotReady};
use k8s_openapi::api::core::v1::ObjectReference;
use kube::Client;
use serde_json::json;

use crate::takeovers::Notice;

/// The API server, as far as the owner task writes to it.
pub(crate) struct Api {
    node: String,
    virtual_ips: kube::Api<VirtualIp>,
    events: Recorder,
}

impl Api {
    /// Writes as the speaker of `node`.
    pub(crate) fn new(client: Client, node: &str, events: Recorder) -> Self {
        Api {
            node: node.to_owned(),
            virtual_ips: kube::Api::all(client),
            events,
        }
    }

    /// The node.
    pub(crate) fn node(&self) -> &str {
        &self.node
    }

    /// One attempt to say that this node answers for `address` on `interfaces`, or that nobody does.
    pub(crate) fn set_announcer(
        &self,
        address: IpAddr,
        interfaces: Option<BTreeSet<String>>,
        resource_version: String,
    ) -> impl Future<Output = Result<(), Failure>> + Send + 'static {
        let api = self.virtual_ips.clone();
        let announcer = interfaces.map(|interfaces| Announcer {
            node: self.node.clone(),
            interfaces: interfaces.into_iter().collect(),
        });
        async move {
            let name = VirtualIpName::of(address).to_string();
            let body = json!({ "status": { "announcer": announcer } });
            Box::pin(merge_status(&api, &name, &resource_version, SPEAKER_MANAGER, body))
                .await
                .map(|_| ())
        }
    }

    /// One attempt to say that this node has taken `address` over.
    pub(crate) fn set_placement(
        &self,
        address: IpAddr,
        placement: &Placement,
        resource_version: String,
    ) -> impl Future<Output = Result<(), Failure>> + Send + 'static {
        let api = self.virtual_ips.clone();
        let body = json!({ "status": { "placement": {
            "owner": placement.owner,
            "standbys": placement.standbys,
            "epoch": placement.epoch,
        } } });
        async move {
            let name = VirtualIpName::of(address).to_string();
            Box::pin(merge_status(&api, &name, &resource_version, SPEAKER_MANAGER, body))
                .await
                .map(|_| ())
        }
    }

    /// One attempt to tell the controller whether another machine uses `address`.
    pub(crate) fn set_probe(
        &self,
        address: IpAddr,
        uid: String,
        finding: Finding,
    ) -> impl Future<Output = Result<(), Failure>> + Send + 'static {
        let api = self.virtual_ips.clone();
        let mut probe = Probe {
            node: self.node.clone(),
            ..Probe::default()
        };
        match finding {
            Finding::Clear => probe.result = ProbeResult::Clear,
            Finding::NotAsked => probe.result = ProbeResult::NotAsked,
            Finding::Occupied(stranger) => {
                probe.result = ProbeResult::Occupied;
                probe.mac_address = stranger.mac_text();
                probe.interface = stranger.interface;
            }
        }
        async move {
            let name = VirtualIpName::of(address).to_string();
            let body = json!({ "status": { "probe": probe } });
            Box::pin(merge_status_of(&api, &name, &uid, SPEAKER_MANAGER, body))
                .await
                .map(|_| ())
        }
    }

    /// Normal event: the address is announced from here.
    pub(crate) fn assigned(&self, service: ServiceId, uid: String, address: IpAddr) {
        let message = format!(
            "announcing {address} from node {:?} with protocol \"layer2\"",
            self.node
        );
        self.note(service, uid, false, reasons::NODE_ASSIGNED, message);
    }

    /// Warning event: the address should be announced from here and is not.
    pub(crate) fn announce_failed(&self, service: ServiceId, uid: String, message: String) {
        self.note(service, uid, true, reasons::ANNOUNCE_FAILED, message);
    }

    /// Warning event on each holder: the address is announced from here although kube-proxy is not known to serve it.
    pub(crate) fn data_path_not_ready(
        &self,
        address: IpAddr,
        waited: Duration,
        why: NotReady,
        services: Vec<(ServiceId, String)>,
    ) {
        let message = format!(
            "node {:?} announces {address} after {} s, although its kube-proxy is not known to serve it: {why}; see to \
             kube-proxy on that node, or set spec.endpoints.waitSeconds of an AnnouncementPolicy",
            self.node,
            waited.as_secs()
        );
        for (service, uid) in services {
            self.note(service, uid, true, reasons::DATA_PATH_NOT_READY, message.clone());
        }
    }

    /// Warning event on each holder: somebody else claims the address.
    pub(crate) fn conflict(&self, address: IpAddr, interface: &str, mac: &str, services: Vec<(ServiceId, String)>) {
        let message = format!(
            "the machine with MAC address {mac} claims {address} on the segment of interface {interface} of node {:?}: \
             give that machine another address, or take {address} out of its IPAddressPool",
            self.node
        );
        for (service, uid) in services {
            self.note(service, uid, true, reasons::ADDRESS_CONFLICT, message.clone());
        }
    }

    /// Warning event on the Node that lost addresses to this one.
    pub(crate) fn took_over(&self, notice: &Notice) {
        let Notice {
            from,
            reason,
            addresses,
            after,
        } = notice;
        let why = match reason {
            Takeover::NodeGone => "its speaker is silent, and its kernel answers neither ARP nor Neighbor Discovery",
            Takeover::GraceOver => "its speaker has been silent for the grace time, although its kernel answers",
            Takeover::OwnerUnable => "it has lost the interfaces that it announced them on",
        };
        let message = format!(
            "node {:?} has taken over {addresses} {} of this node, {} ms after it was last heard: {why} ({})",
            self.node,
            if *addresses == 1 { "address" } else { "addresses" },
            after.as_millis(),
            reason.as_str()
        );
        self.events.record(Note {
            about: ObjectReference {
                api_version: Some("v1".to_owned()),
                kind: Some("Node".to_owned()),
                name: Some(from.to_string()),
                // As the kubelet does it, so that kubectl shows it.
                uid: Some(from.to_string()),
                ..ObjectReference::default()
            },
            warning: true,
            reason: reasons::TAKEN_OVER,
            message,
        });
    }

    fn note(&self, service: ServiceId, uid: String, warning: bool, reason: &'static str, message: String) {
        let about = (service.namespace.clone(), service.name.clone());
        self.events
            .record(Note::on_service(about, uid, warning, reason, message));
    }
}
