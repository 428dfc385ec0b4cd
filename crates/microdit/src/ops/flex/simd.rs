//! Plain loops over slices, compiled for the widest vectors the processor has.
//!
//! Nothing here names an instruction: the loops are written so that the compiler vectorizes them (independent lanes, no
//! branches), and [`simd`] picks the version of them for this processor at run time. Multiply-adds are fused: x86
//! processors without FMA (before 2013) compute them in software, correctly and slowly.

use super::number::Number;

/// Partial sums kept side by side; enough to fill the pipelines of 512-bit units.
const LANES: usize = 32;

/// Runs `body` compiled for AVX-512, AVX2 or NEON where the processor has it, else for the build's target.
///
/// Everything `body` calls must be inlined into it, or it runs without the wider vectors.
#[inline(always)]
pub(super) fn simd<R>(body: impl FnOnce() -> R) -> R {
    pulp::Arch::new().dispatch(body)
}

/// Sum of `f` over an array.
#[inline(always)]
pub(super) fn sum<N: Number>(x: &[N], f: impl Fn(f32) -> f32) -> f32 {
    fold(x, x, |sum, x, _| sum + f(x))
}

/// Sum of the products of two arrays of one length.
#[inline(always)]
pub(super) fn dot<A: Number, B: Number>(a: &[A], b: &[B]) -> f32 {
    fold(a, b, |sum, a, b| a.mul_add(b, sum))
}

/// Sum of what `f` makes of a partial sum and an element of each of two arrays of one length.
#[inline(always)]
pub(super) fn fold<A: Number, B: Number>(
    a: &[A],
    b: &[B],
    f: impl Fn(f32, f32, f32) -> f32,
) -> f32 {
    assert_eq!(a.len(), b.len());
    let mut lanes = [0f32; LANES];
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
    for (a, b) in a.iter().zip(b) {
        for i in 0..LANES {
            lanes[i] = f(lanes[i], a[i].wide(), b[i].wide());
        }
    }
    for (i, (&a, &b)) in a_rest.iter().zip(b_rest).enumerate() {
        lanes[i] = f(lanes[i], a.wide(), b.wide());
    }
    let mut width = LANES / 2;
    while width > 0 {
        for i in 0..width {
            lanes[i] += lanes[i + width];
        }
        width /= 2;
    }
    lanes[0]
}

/// Largest element; minus infinity if there is none.
#[inline(always)]
pub(super) fn max(x: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let (chunks, rest) = x.as_chunks::<LANES>();
    for chunk in chunks {
        for i in 0..LANES {
            lanes[i] = if chunk[i] > lanes[i] {
                chunk[i]
            } else {
                lanes[i]
            };
        }
    }
    let largest = |m: f32, &x: &f32| if x > m { x } else { m };
    let m = lanes.iter().fold(f32::NEG_INFINITY, largest);
    rest.iter().fold(m, largest)
}

/// `e^x` as `p * 2^n` with `p` around 1, for `x` within -87.34..=0.
#[inline(always)]
fn split_exp(x: f32) -> (f32, i32) {
    // Adding 1.5 * 2^23 rounds to the nearest integer and leaves it in the low bits.
    const SHIFT: f32 = 12_582_912.0;
    let shifted = x.mul_add(std::f32::consts::LOG2_E, SHIFT);
    let n = shifted - SHIFT;
    // ln 2 in two parts, the first exact when multiplied by n (Cody and Waite).
    let r = n.mul_add(2.121_944_4e-4, n.mul_add(-0.693_359_4, x));
    // Taylor's polynomial: |r| <= ln(2) / 2 leaves a remainder below 2^-26.
    let p = 1f32 / 5040.0;
    let p = p.mul_add(r, 1.0 / 720.0);
    let p = p.mul_add(r, 1.0 / 120.0);
    let p = p.mul_add(r, 1.0 / 24.0);
    let p = p.mul_add(r, 1.0 / 6.0);
    let p = p.mul_add(r, 0.5);
    let p = p.mul_add(r * r, r) + 1.0;
    (p, shifted.to_bits().wrapping_sub(SHIFT.to_bits()) as i32)
}

/// `2^n` for `n` in -126..=0.
#[inline(always)]
fn power_of_two(n: i32) -> f32 {
    f32::from_bits((n.wrapping_add(127) << 23) as u32)
}

/// `e^x` of a number that is not positive, within 2 units in the last place; `e^-87` of everything below -87.
#[inline(always)]
pub(super) fn exp_negative(x: f32) -> f32 {
    // Written so that NaN stays NaN.
    let (p, n) = split_exp(if x < -87.0 { -87.0 } else { x });
    p * power_of_two(n)
}

/// `1 / (1 + e^-x)` within 4 units in the last place; that of -87 for everything below.
#[inline(always)]
pub(super) fn sigmoid(x: f32) -> f32 {
    // The exponential of what is not positive is cheaper, and never infinite.
    let small = exp_negative(-x.abs());
    let top = if x < 0.0 { small } else { 1.0 };
    top / (1.0 + small)
}

/// Cumulative distribution `Phi` and density `phi` of the standard normal, the former within 3e-7 (Abramowitz and
/// Stegun, formula 7.1.26, whose exponential the density shares).
#[inline(always)]
pub(super) fn normal_distribution(x: f32) -> (f32, f32) {
    let z = x.abs() * std::f32::consts::FRAC_1_SQRT_2;
    let bell = exp_negative(-z * z);
    let t = 1.0 / (1.0 + 0.327_591_1 * z);
    let p = 1.061_405_4f32;
    let p = p.mul_add(t, -1.453_152);
    let p = p.mul_add(t, 1.421_413_7);
    let p = p.mul_add(t, -0.284_496_74);
    let p = p.mul_add(t, 0.254_829_6);
    let tail = 0.5 * p * t * bell; // 1 - Phi(|x|)
    let cumulative = if x > 0.0 { 1.0 - tail } else { tail };
    (cumulative, bell * 0.398_942_3)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn relative(found: f32, expected: f64) -> f64 {
        (f64::from(found) - expected).abs() / expected.abs().max(f64::from(f32::MIN_POSITIVE))
    }

    #[test]
    fn exponential_is_exact_to_two_ulp() {
        for i in 0..=870_000 {
            let x = -(i as f32) * 1e-4;
            let error = relative(exp_negative(x), f64::from(x).exp());
            assert!(error < 2.5e-7, "exp_negative({x}) is off by {error:e}");
        }
        assert!(exp_negative(f32::NEG_INFINITY) < 2e-38);
        assert!(exp_negative(f32::NAN).is_nan());
        assert_eq!(exp_negative(0.0), 1.0);
    }

    #[test]
    fn sigmoid_is_exact_to_four_ulp_on_both_sides() {
        for i in -860_000..=860_000 {
            let x = i as f32 * 1e-4;
            let expected = 1.0 / (1.0 + (-f64::from(x)).exp());
            let error = relative(sigmoid(x), expected);
            assert!(error < 4.8e-7, "sigmoid({x}) is off by {error:e}");
        }
        assert_eq!(sigmoid(f32::INFINITY), 1.0);
        assert!(
            [-1e3, f32::MIN, f32::NEG_INFINITY]
                .iter()
                .all(|&x| sigmoid(x) < 2e-38)
        );
        assert_eq!(sigmoid(f32::MAX), 1.0);
        assert!(sigmoid(f32::NAN).is_nan());
    }

    #[test]
    fn cumulative_normal_is_exact_to_3e_7() {
        // Simpson's rule over the density, which is exact to far more than f32.
        let density = |x: f64| (-0.5 * x * x).exp() / (2.0 * std::f64::consts::PI).sqrt();
        let (mut cumulative, step) = (0.5, 1e-3);
        for i in 0..6000 {
            let x = f64::from(i) * step;
            for (x, expected) in [(x, cumulative), (-x, 1.0 - cumulative)] {
                let (found, bell) = normal_distribution(x as f32);
                assert!((f64::from(found) - expected).abs() < 3e-7, "Phi({x})");
                assert!((f64::from(bell) - density(x)).abs() < 1e-7, "phi({x})");
            }
            let simpson = density(x) + 4.0 * density(x + step / 2.0) + density(x + step);
            cumulative += simpson * step / 6.0;
        }
    }

    #[test]
    fn sums_and_maxima_of_any_length() {
        for length in [0, 1, 31, 32, 33, 100] {
            let x: Vec<f32> = (0..length).map(|i| (i * 37 % 101) as f32).collect();
            assert_eq!(sum(&x, |x| x), x.iter().sum::<f32>());
            assert_eq!(max(&x), x.iter().copied().fold(f32::NEG_INFINITY, f32::max));
            let products: f32 = x.iter().map(|x| x * x).sum();
            assert_eq!(dot(&x, &x), products);
        }
    }
}
