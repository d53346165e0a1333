//! Text of others in a sentence of ours.

/// The text with its control characters as escapes: a line break would end the sentence, and others steer the terminal.
pub(crate) fn legible(text: &str) -> String {
    let mut legible = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() {
            legible.extend(c.escape_default());
        } else {
            legible.push(c);
        }
    }
    legible
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_would_steer_the_terminal_or_end_the_line_is_an_escape() {
        assert_eq!(
            legible("a\n\x1b[2Ja is\u{9b}1m unknown: é"),
            r"a\n\u{1b}[2Ja is\u{9b}1m unknown: é"
        );
    }
}
