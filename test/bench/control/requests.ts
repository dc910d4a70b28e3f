import { connect, createServer, type AddressInfo } from 'node:net'
import { quantile } from '../table.ts'

/** Between two requests, whether the one before was answered or not. */
const EVERY_MS = 5
/** What takes longer has failed. */
const LIMIT_MS = 2_000

/** A program that sends back what it gets. */
export async function openEcho(): Promise<{ port: number; close: () => void }> {
  const server = createServer((socket) => socket.on('error', () => undefined).pipe(socket))
  await new Promise<void>((resolve) => server.listen({ host: '127.0.0.1', port: 0, backlog: 4_096 }, resolve))
  return { port: (server.address() as AddressInfo).port, close: () => void server.close() }
}

export interface Answers {
  p99Ms: number
  requests: number
  failed: number
}

/** A new connection every 5 ms, one byte there and back, for as long as the work takes. */
export async function askDuring(address: { host: string; port: number }, work: () => Promise<void>): Promise<Answers> {
  const took: number[] = []
  let failed = 0
  const open = new Set<Promise<void>>()
  const timer = setInterval(() => {
    const one = ask(address)
      .then((ms) => void took.push(ms))
      .catch(() => void (failed += 1))
      .finally(() => open.delete(one))
    open.add(one)
  }, EVERY_MS)
  try {
    await work()
  } finally {
    clearInterval(timer)
  }
  await Promise.all(open)
  return { p99Ms: quantile(took, 0.99) ?? Number.NaN, requests: took.length + failed, failed }
}

function ask({ host, port }: { host: string; port: number }): Promise<number> {
  return new Promise((resolve, reject) => {
    const askedAt = performance.now()
    const socket = connect({ host, port, noDelay: true }, () => socket.write('?'))
    socket.setTimeout(LIMIT_MS, () => socket.destroy(new Error('no answer')))
    socket.once('data', () => {
      resolve(performance.now() - askedAt)
      socket.destroy()
    })
    socket.once('error', reject)
    socket.once('close', () => reject(new Error('closed without an answer')))
  })
}
