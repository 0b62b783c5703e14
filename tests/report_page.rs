//! The report in a real browser: complete, interactive, self-contained, and no wider than a phone.
#![cfg(unix)]
#![allow(clippy::unwrap_used)]

#[path = "support/browser.rs"]
mod browser;
mod support;

use std::fs;
use std::path::{Path, PathBuf};

use browser::Browser;
use gramscope_study::Saved;
use gramscope_study::pair::PairResult;
use support::{noise, succeeds, train_tiny, write_activations};

/// What a file system allows and a page must not take for markup, for a template of the plotting script or for its own.
const HOSTILE: &str = "<img src=x onerror=alert(1)> & %{y} {{script}} \"'";

/// A layer's name that looks like markup and like a template.
const HOSTILE_LAYER: &str = "<b>alive</b> & %{y}";

/// Runs, their maps within and across, and a map of stored activations with an undefined layer, and the page about them.
fn family(dir: &Path) -> PathBuf {
    let (plain, hostile) = (dir.join("runs").join("plain"), dir.join("runs").join(HOSTILE));
    train_tiny(&plain, 0);
    train_tiny(&hostile, 1);
    let path = |path: &Path| path.to_str().unwrap().to_owned();
    let out = path(&dir.join("cka"));
    succeeds(["cka", &path(&plain), &path(&hostile), "--out", &out, "--passes", "1", "--batch-size", "20"]);
    let file = dir.join("stored.safetensors");
    let layers =
        [(HOSTILE_LAYER, 32, 5, noise(1, 160)), ("dead", 32, 5, vec![1.5; 160]), ("last", 32, 5, noise(2, 160))];
    write_activations(&file, &layers);
    succeeds(["cka", "--activations", &path(&file), "--out", &path(&dir.join("stored")), "--batch-size", "16"]);
    succeeds(["pcs", &path(&hostile), "--out", &path(&dir.join("pcs"))]);
    succeeds(["report", &path(dir)]);
    dir.join("report.html")
}

/// All results below `dir`.
fn maps(dir: &Path) -> Vec<PairResult> {
    let mut found: Vec<_> = PairResult::load(dir).into_iter().collect();
    for entry in fs::read_dir(dir).unwrap().map(Result::unwrap) {
        if entry.path().is_dir() {
            found.extend(maps(&entry.path()));
        }
    }
    found
}

/// The plot of the map of these models, as an expression.
fn plot(x: &str, y: &str) -> String {
    let find = format!("report.maps.findIndex((m) => m.model_x === {x:?} && m.model_y === {y:?})");
    format!("document.querySelector(`.plot[data-map=\"${{{find}}}\"]`)")
}

/// Brings a plot into view and waits for its map.
fn show(page: &mut Browser, plot: &str) {
    page.evaluate(&format!("{plot}.scrollIntoView({{ block: 'center', behavior: 'instant' }})"));
    page.wait_for(&format!("Boolean({plot}.data && {plot}.querySelector('.nsewdrag'))"));
}

/// Points into a map, at these shares of its width and height from the lower left, and returns what is shown.
fn hover(page: &mut Browser, plot: &str, (right, up): (f64, f64)) -> Vec<String> {
    page.point_at(1.0, 1.0);
    page.wait_for(&format!("!{plot}.querySelector('.hoverlayer text')"));
    let area = page.evaluate(&format!("{plot}.querySelector('.nsewdrag').getBoundingClientRect().toJSON()"));
    let number = |key: &str| area[key].as_f64().unwrap();
    page.point_at(number("left") + right * number("width"), number("bottom") - up * number("height"));
    page.wait_for(&format!("Boolean({plot}.querySelector('.hoverlayer text'))"));
    let lines = page.evaluate(&format!(
        "[...{plot}.querySelectorAll('.hoverlayer text .line, .hoverlayer text:not(:has(.line))')].map((line) => line.textContent)"
    ));
    serde_json::from_value(lines).unwrap()
}

/// What hovering over the cell of layers `x` and `y` must show.
fn expected(result: &PairResult, x: usize, y: usize) -> Vec<String> {
    let value = result.similarity.cka[x * result.info.layers_y.len() + y];
    let value = if value.is_nan() { "undefined".to_owned() } else { format!("CKA {value:.4}") };
    vec![format!("→ {}", result.info.layers_x[x]), format!("↑ {}", result.info.layers_y[y]), value]
}

/// The shown value is packed into 16 bits, so that its fourth decimal may be one off.
fn same(shown: &[String], expected: &[String]) -> bool {
    let value = |lines: &[String]| lines[2].strip_prefix("CKA ").and_then(|value| value.parse::<f64>().ok());
    shown.len() == 3
        && shown[..2] == expected[..2]
        && match (value(shown), value(expected)) {
            (Some(shown), Some(expected)) => (shown - expected).abs() < 1.5e-4,
            _ => shown[2] == expected[2],
        }
}

/// At any width: whole, drawn without an error, no wider than the window, and nothing was fetched.
fn check_page(page: &mut Browser, maps: &[PairResult]) {
    page.wait_for("document.documentElement.dataset.ready === 'true'");
    assert_eq!(page.evaluate("document.querySelectorAll('#family tbody tr').length"), 2, "a row a run");
    assert_eq!(page.evaluate("document.querySelectorAll('.map').length"), maps.len());
    assert_eq!(page.evaluate("document.querySelectorAll('.chart .main-svg').length > 3"), true, "charts");
    for result in maps {
        show(page, &plot(&result.info.model_x, &result.info.model_y));
    }
    page.wait_for(&format!("document.documentElement.dataset.drawn === '{}'", maps.len()));
    assert_eq!(page.evaluate("document.documentElement.dataset.error ?? 'none'"), "none");
    let (wide, room) =
        (page.evaluate("document.documentElement.scrollWidth").as_f64(), page.evaluate("innerWidth").as_f64());
    assert!(wide.unwrap() <= room.unwrap(), "the page is {wide:?} pixels wide in a window of {room:?}");
    assert_eq!(page.evaluate("document.querySelectorAll('iframe, link, script[src]').length"), 0);
    let pictures = "[...document.images].map((i) => [i.src.startsWith('data:image/png'), i.naturalWidth > 800]).join()";
    assert_eq!(page.evaluate(pictures), "true,true", "one picture, of first principal components, within the page");
    let fetched = page.events("Network.requestWillBeSent").into_iter().map(|event| &event["request"]["url"]);
    let fetched: Vec<_> = fetched.filter(|url| !url.as_str().is_some_and(|url| url.starts_with("data:"))).collect();
    assert_eq!(fetched.len(), 1, "more than the page itself was asked for: {fetched:?}");
    for event in ["Runtime.exceptionThrown", "Log.entryAdded", "Page.javascriptDialogOpening"] {
        assert!(page.events(event).is_empty(), "{event}: {:?}", page.events(event));
    }
}

/// First layers lie at the lower left, and pointing shows both names and the value of the right cell.
fn check_hover(page: &mut Browser, maps: &[PairResult]) {
    for result in maps {
        let plot = plot(&result.info.model_x, &result.info.model_y);
        show(page, &plot);
        let (last_x, last_y) = (result.info.layers_x.len() - 1, result.info.layers_y.len() - 1);
        for (at, x, y) in [((0.01, 0.01), 0, 0), ((0.99, 0.01), last_x, 0), ((0.01, 0.99), 0, last_y)] {
            let (shown, expected) = (hover(page, &plot, at), expected(result, x, y));
            assert!(same(&shown, &expected), "{shown:?} is shown where {expected:?} lies");
        }
    }
    // The middle layer of the stored activations is undefined.
    let shown = hover(page, &plot("stored", "stored"), (0.5, 0.9));
    assert_eq!(shown, ["→ dead", "↑ last", "undefined"]);
}

/// Arrow keys reach cells, and what they reach is spoken.
fn check_keyboard(page: &mut Browser, result: &PairResult) {
    let plot = plot(&result.info.model_x, &result.info.model_y);
    show(page, &plot);
    page.evaluate(&format!("{plot}.focus({{ preventScroll: true }})"));
    for key in ["ArrowRight", "ArrowRight", "ArrowUp", "ArrowUp"] {
        page.press(key);
    }
    let spoken = page.evaluate("document.getElementById('spoken').textContent");
    let [x, y] = [&result.info.layers_x[1], &result.info.layers_y[2]];
    let start = format!("across {x}, up {y}: ");
    assert!(spoken.as_str().unwrap().starts_with(&start), "{spoken} does not start with {start}");
}

/// On paper every map is there, wherever the view was; afterwards only those near it again.
fn check_print(page: &mut Browser, maps: &[PairResult]) {
    page.evaluate("scrollTo({ top: 0, behavior: 'instant' })");
    page.evaluate("dispatchEvent(new Event('beforeprint'))");
    let drawn = "[...document.querySelectorAll('.plot .main-svg:first-child')].map((svg) => svg.clientWidth)";
    assert_eq!(page.evaluate(&format!("{drawn}.length")), maps.len());
    assert_eq!(page.evaluate(&format!("{drawn}.every((width) => width > 100 && width < 230)")), true);
    page.evaluate("dispatchEvent(new Event('afterprint'))");
    page.wait_for("![...document.querySelectorAll('.plot')].at(-1).data");
}

/// Names beside a map that are too long are told apart by what is their own, in their full length where they are pointed at.
fn check_names(page: &mut Browser) {
    let mut short =
        |names: &str| page.evaluate(&format!("shortened([{names}], 12).join()")).as_str().unwrap().to_owned();
    assert_eq!(short("'a', 'stage1.block1'"), "a,stag1.bloc1");
    assert_eq!(short("'encoder.layers.0.attention.output', 'encoder.layers.10.attention.output'"), "0,10");
    assert_eq!(short("'encoder.layers.3.query', 'decoder.layers.3.query'"), "encoder,decoder");
    assert_eq!(short("'encoder.0.attention', 'encoder.0.attentive'"), "attention,attentive");
    assert_eq!(short("'a_name_without_a_dot_1', 'a_name_without_a_dot_2'"), "a_name_with1,a_name_with2");
    assert_eq!(short("'a_name_without_a_dot', 'a_name_without_numbers'"), "a_name_witho #0,a_name_witho #1");
}

#[test]
fn the_report_works_in_a_browser() {
    let Some(program) = browser::find() else {
        eprintln!("skipped: there is no Chromium on the path");
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let report = family(dir.path());
    let maps = maps(dir.path());
    assert_eq!(maps.len(), 4);
    let mut page = Browser::start(&program);

    page.open(&report, (390, 844), true);
    check_page(&mut page, &maps);
    page.evaluate("scrollTo({ top: 0, behavior: 'instant' })");
    let last = "[...document.querySelectorAll('.plot')].at(-1)";
    page.wait_for(&format!("!{last}.data"));

    page.open(&report, (1440, 900), false);
    check_page(&mut page, &maps);
    check_hover(&mut page, &maps);
    let across = maps.iter().find(|map| map.info.model_x != map.info.model_y).unwrap();
    check_keyboard(&mut page, across);
    check_print(&mut page, &maps);
    check_names(&mut page);
    let names = "[...document.querySelectorAll('#family tbody td:first-child')].map((cell) => cell.textContent).join()";
    assert!(page.evaluate(names).as_str().unwrap().contains(HOSTILE));
}
