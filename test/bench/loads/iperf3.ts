import type { Testbed, Side } from '../testbed.ts'

export interface Address {
  readonly host: string
  readonly port: number
}

/** A receiver that anybody may send to, TCP and UDP. */
export async function startIperf(testbed: Testbed, side: Side): Promise<number> {
  const port = await testbed.port()
  const bound = testbed.kind === 'loopback' ? ['-B', '127.0.0.1'] : []
  const program = testbed.start(side, ['iperf3', '-s', '-p', String(port), ...bound])
  await testbed.listening(program, port)
  return port
}

/** Bulk TCP from side a: Gbit/s and bytes as the receiver counts them. */
export async function bulk(
  testbed: Testbed,
  { host, port }: Address,
  { seconds, streams }: { seconds: number; streams: number },
): Promise<{ gigabits: number; bytes: number }> {
  const argv = ['iperf3', '-c', host, '-p', String(port), '-t', String(seconds), '-P', String(streams), '-J']
  const said = await testbed.text('a', argv, (seconds + 30) * 1_000)
  const { end, error } = JSON.parse(said) as Said<{ sum_received: { bits_per_second: number; bytes: number } }>
  if (end?.sum_received === undefined) throw new Error(`iperf3: ${error ?? 'no result'}`)
  return { gigabits: end.sum_received.bits_per_second / 1e9, bytes: end.sum_received.bytes }
}

/** UDP from side a at a rate: what was sent each second, and the share that was lost. */
export async function datagrams(
  testbed: Testbed,
  { host, port }: Address,
  { seconds, bytes, perSecond }: { seconds: number; bytes: number; perSecond: number },
): Promise<{ perSecond: number; lost: number }> {
  const rate = String(Math.round(perSecond * bytes * 8))
  const argv = ['iperf3', '-u', '-c', host, '-p', String(port), '-l', String(bytes), '-b', rate, '-t', String(seconds)]
  // The receiver's buffer: the default holds 2 ms of these rates, less than another process may have the core for.
  // It greets by one datagram and waits for ever when that is lost: the rate before was too much, and its rest still queued.
  const said = await testbed.text('a', [...argv, '-w', '2M', '-J'], seconds * 1_000 + GREETED_MS).catch(() => undefined)
  if (said === undefined) return { perSecond: 0, lost: 1 }
  const { end, error } = JSON.parse(said) as Said<{ sum: { packets: number; lost_packets: number; seconds: number } }>
  if (end?.sum === undefined || !(end.sum.packets > 0)) throw new Error(`iperf3: ${error ?? 'no result'}`)
  const { packets, lost_packets: lost, seconds: took } = end.sum
  return { perSecond: (packets - lost) / took, lost: lost / packets }
}

const GREETED_MS = 5_000

interface Said<T> {
  end?: Partial<T>
  error?: string
}
