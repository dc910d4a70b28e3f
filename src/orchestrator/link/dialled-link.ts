import { MeshError } from '../../core/errors.ts'
import { Backoff } from '../../core/kit/backoff.ts'
import { Lifetime } from '../../core/kit/lifetime.ts'
import type { Channel } from '../../core/kit/websocket.ts'
import { Link, type LinkContext, type LinkSides } from './link.ts'
import type {
  ResponseBody,
  RequestBody,
  RequestName,
  LinkProtocol,
  NotificationBody,
  NotificationName,
} from './messages.ts'
import { onAbort } from '../../core/kit/abort.ts'

export interface DialledLinkOptions<Out extends LinkProtocol, In extends LinkProtocol> {
  dial: (signal: AbortSignal) => Promise<Channel>
  sides: LinkSides<Out, In>
  /** Sends hello. The link is up when this resolves; a throw closes it, and it is dialled again. */
  onUp: (link: Link<Out, In>) => Promise<void>
  onDown: (reason: string) => void
  /** The longest wait between two attempts. */
  limitMs?: number
  random?: () => number
}

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
  /** While false, a link that ends is not dialled again. */
  mayDial = true

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
    const { dial, sides, onUp, onDown, limitMs = 5_000, random = Math.random } = this.#options
    const { clock, log, peer } = this.#parts
    const backoff = new Backoff({ firstMs: 250, limitMs, random })
    while (!signal.aborted) {
      let restMs: number | undefined
      this.#again = new AbortController()
      const limit = AbortSignal.any([signal, this.#again.signal])
      try {
        const link = new Link(await dial(limit), sides, this.#parts)
        using _cut = onAbort(limit, () => link.close('closing'))
        const since = clock.now()
        try {
          await onUp(link)
          if (link.isOpen) this.#up = link
          log.info('control link up', { peer })
          const end = await link.ended
          if (clock.now() - since > SETTLED_MS) backoff.reset()
          if (end.kind === 'away') restMs = end.reconnectInMs
          if (!signal.aborted)
            log.warn('control link down', { peer, reason: end.kind === 'closed' ? end.reason : end.kind })
        } finally {
          link.close('starting over')
          if (this.#up !== undefined) onDown('link down')
          this.#up = undefined
        }
      } catch (error) {
        if (signal.aborted) return
        if (backoff.failures % 8 === 0) log.warn('control link not established', { peer, error })
      }
      if (this.#isFresh) backoff.reset()
      this.#isFresh = false
      await clock.sleep(restMs ?? backoff.nextMs(), limit)
      while (!this.mayDial && !signal.aborted) await clock.sleep(PAUSED_CHECK_MS, signal)
    }
  }
}

const PAUSED_CHECK_MS = 100
