//! What Outrigger does in a cluster besides answering: certificates, registration, and going away again.
//!
//! ```text
//! Secret ◀──▶ authority ──bundle──▶ registration ◀──▶ webhook configurations, CRDs
//!                 │  ◀──published──────┘
//!                 └─▶ Resolver (the server's certificate)
//! ```
//!
//! The two talk by two channels: which CAs clients shall trust, and which ones every registered object carries.

pub mod authority;
pub mod leader;
pub mod registration;
pub mod trust;
pub mod uninstall;

use std::time::Duration;

use crate::telemetry::chain;

/// No call to the API server takes longer.
pub(crate) const CALL: Duration = Duration::from_secs(10);

/// Field owner of everything that Outrigger writes.
pub const FIELD_OWNER: &str = "outrigger";

/// A call to the API server that did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// No answer in time.
    #[error("the API server did not answer within {} s", CALL.as_secs())]
    Slow,
    /// It answered, but not as hoped, or could not be reached.
    #[error("{}", chain(.0))]
    Kube(kube::Error),
}

// === impl CallError ===

impl From<kube::Error> for CallError {
    fn from(error: kube::Error) -> Self {
        Self::Kube(error)
    }
}

impl CallError {
    /// The HTTP status, when there was an answer.
    pub fn code(&self) -> Option<u16> {
        match self {
            Self::Kube(kube::Error::Api(status)) => Some(status.code),
            _ => None,
        }
    }
}

/// One call, bounded in time.
pub(crate) async fn call<T>(made: impl Future<Output = Result<T, kube::Error>>) -> Result<T, CallError> {
    match tokio::time::timeout(CALL, made).await {
        Ok(answer) => Ok(answer?),
        Err(_) => Err(CallError::Slow),
    }
}
