//! The rows of a room, in whatever tables.

use std::ops::Bound;

use super::{Error, catalog::TABLES, field::bytes_of, ids::RoomNum, tx::Tx};

impl Tx {
    /// Removes rows of a room, at most `max`, from the tables whose keys begin with its number; how many.
    pub fn remove_rows_of(&self, room: RoomNum, max: usize) -> Result<usize, Error> {
        let start = bytes_of::<RoomNum>(&room);
        let end = bytes_of::<RoomNum>(&RoomNum(room.0.saturating_add(1)));
        let bounds = (Bound::Included(&*start), Bound::Excluded(&*end));
        let mut removed = 0;
        for table in TABLES.iter().filter(|table| table.is_by_room()) {
            if removed == max {
                break;
            }
            removed += self.remove_first(table.name, bounds, max - removed)?;
        }
        Ok(removed)
    }
}
