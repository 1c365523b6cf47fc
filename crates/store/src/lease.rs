//! Leases of addresses on the bridge: each VM's number in its subnet, the lowest that is free.
//!
//! The same for groups, whose VMs share a number.
//!
//! A lease is a column of the VM's record, so it goes when the record does, after everything of the VM is known to be gone.

use std::{num::NonZeroU16, ops::RangeInclusive};

use model::GroupName;
use rusqlite::{Connection, OptionalExtension};

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

/// The number that the VMs of `group` have, or the lowest that no group has.
///
/// # Errors
/// Where the database cannot be read.
pub fn number_of(db: &Connection, group: &GroupName) -> Result<Option<NonZeroU16>> {
    let known = "SELECT group_number FROM vm WHERE group_name = ? LIMIT 1";
    let known: Option<u16> =
        db.prepare_cached(known)?.query_row([group.as_str()], |row| row.get(0)).optional()?;
    let free = "SELECT number FROM (SELECT 1 AS number UNION SELECT group_number + 1 FROM vm \
                WHERE group_number IS NOT NULL) \
                WHERE NOT EXISTS (SELECT 1 FROM vm WHERE group_number = number) ORDER BY number LIMIT 1";
    let number = match known {
        Some(number) => number,
        None => db.prepare_cached(free)?.query_row([], |row| row.get(0))?,
    };
    Ok(NonZeroU16::new(number))
}
