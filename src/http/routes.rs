//! Everything that is served: the one list.
//!
//! Method, paths and authentication come from ruma's metadata. What differs from it, or what ruma has
//! no field for, follows the endpoint here: a rate limit, a larger body, a last argument that may be
//! empty.

use http::Method;

use super::{
    limits::{MAX_LARGE_BODY_BYTES, MAX_TRANSACTION_BYTES},
    route::{Handler, Route},
};
use crate::{
    api::{acme_challenge, admin, client, doctor, federation, health, metrics, welcome},
    rates::Kind,
};

/// The endpoints of the server.
pub(super) fn all() -> Vec<Route> {
    let mut routes = Routes::default();
    routes.add(health::health);
    routes.add(welcome::welcome);
    routes.add(acme_challenge::get_challenge);
    routes
        .add(doctor::echo)
        .also_path("/_matrix/federation/unstable/hearth.doctor/{nonce}/{text}");
    discovery(&mut routes);
    accounts(&mut routes);
    own_data(&mut routes);
    push_notifications(&mut routes);
    key_backup(&mut routes);
    rooms(&mut routes);
    ephemeral(&mut routes);
    events(&mut routes);
    media(&mut routes);
    routes.add(client::sync::sync);
    routes.add(client::old_sync::get_events);
    routes.add(client::old_sync::get_event).rate(Kind::Other);
    routes.add(client::old_sync::initial_sync);
    routes.add(client::sliding_sync::sliding_sync);
    between_servers(&mut routes);
    routes.add(admin::shared_secret::get_nonce);
    routes.add(admin::shared_secret::register);
    routes.add(admin::server_notices::send_server_notice);
    routes.add(admin::server_notices::send_server_notice_once);
    routes.add(admin::server_notices::announce);
    routes.0
}

/// What monitoring reads.
pub(super) fn metrics() -> Vec<Route> {
    vec![Route::new(metrics::metrics)]
}

/// The operations of the owner.
pub(super) fn admin() -> Vec<Route> {
    use admin::{
        backup, doctor, federation, invite, log, media, push, report, room, server_notices, status,
        user, why,
    };

    vec![
        Route::operation(
            "/_hearth/admin/v1/announce",
            server_notices::announce_as_owner,
        ),
        Route::operation("/_hearth/admin/v1/backup", backup::make),
        Route::operation("/_hearth/admin/v1/doctor", doctor::check),
        Route::operation("/_hearth/admin/v1/federation/retry", federation::retry),
        Route::operation("/_hearth/admin/v1/federation/show", federation::show),
        Route::operation("/_hearth/admin/v1/federation/status", federation::status),
        Route::operation("/_hearth/admin/v1/invite/list", invite::list),
        Route::operation("/_hearth/admin/v1/invite/new", invite::new),
        Route::operation("/_hearth/admin/v1/invite/revoke", invite::revoke),
        Route::operation("/_hearth/admin/v1/log", log::set_level),
        Route::operation("/_hearth/admin/v1/media/delete", media::delete),
        Route::operation("/_hearth/admin/v1/media/protect", media::protect),
        Route::operation("/_hearth/admin/v1/media/quarantine", media::quarantine),
        Route::operation("/_hearth/admin/v1/media/usage", media::usage),
        Route::operation("/_hearth/admin/v1/push/show", push::show),
        Route::operation("/_hearth/admin/v1/push/test", push::test),
        Route::operation("/_hearth/admin/v1/reports", report::list),
        Route::operation("/_hearth/admin/v1/room/block", room::block),
        Route::operation("/_hearth/admin/v1/room/blocked", room::blocked),
        Route::operation("/_hearth/admin/v1/room/delete", room::delete),
        Route::operation("/_hearth/admin/v1/room/deletion", room::deletion),
        Route::operation("/_hearth/admin/v1/room/leave", room::leave),
        Route::operation("/_hearth/admin/v1/room/list", room::list),
        Route::operation("/_hearth/admin/v1/room/members", room::members),
        Route::operation("/_hearth/admin/v1/room/show", room::show),
        Route::operation("/_hearth/admin/v1/room/unblock", room::unblock),
        Route::operation("/_hearth/admin/v1/status", status::status),
        Route::operation("/_hearth/admin/v1/user/add", user::add),
        Route::operation("/_hearth/admin/v1/user/admin", user::set_admin),
        Route::operation("/_hearth/admin/v1/user/check", user::check),
        Route::operation("/_hearth/admin/v1/user/deactivate", user::deactivate),
        Route::operation("/_hearth/admin/v1/user/list", user::list),
        Route::operation("/_hearth/admin/v1/user/lock", user::lock),
        Route::operation("/_hearth/admin/v1/user/logout", user::logout),
        Route::operation("/_hearth/admin/v1/user/password", user::password),
        Route::operation("/_hearth/admin/v1/user/rescue", user::rescue),
        Route::operation("/_hearth/admin/v1/user/sessions", user::sessions),
        Route::operation("/_hearth/admin/v1/user/show", user::show),
        Route::operation("/_hearth/admin/v1/user/suspend", user::suspend),
        Route::operation("/_hearth/admin/v1/why/join", why::join),
        Route::operation("/_hearth/admin/v1/why/push", why::push),
        Route::operation("/_hearth/admin/v1/why/send", why::send),
        Route::new(metrics::metrics),
    ]
}

fn discovery(routes: &mut Routes) {
    use client::discovery::{
        discover_homeserver, discover_support, get_capabilities, get_supported_versions,
    };

    routes.add(client::voip::get_turn_server_info);
    third_party_networks(routes);
    routes.add(get_supported_versions);
    routes.add(get_capabilities);
    routes.add(discover_homeserver);
    routes.add(discover_support);
    routes.add(federation::discovery::discover_homeserver);
}

fn third_party_networks(routes: &mut Routes) {
    use client::thirdparty;

    routes.add(thirdparty::get_protocols);
    routes.add(thirdparty::get_protocol);
    routes.add(thirdparty::get_location_for_protocol);
    routes.add(thirdparty::get_location_for_room_alias);
    routes.add(thirdparty::get_user_for_protocol);
    routes.add(thirdparty::get_user_for_user_id);
}

fn between_servers(routes: &mut Routes) {
    use federation::{
        device, directory, event, keys, membership, openid, query, space, thirdparty, timestamp,
        transaction, version,
    };

    routes.add(version::get_server_version);
    routes.add(keys::get_server_keys);
    routes.add(keys::get_remote_server_keys).rate(Kind::Other);
    routes
        .add(keys::get_remote_server_keys_batch)
        .rate(Kind::Other);
    routes.add(event::get_event);
    routes.add(event::get_backfill);
    routes.add(event::get_missing_events);
    routes.add(event::get_room_state_ids);
    routes.add(event::get_room_state);
    routes.add(event::get_event_authorization);
    routes.add(membership::prepare_join_event);
    routes.add(membership::create_join_event);
    routes
        .add(membership::create_join_event_v1)
        .path("/_matrix/federation/v1/send_join/{room_id}/{event_id}");
    routes.add(membership::prepare_leave_event);
    routes.add(membership::create_leave_event);
    routes
        .add(membership::create_leave_event_v1)
        .path("/_matrix/federation/v1/send_leave/{room_id}/{event_id}");
    routes.add(membership::prepare_knock_event);
    routes.add(membership::create_knock_event);
    routes.add(membership::create_invite);
    routes.add(membership::create_invite_v1);
    routes
        .add(transaction::send_transaction_message)
        .body(MAX_TRANSACTION_BYTES)
        .checks_depth();
    routes.add(query::get_profile_information);
    routes.add(query::get_room_information);
    routes.add(query::get_custom_information);
    routes.add(directory::get_public_rooms);
    routes.add(directory::get_public_rooms_filtered);
    routes.add(space::get_hierarchy);
    routes.add(timestamp::get_event_by_timestamp);
    routes.add(openid::get_openid_userinfo);
    routes.add(device::get_devices);
    routes.add(device::get_keys);
    routes.add(device::claim_keys);
    routes.add(federation::media::get_content);
    routes.add(federation::media::get_content_thumbnail);
    routes.add(thirdparty::exchange_invite);
    routes.add(thirdparty::bind_callback).rate(Kind::Other);
}

fn accounts(routes: &mut Routes) {
    use client::{
        account, admin, dehydrated_device, device, device_list, key_query, keys, openid, register,
        session, to_device, uiaa_page,
    };

    routes.add(register::get_username_availability);
    routes.add(register::check_registration_token_validity);
    routes.add(register::request_registration_token_via_email);
    routes.add(register::request_registration_token_via_msisdn);
    routes.add(register::register);
    routes.add(uiaa_page::get_uiaa_fallback_page);
    routes
        .add(uiaa_page::submit_uiaa_fallback_page)
        .method(Method::POST)
        .rate(Kind::Other);
    routes.add(session::get_login_types);
    routes.add(session::login).rate(Kind::Login);
    routes.add(session::sso_login);
    routes.add(session::sso_login_with_provider);
    routes.add(session::get_login_token);
    routes.add(session::refresh_token);
    routes.add(session::logout).while_locked();
    routes.add(session::logout_all).while_locked();
    routes.add(account::whoami);
    routes.add(admin::get_user_info);
    routes.add(admin::is_user_locked);
    routes.add(admin::lock_user);
    routes.add(admin::is_user_suspended);
    routes.add(admin::suspend_user);
    routes.add(account::change_password);
    routes.add(account::deactivate);
    routes.add(account::get_3pids);
    routes
        .add(account::add_3pid_deprecated)
        .method(Method::POST);
    routes.add(account::add_3pid);
    routes.add(account::bind_3pid);
    routes.add(account::delete_3pid);
    routes.add(account::unbind_3pid);
    routes.add(account::request_3pid_management_token_via_email);
    routes.add(account::request_3pid_management_token_via_msisdn);
    routes.add(account::request_password_change_token_via_email);
    routes.add(account::request_password_change_token_via_msisdn);
    routes.add(openid::request_openid_token);
    routes.add(device::get_devices);
    routes.add(device::get_device);
    routes.add(device::update_device);
    routes.add(device::delete_device);
    routes.add(device::delete_devices);
    routes
        .add(dehydrated_device::put_dehydrated_device)
        .body(MAX_LARGE_BODY_BYTES);
    routes.add(dehydrated_device::get_dehydrated_device);
    routes.add(dehydrated_device::delete_dehydrated_device);
    routes
        .add(dehydrated_device::get_events)
        .method(Method::GET);
    routes.add(dehydrated_device::post_events);
    routes.add(device_list::get_key_changes);
    routes
        .add(to_device::send_event_to_device)
        .rate(Kind::ToDevice)
        .body(MAX_LARGE_BODY_BYTES);
    routes.add(keys::upload_keys);
    routes.add(key_query::get_keys).body(MAX_LARGE_BODY_BYTES);
    routes.add(keys::claim_keys).body(MAX_LARGE_BODY_BYTES);
    routes.add(keys::upload_signing_keys);
    routes.add(keys::upload_signatures);
}

fn own_data(routes: &mut Routes) {
    use client::{config, filter, profile, tag};

    routes
        .add(profile::get_profile)
        .also_path("/_matrix/client/unstable/uk.tcpip.msc4133/profile/{user_id}");
    routes.add(profile::get_profile_field);
    routes.add(profile::set_profile_field).not_while_suspended();
    routes
        .add(profile::delete_profile_field)
        .not_while_suspended();
    routes.add(config::get_global_account_data);
    routes
        .add(config::set_global_account_data)
        .rate(Kind::Other);
    routes.add(config::get_room_account_data);
    routes.add(config::set_room_account_data).rate(Kind::Other);
    routes.add(tag::get_tags);
    routes.add(tag::create_tag).rate(Kind::Other);
    routes.add(tag::delete_tag).rate(Kind::Other);
    routes.add(filter::create_filter);
    routes.add(filter::get_filter);
}

fn push_notifications(routes: &mut Routes) {
    use client::{push, pusher};

    routes.add(pusher::get_pushers);
    routes.add(pusher::set_pusher).rate(Kind::Other);
    routes.add(pusher::get_notifications);
    routes.add(push::get_pushrules_all);
    routes.add(push::get_pushrules_global_scope);
    routes.add(push::get_pushrule);
    routes.add(push::get_pushrule_enabled);
    routes.add(push::get_pushrule_actions);
    routes.add(push::set_pushrule);
    routes.add(push::set_pushrule_enabled);
    routes.add(push::set_pushrule_actions);
    routes.add(push::delete_pushrule);
}

fn key_backup(routes: &mut Routes) {
    use client::backup;

    routes.add(backup::create_backup_version);
    routes.add(backup::get_latest_backup_info);
    routes.add(backup::get_backup_info);
    routes.add(backup::update_backup_version);
    routes.add(backup::delete_backup_version);
    routes
        .add(backup::add_backup_keys)
        .body(MAX_LARGE_BODY_BYTES);
    routes
        .add(backup::add_backup_keys_for_room)
        .body(MAX_LARGE_BODY_BYTES);
    routes.add(backup::add_backup_keys_for_session);
    routes.add(backup::get_backup_keys);
    routes.add(backup::get_backup_keys_for_room);
    routes.add(backup::get_backup_keys_for_session);
    routes.add(backup::delete_backup_keys);
    routes.add(backup::delete_backup_keys_for_room);
    routes.add(backup::delete_backup_keys_for_session);
}

fn rooms(routes: &mut Routes) {
    use client::{
        alias, directory, initial_sync, membership, mutual_rooms, reporting, room, space, summary,
        user_directory,
    };

    routes
        .add(room::create_room)
        .not_while_suspended()
        .rate(Kind::Send)
        .body(MAX_LARGE_BODY_BYTES);
    routes
        .add(room::upgrade_room)
        .not_while_suspended()
        .rate(Kind::Send);
    routes.add(room::aliases);
    routes
        .add(membership::join_room_by_id)
        .not_while_suspended();
    routes
        .add(membership::join_room_by_id_or_alias)
        .not_while_suspended();
    routes.add(membership::knock_room).not_while_suspended();
    routes.add(membership::leave_room);
    routes.add(membership::forget_room);
    routes.add(membership::invite_user).not_while_suspended();
    routes
        .add(membership::kick_user)
        .not_while_suspended()
        .rate(Kind::Send);
    routes
        .add(membership::ban_user)
        .not_while_suspended()
        .rate(Kind::Send);
    routes
        .add(membership::unban_user)
        .not_while_suspended()
        .rate(Kind::Send);
    routes.add(membership::joined_rooms);
    routes.add(alias::create_alias).not_while_suspended();
    routes.add(alias::get_alias);
    routes.add(alias::delete_alias).not_while_suspended();
    routes.add(directory::get_room_visibility);
    routes
        .add(directory::set_room_visibility)
        .not_while_suspended();
    routes.add(directory::get_public_rooms);
    routes.add(directory::get_public_rooms_filtered);
    routes.add(space::get_hierarchy);
    routes
        .add(initial_sync::room_initial_sync)
        .rate(Kind::Other);
    routes
        .add(user_directory::search_users)
        .rate(Kind::UserSearch);
    routes
        .add(summary::get_summary)
        .also_path("/_matrix/client/unstable/im.nheko.summary/summary/{room_id_or_alias}")
        .rate(Kind::Other);
    routes.add(reporting::report_content).rate(Kind::Report);
    routes.add(reporting::report_room).rate(Kind::Report);
    routes.add(reporting::report_user).rate(Kind::Report);
    routes.add(mutual_rooms::get_mutual_rooms);
    routes.add(mutual_rooms::get_mutual_rooms_unstable);
}

fn ephemeral(routes: &mut Routes) {
    use client::{presence, receipt, typing};

    routes
        .add(typing::create_typing_event)
        .not_while_suspended();
    routes.add(receipt::create_receipt);
    routes.add(receipt::set_read_marker);
    routes.add(presence::get_presence);
    routes.add(presence::set_presence);
}

fn events(routes: &mut Routes) {
    use client::{message, relations, search, state, timestamp};

    routes.add(message::send_message_event).rate(Kind::Send);
    routes.add(message::redact_event).rate(Kind::Send);
    routes.add(message::get_message_events);
    routes.add(message::get_room_event);
    routes.add(message::get_context);
    routes.add(relations::get_relating_events);
    routes.add(relations::get_relating_events_with_rel_type);
    routes.add(relations::get_relating_events_with_rel_type_and_event_type);
    routes.add(relations::get_threads);
    routes.add(search::search_events);
    routes.add(timestamp::get_event_by_timestamp);
    routes
        .add(state::send_state_event)
        .open_end()
        .rate(Kind::Send);
    routes.add(state::get_state_event_for_key).open_end();
    routes.add(state::get_state_events);
    routes.add(state::get_member_events);
    routes.add(state::joined_members);
}

fn media(routes: &mut Routes) {
    use client::media;

    routes
        .add(media::create_content)
        .also_path("/_matrix/media/v1/upload");
    routes.add(media::create_content_async);
    routes.add(media::create_mxc_uri);
    routes.add(media::get_content);
    routes.add(media::get_content_as_filename);
    routes.add(media::get_content_thumbnail);
    routes.add(media::get_media_preview);
    routes.add(media::get_media_preview_v3);
    routes.add(media::get_media_config);
    routes
        .add(media::get_media_config_v3)
        .also_path("/_matrix/media/v1/config");
    routes
        .add(media::get_content_v3)
        .also_path("/_matrix/media/v1/download/{server_name}/{media_id}");
    routes
        .add(media::get_content_as_filename_v3)
        .also_path("/_matrix/media/v1/download/{server_name}/{media_id}/{filename}");
    routes
        .add(media::get_content_thumbnail_v3)
        .also_path("/_matrix/media/v1/thumbnail/{server_name}/{media_id}");
}

#[derive(Default)]
pub(super) struct Routes(pub Vec<Route>);

impl Routes {
    pub(super) fn add<M, H: Handler<M>>(&mut self, handler: H) -> &mut Route {
        self.0.push(Route::new(handler));
        self.0.last_mut().expect("one was just added")
    }
}

#[cfg(test)]
mod tests {
    use super::{admin, all};

    #[test]
    fn what_the_owner_may_do_is_not_served_to_clients() {
        let (served, operations) = (all(), admin());
        let mut paths = operations.iter().flat_map(|route| &route.paths);
        assert!(paths.all(|path| !served.iter().any(|route| route.paths.contains(path))));
    }
}
