// The held-out answers of a prompt side by side, sorted by what fell or rose most.
const STEP = 12; // cards that are drawn at once
const state = { run: 0, from: 0, to: 0, measure: 0, direction: -1, filter: "", shown: STEP };
const at = (id) => document.getElementById(id);
const current = () => DATA.runs[state.run];

function highlighted(text) {
  const node = element("div", { class: "text", dir: "auto" }), low = text.toLowerCase(), wanted = state.filter;
  if (!wanted || low.length !== text.length) { node.append(text); return node; }
  let place = 0;
  for (let hit = low.indexOf(wanted); hit >= 0; hit = low.indexOf(wanted, place)) {
    node.append(text.slice(place, hit), element("mark", {}, text.slice(hit, hit + wanted.length)));
    place = hit + wanted.length;
  }
  node.append(text.slice(place));
  return node;
}

function verdictsOf(answer) {
  const word = { 1: "better", 0: "worse", 0.5: "equal" };
  return Object.entries(answer.verdicts).map(([judge, verdict]) => {
    const tone = verdict === 1 ? "up" : verdict === 0 ? "down" : "";
    const said = verdict === null ? "no verdict" : word[verdict] ?? number(verdict);
    return element("span", { class: tone }, `${judge === "proxy" ? "reward" : judge}: ${said}`);
  });
}

function answerNode(run, prompt, answer, iteration, end) {
  const head = element("h6", {}, `iteration ${iteration}`, element("br"));
  if (!answer) return element("div", { class: "answer" }, head, element("div", { class: "note" }, "no answer logged"));
  head.append(...verdictsOf(answer));
  const facts = [];
  if (run.axes.length) facts.push(["reward Σ λ s", total(prompt, answer)]);
  if (run.axes.length > 1) run.axes.forEach((axis, l) => facts.push([`axis ${axis}`, answer.rewards[l]]));
  const several = Object.keys(answer.qualities).length > 1;
  for (const [judge, axes] of Object.entries(answer.qualities)) for (const [axis, value] of Object.entries(axes)) facts.push([several ? `${judge}: ${axis}` : axis, value]);
  facts.push(["tokens", answer.tokens], ["log π", answer.logprob], ["log π start", answer.start_logprob]);
  const rows = facts.map(([name, value]) => element("tr", {}, element("td", {}, name), element("td", { class: "number" }, number(value))));
  return element("div", { class: end ? "answer end" : "answer" }, head, highlighted(answer.text), element("table", {}, ...rows));
}

function strip(run, prompt, own) {
  const start = element("div", { class: "answer" }, element("h6", {}, "compared with: the start’s answer"), highlighted(prompt.start.text),
    element("table", {}, element("tr", {}, element("td", {}, "tokens"), element("td", { class: "number" }, String(prompt.start.tokens)))));
  const answers = prompt.answers.map((answer, i) => answerNode(run, prompt, answer, run.iterations[i], own && (i === state.from || i === state.to)));
  const label = DATA.runs.length > 1 ? element("h5", {}, run.name) : null;
  return element("div", { class: "strip" }, label, start, ...answers);
}

function matrix(names, vectors, axis) {
  const score = (a, b) => a[0] * b[1] - a[1] * b[0]; // s(i, j): how far the row's answer beats the column's
  const values = vectors.map((a) => vectors.map((b) => score(a, b))), most = Math.max(...values.flat().map(Math.abs), 1e-12);
  const rows = values.map((row, i) => element("tr", {}, element("th", {}, names[i]), ...row.map((value) => {
    const cell = element("td", { title: String(value) }, number(value, 2));
    if (value) cell.style.background = `hsl(${value > 0 ? 140 : 4} 70% ${97 - 42 * Math.abs(value / most)}%)`;
    return cell;
  })));
  const head = element("tr", {}, element("th"), ...names.map((name) => element("th", {}, name)));
  return element("figure", {}, element("figcaption", {}, `axis ${axis}: row beats column`), element("table", {}, head, ...rows));
}

function matrices(run, prompt) {
  const places = prompt.answers.map((a, i) => i).filter((i) => prompt.answers[i]);
  const body = element("div"), node = element("details", { class: "matrices" }, element("summary", {}, "pairwise scores of these answers, by axis"), body);
  node.addEventListener("toggle", () => {
    if (body.children.length) return;
    if (!prompt.start.vectors) { body.append(element("p", { class: "note" }, "This source compares answers within a call: each answer’s score against the start’s is all there is.")); return; }
    const names = ["start", ...places.map((i) => String(run.iterations[i]))];
    run.axes.forEach((axis, l) => body.append(matrix(names, [prompt.start.vectors[l], ...places.map((i) => prompt.answers[i].vectors[l])], axis)));
  });
  return node;
}

function card(prompt, change) {
  const run = current(), weights = run.axes.map((axis, l) => `${axis}: ${number(prompt.eigenvalues[l], 2)}`).join(" · ");
  const facts = element("span", { class: "facts" }, prompt.task ? `${prompt.task} — ` : "", change === null ? "" : `change ${number(change)}`, weights ? ` — λ by axis: ${weights}` : "");
  const strips = DATA.runs.map((other, i) => { const found = i === state.run ? prompt : other.byPrompt.get(prompt.prompt); return found ? strip(other, found, i === state.run) : null; });
  return element("article", { class: "card" }, element("h4", {}, highlighted(prompt.prompt), facts), ...strips, run.axes.length ? matrices(run, prompt) : null);
}

function chosen() { // [prompt, change] of all that pass the filter, sorted
  const run = current(), measure = run.measures[state.measure];
  const found = run.prompts.filter((prompt) => !state.filter || prompt.haystack.includes(state.filter)).map((prompt) => [prompt, changeOf(measure, prompt, state.from, state.to)]);
  const rank = (change) => (change === null ? Infinity : state.direction * change);
  return found.sort((a, b) => rank(a[1]) - rank(b[1]) || 0);
}

function drawAnswers() {
  const found = chosen(), run = current();
  at("cards").replaceChildren(...found.slice(0, state.shown).map(([prompt, change]) => card(prompt, change)));
  at("count").textContent = `${found.length} of ${run.prompts.length} prompts`;
  at("more").hidden = found.length <= state.shown;
}

function drawChanges() {
  const run = current(), rows = run.measures.map((measure, index) => {
    const side = (place) => mean(run.prompts.map((p) => (p.answers[place] ? measure.get(p, p.answers[place]) : null)).filter((v) => v !== null));
    const [before, after] = [side(state.from), side(state.to)], change = after === null || before === null ? null : after - before;
    const pick = () => { state.direction = state.measure === index ? -state.direction : change < 0 ? 1 : -1; state.measure = index; refresh(); };
    const cells = [number(before), number(after), (change > 0 ? "+" : "") + number(change)].map((text) => element("td", { class: "number" }, text));
    return element("tr", { class: index === state.measure ? "pick chosen" : "pick", click: pick }, element("td", {}, measure.name), ...cells);
  });
  const head = ["", `iteration ${run.iterations[state.from]}`, `iteration ${run.iterations[state.to]}`, "change"].map((text) => element("th", { class: "number" }, text));
  at("measures").replaceChildren(element("tr", {}, ...head), ...rows);
  const percent = (share) => `${Math.round(100 * share)} %`, changes = phraseChanges(run, state.from, state.to);
  const lines = [...changes.rose, ...changes.fell].map(([phrase, before, after]) => element("tr", { class: "pick", click: () => { at("filter").value = phrase; filter(); } },
    element("td", { class: after > before ? "up" : "down" }, after > before ? "came" : "went"), element("td", {}, `“${phrase}”`), element("td", { class: "number" }, percent(before)), element("td", { class: "number" }, percent(after))));
  const columns = ["", "in the answers", ...[state.from, state.to].map((place) => `at ${run.iterations[place]}`)].map((text) => element("th", {}, text));
  at("phrases").replaceChildren(element("tr", {}, ...columns), ...lines);
}

function drawTasks() { // what the preference model weighs where; λ is the prompt's, whatever the policy
  const run = current(), tasks = Object.entries(run.tasks), most = Math.max(...tasks.flatMap((task) => task[1]), 0);
  const shaded = (value) => {
    const cell = element("td", { class: "number" }, number(value, 2));
    cell.style.background = `color-mix(in srgb, ${COLOURS[0]} ${Math.round((45 * value) / most)}%, transparent)`;
    return cell;
  };
  const rows = tasks.map(([task, values]) => element("tr", { class: "pick", click: () => { at("filter").value = task; filter(); } }, element("td", {}, task), ...values.map(shaded)));
  at("by-task").hidden = !tasks.length;
  at("tasks").replaceChildren(element("tr", {}, element("th"), ...run.axes.map((axis) => element("th", { class: "number" }, `axis ${axis}`))), ...rows);
}

function refresh() {
  at("sort").value = state.measure;
  at("direction").value = state.direction;
  state.shown = STEP;
  drawChanges();
  drawAnswers();
}

function filter() {
  state.filter = plain(at("filter").value).trim();
  state.shown = STEP;
  drawAnswers();
}

function chooseRun(index) {
  const run = DATA.runs[index], options = (id, names) => at(id).replaceChildren(...names.map((name, i) => element("option", { value: i }, String(name))));
  Object.assign(state, { run: index, from: 0, to: run.iterations.length - 1, measure: 0, direction: -1 });
  options("from", run.iterations);
  options("to", run.iterations);
  options("sort", run.measures.map((m) => m.name));
  at("to").value = state.to;
  const left = run.left_out ? ` ${run.left_out} evaluations are left out, so that the page stays small; all are in the run’s folder.` : "";
  at("answers-note").textContent = `Each prompt is answered once at every evaluation, with the same random numbers, and compared with an answer of the starting policy. Rewards and verdicts are against that one.${left}`;
  drawTasks();
  refresh();
}

function begin() {
  drawCurves();
  const named = DATA.runs.map((run, i) => [run, i]).filter(([run]) => run.prompts.length && run.iterations.length);
  if (!named.length) { at("answers-note").textContent = "No held-out answers are logged in this run: answers/ is written at each evaluation, if evaluation.judge is not none."; return; }
  for (const [run] of named) {
    run.measures = measuresOf(run);
    for (const p of run.prompts) p.haystack = plain([p.prompt, p.task, p.start.text, ...p.answers.map((a) => (a ? a.text : ""))].join("\n"));
  }
  for (const run of DATA.runs) run.byPrompt = new Map(run.prompts.map((p) => [p.prompt, p]));
  at("changes").hidden = false;
  at("run").append(...named.map(([run, i]) => element("option", { value: i }, run.name)));
  const listen = (id, kind, act) => at(id).addEventListener(kind, act);
  listen("run", "change", () => chooseRun(Number(at("run").value)));
  for (const id of ["from", "to"]) listen(id, "change", () => { state[id] = Number(at(id).value); refresh(); });
  listen("sort", "change", () => { state.measure = Number(at("sort").value); refresh(); });
  listen("direction", "change", () => { state.direction = Number(at("direction").value); refresh(); });
  listen("filter", "input", filter);
  listen("more", "click", () => { state.shown += 4 * STEP; drawAnswers(); });
  chooseRun(named[0][1]);
}

begin();
