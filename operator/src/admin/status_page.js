// The status page. Data is shown by textContent alone; nothing here builds markup from it.
"use strict";

const POLL_MS = 2000;
const OLD_MS = 6000; // data older than this is called old
const ANSWER_MS = 10000; // an operator that takes longer counts as unreachable
const PAGE_CEPS = 200; // ClusterEndpoints drawn at a time
const PAGE_ENDPOINTS = 100; // endpoints of one ClusterEndpoint drawn at a time
const OPEN_WHEN_FOUND = 20; // a filter that finds no more ClusterEndpoints than this opens them

const byId = (id) => document.getElementById(id);
const RANK = { Unhealthy: 0, Unknown: 1, Healthy: 2 };
const MARKS = { Unhealthy: "✕", Unknown: "?", Healthy: "✓" };
const verdictOf = (endpoint) => (endpoint.verdict in RANK ? endpoint.verdict : "Unknown");

const state = {
  data: null,
  ceps: [], // derived from data, sorted
  skewMs: 0, // clock of the operator minus clock of this browser
  receivedAt: 0,
  resumedAt: 0, // when the page came back from the background, where it does not ask
  problem: null,
  query: [],
  show: "all",
  limit: PAGE_CEPS,
  toggled: new Map(), // key of a ClusterEndpoint -> open or not, as the reader wants it
  limits: new Map(), // key of a ClusterEndpoint -> endpoints drawn
};

// ---- Words

const plural = (n, word) => `${n.toLocaleString("en")} ${word}${n === 1 ? "" : "s"}`;

function span(seconds) {
  const s = Math.max(0, Math.floor(seconds));
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min`;
  if (s < 48 * 3600) return `${Math.floor(s / 3600)} h`;
  return `${Math.floor(s / 86400)} d`;
}

function milliseconds(ms) {
  if (ms >= 1000) return `${(ms / 1000).toFixed(ms >= 10000 ? 0 : 1)} s`;
  if (ms >= 10) return `${Math.round(ms)} ms`;
  return `${ms.toFixed(ms >= 1 ? 1 : 2)} ms`;
}

function absolute(timestamp) {
  const date = new Date(timestamp);
  return Number.isNaN(date.getTime()) ? "" : `${date.toLocaleString()} (${timestamp})`;
}

const operatorNow = () => Date.now() + state.skewMs;
const secondsSince = (timestamp) => (operatorNow() - Date.parse(timestamp)) / 1000;

// ---- Small tools for the DOM

// Browsers forget what a table is when it is laid out as cards, unless they are told.
const ROLES = { tbody: "rowgroup", tr: "row", td: "cell" };

function el(tag, className, ...children) {
  const node = document.createElement(tag);
  if (tag in ROLES) node.setAttribute("role", ROLES[tag]);
  if (className) node.className = className;
  node.append(...children);
  return node;
}

function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

function setTitle(node, title) {
  if (node.title !== title) node.title = title;
}

function setClass(node, className) {
  if (node.className !== className) node.className = className;
}

// Makes the children after `first` be exactly these, moving as few as possible.
function arrange(parent, nodes, first) {
  let at = first ? first.nextSibling : parent.firstChild;
  for (const node of nodes) {
    if (node === at) at = at.nextSibling;
    else parent.insertBefore(node, at);
  }
  while (at) {
    const next = at.nextSibling;
    at.remove();
    at = next;
  }
}

// ---- One endpoint: a row that is filled in again and again

class Row {
  constructor() {
    this.mark = el("span", "mark");
    this.mark.setAttribute("aria-hidden", "true");
    this.word = el("span", "word");
    this.doubt = el("small");
    this.host = el("span", "mono");
    this.address = el("small", "mono");
    this.port = el("span");
    this.check = el("small");
    this.traffic = el("span");
    this.trafficNote = el("small");
    this.since = el("time");
    this.reason = el("b");
    this.message = el("small");
    this.outcome = el("span");
    this.lastAt = el("small");
    this.next = el("span");
    this.why = this.cell("why", "", this.reason, this.message);
    this.node = el("tr", "endpoint",
      this.cell("verdict", "", el("span", "", this.mark, this.word), this.doubt),
      this.cell("host", "", this.host, this.address),
      this.cell("port", "Port and check", this.port, this.check),
      this.cell("traffic", "Traffic", this.traffic, this.trafficNote),
      this.cell("since", "Since", this.since),
      this.why,
      this.cell("last", "Last probe", this.outcome, this.lastAt),
      this.cell("next", "Next", this.next));
  }

  cell(className, label, ...children) {
    const cell = el("td", className, ...children);
    if (label) cell.dataset.label = label;
    return cell;
  }

  update(endpoint) {
    this.endpoint = endpoint;
    const verdict = verdictOf(endpoint);
    const healthy = verdict === "Healthy";
    const probed = endpoint.check !== "none";
    setClass(this.node, `endpoint ${verdict.toLowerCase()}`);
    setClass(this.mark, `mark ${verdict.toLowerCase()}`);
    setText(this.mark, MARKS[verdict]);
    setText(this.word, verdict);
    const { against, threshold, last } = endpoint;
    setText(this.doubt, against > 0 ? `in doubt, ${against}/${threshold}` : "");
    setTitle(this.doubt, against > 0 ? `${against} of the ${threshold} outcomes that change the verdict` : "");

    setText(this.host, endpoint.host);
    const address = endpoint.address ?? "no address";
    setText(this.address, address === endpoint.host ? "" : address);

    setText(this.port, endpoint.port);
    const named = endpoint.port !== String(endpoint.portNumber);
    const numbers = endpoint.portNumber === endpoint.targetPort
      ? (named ? `${endpoint.portNumber}` : "")
      : `${named ? endpoint.portNumber : ""}→${endpoint.targetPort}`;
    setText(this.check, [numbers, probed ? endpoint.check : "not probed"].filter(Boolean).join(" · "));
    setTitle(this.check, `port ${endpoint.portNumber} of the Service, ${endpoint.targetPort} of the host; `
      + (probed ? `probed every ${endpoint.periodSeconds} s` : "never probed, always served"));

    setText(this.traffic, endpoint.served ? "served" : "not served");
    const odd = endpoint.served !== healthy;
    setClass(this.traffic, odd ? "odd" : "");
    setText(this.trafficNote, odd && endpoint.served ? "all the same" : "");
    setTitle(this.trafficNote, odd && endpoint.served
      ? "Not healthy and served: the panic threshold of the ClusterEndpoint, or nobody has judged it yet" : "");

    const past = !endpoint.reason && last?.reason;
    setText(this.reason, endpoint.reason ?? (past ? `last: ${last.reason}` : ""));
    const message = endpoint.reason ? endpoint.message ?? "" : (past && last.message) || "";
    setText(this.message, message);
    setTitle(this.message, message);
    setClass(this.why, endpoint.reason ? "why" : past ? "why past" : "why none");

    setText(this.outcome, last ? `${last.outcome}, ${milliseconds(last.durationMs)}` : "–");
    setTitle(this.outcome, last ? [last.reason, last.message].filter(Boolean).join(": ") : "");
    this.since.dateTime = endpoint.since;
    setTitle(this.since, absolute(endpoint.since));
    if (last) setTitle(this.lastAt, absolute(last.at));
    this.tick();
  }

  // What changes as time goes by.
  tick() {
    const { since, last, nextProbe, check, address } = this.endpoint;
    setText(this.since, `${span(secondsSince(since))} ago`);
    setText(this.lastAt, last ? `${span(secondsSince(last.at))} ago` : "");
    if (nextProbe) {
      const left = -secondsSince(nextProbe);
      setText(this.next, left > 0 ? `in ${span(Math.ceil(left))}` : "due");
      setTitle(this.next, absolute(nextProbe));
    } else {
      setText(this.next, check === "none" || address === null ? "–" : "running");
      setTitle(this.next, "");
    }
  }
}

// ---- One ClusterEndpoint: a line that opens, and its rows

class Group {
  constructor(key) {
    this.key = key;
    this.rows = [];
    this.mark = el("span", "mark");
    this.mark.setAttribute("aria-hidden", "true");
    this.namespace = el("span", "muted");
    this.name = el("b");
    this.counts = el("b");
    this.reasons = el("span");
    this.served = el("b");
    this.chevron = el("span", "chevron");
    this.button = el("button", "", this.chevron, this.mark,
      el("span", "title", this.namespace, this.name),
      el("span", "troubles", this.counts, this.reasons),
      (this.traffic = el("span", "served", this.served, " served")));
    this.button.type = "button";
    this.button.addEventListener("click", () => {
      state.toggled.set(this.key, this.button.getAttribute("aria-expanded") !== "true");
      draw();
    });
    const head = el("th", "", this.button);
    head.colSpan = 8;
    head.scope = "rowgroup";
    this.head = el("tr", "cep", head);
    this.moreButton = el("button");
    this.moreButton.type = "button";
    this.moreButton.addEventListener("click", () => {
      state.limits.set(this.key, (state.limits.get(this.key) ?? PAGE_ENDPOINTS) + PAGE_ENDPOINTS * 5);
      draw();
    });
    const rest = el("td", "", this.moreButton);
    rest.colSpan = 8;
    this.rest = el("tr", "rest", rest);
    this.node = el("tbody", "", this.head);
  }

  update(cep, endpoints, open) {
    setClass(this.head, `cep ${cep.worst.toLowerCase()}`);
    setClass(this.mark, `mark ${cep.worst.toLowerCase()}`);
    setText(this.mark, MARKS[cep.worst]);
    setText(this.namespace, `${cep.namespace}/`);
    setText(this.name, cep.name);
    setText(this.counts, cep.summary);
    setText(this.reasons, open ? "" : cep.reasons);
    setText(this.served, `${cep.served}/${cep.endpoints.length}`);
    setClass(this.traffic, cep.served === 0 && cep.endpoints.length > 0 ? "served none" : "served");
    this.button.setAttribute("aria-expanded", String(open));

    const limit = open ? state.limits.get(this.key) ?? PAGE_ENDPOINTS : 0;
    const drawn = endpoints.slice(0, limit);
    while (this.rows.length < drawn.length) this.rows.push(new Row());
    this.rows.length = drawn.length;
    drawn.forEach((endpoint, index) => this.rows[index].update(endpoint));
    const nodes = [this.head, ...this.rows.map((row) => row.node)];
    const left = endpoints.length - drawn.length;
    if (open && left > 0) {
      setText(this.moreButton, `Show more of ${cep.name} (${left.toLocaleString("en")} left)`);
      nodes.push(this.rest);
    }
    arrange(this.node, nodes, null);
  }
}

// ---- From data to what is shown

function derive(cep) {
  const counts = { Unhealthy: 0, Unknown: 0, Healthy: 0 };
  const reasons = new Map();
  let served = 0;
  let doubt = 0;
  for (const endpoint of cep.endpoints) {
    counts[verdictOf(endpoint)] += 1;
    if (endpoint.served) served += 1;
    if (endpoint.against > 0) doubt += 1;
    if (endpoint.reason) reasons.set(endpoint.reason, (reasons.get(endpoint.reason) ?? 0) + 1);
  }
  const worst = counts.Unhealthy ? "Unhealthy" : counts.Unknown ? "Unknown" : "Healthy";
  const summary = [
    counts.Unhealthy ? `${counts.Unhealthy.toLocaleString("en")} unhealthy` : "",
    counts.Unknown ? `${counts.Unknown.toLocaleString("en")} unknown` : "",
    doubt ? `${doubt.toLocaleString("en")} in doubt` : "",
  ].filter(Boolean).join(", ");
  const common = [...reasons].sort((a, b) => b[1] - a[1]).slice(0, 3).map(([reason]) => reason);
  return {
    key: `${cep.namespace}/${cep.name}`,
    namespace: cep.namespace,
    name: cep.name,
    // The order of the spec within each verdict: sort is stable.
    endpoints: [...cep.endpoints].sort((a, b) => RANK[verdictOf(a)] - RANK[verdictOf(b)]),
    counts, served, worst, summary,
    reasons: common.length ? ` · ${common.join(", ")}` : "",
  };
}

function wanted(endpoint) {
  const verdict = verdictOf(endpoint);
  switch (state.show) {
    case "not-healthy": return verdict !== "Healthy";
    case "unhealthy": return verdict === "Unhealthy";
    case "unknown": return verdict === "Unknown";
    default: return true;
  }
}

// Every word has to be found, each in the ClusterEndpoint's name or in the endpoint itself.
function select(cep) {
  let endpoints = cep.endpoints;
  if (state.show !== "all") endpoints = endpoints.filter(wanted);
  const missing = state.query.filter((word) => !cep.key.toLowerCase().includes(word));
  if (missing.length === 0) return endpoints;
  return endpoints.filter((endpoint) => {
    const text = [endpoint.host, endpoint.address, endpoint.port, endpoint.check, endpoint.reason, endpoint.last?.reason]
      .join(" ").toLowerCase();
    return missing.every((word) => text.includes(word));
  });
}

const groups = new Map();

function draw() {
  if (!state.data) return;
  const filtered = state.query.length > 0 || state.show !== "all";
  const found = [];
  let endpoints = 0;
  for (const cep of state.ceps) {
    const chosen = select(cep);
    if (chosen.length === 0 && (filtered || cep.endpoints.length > 0)) continue;
    found.push([cep, chosen]);
    endpoints += chosen.length;
  }
  const openAll = state.query.length > 0 && found.length <= OPEN_WHEN_FOUND;
  const shown = found.slice(0, state.limit).map(([cep, chosen]) => {
    let group = groups.get(cep.key);
    if (!group) groups.set(cep.key, (group = new Group(cep.key)));
    group.update(cep, chosen, state.toggled.get(cep.key) ?? (openAll || cep.worst !== "Healthy"));
    return group;
  });
  const list = byId("list");
  arrange(list, shown.map((group) => group.node), list.tHead);
  const kept = new Set(shown.map((group) => group.key));
  for (const key of groups.keys()) if (!kept.has(key)) groups.delete(key);

  const left = found.length - shown.length;
  list.hidden = found.length === 0;
  byId("more").hidden = left <= 0;
  setText(byId("more"), `Show more (${plural(left, "ClusterEndpoint")} left)`);
  byId("nothing").hidden = found.length > 0;
  byId("clear").hidden = !filtered;
  const nothing = !filtered ? "Nothing is probed here yet: there is no ClusterEndpoint (kubectl get cep -A)."
    : state.query.length === 0 ? "Nothing of that kind. All is well."
    : "Nothing matches.";
  setText(byId("nothing-text"), nothing);
  if (filtered) setText(byId("showing"), `${plural(endpoints, "endpoint")} of ${plural(found.length, "ClusterEndpoint")} shown`);
  else setText(byId("showing"), "");
}

function drawTotals() {
  const { data, ceps } = state;
  const totals = { Unhealthy: 0, Unknown: 0, Healthy: 0 };
  for (const cep of ceps) for (const verdict in totals) totals[verdict] += cep.counts[verdict];
  const all = totals.Unhealthy + totals.Unknown + totals.Healthy;
  const troubled = totals.Unhealthy + totals.Unknown;
  const number = (id, n) => setText(byId(id), n.toLocaleString("en"));
  number("count-all", all);
  number("count-not-healthy", troubled);
  number("count-unhealthy", totals.Unhealthy);
  number("count-unknown", totals.Unknown);
  number("count-ceps", ceps.length);
  number("count-targets", data.targets);
  for (const part of byId("proportion").children) {
    const verdict = Object.keys(totals).find((name) => name.toLowerCase() === part.className);
    part.style.flexGrow = String(totals[verdict]);
    // A single sick host among thousands must still be seen.
    part.style.minWidth = totals[verdict] ? "4px" : "0";
    part.hidden = totals[verdict] === 0;
  }
  setText(byId("version"), data.version);
  setText(byId("identity"), data.identity);
  const role = byId("role");
  role.hidden = false;
  setText(role, data.leader ? "leader" : "standby");
  setClass(role, data.leader ? "pill leader" : "pill");
  setTitle(role, data.leader ? "This instance holds the Lease and writes" : "Probes as the leader does, and writes nothing");
  byId("uptime").dateTime = data.started;
  setTitle(byId("uptime"), `since ${absolute(data.started)}`);
  byId("blind").hidden = !data.blind;
  const notes = [data.blind ? "blind" : "", troubled ? `${troubled.toLocaleString("en")} not healthy` : ""].filter(Boolean);
  document.title = [...notes, "endpoints-operator"].join(" · ");
}

// Once a second: ages, countdowns, and whether the data is old.
function tick() {
  if (document.hidden) return;
  const age = Date.now() - state.receivedAt;
  const waited = Date.now() - Math.max(state.receivedAt, state.resumedAt);
  const old = state.problem !== null || (state.data !== null && waited > Math.max(OLD_MS, 2 * pollDelay));
  const freshness = byId("freshness");
  if (!state.data) setText(freshness, state.problem ? "none" : "loading");
  else setText(freshness, old ? `${span(age / 1000)} old` : waited < age ? "updating" : "live");
  setClass(freshness, `freshness ${old ? "old" : state.data ? "live" : ""}`.trim());
  document.body.classList.toggle("stale", old && state.data !== null);
  byId("unreachable").hidden = !old;
  if (old) {
    const what = state.data
      ? `What you see below is from ${new Date(state.receivedAt).toLocaleTimeString()} and may be wrong by now.`
      : "There is nothing to show yet.";
    const why = state.problem ?? "it has not answered lately";
    setText(byId("unreachable-text"), `${what} The last attempt: ${why}. Trying again every few seconds.`);
  }
  if (!state.data) return;
  setText(byId("uptime"), span(secondsSince(state.data.started)));
  if (!old) for (const group of groups.values()) for (const row of group.rows) row.tick();
}

// ---- The operator

let timer = 0;
let polling = false;
let pollDelay = POLL_MS;

async function poll() {
  if (polling || document.hidden) return;
  clearTimeout(timer);
  polling = true;
  const begun = performance.now();
  try {
    const options = { cache: "no-store", signal: AbortSignal.timeout(ANSWER_MS) };
    const response = await fetch("api/v1/overview", options);
    if (!response.ok) {
      throw new Error(`it answered with status ${response.status}: ${(await response.text()).trim().slice(0, 200)}`);
    }
    const data = await response.json();
    state.skewMs = Date.parse(data.now) - Date.now();
    state.ceps = data.ceps.map(derive).sort((a, b) => RANK[a.worst] - RANK[b.worst]);
    state.data = data;
    state.receivedAt = Date.now();
    state.problem = null;
    drawTotals();
    draw();
  } catch (error) {
    state.problem = error.name === "TimeoutError" ? `no answer within ${ANSWER_MS / 1000} s`
      : error instanceof TypeError ? "it cannot be reached" : error.message;
  }
  polling = false;
  tick();
  // Much data over a slow way: leave time between.
  pollDelay = Math.max(POLL_MS, 4 * (performance.now() - begun));
  timer = setTimeout(poll, Math.min(pollDelay, 30000));
}

// ---- The reader

function readHash() {
  const hash = new URLSearchParams(location.hash.slice(1));
  byId("filter").value = hash.get("q") ?? "";
  const show = hash.get("show") ?? "all";
  const radios = [...byId("controls").elements.show];
  (radios.find((radio) => radio.value === show) ?? radios[0]).checked = true;
  applyControls();
}

function applyControls() {
  const text = byId("filter").value.trim();
  state.query = text.toLowerCase().split(/\s+/).filter(Boolean);
  state.show = byId("controls").elements.show.value;
  state.limit = PAGE_CEPS;
  const hash = new URLSearchParams();
  if (text) hash.set("q", text);
  if (state.show !== "all") hash.set("show", state.show);
  const wantedHash = hash.size ? `#${hash}` : "";
  if (location.hash !== wantedHash) history.replaceState(null, "", wantedHash || location.pathname + location.search);
  draw();
}

byId("controls").addEventListener("submit", (event) => event.preventDefault());
byId("controls").addEventListener("input", applyControls);
byId("clear").addEventListener("click", () => {
  byId("controls").reset();
  applyControls();
  byId("filter").focus();
});
byId("more").addEventListener("click", () => {
  state.limit += PAGE_CEPS;
  draw();
});
new IntersectionObserver((entries) => {
  if (entries.some((entry) => entry.isIntersecting) && !byId("more").hidden) byId("more").click();
}, { rootMargin: "400px" }).observe(byId("more"));
document.addEventListener("keydown", (event) => {
  if (event.key === "/" && event.target !== byId("filter") && !event.ctrlKey && !event.metaKey && !event.altKey) {
    event.preventDefault();
    byId("filter").focus();
  }
});
document.addEventListener("visibilitychange", () => {
  state.resumedAt = Date.now();
  poll();
});
window.addEventListener("hashchange", readHash);

readHash();
setInterval(tick, 1000);
poll();
