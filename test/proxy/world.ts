import { once } from 'node:events'
import { createServer, type AddressInfo, type Server, type Socket, connect } from 'node:net'
import { createHash } from 'node:crypto'
import { MeshError } from '../../src/core/errors.ts'
import type { Fields, Log } from '../../src/core/kit/log.ts'
import type { ServiceEntry } from '../../src/core/model/change.ts'
import { choiceKey, choiceOf, type Choice, type ChoiceKey } from '../../src/core/model/choice.ts'
import { instanceId, interestOf, type InstanceId, type NodeId, type ServiceId } from '../../src/core/model/ids.ts'
import type { InstanceState } from '../../src/core/model/instance.ts'
import type { Service } from '../../src/core/model/service.ts'
import type { Found, TableView, Target } from '../../src/core/table/view.ts'
import type { OutboundParts } from '../../proxy/outbound/outbound.ts'
import { AskedVips } from '../../proxy/intercept/asked-vips.ts'
import { systemClock } from '../../src/core/kit/clock.ts'
import { KeyedSemaphore } from '../../src/core/kit/keyed-semaphore.ts'
import { until } from '../support/until.ts'
import type {
  ByteStream,
  ByteStreamEvents,
  DatagramStream,
  DatagramStreamEvents,
  IncomingStream,
  OpeningEvents,
  Peers,
  Refusal,
  Route,
  Session,
  StreamEvents,
  Withdrawable,
} from '../../proxy/tunnel/contract.ts'

/** What the tests of the proxy stand on: a table as a literal, sessions in memory, servers on port 0. */

export interface ServiceFacts {
  id: ServiceId
  ports?: number[]
  /** Ports of UDP, beside those of TCP. */
  udp?: number[]
  allow?: string[]
  paths?: string
  /** The node of each instance; index is ordinal. */
  on?: NodeId[]
  states?: InstanceState[]
  /** Other nodes from which each instance may call. */
  also?: NodeId[][]
  vips?: Partial<Record<ChoiceKey, number>>
  /** Choices whose VIP a document requests. */
  requested?: ChoiceKey[]
}

/** Room for all: what flows take turns by, and no end of descriptors; first bytes travel early. */
export function roomy(): Pick<OutboundParts, 'openings' | 'descriptors' | 'earlyData'> {
  return { openings: new KeyedSemaphore(256), descriptors: { reserve: () => true }, earlyData: true }
}

let lastVip = 0xe1000

export function entryOf({
  id,
  ports = [80],
  udp = [],
  allow = [],
  paths,
  on = [],
  states = [],
  also = [],
  vips,
  requested,
}: ServiceFacts): ServiceEntry {
  const [app, appNamespace, name, namespace] = id.split('.') as [string, string, string, string]
  const service: Service = {
    id,
    app,
    appNamespace,
    name,
    namespace,
    ports: [
      ...ports.map((port) => ({ port, protocol: 'tcp' as const })),
      ...udp.map((port) => ({ port, protocol: 'udp' as const })),
    ],
    allow,
    ...(paths === undefined ? {} : { paths }),
    vips: vips ?? { 'any.rr': ++lastVip },
    ...(requested === undefined ? {} : { requested }),
  }
  const instances = on.map((node, ordinal) => ({
    id: instanceId(id, ordinal),
    service: id,
    ordinal,
    node,
    state: states[ordinal] ?? ('running' as const),
    ...(also[ordinal] === undefined ? {} : { also: also[ordinal] }),
  }))
  const nodes = [...new Set(on)].map((node) => ({ id: node, addresses: [], relays: [] }))
  return { version: 1, service, instances, nodes }
}

/** A table that is changed by `set` and `drop`. */
export class LiteralTable implements TableView {
  readonly entries = new Map<ServiceId, ServiceEntry>()
  readonly #listeners = new Set<(service: ServiceId, entry: ServiceEntry | undefined) => void>()

  constructor(...facts: ServiceFacts[]) {
    for (const fact of facts) this.set(fact)
  }

  set(facts: ServiceFacts): ServiceEntry {
    const entry = entryOf(facts)
    this.entries.set(facts.id, entry)
    for (const listener of this.#listeners) listener(facts.id, entry)
    return entry
  }

  drop(id: ServiceId): void {
    this.entries.delete(id)
    for (const listener of this.#listeners) listener(id, undefined)
  }

  target(id: ServiceId, choice: Choice = { instance: 'any', policy: 'rr' }): Target {
    const { service } = this.entries.get(id) as ServiceEntry
    return { service, choice, vip: service.vips[choiceKey(choice)] ?? 0 }
  }

  find(name: Parameters<TableView['find']>[0]): Found {
    const id = `${name.app}.${name.appNamespace}.${name.service}.${name.serviceNamespace ?? name.appNamespace}`
    const entry = this.entries.get(id)
    if (entry === undefined) return { kind: 'unasked', key: interestOf(id) }
    const vip = entry.service.vips[choiceKey(name.choice)]
    if (vip === undefined) return { kind: 'unknown', reason: `no instance ${name.choice.instance}` }
    return { kind: 'target', target: { service: entry.service, choice: name.choice, vip } }
  }

  byVip(vip: number): Target | undefined {
    for (const { service } of this.entries.values()) {
      const found = Object.entries(service.vips).find(([, index]) => index === vip)
      if (found !== undefined) return { service, choice: choiceOf(found[0]) as Choice, vip }
    }
    return undefined
  }

  entry(service: ServiceId): ServiceEntry | undefined {
    return this.entries.get(service)
  }

  instance(id: InstanceId) {
    return this.entries.get(interestOf(id))?.instances.find((instance) => instance.id === id)
  }

  node(id: NodeId) {
    for (const { nodes } of this.entries.values()) {
      const found = nodes.find((node) => node.id === id)
      if (found !== undefined) return found
    }
    return undefined
  }

  services(): Iterable<ServiceEntry> {
    return this.entries.values()
  }

  onChange(listener: (service: ServiceId, entry: ServiceEntry | undefined) => void): () => void {
    this.#listeners.add(listener)
    return () => void this.#listeners.delete(listener)
  }
}

/** As on a node where every name of the table has been asked for. */
export function allAsked(table: LiteralTable): AskedVips {
  const asked = new AskedVips(systemClock, 100_000)
  const note = (entry: ServiceEntry | undefined) => {
    if (entry === undefined) return
    for (const vip of Object.values(entry.service.vips) as number[]) asked.note(vip, entry.service.id)
  }
  for (const entry of table.services()) note(entry)
  table.onChange((_service, entry) => note(entry))
  return asked
}

const WINDOW = 128 * 1024

/** One end of a stream in memory. */
abstract class MemoryEnd<Peer extends MemoryEnd<Peer, Events>, Events extends StreamEvents> {
  peer!: Peer
  events: Events | undefined
  isDead = false

  end(): void {
    this.later((peer) => peer.events?.end())
  }

  reset(): void {
    if (this.isDead) return
    this.isDead = true
    setImmediate(() => {
      if (this.peer.isDead) return
      this.peer.isDead = true
      this.peer.events?.reset()
    })
  }

  withdraw(): void {
    // nothing is refused that late here
  }

  /** setImmediate keeps the order, as a carrier does. */
  protected later(act: (peer: Peer) => void): void {
    setImmediate(() => {
      if (!this.isDead && !this.peer.isDead) act(this.peer)
    })
  }
}

/** With a window: `write` returns false when it is used up. */
class MemoryBytes extends MemoryEnd<MemoryBytes, ByteStreamEvents> implements ByteStream, Withdrawable {
  unconsumed = 0
  isBlocked = false

  write(given: Buffer): boolean {
    if (this.isDead) return false
    const chunk = Buffer.from(given)
    this.unconsumed += chunk.length
    this.later((peer) => peer.events?.data(chunk))
    this.isBlocked = this.unconsumed >= WINDOW
    return !this.isBlocked
  }

  consumed(bytes: number): void {
    this.later((peer) => {
      peer.unconsumed -= bytes
      if (!peer.isBlocked || peer.unconsumed >= WINDOW / 2) return
      peer.isBlocked = false
      peer.events?.drain()
    })
  }
}

class MemoryDatagrams extends MemoryEnd<MemoryDatagrams, DatagramStreamEvents> implements DatagramStream, Withdrawable {
  send(given: Buffer): boolean {
    const payload = Buffer.from(given)
    this.later((peer) => peer.events?.datagram(payload))
    return !this.isDead
  }
}

/** Two ends of one open stream. */
export function streamPair(near: ByteStreamEvents, far: ByteStreamEvents): [ByteStream, ByteStream] {
  const a = new MemoryBytes()
  const b = new MemoryBytes()
  a.peer = b
  b.peer = a
  a.events = near
  b.events = far
  return [a, b]
}

/** Where first bytes are not sent early. */
export const NEAR_BY: Route = { path: 'direct', rttMs: 1, takesEarly: false, silentMs: 0 }

/** A session whose OPENs are given to `take` of the other node. */
export function sessionTo(peer: NodeId, self: NodeId, take: (incoming: IncomingStream) => void): Session {
  return {
    peer,
    path: 'direct',
    rttMs: 1,
    streams: 0,
    report: notAsked,
    route: () => NEAR_BY,
    open(request, events) {
      const [near, far] = streamPair(events, NO_ONE) as [MemoryBytes, MemoryBytes]
      askToOpen({ near, far, request, self, take }, events)
      return near
    },
    openDatagrams(request, events) {
      const near = new MemoryDatagrams()
      const far = new MemoryDatagrams()
      near.peer = far
      far.peer = near
      near.events = events
      askToOpen({ near, far, request, self, take }, events)
      return near
    },
  }
}

/** Of a session that nobody reports on. */
export function notAsked(): never {
  throw new Error('this session gives no report')
}

const NO_ONE = { data: () => undefined, drain: () => undefined, end: () => undefined, reset: () => undefined }

interface Opening {
  near: MemoryBytes | MemoryDatagrams
  far: MemoryBytes | MemoryDatagrams
  request: Buffer
  self: NodeId
  take: (incoming: IncomingStream) => void
}

/** Gives the OPEN to the other node, in a turn of its own, and its answer to the opener. */
function askToOpen({ near, far, request, self, take }: Opening, opening: OpeningEvents): void {
  let onGone: (() => void) | undefined
  let isAnswered = false
  const gone = { ...NO_ONE, datagram: () => undefined, reset: () => onGone?.() }
  far.events = gone
  const answer = (act: () => void): void => {
    isAnswered = true
    setImmediate(() => !near.isDead && act())
  }
  const opened = () => answer(() => opening.opened())
  setImmediate(() => {
    if (near.isDead) return
    take({
      peer: self,
      path: 'direct',
      request,
      accept(events) {
        if (!(far instanceof MemoryBytes)) throw new Error('a stream of datagrams was taken for one of bytes')
        far.events = events
        opened()
        return far
      },
      acceptDatagrams(events) {
        if (!(far instanceof MemoryDatagrams)) throw new Error('a stream of bytes was taken for one of datagrams')
        far.events = events
        opened()
        return far
      },
      refuse: (refusal: Refusal) => answer(() => opening.refused(refusal)),
      onGone: (listener) => (onGone = () => !isAnswered && listener()),
    })
  })
}

/** Peers with these sessions open; `rtts` in ms. */
export function peersWith(sessions: Session[], rtts: Record<NodeId, number> = {}): Peers & { dialled: NodeId[] } {
  const dialled: NodeId[] = []
  return {
    dialled,
    session: (node) => {
      dialled.push(node.id)
      return Promise.reject(new MeshError('NO_PATH', { node: node.id }))
    },
    existing: (node) => sessions.find(({ peer }) => peer === node),
    all: () => sessions,
    rttMs: (node) => rtts[node],
    [Symbol.asyncDispose]: () => Promise.resolve(),
  }
}

export interface Line {
  level: string
  sentence: string
  fields: Fields
}

/** A log that is kept. */
export function keptLog(): Log & { lines: Line[]; line: (sentence: string) => Promise<Line> } {
  const lines: Line[] = []
  const write =
    (level: string) =>
    (sentence: string, fields: Fields = {}) =>
      void lines.push({ level, sentence, fields })
  return {
    lines,
    debug: write('debug'),
    info: write('info'),
    warn: write('warn'),
    error: write('error'),
    child() {
      return this
    },
    isDebug: true,
    line: async (sentence) => {
      await until(() => lines.some((line) => line.sentence === sentence))
      return lines.find((line) => line.sentence === sentence) as Line
    },
  }
}

export interface Served {
  port: number
  server: Server
  sockets: Socket[]
  [Symbol.asyncDispose](): Promise<void>
}

/** A TCP server on loopback; its sockets are half-open. */
export async function serve(
  onSocket: (socket: Socket) => void,
  host = '127.0.0.1',
  port = 0,
  backlog = 511,
): Promise<Served> {
  const sockets: Socket[] = []
  const server = createServer({ allowHalfOpen: true }, (socket) => {
    sockets.push(socket)
    socket.on('error', () => undefined)
    onSocket(socket)
  })
  server.listen({ host, port, backlog })
  await once(server, 'listening')
  return {
    port: (server.address() as AddressInfo).port,
    server,
    sockets,
    async [Symbol.asyncDispose]() {
      for (const socket of sockets) socket.destroy()
      server.close()
      await turns(2)
    },
  }
}

export function echo(socket: Socket): void {
  socket.pipe(socket)
}

/** A client socket: half-open, collecting what it hears. */
export class Client {
  readonly socket: Socket
  readonly chunks: Buffer[] = []
  readonly #ended = Promise.withResolvers<void>()
  readonly #closed = Promise.withResolvers<string>()
  /** The other side has ended. */
  readonly ended = this.#ended.promise
  /** `ok`, or the error's code. */
  readonly closed = this.#closed.promise

  constructor(socket: Socket) {
    this.socket = socket
    let code = 'ok'
    socket.on('data', (chunk: Buffer) => this.chunks.push(chunk))
    socket.resume()
    socket.on('end', () => this.#ended.resolve())
    socket.on('error', (error: NodeJS.ErrnoException) => (code = error.code ?? error.message))
    socket.on('close', () => {
      this.#ended.resolve()
      this.#closed.resolve(code)
    })
  }

  static async connect(port: number, host = '127.0.0.1'): Promise<Client> {
    const socket = connect({ host, port, allowHalfOpen: true })
    const client = new Client(socket)
    await once(socket, 'connect')
    return client
  }

  get text(): string {
    return Buffer.concat(this.chunks).toString('latin1')
  }

  get bytes(): number {
    return this.chunks.reduce((sum, chunk) => sum + chunk.length, 0)
  }

  digest(): string {
    return digestOf(Buffer.concat(this.chunks))
  }

  [Symbol.dispose](): void {
    this.socket.destroy()
  }
}

export function digestOf(bytes: Buffer): string {
  return createHash('sha256').update(bytes).digest('hex')
}

export async function turns(count: number): Promise<void> {
  for (let turn = 0; turn < count; turn++) await new Promise<void>((resolve) => setImmediate(resolve))
}
