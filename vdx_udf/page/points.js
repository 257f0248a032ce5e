// Points by WebGL, one call for all: 100,000 move at the pace of the screen. Libraries for it compile code from text, which the page's
// policy forbids, or are larger than the rest of the page.

const VERTEX = `
attribute vec2 place; attribute vec3 colour; varying vec3 shade;
uniform vec2 centre, scale; uniform float size;
void main() { gl_Position = vec4((place - centre) * scale, 0.0, 1.0); gl_PointSize = size; shade = colour; }`;
const FRAGMENT = `
precision mediump float; varying vec3 shade;
void main() { if (distance(gl_PointCoord, vec2(0.5)) > 0.5) discard; gl_FragColor = vec4(shade, 1.0); }`;

export class Points {
  /** Throws where the browser has no WebGL. */
  constructor(canvas) {
    this.canvas = canvas;
    const gl = canvas.getContext('webgl', { antialias: false });
    if (!gl) throw new Error('This browser has no WebGL, which the map is drawn by. Its points are rows of current_map_points.');
    this.gl = gl;
    const program = gl.createProgram();
    for (const [kind, text] of [[gl.VERTEX_SHADER, VERTEX], [gl.FRAGMENT_SHADER, FRAGMENT]]) {
      const shader = gl.createShader(kind);
      gl.shaderSource(shader, text);
      gl.compileShader(shader);
      gl.attachShader(program, shader);
    }
    gl.linkProgram(program);
    gl.useProgram(program);
    this.program = program;
    this.count = 0;
  }

  /** `places` are x, y of each point, a Float32Array; `colours` red, green, blue of each, a Uint8Array. */
  set(places, colours) {
    const { gl, program } = this;
    this.count = places.length / 2;
    for (const [name, size, kind, values] of [['place', 2, gl.FLOAT, places], ['colour', 3, gl.UNSIGNED_BYTE, colours]]) {
      const at = gl.getAttribLocation(program, name);
      gl.bindBuffer(gl.ARRAY_BUFFER, gl.createBuffer());
      gl.bufferData(gl.ARRAY_BUFFER, values, gl.STATIC_DRAW);
      gl.enableVertexAttribArray(at);
      gl.vertexAttribPointer(at, size, kind, true, 0, 0);
    }
  }

  /** `x`, `y` of the map in the middle, `zoom` pixels a unit, points of `size` pixels. */
  draw({ x, y, zoom }, size) {
    const { gl, program, canvas } = this;
    const [width, height] = [canvas.clientWidth, canvas.clientHeight];
    canvas.width = width * devicePixelRatio;
    canvas.height = height * devicePixelRatio;
    gl.viewport(0, 0, canvas.width, canvas.height);
    gl.clear(gl.COLOR_BUFFER_BIT);
    gl.uniform2f(gl.getUniformLocation(program, 'centre'), x, y);
    gl.uniform2f(gl.getUniformLocation(program, 'scale'), (2 * zoom) / width, (2 * zoom) / height);
    gl.uniform1f(gl.getUniformLocation(program, 'size'), size * devicePixelRatio);
    if (this.count) gl.drawArrays(gl.POINTS, 0, this.count);
  }
}
