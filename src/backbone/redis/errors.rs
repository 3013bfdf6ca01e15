//! What the server and the client library call an error, in the contract's words.

use redis::{ErrorKind, RedisError, ServerError, Value};

use crate::backbone::BackboneError;

/// An error the server answered.
pub(super) fn answered(error: &ServerError) -> BackboneError {
    by_code(error.code(), error.details())
}

/// An error line as the server sent it, without its mark.
pub(super) fn refused(line: &[u8]) -> BackboneError {
    let line = String::from_utf8_lossy(line);
    match line.split_once(' ') {
        Some((code, detail)) => by_code(code, Some(detail)),
        None => by_code(&line, None),
    }
}

/// An error of the client library: the server's answer to the handshake or a subscription, or the
/// connection's end. It never holds the password: the library keeps credentials out of its texts.
pub(super) fn failed(error: &RedisError) -> BackboneError {
    match error.kind() {
        ErrorKind::AuthenticationFailed => BackboneError::Refused(format!(
            "the server does not take the user or password of the URL ({})",
            error.detail().unwrap_or("no reason given")
        )),
        ErrorKind::Server(_) | ErrorKind::Extension => by_code(error.code().unwrap_or("ERR"), error.detail()),
        _ => BackboneError::Away(error.to_string()),
    }
}

/// The value, or the error the server answered in its place.
pub(super) fn checked(value: Value) -> Result<Value, BackboneError> {
    match value {
        Value::ServerError(error) => Err(answered(&error)),
        value => Ok(value),
    }
}

/// The first error among answers.
pub(super) fn all_checked(values: &[Value]) -> Result<(), BackboneError> {
    values.iter().try_for_each(|value| match value {
        Value::ServerError(error) => Err(answered(error)),
        _ => Ok(()),
    })
}

/// An answer of another shape than the command's.
pub(super) fn unexpected(command: &str) -> BackboneError {
    BackboneError::Refused(format!("the answer to {command} has a shape this version does not know"))
}

fn by_code(code: &str, detail: Option<&str>) -> BackboneError {
    // Before Redis 7 an error raised in a script arrives as `ERR Error running script …: <its code> …`.
    let raised =
        detail.filter(|text| code == "ERR" && text.starts_with("Error running script")).and_then(|text| {
            text.split(' ').map(|word| word.trim_start_matches('-')).find(|word| is_known(word))
        });
    let code = raised.unwrap_or(code);
    let text = format!("{code} {}", detail.unwrap_or_default());
    match code {
        "WRONGTYPE" => BackboneError::WrongType(text),
        code if is_known(code) => BackboneError::ReadOnly(text),
        _ => BackboneError::Refused(text),
    }
}

fn is_known(code: &str) -> bool {
    matches!(
        code,
        "WRONGTYPE"
            | "OOM"
            | "READONLY"
            | "LOADING"
            | "NOREPLICAS"
            | "MISCONF"
            | "CLUSTERDOWN"
            | "MASTERDOWN"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_sort_into_the_contract() {
        assert!(matches!(by_code("WRONGTYPE", Some("x")), BackboneError::WrongType(_)));
        assert!(matches!(by_code("OOM", Some("command not allowed")), BackboneError::ReadOnly(_)));
        assert!(matches!(by_code("NOPERM", None), BackboneError::Refused(_)));
        let raised = "Error running script (call to f_12): @user_script:3: OOM command not allowed";
        assert!(matches!(by_code("ERR", Some(raised)), BackboneError::ReadOnly(_)));
        assert!(matches!(by_code("ERR", Some("syntax error")), BackboneError::Refused(_)));
        let line = b"WRONGTYPE Operation against a key holding the wrong kind of value";
        assert_eq!(refused(line), BackboneError::WrongType(String::from_utf8_lossy(line).into_owned()));
        assert!(matches!(refused(b"LOADING Redis is loading"), BackboneError::ReadOnly(_)));
    }
}
