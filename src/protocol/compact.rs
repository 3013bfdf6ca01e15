//! Checks a JSON text and takes the whitespace out, in one pass, without building a tree.
//!
//! A message from a backend is checked once before it goes to every subscriber, so this is on the
//! hot path. The nesting is kept in the bits of one word: no allocation, no recursion, and the depth
//! limit is the word's width.

/// How deep arrays and objects may nest.
pub(super) const MAX_DEPTH: u32 = u64::BITS;

/// Why a text was not compacted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NotJson {
    /// It breaks the grammar of RFC 8259, or holds what many programs refuse to read though the grammar
    /// allows it: half a surrogate pair, or a number beyond a double (RFC 7493, sections 2.1 and 2.2).
    Syntax,
    /// It nests deeper than `MAX_DEPTH`.
    TooDeep,
}

/// Appends `text` to `out` without the whitespace between tokens. On an error `out` is as it was.
///
/// Strings and numbers are copied as they stand.
pub(super) fn compact(text: &str, out: &mut Vec<u8>) -> Result<(), NotJson> {
    let before = out.len();
    let mut scanner = Scanner { text: text.as_bytes(), at: 0, copied: 0, nesting: 0, depth: 0, out };
    let result = scanner.document();
    if result.is_err() {
        out.truncate(before);
    }
    result
}

struct Scanner<'a> {
    text: &'a [u8],
    /// The next byte to look at.
    at: usize,
    /// Everything before this is in `out` or was whitespace.
    copied: usize,
    /// The open arrays (0) and objects (1), the innermost in the lowest bit.
    nesting: u64,
    depth: u32,
    out: &'a mut Vec<u8>,
}

impl Scanner<'_> {
    fn document(&mut self) -> Result<(), NotJson> {
        loop {
            self.skip_space();
            if self.value()? && self.after_value()? {
                break;
            }
        }
        if self.at < self.text.len() {
            return Err(NotJson::Syntax);
        }
        self.out.extend_from_slice(&self.text[self.copied..]);
        Ok(())
    }

    /// Reads a value or the opening of one; says whether the value is complete.
    fn value(&mut self) -> Result<bool, NotJson> {
        match self.peek().ok_or(NotJson::Syntax)? {
            b'"' => self.string()?,
            b'-' | b'0'..=b'9' => self.number()?,
            b'{' => {
                self.open(true)?;
                if self.peek() != Some(b'}') {
                    self.name()?;
                    return Ok(false);
                }
                self.close();
            }
            b'[' => {
                self.open(false)?;
                if self.peek() != Some(b']') {
                    return Ok(false);
                }
                self.close();
            }
            b't' => self.literal(b"true")?,
            b'f' => self.literal(b"false")?,
            b'n' => self.literal(b"null")?,
            _ => return Err(NotJson::Syntax),
        }
        Ok(true)
    }

    /// Reads up to where the next value is due; says whether the document is complete instead.
    fn after_value(&mut self) -> Result<bool, NotJson> {
        loop {
            self.skip_space();
            if self.depth == 0 {
                return Ok(true);
            }
            let in_object = self.nesting & 1 == 1;
            match self.peek() {
                Some(b',') => {
                    self.at += 1;
                    if in_object {
                        self.skip_space();
                        self.name()?;
                    }
                    return Ok(false);
                }
                Some(b'}') if in_object => self.close(),
                Some(b']') if !in_object => self.close(),
                _ => return Err(NotJson::Syntax),
            }
        }
    }

    fn open(&mut self, object: bool) -> Result<(), NotJson> {
        if self.depth == MAX_DEPTH {
            return Err(NotJson::TooDeep);
        }
        self.depth += 1;
        self.nesting = self.nesting << 1 | u64::from(object);
        self.at += 1;
        self.skip_space();
        Ok(())
    }

    fn close(&mut self) {
        self.depth -= 1;
        self.nesting >>= 1;
        self.at += 1;
    }

    /// A member's name and the colon.
    fn name(&mut self) -> Result<(), NotJson> {
        if self.peek() != Some(b'"') {
            return Err(NotJson::Syntax);
        }
        self.string()?;
        self.skip_space();
        if self.peek() != Some(b':') {
            return Err(NotJson::Syntax);
        }
        self.at += 1;
        Ok(())
    }

    fn string(&mut self) -> Result<(), NotJson> {
        self.at += 1;
        loop {
            self.at += plain_prefix(&self.text[self.at..]);
            match self.peek() {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(());
                }
                Some(b'\\') => self.escape()?,
                // The text's end or a bare control character.
                _ => return Err(NotJson::Syntax),
            }
        }
    }

    fn escape(&mut self) -> Result<(), NotJson> {
        let rest = &self.text[self.at + 1..];
        self.at += match rest {
            [b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't', ..] => 2,
            [b'u', rest @ ..] => match utf16_unit(rest) {
                Some(0xd800..=0xdbff) => match rest.get(4..) {
                    Some([b'\\', b'u', low @ ..]) if matches!(utf16_unit(low), Some(0xdc00..=0xdfff)) => 12,
                    _ => return Err(NotJson::Syntax),
                },
                None | Some(0xdc00..=0xdfff) => return Err(NotJson::Syntax),
                Some(_) => 6,
            },
            _ => return Err(NotJson::Syntax),
        };
        Ok(())
    }

    fn number(&mut self) -> Result<(), NotJson> {
        let start = self.at;
        self.at += usize::from(self.peek() == Some(b'-'));
        if self.peek() == Some(b'0') {
            self.at += 1;
        } else {
            self.digits()?;
        }
        if self.peek() == Some(b'.') {
            self.at += 1;
            self.digits()?;
        }
        let has_exponent = matches!(self.peek(), Some(b'e' | b'E'));
        if has_exponent {
            self.at += 1;
            self.at += usize::from(matches!(self.peek(), Some(b'+' | b'-')));
            self.digits()?;
        }
        // Without an exponent a double holds whatever has no more digits than this.
        let fits = !has_exponent && self.at - start <= f64::MAX_10_EXP as usize;
        if fits || is_finite(&self.text[start..self.at]) { Ok(()) } else { Err(NotJson::Syntax) }
    }

    fn digits(&mut self) -> Result<(), NotJson> {
        let count = self.text[self.at..].iter().take_while(|byte| byte.is_ascii_digit()).count();
        self.at += count;
        if count == 0 { Err(NotJson::Syntax) } else { Ok(()) }
    }

    fn literal(&mut self, word: &[u8]) -> Result<(), NotJson> {
        if !self.text[self.at..].starts_with(word) {
            return Err(NotJson::Syntax);
        }
        self.at += word.len();
        Ok(())
    }

    fn skip_space(&mut self) {
        if !matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            return;
        }
        self.out.extend_from_slice(&self.text[self.copied..self.at]);
        while let Some(b' ' | b'\t' | b'\n' | b'\r') = self.peek() {
            self.at += 1;
        }
        self.copied = self.at;
    }

    fn peek(&self) -> Option<u8> {
        self.text.get(self.at).copied()
    }
}

/// The number that four hexadecimal digits make.
fn utf16_unit(text: &[u8]) -> Option<u32> {
    let digits = text.first_chunk::<4>()?;
    digits.iter().try_fold(0, |unit, digit| Some(unit << 4 | char::from(*digit).to_digit(16)?))
}

fn is_finite(number: &[u8]) -> bool {
    let number = std::str::from_utf8(number).ok().and_then(|text| text.parse::<f64>().ok());
    number.is_some_and(f64::is_finite)
}

/// How many bytes stand before the first `"`, `\` or control character, eight at a time.
pub(super) fn plain_prefix(text: &[u8]) -> usize {
    const ONES: u64 = u64::MAX / 255;
    const HIGHS: u64 = ONES << 7;
    // Flags bytes below `limit` in their high bit. A borrow can flag a byte above a flagged one
    // wrongly, never the lowest, and only the lowest counts.
    let below = |word: u64, limit: u64| word.wrapping_sub(ONES * limit) & !word & HIGHS;
    let (words, rest) = text.as_chunks::<8>();
    for (index, word) in words.iter().enumerate() {
        let word = u64::from_le_bytes(*word);
        let quote = below(word ^ (ONES * u64::from(b'"')), 1);
        let backslash = below(word ^ (ONES * u64::from(b'\\')), 1);
        let stops = below(word, 0x20) | quote | backslash;
        if stops != 0 {
            return index * 8 + stops.trailing_zeros() as usize / 8;
        }
    }
    let plain = |byte: &u8| *byte >= 0x20 && *byte != b'"' && *byte != b'\\';
    words.len() * 8 + rest.iter().position(|byte| !plain(byte)).unwrap_or(rest.len())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn compacted(text: &str) -> Result<String, NotJson> {
        let mut out = b"before".to_vec();
        let result = compact(text, &mut out);
        let out = String::from_utf8(out).unwrap();
        let added = out.strip_prefix("before").unwrap().to_owned();
        if result.is_err() {
            assert_eq!(added, "", "an error leaves nothing behind");
        }
        result.map(|()| added)
    }

    #[test]
    fn whitespace_goes_and_everything_else_stays() {
        for (text, expected) in [
            (
                " { \"a b\" : [ 1 , -2.5e+3 ,\n\ttrue ] ,\r\n\"\" : { } } ",
                r#"{"a b":[1,-2.5e+3,true],"":{}}"#,
            ),
            ("[]", "[]"),
            (" [ [ ] , null , false ] ", "[[],null,false]"),
            (
                r#""a long string with \"quotes\" and \u00e9 é""#,
                r#""a long string with \"quotes\" and \u00e9 é""#,
            ),
            (" 0 ", "0"),
            (r#" "\ud83d\uDE00" "#, r#""\ud83d\uDE00""#),
            ("[1e308, -0.0E-9999]", "[1e308,-0.0E-9999]"),
        ] {
            assert_eq!(compacted(text).as_deref(), Ok(expected));
        }
    }

    #[test]
    fn what_is_no_json_is_refused() {
        for text in [
            "",
            " ",
            "{",
            "[",
            "[1",
            "[1,",
            "[1,]",
            "{\"a\"}",
            "{\"a\":}",
            "{\"a\":1,}",
            "{a:1}",
            "[1}",
            "{\"a\":1]",
            "01",
            "-",
            "1.",
            ".5",
            "1e",
            "+1",
            "tru",
            "nullx",
            "\"",
            "\"\\x\"",
            "\"\\u12g4\"",
            "\"\\u12",
            r#""\ud83d""#,
            r#""\ude00""#,
            r#""\ud83d\ud83d""#,
            r#""\ud83d\n""#,
            "1e999",
            "-1E+309",
            "\"a\nb\"",
            "\"\u{1f}\"",
            "[] []",
            "[1 2]",
            "]",
            "\u{feff}[]",
            "\u{a0}[]",
        ] {
            assert_eq!(compacted(text), Err(NotJson::Syntax), "{text:?}");
        }
    }

    #[test]
    fn depth_is_limited_without_recursion() {
        let nested = |depth: usize| "[".repeat(depth) + &"]".repeat(depth);
        assert!(compacted(&nested(64)).is_ok());
        assert_eq!(compacted(&nested(65)), Err(NotJson::TooDeep));
        assert_eq!(compacted(&nested(100_000)), Err(NotJson::TooDeep));
        let objects = |depth: usize| "{\"a\":".repeat(depth) + "1" + &"}".repeat(depth);
        assert!(compacted(&objects(64)).is_ok());
        assert_eq!(compacted(&objects(65)), Err(NotJson::TooDeep));
    }

    #[test]
    fn every_stop_is_found_at_every_place() {
        for stop in [b'"', b'\\', 0, 0x1f] {
            for place in 0..20 {
                let mut text = [0xff_u8; 24];
                text[place] = stop;
                text[place + 1] = b'"';
                assert_eq!(plain_prefix(&text), place);
            }
        }
        assert_eq!(plain_prefix(b" !#[]\x7f\x80 and so on"), 17);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        /// The same texts pass as with serde_json, and mean the same afterwards.
        #[test]
        fn agrees_with_serde_json(text in r#"([\[\]{},:" 0-9.eE+\-]|"a"|"\\n"|true|null|\[1\]|\{"a":|\}){0,24}"#) {
            let ours = compacted(&text);
            let theirs = serde_json::from_str::<serde_json::Value>(&text);
            prop_assert_eq!(ours.is_ok(), theirs.is_ok(), "{}", text);
            if let (Ok(ours), Ok(value)) = (ours, theirs) {
                prop_assert_eq!(serde_json::from_str::<serde_json::Value>(&ours).unwrap(), value);
            }
        }

        #[test]
        fn arbitrary_text_never_panics(text in ".*") {
            let _ = compacted(&text);
        }
    }
}
