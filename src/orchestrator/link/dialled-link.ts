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
  /** Says hello; the link counts as up when this resolves. A throw closes it and it is dialled again. */
  onUp: (link: Link<Out, In>) => Promise<void>
  onDown: (reason: string) => void
  /** The longest rest between two tries. */
  limitMs?: number
  random?: () => number
}

/** A link that lasted this long was a good one: the next break starts with short rests again. */
const SETTLED_MS = 5_000

/**
 * The lower tier's end of a link: dials, says hello, and dials again for ever.
 *
 *     dialling ─▶ hello ─▶ up ─▶ down ─▶ resting (jitter, or as the peer asked) ─▶ dialling
 */
export class DialledLink<Out extends LinkProtocol, In extends LinkProtocol> implements AsyncDisposable {
  readonly #options: DialledLinkOptions<Out, In>
  readonly #parts: LinkContext
  readonly #life: Lifetime
  #up: Link<Out, In> | undefined
  /** Ends a dial, a hello or a rest, for another try at once. */
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

  /** What failed before says nothing about the network as it is now. */
  #isFresh = false
  /** False: when the link that is up ends, no other is made until this is true again. */
  mayDial = true

  get isUp(): boolean {
    return this.#up !== undefined
  }

  /** @throws MeshError LINK_CLOSED while it is down; else as `Link.ask`. */
  async request<N extends RequestName<Out>>(
    type: N,
    body: RequestBody<Out, N>,
    signal?: AbortSignal,
  ): Promise<ResponseBody<Out, N>> {
    if (this.#up === undefined) throw new MeshError('LINK_CLOSED', { peer: this.#parts.peer })
    return this.#up.request(type, body, signal)
  }

  /** Lost while the link is down: whoever tells says it again in `onUp`. */
  notify<N extends NotificationName<Out>>(type: N, body: NotificationBody<Out, N>): void {
    this.#up?.notify(type, body)
  }

  /** The machine's network is another one: a link that is up must show that it lives, one that is not is tried at once. */
  networkChanged(isHere: (address: string) => boolean): void {
    if (this.#up === undefined) this.#again.abort(new MeshError('LINK_CLOSED', { reason: 'the network has changed' }))
    else this.#up.recheck(isHere)
    this.#isFresh = true
  }

  /** Other connections of this machine have fallen silent: one that is up must show that it lives. */
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
        if (backoff.failures % 8 === 0) log.warn('control link cannot be made', { peer, error })
      }
      if (this.#isFresh) backoff.reset()
      this.#isFresh = false
      await clock.sleep(restMs ?? backoff.nextMs(), limit)
      while (!this.mayDial && !signal.aborted) await clock.sleep(HELD_LOOK_MS, signal)
    }
  }
}

const HELD_LOOK_MS = 100
