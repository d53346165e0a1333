//! Every data set from files this test writes, and every sentence about files that are missing or odd.

use std::{fs, path::Path};

use image::{DynamicImage, GrayImage, ImageBuffer, Luma, LumaA, Rgb, RgbImage, Rgba, RgbaImage};
use tempfile::TempDir;

use super::{
    testing::{ByteOrder, colours, dot, grey_rgb_tiff, palette_gif, save, with_alpha},
    *,
};

const W: u32 = 6;
const H: u32 = 4;

#[track_caller]
fn open(kind: &str, path: &Path) -> Dataset {
    Dataset::open(&format!("{kind}:{}", path.display()).parse().unwrap(), 1).unwrap()
}

/// The error of opening, with the folder written as `@`.
#[track_caller]
fn refusal(kind: &str, path: &Path) -> String {
    let config = format!("{kind}:{}", path.display()).parse().unwrap();
    format!("{:#}", Dataset::open(&config, 1).unwrap_err())
        .replace(&path.display().to_string(), "@")
}

/// The error of loading the first image, with the folder written as `@`.
#[track_caller]
fn load_refusal(config: &DataConfig) -> String {
    let error = Dataset::open(config, 1).unwrap().load(0).unwrap_err();
    format!("{error:#}").replace(&config.path.display().to_string(), "@")
}

/// Checks image `i`: the id, the colours that [`colours`] gave it, and where the foreground is.
#[track_caller]
fn assert_sample(dataset: &Dataset, i: usize, id: &str, n: u8, foreground: &[(u32, u32)]) {
    let sample = dataset.load(i).unwrap();
    assert_eq!(sample.id, id);
    assert_eq!(sample.image.channels, dataset.channels);
    assert_eq!(
        (sample.image.height, sample.image.width),
        (H as usize, W as usize)
    );
    if dataset.channels == 3 {
        let planes = DynamicImage::from(colours(W, H, n)).into_rgb8();
        let planar: Vec<f32> = (0..3)
            .flat_map(|c| planes.pixels().map(move |p| f32::from(p.0[c])))
            .collect();
        assert_eq!(sample.image.data, planar);
    }
    assert_eq!(sample.labels.data, bright(foreground), "{id}");
    assert_eq!(sample.truth, None);
}

fn bright(foreground: &[(u32, u32)]) -> Vec<u8> {
    let mut labels = vec![0; (W * H) as usize];
    for (x, y) in foreground {
        labels[(y * W + x) as usize] = 1;
    }
    labels
}

/// `images/` and `masks/` with three pairs a1, a2, a10.
fn three_pairs() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (n, name) in ["a1", "a2", "a10"].into_iter().enumerate() {
        save(
            &colours(W, H, n as u8),
            &folder.path().join(format!("images/{name}.png")),
        );
        save(
            &dot(W, H, (n as u32, 1)),
            &folder.path().join(format!("masks/{name}.bmp")),
        );
    }
    folder
}

#[test]
fn a_folder_pairs_by_stem_in_natural_order() {
    let folder = three_pairs();
    let dataset = open("folder", folder.path());
    assert_eq!(
        (dataset.len(), dataset.channels, dataset.classes),
        (3, 3, 2)
    );
    for (i, id) in ["a1", "a2", "a10"].into_iter().enumerate() {
        assert_sample(&dataset, i, id, i as u8, &[(i as u32, 1)]);
    }
    assert_eq!(
        dataset.load(3).unwrap_err().to_string(),
        "there is no image 3: the data set has 3"
    );
}

#[test]
fn a_folder_takes_its_channels_from_the_first_image_unless_told() {
    let folder = three_pairs();
    let grey = |v: u8| ImageBuffer::from_pixel(W, H, LumaA([v, 255_u8]));
    save(&grey(7), &folder.path().join("images/a1.png"));
    let mut config: DataConfig = format!("folder:{}", folder.path().display())
        .parse()
        .unwrap();
    let dataset = Dataset::open(&config, 1).unwrap();
    assert_eq!(dataset.channels, 1);
    assert_eq!(dataset.load(0).unwrap().image.data, [7.0; 24]);
    config.channels = Some(3);
    let dataset = Dataset::open(&config, 1).unwrap();
    assert_eq!(dataset.load(0).unwrap().image.data, [7.0; 72]);
}

#[test]
fn a_folder_reads_suffixed_masks_and_keeps_patients_together() {
    let folder = tempfile::tempdir().unwrap();
    for patient in 0..5 {
        for slice in 0..4_u8 {
            let stem = format!("P{patient}_s{slice}");
            save(
                &colours(W, H, slice),
                &folder.path().join(format!("images/{stem}.png")),
            );
            save(
                &dot(W, H, (0, 0)),
                &folder.path().join(format!("masks/{stem}_mask.png")),
            );
        }
    }
    let config = DataConfig {
        mask_suffix: "_mask".into(),
        patient_until: Some("_".into()),
        ..format!("folder:{}", folder.path().display())
            .parse()
            .unwrap()
    };
    let Split { train, val, test } = Dataset::open(&config, 2).unwrap().split;
    assert_eq!((train.len(), val.len(), test.len()), (12, 4, 4));
    for part in [train, val, test] {
        assert!(
            part.chunks(4).all(|one| one[0] / 4 == one[3] / 4),
            "{part:?}"
        );
    }
}

#[test]
fn class_numbers_are_read_as_they_are() {
    let folder = three_pairs();
    let classes = |x: u32| [0_u8, 1, 2, 3, 255, 0][x as usize];
    save(
        &GrayImage::from_fn(W, H, |x, _| Luma([classes(x)])),
        &folder.path().join("masks/a1.bmp"),
    );
    fs::remove_file(folder.path().join("masks/a2.bmp")).unwrap();
    let wide = ImageBuffer::from_fn(W, H, |x, _| Luma([u16::from(classes(x))]));
    save(&wide, &folder.path().join("masks/a2.png"));
    let mut config = DataConfig {
        mask: MaskValues::Classes,
        classes: 4,
        ..format!("folder:{}", folder.path().display())
            .parse()
            .unwrap()
    };
    let dataset = Dataset::open(&config, 1).unwrap();
    assert_eq!(dataset.classes, 4);
    for i in 0..2 {
        assert_eq!(
            dataset.load(i).unwrap().labels.data[..6],
            [0, 1, 2, 3, 255, 0]
        );
    }
    config.classes = 3;
    assert_eq!(
        load_refusal(&config),
        "the mask @/masks/a1.bmp holds the value 3, but 3 classes are numbered 0 to 2 (255 is ignored)"
    );
    let red = RgbImage::from_pixel(W, H, Rgb([200, 0, 0]));
    save(&red, &folder.path().join("masks/a1.bmp"));
    assert_eq!(
        load_refusal(&config),
        "the mask @/masks/a1.bmp has colours (here 200, 0, 0); class numbers are read from grey values"
    );
}

#[test]
fn binary_masks_are_cut_above_127_in_their_brightest_channel() {
    let folder = three_pairs();
    let levels = [
        [0, 0, 0, 255],
        [11, 11, 11, 255],
        [127; 4],
        [128, 0, 0, 0],
        [0, 0, 255, 255],
        [4; 4],
    ];
    let mask = RgbaImage::from_fn(W, H, |x, _| Rgba(levels[x as usize]));
    let path = folder.path().join("masks/a1.bmp");
    fs::remove_file(&path).unwrap();
    save(&mask, &path.with_extension("png"));
    let labels = open("folder", folder.path()).load(0).unwrap().labels;
    assert_eq!(labels.data[..6], [0, 0, 0, 1, 1, 0]);
}

#[test]
fn a_mask_that_is_dark_but_not_black_is_refused_rather_than_read_as_empty() {
    let folder = three_pairs();
    let config: DataConfig = format!("folder:{}", folder.path().display())
        .parse()
        .unwrap();
    let path = folder.path().join("masks/a1.bmp");
    let refusal = |name: &str, highest: u8| {
        format!(
            "the mask @/masks/{name} holds no value above {highest}, and foreground is what is above 127; \
             scale it to 0 and 255, or read class numbers with data.mask = \"classes\""
        )
    };
    for highest in [1, 2, 127] {
        let levels = [0, highest, highest / 2];
        let mask = GrayImage::from_fn(W, H, |x, _| Luma([levels[x as usize % 3]]));
        save(&mask, &path);
        assert_eq!(load_refusal(&config), refusal("a1.bmp", highest));
    }
    save(&GrayImage::new(W, H), &path);
    let labels = open("folder", folder.path()).load(0).unwrap().labels;
    assert_eq!(labels.data, [0; 24], "an empty mask is a mask");
    fs::remove_file(&path).unwrap();
    // Scaled to 8 bits, these class numbers would all be 0.
    let wide = ImageBuffer::from_fn(W, H, |x, _| Luma([(x % 3) as u16]));
    save(&wide, &path.with_extension("png"));
    assert_eq!(load_refusal(&config), refusal("a1.png", 1));
}

#[test]
fn an_empty_jpeg_mask_may_be_noisy_but_not_grey() {
    let folder = three_pairs();
    fs::remove_file(folder.path().join("masks/a1.bmp")).unwrap();
    let path = folder.path().join("masks/a1.jpg");
    let noisy = GrayImage::from_fn(W, H, |x, y| Luma([((7 * x + 3 * y) % 11) as u8]));
    save(&noisy, &path);
    assert!(
        read_image(&path, 1, 1 << 25)
            .unwrap()
            .data
            .iter()
            .any(|&v| v > 0.0)
    );
    let dataset = open("folder", folder.path());
    assert_eq!(dataset.load(0).unwrap().labels.data, [0; 24]);
    save(&GrayImage::from_pixel(W, H, Luma([100])), &path);
    let error = dataset.load(0).unwrap_err().to_string();
    assert!(error.contains("holds no value above 100"), "{error}");
}

#[test]
fn sixteen_bits_are_scaled_to_255_and_keep_their_steps() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["deep.png", "deep.tif"] {
        let path = folder.path().join(name);
        let deep = ImageBuffer::from_fn(4, 1, |x, _| Luma([[0_u16, 257, 65_535, 128][x as usize]]));
        save(&deep, &path);
        assert_eq!(
            read_image(&path, 1, 1 << 25).unwrap().data,
            [0.0, 1.0, 255.0, 128.0 / 257.0]
        );
        assert_eq!(read_image(&path, 3, 1 << 25).unwrap().data.len(), 12);
    }
}

#[test]
fn dsb2018_unites_the_masks_of_all_nuclei() {
    let folder = tempfile::tempdir().unwrap();
    for (n, id) in ["aa", "bb", "cc"].into_iter().enumerate() {
        let root = folder.path().join("stage1_train").join(id);
        save(
            &with_alpha(&colours(W, H, n as u8)),
            &root.join(format!("images/{id}.png")),
        );
        for nucleus in 0..3 {
            save(
                &dot(W, H, (nucleus, n as u32)),
                &root.join(format!("masks/{nucleus:x}.png")),
            );
        }
    }
    for path in [
        folder.path().to_path_buf(),
        folder.path().join("stage1_train"),
    ] {
        let dataset = open("dsb2018", &path);
        assert_eq!(dataset.channels, 3);
        assert_sample(&dataset, 1, "bb", 1, &[(0, 1), (1, 1), (2, 1)]);
    }
    fs::remove_dir_all(folder.path().join("stage1_train/bb/masks")).unwrap();
    assert_eq!(
        refusal("dsb2018", folder.path()),
        "there is no folder @/stage1_train/bb/masks; dsb2018 is read from ID/images/ID.png with ID/masks/*.png"
    );
    fs::create_dir(folder.path().join("stage1_train/bb/masks")).unwrap();
    assert_eq!(
        refusal("dsb2018", folder.path()),
        "the image @/stage1_train/bb/images/bb.png has no masks in @/stage1_train/bb/masks"
    );
    fs::remove_file(folder.path().join("stage1_train/aa/images/aa.png")).unwrap();
    assert_eq!(
        refusal("dsb2018", folder.path()),
        "@/stage1_train/aa/images holds 0 images; one is expected"
    );
}

/// `ID/images` and `ID/masks` of eight images: those of even number are light, all have one nucleus.
fn two_stains() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for n in 0..8_u8 {
        let root = folder.path().join(format!("n{n}"));
        let level = if n % 2 == 0 { 200 } else { 12 };
        let mut image = RgbImage::from_pixel(W, H, Rgb([level; 3]));
        image.put_pixel(0, 0, Rgb([100, 100, n]));
        save(&with_alpha(&image), &root.join(format!("images/n{n}.png")));
        save(&dot(W, H, (0, 0)), &root.join("masks/0.png"));
    }
    folder
}

#[test]
fn dsb2018_reads_one_stain_and_splits_what_is_left() {
    let folder = two_stains();
    let mut config: DataConfig = format!("dsb2018:{}", folder.path().display())
        .parse()
        .unwrap();
    assert_eq!(Dataset::open(&config, 1).unwrap().len(), 8);
    for (stain, expected) in [
        (Stain::Fluorescence, ["n1", "n3", "n5", "n7"]),
        (Stain::Other, ["n0", "n2", "n4", "n6"]),
    ] {
        config.stain = Some(stain);
        let dataset = Dataset::open(&config, 1).unwrap();
        let ids: Vec<String> = (0..dataset.len()).map(|i| dataset.id(i)).collect();
        assert_eq!(ids, expected);
        let Split { train, val, test } = &dataset.split;
        assert_eq!((train.len(), val.len(), test.len()), (2, 1, 1));
        for (i, id) in expected.into_iter().enumerate() {
            assert_eq!(dataset.load(i).unwrap().id, id);
        }
        let all = dataset.all_for_testing();
        assert_eq!(all.split.test, [0, 1, 2, 3]);
        assert!(all.split.train.is_empty() && all.split.val.is_empty());
    }
}

#[test]
fn dsb2018_reads_boundaries_as_a_third_class_from_the_masks_before_their_union() {
    let folder = tempfile::tempdir().unwrap();
    for id in ["aa", "bb", "cc"] {
        let root = folder.path().join(id);
        save(&colours(8, 5, 0), &root.join(format!("images/{id}.png")));
        for (n, first) in [0, 4].into_iter().enumerate() {
            let nucleus = GrayImage::from_fn(8, 5, |x, _| {
                Luma([if (first..first + 4).contains(&x) {
                    255
                } else {
                    0
                }])
            });
            save(&nucleus, &root.join(format!("masks/{n}.png")));
        }
    }
    let mut config: DataConfig = format!("dsb2018:{}", folder.path().display())
        .parse()
        .unwrap();
    let union = Dataset::open(&config, 1).unwrap();
    assert_eq!(union.classes, 2);
    assert_eq!(union.load(0).unwrap().labels.data, [1; 40]);
    config.labels = NucleusLabels::Boundary;
    let parted = Dataset::open(&config, 1).unwrap();
    assert_eq!(parted.classes, 3);
    let row = [1, 1, 1, 2, 2, 1, 1, 1];
    assert_eq!(parted.load(0).unwrap().labels.data, [row; 5].concat());
}

#[test]
fn a_stain_that_no_image_has_is_refused() {
    let folder = two_stains();
    for n in [0, 2, 4, 6] {
        fs::remove_dir_all(folder.path().join(format!("n{n}"))).unwrap();
    }
    let config = DataConfig {
        stain: Some(Stain::Other),
        ..format!("dsb2018:{}", folder.path().display())
            .parse()
            .unwrap()
    };
    let error = Dataset::open(&config, 1).unwrap_err().to_string();
    assert_eq!(
        error.replace(&folder.path().display().to_string(), "@"),
        "data.stain is other, but none of the 4 images of @ is; they all are fluorescence: leave data.stain out"
    );
}

#[test]
fn an_image_that_cannot_be_decoded_has_no_stain() {
    let folder = two_stains();
    for n in [5, 2] {
        fs::write(folder.path().join(format!("n{n}/images/n{n}.png")), b"").unwrap();
    }
    let config = DataConfig {
        stain: Some(Stain::Other),
        ..format!("dsb2018:{}", folder.path().display())
            .parse()
            .unwrap()
    };
    let error = Dataset::open(&config, 1).unwrap_err().to_string();
    assert_eq!(
        error.replace(&folder.path().display().to_string(), "@"),
        "@/n2/images/n2.png is empty: it has no bytes"
    );
}

#[test]
fn chase_db1_reads_the_first_observer_and_keeps_both_eyes_together() {
    let folder = tempfile::tempdir().unwrap();
    for child in 1..=14 {
        for (n, eye) in ["L", "R"].into_iter().enumerate() {
            let stem = folder.path().join(format!("Image_{child:02}{eye}"));
            let stem = stem.display();
            save(&colours(W, H, 0), format!("{stem}.jpg").as_ref());
            save(
                &dot(W, H, (n as u32, 3)),
                format!("{stem}_1stHO.png").as_ref(),
            );
            save(&dot(W, H, (5, 3)), format!("{stem}_2ndHO.png").as_ref());
        }
    }
    let dataset = open("chase-db1", folder.path());
    assert_eq!(dataset.len(), 28);
    let right = dataset.load(1).unwrap();
    assert_eq!(
        (right.id.as_str(), right.labels.data),
        ("Image_01R", bright(&[(1, 3)]))
    );
    assert_eq!(right.image.channels, 3);
    let Split { train, val, test } = &dataset.split;
    assert_eq!((train.len(), val.len(), test.len()), (18, 4, 6));
    for part in [train, val, test] {
        assert!(
            part.chunks(2)
                .all(|eyes| eyes[0] % 2 == 0 && eyes[0] + 1 == eyes[1]),
            "{part:?}"
        );
    }
    fs::remove_file(folder.path().join("Image_07L_1stHO.png")).unwrap();
    assert_eq!(
        refusal("chase-db1", folder.path()),
        "the image @/Image_07L.jpg has no mask @/Image_07L_1stHO.*"
    );
    fs::remove_file(folder.path().join("Image_07L.jpg")).unwrap();
    fs::remove_file(folder.path().join("Image_08L.jpg")).unwrap();
    assert_eq!(
        refusal("chase-db1", folder.path()),
        "the mask @/Image_08L_1stHO.png has no image Image_08L.* in @"
    );
}

#[test]
fn drive_keeps_its_own_test_images_and_looks_palettes_up() {
    let folder = tempfile::tempdir().unwrap();
    let ramp = [[0; 3], [255; 3]];
    let odd = [[4, 2, 4], [252, 254, 252]];
    let mut indices = [0; (W * H) as usize];
    indices[2] = 1;
    for n in 1..=40_u8 {
        let part = if n > 20 { "training" } else { "test" };
        let root = folder.path().join("DRIVE").join(part);
        save(
            &colours(W, H, n),
            &root.join(format!("images/{n:02}_{part}.tif")),
        );
        for observer in ["1st_manual", "mask"] {
            fs::create_dir_all(root.join(observer)).unwrap();
        }
        let palette = if n % 2 == 0 { ramp } else { odd };
        let gif = palette_gif(W as u8, H as u8, palette, &indices);
        fs::write(root.join(format!("1st_manual/{n:02}_manual1.gif")), &gif).unwrap();
        fs::write(root.join(format!("mask/{n:02}_{part}_mask.gif")), &gif).unwrap();
    }
    let dataset = open("drive", folder.path());
    assert_eq!(dataset.len(), 40);
    let Split { train, val, test } = &dataset.split;
    assert_eq!((train.len(), val.len(), test.len()), (16, 4, 20));
    assert!(
        test.iter()
            .all(|&i| dataset.load(i).unwrap().id.parse::<u8>().unwrap() <= 20)
    );
    assert_sample(&dataset, 0, "21", 21, &[(2, 0)]);
    assert_sample(&dataset, 39, "20", 20, &[(2, 0)]);
    fs::remove_dir_all(folder.path().join("DRIVE/test/1st_manual")).unwrap();
    assert_eq!(
        refusal("drive", folder.path()),
        "there is no folder @/DRIVE/test/1st_manual; drive is read from training/images/21_training.tif with \
         training/1st_manual/21_manual1.gif, and test/images/01_test.tif with test/1st_manual/01_manual1.gif"
    );
    save(
        &colours(W, H, 0),
        &folder.path().join("DRIVE/training/images/extra.tif"),
    );
    assert_eq!(
        refusal("drive", folder.path()),
        "the image @/DRIVE/training/images/extra.tif is not named like the others: drive is read from \
         training/images/21_training.tif with training/1st_manual/21_manual1.gif, and test/images/01_test.tif with \
         test/1st_manual/01_manual1.gif"
    );
}

#[test]
fn cvc_clinicdb_is_read_from_png_and_from_its_odd_tiff() {
    let folder = tempfile::tempdir().unwrap();
    let pixels = |n: u8| colours(W, H, n).into_raw();
    for n in [1_u8, 2, 10] {
        let mask = DynamicImage::from(dot(W, H, (u32::from(n) % 6, 2)));
        let root = folder.path();
        save(
            &colours(W, H, n),
            &root.join(format!("PNG/Original/{n}.png")),
        );
        save(
            &mask.to_rgb8(),
            &root.join(format!("PNG/Ground Truth/{n}.png")),
        );
        fs::create_dir_all(root.join("TIF/Original")).unwrap();
        let odd = grey_rgb_tiff(ByteOrder::Little, W as u16, H as u16, &pixels(n));
        fs::write(root.join(format!("TIF/Original/{n}.tif")), odd).unwrap();
        save(
            &mask.to_luma8(),
            &root.join(format!("TIF/Ground Truth/{n}.tif")),
        );
    }
    for root in ["", "PNG", "TIF"] {
        let dataset = open("cvc-clinicdb", &folder.path().join(root));
        assert_sample(&dataset, 1, "2", 2, &[(2, 2)]);
        assert_sample(&dataset, 2, "10", 10, &[(4, 2)]);
    }
}

#[test]
fn bus2017_is_read_as_grey() {
    let folder = tempfile::tempdir().unwrap();
    for n in 1..=3_u8 {
        let grey = GrayImage::from_pixel(W, H, Luma([n]));
        save(&grey, &folder.path().join(format!("original/{n:06}.png")));
        save(
            &dot(W, H, (u32::from(n), 0)),
            &folder.path().join(format!("GT/{n:06}.png")),
        );
    }
    let dataset = open("bus2017", folder.path());
    assert_sample(&dataset, 2, "000003", 3, &[(3, 0)]);
    assert_eq!(dataset.load(2).unwrap().image.data, [3.0; 24]);
}

#[test]
fn busi_unites_numbered_masks_reads_alpha_and_takes_normal_images() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("Dataset_BUSI_with_GT");
    for (class, n) in [
        ("benign", 1),
        ("benign", 4),
        ("malignant", 1),
        ("normal", 1),
    ] {
        let stem = root.join(class).join(format!("{class} ({n})"));
        let stem = stem.display();
        let image = RgbImage::from_pixel(W, H, Rgb([9; 3]));
        save(&image, format!("{stem}.png").as_ref());
        save(&GrayImage::new(W, H), format!("{stem}_mask.png").as_ref());
    }
    let second = RgbaImage::from_fn(W, H, |x, _| Rgba([if x == 2 { 255 } else { 0 }, 0, 0, 255]));
    save(&dot(W, H, (1, 1)), &root.join("benign/benign (4)_mask.png"));
    save(&second, &root.join("benign/benign (4)_mask_1.png"));
    save(
        &dot(W, H, (3, 1)),
        &root.join("benign/benign (4)_mask_2.png"),
    );
    let dataset = open("busi", folder.path());
    assert_eq!((dataset.len(), dataset.channels), (4, 1));
    let foreground = [(1, 1), (3, 1), (2, 0), (2, 1), (2, 2), (2, 3)];
    assert_sample(&dataset, 1, "benign (4)", 0, &foreground);
    assert_sample(&dataset, 3, "normal (1)", 0, &[]);
    fs::remove_dir_all(root.join("normal")).unwrap();
    assert_eq!(open("busi", folder.path()).len(), 3);
    fs::remove_file(root.join("benign/benign (4)_mask_1.png")).unwrap();
    assert_eq!(
        refusal("busi", folder.path()),
        "the mask @/Dataset_BUSI_with_GT/benign/benign (4)_mask_2.png has no image benign (4)_mask_2.* in \
         @/Dataset_BUSI_with_GT/benign, or a mask numbered before it is missing"
    );
}

#[test]
fn isic2018_pairs_its_two_folders() {
    let folder = tempfile::tempdir().unwrap();
    for n in 0..3_u8 {
        let image = format!("ISIC2018_Task1-2_Training_Input/ISIC_{n:07}.jpg");
        let mask = format!("ISIC2018_Task1_Training_GroundTruth/ISIC_{n:07}_segmentation.png");
        save(&colours(W, H, n), &folder.path().join(image));
        save(&dot(W, H, (u32::from(n), 3)), &folder.path().join(mask));
    }
    fs::write(
        folder
            .path()
            .join("ISIC2018_Task1-2_Training_Input/LICENSE.txt"),
        "CC",
    )
    .unwrap();
    let dataset = open("isic2018", folder.path());
    let sample = dataset.load(2).unwrap();
    assert_eq!(
        (sample.id.as_str(), sample.labels.data),
        ("ISIC_0000002", bright(&[(2, 3)]))
    );
}

#[test]
fn kvasir_seg_reads_jpeg_masks() {
    let folder = tempfile::tempdir().unwrap();
    let mask = GrayImage::from_fn(W, H, |x, _| Luma([if x < 3 { 250 } else { 5 }]));
    for n in 0..3_u8 {
        save(
            &colours(W, H, n),
            &folder.path().join(format!("Kvasir-SEG/images/k{n}.jpg")),
        );
        save(
            &mask,
            &folder.path().join(format!("Kvasir-SEG/masks/k{n}.jpg")),
        );
    }
    let labels = open("kvasir-seg", folder.path()).load(0).unwrap().labels;
    assert_eq!(labels.data, [1, 1, 1, 0, 0, 0].repeat(4));
}

#[test]
fn every_kind_names_a_missing_folder_and_what_it_expects() {
    let folder = tempfile::tempdir().unwrap();
    for row in KINDS
        .iter()
        .filter(|row| !matches!(row.layout, Layout::Generated))
    {
        let missing = folder.path().join("gone");
        let sentence = format!(
            "there is no folder @; {} is read from {}",
            row.name, row.expects
        );
        assert_eq!(refusal(row.name, &missing), sentence);
        let empty = refusal(row.name, folder.path());
        assert!(
            empty.ends_with(&format!("; {} is read from {}", row.name, row.expects)),
            "{empty}"
        );
    }
    fs::create_dir(folder.path().join("images")).unwrap();
    fs::create_dir(folder.path().join("masks")).unwrap();
    fs::write(folder.path().join("images/notes.txt"), "").unwrap();
    assert_eq!(
        refusal("folder", folder.path()),
        "@ holds no images; folder is read from images/NAME.* with masks/NAME.*"
    );
}

#[test]
fn pairs_that_are_not_whole_are_refused() {
    let folder = three_pairs();
    let at = |name: &str| folder.path().join(name);
    fs::rename(at("masks/a2.bmp"), at("masks/b.bmp")).unwrap();
    assert_eq!(
        refusal("folder", folder.path()),
        "the image @/images/a2.png has no mask @/masks/a2.*"
    );
    save(&dot(W, H, (0, 0)), &at("masks/a2.png"));
    assert_eq!(
        refusal("folder", folder.path()),
        "the mask @/masks/b.bmp has no image b.* in @/images"
    );
    fs::rename(at("masks/b.bmp"), at("masks/a2.bmp")).unwrap();
    assert_eq!(
        refusal("folder", folder.path()),
        "@/masks/a2.bmp and @/masks/a2.png have the same stem; one of them must go"
    );
}

#[test]
fn two_images_are_too_few() {
    let folder = three_pairs();
    fs::remove_file(folder.path().join("images/a2.png")).unwrap();
    fs::remove_file(folder.path().join("masks/a2.bmp")).unwrap();
    assert_eq!(
        refusal("folder", folder.path()),
        "@ cannot be split: 2 images of 2 patients cannot be divided into training, validation and test; \
         3 patients are the least"
    );
}

#[test]
fn sizes_that_differ_are_found_on_opening() {
    let folder = three_pairs();
    save(&dot(W + 1, H, (0, 0)), &folder.path().join("masks/a10.bmp"));
    assert_eq!(
        refusal("folder", folder.path()),
        "the mask @/masks/a10.bmp has 7x4 pixels, but its image @/images/a10.png has 6x4 (width x height)"
    );
}

#[test]
fn files_cut_short_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let cut = |name: &str| {
        save(&colours(64, 64, 0), &path(name));
        let bytes = fs::read(path(name)).unwrap();
        fs::write(path(name), &bytes[..bytes.len() - 100]).unwrap();
        format!("{:#}", read_image(&path(name), 3, 1 << 25).unwrap_err())
            .replace(&folder.path().display().to_string(), "@")
    };
    assert_eq!(
        cut("a.png"),
        "@/a.png cannot be decoded as PNG, JPEG, TIFF, GIF or BMP: unexpected end of file"
    );
    assert_eq!(
        cut("a.jpg"),
        "@/a.jpg is cut short: the JPEG has no end-of-image marker"
    );
    for name in ["a.tif", "a.gif", "a.bmp"] {
        let sentence = cut(name);
        let start = format!("@/{name} cannot be decoded as PNG, JPEG, TIFF, GIF or BMP: ");
        assert!(sentence.starts_with(&start), "{sentence}");
    }
    fs::write(path("text.png"), "no image at all").unwrap();
    assert_eq!(
        format!(
            "{:#}",
            read_image(&path("text.png"), 3, 1 << 25).unwrap_err()
        ),
        format!(
            "{} cannot be decoded as PNG, JPEG, TIFF, GIF or BMP: The image format could not be determined",
            path("text.png").display()
        )
    );
    assert_eq!(
        format!(
            "{:#}",
            read_image(&path("gone.png"), 3, 1 << 25).unwrap_err()
        ),
        format!(
            "{} cannot be read: No such file or directory (os error 2)",
            path("gone.png").display()
        )
    );
}

#[test]
fn a_header_that_claims_an_absurd_size_is_refused_before_anything_is_allocated() {
    let folder = three_pairs();
    let path = folder.path().join("images/a1.png");
    save(&colours(W, H, 0), &path);
    let mut bytes = fs::read(&path).unwrap();
    for (width, height, most) in [
        (30_000, 30_000, 1 << 25),
        (2_000_000_000, 5, 1 << 25),
        (6, 4, 23),
    ] {
        bytes[16..20].copy_from_slice(&u32::to_be_bytes(width));
        bytes[20..24].copy_from_slice(&u32::to_be_bytes(height));
        let check = crc32fast::hash(&bytes[12..29]);
        bytes[29..33].copy_from_slice(&check.to_be_bytes());
        fs::write(&path, &bytes).unwrap();
        let sentence = format!(
            "@/images/a1.png says it is {width}x{height} pixels; at most {most} are read: raise data.max_pixels if the \
             file is to be trusted"
        );
        let config = DataConfig {
            max_pixels: most,
            ..format!("folder:{}", folder.path().display())
                .parse()
                .unwrap()
        };
        for error in [
            Dataset::open(&config, 1).unwrap_err(),
            read_image(&path, 3, most).unwrap_err(),
        ] {
            let error = format!("{error:#}").replace(&folder.path().display().to_string(), "@");
            assert_eq!(error, sentence);
        }
    }
}

#[test]
fn one_bit_masks_and_grey_jpegs_are_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("grey.jpg");
    save(&GrayImage::from_pixel(8, 8, Luma([77])), &path);
    assert_eq!(read_image(&path, 1, 1 << 25).unwrap().data, [77.0; 64]);
    // 3x1 pixels of one bit each, stored uncompressed: 101.
    let mut png = b"\x89PNG\r\n\x1a\n".to_vec();
    let mut chunk = |name: &[u8; 4], data: &[u8]| {
        let body = [&name[..], data].concat();
        png.extend((data.len() as u32).to_be_bytes());
        png.extend(&body);
        png.extend(crc32fast::hash(&body).to_be_bytes());
    };
    chunk(b"IHDR", &[0, 0, 0, 3, 0, 0, 0, 1, 1, 0, 0, 0, 0]);
    // zlib: header, one stored block of a filter byte and the row, Adler-32.
    chunk(
        b"IDAT",
        &[
            0x78,
            0x01,
            1,
            2,
            0,
            0xFD,
            0xFF,
            0,
            0b1010_0000,
            0,
            0xA2,
            0,
            0xA1,
        ],
    );
    chunk(b"IEND", &[]);
    let path = folder.path().join("bits.png");
    fs::write(&path, png).unwrap();
    assert_eq!(
        read_image(&path, 1, 1 << 25).unwrap().data,
        [255.0, 0.0, 255.0]
    );
}
