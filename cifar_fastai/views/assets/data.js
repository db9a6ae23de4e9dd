// What the page carries: JSON in script elements, arrays as bytes.
const ARRAYS = { uint8: Uint8Array, uint16: Uint16Array, uint32: Uint32Array, float32: Float32Array };

const embedded = id => JSON.parse(document.getElementById(id).textContent);

const unpacked = ({ kind, bytes }) => {
  const text = atob(bytes), found = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) found[i] = text.charCodeAt(i);
  return new ARRAYS[kind](found.buffer);
};

const percent = share => share < 0.001 ? '<0.1%' : share > 0.999 ? '>99.9%' : `${(100 * share).toFixed(1)}%`;

const element = (name, properties = {}, ...children) => {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
};
