import { PACE } from './load.ts'
import { type FailureRow, NOTICED_MS, type Struck } from './judge.ts'

/** The timeline as SVG: a band for each fault, a line for each request from its sending to its end. Pure. */
export interface Band extends Struck {
  row: FailureRow
}

const [WIDTH, LEFT, RIGHT, TOP, BAND, GAP] = [1_000, 250, 20, 56, 34, 10]
/** How long a request was, on a logarithmic height: a local answer takes about 1 ms. */
const [SHORTEST_MS, LONGEST_MS] = [1, PACE.limitMs]
/** A column of pixels shows its worst request only, or a picture has tens of thousands of lines. */
const COLUMN = 1
const COLOURS = { fine: '#2a9d4a', slow: '#e0a100', failed: '#d02020' } as const

export function timelineOf(bands: readonly Band[]): string {
  const beforeMs = Math.max(0, ...bands.map(({ at, samples }) => at - (samples.requests[0]?.[0] ?? at)))
  const afterMs = Math.max(1, ...bands.map(({ at, samples }) => (samples.requests.at(-1)?.[0] ?? at) - at))
  const scale = (WIDTH - LEFT - RIGHT) / (beforeMs + afterMs)
  const atX = (ms: number) => LEFT + (ms + beforeMs) * scale
  const height = TOP + bands.length * (BAND + GAP) + 30
  const parts = bands.map((band, i) => bandOf(band, { y: TOP + i * (BAND + GAP), atX }))
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${WIDTH} ${height}" font-family="sans-serif" font-size="11">`,
    `<rect width="${WIDTH}" height="${height}" fill="#fff"/>`,
    text(LEFT, 18, 'a request every 5 ms, while …', ' font-size="14"'),
    text(LEFT, 34, `height: how long it took, 1 ms to ${PACE.limitMs} ms; the fault is at 0 s`, ' fill="#555"'),
    ...axis(beforeMs, afterMs, { atX, y: height - 12, top: TOP }),
    ...parts,
    `<path d="M${atX(0).toFixed(1)} ${TOP - 6}V${height - 26}" stroke="#000" stroke-dasharray="3 3"/>`,
    '</svg>\n',
  ].join('\n')
}

function bandOf({ row, at, samples }: Band, { y, atX }: { y: number; atX: (ms: number) => number }): string {
  const columns = new Map<number, { height: number; kind: keyof typeof COLOURS }>()
  for (const [sentAt, took, what] of samples.requests) {
    const column = Math.round(atX(sentAt - at) / COLUMN) * COLUMN
    const kind = what < 0 ? 'failed' : took > NOTICED_MS ? 'slow' : 'fine'
    const height = what < 0 ? BAND : heightOf(took)
    const before = columns.get(column)
    if (before === undefined || height > before.height || kind === 'failed') columns.set(column, { height, kind })
  }
  const lines = (Object.keys(COLOURS) as (keyof typeof COLOURS)[]).map((kind) => {
    const strokes = [...columns]
      .filter(([, column]) => column.kind === kind)
      .map(([x, column]) => `M${x.toFixed(0)} ${y + BAND}v-${column.height.toFixed(1)}`)
    return strokes.length === 0 ? '' : `<path d="${strokes.join('')}" stroke="${COLOURS[kind]}"/>`
  })
  const verdict = `${row.failed} failed, gap ${row.longestGapMs} ms${row.ok ? '' : ', goal not reached'}`
  return [
    text(LEFT - 10, y + 14, row.fault, ' text-anchor="end"'),
    text(LEFT - 10, y + 28, verdict, ` text-anchor="end" fill="${row.ok ? '#555' : COLOURS.failed}"`),
    `<path d="M${LEFT} ${y + BAND}H${WIDTH - RIGHT}" stroke="#ddd"/>`,
    ...lines.filter((line) => line !== ''),
  ].join('\n')
}

function heightOf(ms: number): number {
  const share = Math.log(Math.max(ms, SHORTEST_MS) / SHORTEST_MS) / Math.log(LONGEST_MS / SHORTEST_MS)
  return 2 + Math.min(1, share) * (BAND - 2)
}

/** A mark a second, or every five when there are many. */
function axis(
  beforeMs: number,
  afterMs: number,
  { atX, y, top }: { atX: (ms: number) => number; y: number; top: number },
): string[] {
  const step = beforeMs + afterMs > 20_000 ? 5_000 : 1_000
  const marks: string[] = []
  for (let ms = -Math.floor(beforeMs / step) * step; ms <= afterMs; ms += step) {
    const x = atX(ms).toFixed(1)
    marks.push(
      `<path d="M${x} ${top}V${y - 14}" stroke="#eee"/>`,
      text(Number(x), y, `${ms / 1_000} s`, ' text-anchor="middle"'),
    )
  }
  return marks
}

function text(x: number, y: number, what: string, more = ''): string {
  const escaped = what.replace(/[&<>"]/g, (character) => `&#${character.charCodeAt(0)};`)
  return `<text x="${x.toFixed(1)}" y="${y.toFixed(1)}"${more}>${escaped}</text>`
}
