"use strict";
// Draws the report from the JSON in #data. Maps are drawn when they come near the view and let go of when they leave it.
window.addEventListener("error", (event) => { document.documentElement.dataset.error = event.message; });
window.addEventListener("unhandledrejection", (event) => { document.documentElement.dataset.error = String(event.reason); });

const root = document.documentElement;
const report = JSON.parse(document.getElementById("data").textContent);
document.getElementById("data").remove(); // the matrices need not be kept twice
const dark = matchMedia("(prefers-color-scheme: dark)");
dark.addEventListener("change", () => location.reload());
const variable = (name) => getComputedStyle(root).getPropertyValue(name).trim();
const [text, line] = [variable("--text"), variable("--line")];
const UNDEFINED = 65535;
/** How far from the view, in pixels, maps are drawn. */
const NEAR = 600;

/** Plotly reads a little markup, and %{...}, in labels: names are shown as they are. */
const label = (name) => name.replace(/[&<>{}]/g, (character) => `&#${character.charCodeAt(0)};`);
const css = ([red, green, blue]) => `rgb(${red},${green},${blue})`;
const percent = (share) => (100 * share).toFixed(1) + "%";
const last = (run) => run.epochs[run.epochs.length - 1];
const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;
const config = { displayModeBar: false, responsive: true };

function element(tag, content, parent) {
  const made = document.createElement(tag);
  if (content !== undefined) made.textContent = content;
  if (parent) parent.append(made);
  return made;
}

/** The look of the n-th of several lines; on a dark ground the colours are lighter. */
function lineStyle(number) {
  const count = report.palette.length;
  const colour = report.palette[number % count].map((c) => Math.round(dark.matches ? c + 0.35 * (255 - c) : c));
  return { color: css(colour), dash: ["solid", "dash", "dot"][Math.floor(number / count) % 3] };
}

function layout(more) {
  const axis = { gridcolor: line, zerolinecolor: line, linecolor: line, automargin: true };
  return {
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", font: { color: text, size: 12 }, dragmode: false,
    ...more,
    xaxis: { ...axis, fixedrange: true, ...more.xaxis }, yaxis: { ...axis, fixedrange: true, ...more.yaxis },
  };
}

/** A line of a legend: the look of its line, and its name. */
function legend(parent, names) {
  const list = element("ul", undefined, parent);
  list.className = "legend";
  names.forEach((name, number) => {
    const { color, dash } = lineStyle(number);
    const item = element("li", undefined, list);
    element("span", undefined, item).style.borderTop = `3px ${dash === "dash" ? "dashed" : dash === "dot" ? "dotted" : "solid"} ${color}`;
    item.append(name);
  });
}

/** Names that stand for several of `named` say where each lies, too. */
function distinct(named, nameOf) {
  const count = new Map();
  for (const one of named) count.set(nameOf(one), (count.get(nameOf(one)) ?? 0) + 1);
  return (one) => (count.get(nameOf(one)) > 1 && one.place ? `${nameOf(one)} (${one.place})` : nameOf(one));
}

const runName = distinct(report.runs, (run) => run.name);
const mapName = distinct(report.maps, (map) => (map.model_x === map.model_y ? map.model_x : `${map.model_x} → and ${map.model_y} ↑`));

/** A chart with a title and, where it has one of its own, a legend. */
function chart(id, title, names, traces, axes) {
  const frame = document.getElementById(id);
  element("h4", title, frame);
  if (names.length) legend(frame, names);
  const canvas = element("div", undefined, frame);
  canvas.className = "canvas";
  Plotly.newPlot(canvas, traces, layout({ showlegend: false, margin: { l: 50, r: 16, t: 10, b: 44 }, ...axes }), config);
}

function findings() {
  const list = document.getElementById("findings");
  for (const sentence of report.findings) element("li", sentence, list);
}

function family() {
  const columns = [
    ["run", runName, String],
    ["test accuracy", (run) => last(run).test_accuracy, percent],
    ["training accuracy", (run) => last(run).train_accuracy, percent],
    ["depth", (run) => run.depth, String], ["width", (run) => run.width, String], ["seed", (run) => Number(run.seed), (_, run) => run.seed],
    ["residual", (run) => run.residual, (residual) => (residual ? "yes" : "no")],
    ["fraction", (run) => run.fraction, String], ["epochs", (run) => run.epochs.length, String],
    ["data", (run) => run.data, String], ["trained on", (run) => run.backend, String],
    ["seconds", (run) => run.epochs.reduce((sum, epoch) => sum + epoch.seconds, 0), (seconds) => seconds.toFixed(0)],
  ];
  const [head, body] = [document.querySelector("#family thead"), document.querySelector("#family tbody")];
  const rows = (runs) => {
    body.replaceChildren();
    for (const run of runs) {
      const row = element("tr", undefined, body);
      for (const [, value, format] of columns) element("td", format(value(run), run), row);
      row.firstChild.title = runName(run);
    }
  };
  const headings = element("tr", undefined, head);
  for (const [name, value] of columns) {
    const heading = element("th", undefined, headings);
    heading.scope = "col";
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

/** Accuracy against one setting, a line of means for each value of another and each variant. */
function accuracyAgainst(id, key, other) {
  const accuracy = (run) => 100 * last(run).test_accuracy;
  const values = [...new Set(report.runs.map((run) => run[key]))].sort((a, b) => a - b);
  const nameOf = (run) => `${other} ${run[other]}` + (run.variant ? `, ${run.variant}` : "");
  const names = [...new Set([...report.runs].sort((a, b) => a[other] - b[other]).map(nameOf))];
  const traces = names.flatMap((name, index) => {
    const runs = report.runs.filter((run) => nameOf(run) === name);
    const places = values.filter((value) => runs.some((run) => run[key] === value));
    const means = places.map((value) => mean(runs.filter((run) => run[key] === value).map(accuracy)));
    const shared = { line: lineStyle(index), marker: { color: lineStyle(index).color, size: 7 } };
    return [
      { ...shared, x: places.map(String), y: means, mode: "lines", hoverinfo: "skip" },
      { ...shared, x: runs.map((run) => String(run[key])), y: runs.map(accuracy), mode: "markers",
        text: runs.map((run) => label(runName(run))), hovertemplate: "%{text}<br>%{y:.1f}%<extra></extra>" },
    ];
  });
  chart(id, `Against ${key}`, names, traces, {
    xaxis: { title: { text: key }, type: "category", categoryorder: "array", categoryarray: values.map(String) },
    yaxis: { ticksuffix: "%" },
  });
}

const architectures = [...new Set(report.runs.map((run) => run.architecture))];

function curves(id, title, value, unit) {
  const traces = report.runs.map((run) => {
    const look = lineStyle(architectures.indexOf(run.architecture));
    return {
      x: run.epochs.map((epoch) => epoch.epoch), y: run.epochs.map(value), line: look, marker: { color: look.color },
      mode: run.epochs.length < 2 ? "markers" : "lines", text: run.epochs.map(() => label(runName(run))),
      hovertemplate: `%{text}<br>epoch %{x}: %{y:.4~g}${unit}<extra></extra>`,
    };
  });
  // Of few epochs, ticks would be fractions.
  const whole = report.runs.every((run) => run.epochs.length <= 10) ? { dtick: 1 } : {};
  const xaxis = { title: { text: "epoch" }, tickformat: "d", ...whole };
  chart(id, title, [], traces, { xaxis, yaxis: { ticksuffix: unit } });
}

/** The rows of the map as drawn, bottom to top: a row a layer of y, a column a layer of x; NaN where it is undefined. */
function unpack(map) {
  const bytes = Uint8Array.from(atob(map.cka), (character) => character.charCodeAt(0));
  const codes = new DataView(bytes.buffer);
  const rows = map.layers_y.length;
  return map.layers_y.map((_, y) => Float64Array.from(map.layers_x, (_, x) => {
    const code = codes.getUint16(2 * (x * rows + y), true);
    return code === UNDEFINED ? NaN : code / 32767 - 1;
  }));
}

const shownValue = (value) => (Number.isNaN(value) ? "undefined" : `CKA ${value.toFixed(4)}`);

/** Lines where stages meet. */
function boundaries(stages, along) {
  const across = along === "x" ? "y" : "x";
  return stages.slice(1).map(([start]) => ({
    type: "line", line: { color: css(report.boundary_colour), width: 1 },
    [`${along}0`]: start - 0.5, [`${along}1`]: start - 0.5, [`${along}ref`]: along,
    [`${across}0`]: 0, [`${across}1`]: 1, [`${across}ref`]: `${across} domain`,
  }));
}

/** The outlines of the blocks of a map. */
function outlines(found) {
  return (found ? found.blocks : []).map(({ first, last }) => ({
    type: "rect", line: { color: css(report.block_colour), width: 2 },
    x0: first - 0.5, x1: last + 0.5, y0: first - 0.5, y1: last + 0.5,
  }));
}

/** The block structure of a map in words. */
function structure({ score, blocks }) {
  if (!blocks.length) return "no block";
  const each = blocks.map((block) => `${block.first_name} to ${block.last_name} (${percent(block.share)})`);
  return `block structure ${score.toFixed(2)}: ${each.join(", ")}`;
}

/** Characters of a layer's name beside a map, at most. */
const [SHORT, LONG] = [12, 28];

/** The length of what all texts begin with, up to the last of its dots. */
function commonStart(texts) {
  const [first] = texts;
  let length = 0;
  while (length < first.length && texts.every((text) => text[length] === first[length])) length += 1;
  return first.lastIndexOf(".", length - 1) + 1;
}

/** At most so many characters of a part of a name, and the number at its end whole. */
function cutOff(part, length) {
  const [, word, number] = part.match(/^(.*?)(\d*)$/s);
  return word.slice(0, Math.max(0, length - number.length)) + number;
}

/** Names as they stand beside a map, where one is too long: without what all have in common, and each of their parts cut off where
    that is not enough; never two of them the same. */
function shortened(names, longest) {
  if (names.every((name) => name.length <= longest)) return names;
  const reversed = names.map((name) => [...name].reverse().join(""));
  const [start, end] = names.length > 1 ? [commonStart(names), commonStart(reversed)] : [0, 0];
  const own = names.map((name) => name.slice(start, Math.max(start + 1, name.length - end)).split("."));
  const cut = (length) => own.map((parts) => parts.map((part) => cutOff(part, length)).join("."));
  const lengths = Array.from({ length: longest - 1 }, (_, index) => longest - index);
  const fitting = lengths.map(cut).find((short) => short.every((name) => name.length <= longest));
  const short = fitting ?? cut(1).map((name) => name.slice(-longest));
  return new Set(short).size === names.length ? short : short.map((name, index) => `${name} #${index}`);
}

/** Small maps name the stages that are long enough for it, large ones layers. `room`: for how many names there is. */
function mapAxis(names, stages, shortest, large, room) {
  const axis = { type: "category", showgrid: false, ticks: "", tickfont: { size: 10 }, fixedrange: !large };
  if (large || stages.length < 2) return { ...axis, nticks: Math.max(2, room) };
  const named = stages.filter(([, length]) => length >= shortest * names.length);
  // A quarter beside the middle layer, so that its own name, and not the stage's, is shown when pointed at.
  const middles = named.map(([start, length]) => Math.floor(start + (length - 1) / 2) + 0.25);
  return { ...axis, automargin: false, tickmode: "array", tickvals: middles, ticktext: named.map(([, , name]) => label(name)) };
}

const drawn = new Set();

function draw(plot) {
  const map = report.maps[plot.dataset.map];
  const large = plot.parentElement.classList.contains("large");
  const roomy = large && plot.clientWidth > 600;
  const room = (pixels, each) => Math.floor((0.7 * pixels) / each);
  const z = unpack(map);
  const [namesX, namesY] = [map.layers_x, map.layers_y].map((names) => shortened(names, large ? LONG : SHORT));
  const places = { x: namesX.map(label), y: namesY.map(label), type: "heatmap", hoverongaps: false };
  let pointed = "→ %{x}<br>↑ %{y}";
  if (namesX !== map.layers_x || namesY !== map.layers_y) {
    places.text = map.layers_y.map((y) => map.layers_x.map((x) => `→ ${label(x)}<br>↑ ${label(y)}`));
    pointed = "%{text}";
  }
  const traces = [{
    ...places, z, zmin: 0, zmax: 1, colorscale: report.colours.map(([at, colour]) => [at, css(colour)]), showscale: roomy,
    colorbar: { thickness: 12, outlinewidth: 0, tickvals: [0, 0.25, 0.5, 0.75, 1] },
    hovertemplate: `${pointed}<br>CKA %{z:.4f}<extra></extra>`,
  }];
  if (z.some((row) => row.some(Number.isNaN))) {
    const grey = css(report.undefined_colour);
    traces.push({
      ...places, z: z.map((row) => Array.from(row, (value) => (Number.isNaN(value) ? 1 : null))), showscale: false,
      colorscale: [[0, grey], [1, grey]], hovertemplate: `${pointed}<br>undefined<extra></extra>`,
    });
  }
  return Plotly.react(plot, traces, layout({
    margin: { l: 44, r: 6, t: 4, b: 22 }, hoverlabel: { font: { size: 11 }, align: "left" },
    dragmode: large && matchMedia("(pointer: fine)").matches ? "zoom" : false,
    xaxis: { ...mapAxis(namesX, map.stages_x, 0.16, large, room(plot.clientWidth, large ? 14 : 6 * SHORT)), tickangle: large ? -90 : 0 },
    yaxis: mapAxis(namesY, map.stages_y, 0.09, large, room(plot.clientHeight, large ? 14 : 40)),
    shapes: [...boundaries(map.stages_x, "x"), ...boundaries(map.stages_y, "y"), ...(large ? outlines(map.blocks) : [])],
  }), config).then(() => {
    drawn.add(plot.dataset.map);
    root.dataset.drawn = drawn.size;
  });
}

/** Maps are drawn one at a time, so that scrolling past many of them draws only those where it ends. */
const waiting = new Set();
let busy = false;
function drawNext() {
  const [plot] = waiting;
  if (busy || !plot) return;
  busy = true;
  waiting.delete(plot);
  draw(plot).finally(() => { busy = false; setTimeout(drawNext); });
}

const watcher = new IntersectionObserver((entries) => {
  for (const { target, isIntersecting } of entries) {
    if (isIntersecting) waiting.add(target);
    else {
      waiting.delete(target);
      if (target.data) Plotly.purge(target);
    }
  }
  drawNext();
}, { rootMargin: `${NEAR}px` });

/** On paper all maps are drawn, in a page as wide as the paper is; afterwards those near the view are again. */
function printing(begins) {
  root.classList.toggle("printed", begins);
  for (const canvas of document.querySelectorAll(".canvas")) if (canvas.data) Plotly.Plots.resize(canvas);
  watcher.disconnect();
  for (const plot of document.querySelectorAll(".plot")) {
    if (plot.data) Plotly.purge(plot);
    if (!begins) watcher.observe(plot);
    else if (plot.clientWidth) draw(plot);
  }
}
window.addEventListener("beforeprint", () => printing(true));
window.addEventListener("afterprint", () => printing(false));

/** Arrow keys move from cell to cell of a map that has the focus; the cell is shown and spoken. */
function walk(plot, event) {
  const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] }[event.key];
  if (!step || !plot.data) return;
  event.preventDefault();
  const map = report.maps[plot.dataset.map];
  const clamp = (value, count) => Math.max(0, Math.min(count - 1, value));
  const [x, y] = plot.cell ? [plot.cell[0] + step[0], plot.cell[1] + step[1]] : [0, 0];
  plot.cell = [clamp(x, map.layers_x.length), clamp(y, map.layers_y.length)];
  const value = plot.data[0].z[plot.cell[1]][plot.cell[0]];
  Plotly.Fx.hover(plot, [{ curveNumber: Number.isNaN(value) ? 1 : 0, pointNumber: [plot.cell[1], plot.cell[0]] }]);
  const [across, up] = [map.layers_x[plot.cell[0]], map.layers_y[plot.cell[1]]];
  document.getElementById("spoken").textContent = `across ${across}, up ${up}: ${shownValue(value)}`;
}

function card(map, index) {
  const card = element("div", undefined, document.querySelector(`#${map.kind} .maps`));
  card.className = "map";
  const title = mapName(map);
  const button = element("button", title, card);
  const unknown = map.undefined ? `, ${map.undefined} undefined layers` : "";
  const batches = map.batches === 1 ? "1 batch" : `${map.batches} batches`;
  const backend = map.backend === "cpu" ? "" : `, ${map.backend}`;
  const how = [map.estimator, map.kernel, ...map.variations].join(", ");
  element("small", `${how}, ${batches} of ${map.batch_size}${backend}${unknown}`, card).title = map.place;
  if (map.blocks) element("small", structure(map.blocks), card);
  const plot = element("div", undefined, card);
  plot.className = "plot";
  plot.dataset.map = index;
  plot.tabIndex = 0;
  plot.setAttribute("role", "img");
  plot.setAttribute("aria-label", `CKA between ${map.layers_x.length} and ${map.layers_y.length} layers: ${title}`);
  plot.addEventListener("keydown", (event) => walk(plot, event));
  plot.addEventListener("blur", () => { if (plot.data) Plotly.Fx.unhover(plot); });
  button.setAttribute("aria-expanded", "false");
  button.addEventListener("click", () => {
    button.setAttribute("aria-expanded", String(card.classList.toggle("large")));
    if (plot.data) Plotly.purge(plot);
    waiting.add(plot);
    drawNext();
  });
  watcher.observe(plot);
}

function maps() {
  document.getElementById("ramp").style.background =
    `linear-gradient(to right, ${report.colours.map(([at, colour]) => `${css(colour)} ${100 * at}%`)})`;
  document.getElementById("undefined").style.background = css(report.undefined_colour);
  report.maps.forEach(card);
  document.getElementById("filter").addEventListener("input", (event) => {
    const words = event.target.value.toLowerCase().split(/\s+/);
    for (const card of document.querySelectorAll(".map")) {
      const name = card.querySelector("button").textContent.toLowerCase();
      card.hidden = !words.every((word) => name.includes(word));
    }
    trim();
  });
}

/** Results that are shown as pictures, a section a kind. */
function figures() {
  for (const { title, text, figures } of report.sections) {
    const section = element("section", undefined, document.getElementById("figures"));
    element("h2", title, section);
    element("p", `${text} Press a picture to enlarge it.`, section);
    const frame = element("div", undefined, section);
    frame.className = "figures";
    for (const shown of figures) figureOf(title, shown, frame);
  }
}

function figureOf(kind, { title, summary, findings, place, picture }, frame) {
  const figure = element("figure", undefined, frame);
  const large = findings.length > 0;
  figure.classList.toggle("large", large);
  const button = element("button", undefined, figure);
  button.setAttribute("aria-label", `Enlarge the picture of ${title}`);
  button.setAttribute("aria-expanded", String(large));
  button.addEventListener("click", () => button.setAttribute("aria-expanded", String(figure.classList.toggle("large"))));
  const image = element("img", undefined, button);
  image.src = `data:image/png;base64,${picture}`;
  image.alt = `${kind}: ${title}: ${summary}`;
  const caption = element("figcaption", summary ? `${title}: ${summary}` : title, figure);
  caption.title = place;
  if (!large) return;
  const list = element("ul", undefined, caption);
  for (const finding of findings) element("li", finding, list);
}

/** Hides what there is nothing to show for. */
function trim() {
  for (const id of ["family", "accuracy", "training"]) document.getElementById(id).hidden = !report.runs.length;
  document.getElementById("guide").hidden = !report.maps.length;
  for (const id of ["within", "seeds", "across"]) {
    document.getElementById(id).hidden = !document.querySelector(`#${id} .map:not([hidden])`);
  }
}

findings();
trim();
if (report.runs.length) {
  family();
  accuracyAgainst("by-depth", "depth", "width");
  accuracyAgainst("by-width", "width", "depth");
  legend(document.getElementById("architectures"), architectures);
  curves("losses", "Training loss", (epoch) => epoch.train_loss, "");
  curves("accuracies", "Test accuracy", (epoch) => 100 * epoch.test_accuracy, "%");
}
maps();
figures();
trim();
root.dataset.ready = "true";
