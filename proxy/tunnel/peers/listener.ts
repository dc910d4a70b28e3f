import { Socket } from 'node:net'
import { isMeshError } from '../../../src/core/errors.ts'
import { Admission, sourceOf } from '../../../src/core/kit/admission.ts'
import { ignore } from '../../../src/core/kit/ignore.ts'
import type { Log } from '../../../src/core/kit/log.ts'
import type { PathKind } from '../../../src/core/model/path-rule.ts'
import type { RawConnection } from '../../paths/contract.ts'
import type { TunnelLimits } from '../limits.ts'
import type { Connector } from './connector.ts'

export interface TunnelListenerOptions {
  connector: Connector
  limits: Pick<TunnelLimits, 'unproven'>
  allows: ((path: PathKind) => boolean) | undefined
  log: Log
  now: () => number
  /** Aborts when this node shuts down. */
  closing: AbortSignal
}

/** A flood is one log line in this time, with the number of connections that were closed. */
const REPORT_MS = 10_000

/**
 * Takes the connections that other nodes have made, on every path.
 *
 * Until a connection has proven who is at its other end and has sent HELLO, it is one of `limits.unproven`: beyond that the
 * oldest of the source that has the most is closed (SEC-18), so that nobody can shut the listener by opening connections and
 * saying nothing. The source is the address of a TCP connection, and the relay of a relayed one.
 */
export class TunnelListener {
  readonly #options: TunnelListenerOptions
  readonly #unproven: Admission
  #reported = { evicted: 0, at: Number.NEGATIVE_INFINITY }

  constructor(options: TunnelListenerOptions) {
    this.#options = options
    this.#unproven = new Admission({ most: options.limits.unproven })
  }

  take(raw: RawConnection): void {
    const { allows, log, closing } = this.#options
    const { stream, path } = raw
    stream.on('error', ignore)
    if (closing.aborted) return void stream.destroy()
    if (allows?.(path) === false) {
      log.info('connection refused, its path is forbidden', { address: raw.via, path })
      return void stream.destroy()
    }
    const admitted = this.#unproven.enter(stream, stream instanceof Socket ? sourceOf(stream) : raw.via)
    this.#reportEvictions()
    void this.#accept(raw).finally(() => admitted.active())
  }

  async #accept(raw: RawConnection): Promise<void> {
    const { connector, log } = this.#options
    try {
      await connector.accept(raw)
    } catch (error) {
      raw.stream.destroy()
      const fields = { address: raw.via, path: raw.path, error }
      // a relay that checks whether this port is open, or a scanner, says nothing
      if (isMeshError(error, 'REQUEST_TIMEOUT')) log.debug('connection closed, no handshake arrived in time', fields)
      else log.info('connection refused', fields)
    }
  }

  #reportEvictions(): void {
    const { log, now } = this.#options
    const { evicted } = this.#unproven
    if (evicted === this.#reported.evicted || now() - this.#reported.at < REPORT_MS) return
    log.warn('silent connections closed to make room', { count: evicted - this.#reported.evicted })
    this.#reported = { evicted, at: now() }
  }
}
