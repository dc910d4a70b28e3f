import { writeFileSync } from 'node:fs'
import type { Testbed } from '../testbed.ts'
import { quantile } from '../table.ts'
import type { Address } from './iperf3.ts'

export interface Asked {
  readonly seconds: number
  /** Questions a second; as many as are answered when absent. */
  readonly perSecond?: number
}

/** Questions from side a for the names in turn; of a limited rate the 99th percentile of the latency too. */
export async function dnsperf(
  testbed: Testbed,
  { host, port }: Address,
  names: readonly string[],
  { seconds, perSecond }: Asked,
): Promise<{ perSecond: number; p99?: number }> {
  const file = testbed.path('questions')
  writeFileSync(file, names.map((name) => `${name} A\n`).join(''))
  const where = ['-s', host, '-p', String(port), '-d', file, '-l', String(seconds), '-t', '2']
  // Every answer is printed with its latency (-v): that costs dnsperf, so only at the limited rate.
  const rate = perSecond === undefined ? [] : ['-Q', String(Math.max(1, Math.round(perSecond))), '-v']
  const said = await testbed.text('a', ['dnsperf', ...where, ...rate], (seconds + 30) * 1_000)
  const answered = Number(/Queries per second:\s+([\d.]+)/.exec(said)?.[1])
  const good = Number(/NOERROR (\d+)/.exec(said)?.[1] ?? 0)
  const all = Number(/Queries completed:\s+(\d+)/.exec(said)?.[1] ?? 0)
  if (!(good > 0) || good < all) throw new Error(`dnsperf: ${good} of ${all} answers are NOERROR`)
  const p99 = quantile(latencies(said), 0.99)
  return p99 === undefined ? { perSecond: answered } : { perSecond: answered, p99 }
}

/** In ms, from lines as `> NOERROR shop.acme… A 0.000123`. */
function latencies(said: string): number[] {
  return Array.from(said.matchAll(/^> \S+ \S+ \S+ (\d+\.\d+)$/gm), ([, seconds]) => Number(seconds) * 1_000)
}
