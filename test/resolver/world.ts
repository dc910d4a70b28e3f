import { createSocket } from 'node:dgram'
import { once } from 'node:events'
import { connect } from 'node:net'
import { decode, encode, type DecodedPacket, type Packet } from 'dns-packet'
import { openMetrics } from '../../src/core/metrics.ts'
import { silentLog, type Fields, type Log } from '../../src/core/kit/log.ts'
import { vipRange } from '../../src/core/model/address.ts'
import type { ServiceEntry } from '../../src/core/model/change.ts'
import { choiceKey, choiceOf, type ChoiceKey } from '../../src/core/model/choice.ts'
import { interestKey, serviceId } from '../../src/core/model/ids.ts'
import type { Service, ServicePort } from '../../src/core/model/service.ts'
import type { InterestSource, TableView, Target } from '../../src/core/table/view.ts'
import { Resolver, type ResolverOptions } from '../../resolver/server.ts'

export const RANGE = vipRange('127.16.0.0/12')
export const ZONES = ['local', 'internal']

/** `ports` as in `http:8080/tcp`; the first VIP is `vip`, one more for each choice. */
export function service(name: string, vip: number, ports: readonly string[], choices: readonly string[]): Service {
  const [app, appNamespace, word, namespace] = name.split('.') as [string, string, string, string]
  return {
    id: serviceId({ app, appNamespace, service: word, serviceNamespace: namespace }),
    app,
    appNamespace,
    name: word,
    namespace,
    ports: ports.map((text): ServicePort => {
      const [, port = '', number, protocol] = /^(?:(\w+):)?(\d+)\/(tcp|udp)$/.exec(text) ?? []
      const parsed = { port: Number(number), protocol: protocol as 'tcp' | 'udp' }
      return port === '' ? parsed : { ...parsed, name: port }
    }),
    allow: [],
    vips: Object.fromEntries(choices.map((choice, i) => [choice as ChoiceKey, vip + i])),
  }
}

/** A table as the resolver sees it: what is in `services` is known, what is in `asked` has been asked for. */
export class WorldTable implements TableView {
  readonly asked = new Set<string>()
  readonly entries: Service[] = []
  finds = 0
  #listeners = new Set<() => void>()

  constructor(services: readonly Service[]) {
    for (const known of services) this.add(known)
  }

  add(known: Service): void {
    this.entries.push(known)
    this.asked.add(interestKey({ app: known.app, appNamespace: known.appNamespace, service: known.name }))
    this.changed()
  }

  remove(id: string): void {
    this.entries.splice(0, this.entries.length, ...this.entries.filter((entry) => entry.id !== id))
    this.changed()
  }

  changed(): void {
    for (const listener of this.#listeners) listener()
  }

  find: TableView['find'] = ({ app, appNamespace, service: word, serviceNamespace, choice }) => {
    this.finds++
    const key = interestKey({ app, appNamespace, service: word })
    if (!this.asked.has(key)) return { kind: 'unasked', key }
    const found = this.entries.find(
      (entry) =>
        entry.id.startsWith(`${key}.`) &&
        (serviceNamespace === undefined || entry.namespace.toLowerCase() === serviceNamespace),
    )
    if (found === undefined) return { kind: 'unknown', reason: 'no such service' }
    const vip = found.vips[choiceKey(choice)]
    return vip === undefined
      ? { kind: 'unknown', reason: 'no such instance' }
      : { kind: 'target', target: { service: found, choice, vip } }
  }

  byVip: TableView['byVip'] = (vip) => {
    for (const known of this.entries) {
      for (const [key, index] of Object.entries(known.vips)) {
        const choice = choiceOf(key)
        if (index === vip && choice !== undefined) return { service: known, choice, vip }
      }
    }
    return undefined
  }

  entry: TableView['entry'] = () => undefined
  instance: TableView['instance'] = () => undefined
  node: TableView['node'] = () => undefined
  services = (): Iterable<ServiceEntry> =>
    this.entries.map((known) => ({ version: 1, service: known, instances: [], nodes: [] }))
  onChange: TableView['onChange'] = (listener) => {
    const call = () => listener('', undefined)
    this.#listeners.add(call)
    return () => this.#listeners.delete(call)
  }
}

export const CART = service(
  'shop.acme.cart.prod',
  0xe0100,
  ['http:8080/tcp', '9090/tcp', '53/udp'],
  ['any.rr', 'any.closest', 'any.pinned', 'any.least', '0.pinned', '0.rr'],
)
export const STOCK = service('shop.acme.stock.prod', 0xe0200, ['7000/tcp'], ['any.rr', '0.pinned'])

export const explainChoice = ({ service: { id } }: Target) => [`0 edge/n1 running (${id})`, '1 edge/n2 running']

export interface Line {
  level: string
  sentence: string
  fields: Fields
}

export function recordingLog(): Log & { lines: Line[] } {
  const lines: Line[] = []
  const at =
    (level: string) =>
    (sentence: string, fields: Fields = {}) =>
      void lines.push({ level, sentence, fields })
  const log: Log & { lines: Line[] } = {
    ...silentLog,
    lines,
    debug: at('debug'),
    info: at('info'),
    warn: at('warn'),
    error: at('error'),
    child: () => log,
  }
  return log
}

export interface World extends AsyncDisposable {
  resolver: Resolver
  table: WorldTable
  log: ReturnType<typeof recordingLog>
  metrics: ReturnType<typeof openMetrics>
  port: number
}

const nobody: InterestSource = {
  want: () => Promise.reject(new Error('nobody should ask')),
  wantVip: () => Promise.reject(new Error('nobody should ask')),
}

/** A resolver on a free port of 127.0.0.1, without upstreams unless given. */
export async function world(
  options: Partial<ResolverOptions> = {},
  table = new WorldTable([CART, STOCK]),
): Promise<World> {
  const log = recordingLog()
  const metrics = openMetrics('agent')
  const settings = {
    table,
    interests: nobody,
    range: RANGE,
    zones: ZONES,
    listen: { host: '127.0.0.1', port: 0 },
    upstreams: [],
    ttlSeconds: 5,
    negativeTtlSeconds: 2,
    explainChoice,
    ...options,
  }
  const resolver = await Resolver.start(settings, log, metrics)
  return {
    resolver,
    table,
    log,
    metrics,
    port: resolver.address.port,
    [Symbol.asyncDispose]: () => resolver[Symbol.asyncDispose](),
  }
}

export type Asked = Omit<Packet, 'questions' | 'type'> & { name?: string; type?: string; class?: string }

/** A query as dns-packet writes it. */
export function query({
  name = 'shop.acme.cart.prod.any.rr.local',
  type = 'A',
  class: qclass = 'IN',
  ...rest
}: Asked): Buffer {
  return encode({
    type: 'query',
    id: 0x1234,
    flags: 0x0100,
    questions: [{ name, type: type as 'A', class: qclass as 'IN' }],
    ...rest,
  })
}

export interface OptFields {
  size?: number
  version?: number
  flags?: number
  options?: Buffer
}

/** Appends an OPT record to a query. */
export function withOpt(packet: Buffer, fields: OptFields = {}): Buffer {
  const { size = 1232, version = 0, flags = 0, options = Buffer.alloc(0) } = fields
  const opt = Buffer.alloc(11)
  opt.writeUInt16BE(41, 1)
  opt.writeUInt16BE(size, 3)
  opt[6] = version
  opt.writeUInt16BE(flags, 7)
  opt.writeUInt16BE(options.length, 9)
  const whole = Buffer.concat([packet, opt, options])
  whole.writeUInt16BE(whole.readUInt16BE(10) + 1, 10)
  return whole
}

/** Sends packets from one UDP socket and waits for as many replies as the last argument says. */
export async function udpRaw(port: number, packets: readonly Buffer[], replies = 1): Promise<Buffer[]> {
  const socket = createSocket('udp4')
  const received: Buffer[] = []
  try {
    await new Promise<void>((resolve, reject) => {
      socket.once('error', reject)
      socket.on('message', (message) => {
        if (received.push(message) === replies) resolve()
      })
      socket.connect(port, '127.0.0.1', () => {
        for (const packet of packets) socket.send(packet)
      })
    })
  } finally {
    socket.close()
  }
  return received
}

export async function udp(port: number, asked: Asked | Buffer): Promise<DecodedPacket> {
  const [reply] = await udpRaw(port, [Buffer.isBuffer(asked) ? asked : query(asked)])
  return decode(reply as Buffer)
}

export function framed(packet: Buffer): Buffer {
  const length = Buffer.alloc(2)
  length.writeUInt16BE(packet.length)
  return Buffer.concat([length, packet])
}

/** Writes bytes on one TCP connection, closes its half, and reads every message until the server closes its own. */
export async function tcpRaw(port: number, bytes: readonly Buffer[]): Promise<Buffer[]> {
  const socket = connect({ port, host: '127.0.0.1', allowHalfOpen: true })
  await once(socket, 'connect')
  for (const chunk of bytes) {
    await new Promise<void>((written) => {
      socket.write(chunk, () => written())
    })
  }
  socket.end()
  const chunks: Buffer[] = []
  for await (const chunk of socket) chunks.push(chunk as Buffer)
  let rest = Buffer.concat(chunks)
  const messages: Buffer[] = []
  while (rest.length > 0) {
    const end = 2 + rest.readUInt16BE(0)
    messages.push(rest.subarray(2, end))
    rest = rest.subarray(end)
  }
  return messages
}

export async function tcp(port: number, asked: Asked | Buffer): Promise<DecodedPacket> {
  const [reply] = await tcpRaw(port, [framed(Buffer.isBuffer(asked) ? asked : query(asked))])
  return decode(reply as Buffer)
}

/** The strings of the only answer. */
export function stringsOf({ answers }: DecodedPacket): string[] {
  const [record] = answers ?? []
  return record?.type === 'TXT' ? (record.data as Buffer[]).map(String) : []
}

/** What a reply says, short enough for a table. */
export function said(reply: DecodedPacket): { code: string; answers: unknown[]; authorities: string[] } {
  return {
    code: (reply as unknown as { rcode: string }).rcode,
    answers: (reply.answers ?? []).map((record) => ('data' in record ? record.data : undefined)),
    authorities: (reply.authorities ?? []).map((record) => `${record.type} ${record.name}`),
  }
}
