/**
 * `npm run bench`: ours and the peers in turns against the same origin, on loopback; medians of the rounds, and ratios.
 * Generator, proxies and origin share the machine's cores, so only the ratios mean something.
 *
 *     --rounds N   (3)     --seconds N   (3) for each measurement     --json   one object a line     --verbose
 */
import { mkdtempSync, rmSync } from 'node:fs'
import { arch, cpus, release, tmpdir } from 'node:os'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { isInstalled, iperf, type Lane, Started, startHaproxy, wrk } from './lanes.ts'
import { startMesh } from './mesh.ts'

const { values } = parseArgs({
  options: {
    rounds: { type: 'string', default: '3' },
    seconds: { type: 'string', default: '3' },
    json: { type: 'boolean', default: false },
    verbose: { type: 'boolean', default: false },
  },
})
const rounds = Number(values.rounds)
const seconds = Number(values.seconds)
const OURS = 'hedgerow, two agents'

interface Measure {
  measure: string
  unit: string
  /** Lower is better for latencies. */
  better: 'higher' | 'lower'
  goal: number
  of: (lane: Lane) => Promise<Record<string, number>>
}

const measures: ReadonlyArray<{ rows: Omit<Measure, 'of'>[]; of: Measure['of'] }> = [
  {
    rows: [{ measure: 'requests/s, 64 keep-alive connections', unit: '1/s', better: 'higher', goal: 1.4 }],
    of: async ({ web }) => ({
      'requests/s, 64 keep-alive connections': (await wrk(web, { connections: 64, seconds })).perSecond,
    }),
  },
  {
    rows: [{ measure: 'new connections/s, 16 at once', unit: '1/s', better: 'higher', goal: 3 }],
    of: async ({ web }) => ({
      'new connections/s, 16 at once': (await wrk(web, { connections: 16, seconds, fresh: true })).perSecond,
    }),
  },
  {
    rows: [
      { measure: 'one connection, p50', unit: 'ms', better: 'lower', goal: 1 },
      { measure: 'one connection, p99', unit: 'ms', better: 'lower', goal: 1 },
    ],
    of: async ({ web }) => {
      const { p50, p99 } = await wrk(web, { connections: 1, seconds })
      return { 'one connection, p50': p50, 'one connection, p99': p99 }
    },
  },
  {
    rows: [{ measure: 'one TCP stream', unit: 'Gbit/s', better: 'higher', goal: 1.1 }],
    of: async (lane) => ({ 'one TCP stream': await iperf(lane.iperf, seconds) }),
  },
]

const missing = (
  await Promise.all(
    ['wrk', 'iperf3', 'haproxy', 'openssl'].map(async (program) => ((await isInstalled(program)) ? [] : [program])),
  )
).flat()
if (missing.length > 0) {
  console.error(`missing: ${missing.join(', ')}. On Debian or Ubuntu: apt-get install ${missing.join(' ')}`)
  process.exit(1)
}

const dir = mkdtempSync(join(tmpdir(), 'hedgerow-bench-'))
try {
  await using started = new Started()
  const peers = await startHaproxy(started, dir, { origin: 7501, plain: 7510, front: 7520, back: 7530, iperf: 7540 })
  const ours = await startMesh(started, dir, { origin: 7501, iperf: 7540 })
  const lanes = [...peers, { ...ours, name: OURS }]
  const figures = new Map<string, Map<string, number[]>>()
  for (let round = 0; round < rounds; round++) {
    for (const { of } of measures) {
      for (const lane of lanes) {
        for (const [measure, value] of Object.entries(await of(lane))) {
          const byLane = figures.get(measure) ?? new Map<string, number[]>()
          byLane.set(lane.name, [...(byLane.get(lane.name) ?? []), value])
          figures.set(measure, byLane)
        }
      }
    }
    if (!values.json) console.error(`round ${round + 1} of ${rounds} done`)
  }
  if (!values.json)
    console.log(
      `${cpus().length} × ${cpus()[0]?.model}, ${arch()}, Linux ${release()}, Node ${process.version}; medians of ${rounds} rounds of ${seconds} s\n`,
    )
  for (const { measure, unit, better, goal } of measures.flatMap(({ rows }) => rows)) {
    const median = (lane: string) => middle(figures.get(measure)?.get(lane) ?? [])
    const mine = median(OURS)
    if (!values.json) console.log(`${measure}: ours ${round(mine)} ${unit}`)
    for (const { name } of peers) {
      const ratio = mine / median(name)
      const isGoal = name.includes('TLS')
      const ok = better === 'higher' ? ratio >= goal : ratio <= goal
      if (values.json)
        console.log(
          JSON.stringify({
            measure,
            ours: mine,
            peer: median(name),
            peerName: name,
            unit,
            ratio,
            goal: isGoal ? goal : null,
            ok: isGoal ? ok : null,
          }),
        )
      else
        console.log(
          `    ${round(median(name)).padStart(10)} ${unit} ${name}: ${ratio.toFixed(2)}×${isGoal ? ` (goal ${better === 'higher' ? '≥' : '≤'} ${goal}×: ${ok ? 'reached' : 'not reached'})` : ''}`,
        )
    }
  }
} finally {
  rmSync(dir, { recursive: true, force: true })
}

function middle(figures: readonly number[]): number {
  return figures.toSorted((a, b) => a - b)[Math.floor(figures.length / 2)] ?? Number.NaN
}

function round(value: number): string {
  return value >= 100 ? value.toFixed(0) : value.toFixed(3)
}
