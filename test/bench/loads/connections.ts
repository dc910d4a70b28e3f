/**
 * Connections that stay open and idle: a program of its own, so that its memory and descriptors are not the benchmark's.
 *
 *     node connections.ts serve <host> <port>             sends back what it gets
 *     node connections.ts hold <host> <port> <count>      opens so many, a byte there and back on each, then holds them
 *
 * `hold` prints one JSON line once all are open or have failed, and ends with its process.
 */
import { connect, createServer } from 'node:net'
import type { Program } from '../../../src/lab/program.ts'
import { type Testbed, last, type Side, until } from '../testbed.ts'
import type { Address } from './iperf3.ts'

/** Connections being opened at the same time: fewer than any listen queue holds. */
const AT_ONCE = 64

export async function startEcho(testbed: Testbed, side: Side): Promise<number> {
  const port = await testbed.port()
  const host = testbed.kind === 'loopback' ? '127.0.0.1' : '0.0.0.0'
  const program = testbed.start(side, [process.execPath, import.meta.filename, 'serve', host, String(port)])
  await testbed.listening(program, port)
  return port
}

/** Resolves once they are open; they stay so until the program is stopped. */
export async function hold(
  testbed: Testbed,
  { host, port }: Address,
  count: number,
): Promise<{ open: number; program: Program }> {
  const argv = [process.execPath, import.meta.filename, 'hold', host, String(port), String(count)]
  const program = testbed.start('a', argv)
  await until(
    () => {
      if (program.exit !== undefined) throw new Error(`holding connections: ${program.exit}: ${last(program)}`)
      return program.lines.length > 0
    },
    `${count} connections are open`,
    120_000,
  )
  const { open } = JSON.parse(program.lines[0] as string) as { open: number }
  return { open, program }
}

function serve(host: string, port: number): void {
  const server = createServer({ noDelay: true }, (socket) => {
    socket.on('error', () => undefined)
    socket.pipe(socket)
  })
  server.listen({ host, port, backlog: 4_096 })
}

async function holdOpen(host: string, port: number, count: number): Promise<void> {
  let left = count
  let open = 0
  const opener = async () => {
    while (left-- > 0) if (await isOpen(host, port)) open++
  }
  await Promise.all(Array.from({ length: AT_ONCE }, opener))
  console.log(JSON.stringify({ open }))
}

/** True when a byte came back; then the connection is left as it is. */
function isOpen(host: string, port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect({ host, port, noDelay: true }, () => socket.write('.'))
    socket.setTimeout(20_000, () => socket.destroy())
    socket.once('data', () => {
      socket.setTimeout(0)
      resolve(true)
    })
    socket.on('error', () => undefined)
    socket.once('close', () => resolve(false))
  })
}

if (import.meta.main) {
  const [what, host = '', port = '', count = ''] = process.argv.slice(2)
  if (what === 'serve') serve(host, Number(port))
  else await holdOpen(host, Number(port), Number(count))
}
