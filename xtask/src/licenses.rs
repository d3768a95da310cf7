//! `xtask licenses`: whether every package that can end up in a binary or a test may be used under Apache-2.0.
//!
//! Works offline, from what `cargo metadata` says. The list of licences is the one in `deny.toml`, so that this check
//! and cargo-deny cannot disagree. Advisories need cargo-deny and its database; it is run when it is installed.

use std::collections::BTreeSet;
use std::fs;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use cargo_metadata::{Metadata, MetadataCommand};

use crate::repository;

/// Arguments of `xtask licenses`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Do not run cargo-deny even where it is installed.
    #[arg(long)]
    offline: bool,
}

/// Checks and prints a summary.
pub(crate) fn run(args: &Args) -> Result<()> {
    let root = repository();
    let deny = fs::read_to_string(root.join("deny.toml")).context("read deny.toml")?;
    let allowed = allowed_licenses(&deny)?;
    let platform = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let metadata = MetadataCommand::new()
        .manifest_path(root.join("Cargo.toml"))
        .other_options(["--locked".to_owned(), "--filter-platform".to_owned(), platform])
        .exec()
        .context("run cargo metadata")?;
    let refused = refused(&metadata, &allowed);
    if !refused.is_empty() {
        bail!(
            "packages whose licence deny.toml does not allow:\n  {}",
            refused.join("\n  ")
        );
    }
    println!("licences: {} packages, all allowed", metadata.packages.len());
    if args.offline || !cargo_deny_is_installed() {
        println!("advisories: not checked; `cargo install cargo-deny` and run again to check them");
        return Ok(());
    }
    let status = Command::new("cargo")
        .args(["deny", "check"])
        .current_dir(&root)
        .status()
        .context("run cargo deny")?;
    if !status.success() {
        bail!("cargo deny check failed");
    }
    Ok(())
}

fn cargo_deny_is_installed() -> bool {
    Command::new("cargo")
        .args(["deny", "--version"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

/// The `allow` list of the `[licenses]` table: one quoted name per line.
fn allowed_licenses(deny: &str) -> Result<BTreeSet<String>> {
    let table = deny.split("\n[").find(|table| table.starts_with("licenses]"));
    let list = table
        .and_then(|table| table.split_once("allow = ["))
        .and_then(|(_, rest)| rest.split_once(']'))
        .context("deny.toml has no list `allow` in [licenses]")?;
    Ok(list
        .0
        .lines()
        .filter_map(|line| line.trim().strip_prefix('"')?.split_once('"'))
        .map(|(name, _)| name.to_owned())
        .collect())
}

/// One line for every package that is not allowed.
fn refused(metadata: &Metadata, allowed: &BTreeSet<String>) -> Vec<String> {
    metadata
        .packages
        .iter()
        .filter_map(|package| match package.license.as_deref() {
            Some(expression) if satisfied(expression, allowed) => None,
            Some(expression) => Some(format!("{} {}: {expression}", package.name, package.version)),
            None => Some(format!("{} {}: no licence expression", package.name, package.version)),
        })
        .collect()
}

/// Whether a SPDX expression can be met with the licences allowed. `/` is the old way to write `OR`; an exception
/// (`WITH`) is part of its licence's name. A malformed expression is not met.
fn satisfied(expression: &str, allowed: &BTreeSet<String>) -> bool {
    let spaced = expression.replace('(', " ( ").replace(')', " ) ").replace('/', " OR ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let mut rest = words.as_slice();
    let met = any_of(&mut rest, allowed);
    met == Some(true) && rest.is_empty()
}

/// `all_of ("OR" all_of)*`; `None` when malformed.
fn any_of(words: &mut &[&str], allowed: &BTreeSet<String>) -> Option<bool> {
    let mut met = all_of(words, allowed)?;
    while let Some((&"OR", rest)) = words.split_first() {
        *words = rest;
        met |= all_of(words, allowed)?;
    }
    Some(met)
}

/// `one ("AND" one)*`.
fn all_of(words: &mut &[&str], allowed: &BTreeSet<String>) -> Option<bool> {
    let mut met = one(words, allowed)?;
    while let Some((&"AND", rest)) = words.split_first() {
        *words = rest;
        met &= one(words, allowed)?;
    }
    Some(met)
}

/// A licence, a licence `WITH` an exception, or an expression in parentheses.
fn one(words: &mut &[&str], allowed: &BTreeSet<String>) -> Option<bool> {
    let (&first, rest) = words.split_first()?;
    *words = rest;
    match first {
        "(" => {
            let met = any_of(words, allowed)?;
            let (&close, rest) = words.split_first()?;
            *words = rest;
            (close == ")").then_some(met)
        }
        ")" | "AND" | "OR" | "WITH" => None,
        license => {
            if let [with, exception, rest @ ..] = *words
                && *with == "WITH"
            {
                *words = rest;
                return Some(allowed.contains(&format!("{license} WITH {exception}")));
            }
            Some(allowed.contains(license))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expressions() {
        let allowed: BTreeSet<String> = ["MIT", "Apache-2.0", "Zlib", "Apache-2.0 WITH LLVM-exception"]
            .map(str::to_owned)
            .into();
        for (expression, met) in [
            ("MIT", true),
            ("MIT OR GPL-3.0", true),
            ("GPL-3.0 OR MIT", true),
            ("GPL-2.0/MIT", true),
            ("MIT AND GPL-3.0", false),
            ("MIT AND (GPL-3.0 OR Zlib)", true),
            ("(MIT OR GPL-3.0) AND GPL-3.0", false),
            ("GPL-3.0 AND MIT OR Zlib", true),
            ("Apache-2.0 WITH LLVM-exception", true),
            ("MIT WITH LLVM-exception", false),
            ("", false),
            ("MIT OR", false),
            ("(MIT", false),
            ("MIT MIT", false),
            ("MIT)", false),
        ] {
            assert_eq!(satisfied(expression, &allowed), met, "{expression:?}");
        }
    }

    #[test]
    fn the_list_is_read_from_its_table() {
        let deny = "[bans]\nallow = [\n\"x\",\n]\n[licenses]\nallow = [\n    \"MIT\", # why\n    \"0BSD\",\n]\n";
        let allowed = allowed_licenses(deny).unwrap();
        assert_eq!(allowed.into_iter().collect::<Vec<_>>(), ["0BSD", "MIT"]);
        assert!(allowed_licenses("[bans]\n").is_err());
    }
}
