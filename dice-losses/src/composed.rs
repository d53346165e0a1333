//! The sums made of plain Candle operations: what the fused pass is tested against, and what other backends use.

use candle_core::{Result, Tensor};

use crate::{
    field::{Field, block_sum},
    prediction::{Activation, Prediction},
    stats::{Modulation, RegionStats},
    sums::{PixelSums, PixelTerm, Request, Sums},
    target::{Target, Truth},
};

pub(crate) fn sums(prediction: &Prediction, target: &Target, request: &Request) -> Result<Sums> {
    let truth = target.truth(prediction)?;
    let field = Field::new(prediction, &truth)?;
    let mut sums = Sums::new(prediction, target)?;
    for modulation in &request.modulations {
        let stats = region(&field, &truth, *modulation, prediction.activation())?;
        sums.regions.push((*modulation, stats));
    }
    for term in &request.pixel_terms {
        let pixels = pixel(&field, &truth, term, prediction.activation())?;
        sums.pixels.push((term.clone(), pixels));
    }
    Ok(sums)
}

fn region(
    field: &Field,
    truth: &Truth,
    modulation: Modulation,
    activation: Activation,
) -> Result<RegionStats> {
    let (p, y) = (field.p()?, &truth.y);
    let q = field.complement().p()?;
    let not_y = y.affine(-1.0, 1.0)?;
    let power = match modulation {
        Modulation::SquaredDifference if truth.hard => Modulation::Power(2.0),
        modulation => modulation,
    };
    // For hard labels (p (1 − y))^γ = p^γ (1 − y); for soft ones the power takes the label too, as Eq. 9 has it.
    let (fp, fn_) = match power {
        Modulation::Plain => ((&p * &not_y)?, (&q * y)?),
        Modulation::Power(gamma) => (
            (field.p_power(gamma)? * not_y.powf(gamma)?)?,
            (field.complement().p_power(gamma)? * y.powf(gamma)?)?,
        ),
        Modulation::SquaredDifference => {
            // p − y as p (1 − y) − (1 − p) y, in which nothing cancels where y is 0 or 1.
            let difference = ((&p * &not_y)? - (&q * y)?)?;
            (difference.relu()?.sqr()?, difference.neg()?.relu()?.sqr()?)
        }
    };
    let sum = |x: Tensor| block_sum(&truth.counted(x)?);
    Ok(RegionStats {
        tp: sum((&p * y)?)?,
        fp: sum(fp)?,
        fn_: sum(fn_)?,
        volume: sum(y.clone())?,
        pixels: sum(y.ones_like()?)?,
        predicted: sum(p)?,
        activation,
        modulation,
    })
}

fn pixel(
    field: &Field,
    truth: &Truth,
    term: &PixelTerm,
    activation: Activation,
) -> Result<PixelSums> {
    let y = &truth.y;
    let of_class = side(field, truth, y, &term.focus, term.log_power)?;
    let of_others = match activation {
        Activation::Softmax => of_class.zeros_like()?,
        Activation::Sigmoid => side(
            &field.complement(),
            truth,
            &y.affine(-1.0, 1.0)?,
            &term.other_focus,
            term.log_power,
        )?,
    };
    let pixels = block_sum(&truth.counted(y.ones_like()?)?)?;
    Ok(PixelSums {
        of_class,
        of_others,
        pixels,
    })
}

/// `Σ_i y q^f (−ln p)^k` of every class and item, `[N, C]`.
fn side(field: &Field, truth: &Truth, y: &Tensor, focus: &[f64], log_power: f64) -> Result<Tensor> {
    let minus_log_p = field.minus_log_p_power(log_power)?;
    let loss = if focus.iter().all(|f| *f == 0.0) {
        minus_log_p
    } else if focus.windows(2).all(|pair| pair[0] == pair[1]) {
        (field.complement().p_power(focus[0])? * minus_log_p)?
    } else {
        // Classes are few; a power of its own for each keeps f = 0 exact.
        let columns: Result<Vec<Tensor>> = focus
            .iter()
            .enumerate()
            .map(|(c, f)| {
                let minus_log_p = minus_log_p.narrow(1, c, 1)?;
                if *f == 0.0 {
                    Ok(minus_log_p)
                } else {
                    field.complement().p_power(*f)?.narrow(1, c, 1)? * minus_log_p
                }
            })
            .collect();
        Tensor::cat(&columns?, 1)?
    };
    block_sum(&truth.counted((loss * y)?)?)
}
