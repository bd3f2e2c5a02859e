//! Cards as an operator imports them: a line each, CSV (RFC 4180, one record a line) or NDJSON, of
//! `card_no,secret,fen,expires_at?`. A line that is no card is told with its number and why; no secret is quoted.

use csv_core::{ReadRecordResult, Reader};
use shared::{
    fields::Fields,
    id::Id,
    json,
    ndjson::{LINE_LIMIT, Line},
};

use crate::activity::CARD_FEN_MAX;

const NAMES: [&str; 4] = ["card_no", "secret", "fen", "expires_at"];
const SECRET_MAX: usize = 256;

/// A card as it stands in a line.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Card {
    pub(crate) card_no: Id,
    pub(crate) secret: String,
    pub(crate) fen: i64,
    pub(crate) expires_at_ms: Option<i64>,
}

/// How the lines are written.
#[derive(Clone, Debug)]
pub(crate) enum Format {
    Ndjson,
    /// Where each of the four names stands in a record.
    Csv(Option<[Option<usize>; 4]>),
}

/// The line names columns, and not those of a card: nothing of the import can be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct WrongColumns(pub(crate) String);

impl Format {
    /// CSV, whose first line may name the columns.
    pub(crate) const fn csv() -> Self {
        Self::Csv(None)
    }

    /// Reads a line; `None` if it names the columns.
    ///
    /// # Errors
    /// If it names others than a card has: a card whose expiry is called otherwise would never expire.
    pub(crate) fn read(&mut self, line: &Line) -> Result<Option<Result<Card, String>>, WrongColumns> {
        let Some(bytes) = &line.bytes else { return Ok(Some(Err(format!("the line is over {LINE_LIMIT} bytes")))) };
        let columns = match self {
            Self::Ndjson => return Ok(Some(from_json(bytes))),
            Self::Csv(columns) => columns,
        };
        let record = match record(bytes) {
            Ok(record) => record,
            Err(reason) => return Ok(Some(Err(reason))),
        };
        if let Some(columns) = columns {
            return Ok(Some(from_record(&record, columns)));
        }
        let names: Vec<_> = record.iter().map(|field| field.trim_start_matches('\u{feff}').trim()).collect();
        if !names.iter().any(|name| NAMES.contains(name)) {
            return Ok(Some(from_record(&record, columns.insert([Some(0), Some(1), Some(2), Some(3)]))));
        }
        let found = NAMES.map(|name| names.iter().position(|field| *field == name));
        let unknown = names.iter().filter(|name| !NAMES.contains(*name)).map(|name| format!("`{name:.64}` is unknown"));
        let missing = NAMES.iter().zip(found).filter(|(name, found)| **name != "expires_at" && found.is_none());
        let wrong: Vec<_> = unknown.chain(missing.map(|(name, _)| format!("`{name}` is missing"))).collect();
        if wrong.is_empty() {
            *columns = Some(found);
            Ok(None)
        } else {
            Err(WrongColumns(format!("the columns are {}: {}", NAMES.join(", "), wrong.join(", "))))
        }
    }
}

fn from_json(bytes: &[u8]) -> Result<Card, String> {
    let value = json::parse(bytes).map_err(|error| format!("not JSON: {error}"))?;
    let mut fields = Fields::of(&value, "");
    let card_no = fields.id("card_no");
    let secret = fields.text("secret", SECRET_MAX);
    let fen = fields.integer("fen", 1..=CARD_FEN_MAX);
    let expires_at_ms = fields.optional_instant("expires_at");
    let read = (|| Some(Card { card_no: card_no?, secret: secret?, fen: fen?, expires_at_ms }))();
    fields.finish(read).map_err(|faults| {
        let each = faults.iter().map(|fault| format!("{} {}", fault.pointer.trim_start_matches('/'), fault.detail));
        each.collect::<Vec<_>>().join("; ")
    })
}

/// A line's fields.
fn record(bytes: &[u8]) -> Result<Vec<String>, String> {
    let mut reader = Reader::new();
    let mut output = vec![0; bytes.len() + 1];
    let mut ends = [0; 16];
    let (result, read, written, count) = reader.read_record(bytes, &mut output, &mut ends);
    let (mut written, mut count) = (written, count);
    match result {
        ReadRecordResult::Record | ReadRecordResult::End => {}
        ReadRecordResult::OutputEndsFull => return Err("the line has too many columns".into()),
        ReadRecordResult::OutputFull => return Err("the line is not CSV".into()),
        // The line is the record: what follows is its end.
        ReadRecordResult::InputEmpty => {
            let rest = output.get_mut(written..).unwrap_or_default();
            let (_, _, more, fields) = reader.read_record(&[], rest, ends.get_mut(count..).unwrap_or_default());
            written += more;
            count += fields;
        }
    }
    if bytes.get(read..).is_some_and(|rest| !rest.trim_ascii().is_empty()) {
        return Err("the line is not one record".into());
    }
    let mut fields = Vec::with_capacity(count);
    let mut from = 0;
    for end in ends.iter().take(count).copied() {
        let field = output.get(from..end.min(written)).unwrap_or_default();
        let field = std::str::from_utf8(field).map_err(|_| "the line is not UTF-8".to_owned())?;
        fields.push(field.to_owned());
        from = end;
    }
    Ok(fields)
}

fn from_record(record: &[String], columns: &[Option<usize>; 4]) -> Result<Card, String> {
    if record.len() > NAMES.len() {
        return Err(format!("has {} columns; {} are known", record.len(), NAMES.join(", ")));
    }
    let mut at = columns.iter().map(|place| place.and_then(|place| record.get(place)).map(|field| field.trim()));
    let mut next = || at.next().flatten().filter(|field| !field.is_empty());
    let (card_no, secret, fen, expires_at) = (next(), next(), next(), next());
    let mut faults = Vec::new();
    let mut must = |name: &str, what: &str| faults.push(format!("{name} {what}"));
    let card_no = card_no.and_then(Id::parse).or_else(|| {
        must("card_no", "must be an id, [A-Za-z0-9._:-]{1,64}");
        None
    });
    let fits = |secret: &&str| secret.chars().count() <= SECRET_MAX && !secret.chars().any(char::is_control);
    let secret = secret.filter(fits).or_else(|| {
        must("secret", &format!("must be a text of 1 to {SECRET_MAX} characters"));
        None
    });
    let worth = fen.and_then(|fen| fen.parse().ok()).filter(|fen| (1..=CARD_FEN_MAX).contains(fen)).or_else(|| {
        must("fen", &format!("must be an integer from 1 to {CARD_FEN_MAX}"));
        None
    });
    let expires_at_ms = expires_at.map(shared::clock::parse_rfc3339);
    if expires_at_ms == Some(None) {
        must("expires_at", "must be an RFC 3339 time with offset");
    }
    match (card_no, secret, worth) {
        (Some(card_no), Some(secret), Some(fen)) if faults.is_empty() => {
            Ok(Card { card_no, secret: secret.to_owned(), fen, expires_at_ms: expires_at_ms.flatten() })
        }
        _ => Err(faults.join("; ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(text: &str) -> Line {
        Line { number: 1, bytes: Some(bytes::Bytes::from(text.to_owned())) }
    }

    fn read(format: &mut Format, text: &str) -> Option<Result<(String, String, i64, bool), String>> {
        let card = format.read(&line(text)).unwrap()?;
        Some(card.map(|card| (card.card_no.to_string(), card.secret, card.fen, card.expires_at_ms.is_some())))
    }

    #[test]
    fn csv_is_read_with_and_without_names() {
        let mut plain = Format::csv();
        assert_eq!(read(&mut plain, "6001,S-1,2000\r"), Some(Ok(("6001".into(), "S-1".into(), 2000, false))));
        let quoted = "\"6002\",\"S,\"\"2\",2000,2030-01-01T00:00:00+08:00";
        assert_eq!(read(&mut plain, quoted), Some(Ok(("6002".into(), "S,\"2".into(), 2000, true))));
        let mut named = Format::csv();
        assert_eq!(read(&mut named, "\u{feff}fen,card_no,secret"), None);
        assert_eq!(read(&mut named, "2000,6001,S-1"), Some(Ok(("6001".into(), "S-1".into(), 2000, false))));
    }

    #[test]
    fn a_line_that_is_no_card_says_why_and_quotes_no_secret() {
        let mut csv = Format::csv();
        for (text, why) in [
            ("6001,S-1", "fen must"),
            ("a b,S-1,2000", "card_no must"),
            ("6001,,2000", "secret must"),
            ("6001,S-1,0", "fen must"),
            ("6001,S-1,2000,soon", "expires_at must"),
            ("6001,S-1,2000,,more", "5 columns"),
        ] {
            let reason = read(&mut csv, text).unwrap().unwrap_err();
            assert!(reason.contains(why) && !reason.contains("S-1"), "{text}: {reason}");
        }
        let reason =
            read(&mut Format::Ndjson, r#"{"card_no":"6001","secret":"S-1","fen":"2000"}"#).unwrap().unwrap_err();
        assert!(reason.contains("fen must") && !reason.contains("S-1"), "{reason}");
        assert!(read(&mut Format::Ndjson, "nothing").unwrap().is_err());
    }

    #[test]
    fn columns_that_are_no_cards_refuse_the_import() {
        for (names, wrong) in [
            ("card_no,secret", "`fen` is missing"),
            ("card_no,secret,fen,expiry", "`expiry` is unknown"),
            ("number,secret,fen", "`number` is unknown, `card_no` is missing"),
        ] {
            let WrongColumns(reason) = Format::csv().read(&line(names)).err().unwrap();
            assert!(reason.ends_with(wrong), "{reason}");
        }
    }
}
