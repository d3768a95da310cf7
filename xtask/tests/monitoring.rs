//! Alerts and dashboard ask for metrics that there are: those of the guide's reference, which are those that the
//! programs register.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

const FOLDER: &str = "deploy/components/prometheus";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// A metric in the reference.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Metric {
    name: String,
    kind: String,
    labels: BTreeSet<String>,
}

fn in_backticks(cell: &str) -> impl Iterator<Item = &str> {
    cell.split('`').skip(1).step_by(2)
}

/// The tables below "Metrics". A name that begins with `_` stands for the first two words of the one before and itself.
fn reference() -> Vec<Metric> {
    let page = read("docs/src/reference.md");
    let section = page.split("\n## Metrics\n").nth(1).unwrap();
    let section = section.split("\n## ").next().unwrap();
    let mut metrics = Vec::new();
    for row in section.lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<&str> = row.split(" | ").collect();
        let mut prefix = String::new();
        for name in in_backticks(cells[0]) {
            let name = if name.starts_with('_') {
                format!("{prefix}{name}")
            } else {
                prefix = name.splitn(3, '_').take(2).collect::<Vec<_>>().join("_");
                name.to_owned()
            };
            metrics.push(Metric {
                name,
                kind: cells[2].to_owned(),
                labels: in_backticks(cells[1]).map(str::to_owned).collect(),
            });
        }
    }
    assert!(
        metrics.len() > 50,
        "only {} found: is this test still looking right?",
        metrics.len()
    );
    metrics
}

/// The names of ours in a query.
fn names(query: &str) -> impl Iterator<Item = &str> {
    query
        .split(|c: char| !c.is_ascii_alphanumeric() && c != '_')
        .filter(|word| word.starts_with("metallb_") || word.starts_with("ferrolb_"))
}

/// The names under which a metric can be asked for.
fn askable(metrics: &[Metric]) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for metric in metrics {
        if metric.kind == "histogram" {
            names.extend(["bucket", "sum", "count"].map(|part| format!("{}_{part}", metric.name)));
        } else {
            names.insert(metric.name.clone());
        }
    }
    names
}

fn alerts() -> Vec<Value> {
    let object: Value = serde_saphyr::from_str(&read(&format!("{FOLDER}/alerts.yaml"))).unwrap();
    let groups = object["spec"]["groups"].as_array().unwrap();
    groups
        .iter()
        .flat_map(|group| group["rules"].as_array().unwrap().clone())
        .collect()
}

fn dashboard() -> Value {
    serde_json::from_str(&read(&format!("{FOLDER}/dashboard.json"))).unwrap()
}

/// All queries, each with where it stands.
fn queries() -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let mut queries: Vec<(String, String)> = alerts()
        .iter()
        .map(|alert| (text(&alert["alert"]), text(&alert["expr"])))
        .collect();
    let dashboard = dashboard();
    for panel in dashboard["panels"].as_array().unwrap() {
        for target in panel["targets"].as_array().unwrap() {
            queries.push((text(&panel["title"]), text(&target["expr"])));
        }
    }
    for variable in dashboard["templating"]["list"].as_array().unwrap() {
        if variable["type"] == "query" {
            queries.push((text(&variable["name"]), text(&variable["query"])));
        }
    }
    assert!(queries.len() > 40, "only {} queries", queries.len());
    queries
}

#[test]
fn every_query_names_metrics_that_exist() {
    let askable = askable(&reference());
    for (place, query) in queries() {
        let mut named = 0;
        for name in names(&query) {
            assert!(
                askable.contains(name),
                "{place}: there is no metric {name} in docs/src/reference.md"
            );
            named += 1;
        }
        assert!(
            named > 0 || query.starts_with("up{"),
            "{place}: {query} asks for no metric of ours"
        );
    }
}

/// By which labels is grouped, and which are shown, are labels that one of the query's metrics has.
#[test]
fn every_query_names_labels_that_exist() {
    let metrics = reference();
    // What Prometheus adds to each series, and the bounds of histograms.
    let added = ["pod", "instance", "container", "job", "namespace", "le"];
    let known = |query: &str, label: &str| {
        added.contains(&label)
            || names(query).any(|name| {
                let stem = ["_bucket", "_count", "_sum"]
                    .iter()
                    .find_map(|end| name.strip_suffix(end));
                let of = |metric: &&Metric| metric.name == name || Some(metric.name.as_str()) == stem;
                metrics
                    .iter()
                    .find(of)
                    .is_some_and(|metric| metric.labels.contains(label))
            })
    };
    let grouped = |query: &str| -> Vec<String> {
        let lists = query.split("by (").skip(1).filter_map(|rest| rest.split_once(')'));
        lists
            .flat_map(|(list, _)| list.split(", ").map(str::to_owned))
            .collect()
    };
    for (place, query) in queries() {
        for label in grouped(&query) {
            assert!(
                known(&query, &label),
                "{place}: no metric of {query} has the label {label}"
            );
        }
    }
    let dashboard = dashboard();
    for panel in dashboard["panels"].as_array().unwrap() {
        for target in panel["targets"].as_array().unwrap() {
            let (query, legend) = (
                target["expr"].as_str().unwrap(),
                target["legendFormat"].as_str().unwrap(),
            );
            for label in legend.split("{{").skip(1).filter_map(|rest| rest.split_once("}}")) {
                assert!(known(query, label.0), "{}: {legend} of {query}", panel["title"]);
            }
        }
    }
    for alert in alerts() {
        let query = alert["expr"].as_str().unwrap();
        for text in alert["annotations"].as_object().unwrap().values() {
            let text = text.as_str().unwrap();
            for label in text.split("$labels.").skip(1).filter_map(|rest| rest.split_once(' ')) {
                assert!(known(query, label.0), "{}: {text}", alert["alert"]);
                let lists = grouped(query);
                assert!(
                    lists.is_empty() || lists.iter().any(|one| one == label.0),
                    "{}: {text}",
                    alert["alert"]
                );
            }
        }
    }
}

/// The names are written in the sources, counters without the `_total` that the exposition adds.
#[test]
fn the_reference_names_what_the_programs_register() {
    let mut sources = String::new();
    let mut folders = ["controller", "runtime", "speaker"]
        .map(|folder| root().join(folder))
        .to_vec();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                sources.push_str(&fs::read_to_string(&path).unwrap());
            }
        }
    }
    for metric in reference() {
        let plain = metric.name.strip_suffix("_total").unwrap_or(&metric.name);
        let found = [&metric.name, plain]
            .iter()
            .any(|name| sources.contains(&format!("\"{name}\"")));
        assert!(found, "no program registers {}", metric.name);
    }
}

#[test]
fn panels_have_a_place_of_their_own() {
    let dashboard = dashboard();
    let mut taken = BTreeSet::new();
    let mut ids = BTreeSet::new();
    for panel in dashboard["panels"].as_array().unwrap() {
        assert!(ids.insert(panel["id"].as_u64().unwrap()), "{}", panel["title"]);
        let place = |name: &str| panel["gridPos"][name].as_u64().unwrap();
        for x in place("x")..place("x") + place("w") {
            assert!(x < 24, "{}", panel["title"]);
            for y in place("y")..place("y") + place("h") {
                assert!(taken.insert((x, y)), "{} lies upon another", panel["title"]);
            }
        }
    }
}

#[test]
fn the_guide_knows_every_alert() {
    let page = read("docs/src/monitoring.md");
    let rows = page.lines().filter(|line| line.starts_with("| `FerroLB"));
    let told: BTreeSet<String> = rows
        .flat_map(|row| {
            in_backticks(row.split(" | ").next().unwrap())
                .map(str::to_owned)
                .collect::<Vec<_>>()
        })
        .collect();
    let alerts: BTreeSet<String> = alerts()
        .iter()
        .map(|alert| alert["alert"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(told, alerts);
}
