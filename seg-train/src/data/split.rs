//! Drawing training, validation and test sets.
//!
//! Patients are drawn, not images: all images of a patient fall into one part. A data set's published sizes are kept
//! when the folder holds as many images; else test takes 20 %, validation 16 % and training the rest (80/20, twice, as
//! the paper divides its sets). What a data set sets apart for testing stays so.

use anyhow::{Result, bail};
use rand::seq::SliceRandom;

use crate::rng::{Purpose, stream};

/// Sizes of the three parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counts {
    /// Training images.
    pub train: usize,
    /// Validation images.
    pub val: usize,
    /// Test images.
    pub test: usize,
}

impl Counts {
    fn total(self) -> usize {
        self.train + self.val + self.test
    }
}

/// Indices of the images of each part, ascending; together they are all images, each once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Split {
    /// What gradients come from.
    pub train: Vec<usize>,
    /// What the learning rate, stopping and the choice of weights look at.
    pub val: Vec<usize>,
    /// What is reported.
    pub test: Vec<usize>,
}

/// Which part a data set itself puts an image into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Training and validation, still to be divided.
    Development,
    /// Testing.
    Test,
}

/// One image as the split sees it.
#[derive(Clone, Debug)]
pub(crate) struct Member {
    /// Images of one patient bear one name.
    pub(crate) patient: String,
    /// Where the data set puts it, if it says so.
    pub(crate) part: Option<Part>,
}

/// Draws the parts from the seed.
///
/// # Errors
/// There are fewer patients than parts to fill.
pub(crate) fn draw(members: &[Member], published: Option<Counts>, seed: u64) -> Result<Split> {
    let (fixed, drawn): (Vec<usize>, Vec<usize>) =
        (0..members.len()).partition(|&i| members[i].part == Some(Part::Test));
    let share = |share: f64, of: usize| (share * of as f64).round() as usize;
    let published = published.filter(|counts| counts.total() == members.len());
    // A test set given by the data set is not drawn, and leaves 80 % and 20 % of the others.
    let (test, val) = match published {
        Some(counts) => (counts.test.saturating_sub(fixed.len()), counts.val),
        None if fixed.is_empty() => (share(0.2, drawn.len()), share(0.16, drawn.len())),
        None => (0, share(0.2, drawn.len())),
    };

    let mut patients = by_patient(members, &drawn);
    let parts = if fixed.is_empty() { 3 } else { 2 };
    if patients.len() < parts {
        bail!(
            "{} images of {} patients cannot be divided into training, validation and test; \
             {parts} patients are the least",
            drawn.len(),
            patients.len()
        );
    }
    patients.shuffle(&mut stream(seed, Purpose::Split, 0, 0));

    // Each part takes whole patients until it is full, but leaves one for every part after it.
    let mut take = |wanted: usize, parts_after: usize| {
        let mut part = Vec::new();
        while part.len() < wanted.max(1) && patients.len() > parts_after {
            part.extend(patients.pop().unwrap_or_default());
        }
        part.sort_unstable();
        part
    };
    let test = if fixed.is_empty() {
        take(test, 2)
    } else {
        fixed
    };
    let val = take(val, 1);
    let train = take(usize::MAX, 0);
    Ok(Split { train, val, test })
}

/// The chosen images, patient by patient, in the order of each patient's first image.
fn by_patient(members: &[Member], chosen: &[usize]) -> Vec<Vec<usize>> {
    let mut place = std::collections::HashMap::new();
    let mut patients: Vec<Vec<usize>> = Vec::new();
    for &i in chosen {
        let at = *place.entry(members[i].patient.as_str()).or_insert_with(|| {
            patients.push(Vec::new());
            patients.len() - 1
        });
        patients[at].push(i);
    }
    patients
}

#[cfg(test)]
mod tests {
    use super::*;

    fn each_its_own(n: usize) -> Vec<Member> {
        (0..n)
            .map(|i| Member {
                patient: i.to_string(),
                part: None,
            })
            .collect()
    }

    fn sizes(split: &Split) -> (usize, usize, usize) {
        (split.train.len(), split.val.len(), split.test.len())
    }

    #[track_caller]
    fn assert_divides(split: &Split, n: usize) {
        let mut all = [&split.train[..], &split.val, &split.test].concat();
        all.sort_unstable();
        assert_eq!(all, (0..n).collect::<Vec<_>>());
        for part in [&split.train, &split.val, &split.test] {
            assert!(part.is_sorted() && !part.is_empty());
        }
    }

    #[test]
    fn published_sizes_are_kept_for_the_published_number_of_images() {
        let published = Some(Counts {
            train: 428,
            val: 108,
            test: 134,
        });
        let split = draw(&each_its_own(670), published, 1).unwrap();
        assert_eq!(sizes(&split), (428, 108, 134));
        assert_divides(&split, 670);
        assert_eq!(
            sizes(&draw(&each_its_own(100), published, 1).unwrap()),
            (64, 16, 20)
        );
    }

    #[test]
    fn the_seed_decides() {
        let draw = |seed| draw(&each_its_own(100), None, seed).unwrap();
        assert_eq!(draw(3), draw(3));
        assert_ne!(draw(3), draw(4));
    }

    #[test]
    fn images_of_one_patient_stay_together() {
        let members: Vec<_> = (0..28)
            .map(|i| Member {
                patient: (i / 2).to_string(),
                part: None,
            })
            .collect();
        for seed in 0..20 {
            let split = draw(&members, None, seed).unwrap();
            assert_divides(&split, 28);
            assert_eq!(sizes(&split), (18, 4, 6));
            for part in [&split.train, &split.val, &split.test] {
                assert!(
                    part.chunks(2).all(|eyes| eyes[0] / 2 == eyes[1] / 2),
                    "{part:?}"
                );
            }
        }
    }

    #[test]
    fn every_part_gets_a_patient_however_uneven_they_are() {
        let members: Vec<_> = (0..33)
            .map(|i: usize| Member {
                patient: i.saturating_sub(30).to_string(),
                part: None,
            })
            .collect();
        for seed in 0..20 {
            assert_divides(&draw(&members, None, seed).unwrap(), 33);
        }
    }

    #[test]
    fn a_test_set_of_the_data_sets_own_is_kept() {
        let members: Vec<_> = (0..40)
            .map(|i| {
                let part = if i < 20 {
                    Part::Development
                } else {
                    Part::Test
                };
                Member {
                    patient: i.to_string(),
                    part: Some(part),
                }
            })
            .collect();
        let published = Some(Counts {
            train: 16,
            val: 4,
            test: 20,
        });
        let split = draw(&members, published, 5).unwrap();
        assert_eq!(sizes(&split), (16, 4, 20));
        assert_divides(&split, 40);
        assert_eq!(split.test, (20..40).collect::<Vec<_>>());
        assert_eq!(
            sizes(&draw(&members[..30], published, 5).unwrap()),
            (16, 4, 10)
        );
    }

    #[test]
    fn too_few_patients_are_refused() {
        let members = vec![
            Member {
                patient: "a".into(),
                part: None
            };
            9
        ];
        assert_eq!(
            draw(&members, None, 0).unwrap_err().to_string(),
            "9 images of 1 patients cannot be divided into training, validation and test; 3 patients are the least"
        );
    }
}
