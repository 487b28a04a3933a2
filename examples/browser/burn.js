// A 1-bit network in the browser: burn.c as WebAssembly.

const missing = () => 52; // the system calls of files, which nothing here needs: "not supported"

export class Network {
  // urls of burn.wasm and network.bin
  static async open(wasm = "burn.wasm", file = "network.bin") {
    const [code, data] = await Promise.all([wasm, file].map(async (url) => {
      const answer = await fetch(url);
      if (!answer.ok) throw new Error(`${url}: ${answer.status} ${answer.statusText}; run build.py first`);
      return answer.arrayBuffer();
    }));
    const imports = { wasi_snapshot_preview1: new Proxy({}, { get: () => missing, has: () => true }) };
    const module = await WebAssembly.compile(code);
    for (const { module: from, name } of WebAssembly.Module.imports(module)) {
      imports[from] = { ...imports[from], [name]: missing };
    }
    const { exports } = await WebAssembly.instantiate(module, imports);
    exports._initialize?.();
    const place = exports.web_allocate(data.byteLength);
    new Uint8Array(exports.memory.buffer, place, data.byteLength).set(new Uint8Array(data));
    const error = exports.web_open(place, data.byteLength);
    if (error) throw new Error(`${file}: error ${error} of burn.h; export it again`);
    return new Network(exports);
  }

  constructor(exports) {
    this.exports = exports;
    this.side = exports.web_side();
    this.dim = exports.web_dim();
    this.canvas = new OffscreenCanvas(this.side, this.side);
    this.context = this.canvas.getContext("2d", { willReadFrequently: true });
  }

  // Features, Float32Array [dim], of RGBA pixels [side, side, 4].
  features(rgba) {
    const { exports, side } = this;
    const pixels = new Uint8Array(exports.memory.buffer, exports.web_pixels(), side * side * 3);
    for (let i = 0, j = 0; i < pixels.length; i += 3, j += 4) {
      pixels[i] = rgba[j];
      pixels[i + 1] = rgba[j + 1];
      pixels[i + 2] = rgba[j + 2];
    }
    const error = exports.web_run();
    if (error) throw new Error(`error ${error} of burn.h`);
    return new Float32Array(exports.memory.buffer, exports.web_features(), this.dim).slice();
  }

  // Features of an image, video frame or canvas: the middle square, resized, on white, as Python lays transparent pixels.
  see(source, width, height) {
    const cut = Math.min(width, height);
    this.context.fillStyle = "white";
    this.context.fillRect(0, 0, this.side, this.side);
    this.context.drawImage(source, (width - cut) / 2, (height - cut) / 2, cut, cut, 0, 0, this.side, this.side);
    return this.features(this.context.getImageData(0, 0, this.side, this.side).data);
  }
}

export function cosine(a, b) {
  let ab = 0, aa = 0, bb = 0;
  for (let i = 0; i < a.length; i++) {
    ab += a[i] * b[i];
    aa += a[i] * a[i];
    bb += b[i] * b[i];
  }
  return ab / Math.sqrt(aa * bb || 1);
}
