//! A request over the control socket, as both sides see it: a command and what it is about. Pure.
//!
//! ```text
//! {"command":"re-add","leg":"B","path":"/srv/b"}
//! ```
//!
//! JSON is text and a path need not be: one that is not UTF-8 is sent as the list of its bytes.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::error::{Error, Result};
use crate::legs::LegId;

/// See the module.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Request(Map<String, Value>);

impl Request {
    /// Asks for `command`.
    pub fn new(command: &str) -> Request {
        Request(Map::from_iter([("command".to_owned(), command.into())]))
    }

    /// About this leg.
    pub fn with_leg(mut self, leg: LegId) -> Request {
        self.0.insert("leg".to_owned(), leg.to_string().into());
        self
    }

    /// With this path, which is absolute: the daemon has another current directory.
    pub fn with_path(mut self, path: &Path) -> Request {
        let value = match path.to_str() {
            Some(text) => text.into(),
            None => path.as_os_str().as_bytes().into(),
        };
        self.0.insert("path".to_owned(), value);
        self
    }

    /// What is asked for; empty when the request does not say.
    pub fn command(&self) -> &str {
        self.0.get("command").and_then(Value::as_str).unwrap_or_default()
    }

    /// The leg that it is about.
    ///
    /// # Errors
    /// It names none.
    pub fn leg(&self) -> Result<LegId> {
        match self.0.get("leg").and_then(Value::as_str) {
            Some("A") => Ok(LegId::A),
            Some("B") => Ok(LegId::B),
            _ => Err(Error::new(format!("\"{}\" needs a leg, A or B", self.command()))),
        }
    }

    /// The path, if it has one.
    ///
    /// # Errors
    /// What it has is not an absolute path.
    pub fn path(&self) -> Result<Option<PathBuf>> {
        let Some(value) = self.0.get("path").filter(|value| !value.is_null()) else { return Ok(None) };
        let bytes = match value {
            Value::String(text) => Some(text.clone().into_bytes()),
            other => serde_json::from_value::<Vec<u8>>(other.clone()).ok(),
        };
        let path =
            bytes.filter(|bytes| !bytes.contains(&0)).map(|bytes| PathBuf::from(OsString::from_vec(bytes)));
        match path.filter(|path| path.is_absolute()) {
            Some(path) => Ok(Some(path)),
            None => {
                Err(Error::new(format!("\"{}\" got {value}, which is not an absolute path", self.command())))
            }
        }
    }

    /// The path, which it must have.
    ///
    /// # Errors
    /// It has none, or what it has is not an absolute path.
    pub fn needed_path(&self) -> Result<PathBuf> {
        self.path()?.ok_or_else(|| Error::new(format!("\"{}\" needs a path", self.command())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::OsStr;

    #[test]
    fn what_is_sent_arrives_whatever_bytes_it_has() {
        for path in [&b"/srv/b"[..], b"/srv/\xff\xfe b", "/srv/\u{fffd}\"\n".as_bytes()] {
            let path = Path::new(OsStr::from_bytes(path));
            let sent = Request::new("re-add").with_leg(LegId::B).with_path(path);
            let line = serde_json::to_string(&sent).unwrap();
            assert!(!line.contains('\n'), "{line}");
            let got: Request = serde_json::from_str(&line).unwrap();
            assert_eq!((got.command(), got.leg().unwrap()), ("re-add", LegId::B));
            assert_eq!(got.path().unwrap().as_deref(), Some(path));
        }
        assert_eq!(Request::new("fail").with_leg(LegId::A).path().unwrap(), None);
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        for (text, words) in [
            (r#"{"command":"fail"}"#, "\"fail\" needs a leg"),
            (r#"{"command":"fail","leg":"C"}"#, "A or B"),
            (r#"{"command":"fail","leg":1}"#, "A or B"),
        ] {
            let error = serde_json::from_str::<Request>(text).unwrap().leg().unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        }
        let none = serde_json::from_str::<Request>(r#"{"command":"replace","leg":"B"}"#).unwrap();
        assert!(none.needed_path().unwrap_err().to_string().contains("\"replace\" needs a path"));
        for path in [r#""srv/b""#, r#""""#, "7", "[47,256]", "[47,0]", "[98]", "{}"] {
            let text = format!(r#"{{"command":"re-add","path":{path}}}"#);
            let error = serde_json::from_str::<Request>(&text).unwrap().path().unwrap_err().to_string();
            assert!(error.contains("not an absolute path"), "{error}");
        }
        assert_eq!(serde_json::from_str::<Request>("{}").unwrap().command(), "");
        assert!(serde_json::from_str::<Request>("[]").is_err());
    }
}
