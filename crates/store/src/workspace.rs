//! Records of workspaces: what was shipped into a VM, from where to where.

use std::{
    ffi::OsString,
    os::unix::ffi::{OsStrExt, OsStringExt},
    path::PathBuf,
};

use model::{VmId, workspace::GuestPath};
use rusqlite::{OptionalExtension, params};

use crate::{Error, Result, Store, known};

/// What was shipped into a VM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Workspace {
    /// Where it is in the guest.
    pub guest_path: GuestPath,
    /// The repository that it came from.
    pub host_path: PathBuf,
    /// The commit that was checked out there.
    pub head: String,
    /// What was shipped, the id of a tree of git.
    pub tree: String,
    /// Milliseconds since the Unix epoch.
    pub prepared_ms: u64,
}

impl Store {
    /// Notes what was shipped into VM `id`.
    ///
    /// # Errors
    /// [`Error::Missing`] where there is no such VM, or where the database cannot be written.
    pub fn workspace_put(&self, id: VmId, workspace: Workspace) -> Result<()> {
        self.transaction(move |db| {
            let sql = "INSERT OR REPLACE INTO workspace (vm, guest_path, host_path, head, tree, prepared_ms) \
                       SELECT id, ?2, ?3, ?4, ?5, ?6 FROM vm WHERE id = ?1";
            let put = db.prepare_cached(sql)?.execute(params![
                id.to_string(),
                workspace.guest_path.as_str(),
                workspace.host_path.as_os_str().as_bytes(),
                workspace.head,
                workspace.tree,
                workspace.prepared_ms.cast_signed(),
            ])?;
            if put == 0 { Err(Error::Missing) } else { Ok(()) }
        })
    }

    /// What was shipped into VM `id`, if anything was.
    ///
    /// # Errors
    /// Where the database cannot be read.
    pub fn workspace_get(&self, id: VmId) -> Result<Option<Workspace>> {
        self.read(move |db| {
            let sql = "SELECT guest_path, host_path, head, tree, prepared_ms FROM workspace WHERE vm = ?";
            let row = db.prepare_cached(sql)?.query_row([id.to_string()], |row| {
                let host_path: Vec<u8> = row.get(1)?;
                let prepared_ms = row.get::<_, i64>(4)?.cast_unsigned();
                Ok((row.get(0)?, host_path, row.get(2)?, row.get(3)?, prepared_ms))
            });
            let Some((guest_path, host_path, head, tree, prepared_ms)) = row.optional()? else {
                return Ok(None);
            };
            let guest_path = known("guest path", guest_path, |path| GuestPath::try_from(path).ok())?;
            let host_path = OsString::from_vec(host_path).into();
            Ok(Some(Workspace { guest_path, host_path, head, tree, prepared_ms }))
        })
    }

    /// Where the workspaces of VMs are in their guests.
    ///
    /// # Errors
    /// Where the database cannot be read.
    pub fn workspace_list(&self) -> Result<Vec<(VmId, GuestPath)>> {
        self.read(|db| {
            let mut statement = db.prepare_cached("SELECT vm, guest_path FROM workspace")?;
            let mut rows = statement.query([])?;
            let mut all = Vec::new();
            while let Some(row) = rows.next()? {
                let vm = known("VM id", row.get(0)?, |id| VmId::try_from(id).ok())?;
                all.push((vm, known("guest path", row.get(1)?, |path| GuestPath::try_from(path).ok())?));
            }
            Ok(all)
        })
    }

    /// Forgets what was shipped into VM `id`.
    ///
    /// # Errors
    /// Where the database cannot be written.
    pub fn workspace_forget(&self, id: VmId) -> Result<()> {
        self.transaction(move |db| {
            db.prepare_cached("DELETE FROM workspace WHERE vm = ?")?.execute([id.to_string()])?;
            Ok(())
        })
    }
}
