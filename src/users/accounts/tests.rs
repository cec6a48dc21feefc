use ruma::{profile::ProfileFieldValue::DisplayName, serde::JsonObject, user_id};

use crate::users::{
    AuthenticatedUser, Error, NewLogin, profiles,
    testing::{PASSWORD, Server, with_server},
};

async fn authenticate(
    server: &Server,
    user: &str,
    password: &str,
) -> Result<AuthenticatedUser, Error> {
    server
        .users
        .authenticate_by_password(user, password.into())
        .await
}

#[test]
fn the_first_account_administers_the_server() {
    with_server(async |server| {
        server.register("alice").await;
        server.register("bob").await;
        let admin = |user_id| server.users.account(user_id).unwrap().unwrap().1.admin;
        assert!(admin(user_id!("@alice:example.org")));
        assert!(!admin(user_id!("@bob:example.org")));
    });
}

#[test]
fn an_account_registered_with_the_shared_secret_is_admin_if_the_request_says_so() {
    with_server(async |server| {
        for (name, admin) in [("alice", false), ("bob", true)] {
            let mut account = server.account(name, None);
            account.admin = Some(admin);
            let user_id = account.user_id.clone();
            server.users.register(account).await.unwrap();
            assert_eq!(
                server.users.account(&user_id).unwrap().unwrap().1.admin,
                admin
            );
        }
    });
}

#[test]
fn a_username_is_registered_once() {
    with_server(async |server| {
        let (one, two) = (server.account("alice", None), server.account("alice", None));
        let (one, two) =
            smol::future::zip(server.users.register(one), server.users.register(two)).await;
        assert!(one.is_ok() != two.is_ok());
        assert!(matches!(one.and(two), Err(Error::UsernameInUse)));
        for taken in ["alice", "Alice"] {
            assert!(matches!(
                server.users.check_username(taken),
                Err(Error::UsernameInUse)
            ));
        }
    });
}

#[test]
fn a_user_id_that_rows_mention_can_still_be_registered() {
    with_server(async |server| {
        let known = server.store.write(|tx| tx.user_num("@alice:example.org"));
        let known = known.await.unwrap();
        let login = server.register("alice").await;
        assert_eq!(server.session(&login).await.user, known);
    });
}

#[test]
fn a_user_authenticates_by_user_id_or_localpart_in_any_case() {
    with_server(async |server| {
        server.register("alice").await;
        for user in ["alice", "ALICE", "@alice:example.org", "@Alice:example.org"] {
            let authenticated = authenticate(&server, user, PASSWORD).await.unwrap();
            assert_eq!(authenticated.user_id(), user_id!("@alice:example.org"));
        }
        for user in ["alic", "@alice:elsewhere.org", "", "@"] {
            assert!(matches!(
                authenticate(&server, user, PASSWORD).await,
                Err(Error::WrongPassword)
            ));
        }
    });
}

#[test]
fn an_authentication_by_password_fails_after_the_password_has_changed() {
    with_server(async |server| {
        let login = server.register("alice").await;
        let authenticated = authenticate(&server, "alice", PASSWORD).await.unwrap();
        let change =
            server
                .users
                .set_password(&login.user_id, "another password".into(), None, false);
        change.await.unwrap();
        assert!(matches!(
            server
                .users
                .log_in(authenticated, NewLogin::default())
                .await,
            Err(Error::WrongPassword)
        ));
        assert!(authenticate(&server, "alice", PASSWORD).await.is_err());
        assert!(
            authenticate(&server, "alice", "another password")
                .await
                .is_ok()
        );
    });
}

#[test]
fn a_password_change_can_log_out_every_other_device() {
    with_server(async |server| {
        let here = server.register("alice").await;
        let there = server.log_in("alice", NewLogin::default()).await;
        let bob = server.register("bob").await;
        let keep = server.session(&here).await.device;
        for (logout, stays) in [(false, true), (true, false)] {
            let password = "another password".into();
            let change = server
                .users
                .set_password(&here.user_id, password, Some(keep), logout);
            change.await.unwrap();
            assert!(server.is_logged_in(&here).await);
            assert_eq!(server.is_logged_in(&there).await, stays);
        }
        assert!(server.is_logged_in(&bob).await);
    });
}

#[test]
fn a_deactivated_account_cannot_log_in_and_its_username_stays_taken() {
    with_server(async |server| {
        let login = server.register_with("alice", refreshable()).await;
        let user = server.session(&login).await.user;
        let (token, _) = server.users.login_token(user).await.unwrap();
        let by_token = server
            .users
            .authenticate_by_login_token(&token.clone().into_string());
        server.deactivate(user, false).await;

        assert!(!server.is_logged_in(&login).await);
        let refresh = login.refresh_token.unwrap().into_string();
        assert!(server.users.refresh(&refresh).await.is_err());
        assert!(authenticate(&server, "alice", PASSWORD).await.is_err());
        assert!(matches!(
            server
                .users
                .log_in(by_token.unwrap(), NewLogin::default())
                .await,
            Err(Error::Deactivated)
        ));
        assert!(matches!(
            server.users.check_username("alice"),
            Err(Error::UsernameInUse)
        ));
        assert!(matches!(
            server
                .users
                .set_password(&login.user_id, "another password".into(), None, false)
                .await,
            Err(Error::Deactivated)
        ));
    });
}

#[test]
fn erasure_removes_profile_account_data_and_filters() {
    with_server(async |server| {
        for (name, erase) in [("alice", false), ("bob", true)] {
            let login = server.register(name).await;
            let user = server.session(&login).await.user;
            let name = profiles::Change::set(&DisplayName(name.into())).unwrap();
            server.change_profile(user, name).await.unwrap();
            let content = serde_json::value::to_raw_value(&serde_json::json!({})).unwrap();
            let set = server
                .users
                .set_account_data(user, None, "org.example".into(), content);
            set.await.unwrap();
            let filter = JsonObject::new();
            let filter = server.users.add_filter(user, &filter).await.unwrap();
            server.deactivate(user, erase).await;
            let empty = server.users.profile(&login.user_id).unwrap().iter().len() == 0;
            assert_eq!(empty, erase);
            let data = server.users.account_data(user, None, "org.example");
            assert_eq!(data.is_err(), erase);
            assert_eq!(
                server.users.filter::<JsonObject>(user, &filter).is_err(),
                erase
            );
        }
    });
}

#[test]
fn passwords_and_tokens_are_neither_stored_nor_in_debug_output() {
    with_server(async |server| {
        let login = server.register_with("alice", refreshable()).await;
        let user = server.session(&login).await.user;
        let (login_token, _) = server.users.login_token(user).await.unwrap();
        let authenticated = authenticate(&server, "alice", PASSWORD).await.unwrap();
        let account = server.account("bob", None);
        let shown = format!("{:?} {login:?} {authenticated:?} {account:?}", server.users);
        let secrets = [
            PASSWORD.to_owned(),
            login.access_token.into_string(),
            login.refresh_token.unwrap().into_string(),
            login_token.into_string(),
            "$argon2id$".to_owned(),
        ];
        for secret in &secrets {
            assert!(!shown.contains(secret), "{shown}");
        }
        for secret in &secrets[..4] {
            assert!(!server.database_contains(secret), "{secret}");
        }
        assert!(server.database_contains("$argon2id$"));
    });
}

fn refreshable() -> NewLogin {
    NewLogin {
        refreshable: true,
        ..NewLogin::default()
    }
}
