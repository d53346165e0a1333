//! Convolution of odd kernel, stride 1, "same" zero padding, with bias; of one image, of two that are joined along the
//! channels, and with a `ReLU` behind it.
//!
//! Candle's own is right but slow: its forward gathers single floats, and its gradients convolve with kernels as large
//! as the image. On the CPU a 3 × 3 kernel goes through [`crate::kernels`], any other through products with the
//! unfolded image. The former works in tiles: what a NaN or an infinity touches of a tile may make NaN of all of it.

mod blocked;
mod one;
mod three;
mod two;
mod unfold;
mod unfolded;

use candle_core::{CustomOp3, Error, Result, Tensor};

use self::{
    one::OfOne,
    two::{OfTwo, weight_and_bias},
    unfolded::Unfolded,
};
use super::{norm::relu_reference, storage::fused};

/// y = x ∗ w + b of the same height and width: `x` is `[N, I, H, W]`, `w` `[O, I, k, k]` with k odd, `b` `[O]`.
///
/// A cross-correlation, as in every deep-learning library, with zeros outside the image.
///
/// ```
/// use candle_core::{Device::Cpu, Tensor};
/// let x = Tensor::ones((1, 1, 3, 3), candle_core::DType::F32, &Cpu)?;
/// let w = Tensor::ones((1, 1, 3, 3), candle_core::DType::F32, &Cpu)?;
/// let b = Tensor::new(&[10f32], &Cpu)?;
/// let y = seg_unet::ops::conv2d_same(&x, &w, &b)?.flatten_all()?.to_vec1::<f32>()?;
/// assert_eq!(y, [14., 16., 14., 16., 19., 16., 14., 16., 14.]);
/// # Ok::<(), candle_core::Error>(())
/// ```
///
/// # Errors
/// If the shapes do not fit each other or the kernel is not odd and square.
pub fn conv2d_same(x: &Tensor, w: &Tensor, b: &Tensor) -> Result<Tensor> {
    match check("conv2d_same", &[x], w, b)? {
        3 if fused(x) => apply(x, w, b, OfOne { relu: false }),
        _ if fused(x) => apply(x, w, b, Unfolded),
        _ => conv2d_same_reference(x, w, b),
    }
}

/// [`conv2d_same`] by Candle's own operations.
///
/// # Errors
/// As [`conv2d_same`].
pub fn conv2d_same_reference(x: &Tensor, w: &Tensor, b: &Tensor) -> Result<Tensor> {
    let k = check("conv2d_same", &[x], w, b)?;
    // Candle has computed wrong gradients for strided kernels before.
    x.conv2d(&w.contiguous()?, k / 2, 1, 1, 1)?
        .broadcast_add(&b.reshape((1, (), 1, 1))?)
}

/// `relu(conv2d_same(x, w, b))`; the `ReLU`'s gradient at 0 is 0, and NaN stays NaN.
///
/// ```
/// use candle_core::{Device::Cpu, Tensor};
/// let x = Tensor::new(&[[[[1f32, 2.], [3., 4.]]]], &Cpu)?;
/// let w = Tensor::ones((1, 1, 3, 3), candle_core::DType::F32, &Cpu)?.neg()?;
/// let y = |b: f32| seg_unet::ops::conv2d_same_relu(&x, &w, &Tensor::new(&[b], &Cpu)?)?.flatten_all()?.to_vec1::<f32>();
/// assert_eq!(y(11.)?, [1.; 4]);
/// assert_eq!(y(9.)?, [0.; 4]);
/// # Ok::<(), candle_core::Error>(())
/// ```
///
/// # Errors
/// As [`conv2d_same`].
pub fn conv2d_same_relu(x: &Tensor, w: &Tensor, b: &Tensor) -> Result<Tensor> {
    match check("conv2d_same_relu", &[x], w, b)? {
        3 if fused(x) => apply(x, w, b, OfOne { relu: true }),
        _ => relu_reference(&conv2d_same(x, w, b)?),
    }
}

/// [`conv2d_same_relu`] by Candle's own operations.
///
/// # Errors
/// As [`conv2d_same_relu`].
pub fn conv2d_same_relu_reference(x: &Tensor, w: &Tensor, b: &Tensor) -> Result<Tensor> {
    check("conv2d_same_relu", &[x], w, b)?;
    relu_reference(&conv2d_same_reference(x, w, b)?)
}

/// `conv2d_same` of `x1` and `x2` joined along the channels; with a 3 × 3 kernel, without a copy that joins them.
///
/// ```
/// use candle_core::{Device::Cpu, Tensor};
/// let (x1, x2) = (Tensor::new(&[[[[1f32]]]], &Cpu)?, Tensor::new(&[[[[2f32]], [[3.]]]], &Cpu)?);
/// let w = Tensor::ones((1, 3, 3, 3), candle_core::DType::F32, &Cpu)?;
/// let y = seg_unet::ops::conv2d_same_joined(&x1, &x2, &w, &Tensor::new(&[10f32], &Cpu)?)?;
/// assert_eq!(y.flatten_all()?.to_vec1::<f32>()?, [16.]);
/// # Ok::<(), candle_core::Error>(())
/// ```
///
/// # Errors
/// If the shapes do not fit each other or the kernel is not odd and square.
pub fn conv2d_same_joined(x1: &Tensor, x2: &Tensor, w: &Tensor, b: &Tensor) -> Result<Tensor> {
    match check("conv2d_same_joined", &[x1, x2], w, b)? {
        3 if fused(x1) => apply(x1, x2, &weight_and_bias(w, b)?, OfTwo),
        _ => conv2d_same(&Tensor::cat(&[x1, x2], 1)?, w, b),
    }
}

/// [`conv2d_same_joined`] by Candle's own operations.
///
/// # Errors
/// As [`conv2d_same_joined`].
pub fn conv2d_same_joined_reference(
    x1: &Tensor,
    x2: &Tensor,
    w: &Tensor,
    b: &Tensor,
) -> Result<Tensor> {
    check("conv2d_same_joined", &[x1, x2], w, b)?;
    conv2d_same_reference(&Tensor::cat(&[x1, x2], 1)?, w, b)
}

fn apply(
    t1: &Tensor,
    t2: &Tensor,
    t3: &Tensor,
    op: impl CustomOp3 + 'static + Send + Sync,
) -> Result<Tensor> {
    t1.contiguous()?
        .apply_op3(&t2.contiguous()?, &t3.contiguous()?, op)
}

/// The kernel's size, if all shapes fit.
fn check(operation: &str, images: &[&Tensor], w: &Tensor, b: &Tensor) -> Result<usize> {
    let fits = match (w.dims(), b.dims()) {
        ([outputs, inputs, kh, kw], [biases]) => {
            outputs == biases && kh == kw && kh % 2 == 1 && channels(images) == Some(*inputs)
        }
        _ => false,
    };
    // Nothing can be cut into pieces of length 0.
    if fits && images.iter().all(|x| x.elem_count() > 0) && w.elem_count() > 0 {
        return w.dim(3);
    }
    let (found, expected) = match images {
        [x1, x2] => (
            format!("images {:?} and {:?}", x1.dims(), x2.dims()),
            "[N, I₁, H, W], [N, I₂, H, W], [O, I₁ + I₂, k, k]",
        ),
        _ => (
            format!("image {:?}", images[0].dims()),
            "[N, I, H, W], [O, I, k, k]",
        ),
    };
    Err(Error::Msg(format!(
        "{operation}: {found}, kernel {:?} and bias {:?} do not fit; \
         expected {expected} with k odd, and [O], no size 0",
        w.dims(),
        b.dims()
    )))
}

/// The channels of all images together, if they are images of one size.
fn channels(images: &[&Tensor]) -> Option<usize> {
    let dims: Vec<_> = images
        .iter()
        .map(|x| x.dims4().ok())
        .collect::<Option<_>>()?;
    let same = |&(n, _, h, w): &_| (n, h, w) == (dims[0].0, dims[0].2, dims[0].3);
    dims.iter()
        .all(same)
        .then(|| dims.iter().map(|&(_, c, _, _)| c).sum())
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device::Cpu, Var};

    use super::{unfold::STRIP, *};
    use crate::ops::testing::{assert_agree, assert_gradients, random};

    const ROUNDING: f64 = 1e-13;

    type OfOneImage = fn(&Tensor, &Tensor, &Tensor) -> Result<Tensor>;

    fn of_one(n: usize, i: usize, o: usize, h: usize, w: usize, k: usize) -> [Tensor; 3] {
        [
            random(&[n, i, h, w], 1),
            random(&[o, i, k, k], 2),
            random(&[o], 3),
        ]
    }

    fn of_two(n: usize, i: [usize; 2], o: usize, h: usize, w: usize, k: usize) -> [Tensor; 4] {
        [
            random(&[n, i[0], h, w], 1),
            random(&[n, i[1], h, w], 4),
            random(&[o, i[0] + i[1], k, k], 2),
            random(&[o], 3),
        ]
    }

    fn conv(t: &[Tensor]) -> Result<Tensor> {
        conv2d_same(&t[0], &t[1], &t[2])
    }

    fn reference(t: &[Tensor]) -> Result<Tensor> {
        conv2d_same_reference(&t[0], &t[1], &t[2])
    }

    fn relu(t: &[Tensor]) -> Result<Tensor> {
        conv2d_same_relu(&t[0], &t[1], &t[2])
    }

    fn joined(t: &[Tensor]) -> Result<Tensor> {
        conv2d_same_joined(&t[0], &t[1], &t[2], &t[3])
    }

    #[test]
    fn value_and_gradients_are_those_of_the_reference_at_any_size() {
        for (n, i, o, h, w, k) in [
            (1, 1, 1, 1, 1, 3),
            (2, 3, 4, 5, 7, 3),
            (1, 2, 3, 1, 9, 3),
            (3, 2, 2, 8, 1, 3),
            (1, 20, 17, 6, 5, 3),
            (1, 5, 2, 6, 6, 1),
            (1, 2, 2, 4, 5, 5),
        ] {
            let inputs = of_one(n, i, o, h, w, k);
            assert_agree(&inputs, conv, reference, ROUNDING);
            assert_agree(
                &inputs,
                relu,
                |t| conv2d_same_relu_reference(&t[0], &t[1], &t[2]),
                ROUNDING,
            );
            assert_agree(
                &of_two(n, [i, o], o, h, w, k),
                joined,
                |t| conv2d_same_joined_reference(&t[0], &t[1], &t[2], &t[3]),
                ROUNDING,
            );
        }
    }

    #[test]
    fn an_image_of_several_strips_agrees_with_the_reference() {
        let (channels, height, width, k) = (24, 96, 40, 5);
        assert!(channels * k * k * height * (width + k / 2) > STRIP); // more than one strip
        let inputs = of_one(2, channels, 3, height, width, k);
        assert_agree(&inputs, conv, reference, 1e-11);
        let inputs = inputs.map(|t| t.to_dtype(DType::F32).unwrap());
        assert_agree(&inputs, conv, reference, 1e-5);
    }

    #[test]
    fn gradients_are_central_differences() {
        for k in [3, 5] {
            assert_gradients(&of_one(2, 2, 3, 3, 4, k), conv, 1e-7);
            assert_gradients(&of_one(2, 2, 3, 3, 4, k), relu, 1e-7);
            assert_gradients(&of_two(2, [2, 1], 3, 3, 4, k), joined, 1e-7);
        }
    }

    #[test]
    fn a_strided_image_and_a_strided_kernel_are_read_rightly() {
        let inputs = [
            random(&[4, 5, 2, 3], 1),
            random(&[3, 3, 3, 2], 2),
            random(&[2], 3),
        ];
        let turned = |t: &[Tensor]| {
            Ok::<_, Error>((t[0].permute((2, 3, 0, 1))?, t[1].permute((3, 0, 1, 2))?))
        };
        let by_reference =
            |t: &[Tensor]| turned(t).and_then(|(x, w)| conv2d_same_reference(&x, &w, &t[2]));
        assert_agree(
            &inputs,
            |t| turned(t).and_then(|(x, w)| conv2d_same(&x, &w, &t[2])),
            by_reference,
            ROUNDING,
        );
        let in_two = |x: &Tensor| Ok::<_, Error>((x.narrow(1, 0, 1)?, x.narrow(1, 1, 2)?));
        assert_agree(
            &inputs,
            |t| {
                let (x, w) = turned(t)?;
                let (x1, x2) = in_two(&x)?;
                conv2d_same_joined(&x1, &x2, &w, &t[2])
            },
            by_reference,
            ROUNDING,
        );
    }

    #[test]
    fn an_image_that_needs_no_gradient_leaves_the_others_unchanged() {
        let var = |t: &Tensor| Var::from_tensor(t).unwrap();
        let gradients = |y: Result<Tensor>| y?.sqr()?.sum_all()?.backward();
        let assert_near = |a: &Tensor, b: &Tensor| {
            let difference = (a - b).unwrap().abs().unwrap();
            let most: f64 = difference.max_all().unwrap().to_scalar().unwrap();
            assert!(most < 1e-12, "{most}");
        };
        for (channels, k) in [(3, 3), (20, 3), (3, 5)] {
            let [x, w, b] = of_one(2, channels, 4, 6, 5, k);
            let (vx, vw, vb) = (var(&x), var(&w), var(&b));
            let without = gradients(conv2d_same(&x, &vw, &vb)).unwrap();
            let with = gradients(conv2d_same(&vx, &vw, &vb)).unwrap();
            assert!(without.get(&x).is_none());
            for v in [&vw, &vb] {
                assert_near(without.get(v).unwrap(), with.get(v).unwrap());
            }
        }
        let [x1, x2, w, b] = of_two(2, [3, 2], 4, 6, 5, 3);
        let (v1, v2, vw, vb) = (var(&x1), var(&x2), var(&w), var(&b));
        let both = gradients(conv2d_same_joined(&v1, &v2, &vw, &vb)).unwrap();
        let first = gradients(conv2d_same_joined(&v1, &x2, &vw, &vb)).unwrap();
        let second = gradients(conv2d_same_joined(&x1, &v2, &vw, &vb)).unwrap();
        let none = gradients(conv2d_same_joined(&x1, &x2, &vw, &vb)).unwrap();
        for (gradients, wanted, unwanted) in [
            (&first, vec![&v1, &vw, &vb], vec![&x2]),
            (&second, vec![&v2, &vw, &vb], vec![&x1]),
            (&none, vec![&vw, &vb], vec![&x1, &x2]),
        ] {
            for v in wanted {
                assert_near(gradients.get(v).unwrap(), both.get(v).unwrap());
            }
            assert!(unwanted.iter().all(|x| gradients.get(x).is_none()));
        }
    }

    #[test]
    fn relu_has_gradient_zero_at_zero_and_keeps_nan() {
        for k in [1, 3] {
            // Only the kernel's middle is not 0, and three channels of the result are −1, 0 and 1 there.
            let middle = Tensor::new(&[-1.0_f64, 0.0, 1.0], &Cpu).unwrap();
            let w = middle.reshape((3, 1, 1, 1)).unwrap();
            let w = w.pad_with_zeros(2, k / 2, k / 2).unwrap();
            let w = w.pad_with_zeros(3, k / 2, k / 2).unwrap();
            let b = Tensor::zeros(3, DType::F64, &Cpu).unwrap();
            let of = |x: f64, f: OfOneImage| {
                let x = Tensor::new(&[[[[x]]]], &Cpu).unwrap();
                let b = Var::from_tensor(&b).unwrap();
                let y = f(&x, &w, &b).unwrap();
                let gradients = y.sum_all().unwrap().backward().unwrap();
                let values = |t: &Tensor| t.flatten_all().unwrap().to_vec1::<f64>().unwrap();
                (values(&y), values(gradients.get(&b).unwrap()))
            };
            for f in [conv2d_same_relu, conv2d_same_relu_reference] {
                assert_eq!(of(1.0, f), (vec![0., 0., 1.], vec![0., 0., 1.]));
                assert!(of(f64::NAN, f).0.iter().all(|y| y.is_nan()));
            }
        }
    }

    #[test]
    fn what_is_not_finite_shows_wherever_the_reference_shows_it() {
        for (channels, k, dtype) in [
            (2, 3, DType::F32),
            (20, 3, DType::F32),
            (20, 3, DType::F64),
            (2, 5, DType::F32),
        ] {
            let [x, w, b] = of_one(1, channels, 18, 19, 23, k).map(|t| t.to_dtype(dtype).unwrap());
            let at = |place: usize| {
                let elements = (0..x.elem_count()).map(|i| u8::from(i == place)).collect();
                Tensor::from_vec(elements, x.shape(), &Cpu).unwrap()
            };
            let finite = |y: Result<Tensor>| -> Vec<bool> {
                let y = y.unwrap().to_dtype(DType::F64).unwrap();
                let y: Vec<f64> = y.flatten_all().unwrap().to_vec1().unwrap();
                y.iter().map(|y| y.is_finite()).collect()
            };
            for (place, value) in [(0, f64::NAN), (500, f64::NAN), (500, f64::INFINITY)] {
                let everywhere = Tensor::full(value, x.shape(), &Cpu).unwrap();
                let everywhere = everywhere.to_dtype(dtype).unwrap();
                let x = at(place).where_cond(&everywhere, &x).unwrap();
                let expected = finite(conv2d_same_reference(&x, &w, &b));
                assert!(expected.contains(&true) && expected.contains(&false));
                let found = finite(conv2d_same(&x, &w, &b));
                assert!(found.contains(&true));
                assert!(
                    found
                        .iter()
                        .zip(&expected)
                        .all(|(&found, &expected)| expected || !found)
                );
                if value.is_nan() {
                    assert_eq!(finite(conv2d_same_relu(&x, &w, &b)), found);
                }
            }
        }
    }

    #[test]
    fn shapes_that_do_not_fit_are_named() {
        let t = |dims: &[usize]| Tensor::zeros(dims, DType::F32, &Cpu).unwrap();
        let (image, bias) = (t(&[1, 3, 8, 8]), t(&[4]));
        let operations: [(&str, [OfOneImage; 2]); 2] = [
            ("conv2d_same", [conv2d_same, conv2d_same_reference]),
            (
                "conv2d_same_relu",
                [conv2d_same_relu, conv2d_same_relu_reference],
            ),
        ];
        for kernel in [[4, 2, 3, 3], [4, 3, 2, 2], [5, 3, 3, 3]] {
            for (name, operations) in operations {
                for operation in operations {
                    assert_eq!(
                        operation(&image, &t(&kernel), &bias)
                            .unwrap_err()
                            .to_string(),
                        format!(
                            "{name}: image [1, 3, 8, 8], kernel {kernel:?} and bias [4] do not fit; \
                             expected [N, I, H, W], [O, I, k, k] with k odd, and [O], no size 0"
                        )
                    );
                }
            }
        }
        for (second, kernel) in [
            ([1, 2, 8, 8], [4, 3, 3, 3]),
            ([1, 2, 8, 7], [4, 5, 3, 3]),
            ([2, 2, 8, 8], [4, 5, 3, 3]),
            ([1, 0, 8, 8], [4, 3, 3, 3]),
            ([1, 2, 8, 8], [4, 5, 3, 1]),
        ] {
            for joined in [conv2d_same_joined, conv2d_same_joined_reference] {
                assert_eq!(
                    joined(&image, &t(&second), &t(&kernel), &bias)
                        .unwrap_err()
                        .to_string(),
                    format!(
                        "conv2d_same_joined: images [1, 3, 8, 8] and {second:?}, kernel {kernel:?} and bias [4] \
                         do not fit; expected [N, I₁, H, W], [N, I₂, H, W], [O, I₁ + I₂, k, k] with k odd, \
                         and [O], no size 0"
                    )
                );
            }
        }
    }
}
