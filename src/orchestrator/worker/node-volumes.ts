import type { Clock } from '../../core/kit/clock.ts'
import { MeshError } from '../../core/errors.ts'
import type { InstanceId } from '../../core/model/ids.ts'
import type { ServiceSpec } from '../spec.ts'
import type { Runtime, RuntimeVolumes } from './runtime.ts'

/** Sizes are as old as this at most, when somebody asks. Smaller: disks are read for whoever looks again and again. */
const MEASURED_MS = 300_000
/** A first list waits this long for sizes; what takes longer is in a later one. */
const WAIT_MS = 1_000
/** As the link carries. */
const MOST_USERS = 1_000

export type VolumeRuntime = 'docker' | 'process'

export interface NodeVolume {
  name: string
  runtime: VolumeRuntime
  bytes?: number
  inUseBy: InstanceId[]
}

type User = { instance: InstanceId; spec: Pick<ServiceSpec, 'runtime' | 'app' | 'appNamespace' | 'volumes'> }

interface Parts {
  runtimes: readonly Runtime[]
  users: () => readonly User[]
  clock: Clock
  signal: AbortSignal
}

interface Kept {
  runtime: VolumeRuntime
  volumes: RuntimeVolumes
  sizes: ReadonlyMap<string, number>
  measuredAt: number
  measuring: Promise<void> | undefined
}

/** The volumes of a node: which there are, how large they are, and who has them. */
export class NodeVolumes {
  readonly #kept: readonly Kept[]
  readonly #users: () => readonly User[]
  readonly #clock: Clock
  readonly #signal: AbortSignal

  /** `users`: what runs here, or is about to. `signal`: the end of all measuring. */
  constructor({ runtimes, users, clock, signal }: Parts) {
    this.#users = users
    this.#clock = clock
    this.#signal = signal
    this.#kept = runtimes.flatMap(({ name, volumes }) =>
      volumes === undefined || (name !== 'docker' && name !== 'process')
        ? []
        : { runtime: name, volumes, sizes: new Map(), measuredAt: Number.NEGATIVE_INFINITY, measuring: undefined },
    )
  }

  /** What cannot be listed now, since its engine is away, is left out. */
  async list(signal: AbortSignal): Promise<NodeVolume[]> {
    const lists = await Promise.all(
      this.#kept.map(async (kept) => {
        const names = await kept.volumes.list().catch(() => [])
        await this.#measured(kept, names, signal)
        return names.map((name): NodeVolume => {
          const bytes = kept.sizes.get(name)
          const inUseBy = this.#usersOf(kept.runtime, name).slice(0, MOST_USERS)
          return { name, runtime: kept.runtime, ...(bytes === undefined ? {} : { bytes }), inUseBy }
        })
      }),
    )
    return lists.flat().sort((a, b) => (a.name < b.name ? -1 : a.name > b.name ? 1 : 0))
  }

  /** @throws MeshError VOLUME_UNKNOWN, VOLUME_IN_USE */
  async remove(runtime: VolumeRuntime, name: string): Promise<void> {
    const kept = this.#kept.find((each) => each.runtime === runtime)
    if (kept === undefined) throw new MeshError('VOLUME_UNKNOWN', { volume: name })
    const isFree = () => {
      const [by] = this.#usersOf(runtime, name)
      if (by !== undefined) throw new MeshError('VOLUME_IN_USE', { volume: name, by })
    }
    await kept.volumes.remove(name, isFree)
  }

  #usersOf(runtime: VolumeRuntime, name: string): InstanceId[] {
    const users = this.#users().filter(
      ({ spec }) =>
        spec.runtime === runtime &&
        (spec.volumes ?? []).some(
          (each) => each.hostPath === undefined && `${spec.app}.${spec.appNamespace}.${each.name}` === name,
        ),
    )
    return [...new Set(users.map(({ instance }) => instance))].sort()
  }

  /** At most one measurement of a runtime at a time, and what it finds is kept for a while. */
  async #measured(kept: Kept, names: readonly string[], signal: AbortSignal): Promise<void> {
    if (names.length === 0) return
    if (kept.measuring === undefined && this.#clock.now() - kept.measuredAt >= MEASURED_MS) {
      kept.measuring = this.#measure(kept, names).finally(() => {
        kept.measuring = undefined
      })
    }
    if (kept.sizes.size > 0 || kept.measuring === undefined) return
    const over = new AbortController()
    await Promise.race([kept.measuring, this.#clock.sleep(WAIT_MS, AbortSignal.any([signal, over.signal]))])
    over.abort()
  }

  async #measure(kept: Kept, names: readonly string[]): Promise<void> {
    try {
      kept.sizes = await kept.volumes.sizes(names, this.#signal)
    } catch {
      // the engine has gone, or cannot measure: those of before stay
    } finally {
      kept.measuredAt = this.#clock.now()
    }
  }
}
