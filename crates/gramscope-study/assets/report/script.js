"use strict";
// Draws the report from the JSON in #data. Maps are drawn when they come into view.
window.addEventListener("error", (event) => { document.documentElement.dataset.error = event.message; });

const report = JSON.parse(document.getElementById("data").textContent);
const style = getComputedStyle(document.documentElement);
const text = style.getPropertyValue("--text").trim();
const line = style.getPropertyValue("--line").trim();
const UNDEFINED = 65535;

/** Plotly reads a little markup in labels: names are shown as they are. */
const label = (name) => name.replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
const percent = (share) => (100 * share).toFixed(1) + " %";
const last = (run) => run.epochs[run.epochs.length - 1];
const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;

function element(tag, content, parent) {
  const made = document.createElement(tag);
  if (content !== undefined) made.textContent = content;
  if (parent) parent.append(made);
  return made;
}

function layout(more) {
  const axis = { gridcolor: line, zerolinecolor: line, linecolor: line, automargin: true };
  return {
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", font: { color: text, size: 12 },
    margin: { l: 50, r: 16, t: 40, b: 44 }, ...more,
    xaxis: { ...axis, ...more.xaxis }, yaxis: { ...axis, ...more.yaxis },
  };
}

const config = { displayModeBar: false, responsive: true };

function findings() {
  const list = document.getElementById("findings");
  for (const sentence of report.findings) element("li", sentence, list);
}

function family() {
  const columns = [
    ["run", (run) => run.name, String], ["data", (run) => run.data, String],
    ["depth", (run) => run.depth, String], ["width", (run) => run.width, String],
    ["seed", (run) => run.seed, String], ["fraction", (run) => run.fraction, String],
    ["epochs", (run) => run.epochs.length, String],
    ["training accuracy", (run) => last(run).train_accuracy, percent],
    ["test accuracy", (run) => last(run).test_accuracy, percent],
    ["seconds", (run) => run.epochs.reduce((sum, epoch) => sum + epoch.seconds, 0), (s) => s.toFixed(0)],
  ];
  const [head, body] = [document.querySelector("#family thead"), document.querySelector("#family tbody")];
  const rows = (runs) => {
    body.replaceChildren();
    for (const run of runs) {
      const row = element("tr", undefined, body);
      for (const [, value, format] of columns) element("td", format(value(run)), row);
    }
  };
  const headings = element("tr", undefined, head);
  for (const [name, value] of columns) {
    const heading = element("th", undefined, headings);
    const button = element("button", name, heading);
    button.addEventListener("click", () => {
      const down = heading.getAttribute("aria-sort") === "ascending";
      for (const other of headings.children) other.removeAttribute("aria-sort");
      heading.setAttribute("aria-sort", down ? "descending" : "ascending");
      const compare = (a, b) => (value(a) < value(b) ? -1 : value(a) > value(b) ? 1 : 0);
      rows([...report.runs].sort((a, b) => (down ? compare(b, a) : compare(a, b))));
    });
  }
  rows(report.runs);
}

/** Accuracy against one setting, a line of means for each value of another. */
function accuracyAgainst(id, key, other) {
  const values = (name) => [...new Set(report.runs.map((run) => run[name]))].sort((a, b) => a - b);
  const traces = values(other).map((fixed, index) => {
    const runs = report.runs.filter((run) => run[other] === fixed);
    const points = values(key).map((value) => [value, runs.filter((run) => run[key] === value)]);
    const means = points.filter(([, some]) => some.length).map(([value, some]) => [value, mean(some.map((run) => last(run).test_accuracy))]);
    return [
      { x: means.map(([value]) => String(value)), y: means.map(([, accuracy]) => accuracy), mode: "lines",
        name: `${other} ${fixed}`, legendgroup: index },
      { x: runs.map((run) => String(run[key])), y: runs.map((run) => last(run).test_accuracy), mode: "markers",
        text: runs.map((run) => label(run.name)), hovertemplate: "%{text}<br>%{y:.1%}<extra></extra>",
        legendgroup: index, showlegend: false },
    ];
  });
  const palette = ["#0072b2", "#d55e00", "#008c69", "#be5f96", "#c88c00", "#3ca0d7", "#6e6e6e", "#5a3c96"];
  traces.forEach((group, index) => {
    for (const trace of group) trace.marker = trace.line = { color: palette[index % palette.length] };
  });
  Plotly.newPlot(id, traces.flat(), layout({
    title: { text: `against ${key}`, font: { size: 14 } }, legend: { orientation: "h", y: -0.2 },
    xaxis: { title: { text: key }, type: "category", categoryorder: "array", categoryarray: values(key).map(String) },
    yaxis: { tickformat: ".0%" },
  }), config);
}

function curves(id, title, value, format) {
  const traces = report.runs.map((run) => ({
    x: run.epochs.map((epoch) => epoch.epoch), y: run.epochs.map(value), mode: "lines+markers", marker: { size: 4 },
    name: label(run.name), hovertemplate: `%{fullData.name}<br>epoch %{x}: %{y:${format}}<extra></extra>`,
  }));
  Plotly.newPlot(id, traces, layout({
    title: { text: title, font: { size: 14 } }, showlegend: false,
    xaxis: { title: { text: "epoch" } }, yaxis: { tickformat: format },
  }), config);
}

/** The rows of a packed matrix; NaN where it is undefined. */
function unpack(map) {
  const bytes = Uint8Array.from(atob(map.cka), (character) => character.charCodeAt(0));
  const codes = new DataView(bytes.buffer);
  const columns = map.layers_y.length;
  return map.layers_x.map((_, row) => Float64Array.from({ length: columns }, (_, column) => {
    const code = codes.getUint16(2 * (row * columns + column), true);
    return code === UNDEFINED ? NaN : code / 32767 - 1;
  }));
}

function boundaries(stages, along) {
  const shapes = [];
  for (let i = 1; i < stages.length; i++) {
    if (stages[i] === stages[i - 1]) continue;
    const [from, to] = along === "x" ? ["x", "y"] : ["y", "x"];
    shapes.push({ type: "line", line: { color: "rgba(255,255,255,0.7)", width: 1 },
      [`${from}0`]: i - 0.5, [`${from}1`]: i - 0.5, [`${from}ref`]: from,
      [`${to}0`]: 0, [`${to}1`]: 1, [`${to}ref`]: `${to} domain` });
  }
  return shapes;
}

/** Rows of the matrix go up the vertical axis, columns along the horizontal one. */
function draw(plot, map) {
  const names = map.layers_x.map(label);
  const trace = {
    type: "heatmap", z: unpack(map), x: map.layers_y.map(label), y: names,
    zmin: 0, zmax: 1, colorscale: report.colours, hoverongaps: true,
    hovertemplate: "%{y}<br>%{x}<br>CKA %{z:.4f}<extra></extra>",
    colorbar: { thickness: 10, outlinewidth: 0, tickvals: [0, 0.25, 0.5, 0.75, 1] },
  };
  const axis = { type: "category", nticks: 12, tickfont: { size: 9 }, showgrid: false, ticks: "" };
  return Plotly.newPlot(plot, [trace], {
    ...layout({ xaxis: { ...axis, tickangle: -60 }, yaxis: axis }),
    plot_bgcolor: report.undefined_colour, margin: { l: 30, r: 10, t: 8, b: 30 },
    shapes: [...boundaries(map.stages_y, "x"), ...boundaries(map.stages_x, "y")],
  }, config).then(() => {
    const root = document.documentElement;
    root.dataset.drawn = Number(root.dataset.drawn || 0) + 1;
  });
}

function maps() {
  const watcher = new IntersectionObserver((entries) => {
    for (const entry of entries.filter((entry) => entry.isIntersecting)) {
      watcher.unobserve(entry.target);
      draw(entry.target, report.maps[entry.target.dataset.map]);
    }
  }, { rootMargin: "400px" });
  report.maps.forEach((map, index) => {
    const within = map.model_x === map.model_y;
    const title = within ? map.model_x : `${map.model_x} (up) and ${map.model_y} (across)`;
    const card = element("div", undefined, document.querySelector(`#${within ? "within" : "across"} .maps`));
    card.className = "map";
    const button = element("button", title, card);
    const undefinedLayers = map.undefined ? `, ${map.undefined} undefined layers` : "";
    element("small", `${map.estimator}, ${map.kernel}, ${map.batches} batches of ${map.batch_size}${undefinedLayers}`, card);
    const plot = element("div", undefined, card);
    plot.className = "plot";
    plot.dataset.map = index;
    plot.setAttribute("role", "img");
    plot.setAttribute("aria-label", `CKA between ${map.layers_x.length} and ${map.layers_y.length} layers: ${title}`);
    button.setAttribute("aria-expanded", "false");
    button.addEventListener("click", () => {
      button.setAttribute("aria-expanded", String(card.classList.toggle("large")));
      if (plot.data) Plotly.Plots.resize(plot);
    });
    watcher.observe(plot);
  });
}

/** Hides what there is nothing to show for. */
function trim() {
  for (const id of ["family", "accuracy", "training"]) document.getElementById(id).hidden = !report.runs.length;
  for (const id of ["within", "across"]) document.getElementById(id).hidden = !document.querySelector(`#${id} .map`);
}

findings();
if (report.runs.length) {
  family();
  accuracyAgainst("by-depth", "depth", "width");
  accuracyAgainst("by-width", "width", "depth");
  curves("losses", "Training loss", (epoch) => epoch.train_loss, ".2f");
  curves("accuracies", "Test accuracy", (epoch) => epoch.test_accuracy, ".0%");
}
maps();
trim();
document.documentElement.dataset.ready = "true";
