//! What is stored of where servers are.

use ruma::ServerName;

use crate::store::{Error, Reader, Records, Rows, Tx, records::ResolvedServer};

/// How many servers' whereabouts are stored. Whoever makes us look for servers that nobody needs has
/// those forgotten that were looked for the longest ago.
const MOST: u64 = 2000;
/// How many are forgotten at once.
const FORGOTTEN: usize = 200;

/// Where the server `name` was when it was last looked for.
pub fn get(r: &impl Reader, name: &ServerName) -> Result<Option<ResolvedServer>, Error> {
    r.resolved_servers()?.load(name.as_str())
}

/// Notes where the server `name` is.
pub fn put(tx: &Tx, name: &ServerName, found: &ResolvedServer) -> Result<(), Error> {
    let mut table = tx.resolved_servers()?;
    if table.len()? >= MOST && !table.has(name.as_str())? {
        let mut all = Vec::new();
        for row in table.range::<&str>(..)? {
            let (name, row) = row?;
            all.push((row.value().unpack()?.until_ts, name.value().to_owned()));
        }
        all.sort_unstable();
        for (_, name) in all.into_iter().take(FORGOTTEN) {
            table.remove(name.as_str())?;
        }
    }
    table.put(name.as_str(), found)
}
