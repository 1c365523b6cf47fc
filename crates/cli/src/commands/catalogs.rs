//! `banger catalog`, and what the lists of images and kernels show of catalogs.

use hyper::Method;
use model::size::human;
use wire::control::{Catalog, CatalogEntry, Catalogs};

use super::Context;
use crate::{
    args::{CatalogCommand, Output},
    client::path,
    error::Error,
    talk::{print, print_json},
    text::table,
};

/// `banger catalog`.
///
/// # Errors
/// Why it could not be done.
pub async fn run(context: &Context, command: CatalogCommand) -> Result<(), Error> {
    match command {
        CatalogCommand::Refresh(format) => {
            let catalogs: Catalogs =
                context.client.ask(Method::POST, &path(&["catalogs", "refresh"])).await?;
            if format.output == Output::Json {
                return print_json(&catalogs);
            }
            let line = |catalog: &Catalog| {
                format!(
                    "{}: {} for this host, serial {}\n",
                    catalog.kind,
                    catalog.entries.len(),
                    catalog.serial
                )
            };
            print(&catalogs.catalogs.iter().map(line).collect::<String>())
        }
    }
}

/// Why there is nothing, and what to do.
fn nothing(catalog: &Catalog) -> String {
    let kind = &catalog.kind;
    match &catalog.source {
        Some(source) => format!("the catalog {source} has no {kind} for this host"),
        None => format!(
            "there is no catalog of {kind} yet: set {}_catalog and catalog_key in config.toml, then banger catalog refresh",
            kind.trim_end_matches('s')
        ),
    }
}

/// What the catalog of `kind` has.
///
/// # Errors
/// Where it cannot be had.
pub async fn list(context: &Context, kind: &str, output: Output) -> Result<(), Error> {
    let catalog: Catalog = context.client.get(&path(&["catalogs", kind])).await?;
    if output == Output::Json {
        return print_json(&catalog);
    }
    if catalog.entries.is_empty() {
        context.talk.say(&nothing(&catalog));
    }
    let row = |entry: &CatalogEntry| {
        [
            entry.name.clone(),
            human(entry.size),
            entry.distro.clone(),
            if entry.here { "yes" } else { "no" }.to_owned(),
            entry.description.clone(),
        ]
    };
    let rows: Vec<_> = catalog.entries.iter().map(row).collect();
    print(&table(["NAME", "DOWNLOAD", "DISTRO", "HERE", "DESCRIPTION"], &rows))
}
