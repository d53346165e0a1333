//! Opening files that others wrote: a pipe would be waited for, a device never ends, and text has its size.

use std::{
    fs::{self, File},
    io::{Error, Read as _, Result},
    path::Path,
};

/// Bytes of text that are read at most: what people and this program write is a thousandth of it.
const TEXT: u64 = 1 << 20;

/// Opens a file that is one: no folder, pipe or device.
pub(crate) fn regular(path: &Path) -> Result<File> {
    // Before it is opened: opening a pipe waits for a writer.
    let kind = fs::metadata(path)?;
    if kind.is_dir() {
        return Err(Error::other("it is a folder"));
    }
    if !kind.is_file() {
        return Err(Error::other("it is no regular file"));
    }
    File::open(path)
}

/// Bytes of a record that are read at most: a line an epoch, a name an image.
const RECORD: u64 = 1 << 28;

/// The bytes of what this program wrote of a run or a grid, which grows with them.
pub(crate) fn record(path: &Path) -> Result<Vec<u8>> {
    at_most(RECORD, path)
}

fn at_most(most: u64, path: &Path) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    regular(path)?.take(most + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > most {
        return Err(Error::other(format!("it has more than {most} bytes")));
    }
    Ok(bytes)
}

/// The text of a configuration.
pub(crate) fn text(path: &Path) -> Result<String> {
    let bytes = at_most(TEXT, path)?;
    String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        Error::other(format!("it is no UTF-8 text: byte {at} fits none"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_read_up_to_a_mebibyte() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.toml");
        let told = |bytes: &[u8]| {
            fs::write(&path, bytes).unwrap();
            text(&path).map_err(|error| error.to_string())
        };
        assert_eq!(told("é".as_bytes()), Ok("é".into()));
        assert_eq!(
            told(&vec![b' '; 1 << 20]).map(|text| text.len()),
            Ok(1 << 20)
        );
        assert_eq!(
            told(&vec![b' '; (1 << 20) + 1]),
            Err("it has more than 1048576 bytes".into())
        );
        assert_eq!(
            told(b"ab\xFF"),
            Err("it is no UTF-8 text: byte 2 fits none".into())
        );
        let error = text(folder.path()).unwrap_err();
        assert_eq!(error.to_string(), "it is a folder");
    }
}
