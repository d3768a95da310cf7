//! What the demo shows: numbered steps, each with its time, and blocks of what programs said.
//!
//! Plain text; headings are bold where standard output is a terminal and `NO_COLOR` is not set.

use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

use anyhow::Result;

const BOLD: &str = "\x1b[1m";
const DIM: &str = "\x1b[2m";
const PLAIN: &str = "\x1b[0m";

/// Standard output, and the times of the steps so far.
pub(super) struct Screen {
    colour: bool,
    begin: Instant,
    running: Option<(String, Instant)>,
    laps: Vec<(String, Duration)>,
}

impl Screen {
    pub(super) fn new() -> Self {
        Self {
            colour: io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()),
            begin: Instant::now(),
            running: None,
            laps: Vec::new(),
        }
    }

    /// Ends the step before and begins the next.
    pub(super) fn step(&mut self, title: &str) -> Result<()> {
        self.end_step()?;
        let number = self.laps.len() + 1;
        self.line("")?;
        self.styled(BOLD, &format!("{number}. {title}"))?;
        self.running = Some((title.to_owned(), Instant::now()));
        Ok(())
    }

    /// The title of the step that runs.
    pub(super) fn running(&self) -> &str {
        self.running.as_ref().map_or("", |(title, _)| title)
    }

    /// A sentence of the demo's own.
    pub(super) fn say(&mut self, text: impl AsRef<str>) -> Result<()> {
        self.line(&format!("   {}", text.as_ref()))
    }

    /// A command, and what it printed.
    pub(super) fn output(&mut self, command: &str, text: &str) -> Result<()> {
        self.line("")?;
        self.styled(BOLD, &format!("   $ {command}"))?;
        self.block(text)
    }

    /// Lines that are somebody else's: manifests, answers.
    pub(super) fn block(&mut self, text: &str) -> Result<()> {
        for line in text.trim_matches('\n').lines() {
            self.line(format!("   | {line}").trim_end())?;
        }
        Ok(())
    }

    /// Ends the last step and shows the times of all.
    pub(super) fn summary(&mut self) -> Result<()> {
        self.end_step()?;
        self.line("")?;
        self.styled(BOLD, "Where the time went")?;
        let mut rows = String::new();
        for (title, time) in &self.laps {
            rows += &format!("   {:5.1} s  {title}\n", time.as_secs_f32());
        }
        self.line(rows.trim_end_matches('\n'))?;
        self.line(&format!("   {:5.1} s  in all", self.begin.elapsed().as_secs_f32()))
    }

    fn end_step(&mut self) -> Result<()> {
        let Some((title, since)) = self.running.take() else {
            return Ok(());
        };
        let time = since.elapsed();
        self.laps.push((title, time));
        self.styled(DIM, &format!("   ({:.1} s)", time.as_secs_f32()))
    }

    fn styled(&mut self, style: &str, text: &str) -> Result<()> {
        if self.colour {
            self.line(&format!("{style}{text}{PLAIN}"))
        } else {
            self.line(text)
        }
    }

    fn line(&mut self, text: &str) -> Result<()> {
        let mut out = io::stdout().lock();
        writeln!(out, "{text}")?;
        Ok(out.flush()?)
    }
}

/// A time as a person reads it: `310 ms`, `4.2 s`.
pub(super) fn seconds(time: Duration) -> String {
    if time < Duration::from_secs(1) {
        format!("{} ms", time.as_millis())
    } else {
        format!("{:.1} s", time.as_secs_f32())
    }
}
