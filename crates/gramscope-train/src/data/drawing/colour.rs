//! Colours: red, green and blue in 0..1.

use gramscope_nn::random::Sequence;

use super::uniform;

/// Red, green, blue.
pub(super) type Colour = [f32; 3];

/// A colour anywhere in the cube.
pub(super) fn random(numbers: &mut Sequence) -> Colour {
    [uniform(numbers, 0.0, 1.0), uniform(numbers, 0.0, 1.0), uniform(numbers, 0.0, 1.0)]
}

/// A colour of the kind that backgrounds have: neither bright nor vivid.
pub(super) fn muted(numbers: &mut Sequence) -> Colour {
    let grey = uniform(numbers, 0.15, 0.7);
    [(); 3].map(|()| grey + uniform(numbers, -0.15, 0.15))
}

/// A random colour at least `distance` away from `other`, which must be below 0.86, half the cube's diagonal, so
/// that there always is one.
pub(super) fn contrasting(other: Colour, distance: f32, numbers: &mut Sequence) -> Colour {
    loop {
        let colour = random(numbers);
        if squared_distance(colour, other) >= distance * distance {
            return colour;
        }
    }
}

fn squared_distance(a: Colour, b: Colour) -> f32 {
    a.iter().zip(b).map(|(a, b)| (a - b) * (a - b)).sum()
}

/// `from` where `share` is 0, `to` where it is 1.
pub(super) fn mix(from: Colour, to: Colour, share: f32) -> Colour {
    std::array::from_fn(|channel| from[channel] + (to[channel] - from[channel]) * share)
}

pub(super) fn scale(colour: Colour, factor: f32) -> Colour {
    colour.map(|channel| channel * factor)
}

pub(super) fn add(a: Colour, b: Colour) -> Colour {
    std::array::from_fn(|channel| a[channel] + b[channel])
}
