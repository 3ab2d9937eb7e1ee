//! Refusals of the API: the `Status` objects that a real API server sends, worded as it words them.

use axum::{
    body::Body,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use serde_json::{Value, json};

/// A refusal on its way to the client.
#[derive(Clone, Debug)]
pub(crate) struct Refusal {
    /// HTTP status.
    pub(crate) code: u16,
    /// `reason` of the Status, such as `NotFound`.
    pub(crate) reason: &'static str,
    /// The sentence.
    pub(crate) message: String,
    /// `details` of the Status.
    pub(crate) details: Value,
}

impl Refusal {
    fn new(code: u16, reason: &'static str, message: String) -> Self {
        Self { code, reason, message, details: json!({}) }
    }

    /// No object of this name.
    pub(crate) fn not_found(resource: &str, name: &str) -> Self {
        let details = json!({"name": name, "kind": resource});
        Self { details, ..Self::new(404, "NotFound", format!("{resource} \"{name}\" not found")) }
    }

    /// No such path: what a server says that does not know a subresource.
    pub(crate) fn no_such_resource() -> Self {
        let details = json!({"causes": [{"reason": "UnexpectedServerResponse", "message": "404 page not found"}]});
        Self { details, ..Self::new(404, "NotFound", "the server could not find the requested resource".into()) }
    }

    /// An authorizer or an admission plugin said no to the object `name` (none for a collection).
    pub(crate) fn forbidden(qualified_resource: &str, name: &str, why: &str) -> Self {
        let details = json!({"name": name, "kind": qualified_resource});
        let what =
            if name.is_empty() { qualified_resource.to_owned() } else { format!("{qualified_resource} \"{name}\"") };
        Self { details, ..Self::new(403, "Forbidden", format!("{what} is forbidden: {why}")) }
    }

    /// A token that nobody gave out.
    pub(crate) fn unauthorized() -> Self {
        Self::new(401, "Unauthorized", "Unauthorized".into())
    }

    /// The name is taken.
    pub(crate) fn already_exists(resource: &str, name: &str) -> Self {
        let details = json!({"name": name, "kind": resource});
        Self { details, ..Self::new(409, "AlreadyExists", format!("{resource} \"{name}\" already exists")) }
    }

    /// A pod that fails validation; `cause` is `FIELD: KIND: what`.
    pub(crate) fn invalid_pod(name: &str, field: &str, cause: &str) -> Self {
        let details = json!({"name": name, "kind": "Pod", "causes": [{"reason": "FieldValueInvalid", "message": cause, "field": field}]});
        Self { details, ..Self::new(422, "Invalid", format!("Pod \"{name}\" is invalid: {field}: {cause}")) }
    }

    /// A request that makes no sense.
    pub(crate) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(400, "BadRequest", message.into())
    }

    /// A content type that a patch cannot have.
    pub(crate) fn unsupported_media_type(message: impl Into<String>) -> Self {
        Self::new(415, "UnsupportedMediaType", message.into())
    }

    /// Something broke behind the API server.
    pub(crate) fn internal(why: impl AsRef<str>) -> Self {
        let why = why.as_ref();
        let details = json!({"causes": [{"message": why}]});
        Self { details, ..Self::new(500, "InternalError", format!("Internal error occurred: {why}")) }
    }

    /// Not a verb of this resource.
    pub(crate) fn method_not_allowed() -> Self {
        Self::new(405, "MethodNotAllowed", "the server does not allow this method on the requested resource".into())
    }

    /// The Status object.
    pub(crate) fn body(&self) -> Value {
        json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": self.message, "reason": self.reason, "details": self.details, "code": self.code,
        })
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        json_response(StatusCode::from_u16(self.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR), &self.body())
    }
}

/// `body` as an answer.
pub(crate) fn json_response(code: StatusCode, body: &Value) -> Response {
    let mut response = Response::new(Body::from(body.to_string()));
    *response.status_mut() = code;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
    response
}
