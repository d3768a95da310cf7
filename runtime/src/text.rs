//! Texts with an upper limit, as the API has them.

/// `text`, cut to at most `max` bytes, of which the last character says so. `max` must have room for that: 3 bytes.
pub fn shortened(mut text: String, max: usize) -> String {
    if text.len() > max {
        let mut end = max - '…'.len_utf8();
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        text.truncate(end);
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cut_between_characters() {
        for (text, cut) in [
            ("12345678", "12345678"),
            ("123456789", "12345…"),
            ("äääää", "ää…"),
            ("", ""),
        ] {
            assert_eq!(shortened(text.to_owned(), 8), cut);
        }
    }
}
