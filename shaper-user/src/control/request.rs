//! One line to one command, checked.

use crate::protocol::{Command, ErrorBody, ErrorCode, Response, VERSION};
use serde_json::{Map, Value};

impl ErrorBody {
    /// An error answer.
    #[must_use]
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
        }
    }

    /// Not a request, or a wrong value in it.
    #[must_use]
    pub fn bad(message: impl Into<String>) -> Self {
        Self::new(ErrorCode::BadRequest, message)
    }

    /// The error as a line of the protocol, with its newline.
    #[must_use]
    pub fn into_line(self) -> Vec<u8> {
        let response = Response {
            v: VERSION,
            result: None,
            error: Some(self),
        };
        // A struct of strings and numbers always has a JSON form.
        let mut line = serde_json::to_vec(&response).unwrap_or_default();
        line.push(b'\n');
        line
    }
}

/// Reads a request. Fields that the command does not have are refused: a
/// misspelt `for_ms` must not turn a block of a minute into one for good.
///
/// # Errors
/// What to answer instead.
pub fn parse(line: &[u8]) -> Result<Command, ErrorBody> {
    let mut request: Map<String, Value> = serde_json::from_slice(line).map_err(|error| {
        ErrorBody::bad(format!("expected one JSON object on each line: {error}"))
    })?;
    match request.remove("v") {
        Some(Value::Number(v)) if v.as_u64() == Some(VERSION.into()) => {}
        Some(Value::Number(v)) => {
            return Err(ErrorBody::new(
                ErrorCode::Version,
                format!(
                    "this daemon ({}) speaks version {VERSION} of the protocol, not {v}",
                    env!("CARGO_PKG_VERSION")
                ),
            ));
        }
        _ => {
            return Err(ErrorBody::bad(format!(
                "`v`, the version of the protocol, is missing; this daemon speaks {VERSION}"
            )));
        }
    }
    let fields: Vec<String> = request.keys().cloned().collect();
    let command: Command = serde_json::from_value(Value::Object(request))
        .map_err(|error| ErrorBody::bad(error.to_string()))?;
    // Written back, a command has every field that it knows.
    if let Ok(Value::Object(known)) = serde_json::to_value(&command)
        && let Some(unknown) = fields.iter().find(|field| !known.contains_key(*field))
    {
        let known: Vec<_> = known.keys().map(|key| format!("`{key}`")).collect();
        return Err(ErrorBody::bad(format!(
            "unknown field `{unknown}`, expected one of {}",
            known.join(", ")
        )));
    }
    Ok(command)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::{EventsQuery, Query, Request, SortKey};
    use proptest::prelude::*;

    #[test]
    fn what_the_client_writes_is_read_back() {
        for command in [
            Command::Status,
            Command::Reload,
            Command::Flows(Query {
                sort: SortKey::Limited,
                reverse: true,
                limit: Some(3),
                filter: "rule:gold".to_owned(),
            }),
            Command::Events(EventsQuery {
                follow: true,
                last: Some(10),
                filter: "event:limited".to_owned(),
            }),
            Command::Quota {
                client: "192.0.2.1".to_owned(),
            },
            Command::ResetQuota {
                client: "192.0.2.1".to_owned(),
            },
            Command::AddQuota {
                client: "192.0.2.1".to_owned(),
                bytes: "5GB".to_owned(),
            },
            Command::Block {
                client: "192.0.2.1".to_owned(),
                for_ms: Some(5),
            },
            Command::Kill {
                flow: "192.0.2.1:4000".to_owned(),
                dry_run: true,
            },
            Command::Drain {
                server: "be_ws/srv1".to_owned(),
                percent: 30,
                over_ms: 600_000,
                dry_run: false,
            },
            Command::StopDrain {
                server: "be_ws/srv1".to_owned(),
            },
            Command::Limit {
                client: "192.0.2.1".to_owned(),
                upload: Some("8mbit".to_owned()),
                download: None,
                for_ms: None,
            },
        ] {
            let request = Request {
                v: VERSION,
                command: command.clone(),
            };
            let line = serde_json::to_vec(&request).unwrap();
            assert_eq!(parse(&line), Ok(command));
        }
    }

    #[test]
    fn absent_fields_have_their_defaults() {
        assert_eq!(
            parse(br#"{"v":1,"command":"flows"}"#),
            Ok(Command::Flows(Query::default()))
        );
        let long = parse(br#"{"v":1,"command":"block","client":"192.0.2.1"}"#).unwrap();
        assert_eq!(
            long,
            Command::Block {
                client: "192.0.2.1".to_owned(),
                for_ms: None
            }
        );
    }

    #[test]
    fn bad_requests_say_why() {
        let lines: Vec<String> = [
            "",
            "GET / HTTP/1.1",
            "[1]",
            r#"{"command":"status"}"#,
            r#"{"v":"1","command":"status"}"#,
            r#"{"v":2,"command":"status"}"#,
            r#"{"v":1}"#,
            r#"{"v":1,"command":"stats"}"#,
            r#"{"v":1,"command":"status","verbose":true}"#,
            r#"{"v":1,"command":"flows","sort":"size"}"#,
            r#"{"v":1,"command":"flows","order":"age"}"#,
            r#"{"v":1,"command":"block"}"#,
            r#"{"v":1,"command":"block","client":"192.0.2.1","for":60}"#,
            r#"{"v":1,"command":"block","client":"192.0.2.1","for_ms":-1}"#,
            r#"{"v":1,"command":"kill","flow":"192.0.2.1:4000","dryrun":true}"#,
            r#"{"v":1,"command":"drain","server":"be/srv1","percent":300,"over_ms":1000}"#,
            r#"{"v":1,"command":"drain","server":"be/srv1"}"#,
        ]
        .iter()
        .map(|line| {
            let error = parse(line.as_bytes()).unwrap_err();
            format!("{line}\n  {:?}: {}", error.code, error.message)
        })
        .collect();
        insta::assert_snapshot!("bad_requests", lines.join("\n"));
    }

    proptest! {
        #[test]
        fn any_bytes_are_answered(line in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse(&line);
        }
    }
}
