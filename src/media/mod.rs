//! The media repository (client-server API, "Content Repository").
//!
//! - Owns the tables under "Media" in the README of `store/`, and the directory `media` beside the database.
//!   Equal files are stored once.
//! - A file is durable and in its place before a row names it. Files are added and removed under
//!   `Inner::commit_lock`.
//! - [`references`], [`remove_redacted`] and [`remove_uploads_of`] run in transactions of other modules.
//! - Nothing here sends requests to other servers; `federation/` fetches their media.

mod admin;
mod download;
mod error;
mod eviction;
mod files;
mod html_metadata;
mod pending;
mod picture;
pub mod references;
mod remote;
mod removal;
mod rows;
mod service;
mod startup;
mod sweep;
#[cfg(test)]
mod tests;
mod thumbnails;
mod upload;
mod upload_waiters;

pub use self::{
    admin::{MediaSelector, MediaUsage, Usage, bytes, delete, protect, quarantine, usage},
    error::Error,
    files::{
        FileId, FileReader, FileWriter, FinishedFile, file_path, files_directory, parse_file_id,
    },
    html_metadata::{PageMetadata, parse as parse_html_metadata},
    picture::PictureInfo,
    removal::{remove_redacted, remove_uploads_of},
    rows::{is_known, kept_files, remove_cached},
    service::{Media, MediaInfo, StoredMedia, is_media_id},
    thumbnails::ThumbnailRequest,
};
