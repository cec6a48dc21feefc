//! The table `resolved_servers`.

use ruma::ServerName;

use crate::store::{Error, Reader, Records, Rows, Tx, records::ResolvedServer};

/// When there are more rows, those that were cached first are removed.
const MAX_ROWS: u64 = 2000;
/// How many rows are removed at once.
const REMOVED: usize = 200;

pub fn get(r: &impl Reader, name: &ServerName) -> Result<Option<ResolvedServer>, Error> {
    r.resolved_servers()?.load(name.as_str())
}

pub fn put(tx: &Tx, name: &ServerName, resolved: &ResolvedServer) -> Result<(), Error> {
    let mut table = tx.resolved_servers()?;
    if table.len()? >= MAX_ROWS && !table.has(name.as_str())? {
        let mut all = Vec::new();
        for row in table.all()? {
            let (name, row) = row?;
            all.push((row.record(&name)?.until_ts, name.value().to_owned()));
        }
        all.sort_unstable();
        for (_, name) in all.into_iter().take(REMOVED) {
            table.remove(name.as_str())?;
        }
    }
    table.put(name.as_str(), resolved)
}
