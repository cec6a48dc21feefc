//! The supported room versions and their rules.

use ruma::{
    RoomVersionId,
    room_version_rules::{EventIdFormatVersion, RoomVersionRules},
};

/// The default room version.
///
/// Source: the spec's [room versions](https://spec.matrix.org/v1.19/rooms/#complete-list-of-room-versions).
pub const DEFAULT: RoomVersionId = RoomVersionId::V12;

/// Oldest first. All are stable.
pub const SUPPORTED: [RoomVersionId; 12] = [
    RoomVersionId::V1,
    RoomVersionId::V2,
    RoomVersionId::V3,
    RoomVersionId::V4,
    RoomVersionId::V5,
    RoomVersionId::V6,
    RoomVersionId::V7,
    RoomVersionId::V8,
    RoomVersionId::V9,
    RoomVersionId::V10,
    RoomVersionId::V11,
    RoomVersionId::V12,
];

/// `None` if the version is not supported.
pub fn rules(version: &RoomVersionId) -> Option<&'static RoomVersionRules> {
    Some(match version {
        RoomVersionId::V1 => &RoomVersionRules::V1,
        RoomVersionId::V2 => &RoomVersionRules::V2,
        RoomVersionId::V3 => &RoomVersionRules::V3,
        RoomVersionId::V4 => &RoomVersionRules::V4,
        RoomVersionId::V5 => &RoomVersionRules::V5,
        RoomVersionId::V6 => &RoomVersionRules::V6,
        RoomVersionId::V7 => &RoomVersionRules::V7,
        RoomVersionId::V8 => &RoomVersionRules::V8,
        RoomVersionId::V9 => &RoomVersionRules::V9,
        RoomVersionId::V10 => &RoomVersionRules::V10,
        RoomVersionId::V11 => &RoomVersionRules::V11,
        RoomVersionId::V12 => &RoomVersionRules::V12,
        _ => return None,
    })
}

/// Whether a room of the version may be made. In the first two versions, event ids do not depend on the events,
/// so a server can give two events the same id.
pub fn may_be_created(rules: &RoomVersionRules) -> bool {
    rules.event_id_format != EventIdFormatVersion::V1
}

#[cfg(test)]
mod tests {
    use super::{DEFAULT, SUPPORTED, may_be_created, rules};

    #[test]
    fn only_supported_versions_have_rules() {
        assert!(SUPPORTED.iter().all(|version| rules(version).is_some()));
        for other in ["0", "13", "org.example.custom"] {
            let version = other.try_into().unwrap();
            assert!(
                !SUPPORTED.contains(&version) && rules(&version).is_none(),
                "{other}"
            );
        }
    }

    #[test]
    fn rooms_of_the_first_two_versions_are_not_created() {
        let rules = SUPPORTED.iter().filter_map(rules);
        assert_eq!(
            rules.clone().filter(|rules| may_be_created(rules)).count(),
            10
        );
        assert_eq!(
            rules.take(2).filter(|rules| may_be_created(rules)).count(),
            0
        );
    }

    #[test]
    fn the_default_version_is_supported() {
        assert!(SUPPORTED.contains(&DEFAULT));
    }
}
