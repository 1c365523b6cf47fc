//! The names of what there is, read from a database that nobody opened: nothing is migrated or written.

use std::path::Path;

use crate::{Result, connection};

/// Names of images and kernels, each with the id that names its directory. Every version of the database has these.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Published {
    /// Images by name.
    pub images: Vec<(String, String)>,
    /// Kernels by name.
    pub kernels: Vec<(String, String)>,
}

pub fn read(path: &Path) -> Result<Published> {
    let connection = connection::open_to_read(path)?;
    let pairs = |query: &str| -> Result<Vec<(String, String)>> {
        let mut statement = connection.prepare(query)?;
        let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
        Ok(rows.collect::<rusqlite::Result<_>>()?)
    };
    Ok(Published {
        images: pairs("SELECT name, id FROM image ORDER BY name")?,
        kernels: pairs("SELECT name, id FROM kernel ORDER BY name")?,
    })
}
