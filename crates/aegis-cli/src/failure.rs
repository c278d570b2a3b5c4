//! A command's failure: what to say and how to exit.

use aegis_api::error::{ApiError, ErrorCode};
use aegis_client::ClientError;

/// Exit code of a failure of Aegis.
pub const FAILED: i32 = 1;
/// Exit code of `run` and `exec` when Aegis itself failed, as of `docker run`.
pub const AEGIS_FAILED: i32 = 125;
/// Exit code of a command that cannot be executed.
pub const NOT_EXECUTABLE: i32 = 126;
/// Exit code of a command that does not exist.
pub const NOT_FOUND: i32 = 127;

/// A command's failure.
#[derive(Debug)]
pub struct Failure {
    /// The cause.
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
    /// How to exit.
    pub exit_code: i32,
    pub(crate) code: Option<ErrorCode>,
    pub(crate) no_daemon: bool,
}

impl Failure {
    /// A failure without a remedy.
    pub fn new(message: impl Into<String>) -> Failure {
        Failure { message: message.into(), hint: None, exit_code: FAILED, code: None, no_daemon: false }
    }

    /// The same failure in doing something with an instance: its remedy names that one.
    #[must_use]
    pub fn about(mut self, instance: &str) -> Failure {
        self.hint = self.hint.map(|hint| hint.replace("INSTANCE", instance));
        self
    }

    /// The same failure of `run` or `exec`, whose exit codes tell Aegis's failures from the command's.
    #[must_use]
    pub fn of_process(mut self) -> Failure {
        self.exit_code = match self.code {
            Some(ErrorCode::CommandNotFound) => NOT_FOUND,
            Some(ErrorCode::CommandNotExecutable) => NOT_EXECUTABLE,
            _ if self.no_daemon => FAILED,
            _ => AEGIS_FAILED,
        };
        self
    }
}

impl From<ApiError> for Failure {
    fn from(error: ApiError) -> Failure {
        let code = Some(error.code);
        Failure { message: error.message, hint: error.hint, exit_code: FAILED, code, no_daemon: false }
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Failure {
        match error {
            ClientError::Api(error) => error.into(),
            ClientError::NotRunning => Failure {
                hint: Some("start it with: aegis up".to_owned()),
                no_daemon: true,
                ..Failure::new(error.to_string())
            },
            other => Failure::new(other.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_remedy_names_the_instance() {
        let error = ApiError::new(ErrorCode::InstanceStopped, "x").hint("aegis instance restart INSTANCE");
        assert_eq!(Failure::from(error).about("web").hint.unwrap(), "aegis instance restart web");
        assert_eq!(Failure::new("x").about("web").hint, None);
    }

    #[test]
    fn exit_codes_tell_whose_failure_it_is() {
        let of = |code| Failure::from(ApiError::new(code, "x")).of_process().exit_code;
        assert_eq!(of(ErrorCode::CommandNotFound), 127);
        assert_eq!(of(ErrorCode::CommandNotExecutable), 126);
        assert_eq!(of(ErrorCode::BootFailed), 125);
        assert_eq!(Failure::from(ClientError::NotRunning).of_process().exit_code, 1);
        assert_eq!(Failure::from(ApiError::new(ErrorCode::NotFound, "x")).exit_code, 1);
    }
}
