/** Curves as text and as SVG, and where they bend. Pure. */
export interface Curve {
  readonly title: string
  readonly x: string
  readonly y: string
  /** By rising x; x from 1 up, on a logarithmic axis. */
  readonly points: readonly (readonly [x: number, y: number])[]
}

/**
 * Where the curve turns the most: the point furthest from the straight line between both ends, on a logarithmic x axis. A point
 * nearer to the line than this share of the height is no bend.
 */
const NO_BEND = 0.15

export function bendOf({ points }: Curve): readonly [x: number, y: number] | undefined {
  const [first, last] = [points[0], points.at(-1)]
  if (first === undefined || last === undefined || points.length < 3) return undefined
  const height = Math.max(...points.map(([, y]) => y)) - Math.min(...points.map(([, y]) => y))
  const width = Math.log(last[0] / first[0])
  let furthest: { point: readonly [number, number]; by: number } | undefined
  for (const point of points.slice(1, -1)) {
    const onLine = first[1] + ((last[1] - first[1]) * Math.log(point[0] / first[0])) / width
    const by = Math.abs(point[1] - onLine)
    if (by > (furthest?.by ?? NO_BEND * height)) furthest = { point, by }
  }
  return furthest?.point
}

/** `it bends at 512 connections`, or that it does not. */
export function bendText(curve: Curve): string {
  const at = bendOf(curve)
  const [first, last] = [curve.points[0], curve.points.at(-1)]
  if (first === undefined || last === undefined) return 'nothing was measured'
  const range = `from ${short(first[1])} at ${short(first[0])} to ${short(last[1])} at ${short(last[0])} ${curve.x}`
  return at === undefined ? `no bend: ${range}` : `it bends at ${short(at[0])} ${curve.x} (${short(at[1])}): ${range}`
}

const BAR = 50

/** A bar for each point. */
export function textOf(curve: Curve): string[] {
  const most = Math.max(...curve.points.map(([, y]) => y))
  return [
    `${curve.title}: ${curve.y} against ${curve.x}`,
    ...curve.points.map(([x, y]) => {
      const bar = '█'.repeat(Math.max(1, Math.round((y / most) * BAR)))
      return `${short(x).padStart(8)} ${bar.padEnd(BAR)} ${short(y)}`
    }),
    `         ${bendText(curve)}`,
  ]
}

const [WIDTH, HEIGHT, LEFT, TOP, RIGHT, BOTTOM] = [640, 360, 80, 48, 24, 56]

export function svgOf(curve: Curve): string {
  const { points, title, x, y } = curve
  const most = Math.max(...points.map(([, value]) => value), Number.MIN_VALUE)
  const low = Math.log(points[0]?.[0] ?? 1)
  const high = Math.max(Math.log(points.at(-1)?.[0] ?? 1), low + 1e-9)
  const atX = (value: number) => LEFT + ((Math.log(value) - low) / (high - low)) * (WIDTH - LEFT - RIGHT)
  const atY = (value: number) => HEIGHT - BOTTOM - (value / most) * (HEIGHT - TOP - BOTTOM)
  const text = (tx: number, ty: number, what: string, more = '') =>
    `<text x="${tx.toFixed(1)}" y="${ty.toFixed(1)}"${more}>${escaped(what)}</text>`
  const middle = ' text-anchor="middle"'
  const marks = points.map(
    ([px, py]) =>
      `<circle cx="${atX(px).toFixed(1)}" cy="${atY(py).toFixed(1)}" r="3"/>${text(atX(px), HEIGHT - BOTTOM + 18, short(px), middle)}`,
  )
  const lines = [0, 0.5, 1].map(
    (share) =>
      `<path d="M${LEFT} ${atY(most * share).toFixed(1)}H${WIDTH - RIGHT}" stroke="#ddd"/>${text(LEFT - 8, atY(most * share) + 4, short(most * share), ' text-anchor="end"')}`,
  )
  const line = points.map(([px, py]) => `${atX(px).toFixed(1)},${atY(py).toFixed(1)}`).join(' ')
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${WIDTH} ${HEIGHT}" font-family="sans-serif" font-size="12">`,
    `<rect width="${WIDTH}" height="${HEIGHT}" fill="#fff"/>`,
    text(LEFT, 20, title, ' font-size="15"'),
    text(LEFT, 36, `${y}; ${bendText(curve)}`, ' fill="#555"'),
    ...lines,
    `<polyline points="${line}" fill="none" stroke="#06c" stroke-width="2"/>`,
    `<g fill="#06c">${marks.join('')}</g>`,
    text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 14, x, middle),
    '</svg>\n',
  ].join('\n')
}

function short(value: number): string {
  if (value >= 10_000) return `${(value / 1_000).toFixed(value >= 100_000 ? 0 : 1).replace(/\.0$/, '')}k`
  return value >= 100 ? value.toFixed(0) : String(Number(value.toPrecision(3)))
}

function escaped(text: string): string {
  return text.replace(/[&<>"]/g, (character) => `&#${character.charCodeAt(0)};`)
}
