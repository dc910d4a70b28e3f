import { mkdirSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { Bench } from './bench.ts'
import { hold } from './loads/connections.ts'
import { bulk } from './loads/iperf3.ts'
import { exchange } from './loads/messages.ts'
import { wrk } from './loads/wrk.ts'
import { type Curve, svgOf, textOf } from './plot.ts'
import { cpuSeconds, rssMib } from './proc.ts'
import { knowing } from './scenarios/idle-agent.ts'

/** How cost grows: a curve for each of the figures below, as text, and one SVG file each under `out`. */
export interface GrowthOptions {
  out: string | undefined
  print: (line: string) => void
  signal: AbortSignal
}

const CONNECTIONS = [1, 4, 16, 64, 256, 1_024, 4_096, 10_000]
const STREAMS = [1, 4, 16, 64, 128]
const SERVICES = [10, 100, 1_000, 10_000]
const MESSAGE_BYTES = [1, 16, 256, 4_096, 65_536, 2 ** 20, 2 ** 24]

type Point = [x: number, figures: Readonly<Record<string, number>>]

interface Axis {
  readonly x: string
  readonly at: readonly number[]
  /** The x where it was measured, which may be another than asked for, and a figure for each curve. */
  readonly measure: (bench: Bench, x: number) => Promise<Point>
}

/** Units are in the names: each becomes a curve. */
const AXES: readonly Axis[] = [
  { x: 'connections', at: CONNECTIONS, measure: byConnections },
  { x: 'bulk streams per carrier', at: STREAMS, measure: byStreams },
  { x: 'bytes of a message', at: MESSAGE_BYTES, measure: byMessageBytes },
  { x: 'services known', at: SERVICES, measure: byServices },
]

export async function growth(
  bench: Bench,
  { out = join(tmpdir(), 'hedgerow-growth'), print, signal }: GrowthOptions,
): Promise<void> {
  mkdirSync(out, { recursive: true })
  for (const { x, at, measure } of AXES) {
    const points: Point[] = []
    for (const asked of at) {
      if (signal.aborted) return
      bench.say(`growth: ${asked} ${x}`)
      try {
        points.push(await measure(bench, asked))
      } catch (error) {
        if (!signal.aborted) print(`${asked} ${x}: failed: ${(error as Error).message}`)
      }
    }
    for (const curve of curvesOf(x, points)) {
      const file = join(out, `${curve.y} by ${x}.svg`.replace(/[^\w.]+/g, '-'))
      writeFileSync(file, svgOf(curve))
      for (const line of [...textOf(curve), `         ${file}`, '']) print(line)
    }
  }
}

function curvesOf(x: string, points: readonly Point[]): Curve[] {
  const names = [...new Set(points.flatMap(([, figures]) => Object.keys(figures)))]
  return names.map((y) => ({
    title: `hedgerow, two agents`,
    x,
    y,
    points: points.flatMap(([at, figures]): [number, number][] => (figures[y] === undefined ? [] : [[at, figures[y]]])),
  }))
}

/** Keep-alive connections that all ask, then as many that are idle. */
async function byConnections(bench: Bench, connections: number): Promise<Point> {
  const { mesh, web, echo } = await bench.ours()
  const pids = [mesh.pid('a'), mesh.pid('b')]
  const before = cpuOf(pids)
  const { perSecond } = await wrk(bench.testbed, `http://${web.host}:${web.port}/`, {
    connections,
    seconds: bench.seconds,
  })
  const micros = ((cpuOf(pids) - before) / (perSecond * bench.seconds)) * 1e6
  const { open, program } = await hold(bench.testbed, echo, connections)
  const rss = pids.reduce((sum, pid) => sum + rssMib(pid), 0)
  await program.stop()
  if (open < connections) throw new Error(`only ${open} idle connections opened`)
  return [
    connections,
    {
      'requests per second': perSecond,
      'CPU µs per request, both agents': micros,
      'RSS in MiB, both agents, while idle': rss,
    },
  ]
}

/** Streams that all send as much as they can. */
async function byStreams(bench: Bench, streams: number): Promise<Point> {
  const { mesh, iperf } = await bench.ours()
  const pids = [mesh.pid('a'), mesh.pid('b')]
  const before = cpuOf(pids)
  const sending = bulk(bench.testbed, iperf, { seconds: bench.seconds + 1, streams })
  const carriers = (await mesh.peer())?.carriers ?? 1
  const { gigabits, bytes } = await sending
  const perGib = (cpuOf(pids) - before) / (bytes / 2 ** 30)
  return [streams / Math.max(1, carriers), { 'Gbit per second': gigabits, 'CPU seconds per GiB, both agents': perGib }]
}

/** One message there and back after the other. */
async function byMessageBytes(bench: Bench, bytes: number): Promise<Point> {
  const { mesh, echo } = await bench.ours()
  const pids = [mesh.pid('a'), mesh.pid('b')]
  const before = cpuOf(pids)
  const { messages, seconds } = await exchange(bench.testbed, echo, { bytes, seconds: bench.seconds })
  const cpu = cpuOf(pids) - before
  return [
    bytes,
    {
      'messages per second': messages / seconds,
      'MiB per second, there and back': (2 * messages * bytes) / 2 ** 20 / seconds,
      'CPU µs per message, both agents': (cpu / messages) * 1e6,
      'CPU seconds per GiB, both agents': cpu / ((2 * messages * bytes) / 2 ** 30),
    },
  ]
}

/** An agent that knows so many services, each with one instance and asked for once; then requests beside them. */
async function byServices(bench: Bench, services: number): Promise<Point> {
  const { mesh, web, rss, cpu } = await knowing(bench, services, 1)
  try {
    const load = { connections: 64, seconds: bench.seconds }
    const { perSecond } = await wrk(bench.testbed, `http://${web.host}:${web.port}/`, load)
    return [
      services,
      { 'requests per second at 64': perSecond, 'RSS in MiB, idle': rss, 'CPU in % of a core, idle': cpu },
    ]
  } finally {
    await mesh.stop()
  }
}

function cpuOf(pids: readonly number[]): number {
  return pids.reduce((sum, pid) => sum + cpuSeconds(pid), 0)
}
