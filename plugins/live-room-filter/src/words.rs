//! Words and links in a text.

use std::collections::HashSet;
use std::ops::Range;

/// A word as the list has it: small letters, and letters for the digits and signs that are put in their place.
pub fn normalized(word: &str) -> String {
    let letter = |c| match c {
        '0' => 'o',
        '1' | '!' => 'i',
        '3' => 'e',
        '4' | '@' => 'a',
        '5' | '$' => 's',
        '7' => 't',
        other => other,
    };
    word.chars().flat_map(char::to_lowercase).map(letter).collect()
}

/// Where words of the list stand. Words end at what is neither letter, digit nor one of `!@$`, which stand for letters.
pub fn find(text: &str, words: &HashSet<String>) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    if words.is_empty() {
        return found;
    }
    let within = |c: char| c.is_alphanumeric() || matches!(c, '!' | '@' | '$');
    let mut rest = text;
    while let Some(start) = rest.find(within) {
        let word = &rest[start..];
        let word = &word[..word.find(|c| !within(c)).unwrap_or(word.len())];
        let at = text.len() - rest.len() + start;
        // `damn!!` is the word with signs after it, `d!rt` has one inside.
        let bare = word.trim_end_matches(['!', '@', '$']);
        if words.contains(&normalized(word)) || words.contains(&normalized(bare)) {
            found.push(at..at + bare.len());
        }
        rest = &rest[start + word.len()..];
    }
    found
}

/// The text with a star for each letter of what was found.
pub fn masked(text: &str, found: &[Range<usize>]) -> String {
    let mut out = String::with_capacity(text.len());
    let mut from = 0;
    for range in found {
        out += &text[from..range.start];
        out.extend(text[range.clone()].chars().map(|_| '*'));
        from = range.end;
    }
    out + &text[from..]
}

/// Whether there is something that a client would show as a link.
pub fn has_link(text: &str) -> bool {
    let lower = text.to_lowercase();
    lower.contains("://") || lower.split_whitespace().any(|word| word.contains("www.") || is_bare_link(word))
}

/// `example.com/path`: a host of two parts at least, and a path.
fn is_bare_link(word: &str) -> bool {
    let Some((host, _)) = word.split_once('/') else { return false };
    let host = host.trim_start_matches(|c: char| !c.is_alphanumeric());
    let Some((_, top)) = host.rsplit_once('.') else { return false };
    top.len() >= 2 && top.chars().all(char::is_alphabetic)
}
