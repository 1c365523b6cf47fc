//! An operation's events, shown as they come: a spinner or a bar on a terminal, one plain line a stage otherwise.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use model::size;
use wire::control::{Event, Outcome};

use crate::{client::Events, error::Error, talk::Talk, text::visible};

/// Shows one operation.
#[derive(Debug)]
pub struct Progress<'a> {
    talk: &'a Talk,
    /// What the operation is about, where there are several at once.
    of: Option<&'a str>,
    bar: Option<ProgressBar>,
    stage: String,
    /// How many of its parts are done, where it has some: `3 of 8 blobs`, `12 files`.
    parts: Option<String>,
}

impl<'a> Progress<'a> {
    /// For the only operation of the command.
    #[must_use]
    pub fn new(talk: &'a Talk) -> Self {
        Self { talk, of: None, bar: None, stage: String::new(), parts: None }
    }

    /// For one of several, about `of`.
    #[must_use]
    pub fn about(talk: &'a Talk, of: &'a str) -> Self {
        Self { talk, of: Some(of), bar: None, stage: String::new(), parts: None }
    }

    /// Follows `events` to the end of the operation.
    ///
    /// # Errors
    /// Why the operation failed, or why its end was not seen.
    pub async fn follow(mut self, events: &mut Events) -> Result<Outcome, Error> {
        loop {
            match events.next().await?.ok_or(Error::Cut("an operation was under way", None))? {
                Event::Done { result } => return Ok(result),
                Event::Failed { error } => return Err(Error::Daemon(error)),
                other => self.show(&other),
            }
        }
    }

    fn show(&mut self, event: &Event) {
        match event {
            Event::Begun { op_id } => self.talk.detail(&format!("operation: {}", visible(op_id))),
            Event::Plan { summary } => self.say(summary),
            Event::Warning { message } => self.say(&format!("warning: {message}")),
            Event::Stage { name } => self.stage(name),
            Event::Progress { name, done, total, unit } => self.advance(name, *done, *total, unit),
            Event::Done { .. } | Event::Failed { .. } | Event::Unknown => {}
        }
    }

    fn say(&self, text: &str) {
        let text = visible(text);
        match self.of {
            Some(of) => self.talk.say(&format!("{}: {text}", visible(of))),
            None => self.talk.say(&text),
        }
    }

    fn stage(&mut self, name: &str) {
        if self.stage == name {
            return;
        }
        name.clone_into(&mut self.stage);
        self.parts = None;
        if self.talk.draws() {
            let message = self.titled(name);
            let bar = self.bar();
            bar.set_style(style("{spinner} {msg} {elapsed}"));
            bar.set_message(message);
        } else {
            self.say(name);
        }
    }

    fn advance(&mut self, name: &str, done: u64, total: Option<u64>, unit: &str) {
        self.stage(name);
        if matches!(unit, "blobs" | "files") {
            self.parts = Some(match total {
                Some(total) => format!("{done} of {total} {unit}"),
                None => format!("{done} {unit}"),
            });
            return;
        }
        if !self.talk.draws() {
            return;
        }
        let amount = |count: u64| match unit {
            "bytes" => size::human(count),
            _ => count.to_string(),
        };
        let title = match &self.parts {
            Some(parts) => format!("{}, {parts},", self.titled(name)),
            None => self.titled(name),
        };
        let bar = self.bar();
        match total {
            Some(total) => {
                bar.set_style(style("{spinner} {msg} [{bar:30}] {elapsed}"));
                bar.set_length(total);
                bar.set_position(done);
                bar.set_message(format!("{title} {} of {}", amount(done), amount(total)));
            }
            None => bar.set_message(format!(
                "{title} {} {}",
                amount(done),
                if unit == "bytes" { "" } else { unit }
            )),
        }
    }

    fn titled(&self, name: &str) -> String {
        match self.of {
            Some(of) => format!("{}: {}", visible(of), visible(name)),
            None => visible(name).into_owned(),
        }
    }

    fn bar(&mut self) -> &ProgressBar {
        self.bar.get_or_insert_with(|| {
            let bar = self.talk.bars().add(ProgressBar::new_spinner());
            bar.enable_steady_tick(Duration::from_millis(100));
            bar
        })
    }
}

impl Drop for Progress<'_> {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).expect("the templates of this file are well-formed")
}
