//! The supported room versions and their rules.

use ruma::{RoomVersionId, room_version_rules::RoomVersionRules};

/// The default room version.
///
/// Source: the spec's [room versions](https://spec.matrix.org/v1.19/rooms/#complete-list-of-room-versions).
pub const DEFAULT: RoomVersionId = RoomVersionId::V12;

/// Oldest first. All are stable.
pub const SUPPORTED: [RoomVersionId; 7] = [
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
    fn only_supported_versions_have_rules() {
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
