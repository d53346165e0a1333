//! quick
use candle_core::{DType, Device, Tensor, Var};
use dice_losses::*;
use std::time::Instant;
fn main() {
    let args: Vec<String> = std::env::args().collect();
    let shape: Vec<usize> = args[1].split('x').map(|x| x.parse().unwrap()).collect();
    let n: usize = args[2].parse().unwrap();
    let len: usize = shape.iter().product();
    let c = shape[1];
    let s: usize = shape[2..].iter().product();
    let z: Vec<f32> = (0..len).map(|i| ((i as f64 * 0.754877 + (i / 7) as f64 * 1.3).sin() * 3.0) as f32).collect();
    let z = Tensor::from_vec(z, shape.as_slice(), &Device::Cpu).unwrap();
    let k = c.max(2);
    let l: Vec<u8> = (0..shape[0] * s).map(|i| ((i / 97 + i / 1031) % k) as u8).collect();
    let mut ls = shape.clone(); ls.remove(1);
    let l = Tensor::from_vec(l, ls.as_slice(), &Device::Cpu).unwrap();
    let (p, t) = (Prediction::logits(&z), Target::labels(&l));
    let oh: Vec<Tensor> = (0..c).map(|i| l.eq(if c == 1 { 1u8 } else { i as u8 }).unwrap().to_dtype(DType::F32).unwrap()).collect();
    let oh = Target::dense(&Tensor::stack(&oh, 1).unwrap().contiguous().unwrap());
    let time = |name: &str, f: &mut dyn FnMut()| {
        let mut ts: Vec<f64> = (0..n + 3).map(|_| { let t = Instant::now(); f(); t.elapsed().as_secs_f64() * 1e3 }).collect();
        ts.drain(..3); ts.sort_by(f64::total_cmp);
        println!("{name:30} min {:.3} med {:.3} ms", ts[0], ts[n / 2]);
    };
    let loss = |s: &str| s.parse::<LossSpec>().unwrap().build();
    for spec in args[3..].iter() {
        let lo = loss(spec);
        time(&format!("{spec} forward"), &mut || { lo.loss(&p, &t).unwrap(); });
        time(&format!("{spec} v&g labels"), &mut || { lo.value_and_grad(&p, &t).unwrap(); });
        time(&format!("{spec} v&g onehot"), &mut || { lo.value_and_grad(&p, &oh).unwrap(); });
        let v = Var::from_tensor(&z).unwrap();
        let pv = Prediction::logits(v.as_tensor());
        time(&format!("{spec} backward"), &mut || { lo.loss(&pv, &t).unwrap().backward().unwrap(); });
    }
    let src = vec![1f32; len * 3 / 2]; let mut dst = vec![0f32; len * 3 / 2];
    time("copy 1.5 len (1 thread)", &mut || { dst.copy_from_slice(&src); std::hint::black_box(&dst); });
}
