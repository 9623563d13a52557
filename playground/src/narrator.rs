//! Tells people what is going on: live bars on a terminal, plain lines with the time elsewhere.

use std::{
    cell::{Cell, RefCell},
    io::IsTerminal as _,
    time::{Duration, Instant},
};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

/// How often a plain line repeats that something goes on.
const PLAIN_PACE: Duration = Duration::from_secs(5);

/// Tells a story.
pub struct Narrator {
    began: Instant,
    screen: Option<MultiProgress>,
}

impl Default for Narrator {
    fn default() -> Self {
        Self::new()
    }
}

impl Narrator {
    /// Begins to count the time.
    #[must_use]
    pub fn new() -> Self {
        Self {
            began: Instant::now(),
            screen: std::io::stdout()
                .is_terminal()
                .then(|| MultiProgress::with_draw_target(indicatif::ProgressDrawTarget::stdout())),
        }
    }

    /// How long the story has lasted.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }

    /// Says a line that stays.
    pub fn say(&self, line: impl AsRef<str>) {
        let line = line.as_ref();
        match &self.screen {
            Some(screen) => {
                let _ = screen.println(line);
            }
            None => println!("[{:6.1} s] {line}", self.began.elapsed().as_secs_f64()),
        }
    }

    /// Says lines as they are: headings, tables.
    pub fn print(&self, text: impl AsRef<str>) {
        // Split, not lines: an empty text is an empty line.
        for line in text.as_ref().split('\n') {
            match &self.screen {
                Some(screen) => {
                    let _ = screen.println(line);
                }
                None => println!("{line}"),
            }
        }
    }

    /// Begins something that takes time.
    #[must_use]
    pub fn step(&self, title: impl Into<String>) -> Step<'_> {
        let title = title.into();
        let bar = self.screen.as_ref().map(|screen| {
            let bar = screen.add(ProgressBar::new_spinner());
            bar.set_style(spinner());
            bar.set_prefix(title.clone());
            bar.enable_steady_tick(Duration::from_millis(100));
            bar
        });
        if bar.is_none() {
            self.say(format!("{title} ..."));
        }
        Step {
            narrator: self,
            title,
            began: Instant::now(),
            bar,
            said: RefCell::default(),
            said_at: Cell::new(Instant::now()),
            measured: Cell::new(false),
        }
    }
}

fn spinner() -> ProgressStyle {
    style("  {spinner:.cyan} {prefix} {elapsed:.dim} {wide_msg:.dim}")
}

fn measured() -> ProgressStyle {
    style(
        "  {spinner:.cyan} {prefix} {elapsed:.dim} [{bar:30.cyan/dim}] {bytes}/{total_bytes} {wide_msg:.dim}",
    )
}

fn style(template: &str) -> ProgressStyle {
    // A template that cannot be read is a plainer bar, not the end of the story.
    ProgressStyle::with_template(template)
        .unwrap_or_else(|_| ProgressStyle::default_spinner())
        .progress_chars("━╸─")
}

/// Something that takes time. Dropped without [`Step::done`], it vanishes.
pub struct Step<'a> {
    narrator: &'a Narrator,
    title: String,
    began: Instant,
    bar: Option<ProgressBar>,
    said: RefCell<String>,
    said_at: Cell<Instant>,
    measured: Cell<bool>,
}

impl Step<'_> {
    /// Tells what it is at.
    pub fn now(&self, message: impl Into<String>) {
        let message = message.into();
        if let Some(bar) = &self.bar {
            bar.set_message(message);
            return;
        }
        let changed = *self.said.borrow() != message;
        let due = self.said_at.get().elapsed() >= PLAIN_PACE;
        if changed && (due || self.said.borrow().is_empty()) {
            self.narrator.say(format!("  {}: {message}", self.title));
            self.said_at.set(Instant::now());
            *self.said.borrow_mut() = message;
        }
    }

    /// Tells how far it is.
    pub fn bytes(&self, done: u64, total: u64) {
        let Some(bar) = &self.bar else {
            self.now(format!("{} of {}", bytes(done), bytes(total)));
            return;
        };
        if !self.measured.replace(true) {
            bar.set_style(measured());
        }
        bar.set_length(total);
        bar.set_position(done);
    }

    /// It is done; `result` stays, with the time it took.
    pub fn done(self, result: impl AsRef<str>) {
        let Self {
            narrator,
            title,
            began,
            bar,
            ..
        } = &self;
        let seconds = began.elapsed().as_secs_f64();
        let result = result.as_ref();
        let gap = if result.is_empty() { "" } else { ": " };
        if let Some(bar) = bar {
            bar.finish_and_clear();
            narrator.say(format!("  ✓ {title}{gap}{result} ({seconds:.1} s)"));
        } else {
            narrator.say(format!("  {title}{gap}{result} ({seconds:.1} s)"));
        }
    }
}

impl Drop for Step<'_> {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// A number of bytes as people read it.
#[must_use]
pub fn bytes(count: u64) -> String {
    indicatif::BinaryBytes(count).to_string()
}

/// A number of milliseconds as people read it.
#[must_use]
pub fn milliseconds(count: u64) -> String {
    if count < 1000 {
        format!("{count} ms")
    } else {
        format!("{}.{} s", count / 1000, count % 1000 / 100)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_readable() {
        assert_eq!(bytes(3 << 20), "3.00 MiB");
        assert_eq!(milliseconds(999), "999 ms");
        assert_eq!(milliseconds(12_345), "12.3 s");
    }
}
