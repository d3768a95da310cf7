//! Shadow mode: the report again and again while MetalLB goes on, told by what is news.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::{Fate, Outcome, Report};
use crate::table::{join, or_dash};

/// One piece of news.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "change", rename_all = "camelCase")]
pub enum Change {
    /// What became of everything, at the first look and at the last.
    Summary {
        /// In one sentence.
        text: String,
        /// Whether anything differs.
        differs: bool,
    },
    /// A Service is there, or something else would become of it than at the last look.
    Service(Outcome),
    /// A Service is no LoadBalancer of the class any more.
    Gone {
        /// Namespace and name.
        service: String,
    },
    /// A mistake, a warning or a difference of the configuration.
    Note {
        /// In words.
        text: String,
        /// It was so at the last look, and is no more.
        over: bool,
    },
    /// The cluster could not be read this time.
    Unread {
        /// Why.
        text: String,
    },
}

/// What was told so far.
#[derive(Debug, Default)]
pub struct Shadow {
    services: BTreeMap<String, Outcome>,
    notes: BTreeSet<String>,
    summary: Option<Change>,
}

impl Shadow {
    /// What is news in this report. The first one tells of Services only what is not the same, unless `wide`.
    pub fn take(&mut self, report: Report, wide: bool) -> Vec<Change> {
        let summary = Change::Summary {
            text: report.summary,
            differs: report.differs,
        };
        let first = self.summary.replace(summary.clone()).is_none();
        let mut changes = Vec::from_iter(first.then_some(summary));
        let services = report.services.into_iter().map(|o| (o.service.clone(), o)).collect();
        let before = std::mem::replace(&mut self.services, services);
        let gone = before.keys().filter(|name| !self.services.contains_key(*name));
        changes.extend(gone.map(|service| Change::Gone {
            service: service.clone(),
        }));
        let news = self.services.iter().filter(|(name, now)| match before.get(*name) {
            Some(before) => before != *now,
            None => !first || wide || now.outcome != Fate::Same,
        });
        changes.extend(news.map(|(_, outcome)| Change::Service(outcome.clone())));
        let notes = report.configuration.into_iter().chain(report.differences).collect();
        let before = std::mem::replace(&mut self.notes, notes);
        let note = |over| {
            move |text: &String| Change::Note {
                text: text.clone(),
                over,
            }
        };
        changes.extend(before.difference(&self.notes).map(note(true)));
        changes.extend(self.notes.difference(&before).map(note(false)));
        changes
    }

    /// What is told in the end, and the exit code: as that of a check at the last look.
    pub fn end(&self) -> (Option<Change>, u8) {
        let differs = matches!(self.summary, Some(Change::Summary { differs: true, .. }));
        (self.summary.clone(), u8::from(differs))
    }
}

impl Change {
    /// For people, in one line.
    pub fn text(&self) -> String {
        match self {
            Change::Summary { text, .. } => text.clone(),
            Change::Service(of) => {
                let fate = format!("{:?}", of.outcome).to_lowercase();
                let reason = of.reason.iter().map(|reason| format!("{reason}: ")).collect::<String>();
                let (now, then) = (or_dash(join(&of.now)), or_dash(join(&of.then)));
                let way = if now == then { now } else { format!("{now} -> {then}") };
                format!("{} {fate}: {way}: {reason}{}", of.service, of.text)
            }
            Change::Gone { service } => format!("{service} gone"),
            Change::Note { text, over: false } => text.clone(),
            Change::Note { text, over: true } => format!("no more: {text}"),
            Change::Unread { text } => format!("cannot read the cluster, and look again: {text}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::migrate::check;
    use crate::world::World;

    const POOL: &str = "
apiVersion: metallb.io/v1beta1
kind: IPAddressPool
metadata: { name: lan, namespace: metallb-system }
spec: { addresses: [192.0.2.100-192.0.2.101] }
";

    fn service(name: &str, address: &str) -> String {
        let ingress = match address {
            "" => String::new(),
            address => format!("{{ ip: {address} }}"),
        };
        format!(
            "---
apiVersion: v1
kind: Service
metadata: {{ name: {name}, namespace: shop, uid: {name} }}
spec: {{ type: LoadBalancer, clusterIPs: [10.0.0.1], ipFamilies: [IPv4], ports: [{{ port: 80 }}] }}
status: {{ loadBalancer: {{ ingress: [{ingress}] }} }}
"
        )
    }

    fn look(shadow: &mut Shadow, objects: &[String], wide: bool) -> Vec<String> {
        let mut world = World::new("ferrolb-system");
        world.read(&objects.concat()).unwrap();
        let report = check(&world, "metallb-system", None).unwrap();
        shadow.take(report, wide).iter().map(Change::text).collect()
    }

    #[test]
    fn only_news_is_told() {
        let mut shadow = Shadow::default();
        let pool = POOL.to_owned();
        let summary = "1 of 1 Services with an address keep it, 0 would have another; 0 without one; 0 objects of the \
                       configuration would be refused or warned about";
        let web = service("web", "192.0.2.100");
        assert_eq!(look(&mut shadow, &[pool.clone(), web.clone()], false), [summary]);
        assert_eq!(look(&mut shadow, &[pool.clone(), web.clone()], false), [""; 0]);
        assert_eq!(shadow.end().1, 0);

        let all = [pool.clone(), web.clone(), service("new", "")];
        assert_eq!(
            look(&mut shadow, &all, false),
            ["shop/new gains: - -> 192.0.2.101: it waits under MetalLB and gets an address"]
        );
        assert_eq!(shadow.end().1, 1);
        let all = [pool.clone(), web.clone(), service("new", "192.0.2.101")];
        assert_eq!(
            look(&mut shadow, &all, false),
            ["shop/new same: 192.0.2.101: keeps what it has"]
        );
        assert_eq!(look(&mut shadow, &[pool, web], false), ["shop/new gone"]);
        assert_eq!(shadow.end().1, 0);
    }

    #[test]
    fn the_configuration_is_followed() {
        let mut shadow = Shadow::default();
        let wrong = POOL.replace("192.0.2.101", "192.0.2.9");
        let web = service("web", "192.0.2.100");
        let told = look(&mut shadow, &[POOL.to_owned(), web.clone()], true);
        assert_eq!(told.len(), 2, "{told:?}");
        assert_eq!(told[1], "shop/web same: 192.0.2.100: keeps what it has");
        let told = look(&mut shadow, &[wrong, web.clone()], true);
        let (mistake, kept) = (&told[1], &told[0]);
        assert!(
            kept.starts_with("shop/web kept: 192.0.2.100: PoolChanged: "),
            "{told:?}"
        );
        assert!(mistake.contains("192.0.2.9"), "{told:?}");
        let told = look(&mut shadow, &[POOL.to_owned(), web], true);
        assert_eq!(told[1], format!("no more: {mistake}"));
    }

    #[test]
    fn programs_are_told_what_a_change_is() {
        let gone = Change::Gone {
            service: "shop/web".to_owned(),
        };
        let json = serde_json::to_value(gone).unwrap();
        assert_eq!(json, serde_json::json!({ "change": "gone", "service": "shop/web" }));
    }
}
