//! What a body's type tells of what stands around its URLs.

/// What a body is, as far as it matters to a URL in it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Media {
    #[default]
    Other,
    /// An `&` that begins no reference makes it ill-formed (XML 1.0, section 2.4). HTML allows it, and a script in HTML
    /// needs it as it is.
    Xml,
    /// Every `&` begins a field.
    Form,
}

impl Media {
    /// Of a `content-type`.
    pub(crate) fn of(content_type: &[u8]) -> Self {
        let essence = content_type.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii();
        match essence.to_ascii_lowercase().as_slice() {
            b"application/xml" | b"text/xml" => Self::Xml,
            other if other.ends_with(b"+xml") => Self::Xml,
            b"application/x-www-form-urlencoded" => Self::Form,
            _ => Self::Other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_type_is_known_whatever_its_case_and_parameters() {
        for (content_type, media) in [
            ("", Media::Other),
            ("text/html", Media::Other),
            ("text/XML; charset=utf-8", Media::Xml),
            ("application/xml", Media::Xml),
            ("image/svg+xml ;x=y", Media::Xml),
            ("application/x-www-form-urlencoded", Media::Form),
        ] {
            assert_eq!(Media::of(content_type.as_bytes()), media, "{content_type}");
        }
    }
}
