//! Bytes to requests, in whatever pieces they come.

use bytes::{Buf, Bytes, BytesMut};

use super::{Limits, RespError};

/// `*` or `$`, digits, CRLF: nothing longer is a length.
const MAX_HEADER: usize = 34;

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

/// Takes a length with its mark off the front. The mark is judged as soon as it is there.
fn header(input: &mut BytesMut, mark: u8, otherwise: RespError) -> Result<Option<i64>, RespError> {
    match input.first() {
        None => return Ok(None),
        Some(first) if *first != mark => return Err(otherwise),
        Some(_) => {}
    }
    let seen = &input[..input.len().min(MAX_HEADER)];
    let Some(end) = seen.windows(2).position(|pair| pair == b"\r\n") else {
        return if seen.len() == MAX_HEADER { Err(RespError::LineTooLong) } else { Ok(None) };
    };
    let length = number(&seen[1..end])?;
    input.advance(end + 2);
    Ok(Some(length))
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::encode_command;
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

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(input in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = requests(&[&input]);
        }

        #[test]
        fn bytes_that_look_like_resp_never_panic(
            input in "([*$%~>|=,:+_#(-]|-?[0-9]{1,3}|\r\n|[a-z]){0,60}",
        ) {
            let _ = requests(&[input.as_bytes()]);
        }

        #[test]
        fn requests_survive_the_round_trip(args in prop::collection::vec("[^x]{0,9}", 1..9)) {
            let args: Vec<Bytes> = args.into_iter().map(Bytes::from).collect();
            let mut out = BytesMut::new();
            let words: Vec<&[u8]> = args.iter().map(|arg| &arg[..]).collect();
            encode_command(&words, &mut out);
            prop_assert_eq!(requests(&[&out]), Ok(vec![args]));
        }
    }
}
