import { type Bench, PAIR, type Scenario } from '../bench.ts'
import type { Address } from '../loads/iperf3.ts'
import { wrk } from '../loads/wrk.ts'
import { cpuSeconds } from '../proc.ts'
import { countedBy, hasPerf } from '../syscalls.ts'
import { OURS } from '../table.ts'
import type { Side } from '../testbed.ts'

const KINDS = ['request', 'new connection'] as const
const ENDS = { a: 'the caller’s agent', b: 'the instance’s agent' } as const
const cpuOf = (kind: string, side: Side) => `CPU of a ${kind}, ${ENDS[side]}`
const callsOf = (kind: string, side: Side) => `system calls of a ${kind}, ${ENDS[side]}`

/** What a small request costs each end, kept-alive (64 at once) and on a connection of its own (16 at once). */
export const effort: Scenario = {
  rows: KINDS.flatMap((kind) =>
    (['a', 'b'] as const).flatMap((side) => [
      { measure: cpuOf(kind, side), unit: 'µs', better: 'lower' as const, against: { [PAIR]: 'report' as const } },
      { measure: callsOf(kind, side), unit: '', better: 'lower' as const, against: { [PAIR]: 'report' as const } },
    ]),
  ),
  needs: ['wrk', 'haproxy'],
  isOnce: true,
  lanes: [
    {
      name: OURS,
      measure: async (bench) => {
        const { mesh, web } = await bench.ours()
        return effortOf(bench, web, { a: mesh.pid('a'), b: mesh.pid('b') })
      },
    },
    {
      name: PAIR,
      needs: ['openssl'],
      measure: async (bench) => {
        const { web, pids } = await bench.pair()
        return effortOf(bench, web, pids)
      },
    },
  ],
}

type Pids = Readonly<Record<Side, number>>

async function effortOf(bench: Bench, { host, port }: Address, pids: Pids): Promise<Record<string, number>> {
  const url = `http://${host}:${port}/`
  const figures: Record<string, number> = {}
  for (const kind of KINDS) {
    const { seconds } = bench
    const load = kind === 'request' ? { connections: 64, seconds } : { connections: 16, seconds, isFresh: true }
    await wrk(bench.testbed, url, { ...load, seconds: 1 }) // code that has not run yet is compiled now
    const before = { a: cpuSeconds(pids.a), b: cpuSeconds(pids.b) }
    const { requests } = await wrk(bench.testbed, url, load)
    for (const side of ['a', 'b'] as const)
      figures[cpuOf(kind, side)] = ((cpuSeconds(pids[side]) - before[side]) * 1e6) / requests
    // apart, because counting costs time
    if (!hasPerf()) continue
    const counters = { a: countedBy(bench.testbed, pids.a), b: countedBy(bench.testbed, pids.b) }
    const { requests: counted } = await wrk(bench.testbed, url, {
      ...load,
      under: [...counters.a.argv, ...counters.b.argv],
    })
    for (const side of ['a', 'b'] as const) figures[callsOf(kind, side)] = counters[side].calls() / counted
  }
  return figures
}
