//! Errors as answers: a status and an [`ErrorBody`].

use axum::{
    Json,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use wire::control::{Code, ErrorBody};

/// A request that failed.
#[derive(Debug)]
pub struct Fail(pub ErrorBody);

impl From<engine::Error> for Fail {
    fn from(error: engine::Error) -> Self {
        Self(error.to_body())
    }
}

impl Fail {
    /// A request that is wrong in itself.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self(ErrorBody::new(Code::Invalid, message))
    }
}

impl IntoResponse for Fail {
    fn into_response(self) -> Response {
        let status = match self.0.code {
            Code::Invalid | Code::Ambiguous => StatusCode::BAD_REQUEST,
            Code::Refused => StatusCode::UNPROCESSABLE_ENTITY,
            Code::NotFound => StatusCode::NOT_FOUND,
            Code::Gone => StatusCode::GONE,
            Code::Taken
            | Code::NotRunning
            | Code::Conflict
            | Code::InUse
            | Code::Cancelled
            | Code::VmEnded => StatusCode::CONFLICT,
            Code::Guest => StatusCode::BAD_GATEWAY,
            Code::Host | Code::Internal | Code::Unknown => StatusCode::INTERNAL_SERVER_ERROR,
        };
        (status, Json(self.0)).into_response()
    }
}
