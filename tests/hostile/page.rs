//! The report of a grid, whose page shows what files and folders are called.

use std::{
    fs,
    path::{Path, PathBuf},
};

use image::{GrayImage, Luma};
use tempfile::TempDir;

use super::{run, words};

/// What every image is called, before its number.
const IMAGE: &str = "<img src=x onerror=alert(1)> & \"it's\" ";
const ESCAPED_IMAGE: &str = "&lt;img src=x onerror=alert(1)&gt;";

const DATA: &str = "<b onclick=alert(3)>'own' & more";
const ESCAPED_DATA: &str = "&lt;b onclick=alert(3)&gt;";

/// A folder with ten pairs of hostile names, and a grid over it.
fn home() -> (TempDir, PathBuf) {
    let home = TempDir::new().unwrap();
    let data = home.path().join(DATA);
    for part in ["images", "masks"] {
        fs::create_dir_all(data.join(part)).unwrap();
    }
    for n in 0..10 {
        let is_in = |x: u32, y: u32| (4..12).contains(&x) && (3..10).contains(&(y + n % 3));
        let image = GrayImage::from_fn(16, 16, |x, y| {
            Luma([if is_in(x, y) { 180 } else { 60 } + ((7 * x + 5 * y + n) % 13) as u8])
        });
        let mask = GrayImage::from_fn(16, 16, |x, y| Luma([255 * u8::from(is_in(x, y))]));
        let name = format!("{IMAGE}{n}.png");
        image.save(data.join("images").join(&name)).unwrap();
        mask.save(data.join("masks").join(&name)).unwrap();
    }
    let grid = format!(
        "title = \"{TITLE}\"\nshow = 'pipeline'\ndata = [\"folder:{DATA}\"]\nlosses = [{{loss = 'dice', name = \
         \"{LOSS}\"}}, 'dice++']\n[set]\nrecipe.epochs = 1\npreprocess.size = [16, 16]\nunet.width = 2\nunet.depth = 1\n"
    );
    fs::write(home.path().join("grid.toml"), grid).unwrap();
    (home, data)
}

const TITLE: &str = "<script>alert(4)</script> & title";
const LOSS: &str = "<i onmouseover='alert(5)'>loss & more</i>";

/// Every tag of a page with its attributes, told apart as a browser would.
fn tags(page: &str) -> Vec<&str> {
    let mut tags = Vec::new();
    let mut rest = page;
    while let Some(at) = rest.find('<') {
        rest = &rest[at + 1..];
        let (mut quote, mut end) = (None, rest.len());
        for (place, c) in rest.char_indices() {
            match (quote, c) {
                (None, '>') => {
                    end = place;
                    break;
                }
                (None, '"' | '\'') => quote = Some(c),
                (Some(open), c) if c == open => quote = None,
                _ => {}
            }
        }
        tags.push(&rest[..end]);
        rest = &rest[end..];
    }
    tags
}

#[track_caller]
fn assert_harmless(page: &str) {
    for name in [IMAGE, DATA, TITLE, LOSS] {
        assert!(!page.contains(name), "{name} stands in the page as it is");
    }
    for tag in tags(page) {
        // Within quotation marks it is text, which the escapes keep there.
        let mut outside = tag.split('"').step_by(2);
        assert!(
            outside.all(|part| !part.contains("onerror")
                && !part.contains("onclick")
                && !part.contains("onmouse")),
            "a tag of the page is <{tag}>"
        );
        assert!(
            !tag.starts_with("script>alert") && !tag.starts_with("img src=x"),
            "<{tag}>"
        );
    }
    assert!(!page.contains("<script>alert"));
}

fn page(home: &Path) -> String {
    fs::read_to_string(home.join("out/report/index.html")).unwrap()
}

#[test]
fn a_page_shows_names_as_text_whatever_they_are() {
    let (home, _) = home();
    let ended = run(home.path(), &words(&["sweep", "grid.toml", "--out", "out"]));
    assert_eq!(ended.code, Some(0), "{}", ended.errors);
    let page = page(home.path());
    assert_harmless(&page);
    for escaped in [
        ESCAPED_IMAGE,
        ESCAPED_DATA,
        "&lt;script&gt;alert(4)&lt;/script&gt; &amp; title",
        "loss &amp; more&lt;/i&gt;",
    ] {
        assert!(page.contains(escaped), "`{escaped}` is not in the page");
    }
}

#[test]
fn a_page_shows_the_name_of_a_file_that_failed_as_text() {
    let (home, data) = home();
    // Headers that are whole, so that a run begins.
    for n in 0..10 {
        let path = data.join("images").join(format!("{IMAGE}{n}.png"));
        let bytes = fs::read(&path).unwrap();
        fs::write(&path, &bytes[..bytes.len() - 20]).unwrap();
    }
    let ended = run(home.path(), &words(&["sweep", "grid.toml", "--out", "out"]));
    assert_eq!(ended.code, Some(1), "{}", ended.errors);
    let page = page(home.path());
    assert_harmless(&page);
    assert!(page.contains(ESCAPED_IMAGE), "the file is not named");
    assert!(page.contains("cannot be decoded as PNG"));
}
