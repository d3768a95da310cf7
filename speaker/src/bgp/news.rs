//! From watch events of what BGP needs beside layer 2 to news for the owner task.

use ferrolb_api::{AnnouncementPolicy, BfdProfile, BgpAdvertisement, BgpPeer, Community};
use ferrolb_config::Configures;
use ferrolb_model::Password;
use ferrolb_runtime::readiness::Readiness;
use ferrolb_runtime::tasks::Tasks;
use ferrolb_runtime::watch::{self, Event, ObjectKey, Source, watch};
use ferrolb_speaker_core::Input;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::Client;
use tokio::sync::mpsc;

use crate::configuration::Change;
use crate::news::{News, Stream, unreadable};

/// EndpointSlices that belong to a Service which clients reach by an address of its own.
const OF_SERVICES: &str = "kubernetes.io/service-name,!service.kubernetes.io/headless";

/// The only Secrets that are looked at.
const WITH_PASSWORD: &str = "type=kubernetes.io/basic-auth";

/// The key of such a Secret.
const PASSWORD: &str = "password";

/// Starts the watches: of what layer 2 reads as well, if it is there, and of the rest unless layer 2 is `alone`.
pub(crate) fn spawn_watches(
    tasks: &mut Tasks,
    client: &Client,
    (namespace, alone): (&str, bool),
    readiness: &Readiness,
    metrics: &watch::Metrics,
    news: &mpsc::Sender<News>,
) {
    let peers = Source::<BgpPeer>::namespaced(client, namespace).cached();
    let ads = Source::<BgpAdvertisement>::namespaced(client, namespace).cached();
    let profiles = Source::<BfdProfile>::namespaced(client, namespace).cached();
    let communities = Source::<Community>::namespaced(client, namespace).cached();
    let policies = Source::<AnnouncementPolicy>::all(client).cached();
    let slices = Source::<EndpointSlice>::all(client).labels(OF_SERVICES).cached();
    let secrets = Source::<Secret>::namespaced(client, namespace)
        .fields(WITH_PASSWORD)
        .cached();
    macro_rules! spawn {
        ($name:literal, $source:expr, $to_news:expr) => {{
            let watch = watch(
                $source,
                readiness.clone(),
                metrics.clone(),
                news.clone(),
                $to_news,
                tasks.stop(),
            );
            tasks.spawn($name, watch);
        }};
    }
    spawn!("watch announcementpolicies", policies, policy);
    spawn!("watch endpointslices", slices, endpoints);
    if alone {
        return;
    }
    spawn!("watch bgppeers", peers, peer);
    spawn!("watch bgpadvertisements", ads, advertisement);
    spawn!("watch bfdprofiles", profiles, profile);
    spawn!("watch communities", communities, community);
    spawn!("watch secrets", secrets, secret);
}

/// News of an object of the configuration.
fn configuration<K: Configures>(event: Event<K>, stream: Stream, change: fn(Event<K>) -> Change) -> Option<News> {
    Some(match event {
        Event::Synced => News::Synced(stream),
        other => News::Configuration(Box::new(change(other))),
    })
}

fn peer(event: Event<BgpPeer>) -> Option<News> {
    configuration(event, Stream::BgpPeers, Change::BgpPeer)
}

fn advertisement(event: Event<BgpAdvertisement>) -> Option<News> {
    configuration(event, Stream::BgpAdvertisements, Change::BgpAdvertisement)
}

fn profile(event: Event<BfdProfile>) -> Option<News> {
    configuration(event, Stream::BfdProfiles, Change::BfdProfile)
}

fn community(event: Event<Community>) -> Option<News> {
    configuration(event, Stream::Communities, Change::Community)
}

fn policy(event: Event<AnnouncementPolicy>) -> Option<News> {
    configuration(event, Stream::AnnouncementPolicies, Change::AnnouncementPolicy)
}

/// News of an EndpointSlice.
fn endpoints(event: Event<EndpointSlice>) -> Option<News> {
    let slice = |key: &ObjectKey| (key.namespace.to_string(), key.name.to_string());
    let input = match event {
        Event::Applied(object) => match ferrolb_config::endpoints_view(&object) {
            Some(view) => Input::Endpoints(view),
            None => Input::EndpointsGone(slice(&ObjectKey::of(&object))),
        },
        Event::Gone(key) => Input::EndpointsGone(slice(&key)),
        Event::Invalid { key, error } => return unreadable("EndpointSlice", &key, &error),
        Event::Synced => return Some(News::Synced(Stream::Endpoints)),
    };
    Some(News::Input(Box::new(input)))
}

/// News of a Secret with a password. What is wrong with one is not repeated: it may quote the password.
fn secret(event: Event<Secret>) -> Option<News> {
    let (key, password) = match event {
        Event::Applied(mut object) => {
            let bytes = object.data.as_mut().and_then(|data| data.remove(PASSWORD));
            (ObjectKey::of(&object), bytes.and_then(|bytes| password(bytes.0)))
        }
        Event::Gone(key) => (key, None),
        Event::Invalid { key, .. } => return unreadable("Secret", &key, "a field has a value of another type"),
        Event::Synced => return Some(News::Synced(Stream::Secrets)),
    };
    let secret = key.name.to_string();
    Some(News::Input(Box::new(Input::Password { secret, password })))
}

/// A key that the kernel takes.
fn password(bytes: Vec<u8>) -> Option<Password> {
    let text = String::from_utf8(bytes).ok()?;
    (1..=ferrolb_bgp::settings::PASSWORD_MAX)
        .contains(&text.len())
        .then(|| Password::new(text))
}

#[cfg(test)]
mod tests {
    use k8s_openapi::ByteString;

    use super::*;

    fn told(data: &[(&str, &str)]) -> Option<String> {
        let mut object = Secret::default();
        object.metadata.name = Some("router".to_owned());
        let data = data
            .iter()
            .map(|(key, value)| ((*key).to_owned(), ByteString(value.as_bytes().to_vec())));
        object.data = Some(data.collect());
        let Some(News::Input(input)) = secret(Event::Applied(object)) else {
            panic!("an input")
        };
        let Input::Password { secret, password } = *input else {
            panic!("a password")
        };
        assert_eq!(secret, "router");
        password.map(|password| password.reveal().to_owned())
    }

    #[test]
    fn only_a_key_that_the_kernel_takes_is_one() {
        assert_eq!(
            told(&[("password", "s3cret"), ("username", "x")]).as_deref(),
            Some("s3cret")
        );
        assert_eq!(told(&[("Password", "s3cret")]), None);
        assert_eq!(told(&[("password", "")]), None);
        assert_eq!(told(&[("password", &"x".repeat(80))]).map(|p| p.len()), Some(80));
        assert_eq!(told(&[("password", &"x".repeat(81))]), None);
    }
}
