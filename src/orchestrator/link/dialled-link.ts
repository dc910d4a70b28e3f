import { isMeshError, MeshError } from '../../core/errors.ts'
import { Backoff } from '../../core/kit/backoff.ts'
import { Lifetime } from '../../core/kit/lifetime.ts'
import type { Channel } from '../../core/kit/websocket.ts'
import { HANDED_OVER, Link, type LinkContext, type LinkEnd, type LinkSides } from './link.ts'
import type {
  ResponseBody,
  RequestBody,
  RequestName,
  LinkProtocol,
  NotificationBody,
  NotificationName,
} from './messages/protocol.ts'
import { onAbort } from '../../core/kit/abort.ts'

export interface DialledLinkOptions<Out extends LinkProtocol, In extends LinkProtocol> {
  dial: (signal: AbortSignal) => Promise<Channel>
  sides: LinkSides<Out, In>
  /** Sends hello. The link is up when this resolves; a throw closes it, and it is dialled again. */
  onUp: (link: Link<Out, In>) => Promise<void>
  onDown: (reason: string) => void
  /** Why the last attempt was refused; `undefined` once the link is up. Called when that changes. */
  onRefusal?: (refusal: MeshError | undefined) => void
  /** The longest wait between two attempts. */
  limitMs?: number
  random?: () => number
}

/** Waits of a process whose identity another one uses: it is refused until that one has ended. */
const REFUSED = { firstMs: 5_000, limitMs: 5 * 60_000 }

/** After a link has lasted this long, the waits after its end begin short again. */
const SETTLED_MS = 5_000

/**
 * The lower tier's end of a link: dials, sends hello, and dials again whenever the link ends.
 *
 *     dialling ─▶ hello ─▶ up ─▶ down ─▶ waiting (with jitter, or as the peer asked) ─▶ dialling
 */
export class DialledLink<Out extends LinkProtocol, In extends LinkProtocol> implements AsyncDisposable {
  readonly #options: DialledLinkOptions<Out, In>
  readonly #parts: LinkContext
  readonly #life: Lifetime
  #up: Link<Out, In> | undefined
  #refusal: MeshError | undefined
  /** Ends a dial, a hello or a wait, so that the next attempt begins at once. */
  #again = new AbortController()

  private constructor(options: DialledLinkOptions<Out, In>, parts: LinkContext, life: Lifetime) {
    this.#options = options
    this.#parts = parts
    this.#life = life
  }

  /** Returns at once; the link comes up when it can. */
  static start<Out extends LinkProtocol, In extends LinkProtocol>(
    options: DialledLinkOptions<Out, In>,
    parts: LinkContext,
  ): DialledLink<Out, In> {
    const life = new Lifetime()
    const dialled = new DialledLink(options, parts, life)
    life.spawn((signal) => dialled.#keepUp(signal), 'control link')
    return dialled
  }

  /** The network has changed, so earlier failures say nothing about the next attempt. */
  #isFresh = false
  #mayDial = true

  /** Why the last attempt was refused, while the link is down: for `check`. */
  get refusal(): MeshError | undefined {
    return this.#refusal
  }

  #refusedBy(refusal: MeshError | undefined): void {
    const isSame = this.#refusal?.code === refusal?.code
    this.#refusal = refusal
    if (!isSame) this.#options.onRefusal?.(refusal)
  }

  get isUp(): boolean {
    return this.#up !== undefined
  }

  /** @throws MeshError LINK_CLOSED while it is down; otherwise as `Link.request` */
  async request<N extends RequestName<Out>>(
    type: N,
    body: RequestBody<Out, N>,
    signal?: AbortSignal,
  ): Promise<ResponseBody<Out, N>> {
    if (this.#up === undefined) throw new MeshError('LINK_CLOSED', { peer: this.#parts.peer })
    return this.#up.request(type, body, signal)
  }

  /** Dropped while the link is down; `onUp` must bring the peer up to date. */
  notify<N extends NotificationName<Out>>(type: N, body: NotificationBody<Out, N>): void {
    this.#up?.notify(type, body)
  }

  /** See `Link`; false while it is down. */
  get isCongested(): boolean {
    return this.#up?.isCongested === true
  }

  /** A link that is up is kept while it lasts; one that is not up yet is given up, and none is dialled until `resume`. */
  pause(): void {
    this.#mayDial = false
    if (this.#up === undefined) this.#again.abort(new MeshError('LINK_CLOSED', { reason: 'dialling is paused' }))
  }

  resume(): void {
    this.#mayDial = true
  }

  /** The machine's network has changed: a link that is up must answer soon, one that is down is dialled at once. */
  networkChanged(isHere: (address: string) => boolean): void {
    if (this.#up === undefined) this.#again.abort(new MeshError('LINK_CLOSED', { reason: 'the network has changed' }))
    else this.#up.recheck(isHere)
    this.#isFresh = true
  }

  /** Other connections of this machine have fallen silent, so this one must answer soon. */
  doubt(): void {
    this.#up?.recheck(() => true)
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.#life.close()
  }

  async #keepUp(signal: AbortSignal): Promise<void> {
    const { limitMs = 5_000, random = Math.random } = this.#options
    const { clock } = this.#parts
    const waits = {
      usual: new Backoff({ firstMs: 250, limitMs, random }),
      refused: new Backoff({ ...REFUSED, random }),
    }
    while (!signal.aborted) {
      this.#again = new AbortController()
      const limit = AbortSignal.any([signal, this.#again.signal])
      const outcome = await this.#attempt(limit)
      if (signal.aborted) return
      const waitMs = this.#waitAfter(outcome, waits)
      if (this.#isFresh) waits.usual.reset()
      this.#isFresh = false
      await clock.sleep(waitMs ?? waits.usual.nextMs(), limit)
      while (!this.#mayDial && !signal.aborted) await clock.sleep(PAUSED_CHECK_MS, signal)
    }
  }

  /** One link from its dial to its end. */
  async #attempt(limit: AbortSignal): Promise<Outcome> {
    const { dial, sides, onUp, onDown } = this.#options
    const { clock, log, peer } = this.#parts
    try {
      const link = new Link(await dial(limit), sides, this.#parts)
      // the peer may have taken its hello already, and must know that another process comes
      using _cut = onAbort(limit, () => link.close(this.#mayDial ? 'closing' : HANDED_OVER))
      const since = clock.now()
      try {
        await onUp(link)
        if (link.isOpen) this.#up = link
        this.#refusedBy(undefined)
        log.info('control link up', { peer })
        return { kind: 'ended', end: await link.ended, lastedMs: clock.now() - since }
      } finally {
        link.close('starting over')
        if (this.#up !== undefined) onDown('link down')
        this.#up = undefined
      }
    } catch (error) {
      return { kind: 'failed', error }
    }
  }

  /** The wait before the next attempt in milliseconds; `undefined`: the usual one. */
  #waitAfter(outcome: Outcome, waits: { usual: Backoff; refused: Backoff }): number | undefined {
    const { log, peer } = this.#parts
    if (outcome.kind === 'ended') {
      const { end, lastedMs } = outcome
      if (lastedMs > SETTLED_MS) {
        waits.usual.reset()
        waits.refused.reset()
      }
      log.warn('control link down', { peer, reason: end.kind === 'closed' ? end.reason : end.kind })
      return end.kind === 'away' ? end.reconnectInMs : undefined
    }
    const { error } = outcome
    this.#refusedBy(isMeshError(error) ? error : undefined)
    if (isMeshError(error, 'DUPLICATE_IDENTITY')) {
      log.error('another process uses this identity', { peer, error })
      return waits.refused.nextMs()
    }
    if (waits.usual.failures % 8 === 0) log.warn('control link not established', { peer, error })
    return undefined
  }
}

type Outcome = { kind: 'ended'; end: LinkEnd; lastedMs: number } | { kind: 'failed'; error: unknown }

const PAUSED_CHECK_MS = 100
