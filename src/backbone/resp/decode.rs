//! Bytes to requests and replies, in whatever pieces they come.

use bytes::{Buf, Bytes, BytesMut};

use super::{Limits, RespError, Value};

/// `*` or `$`, digits, CRLF: nothing longer is a length.
const MAX_HEADER: usize = 32;
/// Statuses and errors of a server.
pub(super) const MAX_LINE: usize = 16 << 10;

/// Decodes requests: arrays of bulk strings. Keeps what it has of an unfinished one, so every byte is
/// looked at once.
#[derive(Debug)]
pub struct RequestDecoder {
    limits: Limits,
    args: Vec<Bytes>,
    missing: usize,
    bulk: Option<usize>,
    bytes: usize,
}

impl RequestDecoder {
    /// A decoder that refuses what is beyond the limits.
    pub fn new(limits: Limits) -> Self {
        Self { limits, args: Vec::new(), missing: 0, bulk: None, bytes: 0 }
    }

    /// Sets other limits, from the next header on: after the password.
    pub fn set_limits(&mut self, limits: Limits) {
        self.limits = limits;
    }

    /// Takes the next whole request from the front of `input`; `None` needs more bytes. The arguments
    /// share the memory of `input`: whoever keeps them copies them. Empty requests are skipped.
    pub fn decode(&mut self, input: &mut BytesMut) -> Result<Option<Vec<Bytes>>, RespError> {
        loop {
            if self.missing == 0 {
                let Some(count) = header(input, b'*', RespError::NotARequest)? else { return Ok(None) };
                // Redis skips empty and null requests too.
                let count = usize::try_from(count).unwrap_or(0);
                if count > self.limits.max_items {
                    return Err(RespError::TooManyItems);
                }
                self.missing = count;
                continue;
            }
            let length = match self.bulk {
                Some(length) => length,
                None => {
                    let Some(length) = header(input, b'$', RespError::NotABulk)? else { return Ok(None) };
                    let length = usize::try_from(length).map_err(|_| RespError::BulkTooLong)?;
                    self.bytes = check_bulk(length, self.bytes, &self.limits)?;
                    *self.bulk.insert(length)
                }
            };
            let Some(arg) = body(input, length)? else { return Ok(None) };
            self.bulk = None;
            self.args.push(arg);
            self.missing -= 1;
            if self.missing == 0 {
                self.bytes = 0;
                return Ok(Some(std::mem::take(&mut self.args)));
            }
        }
    }
}

/// Decodes replies of both protocols. Keeps what it has of an unfinished one.
#[derive(Debug)]
pub struct ReplyDecoder {
    limits: Limits,
    /// Lists begun and not finished, the outermost first.
    open: Vec<Open>,
    bulk: Option<(bool, usize)>,
    items: usize,
    bytes: usize,
}

#[derive(Debug)]
struct Open {
    kind: ListKind,
    missing: usize,
    items: Vec<Value>,
}

#[derive(Debug, Clone, Copy)]
enum ListKind {
    Array,
    Map,
    Set,
    Push,
    /// Remarks on the value that follows; read and dropped.
    Attribute,
}

/// What the next bytes are.
enum Piece {
    Whole(Value),
    List(ListKind, usize),
    More,
}

impl ReplyDecoder {
    /// A decoder that refuses what is beyond the limits.
    pub fn new(limits: Limits) -> Self {
        Self { limits, open: Vec::new(), bulk: None, items: 0, bytes: 0 }
    }

    /// Takes the next whole reply from the front of `input`; `None` needs more bytes. Strings share the
    /// memory of `input`.
    pub fn decode(&mut self, input: &mut BytesMut) -> Result<Option<Value>, RespError> {
        loop {
            let mut done = match self.piece(input)? {
                Piece::More => return Ok(None),
                Piece::Whole(value) => Some(value),
                Piece::List(kind, missing) => {
                    if self.open.len() >= self.limits.max_depth {
                        return Err(RespError::TooDeep);
                    }
                    self.open.push(Open { kind, missing, items: Vec::new() });
                    self.close_full()
                }
            };
            while let Some(value) = done.take() {
                let Some(list) = self.open.last_mut() else {
                    (self.items, self.bytes) = (0, 0);
                    return Ok(Some(value));
                };
                list.items.push(value);
                list.missing -= 1;
                done = self.close_full();
            }
        }
    }

    /// Closes the innermost list if nothing is missing in it.
    fn close_full(&mut self) -> Option<Value> {
        let Open { kind, items, .. } = self.open.pop_if(|list| list.missing == 0)?;
        match kind {
            ListKind::Array => Some(Value::Array(items)),
            ListKind::Set => Some(Value::Set(items)),
            ListKind::Push => Some(Value::Push(items)),
            ListKind::Attribute => None,
            ListKind::Map => {
                let mut items = items.into_iter();
                let mut pairs = Vec::with_capacity(items.len() / 2);
                while let (Some(key), Some(value)) = (items.next(), items.next()) {
                    pairs.push((key, value));
                }
                Some(Value::Map(pairs))
            }
        }
    }

    fn piece(&mut self, input: &mut BytesMut) -> Result<Piece, RespError> {
        if let Some((verbatim, length)) = self.bulk {
            return self.bulk_body(input, verbatim, length);
        }
        let Some(&kind) = input.first() else { return Ok(Piece::More) };
        let Some(mut text) = line(input, MAX_LINE)? else { return Ok(Piece::More) };
        if text.is_empty() {
            return Err(RespError::UnknownType);
        }
        text.advance(1);
        self.items += 1;
        self.bytes = self.bytes.saturating_add(text.len());
        if self.items > self.limits.max_items {
            return Err(RespError::TooManyItems);
        }
        if self.bytes > self.limits.max_bytes {
            return Err(RespError::TooManyBytes);
        }
        Ok(Piece::Whole(match kind {
            b'+' => Value::Simple(text),
            b'-' => Value::Error(text),
            b':' => Value::Integer(number(&text)?),
            b'(' => Value::BigNumber(text),
            b',' => Value::Double(double(&text)?),
            b'#' => Value::Boolean(match &*text {
                b"t" => true,
                b"f" => false,
                _ => return Err(RespError::BadNumber),
            }),
            b'_' if text.is_empty() => Value::Null,
            b'$' if &*text == b"-1" => Value::Null,
            b'*' if &*text == b"-1" => Value::NullArray,
            b'$' | b'=' | b'!' => return self.bulk_header(input, kind, &text),
            b'*' => return self.list(ListKind::Array, &text),
            b'%' => return self.list(ListKind::Map, &text),
            b'~' => return self.list(ListKind::Set, &text),
            b'>' => return self.list(ListKind::Push, &text),
            b'|' => return self.list(ListKind::Attribute, &text),
            _ => return Err(RespError::UnknownType),
        }))
    }

    fn list(&self, kind: ListKind, text: &[u8]) -> Result<Piece, RespError> {
        let count = usize::try_from(number(text)?).map_err(|_| RespError::BadNumber)?;
        let count = match kind {
            ListKind::Map | ListKind::Attribute => count.saturating_mul(2),
            ListKind::Array | ListKind::Set | ListKind::Push => count,
        };
        if count > self.limits.max_items.saturating_sub(self.items) {
            return Err(RespError::TooManyItems);
        }
        Ok(Piece::List(kind, count))
    }

    fn bulk_header(&mut self, input: &mut BytesMut, kind: u8, text: &[u8]) -> Result<Piece, RespError> {
        if kind == b'!' {
            // Redis sends no bulk errors; a proxy that does is not spoken to.
            return Err(RespError::UnknownType);
        }
        let length = usize::try_from(number(text)?).map_err(|_| RespError::BulkTooLong)?;
        self.bytes = check_bulk(length, self.bytes, &self.limits)?;
        self.bulk = Some((kind == b'=', length));
        self.bulk_body(input, kind == b'=', length)
    }

    fn bulk_body(&mut self, input: &mut BytesMut, verbatim: bool, length: usize) -> Result<Piece, RespError> {
        let Some(mut text) = body(input, length)? else { return Ok(Piece::More) };
        self.bulk = None;
        if !verbatim {
            return Ok(Piece::Whole(Value::Bulk(text)));
        }
        if text.get(3) != Some(&b':') {
            return Err(RespError::BadEnd);
        }
        text.advance(4);
        Ok(Piece::Whole(Value::Verbatim(text)))
    }
}

/// Takes a line off the front, without its CRLF.
fn line(input: &mut BytesMut, max: usize) -> Result<Option<Bytes>, RespError> {
    let seen = &input[..input.len().min(max + 2)];
    match seen.windows(2).position(|pair| pair == b"\r\n") {
        Some(end) => {
            let text = input.split_to(end).freeze();
            input.advance(2);
            Ok(Some(text))
        }
        None if seen.len() == max + 2 => Err(RespError::LineTooLong),
        None => Ok(None),
    }
}

/// Takes a length with its mark off the front. The mark is judged as soon as it is there.
fn header(input: &mut BytesMut, mark: u8, otherwise: RespError) -> Result<Option<i64>, RespError> {
    match input.first() {
        None => return Ok(None),
        Some(first) if *first != mark => return Err(otherwise),
        Some(_) => {}
    }
    let Some(text) = line(input, MAX_HEADER)? else { return Ok(None) };
    number(&text[1..]).map(Some)
}

/// Takes a bulk string's bytes and their CRLF off the front, once all are there.
fn body(input: &mut BytesMut, length: usize) -> Result<Option<Bytes>, RespError> {
    if input.len() < length + 2 {
        return Ok(None);
    }
    if &input[length..length + 2] != b"\r\n" {
        return Err(RespError::BadEnd);
    }
    let text = input.split_to(length).freeze();
    input.advance(2);
    Ok(Some(text))
}

/// Returns the bytes so far with this string's.
fn check_bulk(length: usize, so_far: usize, limits: &Limits) -> Result<usize, RespError> {
    if length > limits.max_bulk {
        return Err(RespError::BulkTooLong);
    }
    let bytes = so_far.saturating_add(length);
    if bytes > limits.max_bytes { Err(RespError::TooManyBytes) } else { Ok(bytes) }
}

pub(super) fn number(text: &[u8]) -> Result<i64, RespError> {
    let digits = text.strip_prefix(b"-").unwrap_or(text);
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return Err(RespError::BadNumber);
    }
    std::str::from_utf8(text).ok().and_then(|text| text.parse().ok()).ok_or(RespError::BadNumber)
}

fn double(text: &[u8]) -> Result<f64, RespError> {
    std::str::from_utf8(text).ok().and_then(|text| text.parse().ok()).ok_or(RespError::BadNumber)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::{Protocol, encode_request};
    use super::*;

    const REQUESTS: &[u8] = b"*3\r\n$4\r\nXADD\r\n$0\r\n\r\n$3\r\na\r\n\r\n*0\r\n*-1\r\n*1\r\n$4\r\nPING\r\n";

    fn requests(pieces: &[&[u8]]) -> Result<Vec<Vec<Bytes>>, RespError> {
        let mut decoder = RequestDecoder::new(Limits::REQUEST);
        let (mut input, mut found) = (BytesMut::new(), Vec::new());
        for piece in pieces {
            input.extend_from_slice(piece);
            while let Some(request) = decoder.decode(&mut input)? {
                found.push(request);
            }
        }
        Ok(found)
    }

    fn replies(limits: Limits, pieces: &[&[u8]]) -> Result<Vec<Value>, RespError> {
        let mut decoder = ReplyDecoder::new(limits);
        let (mut input, mut found) = (BytesMut::new(), Vec::new());
        for piece in pieces {
            input.extend_from_slice(piece);
            while let Some(reply) = decoder.decode(&mut input)? {
                found.push(reply);
            }
        }
        Ok(found)
    }

    #[test]
    fn requests_come_out_whole_wherever_they_are_split() {
        let whole =
            vec![vec![Bytes::from("XADD"), Bytes::new(), Bytes::from("a\r\n")], vec![Bytes::from("PING")]];
        for at in 0..=REQUESTS.len() {
            let (left, right) = REQUESTS.split_at(at);
            assert_eq!(requests(&[left, right]), Ok(whole.clone()), "split at {at}");
        }
        let bytes: Vec<&[u8]> = REQUESTS.chunks(1).collect();
        assert_eq!(requests(&bytes), Ok(whole));
    }

    #[test]
    fn other_protocols_and_excess_are_refused() {
        for (input, error) in [
            (&b"GET / HTTP/1.1\r\n"[..], RespError::NotARequest),
            (b"\r\n", RespError::NotARequest),
            (b"*1\r\n:1\r\n", RespError::NotABulk),
            (b"*x\r\n", RespError::BadNumber),
            (b"*+1\r\n", RespError::BadNumber),
            (b"*65537\r\n", RespError::TooManyItems),
            (b"*1\r\n$1048577\r\n", RespError::BulkTooLong),
            (b"*1\r\n$-1\r\n", RespError::BulkTooLong),
            (b"*1\r\n$1\r\nab\r\n", RespError::BadEnd),
            (b"*0000000000000000000000000000000000000001\r\n", RespError::LineTooLong),
        ] {
            assert_eq!(requests(&[input]), Err(error), "{}", input.escape_ascii());
        }
        let mut many = b"*5\r\n".to_vec();
        for _ in 0..5 {
            many.extend_from_slice(b"$1048576\r\n");
            many.resize(many.len() + (1 << 20), b'x');
            many.extend_from_slice(b"\r\n");
        }
        assert_eq!(requests(&[&many]), Err(RespError::TooManyBytes));
    }

    #[test]
    fn replies_of_both_protocols_are_understood() {
        let input =
            b"+OK\r\n-ERR x\r\n:-7\r\n$-1\r\n*-1\r\n_\r\n*2\r\n*0\r\n$1\r\na\r\n%1\r\n+k\r\n~1\r\n,1.5\r\n\
            |1\r\n+ttl\r\n:1\r\n#t\r\n>1\r\n(123\r\n=6\r\ntxt:hi\r\n";
        let whole = vec![
            Value::simple("OK"),
            Value::error("ERR x"),
            Value::Integer(-7),
            Value::Null,
            Value::NullArray,
            Value::Null,
            Value::Array(vec![Value::Array(vec![]), Value::text("a")]),
            Value::Map(vec![(Value::simple("k"), Value::Set(vec![Value::Double(1.5)]))]),
            Value::Boolean(true),
            Value::Push(vec![Value::BigNumber(Bytes::from("123"))]),
            Value::Verbatim(Bytes::from("hi")),
        ];
        for at in 0..=input.len() {
            let (left, right) = input.split_at(at);
            assert_eq!(replies(Limits::REPLY, &[left, right]).as_ref(), Ok(&whole), "split at {at}");
        }
    }

    #[test]
    fn deep_and_wide_replies_are_refused() {
        let deep = b"*1\r\n".repeat(9);
        assert_eq!(replies(Limits::REPLY, &[&deep]), Err(RespError::TooDeep));
        let limits = Limits { max_items: 3, ..Limits::REPLY };
        assert_eq!(replies(limits, &[b"*3\r\n"]), Err(RespError::TooManyItems));
        assert_eq!(replies(limits, &[b"%9223372036854775807\r\n"]), Err(RespError::TooManyItems));
    }

    fn value() -> impl Strategy<Value = Value> {
        let bytes = || prop::collection::vec(any::<u8>(), 0..9).prop_map(Bytes::from);
        let leaf = prop_oneof![
            bytes().prop_map(Value::Bulk),
            any::<i64>().prop_map(Value::Integer),
            any::<bool>().prop_map(Value::Boolean),
            Just(Value::Null),
            bytes().prop_map(Value::Verbatim),
        ];
        leaf.prop_recursive(4, 32, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::Array),
                prop::collection::vec((inner.clone(), inner), 0..3).prop_map(Value::Map),
            ]
        })
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(input in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = requests(&[&input]);
            let _ = replies(Limits::REPLY, &[&input]);
        }

        #[test]
        fn bytes_that_look_like_resp_never_panic(
            input in "([*$%~>|=,:+_#(-]|-?[0-9]{1,3}|\r\n|[a-z]){0,60}",
        ) {
            let _ = requests(&[input.as_bytes()]);
            let _ = replies(Limits::REPLY, &[input.as_bytes()]);
        }

        #[test]
        fn values_survive_the_round_trip(value in value(), at in any::<prop::sample::Index>()) {
            let mut out = BytesMut::new();
            value.encode(Protocol::Resp3, &mut out);
            let (left, right) = out.split_at(at.index(out.len()));
            prop_assert_eq!(replies(Limits::REPLY, &[left, right]), Ok(vec![value]));
        }

        #[test]
        fn requests_survive_the_round_trip(args in prop::collection::vec("[^x]{0,9}", 1..9)) {
            let args: Vec<Bytes> = args.into_iter().map(Bytes::from).collect();
            let mut out = BytesMut::new();
            encode_request(&args, &mut out);
            prop_assert_eq!(requests(&[&out]), Ok(vec![args]));
        }
    }
}
