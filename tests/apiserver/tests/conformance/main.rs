//! The double tells the truth: the same requests to it and to a real API server get the same answers.
//!
//! Each case writes down every answer it gets; what differs from server to server by nature (uids, versions, times) is
//! masked. Nothing is expected here: the real server is what is right.

mod cases;
mod transcript;

use std::process::ExitCode;
use std::sync::Arc;

use ferrolb_apiserver::{ApiServer, RealApiServer};
use libtest_mimic::{Arguments, Failed, Trial};

use crate::cases::CASES;
use crate::transcript::Transcript;

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build();
    let runtime = Arc::new(runtime.expect("a runtime"));
    let start = async || RealApiServer::start(&mut |line| eprintln!("{line}")).await;
    let server = (!arguments.list).then(|| runtime.block_on(start()).expect("a real API server"));
    let real = server
        .as_ref()
        .map(|server| server.kubeconfig().to_owned())
        .unwrap_or_default();
    let trials = CASES.iter().map(|(name, _)| {
        let (runtime, real) = (Arc::clone(&runtime), real.clone());
        Trial::test(*name, move || runtime.block_on(compare(name, &real)))
    });
    let conclusion = libtest_mimic::run(&arguments, trials.collect());
    drop(server);
    conclusion.exit_code()
}

async fn compare(name: &str, real: &str) -> Result<(), Failed> {
    let double = ApiServer::start().await?;
    let double = said(name, &double.kubeconfig()).await?;
    let real = said(name, real).await?;
    let different = double.iter().zip(&real).filter(|(double, real)| double != real);
    let mut report = different
        .map(|(double, real)| format!("the double: {double}\n  the real: {real}\n"))
        .collect::<String>();
    if double.len() != real.len() {
        report.push_str("one said more than the other\n");
    }
    if report.is_empty() { Ok(()) } else { Err(report.into()) }
}

async fn said(name: &str, kubeconfig: &str) -> Result<Vec<String>, Failed> {
    let mut transcript = Transcript::new(kubeconfig).await?;
    let case = CASES.iter().find(|(known, _)| *known == name).ok_or("no such case")?;
    (case.1)(&mut transcript).await?;
    Ok(transcript.lines)
}
