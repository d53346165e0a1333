//! Finding the images of a data set and the masks that belong to each.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use anyhow::{Result, bail};

use super::{
    DataConfig,
    kinds::Row,
    listing::{Links, folders, image_files},
    split::Part,
};

/// How a data set's files are laid out.
#[derive(Debug)]
pub enum Layout {
    /// There are no files: the program makes the images.
    Generated,
    /// Folders of images, and masks named after them.
    Pairs {
        /// Folders that may stand between the path and the layout, as archives unpack; the first found is entered.
        inside: &'static [&'static str],
        /// The folders.
        pairs: &'static [Pairs],
    },
    /// A folder an image, which holds a folder with the image and a folder with its masks, whose union counts.
    FolderPerImage {
        /// As above.
        inside: &'static [&'static str],
        /// The name of the folder with the image.
        images: &'static str,
        /// The name of the folder with the masks.
        masks: &'static str,
    },
}

/// A folder of images, and how a mask's name follows from its image's.
///
/// An image's stem is its id and `image_suffix`; its mask's stem is the id and `mask_suffix`.
#[derive(Debug)]
pub struct Pairs {
    /// The folder of the images.
    pub images: &'static str,
    /// What an image's stem ends in, after the id.
    pub image_suffix: &'static str,
    /// Stems with one of these in them are no images; for folders that hold images and masks.
    pub not_images: &'static [&'static str],
    /// The folder of the masks.
    pub masks: &'static str,
    /// What a mask's stem ends in, after the id; files without it are no masks.
    pub mask_suffix: &'static str,
    /// How many masks an image has.
    pub per_image: MasksPerImage,
    /// The part these images belong to, where the data set says so.
    pub part: Option<Part>,
    /// Whether the folder must be there.
    pub presence: Presence,
}

/// How many masks an image has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MasksPerImage {
    /// One.
    One,
    /// One and any number more, whose stems end in `_1`, `_2`, …; their union counts.
    Numbered,
}

/// Whether a folder must be there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    /// A missing folder is an error.
    Required,
    /// A missing folder is passed over.
    Optional,
}

impl Pairs {
    /// `images/NAME.*` with `masks/NAME.*`.
    pub const BY_STEM: Self = Self {
        images: "images",
        image_suffix: "",
        not_images: &[],
        masks: "masks",
        mask_suffix: "",
        per_image: MasksPerImage::One,
        part: None,
        presence: Presence::Required,
    };
}

/// An image's file and those of its masks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Item {
    pub(crate) id: String,
    pub(crate) image: PathBuf,
    pub(crate) masks: Vec<PathBuf>,
    pub(crate) part: Option<Part>,
}

impl Item {
    /// Its files, the image first.
    pub(crate) fn paths(&self) -> impl Iterator<Item = &Path> {
        std::iter::once(&self.image)
            .chain(&self.masks)
            .map(PathBuf::as_path)
    }
}

/// The items of a data set in natural order, each image with its masks and each mask with its image.
pub(crate) fn find_items(row: &Row, config: &DataConfig) -> Result<Vec<Item>> {
    let (path, mask_suffix) = (&config.path, &config.mask_suffix);
    let links = Links::of_data(config);
    let items = match &row.layout {
        Layout::Generated => Vec::new(),
        Layout::Pairs { inside, pairs } => {
            let root = enter(path, inside);
            let mut items = Vec::new();
            for pair in *pairs {
                if pair.presence == Presence::Required || below(&root, pair.images).is_dir() {
                    let suffix = format!("{}{mask_suffix}", pair.mask_suffix);
                    items.extend(find_pairs(row, &root, pair, &suffix, &links)?);
                }
            }
            items
        }
        Layout::FolderPerImage {
            inside,
            images,
            masks,
        } => {
            let root = enter(path, inside);
            check_folder(row, &root)?;
            let each = folders(&root)?;
            each.iter()
                .map(|folder| find_in_folder(row, folder, (images, masks), &links))
                .collect::<Result<_>>()?
        }
    };
    if items.is_empty() {
        bail!(
            "{} holds no images; {} is read from {}",
            path.display(),
            row.name,
            row.expects
        );
    }
    Ok(items)
}

fn enter(path: &Path, inside: &[&str]) -> PathBuf {
    inside
        .iter()
        .map(|name| path.join(name))
        .find(|p| p.is_dir())
        .unwrap_or_else(|| path.into())
}

fn check_folder(row: &Row, folder: &Path) -> Result<()> {
    if !folder.is_dir() {
        bail!(
            "there is no folder {}; {} is read from {}",
            folder.display(),
            row.name,
            row.expects
        );
    }
    Ok(())
}

fn find_pairs(
    row: &Row,
    root: &Path,
    pair: &Pairs,
    mask_suffix: &str,
    links: &Links,
) -> Result<Vec<Item>> {
    let (folder, masks) = (below(root, pair.images), below(root, pair.masks));
    check_folder(row, &folder)?;
    check_folder(row, &masks)?;
    let images = by_stem(&folder, links, |stem| {
        !pair.not_images.iter().any(|part| stem.contains(part))
    })?;
    let mut spare: BTreeMap<_, _> = by_stem(&masks, links, |stem| stem.contains(mask_suffix))?
        .into_iter()
        .collect();
    let mut items = Vec::new();
    for (stem, image) in images {
        let Some(id) = stem.strip_suffix(pair.image_suffix) else {
            bail!(
                "the image {} is not named like the others: {} is read from {}",
                image.display(),
                row.name,
                row.expects
            );
        };
        let mask_stem = format!("{id}{mask_suffix}");
        let Some(mask) = spare.remove(&mask_stem) else {
            bail!(
                "the image {} has no mask {}.*",
                image.display(),
                masks.join(mask_stem).display()
            );
        };
        let mut masks = vec![mask];
        if pair.per_image == MasksPerImage::Numbered {
            masks.extend((1..).map_while(|n| spare.remove(&format!("{mask_stem}_{n}"))));
        }
        items.push(Item {
            id: id.into(),
            image,
            masks,
            part: pair.part,
        });
    }
    let Some((stem, mask)) = spare.pop_first() else {
        return Ok(items);
    };
    bail!(
        "the mask {} has no image {}{}.* in {}{}",
        mask.display(),
        stem.strip_suffix(mask_suffix).unwrap_or(&stem),
        pair.image_suffix,
        folder.display(),
        match pair.per_image {
            MasksPerImage::One => "",
            MasksPerImage::Numbered => ", or a mask numbered before it is missing",
        }
    );
}

/// A folder below another; the empty name is the other itself, which `join` would give a slash at the end.
fn below(root: &Path, name: &str) -> PathBuf {
    if name.is_empty() {
        root.into()
    } else {
        root.join(name)
    }
}

fn find_in_folder(
    row: &Row,
    folder: &Path,
    (images, masks): (&str, &str),
    links: &Links,
) -> Result<Item> {
    let (images, masks) = (folder.join(images), folder.join(masks));
    check_folder(row, &images)?;
    check_folder(row, &masks)?;
    let found = image_files(&images, links)?;
    let [image] = &found[..] else {
        bail!(
            "{} holds {} images; one is expected",
            images.display(),
            found.len()
        );
    };
    let found = image_files(&masks, links)?;
    if found.is_empty() {
        bail!(
            "the image {} has no masks in {}",
            image.display(),
            masks.display()
        );
    }
    let id = folder
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    Ok(Item {
        id,
        image: image.clone(),
        masks: found,
        part: None,
    })
}

/// The image files of a folder and their stems, in natural order; a stem that two files share is an error.
fn by_stem(
    folder: &Path,
    links: &Links,
    keep: impl Fn(&str) -> bool,
) -> Result<Vec<(String, PathBuf)>> {
    let mut seen = BTreeMap::new();
    let mut files = Vec::new();
    for path in image_files(folder, links)? {
        let stem = path
            .file_stem()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        if !keep(&stem) {
            continue;
        }
        if let Some(first) = seen.insert(stem.clone(), path.clone()) {
            bail!(
                "{} and {} have the same stem; one of them must go",
                first.display(),
                path.display()
            );
        }
        files.push((stem, path));
    }
    Ok(files)
}
