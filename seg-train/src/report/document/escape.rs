//! What text becomes so that each form shows it as it is.

use std::fmt::Write as _;

/// Text for HTML and SVG, between tags and within quoted attributes. What XML cannot hold becomes U+FFFD.
///
/// ```
/// use seg_train::report::document::html;
/// assert_eq!(html("<a href=\"x\">'&\u{1}"), "&lt;a href=&quot;x&quot;&gt;&#39;&amp;\u{fffd}");
/// ```
pub fn html(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            '\n' | '\t' => escaped.push(c),
            c if c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}') => escaped.push('\u{fffd}'),
            c => escaped.push(c),
        }
    }
    escaped
}

/// Text for a cell or within a line of GitHub's Markdown. A line break becomes a space.
///
/// ```
/// use seg_train::report::document::markdown;
/// assert_eq!(markdown("a|b\n<i>_c_ $x$ \\"), "a\\|b \\<i\\>\\_c\\_ \\$x\\$ \\\\");
/// ```
pub fn markdown(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\\' | '`' | '*' | '_' | '{' | '}' | '[' | ']' | '<' | '>' | '#' | '|' | '~' | '&'
            | '$' => escaped.extend(['\\', c]),
            '\n' | '\r' | '\t' => escaped.push(' '),
            c if c.is_control() => escaped.push('\u{fffd}'),
            c => escaped.push(c),
        }
    }
    escaped
}

/// Text for a paragraph of Markdown: as [`markdown`], and no beginning that would make a list or a heading of it.
///
/// ```
/// use seg_train::report::document::markdown_paragraph;
/// assert_eq!(markdown_paragraph("- a"), "\\- a");
/// assert_eq!(markdown_paragraph("12. b"), "12\\. b");
/// assert_eq!(markdown_paragraph("12.5 b"), "12\\.5 b");
/// ```
pub fn markdown_paragraph(text: &str) -> String {
    let text = markdown(text.trim());
    let digits = text.chars().take_while(char::is_ascii_digit).count();
    let marker = match text[digits..].chars().next() {
        Some('.' | ')') if digits > 0 => true,
        Some('-' | '+' | '=') => digits == 0,
        _ => false,
    };
    if marker {
        format!("{}\\{}", &text[..digits], &text[digits..])
    } else {
        text
    }
}

/// What an id, a file stem or a label may hold: ASCII letters, digits, `-` and `_`; everything else becomes `-`.
///
/// ```
/// use seg_train::report::document::identifier;
/// assert_eq!(identifier("table IV/γ=2"), "table-IV---2");
/// assert_eq!(identifier(""), "-");
/// ```
pub fn identifier(name: &str) -> String {
    if name.is_empty() {
        return "-".into();
    }
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    name.chars()
        .map(|c| if allowed(c) { c } else { '-' })
        .collect()
}

/// Text for LaTeX, with UTF-8 input as is usual today. Greek letters, arrows and signs become commands that need no
/// package; another script's letters, which a font may lack, become their code points: `{[}U+4E2D{]}`.
///
/// ```
/// use seg_train::report::document::latex;
/// assert_eq!(latex("50 % of {γ_1} ≥ 3·10⁻⁵"), "50 \\% of \\{$\\gamma$\\_1\\} $\\geq$ 3$\\cdot$10$^{-5}$");
/// ```
pub fn latex(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        if let Some((way, digit)) = raised(c) {
            // One run of raised digits is one exponent.
            let mut digits = String::from(digit);
            while let Some((_, digit)) = chars
                .peek()
                .and_then(|&next| raised(next))
                .filter(|&(next, _)| next == way)
            {
                digits.push(digit);
                chars.next();
            }
            let _ = write!(escaped, "${way}{{{digits}}}$");
        } else if c == '-' && chars.peek() == Some(&'-') {
            // Two hyphens would become a dash.
            escaped.push_str("-{}");
        } else {
            push_latex(&mut escaped, c);
        }
    }
    escaped
}

/// Whether a character is raised (`^`) or lowered (`_`), and which it is on the line.
fn raised(c: char) -> Option<(char, char)> {
    const UP: &str = "⁰¹²³⁴⁵⁶⁷⁸⁹";
    const DOWN: &str = "₀₁₂₃₄₅₆₇₈₉";
    let digit = |list: &str| {
        list.chars()
            .position(|d| d == c)
            .map(|place| (b'0' + place as u8) as char)
    };
    match c {
        '⁻' => Some(('^', '-')),
        '⁺' => Some(('^', '+')),
        '₋' => Some(('_', '-')),
        '₊' => Some(('_', '+')),
        _ => digit(UP)
            .map(|digit| ('^', digit))
            .or_else(|| digit(DOWN).map(|digit| ('_', digit))),
    }
}

fn push_latex(escaped: &mut String, c: char) {
    match c {
        // A row that begins with a bracket or an asterisk would be the argument of the row break before it.
        '[' | ']' => escaped.extend(['{', c, '}']),
        '{' | '}' | '$' | '&' | '#' | '%' | '_' => escaped.extend(['\\', c]),
        '\n' | '\r' | '\t' => escaped.push(' '),
        ' '..='~' => match latex_ascii(c) {
            Some(command) => escaped.push_str(command),
            None => escaped.push(c),
        },
        _ => {
            if let Some(command) = latex_text(c) {
                escaped.push_str(command);
            } else if let Some(command) = latex_sign(c) {
                let _ = write!(escaped, "$\\{command}$");
            } else if c.is_alphabetic() && c < '\u{180}' {
                escaped.push(c);
            } else {
                let _ = write!(escaped, "{{[}}U+{:04X}{{]}}", c as u32);
            }
        }
    }
}

fn latex_ascii(c: char) -> Option<&'static str> {
    Some(match c {
        '\\' => "\\textbackslash{}",
        '~' => "\\textasciitilde{}",
        '^' => "\\textasciicircum{}",
        '|' => "\\textbar{}",
        '<' => "$<$",
        '>' => "$>$",
        '"' => "''",
        '`' => "\\textasciigrave{}",
        '*' => "\\textasteriskcentered{}",
        _ => return None,
    })
}

fn latex_text(c: char) -> Option<&'static str> {
    Some(match c {
        '\u{a0}' => "~",
        '\u{2009}' | '\u{202f}' => "\\,",
        '–' => "--",
        '—' => "---",
        '…' => "\\ldots{}",
        '‘' => "`",
        '’' => "'",
        '“' => "``",
        '”' => "''",
        '†' => "\\textdagger{}",
        '‡' => "\\textdaggerdbl{}",
        '§' => "\\S{}",
        '¶' => "\\P{}",
        '°' => "\\textdegree{}",
        '−' => "$-$",
        _ => return None,
    })
}

/// The command of a sign that stands in formulas.
fn latex_sign(c: char) -> Option<&'static str> {
    Some(match c {
        'α' => "alpha",
        'β' => "beta",
        'γ' => "gamma",
        'δ' => "delta",
        'ε' => "varepsilon",
        'ζ' => "zeta",
        'η' => "eta",
        'θ' => "theta",
        'ι' => "iota",
        'κ' => "kappa",
        'λ' => "lambda",
        'μ' | 'µ' => "mu",
        'ν' => "nu",
        'ξ' => "xi",
        'π' => "pi",
        'ρ' => "rho",
        'σ' => "sigma",
        'τ' => "tau",
        'υ' => "upsilon",
        'φ' => "varphi",
        'χ' => "chi",
        'ψ' => "psi",
        'ω' => "omega",
        'Γ' => "Gamma",
        'Δ' | '∆' => "Delta",
        'Θ' => "Theta",
        'Λ' => "Lambda",
        'Ξ' => "Xi",
        'Π' => "Pi",
        'Σ' => "Sigma",
        'Φ' => "Phi",
        'Ψ' => "Psi",
        'Ω' => "Omega",
        '×' => "times",
        '·' => "cdot",
        '±' => "pm",
        '≤' => "leq",
        '≥' => "geq",
        '≠' => "neq",
        '≈' => "approx",
        '∞' => "infty",
        '∈' => "in",
        '√' => "surd",
        '↑' => "uparrow",
        '↓' => "downarrow",
        '→' => "rightarrow",
        '←' => "leftarrow",
        '↔' => "leftrightarrow",
        '○' => "circ",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOSTILE: &str = "</td><script>alert('x')</script>\"|`*_[a](b)\\\n\r#%$&~^{}\u{0}\u{1b}";

    #[test]
    fn no_tag_entity_quote_or_control_character_survives_html() {
        let escaped = html(HOSTILE);
        assert!(
            !escaped.contains(['<', '>', '"', '\'', '\0', '\u{1b}', '\r']),
            "{escaped}"
        );
        assert!(
            escaped.starts_with("&lt;/td&gt;&lt;script&gt;alert(&#39;x&#39;)"),
            "{escaped}"
        );
        assert_eq!(html("&amp;"), "&amp;amp;");
    }

    #[test]
    fn every_sign_of_markdown_is_preceded_by_a_backslash() {
        let escaped = markdown(HOSTILE);
        assert!(!escaped.contains('\n'), "{escaped}");
        let mut chars = escaped.chars();
        while let Some(c) = chars.next() {
            if c == '\\' {
                chars.next();
            } else {
                assert!(!"`*_{}[]<>#|~&$".contains(c), "{c} in {escaped}");
            }
        }
    }

    #[test]
    fn every_special_character_of_latex_is_a_command() {
        assert_eq!(
            latex(HOSTILE),
            "$<$/td$>$$<$script$>$alert('x')$<$/script$>$''\\textbar{}\\textasciigrave{}\\textasteriskcentered{}\\_{[}a{]}(b)\
             \\textbackslash{}  \\#\\%\\$\\&\\textasciitilde{}\\textasciicircum{}\\{\\}{[}U+0000{]}{[}U+001B{]}"
        );
    }

    #[test]
    fn signs_beyond_ascii_are_commands_letters_stay_and_the_rest_is_named() {
        assert_eq!(
            latex("γ − × ≥ ≤ † ↓ ↑ ± Δ é 中 x² a₁₂ dice--x"),
            "$\\gamma$ $-$ $\\times$ $\\geq$ $\\leq$ \\textdagger{} $\\downarrow$ $\\uparrow$ $\\pm$ $\\Delta$ é \
             {[}U+4E2D{]} x$^{2}$ a$_{12}$ dice-{}-x"
        );
    }
}
