/* What a script adds to the page: it renews what stands in `#live...` when the service says that something changed, and
   draws the charts so that one can zoom into them. Without it the same page is there, as of when it was loaded. */
(function () {
  "use strict";
  var body = document.body, live = body.dataset.live, status = document.getElementById("status");
  var etag = null, asking = false, again = false, lostSince = null, pushed = false, lastMs = Date.now();
  // The service's clock, not the reader's: a phone may be wrong.
  var ahead = Number(body.dataset.now) - Date.now();

  function two(n) { return (n < 10 ? "0" : "") + n; }
  function clock(ms) { var d = new Date(ms); return two(d.getUTCHours()) + ":" + two(d.getUTCMinutes()) + ":" + two(d.getUTCSeconds()); }
  function say(text, lost) { if (status.textContent !== text) { status.textContent = text; } status.classList.toggle("lost", !!lost); }
  function span(ms) {
    var minutes = Math.round(ms / 60000), days = Math.floor(minutes / 1440), hours = Math.floor(minutes % 1440 / 60), left = minutes % 60;
    if (days) { return days + " d" + (hours ? " " + hours + " h" : ""); }
    if (hours) { return hours + " h" + (left ? " " + left + " min" : ""); }
    return left + " min";
  }
  function ages() {
    if (body.hasAttribute("data-event-time")) { return; }
    var now = Date.now() + ahead;
    document.querySelectorAll(".ago[data-ms]").forEach(function (one) {
      var past = now - Number(one.dataset.ms);
      one.textContent = "(" + (past <= -60000 ? "in " + span(-past) : past < 60000 ? "just now" : span(past) + " ago") + ")";
    });
  }

  /* --- charts --- */
  var charts = [];
  function colour(name) { return getComputedStyle(document.documentElement).getPropertyValue(name).trim(); }
  function utcDate(at) { return uPlot.tzDate(new Date(at * 1e3), "Etc/UTC"); }
  function shade(data) {
    return function (u) {
      var c = u.ctx;
      c.save();
      c.fillStyle = colour("--veil");
      ["long", "short"].forEach(function (side) {
        data.spans[side].forEach(function (s) {
          if (s[2] !== "REDUCING" && s[2] !== "HALTED") { return; }
          var from = Math.max(u.valToPos(s[0], "x", true), u.bbox.left), to = Math.min(u.valToPos(s[1], "x", true), u.bbox.left + u.bbox.width);
          if (to > from) { c.fillRect(from, u.bbox.top, to - from, u.bbox.height); }
        });
      });
      c.restore();
    };
  }
  function axes(digits) {
    function when(_u, found) {
      return found.map(function (at) { var d = new Date(at * 1e3), h = d.getUTCHours(), m = d.getUTCMinutes(); return h || m ? two(h) + ":" + two(m) : two(d.getUTCMonth() + 1) + "-" + two(d.getUTCDate()); });
    }
    var ink = { stroke: colour("--soft"), grid: { stroke: colour("--line"), width: 1 }, ticks: { stroke: colour("--line"), width: 1 } };
    return [Object.assign({ values: when }, ink), Object.assign({ size: function (u) { return Math.max(u.width * 84 / 900, 58); }, values: digits && function (_u, found) { return found.map(function (v) { return v.toFixed(digits); }); } }, ink)];
  }
  function steps(data) {
    var edges = {};
    ["long", "short"].forEach(function (side) { data.spans[side].forEach(function (s) { edges[s[0]] = edges[s[1]] = 1; }); });
    var times = Object.keys(edges).map(Number).sort(function (a, b) { return a - b; });
    function value(side, at, which) {
      var found = null;
      data.spans[side].forEach(function (s) { if (s[0] <= at && (at < s[1] || at === data.end)) { found = s[which]; } });
      return found;
    }
    return [times].concat([["long", 3], ["short", 3], ["long", 4], ["short", 4]].map(function (w) {
      return times.map(function (at) { return value(w[0], at, w[1]); });
    }));
  }
  function draw() {
    charts.forEach(function (u) { u.destroy(); });
    charts = [];
    var holder = document.querySelector("[data-chart] .chart-data");
    if (!holder || typeof uPlot === "undefined") { return; }
    var data = JSON.parse(holder.textContent), sync = uPlot.sync("stream");
    function place(name, height, options, values) {
      var figure = document.querySelector(name), picture = figure && figure.querySelector(".picture");
      if (!picture || !picture.clientWidth && !figure.clientWidth) { return; }
      var div = document.createElement("div");
      div.className = "chart";
      div.setAttribute("role", "img");
      div.setAttribute("aria-label", picture.getAttribute("aria-label"));
      picture.replaceWith(div);
      charts.push(new uPlot(Object.assign({
        // As far from the edges as the bands of the states below; on a phone figures that can be read go before that.
        width: figure.clientWidth, height: height, padding: [8, function (u) { return u.width * 22 / 900; }, 0, 0], tzDate: utcDate, cursor: { sync: { key: sync.key }, drag: { x: true, y: false } },
        scales: { x: { range: function (_u, low, high) { return [low === null ? data.start : low, high === null ? data.end : high]; } } }
      }, options), values, div));
    }
    var line = colour("--ink"), blue = colour("--blue"), amber = colour("--amber"), when = { label: "UTC", value: "{YYYY}-{MM}-{DD} {HH}:{mm}" };
    place(".chart-price", 260, { axes: axes(0), series: [when, { label: "price", stroke: line, width: 1.2, points: { show: false } }], hooks: { drawClear: [shade(data)] } }, [data.times, data.closes]);
    var figure = document.querySelector(".chart-price .chart");
    if (figure) {
      var hint = document.createElement("p");
      hint.className = "chart-hint";
      hint.textContent = "Drag over a chart to look closer, double-click to go back.";
      figure.after(hint);
    }
    var stepped = { paths: uPlot.paths.stepped({ align: 1 }), points: { show: false }, width: 2 };
    place(".chart-thresholds", 200, { axes: axes(2), series: [when].concat([["enter long", blue], ["enter short", blue, [6, 4]], ["leave long", amber], ["leave short", amber, [6, 4]]].map(function (w) {
      return Object.assign({ label: w[0], stroke: w[1], dash: w[2] }, stepped);
    })) }, steps(data));
  }

  /* --- news --- */
  var shown = new Map();
  function plain(text) { return text.replace(/\([^()]*(ago|now|in [^()]*)\)/g, ""); }
  function remember(one, html, text) { shown.set(one.id, { html: html, text: plain(text) }); }
  function renew(text) {
    var fresh = new DOMParser().parseFromString(text, "text/html"), chart = false;
    document.querySelectorAll("[id^=live]").forEach(function (old) {
      var now = fresh.getElementById(old.id), was = shown.get(old.id);
      if (!now || was.html === now.innerHTML) { return; }
      // Whoever is in it with the keyboard stays where he is.
      var able = "a, button, input, summary, [tabindex]", here = Array.from(old.querySelectorAll(able)), at = here.indexOf(document.activeElement), mark = at < 0 ? null : document.activeElement.getAttribute("href");
      var open = Array.from(old.querySelectorAll("details")).map(function (d) { return d.open; });
      remember(old, now.innerHTML, now.textContent);
      old.replaceChildren.apply(old, Array.from(now.childNodes));
      old.querySelectorAll("details").forEach(function (d, i) { d.open = !!open[i]; });
      if (at >= 0) {
        var there = Array.from(old.querySelectorAll(able)), same = there.filter(function (one) { return mark !== null && one.getAttribute("href") === mark; })[0] || there[at];
        if (same) { same.focus({ preventScroll: true }); }
      }
      if (was.text !== shown.get(old.id).text) { old.classList.remove("fresh"); void old.offsetWidth; old.classList.add("fresh"); }
      chart = chart || old.hasAttribute("data-chart");
    });
    document.title = fresh.title;
    ahead = Number(fresh.body.dataset.now) - Date.now();
    if (chart) { draw(); }
    ages();
  }
  function look() {
    if (asking) { again = true; return; }
    asking = true;
    var limit = new AbortController(), timer = setTimeout(function () { limit.abort(); }, 10000);
    fetch(location.pathname + location.search, { headers: etag ? { "If-None-Match": etag } : {}, signal: limit.signal, cache: "no-store", redirect: "error" }).then(function (answer) {
      if (answer.status === 304) { return null; }
      if (answer.status === 401 || (answer.ok && !answer.headers.get("ETag"))) { throw new Error("logged out"); }
      if (!answer.ok) { throw new Error("answered " + answer.status); }
      etag = answer.headers.get("ETag");
      return answer.text();
    }).then(function (text) {
      lostSince = null;
      lastMs = Date.now();
      if (text !== null) { renew(text); }
      told();
    }).catch(function (error) {
      lostSince = lostSince || lastMs;
      say(error.message === "logged out" ? "You are logged out: load the page again to log in" : (error.message.indexOf("answered") ? "No connection" : "The service " + error.message) + " since " + clock(lostSince + ahead) + " UTC: what you see is old", true);
    }).finally(function () {
      clearTimeout(timer);
      asking = false;
      if (again) { again = false; setTimeout(look, 500); }
    });
  }
  function told() { say((pushed ? "Live" : "Looks every 3 s") + ", " + clock(lastMs + (body.hasAttribute("data-event-time") ? 0 : ahead)) + " UTC"); }
  var due = null;
  function soon() { if (due === null) { due = setTimeout(function () { due = null; look(); }, 400); } }
  function poll() { if (!document.hidden) { look(); } }

  document.querySelectorAll("[id^=live]").forEach(function (one) { remember(one, one.innerHTML, one.textContent); });
  draw();
  ages();
  if (live) {
    setInterval(ages, 30000);
    var timer = null;
    var ask = function () { if (timer === null) { timer = setInterval(poll, 3000); } };
    if (live !== "poll" && window.EventSource) {
      var source = new EventSource(live);
      source.addEventListener("open", function () { pushed = true; clearInterval(timer); timer = null; look(); });
      source.addEventListener("thresholds", soon);
      source.addEventListener("lease", soon);
      source.addEventListener("closing", soon);
      source.addEventListener("error", function () { pushed = false; ask(); });
    } else { ask(); }
    document.addEventListener("visibilitychange", poll);
    look();
  }
  var wide = window.innerWidth, drawn = null;
  window.addEventListener("resize", function () {
    if (window.innerWidth === wide) { return; }
    wide = window.innerWidth;
    clearTimeout(drawn);
    drawn = setTimeout(function () { charts.forEach(function (u) { u.setSize({ width: u.root.parentNode.parentNode.clientWidth, height: u.height }); }); }, 150);
  });
  window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", function () { location.reload(); });
})();
