// Reads a chart's values under the pointer, or with the arrow keys.
const SVG = 'http://www.w3.org/2000/svg';

const svg = (name, attributes) => {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
};

const nearest = (places, wanted) => {
  let best = 0;
  for (let i = 1; i < places.length; i++) if (Math.abs(places[i] - wanted) < Math.abs(places[best] - wanted)) best = i;
  return best;
};

class Chart {
  constructor(plot) {
    const { label, lines } = JSON.parse(plot.dataset.chart);
    this.label = label;
    this.lines = lines.map((line, place) => ({ ...line, place })).filter(line => line.x.length);
    if (!this.lines.length) return;
    this.plot = plot;
    this.drawing = plot.querySelector('svg');
    this.pointer = plot.querySelector('.pointer');
    this.output = plot.parentElement.querySelector('.readout');
    this.silent = this.output.textContent;
    this.places = [...new Set(this.lines.flatMap(line => line.x))].sort((a, b) => a - b);
    this.at = this.places.length;
    plot.addEventListener('pointermove', event => this.point(event));
    plot.addEventListener('pointerdown', event => this.point(event));
    plot.addEventListener('pointerleave', event => { if (event.pointerType === 'mouse') this.leave(); });  // what a finger pointed at stays
    plot.addEventListener('blur', () => this.leave());
    plot.addEventListener('keydown', event => this.key(event));
  }

  point(event) {
    const box = this.drawing.getBoundingClientRect();
    this.show(nearest(this.places, (event.clientX - box.left) / box.width * this.drawing.viewBox.baseVal.width));
  }

  key(event) {
    const last = this.places.length - 1;
    const to = { ArrowLeft: Math.max(0, this.at - 1), ArrowRight: Math.min(last, this.at + 1), Home: 0, End: last }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    this.output.setAttribute('aria-live', 'polite');
    this.show(to);
  }

  show(at) {
    this.at = at;
    const place = this.places[at];
    const found = this.lines.map(line => [line, nearest(line.x, place)]).filter(([line, i]) => Math.abs(line.x[i] - place) < 6);
    const { y, height } = this.drawing.viewBox.baseVal;
    this.pointer.replaceChildren(
      svg('path', { class: 'hair', d: `M${place} ${y}V${y + height - 42}` }),
      ...found.map(([line, i]) => svg('circle', { class: `dot c${line.place}`, cx: line.x[i], cy: line.y[i], r: 4 })));
    const [first, i] = found[0];
    this.output.textContent = `${this.label} ${first.at[i]}: ` + found.map(([line, j]) => `${line.name} ${line.said[j]}`).join(', ');
  }

  leave() {
    this.pointer.replaceChildren();
    this.output.textContent = this.silent;
    this.at = this.places.length;
  }
}

for (const plot of document.querySelectorAll('[data-chart]')) new Chart(plot);
