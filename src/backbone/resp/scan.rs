//! Replies in RESP2 piece by piece: for long ones of which little is kept.

use super::RespError;
use super::decode::number;

/// Statuses and errors of a server.
const MAX_LINE: usize = 16 << 10;

/// A piece of a reply. Texts are borrowed from the input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Token<'a> {
    /// `+OK`
    Simple(&'a [u8]),
    /// `-ERR …`
    Error(&'a [u8]),
    /// `:7`
    Integer(i64),
    /// A bulk string that was wanted.
    Bulk(&'a [u8]),
    /// A bulk string longer than was wanted, of so many bytes. They are dropped as they come.
    Passed(usize),
    /// `$-1` or `*-1`
    Null,
    /// `*…`: so many values follow.
    Array(usize),
}

/// Takes replies apart. Remembers nothing but how much of a string is still to be dropped, so that a
/// string costs no more memory than its reader wants to spend.
#[derive(Debug, Default)]
pub struct Scanner {
    drop: usize,
}

impl Scanner {
    /// Takes the next piece off the front of `input`; `None` needs more bytes and leaves there what it
    /// could not use. Bulk strings longer than `most` bytes are passed over.
    pub fn next<'a>(&mut self, input: &mut &'a [u8], most: usize) -> Result<Option<Token<'a>>, RespError> {
        self.drop_passed(input);
        let Some((&kind, rest)) = input.split_first() else { return Ok(None) };
        let Some(end) = rest.iter().take(MAX_LINE + 1).position(|byte| *byte == b'\r') else {
            return if rest.len() > MAX_LINE { Err(RespError::LineTooLong) } else { Ok(None) };
        };
        let (text, rest) = (&rest[..end], &rest[end + 1..]);
        match rest.first() {
            None => return Ok(None),
            Some(b'\n') => {}
            Some(_) => return Err(RespError::BadEnd),
        }
        let rest = &rest[1..];
        let token = match kind {
            b'+' => Token::Simple(text),
            b'-' => Token::Error(text),
            b':' => Token::Integer(number(text)?),
            b'$' | b'*' if text == b"-1" => Token::Null,
            b'*' => Token::Array(usize::try_from(number(text)?).map_err(|_| RespError::BadNumber)?),
            b'$' => {
                let length = usize::try_from(number(text)?).map_err(|_| RespError::BadNumber)?;
                return self.bulk(input, rest, length, most);
            }
            _ => return Err(RespError::UnknownType),
        };
        *input = rest;
        Ok(Some(token))
    }

    /// Drops what has come of a string that was passed over.
    pub fn drop_passed(&mut self, input: &mut &[u8]) {
        let come = self.drop.min(input.len());
        *input = &input[come..];
        self.drop -= come;
    }

    fn bulk<'a>(
        &mut self,
        input: &mut &'a [u8],
        rest: &'a [u8],
        length: usize,
        most: usize,
    ) -> Result<Option<Token<'a>>, RespError> {
        if length > most {
            self.drop = length.checked_add(2).ok_or(RespError::BulkTooLong)?;
            *input = rest;
            self.drop_passed(input);
            return Ok(Some(Token::Passed(length)));
        }
        let Some((text, rest)) = rest.split_at_checked(length) else { return Ok(None) };
        let Some((end, rest)) = rest.split_at_checked(2) else { return Ok(None) };
        if end != b"\r\n" {
            return Err(RespError::BadEnd);
        }
        *input = rest;
        Ok(Some(Token::Bulk(text)))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What a reader of all pieces sees, whatever pieces the bytes come in.
    fn scan(pieces: &[&[u8]], most: usize) -> Result<Vec<String>, RespError> {
        let (mut scanner, mut buffer, mut seen) = (Scanner::default(), Vec::new(), Vec::new());
        for piece in pieces {
            buffer.extend_from_slice(piece);
            let mut rest = buffer.as_slice();
            while let Some(token) = scanner.next(&mut rest, most)? {
                seen.push(format!("{token:?}"));
            }
            let used = buffer.len() - rest.len();
            buffer.drain(..used);
        }
        Ok(seen)
    }

    #[test]
    fn long_strings_are_passed_over_and_cost_nothing() {
        let (mut scanner, mut longest) = (Scanner::default(), 0);
        let head = b"*2\r\n$100000000\r\n";
        let mut buffer = head.to_vec();
        let mut rest = buffer.as_slice();
        assert_eq!(scanner.next(&mut rest, 10), Ok(Some(Token::Array(2))));
        assert_eq!(scanner.next(&mut rest, 10), Ok(Some(Token::Passed(100_000_000))));
        buffer.clear();
        for _ in 0..1_000 {
            buffer.resize(buffer.len() + 100_000, b'\r');
            let mut rest = buffer.as_slice();
            assert_eq!(scanner.next(&mut rest, 10), Ok(None));
            let used = buffer.len() - rest.len();
            buffer.drain(..used);
            longest = longest.max(buffer.len());
        }
        assert_eq!(longest, 0);
        let mut rest = &b"\r\n$2\r\nhi\r\n"[..];
        assert_eq!(scanner.next(&mut rest, 10), Ok(Some(Token::Bulk(b"hi"))));
        assert!(rest.is_empty());
    }

    #[test]
    fn what_is_no_reply_is_refused() {
        for (input, error) in [
            (&b"hello\r\n"[..], RespError::UnknownType),
            (b"*x\r\n", RespError::BadNumber),
            (b"*-2\r\n", RespError::BadNumber),
            (b"$-2\r\n", RespError::BadNumber),
            (b"$1\r\nab\r\n", RespError::BadEnd),
            (b"+a\rb\r\n", RespError::BadEnd),
            (b"$9223372036854775807999\r\n", RespError::BadNumber),
        ] {
            assert_eq!(scan(&[input], 10), Err(error), "{}", input.escape_ascii());
        }
        assert_eq!(scan(&[&vec![b'+'; MAX_LINE + 2]], 10), Err(RespError::LineTooLong));
    }

    /// A well-formed reply.
    fn reply() -> impl Strategy<Value = Vec<u8>> {
        let line = |kind: char, text: String| format!("{kind}{text}\r\n").into_bytes();
        let bulk = |body: Vec<u8>| {
            let mut out = format!("${}\r\n", body.len()).into_bytes();
            out.extend(body);
            out.extend(b"\r\n");
            out
        };
        let leaf = prop_oneof![
            prop::collection::vec(any::<u8>(), 0..40).prop_map(bulk),
            "[a-z ]{0,9}".prop_map(move |text| line('+', text)),
            "[A-Z]{1,9}".prop_map(move |text| line('-', text)),
            any::<i64>().prop_map(move |number| line(':', number.to_string())),
            Just(b"$-1\r\n".to_vec()),
            Just(b"*-1\r\n".to_vec()),
        ];
        leaf.prop_recursive(3, 24, 4, |inner| {
            prop::collection::vec(inner, 0..4).prop_map(|items| {
                let mut out = format!("*{}\r\n", items.len()).into_bytes();
                out.extend(items.concat());
                out
            })
        })
    }

    proptest! {
        #[test]
        fn any_split_gives_the_same(
            reply in reply(),
            most in 0..40_usize,
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..8),
        ) {
            let whole = scan(&[&reply], most);
            prop_assert!(whole.is_ok());
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(reply.len() + 1)).collect();
            cuts.extend([0, reply.len()]);
            cuts.sort_unstable();
            let pieces: Vec<&[u8]> = cuts.windows(2).map(|cut| &reply[cut[0]..cut[1]]).collect();
            prop_assert_eq!(scan(&pieces, most), whole.clone());
            let bytes: Vec<&[u8]> = reply.chunks(1).collect();
            prop_assert_eq!(scan(&bytes, most), whole);
        }

        #[test]
        fn arbitrary_bytes_never_panic(
            input in prop_oneof![
                prop::collection::vec(any::<u8>(), 0..200),
                "([*$:+_-]|-?[0-9]{1,20}|\r\n|[a-z]){0,60}".prop_map(String::into_bytes),
            ],
            most in 0..40_usize,
        ) {
            let _ = scan(&[&input], most);
        }
    }
}
