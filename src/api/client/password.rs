//! Checking of passwords, with limits against guessing that do not lock the owner out.
//!
//! Wrong passwords count per account and network, and per account over all networks together. Neither keeps
//! a user out of their account in a network from which they have logged in before: there only the rate of all
//! logins of the network limits guesses.

use crate::{
    api::{Api, Error},
    rates::Kind,
    users::{self, AuthenticatedUser, PasswordClient},
};

/// Authenticates `user`, a user id or a localpart.
pub(super) async fn authenticate(
    api: &Api,
    client: PasswordClient,
    user: &str,
    password: String,
) -> Result<AuthenticatedUser, Error> {
    let localpart = user.trim_start_matches('@').split(':').next();
    let account = localpart.unwrap_or_default().to_lowercase();
    let rates = &api.rates;
    // What is not wrong is given back. So concurrent guesses are no way around the limits.
    let give_back: Box<dyn Fn() + Send + Sync> = match client {
        PasswordClient::Device(device) => {
            rates.check(Kind::WrongPassword, device)?;
            Box::new(move || rates.refund(Kind::WrongPassword, device))
        }
        PasswordClient::Network(address) if api.users.has_logged_in_from(user, address)? => {
            Box::new(|| {})
        }
        PasswordClient::Network(address) => {
            rates.check_network(Kind::WrongPassword, address, &account)?;
            let give_back = {
                let account = account.clone();
                move || rates.refund_network(Kind::WrongPassword, address, &account)
            };
            if let Err(limited) = rates.check(Kind::WrongPasswordAccount, &account) {
                give_back();
                return Err(limited.into());
            }
            Box::new(move || {
                give_back();
                rates.refund(Kind::WrongPasswordAccount, &account);
            })
        }
    };
    let _turn = api.users.password_turn(client).await;
    let result = api.users.authenticate_by_password(user, password).await;
    if !matches!(result, Err(users::Error::WrongPassword)) {
        give_back();
    }
    Ok(result?)
}
