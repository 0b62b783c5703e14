//! The page itself: a template, a style and a script of ours, plotly.js, and the data as JSON with packed matrices.

use std::path::Path;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use gramscope_nn::Backend;
use gramscope_train::EpochMetrics;
use serde::Serialize;

use super::figures::{Figure, SECTIONS, Section};
use super::{Placed, findings};
use crate::blocks::{self, Blocks};
use crate::family::{Member, Relation, relation};
use crate::pair::PairResult;
use crate::plot::colour::{self, Rgb};
use crate::plot::layers;
use crate::{Error, Result};

const TEMPLATE: &str = include_str!("../../assets/report/page.html");
const STYLE: &str = include_str!("../../assets/report/style.css");
const SCRIPT: &str = include_str!("../../assets/report/script.js");

/// The code that stands for NaN in a packed matrix.
const UNDEFINED: u16 = u16::MAX;

/// What the script is given.
#[derive(Serialize)]
struct Data<'a> {
    findings: Vec<String>,
    runs: Vec<RunData<'a>>,
    maps: Vec<MapData<'a>>,
    sections: Vec<SectionData<'a>>,
    /// The colours of 0 to 1.
    colours: Vec<(f64, Rgb)>,
    undefined_colour: Rgb,
    boundary_colour: Rgb,
    block_colour: Rgb,
    /// Colours of lines.
    palette: [Rgb; 8],
}

#[derive(Serialize)]
struct RunData<'a> {
    name: &'a str,
    /// Its directory, below that of the page.
    place: String,
    data: &'a str,
    architecture: String,
    variant: &'a str,
    depth: usize,
    width: f64,
    residual: bool,
    /// As text: a script's numbers end at 2^53.
    seed: String,
    fraction: f64,
    backend: Backend,
    epochs: &'a [EpochMetrics],
}

#[derive(Serialize)]
struct MapData<'a> {
    /// The section it stands in.
    kind: &'static str,
    model_x: &'a str,
    model_y: &'a str,
    layers_x: &'a [String],
    layers_y: &'a [String],
    /// First layer, number of layers and name of every stage.
    stages_x: Vec<(usize, usize, String)>,
    stages_y: Vec<(usize, usize, String)>,
    estimator: &'a str,
    kernel: &'a str,
    batches: usize,
    batch_size: usize,
    /// What is unusual of its examples, in words.
    variations: Vec<String>,
    /// What ran the networks.
    backend: Backend,
    undefined: usize,
    /// Its block structure, of a map within a network that is large enough for one.
    blocks: Option<Blocks>,
    /// Its directory, below that of the page.
    place: String,
    /// Base64 of little-endian 16-bit codes, row-major: value -1 + code / 32767, [`UNDEFINED`] for NaN.
    cka: String,
}

/// Pictures of one kind.
#[derive(Serialize)]
struct SectionData<'a> {
    title: &'static str,
    text: &'static str,
    figures: Vec<FigureData<'a>>,
}

#[derive(Serialize)]
struct FigureData<'a> {
    title: &'a str,
    /// What can be said of the picture in words.
    summary: &'a str,
    /// What it was made to find out.
    findings: &'a [String],
    /// Its directory, below that of the page.
    place: String,
    /// Base64 of a PNG file.
    picture: String,
}

/// The page about these runs and results, found below `dir`.
pub(super) fn page(
    members: &[Member],
    results: &[Placed<PairResult>],
    figures: &[Figure],
    dir: &Path,
) -> Result<String> {
    let data = Data {
        findings: findings(members, results.iter().map(|placed| &placed.result)),
        runs: members.iter().map(|member| run_data(member, dir)).collect(),
        maps: results.iter().map(|placed| map_data(placed, members, dir)).collect(),
        sections: sections(figures, dir),
        colours: colour::control_points().collect(),
        undefined_colour: colour::UNDEFINED,
        boundary_colour: colour::BOUNDARY,
        block_colour: colour::BLOCK,
        palette: colour::QUALITATIVE,
    };
    let json = serde_json::to_string(&data).map_err(|reason| Error::incomparable(format!("report data: {reason}")))?;
    // Within a script element, "</" could end it and "<!--" could hide its end.
    let json = json.replace('<', "\\u003c");
    let parts = [("{{style}}", STYLE), ("{{data}}", &json), ("{{plotly}}", plotly()), ("{{script}}", SCRIPT)];
    Ok(fill(TEMPLATE, &parts))
}

/// `template` with every mark replaced; what is put in is not searched for marks.
fn fill(template: &str, parts: &[(&str, &str)]) -> String {
    let mut page = String::new();
    let mut rest = template;
    while let Some((start, mark, text)) =
        parts.iter().filter_map(|(mark, text)| Some((rest.find(mark)?, *mark, *text))).min_by_key(|(start, ..)| *start)
    {
        page.push_str(&rest[..start]);
        page.push_str(text);
        rest = &rest[start + mark.len()..];
    }
    page + rest
}

/// The source of plotly.js: the first of the two scripts that the crate embeds (the other draws formulas).
fn plotly() -> &'static str {
    static SOURCES: std::sync::OnceLock<String> = std::sync::OnceLock::new();
    let sources = SOURCES.get_or_init(plotly::Plot::offline_js_sources);
    let start = sources.find('>').map_or(0, |end| end + 1);
    let end = sources.find("</script>").unwrap_or(sources.len());
    &sources[start..end]
}

fn run_data<'a>(member: &'a Member, dir: &Path) -> RunData<'a> {
    let settings = &member.settings;
    RunData {
        name: &member.name,
        place: below(dir, &member.dir),
        data: &member.data,
        architecture: member.architecture(),
        variant: &member.variant,
        depth: settings.depth,
        width: settings.width,
        residual: settings.residual,
        seed: settings.seed.to_string(),
        fraction: settings.fraction,
        backend: member.backend,
        epochs: &member.epochs,
    }
}

fn map_data<'a>(Placed { result, place }: &'a Placed<PairResult>, members: &[Member], dir: &Path) -> MapData<'a> {
    let info = &result.info;
    let stages = |names: &[String], known: &[usize]| {
        layers::stages(names, known).into_iter().map(|stage| (stage.start, stage.len, stage.label)).collect()
    };
    let relation = relation(members, info);
    let models = if relation == Relation::Within { 1 } else { 2 };
    MapData {
        kind: match relation {
            Relation::Within => "within",
            Relation::Seeds => "seeds",
            Relation::Across => "across",
        },
        model_x: &info.model_x,
        model_y: &info.model_y,
        layers_x: &info.layers_x,
        layers_y: &info.layers_y,
        stages_x: stages(&info.layers_x, &info.stages_x),
        stages_y: stages(&info.layers_y, &info.stages_y),
        estimator: &info.estimator,
        kernel: &info.kernel,
        batches: info.batches,
        batch_size: info.batch_size,
        variations: info
            .is_noise()
            .then(|| "noise for images".to_owned())
            .into_iter()
            .chain(info.variations())
            .collect(),
        backend: info.versions.backend,
        undefined: [&info.undefined.x, &info.undefined.y][..models].iter().map(|layers| layers.len()).sum(),
        blocks: blocks::of(result),
        place: below(dir, place),
        cka: pack(&result.similarity.cka),
    }
}

/// The figures by kind; a kind without any has no section.
fn sections<'a>(figures: &'a [Figure], dir: &Path) -> Vec<SectionData<'a>> {
    let figure = |figure: &'a Figure| FigureData {
        title: &figure.title,
        summary: &figure.summary,
        findings: &figure.findings,
        place: below(dir, &figure.place),
        picture: BASE64_STANDARD.encode(&figure.picture),
    };
    let section = |(index, section): (usize, &Section)| {
        let figures: Vec<_> = figures.iter().filter(|figure| figure.section == index).map(figure).collect();
        (!figures.is_empty()).then_some(SectionData { title: section.title, text: section.text, figures })
    };
    SECTIONS.iter().enumerate().filter_map(section).collect()
}

/// `place` as seen from `dir`.
fn below(dir: &Path, place: &Path) -> String {
    place.strip_prefix(dir).unwrap_or(place).display().to_string()
}

/// CKA lies in -1..1, by the inequality of Cauchy and Schwarz; 16 bits keep four decimals of it.
fn pack(values: &[f64]) -> String {
    const STEPS: f64 = 32767.0;
    let code =
        |value: f64| if value.is_nan() { UNDEFINED } else { ((value.clamp(-1.0, 1.0) + 1.0) * STEPS).round() as u16 };
    let bytes: Vec<u8> = values.iter().flat_map(|&value| code(value).to_le_bytes()).collect();
    BASE64_STANDARD.encode(bytes)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::path::PathBuf;

    use super::*;
    use crate::family::tests::member;
    use crate::pair::tests::made;
    use crate::pcs::PcsResult;
    use crate::report::figures::Shown;

    #[test]
    fn packed_values_keep_four_decimals() {
        let values = [-1.0, -0.123_456, 0.0, 0.5, 0.999_95, 1.0, 1.5, f64::NAN];
        let bytes = BASE64_STANDARD.decode(pack(&values)).unwrap();
        let codes: Vec<u16> = bytes.chunks_exact(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]])).collect();
        assert_eq!(codes[7], UNDEFINED);
        for (value, &code) in values[..7].iter().zip(&codes) {
            // Half a step of 1 / 32767.
            let difference = (f64::from(code) / 32767.0 - 1.0 - value.clamp(-1.0, 1.0)).abs();
            assert!(difference <= 0.5 / 32767.0 + f64::EPSILON, "{value} is off by {difference}");
        }
    }

    #[test]
    fn hostile_names_stay_text_and_nothing_is_loaded() {
        let name = "</script><img src=x onerror=alert(1)>{{script}}";
        let hostile = member(name, (8, 1.0, 0), (0.5, 0.5));
        let placed = Placed { result: made(name, "<!--"), place: PathBuf::from("dir/<b>/cka") };
        let picture = b"\x89PNG\r\n\x1a\n\0".to_vec();
        let (title, summary) = (name.to_owned(), "</script>".to_owned());
        let figure = Figure {
            section: SECTIONS.iter().position(|section| section.title == PcsResult::TITLE).unwrap(),
            title,
            summary,
            findings: vec!["<!--".to_owned()],
            place: PathBuf::from("dir/<i>/pcs"),
            picture,
        };
        let page = page(&[hostile], &[placed], &[figure], Path::new("dir")).unwrap();
        assert!(!page.contains("<img") && !page.contains("alert(1)>{{script}}</"));
        assert!(page.contains("\\u003c/script>\\u003cimg src=x onerror=alert(1)>{{script}}"));
        assert_eq!(page.matches("plotly.js v").count(), 1);
        let start = BASE64_STANDARD.encode(b"\x89PNG\r\n\x1a\n\0");
        assert!(page.contains(&format!("\"picture\":\"{start}")), "no picture of the components");
        let own = page.replace(plotly(), "");
        assert!(own.len() < page.len());
        for load in ["http://", "https://", "src=\"", "@import", "url("] {
            assert!(!own.contains(load), "{load} in the page");
        }
        assert!(own.contains("Content-Security-Policy"));
    }
}
