use redb::{Database, TableDefinition};
use ruma::RoomId;
use serde_json::json;

use super::{
    local,
    world::{World, request},
};
use crate::{
    executor::Executor,
    pool::Pool,
    rooms::{
        Error,
        create::{self, presets},
    },
    store::{Options, Reader, RoomNum, Rows, Store, Tx},
};

const TABLE: TableDefinition<&[u8], &[u8]> = TableDefinition::new("room_types");
const VERSIONS: TableDefinition<&[u8], &[u8]> = TableDefinition::new("table_versions");

fn with_store<T>(directory: &std::path::Path, test: impl AsyncFnOnce(&Store) -> T) -> T {
    let options = Options {
        directory: directory.to_owned(),
        cache: 4 << 20,
    };
    let store = Store::open(&options, Pool::default()).expect("the store opens");
    let executor = Executor::default();
    smol::block_on(executor.run(async {
        let publishing = executor.spawn(store.clone().publish(|_| {}));
        let result = test(&store).await;
        store.close().await;
        publishing.await;
        result
    }))
}

fn types(r: &impl Reader) -> Result<Vec<(RoomNum, String)>, Error> {
    let rows = r.room_types()?;
    let types = rows.all()?.map(|row| {
        let (room, kind) = row?;
        Ok((room.value(), kind.value().to_owned()))
    });
    types.collect()
}

#[test]
fn a_database_without_the_types_of_rooms_gets_them_from_the_create_events() {
    let directory = tempfile::tempdir().expect("a directory");
    let before = with_store(directory.path(), async |store| {
        let job = |tx: &Tx| {
            let local = local();
            let world = World {
                tx,
                local: local.clone(),
            };
            let alice = world.user("alice")?;
            for kind in [json!("m.space"), json!(null), json!("org.example.board")] {
                let body = json!({ "creation_content": { "type": kind } });
                let id = RoomId::new_v1(local.server_name());
                let plan = presets::blueprint(&local, &alice.id, &request(&body), id)?;
                create::build(tx, &local, &alice, &plan)?;
            }
            Ok::<_, Error>(())
        };
        store.write(job).await.expect("rooms are made");
        store.read(types).expect("they can be read")
    });
    let kinds: Vec<&str> = before.iter().map(|(_, kind)| kind.as_str()).collect();
    assert_eq!(kinds, ["m.space", "org.example.board"]);
    let db = Database::create(directory.path().join("hearth.redb")).expect("it opens");
    let txn = db.begin_write().expect("begun");
    assert!(txn.delete_table(TABLE).expect("deleted"));
    {
        let mut versions = txn.open_table(VERSIONS).expect("the versions");
        let row = versions.remove(&b"room_types"[..]).expect("removed");
        assert!(row.is_some());
    }
    txn.commit().expect("committed");
    drop(db);
    let after = with_store(directory.path(), async |store| store.read(types));
    let after = after.expect("they can be read");
    assert_eq!(after, before);
}
