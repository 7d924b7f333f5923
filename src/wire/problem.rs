//! Errors on the wire: problem details for HTTP APIs (RFC 9457) with a stable code.

use serde::{Deserialize, Serialize};

/// Media type of an error body (RFC 9457, section 3).
pub const MEDIA_TYPE: &str = "application/problem+json";

/// The sandbox could not be set up; nothing ran (`belljar run` exits with 125).
pub const SETUP_FAILED: &str = "setup-failed";
/// The command was found and cannot be executed (126).
pub const COMMAND_NOT_EXECUTABLE: &str = "command-not-executable";
/// The command was not found (127).
pub const COMMAND_NOT_FOUND: &str = "command-not-found";

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// Stable and for programs, such as `workspace-not-found`.
    pub code: String,
    /// The HTTP status, again.
    pub status: u16,
    pub title: String,
    /// The whole sentence for people: what was being done, to what, why not, what to do.
    pub detail: String,
}
