'use strict';
(() => {
  // Tables: a head sorts by its column, and the other way round the second time. What has no value comes last.
  const key = (row, column) => {
    const cell = row.cells[column];
    const value = cell.dataset.value;
    return value === undefined ? cell.textContent : Number(value);
  };
  const compare = (a, b) => {
    if (typeof a === 'number' && typeof b === 'number') return a - b;
    return String(a).localeCompare(String(b), undefined, {numeric: true});
  };
  for (const button of document.querySelectorAll('th button')) {
    button.addEventListener('click', () => {
      const head = button.closest('th');
      const descending = head.getAttribute('aria-sort') === 'ascending';
      for (const other of head.parentNode.cells) other.removeAttribute('aria-sort');
      head.setAttribute('aria-sort', descending ? 'descending' : 'ascending');
      const body = head.closest('table').tBodies[0];
      const rows = [...body.rows].map((row) => ({row, key: key(row, head.cellIndex)}));
      const absent = (entry) => Number.isNaN(entry.key) || entry.key === '';
      rows.sort((a, b) => absent(a) - absent(b) || (descending ? compare(b.key, a.key) : compare(a.key, b.key)));
      body.append(...rows.map((entry) => entry.row));
    });
  }

  // Grids: a click shows the pixels as they are.
  for (const image of document.querySelectorAll('img.samples')) {
    image.addEventListener('click', () => image.closest('figure').classList.toggle('large'));
  }

  // Figures: parts of them are drawn again from the numbers at their curves.
  const NAMESPACE = 'http://www.w3.org/2000/svg';
  const element = (name, attributes, text) => {
    const made = document.createElementNS(NAMESPACE, name);
    for (const [attribute, value] of Object.entries(attributes)) made.setAttribute(attribute, value);
    if (text !== undefined) made.textContent = text;
    return made;
  };
  const numbers = (text) => text.split(' ').map(Number);
  const axis = (text) => {
    const [least, greatest, log] = numbers(text);
    return {least, greatest, log: log === 1};
  };
  const stretch = (axis, value) => (axis.log ? Math.log10(value) : value);
  const share = (axis, value) => {
    const least = stretch(axis, axis.least);
    return (stretch(axis, value) - least) / (stretch(axis, axis.greatest) - least);
  };
  const valueAt = (axis, share) => {
    const least = stretch(axis, axis.least);
    const value = least + share * (stretch(axis, axis.greatest) - least);
    return axis.log ? 10 ** value : value;
  };
  const short = (value) => {
    if (value === 0) return '0';
    if (Number.isInteger(value) && Math.abs(value) < 1e9) return value.toLocaleString('en');
    return String(Number(value.toPrecision(5)));
  };
  const ticks = (axis) => {
    const {least, greatest} = axis;
    const found = [];
    if (axis.log && greatest / least >= 3) {
      const [first, last] = [Math.floor(Math.log10(least)), Math.ceil(Math.log10(greatest))];
      const every = Math.max(1, Math.ceil((last - first) / 6));
      for (let power = first; power <= last; power += every) {
        for (const digit of last - first <= 2 ? [1, 2, 5] : [1]) found.push(digit * 10 ** power);
      }
    } else {
      const rough = (greatest - least) / 6;
      const power = 10 ** Math.floor(Math.log10(rough));
      const step = [1, 2, 5, 10].map((times) => times * power).find((step) => step >= rough);
      for (let i = Math.ceil(least / step); i * step <= greatest && found.length < 20; i++) found.push(i * step);
    }
    return found.filter((value) => value >= least && value <= greatest);
  };

  const plots = [];
  for (const plot of document.querySelectorAll('svg.plot')) {
    const figure = plot.closest('figure');
    const [outer, output, marks] = [plot.parentNode, figure.querySelector('output'), plot.parentNode.querySelector('.ticks')];
    const [left, top] = [Number(plot.getAttribute('x')), Number(plot.getAttribute('y'))];
    const [width, height] = [Number(plot.getAttribute('width')), Number(plot.getAttribute('height'))];
    const whole = {x: axis(plot.dataset.x), y: axis(plot.dataset.y)};
    const curves = [...plot.querySelectorAll('path')].map((path) => ({
      path, name: path.dataset.name, xs: numbers(path.dataset.xs), ys: numbers(path.dataset.ys), d: path.getAttribute('d'),
    }));
    const drawnTicks = [...marks.childNodes];
    const dots = [...plot.querySelectorAll('circle')].map((dot) => {
      const at = (name, length) => Number(dot.getAttribute(name)) / length;
      return {dot, x: valueAt(whole.x, at('cx', width)), y: valueAt(whole.y, 1 - at('cy', height))};
    });
    const state = {view: whole, zoomed: false};
    plots.push(state);

    const show = (view) => {
      state.zoomed = view !== whole;
      state.view = view;
      const px = (value) => (share(view.x, value) * width).toFixed(2);
      const py = (value) => ((1 - share(view.y, value)) * height).toFixed(2);
      for (const {path, xs, ys, d} of curves) {
        if (!state.zoomed) { path.setAttribute('d', d); continue; }
        // One point beyond each end, so that the curve runs out of the plot.
        let first = xs.findIndex((x) => x >= view.x.least);
        let last = xs.findLastIndex((x) => x <= view.x.greatest);
        first = first < 0 ? xs.length - 1 : Math.max(0, first - 1);
        last = Math.min(xs.length - 1, last + 1);
        let drawn = '';
        for (let i = first; i <= last; i++) drawn += `${i === first ? 'M' : 'L'}${px(xs[i])} ${py(ys[i])}`;
        path.setAttribute('d', drawn || 'M0 0');
      }
      for (const {dot, x, y} of dots) { dot.setAttribute('cx', px(x)); dot.setAttribute('cy', py(y)); }
      if (!state.zoomed) { marks.replaceChildren(...drawnTicks); return; }
      const made = [];
      for (const value of ticks(view.x)) {
        const x = left + share(view.x, value) * width;
        made.push(element('line', {class: 'grid', x1: x, x2: x, y1: top, y2: top + height}));
        made.push(element('text', {class: 'tick middle', x, y: top + height + 15}, short(value)));
      }
      for (const value of ticks(view.y)) {
        const y = top + (1 - share(view.y, value)) * height;
        made.push(element('line', {class: 'grid', x1: left, x2: left + width, y1: y, y2: y}));
        made.push(element('text', {class: 'tick end', x: left - 6, y: y + 4}, short(value)));
      }
      marks.replaceChildren(...made);
    };
    // A range of x, with the heights of what lies in it.
    const fitted = (x) => {
      let [least, greatest] = [Infinity, -Infinity];
      for (const {xs, ys} of curves) {
        xs.forEach((at, i) => {
          if (at < x.least || at > x.greatest) return;
          least = Math.min(least, ys[i]);
          greatest = Math.max(greatest, ys[i]);
        });
      }
      if (!(greatest > least)) return whole.y;
      const y = {least, greatest, log: whole.y.log};
      return {...y, least: valueAt(y, -0.04), greatest: valueAt(y, 1.04)};
    };
    const zoom = (from, to) => {
      const x = {...whole.x, least: valueAt(state.view.x, from), greatest: valueAt(state.view.x, to)};
      x.least = Math.max(x.least, whole.x.least);
      x.greatest = Math.min(x.greatest, whole.x.greatest);
      const all = x.least <= whole.x.least && x.greatest >= whole.x.greatest;
      if (all) show(whole);
      else if (share(whole.x, x.greatest) - share(whole.x, x.least) > 1e-4) show({x, y: fitted(x)});
    };
    const place = (event) => {
      const matrix = plot.querySelector('.frame').getScreenCTM();
      const point = new DOMPoint(event.clientX, event.clientY).matrixTransform(matrix.inverse());
      const within = (value, most) => Math.min(Math.max(value, 0), most);
      return [within(point.x, width), within(point.y, height)];
    };
    const cursor = element('line', {class: 'cursor', y1: 0, y2: height, visibility: 'hidden'});
    const selection = element('rect', {class: 'selection', visibility: 'hidden'});
    plot.append(cursor, selection);
    let start = null;
    plot.addEventListener('pointerdown', (event) => {
      if (event.button !== 0) return;
      start = place(event);
      plot.setPointerCapture(event.pointerId);
      event.preventDefault();
    });
    plot.addEventListener('pointermove', (event) => {
      const [x, y] = place(event);
      if (start) {
        // A flat selection takes the heights that fit.
        const flat = Math.abs(y - start[1]) < 25;
        const box = {
          x: Math.min(x, start[0]), width: Math.abs(x - start[0]),
          y: flat ? 0 : Math.min(y, start[1]), height: flat ? height : Math.abs(y - start[1]),
        };
        for (const [name, value] of Object.entries(box)) selection.setAttribute(name, value);
        selection.setAttribute('visibility', 'visible');
        return;
      }
      cursor.setAttribute('x1', x);
      cursor.setAttribute('x2', x);
      cursor.setAttribute('visibility', 'visible');
      const at = valueAt(state.view.x, x / width);
      const parts = curves.filter((curve) => curve.name).map(({name, xs, ys}) => {
        let i = xs.findIndex((other) => other >= at);
        if (i < 0) i = xs.length - 1;
        if (i > 0 && at - xs[i - 1] < xs[i] - at) i--;
        return `${name}: ${short(ys[i])}`;
      });
      output.textContent = [`at ${short(Number(at.toPrecision(6)))}`, ...parts].join(' · ');
    });
    plot.addEventListener('pointerup', (event) => {
      if (!start) return;
      const [[x0, y0], [x1, y1]] = [start, place(event)];
      start = null;
      selection.setAttribute('visibility', 'hidden');
      if (Math.abs(x1 - x0) < 5) return;
      zoom(Math.min(x0, x1) / width, Math.max(x0, x1) / width);
      if (Math.abs(y1 - y0) < 25 || !state.zoomed) return;
      // The heights before the zoom.
      const before = state.before ?? whole.y;
      const y = {...whole.y, least: valueAt(before, 1 - Math.max(y0, y1) / height), greatest: valueAt(before, 1 - Math.min(y0, y1) / height)};
      show({x: state.view.x, y});
    });
    plot.addEventListener('pointerdown', () => { state.before = state.view.y; }, true);
    plot.addEventListener('pointercancel', () => { start = null; selection.setAttribute('visibility', 'hidden'); });
    plot.addEventListener('pointerleave', () => { cursor.setAttribute('visibility', 'hidden'); output.textContent = ''; });
    plot.addEventListener('dblclick', () => show(whole));
    outer.addEventListener('keydown', (event) => {
      const ranges = {
        '+': [0.25, 0.75], '=': [0.25, 0.75], '-': [-0.5, 1.5], 'ArrowLeft': [-0.2, 0.8], 'ArrowRight': [0.2, 1.2],
      };
      if (event.key === '0' || event.key === 'Escape') show(whole);
      else if (ranges[event.key] && (state.zoomed || event.key !== '-')) zoom(...ranges[event.key]);
      else return;
      event.preventDefault();
    });
  }

  // A page about a run that goes on looks for a newer one, unless somebody is busy with this one.
  if (document.body.dataset.live) {
    let busy = 0;
    for (const kind of ['pointermove', 'keydown', 'wheel']) {
      document.addEventListener(kind, () => { busy = Date.now(); }, {passive: true});
    }
    setInterval(() => {
      const zoomed = plots.some((plot) => plot.zoomed);
      if (!zoomed && !document.hidden && Date.now() - busy > 5000) location.reload();
    }, 30000);
  }
})();
