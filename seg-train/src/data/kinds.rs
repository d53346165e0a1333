//! The data sets known by name: a row of data each.
//!
//! One more data set is one more row of [`KINDS`]; parsing, `--help`, opening and the tests loop over the table.

use std::{fmt, str::FromStr};

use anyhow::{Error, anyhow};
use serde::{Deserialize, Serialize};

use super::{
    layout::{Layout, MasksPerImage, Pairs, Presence},
    split::{Counts, Part},
};

/// What is to be known about a data set.
#[derive(Debug)]
pub struct Row {
    /// Its name in `--data NAME:PATH`.
    pub name: &'static str,
    /// What the images show.
    pub summary: &'static str,
    /// Where files stand under the path, as a person reads it.
    pub expects: &'static str,
    /// Where files stand under the path, as the program reads it.
    pub layout: Layout,
    /// Channels its images are read with; none: as the first image has them.
    pub channels: Option<usize>,
    /// The split of the paper's Table I (or its published numbers, where the table's differ from them).
    pub published: Option<Counts>,
    /// The network's input, height and width: Table I's, and for sets not in the paper that of the most similar one.
    pub size: [usize; 2],
    /// The part of an image's name that tells its patient; all of it where names do not tell.
    pub patient: fn(&str) -> &str,
    /// Epochs of the preset `cpu` on it: some thousand steps, whatever the number of images.
    pub cpu_epochs: usize,
    /// Where it can be had.
    pub source: &'static str,
    /// Whose it is and on what terms.
    pub terms: &'static str,
}

/// The data sets, the built-in one first, then by name, `folder` (any other) last.
pub const KINDS: &[Row] = &[
    Row {
        name: "phantom",
        summary: "built-in: seeded images whose true foreground probability is known at every pixel",
        expects: "no path",
        layout: Layout::Generated,
        channels: Some(1),
        published: None,
        size: [64, 64],
        patient: whole_name,
        cpu_epochs: 24,
        source: "built in",
        terms: "made by this program",
    },
    Row {
        name: "bus2017",
        summary: "breast tumours in ultrasound (UDIAT dataset B)",
        expects: "original/000001.png with GT/000001.png",
        layout: Layout::Pairs {
            inside: &[],
            pairs: &[Pairs {
                images: "original",
                masks: "GT",
                ..Pairs::BY_STEM
            }],
        },
        channels: Some(1),
        published: Some(Counts {
            train: 104,
            val: 26,
            test: 33,
        }),
        size: [128, 128],
        patient: whole_name,
        cpu_epochs: 40,
        source: "its authors, on request: www2.docm.mmu.ac.uk/STAFF/M.Yap/dataset.php",
        terms: "given out by its authors on a signed agreement",
    },
    Row {
        name: "busi",
        summary: "breast tumours in ultrasound, benign, malignant and none (`normal` may be left out)",
        expects: "benign/benign (1).png with benign/benign (1)_mask.png, _mask_1.png, ...; malignant/ and normal/ alike",
        layout: Layout::Pairs {
            inside: &["Dataset_BUSI_with_GT"],
            pairs: &[
                Pairs {
                    images: "benign",
                    masks: "benign",
                    ..BUSI
                },
                Pairs {
                    images: "malignant",
                    masks: "malignant",
                    ..BUSI
                },
                Pairs {
                    images: "normal",
                    masks: "normal",
                    presence: Presence::Optional,
                    ..BUSI
                },
            ],
        },
        channels: Some(1),
        published: None,
        size: [128, 128],
        patient: whole_name,
        cpu_epochs: 12,
        source: "scholar.cu.edu.eg/?q=afahmy/pages/dataset",
        terms: "Al-Dhabyani et al. 2020, free to download, cite the paper",
    },
    Row {
        name: "chase-db1",
        summary: "retinal vessels of 14 children, both eyes; the first observer is the truth",
        expects: "Image_01L.jpg with Image_01L_1stHO.png",
        layout: Layout::Pairs {
            inside: &["CHASE_DB1", "CHASEDB1"],
            pairs: &[Pairs {
                images: "",
                not_images: &["_1stHO", "_2ndHO"],
                masks: "",
                mask_suffix: "_1stHO",
                ..Pairs::BY_STEM
            }],
        },
        channels: Some(3),
        published: None,
        size: [512, 512],
        patient: without_eye,
        cpu_epochs: 100,
        source: "blogs.kingston.ac.uk/retinal/chasedb1",
        terms: "Kingston University, CC BY 4.0",
    },
    Row {
        name: "cvc-clinicdb",
        summary: "polyps in colonoscopy; neighbouring frames are near duplicates, so a random split flatters",
        expects: "Original/1.png with Ground Truth/1.png (or .tif)",
        layout: Layout::Pairs {
            inside: &["PNG", "TIF"],
            pairs: &[Pairs {
                images: "Original",
                masks: "Ground Truth",
                ..Pairs::BY_STEM
            }],
        },
        channels: Some(3),
        published: Some(Counts {
            train: 392,
            val: 98,
            test: 122,
        }),
        size: [288, 384],
        patient: whole_name,
        cpu_epochs: 20,
        source: "polyp.grand-challenge.org/CVCClinicDB",
        terms: "Bernal et al. 2015, research and education only",
    },
    Row {
        name: "drive",
        summary: "retinal vessels, its own 20 test images; the first observer is the truth",
        expects: "training/images/21_training.tif with training/1st_manual/21_manual1.gif, and \
                  test/images/01_test.tif with test/1st_manual/01_manual1.gif",
        layout: Layout::Pairs {
            inside: &["DRIVE"],
            pairs: &[
                Pairs {
                    images: "training/images",
                    image_suffix: "_training",
                    masks: "training/1st_manual",
                    mask_suffix: "_manual1",
                    part: Some(Part::Development),
                    ..Pairs::BY_STEM
                },
                Pairs {
                    images: "test/images",
                    image_suffix: "_test",
                    masks: "test/1st_manual",
                    mask_suffix: "_manual1",
                    part: Some(Part::Test),
                    ..Pairs::BY_STEM
                },
            ],
        },
        channels: Some(3),
        published: Some(Counts {
            train: 16,
            val: 4,
            test: 20,
        }),
        size: [512, 512],
        patient: whole_name,
        cpu_epochs: 100,
        source: "drive.grand-challenge.org",
        terms: "Staal et al. 2004, on registration, not to be passed on",
    },
    Row {
        name: "dsb2018",
        summary: "nuclei under the microscope (2018 Data Science Bowl, stage 1); a mask a nucleus, their union is read",
        expects: "ID/images/ID.png with ID/masks/*.png",
        layout: Layout::FolderPerImage {
            inside: &["stage1_train"],
            images: "images",
            masks: "masks",
        },
        channels: Some(3),
        published: Some(Counts {
            train: 428,
            val: 108,
            test: 134,
        }),
        size: [256, 256],
        patient: whole_name,
        cpu_epochs: 12,
        source: "bbbc.broadinstitute.org/BBBC038",
        terms: "Broad Bioimage Benchmark Collection BBBC038v1, CC0",
    },
    Row {
        name: "isic2018",
        summary: "skin lesions, task 1",
        expects: "ISIC2018_Task1-2_Training_Input/ISIC_0000000.jpg with \
                  ISIC2018_Task1_Training_GroundTruth/ISIC_0000000_segmentation.png",
        layout: Layout::Pairs {
            inside: &[],
            pairs: &[Pairs {
                images: "ISIC2018_Task1-2_Training_Input",
                masks: "ISIC2018_Task1_Training_GroundTruth",
                mask_suffix: "_segmentation",
                ..Pairs::BY_STEM
            }],
        },
        channels: Some(3),
        published: Some(Counts {
            train: 1661,
            val: 415,
            test: 518,
        }),
        size: [512, 512],
        patient: whole_name,
        cpu_epochs: 4,
        source: "challenge.isic-archive.com/data/#2018",
        terms: "International Skin Imaging Collaboration, CC BY-NC 4.0",
    },
    Row {
        name: "kvasir-seg",
        summary: "polyps in colonoscopy",
        expects: "images/ID.jpg with masks/ID.jpg",
        layout: Layout::Pairs {
            inside: &["Kvasir-SEG"],
            pairs: &[Pairs::BY_STEM],
        },
        channels: Some(3),
        published: None,
        size: [288, 384],
        patient: whole_name,
        cpu_epochs: 10,
        source: "datasets.simula.no/kvasir-seg",
        terms: "Jha et al. 2020, research and education only",
    },
    Row {
        name: "folder",
        summary: "any other: images and masks that pair by the stem of their names",
        expects: "images/NAME.* with masks/NAME.*",
        layout: Layout::Pairs {
            inside: &[],
            pairs: &[Pairs::BY_STEM],
        },
        channels: None,
        published: None,
        size: [256, 256],
        patient: whole_name,
        cpu_epochs: 20,
        source: "yours",
        terms: "yours",
    },
];

const BUSI: Pairs = Pairs {
    not_images: &["_mask"],
    mask_suffix: "_mask",
    per_image: MasksPerImage::Numbered,
    ..Pairs::BY_STEM
};

fn whole_name(id: &str) -> &str {
    id
}

/// `Image_01L` and `Image_01R` are the eyes of one child.
fn without_eye(id: &str) -> &str {
    id.strip_suffix(['L', 'R']).unwrap_or(id)
}

/// A row of [`KINDS`], written and parsed by its name.
#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Kind(&'static Row);

impl Kind {
    /// All that is known about this data set.
    pub fn row(self) -> &'static Row {
        self.0
    }
}

impl Default for Kind {
    /// The phantom.
    fn default() -> Self {
        Self(&KINDS[0])
    }
}

impl FromStr for Kind {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self, Error> {
        KINDS
            .iter()
            .find(|row| row.name == name)
            .map(Self)
            .ok_or_else(|| {
                let names: Vec<_> = KINDS.iter().map(|row| row.name).collect();
                anyhow!(
                    "there is no data set `{name}`; known are {}",
                    names.join(", ")
                )
            })
    }
}

impl TryFrom<String> for Kind {
    type Error = Error;

    fn try_from(name: String) -> Result<Self, Error> {
        name.parse()
    }
}

impl From<Kind> for String {
    fn from(kind: Kind) -> Self {
        kind.0.name.into()
    }
}

impl PartialEq for Kind {
    fn eq(&self, other: &Self) -> bool {
        self.0.name == other.0.name
    }
}

impl fmt::Debug for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Kind({})", self.0.name)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_parses_back_to_its_row() {
        for row in KINDS {
            let kind: Kind = row.name.parse().unwrap();
            assert_eq!(kind.to_string(), row.name);
        }
    }

    #[test]
    fn names_are_ordered_and_network_sizes_fit_the_papers_depth() {
        assert!(KINDS[1..KINDS.len() - 1].is_sorted_by_key(|row| row.name));
        for row in KINDS {
            assert!(row.size.iter().all(|side| side % 16 == 0), "{}", row.name);
        }
    }

    #[test]
    fn an_unknown_name_is_answered_with_the_known_ones() {
        assert_eq!(
            "drvie".parse::<Kind>().unwrap_err().to_string(),
            "there is no data set `drvie`; known are phantom, bus2017, busi, chase-db1, cvc-clinicdb, drive, dsb2018, \
             isic2018, kvasir-seg, folder"
        );
    }
}
