import type { Log } from '../../../core/kit/log.ts'
import type { Engine } from './engine.ts'
import { findEngine, type EngineWhere } from './find-engine.ts'

/** The engine of this node, as far as it is known: engines are installed, restarted and removed while an agent runs. */
export class KnownEngine {
  readonly #where: EngineWhere
  readonly #log: Log
  #engine: Engine | undefined
  #reason = 'not looked for yet'

  constructor(where: EngineWhere, log: Log) {
    this.#where = where
    this.#log = log
  }

  /** It answered when it was asked last. */
  get engine(): Engine | undefined {
    return this.#engine
  }

  /** Why there is none. */
  get reason(): string {
    return this.#reason
  }

  /** Asks it, or looks for one. `isNew`: there was none before. */
  async find(): Promise<{ engine: Engine; isNew: boolean } | undefined> {
    const had = this.#engine
    const found = await findEngine(this.#where, had)
    if ('reason' in found) {
      this.#engine = undefined
      this.#reason = found.reason
      if (had !== undefined) this.#log.warn('the container engine does not answer', { reason: found.reason })
      return undefined
    }
    this.#engine = found
    const isNew = had === undefined
    if (isNew) this.#log.info('container engine found', { path: found.socketPath, version: found.version.version })
    return { engine: found, isNew }
  }
}
