//! `kubectl-ferrolb`, found by kubectl as `kubectl ferrolb`.

use std::process::ExitCode;

use clap::{CommandFactory, Parser};
use ferrolb_cli::args::{Action, Cli, Migrate};
use ferrolb_cli::shadow::{Pace, shadow};
use ferrolb_cli::world::World;
use ferrolb_cli::{act, answer, cluster};

/// What cannot be read or asked.
const CANNOT: u8 = 2;

fn main() -> ExitCode {
    let cli = Cli::parse();
    if let Action::Completion { shell } = cli.action {
        clap_complete::generate(shell, &mut Cli::command(), "kubectl-ferrolb", &mut std::io::stdout());
        return ExitCode::SUCCESS;
    }
    // An error only says that a provider is installed already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let told = match runtime {
        Ok(runtime) => runtime.block_on(run(&cli)),
        Err(error) => Err(format!("cannot start: {error}")),
    };
    match told {
        Ok((text, code)) => {
            print!("{text}");
            ExitCode::from(code)
        }
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(CANNOT)
        }
    }
}

async fn run(cli: &Cli) -> Result<(String, u8), String> {
    if !cli.filename.is_empty() {
        let mut world = World::new(&cli.ferrolb_namespace);
        for path in &cli.filename {
            let text = match path.as_os_str() == "-" {
                true => std::io::read_to_string(std::io::stdin()),
                false => std::fs::read_to_string(path),
            };
            let text = text.map_err(|error| format!("{}: {error}", path.display()))?;
            world
                .read(&text)
                .map_err(|error| format!("{}: {error}", path.display()))?;
        }
        return answer::answer(cli, &world, "default").map_err(|e| e.to_string());
    }
    let cluster = cluster::connect(cli).await.map_err(|e| e.to_string())?;
    if let Action::Request(request) = &cli.action {
        return act::act(cli, request, &cluster).await.map_err(|e| e.to_string());
    }
    if let Action::Migrate {
        metallb_namespace,
        step: Migrate::Shadow { every, span },
    } = cli.action.clone()
    {
        let pace = Pace { every, span };
        let code = shadow(cli, &cluster, &metallb_namespace, pace, |line| print!("{line}")).await?;
        return Ok((String::new(), code));
    }
    let world = cluster.list(cli).await.map_err(|e| e.to_string())?;
    answer::answer(cli, &world, &cluster.namespace).map_err(|e| e.to_string())
}
