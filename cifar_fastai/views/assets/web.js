// A page that classifies pictures: they are opened and fitted here as Pillow does it, and the network runs here.
const about = embedded('about'), SIZE = about.size, MOST_PIXELS = 2 ** 26, SHOWN = 448, TOP = 5;
const find = selector => document.querySelector(selector);
const problems = find('.problems'), state = find('.state'), items = [];
const say = text => { state.textContent = text; };

const complain = text => {
  problems.hidden = false;
  if (problems.children.length < 20) problems.append(element('li', {}, text));
};

// The network, loaded once
const ready = (async () => {
  if (location.protocol === 'file:') throw new Error('A browser reads the network only from a server. Put this folder on the web, or see it by: python -m http.server --bind 127.0.0.1');
  const ort = await import(new URL('onnxruntime-web/ort.wasm.bundle.min.mjs', document.baseURI));
  ort.env.wasm.numThreads = 1;
  ort.env.wasm.wasmPaths = { wasm: new URL('onnxruntime-web/ort-wasm-simd-threaded.wasm', document.baseURI).href };
  const session = await ort.InferenceSession.create(new URL('model.onnx', document.baseURI).href, { executionProviders: ['wasm'] });
  return pixels => session.run({ pictures: new ort.Tensor('uint8', pixels, [1, SIZE, SIZE, 3]) });
})();
ready.then(() => say('Ready.'), error => { say(''); complain(`The network cannot be loaded: ${error.message}`); });

// Pillow's BILINEAR, which looks at the whole area that a pixel covers, in its fixed-point arithmetic: the weights of each new pixel
const BITS = 22;
const weightsOf = (from, to) => {
  const scale = from / to, support = Math.max(scale, 1), rows = [];
  for (let at = 0; at < to; at++) {
    const centre = (at + 0.5) * scale, first = Math.max(0, Math.trunc(centre - support + 0.5)), last = Math.min(from, Math.trunc(centre + support + 0.5));
    const shares = Array.from({ length: last - first }, (_, x) => Math.max(0, 1 - Math.abs((x + first - centre + 0.5) * (1 / support))));
    const whole = 1 / shares.reduce((sum, share) => sum + share, 0);
    rows.push([first, shares.map(share => Math.trunc(0.5 + share * whole * 2 ** BITS))]);
  }
  return rows;
};

// One direction: `across` pixels to SIZE in each of `lines`; `step` and `line` are the distances of neighbours and of lines, in bytes
const shrink = (source, weights, lines, step, line, target, targetStep, targetLine) => {
  for (let at = 0; at < lines; at++) {
    for (let to = 0; to < SIZE; to++) {
      const [first, shares] = weights[to];
      for (let channel = 0; channel < 3; channel++) {
        let sum = 2 ** (BITS - 1), place = at * line + first * step + channel;
        for (let i = 0; i < shares.length; i++, place += step) sum += source[place] * shares[i];
        target[at * targetLine + to * targetStep + channel] = sum >> BITS; // a mean of bytes is a byte
      }
    }
  }
};

// RGBA to RGB of the network's size
const fit = (pixels, width, height) => {
  const fitted = new Uint8Array(SIZE * SIZE * 3);
  if (width === SIZE && height === SIZE) {
    for (let i = 0; i < SIZE * SIZE; i++) for (let channel = 0; channel < 3; channel++) fitted[3 * i + channel] = pixels[4 * i + channel];
    return fitted;
  }
  const narrow = new Uint8Array(SIZE * height * 3);
  shrink(pixels, weightsOf(width, SIZE), height, 4, 4 * width, narrow, 3, 3 * SIZE);
  shrink(narrow, weightsOf(height, SIZE), SIZE, 3 * SIZE, 3, fitted, 3 * SIZE, 3);
  return fitted;
};

// A file, upright, on white: its centred square, or all of it where the network was trained so
const openPicture = async blob => {
  const bitmap = await createImageBitmap(blob, { colorSpaceConversion: 'none', imageOrientation: 'from-image' })
    .catch(() => { throw new Error('the browser cannot read it as a picture'); });
  const side = Math.min(bitmap.width, bitmap.height), [width, height] = about.fit === 'squish' ? [bitmap.width, bitmap.height] : [side, side];
  if (bitmap.width * bitmap.height > MOST_PIXELS) throw new Error(`it has more than ${MOST_PIXELS.toLocaleString('en')} pixels`);
  const canvas = element('canvas', { width, height }), context = canvas.getContext('2d', { willReadFrequently: true });
  context.fillStyle = '#fff';
  context.fillRect(0, 0, width, height);
  context.drawImage(bitmap, -Math.floor((bitmap.width - width) / 2), -Math.floor((bitmap.height - height) / 2));
  bitmap.close();
  return canvas;
};

const drawSmall = (canvas, opened, most) => {
  canvas.width = canvas.height = Math.min(Math.max(opened.width, opened.height), most);
  canvas.classList.toggle('pixels', canvas.width <= 64);
  const context = canvas.getContext('2d');
  context.imageSmoothingQuality = 'high';
  context.drawImage(opened, 0, 0, canvas.width, canvas.height);
};

const classify = async (name, blob) => {
  const opened = await openPicture(blob), { width, height } = opened;
  const pixels = fit(opened.getContext('2d').getImageData(0, 0, width, height).data, width, height), answer = await (await ready)(pixels);
  const shares = answer.probabilities.data, order = [...shares.keys()].sort((a, b) => shares[b] - shares[a] || a - b);
  return { name, blob, opened, shares, order, maps: answer.heat?.data, shape: answer.heat?.dims.slice(2) };
};

// The map of a class as heat in 0…1, SIZE × SIZE: what is negative goes, stretched over the picture, the least 0, the peak 1
const scaled = values => {
  let low = Infinity, high = -Infinity;
  for (const value of values) { low = Math.min(low, value); high = Math.max(high, value); }
  return high - low > 1e-5 * high ? values.map(value => (value - low) / (high - low)) : values.map(() => 0);
};

const heatOf = (item, place) => {
  const [high, wide] = item.shape, map = scaled(Array.from(item.maps.subarray(place * high * wide, (place + 1) * high * wide), value => Math.max(0, value)));
  const at = (to, count) => { const where = Math.min(count - 1, Math.max(0, (to + 0.5) * count / SIZE - 0.5)), low = Math.floor(where); return [low, Math.min(low + 1, count - 1), where - low]; };
  const heat = [];
  for (let y = 0; y < SIZE; y++) {
    const [top, bottom, down] = at(y, high);
    for (let x = 0; x < SIZE; x++) {
      const [left, right, along] = at(x, wide), row = line => map[line * wide + left] * (1 - along) + map[line * wide + right] * along;
      heat.push(row(top) * (1 - down) + row(bottom) * down);
    }
  }
  return scaled(heat);
};

// The picture that is looked at
let chosen = null, heatClass = 0;
const bar = share => {
  const svg = document.createElementNS('http://www.w3.org/2000/svg', 'svg'), rect = document.createElementNS('http://www.w3.org/2000/svg', 'rect');
  for (const [key, value] of Object.entries({ viewBox: '0 0 100 10', preserveAspectRatio: 'none', 'aria-hidden': 'true' })) svg.setAttribute(key, value);
  for (const [key, value] of Object.entries({ width: 100 * share, height: 10 })) rect.setAttribute(key, value);
  svg.append(rect);
  return svg;
};

const showHeat = () => {
  if (!about.heat) return;
  const over = find('.over'), wanted = find('.show-heat').checked;
  find('.heat-class').textContent = about.classes[heatClass];
  for (const button of document.querySelectorAll('.one .bars button')) button.setAttribute('aria-pressed', +button.value === heatClass);
  over.hidden = !wanted;
  const heat = heatOf(chosen, heatClass), alive = heat.some(value => value > 0);
  find('.heat-words').textContent = alive ? `Bright: more evidence, by its own peak. Stretched from ${chosen.shape.join('×')} places.` : 'No place speaks for this class.';
  over.width = over.height = SIZE;
  const context = over.getContext('2d'), drawn = context.createImageData(SIZE, SIZE);
  heat.forEach((value, i) => drawn.data.set([...viridis(value), Math.round(255 * value)], 4 * i)); // the picture shows where there is none
  context.putImageData(drawn, 0, 0);
};

const show = async item => {
  chosen = item;
  heatClass = item.order[0];
  const [best] = item.order, picture = find('.one .picture');
  find('.one').hidden = false;
  find('#one-title').textContent = `${about.classes[best]}, ${percent(item.shares[best])}`;
  find('.one-name').textContent = item.name;
  picture.setAttribute('aria-label', `${item.name}: ${about.classes[best]}`);
  find('.one .bars tbody').replaceChildren(...item.order.slice(0, TOP).map(place => element('tr', {},
    element('th', { scope: 'row' }, !about.heat ? about.classes[place] : element('button', { type: 'button', className: 'plain', value: place, onclick: () => { heatClass = place; showHeat(); } }, about.classes[place])),
    element('td', { className: 'bar' }, bar(item.shares[place])), element('td', {}, percent(item.shares[place])))));
  for (const other of items) other.tile?.setAttribute('aria-pressed', other === item);
  showHeat();
  const opened = item.opened ?? await openPicture(item.blob);
  if (chosen === item) drawSmall(picture, opened, SHOWN);
};

const addTile = item => {
  const canvas = element('canvas'), [best] = item.order, words = [about.classes[best], percent(item.shares[best])];
  drawSmall(canvas, item.opened, 128);
  item.tile = element('button', { type: 'button', className: 'tile', onclick: () => { show(item); find('.one').scrollIntoView({ block: 'nearest' }); } },
    canvas, element('bdi', {}, words[0]), element('small', {}, words[1]));
  item.tile.setAttribute('aria-label', `${item.name}: ${words.join(', ')}`);
  item.tile.setAttribute('aria-pressed', 'false');
  find('.tiles').append(element('li', {}, item.tile));
};

// Pictures, from wherever they come, one after another
let waiting = Promise.resolve();
const take = files => waiting = waiting.then(async () => {
  let done = 0, last = null, shown = performance.now();
  problems.replaceChildren();
  problems.hidden = true;
  for (const [name, blob] of files) {
    try {
      last = await classify(name, blob);
      items.push(last);
      addTile(last);
      if (!done) await show(last);
      last.opened = null; // opened again when it is looked at
    } catch (error) { complain(`${name}: ${error.message}`); }
    done++;
    if (performance.now() - shown > 200) {
      say(`${done} of ${files.length} pictures`);
      await new Promise(resolve => setTimeout(resolve));
      shown = performance.now();
    }
  }
  find('.all').hidden = items.length < 2;
  find('.all .count').textContent = `${items.length.toLocaleString('en')} pictures`;
  if (last) await show(last);
  say(last ? `${last.name}: ${about.classes[last.order[0]]}, ${percent(last.shares[last.order[0]])}.` : files.length ? 'No picture could be read.' : 'No pictures.');
}).catch(error => complain(error.message));

const takeFiles = files => take([...files].map(file => [file.name || 'pasted', file]));

// Files in dropped folders, however deep
const walk = async entry => {
  if (entry.isFile) return [await new Promise((resolve, reject) => entry.file(resolve, reject))];
  const reader = entry.createReader(), found = [];
  for (;;) {
    const part = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
    if (!part.length) break;
    for (const each of part) found.push(...await walk(each));
  }
  return found;
};

const on = (target, name, act) => target.addEventListener(name, act);
const file = find('.take input[type=file]');
on(find('.choose'), 'click', () => file.click());
on(file, 'change', () => { takeFiles(file.files); file.value = ''; });
for (const name of ['dragover', 'dragleave', 'drop']) on(document, name, event => {
  event.preventDefault();
  document.body.classList.toggle('dropping', name === 'dragover');
});
on(document, 'drop', async event => {
  const entries = [...event.dataTransfer.items].map(item => item.webkitGetAsEntry?.()).filter(Boolean);
  if (!entries.some(entry => entry.isDirectory)) return takeFiles(event.dataTransfer.files);
  takeFiles((await Promise.all(entries.map(walk))).flat());
});
on(document, 'paste', event => { if (event.clipboardData.files.length) takeFiles(event.clipboardData.files); });
on(find('.show-heat'), 'change', showHeat);
on(find('.clear'), 'click', () => {
  items.length = 0;
  find('.tiles').replaceChildren();
  find('.all').hidden = find('.one').hidden = true;
  say('Ready.');
  find('.choose').focus();
});
on(find('.save'), 'click', () => {
  const quoted = text => `"${text.replaceAll('"', '""')}"`;
  const rows = items.map(({ name, order, shares }) => [quoted(name), ...order.slice(0, TOP).flatMap(place => [quoted(about.classes[place]), shares[place].toFixed(6)])].join());
  const head = ['name', ...Array.from({ length: Math.min(TOP, about.classes.length) }, (_, i) => `class_${i + 1},p_${i + 1}`)].join();
  const link = element('a', { download: 'predictions.csv', href: URL.createObjectURL(new Blob([[head, ...rows, ''].join('\n')], { type: 'text/csv' })) });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60000);
});

// The camera, where the browser lets a page have it
const video = find('video');
const stop = () => { for (const track of video.srcObject?.getTracks() ?? []) track.stop(); video.srcObject = null; find('.live').hidden = true; find('.camera').hidden = false; };
find('.camera').hidden = !navigator.mediaDevices?.getUserMedia;
on(find('.camera'), 'click', async () => {
  try { video.srcObject = await navigator.mediaDevices.getUserMedia({ video: { facingMode: 'environment' } }); } catch (error) { return complain(`The camera cannot be used: ${error.message}`); }
  find('.live').hidden = false;
  find('.camera').hidden = true;
  await video.play();
  find('.shoot').focus();
});
on(find('.stop'), 'click', () => { stop(); find('.camera').focus(); });
on(find('.shoot'), 'click', () => {
  const canvas = element('canvas', { width: video.videoWidth, height: video.videoHeight });
  canvas.getContext('2d').drawImage(video, 0, 0);
  canvas.toBlob(blob => take([[`camera ${new Date().toLocaleTimeString('en-GB')}`, blob]]), 'image/png');
});
