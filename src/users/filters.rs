//! Stored filters (client-server API, "Filtering").

use ruma::serde::JsonObject;
use serde::de::DeserializeOwned;

use super::{Error, Users};
use crate::store::{self, Reader, Rows, Tx, UserNum};

const MAX_FILTER_BYTES: usize = 64 * 1024;
const MAX_FILTERS_PER_USER: usize = 500;

fn load<T: DeserializeOwned>(reader: &impl Reader, user: UserNum, id: &str) -> Result<T, Error> {
    const NO_FILTER: Error = Error::NotFound("you have no filter with this id");
    let num: u32 = id.parse().map_err(|_| NO_FILTER)?;
    let filters = reader.filters()?;
    let row = filters.get((user, num))?.ok_or(NO_FILTER)?;
    serde_json::from_str(row.value())
        .map_err(|_| store::Error::corrupt("filters", (user, num), "not a filter").into())
}

pub(super) fn remove_all(tx: &Tx, user: UserNum) -> Result<(), store::Error> {
    tx.filters()?.remove_prefix(user)
}

/// The number of `filter`, which is inserted if it is not there.
fn get_or_insert(tx: &Tx, user: UserNum, filter: &str) -> Result<u32, Error> {
    let mut count = 0;
    let mut next = 0;
    for row in tx.filters()?.prefix(user)? {
        let (key, stored) = row?;
        let (_, num) = key.value();
        if stored.value() == filter {
            return Ok(num);
        }
        count += 1;
        next = num + 1;
    }
    if count >= MAX_FILTERS_PER_USER {
        return Err(Error::TooMany("a user has at most 500 filters"));
    }
    tx.filters()?.insert((user, next), filter)?;
    Ok(next)
}

impl Users {
    /// A stored filter, parsed or as the client wrote it.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub fn filter<T: DeserializeOwned>(&self, user: UserNum, id: &str) -> Result<T, Error> {
        self.store.read(|s| load(s, user, id))
    }

    /// Stores a filter and returns its id. An equal filter has the same id.
    ///
    /// # Errors
    /// [`Error::TooLarge`] or [`Error::TooMany`].
    pub async fn add_filter(&self, user: UserNum, filter: &JsonObject) -> Result<String, Error> {
        let filter =
            serde_json::to_string(filter).map_err(|_| Error::BadJson("this is not a filter"))?;
        if filter.len() > MAX_FILTER_BYTES {
            return Err(Error::TooLarge("a filter has at most 64 KiB"));
        }
        let num = self
            .store
            .write(move |tx| get_or_insert(tx, user, &filter))
            .await?;
        Ok(num.to_string())
    }
}

#[cfg(test)]
mod tests {
    use ruma::api::client::filter::FilterDefinition;
    use serde_json::json;

    use super::*;
    use crate::users::testing::{across_a_restart, with_server};

    fn object(filter: serde_json::Value) -> JsonObject {
        serde_json::from_value(filter).unwrap()
    }

    fn with_limit(limit: u32) -> JsonObject {
        object(json!({ "room": { "timeline": { "limit": limit } } }))
    }

    #[test]
    fn the_same_filter_has_the_same_id_and_survives_a_restart() {
        across_a_restart(
            async |server| {
                let login = server.register("alice").await;
                let user = server.session(&login).await.user;
                let mut ids = Vec::new();
                for limit in [1, 2, 1] {
                    ids.push(
                        server
                            .users
                            .add_filter(user, &with_limit(limit))
                            .await
                            .unwrap(),
                    );
                }
                assert_eq!(ids[0], ids[2]);
                assert_ne!(ids[0], ids[1]);
                (user, ids)
            },
            async |server, (user, ids)| {
                let filter: FilterDefinition = server.users.filter(user, &ids[1]).unwrap();
                assert_eq!(filter.room.timeline.limit, Some(2_u32.into()));
                let other = UserNum(user.0 + 1);
                for (user, id) in [(user, "17"), (user, "{}"), (user, ""), (other, &*ids[0])] {
                    assert!(matches!(
                        server.users.filter::<JsonObject>(user, id),
                        Err(Error::NotFound(_))
                    ));
                }
            },
        );
    }

    #[test]
    fn filters_are_limited_in_size_and_number() {
        with_server(async |server| {
            let login = server.register("alice").await;
            let user = server.session(&login).await.user;
            let large = object(json!({ "event_fields": ["x".repeat(64 * 1024)] }));
            assert!(matches!(
                server.users.add_filter(user, &large).await,
                Err(Error::TooLarge(_))
            ));
            let fill = server.store.write(move |tx| {
                for limit in 0..MAX_FILTERS_PER_USER as u32 {
                    get_or_insert(
                        tx,
                        user,
                        &serde_json::to_string(&with_limit(limit)).unwrap(),
                    )?;
                }
                Ok::<_, Error>(())
            });
            fill.await.unwrap();
            assert!(matches!(
                server.users.add_filter(user, &with_limit(100_000)).await,
                Err(Error::TooMany(_))
            ));
            assert!(server.users.add_filter(user, &with_limit(7)).await.is_ok());
        });
    }
}
