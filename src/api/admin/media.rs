//! Media.

use serde::Deserialize;
use serde_json::{Value, json};

use super::Nothing;
use crate::{
    api::{Api, Error},
    media::{self, MediaSelector},
};

/// How much space media use.
pub async fn usage(api: Api, _: Nothing) -> Result<Value, Error> {
    let scan = |s: &_| Ok::<_, Error>(media::usage(s)?);
    let usage = api.store.scan("the usage of media", scan).await?;
    let owners = usage.users.into_iter();
    let users: Vec<_> = owners
        .map(|(user, usage)| json!({ "user_id": user, "files": usage.files, "bytes": usage.bytes }))
        .collect();
    Ok(json!({
        "users": users,
        "cached": { "files": usage.cached.files, "bytes": usage.cached.bytes },
        "quarantined_files": usage.quarantined_files,
        "protected_files": usage.protected_files,
    }))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Selection {
    /// An `mxc://` URI, or the SHA-256 of the content.
    file: String,
}

/// Deletes a file and all its media ids.
pub async fn delete(api: Api, request: Selection) -> Result<Value, Error> {
    media::delete(&api.store, selector(&request.file)?).await?;
    log::info!("{} was deleted by the owner", request.file);
    Ok(json!({ "file": request.file, "deleted": true }))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Switch {
    file: String,
    is_set: bool,
}

/// Quarantines a file, or ends that.
pub async fn quarantine(api: Api, request: Switch) -> Result<Value, Error> {
    let Switch { file, is_set } = request;
    let quarantined = media::quarantine(&api.store, selector(&file)?, is_set).await;
    quarantined.map_err(|error| match error {
        media::Error::Protected => Error::invalid_param(
            "this file is protected: `hearth media protect --release` ends that",
        ),
        error => error.into(),
    })?;
    let change = if is_set { "is" } else { "is no longer" };
    log::info!("{file} {change} quarantined by the owner");
    Ok(json!({ "file": file, "quarantined": is_set }))
}

/// Protects a file, or ends that.
pub async fn protect(api: Api, request: Switch) -> Result<Value, Error> {
    let Switch { file, is_set } = request;
    let protected = media::protect(&api.store, selector(&file)?, api.clock.now_ms(), is_set).await;
    protected.map_err(|error| match error {
        media::Error::Quarantined => Error::invalid_param(
            "this file is quarantined: `hearth media quarantine --release` ends that",
        ),
        error => error.into(),
    })?;
    let change = if is_set { "is" } else { "is no longer" };
    log::info!("{file} {change} protected by the owner");
    Ok(json!({ "file": file, "protected": is_set }))
}

fn selector(file: &str) -> Result<MediaSelector, Error> {
    MediaSelector::parse(file).ok_or_else(|| {
        Error::invalid_param("a file is given by its mxc:// URI or the SHA-256 of its content")
    })
}
