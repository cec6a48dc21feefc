//! Which room versions are spoken, and the rules of each.

use ruma::{RoomVersionId, room_version_rules::RoomVersionRules};

/// The version of a room that is made without asking for one.
///
/// Source: the spec's [room versions](https://spec.matrix.org/v1.19/rooms/#complete-list-of-room-versions).
pub const DEFAULT: RoomVersionId = RoomVersionId::V12;

/// The versions that rooms can have here, oldest first. All are stable.
pub const SUPPORTED: [RoomVersionId; 7] = [
    RoomVersionId::V6,
    RoomVersionId::V7,
    RoomVersionId::V8,
    RoomVersionId::V9,
    RoomVersionId::V10,
    RoomVersionId::V11,
    RoomVersionId::V12,
];

/// The rules of a room version, or `None` if rooms of that version are not supported.
pub fn rules(version: &RoomVersionId) -> Option<&'static RoomVersionRules> {
    Some(match version {
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

#[cfg(test)]
mod tests {
    use super::{DEFAULT, SUPPORTED, rules};

    #[test]
    fn every_supported_version_has_rules_and_no_other_has() {
        assert!(SUPPORTED.iter().all(|version| rules(version).is_some()));
        for other in ["1", "2", "3", "4", "5", "13", "org.example.custom"] {
            let version = other.try_into().unwrap();
            assert!(
                !SUPPORTED.contains(&version) && rules(&version).is_none(),
                "{other}"
            );
        }
    }

    #[test]
    fn the_default_version_is_supported() {
        assert!(SUPPORTED.contains(&DEFAULT));
    }
}
