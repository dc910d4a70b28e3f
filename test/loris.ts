import { connect, type Socket } from 'node:net'
import { duplexPair } from 'node:stream'
import { connect as connectTls, type ConnectionOptions } from 'node:tls'
import { once } from 'node:events'

/** Clients that hold connections and say next to nothing, in all the ways in which a listener may be kept waiting. */

export type Where = { host: string; port: number } | { path: string }

/** One client: resolves once the listener has ended its connection for good, not only its own half of it. */
export type Attack = (where: Where) => Promise<void>

/** So often comes a byte. */
const STEP_MS = 60

/** Sends the first bytes at once, then one of `drip` after the other, over and over; after an end it goes on, until that is an error. */
function hold(socket: Socket, first: Buffer, drip: Buffer): Promise<void> {
  let at = 0
  const step = () => {
    if (drip.length > 0) socket.write(drip.subarray(at % drip.length, (at++ % drip.length) + 1))
    else if (socket.readableEnded) socket.write('?') // a half-closed connection is one that is held
  }
  const dripping = setInterval(step, STEP_MS)
  return new Promise((resolve) => {
    socket
      .on('error', () => socket.destroy())
      .once('close', () => {
        clearInterval(dripping)
        resolve()
      })
    socket.resume()
    if (first.length > 0) socket.write(first)
  })
}

const NOTHING = Buffer.alloc(0)
const dial = (where: Where) => connect({ ...where, allowHalfOpen: true })

export const silent: Attack = (where) => hold(dial(where), NOTHING, NOTHING)

export function dripping(first: string | Buffer, drip: string | Buffer): Attack {
  return (where) => hold(dial(where), bytes(first), bytes(drip))
}

function bytes(text: string | Buffer): Buffer {
  return typeof text === 'string' ? Buffer.from(text, 'latin1') : text
}

/** As much as the listener takes, of something that never becomes whole. */
export function gushing(what: string): Attack {
  return (where) =>
    new Promise((resolve) => {
      const socket = dial(where)
      const block = Buffer.alloc(64 * 1024, what, 'latin1')
      const pour = () => {
        while (socket.writable && socket.write(block));
      }
      socket
        .on('error', () => socket.destroy())
        .on('drain', pour)
        .once('close', () => resolve())
      socket.once('connect', pour).resume()
    })
}

/** The same inside TLS, once that is done. */
export function insideTls(options: ConnectionOptions, first: string, drip: string): Attack {
  return (where) => {
    const whole: object = { ...options, ...where, rejectUnauthorized: false, allowHalfOpen: true }
    return hold(connectTls(whole), bytes(first), bytes(drip))
  }
}

/** All of a TLS client's hello but its last byte. */
export async function helloOfTls(): Promise<Buffer> {
  const [near, far] = duplexPair()
  const socket = connectTls({ socket: near, rejectUnauthorized: false })
  socket.on('error', () => undefined)
  const [hello] = (await once(far, 'data')) as [Buffer]
  socket.destroy()
  return hello.subarray(0, -1)
}
