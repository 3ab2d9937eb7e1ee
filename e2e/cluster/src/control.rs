//! `/standin/…`: what no real cluster has, for a suite that runs the stand-in as a process of its own. Only for the administrator.
//!
//! - `faults`: `{"namespace", "faults"}` sets the faults ([`crate::Faults`] as JSON; without them they are only read)
//! - `cut`: `{"namespace"}` cuts all exec connections, gives their number
//! - `kill`: `{"namespace", "pod", "container"}`
//! - `script`: `{"resource", "namespace", "name", "patch"}`

use std::sync::Arc;

use axum::{http::StatusCode, response::Response};
use serde_json::{Value, json};

use crate::{
    faults::Faults,
    node::text,
    server::App,
    status::{Refusal, json_response},
};

/// Carries out an order.
pub(crate) async fn answer(app: &Arc<App>, order: &str, body: Value) -> Result<Response, Refusal> {
    let done = match order {
        "faults" => {
            let namespace = text(&body["namespace"]);
            if !body["faults"].is_null() {
                let faults: Faults = serde_json::from_value(body["faults"].clone())
                    .map_err(|why| Refusal::bad_request(why.to_string()))?;
                app.board.set(&namespace, faults);
            }
            json!(app.board.get(&namespace))
        }
        "cut" => json!({"cut": app.board.cut_now(&text(&body["namespace"]))}),
        "kill" => {
            let key = ("pods".into(), text(&body["namespace"]), text(&body["pod"]));
            app.node
                .kill(&key, &text(&body["container"]))
                .await
                .map_err(|why| Refusal::bad_request(format!("{why:#}")))?;
            json!({})
        }
        "script" => {
            let key = (text(&body["resource"]), text(&body["namespace"]), text(&body["name"]));
            let updated = app.store.update(&key, |object| json_patch::merge(object, &body["patch"]));
            updated.or_else(|| app.store.create(key, body["patch"].clone())).unwrap_or_default()
        }
        _ => return Err(Refusal::no_such_resource()),
    };
    Ok(json_response(StatusCode::OK, &done))
}
