"use strict";
(() => {
  const byId = (id) => document.getElementById(id);
  const data = JSON.parse(byId("data").textContent);
  const PAGE = 20;

  // Theme: automatic, light, dark; remembered where the browser lets a page remember
  const THEMES = ["automatic", "light", "dark"];
  const button = byId("theme");
  let theme = "automatic";
  try { theme = localStorage.getItem("ray-si-theme") || theme; } catch { /* none is remembered */ }
  function show(chosen) {
    theme = THEMES.includes(chosen) ? chosen : "automatic";
    if (theme === "automatic") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = theme;
    button.textContent = `Theme: ${theme}`;
  }
  button.addEventListener("click", () => {
    show(THEMES[(THEMES.indexOf(theme) + 1) % THEMES.length]);
    try { localStorage.setItem("ray-si-theme", theme); } catch { /* none is remembered */ }
  });
  show(theme);
  button.hidden = false;

  // Generated text enters the page as text nodes only; what does not print is named
  const HIDDEN = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u00ad\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069\ufeff\ufff9-\ufffb]|[\ud800-\udbff](?![\udc00-\udfff])|(?<![\ud800-\udbff])[\udc00-\udfff]/g;
  function make(tag, class_, ...children) {
    const element = document.createElement(tag);
    if (class_) element.className = class_;
    element.append(...children);
    return element;
  }
  function text(tag, class_, value) {
    const element = make(tag, class_);
    let end = 0;
    for (const match of value.matchAll(HIDDEN)) {
      const code = match[0].charCodeAt(0).toString(16).toUpperCase().padStart(4, "0");
      element.append(value.slice(end, match.index), make("span", "control", `U+${code}`));
      end = match.index + 1;
    }
    element.append(value.slice(end));
    return element;
  }
  const terms = (pairs) => make("dl", "", ...pairs.flatMap(([name, value]) =>
    [make("dt", "", name), typeof value === "string" ? text("dd", "", value) : make("dd", "", value)]));
  const named = (id) => make("li", "", make("code", "", id), " ", text("bdi", "", data.texts[id] ?? ""));

  function instance(pair) {
    const out = "reason" in pair;
    const box = make("div", out ? "instance out" : "instance");
    if (out) box.append(make("p", "name", `not kept: ${pair.reason}`));
    if (pair.input) box.append(make("div", "name", "Input"), text("pre", "", pair.input));
    if (pair.output || !out) box.append(make("div", "name", "Output"), text("pre", "", pair.output));
    return box;
  }
  function details(row) {
    const box = make("div", "more");
    const facts = [["id", row.id]];
    if ("reason" in row) {
      facts.push(["reason", row.reason + (data.reasons[row.reason] ? `: ${data.reasons[row.reason]}` : "")]);
      if (row.match !== null) facts.push(["too close to", row.match]);
      if (row.score !== null) facts.push(["score", String(row.score)]);
    } else {
      for (const pair of row.instances ?? []) box.append(instance(pair));
      for (const pair of row.rejected ?? []) box.append(instance(pair));
      if (!row.instances) box.append(make("p", "name", "No instances were written yet."));
      else if (!row.instances.length) box.append(make("p", "name", "No instance was kept, so there is no row."));
      if (row.classification !== undefined) facts.push(["classification task", row.classification ? "yes" : "no"]);
      if (row.nearest_seed) facts.push(["nearest seed", `${row.nearest_seed.id}, ROUGE-L ${row.nearest_seed.rouge}: ${data.texts[row.nearest_seed.id] ?? ""}`]);
      for (const near of row.nearest) facts.push(["nearest earlier", `ROUGE-L ${near.rouge}: ${near.text}`]);
      if (row.mean_rouge !== null) facts.push(["mean ROUGE-L", String(row.mean_rouge)]);
      if (row.cosine !== null) facts.push(["highest cosine", String(row.cosine)]);
      facts.push(["model", row.model + (row.revision ? ` (${row.revision})` : "")]);
    }
    facts.push(["round", String(row.round)]);
    if (row.seed !== null) facts.push(["request seed", row.seed]);
    box.append(make("h4", "", "Where it comes from"), terms(facts));
    if (row.demonstrations.length) {
      box.append(make("h4", "", "Demonstrations in its prompt"), make("ul", "", ...row.demonstrations.map(named)));
    }
    return box;
  }
  function item(row) {
    const rejected = "reason" in row;
    const count = row.instances ? row.instances.length : 0;
    const side = rejected ? row.reason : `${count} ${count === 1 ? "row" : "rows"}`;
    const fold = make("details", "", make("summary", "",
      make("span", rejected ? "tag no" : "tag yes", rejected ? "rejected" : "accepted"),
      text("bdi", "text", row.text || "(empty)"), make("span", "side", side)));
    fold.addEventListener("toggle", () => { if (fold.open && fold.children.length < 2) fold.append(details(row)); });
    return make("li", "", fold);
  }

  // Browser
  const rows = [...data.accepted, ...data.rejected];
  const haystacks = rows.map((row) => [row.id, row.text, row.match ?? "",
    ...(row.instances ?? []).flatMap((pair) => [pair.input, pair.output])].join("\n").toLowerCase());
  const KINDS = {
    "": () => true,
    accepted: (row) => !("reason" in row),
    rows: (row) => row.instances && row.instances.length > 0,
    bare: (row) => !("reason" in row) && !(row.instances && row.instances.length),
    rejected: (row) => "reason" in row,
  };
  let found = rows;
  let page = 0;
  function draw() {
    const pages = Math.max(1, Math.ceil(found.length / PAGE));
    page = Math.min(page, pages - 1);
    byId("list").replaceChildren(...found.slice(page * PAGE, (page + 1) * PAGE).map(item));
    byId("found").textContent = `${found.length.toLocaleString("en")} of ${rows.length.toLocaleString("en")} shown here match`;
    byId("place").textContent = `Page ${page + 1} of ${pages}`;
    byId("pages").hidden = pages < 2;
    byId("previous").disabled = page === 0;
    byId("next").disabled = page === pages - 1;
  }
  function search() {
    const words = byId("query").value.toLowerCase().split(/\s+/).filter(Boolean);
    const kind = KINDS[byId("kind").value];
    const reason = byId("reason").value;
    found = rows.filter((row, k) => kind(row) && words.every((word) => haystacks[k].includes(word))
      && (!reason || row.reason === reason || (row.rejected ?? []).some((pair) => pair.reason === reason)));
    page = 0;
    draw();
  }
  function turn(by) {
    page += by;
    draw();
    byId("rows").scrollIntoView();
  }
  byId("search").addEventListener("submit", (event) => event.preventDefault());
  for (const id of ["query", "kind", "reason"]) byId(id).addEventListener("input", search);
  byId("previous").addEventListener("click", () => turn(-1));
  byId("next").addEventListener("click", () => turn(1));
  byId("search").hidden = rows.length === 0;
  draw();
})();
