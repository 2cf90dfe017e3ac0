"use strict";
// Curves as SVG: hover to read, click a name to hide, other runs dotted in the same colour.
const DATA = JSON.parse(document.getElementById("data").textContent);
const COLOURS = ["#2f6fde", "#e07b00", "#1f9d55", "#c0398f", "#8a5cd6", "#b8860b", "#0f9bb3", "#c44536", "#6b7a8f", "#5a8f29"];
const DASHES = ["", "2 3", "8 3 2 3", "10 5", "1 5"]; // by run

// Everything that a run wrote reaches the page as a text node: never as HTML.
function element(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

function svg(tag, attributes = {}, ...children) {
  return fill(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
}

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") node.addEventListener(name, value);
    else if (value !== null && value !== undefined) node.setAttribute(name, value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

function number(value, digits = 3) {
  if (value === null || value === undefined || Number.isNaN(value)) return "–";
  const size = Math.abs(value);
  if (size && (size < 1e-3 || size >= 1e5)) return value.toExponential(1);
  return String(Number(value.toFixed(size >= 100 ? 1 : digits))).replace("-", "−");
}

function ticks(low, high, count) {
  const raw = (high - low) / count, power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 2.5, 5, 10].map((m) => m * power).find((s) => s >= raw * 0.999);
  const found = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + 1e-9 * step; i++) found.push(i * step);
  return found;
}

function linesOf(panel) {
  const found = [];
  DATA.runs.forEach((run, place) => {
    Object.entries(panel.lines).forEach(([name, label], index) => {
      if (!run.columns[name]) return;
      const [steps, values] = run.columns[name];
      const dash = place ? DASHES[place % DASHES.length] : panel.dashed.includes(name) ? "6 3" : "";
      const shown = DATA.runs.length > 1 ? `${label} · ${run.name}` : label;
      found.push({ label: shown, steps, values, colour: COLOURS[index % COLOURS.length], dash, place, hidden: false });
    });
  });
  return found;
}

function chart(panel) {
  const W = 430, H = 200, L = 48, R = 10, T = 8, B = 22;
  const lines = linesOf(panel), legend = element("div", { class: "legend" });
  const drawing = svg("svg", { viewBox: `0 0 ${W} ${H}`, role: "img", "aria-label": panel.title });
  const own = DATA.runs[0].columns, band = panel.band && own[panel.band[0]] ? panel.band.map((n) => own[n]) : null;
  let x, y, back, at;

  function draw() {
    const seen = lines.filter((line) => !line.hidden);
    const steps = seen.flatMap((line) => line.steps), values = seen.flatMap((line) => line.values);
    if (band && !lines[0]?.hidden) values.push(...band[0][1], ...band[1][1]);
    if (panel.level !== null) values.push(panel.level);
    const sound = values.filter((v) => v !== null), bounds = (v) => v.reduce(([a, b], c) => [Math.min(a, c), Math.max(b, c)], [Infinity, -Infinity]);
    let [x0, x1] = bounds(steps), [y0, y1] = bounds(sound);
    if (!(x1 >= x0)) [x0, x1] = [0, 1];
    if (!(y1 >= y0)) [y0, y1] = [0, 1];
    if (x0 === x1) x1 = x0 + 1;
    const room = (y1 - y0) * 0.06 || Math.abs(y0) * 0.1 || 0.1;
    [y0, y1] = [y0 - room, y1 + room];
    x = (v) => L + ((v - x0) / (x1 - x0)) * (W - L - R);
    y = (v) => H - B - ((v - y0) / (y1 - y0)) * (H - B - T);
    back = (pixel) => x0 + ((pixel - L) / (W - L - R)) * (x1 - x0);
    drawing.replaceChildren();
    for (const v of ticks(y0, y1, 4)) {
      drawing.append(svg("line", { class: "grid", x1: L, x2: W - R, y1: y(v), y2: y(v) }));
      drawing.append(svg("text", { x: L - 5, y: y(v) + 4, "text-anchor": "end" }, number(v)));
    }
    for (const v of ticks(x0, x1, 6).filter(Number.isInteger)) {
      drawing.append(svg("text", { x: x(v), y: H - 6, "text-anchor": "middle" }, String(v)));
    }
    if (panel.level !== null) drawing.append(svg("line", { class: "cursor", x1: L, x2: W - R, y1: y(panel.level), y2: y(panel.level) }));
    if (band && !lines[0]?.hidden) drawing.append(svg("path", { d: area(band), fill: COLOURS[0], opacity: 0.16 }));
    for (const line of seen) {
      drawing.append(svg("path", { class: "curve", d: path(line), fill: "none", stroke: line.colour, "stroke-width": 1.7, "stroke-dasharray": line.dash }));
      if (line.steps.length < 25) line.steps.forEach((s, i) => line.values[i] !== null && drawing.append(svg("circle", { cx: x(s), cy: y(line.values[i]), r: 2.2, fill: line.colour })));
    }
    marks();
    drawing.append((at = svg("line", { class: "cursor", y1: T, y2: H - B, visibility: "hidden" })));
  }

  const path = (line) => line.steps.map((s, i) => (line.values[i] === null ? "" : `${i && line.values[i - 1] !== null ? "L" : "M"}${x(s).toFixed(1)} ${y(line.values[i]).toFixed(1)}`)).join("");
  const area = ([low, high]) => {
    const up = high[0].map((s, i) => `${x(s)} ${y(high[1][i])}`), down = low[0].map((s, i) => `${x(s)} ${y(low[1][i])}`).reverse();
    return `M${[...up, ...down].join("L")}Z`;
  };

  function marks() { // iterations at which the monitor intervened
    if (!panel.dots || !own[panel.dots] || !lines[0] || lines[0].hidden) return;
    const [steps, on] = own[panel.dots];
    steps.forEach((s, i) => {
      const place = on[i] ? lines[0].steps.indexOf(s) : -1;
      if (place >= 0) drawing.append(svg("circle", { cx: x(s), cy: y(lines[0].values[place]), r: 2.4, fill: "#c0262d" }));
    });
  }

  function read(iteration) { // the legend says the values at an iteration; null: the last ones
    lines.forEach((line) => {
      let best = line.steps.length - 1;
      if (iteration !== null) line.steps.forEach((s, i) => { if (Math.abs(s - iteration) < Math.abs(line.steps[best] - iteration)) best = i; });
      line.value.textContent = `${line.label} ${number(line.values[best])}` + (iteration === null ? "" : ` @${line.steps[best]}`);
    });
  }

  for (const line of lines) {
    const swatch = element("i", { class: line.dash ? "dashed" : "" });
    swatch.style.borderColor = line.colour;
    line.value = element("span");
    const toggle = (event) => { line.hidden = !line.hidden; event.currentTarget.setAttribute("aria-pressed", !line.hidden); draw(); };
    legend.append(element("button", { type: "button", "aria-pressed": "true", click: toggle }, swatch, line.value));
  }
  drawing.addEventListener("pointermove", (event) => {
    const box = drawing.getBoundingClientRect(), iteration = back(((event.clientX - box.left) / box.width) * W);
    read(iteration);
    const place = Math.min(Math.max(x(iteration), L), W - R);
    fill(at, { x1: place, x2: place, visibility: "visible" }, []);
  });
  drawing.addEventListener("pointerleave", () => { at.setAttribute("visibility", "hidden"); read(null); });
  draw();
  read(null);
  const unit = panel.unit ? element("small", {}, panel.unit) : null;
  return element("div", { class: "panel" }, element("h3", {}, panel.title, unit), drawing, legend);
}

function merged(kind) { // the panels of all runs, those of one title as one
  const found = new Map();
  for (const run of DATA.runs) for (const panel of run[kind]) {
    const known = found.get(panel.title);
    found.set(panel.title, known ? { ...known, lines: { ...known.lines, ...panel.lines } } : panel);
  }
  return [...found.values()];
}

function drawCurves() {
  document.getElementById("panels").append(...merged("panels").map(chart));
  const others = document.getElementById("others"), target = document.getElementById("other-panels");
  others.addEventListener("toggle", () => { if (!target.children.length) target.append(...merged("others").map(chart)); });
  if (DATA.runs.length > 1) document.getElementById("overlay").textContent = ` Solid: ${DATA.runs[0].name}; dotted: ${DATA.runs.slice(1).map((r) => r.name).join(", ")}.`;
  for (const run of DATA.runs) for (const [what, value] of run.summary) if (what === "caution") {
    document.getElementById("cautions").append(element("p", { class: "caution" }, DATA.runs.length > 1 ? `${run.name}: ${value}` : value));
  }
  const names = [...new Set(DATA.runs.flatMap((run) => run.summary.map((row) => row[0])))].filter((name) => name !== "caution");
  const table = document.getElementById("table");
  if (DATA.runs.length > 1) table.append(element("tr", {}, element("th"), ...DATA.runs.map((run) => element("th", {}, run.name))));
  for (const name of names) {
    const cells = DATA.runs.map((run) => element("td", {}, (run.summary.find((row) => row[0] === name) ?? ["", "–"])[1]));
    table.append(element("tr", {}, element("td", {}, name), ...cells));
  }
}
