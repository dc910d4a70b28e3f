import { writeFileSync } from 'node:fs'
import type { Testbed, Side } from '../testbed.ts'
import { certificate } from './certificate.ts'

/**
 * HAProxy three ways, configured as its users would for speed: event loop threads as it chooses itself (one for each core),
 * TCP_NODELAY and splicing as by default, `maxconn` only because a process here may have 20,000 descriptors.
 *
 *     origin   answers any request from memory; the same for every lane
 *     hop      caller ─▶ HAProxy ─▶ origin, mode tcp, on one machine
 *     pair     caller ─▶ HAProxy ══ TLS 1.3, certificates on both sides ══▶ HAProxy ─▶ origin, mode tcp
 *
 * In `mode tcp` a connection between the pair lives as long as the caller's, so keep-alive callers keep theirs; new ones
 * resume TLS sessions (HAProxy's default). ECDSA P-256 and AES-128-GCM, as our agents use.
 */
export interface PairPort {
  /** Where the caller connects, on side a. */
  readonly front: number
  /** What it gets to, on side b. */
  readonly target: number
}

const HEAD = `global
  maxconn 9500
defaults
  timeout connect 5s
  timeout client 5m
  timeout server 5m
`

/** A web server that answers every request with 15 bytes. */
export async function startOrigin(testbed: Testbed, side: Side): Promise<number> {
  const port = await testbed.port()
  await start(
    testbed,
    side,
    `origin-${side}`,
    [port],
    `frontend origin
  mode http
  bind ${bindOf(testbed, port)}
  http-request return status 200 content-type text/plain string "hedgerow bench\\n"
`,
  )
  return port
}

/** The front port of one plain hop to a port on the same side. */
export async function startHop(testbed: Testbed, side: Side, target: number): Promise<number> {
  const front = await testbed.port()
  const text = `listen hop\n  mode tcp\n  bind 127.0.0.1:${front}\n  server o 127.0.0.1:${target}\n`
  await start(testbed, side, `hop-${side}`, [front], text)
  return front
}

/** The front ports on side a, one for each target on side b; and the processes, for their memory. */
export async function startPair(
  testbed: Testbed,
  targets: readonly number[],
): Promise<{ fronts: number[]; pids: Readonly<Record<Side, number>> }> {
  const pem = await certificate(testbed)
  const ports = await Promise.all(
    targets.map(async (target) => ({ target, front: await testbed.port(), back: await testbed.port() })),
  )
  const back = ports.map(
    ({ target, back: port }) => `listen b${port}
  mode tcp
  bind ${testbed.address('b')}:${port} ssl crt ${pem.both} ssl-min-ver TLSv1.3 verify required ca-file ${pem.authority}
  server o 127.0.0.1:${target}
`,
  )
  const front = ports.map(
    ({ front: port, back: to }) => `listen f${port}
  mode tcp
  bind 127.0.0.1:${port}
  server b ${testbed.address('b')}:${to} ssl verify required ca-file ${pem.authority} ssl-min-ver TLSv1.3 crt ${pem.both}
`,
  )
  const pids = {
    b: await start(
      testbed,
      'b',
      'pair-b',
      ports.map(({ back: port }) => port),
      back.join(''),
    ),
    a: await start(
      testbed,
      'a',
      'pair-a',
      ports.map(({ front: port }) => port),
      front.join(''),
    ),
  }
  return { fronts: ports.map(({ front: port }) => port), pids }
}

async function start(
  testbed: Testbed,
  side: Side,
  name: string,
  ports: readonly number[],
  text: string,
): Promise<number> {
  const file = testbed.path(`${name}.cfg`)
  writeFileSync(file, HEAD + text)
  const program = testbed.start(side, ['haproxy', '-db', '-f', file])
  for (const port of ports) await testbed.listening(program, port)
  return program.pid
}

/** Everywhere in a namespace; on a real machine only loopback. */
function bindOf({ kind }: Testbed, port: number): string {
  return kind === 'loopback' ? `127.0.0.1:${port}` : `0.0.0.0:${port}`
}
