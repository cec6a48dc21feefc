//! Reports to the owner of the server.

use super::world::with_world;
use crate::{
    rooms::reports::{MAX_PER_REPORTER, MAX_REASON_BYTES, MAX_REPORTS, all, store},
    store::{
        UserNum,
        records::{Report, ReportTarget},
    },
};

fn report(reporter: u32, target: usize) -> Report {
    Report {
        reporter: UserNum(reporter),
        ts: 7,
        target: ReportTarget::User(format!("@{target}:here")),
        reason: "rude".to_owned(),
    }
}

#[test]
fn the_owner_reads_what_was_reported_in_order() {
    with_world(|world| {
        let event = ReportTarget::Event("!room:here".to_owned(), "$event".to_owned());
        let reports = [
            report(1, 5),
            Report {
                target: event,
                ..report(2, 0)
            },
            Report {
                target: ReportTarget::Room("!room:here".to_owned()),
                ..report(1, 0)
            },
        ];
        for report in &reports {
            store(world.tx, report)?;
        }
        let numbered: Vec<_> = (1..).zip(reports).collect();
        assert_eq!(all(world.tx)?, numbered);
        Ok(())
    });
}

#[test]
fn a_second_report_of_the_same_replaces_the_first() {
    with_world(|world| {
        store(world.tx, &report(1, 5))?;
        store(world.tx, &report(2, 5))?;
        let again = Report {
            reason: "still rude".to_owned(),
            ..report(1, 5)
        };
        store(world.tx, &again)?;
        assert_eq!(all(world.tx)?, [(2, report(2, 5)), (3, again)]);
        Ok(())
    });
}

#[test]
fn reports_are_limited_per_user_and_in_all_and_the_oldest_give_way() {
    with_world(|world| {
        store(world.tx, &report(0, 0))?;
        for target in 0..=MAX_PER_REPORTER {
            store(world.tx, &report(1, target))?;
        }
        let stored = all(world.tx)?;
        assert_eq!(stored.len(), 1 + MAX_PER_REPORTER);
        assert_eq!(stored[0].1, report(0, 0));
        assert_eq!(stored[1].1, report(1, 1));
        for reporter in 2..=MAX_REPORTS as u32 {
            store(world.tx, &report(reporter, 0))?;
        }
        let stored = all(world.tx)?;
        assert_eq!(stored.len(), MAX_REPORTS);
        assert_eq!(stored[MAX_REPORTS - 1].1, report(MAX_REPORTS as u32, 0));
        assert!(
            stored
                .iter()
                .all(|(_, report)| report.reporter != UserNum(0))
        );
        Ok(())
    });
}

#[test]
fn a_long_reason_is_cut_off_between_characters() {
    with_world(|world| {
        let long = Report {
            reason: "ä".repeat(MAX_REASON_BYTES) + "end",
            ..report(1, 1)
        };
        store(world.tx, &long)?;
        let stored = all(world.tx)?.remove(0).1;
        assert_eq!(stored.reason, "ä".repeat(MAX_REASON_BYTES / 2));
        Ok(())
    });
}
