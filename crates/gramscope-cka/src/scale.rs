//! Powers of two: exact scaling, so that no square of a large or small activation leaves the range of its format.

/// 2^`exponent`; 0 below the normal numbers, infinity above them.
pub(crate) fn power_of_two(exponent: i32) -> f64 {
    match exponent {
        ..=-1023 => 0.0,
        -1022..=1023 => f64::from_bits(((exponent + 1023) as u64) << 52),
        1024.. => f64::INFINITY,
    }
}

/// `value` times 2^`exponent`, rounded once; infinite or 0 only where the result is out of range.
pub(crate) fn ldexp(value: f64, exponent: i32) -> f64 {
    // Three steps cover the whole range twice over; the first two are exact unless the result is out of range anyway.
    let step = exponent.clamp(-2000, 2000) / 3;
    value * power_of_two(step) * power_of_two(step) * power_of_two(exponent.clamp(-2000, 2000) - 2 * step)
}

/// The e with 2^e <= |`value`| < 2^(e+1), for a finite `value` other than 0.
pub(crate) fn exponent_of(value: f64) -> i32 {
    debug_assert!(value.is_finite() && value != 0.0);
    let exponent = |value: f64| ((value.to_bits() >> 52) & 0x7FF) as i32 - 1023;
    if value.abs() < f64::MIN_POSITIVE { exponent(value * power_of_two(64)) - 64 } else { exponent(value) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn powers_of_two_are_exact_over_the_whole_range() {
        for exponent in -1022..=1023 {
            assert_eq!(power_of_two(exponent), 2f64.powi(exponent));
            assert_eq!(exponent_of(power_of_two(exponent)), exponent);
            assert_eq!(exponent_of(-1.75 * power_of_two(exponent)), exponent);
        }
        assert_eq!(exponent_of(f64::from_bits(1)), -1074);
        assert_eq!(power_of_two(-5000), 0.0);
        assert_eq!(power_of_two(5000), f64::INFINITY);
    }

    #[test]
    fn ldexp_goes_out_of_range_only_where_the_result_does() {
        assert_eq!(ldexp(3.0, 5), 96.0);
        assert_eq!(ldexp(power_of_two(-1000), 2000), power_of_two(1000));
        assert_eq!(ldexp(power_of_two(1000), -2000), power_of_two(-1000));
        assert_eq!(ldexp(1.5, -1074 + 1), f64::from_bits(3));
        assert_eq!(ldexp(1.5, 1024), f64::INFINITY);
        assert_eq!(ldexp(1.5, -9000), 0.0);
        assert_eq!(ldexp(0.0, 9000), 0.0);
    }
}
