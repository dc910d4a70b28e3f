import { duplexPair, type Duplex } from 'node:stream'
import type { Dialer } from '../../proxy/paths/contract.ts'
import type { PathKind } from '../../src/core/model/path-rule.ts'
import { openPeers, type PeersOptions, type TunnelPeers } from '../../proxy/tunnel/peers/peers.ts'
import type { NodeReach } from '../../src/core/model/node.ts'
import { ManualClock } from './manual-clock.ts'
import { accepting, Listener } from './mux-pair.ts'

export const reach = (id: string): NodeReach => ({ id, addresses: [`${id}:1`], relays: [] })

/** A connection in memory that can go silent or break. */
export class Wire {
  readonly path: PathKind
  readonly #inner: Duplex[] = []
  isSilent = false
  /** Passes what is on its way, now or later, in order. */
  lag: (pass: () => void) => void = (pass) => pass()

  constructor(path: PathKind, from: string, proofs: WeakMap<Duplex, string>, to: (end: Duplex) => void) {
    this.path = path
    const [near, left] = duplexPair()
    const [far, right] = duplexPair()
    this.near = near
    this.#inner = [left, right]
    this.#pass(left, right)
    this.#pass(right, left)
    proofs.set(far, from)
    to(far)
  }

  readonly near: Duplex

  break(): void {
    for (const end of this.#inner) end.destroy()
  }

  #pass(from: Duplex, to: Duplex): void {
    from.on('data', (chunk: Buffer) => {
      if (!this.isSilent) this.lag(() => void (to.writable && to.write(chunk)))
    })
    from.on('error', () => undefined)
    for (const event of ['end', 'close']) {
      from.on(event, () => {
        if (!this.isSilent) to.destroy()
      })
    }
  }
}

export type Way = 'up' | 'refuses' | 'hangs'

/** Nodes that reach each other over wires in memory; `secure` believes what the wire says about who dialled. */
export class Mesh implements AsyncDisposable {
  readonly clock = new ManualClock()
  readonly wires: Wire[] = []
  readonly dials: string[] = []
  /** Diallers do not wait for the answer to their HELLO. */
  isPrompt = true
  /** Paths whose new wires are slow. */
  readonly slow = new Set<PathKind>()
  /** `direct a>b`, `relayed a>b`, …; `refuses` when not set. */
  readonly ways = new Map<string, Way>()
  readonly #proofs = new WeakMap<Duplex, string>()
  readonly #nodes = new Map<string, MeshNode>()

  node(id: string, options: Partial<PeersOptions> = {}): MeshNode {
    const heard: MeshNode['heard'] = []
    const peers = openPeers({
      self: id,
      dialers: (['direct', 'relayed'] as const).map((path) => this.#dialer(id, path)),
      secure: {
        connect: (raw) => Promise.resolve(raw.stream),
        isPrompt: () => this.isPrompt,
        accept: (raw) => {
          const peer = this.#proofs.get(raw.stream)
          return peer === undefined ? new Promise(() => undefined) : Promise.resolve({ peer, stream: raw.stream })
        },
      },
      accept: accepting(heard),
      clock: this.clock,
      random: () => 0.5,
      ...options,
    })
    const node = { id, peers, heard }
    this.#nodes.set(id, node)
    return node
  }

  /** A proven connection towards `to` that this test speaks over itself. */
  raw(from: string, to: string): Duplex {
    const { near } = this.#wire('direct', from, to)
    near.on('error', () => undefined).on('end', () => near.destroy())
    return near.resume()
  }

  up(...ways: string[]): void {
    for (const way of ways) this.ways.set(way, 'up')
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const closing = [...this.#nodes.values()].map(({ peers }) => peers[Symbol.asyncDispose]())
    await this.clock.advance(10_000)
    await Promise.all(closing)
  }

  #dialer(from: string, path: PathKind): Dialer {
    return {
      path,
      suits: () => true,
      dial: (node, signal) => {
        this.dials.push(`${path} ${from}>${node.id}`)
        const via = (path === 'relayed' ? node.relays[0] : undefined) ?? `${path} ${from}>${node.id}`
        const way = this.ways.get(`${path} ${from}>${node.id}`) ?? 'refuses'
        if (way === 'refuses') return Promise.reject(new Error('refused'))
        if (way === 'hangs')
          return new Promise((_, reject) => signal.addEventListener('abort', () => reject(signal.reason as Error)))
        return Promise.resolve({
          path,
          stream: this.#wire(path, from, node.id, via).near,
          via,
        })
      },
    }
  }

  #wire(path: PathKind, from: string, to: string, via = `${path} ${from}>${to}`): Wire {
    const wire = new Wire(path, from, this.#proofs, (stream) => {
      this.#nodes.get(to)?.peers.incoming({ path, stream, via })
    })
    if (this.slow.has(path)) wire.lag = (pass) => void this.clock.after(60, pass)
    this.wires.push(wire)
    return wire
  }
}

export interface MeshNode {
  id: string
  peers: TunnelPeers
  /** The streams it accepted. */
  heard: Parameters<typeof accepting>[0]
}

/** Opens a stream from one node to another, which accepts it. */
export async function flow(mesh: Mesh, from: MeshNode, to: string, request = 'flow') {
  const asked = from.peers.session(reach(to), new AbortController().signal)
  await mesh.clock.advance(0)
  const session = await asked
  const listener = new Listener()
  const stream = session.open(Buffer.from(request), listener)
  listener.stream = stream
  await mesh.clock.advance(0)
  return Object.assign(listener, { stream })
}
