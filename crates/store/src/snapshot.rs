//! Records of snapshots.

use model::{
    SnapshotName,
    network::{Link, Nat},
};
use rusqlite::{Row, params};

use crate::{Error, Result, Store, known};

/// A machine that was saved, and what another one must be like to go on from it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// Names its directory.
    pub id: String,
    /// What people call it.
    pub name: SnapshotName,
    /// What the VM was called that it was taken of.
    pub vm: String,
    /// The id of the image.
    pub image: String,
    /// The id of the kernel.
    pub kernel: String,
    /// The VMM.
    pub vmm: String,
    /// The build of that, which alone reads what it wrote.
    pub build: String,
    /// The version of the protocol that the agent in it speaks.
    pub agent: u32,
    /// Virtual CPUs.
    pub vcpu: u32,
    /// Memory in bytes.
    pub memory: u64,
    /// The work disk in bytes.
    pub disk: u64,
    /// The system overlay in bytes.
    pub overlay: u64,
    /// What its network card is connected to; without one it has no card.
    pub link: Option<Link>,
    /// Whether the VM reached the world.
    pub nat: Nat,
    /// Variables for its commands, JSON.
    pub env: String,
    /// The secret of the agent's channel in hexadecimal.
    pub secret: String,
    /// Whether banger put what may be secret into the VM.
    pub has_secrets: bool,
    /// Name, size and sha256 of each file that the VMM wrote, JSON.
    pub files: String,
    /// Bytes on disk.
    pub size: u64,
    /// Milliseconds since the Unix epoch.
    pub created_ms: u64,
}

const COLUMNS: &str = "id, name, vm, image, kernel, vmm, build, agent, vcpu, memory, disk, overlay, link, env, secret, \
     has_secrets, files, size, created_ms, nat";

fn read(row: &Row<'_>) -> Result<Snapshot> {
    let bytes = |column| row.get::<_, i64>(column).map(i64::cast_unsigned);
    let link: Option<String> = row.get(12)?;
    Ok(Snapshot {
        id: row.get(0)?,
        name: known("snapshot name", row.get(1)?, |name| SnapshotName::try_from(name).ok())?,
        vm: row.get(2)?,
        image: row.get(3)?,
        kernel: row.get(4)?,
        vmm: row.get(5)?,
        build: row.get(6)?,
        agent: row.get(7)?,
        vcpu: row.get(8)?,
        memory: bytes(9)?,
        disk: bytes(10)?,
        overlay: bytes(11)?,
        link: link.map(|link| known("link", link, Link::from_name)).transpose()?,
        env: row.get(13)?,
        secret: row.get(14)?,
        has_secrets: row.get(15)?,
        files: row.get(16)?,
        size: bytes(17)?,
        created_ms: bytes(18)?,
        nat: Nat::of(row.get(19)?),
    })
}

impl Store {
    /// Records a snapshot whose directory is in place, and in the same transaction closes the ledger's entry of its staging.
    ///
    /// # Errors
    /// [`Error::Taken`], or where the database cannot be written.
    pub fn snapshot_insert(&self, snapshot: Snapshot, staging: i64) -> Result<()> {
        self.transaction(move |db| {
            let taken = "SELECT EXISTS (SELECT 1 FROM snapshot WHERE name = ?)";
            if db.query_row(taken, [snapshot.name.as_str()], |row| row.get(0))? {
                return Err(Error::Taken(snapshot.name.to_string()));
            }
            let marks = vec!["?"; COLUMNS.split(',').count()].join(", ");
            db.execute(
                &format!("INSERT INTO snapshot ({COLUMNS}) VALUES ({marks})"),
                params![
                    snapshot.id,
                    snapshot.name.as_str(),
                    snapshot.vm,
                    snapshot.image,
                    snapshot.kernel,
                    snapshot.vmm,
                    snapshot.build,
                    snapshot.agent,
                    snapshot.vcpu,
                    snapshot.memory.cast_signed(),
                    snapshot.disk.cast_signed(),
                    snapshot.overlay.cast_signed(),
                    snapshot.link.map(Link::name),
                    snapshot.env,
                    snapshot.secret,
                    snapshot.has_secrets,
                    snapshot.files,
                    snapshot.size.cast_signed(),
                    snapshot.created_ms.cast_signed(),
                    snapshot.nat.is_on(),
                ],
            )?;
            crate::ledger::close(db, staging)
        })
    }

    /// All snapshots by name.
    ///
    /// # Errors
    /// Where the database cannot be read.
    pub fn snapshot_list(&self) -> Result<Vec<Snapshot>> {
        self.read(|db| {
            let mut statement =
                db.prepare_cached(&format!("SELECT {COLUMNS} FROM snapshot ORDER BY name"))?;
            let mut rows = statement.query([])?;
            let mut all = Vec::new();
            while let Some(row) = rows.next()? {
                all.push(read(row)?);
            }
            Ok(all)
        })
    }

    /// The snapshot that is called `name`.
    ///
    /// # Errors
    /// Where the database cannot be read.
    pub fn snapshot_named(&self, name: &str) -> Result<Option<Snapshot>> {
        self.snapshot_where("name", name)
    }

    /// The snapshot of that id.
    ///
    /// # Errors
    /// Where the database cannot be read.
    pub fn snapshot_get(&self, id: &str) -> Result<Option<Snapshot>> {
        self.snapshot_where("id", id)
    }

    fn snapshot_where(&self, column: &'static str, value: &str) -> Result<Option<Snapshot>> {
        self.read(|db| {
            let sql = format!("SELECT {COLUMNS} FROM snapshot WHERE {column} = ?");
            let mut statement = db.prepare_cached(&sql)?;
            let mut rows = statement.query([value])?;
            rows.next()?.map(read).transpose()
        })
    }

    /// Removes the record of a snapshot that no VM is being made of.
    ///
    /// # Errors
    /// [`Error::InUse`], or where the database cannot be written.
    pub fn snapshot_delete(&self, id: &str) -> Result<()> {
        let id = id.to_owned();
        self.transaction(move |db| {
            let mut statement =
                db.prepare_cached("SELECT 'VM ' || name FROM vm WHERE snapshot = ? ORDER BY 1")?;
            let users: Vec<String> =
                statement.query_map([&id], |row| row.get(0))?.collect::<rusqlite::Result<_>>()?;
            if !users.is_empty() {
                return Err(Error::InUse(users));
            }
            match db.execute("DELETE FROM snapshot WHERE id = ?", [&id])? {
                0 => Err(Error::Missing),
                _ => Ok(()),
            }
        })
    }
}
