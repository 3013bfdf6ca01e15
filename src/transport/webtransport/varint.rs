//! Variable-length integers (RFC 9000 section 16).

/// The greatest value that can be written.
pub const MAX: u64 = (1 << 62) - 1;

/// Bytes of the longest encoding.
pub const MAX_BYTES: usize = 8;

/// Reads a number from the beginning of `bytes`: it and how many bytes it takes; `None` while it is cut
/// off. Any of the four lengths may hold any number that fits.
pub fn read(bytes: &[u8]) -> Option<(u64, usize)> {
    let first = *bytes.first()?;
    let length = 1 << (first >> 6);
    let rest = bytes.get(1..length)?;
    let value = rest.iter().fold(u64::from(first & 0x3F), |sum, byte| sum << 8 | u64::from(*byte));
    Some((value, length))
}

/// A number in its shortest form.
#[derive(Debug, Clone, Copy)]
pub struct Encoded {
    bytes: [u8; MAX_BYTES],
    length: usize,
}

impl Encoded {
    /// Encodes a number. One above [`MAX`] is encoded as that.
    pub fn new(value: u64) -> Self {
        let value = value.min(MAX);
        let (mark, length) = match value {
            0..0x40 => (0, 1),
            0x40..0x4000 => (1, 2),
            0x4000..0x4000_0000 => (2, 4),
            _ => (3, 8),
        };
        let mut bytes = [0; MAX_BYTES];
        bytes[..length].copy_from_slice(&value.to_be_bytes()[MAX_BYTES - length..]);
        bytes[0] |= mark << 6;
        Self { bytes, length }
    }

    /// The bytes on the wire, 1, 2, 4 or 8 of them.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_standards_examples_are_read() {
        // Appendix A.1.
        assert_eq!(
            read(&[0xc2, 0x19, 0x7c, 0x5e, 0xff, 0x14, 0xe8, 0x8c]),
            Some((151_288_809_941_952_652, 8))
        );
        assert_eq!(read(&[0x9d, 0x7f, 0x3e, 0x7d]), Some((494_878_333, 4)));
        assert_eq!(read(&[0x7b, 0xbd]), Some((15_293, 2)));
        assert_eq!(read(&[0x25]), Some((37, 1)));
        assert_eq!(read(&[0x40, 0x25]), Some((37, 2)));
        assert_eq!(read(&[]), None);
        assert_eq!(read(&[0x7b]), None);
    }

    #[test]
    fn lengths_change_where_the_standard_says() {
        for (value, length) in [
            (0, 1),
            (63, 1),
            (64, 2),
            (16_383, 2),
            (16_384, 4),
            (1_073_741_823, 4),
            (1_073_741_824, 8),
            (MAX, 8),
        ] {
            assert_eq!(Encoded::new(value).as_bytes().len(), length, "{value}");
        }
        assert_eq!(Encoded::new(u64::MAX).as_bytes(), Encoded::new(MAX).as_bytes());
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(value in 0..=MAX) {
            let encoded = Encoded::new(value);
            prop_assert_eq!(read(encoded.as_bytes()), Some((value, encoded.as_bytes().len())));
            let all_but_one = &encoded.as_bytes()[..encoded.as_bytes().len() - 1];
            prop_assert_eq!(read(all_but_one), None);
        }
    }
}
