//! The user directory (client-server API, "User Directory").

use ruma::api::client::user_directory::search_users::v3::{Request, Response};

use crate::{
    api::{Api, Error, Session},
    rooms::{self, directory::users},
};

const MAX_RESULTS: usize = 50;

/// `POST /_matrix/client/v3/user_directory/search`
pub async fn search_users(api: Api, session: Session, request: Request) -> Result<Response, Error> {
    let limit = usize::try_from(request.limit)
        .unwrap_or(MAX_RESULTS)
        .min(MAX_RESULTS);
    let search = move |s: &_| {
        let mut found = users::search(s, session.user, &request.search_term, limit + 1)?;
        let limited = found.len() > limit;
        found.truncate(limit);
        Ok::<_, rooms::Error>(Response::new(found, limited))
    };
    Ok(api.store.scan("user directory", search).await?)
}
