//! The commands.

use std::{cell::RefCell, collections::HashMap, fs, pin::pin, sync::Arc};

use eyeball_im::{Vector, VectorDiff};
use futures_util::{Stream, StreamExt};
use matrix_sdk::{
    Client, Room, ThreadingSupport,
    authentication::matrix::MatrixSession,
    room::edit::EditedContent,
    ruma::{
        OwnedEventId, OwnedRoomId, RoomId,
        api::client::receipt::create_receipt::v3::ReceiptType,
        events::room::message::{RoomMessageEventContent, RoomMessageEventContentWithoutRelation},
    },
    store::RoomLoadSettings,
};
use matrix_sdk_ui::{
    notification_client::{NotificationClient, NotificationProcessSetup, NotificationStatus},
    room_list_service::{
        RoomListDynamicEntriesController, RoomListItem, RoomListLoadingState, filters,
    },
    sync_service::SyncService,
    timeline::{RoomExt, Timeline, TimelineEventItemId, TimelineFocus, TimelineItem},
};
use serde_json::{Value, json};
use tokio::task::spawn_local;

use crate::{Result, observed, snapshot};

const SESSION: &str = "session.json";
const PAGE: usize = 20;

pub struct App {
    url: String,
    client: RefCell<Option<Client>>,
    sync: RefCell<Option<Arc<SyncService>>>,
    room_list: RefCell<Option<RoomListDynamicEntriesController>>,
    timelines: RefCell<HashMap<String, Arc<Timeline>>>,
}

impl App {
    pub fn new(url: String) -> Self {
        Self {
            url,
            client: RefCell::default(),
            sync: RefCell::default(),
            room_list: RefCell::default(),
            timelines: RefCell::default(),
        }
    }

    pub async fn execute(&self, request: &Value) -> Result {
        match text(request, "command")? {
            "login" => self.login(request).await,
            "restore" => self.restore().await,
            "sync" => self.start_sync().await,
            "filter" => self.filter(request),
            "more" => self.more(),
            "create_encrypted" => self.create_encrypted(request).await,
            "join" => self.join(request).await,
            "decline" => Ok(self.room(request)?.leave().await?.into()),
            "favourite" => Ok(self
                .room(request)?
                .set_is_favourite(true, None)
                .await?
                .into()),
            "open" => self.open(request).await,
            "paginate" => self.paginate(request).await,
            "send" => self.send(request).await,
            "edit" => self.edit(request).await,
            "react" => self.react(request).await,
            "redact" => self.redact(request).await,
            "read" => self.read(request).await,
            "notification" => self.notification(request).await,
            command => Err(format!("unknown command {command}").into()),
        }
    }

    async fn build(&self) -> Result<Client> {
        let threads = ThreadingSupport::Enabled {
            with_subscriptions: true,
        };
        let client = Client::builder()
            .homeserver_url(&self.url)
            .sqlite_store("store", None)
            .with_threading_support(threads)
            .build()
            .await?;
        *self.client.borrow_mut() = Some(client.clone());
        Ok(client)
    }

    async fn login(&self, request: &Value) -> Result {
        let client = self.build().await?;
        let auth = client.matrix_auth();
        let login = auth.login_username(text(request, "user")?, text(request, "password")?);
        login
            .initial_device_display_name("matrix-sdk-ui")
            .send()
            .await?;
        client
            .encryption()
            .wait_for_e2ee_initialization_tasks()
            .await;
        let session = auth.session().ok_or("no session")?;
        fs::write(SESSION, serde_json::to_vec(&session)?)?;
        Ok(json!({ "user_id": session.meta.user_id, "device_id": session.meta.device_id }))
    }

    /// The session of a process that was killed.
    async fn restore(&self) -> Result {
        let client = self.build().await?;
        let session: MatrixSession = serde_json::from_slice(&fs::read(SESSION)?)?;
        let auth = client.matrix_auth();
        auth.restore_session(session, RoomLoadSettings::default())
            .await?;
        Ok(Value::Null)
    }

    /// Starts the `SyncService`, which goes on when the server is back, and shows the room list.
    async fn start_sync(&self) -> Result {
        let sync = SyncService::builder(self.client()?)
            .with_offline_mode()
            .build()
            .await?;
        let sync = Arc::new(sync);
        *self.sync.borrow_mut() = Some(sync.clone());
        let mut states = sync.state();
        spawn_local(async move {
            loop {
                observed("sync", json!({ "state": format!("{:?}", states.get()) }));
                if states.next().await.is_none() {
                    break;
                }
            }
        });
        let all_rooms = sync.room_list_service().all_rooms().await?;
        let mut loading = all_rooms.loading_state();
        spawn_local(async move {
            loop {
                if let RoomListLoadingState::Loaded {
                    maximum_number_of_rooms,
                } = loading.get()
                {
                    observed("count", json!({ "rooms": maximum_number_of_rooms }));
                }
                if loading.next().await.is_none() {
                    break;
                }
            }
        });
        let (sender, receiver) = tokio::sync::oneshot::channel();
        spawn_local(async move {
            let (entries, controller) = all_rooms.entries_with_dynamic_adapters(PAGE);
            controller.set_filter(Box::new(filters::new_filter_non_left()));
            let _ = sender.send(controller);
            follow(Vector::new(), entries, |rooms: &Vector<RoomListItem>| {
                let rooms: Vec<_> = rooms.iter().map(|room| snapshot::room(room)).collect();
                observed("rooms", json!({ "rooms": rooms }));
            })
            .await;
        });
        *self.room_list.borrow_mut() = Some(receiver.await?);
        sync.start().await;
        Ok(Value::Null)
    }

    fn filter(&self, request: &Value) -> Result {
        let filter: filters::BoxedFilterFn = match text(request, "kind")? {
            "all" => Box::new(filters::new_filter_non_left()),
            "unread" => Box::new(filters::new_filter_unread()),
            "favourite" => Box::new(filters::new_filter_favourite()),
            "invite" => Box::new(filters::new_filter_invite()),
            "people" => Box::new(filters::new_filter_category(filters::RoomCategory::People)),
            "name" => Box::new(filters::new_filter_fuzzy_match_room_name(text(
                request, "pattern",
            )?)),
            kind => return Err(format!("unknown filter {kind}").into()),
        };
        let room_list = self.room_list.borrow();
        let room_list = room_list.as_ref().ok_or("no room list")?;
        if !room_list.set_filter(filter) {
            return Err("the room list has ended".into());
        }
        Ok(Value::Null)
    }

    fn more(&self) -> Result {
        let room_list = self.room_list.borrow();
        room_list.as_ref().ok_or("no room list")?.add_one_page();
        Ok(Value::Null)
    }

    async fn create_encrypted(&self, request: &Value) -> Result {
        use matrix_sdk::ruma::{
            api::client::room::create_room::v3::{Request, RoomPreset},
            events::{InitialStateEvent, room::encryption::RoomEncryptionEventContent},
        };
        let mut wanted = Request::new();
        wanted.preset = Some(RoomPreset::PrivateChat);
        wanted.name = Some(text(request, "name")?.to_owned());
        wanted.invite = serde_json::from_value(request["invite"].clone())?;
        let encryption = RoomEncryptionEventContent::with_recommended_defaults();
        let encryption = InitialStateEvent::with_empty_state_key(encryption);
        wanted.initial_state = vec![encryption.to_raw_any()];
        let room = self.client()?.create_room(wanted).await?;
        Ok(json!({ "room": room.room_id() }))
    }

    async fn join(&self, request: &Value) -> Result {
        let room: OwnedRoomId = text(request, "room")?.try_into()?;
        self.client()?.join_room_by_id(&room).await?;
        Ok(Value::Null)
    }

    /// Opens a room as an app does, or one of its threads.
    async fn open(&self, request: &Value) -> Result {
        let room = self.room(request)?;
        let key = text(request, "key")?.to_owned();
        let service = self
            .sync
            .borrow()
            .as_ref()
            .ok_or("no sync")?
            .room_list_service();
        service.subscribe_to_rooms(&[room.room_id()]).await;
        let focus = match request["root"].as_str() {
            Some(root) => TimelineFocus::Thread {
                root_event_id: root.try_into()?,
            },
            None => TimelineFocus::Live {
                hide_threaded_events: true,
            },
        };
        let timeline = Arc::new(room.timeline_builder().with_focus(focus).build().await?);
        let (items, changes) = timeline.subscribe().await;
        let owner = timeline.clone();
        self.timelines.borrow_mut().insert(key.clone(), timeline);
        spawn_local(async move {
            let show = |items: &Vector<Arc<TimelineItem>>| {
                let items: Vec<_> = items
                    .iter()
                    .filter_map(|item| snapshot::item(item))
                    .collect();
                observed("timeline", json!({ "key": key, "items": items }));
            };
            show(&items);
            follow(items, changes, show).await;
            drop(owner);
        });
        Ok(Value::Null)
    }

    async fn paginate(&self, request: &Value) -> Result {
        let events = request["events"].as_u64().ok_or("no events")?;
        let is_start = self
            .timeline(request)?
            .paginate_backwards(events.try_into()?)
            .await?;
        Ok(json!({ "start": is_start }))
    }

    async fn send(&self, request: &Value) -> Result {
        let mut content = RoomMessageEventContent::text_plain(text(request, "body")?);
        if let Some(user) = request["mention"].as_str() {
            let user = user.try_into()?;
            content =
                content.add_mentions(matrix_sdk::ruma::events::Mentions::with_user_ids([user]));
        }
        self.timeline(request)?.send(content.into()).await?;
        Ok(Value::Null)
    }

    async fn edit(&self, request: &Value) -> Result {
        let body = RoomMessageEventContentWithoutRelation::text_plain(text(request, "body")?);
        let content = EditedContent::RoomMessage(body);
        self.timeline(request)?
            .edit(&event(request)?, content)
            .await?;
        Ok(Value::Null)
    }

    async fn react(&self, request: &Value) -> Result {
        let timeline = self.timeline(request)?;
        let is_added = timeline
            .toggle_reaction(&event(request)?, text(request, "emoji")?)
            .await?;
        Ok(json!({ "added": is_added }))
    }

    async fn redact(&self, request: &Value) -> Result {
        self.timeline(request)?
            .redact(&event(request)?, None)
            .await?;
        Ok(Value::Null)
    }

    async fn read(&self, request: &Value) -> Result {
        let is_sent = self
            .timeline(request)?
            .mark_as_read(ReceiptType::Read)
            .await?;
        Ok(json!({ "sent": is_sent }))
    }

    /// What a push that has only the ids of room and event becomes.
    async fn notification(&self, request: &Value) -> Result {
        let sync_service = self.sync.borrow().clone().ok_or("no sync")?;
        let setup = NotificationProcessSetup::SingleProcess { sync_service };
        let client = NotificationClient::new(self.client()?, setup).await?;
        let (room, id): (OwnedRoomId, OwnedEventId) = (
            text(request, "room")?.try_into()?,
            text(request, "id")?.try_into()?,
        );
        let status = client
            .get_notification_with_sliding_sync(&room, &id)
            .await?;
        Ok(match status {
            NotificationStatus::Event(item) => json!({
                "sender": item.event.sender(),
                "sender_name": item.sender_display_name,
                "room_name": item.room_computed_display_name,
                "is_noisy": item.is_noisy,
                "has_mention": item.has_mention,
                "event": snapshot::raw(&item.raw_event)?,
            }),
            other => json!({ "status": format!("{other:?}") }),
        })
    }

    fn client(&self) -> Result<Client> {
        Ok(self.client.borrow().clone().ok_or("not logged in")?)
    }

    fn room(&self, request: &Value) -> Result<Room> {
        let room = <&RoomId>::try_from(text(request, "room")?)?;
        Ok(self
            .client()?
            .get_room(room)
            .ok_or("the client does not know the room")?)
    }

    fn timeline(&self, request: &Value) -> Result<Arc<Timeline>> {
        let timelines = self.timelines.borrow();
        Ok(timelines
            .get(text(request, "key")?)
            .cloned()
            .ok_or("no such timeline")?)
    }
}

/// Shows the list after each batch of changes.
async fn follow<T: Clone>(
    mut items: Vector<T>,
    changes: impl Stream<Item = Vec<VectorDiff<T>>>,
    show: impl Fn(&Vector<T>),
) {
    let mut changes = pin!(changes);
    while let Some(batch) = changes.next().await {
        for change in batch {
            change.apply(&mut items);
        }
        show(&items);
    }
}

fn text<'a>(request: &'a Value, field: &str) -> Result<&'a str> {
    let text = request[field].as_str();
    Ok(text.ok_or_else(|| format!("expected a text in {field} of {request}"))?)
}

fn event(request: &Value) -> Result<TimelineEventItemId> {
    Ok(TimelineEventItemId::EventId(
        text(request, "id")?.try_into()?,
    ))
}
