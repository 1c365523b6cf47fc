//! Opening the database: checks first, then a backup, then numbered migrations, each in one transaction.

use std::{path::Path, time::Duration};

use rusqlite::{Connection, OpenFlags};

use crate::{Error, Result};

/// The migrations, oldest first; never changed once released, only added to. `user_version` counts those applied.
const MIGRATIONS: &[&str] = &[
    include_str!("migrations/0001.sql"),
    include_str!("migrations/0002.sql"),
    include_str!("migrations/0003.sql"),
    include_str!("migrations/0004.sql"),
    include_str!("migrations/0005.sql"),
    include_str!("migrations/0006.sql"),
    include_str!("migrations/0007.sql"),
];

/// How long another program may hold the database locked.
const PATIENCE: Duration = Duration::from_secs(10);

/// What opening a database would do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compatibility {
    /// There is none yet.
    Absent,
    /// It is of this version.
    Current,
    /// It would be migrated.
    Older,
    /// A newer banger wrote it.
    Newer,
}

fn known() -> u32 {
    u32::try_from(MIGRATIONS.len()).expect("a handful")
}

pub fn check(path: &Path) -> Result<Compatibility> {
    if !host::fs::exists(path) {
        return Ok(Compatibility::Absent);
    }
    let damaged = |cause| Error::Damaged { path: path.display().to_string(), cause: Box::new(cause) };
    let connection = open_to_read(path).map_err(damaged)?;
    let version = version(&connection).map_err(damaged)?;
    let health: String =
        connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0)).map_err(damaged)?;
    if health != "ok" {
        return Err(Error::Damaged { path: path.display().to_string(), cause: health.into() });
    }
    Ok(match version.cmp(&known()) {
        std::cmp::Ordering::Less if version == 0 => Compatibility::Absent,
        std::cmp::Ordering::Less => Compatibility::Older,
        std::cmp::Ordering::Equal => Compatibility::Current,
        std::cmp::Ordering::Greater => Compatibility::Newer,
    })
}

pub fn open(path: &Path) -> Result<Connection> {
    match check(path)? {
        Compatibility::Newer => {
            let found = version(&Connection::open(path)?)?;
            return Err(Error::Newer { found, known: known() });
        }
        Compatibility::Older => back_up(path)?,
        Compatibility::Absent | Compatibility::Current => {}
    }
    let mut connection = Connection::open(path)?;
    connection.busy_timeout(PATIENCE)?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "NORMAL")?;
    connection.pragma_update(None, "foreign_keys", true)?;
    for number in version(&connection)?..known() {
        let transaction = connection.transaction()?;
        transaction.execute_batch(MIGRATIONS[number as usize])?;
        transaction.pragma_update(None, "user_version", number + 1)?;
        transaction.commit()?;
    }
    Ok(connection)
}

/// A connection that only reads.
pub fn open_to_read(path: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(PATIENCE)?;
    Ok(connection)
}

fn version(connection: &Connection) -> rusqlite::Result<u32> {
    connection.pragma_query_value(None, "user_version", |row| row.get(0))
}

/// Copies the database, its write-ahead log included, to `<path>.v<version>`.
fn back_up(path: &Path) -> Result<()> {
    let source = Connection::open(path)?;
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".v{}", version(&source)?));
    host::fs::remove(Path::new(&name))?;
    source.backup("main", &name, None::<fn(rusqlite::backup::Progress)>)?;
    Ok(())
}
