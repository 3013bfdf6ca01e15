//! Values to bytes.

use bytes::{BufMut, BytesMut};

use super::{Protocol, Value};

impl Value {
    /// Writes the value as this protocol has it.
    pub fn encode(&self, protocol: Protocol, out: &mut BytesMut) {
        use Protocol::{Resp2, Resp3};
        match (self, protocol) {
            (Self::Simple(text), _) => line(b'+', text, out),
            (Self::Error(text), _) => line(b'-', text, out),
            (Self::Integer(number), _) => integer(b':', *number, out),
            (Self::Bulk(bytes), _) => bulk(bytes, out),
            (Self::Null | Self::NullArray, Resp3) => out.put_slice(b"_\r\n"),
            (Self::Null, Resp2) => out.put_slice(b"$-1\r\n"),
            (Self::NullArray, Resp2) => out.put_slice(b"*-1\r\n"),
            (Self::Array(items), _) => list(b'*', items, protocol, out),
            (Self::Set(items), Resp3) => list(b'~', items, protocol, out),
            (Self::Set(items), Resp2) => list(b'*', items, protocol, out),
            (Self::Map(pairs), _) => map(pairs, protocol, out),
            (Self::Verbatim(text), Resp3) => verbatim(text, out),
            (Self::Verbatim(text), Resp2) => bulk(text, out),
        }
    }
}

/// Writes a request: an array of bulk strings.
pub fn encode_command(words: &[&[u8]], out: &mut BytesMut) {
    encode_array_header(words.len(), out);
    for word in words {
        bulk(word, out);
    }
}

/// Writes the head of an array whose items follow one by one, so that a long reply need not lie
/// encoded in memory as a whole.
pub fn encode_array_header(items: usize, out: &mut BytesMut) {
    length(b'*', items, out);
}

fn length(kind: u8, length: usize, out: &mut BytesMut) {
    integer(kind, i64::try_from(length).unwrap_or(i64::MAX), out);
}

fn integer(kind: u8, number: i64, out: &mut BytesMut) {
    let mut digits = [0; 20];
    let mut at = digits.len();
    let mut rest = number.unsigned_abs();
    loop {
        at -= 1;
        digits[at] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    out.put_u8(kind);
    if number < 0 {
        out.put_u8(b'-');
    }
    out.put_slice(&digits[at..]);
    out.put_slice(b"\r\n");
}

fn bulk(bytes: &[u8], out: &mut BytesMut) {
    length(b'$', bytes.len(), out);
    out.put_slice(bytes);
    out.put_slice(b"\r\n");
}

fn verbatim(text: &[u8], out: &mut BytesMut) {
    length(b'=', text.len() + 4, out);
    out.put_slice(b"txt:");
    out.put_slice(text);
    out.put_slice(b"\r\n");
}

/// A line's text may quote a client: a line break in it would let the client write replies of its own.
fn line(kind: u8, text: &[u8], out: &mut BytesMut) {
    out.put_u8(kind);
    out.extend(text.iter().map(|byte| if matches!(byte, b'\r' | b'\n') { b' ' } else { *byte }));
    out.put_slice(b"\r\n");
}

fn list(kind: u8, items: &[Value], protocol: Protocol, out: &mut BytesMut) {
    length(kind, items.len(), out);
    for item in items {
        item.encode(protocol, out);
    }
}

fn map(pairs: &[(Value, Value)], protocol: Protocol, out: &mut BytesMut) {
    match protocol {
        Protocol::Resp2 => length(b'*', pairs.len() * 2, out),
        Protocol::Resp3 => length(b'%', pairs.len(), out),
    }
    for (key, value) in pairs {
        key.encode(protocol, out);
        value.encode(protocol, out);
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn encoded(value: &Value, protocol: Protocol) -> String {
        let mut out = BytesMut::new();
        value.encode(protocol, &mut out);
        String::from_utf8(out.to_vec()).unwrap()
    }

    #[test]
    fn maps_and_nulls_differ_between_the_protocols() {
        let value = Value::map([("a", Value::Null), ("b", Value::NullArray)]);
        assert_eq!(encoded(&value, Protocol::Resp2), "*4\r\n$1\r\na\r\n$-1\r\n$1\r\nb\r\n*-1\r\n");
        assert_eq!(encoded(&value, Protocol::Resp3), "%2\r\n$1\r\na\r\n_\r\n$1\r\nb\r\n_\r\n");
        let text = Value::Verbatim(Bytes::from("hi"));
        assert_eq!(encoded(&text, Protocol::Resp2), "$2\r\nhi\r\n");
        assert_eq!(encoded(&text, Protocol::Resp3), "=6\r\ntxt:hi\r\n");
    }

    #[test]
    fn a_quoted_line_break_forges_no_reply() {
        assert_eq!(encoded(&Value::error("ERR a\r\n+OK"), Protocol::Resp2), "-ERR a  +OK\r\n");
    }
}
