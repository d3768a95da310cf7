//! The answer to a question about a world: which report, in which form, and the exit code.

use ferrolb_model::ServiceId;
use serde::Serialize;
use thiserror::Error;

use crate::args::{Action, Cli, Migrate, Output};
use crate::migrate;
use crate::replay::Replay;
use crate::status::status;
use crate::table::{join, or_dash, table};
use crate::why::{State, Why, why};
use crate::world::World;

/// Why there is no answer.
#[derive(Debug, Error)]
pub enum AnswerError {
    /// There is no such Service.
    #[error("there is no Service {0}; name another, or its namespace with -n")]
    NoService(ServiceId),
    /// What is asked changes something, or takes time.
    #[error("this needs a cluster and cannot be asked of a file")]
    NeedsCluster,
    /// An old ConfigMap cannot be read.
    #[error(transparent)]
    Legacy(#[from] migrate::LegacyError),
    /// The report cannot be written in the form asked for.
    #[error("cannot write the answer: {0}")]
    Form(String),
}

/// Text and exit code; `namespace` is the one to look in when none is named.
///
/// # Errors
/// When what is asked for is not there, or cannot be read.
pub fn answer(cli: &Cli, world: &World, namespace: &str) -> Result<(String, u8), AnswerError> {
    let class = cli.load_balancer_class.as_deref();
    let namespace = cli.namespace.as_deref().unwrap_or(namespace);
    let wanted = |ns: &str| cli.all_namespaces || ns == namespace;
    match &cli.action {
        Action::Why { service } => {
            let replay = Replay::of(world, &world.namespace, class);
            let look = |id: &ServiceId| why(world, &replay, id, class);
            if let Some(service) = service {
                let id = service_id(service, namespace);
                let why = look(&id).ok_or(AnswerError::NoService(id))?;
                let text = form(cli.output, &why, || one(&why, cli.output == Output::Wide))?;
                return Ok((text, u8::from(!why.works)));
            }
            let balanced = |id: &&ServiceId| {
                let spec = world.services[*id].spec.as_ref();
                wanted(&id.namespace) && spec.is_some_and(|s| s.type_.as_deref() == Some("LoadBalancer"))
            };
            let all = world
                .services
                .keys()
                .filter(balanced)
                .filter_map(look)
                .collect::<Vec<_>>();
            let code = u8::from(all.iter().any(|why| !why.works));
            Ok((form(cli.output, &all, || many(&all))?, code))
        }
        Action::Status => {
            // An overview is of everything, unless a namespace is named.
            let all = cli.namespace.is_none();
            let replay = Replay::of(world, &world.namespace, class);
            let status = status(world, &replay, class, |ns| all || wanted(ns));
            let code = u8::from(!status.problems.is_empty());
            Ok((form(cli.output, &status, || status.text())?, code))
        }
        Action::Migrate {
            metallb_namespace,
            step,
        } => match step {
            Migrate::Check => {
                let report = migrate::check(world, metallb_namespace, class)?;
                let text = form(cli.output, &report, || report.text(cli.output == Output::Wide))?;
                Ok((text, u8::from(report.differs)))
            }
            Migrate::Shadow { .. } => Err(AnswerError::NeedsCluster),
            Migrate::Objects => Ok((migrate::objects(world, metallb_namespace)?, 0)),
        },
        Action::Request(_) | Action::Completion { .. } => Err(AnswerError::NeedsCluster),
    }
}

/// `name`, or `namespace/name`.
pub(crate) fn service_id(text: &str, namespace: &str) -> ServiceId {
    match text.split_once('/') {
        Some((namespace, name)) => ServiceId::new(namespace, name),
        None => ServiceId::new(namespace, text),
    }
}

fn form<T: Serialize>(output: Output, report: &T, text: impl FnOnce() -> String) -> Result<String, AnswerError> {
    match output {
        Output::Table | Output::Wide => Ok(text()),
        Output::Json => serde_json::to_string_pretty(report)
            .map(|json| json + "\n")
            .map_err(|e| AnswerError::Form(e.to_string())),
        Output::Yaml => serde_saphyr::to_string(report).map_err(|e| AnswerError::Form(e.to_string())),
    }
}

fn one(why: &Why, wide: bool) -> String {
    let mut text = String::new();
    for step in &why.steps {
        let mark = match step.state {
            State::Ok => "ok",
            State::Note => "note",
            State::No => "NO",
        };
        let reason = step.reason.as_ref().map(|r| format!("{r}: ")).unwrap_or_default();
        text += &format!("{:10} {mark:4}  {reason}{}\n", step.topic, step.text);
        if wide || step.state != State::Ok || step.topic == "layer 2" {
            for line in &step.details {
                text += &format!("{:18}{line}\n", "");
            }
        }
    }
    text + &format!("\nService {}/{} {}\n", why.namespace, why.name, why.verdict)
}

fn many(all: &[Why]) -> String {
    let row = |why: &Why| {
        let addresses = or_dash(join(&why.addresses));
        let works = if why.works { "yes" } else { "no" };
        vec![
            why.namespace.clone(),
            why.name.clone(),
            addresses,
            works.to_owned(),
            why.verdict.clone(),
        ]
    };
    let rows = all.iter().map(row).collect::<Vec<_>>();
    table(&["NAMESPACE", "NAME", "ADDRESSES", "WORKS", "WHY"], &rows)
}
