import { explain, MeshError } from '../../../core/errors.ts'
import type { RuntimeVolumes } from '../runtime.ts'
import { isStatus, type Engine } from './engine.ts'
import { LABELS } from './labels.ts'

interface Listed {
  Volumes?: { Name: string; Labels?: Record<string, string> | null; UsageData?: { Size?: number } | null }[] | null
}

/** To measure them the engine reads every file of each. */
const MEASURE_MS = 120_000

/** The volumes that the engine keeps for this agent. While it is away there are none. */
export class KeptVolumes implements RuntimeVolumes {
  readonly #engine: () => Engine | undefined
  readonly #agent: string

  constructor(engine: () => Engine | undefined, agent: string) {
    this.#engine = engine
    this.#agent = agent
  }

  async list(): Promise<string[]> {
    return [...(await this.#ownNames()).keys()]
  }

  async sizes(names: readonly string[], signal: AbortSignal): Promise<ReadonlyMap<string, number>> {
    const engine = this.#engine()
    if (engine === undefined || names.length === 0) return new Map()
    const query = { type: 'volume' }
    const { Volumes } = (await engine.ask({
      method: 'GET',
      path: '/system/df',
      query,
      signal,
      timeoutMs: MEASURE_MS,
    })) as Listed
    const measured = new Map((Volumes ?? []).map(({ Name, UsageData }) => [Name, UsageData?.Size ?? -1]))
    const sizes = new Map<string, number>()
    for (const [name, kept] of await this.#ownNames()) {
      const bytes = measured.get(kept) ?? -1
      if (bytes >= 0) sizes.set(name, bytes)
    }
    return sizes
  }

  /** The engine itself refuses while a container has it. */
  async remove(name: string, isFree: () => void): Promise<void> {
    const engine = this.#engine()
    if (engine === undefined) throw new MeshError('NOT_RUNNING', { what: 'container engine' })
    const kept = (await this.#ownNames()).get(name)
    if (kept === undefined) throw new MeshError('VOLUME_UNKNOWN', { volume: name })
    isFree()
    try {
      await engine.ask({ method: 'DELETE', path: `/volumes/${kept}` })
    } catch (cause) {
      if (isStatus(cause, 404)) throw new MeshError('VOLUME_UNKNOWN', { volume: name }, { cause })
      if (isStatus(cause, 409)) throw new MeshError('VOLUME_IN_USE', { volume: name, by: 'a container' }, { cause })
      throw new MeshError('REQUEST_FAILED', { volume: name, reason: explain(cause) }, { cause })
    }
  }

  /** As the engine calls each. */
  async #ownNames(): Promise<Map<string, string>> {
    const engine = this.#engine()
    if (engine === undefined) return new Map()
    const query = { filters: JSON.stringify({ label: [`${LABELS.agent}=${this.#agent}`] }) }
    const { Volumes } = (await engine.ask({ method: 'GET', path: '/volumes', query })) as Listed
    const own = (Volumes ?? []).filter(({ Labels }) => Labels?.[LABELS.agent] === this.#agent)
    return new Map(own.flatMap(({ Name, Labels }) => [[Labels?.[LABELS.volume] ?? '', Name] as const]))
  }
}
