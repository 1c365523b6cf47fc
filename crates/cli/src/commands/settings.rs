//! `config show`.

use model::config::{Fallback, KEYS, Place, position};
use serde::Serialize;

use crate::{
    args::Output,
    client::{Client, Start},
    config::{self, Loaded},
    error::Error,
    talk::{print, print_json},
    text::table,
};

/// One setting and where it came from.
#[derive(Debug, Serialize)]
struct Setting {
    key: &'static str,
    /// `null` where it depends on the host.
    value: Option<String>,
    /// `default`, `auto`, `file` or `env`.
    origin: &'static str,
    /// The line of the file as `FILE:LINE`, or the variable.
    #[serde(skip_serializing_if = "Option::is_none")]
    place: Option<String>,
    #[serde(skip)]
    words: &'static str,
}

/// What `config show -o json` tells.
#[derive(Debug, Serialize)]
struct Settings {
    settings: Vec<Setting>,
}

/// `config show`: what a daemon that is started now goes by.
///
/// # Errors
/// Where there is a mistake in the settings.
pub fn show(output: Output) -> Result<(), Error> {
    let client = Client::of_user(Start::Never)?;
    let settings = Settings { settings: settings(&config::load(client.dirs())?) };
    match output {
        Output::Json => print_json(&settings),
        Output::Text => {
            let row = |setting: &Setting| {
                let value = setting.value.clone().unwrap_or_else(|| format!("({})", setting.words));
                let from = setting.place.clone().unwrap_or_else(|| setting.origin.to_owned());
                [setting.key.to_owned(), value, from]
            };
            let rows: Vec<_> = settings.settings.iter().map(row).collect();
            print(&table(["KEY", "VALUE", "FROM"], &rows))
        }
    }
}

fn settings(loaded: &Loaded) -> Vec<Setting> {
    let one = |key: &'static model::config::Key| {
        let given = loaded.config.given.iter().find(|given| given.key == key);
        let (value, origin, place, words) = match (given, key.fallback) {
            (Some(given), _) => match &given.place {
                Place::File(at) => {
                    let (line, _) = position(&loaded.text, *at);
                    (Some(given.text.clone()), "file", Some(format!("{}:{line}", loaded.path.display())), "")
                }
                Place::Variable(name) => (Some(given.text.clone()), "env", Some(name.clone()), ""),
            },
            (None, Fallback::Value(text)) => (Some(text.to_owned()), "default", None, ""),
            (None, Fallback::Auto(words)) => (None, "auto", None, words),
        };
        Setting { key: key.name, value, origin, place, words }
    };
    KEYS.iter().map(one).collect()
}
