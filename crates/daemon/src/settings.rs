//! What `bangerd --config` prints: each setting with where it came from, as a daemon that is started now would take it.

use engine::config::{firecracker_program, host_resolvers, host_size, qemu_program};
use model::{
    config::{FILE_SYNC, Fallback, Field, KEYS, Key, Place},
    size,
    sizing::{self, Wish},
};
use serde::Serialize;

use crate::config::Loaded;

/// All settings.
#[derive(Debug, Serialize)]
pub struct Settings {
    /// The user's own file, whether it is there or not.
    file: String,
    settings: Vec<Setting>,
}

/// One setting.
#[derive(Debug, Serialize)]
struct Setting {
    key: String,
    /// As the file has it; `null` where the host has nothing to take.
    value: Option<String>,
    #[serde(flatten)]
    from: From,
}

/// Where a value came from.
#[derive(Debug, Serialize)]
#[serde(tag = "origin", rename_all = "snake_case")]
enum From {
    /// Built in.
    Default,
    /// From this host.
    Auto,
    /// A file.
    File { file: String, line: usize },
    /// The environment.
    Env { variable: &'static str },
}

impl Settings {
    /// Those that were `loaded`, and what this host gives for the others.
    #[must_use]
    pub fn of(loaded: &Loaded) -> Self {
        let from_file = |at| {
            let (file, line) = loaded.line(at);
            From::File { file, line }
        };
        let setting = |key: &Key| {
            let value = loaded.checked.config.text(key.field);
            let from = match (loaded.checked.place(key.field), key.fallback) {
                (Some(Place::File(at)), _) => from_file(*at),
                (Some(Place::Variable(variable)), _) => From::Env { variable },
                (None, Fallback::Value(_)) => From::Default,
                (None, Fallback::Auto(_)) => From::Auto,
            };
            Setting { key: key.name.to_owned(), value: value.or_else(|| of_host(key.field)), from }
        };
        let checked = &loaded.checked;
        let syncs = checked.config.file_sync.iter().zip(&checked.file_sync_at).zip(1..);
        let syncs = syncs.map(|((sync, at), number)| Setting {
            key: format!("{FILE_SYNC}[{number}]"),
            value: Some(sync.to_string()),
            from: from_file(*at),
        });
        let settings = KEYS.iter().map(setting).chain(syncs).collect();
        let own = loaded.sources.last().map(|source| source.path.display().to_string());
        Self { file: own.unwrap_or_default(), settings }
    }

    /// As a table for people.
    #[must_use]
    pub fn table(&self) -> String {
        let row = |setting: &Setting| {
            let from = match &setting.from {
                From::Default => "default".to_owned(),
                From::Auto => "auto".to_owned(),
                From::File { file, line } => format!("{file}:{line}"),
                From::Env { variable } => format!("env {variable}"),
            };
            let value = setting.value.clone().unwrap_or_else(|| "(none found)".to_owned());
            (setting.key.clone(), value, from)
        };
        let head = ("KEY".to_owned(), "VALUE".to_owned(), "FROM".to_owned());
        let rows: Vec<_> = std::iter::once(head).chain(self.settings.iter().map(row)).collect();
        let width = |text: fn(&(String, String, String)) -> &String| {
            rows.iter().map(|row| text(row).chars().count()).max().unwrap_or(0)
        };
        let (first, second) = (width(|row| &row.0), width(|row| &row.1));
        rows.iter().map(|(key, value, from)| format!("{key:first$}  {value:second$}  {from}\n")).collect()
    }
}

/// What this host gives for a setting that nobody said.
fn of_host(field: Field) -> Option<String> {
    let sizes = || sizing::resolve(Wish::default(), Wish::default(), host_size().ok()?).ok();
    match field {
        Field::QemuBin => qemu_program().map(|path| path.display().to_string()),
        Field::FirecrackerBin => firecracker_program().map(|path| path.display().to_string()),
        Field::Vcpu => Some(sizes()?.vcpu.0.to_string()),
        Field::Memory => Some(size::exact(sizes()?.memory.0)),
        Field::UpstreamDns => host_resolvers().map(|found| found.to_string()),
        Field::LogLevel
        | Field::DefaultImage
        | Field::DefaultKernel
        | Field::ImageCatalog
        | Field::KernelCatalog
        | Field::CatalogKey
        | Field::Vmm
        | Field::Accelerator
        | Field::StopTimeout
        | Field::BootTimeout
        | Field::AutoStopStaleAfter
        | Field::StatsInterval
        | Field::DiskSize
        | Field::OverlaySize
        | Field::Nat
        | Field::NetworkMode
        | Field::DnsPort
        | Field::DiskRate
        | Field::NetworkRate => None,
    }
}
