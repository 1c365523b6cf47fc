//! Records of images.

use model::{ImageName, KernelName};
use rusqlite::{Row, params};

use crate::{Error, Result, Store, known};

/// What makes a VM of an image ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ready {
    /// The agent answers.
    Agent,
    /// Init reports that it has started everything.
    Init,
}

impl Ready {
    /// Its stable name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Agent => "agent",
            Self::Init => "init",
        }
    }

    /// The one of that name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Agent, Self::Init].into_iter().find(|ready| ready.name() == name)
    }
}

/// An image of the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// Names its directory.
    pub id: String,
    /// What people call it.
    pub name: ImageName,
    /// Where it came from.
    pub source: String,
    /// The sha256 of its file system in hexadecimal.
    pub digest: String,
    /// Bytes of its file system.
    pub size: u64,
    /// The UUID of its file system.
    pub uuid: String,
    /// The kernel it boots; without one the default kernel.
    pub kernel: Option<KernelName>,
    /// What makes a VM of it ready.
    pub ready: Ready,
    /// `systemd`, `sysvinit`, `openrc`, `agent`, or the absolute path of a program that was asked for.
    pub init: String,
    /// Milliseconds since the Unix epoch.
    pub created_ms: u64,
}

impl Image {
    /// Whether a newer one has taken its name.
    #[must_use]
    pub fn is_superseded(&self) -> bool {
        // Nobody chooses a name that ends in an id which is not made yet.
        let (name, mark) = (self.name.as_str(), mark(&self.id));
        name.strip_suffix(mark).is_some_and(|rest| rest.ends_with('-'))
    }
}

/// What one of the id `id` is called where a newer one takes its name `name`.
pub(crate) fn superseded(name: &str, id: &str) -> String {
    let name: String = name.chars().take(100).collect();
    format!("{name}-{}", mark(id))
}

/// What is seen of an id in such a name.
fn mark(id: &str) -> &str {
    &id[..id.len().min(12)]
}

const COLUMNS: &str = "id, name, source, digest, size, uuid, kernel, ready, init, created_ms";

fn read(row: &Row<'_>) -> Result<Image> {
    let kernel: Option<String> = row.get(6)?;
    Ok(Image {
        id: row.get(0)?,
        name: known("image name", row.get(1)?, |name| ImageName::try_from(name).ok())?,
        source: row.get(2)?,
        digest: row.get(3)?,
        size: row.get::<_, i64>(4)?.cast_unsigned(),
        uuid: row.get(5)?,
        kernel: kernel
            .map(|k| known("kernel name", k, |name| KernelName::try_from(name).ok()))
            .transpose()?,
        ready: known("readiness", row.get(7)?, Ready::from_name)?,
        init: row.get(8)?,
        created_ms: row.get::<_, i64>(9)?.cast_unsigned(),
    })
}

impl Store {
    /// Records an image whose directory is in place, and in the same transaction closes the ledger's entry of its staging.
    ///
    /// # Errors
    /// [`Error::Taken`]; [`Error::Missing`] where its kernel is not there (any more); or where the database cannot be
    /// written.
    pub fn image_insert(&self, image: Image, staging: i64) -> Result<()> {
        self.transaction(move |db| match named(db, &image.name)? {
            Some(_) => Err(Error::Taken(image.name.to_string())),
            None => insert(db, &image, staging),
        })
    }

    /// Records an image as [`Store::image_insert`], but as the one of its name. One that had it before gets another, made of the
    /// name and its id, where something uses it; else its record goes, and its id is given.
    ///
    /// # Errors
    /// [`Error::Missing`] where its kernel is not there (any more); or where the database cannot be written.
    pub fn image_supersede(&self, image: Image, staging: i64) -> Result<Option<String>> {
        self.transaction(move |db| {
            let mut old = named(db, &image.name)?;
            if let Some(id) = &old {
                let name = superseded(image.name.as_str(), id);
                db.execute("UPDATE image SET name = ? WHERE id = ?", [&name, id])?;
                if users(db, id)?.is_empty() {
                    db.execute("DELETE FROM image WHERE id = ?", [id])?;
                } else {
                    old = None;
                }
            }
            insert(db, &image, staging)?;
            Ok(old)
        })
    }

    /// All images by name.
    ///
    /// # Errors
    /// Where the database cannot be read.
    pub fn image_list(&self) -> Result<Vec<Image>> {
        self.read(|db| {
            let mut statement = db.prepare_cached(&format!("SELECT {COLUMNS} FROM image ORDER BY name"))?;
            let mut rows = statement.query([])?;
            let mut all = Vec::new();
            while let Some(row) = rows.next()? {
                all.push(read(row)?);
            }
            Ok(all)
        })
    }

    /// The image that is called `name`.
    ///
    /// # Errors
    /// Where the database cannot be read.
    pub fn image_named(&self, name: &str) -> Result<Option<Image>> {
        self.read(|db| {
            let mut statement = db.prepare_cached(&format!("SELECT {COLUMNS} FROM image WHERE name = ?"))?;
            let mut rows = statement.query([name])?;
            rows.next()?.map(read).transpose()
        })
    }

    /// The names of what uses the image: VMs, and snapshots of such.
    ///
    /// # Errors
    /// Where the database cannot be read.
    pub fn image_users(&self, id: &str) -> Result<Vec<String>> {
        let id = id.to_owned();
        self.read(move |db| users(db, &id))
    }

    /// Removes the record of an unused image.
    ///
    /// # Errors
    /// [`Error::InUse`], or where the database cannot be written.
    pub fn image_delete(&self, id: &str) -> Result<()> {
        let id = id.to_owned();
        self.transaction(move |db| {
            let users = users(db, &id)?;
            if !users.is_empty() {
                return Err(Error::InUse(users));
            }
            match db.execute("DELETE FROM image WHERE id = ?", [&id])? {
                0 => Err(Error::Missing),
                _ => Ok(()),
            }
        })
    }
}

/// The id of the image of that name.
fn named(db: &rusqlite::Connection, name: &ImageName) -> Result<Option<String>> {
    let mut statement = db.prepare_cached("SELECT id FROM image WHERE name = ?")?;
    let mut rows = statement.query([name.as_str()])?;
    Ok(rows.next()?.map(|row| row.get(0)).transpose()?)
}

fn insert(db: &rusqlite::Connection, image: &Image, staging: i64) -> Result<()> {
    // It may have been deleted while the image was made.
    let there: bool = db.query_row(
        "SELECT ?1 IS NULL OR EXISTS (SELECT 1 FROM kernel WHERE name = ?1)",
        [image.kernel.as_ref().map(KernelName::as_str)],
        |row| row.get(0),
    )?;
    if !there {
        return Err(Error::Missing);
    }
    db.execute(
        &format!("INSERT INTO image ({COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"),
        params![
            image.id,
            image.name.as_str(),
            image.source,
            image.digest,
            image.size.cast_signed(),
            image.uuid,
            image.kernel.as_ref().map(KernelName::as_str),
            image.ready.name(),
            image.init,
            image.created_ms.cast_signed()
        ],
    )?;
    crate::ledger::close(db, staging)
}

fn users(db: &rusqlite::Connection, id: &str) -> Result<Vec<String>> {
    let mut statement = db.prepare_cached(
        "SELECT name FROM vm WHERE image = ?1 UNION ALL SELECT 'snapshot ' || name FROM snapshot WHERE image = ?1 ORDER BY 1",
    )?;
    Ok(statement.query_map([id], |row| row.get(0))?.collect::<rusqlite::Result<_>>()?)
}
