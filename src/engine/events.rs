//! The engine's past container events.

use std::collections::HashMap;

use serde::Deserialize;
use serde_json::json;

use super::Engine;
use super::wire::{encode, stamp};
use crate::units::Time;
use crate::world::{EngineError, ImageEvent};

impl Engine {
    /// The images of the container events since then, as far as the engine remembers them: it
    /// replays at most its last 256 events of any kind (observed on 20.10 to 29).
    pub async fn uses(&self, since: Time, until: Time) -> Result<Vec<ImageEvent>, EngineError> {
        #[derive(Deserialize)]
        struct Event {
            #[serde(rename = "Action")]
            action: String,
            #[serde(rename = "Actor")]
            actor: Actor,
            #[serde(rename = "timeNano")]
            time_nano: i64,
        }
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Actor {
            attributes: Option<HashMap<String, String>>,
        }
        let filters = json!({"type": ["container"]}).to_string();
        let (since, until) = (stamp(since), stamp(until));
        let path = format!("/events?since={since}&until={until}&filters={}", encode(&filters));
        let events: Vec<Event> = self.get_lines(&path).await?;
        let uses = events.into_iter().filter_map(|event| {
            let image = event.actor.attributes?.remove("image")?;
            let at = Time::from_nanosecond(event.time_nano.into()).ok()?;
            Some(ImageEvent { image, at, is_creation: event.action == "create" })
        });
        Ok(uses.collect())
    }
}
