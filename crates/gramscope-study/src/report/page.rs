//! The page itself: a template, a style and a script of ours, plotly.js, and the data as JSON with packed matrices.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use gramscope_train::{EpochMetrics, Run};
use serde::Serialize;

use super::findings;
use crate::plot::colour;
use crate::results::PairResult;
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
    runs: Vec<RunData>,
    maps: Vec<MapData<'a>>,
    /// The colours of 0 to 1: position, CSS colour.
    colours: Vec<(f64, String)>,
    undefined_colour: String,
}

#[derive(Serialize)]
struct RunData {
    name: String,
    data: String,
    depth: usize,
    width: f64,
    residual: bool,
    seed: u64,
    fraction: f64,
    epochs: Vec<EpochMetrics>,
}

#[derive(Serialize)]
struct MapData<'a> {
    model_x: &'a str,
    model_y: &'a str,
    layers_x: &'a [String],
    layers_y: &'a [String],
    stages_x: &'a [usize],
    stages_y: &'a [usize],
    estimator: &'a str,
    kernel: &'a str,
    batches: usize,
    batch_size: usize,
    undefined: usize,
    /// Base64 of little-endian 16-bit codes, row-major: value -1 + code / 32767, [`UNDEFINED`] for NaN.
    cka: String,
}

/// The page about these runs and results.
pub(super) fn page(runs: &[Run], results: &[PairResult]) -> Result<String> {
    let data = Data {
        findings: findings(runs, results)?,
        runs: runs.iter().map(run_data).collect::<Result<_>>()?,
        maps: results.iter().map(map_data).collect(),
        colours: colour::control_points().map(|(position, rgb)| (position, css(rgb))).collect(),
        undefined_colour: css(colour::UNDEFINED),
    };
    let json = serde_json::to_string(&data).map_err(|reason| Error::Incomparable(format!("report data: {reason}")))?;
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

fn run_data(run: &Run) -> Result<RunData> {
    let train = &run.config().train;
    Ok(RunData {
        name: run.name(),
        data: run.config().data.name.to_string(),
        depth: train.depth,
        width: train.width,
        residual: train.residual,
        seed: train.seed,
        fraction: train.fraction,
        epochs: run.metrics()?,
    })
}

fn map_data(result: &PairResult) -> MapData<'_> {
    let info = &result.info;
    MapData {
        model_x: &info.model_x,
        model_y: &info.model_y,
        layers_x: &info.layers_x,
        layers_y: &info.layers_y,
        stages_x: &info.stages_x,
        stages_y: &info.stages_y,
        estimator: &info.estimator,
        kernel: &info.kernel,
        batches: info.batches,
        batch_size: info.batch_size,
        undefined: info.undefined.x.len() + info.undefined.y.len(),
        cka: pack(&result.similarity.cka),
    }
}

/// CKA lies in -1..1, by the inequality of Cauchy and Schwarz; 16 bits keep four decimals of it.
fn pack(values: &[f64]) -> String {
    const STEPS: f64 = 32767.0;
    let code =
        |value: f64| if value.is_nan() { UNDEFINED } else { ((value.clamp(-1.0, 1.0) + 1.0) * STEPS).round() as u16 };
    let bytes: Vec<u8> = values.iter().flat_map(|&value| code(value).to_le_bytes()).collect();
    BASE64_STANDARD.encode(bytes)
}

fn css([red, green, blue]: [u8; 3]) -> String {
    format!("rgb({red},{green},{blue})")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::results::tests::made;

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
        let page = page(&[], &[made(name, "<!--")]).unwrap();
        assert!(!page.contains("<img") && !page.contains("alert(1)>{{script}}</"));
        assert!(page.contains("\\u003c/script>\\u003cimg src=x onerror=alert(1)>{{script}}"));
        assert_eq!(page.matches("plotly.js v").count(), 1);
        let own = page.replace(plotly(), "");
        assert!(own.len() < page.len());
        for load in ["http://", "https://", "src=\"", "@import", "url("] {
            assert!(!own.contains(load), "{load} in the page");
        }
        assert!(own.contains("Content-Security-Policy"));
    }
}
