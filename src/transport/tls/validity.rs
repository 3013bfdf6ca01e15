//! When a certificate ends: the one field that is wanted of X.509 (RFC 5280 section 4.1).

use std::time::{Duration, SystemTime};

const SEQUENCE: u8 = 0x30;
const INTEGER: u8 = 0x02;
const VERSION: u8 = 0xA0;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;

/// `notAfter` of a certificate in DER. One that lies before 1970 is said to be 1970.
///
/// # Errors
/// What is not as it should be.
pub(super) fn not_after(certificate: &[u8]) -> Result<SystemTime, &'static str> {
    let mut outer = Der(certificate);
    let mut certificate = Der(outer.expect(SEQUENCE)?);
    let mut fields = Der(certificate.expect(SEQUENCE)?);
    if fields.0.first() == Some(&VERSION) {
        fields.expect(VERSION)?;
    }
    fields.expect(INTEGER)?;
    fields.expect(SEQUENCE)?;
    fields.expect(SEQUENCE)?;
    let mut validity = Der(fields.expect(SEQUENCE)?);
    validity.take()?;
    match validity.take()? {
        (UTC_TIME, text) => time(text, 2),
        (GENERALIZED_TIME, text) => time(text, 4),
        _ => Err("its end is no time"),
    }
}

/// What is left of an encoding.
struct Der<'d>(&'d [u8]);

impl<'d> Der<'d> {
    /// The next element: its tag and its content.
    fn take(&mut self) -> Result<(u8, &'d [u8]), &'static str> {
        const CUT: &str = "it is cut off";
        let (&[tag, first], mut rest) = self.0.split_first_chunk().ok_or(CUT)?;
        let mut length = usize::from(first);
        if first & 0x80 != 0 {
            let count = usize::from(first & 0x7F);
            if count == 0 || count > 4 {
                return Err("a length in it is not DER");
            }
            let (bytes, after) = rest.split_at_checked(count).ok_or(CUT)?;
            length = bytes.iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte));
            rest = after;
        }
        let (content, rest) = rest.split_at_checked(length).ok_or(CUT)?;
        self.0 = rest;
        Ok((tag, content))
    }

    fn expect(&mut self, tag: u8) -> Result<&'d [u8], &'static str> {
        let (found, content) = self.take()?;
        if found == tag { Ok(content) } else { Err("it is not an X.509 certificate") }
    }
}

/// `[YY]YYMMDDHHMMSSZ` (sections 4.1.2.5.1 and 4.1.2.5.2).
fn time(text: &[u8], year_digits: usize) -> Result<SystemTime, &'static str> {
    const BAD: &str = "its end is no valid time";
    let digits = text.strip_suffix(b"Z").filter(|digits| digits.len() == year_digits + 10).ok_or(BAD)?;
    if !digits.iter().all(u8::is_ascii_digit) {
        return Err(BAD);
    }
    let number = |part: &[u8]| part.iter().fold(0_u64, |sum, digit| sum * 10 + u64::from(digit - b'0'));
    let (year, rest) = digits.split_at(year_digits);
    let year = match number(year) {
        short @ 0..50 if year_digits == 2 => 2000 + short,
        short if year_digits == 2 => 1900 + short,
        long => long,
    };
    let mut parts = rest.chunks(2).map(number);
    let mut part = |range: std::ops::RangeInclusive<u64>| parts.next().filter(|part| range.contains(part));
    let (month, day) = (part(1..=12).ok_or(BAD)?, part(1..=31).ok_or(BAD)?);
    let (hour, minute, second) =
        (part(0..=23).ok_or(BAD)?, part(0..=59).ok_or(BAD)?, part(0..=60).ok_or(BAD)?);
    let days = days_since_1970(year, month, day).unwrap_or(0);
    Ok(SystemTime::UNIX_EPOCH + Duration::from_secs(((days * 24 + hour) * 60 + minute) * 60 + second))
}

/// Days from 1970-01-01 in the Gregorian calendar: years are counted from March, so that a leap day
/// ends one, and months by the line that their lengths follow from there.
fn days_since_1970(year: u64, month: u64, day: u64) -> Option<u64> {
    let year = if month < 3 { year.checked_sub(1)? } else { year };
    let month = (month + 9) % 12;
    let days = year * 365 + year / 4 - year / 100 + year / 400 + (month * 306 + 5) / 10 + day - 1;
    days.checked_sub(719_468)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(text: &str, year_digits: usize) -> Result<u64, &'static str> {
        let time = time(text.as_bytes(), year_digits)?;
        Ok(time.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs())
    }

    #[test]
    fn times_are_read() {
        assert_eq!(seconds("700101000000Z", 2), Ok(0));
        assert_eq!(seconds("260228235959Z", 2), Ok(1_772_323_199));
        assert_eq!(seconds("240229120000Z", 2), Ok(1_709_208_000));
        assert_eq!(seconds("20500101000000Z", 4), Ok(2_524_608_000));
        assert_eq!(seconds("99991231235959Z", 4), Ok(253_402_300_799));
        assert_eq!(seconds("500101000000Z", 2), Ok(0));
        for bad in ["", "Z", "2602282359Z", "260228235959", "261328235959Z", "260028235959Z", "26022823595xZ"]
        {
            seconds(bad, 2).unwrap_err();
        }
    }

    #[test]
    fn what_is_no_certificate_is_refused_wherever_it_breaks() {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        params.not_after = rcgen::date_time_ymd(2049, 12, 31);
        let whole = params.self_signed(&key).unwrap().der().to_vec();
        let seconds = not_after(&whole).unwrap().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
        assert_eq!(seconds, 2_524_521_600);
        for end in 0..whole.len() {
            not_after(&whole[..end]).unwrap_err();
        }
        not_after(&[0x30, 0x84, 0xFF, 0xFF, 0xFF, 0xFF]).unwrap_err();
        not_after(&[0x02, 0x01, 0x00]).unwrap_err();
    }
}
