//! Leases of addresses on the bridge: each VM's number in its subnet, the lowest that is free.
//!
//! A lease is a column of the VM's record, so it goes when the record does, after everything of the VM is known to be gone.

use std::ops::RangeInclusive;

use rusqlite::Connection;

use crate::{Error, Result};

/// The numbers that there are for VMs.
pub type Numbers = RangeInclusive<u16>;

/// The lowest of `numbers` that no VM has.
///
/// # Errors
/// [`Error::NoAddress`] where there is none.
pub fn lowest_free(db: &Connection, numbers: &Numbers) -> Result<u16> {
    let (first, last) = (*numbers.start(), *numbers.end());
    let leased = "SELECT count(*), max(host_number) FROM vm WHERE host_number BETWEEN ? AND ?";
    let (count, highest): (u32, Option<u16>) =
        db.prepare_cached(leased)?.query_row([first, last], |row| Ok((row.get(0)?, row.get(1)?)))?;
    match highest {
        None => Ok(first),
        Some(_) if count as usize == numbers.len() => Err(Error::NoAddress(numbers.len())),
        // Without a gap, which is how it mostly is, the next one is known without looking for it.
        Some(highest) if count == u32::from(highest - first) + 1 => Ok(highest + 1),
        Some(_) => gap(db, first, last),
    }
}

/// The lowest free number where there is one below a leased one.
fn gap(db: &Connection, first: u16, last: u16) -> Result<u16> {
    let is_leased = "SELECT EXISTS (SELECT 1 FROM vm WHERE host_number = ?)";
    if !db.prepare_cached(is_leased)?.query_row([first], |row| row.get(0))? {
        return Ok(first);
    }
    let behind = "SELECT host_number + 1 FROM vm WHERE host_number BETWEEN ?1 AND ?2 \
                  AND NOT EXISTS (SELECT 1 FROM vm AS next WHERE next.host_number = vm.host_number + 1) \
                  ORDER BY host_number LIMIT 1";
    Ok(db.prepare_cached(behind)?.query_row([first, last], |row| row.get(0))?)
}
