//! Finds out which init an image has.

use model::init::{Init, LONGEST_TABLE, PROGRAM, TABLE};

use super::merge::Merge;
use crate::ext4;

/// The init of the image in `merge`; `None` where the agent has to be it.
pub(super) fn detect(merge: &mut Merge) -> Result<Option<Init>, ext4::Error> {
    let init = merge.resolve(PROGRAM.as_bytes())?.filter(|node| merge.is_program(*node));
    let Some(init) = init else { return Ok(None) };
    if let Some(known) = Init::of_program(merge.tree().name(init)) {
        return Ok(Some(known));
    }
    let table = merge.content(TABLE.as_bytes(), LONGEST_TABLE)?.unwrap_or_default();
    Init::of_table(&table, |program| Ok(merge.resolve(program)?.is_some_and(|node| merge.is_program(node))))
}
