import { spawn } from 'node:child_process'
import { createSocket } from 'node:dgram'
import { lookup } from 'node:dns/promises'
import { stat } from 'node:fs/promises'
import { connect, isIP, type Socket } from 'node:net'
import { hostname } from 'node:os'
import type { Writable } from 'node:stream'
import { connect as connectTls } from 'node:tls'
import { unlessAborted } from './abort.ts'
import { readTlsFiles, type TlsFiles } from './tls-files.ts'

/*
 * Four ways to a syslog daemon, and what a line looks like on each.
 *
 *     udp    <30>1 2026-11-30T18:00:00.000Z host hedgerow 4711 flow-ended - {"flow":…}     one datagram, RFC 5424 and 5426
 *     tcp    412 <30>1 2026-11-30T…                                                        its length first, RFC 6587 §3.4.1
 *     tls    412 <30>1 2026-11-30T…                                                        the same, encrypted, RFC 5425
 *     unix   <30>{"flow":…}↵                                                               to `logger`, which writes to the socket
 *
 * Node has no datagrams over Unix sockets, so `logger` (of util-linux, on every Debian) carries those, in the form that daemons expect of
 * programs of their machine.
 */

export interface SyslogLine {
  atMs: number
  severity: 'info' | 'warn'
  /** MSGID: what kind of line it is, without a space. */
  kind: string
  /** ASCII, without a line break. */
  text: string
}

/** A way that is open. */
export interface Wire extends Disposable {
  /** Resolves when the kernel has it. @throws when it does not take it */
  send(line: SyslogLine): Promise<void>
  /** Aborts when it is lost, also while nothing is sent; its reason says why. */
  readonly failure: AbortSignal
}

/** @throws when the daemon cannot be reached, or is not the one that its certificate should say */
export async function openWire(endpoint: URL, tls: TlsFiles): Promise<Wire> {
  switch (endpoint.protocol) {
    case 'udp:':
      return openDatagrams(endpoint)
    case 'tcp:':
      return openStream(connect(addressOf(endpoint)), 'connect')
    case 'tls:': {
      const { host, port } = addressOf(endpoint)
      const name = isIP(host) === 0 ? { servername: host } : {}
      const socket = connectTls({ host, port, ...name, ...readTlsFiles(tls) })
      return openStream(socket, 'secureConnect')
    }
    default:
      return openLogger(decodeURIComponent(endpoint.pathname))
  }
}

/** Facility `daemon` (3). */
const PRIORITY = { info: 3 * 8 + 6, warn: 3 * 8 + 4 } as const
const APP = 'hedgerow'
/** What every receiver of datagrams takes is 2,048 bytes (RFC 5426 §3.2); of a longer line the rest is cut off. */
const DATAGRAM_BYTES = 2_048
const ANSWER_MS = 10_000

/** RFC 5424 §6. The text is ASCII, so it needs no byte order mark. */
export function lineOf({ atMs, severity, kind, text }: SyslogLine, host = hostname(), pid = process.pid): string {
  const name = host.replaceAll(/[^\x21-\x7e]/g, '').slice(0, 255)
  return `<${PRIORITY[severity]}>1 ${new Date(atMs).toISOString()} ${name === '' ? '-' : name} ${APP} ${pid} ${kind} - ${text}`
}

async function openDatagrams(endpoint: URL): Promise<Wire> {
  const { host, port } = addressOf(endpoint)
  const { address, family } = await lookup(host)
  const socket = createSocket(family === 6 ? 'udp6' : 'udp4').unref()
  const failure = failureOf((fail) => void socket.on('error', fail)) // also the answer to an earlier datagram: nobody listens there
  const connected = Promise.withResolvers<void>()
  socket.connect(port, address, connected.resolve)
  await unlessAborted(connected.promise, failure)
  const sent = (text: string) =>
    new Promise<void>((resolve, reject) => {
      socket.send(text, (error) => (error === null ? resolve() : reject(error)))
    })
  return {
    send: (line) => unlessAborted(sent(lineOf(line).slice(0, DATAGRAM_BYTES)), failure),
    failure,
    [Symbol.dispose]: () => void socket.close(),
  }
}

/** `opened` is the event after which lines may be sent. */
async function openStream(socket: Socket, opened: 'connect' | 'secureConnect'): Promise<Wire> {
  const failure = failureOf((fail) => {
    socket.on('error', fail)
    socket.on('close', () => fail(new Error('the connection was closed')))
  })
  const within = async <T>(work: Promise<T>): Promise<T> => {
    socket.setTimeout(ANSWER_MS)
    const done = await unlessAborted(work, failure)
    socket.setTimeout(0)
    return done
  }
  socket.on('timeout', () => socket.destroy(new Error('no answer in time')))
  await within(new Promise<void>((resolve) => void socket.once(opened, resolve)))
  socket.resume() // what it says is not read
  return {
    send: (line) => within(written(socket, framed(lineOf(line)))),
    failure,
    [Symbol.dispose]: () => void socket.end(() => socket.destroy()),
  }
}

/** The line is ASCII: its length in characters is that in bytes. */
function framed(line: string): string {
  return `${line.length} ${line}`
}

async function openLogger(path: string): Promise<Wire> {
  if (!(await stat(path)).isSocket()) throw new Error(`${path} is no socket`)
  const options = ['--socket-errors=on', '--socket', path, '--tag', APP, `--id=${process.pid}`, '--size', '8192']
  const child = spawn('logger', [...options, '--prio-prefix'], { stdio: ['pipe', 'ignore', 'pipe'] })
  let said = ''
  child.stderr.setEncoding('utf8').on('data', (text: string) => (said = `${said}${text}`.slice(-500)))
  const failure = failureOf((fail) => {
    child.on('error', fail)
    child.on('close', (code) => fail(new Error(said.trim() === '' ? `logger ended with ${code}` : said.trim())))
  })
  child.stdin.on('error', () => undefined) // `close` says why
  await unlessAborted(new Promise<void>((resolve) => void child.once('spawn', resolve)), failure)
  return {
    send: ({ severity, text }) => unlessAborted(written(child.stdin, `<${PRIORITY[severity]}>${text}\n`), failure),
    failure,
    [Symbol.dispose]: () => void child.stdin.end(),
  }
}

/** A signal and no promise: what is sent waits for it once a line, and a promise would keep something of each. */
function failureOf(watch: (fail: (error: Error) => void) => void): AbortSignal {
  const failed = new AbortController()
  watch((error) => failed.abort(error))
  return failed.signal
}

function written(stream: Writable, text: string): Promise<void> {
  return new Promise((resolve, reject) => {
    stream.write(text, (error) => (error ? reject(error) : resolve()))
  })
}

/** `[::1]` is `::1`. */
function addressOf({ hostname: host, port }: URL): { host: string; port: number } {
  return { host: host.replace(/^\[(.*)\]$/, '$1'), port: Number(port) }
}
