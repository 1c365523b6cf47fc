//! Records of kernels.

use model::KernelName;
use rusqlite::{Row, params};

use crate::{Error, Result, Store, known};

/// A kernel of the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kernel {
    /// Names its directory.
    pub id: String,
    /// What people call it.
    pub name: KernelName,
    /// Its release (uname(2)).
    pub release: String,
    /// Where it came from.
    pub source: String,
    /// Bytes on disk.
    pub size: u64,
    /// Milliseconds since the Unix epoch.
    pub created_ms: u64,
}

const COLUMNS: &str = "id, name, release, source, size, created_ms";

fn read(row: &Row<'_>) -> Result<Kernel> {
    Ok(Kernel {
        id: row.get(0)?,
        name: known("kernel name", row.get(1)?, |name| KernelName::try_from(name).ok())?,
        release: row.get(2)?,
        source: row.get(3)?,
        size: row.get::<_, i64>(4)?.cast_unsigned(),
        created_ms: row.get::<_, i64>(5)?.cast_unsigned(),
    })
}

impl Store {
    /// Records a kernel whose directory is in place, and in the same transaction closes the ledger's entry of its staging.
    ///
    /// # Errors
    /// [`Error::Taken`], or where the database cannot be written.
    pub fn kernel_insert(&self, kernel: Kernel, staging: i64) -> Result<()> {
        self.transaction(move |db| match named(db, &kernel.name)? {
            Some(_) => Err(Error::Taken(kernel.name.to_string())),
            None => insert(db, &kernel, staging),
        })
    }

    /// Records a kernel as [`Store::kernel_insert`], but as the one of its name. One that had it before gets another, made of the
    /// name and its id, where a VM uses it; else its record goes, and its id is given. Images that name it boot the new one
    /// from now on.
    ///
    /// # Errors
    /// Where the database cannot be written.
    pub fn kernel_supersede(&self, kernel: Kernel, staging: i64) -> Result<Option<String>> {
        self.transaction(move |db| {
            let mut old = named(db, &kernel.name)?;
            if let Some(id) = &old {
                let name = crate::image::superseded(kernel.name.as_str(), id);
                db.execute("UPDATE kernel SET name = ? WHERE id = ?", [&name, id])?;
                if users(db, id)?.is_empty() {
                    db.execute("DELETE FROM kernel WHERE id = ?", [id])?;
                } else {
                    old = None;
                }
            }
            insert(db, &kernel, staging)?;
            Ok(old)
        })
    }

    /// All kernels by name.
    ///
    /// # Errors
    /// Where the database cannot be read.
    pub fn kernel_list(&self) -> Result<Vec<Kernel>> {
        self.read(|db| {
            let mut statement = db.prepare_cached(&format!("SELECT {COLUMNS} FROM kernel ORDER BY name"))?;
            let mut rows = statement.query([])?;
            let mut all = Vec::new();
            while let Some(row) = rows.next()? {
                all.push(read(row)?);
            }
            Ok(all)
        })
    }

    /// The kernel that is called `name`.
    ///
    /// # Errors
    /// Where the database cannot be read.
    pub fn kernel_named(&self, name: &str) -> Result<Option<Kernel>> {
        self.read(|db| {
            let mut statement = db.prepare_cached(&format!("SELECT {COLUMNS} FROM kernel WHERE name = ?"))?;
            let mut rows = statement.query([name])?;
            rows.next()?.map(read).transpose()
        })
    }

    /// The names of what uses the kernel: VMs, snapshots of such, and images that name it.
    ///
    /// # Errors
    /// Where the database cannot be read.
    pub fn kernel_users(&self, id: &str) -> Result<Vec<String>> {
        let id = id.to_owned();
        self.read(move |db| users(db, &id))
    }

    /// Removes the record of an unused kernel.
    ///
    /// # Errors
    /// [`Error::InUse`], or where the database cannot be written.
    pub fn kernel_delete(&self, id: &str) -> Result<()> {
        let id = id.to_owned();
        self.transaction(move |db| {
            let users = users(db, &id)?;
            if !users.is_empty() {
                return Err(Error::InUse(users));
            }
            match db.execute("DELETE FROM kernel WHERE id = ?", [&id])? {
                0 => Err(Error::Missing),
                _ => Ok(()),
            }
        })
    }
}

/// The id of the kernel of that name.
fn named(db: &rusqlite::Connection, name: &KernelName) -> Result<Option<String>> {
    let mut statement = db.prepare_cached("SELECT id FROM kernel WHERE name = ?")?;
    let mut rows = statement.query([name.as_str()])?;
    Ok(rows.next()?.map(|row| row.get(0)).transpose()?)
}

fn insert(db: &rusqlite::Connection, kernel: &Kernel, staging: i64) -> Result<()> {
    db.execute(
        &format!("INSERT INTO kernel ({COLUMNS}) VALUES (?, ?, ?, ?, ?, ?)"),
        params![
            kernel.id,
            kernel.name.as_str(),
            kernel.release,
            kernel.source,
            kernel.size.cast_signed(),
            kernel.created_ms.cast_signed()
        ],
    )?;
    crate::ledger::close(db, staging)
}

fn users(db: &rusqlite::Connection, id: &str) -> Result<Vec<String>> {
    let mut statement = db.prepare_cached(
        "SELECT 'VM ' || name FROM vm WHERE kernel = ?1
         UNION ALL SELECT 'snapshot ' || name FROM snapshot WHERE kernel = ?1
         UNION ALL SELECT 'image ' || image.name FROM image JOIN kernel ON image.kernel = kernel.name WHERE kernel.id = ?1
         ORDER BY 1",
    )?;
    Ok(statement.query_map([id], |row| row.get(0))?.collect::<rusqlite::Result<_>>()?)
}
