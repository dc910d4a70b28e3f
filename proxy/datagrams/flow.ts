import type { Instance, InstanceState } from '../../src/core/model/instance.ts'
import type { DatagramClient, DatagramSink } from '../flow/flow.ts'
import type { EarlySource } from '../outbound/connect.ts'
import { Cancellation } from '../../src/core/kit/cancellation.ts'
import type { Ends } from '../../src/core/kit/local-users.ts'
import type { Metrics } from '../../src/core/metrics.ts'
import type { TableView } from '../../src/core/table/view.ts'
import type { DatagramStream } from '../tunnel/contract.ts'
import type { Held } from './held.ts'
import type { SpareFlow } from './places.ts'
import { DatagramPipe } from '../socket/datagram-pipe.ts'

export interface DatagramFlowParts {
  readonly table: Pick<TableView, 'instance'>
  readonly metrics: Metrics
  readonly clock: { now(): number }
}

/** The caller's side of one UDP flow, from its first datagram until it is forgotten. */
export class DatagramFlow implements DatagramSink, EarlySource<DatagramStream>, SpareFlow {
  readonly client: DatagramClient
  readonly pipe: DatagramPipe
  readonly ended: Promise<void>
  /** When it was last seen to carry something, as exact as the sweep. */
  lastAt: number
  /** Set once it is refused: until then it only drops. */
  restUntil: number | undefined
  readonly #parts: DatagramFlowParts
  /** Cancelled when the client no longer waits for an instance. */
  readonly gone = new Cancellation()
  #held: Held | undefined
  /** The candidate that is asked, and how many of the held datagrams it was sent (early-data.ts). */
  #ahead: { to: DatagramStream; datagrams: number; onFirst: () => void } | undefined
  #dropping: 'refused' | 'over' | undefined
  #instance: Instance | undefined
  #seen = 0
  isOver = false
  readonly #whenOver: (() => void)[] = []
  readonly #counted = { sent: 0, received: 0, sentLost: 0, receivedLost: 0 }

  constructor(client: DatagramClient, held: Held, parts: DatagramFlowParts) {
    const { promise, resolve } = Promise.withResolvers<void>()
    this.client = client
    this.lastAt = client.startedAt
    this.ended = promise
    this.#held = held
    this.#parts = parts
    this.pipe = new DatagramPipe(() => {
      this.gone.cancel()
      resolve()
    })
    this.pipe.near.stream = clientStream(client)
  }

  datagram(payload: Buffer): void {
    if (this.#held === undefined) {
      if (this.#dropping === undefined) this.pipe.near.datagram(payload)
      else this.#drop(this.#dropping)
    } else if (!this.#held.push(payload)) this.#drop('waiting')
    else this.#goAhead(this.#held)
  }

  feed(to: DatagramStream, onFirst: () => void): void {
    this.#ahead = { to, datagrams: 0, onFirst }
    if (this.#held !== undefined) this.#goAhead(this.#held)
  }

  pause(): void {
    this.#ahead = undefined
  }

  /** Sends held datagrams ahead of the instance's answer, in order, as far as the stream takes them. */
  #goAhead(held: Held): void {
    const ahead = this.#ahead
    if (ahead === undefined) return
    for (const payload of held.all().slice(ahead.datagrams)) {
      if (!ahead.to.send(payload)) return
      if (ahead.datagrams++ === 0) ahead.onFirst()
    }
  }

  /** An instance has answered: held datagrams go first. */
  opened(instance: Instance, stream: DatagramStream): void {
    this.#instance = instance
    this.pipe.far.stream = stream
    const waited = this.#held?.take() ?? []
    this.#held = undefined
    const ahead = this.#ahead?.to === stream ? this.#ahead.datagrams : 0
    this.#ahead = undefined
    for (const [at, payload] of waited.entries()) {
      if (at < ahead) this.pipe.near.passed(payload)
      else this.pipe.near.datagram(payload)
    }
  }

  /** An orderly end: the flow is idle, or the client has gone. */
  end(): void {
    this.pipe.finish('closed')
  }

  cut(): void {
    this.pipe.cut()
  }

  /** From now on datagrams of the client are dropped. */
  giveUp(why: 'refused' | 'over'): void {
    this.#dropping = why
    const waited = this.#held?.take() ?? []
    this.#held = undefined
    if (waited.length > 0) this.#drop(why, waited.length)
  }

  /** Drops what its client sends until then. */
  rest(until: number): void {
    this.restUntil = until
    this.#leave()
  }

  forget(): void {
    this.sample(this.lastAt)
    this.#leave()
    this.client.ended()
  }

  /** Whether the flow was used since the last call; counts what it carried. */
  sample(now: number): boolean {
    const { pipe } = this
    if (pipe.activity === this.#seen) return false
    this.#seen = pipe.activity
    this.lastAt = now
    this.#count()
    return true
  }

  get ends(): Ends {
    return this.client.from
  }

  silentMs(): number {
    const now = this.#parts.clock.now()
    return this.sample(now) ? 0 : now - this.lastAt
  }

  /** It gives up its place. */
  whenOver(listener: () => void): void {
    this.#whenOver.push(listener)
  }

  #leave(): void {
    if (this.isOver) return
    this.isOver = true
    for (const listener of this.#whenOver) listener()
  }

  /** The state of its instance. `gone`: the instance left its node, so that its port may be another's by now. */
  get state(): InstanceState | 'gone' {
    const chosen = this.#instance
    if (chosen === undefined) return 'running'
    const known = this.#parts.table.instance(chosen.id)
    return known?.node === chosen.node ? known.state : 'gone'
  }

  #count(): void {
    const { near, far } = this.pipe
    const { flowDatagrams, flowDatagramsDropped } = this.#parts.metrics
    const counted = this.#counted
    const lost = near.lost - counted.sentLost + (far.lost - counted.receivedLost)
    flowDatagrams.inc({ direction: 'sent' }, near.datagrams - near.lost - counted.sent)
    flowDatagrams.inc({ direction: 'received' }, far.datagrams - far.lost - counted.received)
    if (lost > 0) flowDatagramsDropped.inc({ reason: 'behind' }, lost)
    counted.sent = near.datagrams - near.lost
    counted.received = far.datagrams - far.lost
    counted.sentLost = near.lost
    counted.receivedLost = far.lost
  }

  #drop(reason: 'waiting' | 'refused' | 'over', count = 1): void {
    this.#parts.metrics.flowDatagramsDropped.inc({ reason }, count)
  }
}

/** The client as a DatagramStream: what is sent to it leaves from the address that it asked. */
function clientStream(client: DatagramClient): DatagramStream {
  return {
    send: (payload) => client.answer(payload),
    end: () => undefined,
    reset: () => undefined,
  }
}
