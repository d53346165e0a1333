use candle_core::{DType, Device, Tensor};

use super::{
    conv::{Conv, Finish},
    conv_gradient::weight_gradient,
    filters::{Filters, Way},
    lanes::Block,
    maps::{Size, from_blocks, spans, to_blocks},
    simd::{Dispatch, InstructionSet},
    source::{Part, Source},
};
use crate::ops::{conv2d_same_reference, testing::random};

fn vec<R: Dispatch>(t: &Tensor) -> Vec<R> {
    t.to_dtype(R::DTYPE)
        .unwrap()
        .flatten_all()
        .unwrap()
        .to_vec1()
        .unwrap()
}

fn distance<R: Dispatch>(found: &[R], expected: &Tensor) -> f64 {
    let expected = vec::<f64>(expected);
    assert_eq!(found.len(), expected.len());
    let norm = expected.iter().map(|x| x * x).sum::<f64>().sqrt();
    let d = found
        .iter()
        .zip(&expected)
        .map(|(f, e)| (f.to_f64() - e).powi(2))
        .sum::<f64>()
        .sqrt();
    d / norm.max(1e-300)
}

fn maps_of<R: Dispatch>(isa: InstructionSet, t: &Tensor) -> Vec<Block<R>> {
    let (n, c, h, w) = t.dims4().unwrap();
    let size = Size { n, h, w };
    let mut maps = vec![Block([R::default(); 16]); spans(&[c]).len() * size.pixels()];
    to_blocks(isa, &vec::<R>(t), c, size, &mut maps);
    maps
}

fn check<R: Dispatch>(
    isa: InstructionSet,
    (n, parts, o, h, w): (usize, &[usize], usize, usize, usize),
    tolerance: f64,
) {
    let size = Size { n, h, w };
    let i: usize = parts.iter().sum();
    let (x, k, b) = (
        random(&[n, i, h, w], 1),
        random(&[o, i, 3, 3], 2),
        random(&[o], 3),
    );
    let mut start = 0;
    let maps: Vec<Vec<Block<R>>> = parts
        .iter()
        .map(|&c| {
            let part = x.narrow(1, start, c).unwrap().contiguous().unwrap();
            start += c;
            maps_of(isa, &part)
        })
        .collect();
    let source = Source {
        size,
        parts: maps
            .iter()
            .zip(parts)
            .map(|(maps, &channels)| Part {
                maps,
                channels,
                affine: None,
            })
            .collect(),
    };
    let (k_, b_) = (vec::<R>(&k), vec::<R>(&b));
    let filters = Filters {
        weights: &k_,
        columns: i,
    };
    let mut y = vec![Block([R::default(); 16]); spans(&[o]).len() * size.pixels()];
    let outputs = [o];
    let moments = Conv {
        source: &source,
        filters,
        way: Way::Forward,
        outputs: &outputs,
        finish: Finish {
            bias: Some(&b_),
            relu: false,
            moments: true,
        },
    }
    .run(isa, vec![&mut y]);
    let total = |i: usize| -> f64 {
        let sums = moments.iter().flat_map(|part| &part.sums);
        sums.flat_map(|sums| sums[i]).sum()
    };
    let (sum, square) = (total(0), total(1));
    let mut found = vec![R::default(); n * o * h * w];
    from_blocks(isa, &y, o, size, &mut found);
    let var = |t: &Tensor| candle_core::Var::from_tensor(t).unwrap();
    let (vx, vk, vb) = (var(&x), var(&k), var(&b));
    let expected = conv2d_same_reference(&vx, &vk, &vb).unwrap();
    let d = distance(&found, &expected);
    assert!(
        d < tolerance,
        "{isa} {n} {parts:?} {o} {h} {w}: forward {d}"
    );
    let squares: f64 = vec::<f64>(&expected).iter().map(|x| x * x).sum();
    let sums: f64 = vec::<f64>(&expected).iter().sum();
    let norm = squares.sqrt() * ((n * o * h * w) as f64).sqrt();
    assert!(
        (sum - sums).abs() <= tolerance * norm,
        "{isa}: {sum} {sums}"
    );
    assert!(
        (square - squares).abs() <= tolerance * squares,
        "{isa}: {square} {squares}"
    );
    let gy = random(&[n, o, h, w], 4);
    let grads = (&expected * &gy)
        .unwrap()
        .sum_all()
        .unwrap()
        .backward()
        .unwrap();
    let gy_maps = maps_of::<R>(isa, &gy);
    let gsource = Source {
        size,
        parts: vec![Part {
            maps: &gy_maps,
            channels: o,
            affine: None,
        }],
    };
    let mut gx = vec![Block([R::default(); 16]); spans(parts).len() * size.pixels()];
    Conv {
        source: &gsource,
        filters,
        way: Way::Backward,
        outputs: parts,
        finish: Finish {
            bias: None,
            relu: false,
            moments: false,
        },
    }
    .run(isa, vec![&mut gx]);
    let (mut start, mut at) = (0, 0);
    for &c in parts {
        let len = spans(&[c]).len() * size.pixels();
        let mut found = vec![R::default(); n * c * h * w];
        from_blocks(isa, &gx[at..at + len], c, size, &mut found);
        let d = distance(
            &found,
            &grads.get(&vx).unwrap().narrow(1, start, c).unwrap(),
        );
        assert!(d < tolerance, "{isa} {n} {parts:?} {o} {h} {w}: gx {d}");
        start += c;
        at += len;
    }
    let mut gw = vec![R::default(); o * i * 9];
    weight_gradient(isa, &source, &gy_maps, o, &mut gw);
    let d = distance(&gw, grads.get(&vk).unwrap());
    assert!(d < tolerance, "{isa} {n} {parts:?} {o} {h} {w}: gw {d}");
}

#[test]
fn a_convolution_is_that_of_the_reference() {
    for shape in [
        (1, &[1][..], 1, 1, 1),
        (2, &[3], 5, 4, 7),
        (1, &[16], 32, 16, 16),
        (1, &[32], 32, 33, 31),
        (1, &[20, 33], 40, 18, 50),
        (2, &[64], 48, 8, 8),
        (3, &[130], 17, 20, 17),
        (1, &[64], 160, 5, 6),
        (2, &[160], 96, 16, 16),
    ] {
        check::<f64>(InstructionSet::Portable, shape, 1e-12);
        for isa in [
            InstructionSet::Avx512,
            InstructionSet::Avx2,
            InstructionSet::Portable,
        ] {
            check::<f32>(isa, shape, 1e-5);
        }
    }
    let _ = (DType::F32, Device::Cpu);
}

#[test]
#[ignore]
fn speed() {
    let isa = InstructionSet::get().unwrap();
    for (i, o, s) in [
        (32, 32, 512),
        (64, 32, 512),
        (64, 64, 256),
        (128, 128, 128),
        (256, 256, 64),
        (512, 512, 32),
        (32, 32, 128),
        (64, 64, 64),
        (128, 128, 32),
        (256, 256, 16),
        (512, 512, 8),
    ] {
        let size = Size { n: 1, h: s, w: s };
        let x = vec![Block([0.5f32; 16]); i / 16 * size.pixels()];
        let gy = vec![Block([0.25f32; 16]); o / 16 * size.pixels()];
        let mut y = vec![Block([0.5f32; 16]); o / 16 * size.pixels()];
        let mut gx = vec![Block([0.5f32; 16]); i / 16 * size.pixels()];
        let w = vec![0.1f32; o * i * 9];
        let mut gw = vec![0.1f32; o * i * 9];
        let b = vec![0.1f32; o];
        let affine = vec![[Block([0.5f32; 16]); 2]; i / 16];
        let source = Source {
            size,
            parts: vec![Part {
                maps: &x,
                channels: i,
                affine: Some(&affine),
            }],
        };
        let gsource = Source {
            size,
            parts: vec![Part {
                maps: &gy,
                channels: o,
                affine: None,
            }],
        };
        let filters = Filters {
            weights: &w,
            columns: i,
        };
        let flops = (2 * 9 * i * o * size.pixels()) as f64;
        let mut best = [1e9f64; 3];
        rayon::scope(|_| {
            for _ in 0..10 {
                let t = std::time::Instant::now();
                Conv {
                    source: &source,
                    filters,
                    way: Way::Forward,
                    outputs: &[o],
                    finish: Finish {
                        bias: Some(&b),
                        relu: true,
                        moments: true,
                    },
                }
                .run(isa, vec![&mut y]);
                best[0] = best[0].min(t.elapsed().as_secs_f64());
                let t = std::time::Instant::now();
                Conv {
                    source: &gsource,
                    filters,
                    way: Way::Backward,
                    outputs: &[i],
                    finish: Finish {
                        bias: None,
                        relu: false,
                        moments: false,
                    },
                }
                .run(isa, vec![&mut gx]);
                best[1] = best[1].min(t.elapsed().as_secs_f64());
                let t = std::time::Instant::now();
                weight_gradient(isa, &source, &gy, o, &mut gw);
                best[2] = best[2].min(t.elapsed().as_secs_f64());
            }
        });
        println!(
            "{i}->{o} @{s}: fwd {:.2} ms ({:.0} GF/s) gx {:.2} ({:.0}) gw {:.2} ({:.0})",
            best[0] * 1e3,
            flops / best[0] / 1e9,
            best[1] * 1e3,
            flops / best[1] / 1e9,
            best[2] * 1e3,
            flops / best[2] / 1e9
        );
    }
}
