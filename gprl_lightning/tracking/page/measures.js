// What can be said of an answer in numbers, and which words came and went.
const WORDS = /[\p{Script=Han}\p{Script=Hiragana}\p{Script=Katakana}]|[\p{L}\p{N}'’]+|[^\s\p{L}\p{N}]/gu;
const LONGEST = 4; // words of a phrase
const LISTED = 8; // phrases of each kind

const total = (prompt, answer) => answer.rewards.reduce((sum, r, l) => sum + r * prompt.eigenvalues[l], 0);
const mean = (values) => (values.length ? values.reduce((a, b) => a + b, 0) / values.length : null);

// Each: a name, and its value for an answer of a prompt; null if it has none.
function measuresOf(run) {
  const found = [], judge = run.judges.find((name) => name !== "proxy");
  if (run.axes.length && judge) {
    const chance = (p, a) => 1 / (1 + Math.exp(-total(p, a) / run.tau));
    found.push({ name: `reward's chance of a win − verdict of ${judge}`, get: (p, a) => (a.verdicts[judge] ?? null) === null ? null : chance(p, a) - a.verdicts[judge] });
  }
  if (run.axes.length) found.push({ name: "reward, Σ λ s", get: total });
  if (run.axes.length > 1) run.axes.forEach((axis, l) => found.push({ name: `reward, axis ${axis}`, get: (p, a) => a.rewards[l] }));
  for (const name of run.judges) found.push({ name: `verdict of ${name === "proxy" ? "the reward (proxy)" : name}`, get: (p, a) => a.verdicts[name] ?? null });
  const sample = run.prompts.flatMap((p) => p.answers).find((a) => a);
  for (const [name, axes] of Object.entries(sample ? sample.qualities : {}))
    for (const axis of Object.keys(axes)) found.push({ name: `${name}: ${axis}`, get: (p, a) => a.qualities[name]?.[axis] ?? null });
  found.push({ name: "tokens", get: (p, a) => a.tokens });
  found.push({ name: "log π per token", get: (p, a) => a.logprob / Math.max(a.tokens, 1) });
  found.push({ name: "log π of the starting policy per token", get: (p, a) => a.start_logprob / Math.max(a.tokens, 1) });
  return found;
}

function changeOf(measure, prompt, from, to) {
  const [before, after] = [prompt.answers[from], prompt.answers[to]].map((a) => (a ? measure.get(prompt, a) : null));
  return before === null || after === null ? null : after - before;
}

const plain = (text) => text.toLowerCase().replace(/\s+/g, " ");

function phrasesIn(text) { // each phrase once
  const found = new Set(), line = plain(text), words = [...line.matchAll(WORDS)];
  for (let i = 0; i < words.length; i++)
    for (let n = 0; n < LONGEST && i + n < words.length; n++)
      found.add(line.slice(words[i].index, words[i + n].index + words[i + n][0].length));
  return found;
}

// Phrases whose share of the answers changed most: [phrase, share before, share after].
function phraseChanges(run, from, to) {
  const counts = new Map(), sizes = [0, 0];
  for (const prompt of run.prompts) [from, to].forEach((place, side) => {
    if (!prompt.answers[place]) return;
    sizes[side]++;
    for (const phrase of phrasesIn(prompt.answers[place].text)) {
      if (!counts.has(phrase)) counts.set(phrase, [0, 0]);
      counts.get(phrase)[side]++;
    }
  });
  const rows = [...counts].filter(([, c]) => c[0] + c[1] > 1).map(([phrase, c]) => [phrase, c[0] / (sizes[0] || 1), c[1] / (sizes[1] || 1)]);
  return { rose: distinct(rows, 1), fell: distinct(rows, -1) };
}

const pairs = (words) => words.slice(1).map((word, i) => `${words[i]} ${word}`);

// Of phrases that share words the most telling one: a phrase of n words says √n times as much as a word.
function distinct(rows, sign) {
  const change = (row) => sign * (row[2] - row[1]), kept = [], seen = new Set();
  const telling = (row) => change(row) * Math.sqrt(row[0].match(WORDS).length);
  const order = rows.filter((row) => change(row) >= 0.02).map((row) => [telling(row), row]).sort((a, b) => b[0] - a[0]).map((pair) => pair[1]);
  for (const row of order) {
    if (kept.length === LISTED) break;
    const own = pairs(row[0].match(WORDS));
    if (own.some((pair) => seen.has(pair)) || kept.some((other) => other[0].includes(row[0]) || row[0].includes(other[0]))) continue;
    own.forEach((pair) => seen.add(pair));
    kept.push(row);
  }
  return kept;
}
