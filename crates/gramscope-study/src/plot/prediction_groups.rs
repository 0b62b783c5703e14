//! Where two groups of networks differ: image by image and class by class (figures 7 and 8 of Nguyen, Raghu and Kornblith,
//! 2021).

use std::ops::Range;

use plotters::style::FontTransform;
use plotters::style::text_anchor::{HPos, VPos};

use super::canvas::{Anchor, Canvas, INK, PAPER, QUIET, shorten};
use super::cells::Square;
use super::chart::{self, Panel, Series, round_range, round_ticks};
use super::colour::{self, Rgb};
use crate::predict::{ClassDifference, PredictResult, SIGNIFICANT};

const SIDE: usize = 400;
const MARGIN: usize = 28;
/// Room left of a panel's frame, above, below and beyond it.
const LEFT: usize = 84;
const TOP: usize = 74;
const BOTTOM: usize = 74;
const BAR: usize = 20;
/// A panel with its bar.
const COLUMN: usize = LEFT + SIDE + 100;
const TITLE: f64 = 19.0;
const TEXT: f64 = 15.0;
const LEVEL: FontTransform = FontTransform::None;
const UPWARDS: FontTransform = FontTransform::Rotate270;
/// The most cells along a side.
const MOST_CELLS: usize = 101;
const CHART: (usize, usize) = (960, 500);

/// Accuracies of the same images in two sets of runs.
struct Comparison<'a> {
    title: String,
    /// Across and up: what it is of, how many runs, and a value an image.
    sides: [(String, usize, &'a [f64]); 2],
}

/// Per image, the accuracy of one group against that of the other, and of one half of a group against the other half. None
/// where there is neither.
pub(super) fn examples(result: &PredictResult) -> Option<Canvas> {
    let info = &result.info;
    let group = |name: &str| {
        let place = info.groups.iter().position(|group| group.group == name)?;
        let values = &result.example_accuracy[place * info.images..][..info.images];
        Some((name.to_owned(), info.groups[place].n, values))
    };
    let between = info.between.as_ref().and_then(|between| {
        let title = format!("Two groups: {:.1} points apart on average", 100.0 * between.mean_absolute_difference);
        Some(Comparison { title, sides: [group(&between.a)?, group(&between.b)?] })
    });
    let halves = info.halves.as_ref().map(|halves| {
        let title = format!("Two halves of one: {:.1} points apart", 100.0 * halves.mean_absolute_difference);
        let (first, second) = result.half_accuracy.split_at(info.images);
        let side = |values| (halves.group.clone(), halves.first.len(), values);
        Comparison { title, sides: [side(first), side(second)] }
    });
    let panels: Vec<Comparison<'_>> = between.into_iter().chain(halves).collect();
    if panels.is_empty() {
        return None;
    }
    let mut canvas = Canvas::new(2 * MARGIN + panels.len() * COLUMN, TOP + SIDE + BOTTOM);
    for (index, panel) in panels.iter().enumerate() {
        let left = MARGIN + index * COLUMN;
        histogram(&mut canvas, panel, Square { left: left + LEFT, top: TOP, side: SIDE });
    }
    Some(canvas)
}

/// How many images have each pair of accuracies. With few seeds there are few different ones, so that dots would hide each
/// other: a cell is coloured by the logarithm of its count.
fn histogram(canvas: &mut Canvas, panel: &Comparison<'_>, square: Square) {
    let Square { left, top, side } = square;
    let [columns, rows] = [0, 1].map(|axis| (panel.sides[axis].1 + 1).min(MOST_CELLS));
    let mut counts = vec![0usize; columns * rows];
    for (x, y) in panel.sides[0].2.iter().zip(panel.sides[1].2) {
        let cell = |accuracy: f64, cells: usize| (accuracy * (cells - 1) as f64).round() as usize;
        counts[cell(*x, columns) * rows + cell(*y, rows)] += 1;
    }
    let most = counts.iter().copied().max().unwrap_or(0);
    let edge = |cell: usize, cells: usize| cell * side / cells;
    canvas.fill(left - 1, top - 1, side + 2, side + 2, QUIET);
    canvas.fill(left, top, side, side, PAPER);
    for column in 0..columns {
        for row in (0..rows).filter(|row| counts[column * rows + row] > 0) {
            let (from, to) = (edge(column, columns), edge(column + 1, columns));
            let (low, high) = (edge(row, rows), edge(row + 1, rows));
            let shade = of_count(counts[column * rows + row] as f64, most);
            canvas.fill(left + from, top + side - high, to - from, high - low, shade);
        }
    }
    for at in 0..side {
        canvas.fill(left + at, top + side - 1 - at, 2, 2, colour::BOUNDARY);
    }
    words(canvas, panel, square, [columns, rows]);
    count_bar(canvas, most, Square { left: left + side + 16, ..square });
}

/// The more, the darker.
fn of_count(count: f64, most: usize) -> Rgb {
    let share = if most > 1 { count.ln() / (most as f64).ln() } else { 0.0 };
    colour::similarity(0.88 - 0.8 * share)
}

fn words(canvas: &mut Canvas, panel: &Comparison<'_>, square: Square, cells: [usize; 2]) {
    let (left, top, side) = (square.left as f64, square.top as f64, square.side as f64);
    let corner = Anchor(HPos::Left, VPos::Bottom);
    canvas.text(&panel.title, (left, top - 22.0), TITLE, INK, corner, &LEVEL);
    for share in [0.0, 0.5, 1.0] {
        // At the centres of cells: the first is 0, the last 1.
        let [x, y] = cells.map(|cells| (0.5 + share * (cells - 1) as f64) / cells as f64 * side);
        let label = format!("{}%", 100.0 * share);
        canvas.text(&label, (left + x, top + side + 8.0), TEXT, QUIET, Anchor(HPos::Center, VPos::Top), &LEVEL);
        canvas.text(&label, (left - 8.0, top + side - y), TEXT, QUIET, Anchor(HPos::Right, VPos::Center), &LEVEL);
    }
    let seeds = |&(ref name, n, _): &(String, usize, &[f64])| match n {
        1 => format!("accuracy of 1 seed of {name}"),
        _ => format!("accuracy over {n} seeds of {name}"),
    };
    let [across, up] = [0, 1].map(|axis| shorten(&seeds(&panel.sides[axis]), TEXT, side));
    let middle = Anchor(HPos::Center, VPos::Bottom);
    canvas.text(&across, (left + side / 2.0, top + side + 58.0), TEXT, INK, middle, &LEVEL);
    canvas.text(&up, (left - 74.0, top + side / 2.0), TEXT, INK, Anchor(HPos::Center, VPos::Center), &UPWARDS);
}

/// The scale of counts.
fn count_bar(canvas: &mut Canvas, most: usize, Square { left, top, side }: Square) {
    for row in 0..side {
        let share = 1.0 - (row as f64 + 0.5) / side as f64;
        canvas.fill(left, top + row, BAR, 1, of_count((most as f64).powf(share), most));
    }
    let beside = (left + BAR + 6) as f64;
    for (count, y, vertical) in [(1, top + side, VPos::Bottom), (most, top, VPos::Top)] {
        canvas.text(&count.to_string(), (beside, y as f64), TEXT, INK, Anchor(HPos::Left, vertical), &LEVEL);
    }
    let place = (left as f64, top as f64 - 4.0);
    canvas.text("images", place, TEXT, QUIET, Anchor(HPos::Left, VPos::Bottom), &LEVEL);
}

/// Per class, the difference of the mean accuracies with its confidence interval; significant ones stand out. None without two
/// groups.
pub(super) fn classes(result: &PredictResult) -> Option<Canvas> {
    let between = result.info.between.as_ref()?;
    let kinds: [(Rgb, &str); 3] = [
        (colour::QUALITATIVE[1], "significant after Holm's correction"),
        (colour::QUALITATIVE[0], "not significant"),
        (colour::QUALITATIVE[6], "no test: nothing varies, or one seed"),
    ];
    let kind = |class: &ClassDifference| match class.p_adjusted {
        p if p < SIGNIFICANT => 0,
        p if p.is_nan() => 2,
        _ => 1,
    };
    let points = |class: &ClassDifference| 100.0 * (class.mean_a - class.mean_b);
    // Of few seeds an interval may reach beyond what two accuracies can differ by.
    let ends_of = |class: &ClassDifference| class.interval.map(|end| (100.0 * end).clamp(-100.0, 100.0));
    let ends = between.classes.iter().flat_map(ends_of);
    let y = round_range(ends.chain(between.classes.iter().map(points)).chain([0.0]));
    let x = -0.6..between.classes.len() as f64 - 0.4;
    let line = |colour, dashed, points| Series { colour, dashed, dots: false, joined: true, points };
    let mut series = vec![line(colour::QUALITATIVE[6], true, vec![(x.start, 0.0), (x.end, 0.0)])];
    for class in &between.classes {
        let (at, colour) = (class.class as f64, kinds[kind(class)].0);
        series.push(line(colour, false, ends_of(class).map(|end| (at, end)).to_vec()));
        let points = vec![(at, points(class))];
        series.push(Series { colour, dashed: false, dots: true, joined: false, points });
    }
    let used = |index: &usize| between.classes.iter().any(|class| kind(class) == *index);
    let panel = Panel {
        title: format!("Accuracy by class: {} minus {}, points, with 95% intervals", between.a, between.b),
        x_title: "class",
        x_ticks: class_ticks(&between.classes, &x),
        y_ticks: round_ticks(&y, 8).into_iter().map(|tick| (tick, format!("{}", (1e6 * tick).round() / 1e6))).collect(),
        x,
        y,
        series,
        legend: (0..kinds.len()).filter(used).map(|index| (kinds[index].0, kinds[index].1.to_owned())).collect(),
    };
    Some(chart::draw(&[panel], CHART.0, CHART.1))
}

/// The classes' names where all are known and there is room for all of them, their numbers otherwise.
fn class_ticks(classes: &[ClassDifference], x: &Range<f64>) -> Vec<(f64, String)> {
    let place = |class: &ClassDifference| class.class as f64;
    let named = classes.iter().map(|class| Some((place(class), class.name.clone()?))).collect::<Option<Vec<_>>>();
    named
        .filter(|ticks| chart::x_labels(ticks, x, CHART.0).count() == ticks.len())
        .unwrap_or_else(|| classes.iter().map(|class| (place(class), class.class.to_string())).collect())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::predict::tests::made;

    /// Classes of these names.
    fn named(names: &[Option<&str>]) -> Vec<ClassDifference> {
        let class = made("one").info.between.unwrap().classes.remove(0);
        let of = |(number, name): (usize, &Option<&str>)| ClassDifference {
            class: number,
            name: name.map(str::to_owned),
            ..class.clone()
        };
        names.iter().enumerate().map(of).collect()
    }

    #[test]
    fn classes_have_their_names_below_them_where_there_is_room() {
        let labels = |names: &[Option<&str>]| {
            let ticks = class_ticks(&named(names), &(-0.6..names.len() as f64 - 0.4));
            ticks.into_iter().map(|(_, label)| label).collect::<Vec<_>>()
        };
        let numbers = |count: usize| (0..count).map(|class| class.to_string()).collect::<Vec<_>>();
        assert_eq!(labels(&[Some("automobile"); 10]), ["automobile"; 10]);
        assert_eq!(labels(&[Some("automobile"), None]), numbers(2), "one has no name");
        assert_eq!(labels(&[Some("automobile"); 100]), numbers(100), "there are too many");
        assert_eq!(labels(&[Some("n02085620 Chihuahua"); 10]), numbers(10), "they are too long");
    }
}
