/**
 * Bytes from memory through one TLS 1.3 connection between two Node processes, and nothing else: what a byte costs at least in Node.
 *
 *     node bare-tls.ts take <host> <port> <pem> <authority>               throws away what comes
 *     node bare-tls.ts give <host> <port> <pem> <authority> <seconds>     prints one JSON line: bytes, and its CPU while it sent
 *
 * Certificates at both ends and the ciphers of our agents; Node with the same flags as they.
 */
import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import { connect, createServer } from 'node:tls'
import { cipherList } from '../../../src/core/identity/ciphers.ts'
import { certificate } from '../peers/certificate.ts'
import { cpuSeconds } from '../proc.ts'
import type { Testbed } from '../testbed.ts'

/** As much as an agent reads at once. */
const CHUNK = Buffer.alloc(65_536, 7)

/** Seconds of CPU for 10⁹ bytes. `hedgerow`: what starts an agent, for its Node and flags. */
export async function bareTls(
  testbed: Testbed,
  hedgerow: readonly string[],
  seconds: number,
): Promise<{ sender: number; receiver: number }> {
  const port = await testbed.port()
  const { both, authority } = await certificate(testbed)
  const argv = (what: string) => [
    ...hedgerow.slice(0, -1),
    import.meta.filename,
    what,
    testbed.address('b'),
    String(port),
    both,
    authority,
  ]
  const taker = testbed.start('b', argv('take'))
  try {
    await testbed.listening(taker, port)
    const before = cpuSeconds(taker.pid)
    const said = await testbed.text('a', [...argv('give'), String(seconds)], (seconds + 30) * 1_000)
    const { bytes, cpu } = JSON.parse(said) as { bytes: number; cpu: number }
    return { sender: cpu / (bytes / 1e9), receiver: (cpuSeconds(taker.pid) - before) / (bytes / 1e9) }
  } finally {
    await taker.stop()
  }
}

interface Ends {
  host: string
  port: number
  pem: string
  authority: string
}

function tlsOf({ pem, authority }: Ends) {
  const both = readFileSync(pem)
  return { key: both, cert: both, ca: readFileSync(authority), minVersion: 'TLSv1.3', ciphers: cipherList() } as const
}

function take(ends: Ends): void {
  const server = createServer({ ...tlsOf(ends), requestCert: true, noDelay: true }, (socket) => {
    socket.on('error', () => undefined)
    socket.resume()
  })
  server.listen(ends.port, ends.host)
}

async function give(ends: Ends, seconds: number): Promise<void> {
  const { host, port } = ends
  const socket = connect({ ...tlsOf(ends), host, port, checkServerIdentity: () => undefined })
  await once(socket, 'secureConnect')
  const before = process.cpuUsage()
  const until = performance.now() + seconds * 1_000
  let bytes = 0
  while (performance.now() < until) {
    bytes += CHUNK.length
    if (!socket.write(CHUNK)) await once(socket, 'drain')
  }
  socket.end()
  await once(socket, 'close')
  const { user, system } = process.cpuUsage(before)
  console.log(JSON.stringify({ bytes, cpu: (user + system) / 1e6 }))
}

if (import.meta.main) {
  const [what, host = '', port = '', pem = '', authority = '', seconds = ''] = process.argv.slice(2)
  const ends = { host, port: Number(port), pem, authority }
  if (what === 'take') take(ends)
  else await give(ends, Number(seconds))
}
