//! The tables of the guide that say what each refusal means: the page with the rows of `ferrolb-model` in them.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use ferrolb_model::{Explanation, NodeRefusal, Reason};

use super::Generated;

const PAGE: &str = "docs/src/when-it-does-not-work.md";
const HEAD: &str = "| name | when | what to do |\n| --- | --- | --- |\n";

/// The page as it should be.
pub(super) fn page(root: &Path) -> Result<Generated> {
    let mut text = fs::read_to_string(root.join(PAGE)).with_context(|| format!("read {PAGE}"))?;
    for (heading, rows) in [
        ("Reasons", Reason::EXPLAINED),
        ("Node refusals", NodeRefusal::EXPLAINED),
    ] {
        text = with_table(&text, heading, rows).with_context(|| format!("{PAGE} has no table under {heading:?}"))?;
    }
    Ok(Generated {
        path: PathBuf::from(PAGE),
        text,
    })
}

/// The page with these rows in the first table under the heading; `None` where there is no such table.
fn with_table(page: &str, heading: &str, rows: &[Explanation]) -> Option<String> {
    let heading = format!("\n## {heading}\n");
    let (before, section) = page.split_once(&heading)?;
    let (between, old) = section.split_once(HEAD)?;
    if between.contains("\n## ") {
        return None;
    }
    let after = old.split_inclusive('\n').skip_while(|line| line.starts_with('|'));
    let row = |row: &Explanation| format!("| `{}` | {} | {} |\n", row.name, row.when, row.remedy);
    let rows = rows.iter().map(row).collect::<String>();
    let after = after.collect::<String>();
    Some(format!("{before}{heading}{between}{HEAD}{rows}{after}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_table_is_written_anew() {
        let rows = [Explanation {
            name: "New",
            when: "now",
            remedy: "nothing",
        }];
        let page = format!("# A\n\n## One\n\nWords.\n\n{HEAD}| `Old` | a | b |\n\nMore.\n\n## Two\n\n{HEAD}");
        let wanted = page.replace("| `Old` | a | b |", "| `New` | now | nothing |");
        assert_eq!(with_table(&page, "One", &rows).as_ref(), Some(&wanted));
        assert_eq!(with_table(&wanted, "One", &rows), Some(wanted));
        assert_eq!(with_table(&page, "Three", &rows), None);
        assert_eq!(with_table(&page.replacen(HEAD, "", 1), "One", &rows), None);
    }
}
