//! A table as a value, and its four forms: HTML, CSV, Markdown and LaTeX.
//!
//! Every form escapes what it is given, so names may hold anything.

mod escape;
mod number;

pub use escape::{html, identifier, latex, markdown, markdown_paragraph};
pub(in crate::report) use number::{fixed, superscript};
pub use number::{p_value, rounded};

use std::fmt::Write as _;

/// A table.
///
/// ```
/// use seg_train::report::document::{Cell, Column, Row, Table};
/// let table = Table {
///     name: "dice".into(),
///     title: "Dice by loss".into(),
///     columns: vec![Column::left("loss"), Column::right("Dice ↑")],
///     rows: vec![
///         Row::of(["dice".into(), "0.80".into()]),
///         Row::of(["dice++".into(), Cell::new("0.81").strong().marks("*")]),
///     ],
///     notes: vec!["* p < 0.05".into()],
/// };
/// assert_eq!(table.csv(), "loss,Dice ↑\ndice,0.80\ndice++,0.81*\n");
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Table {
    /// Stem of the files it is written to, its HTML id, and `tab:` this its LaTeX label.
    pub name: String,
    /// What it shows; its caption.
    pub title: String,
    /// The columns. A row with more cells than there are columns adds columns without a title.
    pub columns: Vec<Column>,
    /// The rows; one that is too short is filled up with empty cells.
    pub rows: Vec<Row>,
    /// What is to be said under it, say what the marks mean.
    pub notes: Vec<String>,
}

/// A column of a [`Table`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Column {
    /// What stands above it.
    pub title: String,
    /// The side its text keeps to.
    pub align: Align,
}

impl Column {
    /// A column of words.
    pub fn left(title: impl Into<String>) -> Self {
        Self {
            title: title.into(),
            align: Align::Left,
        }
    }

    /// A column of numbers.
    pub fn right(title: impl Into<String>) -> Self {
        Self {
            title: title.into(),
            align: Align::Right,
        }
    }

    /// A column of numbers with something in brackets, which a page shows below them.
    pub fn stacked(title: impl Into<String>) -> Self {
        Self {
            title: title.into(),
            align: Align::Stacked,
        }
    }
}

/// The side of a column that its text keeps to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Align {
    /// For words.
    #[default]
    Left,
    /// For numbers.
    Right,
    /// For numbers with something in brackets, say an interval, which a page shows below the number, so that more columns
    /// fit beside each other.
    Stacked,
}

/// A row of a [`Table`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Row {
    /// The cells; the first one names the row.
    pub cells: Vec<Cell>,
    /// Whether a rule stands above it, because another group begins: the next data set, say.
    pub group: bool,
}

impl Row {
    /// A row within its group.
    pub fn of(cells: impl IntoIterator<Item = Cell>) -> Self {
        Self {
            cells: cells.into_iter().collect(),
            group: false,
        }
    }

    /// The same row as the first of another group.
    #[must_use]
    pub fn group(mut self) -> Self {
        self.group = true;
        self
    }
}

/// A cell of a [`Table`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cell {
    /// What it says. A verdict ([`Kind`]) says its own word before it; it may be empty there.
    pub text: String,
    /// Whether it is the best of its group: bold.
    pub strong: bool,
    /// Marks of significance and the like, such as `*` or `†`: raised, where the form can.
    pub marks: String,
    /// What sort of thing it says.
    pub kind: Kind,
}

impl Cell {
    /// A plain cell.
    pub fn new(text: impl Into<String>) -> Self {
        Self {
            text: text.into(),
            ..Self::default()
        }
    }

    /// The same cell as the best of its group.
    #[must_use]
    pub fn strong(mut self) -> Self {
        self.strong = true;
        self
    }

    /// The same cell with marks.
    #[must_use]
    pub fn marks(mut self, marks: impl Into<String>) -> Self {
        self.marks = marks.into();
        self
    }

    /// The same cell as another kind.
    #[must_use]
    pub fn kind(mut self, kind: Kind) -> Self {
        self.kind = kind;
        self
    }

    /// The text with the verdict's word before it.
    fn words(&self) -> String {
        match (self.kind.word(), self.text.as_str()) {
            (None, text) => text.to_owned(),
            (Some(word), text) if text.is_empty() || text == word => word.to_owned(),
            (Some(word), text) => format!("{word}: {text}"),
        }
    }

    fn html(&self, align: Align) -> String {
        let words = self.words();
        let (above, below) = match words.split_once(" (") {
            Some((above, below)) if align == Align::Stacked => (above, Some(below)),
            _ => (words.as_str(), None),
        };
        let mut text = html(above);
        if self.strong {
            text = format!("<strong>{text}</strong>");
        }
        if let Some(shape) = self.kind.shape() {
            text = format!("<span class=\"shape\" aria-hidden=\"true\">{shape}</span>\u{a0}{text}");
        }
        if !self.marks.is_empty() {
            let _ = write!(text, "<sup>{}</sup>", html(&self.marks));
        }
        if let Some(below) = below {
            let _ = write!(text, "<span class=\"below\"> ({}</span>", html(below));
        }
        text
    }

    fn markdown(&self) -> String {
        let mut text = markdown(&self.words());
        // Two pairs of asterisks around nothing would be a rule.
        if self.strong && !text.trim().is_empty() {
            text = format!("**{}**", text.trim());
        }
        if let Some(shape) = self.kind.shape() {
            text = format!("{shape} {text}");
        }
        text + &markdown(&self.marks)
    }

    fn latex(&self) -> String {
        let mut text = latex(&self.words());
        if self.strong {
            text = format!("\\textbf{{{text}}}");
        }
        if !self.marks.is_empty() {
            let _ = write!(text, "\\textsuperscript{{{}}}", latex(&self.marks));
        }
        text
    }
}

impl From<&str> for Cell {
    fn from(text: &str) -> Self {
        Self::new(text)
    }
}

impl From<String> for Cell {
    fn from(text: String) -> Self {
        Self::new(text)
    }
}

/// What sort of thing a [`Cell`] says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Kind {
    /// Words or a number.
    #[default]
    Plain,
    /// A measured time: what differs from one run of the same thing to the next.
    Time,
    /// A claim that holds.
    Holds,
    /// A claim that fails.
    Fails,
    /// A claim about which the numbers leave open whether it holds.
    Undecided,
    /// A claim for which something has not been run.
    NotRun,
}

impl Kind {
    /// The word of a verdict; none for what is not a verdict.
    ///
    /// ```
    /// use seg_train::report::document::Kind;
    /// assert_eq!((Kind::NotRun.word(), Kind::Time.word()), (Some("not run"), None));
    /// ```
    pub fn word(self) -> Option<&'static str> {
        match self {
            Self::Plain | Self::Time => None,
            Self::Holds => Some("holds"),
            Self::Fails => Some("fails"),
            Self::Undecided => Some("undecided"),
            Self::NotRun => Some("not run"),
        }
    }

    /// The shape beside the word, so that a reader finds a verdict without its colour.
    fn shape(self) -> Option<char> {
        match self {
            Self::Plain | Self::Time => None,
            Self::Holds => Some('✓'),
            Self::Fails => Some('✗'),
            Self::Undecided => Some('○'),
            Self::NotRun => Some('–'),
        }
    }

    fn class(self) -> Option<&'static str> {
        match self {
            Self::Plain => None,
            Self::Time => Some("time"),
            Self::Holds => Some("holds"),
            Self::Fails => Some("fails"),
            Self::Undecided => Some("undecided"),
            Self::NotRun => Some("not-run"),
        }
    }
}

// Writing to a String cannot fail, hence every `let _ =` below.
impl Table {
    /// A `<figure>` with the table in a wrapper that scrolls sideways, and its notes. It bears no style of its own: the
    /// classes are those of [`Page::html`](super::page::Page::html).
    pub fn html(&self) -> String {
        let columns = self.all_columns();
        let mut text = format!(
            "<figure class=\"table\" id=\"{}\">\n<div class=\"scroll\" tabindex=\"0\" role=\"region\" aria-label=\"{title}\">\n\
             <table>\n<caption><span>{title}</span></caption>\n<thead><tr>",
            identifier(&self.name),
            title = html(&self.title),
        );
        for column in &columns {
            let class = class_of([right(column.align)]);
            let _ = write!(
                text,
                "<th scope=\"col\"{class}>{}</th>",
                html(&column.title)
            );
        }
        text.push_str("</tr></thead>\n<tbody>\n");
        for row in &self.rows {
            text.push_str(if row.group {
                "<tr class=\"group\">"
            } else {
                "<tr>"
            });
            for (place, (cell, column)) in self.cells(row).zip(&columns).enumerate() {
                let class = class_of([right(column.align), cell.kind.class()]);
                let _ = if place == 0 {
                    write!(
                        text,
                        "<th scope=\"row\"{class}>{}</th>",
                        cell.html(column.align)
                    )
                } else {
                    write!(text, "<td{class}>{}</td>", cell.html(column.align))
                };
            }
            text.push_str("</tr>\n");
        }
        text.push_str("</tbody>\n</table>\n</div>\n");
        for note in &self.notes {
            let _ = writeln!(text, "<p class=\"note\">{}</p>", html(note));
        }
        text + "</figure>\n"
    }

    /// Comma-separated values (RFC 4180, lines ending in `\n`), the titles first; neither the table's title nor its notes,
    /// which a program that reads it would take for rows.
    pub fn csv(&self) -> String {
        let mut writer = csv::Writer::from_writer(Vec::new());
        let titles = self.all_columns().into_iter().map(|column| column.title);
        let rows = self.rows.iter().map(|row| {
            self.cells(row)
                .map(|cell| cell.words() + &cell.marks)
                .collect()
        });
        for record in std::iter::once(titles.collect::<Vec<_>>()).chain(rows) {
            // Every record is as long as the first, and writing to memory cannot fail.
            let _ = writer.write_record(record);
        }
        let bytes = writer.into_inner().unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// A table as GitHub's Markdown knows it, its title above and its notes below.
    pub fn markdown(&self) -> String {
        let columns = self.all_columns();
        let mut text = format!("**{}**\n\n|", markdown(&self.title).trim());
        for column in &columns {
            let _ = write!(text, " {} |", markdown(&column.title));
        }
        text.push_str("\n|");
        for column in &columns {
            text.push_str(match column.align {
                Align::Left => "---|",
                Align::Right | Align::Stacked => "---:|",
            });
        }
        text.push('\n');
        for row in &self.rows {
            text.push('|');
            for cell in self.cells(row) {
                let _ = write!(text, " {} |", cell.markdown());
            }
            text.push('\n');
        }
        for note in &self.notes {
            let _ = writeln!(text, "\n{}", markdown_paragraph(note));
        }
        text
    }

    /// A floating `table` for LaTeX with the package `booktabs`.
    pub fn latex(&self) -> String {
        let columns = self.all_columns();
        let sides: String = columns
            .iter()
            .map(|column| match column.align {
                Align::Left => 'l',
                Align::Right | Align::Stacked => 'r',
            })
            .collect();
        let titles: Vec<_> = columns.iter().map(|column| latex(&column.title)).collect();
        let mut text = format!(
            "% \\usepackage{{booktabs}}\n\\begin{{table}}\n  \\centering\n  \\caption{{{}}}\n  \\label{{tab:{}}}\n  \
             \\begin{{tabular}}{{{sides}}}\n    \\toprule\n    {} \\\\\n    \\midrule\n",
            latex(&self.title),
            identifier(&self.name),
            titles.join(" & "),
        );
        for (place, row) in self.rows.iter().enumerate() {
            if row.group && place > 0 {
                text.push_str("    \\midrule\n");
            }
            let cells: Vec<_> = self.cells(row).map(|cell| cell.latex()).collect();
            let _ = writeln!(text, "    {} \\\\", cells.join(" & "));
        }
        text.push_str("    \\bottomrule\n  \\end{tabular}\n");
        if !self.notes.is_empty() {
            text.push_str("  \\begin{flushleft}\\footnotesize\n");
            for note in &self.notes {
                let _ = writeln!(text, "    {}\\par", latex(note));
            }
            text.push_str("  \\end{flushleft}\n");
        }
        text + "\\end{table}\n"
    }

    /// The columns, with those that only a row's length speaks of.
    fn all_columns(&self) -> Vec<Column> {
        let cells = self.rows.iter().map(|row| row.cells.len());
        let width = cells.max().unwrap_or(0).max(self.columns.len());
        let mut columns = self.columns.clone();
        columns.resize_with(width, Column::default);
        columns
    }

    /// The cells of a row, as many as there are columns.
    fn cells<'a>(&self, row: &'a Row) -> impl Iterator<Item = std::borrow::Cow<'a, Cell>> {
        use std::borrow::Cow;
        let missing = self.all_columns().len() - row.cells.len();
        let given = row.cells.iter().map(Cow::Borrowed);
        given.chain(std::iter::repeat_with(|| Cow::Owned(Cell::default())).take(missing))
    }
}

fn right(align: Align) -> Option<&'static str> {
    (align != Align::Left).then_some("right")
}

/// The attribute with the classes there are.
fn class_of<const N: usize>(classes: [Option<&str>; N]) -> String {
    let classes: Vec<_> = classes.into_iter().flatten().collect();
    if classes.is_empty() {
        String::new()
    } else {
        format!(" class=\"{}\"", classes.join(" "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every kind of cell, two groups, a row too short, and names that mean something in one form or another.
    fn table() -> Table {
        Table {
            name: "losses & <tables>".into(),
            title: "Dice ↑ & \"time\" of <losses>".into(),
            columns: vec![
                Column::left("loss"),
                Column::right("γ ≥ 2"),
                Column::right("time [s]"),
                Column::left("claim"),
            ],
            rows: vec![
                Row::of([
                    Cell::new("a|b\nc"),
                    Cell::new("0.9 ± 0.1").strong().marks("*†"),
                    Cell::new("12").kind(Kind::Time),
                    Cell::new("").kind(Kind::Holds),
                ])
                .group(),
                Row::of(["[x]_1, \"y\"".into(), "−0.1".into()]),
                Row::of([
                    Cell::new("100 %"),
                    Cell::new("–"),
                    Cell::new(""),
                    Cell::new("3 of 4").kind(Kind::Fails),
                ])
                .group(),
            ],
            notes: vec!["* p < 0.05".into()],
        }
    }

    #[test]
    fn a_page_shows_what_is_in_brackets_below_its_number_and_other_forms_beside_it() {
        let table = Table {
            name: "t".into(),
            title: "t".into(),
            columns: vec![Column::left("loss (name)"), Column::stacked("NLL")],
            rows: vec![Row::of([
                Cell::new("ce (plain)"),
                Cell::new("0.2 (0.1 to 0.3)").strong().marks("*"),
            ])],
            notes: Vec::new(),
        };
        let page = table.html();
        assert!(
            page.contains(
                "<th scope=\"row\">ce (plain)</th><td class=\"right\"><strong>0.2</strong><sup>*</sup><span class=\"below\"> (0.1 to 0.3)</span></td>"
            ),
            "{page}"
        );
        assert!(table.csv().contains("0.2 (0.1 to 0.3)*"));
        assert!(table.latex().contains("{lr}"));
        assert!(table.markdown().contains("---:|"));
    }

    #[test]
    fn the_html_form_scopes_its_headings_and_says_verdicts_in_words_and_shapes() {
        assert_eq!(
            table().html(),
            "\
<figure class=\"table\" id=\"losses----tables-\">
<div class=\"scroll\" tabindex=\"0\" role=\"region\" aria-label=\"Dice ↑ &amp; &quot;time&quot; of &lt;losses&gt;\">
<table>
<caption><span>Dice ↑ &amp; &quot;time&quot; of &lt;losses&gt;</span></caption>
<thead><tr><th scope=\"col\">loss</th><th scope=\"col\" class=\"right\">γ ≥ 2</th><th scope=\"col\" class=\"right\">time [s]</th><th scope=\"col\">claim</th></tr></thead>
<tbody>
<tr class=\"group\"><th scope=\"row\">a|b\nc</th><td class=\"right\"><strong>0.9 ± 0.1</strong><sup>*†</sup></td><td class=\"right time\">12</td><td class=\"holds\"><span class=\"shape\" aria-hidden=\"true\">✓</span>\u{a0}holds</td></tr>
<tr><th scope=\"row\">[x]_1, &quot;y&quot;</th><td class=\"right\">−0.1</td><td class=\"right\"></td><td></td></tr>
<tr class=\"group\"><th scope=\"row\">100 %</th><td class=\"right\">–</td><td class=\"right\"></td><td class=\"fails\"><span class=\"shape\" aria-hidden=\"true\">✗</span>\u{a0}fails: 3 of 4</td></tr>
</tbody>
</table>
</div>
<p class=\"note\">* p &lt; 0.05</p>
</figure>
"
        );
    }

    #[test]
    fn the_csv_form_quotes_what_a_reader_would_split() {
        assert_eq!(
            table().csv(),
            "loss,γ ≥ 2,time [s],claim\n\"a|b\nc\",0.9 ± 0.1*†,12,holds\n\"[x]_1, \"\"y\"\"\",−0.1,,\n100 %,–,,fails: 3 of 4\n"
        );
    }

    #[test]
    fn the_markdown_form_keeps_a_cell_in_its_cell() {
        assert_eq!(
            table().markdown(),
            "\
**Dice ↑ \\& \"time\" of \\<losses\\>**

| loss | γ ≥ 2 | time \\[s\\] | claim |
|---|---:|---:|---|
| a\\|b c | **0.9 ± 0.1**\\*† | 12 | ✓ holds |
| \\[x\\]\\_1, \"y\" | −0.1 |  |  |
| 100 % | – |  | ✗ fails: 3 of 4 |

\\* p \\< 0.05
"
        );
    }

    #[test]
    fn the_latex_form_compiles_with_booktabs_alone() {
        assert_eq!(
            table().latex(),
            "\
% \\usepackage{booktabs}
\\begin{table}
  \\centering
  \\caption{Dice $\\uparrow$ \\& ''time'' of $<$losses$>$}
  \\label{tab:losses----tables-}
  \\begin{tabular}{lrrl}
    \\toprule
    loss & $\\gamma$ $\\geq$ 2 & time {[}s{]} & claim \\\\
    \\midrule
    a\\textbar{}b c & \\textbf{0.9 $\\pm$ 0.1}\\textsuperscript{\\textasteriskcentered{}\\textdagger{}} & 12 & holds \\\\
    {[}x{]}\\_1, ''y'' & $-$0.1 &  &  \\\\
    \\midrule
    100 \\% & -- &  & fails: 3 of 4 \\\\
    \\bottomrule
  \\end{tabular}
  \\begin{flushleft}\\footnotesize
    \\textasteriskcentered{} p $<$ 0.05\\par
  \\end{flushleft}
\\end{table}
"
        );
    }

    #[test]
    fn a_row_longer_than_the_columns_loses_nothing() {
        let table = Table {
            columns: vec![Column::left("one")],
            rows: vec![Row::of(["1".into(), "2".into()]), Row::default()],
            ..Table::default()
        };
        assert_eq!(table.csv(), "one,\n1,2\n,\n");
    }
}
