//! What other servers send.

use ruma::api::federation::transactions::send_transaction_message;

use super::edu;
use crate::api::{Api, Error, Origin};

/// How many events and how many ephemeral messages a transaction may have.
///
/// Source: server-server API, "Transactions".
const PDUS: usize = 50;
const EDUS: usize = 100;

/// `PUT /_matrix/federation/v1/send/{txnId}`. A transaction that comes again finds its events here,
/// so nothing need be known of it.
pub async fn send_transaction_message(
    api: Api,
    who: Origin,
    request: send_transaction_message::v1::Request,
) -> Result<send_transaction_message::v1::Response, Error> {
    if request.origin != who.server {
        return Err(Error::forbidden("the transaction is another server's"));
    }
    if request.pdus.len() > PDUS || request.edus.len() > EDUS {
        return Err(Error::bad_json(
            "a transaction has at most 50 PDUs and 100 EDUs",
        ));
    }
    let (messages, others) = edu::read(&who.server, request.edus);
    // They wait for nothing that the events may need from elsewhere. Whether the others concern anybody
    // depends on who joins by the events.
    edu::deliver(&api, &who.server, messages).await?;
    let results = api.federation.receive(&who.server, request.pdus).await;
    edu::take(&api, &who.server, others).await?;
    Ok(send_transaction_message::v1::Response::new(results))
}
