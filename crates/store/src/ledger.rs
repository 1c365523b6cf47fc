//! The ledger: every host resource that is held for a VM, and how it is given back.
//!
//! An entry is written before its effect ([`Store::ledger_open`]), marked after it ([`Store::ledger_taken`]) and removed
//! when it was undone ([`Store::ledger_close`]).

use model::{OperationId, VmId, undo::Undo};
use rusqlite::{Params, params};

use crate::{Error, Result, Store};

/// One entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its number; a later effect has a larger one.
    pub id: i64,
    /// The VM that it is held for.
    pub vm: Option<VmId>,
    /// How it is given back.
    pub undo: Undo,
    /// Whether the effect is known to have happened.
    pub taken: bool,
}

/// Removes entry `id` in the transaction of what ends it.
pub(crate) fn close(db: &rusqlite::Connection, id: i64) -> Result<()> {
    db.prepare_cached("DELETE FROM ledger WHERE id = ?")?.execute([id])?;
    Ok(())
}

impl Store {
    /// Writes `undo` down before its effect; gives the entry's number.
    ///
    /// # Errors
    /// Where the database cannot be written; then the effect must not happen.
    pub fn ledger_open(&self, vm: Option<VmId>, operation: &OperationId, undo: &Undo) -> Result<i64> {
        let (vm, operation) = (vm.map(|id| id.to_string()), operation.to_string());
        let (kind, detail) = (undo.kind(), undo.detail());
        self.transaction(move |db| {
            db.prepare_cached("INSERT INTO ledger (vm, operation, kind, detail) VALUES (?, ?, ?, ?)")?
                .execute(params![vm, operation, kind, detail])?;
            Ok(db.last_insert_rowid())
        })
    }

    /// Marks that the effect of entry `id` happened.
    ///
    /// # Errors
    /// Where the database cannot be written.
    pub fn ledger_taken(&self, id: i64) -> Result<()> {
        self.transaction(move |db| {
            db.prepare_cached("UPDATE ledger SET taken = 1 WHERE id = ?")?.execute([id])?;
            Ok(())
        })
    }

    /// Removes entry `id`: it was undone, or what it stood for is not the ledger's business any more.
    ///
    /// # Errors
    /// Where the database cannot be written.
    pub fn ledger_close(&self, id: i64) -> Result<()> {
        self.transaction(move |db| close(db, id))
    }

    /// All entries, or those of one VM, in the order of their effects.
    ///
    /// # Errors
    /// Where the database cannot be read, or an entry is of a kind that this version cannot undo.
    pub fn ledger_list(&self, vm: Option<VmId>) -> Result<Vec<Entry>> {
        self.entries("?1 IS NULL OR vm = ?1", [vm.map(|id| id.to_string())])
    }

    /// The entries of VMs that are gone, in the order of their effects.
    ///
    /// # Errors
    /// As [`Store::ledger_list`].
    pub fn ledger_strays(&self) -> Result<Vec<Entry>> {
        self.entries("vm IS NOT NULL AND vm NOT IN (SELECT id FROM vm)", [])
    }

    fn entries<P: Params>(&self, condition: &str, parameters: P) -> Result<Vec<Entry>> {
        let sql = format!("SELECT id, vm, kind, detail, taken FROM ledger WHERE {condition} ORDER BY id");
        self.read(move |db| {
            let mut statement = db.prepare_cached(&sql)?;
            let mut rows = statement.query(parameters)?;
            let mut entries = Vec::new();
            while let Some(row) = rows.next()? {
                let (kind, detail): (String, String) = (row.get(2)?, row.get(3)?);
                let Some(undo) = Undo::parse(&kind, &detail) else {
                    return Err(Error::Value { what: "ledger entry", value: format!("{kind} {detail}") });
                };
                let vm: Option<String> = row.get(1)?;
                let vm = vm.map(|id| crate::known("VM id", id, |id| VmId::try_from(id).ok())).transpose()?;
                entries.push(Entry { id: row.get(0)?, vm, undo, taken: row.get(4)? });
            }
            Ok(entries)
        })
    }
}
