//! Small worlds in `worlds/`, each with a question on its first line, and the answer in a file beside it.
//! `FERROLB_UPDATE=1` writes the answers anew.

use std::fs;
use std::path::{Path, PathBuf};

use clap::Parser;
use ferrolb_cli::answer::answer;
use ferrolb_cli::args::Cli;
use ferrolb_cli::world::World;

const PROMPT: &str = "# $ kubectl ferrolb ";

fn worlds() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/worlds");
    let all = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut worlds = all
        .filter(|path| path.extension().is_some_and(|e| e == "yaml"))
        .collect::<Vec<_>>();
    worlds.sort();
    worlds
}

fn ask(world: &World, question: &str) -> String {
    let words = question.split_whitespace();
    let cli = Cli::try_parse_from(std::iter::once("kubectl-ferrolb").chain(words)).unwrap();
    match answer(&cli, world, "default") {
        Ok((text, code)) => format!("{text}exit code {code}\n"),
        Err(error) => format!("error: {error}\n"),
    }
}

#[test]
fn every_world_has_its_answer() {
    let update = std::env::var_os("FERROLB_UPDATE").is_some();
    let mut wrong = Vec::new();
    let mut questions = 0;
    for path in worlds() {
        let text = fs::read_to_string(&path).unwrap();
        let mut world = World::new("ferrolb-system");
        world.read(&text).unwrap();
        let mut told = String::new();
        for line in text.lines().filter(|line| line.starts_with(PROMPT)) {
            questions += 1;
            told += &format!("{}\n{}", &line[2..], ask(&world, &line[PROMPT.len()..]));
        }
        let beside = path.with_extension("txt");
        if update {
            fs::write(&beside, &told).unwrap();
        } else if fs::read_to_string(&beside).unwrap_or_default() != told {
            wrong.push(format!("{} should be\n{told}", beside.display()));
        }
    }
    assert!(questions >= 8, "the worlds are gone");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn answers_for_programs_can_be_read_again() {
    for path in worlds() {
        let mut world = World::new("ferrolb-system");
        world.read(&fs::read_to_string(&path).unwrap()).unwrap();
        for question in ["status", "why -A", "migrate check"] {
            let cli = |form: &str| {
                let words = ["kubectl-ferrolb", "-o", form].into_iter().chain(question.split(' '));
                answer(&Cli::try_parse_from(words).unwrap(), &world, "default")
                    .unwrap()
                    .0
            };
            let json = serde_json::from_str::<serde_json::Value>(&cli("json")).unwrap();
            let yaml = serde_saphyr::from_str::<serde_json::Value>(&cli("yaml")).unwrap();
            assert_eq!(json, yaml, "{question} of {}", path.display());
        }
    }
}
