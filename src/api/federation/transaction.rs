//! Receiving transactions (server-server API, "Transactions").

use ruma::api::federation::transactions::send_transaction_message;

use crate::{
    api::{Api, Error, Origin},
    federation::inbound::edu::{self, Edus, EphemeralChange},
};

const MAX_PDUS: usize = 50;
const MAX_EDUS: usize = 100;

/// `PUT /_matrix/federation/v1/send/{txnId}`. Transaction ids are not stored: PDUs and to-device
/// messages of a repeated transaction are deduplicated by their own ids.
pub async fn send_transaction_message(
    api: Api,
    origin: Origin,
    request: send_transaction_message::v1::Request,
) -> Result<send_transaction_message::v1::Response, Error> {
    if request.origin != origin.server {
        let (found, expected) = (&request.origin, &origin.server);
        return Err(Error::forbidden(format!(
            "origin is {found}, expected {expected}"
        )));
    }
    let (pdus, edus) = (request.pdus.len(), request.edus.len());
    if pdus > MAX_PDUS || edus > MAX_EDUS {
        return Err(Error::bad_json(format!(
            "the transaction has {pdus} PDUs and {edus} EDUs, at most {MAX_PDUS} and {MAX_EDUS} are allowed"
        )));
    }
    let edus = Edus::parse(&api.pool, origin.server.clone(), request.edus).await?;
    edu::deliver_to_device(
        &api.store,
        &origin.server,
        edus.to_device,
        api.clock.now_ms(),
    )
    .await?;
    let results = api
        .federation
        .receive_pdus(&origin.server, request.pdus)
        .await?;
    let announce = |change| match change {
        EphemeralChange::Typing(room) => {
            api.typing
                .changed(room, api.notifier.ephemeral_changed_in(room));
        }
        EphemeralChange::Presence(user, observers) => {
            let number = api.notifier.ephemeral_changed_for(observers);
            api.presence.set_change_number(user, number);
        }
    };
    let (typing, presence) = (&api.typing, &api.presence);
    api.federation
        .receive_edus(&origin.server, edus.others, typing, presence, &announce)
        .await?;
    Ok(send_transaction_message::v1::Response::new(results))
}
