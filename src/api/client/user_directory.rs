//! The user directory (client-server API, "User Directory").

use ruma::api::client::user_directory::search_users::v3::{Request, Response};

use crate::{
    api::{Api, Error, Session},
    config::UserDirectory,
    rooms::{
        self,
        directory::users::{self, Search},
    },
};

const MAX_RESULTS: usize = 50;

/// `POST /_matrix/client/v3/user_directory/search`
pub async fn search_users(api: Api, session: Session, request: Request) -> Result<Response, Error> {
    let limit = usize::try_from(request.limit)
        .unwrap_or(MAX_RESULTS)
        .min(MAX_RESULTS);
    let (local, scope) = (api.local.clone(), api.config.user_directory);
    let search = move |s: &_| {
        let search = Search {
            local: &local,
            asker: session.user,
            term: &request.search_term,
            finds_all_local: scope == UserDirectory::Local,
            limit,
        };
        let (found, limited) = users::search(s, &search)?;
        Ok::<_, rooms::Error>(Response::new(found, limited))
    };
    Ok(api.store.scan("user directory", search).await?)
}
