//! What can go wrong with a request to the API server, and what that means for the next one.

use std::error::Error;
use std::time::Duration;

use kube::core::Status;

use super::contact::Trouble;

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Failure {
    /// Nobody listens to the source any longer.
    EngineGone,
    /// 410: the version is too old, only a new list helps.
    Gone,
    /// 401.
    Unauthorized,
    /// 403.
    Forbidden(String),
    /// 404.
    NotServed,
    /// Any other answer that is no good, and how long to wait before asking again.
    Refused(String, Option<Duration>),
    /// No answer, or none in time.
    Unreachable(String),
    /// No answer in time.
    Stalled,
}

impl Failure {
    /// What to write down. A version that is too old is nothing unusual.
    pub(super) fn trouble(&self) -> Option<Trouble> {
        match self {
            Self::EngineGone | Self::Gone => None,
            Self::Unauthorized => Some(Trouble::Unauthorized),
            Self::Forbidden(why) => Some(Trouble::Forbidden(why.clone())),
            Self::NotServed => Some(Trouble::NotServed),
            Self::Refused(why, _) => Some(Trouble::Refused(why.clone())),
            Self::Unreachable(why) => Some(Trouble::Unreachable(why.clone())),
            Self::Stalled => Some(Trouble::Unreachable("no answer in time".to_owned())),
        }
    }

    /// The server has answered.
    pub(super) fn is_answer(&self) -> bool {
        !matches!(self, Self::Unreachable(_) | Self::Stalled)
    }

    /// It concerns the server as a whole: when another request gets through, this one may, too.
    pub(super) fn may_pass(&self) -> bool {
        matches!(
            self,
            Self::Unreachable(_) | Self::Stalled | Self::Refused(_, None)
        )
    }

    /// The server does not let us, and waiting for it to think otherwise may take forever.
    pub(super) fn is_refusal(&self) -> bool {
        matches!(self, Self::Forbidden(_) | Self::NotServed)
    }

    /// The limit of the pause. A server that is away costs little to ask and shall be noticed when
    /// it is back; one that answers shall not be pressed.
    pub(super) fn longest_pause(&self) -> Duration {
        match self {
            Self::Unreachable(_) | Self::Stalled => Duration::from_secs(2),
            Self::Unauthorized => Duration::from_secs(5),
            Self::EngineGone | Self::Gone => Duration::from_secs(10),
            Self::Forbidden(_) | Self::NotServed | Self::Refused(..) => Duration::from_secs(30),
        }
    }

    /// The pause that the server asks for.
    pub(super) fn wished_pause(&self) -> Duration {
        match self {
            Self::Refused(_, Some(pause)) => (*pause).min(Duration::from_secs(30)),
            _ => Duration::ZERO,
        }
    }
}

impl From<Status> for Failure {
    fn from(status: Status) -> Self {
        let wish = status.details.as_ref().map(|d| d.retry_after_seconds);
        let wish = wish.filter(|seconds| *seconds > 0);
        match status.code {
            401 => Self::Unauthorized,
            403 => Self::Forbidden(brief(&status.message)),
            404 => Self::NotServed,
            410 => Self::Gone,
            _ if status.reason == "Expired" || status.reason == "Gone" => Self::Gone,
            code => Self::Refused(
                format!("{code} {}", brief(&status.message)),
                wish.map(|seconds| Duration::from_secs(seconds.into())),
            ),
        }
    }
}

impl From<kube::Error> for Failure {
    fn from(error: kube::Error) -> Self {
        match error {
            kube::Error::Api(status) => Self::from(*status),
            kube::Error::SerdeError(_) => Self::Refused(plain(&error), None),
            other => Self::Unreachable(plain(&other)),
        }
    }
}

/// An error in one line for people: the library would show the whole answer as it is in memory.
pub fn plain(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => format!("{} {}", status.code, brief(&status.message)),
        // The words of the decoder may quote a value, and the object may be a Secret.
        kube::Error::SerdeError(_) => "an answer that does not decode".to_owned(),
        other => brief(&chain(other)),
    }
}

/// The last cause says most.
fn chain(error: &dyn Error) -> String {
    let mut cause = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    cause.to_string()
}

/// One line of bounded length.
pub(super) fn brief(text: &str) -> String {
    let line = text.lines().next().unwrap_or_default().trim();
    match line.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", line.get(..end).unwrap_or_default()),
        None => line.to_owned(),
    }
}

/// Characters of an error that are kept.
const LONGEST: usize = 200;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_told_in_one_line_without_its_form_in_memory() {
        let status: Status = serde_json::from_str(
            r#"{"code": 403, "reason": "Forbidden", "message": "leases is forbidden\nand more",
                "details": {"name": "gatehouse-leader"}}"#,
        )
        .unwrap();
        let error = kube::Error::Api(Box::new(status));
        assert_eq!(plain(&error), "403 leases is forbidden");
    }
}
