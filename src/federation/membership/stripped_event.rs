use ruma::api::federation::membership::RawStrippedState;

/// The JSON of an event of `invite_room_state` or `knock_room_state`: a PDU, or an event that is already
/// stripped.
pub fn stripped_event_json(event: &RawStrippedState) -> &str {
    match event {
        RawStrippedState::Pdu(event) => event.get(),
        #[expect(deprecated, reason = "servers of before Matrix 1.16 send it")]
        RawStrippedState::Stripped(event) => event.json().get(),
        _ => "",
    }
}
