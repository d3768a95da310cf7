//! Log lines on standard error, as text or JSON.

use std::io;

use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, Registry, fmt};

use crate::args::{CommonArgs, LogFormat, LogLevel};

/// Starts logging. FerroLB's own lines follow `--log-level`; the libraries below it speak up only when something is
/// wrong, and in full only at `trace`.
pub fn init(args: &CommonArgs) {
    let own = LevelFilter::from(args.log_level);
    let libraries = match args.log_level {
        LogLevel::Trace => LevelFilter::TRACE,
        _ => own.min(LevelFilter::WARN),
    };
    // The client warns about every connection that breaks; the watch says the same once, and names the resource.
    let client = match args.log_level {
        LogLevel::Trace => LevelFilter::TRACE,
        _ => LevelFilter::ERROR,
    };
    let filter = Targets::new()
        .with_default(libraries)
        .with_target("kube_client", client)
        .with_target("ferrolb", own);
    let lines = match args.log_format {
        LogFormat::Text => fmt::layer().with_writer(io::stderr).with_ansi(false).boxed(),
        LogFormat::Json => fmt::layer()
            .with_writer(io::stderr)
            .json()
            .flatten_event(true)
            .with_current_span(false)
            .boxed(),
    };
    Registry::default().with(lines.with_filter(filter)).init();
}

impl From<LogLevel> for LevelFilter {
    fn from(level: LogLevel) -> Self {
        match level {
            LogLevel::Error => LevelFilter::ERROR,
            LogLevel::Warn => LevelFilter::WARN,
            LogLevel::Info => LevelFilter::INFO,
            LogLevel::Debug => LevelFilter::DEBUG,
            LogLevel::Trace => LevelFilter::TRACE,
        }
    }
}
