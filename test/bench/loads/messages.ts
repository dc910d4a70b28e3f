/**
 * Messages of one size, there and back, one after the other on one connection: a program of its own.
 *
 *     node messages.ts <host> <port> <bytes> <seconds>
 *
 * It prints one JSON line, `{"messages","seconds"}`, of whole messages only: at least one, however long that takes.
 */
import { once } from 'node:events'
import { connect } from 'node:net'
import type { Testbed } from '../testbed.ts'
import type { Address } from './iperf3.ts'

export interface Exchanged {
  readonly messages: number
  readonly seconds: number
}

/** With an echo at the address. */
export async function exchange(
  testbed: Testbed,
  { host, port }: Address,
  { bytes, seconds }: { bytes: number; seconds: number },
): Promise<Exchanged> {
  const argv = [process.execPath, import.meta.filename, host, String(port), String(bytes), String(seconds)]
  return JSON.parse(await testbed.text('a', argv, (seconds + 60) * 1_000)) as Exchanged
}

async function main(host: string, port: number, { bytes, seconds }: { bytes: number; seconds: number }): Promise<void> {
  const socket = connect({ host, port, noDelay: true })
  await once(socket, 'connect')
  const message = Buffer.alloc(bytes, 'x')
  const startedAt = performance.now()
  let messages = 0
  let left = bytes
  socket.write(message)
  for await (const chunk of socket as AsyncIterable<Buffer>) {
    left -= chunk.length
    if (left > 0) continue
    messages += 1
    if (performance.now() - startedAt >= seconds * 1_000) break
    left = bytes
    socket.write(message)
  }
  console.log(JSON.stringify({ messages, seconds: (performance.now() - startedAt) / 1_000 }))
}

if (import.meta.main) {
  const [host = '', port = '', bytes = '', seconds = ''] = process.argv.slice(2)
  await main(host, Number(port), { bytes: Number(bytes), seconds: Number(seconds) })
}
