"use strict";
// Draws the charts of a report by uPlot, and lets them be read and zoomed by mouse, touch and keyboard. What is shown
// comes from the JSON in the page and goes into it as text, never as HTML.
(() => {
  const root = document.documentElement;
  const { columns, charts: specs } = JSON.parse(document.getElementById("data").textContent);
  const colour = (name) => getComputedStyle(root).getPropertyValue(`--${name}`).trim();

  function make(tag, parent, properties = {}) {
    const element = Object.assign(document.createElement(tag), properties);
    parent.append(element);
    return element;
  }

  function show(value, digits = 4) {
    if (value == null) return "–";
    const size = Math.abs(value);
    if (size !== 0 && (size < 1e-4 || size >= 1e7)) {
      return value.toExponential(digits - 1).replace(/\.?0+e/, "e").replace("e+", "e");
    }
    return Number.isInteger(value) ? value.toLocaleString("en-US") : String(Number(value.toPrecision(digits)));
  }

  // Ticks of a logarithmic axis: powers of ten; where there are few, more; in less than that, even ones. (uPlot's own
  // never end on a range that does not begin at a round number.)
  function powers(low, high, most) {
    const exponents = Array.from({ length: Math.ceil(Math.log10(high / low)) + 2 }, (_, index) => Math.floor(Math.log10(low)) + index);
    for (const digits of [[1], [1, 2, 5], [1, 2, 3, 4, 5, 6, 7, 8, 9]]) {
      const ticks = exponents.flatMap((exponent) => digits.map((digit) => Number(`${digit}e${exponent}`)));
      const seen = ticks.filter((tick) => tick >= low && tick <= high);
      if (seen.length > 2) return seen.filter((_, index) => index % Math.ceil(seen.length / most) === 0);
    }
    return [0.1, 0.5, 0.9].map((part) => Number((low + part * (high - low)).toPrecision(3)));
  }

  function power(value) {
    const exponent = Math.round(Math.log10(value));
    if (Math.abs(exponent) < 3 || value !== Number(`1e${exponent}`)) return show(value);
    return "10" + String(exponent).replace(/./g, (sign) => "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"["-0123456789".indexOf(sign)]);
  }

  function swatch(series) {
    const picture = document.getElementById("swatch").content.firstElementChild.cloneNode(true);
    const [line, dot] = picture.children;
    for (const part of [line, dot]) part.style.setProperty("--swatch", `var(--${series.colour})`);
    line.setAttribute("stroke-dasharray", series.dash.join(" "));
    if (!series.width) line.remove();
    if (!series.points) dot.remove();
    return picture;
  }

  class Chart {
    constructor(spec, figure) {
      this.spec = spec;
      this.hidden = new Set();
      this.logarithmic = spec.log_y;
      this.active = false; // whether values are read off this chart, and not off one that is linked with it
      // Curves with the same x are one table; the tables are joined.
      const xs = [...new Set(spec.series.map((series) => series.x))];
      this.series = xs.flatMap((x) => spec.series.filter((series) => series.x === x));
      this.joined = uPlot.join(xs.map((x) => [
        columns[x], ...this.series.filter((series) => series.x === x).map((series) => columns[series.y]),
      ]));
      const x = this.joined[0];
      this.whole = [x[0], x.at(-1)];
      this.furnish(figure);
    }

    furnish(figure) {
      const { spec } = this;
      const tools = make("div", figure, { className: "tools" });
      const legend = make("div", tools, { className: "legend" });
      for (const series of spec.series) {
        const button = make("button", legend, { type: "button" });
        button.setAttribute("aria-pressed", "true");
        button.append(swatch(series), series.label);
        button.onclick = () => this.toggle(series, button);
      }
      const zoom = make("div", tools, { className: "zoom" });
      const button = (text, name, act) => {
        const one = make("button", zoom, { type: "button", textContent: text, title: name, onclick: act });
        one.setAttribute("aria-label", `${spec.title}: ${name}`);
        return one;
      };
      if (spec.log_y != null) {
        const log = button("log", "logarithmic height", () => {
          this.logarithmic = !this.logarithmic;
          log.setAttribute("aria-pressed", String(this.logarithmic));
          this.build();
        });
        log.setAttribute("aria-pressed", String(this.logarithmic));
      }
      button("−", "zoom out", () => this.zoom(2));
      button("+", "zoom in", () => this.zoom(0.5));
      this.reset = button("all", "show all", () => this.look(this.whole));
      this.box = make("div", figure, { className: "plot", tabIndex: 0 });
      this.box.setAttribute("role", "group");
      this.box.setAttribute("aria-roledescription", "chart");
      this.box.setAttribute("aria-label",
        `${spec.title}: ${spec.series.map((series) => series.label).join(", ")} over ${spec.x_label}. ` +
        "Arrow keys read values, plus and minus zoom, 0 shows all.");
      this.live = make("output", figure, { className: "unseen" });
      this.listen();
    }

    // -- drawing ----------------------------------------------------------------------------------------------

    build() {
      const view = this.view ?? this.whole;
      this.plot?.destroy();
      this.box.replaceChildren();
      const narrow = this.box.clientWidth < 520;
      this.pins = make("div", this.box, { className: "pins" });
      this.flags = this.spec.pins.map((pin) => {
        const flag = make("span", this.pins, { className: "pin", textContent: pin.text });
        flag.classList.toggle("pick", pin.colour !== "ink");
        flag.style.setProperty("--pin", `var(--${pin.colour})`);
        return flag;
      });
      this.width = this.box.clientWidth;
      this.plot = new uPlot(this.options(narrow), this.joined, this.box);
      this.box.append(this.pins);
      this.tip = make("div", this.box, { className: "tip", hidden: true });
      this.look(view);
    }

    options(narrow) {
      const { spec } = this;
      const text = { stroke: () => colour("dim"), font: "12px system-ui, sans-serif", labelFont: "12px system-ui, sans-serif" };
      const line = { stroke: () => colour("grid"), width: 1 };
      const lines = { grid: line, ticks: { ...line, size: 5 } };
      const scale = (logarithmic, most) => logarithmic
        ? { ...lines, splits: (u, axis, low, high) => powers(low, high, most), filter: (u, ticks) => ticks, values: (u, ticks) => ticks.map(power) }
        : { ...lines, values: (u, ticks) => ticks.map((tick) => show(tick)) };
      const side = { ...text, size: narrow ? 46 : 56, label: spec.y_label, labelSize: 18, labelGap: 0 };
      const axes = [
        { ...text, ...scale(spec.log_x, narrow ? 5 : 9), label: spec.x_label + (spec.log_x ? " (log scale)" : ""), labelSize: 18, labelGap: 0,
          size: 34, space: narrow ? 50 : 70 },
        { ...side, ...scale(this.logarithmic, 9), scale: "y" },
      ];
      if (spec.right_label) {
        axes.push({ ...side, ...scale(false), grid: { show: false }, scale: "right", side: 1, label: spec.right_label });
      }
      const limited = (u, low, high, key) => this.limits(low, high, key);
      return {
        width: this.width,
        height: (narrow ? 250 : 310) + this.headroom(),
        padding: [8 + this.headroom(), spec.right_label ? 0 : 24, 0, 0],
        legend: { show: false },
        scales: {
          x: { time: false, distr: spec.log_x ? 3 : 1, range: (u, low, high) => [low, high] },
          y: { distr: this.logarithmic ? 3 : 1, range: limited },
          right: { range: limited },
        },
        axes,
        series: [{}, ...this.series.map((series) => this.look_of(series))],
        cursor: {
          y: false,
          points: { size: 8, width: 2, fill: () => colour("panel"), stroke: (u, i) => colour(this.series[i - 1].colour) },
          drag: { x: true, y: false, dist: 6 },
          bind: { dblclick: () => () => { this.look(this.whole); return null; } },
          ...(spec.link && { sync: {
            key: spec.link, setSeries: false, scales: ["x", null],
            filters: { pub: (kind) => kind.startsWith("mousemove") || kind === "mouseleave" },
          } }),
        },
        hooks: {
          drawClear: [(u) => this.paint_ground(u)],
          draw: [(u) => this.paint_pins(u)],
          setCursor: [() => this.read()],
          setScale: [(u, key) => { if (key === "x") this.seen([u.scales.x.min, u.scales.x.max]); }],
        },
      };
    }

    look_of(series) {
      return {
        label: series.label,
        scale: series.right ? "right" : "y",
        show: !this.hidden.has(series),
        stroke: () => colour(series.colour),
        alpha: series.colour === "raw" ? 0.65 : 1,
        width: series.width,
        dash: series.dash,
        points: { show: series.points, size: series.width ? 6 : 4, fill: () => colour(series.colour), width: 0 },
        ...(!series.width && { paths: () => null }),
      };
    }

    limits(low, high, key) {
      const all = this.near(this.view ?? this.whole, this.whole);
      if (key === "y" && all && this.spec.limits && !this.logarithmic) return this.spec.limits;
      if (low == null) return this.logarithmic && key === "y" ? [0.1, 1] : [0, 1]; // nothing in view
      if (key === "y" && this.logarithmic) return [low / 1.25, high * 1.25];
      const room = 0.06 * (high - low) || 0.1 * Math.abs(high) || 1;
      return [low - room, high + (this.spec.spans.length ? 2.5 : 1) * room]; // spans have their names at the top
    }

    // Phases, trust range and levels, under the grid.
    paint_ground(u) {
      const { ctx, bbox } = u;
      const at = (x) => Math.min(Math.max(u.valToPos(x, "x", true), bbox.left), bbox.left + bbox.width);
      ctx.save();
      ctx.font = `${12 * uPlot.pxRatio}px system-ui, sans-serif`;
      ctx.textBaseline = "top";
      this.spec.spans.forEach(([name, start, end], index) => {
        const [left, right] = [at(start), at(end)];
        if (index % 2) {
          ctx.fillStyle = colour("tint");
          ctx.fillRect(left, bbox.top, right - left, bbox.height);
        }
        if (ctx.measureText(name).width < right - left) {
          ctx.fillStyle = colour("dim");
          ctx.textAlign = "center";
          ctx.fillText(name, (left + right) / 2, bbox.top + 5 * uPlot.pxRatio);
        }
      });
      if (this.spec.band) {
        const [left, right] = this.spec.band.map(at);
        ctx.fillStyle = colour("band");
        ctx.fillRect(left, bbox.top, right - left, bbox.height);
      }
      ctx.strokeStyle = ctx.fillStyle = colour("dim");
      ctx.textAlign = "left";
      ctx.textBaseline = "top";
      for (const [name, height] of this.spec.levels) {
        const y = u.valToPos(height, "y", true);
        if (y < bbox.top || y > bbox.top + bbox.height) continue;
        ctx.setLineDash([2, 4].map((length) => length * uPlot.pxRatio));
        this.stroke(ctx, bbox.left, y, bbox.left + bbox.width, y, 1);
        ctx.fillText(name, bbox.left + 6 * uPlot.pxRatio, y + 5 * uPlot.pxRatio);
      }
      ctx.restore();
    }

    stroke(ctx, left, top, right, bottom, width) {
      ctx.lineWidth = width * uPlot.pxRatio;
      ctx.beginPath();
      ctx.moveTo(left, top);
      ctx.lineTo(right, bottom);
      ctx.stroke();
    }

    // How much is left free above the curves for the flags of pins: as many rows as they need side by side.
    headroom() {
      const [first, last] = this.whole.map(Math.log);
      const scale = (this.width - 80) / (last - first);
      return 22 * this.rows(this.spec.pins.map((pin) => (Math.log(pin.x) - first) * scale)).count;
    }

    rows(positions) {
      const ends = [];
      const rows = [];
      for (const index of positions.map((_, index) => index).sort((a, b) => positions[a] - positions[b])) {
        const half = this.flags[index].offsetWidth / 2 + 1;
        let row = ends.findIndex((end) => end <= positions[index] - half);
        if (row < 0) row = ends.length;
        ends[row] = positions[index] + half;
        rows[index] = row;
      }
      return { rows, count: ends.length };
    }

    paint_pins(u) {
      const { ctx, bbox } = u;
      const ratio = uPlot.pxRatio;
      const [left, top] = [bbox.left / ratio, bbox.top / ratio];
      const { min, max } = u.scales.x;
      const places = this.spec.pins.map((pin) => left + u.valToPos(pin.x, "x"));
      const { rows } = this.rows(places);
      const deepest = Math.max(1, Math.round((top - 8) / 22)) - 1;
      ctx.save();
      this.spec.pins.forEach((pin, index) => {
        const flag = this.flags[index];
        flag.hidden = !(pin.x >= min && pin.x <= max);
        if (flag.hidden) return;
        const height = top - 22 * (Math.min(rows[index], deepest) + 1);
        flag.style.transform = `translate(${places[index] - flag.offsetWidth / 2}px, ${height}px)`;
        const foot = pin.y == null ? Infinity : u.valToPos(pin.y, "y", true);
        const bottom = Math.max(bbox.top, Math.min(foot, bbox.top + bbox.height));
        ctx.strokeStyle = ctx.fillStyle = colour(pin.colour === "ink" ? "dim" : pin.colour);
        ctx.setLineDash(pin.y == null ? [6 * ratio, 4 * ratio] : []);
        this.stroke(ctx, places[index] * ratio, (height + 20) * ratio, places[index] * ratio, bottom, pin.y == null ? 1.8 : 1);
        if (foot === bottom) {
          ctx.beginPath();
          ctx.arc(places[index] * ratio, foot, 3.5 * ratio, 0, 2 * Math.PI);
          ctx.fill();
        }
      });
      ctx.restore();
    }

    // -- reading ----------------------------------------------------------------------------------------------

    read() {
      const { left, idx, idxs } = this.plot.cursor;
      this.tip.hidden = !(this.active && left >= 0 && idx != null);
      if (this.tip.hidden) return;
      this.tip.replaceChildren();
      const x = this.joined[0];
      make("b", this.tip, { textContent: `${this.spec.x_label} ${show(x[idx])}` });
      const lines = [];
      this.series.forEach((series, index) => {
        const at = idxs[index + 1];
        if (this.hidden.has(series) || at == null) return;
        const line = make("div", this.tip);
        // Its nearest point may be another step's.
        const where = at === idx ? "" : ` at ${show(x[at])}`;
        line.append(swatch(series));
        make("span", line, { textContent: series.label + where });
        make("strong", line, { textContent: show(this.joined[index + 1][at]) });
        lines.push(`${series.label}${where} ${show(this.joined[index + 1][at])}`);
      });
      if (document.activeElement === this.box) this.live.textContent = `${this.tip.firstChild.textContent}: ${lines.join(", ")}`;
      const edge = this.plot.bbox.left / uPlot.pxRatio + left;
      const over = edge + 16 + this.tip.offsetWidth > this.width;
      const place = over ? Math.max(0, edge - 16 - this.tip.offsetWidth) : edge + 16;
      this.tip.style.transform = `translate(${place}px, ${this.plot.bbox.top / uPlot.pxRatio + 6}px)`;
    }

    move(by) {
      const { cursor, scales } = this.plot;
      const x = this.joined[0];
      const seen = (index) => x[index] >= scales.x.min && x[index] <= scales.x.max;
      const index = cursor.idx == null ? x.findLastIndex((_, at) => seen(at)) : cursor.idx + by;
      if (!seen(index)) return;
      this.plot.setCursor({ left: this.plot.valToPos(x[index], "x"), top: 10 }, true);
    }

    toggle(series, button) {
      const shown = this.hidden.delete(series);
      if (!shown) this.hidden.add(series);
      button.setAttribute("aria-pressed", String(shown));
      this.plot.setSeries(this.series.indexOf(series) + 1, { show: shown });
    }

    // -- zooming ----------------------------------------------------------------------------------------------

    near([low, high], [other_low, other_high]) {
      const hair = 1e-9 * (other_high - other_low);
      return Math.abs(low - other_low) <= hair && Math.abs(high - other_high) <= hair;
    }

    // Make the range of x narrower or wider by a factor, about a place in it (0 to 1).
    zoom(factor, about) {
      const bent = this.spec.log_x ? [Math.log, Math.exp] : [(x) => x, (x) => x];
      const [low, high] = (this.view ?? this.whole).map(bent[0]);
      const { left } = this.plot.cursor;
      const place = about ?? (this.active && left >= 0 ? left / (this.plot.bbox.width / uPlot.pxRatio) : 0.5);
      const middle = low + place * (high - low);
      this.look([middle - place * factor * (high - low), middle + (1 - place) * factor * (high - low)].map(bent[1]));
    }

    look([low, high]) {
      low = Math.max(low, this.whole[0]);
      high = Math.min(high, this.whole[1]);
      if (!(low < high)) [low, high] = this.whole;
      this.view = [low, high];
      this.plot.setScale("x", { min: low, max: high });
    }

    // Told by uPlot whenever the range has changed, by whatever.
    seen(view) {
      if (view[0] == null) return;
      this.view = view;
      this.reset.disabled = this.near(view, this.whole);
      for (const other of charts) {
        const linked = other !== this && other.plot && this.spec.link && other.spec.link === this.spec.link;
        if (linked && !this.near(other.view, view)) other.look(view);
      }
    }

    // -- mouse, fingers, keys ---------------------------------------------------------------------------------

    activate(active) {
      this.active = active;
      if (!active) this.tip.hidden = true;
    }

    listen() {
      const { box } = this;
      const fingers = new Map();
      box.addEventListener("pointerenter", () => this.activate(true));
      box.addEventListener("pointerleave", (event) => {
        if (event.pointerType === "mouse") this.activate(document.activeElement === box);
      });
      box.addEventListener("pointerdown", (event) => {
        if (event.pointerType === "touch") fingers.set(event.pointerId, event.clientX);
      });
      for (const end of ["pointerup", "pointercancel"]) window.addEventListener(end, (event) => fingers.delete(event.pointerId));
      box.addEventListener("pointermove", (event) => {
        if (!fingers.has(event.pointerId)) return;
        const edge = this.plot.over.getBoundingClientRect();
        if (fingers.size === 1) {
          this.plot.setCursor({ left: event.clientX - edge.left, top: event.clientY - edge.top }, true);
        } else {
          const spread = () => { const [one, two] = fingers.values(); return Math.max(20, Math.abs(one - two)); };
          const before = spread();
          fingers.set(event.pointerId, event.clientX);
          const [one, two] = fingers.values();
          this.zoom(before / spread(), ((one + two) / 2 - edge.left) / edge.width);
        }
        fingers.set(event.pointerId, event.clientX);
      });
      document.addEventListener("pointerdown", (event) => {
        if (this.plot && !box.contains(event.target)) this.activate(false);
      });
      box.addEventListener("focus", () => this.activate(true));
      box.addEventListener("blur", () => this.activate(false));
      const keys = {
        ArrowLeft: (event) => this.move(event.shiftKey ? -10 : -1),
        ArrowRight: (event) => this.move(event.shiftKey ? 10 : 1),
        "+": () => this.zoom(0.5),
        "=": () => this.zoom(0.5),
        "-": () => this.zoom(2),
        0: () => this.look(this.whole),
        Escape: () => this.look(this.whole),
      };
      box.addEventListener("keydown", (event) => {
        if (!keys[event.key] || event.ctrlKey || event.metaKey || event.altKey) return;
        event.preventDefault();
        this.active = true;
        keys[event.key](event);
      });
    }
  }

  // -- the page -------------------------------------------------------------------------------------------------

  const charts = specs.map((spec) => new Chart(spec, document.getElementById(spec.id)));
  for (const chart of charts) {
    const linked = charts.filter((other) => other === chart || (chart.spec.link && other.spec.link === chart.spec.link));
    chart.span = [Math.min(...linked.map((other) => other.whole[0])), Math.max(...linked.map((other) => other.whole[1]))];
  }
  for (const chart of charts) {
    chart.whole = chart.span;
    if (chart.whole[0] === chart.whole[1]) chart.whole = chart.whole.map((x, end) => chart.spec.log_x ? x * [0.5, 2][end] : x + end - 0.5);
  }

  // A chart in a closed part of the page has no width: it is drawn once it has one.
  const sizes = new ResizeObserver((entries) => {
    for (const { target } of entries) {
      const chart = charts.find((one) => one.box === target);
      if (target.clientWidth && target.clientWidth !== chart.width) chart.build();
    }
  });
  for (const chart of charts) sizes.observe(chart.box);

  const rebuild = () => charts.filter((chart) => chart.plot && chart.box.clientWidth).forEach((chart) => chart.build());
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", rebuild);

  // Paper is white, and cannot be clicked on.
  const closed = [];
  window.addEventListener("beforeprint", () => {
    root.classList.add("paper");
    closed.push(...document.querySelectorAll("details:not([open])"));
    for (const part of closed) part.open = true;
    for (const chart of charts) chart.build();
  });
  window.addEventListener("afterprint", () => {
    root.classList.remove("paper");
    for (const part of closed.splice(0)) part.open = false;
    rebuild();
  });

  // A row of the table of rules lights up its pin.
  for (const row of document.querySelectorAll("tr[data-pin]")) {
    const light = (lit) => {
      const figure = row.closest("section").querySelector("figure");
      const chart = charts.find((one) => one.spec.id === figure?.id);
      const index = chart?.spec.pins.findIndex((pin) => pin.text === row.dataset.pin) ?? -1;
      for (const pin of [row.querySelector(".pin"), index < 0 ? null : chart.flags?.[index]]) pin?.classList.toggle("lit", lit);
    };
    row.addEventListener("pointerenter", () => light(true));
    row.addEventListener("pointerleave", () => light(false));
  }

  // A link to a run opens it.
  const open = () => { const part = document.getElementById(location.hash.slice(1)); if (part?.tagName === "DETAILS") part.open = true; };
  window.addEventListener("hashchange", open);
  open();
})();
