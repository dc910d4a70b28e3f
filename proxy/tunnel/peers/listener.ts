import type { Log } from '../../../src/core/kit/log.ts'
import type { RawConnection } from '../../paths/contract.ts'
import type { Connector } from './connector.ts'
import type { PathKind } from '../../../src/core/model/path-rule.ts'
import type { TunnelLimits } from '../limits.ts'
import { ignore } from '../../../src/core/kit/ignore.ts'

export interface TunnelListenerOptions {
  connector: Connector
  limits: TunnelLimits
  allows: ((path: PathKind) => boolean) | undefined
  log: Log
  /** Aborts when this node goes away. */
  closing: AbortSignal
}

/** Where connections come in that others have made: only so many at a time may be without proof of who they are. */
export class TunnelListener {
  readonly #options: TunnelListenerOptions
  #unproven = 0

  constructor(options: TunnelListenerOptions) {
    this.#options = options
  }

  take(raw: RawConnection): void {
    const { connector, limits, allows, log, closing } = this.#options
    raw.stream.on('error', ignore)
    if (allows?.(raw.path) === false) {
      log.info('connection refused, its path is forbidden', { address: raw.via, path: raw.path })
      raw.stream.destroy()
      return
    }
    if (closing.aborted || this.#unproven >= limits.unproven) {
      log.warn('connection refused, too many are unproven', { address: raw.via, path: raw.path })
      raw.stream.destroy()
      return
    }
    this.#unproven += 1
    connector
      .accept(raw)
      .catch((error: unknown) => {
        raw.stream.destroy()
        log.info('connection refused', { address: raw.via, path: raw.path, error })
      })
      .finally(() => {
        this.#unproven -= 1
      })
  }
}
