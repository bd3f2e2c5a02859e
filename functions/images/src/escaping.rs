//! How a URL's characters are written in a body: plain, or as JSON, HTML, JavaScript or forms escape them.
//!
//! Tokens are read backwards, from the slashes that a scan has found, and forwards, to the URL's end.

/// How a URL's slashes are written, and so what is written into it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Style {
    /// `/`.
    Plain,
    /// `\/`, with so many backslashes: JSON, and JSON within JSON.
    Backslash(usize),
    /// `\u002F`, with so many backslashes, and whether the digit is upper case.
    Unicode(usize, bool),
    /// `%2F`, or `%252F` at depth 2.
    Percent(usize, bool),
    /// `/` in a URL that is percent-encoded but for its slashes, as Python's `quote` leaves them, and whether digits are
    /// upper case.
    Quoted(bool),
    /// `&#x2F;`, and whether the `x` and the digit are upper case.
    Hexadecimal(bool, bool),
    /// `&#47;`.
    Decimal,
}

/// The depth of percent-encoding, once, in which a slash stands for itself.
const QUOTED: usize = 3;

/// The most backslashes of one escape: JSON within JSON has three.
const BACKSLASHES_MAX: usize = 3;

impl Style {
    /// One of each family.
    pub(crate) const EACH: [Self; 8] = [
        Self::Plain,
        Self::Quoted(true),
        Self::Backslash(1),
        Self::Unicode(1, true),
        Self::Percent(1, true),
        Self::Percent(2, true),
        Self::Hexadecimal(false, true),
        Self::Decimal,
    ];

    /// Whether both are of one family, whatever their digits' case.
    pub(crate) fn matches(self, other: Self) -> bool {
        match (self, other) {
            (Self::Unicode(a, _), Self::Unicode(b, _)) | (Self::Percent(a, _), Self::Percent(b, _)) => a == b,
            (Self::Hexadecimal(..), Self::Hexadecimal(..)) => true,
            _ => self == other,
        }
    }

    /// The depth of percent-encoding.
    pub(crate) fn depth(self) -> usize {
        match self {
            Self::Percent(depth, _) => depth,
            Self::Quoted(_) => QUOTED,
            _ => 0,
        }
    }

    /// How `&` is written where the URL itself shows no other way.
    pub(crate) fn ampersand(self) -> Ampersand {
        match self {
            Self::Unicode(backslashes, _) => Ampersand::Unicode(backslashes),
            Self::Hexadecimal(..) | Self::Decimal => Ampersand::Entity,
            Self::Plain | Self::Backslash(_) | Self::Percent(..) | Self::Quoted(_) => Ampersand::Raw,
        }
    }

    /// Writes `text` as it stands in a URL of this style.
    pub(crate) fn write(self, text: &[u8], ampersand: Ampersand, out: &mut Vec<u8>) {
        for &byte in text {
            match (self, byte) {
                (Self::Quoted(_), b'/') => out.push(byte),
                (Self::Percent(_, upper) | Self::Quoted(upper), byte) if !is_unreserved(byte) => {
                    out.extend_from_slice(percent_sign(self.depth()));
                    out.extend([digit(byte >> 4, upper), digit(byte & 15, upper)]);
                }
                (Self::Backslash(count), b'/') => {
                    backslashes(count, out);
                    out.push(b'/');
                }
                (Self::Unicode(count, upper), b'/') => {
                    backslashes(count, out);
                    out.extend_from_slice(if upper { b"u002F" } else { b"u002f" });
                }
                (Self::Hexadecimal(x, upper), b'/') => {
                    out.extend_from_slice(if x { b"&#X2" } else { b"&#x2" });
                    out.extend_from_slice(if upper { b"F;" } else { b"f;" });
                }
                (Self::Decimal, b'/') => out.extend_from_slice(b"&#47;"),
                (_, b'&') => match ampersand {
                    Ampersand::Raw => out.push(b'&'),
                    Ampersand::Percent => out.extend_from_slice(b"%26"),
                    Ampersand::Entity => out.extend_from_slice(b"&amp;"),
                    Ampersand::Unicode(count) => {
                        backslashes(count, out);
                        out.extend_from_slice(b"u0026");
                    }
                },
                (_, byte) => out.push(byte),
            }
        }
    }
}

fn backslashes(count: usize, out: &mut Vec<u8>) {
    out.extend(std::iter::repeat_n(b'\\', count));
}

fn digit(nibble: u8, upper: bool) -> u8 {
    match nibble {
        0..=9 => b'0' + nibble,
        _ if upper => b'A' + nibble - 10,
        _ => b'a' + nibble - 10,
    }
}

/// How a URL's `&` is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ampersand {
    /// `&`.
    Raw,
    /// `%26`, in another URL's query or a form, where `&` ends a value.
    Percent,
    /// `&amp;`.
    Entity,
    /// `\u0026`, with so many backslashes.
    Unicode(usize),
}

const fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

/// Whether a URL's path, query or fragment may hold the character. `'` and brackets are allowed there by RFC 3986, but
/// in bodies they end a URL far more often.
pub(crate) const fn is_url(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || matches!(
            byte,
            b'-' | b'.'
                | b'_'
                | b'~'
                | b':'
                | b'/'
                | b'?'
                | b'#'
                | b'@'
                | b'!'
                | b'$'
                | b'&'
                | b'('
                | b')'
                | b'*'
                | b'+'
                | b','
                | b';'
                | b'='
                | b'%'
        )
}

/// Whether a character at a URL's end is the sentence's.
pub(crate) const fn is_mark(byte: u8) -> bool {
    matches!(byte, b'.' | b',' | b';' | b':' | b'!')
}

/// How many backslashes stand before `end`, counted to one more than an escape may have.
fn backslashes_before(bytes: &[u8], end: usize) -> usize {
    let before = bytes.get(..end).unwrap_or_default().iter().rev();
    before.take(BACKSLASHES_MAX + 1).take_while(|byte| **byte == b'\\').count()
}

/// The slash whose last byte stands right before `end`: its style and its first byte's place.
pub(crate) fn slash_before(bytes: &[u8], end: usize) -> Option<(Style, usize)> {
    let head = bytes.get(..end)?;
    match head {
        [.., b'/'] => match backslashes_before(bytes, end - 1) {
            0 => Some((Style::Plain, end - 1)),
            count @ 1..=BACKSLASHES_MAX => Some((Style::Backslash(count), end - 1 - count)),
            _ => None,
        },
        [.., b'%', b'2', b'5', b'2', digit @ (b'F' | b'f')] => Some((Style::Percent(2, *digit == b'F'), end - 5)),
        [.., b'%', b'2', digit @ (b'F' | b'f')] => Some((Style::Percent(1, *digit == b'F'), end - 3)),
        [.., b'u', b'0', b'0', b'2', digit @ (b'F' | b'f')] => match backslashes_before(bytes, end - 5) {
            count @ 1..=BACKSLASHES_MAX => Some((Style::Unicode(count, *digit == b'F'), end - 5 - count)),
            _ => None,
        },
        [.., b'&', b'#', x @ (b'x' | b'X'), b'2', digit @ (b'F' | b'f'), b';'] => {
            Some((Style::Hexadecimal(*x == b'X', *digit == b'F'), end - 6))
        }
        [.., b'&', b'#', b'4', b'7', b';'] => Some((Style::Decimal, end - 5)),
        _ => None,
    }
}

/// Where the colon begins whose last byte stands right before `end`.
pub(crate) fn colon_before(bytes: &[u8], end: usize) -> Option<usize> {
    match bytes.get(..end)? {
        [.., b':'] => Some(end - 1),
        [.., b'%', b'2', b'5', b'3', b'A' | b'a'] => Some(end - 5),
        [.., b'%', b'3', b'A' | b'a'] => Some(end - 3),
        [.., b'u', b'0', b'0', b'3', b'A' | b'a'] => match backslashes_before(bytes, end - 5) {
            count @ 1..=BACKSLASHES_MAX => Some(end - 5 - count),
            _ => None,
        },
        [.., b'&', b'#', b'x' | b'X', b'3', b'A' | b'a', b';'] => Some(end - 6),
        [.., b'&', b'#', b'5', b'8', b';'] => Some(end - 5),
        _ => None,
    }
}

/// What stands at a place within a URL, once its escaping is undone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Token {
    /// This character, in so many bytes.
    Char(u8, usize),
    /// Nothing that a URL holds.
    End,
    /// More bytes must come to tell.
    More,
}

/// Reads the token at `at` of a URL with percent-encoded slashes at this `depth`, or with others at depth 0. `last`
/// says that no more bytes come after these.
pub(crate) fn token(bytes: &[u8], at: usize, depth: usize, last: bool) -> Token {
    let Some(rest) = bytes.get(at..).filter(|rest| !rest.is_empty()) else {
        return if last { Token::End } else { Token::More };
    };
    let found = if depth == 0 { raw(rest) } else { percent(rest, depth) };
    // An escape that is cut off is one that the body's end has cut off.
    match found {
        Token::More if last => cut_off(rest, depth),
        found => found,
    }
}

/// What a cut-off escape is when nothing comes after it.
fn cut_off(rest: &[u8], depth: usize) -> Token {
    match rest.first() {
        Some(b'&') if depth == 0 => Token::Char(b'&', 1),
        _ => Token::End,
    }
}

fn raw(rest: &[u8]) -> Token {
    match rest {
        [b'\\', ..] => {
            let count = rest.iter().take(BACKSLASHES_MAX + 1).take_while(|byte| **byte == b'\\').count();
            match rest.get(count..).unwrap_or_default() {
                _ if count > BACKSLASHES_MAX => Token::End,
                [] => Token::More,
                [b'/', ..] => Token::Char(b'/', count + 1),
                [b'u', digits @ ..] => match hexadecimal(digits, 4) {
                    Digits::Value(value, _) => ascii(value, count + 5),
                    Digits::More => Token::More,
                    Digits::None => Token::End,
                },
                _ => Token::End,
            }
        }
        [b'&', ..] => entity(rest),
        [byte @ 0..128, ..] => Token::Char(*byte, 1),
        _ => Token::End,
    }
}

fn ascii(value: u32, length: usize) -> Token {
    match u8::try_from(value) {
        Ok(byte @ 0..128) => Token::Char(byte, length),
        _ => Token::End,
    }
}

/// The most digits of a numeric character reference that is read.
const REFERENCE_DIGITS: usize = 6;

/// The letters of a named character reference, such as `&ldquo;`: one alone is rather a query's `&a;`.
const REFERENCE_NAME: std::ops::RangeInclusive<usize> = 2..=32;

/// The most bytes of a character reference.
pub(crate) const REFERENCE_MAX: usize = 34;

fn entity(rest: &[u8]) -> Token {
    match numeric(rest) {
        Some(Digits::Value(value, length)) => ascii(value, length),
        Some(Digits::More) => Token::More,
        Some(Digits::None) => Token::Char(b'&', 1),
        None => named(rest),
    }
}

/// The character of a reference such as `&#47;`; `None` if it has no number.
fn numeric(rest: &[u8]) -> Option<Digits> {
    let (digits, radix, head) = match rest {
        [b'&', b'#', b'x' | b'X', digits @ ..] => (digits, 16, 3),
        [b'&', b'#', digits @ ..] => (digits, 10, 2),
        _ => return None,
    };
    let count = digits.iter().take(REFERENCE_DIGITS + 1).take_while(|byte| char::from(**byte).is_digit(radix)).count();
    Some(match digits.get(count) {
        Some(b';') if (1..=REFERENCE_DIGITS).contains(&count) => {
            let value = digits
                .iter()
                .take(count)
                .fold(0, |value, byte| value * radix + char::from(*byte).to_digit(radix).unwrap_or_default());
            Digits::Value(value, head + count + 1)
        }
        None if count <= REFERENCE_DIGITS => Digits::More,
        _ => Digits::None,
    })
}

/// The references by name whose characters a URL holds, and that pages write.
const NAMED: [(&[u8], u8); 7] = [
    (b"&amp;", b'&'),
    (b"&period;", b'.'),
    (b"&colon;", b':'),
    (b"&commat;", b'@'),
    (b"&sol;", b'/'),
    (b"&quest;", b'?'),
    (b"&num;", b'#'),
];

/// Any other reference by name is nothing that a URL holds.
fn named(rest: &[u8]) -> Token {
    if let Some((name, byte)) = NAMED.iter().find(|(name, _)| rest.starts_with(name)) {
        return Token::Char(*byte, name.len());
    }
    let name = rest.get(1..).unwrap_or_default();
    let length = name.iter().take(REFERENCE_NAME.end() + 1).take_while(|byte| byte.is_ascii_alphanumeric()).count();
    let is_name = name.first().is_none_or(u8::is_ascii_alphabetic);
    match name.get(length) {
        Some(b';') if is_name && REFERENCE_NAME.contains(&length) => Token::End,
        None if is_name && length <= *REFERENCE_NAME.end() => Token::More,
        _ => Token::Char(b'&', 1),
    }
}

/// Marks beyond ASCII at which a sentence goes on, or ends, behind a URL.
const MARKS: &str = "。，、；：！？）】》〉」』”’…";

/// Whether what ends a URL at `at` is a character that its path may have unescaped, in whatever escaping: one beyond ASCII
/// that is no mark behind it, or one of `[` `^` `|` `{` `'` within a word. `None` if more bytes must come to tell.
/// Bytes that are no UTF-8 are taken for letters.
pub(crate) fn goes_on(bytes: &[u8], at: usize, depth: usize, last: bool) -> Option<bool> {
    if let Token::Char(b'[' | b'^' | b'|' | b'{' | b'\'', size) = token(bytes, at, depth, last) {
        return match token(bytes, at + size, depth, last) {
            Token::Char(byte, _) => Some(is_unreserved(byte) && byte != b'.'),
            Token::End => Some(false),
            Token::More => None,
        };
    }
    Some(match letter(bytes, at, depth, last)? {
        Some(letter) => match std::str::from_utf8(letter.bytes()) {
            Ok(text) => !text.is_ascii() && !MARKS.contains(text),
            Err(_) => true,
        },
        // Half of a character.
        None => depth == 0 && is_beyond(bytes, at),
    })
}

/// A character at which a URL ends in a body, and that an image's path may hold all the same, where nobody has
/// percent-encoded it.
pub(crate) struct Letter {
    utf8: [u8; 4],
    length: usize,
    /// The bytes that it takes in the body.
    pub(crate) size: usize,
}

impl Letter {
    fn of(char: char, size: usize) -> Self {
        let mut utf8 = [0; 4];
        let length = char.encode_utf8(&mut utf8).len();
        Self { utf8, length, size }
    }

    fn of_byte(byte: u8, size: usize) -> Self {
        Self { utf8: [byte, 0, 0, 0], length: 1, size }
    }

    /// As a path with its escapes undone holds it.
    pub(crate) fn bytes(&self) -> &[u8] {
        self.utf8.get(..self.length).unwrap_or_default()
    }

    /// Whether it is one of its own, not a further byte of the one before.
    pub(crate) fn begins(&self) -> bool {
        !matches!(self.utf8, [0x80..0xC0, ..])
    }
}

/// Whether a path with its escapes undone holds a byte as a part of such a character.
pub(crate) const fn is_of_letter(byte: u8) -> bool {
    matches!(byte, b'[' | b']' | 128..)
}

/// The [`Letter`] at `at`: a bracket, or one beyond ASCII, in whatever escaping; percent-encoded, a byte of it. `None` if
/// more bytes must come to tell.
pub(crate) fn letter(bytes: &[u8], at: usize, depth: usize, last: bool) -> Option<Option<Letter>> {
    match token(bytes, at, depth, last) {
        Token::More => return None,
        Token::Char(byte, size) => return Some(is_of_letter(byte).then(|| Letter::of_byte(byte, size))),
        Token::End => {}
    }
    let rest = bytes.get(at..).unwrap_or_default();
    if depth > 0 {
        let sign = percent_sign(depth);
        return Some(match rest.strip_prefix(sign).map(|digits| hexadecimal(digits, 2)) {
            Some(Digits::Value(value @ 128..=255, digits)) => {
                u8::try_from(value).ok().map(|byte| Letter::of_byte(byte, sign.len() + digits))
            }
            _ => None,
        });
    }
    if let Some((code, size)) = escaped_code(rest) {
        let is_high = |code: &u32| (0xD800..0xDC00).contains(code);
        let Some(high) = Some(code).filter(is_high) else {
            return Some(char::from_u32(code).filter(|_| code >= 128).map(|char| Letter::of(char, size)));
        };
        let behind = rest.get(size..).unwrap_or_default();
        return match escaped_code(behind) {
            Some((low @ 0xDC00..0xE000, more)) => {
                let code = 0x1_0000 + ((high - 0xD800) << 10) + (low - 0xDC00);
                Some(char::from_u32(code).map(|char| Letter::of(char, size + more)))
            }
            None if !last && matches!(token(bytes, at + size, depth, last), Token::More) => None,
            _ => Some(None),
        };
    }
    match rest {
        [byte @ 128..=255, ..] => {
            let Some(char) = rest.get(..utf8_length(*byte)) else {
                return last.then(|| Some(Letter::of_byte(*byte, 1)));
            };
            let char = std::str::from_utf8(char).ok().and_then(|text| text.chars().next());
            Some(Some(char.map_or_else(|| Letter::of_byte(*byte, 1), |char| Letter::of(char, char.len_utf8()))))
        }
        _ => Some(None),
    }
}

/// How many bytes a character has that begins with this one, of those beyond ASCII.
const fn utf8_length(first: u8) -> usize {
    match first {
        0xC0..0xE0 => 2,
        0xE0..0xF0 => 3,
        0xF0..=0xFF => 4,
        _ => 1,
    }
}

/// Whether a character beyond ASCII stands at `at`, escaped as JSON or HTML do.
pub(crate) fn is_beyond(bytes: &[u8], at: usize) -> bool {
    escaped_code(bytes.get(at..).unwrap_or_default()).is_some_and(|(code, _)| code >= 128)
}

/// The code of the character that these bytes begin with, escaped as JSON or HTML do, and how many bytes it takes.
fn escaped_code(rest: &[u8]) -> Option<(u32, usize)> {
    let backslashes = rest.iter().take(BACKSLASHES_MAX + 1).take_while(|byte| **byte == b'\\').count();
    let (digits, head) = match rest.get(backslashes..).unwrap_or_default() {
        [b'u', digits @ ..] if (1..=BACKSLASHES_MAX).contains(&backslashes) => {
            (hexadecimal(digits, 4), backslashes + 1)
        }
        [b'&', ..] if backslashes == 0 => (numeric(rest)?, 0),
        _ => return None,
    };
    match digits {
        Digits::Value(code, length) => Some((code, head + length)),
        Digits::More | Digits::None => None,
    }
}

enum Digits {
    /// With the bytes that it takes.
    Value(u32, usize),
    None,
    More,
}

fn hexadecimal(digits: &[u8], count: usize) -> Digits {
    let mut value = 0;
    for place in 0..count {
        match digits.get(place).map(|byte| char::from(*byte).to_digit(16)) {
            Some(Some(digit)) => value = value * 16 + digit,
            Some(None) => return Digits::None,
            None => return Digits::More,
        }
    }
    Digits::Value(value, count)
}

/// What a byte's escape begins with at this depth.
pub(crate) const fn percent_sign(depth: usize) -> &'static [u8] {
    if depth == 2 { b"%25" } else { b"%" }
}

fn percent(rest: &[u8], depth: usize) -> Token {
    let escape = percent_sign(depth);
    match rest {
        [b'%', ..] if escape.starts_with(rest) => Token::More,
        [b'%', ..] => match rest.strip_prefix(escape).map(|digits| hexadecimal(digits, 2)) {
            Some(Digits::Value(value, _)) => ascii(value, escape.len() + 2),
            Some(Digits::More) => Token::More,
            Some(Digits::None) | None => Token::End,
        },
        // What encoders of URL components leave as it is; everything else belongs to what the URL stands in.
        [byte, ..] if is_unreserved(*byte) || matches!(byte, b'!' | b'*' | b'(' | b')' | b':' | b'@') => {
            Token::Char(*byte, 1)
        }
        [b'/', ..] if depth == QUOTED => Token::Char(b'/', 1),
        _ => Token::End,
    }
}
